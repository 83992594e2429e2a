"""The Ray head's command line, environment and private directories."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ray_app.errors import NodeError
from ray_app.node import head as head_module
from ray_app.node.head import KEPT_SESSIONS, LEAN, LONGEST_PRIVATE_DIR, Head, ensure_token, private_dir_of
from ray_app.node.ports import Ports

#: Linux' sun_path without its final NUL
UNIX_SOCKET_PATH = 107
#: what Ray and HAProxy put below the private directory, at their longest
RAY_SOCKET = "/r/session_2026-11-26_19-35-37_116663_1234567/sockets/plasma_store"
HAPROXY_SOCKET = f"/h/{'a' * 56}/m.sock"


@pytest.fixture
def head(tmp_path, ports, monkeypatch) -> Head:
    """A head whose private directory is not in /tmp, but where the test's own files are."""
    monkeypatch.setattr(head_module, "private_dir_of", lambda _: tmp_path / "private" / "node")
    return Head(tmp_path / "data", ports)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def session(head: Head, name: str) -> Path:
    """A Ray session as an ended head leaves it."""
    logs = head.temp_dir / f"session_{name}" / "logs"
    logs.mkdir(parents=True)
    (logs / "gcs_server.out").write_text(name)
    return logs


def test_sockets_have_room_wherever_the_data_are(tmp_path):
    for data_dir in (tmp_path, tmp_path / ("long" * 50), Path("/d")):
        private = str(private_dir_of(data_dir))
        assert len(private + RAY_SOCKET) <= UNIX_SOCKET_PATH
        assert len(private + HAPROXY_SOCKET) <= 97


def test_a_long_tmpdir_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/" + "x" * LONGEST_PRIVATE_DIR)
    assert private_dir_of(tmp_path).parent == Path("/tmp")


def test_a_data_directory_has_one_private_directory_however_it_is_written(tmp_path):
    assert private_dir_of(tmp_path / "data") == private_dir_of(Path("data")), "tmp_path is the working directory"
    assert private_dir_of(tmp_path / "data") != private_dir_of(tmp_path / "other")


def test_nobody_else_can_enter_what_ray_leaves_open_to_all(head):
    head.prepare()
    head.temp_dir.chmod(0o777)  # Ray does
    assert mode(head.private_dir) == mode(head.run_dir) == 0o700
    assert head.private_dir in head.temp_dir.parents
    assert head.private_dir in head.haproxy_dir.parents


def test_a_directory_that_stood_open_is_closed(head):
    head.run_dir.mkdir(parents=True)
    head.run_dir.chmod(0o755)
    head.prepare()
    assert mode(head.run_dir) == 0o700


def test_the_token_is_the_owners_alone_and_stays(head):
    token = head.prepare()
    assert len(token) == 64
    assert mode(head.token_file) == 0o600
    assert head.prepare() == token


def test_a_token_that_others_can_read_is_closed_again(tmp_path):
    path = tmp_path / "token"
    path.write_text("known\n")
    path.chmod(0o644)
    assert ensure_token(path) == "known"
    assert mode(path) == 0o600


def test_an_empty_token_file_is_no_token(tmp_path):
    path = tmp_path / "token"
    path.touch(0o644)
    assert len(ensure_token(path)) == 64
    assert mode(path) == 0o600


def test_jobs_are_told_which_cluster_is_theirs(head):
    head.prepare()
    assert (head.temp_dir / "ray_current_cluster").read_text() == head.gcs_address


def test_a_private_directory_of_another_user_is_refused(head, monkeypatch):
    head.private_dir.mkdir(parents=True)
    monkeypatch.setattr(os, "getuid", lambda: head.private_dir.stat().st_uid + 1)
    with pytest.raises(NodeError, match="belongs to another user"):
        head.prepare()


def test_a_private_directory_that_cannot_be_made_is_named(head):
    head.private_dir.parent.write_text("a file")
    with pytest.raises(NodeError, match="a node needs to write there"):
        head.prepare()


def test_after_the_end_nothing_is_left_but_the_logs_in_the_data_directory(head):
    head.prepare()
    session(head, "2026-11-26_01")
    head.haproxy_dir.mkdir()
    head.clear()
    assert not head.private_dir.exists()
    assert (head.kept_logs / "session_2026-11-26_01" / "gcs_server.out").read_text() == "2026-11-26_01"


def test_a_start_puts_away_what_a_killed_node_left(head):
    session(head, "2026-11-26_01")
    (head.haproxy_dir / "node").mkdir(parents=True)
    head.prepare()
    assert sorted(path.name for path in head.private_dir.iterdir()) == ["r", "venv"]
    assert [path.name for path in head.kept_logs.iterdir()] == ["session_2026-11-26_01"]


def test_only_the_newest_logs_are_kept(head):
    names = [f"2026-11-26_{number:02}" for number in range(KEPT_SESSIONS + 2)]
    for name in names:
        session(head, name)
        head.clear()
    kept = sorted(path.name for path in head.kept_logs.iterdir())
    assert kept == [f"session_{name}" for name in names[-KEPT_SESSIONS:]]


def test_clearing_what_is_not_there_is_fine(head):
    head.clear()


def test_what_points_at_another_cluster_is_dropped_and_the_rest_stays(head):
    environment = head.environment(
        {
            "RAY_ADDRESS": "10.0.0.1:6379",
            "RAY_AUTH_TOKEN": "theirs",
            "RAY_NODE_ID": "x",
            "HTTPS_PROXY": "http://proxy",
            "PYTHONPATH": "/opt/mine",
        }
    )
    assert not {"RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_NODE_ID"} & environment.keys()
    assert environment["HTTPS_PROXY"] == "http://proxy"
    assert environment["PYTHONPATH"] == f"{LEAN}{os.pathsep}/opt/mine"
    assert environment["RAY_AUTH_MODE"] == "token"


def test_every_inner_port_is_told_to_ray_or_serve(head):
    """One that is forgotten would fall back to a fixed default, where a second node collides."""
    told = " ".join(head.command()) + " " + " ".join(head.environment({}).values())
    elsewhere = {"api", "sandbox", "serve_grpc"}  # in serve_config.yaml and the sandbox's command line
    for name in Ports.__dataclass_fields__:
        if name not in elsewhere:
            assert str(getattr(head.ports, name)) in told, name


def test_two_nodes_share_no_path_and_no_port(tmp_path):
    one, two = (Head(tmp_path / name, Ports.from_block(first, first - 2, first - 1)).environment({}) for name, first in
                (("one", 20_002), ("two", 21_002)))  # fmt: skip
    same = {name for name in one if one[name] == two[name]}
    alike = re.compile(r"_(PORT|PATH|DIR|TMPDIR|BASE|FILE|LOC|URL)\b")
    assert [name for name in same if alike.search(name)] == []


def test_a_plain_environment_is_used_as_it_is(tmp_path, ports, monkeypatch):
    monkeypatch.setattr(sys, "prefix", "/opt/node-1/.venv")
    monkeypatch.setattr(sys, "executable", "/opt/node-1/.venv/bin/python")
    assert Head(tmp_path, ports).command()[0] == "/opt/node-1/.venv/bin/python"


def test_an_environment_whose_path_a_shell_would_split_is_reached_through_a_link(tmp_path, ports, monkeypatch):
    real = sys.prefix
    spaced = tmp_path / "my projects (new)" / ".venv"
    spaced.parent.mkdir()
    spaced.symlink_to(real, target_is_directory=True)
    monkeypatch.setenv("TMPDIR", "/tmp")
    monkeypatch.setattr(sys, "prefix", str(spaced))
    monkeypatch.setattr(sys, "executable", str(spaced / "bin" / "python"))
    head = Head(tmp_path / "data", ports)
    head.prepare()
    try:
        python = head.command()[0]
        assert " " not in python
        shown = subprocess.run(
            ["bash", "-c", f"{python} -c 'import sys, ray; print(sys.prefix); print(ray.__file__)'"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        assert all(Path(path).is_relative_to(head.private_dir) for path in shown), shown
    finally:
        head.clear()
    assert spaced.exists(), "clearing up removes the link, not what it leads to"
    assert not head.private_dir.exists()

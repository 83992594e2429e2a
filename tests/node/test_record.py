"""The lock on a data directory and the record of the node that runs there."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ray_app.errors import NodeError
from ray_app.node import record
from ray_app.node.processes import Process
from ray_app.node.record import NodeRecord

HOLD = "import sys,pathlib\nfrom ray_app.node.record import lock\nwith lock(pathlib.Path(sys.argv[1])):\n  print(1,flush=True)\n  input()"


def a_record(**changes) -> NodeRecord:
    myself = Process.of(os.getpid())
    given = {"launcher": myself, "started_ms": 1, "url": "http://127.0.0.1:8000", "dashboard_url": "http://127.0.0.1:8265",
             "origin": "sandbox", "reason": "asked for", "database": "sqlite:///node.db", "time_scale": 60.0,
             "temp_dir": "/tmp/x/r"}  # fmt: skip
    return NodeRecord(**{**given, **changes})


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    yield process
    process.kill()
    process.communicate()


def test_what_is_saved_is_what_is_read(tmp_path):
    record.run_dir(tmp_path).mkdir()
    myself = Process.of(os.getpid())
    saved = a_record(ready=True, sandbox_port=20_000, processes={"ray": myself}, others=(Process(1, 0), Process(2, 5)))
    record.save(tmp_path, saved)
    assert record.load(tmp_path) == saved
    assert record.record_file(tmp_path).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in record.run_dir(tmp_path).iterdir()] == ["node.json"]


def test_no_record_is_no_node(tmp_path):
    assert record.load(tmp_path) is None
    record.forget(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"launcher": 1}', '{"colour": "red"}'])
def test_a_damaged_record_is_named_with_what_to_do(tmp_path, content):
    record.run_dir(tmp_path).mkdir()
    record.record_file(tmp_path).write_text(content)
    with pytest.raises(NodeError, match=r"node\.json cannot be read .* if no node runs on .*, remove it"):
        record.load(tmp_path)


def test_a_directory_is_one_nodes_and_the_second_learns_whose(tmp_path, holder):
    with pytest.raises(NodeError) as refused, record.lock(tmp_path):
        pass
    assert f"a node already runs on {tmp_path} (process {holder.pid})" in str(refused.value)
    assert "another --data-dir with other --port and --dashboard-port" in str(refused.value)


def test_the_second_learns_where_the_first_serves(tmp_path, holder):
    record.save(tmp_path, a_record())
    with pytest.raises(NodeError, match=rf"process {holder.pid}, http://127\.0\.0\.1:8000"), record.lock(tmp_path):
        pass


def test_a_killed_holder_holds_nothing(tmp_path, holder):
    holder.kill()
    holder.wait()
    with record.lock(tmp_path):
        pass


def test_a_lock_is_let_go_whatever_ends_the_block(tmp_path):
    with pytest.raises(ZeroDivisionError), record.lock(tmp_path):
        raise ZeroDivisionError
    with record.lock(tmp_path):
        assert (record.run_dir(tmp_path) / "lock").read_text() == str(os.getpid())


def test_what_still_runs_of_a_killed_node_is_found_and_a_pid_given_to_somebody_else_is_not(holder):
    survivor = Process.of(holder.pid)
    reused = Process(os.getpid(), 1)  # our pid, but another start
    gone = Process(2**22 - 1, 1)
    left = record.leftovers(a_record(processes={"ray": survivor}, others=(reused, gone)))
    assert left == [survivor]
    assert f"{holder.pid} (" in record.describe(left)
    assert record.describe([gone]) == f"{gone.pid} (gone)"

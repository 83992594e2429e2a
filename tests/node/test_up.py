"""One node from its first start to its end, looked at from outside: what it prints, opens, asks for and leaves."""

from __future__ import annotations

import json
import signal
import sqlite3
import stat
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from ray_app.collection import backfill
from ray_app.collection.archive import Archive
from ray_app.collection.collectors import candles
from ray_app.node import processes
from ray_app.node.head import private_dir_of, ray_dir_of
from ray_app.node.ports import is_free, open_addresses
from ray_app.node.processes import Process
from tests.nodes import Node, started_node
from tests.servers import free_port, wait_until

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
#: what a node opens beyond this machine although everything shall be on loopback: how its process calls itself → why,
#: and what guards it. docs/security.md says the same.
BEYOND_LOOPBACK = {
    "ray::ServeReplica:": "the port on which replicas call each other: Ray binds it to [::] and no setting moves it. "
    "It answers nobody without the cluster's token (DATA_DIR/run/ray_token): UNAUTHENTICATED.",
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("up") / "data"


@pytest.fixture(scope="module")
def node(data_dir: Path) -> Iterator[Node]:
    """The node of this module; its last test of the first life stops it."""
    with started_node(data_dir, environment={"WORKERS": "8"}) as started:
        started.wait_ready()
        yield started


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def sockets(node: Node) -> list[tuple[str, int, str]]:
    """(address, port, command) of every socket that a process of the node listens on."""
    running = {process.pid: process.command for process in node.processes()}
    return [(address, port, running[pid]) for address, port, pid in open_addresses(set(running))]


def addresses_of(node: Node, wanted: int) -> set[str]:
    """Where a port of the node listens."""
    return {address for address, port, _ in sockets(node) if port == wanted}


def beyond_loopback(node: Node) -> list[tuple[str, int, str]]:
    """Those of ``sockets`` that other machines could reach."""
    return [socket for socket in sockets(node) if socket[0] not in LOOPBACK]


def rows(node: Node, query: str) -> list[tuple[Any, ...]]:
    database = sqlite3.connect(node.state_dir / "node.db")
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


# --- what it says ---


def test_ready_names_the_url_and_comes_once(node):
    assert [line for line in node.lines if line.startswith("READY ")] == [f"READY {node.url}\n"]


def test_the_screen_begins_with_the_banner(node):
    assert node.lines[0] == "█" * 100 + "\n"
    assert "SANDBOX — EVERY PRICE ON THIS NODE IS SIMULATED" in node.lines[1]


def test_the_first_start_shows_the_keys_that_only_the_owner_can_read(node):
    keys = node.data_dir / "keys.json"
    assert mode(keys) == 0o600
    for level in ("master", "trading", "readonly"):
        assert node.printed.count(node.key(level)) == 1


def test_a_setting_that_means_nothing_is_reported(node):
    assert "ignored     WORKERS: replicas are set in serve_config.yaml\n" in node.lines


# --- what it lets in ---


def test_prices_need_a_key_and_health_does_not(node):
    assert node.get("/api/v1/prices/current/BTC", level="readonly").status_code == 200
    for headers in ({}, {"Authorization": "Bearer cdc_wrong_key"}):
        answer = httpx.get(f"{node.url}/api/v1/prices/current/BTC", headers=headers, trust_env=False)
        assert answer.status_code == 401
    assert httpx.get(f"{node.url}/health", trust_env=False).status_code == 200


def test_only_a_master_key_starts_work(node):
    assert node.post("/api/v1/admin/collect/crypto-prices", level="trading").status_code == 403


def test_everything_listens_on_loopback_but_what_is_documented(node):
    undocumented = [
        socket for socket in beyond_loopback(node) if not any(socket[2].startswith(name) for name in BEYOND_LOOPBACK)
    ]
    assert undocumented == []


def test_what_listens_beyond_loopback_answers_nobody_without_the_token(node):
    exposed = beyond_loopback(node)
    assert exposed, "the guard is proven on nothing"
    for _, port, command in exposed:
        with grpc.insecure_channel(f"[::1]:{port}") as channel:
            call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
            with pytest.raises(grpc.RpcError) as refused:
                call(b"", timeout=20)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED, command


def test_other_users_can_enter_none_of_its_directories(node):
    private = private_dir_of(node.data_dir)
    assert mode(private) == mode(node.data_dir / "run") == 0o700
    assert mode(node.data_dir / "run" / "ray_token") == mode(node.data_dir / "run" / "node.json") == 0o600
    (admin_socket,) = private.glob("h/*/a.sock")
    assert mode(admin_socket) == 0o600


# --- the dashboard ---


@pytest.mark.parametrize(
    ("path", "query"),
    [("/api/jobs/", {}), ("/api/v0/actors", {}), ("/api/serve/applications/", {}), ("/nodes", {"view": "summary"})],
)
def test_the_dashboard_wants_its_token(node, path, query):
    assert node.dashboard(path, **query).status_code == 200
    assert node.dashboard(path, token="").status_code == 401
    assert node.dashboard(path, token="0" * 64).status_code == 403


def test_the_dashboard_shows_collectors_jobs_and_applications_by_their_names(node):
    actors = node.dashboard("/api/v0/actors", detail=1, limit=1_000).json()["data"]["result"]["result"]
    names = {actor["class_name"]: actor["name"] for actor in actors if actor["state"] == "ALIVE"}
    assert names["CryptoPrices"].startswith("collector:crypto-prices:")
    assert names["UnifiedOhlc"].startswith("collector:unified-ohlc:")
    assert names["SlowFeeds"].startswith("collector:slow-feeds:")
    assert names["EventBus"] == "event-bus"
    applications = node.dashboard("/api/serve/applications/").json()["applications"]
    assert {name: application["status"] for name, application in applications.items()} == dict.fromkeys(
        ("gateway", "streams", "sentiment", "collection"), "RUNNING"
    )

    def backfills() -> list[str]:
        jobs = node.dashboard("/api/jobs/").json()
        return [job["metadata"]["job_name"] for job in jobs if job["submission_id"].startswith("backfill-candles-")]

    wait_until(backfills, 60, "the first start's backfill")
    assert all(name.startswith("backfill --dataset candles-") for name in backfills())


# --- a second one on the same directory ---


def test_a_second_node_on_the_same_directory_is_refused_and_the_first_goes_on(node):
    second = node.cli(
        *("up", "--upstream", "sandbox", "--data-dir", str(node.data_dir)),
        *("--port", str(free_port()), "--dashboard-port", str(free_port())),
    )
    assert second.returncode == 1
    (line,) = second.stderr.splitlines()
    assert f"a node already runs on {node.data_dir} (process {node.process.pid}, {node.url})" in line
    assert second.stdout == ""
    assert node.process.poll() is None
    assert node.get("/api/v1/prices/current/BTC").status_code == 200


# --- its end ---


def ended(node: Node, known: set[Process]) -> None:
    """Nothing of the node is left: no process, no port, no file outside its data directory."""
    assert [process.command for process in known if process.alive] == []
    assert processes.started_with("RAY_TMPDIR", str(ray_dir_of(node.data_dir))) == set()
    assert is_free(node.port)
    assert is_free(node.dashboard_port)
    assert not private_dir_of(node.data_dir).exists()
    assert not (node.data_dir / "run" / "node.json").exists()


def called(path: str, params: Mapping[str, str]) -> str:
    """One name for a request, whoever tells of it."""
    return f"{path} {sorted(params.items())}"


def answered(node: Node) -> Counter[str]:
    """What the sandbox has answered with 200, as its request log says."""
    entries = [json.loads(line) for line in (node.state_dir / "requests.jsonl").read_text().splitlines()]
    return Counter(called(entry["path"], entry["params"]) for entry in entries if entry["status"] == 200)


def archived(node: Node) -> Counter[str]:
    """The answers that lie in the archive, each read back whole."""
    archive = Archive(node.state_dir / "archive", "test")
    places = [(segment, entry.position) for segment in archive.segments() for entry in archive.index(segment)]
    exchanges = [archive.read(*place) for place in places]
    return Counter(called(e.request.path, e.request.params) for e in exchanges if e.status == 200)


def indexed(node: Node) -> Counter[str]:
    """The answers whose rows are stored."""
    requests = [json.loads(request) for (request,) in rows(node, "SELECT request FROM fetches WHERE status = 200")]
    return Counter(called(request["path"], request["params"]) for request in requests)


def test_ctrl_c_ends_everything_within_its_time_and_loses_nothing(node):
    known = node.processes()
    assert len(known) > 15
    started = time.monotonic()
    assert node.stop(signal.SIGINT) == 0
    print(f"ended within {time.monotonic() - started:.1f} s")
    ended(node, known)
    assert node.lines[-1] == "stopped\n"
    assert "stopping (again to hurry)\n" in node.lines
    assert rows(node, "PRAGMA integrity_check") == [("ok",)]
    kept = archived(node)
    assert indexed(node) - kept == Counter(), "a row without the answer it was read from"
    # Requests under way are cut short, and their slots stay owed; whatever had come is kept.
    assert (answered(node) - kept).total() <= backfill.CONCURRENCY + candles.CONCURRENCY + 1
    logs = list((node.data_dir / "run" / "logs").glob("session_*"))
    assert len(logs) == 1, "Ray's logs are kept with the data"


# --- later lives, on the same data ---


def test_after_kill_9_the_next_start_cleans_up_and_goes_on_with_the_same_data(node, data_dir):
    node.stop()
    keys = (data_dir / "keys.json").read_text()
    with started_node(data_dir) as second:
        second.wait_ready()
        assert not any(second.key(level) in second.printed for level in ("master", "trading", "readonly"))
        assert (data_dir / "keys.json").read_text() == keys
        known = second.processes()
        before = rows(second, "SELECT count(*) FROM price_data_real")[0][0]
        second.process.kill()
        second.process.wait()
        with started_node(data_dir, host="127.0.0.2") as third:
            third.wait_ready()
            # a listener hands over to its successor while replicas come: for a moment neither may be seen
            wait_until(
                lambda: addresses_of(third, third.port) == {third.host}, 30, f"{third.host} alone to be listened on"
            )
            assert [socket for socket in sockets(third) if socket[0] == third.host and "haproxy" not in socket[2]] == []
            assert [process.command for process in known if process.alive] == []
            assert rows(third, "SELECT count(*) FROM price_data_real")[0][0] >= before
            assert rows(third, "PRAGMA integrity_check") == [("ok",)]
            assert third.get("/api/v1/prices/current/BTC").status_code == 200
            known = third.processes()
            assert third.stop(signal.SIGTERM) == 0
            ended(third, known)


def test_a_node_that_is_stopped_while_it_starts_leaves_nothing(tmp_path):
    with started_node(tmp_path / "data") as node:
        node.wait_printed("starting    gateway, streams, collection")
        known = node.processes()
        assert node.stop(signal.SIGTERM) == 0
        assert not any(line.startswith("READY ") for line in node.lines)
        ended(node, known)

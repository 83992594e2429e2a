"""A node with every collector on, half an hour of node time against the sandbox: nothing is missing, all of it is derived."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import websockets
from sqlalchemy import func, select

from ray_app.clock import MINUTE_MS
from ray_app.collection.collectors.everything import FEED_COLLECTORS
from ray_app.collection.digest import VALUE_TABLES
from ray_app.node import processes
from ray_app.storage import tables
from ray_app.storage.engine import Database
from tests.e2e.played import now, own_file
from tests.nodes import Node, started_node
from tests.servers import wait_until

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

SCALE = 60
MOST_MEMORY = 3.5 * 1024**3


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("every")
    file = own_file(folder / "own.parquet")
    options = ("--replay", str(file), "--time-scale", str(SCALE))
    with started_node(folder / "data", *options, every_source=True) as started:
        started.wait_ready()
        yield started


@pytest.fixture(scope="module")
def lived(node: Node) -> int:
    """Node time after half an hour, in which every feed was due at least once."""
    start = now(node)
    wait_until(lambda: now(node) > start + 30 * MINUTE_MS, 180, "half an hour of node time")
    return now(node)


def collectors(node: Node) -> dict[str, dict]:
    answer = node.get("/api/v1/stats/collectors")
    assert answer.status_code == 200, answer.text
    return {row["collector"]: row for row in answer.json()["data"]}


def incomplete(node: Node) -> dict[str, str]:
    """Of each collector of feeds: what is owed for longer than the ledger's tolerance, or lost without need.

    Slots that are due this moment are no gaps. A snapshot of five minutes is five wall seconds here: where the machine
    is busy with a start some pass unasked, and cannot be had later. What has a history must lose nothing.
    """
    rows = collectors(node)
    found = {}
    for kind in FEED_COLLECTORS[:-1]:  # the last one takes a paid plan
        row = rows[kind.name]
        gaps = node.get("/api/v1/stats/gaps", dataset=kind.name).json()["data"]
        owed = [gap for gap in gaps if gap["state"] == "owed"]
        lost = [
            gap for gap in gaps if gap["state"] == "unrepairable" and "cannot be asked for later" not in gap["reason"]
        ]
        if row["state"] != "active" or row["received"] < row["expected"] / 2 or owed or lost:
            counts = f"{row['received']} of {row['expected']}, lost {lost}, owed {owed}"
            found[kind.name] = f"{row['state']}, {counts}: {row['last_error']}"
    return found


def test_every_collector_is_complete(node: Node, lived: int):
    for _ in range(10):  # the report is kept for five seconds; the API allows 100 requests a minute
        if not (left := incomplete(node)):
            return
        time.sleep(8)
    raise AssertionError(f"not complete: {left}")


def test_every_table_has_rows(node: Node, lived: int):
    with Database(f"sqlite:///{node.state_dir / 'node.db'}").read() as conn:
        counts = {name: conn.scalar(select(func.count()).select_from(table)) for name, table in VALUE_TABLES.items()}
    assert all(counts.values()), counts


async def test_news_is_streamed(node: Node, lived: int):
    headers = {"X-API-Key": node.key("readonly")}
    url = f"ws://127.0.0.1:{node.port}/ws/news"
    async with websockets.connect(url, additional_headers=headers, proxy=None) as socket, asyncio.timeout(60):
        await socket.send(json.dumps({"action": "resume", "after_seq": 0, "symbols": ["*"]}))
        assert json.loads(await socket.recv())["origin"] == "sandbox"
        heard = json.loads(await socket.recv())
    assert (heard["type"], heard["seq"]) == ("news", 1)
    words = " ".join(re.findall(r"\w+", heard["title"])[:6])
    found = {one["id"]: one for one in node.get("/api/v1/news/search", q=words, days=2).json()["data"]}
    same = ("title", "url", "known_at", "mentions")
    assert {name: heard[name] for name in same} == {name: found[heard["id"]][name] for name in same}


def test_no_answer_was_unreadable_and_no_value_doubtful_without_a_name(node: Node, lived: int):
    with Database(f"sqlite:///{node.state_dir / 'node.db'}").read() as conn:
        letters = conn.execute(select(tables.dead_letters.c.source, tables.dead_letters.c.error)).all()
        outcomes = conn.execute(
            select(tables.fetches.c.source, tables.fetches.c.outcome, tables.fetches.c.error)
            .where(tables.fetches.c.outcome.not_in(("ok", "not_modified")))
            .limit(20)
        ).all()
    assert letters == []
    assert outcomes == []


def test_the_node_stays_small(node: Node, lived: int):
    used = processes.pss_bytes(processes.descendants([node.process.pid]))
    assert used < MOST_MEMORY, f"{used / 1024**3:.2f} GiB"


def test_every_stored_value_is_found_again_in_the_payload_it_names(node: Node, lived: int, tmp_path: Path):
    assert node.stop() == 0, node.printed
    rebuilt = node.cli("reprocess", "--into", f"sqlite:///{tmp_path / 'rebuilt.db'}", timeout_s=300)
    assert rebuilt.returncode == 0, rebuilt.stderr[-2000:]
    assert "identical" in rebuilt.stdout

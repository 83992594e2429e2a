"""Kill -9 of each part of a running node, in turn: it recovers by itself, asks for nothing twice and fills its gaps."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ray_app.node.processes import descendants
from tests.e2e import checker
from tests.e2e.checker import DAY, HOUR, MINUTE, SLOT, Market
from tests.e2e.played import now, own_file, wait_repaired
from tests.nodes import Node, started_node
from tests.servers import wait_until

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]

SCALE = 30
#: requests one collector has in flight at most: what a kill may have left without an archived answer
IN_FLIGHT = 8
#: what a title of Ray's processes begins with
CANDLES, PRICES = "ray::UnifiedOhlc", "ray::CryptoPrices"
SUPERVISOR, GATEWAY = "ray::ServeReplica:collection:Supervisor", "ray::ServeReplica:gateway:Gateway"
STREAMS, EVENT_BUS = "ray::ServeReplica:streams:Streams", "ray::EventBus"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    directory = tmp_path_factory.mktemp("kills")
    file = own_file(directory / "own.parquet")
    with started_node(directory / "data", "--replay", str(file), "--time-scale", str(SCALE)) as started:
        started.wait_ready()
        yield started


def pids(node: Node, title: str) -> set[int]:
    """The node's processes whose title begins with ``title``."""
    found = set()
    for pid in descendants(process.pid for process in node.record.processes.values()):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if command.startswith(title):
            found.add(pid)
    return found


def kill(node: Node, title: str) -> None:
    """Kill -9 the node's process of this title, and wait until another one is there."""
    wait_until(lambda: pids(node, title), 60, f"a process {title}")
    before = pids(node, title)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pids(node, title) - before, 90, f"another {title}")


def served(node: Node) -> bool:
    """Whether a price of the present is served."""
    try:
        answer = node.get("/api/v1/prices/current/BTC")
    except httpx.HTTPError:
        return False
    return answer.status_code == 200 and checker.moment(answer.json()["timestamp"]) > now(node) - 2 * SLOT


def test_each_part_killed_in_turn_comes_back_and_nothing_is_lost_or_asked_twice(node: Node):
    chance = random.Random(5)
    start = -(-now(node) // SLOT) * SLOT
    kills: Counter[str] = Counter()
    # The first backfill of candles is under way: the collectors write all the time.
    for title in (CANDLES, PRICES, SUPERVISOR, CANDLES, EVENT_BUS, GATEWAY, STREAMS, PRICES, SUPERVISOR):
        time.sleep(chance.uniform(0.2, 2.0))
        kill(node, title)
        kills[title] += 1
        wait_until(lambda: served(node), 90, f"a served price after the end of {title}")
    end = -(-now(node) // SLOT) * SLOT

    wait_until(lambda: now(node) > end + 15 * MINUTE, 120, "the slots of the kills being due")
    wait_repaired(node, end, 240)
    assert node.get("/health").json()["components"]["event_bus"]["status"] == "ok"
    assert node.stop() == 0, node.printed

    seen = checker.Node(node.state_dir)
    try:
        market = Market.found(node.data_dir.parent / "own.parquet", seen)
        checker.check_prices_after_faults(seen, market, start, end)
        checker.check_hourly(seen, market, end // HOUR * HOUR - 119 * DAY, end // HOUR * HOUR)
        checker.check_five_minutes(seen, market, end // HOUR * HOUR - 20 * HOUR, end // HOUR * HOUR)
        checker.check_payloads(seen)
        twice = checker.candles_asked_twice(seen)
        requests = {(symbol, step) for symbol, step, _ in twice}
        assert len(requests) <= IN_FLIGHT * (kills[CANDLES] + kills[SUPERVISOR]), requests
        assert all(times == 2 for times in twice.values()), twice
    finally:
        seen.close()
    proof = node.cli("verify")
    assert proof.returncode == 0, proof.stderr[-2000:]

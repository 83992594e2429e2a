"""The tick collector against the real sandbox: archive, rows, events, and what ticks must not spoil."""

from __future__ import annotations

import asyncio
import contextlib
import functools

import orjson
import pytest
from sqlalchemy import select

from ray_app.collection.collectors import collector
from ray_app.collection.collectors.ticks import EVENTS_KEPT_MS, TickCollector
from ray_app.collection.control import holding
from ray_app.collection.datasets import PRICES
from ray_app.collection.event_bus import EventRing
from ray_app.collection.runner import CollectorRunner
from ray_app.collection.ticks import client
from ray_app.collection.ticks.sequence import Rules
from ray_app.errors import ConfigError
from ray_app.sandbox.faults import FaultScript, parse_faults
from ray_app.settings import LIVE_TICKS
from ray_app.storage import gateway_queries, ledger, outbox, queries, tables
from tests.collection.world import FAST, MINUTE, SLOW, START, JumpingClock, world

pytestmark = pytest.mark.integration
LISTED = {*FAST, *SLOW} - {"TRX", "OKB"}


class Bench:
    def __init__(self, place, runtime, acting, bus):
        self.world, self.runtime, self.acting, self.bus, self.clock = place, runtime, acting, bus, place.clock

    def rows(self, *where):
        with self.runtime.db.read() as conn:
            found = conn.execute(select(tables.price_data_real).where(*where)).mappings()
            return [dict(row) | {"symbol": self.runtime.registry.by_id(row["asset_id"]).symbol} for row in found]

    def ticks(self):
        return self.rows(tables.price_data_real.c.source == queries.TICKS)

    def events(self, channel="ticks"):
        with self.runtime.db.read() as conn:
            return [orjson.loads(body) for _, body in outbox.read(conn, channel, 0, 10_000)]

    def read(self, query, *args):
        with self.runtime.db.read() as conn:
            return query(conn, *args)

    async def until_live(self):
        async with asyncio.timeout(5):
            while self.acting.state()["phase"] != "live":
                await asyncio.sleep(0.01)

    async def flush(self):
        """Wait for a round of frames and store it."""
        before = self.acting.state()["ticks"]
        async with asyncio.timeout(5):
            while self.acting.state()["ticks"] <= before:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        return await self.acting.poll()


@pytest.fixture
def bench(tmp_path, monkeypatch):
    quick = Rules(chunk=3, reply_s=2.0, stale_s=1.0, pause_s=0.05)
    monkeypatch.setattr(client, "Rules", quick.__class__)
    original = client.Watch
    monkeypatch.setattr(client, "Watch", lambda *a, rules=None, **k: original(*a, rules=rules or quick, **k))

    @contextlib.asynccontextmanager
    async def make(name="crypto-ticks", at=START + MINUTE, scale=20.0, **options):
        place = tmp_path / name
        place.mkdir()
        clock = JumpingClock(at, scale)
        with world(place, f"sqlite:///{place}/node.db", clock=clock, **options) as used:
            settings = used.settings.model_copy(update={"sandbox_url": used.url})
            used.settings = settings
            used.app.ticks.pace.round_s = 0.05
            bus = EventRing()
            async with await used.open(name, notifier=bus) as runtime, holding(runtime, name, "test"):
                acting = collector(name)(runtime)
                try:
                    await acting.prepare()
                    yield Bench(used, runtime, acting, bus)
                finally:
                    await acting.close()

    return make


async def test_what_came_is_archived_once_and_becomes_rows_of_every_product(bench):
    async with bench() as b:
        result = await b.acting.poll()
        assert (result.errors, result.owed) == ([], 0)
        await b.flush()
        ticks = b.ticks()
        assert {row["symbol"] for row in ticks} == LISTED
        for row in ticks:
            assert row["bid_price"] < row["current_price"] < row["ask_price"]
            assert row["market_cap"] is None
            assert row["slot"] <= row["event_time"] <= row["known_at"] <= b.clock.now_ms()
        fetches = b.read(lambda conn: conn.execute(select(tables.fetches)).mappings().all())
        assert len(fetches) == 2
        for fetch in fetches:
            asked = orjson.loads(fetch["request"])
            assert asked["context"]["dataset"] == "ticks"
            assert float(asked["context"]["covered_s"]) + float(asked["context"]["lost_s"]) < 10
            assert asked["context"]["subject"] == "coinbase-ws"
            assert int(asked["context"]["slot"]) % MINUTE == 0
            assert fetch["source"] == "coinbase.ticker"


async def test_a_later_tick_of_the_slot_replaces_the_earlier(bench):
    async with bench() as b:
        await b.acting.poll()
        await b.flush()
        first = {row["symbol"]: row for row in b.ticks()}
        b.clock.go_to(START + 3 * MINUTE)
        await b.flush()
        later = {row["symbol"]: row for row in b.ticks()}
        assert set(later) == set(first)
        assert all(later[s]["event_time"] >= first[s]["event_time"] for s in first)
        assert any(later[s]["event_time"] > first[s]["event_time"] for s in first)
        assert len(b.ticks()) == len(later), "one row a slot"


async def test_an_event_is_told_only_of_a_price_that_changed(bench):
    async with bench() as b:
        for minute in range(1, 6):
            b.clock.go_to(START + minute * MINUTE)
            await b.flush()
        events = b.events()
        assert {event["symbol"] for event in events} == LISTED
        assert set(events[0]) >= {"asset_id", "slot", "source", "event_time", "current_price", "bid_price"}
        last: dict[str, float] = {}
        for event in events:
            assert last.get(event["symbol"]) != event["current_price"]
            last[event["symbol"]] = event["current_price"]
        assert b.events("prices") == [], "ticks are no events of the observations"
        held = await b.bus.wait("ticks", 0, 0.1)
        assert [orjson.loads(body) for _, body in held] == events


async def test_ticks_fill_no_slot_of_the_observations_and_hide_nothing(bench):
    async with bench("crypto-prices") as b:
        await b.acting.poll()
        ids = [asset.asset_id for asset in b.runtime.registry.active()]
        before = b.read(queries.current_prices), b.read(queries.newest_slots, "prices")
        stored = b.read(ledger.stored_ranges, PRICES, ids, 300, START, START + 60 * MINUTE)
        stream = TickCollector(b.runtime)
        await stream.prepare()
        try:
            b.clock.go_to(START + 6 * MINUTE)
            async with asyncio.timeout(5):
                while stream.state()["ticks"] < len(LISTED):
                    await asyncio.sleep(0.01)
            await stream.poll()
            assert len(b.ticks()) == len(LISTED)
            assert {row["slot"] for row in b.ticks()} == {START + 5 * MINUTE}
            assert (b.read(queries.current_prices), b.read(queries.newest_slots, "prices")) == before
            assert b.read(ledger.stored_ranges, PRICES, ids, 300, START, START + 60 * MINUTE) == stored
            history = b.read(queries.price_history, ids[0], START, START + 60 * MINUTE)
            assert {row["source"] for row in history} == {"coingecko.markets"}
            board = b.read(gateway_queries.board_prices)
            assert {row["source"] for row in board} == {"coingecko.markets", "coinbase.ticker"}
            result = await b.acting.poll()
            assert result.slots == len(FAST), "the slot that has only ticks is polled all the same"
            assert {event["source"] for event in b.events("prices")} == {"coingecko.markets"}
        finally:
            await stream.close()


async def test_an_unreachable_stream_leaves_the_collector_without_trouble(bench, monkeypatch):
    monkeypatch.setattr("ray_app.collection.collectors.ticks.FIRST_S", 0.2)
    async with bench(coinbase_ws_url="ws://127.0.0.1:9/coinbase-ws") as b:
        result = await b.acting.poll()
        assert (result.requests, result.owed, result.errors) == (0, 0, []), "it may come yet"
        assert b.acting.state()["phase"] == "down"
        monkeypatch.setattr("ray_app.collection.collectors.ticks.PATIENCE_S", 0.0)
        assert "the tick stream is down: unreachable" in (await b.acting.poll()).errors[0]


async def test_after_an_outage_it_goes_on_and_says_what_it_missed(bench):
    async with bench() as b:
        await b.until_live()
        b.world.app.ticks.faults = parse_faults("faults: [{source: coinbase-ws, kind: outage}]", START)
        async with asyncio.timeout(5):
            while b.acting.state()["phase"] != "down":
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        await b.acting.poll()
        b.world.app.ticks.faults = FaultScript()
        await b.until_live()
        await b.flush()
        assert b.acting.state()["lost_s"] > 0.1
        assert b.acting.state()["covered_s"] > 0


async def test_without_a_stream_to_hold_it_says_so(bench):
    async with bench(tick_stream=False) as b:
        result = await b.acting.poll()
        assert "TICK_STREAM" in result.notes[0]
        assert b.acting.state() is None


async def test_events_of_ticks_are_kept_for_an_hour_and_those_of_prices_longer(bench):
    async with bench() as b:
        b.runtime.db.run(lambda conn: outbox.append(conn, "prices", [b"{}"], START))
        await b.flush()
        await b.acting.poll()
        assert b.events()
        b.clock.go_to(b.clock.now_ms() + EVENTS_KEPT_MS + MINUTE)
        await b.acting.poll()
        left = b.events()
        assert all(event["known_at"] > b.clock.now_ms() - EVENTS_KEPT_MS - MINUTE for event in left)
        assert len(b.events("prices")) == 1


async def test_the_next_flush_is_five_node_seconds_away_but_a_wall_second_at_least(bench):
    async with bench(scale=1.0) as b:
        assert b.acting.next_due(START) == START + 5_000
        b.clock.scale = 60.0
        assert b.acting.next_due(START) == START + 60_000


async def test_a_sandbox_never_listens_to_the_real_feed(bench):
    with pytest.raises(ConfigError, match="COINBASE_WS_URL"):
        async with bench(coinbase_ws_url=LIVE_TICKS):
            pass


async def test_a_new_connection_after_the_old_actor_needs_nothing_of_it(bench):
    async with bench() as b:
        await b.flush()
        count = len(b.ticks())
        await b.acting.close()
        again = TickCollector(b.runtime)
        await again.prepare()
        try:
            await again.poll()
            assert len(b.ticks()) >= count
        finally:
            await again.close()


async def test_a_runner_that_stops_hangs_up_and_the_next_one_connects(tmp_path):
    def runner(used, holder):
        opened = functools.partial(used.open, "crypto-ticks", writer=f"crypto-ticks.{holder}")
        return CollectorRunner(used.settings, "crypto-ticks", holder=f"{holder}/crypto-ticks", open_runtime=opened)

    async def until(condition):
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.02)

    clock = JumpingClock(START + MINUTE, 5.0)
    with world(tmp_path, f"sqlite:///{tmp_path}/node.db", clock=clock) as used:
        used.settings = used.settings.model_copy(update={"sandbox_url": used.url})
        feed = used.app.ticks
        for holder in ("one", "two"):
            acting = runner(used, holder)
            task = asyncio.create_task(acting.run())
            await until(lambda acting=acting: (acting.state()["details"] or {}).get("phase") == "live")
            await until(lambda acting=acting: acting.state()["passes"] >= 2)
            assert feed.connections == 1
            assert acting.state()["failures"] == 0
            await acting.stop()
            await asyncio.wait({task})
            await until(lambda: feed.connections == 0)

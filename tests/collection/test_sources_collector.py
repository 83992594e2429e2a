"""The collectors of feeds against the sandbox: each slot once, what can be repaired is, and the rest is called so."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr
from sqlalchemy import func, select

from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS
from ray_app.collection import datasets
from ray_app.collection.accounts import ACCOUNTS
from ray_app.collection.collectors import COLLECTORS, sources
from ray_app.collection.collectors.everything import FEED_COLLECTORS
from ray_app.collection.control import holding
from ray_app.collection.upstreams import build_upstreams
from ray_app.errors import BudgetExhausted
from ray_app.settings import Settings
from ray_app.storage import ledger, tables
from tests.collection.world import START, JumpingClock, world

pytestmark = pytest.mark.integration
STEP = 5 * MINUTE_MS


class Bench:
    """A collector with its lease, and the clock in the test's hand."""

    def __init__(self, place, runtime, acting, dataset):
        self.world, self.runtime, self.acting, self.clock, self.dataset = place, runtime, acting, place.clock, dataset

    async def pass_at(self, ms):
        self.clock.go_to(ms)
        result = await self.acting.poll()
        await self.acting.track()
        await self.acting.repair()
        return result

    async def settle(self):
        """Passes until nothing is owed: one ends in time, and a feed may wait for its account's next free moment."""
        answered = 0
        for _ in range(100):
            result = await self.acting.poll()
            answered += result.slots
            if not result.owed:
                return answered
            self.clock.go_to(result.retry_at)
        raise AssertionError(f"{result.owed} feeds are not answered: {result.errors}")

    def entries(self, *states):
        with self.runtime.db.read() as conn:
            names = {s.asset_id: s.symbol for s in datasets.load(conn, self.dataset).subjects()}
            return [(names[e.asset_id], e) for e in ledger.entries(conn, self.dataset, states=list(states) or None)]

    def count(self, table):
        with self.runtime.db.read() as conn:
            return conn.scalar(select(func.count()).select_from(table))

    def asked(self, source):
        return [entry for entry in self.world.requests() if entry["source"] == source]


@pytest.fixture
def bench(tmp_path):
    """``async with bench(name, faults=…) as b``."""

    @asynccontextmanager
    async def make(name, at=START + 20 * MINUTE_MS, scale=90.0, **options):
        place = tmp_path / name
        place.mkdir()
        with world(place, f"sqlite:///{place}/node.db", clock=JumpingClock(at, scale), **options) as used:
            async with await used.open(name) as runtime, holding(runtime, name, "test"):
                acting = COLLECTORS[name](runtime)
                await acting.prepare()
                yield Bench(used, runtime, acting, name)

    return make


@pytest.fixture(autouse=True)
def _ready_at_once(monkeypatch):
    """The clocks of these tests run 90 times as fast, and a start takes no time of theirs."""
    monkeypatch.setattr(sources, "START_S", 0.0)


@pytest.mark.parametrize("start_s", [0.0, 1.0])
async def test_a_slot_that_ends_before_a_first_pass_can_is_not_expected(bench, monkeypatch, start_s):
    """90 node seconds before the slot's end: with a second of wall time for a start they are no time at all."""
    monkeypatch.setattr(sources, "START_S", start_s)
    async with bench("derivatives", at=START + STEP - 90_000) as b:
        b.clock.go_to(START + STEP + MINUTE_MS)  # the start took its time
        await b.settle()
        b.clock.go_to(START + 2 * STEP + MINUTE_MS)
        await b.settle()
        await b.acting.track()
        await b.acting.repair()
        lost = {(e.start - START) // STEP for _, e in b.entries("unrepairable")}
    assert lost == ({0} if start_s == 0.0 else set())


async def test_every_feed_is_answered_once_a_slot_and_a_restart_asks_for_nothing(bench):
    async with bench("derivatives") as b:
        answered = await b.settle()
        assert answered >= len(b.acting.plans["derivatives"].subjects()) > 20
        assert b.count(tables.derivatives_data) > 1_000
        asked = len(b.world.requests())
        again = COLLECTORS["derivatives"](b.runtime)
        await again.prepare()
        due_since = b.clock.now_ms()
        result = await again.poll()
        fresh = [e for e in b.world.requests()[asked:] if e["at"] < due_since // STEP * STEP]
        assert result.owed == 0
        assert fresh == [], "asked again for what is stored"


async def test_an_outage_leaves_snapshots_beyond_repair_and_history_repaired(bench):
    faults = "faults:\n- {source: binance, from: +1h, to: +3h, kind: status, status: 503}"
    async with bench("derivatives", faults=faults, max_retry_attempts=0, collectors_off=()) as b:
        await b.settle()
        await b.pass_at(START + HOUR_MS + 30 * MINUTE_MS)
        broken = await b.pass_at(START + 2 * HOUR_MS + 30 * MINUTE_MS)
        assert broken.owed > 0
        assert any("binance" in error for error in broken.errors)
        await b.pass_at(START + 3 * HOUR_MS + 30 * MINUTE_MS)
        await b.pass_at(START + 3 * HOUR_MS + 50 * MINUTE_MS)
        await b.settle()
        await b.acting.track()
        lost = b.entries("unrepairable")
        assert {entry.reason for _, entry in lost} == {"what was the case then cannot be asked for later"}
        assert any("binance" in subject for subject, _ in lost)
        repaired = b.entries("repaired")
        assert any("binance" in subject for subject, _ in repaired), "history says what was missed"
        assert not {s for s, _ in repaired} & {s for s, _ in lost}


async def test_a_blocked_region_is_a_clear_state_asked_about_once_a_day(bench):
    faults = "faults:\n- {source: binance, kind: status, status: 451}"
    async with bench("derivatives", faults=faults) as b:
        first = await b.acting.poll()
        assert any("refuses requests from this region" in said for said in (*first.errors, *first.notes))
        asked = len(b.asked("binance"))
        feeds = sum(1 for s in b.acting.plans["derivatives"].subjects() if "binance" in s.symbol)
        assert asked <= feeds
        await b.pass_at(START + 6 * HOUR_MS)
        assert len(b.asked("binance")) == asked, "nothing here mends that: one look a day will do"
        await b.pass_at(START + DAY_MS + 2 * HOUR_MS)
        assert len(b.asked("binance")) > asked


async def test_a_storm_of_429_never_exceeds_the_account_s_budget(bench):
    faults = "faults:\n- {source: bybit, from: +0s, to: +70m, every: 2, kind: rate_limit, retry_after: 20}"
    async with bench("derivatives", faults=faults) as b:
        for minute in range(21, 80, 6):
            await b.pass_at(START + minute * MINUTE_MS)
        limits = next(account.limits for account in ACCOUNTS if account.name == "bybit")
        moments = sorted(entry["at"] for entry in b.asked("bybit"))
        assert len(moments) > 40
        window = round(limits.per_s * 1_000)
        most = max(sum(1 for m in moments if start <= m < start + window) for start in moments)
        assert most <= limits.requests
        refused = [entry for entry in b.asked("bybit") if entry["status"] == 429]
        assert refused
        for entry in refused:
            within = [m for m in moments if entry["at"] < m < entry["at"] + 15_000]
            # what was in flight with it has arrived; nobody has set out since
            assert len(within) <= limits.lanes


async def test_a_first_slot_that_was_missed_is_covered_by_the_first_answer(bench):
    faults = "faults:\n- {source: alternative_me, from: +0s, to: +5h, kind: status, status: 503}"
    async with bench("fear-greed", faults=faults, max_retry_attempts=0) as b:
        assert (await b.pass_at(START + HOUR_MS)).owed == 1
        assert (await b.pass_at(START + 8 * HOUR_MS)).owed == 0
        assert [entry.state for _, entry in b.entries("owed", "unrepairable")] == []


async def test_a_long_history_does_not_cost_the_snapshots_that_fall_due_meanwhile(bench):
    faults = "faults:\n- {source: okx, endpoint: funding_rate_history, kind: slow, bytes_per_s: 20000}"
    async with bench("derivatives", faults=faults, scale=60.0) as b:
        while b.clock.now_ms() < START + 60 * MINUTE_MS:
            started = b.clock.now_ms()
            result = await b.acting.poll()
            await b.acting.track()
            await b.acting.repair()
            due = b.acting.next_due(started)
            b.clock.go_to(min(due, result.retry_at or due))
        lost = [(subject, e.start - START, e.end - START) for subject, e in b.entries("unrepairable")]
        assert lost == []


async def test_a_feed_that_waits_longer_than_another_is_asked_within_its_slot_too(bench, monkeypatch):
    async with bench("macro-market", at=START + HOUR_MS) as b:
        fetch, waits = b.runtime.fetch, {"VIX": 10 * MINUTE_MS, "GSPC": HOUR_MS}

        async def short_of_budget(request, priority):
            for subject, ms in list(waits.items()):
                if subject in request.path:
                    del waits[subject]
                    raise BudgetExhausted("yahoo", "no room", b.clock.now_ms() + ms)
            return await fetch(request, priority)

        monkeypatch.setattr(b.runtime, "fetch", short_of_budget)
        first = await b.acting.poll()
        assert first.owed == 2
        second = await b.pass_at(first.retry_at)
        assert (second.owed, second.slots) == (0, 1)
        third = await b.pass_at(second.retry_at)
        assert (third.owed, third.slots, third.retry_at) == (0, 1, None)


async def test_no_slot_of_a_feed_is_asked_for_twice_where_nothing_fails(bench):
    async with bench("fear-greed") as b:
        for hour in range(0, 26, 2):
            result = await b.pass_at(START + hour * HOUR_MS + 5 * MINUTE_MS)
            assert result.owed == 0, result.errors
        slots = Counter(entry["at"] // (6 * HOUR_MS) for entry in b.asked("alternative_me"))
        assert set(slots.values()) == {1}
        assert b.entries() == []


async def test_candles_without_a_venue_come_with_a_paid_plan_and_fill_what_was_missed(bench):
    faults = "faults:\n- {source: coingecko, from: +2h, to: +9h, kind: status, status: 503}"
    paid = {"coingecko_plan": "analyst", "coingecko_api_key": SecretStr("CG-paid-0123456789")}
    async with bench("ohlc-coingecko", faults=faults, max_retry_attempts=0, scale=600.0, **paid) as b:
        await b.settle()
        candles = b.count(tables.ohlc_data)
        assert candles > 24 * len(b.acting.plans["ohlc-coingecko"].subjects()) > 0
        assert (await b.pass_at(START + 6 * HOUR_MS + 30 * MINUTE_MS)).owed > 0
        await b.pass_at(START + 12 * HOUR_MS + 30 * MINUTE_MS)
        await b.settle()
        await b.acting.track()
        assert b.entries("owed", "unrepairable") == []
        assert b.count(tables.ohlc_data) > candles


def test_a_collector_without_a_key_is_off_and_says_which():
    settings = Settings(_env_file=None)
    upstreams = build_upstreams(settings)
    off = {kind.name: kind.off(settings, upstreams) for kind in FEED_COLLECTORS}
    assert off["macro-fred"] == "disabled: set FRED_API_KEY"
    assert off["social-x"] == "disabled: set TWITTER_BEARER_TOKEN"
    assert off["crypto-news"] is None, "RSS needs none"
    named = Settings(_env_file=None, collectors_off=("onchain",))
    assert COLLECTORS["onchain"].off(named, build_upstreams(named)) == "disabled: named in COLLECTORS_OFF"

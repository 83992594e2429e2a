"""What each collector asks for, against the real sandbox over HTTP, pass by pass on a clock that moves when told to."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from sqlalchemy import select

from ray_app.clock import iso
from ray_app.collection import datasets, gaps
from ray_app.collection.collectors import collector
from ray_app.collection.control import holding
from ray_app.collection.datasets import PRICES
from ray_app.errors import ConfigError
from ray_app.sources.base import Exchange
from ray_app.storage import ledger, outbox, registry, tables
from tests.collection.world import DAY, FAST, HOUR, MINUTE, SLOW, START, JumpingClock, world

pytestmark = pytest.mark.integration
SLOT = 5 * MINUTE


class Bench:
    """A collector with its lease, and the clock in the test's hand."""

    def __init__(self, place, runtime, acting):
        self.world, self.runtime, self.acting, self.clock = place, runtime, acting, place.clock

    def go_to(self, ms):
        self.clock.go_to(ms)

    def rows(self, table, *where):
        with self.runtime.db.read() as conn:
            query = select(table).where(*where).order_by(*table.primary_key.columns)
            return [row._mapping for row in conn.execute(query)]

    def prices(self, slot=None):
        columns = tables.price_data_real.c
        found = self.rows(tables.price_data_real, *([columns.slot == slot] if slot is not None else []))
        return {(self.runtime.registry.by_id(r["asset_id"]).symbol, r["slot"]): r for r in found}

    def ledger(self, dataset, *states):
        with self.runtime.db.read() as conn:
            entries = ledger.entries(conn, dataset, states=list(states) or None)
        return [(self.runtime.registry.by_id(e.asset_id).symbol, e.start, e.end, e.state, e.reason) for e in entries]


@pytest.fixture
def bench(tmp_path):
    """``async with bench(name, faults=…) as b``."""
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def make(name, at=START + MINUTE, scale=10.0, **options):
        (tmp_path / name).mkdir()
        place = tmp_path / name
        with world(place, f"sqlite:///{place}/node.db", clock=JumpingClock(at, scale), **options) as used:
            async with await used.open(name) as runtime, holding(runtime, name, "test"):
                acting = collector(name)(runtime)
                await acting.prepare()
                yield Bench(used, runtime, acting)

    return make


def test_a_wrong_name_says_which_there_are():
    with pytest.raises(ConfigError, match="crypto-prices, unified-ohlc, asset-registry"):
        collector("prices")


# --- prices ---------------------------------------------------------------------------------------------------


async def test_the_first_ranks_are_polled_every_slot_and_the_rest_hourly(bench):
    async with bench("crypto-prices") as b:
        result = await b.acting.poll()
        assert (result.requests, result.slots, result.owed, result.errors) == (2, len(FAST) + len(SLOW), 0, [])
        for number in range(1, 13):
            b.go_to(START + number * SLOT + MINUTE)
            await b.acting.poll()
        assert {s for s, slot in b.prices() if slot == START + SLOT} == set(FAST)
        assert {s for s, slot in b.prices() if slot == START + HOUR} == {*FAST, *SLOW}
        assert len(b.world.requests("markets")) == 13 + 2
        assert {r["interval_s"] for (s, _), r in b.prices().items() if s in SLOW} == {3_600}


async def test_a_stored_slot_is_never_asked_for_again(bench):
    async with bench("crypto-prices") as b:
        await b.acting.poll()
        again = collector("crypto-prices")(b.runtime)
        await again.prepare()
        result = await again.poll()
        assert (result.requests, result.owed) == (0, 0)
        assert len(b.world.requests("markets")) == 2


async def test_nothing_is_asked_before_the_jitter_has_passed(bench):
    async with bench("crypto-prices") as b:
        due = b.acting.next_due(START + SLOT - 1_000)
        assert START + SLOT <= due < START + SLOT + 15_000
        if due > START + SLOT:
            b.go_to(START + SLOT)
            assert (await b.acting.poll()).requests <= 1, "only the hourly tier is still open"
        b.go_to(due)
        assert (await b.acting.poll()).slots >= len(FAST)


OUTAGE = 'faults: [{source: coingecko, from: "+0s", to: "+9m", kind: outage}]'


async def test_coinbase_rates_step_in_where_coingecko_does_not_answer(bench):
    async with bench("crypto-prices", faults=OUTAGE) as b:
        result = await b.acting.poll()
        stored = b.prices()
        assert {s for s, _ in stored} == {"BTC", "ETH", "SOL", "XRP", "LINK", "UNI"}
        row = stored["BTC", START]
        assert (row["source"], row["market_cap"]) == ("coinbase.exchange_rates", None)
        truth, _ = b.world.app.world.market.price(1, row["fetched_at"])
        assert row["current_price"] == pytest.approx(truth, rel=1e-3)
        assert result.owed == 2, "TRX and OKB have no venue"
        assert any("unavailable" in e or "coingecko" in e for e in result.errors)
        assert result.retry_at is not None
        assert result.retry_at > START + MINUTE
        b.go_to(START + SLOT * 2 + MINUTE)
        assert (await b.acting.poll()).owed == 0, "OKB's hour is still open and is asked for again"
        assert ("TRX", START) not in b.prices()
        assert ("OKB", START) in b.prices()


async def test_an_answer_that_is_no_json_falls_back_and_is_kept_as_a_dead_letter(bench):
    faults = 'faults: [{source: coingecko, endpoint: markets, from: "+0s", to: "+4m", kind: html}]'
    async with bench("crypto-prices", faults=faults) as b:
        result = await b.acting.poll()
        assert b.prices()["ETH", START]["source"] == "coinbase.exchange_rates"
        assert result.owed == 2
        assert [r["source"] for r in b.rows(tables.dead_letters)] == ["coingecko.markets"]


async def test_ids_left_out_are_noted_and_filled_from_coinbase(bench):
    faults = 'faults: [{source: coingecko, endpoint: markets, from: "+0s", to: "+4m", kind: drop_ids, ids: [ethereum]}]'
    async with bench("crypto-prices", faults=faults) as b:
        result = await b.acting.poll()
        assert (result.owed, result.errors, result.retry_at) == (0, [], None)
        assert b.prices()["ETH", START]["source"] == "coinbase.exchange_rates"
        (event,) = b.rows(tables.data_quality_events, tables.data_quality_events.c.kind == "missing_id")
        assert event["subject"] == "ethereum"


async def test_when_the_month_runs_dry_the_first_ranks_are_last_to_stop_and_rates_step_in_without_a_request(bench):
    async with bench("crypto-prices", coingecko_monthly_limit=2) as b:
        first = await b.acting.poll()
        assert "reserved for more important work" in first.errors[0]
        b.go_to(START + SLOT + MINUTE)
        await b.acting.poll()
        b.go_to(START + 2 * SLOT + MINUTE)
        result = await b.acting.poll()
        assert "credits of 202611 are spent" in result.errors[0]
        assert len(b.world.requests("markets")) == 2
        assert [b.prices()["BTC", START + n * SLOT]["source"] for n in range(3)] == [
            "coingecko.markets",
            "coingecko.markets",
            "coinbase.exchange_rates",
        ]
        assert b.prices()["LINK", START]["source"] == "coinbase.exchange_rates"


async def test_a_storm_of_429_is_waited_out_and_everything_is_archived(bench):
    faults = 'faults: [{source: coingecko, from: "+0s", to: "+3m", kind: rate_limit, retry_after: 20}]'
    async with bench("crypto-prices", faults=faults) as b:
        await b.acting.poll()
        b.go_to(START + SLOT + MINUTE)
        await b.acting.poll()
        assert all(b.prices()[symbol, START + SLOT]["source"] == "coingecko.markets" for symbol in FAST)
        limited = [r for r in b.rows(tables.fetches) if r["outcome"] == "rate_limited"]
        assert len(limited) == sum(1 for e in b.world.requests("markets") if e["status"] == 429) > 0
        moments = [e["at"] for e in b.world.requests("markets") if e["status"] == 429]
        assert all(after - before >= 20_000 for before, after in itertools.pairwise(moments))


async def test_missed_slots_are_repaired_from_venue_candles_newest_first(bench):
    async with bench("crypto-prices") as b:
        await b.acting.poll()
        b.go_to(START + 41 * MINUTE)  # nobody polled for half an hour
        await b.acting.poll()
        await b.acting.track()
        missed = START + SLOT, START + 8 * SLOT
        assert ("BTC", *missed, "owed", None) in b.ledger(PRICES)
        b.go_to(START + 46 * MINUTE)
        await b.acting.repair()
        for slot in range(*missed, SLOT):
            row = b.prices()["BTC", slot]
            bar = b.world.app.world.market.candles(1, 300, slot, slot + SLOT).bars
            assert (row["source"], row["current_price"], row["event_time"]) == (
                "coinbase.candles",
                bar.close[0],
                slot + SLOT,
            )
            assert row["market_cap"] is None
        states = {symbol: state for symbol, _, _, state, _ in b.ledger(PRICES)}
        assert {states[s] for s in ("BTC", "ETH", "SOL", "XRP")} == {"repaired"}
        asked = len(b.world.requests("candles"))
        await b.acting.repair()
        assert len(b.world.requests("candles")) == asked, "what is repaired is not asked for again"


async def test_the_ledger_is_written_where_it_differs_from_what_is_stored_and_only_there(bench, monkeypatch):
    amended, real = [], gaps.amend

    def noted(conn, plan, seen, now):
        amended.append([asset.symbol for asset in seen.assets])
        return real(conn, plan, seen, now)

    monkeypatch.setattr(gaps, "amend", noted)
    async with bench("crypto-prices") as b:
        await b.acting.poll()
        await b.acting.track()
        b.go_to(START + SLOT + MINUTE)
        await b.acting.poll()
        b.go_to(START + 2 * SLOT + MINUTE)  # all that is due by the tolerance is stored
        await b.acting.track()
        assert amended == []
        b.go_to(START + 4 * SLOT)
        await b.acting.track()
        assert set(amended.pop()) == set(FAST)
        await b.acting.track()
        assert amended == [], "what is owed is known"
        await b.acting.repair()
        await b.acting.track()
        assert set(itertools.chain(*amended)) <= set(FAST)
        assert {state for _, _, _, state, _ in b.ledger(PRICES)} <= {"repaired", "unrepairable", "owed"}
        assert ("BTC", "repaired") in {(symbol, state) for symbol, _, _, state, _ in b.ledger(PRICES)}


async def test_without_a_venue_the_chart_repairs_within_the_month_and_says_what_cannot_be(bench):
    async with bench("crypto-prices") as b:
        await b.acting.poll()
        b.go_to(START + 30 * HOUR + MINUTE)
        await b.acting.poll()
        await b.acting.track()
        await b.acting.repair()
        trx = [entry for entry in b.ledger(PRICES) if entry[0] == "TRX"]
        assert trx[0][3] == "unrepairable"
        assert "no further back" in trx[0][4]
        repaired = [r for (s, _), r in b.prices().items() if s == "TRX" and r["source"] == "coingecko.market_chart"]
        assert len(repaired) > 250
        assert len(b.world.requests("market_chart")) <= 4
        with b.runtime.db.read() as conn:
            plan = datasets.load(conn, PRICES)
            seen = gaps.survey(conn, plan, b.runtime.registry, START, b.clock.now_ms() - 2 * HOUR)
        assert seen.owed == []


async def test_a_month_that_prices_need_whole_leaves_the_chart_alone(bench):
    async with bench("crypto-prices", coingecko_monthly_limit=50) as b:
        await b.acting.poll()
        b.go_to(START + 40 * MINUTE)
        await b.acting.track()
        await b.acting.repair()
        assert b.world.requests("market_chart") == []
        assert [e[3] for e in b.ledger(PRICES) if e[0] == "TRX"] == ["owed"]


async def test_events_nobody_can_resume_from_any_more_leave_the_outbox(bench):
    async with bench("crypto-prices") as b:
        await b.acting.poll()
        await b.acting.track()
        with b.runtime.db.read() as conn:
            first = outbox.head(conn, "prices")
            assert outbox.tail_start(conn, "prices") == 1
        b.go_to(START + 3 * DAY + 2 * MINUTE)
        await b.acting.poll()
        await b.acting.track()
        with b.runtime.db.read() as conn:
            assert outbox.tail_start(conn, "prices") == first + 1
            assert outbox.head(conn, "prices") > first + 1


async def test_a_repair_the_upstream_refuses_rests_for_a_day_and_eats_no_credits(bench):
    faults = "faults: [{source: coingecko, endpoint: market_chart, kind: status, status: 404}]"
    async with bench("crypto-prices", faults=faults) as b:
        await b.acting.poll()
        b.go_to(START + 3 * HOUR)
        await b.acting.track()
        for _ in range(3):
            await b.acting.repair()
        asked = [entry["path"] for entry in b.world.requests("market_chart")]
        assert len(asked) == len(set(asked)) == 2, "one for each asset without a venue"
        b.go_to(START + 28 * HOUR)
        await b.acting.repair()
        assert len(b.world.requests("market_chart")) > 2


# --- candles --------------------------------------------------------------------------------------------------


async def test_one_request_per_product_repairs_a_gap_of_hours(bench):
    async with bench("unified-ohlc") as b:
        first = await b.acting.poll()
        assert first.owed == 0
        assert "2 assets have no venue" in first.notes
        before = len(b.world.requests("candles"))
        b.go_to(START + 3 * HOUR + MINUTE)
        result = await b.acting.poll()
        entries = b.world.requests("candles")[before:]
        assert len(entries) == result.requests == 6 * 2, "five-minute and hourly candles, six products each"
        fives = [e for e in entries if e["params"]["granularity"] == "300"]
        assert {e["params"]["start"] for e in fives} == {iso(START)}
        stored = b.rows(tables.ohlc_data, tables.ohlc_data.c.interval_s == 300, tables.ohlc_data.c.asset_id == 1)
        market = b.world.app.world.market.candles(1, 300, START - DAY, START + 3 * HOUR)
        assert [(r["open_time"], r["close_price"]) for r in stored] == [
            (int(t), float(c)) for t, c in zip(market.times, market.bars.close, strict=True)
        ]
        again = await b.acting.poll()
        assert again.requests == 0


async def test_bars_that_are_stored_between_two_that_are_owed_are_not_asked_for_again(bench):
    async with bench("unified-ohlc") as b:
        await b.acting.poll()
        hole = START - 5 * SLOT
        bars = tables.ohlc_data.c
        lost = (bars.asset_id == 1, bars.interval_s == 300, bars.open_time == hole)
        b.runtime.db.run(lambda conn: conn.execute(tables.ohlc_data.delete().where(*lost)))
        before = len(b.world.requests("candles"))
        b.go_to(START + SLOT + MINUTE)
        await b.acting.poll()
        asked = [
            (entry["params"]["start"], entry["params"]["end"])
            for entry in b.world.requests("candles")[before:]
            if entry["path"] == "/products/BTC-USD/candles" and entry["params"]["granularity"] == "300"
        ]
        assert sorted(asked) == [(iso(at), iso(at + SLOT - 1_000)) for at in (hole, START)]


async def test_open_bars_are_not_stored(bench):
    async with bench("unified-ohlc") as b:
        await b.acting.poll()
        for interval_s in (300, 3_600, 86_400):
            newest = max(r["open_time"] for r in b.rows(tables.ohlc_data, tables.ohlc_data.c.interval_s == interval_s))
            assert newest + interval_s * 1_000 <= b.clock.now_ms()


async def test_a_product_that_fails_is_asked_again_and_the_others_are_stored(bench):
    faults = (
        'faults: [{source: coinbase, endpoint: candles, from: "+0s", to: "+3m", kind: status, status: 500, every: 3}]'
    )
    async with bench("unified-ohlc", faults=faults, max_retry_attempts=0, circuit_breaker_failure_threshold=100) as b:
        result = await b.acting.poll()
        assert result.owed > 0
        assert result.errors
        assert result.retry_at is not None
        b.go_to(START + 4 * MINUTE)
        assert (await b.acting.poll()).owed == 0


async def test_an_error_that_all_intervals_share_makes_none_of_them_wait_for_its_next_slot(bench):
    """The next daily bar is due in sixteen hours: an outage at the wrong minute must not cost that long."""
    faults = 'faults: [{source: coinbase, endpoint: candles, from: "+0s", to: "+3m", kind: status, status: 500}]'
    async with bench("unified-ohlc", faults=faults, max_retry_attempts=0, circuit_breaker_failure_threshold=100) as b:
        result = await b.acting.poll()
        assert len(result.errors) == 1, "the same words for every product and interval"
        b.go_to(START + 4 * MINUTE)
        assert (await b.acting.poll()).owed == 0
        intervals = {r["interval_s"] for r in b.rows(tables.ohlc_data)}
        assert intervals == {300, 3_600, 86_400}


async def test_a_bar_the_venue_publishes_late_is_asked_for_again_within_the_quarter_hour(bench):
    async with bench("unified-ohlc") as b:
        real = b.runtime.fetch

        async def not_yet(request):
            if request.params["granularity"] == "86400":
                return await b.runtime.ingestor.ingest(Exchange(request, 200, {}, b"[]", b.clock.now_ms()))
            return await real(request)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(b.runtime, "fetch", not_yet)
            assert (await b.acting.poll()).owed > 0
        b.go_to(START + 6 * MINUTE)
        await b.acting.poll()
        assert {r["interval_s"] for r in b.rows(tables.ohlc_data)} == {300, 3_600}, "not at once: it has answered"
        b.go_to(START + 17 * MINUTE)
        assert (await b.acting.poll()).owed == 0
        assert {r["interval_s"] for r in b.rows(tables.ohlc_data)} == {300, 3_600, 86_400}


async def test_slots_missed_while_the_machine_slept_for_days_are_in_the_ledger(bench):
    async with bench("unified-ohlc") as b:
        await b.acting.poll()
        await b.acting.track()
        b.go_to(START + 3 * DAY)
        await b.acting.track()
        (first, *_) = [e for e in b.ledger("candles-300", "owed") if e[0] == "BTC"]
        assert first[1] == START


async def test_an_asset_that_gains_a_venue_owes_its_whole_history(bench):
    async with bench("unified-ohlc") as b:
        await b.acting.poll()
        await b.acting.track()
        assert not [e for e in b.ledger("candles-3600") if e[0] == "TRX"]
        trx = b.runtime.registry.by_symbol("TRX")[0]
        listed = b.runtime.registry.replaced([replace(trx, coinbase_product="TRX-USD")])
        await b.runtime.write(lambda conn: registry.save(conn, listed, b.clock.now_ms()))
        assert await b.runtime.refresh_registry()
        await b.acting.prepare()
        await b.acting.track()
        ((_, start, end, state, _),) = [e for e in b.ledger("candles-3600") if e[0] == "TRX"]
        assert (start, state) == (START - 2 * DAY, "owed")
        assert end in {START - HOUR, START}, "as far as bars are due"


async def test_a_product_the_venue_refuses_waits_for_the_next_slot(bench):
    faults = 'faults: [{source: coinbase, endpoint: candles, from: "+0s", to: "+4m", kind: status, status: 404}]'
    async with bench("unified-ohlc", faults=faults) as b:
        result = await b.acting.poll()
        assert result.owed > 0
        assert result.retry_at is None
        assert len(b.world.requests("candles")) == 3 * 6


# --- registry -------------------------------------------------------------------------------------------------


async def test_registry_asks_each_list_once_a_day_and_the_market_every_three_hours(bench):
    async with bench("asset-registry", at=START + 10 * MINUTE) as b:
        first = await b.acting.poll()
        assert (first.requests, first.owed) == (3, 0)
        assert (await b.acting.poll()).requests == 0
        b.go_to(b.acting.next_due(b.clock.now_ms()))
        assert (await b.acting.poll()).requests == 1
        assert len(b.rows(tables.market_data)) == 2
        b.go_to(START + DAY)
        result = await b.acting.poll()
        assert (result.requests, result.owed) == (3, 0)
        outcomes = {(r["source"], r["outcome"]) for r in b.rows(tables.fetches)}
        assert ("coingecko.coins_list", "ok") in outcomes


async def test_the_daily_refresh_takes_over_the_ranks_that_prices_came_with(bench):
    async with bench("asset-registry") as b:
        prices = collector("crypto-prices")(b.runtime)
        await prices.prepare()
        await prices.poll()
        said = {r["asset_id"]: r["market_cap_rank"] for r in b.prices().values() if r["market_cap_rank"] is not None}
        assert said != {a.asset_id: a.market_cap_rank for a in b.world.registry}, "or this test shows nothing"
        await b.acting.poll()
        assert {a.asset_id: a.market_cap_rank for a in b.runtime.registry} == said
        (request,) = [r["request"] for r in b.rows(tables.fetches) if r["source"] == "coinbase.products"]
        assert "ranks_of" in request
        assert all("ranks_of" not in entry["params"] for entry in b.world.requests("products"))


async def test_registry_waits_with_the_products_when_the_coins_did_not_come(bench):
    faults = 'faults: [{source: coingecko, endpoint: coins_list, from: "+0s", to: "+10m", kind: status, status: 503}]'
    async with bench("asset-registry", faults=faults) as b:
        result = await b.acting.poll()
        assert b.world.requests("products") == []
        assert result.owed == 1
        b.go_to(START + 20 * MINUTE)
        assert (await b.acting.poll()).owed == 0
        assert len(b.world.requests("products")) == 1


async def test_global_figures_give_way_to_prices_when_the_month_is_short(bench):
    async with bench("asset-registry", coingecko_monthly_limit=100) as b:
        result = await b.acting.poll()
        assert b.world.requests("global") == []
        assert any("skipped" in note for note in result.notes)

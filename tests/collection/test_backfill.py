"""Backfill: whole, newest first, nothing twice, one at a time, resumable; and the commands around it."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections import Counter

import pytest
from click.testing import CliRunner
from sqlalchemy import select

from ray_app.cli import cli
from ray_app.collection import datasets, gaps, reports
from ray_app.collection.backfill import backfill
from ray_app.collection.datasets import PRICES
from ray_app.errors import ConfigError, LeaseTaken
from ray_app.storage import ledger, tables
from tests.collection.test_runner import asked_slots, environment
from tests.collection.world import DAY, HOUR, MINUTE, START, JumpingClock, world

pytestmark = pytest.mark.integration
NOW = START + MINUTE


@pytest.fixture
def place(tmp_path, database_url):
    with world(
        tmp_path, database_url, clock=JumpingClock(NOW, 30), history_hourly_days=40, history_daily_days=400
    ) as used:
        yield used


def rows(used, interval_s):
    db = used.db()
    with db.read() as conn:
        found = (
            conn.execute(select(tables.ohlc_data).where(tables.ohlc_data.c.interval_s == interval_s)).mappings().all()
        )
    db.dispose()
    return found


async def test_history_is_whole_and_true_and_nothing_is_asked_twice(place):
    async with await place.open("backfill") as runtime:
        seen = []
        done = await backfill(runtime, ("candles-86400", "candles-3600"), progress=seen.append)
    assert {name: (p.owed, p.failed, round(p.percent)) for name, p in done.items()} == {
        "candles-86400": (0, 0, 100),
        "candles-3600": (0, 0, 100),
    }
    for interval_s, days, live in ((86_400, 400, 300 * DAY), (3_600, 40, 300 * HOUR)):
        step = interval_s * 1_000
        first = (NOW - days * DAY) // step * step
        by_asset = Counter()
        for row in rows(place, interval_s):
            bar = place.app.world.market.candles(
                row["asset_id"], interval_s, row["open_time"], row["open_time"] + step
            ).bars
            assert (row["open_price"], row["close_price"], row["volume"]) == (bar.open[0], bar.close[0], bar.volume[0])
            assert first <= row["open_time"] < NOW - live
            by_asset[row["asset_id"]] += 1
        venues = {a.asset_id: a for a in place.registry if a.coinbase_product}
        for asset_id in venues:
            market = place.app.world.market.candles(asset_id, interval_s, first, -(-(NOW - live) // step) * step)
            assert by_asset[asset_id] == len(market.times)
        assert set(by_asset) <= set(venues)
    assert max(asked_slots(place).values()) == 1
    hourly = [e for e in place.requests("candles") if e["params"]["granularity"] == "3600"]
    bitcoin = [e["params"]["start"] for e in hourly if "/BTC-USD/" in e["path"]]
    assert bitcoin == sorted(bitcoin, reverse=True), "newest first"
    assert (seen[-1].requests_done, seen[-1].no_venue) == (seen[-1].requests_total, 2)
    assert all(a.owed >= b.owed for a, b in itertools.pairwise(seen) if a.dataset == b.dataset)


async def test_a_second_run_asks_for_nothing(place):
    for _ in range(2):
        async with await place.open("backfill") as runtime:
            await backfill(runtime, ("candles-86400",))
    assert max(asked_slots(place).values()) == 1


async def test_an_interrupted_run_goes_on_where_it_stopped(place):
    async with await place.open("backfill") as runtime:
        running = asyncio.create_task(backfill(runtime, ("candles-3600",)))
        while len(place.requests("candles")) < 6:
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    interrupted = len(place.requests("candles"))
    async with await place.open("backfill") as runtime:
        done = await backfill(runtime, ("candles-3600",))
    assert done["candles-3600"].owed == 0
    assert interrupted < len(place.requests("candles"))
    # requests in flight at the interruption may have been answered without reaching the archive
    assert sum(1 for n in asked_slots(place).values() if n > 1) <= 4 * 300


async def test_two_at_once_are_safe_the_second_says_so(place):
    async with await place.open("backfill") as one, await place.open("backfill", writer="backfill.two") as two:
        running = asyncio.create_task(backfill(one, ("candles-3600",), holder="one"))
        while not place.requests("candles"):
            await asyncio.sleep(0.01)
        with pytest.raises(LeaseTaken, match="another backfill"):
            await backfill(two, ("candles-3600",), holder="two")
        assert (await running)["candles-3600"].owed == 0
    assert max(asked_slots(place).values()) == 1


async def test_a_range_and_an_asset_narrow_it(place):
    eth = place.registry.by_symbol("ETH")[0]
    async with await place.open("backfill") as runtime:
        await backfill(runtime, ("candles-3600",), START - 30 * DAY, START - 29 * DAY, [eth])
        with pytest.raises(ConfigError, match="candles-300"):
            await backfill(runtime, ("hourly",))
    assert {row["asset_id"] for row in rows(place, 3_600)} == {eth.asset_id}
    assert sorted(row["open_time"] for row in rows(place, 3_600)) == [START - 30 * DAY + n * HOUR for n in range(24)]


async def test_failures_are_counted_and_done_the_next_time(tmp_path, sqlite_url):
    faults = 'faults: [{source: coinbase, from: "+0s", to: "+10m", kind: status, status: 500, every: 2}]'
    options = {"max_retry_attempts": 0, "circuit_breaker_failure_threshold": 100}
    with world(
        tmp_path, sqlite_url, clock=JumpingClock(NOW, 30), faults=faults, history_hourly_days=40, **options
    ) as used:
        async with await used.open("backfill") as runtime:
            first = await backfill(runtime, ("candles-3600",))
            used.clock.go_to(START + 11 * MINUTE)
            second = await backfill(runtime, ("candles-3600",))
        assert first["candles-3600"].failed > 0
        assert (second["candles-3600"].failed, second["candles-3600"].owed) == (0, 0)


async def test_bars_the_venue_does_not_have_are_confirmed_empty_and_not_asked_for_again(tmp_path, sqlite_url):
    """An asset listed ten days ago has no older bars: asked for twice (a page may be cut short), then never again."""
    from dataclasses import replace

    from ray_app.assets import AssetRegistry
    from tests.collection.world import small_registry

    young = replace(small_registry(("BTC",)).assets[0], valid_from=START - 20 * DAY)
    with world(
        tmp_path, sqlite_url, clock=JumpingClock(NOW, 30), registry=AssetRegistry([young]), history_hourly_days=40
    ) as used:
        db = used.db()
        # the node does not know when it was listed
        from ray_app.storage import registry

        db.run(lambda conn: registry.save(conn, AssetRegistry([replace(young, valid_from=None)]), START))
        for _ in range(2):
            async with await used.open("backfill") as runtime:
                done = await backfill(runtime, ("candles-3600",))
        assert done["candles-3600"].owed == 0
        with db.read() as conn:
            found = [
                (e.start, e.end, e.state) for e in ledger.entries(conn, "candles-3600", states=["confirmed_empty"])
            ]
        assert found == [(START - 40 * DAY, START - 20 * DAY, "confirmed_empty")]
        assert max(asked_slots(used).values()) <= 2
        db.dispose()


async def test_missed_prices_are_backfilled_too_and_what_history_cannot_say_is_counted(
    tmp_path, sqlite_url, monkeypatch
):
    with world(tmp_path, sqlite_url, clock=JumpingClock(NOW, 30)) as used:
        from tests.collection.test_runner import runner_for

        await runner_for(used, "crypto-prices").once()
        used.clock.go_to(START + 3 * HOUR + MINUTE)
        await runner_for(used, "crypto-prices").once()  # sees the gap
        async with await used.open("backfill") as runtime:
            await backfill(runtime, (PRICES,), end=START + 3 * HOUR)
            with runtime.db.read() as conn:
                seen = gaps.survey(
                    conn, datasets.load(conn, PRICES), runtime.registry, START, START + 3 * HOUR, until=START + 2 * HOUR
                )
        assert {part.asset.symbol for part in seen.owed} == set()
        for name, value in environment(used).items():
            monkeypatch.setenv(name, value)
        shown = CliRunner().invoke(cli, ["gaps", "--dataset", "prices"])
        assert re.search(r"of (\d+) repaired slots are NULL, .* market_cap_rank \1,", shown.output), shown.output


def test_commands_fill_and_show(tmp_path, sqlite_url, monkeypatch):
    with world(tmp_path, sqlite_url, scale=30) as used:
        for name, value in environment(used).items():
            monkeypatch.setenv(name, value)
        runner = CliRunner()
        filled = runner.invoke(
            cli, ["backfill", "--dataset", "candles-3600", "--symbol", "btc", "--to", "2026-11-24T07:00:00Z"]
        )
        assert filled.exit_code == 0, filled.output
        assert "candles-3600: 100.0 % (47 of 47 slots)" in filled.output
        once = runner.invoke(cli, ["collect", "crypto-prices", "--once"])
        assert once.exit_code == 0, once.output
        assert "slots stored, 0 still owed" in once.output
        shown = runner.invoke(cli, ["gaps", "--json", "--state", "repaired"])
        assert shown.exit_code == 0, shown.output
        lines = [json.loads(line) for line in shown.output.splitlines()]
        assert [(line["symbol"], line["slots"], line["state"]) for line in lines] == [("BTC", 47, "repaired")]
        table = runner.invoke(cli, ["gaps", "--dataset", "candles-3600"])
        assert "repaired" in table.output
        assert "BTC" in table.output
        wrong = runner.invoke(cli, ["gaps", "--dataset", "hourly"])
        assert isinstance(wrong.exception, ConfigError)


async def test_reports_say_what_is_there_and_what_is_not(tmp_path, sqlite_url):
    from tests.collection.test_runner import runner_for

    with world(tmp_path, sqlite_url, clock=JumpingClock(NOW, 30)) as used:
        for name in ("crypto-prices", "unified-ohlc"):
            await runner_for(used, name).once()
        used.clock.go_to(START + 31 * MINUTE)
        db = used.db()
        with db.read() as conn:
            report = {
                row["collector"]: row
                for row in reports.collector_report(
                    conn,
                    used.registry,
                    {"crypto-prices": [PRICES], "unified-ohlc": ["candles-300"]},
                    used.clock.now_ms(),
                )
            }
            left = reports.backfill_report(conn, used.registry)
        db.dispose()
        prices = report["crypto-prices"]
        assert (prices["expected"], prices["received"], prices["missing"]) == (7 * 5 + 3, 8, 30)
        assert prices["last_success_at"] >= NOW
        assert prices["last_event_time"] <= prices["last_success_at"]
        candles = report["unified-ohlc"]["datasets"][0]
        assert (candles["without_venue"], candles["missing"]) == (2, 6 * 6)
        assert [row["dataset"] for row in left] == ["candles-300", "candles-3600", "candles-86400"]

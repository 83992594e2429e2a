"""The generated market: the same answer for the same instant however asked, and it looks like a market."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_app.assets import AssetRegistry
from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS
from ray_app.sandbox.bars import Bars, aggregate
from ray_app.sandbox.generated import ANCHOR_DAY, GeneratedMarket
from ray_app.sandbox.market import Series
from tests.sandbox.conftest import NOW, small_registry

FIRST_DAY = (NOW - 420 * DAY_MS) // DAY_MS
FIELDS = ("open", "high", "low", "close", "volume")
days = st.integers(FIRST_DAY, NOW // DAY_MS + 200)
ids = st.sampled_from([asset.asset_id for asset in small_registry()])
intervals = st.sampled_from([60, 300, 900, 3_600, 21_600, 86_400])


def same(a: Bars, b: Bars) -> bool:
    return all(np.array_equal(getattr(a, f), getattr(b, f), equal_nan=True) for f in FIELDS)


def rows(series: Series) -> list[tuple[float, ...]]:
    bars = series.bars
    return list(zip(series.times.tolist(), *(getattr(bars, f).tolist() for f in FIELDS), strict=True))


def joined(fine: Series, step_ms: int) -> list[tuple[float, ...]]:
    """Coarser candles out of finer ones, by a method of its own: dictionaries and loops."""
    found: dict[int, list[float]] = {}
    for time, opened, high, low, close, volume in rows(fine):
        start = int(time) // step_ms * step_ms
        if start not in found:
            found[start] = [opened, high, low, close, volume]
        else:
            bar = found[start]
            bar[1:] = [max(bar[1], high), min(bar[2], low), close, bar[4] + volume]
    return [(start, *bar) for start, bar in found.items()]


@settings(max_examples=40, deadline=None)
@given(ids, days)
def test_each_interval_is_the_exact_aggregate_of_the_finer_ones(market: GeneratedMarket, asset: int, day: int) -> None:
    start, end = day * DAY_MS, (day + 1) * DAY_MS
    candles = {
        interval: market.candles(asset, interval, start, end) for interval in (60, 300, 900, 3_600, 21_600, 86_400)
    }
    for fine, coarse in ((60, 300), (300, 900), (300, 3_600), (3_600, 21_600), (3_600, 86_400), (300, 86_400)):
        assert joined(candles[fine], coarse * 1_000) == rows(candles[coarse])


@settings(max_examples=40, deadline=None)
@given(ids, intervals, st.integers(0, 420 * DAY_MS), st.integers(1, 400), st.integers(0, 400))
def test_a_candle_is_the_same_in_every_window(
    market: GeneratedMarket, asset: int, interval: int, back: int, count: int, skip: int
) -> None:
    step = interval * 1_000
    start = (NOW - back) // step * step
    window = rows(market.candles(asset, interval, start, start + count * step))
    part = rows(market.candles(asset, interval, start + skip * step, start + count * step))
    assert part == [row for row in window if row[0] >= start + skip * step]
    fresh = GeneratedMarket(7, tuple(small_registry()))
    assert rows(fresh.candles(asset, interval, start, start + count * step)) == window


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-400 * DAY_MS, 100 * DAY_MS), min_size=3, max_size=6), ids)
def test_order_of_questions_does_not_matter(market: GeneratedMarket, offsets: list[int], asset: int) -> None:
    asked = [market.price(asset, NOW + offset) for offset in offsets]
    fresh = GeneratedMarket(7, tuple(small_registry()))
    again = [fresh.price(asset, NOW + offset) for offset in reversed(offsets)][::-1]
    assert np.array_equal(asked, again, equal_nan=True)


@settings(max_examples=60, deadline=None)
@given(ids, st.integers(-300 * DAY_MS, 100 * DAY_MS))
def test_a_price_is_the_last_trade_known_to_the_minute(market: GeneratedMarket, asset: int, offset: int) -> None:
    at = NOW + offset
    price, traded_at = market.price(asset, at)
    minute = at // MINUTE_MS * MINUTE_MS
    current, past = market.candles(asset, 60, minute, minute + 1), market.candles(asset, 60, minute - DAY_MS, minute)
    if len(current):
        assert (price, traded_at) == (current.bars.open[0], minute)
    elif len(past):
        assert (price, traded_at) == (past.bars.close[-1], past.times[-1])
    elif not math.isnan(price):
        assert price == market.candles(asset, 60, traded_at, traded_at + 1).bars.close[-1]


@settings(max_examples=60, deadline=None)
@given(ids, intervals, st.integers(-300 * DAY_MS, 100 * DAY_MS))
def test_a_price_lies_inside_the_candle_its_time_points_into(
    market: GeneratedMarket, asset: int, interval: int, offset: int
) -> None:
    price, traded_at = market.price(asset, NOW + offset)
    if math.isnan(price):
        return
    start = traded_at // (interval * 1_000) * interval * 1_000
    candle = market.candles(asset, interval, start, start + 1).bars
    assert candle.low[0] <= price <= candle.high[0]


@settings(max_examples=20, deadline=None)
@given(st.integers(-300 * DAY_MS, 50 * DAY_MS))
def test_a_snapshot_says_what_the_candles_say(market: GeneratedMarket, offset: int) -> None:
    at = (NOW + offset) // MINUTE_MS * MINUTE_MS
    snapshot = market.snapshot(at)
    for asset in list(market.assets)[::9]:
        row = market.row_of[asset.asset_id]
        # Rolling 24 hours in steps of five minutes, and the minutes of the open one.
        five = at // 300_000 * 300_000
        day = market.candles(asset.asset_id, 300, five - DAY_MS, five)
        open_minutes = market.candles(asset.asset_id, 60, five, at)
        first = market.candles(asset.asset_id, 60, at, at + 1).bars.open  # of the current minute
        highs = [*day.bars.high, *open_minutes.bars.high, *first]
        assert np.array_equal(snapshot.high[row], max(highs, default=math.nan), equal_nan=True)
        lows = [*day.bars.low, *open_minutes.bars.low, *first]
        assert np.array_equal(snapshot.low[row], min(lows, default=math.nan), equal_nan=True)
        assert np.array_equal(snapshot.price[row], market.price(asset.asset_id, at)[0], equal_nan=True)
        before = market.price(asset.asset_id, at - DAY_MS)[0]
        assert np.array_equal(snapshot.price_24h[row], before, equal_nan=True)


@settings(max_examples=30, deadline=None)
@given(ids, intervals, st.integers(0, 100 * DAY_MS))
def test_an_open_candle_grows_into_the_closed_one(
    market: GeneratedMarket, asset: int, interval: int, offset: int
) -> None:
    at = NOW - offset
    start = at // (interval * 1_000) * interval * 1_000
    so_far = rows(market.candle_so_far(asset, interval, at))
    closed = rows(market.candles(asset, interval, start, start + 1))
    if not so_far:
        return
    (time, opened, high, low, _, volume), (_, *whole) = so_far[0], closed[0]
    assert (time, opened) == (start, whole[0])
    assert high <= whole[1]
    assert low >= whole[2]
    assert 0 < volume < whole[4]


def test_a_candle_still_open_in_its_last_second_is_not_yet_the_closed_one(market: GeneratedMarket) -> None:
    hour = NOW // HOUR_MS * HOUR_MS
    last_moment = rows(market.candle_so_far(1, 3_600, hour + HOUR_MS - 1))
    assert last_moment != rows(market.candles(1, 3_600, hour, hour + 1))


def test_all_assets_at_once_and_one_alone_are_the_same(market: GeneratedMarket) -> None:
    day = NOW // DAY_MS
    block = market._alive(slice(0, len(market.assets)), day, 1)
    span = market._alive(slice(5, 6), day - 20, 31)
    alone = market._alive(slice(5, 6), day, 1)
    assert same(block[5:6], alone)
    assert same(span[:, 20 * 288 : 21 * 288], alone)


def test_history_reaches_back_420_days_and_forward_without_end(market: GeneratedMarket) -> None:
    assert len(market.candles(1, 86_400, NOW - 420 * DAY_MS, NOW)) == 420
    assert len(market.candles(1, 86_400, NOW + 3_000 * DAY_MS, NOW + 3_010 * DAY_MS)) == 10
    assert len(market.candles(1, 3_600, (ANCHOR_DAY - 3) * DAY_MS, (ANCHOR_DAY + 1) * DAY_MS)) == 24


def test_another_process_sees_the_same_market(market: GeneratedMarket) -> None:
    script = (
        "import json\n"
        "from tests.sandbox.conftest import NOW, small_registry\n"
        "from ray_app.sandbox.generated import GeneratedMarket\n"
        "from tests.sandbox.test_generated import rows\n"
        "market = GeneratedMarket(7, tuple(small_registry()))\n"
        "print(json.dumps([market.snapshot(NOW).price.tolist(), rows(market.candles(2, 300, NOW - 86_400_000, NOW))]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    price, candles = json.loads(done.stdout)
    assert price == market.snapshot(NOW).price.tolist()
    assert [tuple(row) for row in candles] == rows(market.candles(2, 300, NOW - DAY_MS, NOW))


def test_other_assets_in_the_registry_move_no_price(market: GeneratedMarket) -> None:
    few = GeneratedMarket(7, [asset for asset in small_registry() if asset.symbol in {"S20", "ETH"}])
    for asset in few.assets:
        assert rows(few.candles(asset.asset_id, 3_600, NOW - DAY_MS, NOW)) == rows(
            market.candles(asset.asset_id, 3_600, NOW - DAY_MS, NOW)
        )


def test_another_seed_is_another_market(market: GeneratedMarket) -> None:
    other = GeneratedMarket(8, tuple(small_registry()))
    assert (other.snapshot(NOW).price[:5] != market.snapshot(NOW).price[:5]).all()


def test_an_asset_trades_only_while_it_lives(market: GeneratedMarket, registry: AssetRegistry) -> None:
    old, new = registry.by_coin_id("old-coin"), registry.by_coin_id("new-coin")
    assert old is not None
    assert new is not None
    assert old.valid_to is not None
    turn = old.valid_to
    assert len(market.candles(old.asset_id, 300, turn - HOUR_MS, turn + HOUR_MS)) == 12
    assert len(market.candles(new.asset_id, 300, turn - HOUR_MS, turn + HOUR_MS)) == 12
    last = market.price(old.asset_id, NOW)
    assert last[1] == turn - MINUTE_MS
    assert last == market.price(old.asset_id, NOW + 900 * DAY_MS)  # the last price stays, with its time
    assert math.isnan(market.price(new.asset_id, turn - 1)[0])


def test_thinly_traded_assets_have_bars_without_trades(market: GeneratedMarket) -> None:
    candles = market.candles(100, 300, NOW - 10 * DAY_MS, NOW)
    assert 0.5 * 2_880 < len(candles) < 0.9 * 2_880
    assert (candles.bars.volume > 0).all()


def log_returns(market: GeneratedMarket, asset: int, interval: int = 86_400, span: int = 1_500) -> np.ndarray:
    return np.diff(np.log(market.candles(asset, interval, NOW - span * DAY_MS, NOW).bars.close))


def test_returns_are_fat_tailed_and_correlated_and_volumes_follow_volatility(market: GeneratedMarket) -> None:
    bitcoin, ether, small = (log_returns(market, n) for n in (1, 2, 40))
    for returns in (bitcoin, ether, small):
        assert 0.3 < returns.std() * np.sqrt(365) < 1.6
        assert (((returns - returns.mean()) / returns.std()) ** 4).mean() > 4
    assert np.corrcoef(bitcoin, ether)[0, 1] > 0.5
    hourly = market.candles(1, 3_600, NOW - 100 * DAY_MS, NOW)
    moves = np.abs(np.diff(np.log(hourly.bars.close)))
    assert np.corrcoef(moves, hourly.bars.volume[1:])[0, 1] > 0.2
    assert log_returns(market, 40).std() > log_returns(market, 1).std()  # small caps move more


def test_volatility_comes_in_regimes(market: GeneratedMarket) -> None:
    squares = log_returns(market, 1) ** 2
    clipped = np.minimum(squares, np.quantile(squares, 0.99))
    assert np.corrcoef(clipped[:-1], clipped[1:])[0, 1] > 0.05
    assert len(set(np.round(market._days.market_volatility, 3))) > 10


@pytest.mark.parametrize("seed", [0, 42, 99])
def test_any_seed_is_correlated_fat_tailed_and_goes_through_regimes(registry: AssetRegistry, seed: int) -> None:
    market = GeneratedMarket(seed, tuple(registry))
    hourly = np.array([log_returns(market, n, 3_600, 120) for n in (1, 2, 6, 8, 20, 40)])
    assert np.corrcoef(hourly).min() > 0.1
    for returns in hourly:
        assert (((returns - returns.mean()) / returns.std()) ** 4).mean() > 3.3  # a normal law has 3
    weeks = log_returns(market, 1, 3_600, 728).copy()[: 103 * 168].reshape(103, 168).std(axis=1)
    calm, wild = np.quantile(weeks, [0.1, 0.9])
    assert wild > 1.6 * calm  # draws of one Student-t law: 1.3
    assert np.corrcoef(weeks[:-1], weeks[1:])[0, 1] > 0.25  # a wild week is followed by another


def test_pegs_hold_and_wrapped_assets_follow(market: GeneratedMarket) -> None:
    tether = market.candles(3, 86_400, NOW - 1_000 * DAY_MS, NOW).bars
    assert (tether.low > 0.97).all()
    assert (tether.high < 1.03).all()
    bitcoin, wrapped = (market.candles(n, 3_600, NOW - 30 * DAY_MS, NOW).bars.close for n in (1, 4))
    assert np.abs(bitcoin / wrapped - 1).max() < 1e-4


def test_prices_lie_on_the_exchange_s_grid(market: GeneratedMarket) -> None:
    for asset, decimals in zip(market.assets, market.decimals.tolist(), strict=True):
        for price in market.candles(asset.asset_id, 3_600, NOW - 3 * DAY_MS, NOW).bars.high.tolist():
            assert round(price, decimals) == price


def test_records_are_never_broken(market: GeneratedMarket) -> None:
    snapshot = market.snapshot(NOW)
    for asset in list(market.assets)[:6]:
        row = market.row_of[asset.asset_id]
        history = market.candles(asset.asset_id, 86_400, NOW - 2_000 * DAY_MS, NOW).bars
        assert history.high.max() < snapshot.ath[row]
        assert history.low.min() > snapshot.atl[row]


def test_whole_candles_of_several_days_start_on_multiples_of_them(market: GeneratedMarket) -> None:
    four = market.candles(1, 4 * 86_400, NOW - 90 * DAY_MS, NOW - 4 * DAY_MS)
    assert (four.times % (4 * DAY_MS) == 0).all()
    daily = market.candles(1, 86_400, int(four.times[0]), int(four.times[-1]) + 4 * DAY_MS)
    assert joined(daily, 4 * DAY_MS) == rows(four)
    assert aggregate(daily.bars, len(daily)).volume.item() == four.bars.volume.sum()

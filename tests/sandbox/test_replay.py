"""The replayed market: every hour exactly as the file has it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ray_app.assets import AssetRegistry
from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS
from ray_app.errors import ConfigError
from ray_app.sandbox.replay import WEEK_MS, ReplayFile, ReplayMarket, replay_shift
from tests.sandbox.conftest import COINBASE, NOW, Sandbox, ohlcv
from tests.sandbox.test_generated import joined, rows


def market_of(path: Path) -> ReplayMarket:
    file = ReplayFile(path)
    return ReplayMarket(
        file, tuple(AssetRegistry.for_replay(file.symbols)), replay_shift(file.start_ms, file.end_ms, NOW)
    )


def expected(frame: pl.DataFrame, symbol: str, shift: int) -> list[tuple[float, ...]]:
    frame = frame.filter(pl.col("symbol") == symbol).with_columns(pl.col("timestamp").dt.epoch("ms") + shift)
    return frame.select("timestamp", "open", "high", "low", "close", "volume").rows()


def check_whole_file(path: Path) -> int:
    frame, market = pl.read_parquet(path), market_of(path)
    start, end = market.file.start_ms + market.time_shift_ms, market.file.end_ms + market.time_shift_ms
    count = 0
    for asset in market.assets:
        wanted = expected(frame, asset.symbol, market.time_shift_ms)
        assert rows(market.candles(asset.asset_id, 3_600, start - DAY_MS, end + DAY_MS)) == wanted
        # And through the invented five-minute bars, with float sums from left to right.
        assert joined(market.candles(asset.asset_id, 300, start, end), HOUR_MS) == wanted
        count += len(wanted)
    return count


def test_hourly_candles_are_the_file_s_to_the_last_bit(replay_file: Path) -> None:
    assert check_whole_file(replay_file) == len(pl.read_parquet(replay_file))


@pytest.mark.shared_data
def test_hourly_candles_are_the_real_file_s_to_the_last_bit(shared_data: Path) -> None:
    assert check_whole_file(shared_data / "market" / "crypto_1h_2023H2.parquet") == 322_377


@pytest.mark.shared_data
async def test_the_wire_carries_the_real_file_s_numbers(shared_data: Path, sandbox: Callable[..., Sandbox]) -> None:
    path = shared_data / "market" / "crypto_1h_2023H2.parquet"
    world = sandbox(replay=path)
    shift = world.app.world.market.time_shift_ms
    frame = pl.read_parquet(path)
    hour = NOW // HOUR_MS * HOUR_MS
    for symbol in ("BTC", "PEPE", "GBP"):
        answer = await world.get(f"{COINBASE}/products/{symbol}-USD/candles", granularity=3600)
        wanted = [row for row in expected(frame, symbol, shift) if hour - 299 * HOUR_MS <= row[0] < hour]
        closed = [row for row in answer.json()[::-1] if row[0] * 1_000 < hour]
        assert [(t * 1_000, o, h, low, c, v) for t, low, h, o, c, v in closed] == wanted


def test_one_minute_bars_aggregate_to_the_hour(replay_file: Path) -> None:
    market = market_of(replay_file)
    for asset in market.assets:
        start = NOW // DAY_MS * DAY_MS - 3 * DAY_MS
        minutes = market.candles(asset.asset_id, 60, start, start + DAY_MS)
        assert joined(minutes, HOUR_MS) == rows(market.candles(asset.asset_id, 3_600, start, start + DAY_MS))


def test_days_are_the_aggregate_of_their_hours(replay_file: Path) -> None:
    market = market_of(replay_file)
    start = NOW // DAY_MS * DAY_MS - 30 * DAY_MS
    for asset in market.assets:
        hours = market.candles(asset.asset_id, 3_600, start, start + 20 * DAY_MS)
        days = rows(market.candles(asset.asset_id, 86_400, start, start + 20 * DAY_MS))
        assert [day[:5] for day in days] == [day[:5] for day in joined(hours, DAY_MS)]
        for time, *_, volume in days:
            inside = hours.bars.volume[(hours.times >= time) & (hours.times < time + DAY_MS)]
            assert volume == math.fsum(inside)


def test_an_absent_hour_has_no_candles_and_keeps_the_last_price(replay_file: Path) -> None:
    market = market_of(replay_file)
    euro = next(asset for asset in market.assets if asset.symbol == "EUR")
    start = NOW // DAY_MS * DAY_MS - 60 * DAY_MS
    hours = market.candles(euro.asset_id, 3_600, start, start + 30 * DAY_MS)
    gaps = (np.diff(hours.times) > HOUR_MS).nonzero()[0]
    assert len(gaps)
    for gap in gaps:
        empty = int(hours.times[gap]) + HOUR_MS
        assert len(market.candles(euro.asset_id, 300, empty, empty + HOUR_MS)) == 0
        for at in (empty, empty + 30 * MINUTE_MS, empty + HOUR_MS - 1):
            assert market.price(euro.asset_id, at) == (hours.bars.close[gap], empty - MINUTE_MS)


def test_after_the_file_nothing_trades_and_prices_stay(replay_file: Path) -> None:
    market = market_of(replay_file)
    end = market.file.end_ms + market.time_shift_ms
    bitcoin = next(asset for asset in market.assets if asset.symbol == "BTC")
    last = market.candles(bitcoin.asset_id, 3_600, end - HOUR_MS, end)
    assert market.price(bitcoin.asset_id, end + 40 * DAY_MS) == (last.bars.close[0], end - MINUTE_MS)
    snapshot = market.snapshot(end + 40 * DAY_MS)
    assert np.isnan(snapshot.high).all()
    assert (snapshot.volume == 0).all()
    assert (snapshot.traded_at < end).all()


def test_before_its_first_trade_an_asset_has_no_price(replay_file: Path) -> None:
    market = market_of(replay_file)
    price, traded_at = market.price(market.assets[0].asset_id, market.file.start_ms + market.time_shift_ms - 1)
    assert np.isnan(price)
    assert traded_at == 0


def test_records_are_those_of_the_file_so_far(replay_file: Path) -> None:
    market = market_of(replay_file)
    hour = NOW // HOUR_MS * HOUR_MS
    snapshot = market.snapshot(hour)
    for row, asset in enumerate(market.assets):
        past = market.candles(asset.asset_id, 3_600, hour - 200 * DAY_MS, hour)
        assert snapshot.ath[row] == past.bars.high.max()
        assert snapshot.atl[row] == past.bars.low.min()
        assert snapshot.ath_ms[row] == past.times[past.bars.high.argmax()]


@pytest.mark.parametrize("first", [NOW, NOW + 3 * DAY_MS + 1, NOW + 400 * DAY_MS])
def test_a_long_file_moves_by_whole_weeks_and_leaves_120_days_of_history(first: int) -> None:
    start = 1_688_169_600_000
    shift = replay_shift(start, start + 182 * DAY_MS, first)
    assert shift % WEEK_MS == 0
    assert 121 * DAY_MS <= first - (start + shift) < 128 * DAY_MS


@pytest.mark.parametrize("hours", [2, 24, 10 * 24, 59 * 24, 60 * 24, 150 * 24])
def test_a_short_file_has_a_past_and_a_future_too(hours: int) -> None:
    start, length = 1_688_169_600_000, hours * HOUR_MS
    shift = replay_shift(start, start + length, NOW)
    assert shift % HOUR_MS == 0
    before = NOW - (start + shift)
    assert length // 2 < before < length


def test_five_minute_bars_of_a_file_do_not_depend_on_the_shift(replay_file: Path) -> None:
    file = ReplayFile(replay_file)
    assets = tuple(AssetRegistry.for_replay(file.symbols))
    early, late = (ReplayMarket(file, assets, weeks * WEEK_MS) for weeks in (0, 160))
    start = file.start_ms + 9 * DAY_MS
    moved = rows(late.candles(assets[0].asset_id, 60, start + 160 * WEEK_MS, start + 160 * WEEK_MS + DAY_MS))
    assert [(t - 160 * WEEK_MS, *rest) for t, *rest in moved] == rows(
        early.candles(assets[0].asset_id, 60, start, start + DAY_MS)
    )


def without(column: str) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda frame: frame.drop(column)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (without("volume"), "no column volume"),
        (lambda f: f.with_columns(pl.lit("BTC/USDT").alias("symbol")), "'BTC/USDT' is no ticker"),
        (lambda f: f.with_columns(pl.lit("").alias("symbol")), "'' is no ticker"),
        (
            lambda f: pl.concat([f, f.with_columns(pl.col("symbol").str.to_lowercase())]),
            "duplicate rows: BTC at 2023-07-01T00:00:00Z",
        ),
        (lambda f: f.clear(), "no rows"),
        (lambda f: f.reverse(), "not sorted"),
        (lambda f: pl.concat([f.head(5), f.head(1), f.tail(-5)]), "duplicate rows: BTC at 2023-07-01T00:00:00Z"),
        (lambda f: f.with_columns(pl.col("timestamp").dt.offset_by("7m")), "not the start of an hour"),
        (lambda f: f.with_columns(pl.lit(None, dtype=pl.Float64).alias("close")), "null or not a finite number"),
        (lambda f: f.with_columns(pl.lit(float("nan")).alias("open")), "null or not a finite number"),
        (lambda f: f.with_columns((pl.col("open") * 2).alias("low")), "not a candle"),
        (lambda f: f.with_columns(pl.lit("x").alias("high")), "wrong type"),
        (lambda f: f.with_columns(pl.col("timestamp").dt.convert_time_zone("Asia/Tokyo")), "must be UTC"),
        (lambda f: f.with_columns(pl.lit("2023").alias("timestamp")), "UTC datetime or integer milliseconds"),
    ],
)
def test_a_file_that_will_not_do_is_named_with_its_fault(
    tmp_path: Path, spoil: Callable[[pl.DataFrame], pl.DataFrame], complaint: str
) -> None:
    path = tmp_path / "wrong.parquet"
    spoil(ohlcv(("BTC",), 2)).write_parquet(path)
    with pytest.raises(ConfigError, match=complaint) as caught:
        ReplayFile(path)
    assert str(path) in str(caught.value)


def test_tickers_in_lower_case_are_the_same_tickers(tmp_path: Path) -> None:
    frame = ohlcv(("BTC", "ETH"), 2)
    frame.with_columns(pl.col("symbol").str.to_lowercase()).write_parquet(tmp_path / "lower.parquet")
    frame.write_parquet(tmp_path / "upper.parquet")
    lower, upper = (ReplayFile(tmp_path / f"{name}.parquet") for name in ("lower", "upper"))
    assert lower.symbols == ("BTC", "ETH")
    assert (lower.bars.volume == upper.bars.volume).all()


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(ConfigError, match="not a readable Parquet file"):
        ReplayFile(tmp_path / "text.parquet")
    with pytest.raises(ConfigError, match="no such file"):
        ReplayFile(tmp_path / "absent.parquet")

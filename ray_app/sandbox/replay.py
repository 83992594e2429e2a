"""A market from a file of hourly candles, moved forward in time; every hour exactly as the file has it.

Five-minute bars inside an hour are an invention that aggregates to the hour exactly; an hour that the file does not
have is an hour without trades. After the file ends nothing is traded and prices stay what they were.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import polars as pl

from ray_app.assets import Asset
from ray_app.clock import DAY_MS, HOUR_MS, iso
from ray_app.errors import ConfigError
from ray_app.sandbox.bars import Bars, concatenate, empty, subdivide
from ray_app.sandbox.market import Market
from ray_app.sandbox.profiles import profile_of
from ray_app.sandbox.rng import FloatArray, IntArray, WordArray, key_of, subkeys

COLUMNS = ("timestamp", "symbol", "open", "high", "low", "close", "volume")
#: what a product's id, TICKER-USD, may be made of
_TICKER = r"^[A-Z0-9.$_]{1,32}$"
WEEK_MS = 7 * DAY_MS
#: how much of a long file lies before the first start of a node: its hourly history of 120 days, and a day of room
HISTORY_BEFORE_START_MS = 121 * DAY_MS
#: files shorter than this move by whole hours: a week would be too much of them
WHOLE_WEEKS_FROM_MS = 60 * DAY_MS


def replay_shift(file_start_ms: int, file_end_ms: int, first_node_ms: int) -> int:
    """How far (ms) a file moves, so that a node which first starts at ``first_node_ms`` has a past and a future.

    121 days of the file lie before the start, or two thirds of a file that is shorter than that allows; and up to a
    week more, because a file moves by whole weeks where it can (weekdays stay weekdays), else by whole hours.
    """
    before = min(HISTORY_BEFORE_START_MS, (file_end_ms - file_start_ms) * 2 // 3)
    unit = WEEK_MS if file_end_ms - file_start_ms >= WHOLE_WEEKS_FROM_MS else HOUR_MS
    return (first_node_ms - before - file_start_ms) // unit * unit


class ReplayFile:
    """A validated OHLCV file: hourly bars by symbol. ConfigError names the file and what is wrong with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        frame = _checked(path)
        self.symbols: tuple[str, ...] = tuple(frame["symbol"].unique().sort())
        times = frame["timestamp"].to_numpy().astype(np.int64)
        self.start_ms, self.end_ms = int(times.min()), int(times.max()) + HOUR_MS
        self.first_day = self.start_ms // DAY_MS
        hours = (self.end_ms - self.first_day * DAY_MS) // HOUR_MS
        self.bars = empty(len(self.symbols), int(hours))
        row_of = {symbol: row for row, symbol in enumerate(self.symbols)}
        rows = np.array([row_of[symbol] for symbol in frame["symbol"]], dtype=np.int64)
        columns = (times - self.first_day * DAY_MS) // HOUR_MS
        for name in ("open", "high", "low", "close", "volume"):
            getattr(self.bars, name)[rows, columns] = frame[name].to_numpy()
        self.decimals = _decimals(self.bars)


def _checked(path: Path) -> pl.DataFrame:
    def bad(what: str) -> ConfigError:
        return ConfigError(f"replay file {path}: {what}")

    try:
        frame = pl.read_parquet(path)
    except FileNotFoundError:
        raise bad("there is no such file") from None
    except (pl.exceptions.PolarsError, OSError) as error:
        raise bad(f"not a readable Parquet file ({error})") from error
    if missing := [name for name in COLUMNS if name not in frame.columns]:
        raise bad(f"no column {', '.join(missing)}; it must have {', '.join(COLUMNS)}")
    if frame.is_empty():
        raise bad("it has no rows")
    kind = frame.schema["timestamp"]
    if isinstance(kind, pl.Datetime):
        if kind.time_zone not in {None, "UTC"}:
            raise bad(f"timestamp is in {kind.time_zone}; it must be UTC")
        frame = frame.with_columns(pl.col("timestamp").dt.epoch("ms"))
    elif not kind.is_integer():
        raise bad(f"timestamp is {kind}; it must be a UTC datetime or integer milliseconds")
    try:
        frame = frame.select(
            pl.col("timestamp").cast(pl.Int64),
            pl.col("symbol").cast(pl.String).str.to_uppercase(),
            pl.col(COLUMNS[2:]).cast(pl.Float64),
        )
    except pl.exceptions.PolarsError as error:
        raise bad(f"a column has the wrong type ({error})") from error
    _check_values(frame, bad)
    return frame


def _check_values(frame: pl.DataFrame, bad: Callable[[str], ConfigError]) -> None:
    def first(rows: pl.DataFrame) -> str:
        return f"{rows['symbol'][0]} at {iso(rows['timestamp'][0])} ({len(rows)} rows)"

    holes = frame.filter(pl.any_horizontal(pl.all().is_null()) | ~pl.all_horizontal(pl.col(COLUMNS[2:]).is_finite()))
    if len(holes):
        raise bad(f"a value is null or not a finite number in {len(holes)} rows")
    if len(rows := frame.filter(~pl.col("symbol").str.contains(_TICKER))):
        raise bad(f"symbol {rows['symbol'][0]!r} is no ticker such as BTC ({len(rows)} rows)")
    if len(rows := frame.filter(pl.col("timestamp") % HOUR_MS != 0)):
        raise bad(f"not the start of an hour: {first(rows)}")
    previous = pl.col("timestamp").shift(1).over("symbol")
    if len(rows := frame.filter(pl.struct("symbol", "timestamp").is_duplicated())):
        raise bad(f"duplicate rows: {first(rows)}")
    if len(rows := frame.filter(pl.col("timestamp") <= previous)):
        raise bad(f"not sorted by time within a symbol: {first(rows)}")
    inside = pl.col("low") <= pl.min_horizontal("open", "close")
    inside &= pl.col("high") >= pl.max_horizontal("open", "close")
    if len(rows := frame.filter(~inside | (pl.col("low") <= 0) | (pl.col("volume") < 0))):
        raise bad(f"not a candle (low ≤ open, close ≤ high, prices above 0, volume not below): {first(rows)}")


def _decimals(bars: Bars) -> IntArray:
    """Decimals that the closes of each symbol use, at most 12: the grid on which invented prices lie."""
    result = np.full(bars.close.shape[0], 12, dtype=np.int64)
    closes = np.nan_to_num(bars.close)
    for decimals in range(12, -1, -1):
        power = 10.0**decimals
        fits = (np.rint(closes * power) / power == closes).all(axis=-1)
        result = np.where(fits, decimals, result)
    return result


class ReplayMarket(Market):
    """The market of ``file``, ``shift_ms`` later; ``assets`` are those whose symbol the file has."""

    kind: ClassVar[Literal["generated", "replay"]] = "replay"

    def __init__(self, file: ReplayFile, assets: Sequence[Asset], shift_ms: int) -> None:
        if shift_ms % HOUR_MS:
            raise ValueError(f"a replay is moved by whole hours, not by {shift_ms} ms")
        row_of = {symbol: row for row, symbol in enumerate(file.symbols)}
        assets = [asset for asset in assets if asset.symbol in row_of]
        rows = np.array([row_of[asset.symbol] for asset in assets], dtype=np.int64)
        self._hours = file.bars[rows].map(np.ascontiguousarray)
        self._first_hour = (file.first_day * DAY_MS + shift_ms) // HOUR_MS
        closes = self._hours.close
        levels = closes[np.arange(len(rows)), (~np.isnan(closes)).argmax(axis=-1)]
        profiles = [
            profile_of(asset, asset.market_cap_rank or place, 0, float(level))
            for place, (asset, level) in enumerate(zip(assets, levels, strict=True), 1)
        ]
        keys: WordArray = np.array([key_of("replay", asset.symbol) for asset in assets], dtype=np.uint64)
        super().__init__(assets, profiles, subkeys(keys, -1))
        self.file = file
        self.time_shift_ms = shift_ms
        self._power = 10.0 ** file.decimals[rows].astype(np.float64)
        self._keys = keys
        # The file is the market: what it traded is all there is.
        self._venue_share = np.ones(len(rows))
        # A file's assets trade whenever it says so, whatever became of them in the world since.
        self._alive_from = np.zeros(len(rows), dtype=np.int64)
        self._alive_to = np.full(len(rows), 2**53, dtype=np.int64)
        self._highest = _running(self._hours.high, np.fmax)
        self._lowest = _running(self._hours.low, np.fmin)

    def _hours_of(self, rows: slice, first_day: int, days: int) -> Bars:
        count = self._hours.close.shape[-1]
        first = first_day * 24 - self._first_hour
        last = first + days * 24
        assets = len(self._power[rows])
        parts = [
            empty(assets, max(0, min(last, 0) - first)),
            self._hours[rows, max(first, 0) : max(last, 0)],
            empty(assets, max(0, last - max(first, count))),
        ]
        return concatenate(parts)

    def _five_minutes(self, rows: slice, first_day: int, days: int) -> Bars:
        hours = self._hours_of(rows, first_day, days)
        counters = np.arange(days * 24) + first_day * 24 - self.time_shift_ms // HOUR_MS
        keys = subkeys(self._keys[rows][:, None], counters[None, :])
        return subdivide(hours, 12, keys, self._power[rows][:, None])

    def _volume_units(self, rows: slice, first_bar: int, bars: int) -> IntArray:
        # The last binary digit of the hour's volume: then 60 minutes, too, add up to the hour to the last bit.
        first_day, last_day = first_bar // 288, (first_bar + bars - 1) // 288
        volume = self._hours_of(rows, first_day, last_day - first_day + 1).volume
        hours = np.arange(first_bar, first_bar + bars) // 12 - first_day * 24
        _, binary = np.frexp(volume[:, hours])
        return (binary - 53).astype(np.int64)

    def _join(self, bars: Bars, factor: int) -> Bars:
        """Volumes of a file have no common grid: their sum is rounded once, whatever the order."""
        joined = super()._join(bars, factor)
        if factor > 1:
            groups = bars.volume.reshape(-1, factor).tolist()
            joined.volume[...] = np.reshape([math.fsum(group) for group in groups], joined.volume.shape)
        return joined

    def _hourly(self, row: int, first_day: int, days: int) -> Bars:
        return self._hours_of(slice(row, row + 1), first_day, days)[0]

    def _last_trade(self, row: int, before_day: int) -> tuple[float, int]:
        hours = max(0, before_day * 24 - self._first_hour)
        (hits,) = self._hours.traded[row, :hours].nonzero()
        if not len(hits):
            return float("nan"), 0
        # From that day's five-minute bars, so that the time is the same however long ago it is asked for.
        return super()._last_trade(row, (self._first_hour + int(hits[-1])) // 24 + 1)

    def _extremes(self, minute_ms: int) -> tuple[FloatArray, IntArray, FloatArray, IntArray]:
        hours = min(minute_ms // HOUR_MS - self._first_hour, self._hours.close.shape[-1])
        if hours <= 0:
            nan, never = np.full(len(self.assets), np.nan), np.zeros(len(self.assets), dtype=np.int64)
            return nan, never, nan, never
        (high, high_hour), (low, low_hour) = self._highest, self._lowest
        return (
            high[:, hours - 1],
            (self._first_hour + high_hour[:, hours - 1]) * HOUR_MS,
            low[:, hours - 1],
            (self._first_hour + low_hour[:, hours - 1]) * HOUR_MS,
        )


def _running(values: FloatArray, extreme: np.ufunc) -> tuple[FloatArray, IntArray]:
    """The extreme up to each hour, and the hour it first came about."""
    record = extreme.accumulate(values, axis=-1)
    fresh = np.concatenate([~np.isnan(record[:, :1]), (record[:, 1:] != record[:, :-1]) & ~np.isnan(record[:, 1:])], 1)
    since = np.maximum.accumulate(np.where(fresh, np.arange(values.shape[-1]), 0), axis=-1)
    return record, since

"""A simulated market: what every question of an upstream about prices comes down to.

Two siblings give the numbers: :class:`~ray_app.sandbox.generated.GeneratedMarket` (from a seed) and
:class:`~ray_app.sandbox.replay.ReplayMarket` (from a file). A market knows no "now": it is a function of time, and
whoever serves it decides how much of it has happened yet.

The smallest bars that a market states are of five minutes; each splits into five one-minute bars, and everything
larger is their aggregate. Time is seen to the minute: what is known at an instant are the whole minutes before it and
the first trade of the minute it is in. So a price always lies inside the candle that its time stamp points into.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Literal, TypeVar

import numpy as np

from ray_app.assets import ACTIVE, Asset
from ray_app.clock import DAY_MS, MINUTE_MS
from ray_app.sandbox.bars import Bars, aggregate, concatenate, subdivide
from ray_app.sandbox.profiles import Profile
from ray_app.sandbox.rng import FloatArray, IntArray, WordArray, subkeys

FIVE_MS = 5 * MINUTE_MS
BARS_PER_DAY = DAY_MS // FIVE_MS
_HOUR_CHUNK_DAYS = 16
_DAY_CHUNK_DAYS = 32
_LOOK_BACK_DAYS = 60
_FOR_EVER = 2**53  # ms

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Lru(Generic[K, V]):
    """The last ``size`` values computed, by key."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K, compute: Callable[[], V]) -> V:
        """The value of ``key``, computed if it is not among the last ones."""
        if key in self._items:
            self._items.move_to_end(key)
            return self._items[key]
        value = self._items[key] = compute()
        if len(self._items) > self._size:
            self._items.popitem(last=False)
        return value


@dataclass(frozen=True, slots=True)
class Series:
    """Candles of one asset, ascending; ``times`` are their open times (ms). Bars without trades are not in it."""

    times: IntArray
    bars: Bars

    def __len__(self) -> int:
        return len(self.times)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All assets at one whole minute; arrays by row of ``Market.assets``. NaN where there was never a trade."""

    at_ms: int
    price: FloatArray  # USD
    traded_at: IntArray  # ms; 0: never
    price_24h: FloatArray  # USD, 24 h before
    high: FloatArray  # USD, last 24 h; NaN: no trade in them
    low: FloatArray
    volume: FloatArray  # USD, last 24 h of whole minutes, all venues
    volume_24h: FloatArray  # the same, 24 h before
    circulating: FloatArray
    ath: FloatArray
    ath_ms: IntArray
    atl: FloatArray
    atl_ms: IntArray

    @property
    def market_cap(self) -> FloatArray:
        """USD."""
        return self.price * self.circulating


class Market(ABC):
    """Prices and candles of a fixed set of assets at any time."""

    kind: ClassVar[Literal["generated", "replay"]]
    #: how far a replayed file is moved (ms); 0 for a generated market
    time_shift_ms: int = 0

    def __init__(self, assets: Sequence[Asset], profiles: Sequence[Profile], minute_keys: WordArray) -> None:
        self.assets = tuple(assets)
        self.profiles = tuple(profiles)
        self.row_of = {asset.asset_id: row for row, asset in enumerate(self.assets)}
        # Should a product ever have two assets, the living one is meant.
        by_life = sorted(self.assets, key=lambda asset: asset.alive())
        self.by_product = {a.coinbase_product: a for a in by_life if a.coinbase_product is not None}
        self._minute_keys = minute_keys
        self._power: FloatArray = 10.0 ** np.array([p.decimals for p in profiles], dtype=np.float64)
        self._venue_share: FloatArray = np.array([p.venue_share for p in profiles])
        self._circulating: FloatArray = np.array([p.circulating for p in profiles])
        self._alive_from: IntArray = np.array([a.valid_from or 0 for a in assets], dtype=np.int64)
        self._alive_to: IntArray = np.array([_end_of(a) for a in assets], dtype=np.int64)
        self._day_cache: Lru[tuple[int, int], Bars] = Lru(1_024)
        self._hour_cache: Lru[tuple[int, int], Bars] = Lru(1_536)
        self._daily_cache: Lru[tuple[int, int], Bars] = Lru(8_192)
        self._last_cache: Lru[tuple[int, int], tuple[float, int]] = Lru(4_096)
        self._block_cache: Lru[int, Bars] = Lru(4)
        self._price_cache: Lru[int, tuple[FloatArray, IntArray]] = Lru(256)
        self._snapshot_cache: Lru[int, Snapshot] = Lru(4)

    @property
    def decimals(self) -> IntArray:
        """Decimals of each asset's prices, by row."""
        return np.rint(np.log10(self._power)).astype(np.int64)

    # --- what a sibling gives -------------------------------------------------------------------------------

    @abstractmethod
    def _five_minutes(self, rows: slice, first_day: int, days: int) -> Bars:
        """Five-minute bars of some assets over whole days (since the epoch): shape (assets, days × 288)."""

    @abstractmethod
    def _extremes(self, minute_ms: int) -> tuple[FloatArray, IntArray, FloatArray, IntArray]:
        """All-time high, its time, all-time low, its time of every asset before ``minute_ms``."""

    @abstractmethod
    def _volume_units(self, rows: slice, first_bar: int, bars: int) -> IntArray:
        """Exponents of the binary grids on which five-minute volumes split: broadcasts to (assets, bars)."""

    def _join(self, bars: Bars, factor: int) -> Bars:
        return aggregate(bars, factor)

    def _hourly(self, row: int, first_day: int, days: int) -> Bars:
        return aggregate(self._alive(slice(row, row + 1), first_day, days), 12)[0]

    def _last_trade(self, row: int, before_day: int) -> tuple[float, int]:
        """Close and minute (ms) of the last trade before a day; NaN and 0 if the asset's last 60 days saw none."""
        before_day = min(before_day, -(-int(self._alive_to[row]) // DAY_MS))  # dead for years: look where it lived
        first_day = max(before_day - _LOOK_BACK_DAYS, int(self._alive_from[row]) // DAY_MS)
        return self._last_cache.get((row, before_day), lambda: self._search_back(row, first_day, before_day))

    def _search_back(self, row: int, first_day: int, before_day: int) -> tuple[float, int]:
        for day in range(before_day - 1, first_day - 1, -1):
            bars = self._day(row, day)
            if bars.traded.any():
                price, minute = _last_close(bars[None], day * DAY_MS, FIVE_MS)
                return float(price[0]), int(minute[0])
        return float("nan"), 0

    # --- candles ---------------------------------------------------------------------------------------------

    def candles(self, asset_id: int, interval_s: int, start_ms: int, end_ms: int) -> Series:
        """The candles that open in [start, end), as they are once closed.

        ``interval_s``: 60, a multiple of 300 that divides a day, or whole days (bars of n days start at multiples
        of n days since the epoch). KeyError for an asset that the market does not have.
        """
        row, step = self.row_of[asset_id], interval_s * 1_000
        first, last = -(-start_ms // step), -(-end_ms // step)
        if last <= first:
            return Series(np.empty(0, dtype=np.int64), _nothing())
        if interval_s == 60:
            bars = self._one_minute(row, first, last)
        elif step <= DAY_MS:
            bars = self._within_days(row, step, first, last)
        else:
            factor = step // DAY_MS
            bars = self._join(self._chunked(row, first * factor, last * factor, daily=True), factor)
        times = np.arange(first, last, dtype=np.int64) * step
        traded = bars.traded
        return Series(times[traded], bars[traded])

    def candle_so_far(self, asset_id: int, interval_s: int, at_ms: int) -> Series:
        """The candle that is open at ``at_ms`` (none or one), of what has been traded by then.

        Counts whole minutes and the first trade of the current one: it differs from the closed candle until the end.
        """
        row, step = self.row_of[asset_id], interval_s * 1_000
        start, minute = at_ms // step * step, at_ms // MINUTE_MS * MINUTE_MS
        five = minute // FIVE_MS * FIVE_MS
        parts = [self.candles(asset_id, 300, start, five).bars] if five > start else []
        whole = self._one_minute(row, max(five, start) // MINUTE_MS, minute // MINUTE_MS + 1)
        parts += [whole[:-1], _first_trade(whole[-1:])]
        seen = concatenate(parts)
        seen = aggregate(seen, seen.close.shape[-1])
        traded = seen.traded
        return Series(np.array([start], dtype=np.int64)[traded], seen[traded])

    def _one_minute(self, row: int, first: int, last: int) -> Bars:
        """Minutes [first, last) since the epoch of one asset."""
        if last <= first:
            return _nothing()
        low, high = first // 5, -(-last // 5)
        five = self._within_days(row, FIVE_MS, low, high)
        minutes = self._split(slice(row, row + 1), five[None, :], low)[0]
        return minutes[first - low * 5 : last - low * 5]

    def _split(self, rows: slice, five: Bars, first_bar: int) -> Bars:
        """One-minute bars of five-minute bars; ``first_bar`` counts five-minute bars since the epoch."""
        shift = self.time_shift_ms // FIVE_MS
        counters = np.arange(first_bar - shift, first_bar - shift + five.close.shape[-1])
        keys = subkeys(self._minute_keys[rows][:, None], counters[None, :])
        units = self._volume_units(rows, first_bar, five.close.shape[-1])
        return subdivide(five, 5, keys, self._power[rows][:, None], units)

    def _within_days(self, row: int, step: int, first: int, last: int) -> Bars:
        """Bars [first, last) of a step that divides a day."""
        per_day = DAY_MS // step
        first_day, end_day = first // per_day, -(-last // per_day)
        if step == DAY_MS:
            return self._chunked(row, first, last, daily=True)
        if step % 3_600_000 == 0:
            bars = self._chunked(row, first_day * 24, end_day * 24, daily=False)
            bars = self._join(bars, step // 3_600_000)
        elif end_day - first_day <= 4:
            bars = concatenate([self._day(row, day) for day in range(first_day, end_day)])
            bars = aggregate(bars, step // FIVE_MS)
        else:
            bars = aggregate(self._alive(slice(row, row + 1), first_day, end_day - first_day)[0], step // FIVE_MS)
        return bars[first - first_day * per_day : last - first_day * per_day]

    def _chunked(self, row: int, first: int, last: int, *, daily: bool) -> Bars:
        """Hours or days [first, last) since the epoch, from cached chunks."""
        days = _DAY_CHUNK_DAYS if daily else _HOUR_CHUNK_DAYS
        size = days if daily else days * 24
        cache = self._daily_cache if daily else self._hour_cache

        def chunk(number: int) -> Bars:
            def compute() -> Bars:
                hours = self._hourly(row, number * days, days)
                return self._join(hours, 24) if daily else hours

            return cache.get((row, number), compute)

        numbers = range(first // size, -(-last // size))
        bars = concatenate([chunk(number) for number in numbers])
        return bars[first - numbers[0] * size : last - numbers[0] * size]

    def _day(self, row: int, day: int) -> Bars:
        return self._day_cache.get((row, day), lambda: self._alive(slice(row, row + 1), day, 1)[0])

    def _block(self, day: int) -> Bars:
        return self._block_cache.get(day, lambda: self._alive(slice(0, len(self.assets)), day, 1))

    def _alive(self, rows: slice, first_day: int, days: int) -> Bars:
        """Five-minute bars, none outside the life of an asset."""
        bars = self._five_minutes(rows, first_day, days)
        start, end = first_day * DAY_MS, (first_day + days) * DAY_MS
        if (self._alive_from[rows] <= start).all() and (self._alive_to[rows] >= end).all():
            return bars
        opens = start + FIVE_MS * np.arange(days * BARS_PER_DAY, dtype=np.int64)
        keep = (opens >= self._alive_from[rows][:, None]) & (opens < self._alive_to[rows][:, None])
        return bars.where(keep)

    # --- prices ----------------------------------------------------------------------------------------------

    def price(self, asset_id: int, at_ms: int) -> tuple[float, int]:
        """The last price (USD) known at an instant and the minute (ms, its start) of its trade.

        The first trade of the current minute, or where it has none the close of the last one that had; (NaN, 0)
        before the first trade.
        """
        prices, times = self._prices_at(at_ms // MINUTE_MS * MINUTE_MS)
        row = self.row_of[asset_id]
        return float(prices[row]), int(times[row])

    def _prices_at(self, minute_ms: int) -> tuple[FloatArray, IntArray]:
        return self._price_cache.get(minute_ms, lambda: self._compute_prices(minute_ms))

    def _compute_prices(self, minute_ms: int) -> tuple[FloatArray, IntArray]:
        day, position = divmod(minute_ms // FIVE_MS, BARS_PER_DAY)
        today = self._block(day)
        price, traded_at = _last_close(today[:, :position], day * DAY_MS, FIVE_MS)
        for row in np.isnan(price).nonzero()[0]:
            price[row], traded_at[row] = self._last_trade(int(row), day)
        newer, newer_at = _last_close(self._seen_minutes(minute_ms), minute_ms // FIVE_MS * FIVE_MS, MINUTE_MS)
        return np.where(np.isnan(newer), price, newer), np.where(np.isnan(newer), traded_at, newer_at)

    def _seen_minutes(self, minute_ms: int) -> Bars:
        """What is known of the five minutes that ``minute_ms`` is in: whole minutes, and a first trade."""
        day, position = divmod(minute_ms // FIVE_MS, BARS_PER_DAY)
        done = minute_ms % FIVE_MS // MINUTE_MS
        open_bar = self._block(day)[:, position : position + 1]
        minutes = self._split(slice(0, len(self.assets)), open_bar, minute_ms // FIVE_MS)
        return concatenate([minutes[:, :done], _first_trade(minutes[:, done : done + 1])])

    def snapshot(self, at_ms: int) -> Snapshot:
        """Everything that a price list says, at the whole minute before ``at_ms``."""
        minute = at_ms // MINUTE_MS * MINUTE_MS
        return self._snapshot_cache.get(minute, lambda: self._compute_snapshot(minute))

    def _compute_snapshot(self, minute: int) -> Snapshot:
        price, traded_at = self._prices_at(minute)
        day, position = divmod(minute // FIVE_MS, BARS_PER_DAY)
        before, today = self._block(day - 1), self._block(day)
        window = concatenate([before[:, position:], today[:, :position], self._seen_minutes(minute)])
        high, low = np.fmax.reduce(window.high, axis=-1), np.fmin.reduce(window.low, axis=-1)
        price_24h, _ = self._prices_at(minute - DAY_MS)
        ath, ath_ms, atl, atl_ms = self._extremes(minute)
        above, below = high > ath, low < atl
        return Snapshot(
            at_ms=minute,
            price=price,
            traded_at=traded_at,
            price_24h=price_24h,
            high=high,
            low=low,
            volume=self._usd_volume(window[:, :-1]),
            volume_24h=self._volume_before(minute - DAY_MS),
            circulating=self._circulating,
            ath=np.where(above, high, ath),
            ath_ms=np.where(above, traded_at, ath_ms),
            atl=np.where(below, low, atl),
            atl_ms=np.where(below, traded_at, atl_ms),
        )

    def _volume_before(self, minute: int) -> FloatArray:
        """The 24-hour volume a day ago; to five minutes, which is what a percentage change needs."""
        day, position = divmod(minute // FIVE_MS, BARS_PER_DAY)
        return self._usd_volume(concatenate([self._block(day - 1)[:, position:], self._block(day)[:, :position]]))

    def _usd_volume(self, bars: Bars, rows: slice = slice(None)) -> FloatArray:
        worth: FloatArray = np.nansum(bars.volume * bars.close, axis=-1) / self._venue_share[rows]
        return worth

    def chart(self, asset_id: int, instants: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Price, market value and rolling 24-hour volume (USD) at ascending multiples of five minutes (ms)."""
        row = self.row_of[asset_id]
        first_day = int(instants[0]) // DAY_MS - 1
        days = int(instants[-1]) // DAY_MS - first_day + 1
        bars = self._alive(slice(row, row + 1), first_day, days)[0]
        position = instants // FIVE_MS - first_day * BARS_PER_DAY
        index = np.where(bars.traded, np.arange(len(bars.close)), -1)
        last = np.maximum.accumulate(index)[position - 1]
        before = np.where(last >= 0, bars.close[last], self._last_trade(row, first_day)[0] if (last < 0).any() else 0.0)
        price = np.where(bars.traded[position], bars.open[position], before)
        worth = np.concatenate([[0.0], np.cumsum(np.nan_to_num(bars.volume * bars.close))])
        volume = (worth[position] - worth[position - BARS_PER_DAY]) / self._venue_share[row]
        return price, price * self._circulating[row], np.maximum(volume, 0.0)


def _end_of(asset: Asset) -> int:
    """When an asset's life ends; one that is not active and does not say when is taken to have no market at all."""
    if asset.valid_to is not None:
        return asset.valid_to
    return _FOR_EVER if asset.status == ACTIVE else 0


def _nothing() -> Bars:
    return Bars(*(np.empty(0) for _ in range(5)))


def _first_trade(minute: Bars) -> Bars:
    """What is visible of a minute that has just begun: its first trade."""
    opened = minute.open
    return Bars(opened, opened, opened, opened, minute.volume / 8)


def _last_close(bars: Bars, start_ms: int, step_ms: int) -> tuple[FloatArray, IntArray]:
    """Per asset the last close and the start of its minute; NaN and 0 where there is none."""
    count = bars.close.shape[-1]
    if count == 0:
        return np.full(bars.close.shape[0], np.nan), np.zeros(bars.close.shape[0], dtype=np.int64)
    last = (count - 1 - bars.traded[:, ::-1].argmax(axis=-1))[:, None]
    price = np.take_along_axis(bars.close, last, -1)[:, 0]
    # A bar of volume 0 is its first minute alone (bars.subdivide).
    volume = np.take_along_axis(bars.volume, last, -1)[:, 0]
    minute = start_ms + last[:, 0] * step_ms + np.where(volume == 0, 0, step_ms - MINUTE_MS)
    return price, np.where(np.isnan(price), 0, minute).astype(np.int64)

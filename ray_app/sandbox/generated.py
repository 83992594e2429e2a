"""A market from a seed: correlated, fat-tailed, with regimes; the same answer for the same instant however asked.

Log prices are sums of a market factor, a factor of the asset's sector and a part of its own, each a mean-reverting
walk of daily steps from a fixed day (2020-01-01). Days are linked by their start values alone; within a day each part
is a bridge of 288 Student-t steps between two start values. So any day of any asset can be had without the others,
and the days join without a seam. A Markov chain of regimes (calm, bull, bear, crisis) sets drift and volatility of
the market factor, and with them everybody's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from ray_app.assets import Asset
from ray_app.clock import DAY_MS
from ray_app.sandbox.bars import Bars, concatenate, empty
from ray_app.sandbox.market import BARS_PER_DAY, Market
from ray_app.sandbox.profiles import SECTORS, Profile, profile_of
from ray_app.sandbox.rng import (
    EXPONENTIAL,
    LOGISTIC,
    STUDENT,
    UNIFORM,
    FloatArray,
    IntArray,
    WordArray,
    draws,
    key_of,
    subkeys,
    unit_of,
)

#: 2020-01-01 UTC, in days since the epoch: nothing is traded before
ANCHOR_DAY = 18_262
# Regimes, in this order: calm, bull, bear, crisis.
_DRIFT = np.array([0.0003, 0.0045, -0.0040, -0.018])  # of the market factor, per day
_VOLATILITY = np.array([0.014, 0.021, 0.025, 0.055])
_STAY_OR_GO = np.array(  # daily transition probabilities, from row to column
    [
        [0.965, 0.017, 0.016, 0.002],
        [0.030, 0.955, 0.012, 0.003],
        [0.030, 0.010, 0.950, 0.010],
        [0.100, 0.020, 0.080, 0.800],
    ]
)
_MARKET_REVERSION = 0.004
_SECTOR_REVERSION = 0.006
_SECTOR_VOLATILITY = 0.012
_DAILY_TAIL = 6.0  # standard deviations at which a daily shock is cut
_GROWTH_DAYS = 512
_UNRANKED = 400  # the rank whose size an asset without one is given


def _day_shape() -> tuple[FloatArray, FloatArray]:
    """Variance of each five minutes of a UTC day (mean 1), and the share of the day's variance up to each knot."""
    hours = (np.arange(BARS_PER_DAY) + 0.5) / 12
    shape = 0.7 + 0.9 * np.exp(-(((hours - 15.0) / 4.0) ** 2)) + 0.3 * np.exp(-(((hours - 1.0) / 2.5) ** 2))
    shape = shape / shape.mean()
    share = np.concatenate([[0.0], np.cumsum(shape) / shape.sum()])
    share[-1] = 1.0
    return shape, share


_SHAPE, _SHARE = _day_shape()
_STEP = np.sqrt(_SHAPE / BARS_PER_DAY)


class _Days:
    """Start values of each day since the anchor, grown forward as far as anybody asks."""

    def __init__(self, seed: int, profiles: Sequence[Profile]) -> None:
        self._seed = seed
        self._walk_keys: WordArray = np.array([p.walk_key for p in profiles], dtype=np.uint64)
        self._own_volatility: FloatArray = np.array([p.own_volatility for p in profiles])
        self._reversion: FloatArray = np.array([p.reversion for p in profiles])
        self._market_beta: FloatArray = np.array([p.market_beta for p in profiles])
        self._sector_beta: FloatArray = np.array([p.sector_beta for p in profiles])
        self._sector: IntArray = np.array([p.sector for p in profiles], dtype=np.int64)
        # A soft wall keeps prices within a factor 4 of their level (pegs within 2 %) over any number of years.
        self._wall: FloatArray = np.where([p.pinned for p in profiles], 0.02, np.log(4.0))
        self.length = 0
        self.stress: FloatArray = np.empty(0)  # volatility relative to calm
        self.market_volatility: FloatArray = np.empty(0)
        self.start: FloatArray = np.zeros((len(profiles), 1))  # log price relative to its level, at 00:00
        self._regime = 0
        self._heat = 0.0
        self._market, self._sectors, self._own = 0.0, np.zeros(SECTORS), np.zeros(len(profiles))

    def reach(self, day: int) -> None:
        """Make start values up to the end of ``day`` (counted from the anchor) available."""
        while self.length <= day:
            self._grow(_GROWTH_DAYS)

    def _grow(self, count: int) -> None:
        days = np.arange(self.length, self.length + count)
        common = draws(subkeys(np.array([key_of(self._seed, "days")], dtype=np.uint64), days), 3 + SECTORS)
        own = STUDENT[draws(subkeys(self._walk_keys[:, None], -1 - days), 1)[..., 0]]
        own = np.clip(own, -_DAILY_TAIL, _DAILY_TAIL)
        shocks = np.clip(STUDENT[common[:, 2:]], -_DAILY_TAIL, _DAILY_TAIL)
        stress, volatility = np.empty(count), np.empty(count)
        starts = np.empty((len(self._own), count + 1))
        starts[:, 0] = self.start[:, -1]
        for i in range(count):
            self._regime = int(np.searchsorted(np.cumsum(_STAY_OR_GO[self._regime])[:-1], UNIFORM[common[i, 0]]))
            self._heat = 0.9 * self._heat + 0.12 * float(LOGISTIC[common[i, 1]])
            volatility[i] = _VOLATILITY[self._regime] * np.exp(np.clip(self._heat, -1.0, 1.0))
            stress[i] = (volatility[i] / _VOLATILITY[0]) ** 0.6
            drift = _DRIFT[self._regime] - _MARKET_REVERSION * self._market
            self._market += drift + volatility[i] * shocks[i, 0]
            self._sectors += stress[i] * _SECTOR_VOLATILITY * shocks[i, 1:] - _SECTOR_REVERSION * self._sectors
            self._own += stress[i] * self._own_volatility * own[:, i] - self._reversion * self._own
            total = self._market_beta * self._market + self._sector_beta * self._sectors[self._sector] + self._own
            starts[:, i + 1] = self._wall * np.tanh(total / self._wall)
        self.stress = np.concatenate([self.stress, stress])
        self.market_volatility = np.concatenate([self.market_volatility, volatility])
        self.start = np.concatenate([self.start[:, :-1], starts], axis=1)
        self.length += count


def _bridges(keys: WordArray) -> FloatArray:
    """For each key 289 values from 0 to 0: a Student-t bridge over a day of variance 1."""
    steps = STUDENT[draws(keys, BARS_PER_DAY)] * _STEP
    walk = np.concatenate([np.zeros((*keys.shape, 1)), np.cumsum(steps, axis=-1)], axis=-1)
    bridge: FloatArray = walk - _SHARE * walk[..., -1:]
    return bridge


class GeneratedMarket(Market):
    """The market of ``seed`` over ``assets``; history from 2020-01-01 on, forward without end."""

    kind: ClassVar[Literal["generated", "replay"]] = "generated"

    def __init__(self, seed: int, assets: Sequence[Asset]) -> None:
        ranks = [asset.market_cap_rank or _UNRANKED for asset in assets]
        profiles = [profile_of(asset, rank, seed) for asset, rank in zip(assets, ranks, strict=True)]
        keys = np.array([p.key for p in profiles], dtype=np.uint64)
        super().__init__(assets, profiles, subkeys(keys, -1))
        self.seed = seed
        self._units: IntArray = np.array([p.unit_exponent for p in profiles], dtype=np.int64)
        self._bar_keys = keys
        self._walk_keys: WordArray = np.array([p.walk_key for p in profiles], dtype=np.uint64)
        self._market_key = np.array([key_of(seed, "market")], dtype=np.uint64)
        self._sector_keys: WordArray = np.array([key_of(seed, "sector", i) for i in range(SECTORS)], dtype=np.uint64)
        self._sector: IntArray = np.array([p.sector for p in profiles], dtype=np.int64)
        self._level: FloatArray = np.array([p.level for p in profiles])
        self._market_beta: FloatArray = np.array([p.market_beta for p in profiles])
        self._sector_beta: FloatArray = np.array([p.sector_beta for p in profiles])
        self._own_volatility: FloatArray = np.array([p.own_volatility for p in profiles])
        self._quiet: FloatArray = np.array([p.quiet for p in profiles])
        values = self._level * self._circulating
        self._daily_units: FloatArray = (
            values * np.array([p.turnover for p in profiles]) * self._venue_share / self._level
        )
        self._days = _Days(seed, profiles)
        self._records = self._all_time_records()

    def _five_minutes(self, rows: slice, first_day: int, days: int) -> Bars:
        first = first_day - ANCHOR_DAY
        if first < 0:
            count = len(self._level[rows])
            missing = min(-first, days)
            void = empty(count, missing * BARS_PER_DAY)
            if missing == days:
                return void
            return concatenate([void, self._five_minutes(rows, first_day + missing, days - missing)])
        self._days.reach(first + days)
        number = np.arange(first, first + days)
        path, step = self._log_path(rows, number)
        return self._bars(rows, number, path, step)

    def _volume_units(self, rows: slice, first_bar: int, bars: int) -> IntArray:  # noqa: ARG002
        return self._units[rows][:, None]

    def _log_path(self, rows: slice, number: IntArray) -> tuple[FloatArray, FloatArray]:
        """Log prices relative to the level at 289 knots of each day, and the day's volatility per step."""
        days, stress = self._days, self._days.stress[number]
        sectors, place = np.unique(self._sector[rows], return_inverse=True)
        market = _bridges(subkeys(self._market_key, number)) * days.market_volatility[number][:, None]
        sector = _bridges(subkeys(self._sector_keys[sectors][:, None], number))
        sector = sector * (_SECTOR_VOLATILITY * stress)[:, None]
        own_volatility = self._own_volatility[rows][:, None] * stress
        own = _bridges(subkeys(self._walk_keys[rows][:, None], number)) * own_volatility[..., None]
        market_beta, sector_beta = self._market_beta[rows][:, None], self._sector_beta[rows][:, None]
        left, right = days.start[rows][:, number], days.start[rows][:, number + 1]
        path = left[..., None] + _SHARE * (right - left)[..., None]
        path += market_beta[..., None] * market + sector_beta[..., None] * sector[place] + own
        # Both ends exactly: neighbouring days meet in the same price.
        path[..., 0], path[..., -1] = left, right
        volatility = np.sqrt(
            (market_beta * days.market_volatility[number]) ** 2
            + (sector_beta * _SECTOR_VOLATILITY * stress) ** 2
            + own_volatility**2
        )
        return path, volatility

    def _bars(self, rows: slice, number: IntArray, path: FloatArray, volatility: FloatArray) -> Bars:
        noise = draws(subkeys(self._bar_keys[rows][:, None], number), 5 * BARS_PER_DAY).reshape(
            *path.shape[:-1], 5, BARS_PER_DAY
        )
        step = volatility[..., None] * _STEP
        level, power = self._level[rows][:, None, None], self._power[rows][:, None, None]
        # The first trade of a bar is near, not at, the last of the one before: as on a real venue.
        opens = level * np.exp(path[..., :-1] + 0.08 * step * STUDENT[noise[..., 0, :]])
        closes = level * np.exp(path[..., 1:])
        highs = np.maximum(opens, closes) * np.exp(0.35 * step * EXPONENTIAL[noise[..., 1, :]])
        lows = np.minimum(opens, closes) * np.exp(-0.35 * step * EXPONENTIAL[noise[..., 2, :]])
        move = np.abs(path[..., 1:] - path[..., :-1]) / step
        units = (self._daily_units[rows][:, None] * self._days.stress[number])[..., None] / BARS_PER_DAY
        volume = units * _SHAPE * (0.4 + 0.75 * move) * np.exp(0.6 * LOGISTIC[noise[..., 3, :]] - 0.18)
        exponent = self._units[rows][:, None, None]
        # At least 64 units, so that a minute's share is never nothing.
        volume = np.ldexp(np.maximum(np.rint(np.ldexp(volume, -exponent)), 64.0), exponent)

        def quoted(prices: FloatArray) -> FloatArray:
            ticks: FloatArray = np.maximum(np.rint(prices * power), 1.0) / power
            return ticks

        bars = Bars(quoted(opens), quoted(highs), quoted(lows), quoted(closes), volume)
        quiet = self._quiet[rows]
        if quiet.any():
            bars = bars.where(UNIFORM[noise[..., 4, :]] >= quiet[:, None, None])
        return bars.map(lambda a: a.reshape(a.shape[0], -1))

    def _extremes(self, minute_ms: int) -> tuple[FloatArray, IntArray, FloatArray, IntArray]:  # noqa: ARG002
        return self._records

    def _all_time_records(self) -> tuple[FloatArray, IntArray, FloatArray, IntArray]:
        """Records from before the anchor, beyond what the soft wall lets prices reach since."""
        coins = [asset.coin_id for asset in self.assets]
        spread = np.where([p.pinned for p in self.profiles], 1.06, 7.0)

        def times(what: str) -> IntArray:
            days = [ANCHOR_DAY - 30 - 700 * unit_of(self.seed, coin, what) for coin in coins]
            return (np.array(days) * DAY_MS).astype(np.int64)

        grow = np.array([1 + 0.5 * unit_of(self.seed, coin, "record") for coin in coins]) ** (spread > 2)
        return self._level * spread * grow, times("ath"), self._level / spread / grow, times("atl")

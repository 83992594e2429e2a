"""What the simulated venues of derivatives share: marks, funding, open interest, volatility, as functions of time.

Each is a pure function of (seed, venue, coin, moment), so a past moment is answered the same whenever it is asked
about. Prices come from the market; the rest is smooth noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ray_app.assets import Asset
from ray_app.clock import DAY_MS, HOUR_MS, SECOND_MS
from ray_app.sandbox.answers import World, digits
from ray_app.sandbox.rng import key_of, unit_of

#: coins that venues list contracts of, with the coins in one contract of Binance and Bybit
BASES: dict[str, int] = {
    **dict.fromkeys(("BTC", "ETH", "SOL", "XRP", "BNB", "DOGE", "ADA", "AVAX", "LINK", "LTC", "BCH", "DOT", "TRX"), 1),
    **dict.fromkeys(("SUI", "UNI", "NEAR", "ATOM", "XLM", "ETC", "AAVE"), 1),
    "PEPE": 1_000,
    "SHIB": 1_000,
}
#: settlements are due at 00:00, 08:00 and 16:00 UTC
FUNDING_MS = 8 * HOUR_MS
#: share of all coins that is open at each venue
_OPEN_SHARE = {"binance": 0.0045, "okx": 0.0017, "bybit": 0.0026, "deribit": 0.0004}


@dataclass(frozen=True, slots=True)
class Listed:
    """A coin with contracts: ``units`` coins each at Binance and Bybit."""

    base: str
    asset: Asset
    units: int


@lru_cache(maxsize=65_536)
def _grid(key: int, step: int) -> float:
    return unit_of(key, step)


@lru_cache(maxsize=4_096)
def _octaves(period_ms: int, *parts: str | int) -> tuple[tuple[float, int, int], ...]:
    """Weight, length and key of each octave."""
    return tuple((weight, ms, key_of(*parts, ms)) for weight, ms in ((0.7, period_ms), (0.3, period_ms // 5)))


def smooth(at_ms: int, period_ms: int, *parts: str | int) -> float:
    """Noise in [0, 1) without jumps: the mean of two octaves of interpolated draws."""
    total = 0.0
    for weight, length, key in _octaves(period_ms, *parts):
        step, rest = divmod(at_ms, length)
        part = rest / length
        part *= part * (3 - 2 * part)  # level at both ends
        total += weight * (_grid(key, step) * (1 - part) + _grid(key, step + 1) * part)
    return total


def listed(world: World, now_ms: int) -> dict[str, Listed]:
    """The coins that have contracts now, by ticker; of two with one ticker the larger."""
    found: dict[str, Listed] = {}
    for asset in world.listed(now_ms):
        if asset.symbol in BASES and asset.symbol not in found and not math.isnan(_price(world, asset, now_ms)):
            found[asset.symbol] = Listed(asset.symbol, asset, BASES[asset.symbol])
    return found


def many(one: Listed) -> str:
    """``BTC``, or ``1000PEPE`` where a contract is of many coins."""
    return one.base if one.units == 1 else f"{one.units}{one.base}"


def _price(world: World, asset: Asset, at_ms: int) -> float:
    return world.market.price(asset.asset_id, at_ms)[0]


def index_price(world: World, one: Listed, at_ms: int) -> float:
    """USD of one coin."""
    return _price(world, one.asset, at_ms)


def mark_price(world: World, venue: str, one: Listed, at_ms: int) -> float:
    """USD of one coin: the index and up to 0.05 % more or less."""
    premium = (smooth(at_ms, HOUR_MS, world.seed, "premium", venue, one.base) - 0.5) / 1_000
    return index_price(world, one, at_ms) * (1 + premium)


def funding(world: World, venue: str, base: str, at_ms: int) -> float:
    """The rate of 8 hours as it stands at a moment; at a settlement, what is settled."""
    return round(-0.0002 + 0.0005 * smooth(at_ms, 2 * DAY_MS, world.seed, "funding", venue, base), 8)


def settlements(start_ms: int, end_ms: int) -> range:
    """Settlements in [start, end], ascending."""
    return range(-(-start_ms // FUNDING_MS) * FUNDING_MS, end_ms + 1, FUNDING_MS)


def open_interest(world: World, venue: str, one: Listed, at_ms: int) -> float:
    """Open positions in coins."""
    supply = world.market.profiles[world.market.row_of[one.asset.asset_id]].circulating
    level = 0.75 + 0.5 * smooth(at_ms, 3 * DAY_MS, world.seed, "open", venue, one.base)
    return round(supply * _OPEN_SHARE[venue] * level, 3)


def hourly_prices(world: World, one: Listed, hours: Iterable[int]) -> dict[int, float]:
    """USD of one coin at whole hours (ms): the close of the last hour before each that had trades; absent: none."""
    wanted = sorted(hours)
    if not wanted:
        return {}
    series = world.market.candles(one.asset.asset_id, 3_600, wanted[0] - DAY_MS, wanted[-1])
    places = np.searchsorted(series.times, np.array(wanted), side="left") - 1
    closes = series.bars.close
    return {hour: float(closes[place]) for hour, place in zip(wanted, places.tolist(), strict=True) if place >= 0}


def long_short(world: World, venue: str, base: str, at_ms: int) -> float:
    """Share of the accounts that are long."""
    return round(0.45 + 0.25 * smooth(at_ms, 2 * DAY_MS, world.seed, "accounts", venue, base), 4)


def volatility(world: World, base: str, at_ms: int) -> float:
    """DVOL in percent."""
    slow = smooth(at_ms, 20 * DAY_MS, world.seed, "dvol", base)
    fast = smooth(at_ms, 6 * HOUR_MS, world.seed, "dvol fast", base)
    return 35 + 40 * slow + 4 * fast


def volume_usd(world: World, venue: str, one: Listed, at_ms: int) -> float:
    """USD traded in the last 24 hours."""
    turnover = 0.8 + 0.8 * smooth(at_ms, DAY_MS, world.seed, "turnover", venue, one.base)
    return round(open_interest(world, venue, one, at_ms) * index_price(world, one, at_ms) * turnover, 2)


def second(now_ms: int) -> int:
    """The whole second that snapshots are taken at."""
    return now_ms // SECOND_MS * SECOND_MS


def whole(text: str | None, default: int) -> int | None:
    """A number of digits; the default where there is none, None where it is no such number."""
    if text is None or text == "":
        return default
    return int(text) if digits(text) and len(text) < 16 else None

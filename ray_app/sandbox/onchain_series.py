"""Figures of networks that move smoothly: the same number for the same moment, whoever states it and whenever.

A figure is a level that grows, times slow waves, times noise between knots. All of it is a function of (seed, name,
time); what several simulated upstreams state under one name agrees but for their own bias.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import numpy as np

from ray_app.clock import DAY_MS
from ray_app.sandbox.answers import World
from ray_app.sandbox.rng import FloatArray, IntArray, WordArray, key_of, mix, subkeys, unit_of

#: 2020-01-01 UTC, the first day the generated market has
FIRST_DAY: Final = 18_262
#: 2026-01-01 UTC, when a figure is at its level
_LEVEL_MS: Final = 20_454 * DAY_MS
_YEAR_MS: Final = 365.25 * DAY_MS
#: days of each slow wave
_PERIODS: Final = (7.0, 41.0, 377.0)

#: figures of a chain at their level; what is not here is drawn from the chain's name
LEVELS: Final[Mapping[str, Mapping[str, float]]] = {
    "bitcoin": {"addresses": 8.2e5, "transactions": 4.1e5, "hashes": 9.2e20, "volume": 8.5e9, "tvl": 6.5e9},
    "ethereum": {"addresses": 6.1e5, "transactions": 1.5e6, "volume": 5.5e9, "tvl": 5.2e10},
    "litecoin": {"addresses": 3.3e5, "transactions": 2.1e5, "hashes": 2.9e15},
    "dogecoin": {"addresses": 6.5e4, "transactions": 4.5e4, "hashes": 2.8e15},
    "bitcoin-cash": {"addresses": 3.4e4, "transactions": 3.1e4, "hashes": 7.1e18},
    "dash": {"addresses": 4.1e4, "transactions": 1.9e4, "hashes": 2.2e15},
    "zcash": {"addresses": 1.5e4, "transactions": 9.0e3, "hashes": 1.2e10},
    "solana": {"tvl": 8.5e9},
    "binancecoin": {"tvl": 6.1e9},
    "tron": {"tvl": 5.0e9},
}


def wave(
    seed: int,
    name: str,
    times: IntArray,
    level: float,
    *,
    swing: float = 0.10,
    noise: float = 0.03,
    knot_ms: int = DAY_MS,
    growth: float = 0.08,
) -> FloatArray:
    """The figure ``name`` at ``times`` (ms), above 0.

    ``growth``: a year's; ``swing``: of the slow waves; ``noise``: between knots ``knot_ms`` apart.
    """
    days = times / DAY_MS
    waves = np.zeros(len(times))
    key, phases = _character(seed, name)
    for n, (period, phase) in enumerate(zip(_PERIODS, phases, strict=True)):
        waves += np.sin(2 * math.pi * (days / period + phase)) * (n + 1) / len(_PERIODS)
    knots, part = np.divmod(times, knot_ms)
    part = part / knot_ms
    jitter = (1 - part) * _units(key, knots) + part * _units(key, knots + 1)
    grown = growth * (times - _LEVEL_MS) / _YEAR_MS
    figure: FloatArray = level * np.exp(grown + swing / 2 * waves + noise * 2 * (jitter - 0.5))
    return figure


@lru_cache(maxsize=4_096)
def _character(seed: int, name: str) -> tuple[WordArray, tuple[float, ...]]:
    """The key of a figure's noise, and the phase of each slow wave."""
    phases = tuple(unit_of(seed, name, "phase", n) for n in range(len(_PERIODS)))
    return np.array([key_of(seed, name)], dtype=np.uint64), phases


def _units(key: WordArray, counters: IntArray) -> FloatArray:
    """A number in [0, 1) for each counter."""
    return (mix(subkeys(key, counters)) >> np.uint64(11)).astype(np.float64) / (1 << 53)


def at(seed: int, name: str, ms: int, level: float, **shape: float) -> float:
    """:func:`wave` at one moment, with knots an hour apart."""
    options: dict[str, float] = {"noise": 0.02, **shape}
    return float(wave(seed, name, np.array([ms], dtype=np.int64), level, knot_ms=DAY_MS // 24, **options)[0])


def level_of(seed: int, coin_id: str, kind: str) -> float:
    """What a figure of a chain is about: of the table, or drawn."""
    known = LEVELS.get(coin_id, {}).get(kind)
    if known is not None:
        return known
    size = {"addresses": 4e4, "transactions": 8e4, "hashes": 1e15, "volume": 5e8, "tvl": 4e8}[kind]
    return size * math.exp(3 * (unit_of(seed, coin_id, kind) - 0.5))


def row_of(world: World, coin_id: str) -> int | None:
    """The market's row of a coin; None: it has none."""
    asset = world.registry.by_coin_id(coin_id)
    return None if asset is None else world.market.row_of.get(asset.asset_id)


def price(world: World, coin_id: str, ms: int) -> float | None:
    """The market's price in USD; None: not there."""
    row = row_of(world, coin_id)
    if row is None:
        return None
    found = world.market.price(world.market.assets[row].asset_id, ms)[0]
    return None if math.isnan(found) else found


def day_prices(world: World, coin_id: str, days: IntArray) -> dict[int, float]:
    """Closes of UTC days (since the epoch), where the market has them."""
    row = row_of(world, coin_id)
    if row is None or not len(days):
        return {}
    first, last = int(days[0]) * DAY_MS, int(days[-1]) * DAY_MS
    series = world.market.candles(world.market.assets[row].asset_id, 86_400, first, last + DAY_MS)
    return dict(zip((series.times // DAY_MS).tolist(), series.bars.close.tolist(), strict=True))


def supply(world: World, coin_id: str, ms: int) -> float | None:
    """Coins in existence: the market's, issued at 0.8 % a year around 2026; None: the market has not the coin."""
    found = supplies(world, coin_id, np.array([ms], dtype=np.int64))
    return None if found is None else float(found[0])


def supplies(world: World, coin_id: str, times: IntArray) -> FloatArray | None:
    """:func:`supply` at each of ``times``."""
    row = row_of(world, coin_id)
    if row is None:
        return None
    grown = 1 + 0.008 * (times - _LEVEL_MS) / _YEAR_MS
    coins: FloatArray = np.asarray(float(world.market.profiles[row].circulating) * grown, dtype=np.float64)
    return coins


def text(value: float, digits: int = 12) -> str:
    """A number as upstreams write it in a string: no exponent, no trailing zeros."""
    shown = f"{value:.{digits}g}"
    if "e" not in shown:
        return shown
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    shown = f"{value:.{decimals}f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def height(ms: int) -> int:
    """Bitcoin's best block: one each ten minutes."""
    return ms // 600_000 - 2_029_000

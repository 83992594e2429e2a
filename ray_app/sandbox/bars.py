"""Arrays of OHLCV bars: joining small ones into large ones, and splitting a large one into small ones, both exactly.

A bar without trades has NaN prices and volume 0; such bars are never served. Volumes lie on binary grids (multiples
of a power of two), so that sums of floats are exact in any order: 12 five-minute volumes add up to the hour's to the
last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_app.sandbox.rng import STUDENT, UNIFORM, BoolArray, FloatArray, IntArray, WordArray, draws


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars along the last axis; the axes before it are assets."""

    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray

    @property
    def traded(self) -> BoolArray:
        """Where there were trades."""
        return ~np.isnan(self.close)

    def map(self, change: Callable[[FloatArray], FloatArray]) -> Bars:
        """The same change (a slice, a reshape) to each of the five arrays."""
        return Bars(*(change(a) for a in (self.open, self.high, self.low, self.close, self.volume)))

    def __getitem__(self, item: Any) -> Bars:
        return self.map(lambda a: a[item])

    def where(self, keep: BoolArray) -> Bars:
        """Only the bars of ``keep`` traded; the others become bars without trades."""
        nan = np.nan
        return Bars(
            np.where(keep, self.open, nan),
            np.where(keep, self.high, nan),
            np.where(keep, self.low, nan),
            np.where(keep, self.close, nan),
            np.where(keep, self.volume, 0.0),
        )


def empty(*shape: int) -> Bars:
    """Bars without trades."""
    nan = np.full(shape, np.nan)
    return Bars(nan, nan.copy(), nan.copy(), nan.copy(), np.zeros(shape))


def concatenate(parts: list[Bars]) -> Bars:
    """Bars one after the other."""
    return Bars(
        *(np.concatenate([getattr(p, f) for p in parts], axis=-1) for f in ("open", "high", "low", "close", "volume"))
    )


def aggregate(bars: Bars, factor: int) -> Bars:
    """Each ``factor`` neighbours as one bar: open of the first traded, highest, lowest, close of the last, sum."""
    if factor == 1:
        return bars
    grouped = bars.map(lambda a: a.reshape(*a.shape[:-1], -1, factor))
    traded = grouped.traded
    first = traded.argmax(axis=-1)[..., None]
    last = factor - 1 - traded[..., ::-1].argmax(axis=-1)[..., None]
    return Bars(
        np.take_along_axis(grouped.open, first, -1)[..., 0],
        np.fmax.reduce(grouped.high, axis=-1),
        np.fmin.reduce(grouped.low, axis=-1),
        np.take_along_axis(grouped.close, last, -1)[..., 0],
        grouped.volume.sum(axis=-1),
    )


def subdivide(
    bars: Bars, parts: int, keys: WordArray, power: FloatArray, unit_exponent: IntArray | None = None
) -> Bars:
    """Each bar as ``parts`` smaller ones that aggregate to it exactly.

    ``keys`` (shape of the bars) decides the path, so the same bar always splits the same way. ``power`` is 10 to the
    number of decimals of prices; it and ``unit_exponent`` broadcast against the bars. Volumes are split into
    multiples of 2**unit_exponent, or where it is None of the volume's own last binary digit. A bar of volume 0 is
    one trade-less quote and goes to its first part whole.
    """
    noise = draws(keys, 4 * parts + 2)
    wide = bars[..., None]
    knots = _path(wide, STUDENT[noise[..., :parts]], parts, power[..., None])
    opens, closes = knots[..., :-1], knots[..., 1:]
    top, bottom = np.maximum(opens, closes), np.minimum(opens, closes)
    reach_up = UNIFORM[noise[..., parts : 2 * parts]] ** 2 * 0.5
    reach_down = UNIFORM[noise[..., 2 * parts : 3 * parts]] ** 2 * 0.5
    highs = np.clip(_on_grid(top + reach_up * (wide.high - top), power[..., None]), top, wide.high)
    lows = np.clip(_on_grid(bottom - reach_down * (bottom - wide.low), power[..., None]), wide.low, bottom)
    # One part touches the bar's high, one its low: the extremes must come from somewhere.
    index = np.arange(parts)
    highs = np.where(index == noise[..., -1:] % parts, wide.high, highs)
    lows = np.where(index == noise[..., -2:-1] % parts, wide.low, lows)
    volumes = _split_volume(bars.volume, UNIFORM[noise[..., 3 * parts : 4 * parts]], unit_exponent)
    split = Bars(opens, highs, lows, closes, volumes)
    still = (bars.volume == 0) & bars.traded
    if still.any():
        split = _whole_in_first(split, bars, still)
    return split.map(lambda a: a.reshape(*a.shape[:-2], -1))


def _on_grid(prices: FloatArray, power: FloatArray) -> FloatArray:
    rounded: FloatArray = np.rint(prices * power) / power
    return rounded


def _path(wide: Bars, steps: FloatArray, parts: int, power: FloatArray) -> FloatArray:
    """Parts + 1 prices from open to close inside [low, high]: a bridge on the price grid."""
    walk = np.cumsum(np.concatenate([np.zeros_like(steps[..., :1]), steps], axis=-1), axis=-1)
    share = np.arange(parts + 1) / parts
    bridge = (walk - share * walk[..., -1:]) * (0.35 / np.sqrt(parts)) * (wide.high - wide.low)
    knots = np.clip(_on_grid(wide.open + share * (wide.close - wide.open) + bridge, power), wide.low, wide.high)
    knots[..., 0] = wide.open[..., 0]
    knots[..., -1] = wide.close[..., 0]
    return knots


def _split_volume(volume: FloatArray, weights: FloatArray, unit_exponent: IntArray | None) -> FloatArray:
    if unit_exponent is None:
        _, binary = np.frexp(volume)
        exponent = (binary - 53).astype(np.int64)
    else:
        exponent = np.broadcast_to(unit_exponent, volume.shape)
    units = np.rint(np.ldexp(volume, -exponent)).astype(np.int64)
    weights = weights + 0.5
    weights = weights / weights.sum(axis=-1, keepdims=True)
    parts = np.floor(units[..., None] * weights).astype(np.int64)
    largest = weights.argmax(axis=-1)[..., None]
    remainder = (units - parts.sum(axis=-1))[..., None]
    np.put_along_axis(parts, largest, np.take_along_axis(parts, largest, -1) + remainder, -1)
    result: FloatArray = np.ldexp(parts.astype(np.float64), exponent[..., None])
    return result


def _whole_in_first(split: Bars, bars: Bars, still: BoolArray) -> Bars:
    parts = split.close.shape[-1]
    keep = ~still[..., None] | (np.arange(parts) == 0)
    split = split.where(keep)
    for name in ("open", "high", "low", "close"):
        getattr(split, name)[still, 0] = getattr(bars, name)[still]
    return split

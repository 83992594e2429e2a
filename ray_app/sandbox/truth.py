"""What a market will say, without a server: the answer sheet for independent checks."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from typing import IO

from ray_app.assets import Asset
from ray_app.clock import SECOND_MS, iso
from ray_app.errors import ConfigError, UnknownSymbol
from ray_app.sandbox.market import Market

INTERVALS = (60, 300, 900, 3_600, 21_600, 86_400)


def assets_named(market: Market, symbol: str) -> list[Asset]:
    """The assets with a symbol (``*``: all). UnknownSymbol where there is none."""
    chosen = [asset for asset in market.assets if symbol == "*" or asset.symbol == symbol.upper()]
    if not chosen:
        raise UnknownSymbol(symbol)
    return chosen


def write_candles(out: IO[str], market: Market, symbol: str, interval_s: int, start_ms: int, end_ms: int) -> int:
    """CSV of the closed candles that open in [start, end); numbers as their shortest exact text. Rows written."""
    if interval_s not in INTERVALS:
        raise ConfigError(f"interval {interval_s} s is none of {', '.join(map(str, INTERVALS))}")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["symbol", "open_time_ms", "open_time", "open", "high", "low", "close", "volume"])
    count = 0
    for asset in assets_named(market, symbol):
        series = market.candles(asset.asset_id, interval_s, start_ms, end_ms)
        bars = series.bars
        for time, *values in zip(series.times, bars.open, bars.high, bars.low, bars.close, bars.volume, strict=True):
            writer.writerow([asset.symbol, int(time), iso(int(time)), *(repr(float(value)) for value in values)])
            count += 1
    return count


def write_prices(out: IO[str], market: Market, symbol: str, interval_s: int, start_ms: int, end_ms: int) -> int:
    """CSV of the price at every multiple of the interval in [start, end), with the time of its last trade."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["symbol", "at_ms", "at", "price", "traded_at_ms"])
    count = 0
    chosen = assets_named(market, symbol)
    for at in _instants(interval_s, start_ms, end_ms):
        for asset in chosen:
            price, traded_at = market.price(asset.asset_id, at)
            shown = ("", "") if math.isnan(price) else (repr(price), traded_at)
            writer.writerow([asset.symbol, at, iso(at), *shown])
            count += 1
    return count


def _instants(interval_s: int, start_ms: int, end_ms: int) -> Iterator[int]:
    step = interval_s * SECOND_MS
    yield from range(-(-start_ms // step) * step, end_ms, step)

"""Bars that are still open, from live ticks: of each asset the current five minutes and the current hour.

They are made of the ticks this process heard of (changed prices, at most one in five seconds), so high and low may miss
what came between two of them, and a process that started within a bar knows it from then on: ``first_tick`` says from
when. The closed candle of the venue replaces them; nothing here is stored. Memory: two bars an asset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ray_app.clock import iso

#: lengths in seconds
INTERVALS: Final = (300, 3_600)


@dataclass(slots=True)
class OpenBar:
    """Times in ms, prices in USD."""

    open_time: int
    interval_s: int
    first_at: int
    last_at: int
    open: float
    high: float
    low: float
    close: float

    def add(self, price: float, at: int) -> None:
        """Take in a tick of this bar's time, in any order."""
        if at < self.first_at:
            self.first_at, self.open = at, price
        if at >= self.last_at:
            self.last_at, self.close = at, price
        self.high, self.low = max(self.high, price), min(self.low, price)

    def shown(self) -> dict[str, Any]:
        """As /prices/historical shows it."""
        return {
            "timestamp": iso(self.open_time),
            "open": self.open,
            "high": self.high,
            "low": self.low,
            "close": self.close,
            "first_tick": iso(self.first_at),
            "last_tick": iso(self.last_at),
            "source": "coinbase.ticker",
            "is_final": False,
        }


class OpenBars:
    """The newest bar of each asset and interval."""

    def __init__(self) -> None:
        self._bars: dict[tuple[int, int], OpenBar] = {}

    def add(self, asset_id: int, price: float, at: int) -> None:
        """Take in a tick; one of a bar that is over already changes nothing."""
        for interval_s in INTERVALS:
            opened = at - at % (interval_s * 1_000)
            bar = self._bars.get((asset_id, interval_s))
            if bar is None or opened > bar.open_time:
                self._bars[asset_id, interval_s] = OpenBar(opened, interval_s, at, at, price, price, price, price)
            elif opened == bar.open_time:
                bar.add(price, at)

    def get(self, asset_id: int, interval_s: int, now_ms: int) -> OpenBar | None:
        """The bar that is open at ``now_ms``; None: no tick of it was heard of, or there are none of this length."""
        bar = self._bars.get((asset_id, interval_s))
        return bar if bar is not None and bar.open_time == now_ms - now_ms % (interval_s * 1_000) else None

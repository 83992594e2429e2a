"""The rows that several endpoints yield: one place knows their columns.

**known_at** (design.md rule 4) of each kind, decided here so that every parser stays a function of its exchange:

* *A price polled live* (markets, simple/price, exchange-rates) is known from ``fetched_at``: before the poll nobody
  here could have it. A later poll of the same slot replaces the row and its ``known_at`` together.
* *A candle or a historic price* was public when its bar closed plus the source's publication lag, however late we
  fetch it: ``known_at = min(fetched_at, close + lag)``. A backfill is therefore usable as of the past.
* *A revised candle* has another content hash, hence another ``version``. A parser cannot know that it is not the
  first, so rows also carry ``first_seen_at = fetched_at``, and storage keeps the minimum of both columns per version.
  Among the versions of one bar, the one with the least ``first_seen_at`` is known from ``known_at`` and every other
  only from its ``first_seen_at``. That is a function of the set of exchanges, whatever order they were written in,
  and no correction is visible before this node saw it.
* *A repaired price* (venue candles, market_chart) keeps no versions: price_data_real holds one statement per source
  and slot. A repaired slot is no longer owed and is not asked for again; who needs the versions reads the candles.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from ray_app.sources.base import JsonScalar, Row
from ray_app.sources.reading import Findings

#: Columns of price_data_real that only some sources fill (most of them coingecko.markets); the others leave them NULL.
_PRICE_COLUMNS: tuple[str, ...] = (
    "price_change_24h",
    "price_change_percentage_24h",
    "market_cap",
    "market_cap_rank",
    "fully_diluted_valuation",
    "volume_usd_24h",
    "high_24h",
    "low_24h",
    "open_24h",
    "circulating_supply",
    "total_supply",
    "max_supply",
    "ath",
    "ath_date",
    "atl",
    "atl_date",
    "bid_price",
    "ask_price",
    "volume_qty_24h",
)


@dataclass(frozen=True, slots=True)
class Slot:
    """The slot a price is for: its start (ms) and length (seconds)."""

    start: int
    interval_s: int


def slot_at(ms: int, interval_s: int) -> int:
    """Start (ms) of the slot of ``interval_s`` seconds that holds the moment ``ms``."""
    return ms - ms % (interval_s * 1_000)


def price_row(
    asset: tuple[str, str],
    slot: Slot,
    source: str,
    *,
    event_time: int,
    known_at: int,
    current_price: float,
    **said: JsonScalar,
) -> Row:
    """A row of price_data_real. ``asset``: identity column and value; ``said``: the other columns the source gives."""
    values: dict[str, JsonScalar] = {
        "interval_s": slot.interval_s,
        "event_time": event_time,
        "known_at": known_at,
        "current_price": current_price,
        **{column: said.pop(column, None) for column in _PRICE_COLUMNS},
    }
    if said:
        raise TypeError(f"price_data_real has no columns {sorted(said)}")
    return Row("price_data_real", {asset[0]: asset[1], "slot": slot.start, "source": source}, values, event_time)


@dataclass(frozen=True, slots=True)
class Candle:
    """A closed bar. Times ms; prices USD; ``volume`` in base units, None where the venue does not say."""

    open_time: int
    interval_s: int
    open: float
    high: float
    low: float
    close: float
    volume: float | None

    @property
    def close_time(self) -> int:
        """ms: the first moment after the bar."""
        return self.open_time + self.interval_s * 1_000

    @property
    def version(self) -> int:
        """63-bit content hash of the five values: the same values are the same version, on every machine, forever."""
        packed = struct.pack(
            ">4d?d", self.open, self.high, self.low, self.close, self.volume is None, self.volume or 0.0
        )
        return int.from_bytes(hashlib.sha256(packed).digest()[:8], "big") >> 1


def candle_row(asset: tuple[str, str], venue: str, candle: Candle, fetched_at: int, lag_ms: int) -> Row:
    """A row of ohlc_data, known from the bar's close plus the venue's publication lag (see the module's docstring)."""
    return Row(
        "ohlc_data",
        {
            asset[0]: asset[1],
            "venue": venue,
            "interval_s": candle.interval_s,
            "open_time": candle.open_time,
            "version": candle.version,
        },
        {
            "known_at": min(fetched_at, candle.close_time + lag_ms),
            "first_seen_at": fetched_at,
            "open_price": candle.open,
            "high_price": candle.high,
            "low_price": candle.low,
            "close_price": candle.close,
            "volume": candle.volume,
        },
        candle.close_time,
    )


def settle(found: Findings, subject: str, candles: list[Candle]) -> list[Candle]:
    """The candles ascending, each bar once.

    A bar stated twice alike (a page served twice) is one bar. A bar stated twice with different values in one body
    is a contradiction nothing here can decide: it is left out with an issue, stays owed and is asked for again.
    """
    by_open: dict[int, Candle] = {}
    contradicted: set[int] = set()
    for candle in candles:
        if by_open.setdefault(candle.open_time, candle) != candle:
            contradicted.add(candle.open_time)
    for open_time in sorted(contradicted):
        found.add("duplicate", subject, f"open_time@{open_time}", "one bar, stated twice with different values")
    return [by_open[open_time] for open_time in sorted(by_open) if open_time not in contradicted]


def consistent(found: Findings, subject: str, candle: Candle) -> bool:
    """Whether low ≤ open, close ≤ high; if not, an issue says so."""
    if candle.low <= min(candle.open, candle.close) and max(candle.open, candle.close) <= candle.high:
        return True
    found.add(
        "inconsistent",
        subject,
        f"open_time@{candle.open_time}",
        f"open {candle.open:g} and close {candle.close:g} are not within low {candle.low:g} and high {candle.high:g}",
    )
    return False

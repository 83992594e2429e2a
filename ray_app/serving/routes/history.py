"""Historical bars: closed, really resampled, ascending; gaps are reported, never filled.

A bar is made from stored candles of one venue and one interval. Of the stored intervals that divide the one asked
for, the coarsest is used that reaches as far as any finer one: the venue's own hourly bar beats one summed up from
5-minute bars, down to the last digit. A bar is in the answer once its time is over and at least one candle of it is
stored; the open bar is not (its price is at /prices/current). ``is_final`` is false where a candle of the bar is still
owed: the bar will change when it comes. Candles the venue had no trade for do not make a bar unfinished.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import polars as pl
from fastapi import APIRouter, Depends, Query, Request, Response
from sqlalchemy import Connection

from ray_app.assets import Asset
from ray_app.clock import DAY_MS, HOUR_MS, iso, to_ms
from ray_app.collection.datasets import CANDLES
from ray_app.serving.deps import GatewayDeps
from ray_app.serving.keys import Level
from ray_app.serving.problems import Problem
from ray_app.serving.routes.answers import (
    CursorParam,
    Gateway,
    Limit,
    Prepared,
    answer,
    decode_cursor,
    dumps,
    encode_cursor,
    requires,
)
from ray_app.serving.routes.prices import Symbol
from ray_app.storage import gateway_queries, ledger, queries

router = APIRouter(prefix="/api/v1/prices", tags=["prices"], dependencies=[Depends(requires(Level.readonly))])

INTERVALS_S: dict[str, int] = {"5m": 300, "15m": 900, "1h": 3_600, "4h": 14_400, "1d": 86_400}
#: the first block of Bitcoin: there was no price of anything before it
EARLIEST_MS = to_ms(datetime(2009, 1, 3, tzinfo=UTC))
LATEST_MS = to_ms(datetime(2100, 1, 1, tzinfo=UTC))
MAX_DAYS = 3_650
#: candles read for one page, whatever its limit: a page may be shorter and name the next one
MAX_ROWS = 60_000
#: a candle that closed less than this ago (ms of node time) is still on its way, not missing
PATIENCE_MS = 180_000
DEFAULT_DAYS = 7
#: whose candles are served, best first, and the intervals each may have stored (seconds)
VENUES: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("coinbase", (86_400, 3_600, 300)),
    ("coingecko", (86_400, 14_400, 1_800)),
)

_SPACE_FOR_PLUS = re.compile(r" (?=\d\d:?\d\d$)")


@dataclass(frozen=True, slots=True)
class Source:
    """Where the bars of an answer come from: candles of ``interval_s`` of one venue."""

    venue: str
    interval_s: int


@dataclass(frozen=True, slots=True)
class Page:
    """Bars and what is missing, for ``[start, end)``; ``next_start`` None: nothing follows. Times in ms."""

    bars: list[dict[str, Any]]
    gaps: list[dict[str, Any]]
    as_of: int | None
    next_start: int | None


@router.get("/historical/{symbol}", summary="Historical bars of one asset")
async def historical(
    symbol: Symbol,
    request: Request,
    deps: Gateway,
    start: Annotated[
        str | None, Query(max_length=40, description="RFC 3339; first instant", examples=["2026-11-17T00:00:00Z"])
    ] = None,
    end: Annotated[str | None, Query(max_length=40, description="RFC 3339; exclusive; default: now")] = None,
    days: Annotated[
        int | None, Query(ge=1, le=MAX_DAYS, description=f"instead of start; default {DEFAULT_DAYS}")
    ] = None,
    interval: Annotated[Literal["5m", "15m", "1h", "4h", "1d"], Query(description="length of a bar")] = "1h",
    vs_currency: Annotated[Literal["usd", "USD"], Query(description="only usd")] = "usd",  # noqa: ARG001 - checked
    limit: Limit = 500,
    cursor: CursorParam = None,
) -> Response:
    """OHLCV in USD (volume in units of the asset, null where the venue does not say), ascending, bars aligned to UTC.
    `gaps` lists what is missing in the part of the range that this page covers, with its `state` in the gap ledger;
    `resampled_from` is the interval of the stored candles. `is_final` false: a candle of the bar is still owed.
    """  # noqa: D205 - shown as one paragraph in OpenAPI
    now_ms = deps.clock.now_ms()
    resolution = deps.registry.current.resolve(symbol)
    asset, interval_s = resolution.asset, INTERVALS_S[interval]
    first, last = window(start, end, days, now_ms, interval_s * 1_000)
    chosen = None
    if cursor is not None:
        first, last, chosen = _resume(cursor, interval_s)
    source, page = await asyncio.to_thread(_read, deps, asset, interval_s, chosen, first, last, limit, now_ms)
    body: dict[str, Any] = {
        "symbol": asset.symbol,
        "coin_id": asset.coin_id,
        "name": asset.name,
        "vs_currency": "usd",
        "interval": interval,
        "start": iso(first),
        "end": iso(last),
        "data": page.bars,
        "count": len(page.bars),
        "gaps": page.gaps,
        "next_cursor": encode_cursor(
            {"at": page.next_start, "end": last, "venue": source.venue, "interval_s": source.interval_s}
        )
        if page.next_start is not None
        else None,
        "venue": source.venue,
        "resampled_from": _name(source.interval_s),
        "as_of": iso(page.as_of) if page.as_of is not None else None,
        "source": f"{source.venue}.{'candles' if source.venue == 'coinbase' else 'ohlc'}",
        "quality": "complete" if not page.gaps else "gaps",
    }
    if resolution.note is not None:
        body["note"] = resolution.note
    return answer(request, Prepared(dumps(body), page.as_of), now_ms)


def _resume(cursor: str, interval_s: int) -> tuple[int, int, Source]:
    """Where a page begins, where the range ends, and whose candles its pages are made of."""
    position = decode_cursor(cursor, at=int, end=int, venue=str, interval_s=int)
    first, last = position["at"], position["end"]
    source = Source(position["venue"], position["interval_s"])
    fits = source.interval_s in dict(VENUES).get(source.venue, ()) and interval_s % source.interval_s == 0
    if not fits or not EARLIEST_MS <= first < last <= LATEST_MS:
        raise Problem("VALIDATION_ERROR", "cursor: not one this API gave out for this request; start again without it")
    return first, last, source


# --- the range asked for -------------------------------------------------------------------------------------


def window(start: str | None, end: str | None, days: int | None, now_ms: int, step: int) -> tuple[int, int]:
    """The range in ms, half open; Problem VALIDATION_ERROR where it makes no sense.

    ``days`` reach back to the beginning of a bar (``step`` ms long): one day of daily bars is one bar.
    """
    if start is not None and days is not None:
        raise Problem("VALIDATION_ERROR", "days: give either start or days")
    last = moment("end", end) if end is not None else now_ms
    back = max((last - (days or DEFAULT_DAYS) * DAY_MS) // step * step, EARLIEST_MS)
    first = moment("start", start) if start is not None else back
    if first >= last:
        raise Problem("VALIDATION_ERROR", f"start: {iso(first)} is not before the end, {iso(last)}")
    return first, last


def moment(name: str, text: str, earliest: int = EARLIEST_MS) -> int:
    """An RFC 3339 time (a date means its midnight, no offset means UTC) in ms; Problem VALIDATION_ERROR otherwise."""
    spelled = _SPACE_FOR_PLUS.sub("+", text.strip())  # an unencoded + arrives as a space
    try:
        parsed = datetime.fromisoformat(spelled)
        ms = to_ms(parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC))
    except (ValueError, OverflowError) as error:
        raise Problem("VALIDATION_ERROR", f"{name}: not an RFC 3339 time such as 2026-11-24T08:00:00Z") from error
    if not earliest <= ms <= LATEST_MS:
        raise Problem("VALIDATION_ERROR", f"{name}: must lie between {iso(earliest)} and {iso(LATEST_MS)}")
    return ms


# --- reading -------------------------------------------------------------------------------------------------


def _read(
    deps: GatewayDeps,
    asset: Asset,
    interval_s: int,
    source: Source | None,
    start: int,
    end: int,
    limit: int,
    now_ms: int,
) -> tuple[Source, Page]:
    step = interval_s * 1_000
    first = -(-start // step) * step  # bars that begin inside the range
    closed = min(-(-end // step) * step, now_ms // step * step)
    with deps.db.read() as conn:
        if source is None:
            source = choose_source(conn, asset.asset_id, interval_s, first, closed)
        if source is None:
            raise Problem("DATA_NOT_AVAILABLE", _why_nothing(asset, first, closed, interval_s))
        return source, read_page(conn, asset.asset_id, source, interval_s, first, closed, limit, now_ms)


def _why_nothing(asset: Asset, first: int, closed: int, interval_s: int) -> str:
    if asset.coinbase_product is None:
        return f"{asset.symbol} has no venue: it is not traded against USD on Coinbase, so there are no candles of it"
    if first >= closed:
        return f"no {_name(interval_s)} bar begins and ends within the range (the open bar is at /prices/current)"
    return f"no candles of {asset.symbol} are stored for this range"


def choose_source(conn: Connection, asset_id: int, interval_s: int, start: int, end: int) -> Source | None:
    """The candles to use for bars that begin in [start, end): see the module's docstring. None: there are none."""
    if start >= end:
        return None
    step = interval_s * 1_000
    for venue, stored in VENUES:
        usable = [candle_s for candle_s in stored if candle_s <= interval_s and interval_s % candle_s == 0]
        spans = gateway_queries.candle_spans(conn, asset_id, venue, usable, start, end)
        if spans:
            reach = {candle_s: last // step - first // step for candle_s, (first, last) in spans.items()}
            # one bar less is no reason: right after a bar's end its finer candles are there a moment earlier
            enough = max(reach.values()) - 1
            return Source(venue, next(s for s in usable if s in reach and reach[s] >= enough))
    return None


def read_page(
    conn: Connection, asset_id: int, source: Source, interval_s: int, start: int, end: int, limit: int, now_ms: int
) -> Page:
    """Up to ``limit`` bars from ``start`` (a bar's beginning) on, and the gaps up to where the next page begins."""
    per_bar = interval_s // source.interval_s
    limit = min(limit, MAX_ROWS // per_bar)
    rows = queries.candles(conn, asset_id, source.venue, source.interval_s, start, end, limit=(limit + 1) * per_bar)
    bars = resample(rows, interval_s)
    next_start = bars["open_time"][limit] if len(bars) > limit else None
    bars = bars.head(limit)
    stop = next_start if next_start is not None else end
    missing = _missing([row["open_time"] for row in rows], source.interval_s * 1_000, start, stop)
    states = _ledger(conn, asset_id, source, start, stop)
    gaps = [gap for low, high in missing for gap in _with_states(low, high, states)]
    due = now_ms - PATIENCE_MS
    unfinished = {
        bar
        for gap in gaps
        if gap["state"] != "confirmed_empty"
        for bar in range(gap["start"] // 1_000 // interval_s, -(-gap["end"] // 1_000 // interval_s))
    }
    return Page(
        bars=[_bar(row, row["open_time"] // 1_000 // interval_s not in unfinished) for row in bars.to_dicts()],
        gaps=[{**gap, "start": iso(gap["start"]), "end": iso(gap["end"])} for gap in _due(gaps, source, due)],
        as_of=max((row["first_seen_at"] for row in rows if row["open_time"] < stop), default=None),
        next_start=next_start,
    )


_SCHEMA = {
    "open_time": pl.Int64,
    "open_price": pl.Float64,
    "high_price": pl.Float64,
    "low_price": pl.Float64,
    "close_price": pl.Float64,
    "volume": pl.Float64,
}


def resample(rows: Sequence[dict[str, Any]], interval_s: int) -> pl.DataFrame:
    """Candles (ascending, ms) as bars of ``interval_s``: open_time, open, high, low, close, volume.

    The volume of a bar is null as soon as one of its candles does not say.
    """
    step = interval_s * 1_000
    candles = pl.DataFrame([{name: row[name] for name in _SCHEMA} for row in rows], schema=_SCHEMA)
    return (
        candles.group_by((pl.col("open_time") // step * step).alias("open_time"), maintain_order=True)
        .agg(
            pl.col("open_price").first().alias("open"),
            pl.col("high_price").max().alias("high"),
            pl.col("low_price").min().alias("low"),
            pl.col("close_price").last().alias("close"),
            pl.when(pl.col("volume").is_null().any()).then(None).otherwise(pl.col("volume").sum()).alias("volume"),
        )
        .sort("open_time")
    )


def _bar(row: dict[str, Any], final: bool) -> dict[str, Any]:
    return {
        "timestamp": iso(row["open_time"]),
        "open": row["open"],
        "high": row["high"],
        "low": row["low"],
        "close": row["close"],
        "volume": row["volume"],
        "is_final": final,
    }


# --- what is missing -----------------------------------------------------------------------------------------


def _missing(stored: Sequence[int], step: int, start: int, end: int) -> list[tuple[int, int]]:
    """The half-open ranges of slots in [start, end) that are not in ``stored`` (ascending)."""
    found: list[tuple[int, int]] = []
    expected = start
    for slot in stored:
        if slot >= end:
            break
        if slot > expected:
            found.append((expected, slot))
        expected = slot + step
    if expected < end:
        found.append((expected, end))
    return found


def _ledger(conn: Connection, asset_id: int, source: Source, start: int, end: int) -> list[ledger.LedgerEntry]:
    if source.venue != ledger.VENUE or start >= end:
        return []
    found = ledger.entries(conn, CANDLES[source.interval_s], start=start, end=end, asset_ids=[asset_id])
    return sorted(found, key=lambda entry: entry.start)


def _with_states(low: int, high: int, entries: Sequence[ledger.LedgerEntry]) -> list[dict[str, Any]]:
    """The missing range cut where the ledger says something else; what it does not know is ``not_collected``."""
    parts: list[dict[str, Any]] = []
    at = low
    for entry in entries:
        begin, stop = max(entry.start, at), min(entry.end, high)
        if begin >= stop or entry.state == "repaired":
            continue
        if begin > at:
            parts.append({"start": at, "end": begin, "state": "not_collected", "reason": None})
        parts.append({"start": begin, "end": stop, "state": entry.state, "reason": entry.reason})
        at = stop
    if at < high:
        parts.append({"start": at, "end": high, "state": "not_collected", "reason": None})
    return parts


def _due(gaps: Sequence[dict[str, Any]], source: Source, due: int) -> list[dict[str, Any]]:
    """The gaps without the candles at the end that closed after ``due``: those are on their way."""
    step = source.interval_s * 1_000
    last = due // step * step
    cut = [{**gap, "end": min(gap["end"], last)} if gap["state"] == "not_collected" else gap for gap in gaps]
    return [gap for gap in cut if gap["start"] < gap["end"]]


def _name(interval_s: int) -> str:
    if interval_s % (DAY_MS // 1_000) == 0:
        return f"{interval_s // (DAY_MS // 1_000)}d"
    if interval_s % (HOUR_MS // 1_000) == 0:
        return f"{interval_s // (HOUR_MS // 1_000)}h"
    return f"{interval_s // 60}m"

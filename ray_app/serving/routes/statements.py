"""On-chain and derivatives numbers of an asset, and fear and greed: the latest of each series, and their history."""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from sqlalchemy import Connection

from ray_app.clock import iso
from ray_app.serving.deps import GatewayDeps
from ray_app.serving.keys import Level
from ray_app.serving.problems import Problem
from ray_app.serving.routes.answers import CursorParam, Gateway, Limit, from_database, requires
from ray_app.serving.routes.prices import Symbol, ok
from ray_app.serving.routes.series import (
    AsOf,
    End,
    Row,
    Source,
    Span,
    Start,
    about,
    after_names,
    names_cursor,
    respond,
    span,
)
from ray_app.storage import source_queries
from ray_app.storage.source_queries import DERIVATIVES, FEAR_GREED, ONCHAIN, Series

router = APIRouter(prefix="/api/v1", tags=["series"], dependencies=[Depends(requires(Level.readonly))])

#: how far back a history reaches that has no start, days
DAYS = 30

Metric = Annotated[
    str | None, Query(min_length=1, max_length=48, description="its history instead of the latest of all")
]

_ONCHAIN: Row = {
    "symbol": "BTC",
    "coin_id": "bitcoin",
    "name": "Bitcoin",
    "data": [
        {
            "metric": "active_addresses",
            "source": "coinmetrics.asset_metrics",
            "timestamp": "2026-11-24T00:00:00Z",
            "value": 812345.0,
            "known_at": "2026-11-24T07:00:00Z",
        }
    ],
    "count": 1,
    "next_cursor": None,
    "attribution": ["Source: Coin Metrics Community Network Data (https://coinmetrics.io), CC BY-NC 4.0"],
    "as_of": "2026-11-24T07:00:00Z",
    "source": "coinmetrics.asset_metrics",
    "quality": "current",
}


@router.get(
    "/onchain/{symbol}",
    summary="On-chain numbers of an asset",
    responses=ok(
        "The latest of each metric and source, or with `metric` its history. `timestamp`: the moment a number is "
        "about, of a period its end.",
        _ONCHAIN,
    ),
)
async def onchain(
    symbol: Symbol,
    request: Request,
    deps: Gateway,
    metric: Metric = None,
    source: Source = None,
    start: Start = None,
    end: End = None,
    as_of: AsOf = None,
    limit: Limit = 250,
    cursor: CursorParam = None,
) -> Response:
    """The latest number of each metric and source; with `metric` its history, source after source, each ascending."""
    resolution = deps.registry.current.resolve(symbol)
    asset_id, head = resolution.asset.asset_id, about(resolution)
    if metric is None:
        _no_range(start, end, as_of)
        chosen = None if source is None else ("source", source)
        return await _latest(request, deps, ONCHAIN, (asset_id,), chosen, limit, cursor, head, _show_onchain)
    asked = span(start, end, as_of, cursor, deps.clock.now_ms(), DAYS, 1)
    prefix = (asset_id, metric) if source is None else (asset_id, metric, source)
    return await _history(request, deps, ONCHAIN, prefix, asked, limit, head | {"metric": metric}, _show_onchain)


def _show_onchain(row: Row) -> Row:
    return {"metric": row["metric"], "source": row["source"], **_show(row)}


def _show(row: Row) -> Row:
    return {"timestamp": iso(row["event_time"]), "value": row["value"], "known_at": iso(row["known_at"])}


_DERIVATIVES: Row = _ONCHAIN | {
    "data": [
        {
            "metric": "funding_rate",
            "venue": "binance",
            "instrument": "BTCUSDT",
            "timestamp": "2026-11-24T00:00:00Z",
            "value": 0.0001,
            "known_at": "2026-11-24T00:00:00Z",
            "source": "binance.funding_rate",
        }
    ],
    "attribution": ["Binance"],
    "as_of": "2026-11-24T00:05:00Z",
    "source": "binance.funding_rate",
}


@router.get(
    "/derivatives/{symbol}",
    summary="Funding, open interest, volatility of an asset's derivatives",
    responses=ok("The latest of each metric, venue and instrument, or with `metric` its history.", _DERIVATIVES),
)
async def derivatives(
    symbol: Symbol,
    request: Request,
    deps: Gateway,
    metric: Metric = None,
    venue: Annotated[str | None, Query(min_length=1, max_length=32, description="only of this venue")] = None,
    instrument: Annotated[
        str | None, Query(min_length=1, max_length=64, description="only this, by the venue's symbol")
    ] = None,
    start: Start = None,
    end: End = None,
    as_of: AsOf = None,
    limit: Limit = 250,
    cursor: CursorParam = None,
) -> Response:
    """The latest number of each metric, venue and instrument; with `metric` its history, series after series."""
    resolution = deps.registry.current.resolve(symbol)
    asset_id, head = resolution.asset.asset_id, about(resolution)
    if instrument is not None and venue is None:
        raise Problem("VALIDATION_ERROR", "instrument: name its venue, too")
    if metric is None:
        _no_range(start, end, as_of)
        if instrument is not None:
            raise Problem("VALIDATION_ERROR", "instrument: it chooses a history; name its metric, too")
        chosen = None if venue is None else ("venue", venue)
        return await _latest(request, deps, DERIVATIVES, (asset_id,), chosen, limit, cursor, head, _show_derivative)
    asked = span(start, end, as_of, cursor, deps.clock.now_ms(), DAYS, 2)
    prefix = tuple(part for part in (asset_id, metric, venue, instrument) if part is not None)
    return await _history(request, deps, DERIVATIVES, prefix, asked, limit, head | {"metric": metric}, _show_derivative)


def _show_derivative(row: Row) -> Row:
    named = {name: row[name] for name in ("metric", "venue", "instrument")}
    return {**named, **_show(row), "source": row["source"]}


_FEAR_GREED: Row = {
    "data": [
        {
            "timestamp": "2026-11-24T00:00:00Z",
            "value": 47.0,
            "classification": "Neutral",
            "known_at": "2026-11-24T00:05:00Z",
            "source": "alternative_me.fng",
        }
    ],
    "count": 1,
    "next_cursor": None,
    "attribution": [
        "Crypto Fear & Greed Index by Alternative.me (https://alternative.me/crypto/fear-and-greed-index/)"
    ],
    "as_of": "2026-11-24T00:05:00Z",
    "source": "alternative_me.fng",
    "quality": "current",
}


@router.get(
    "/fear-greed",
    summary="The Crypto Fear & Greed Index",
    responses=ok("0 (extreme fear) to 100 (extreme greed). The latest, or from `start` on, ascending.", _FEAR_GREED),
)
async def fear_greed(
    request: Request,
    deps: Gateway,
    start: Start = None,
    end: End = None,
    as_of: AsOf = None,
    limit: Limit = 250,
    cursor: CursorParam = None,
) -> Response:
    """The latest value; with `start`, `end` or `as_of` the history, ascending."""
    if (start, end, as_of, cursor) == (None, None, None, None):
        return await _latest(request, deps, FEAR_GREED, (), None, limit, None, {}, _show_fear_greed)
    asked = span(start, end, as_of, cursor, deps.clock.now_ms(), DAYS, 1)
    return await _history(request, deps, FEAR_GREED, (), asked, limit, {}, _show_fear_greed)


def _show_fear_greed(row: Row) -> Row:
    shown = _show(row)
    return {
        "timestamp": shown["timestamp"],
        "value": shown["value"],
        "classification": row["classification"],
        "known_at": shown["known_at"],
        "source": row["source"],
    }


# --- latest and history ------------------------------------------------------------------------------------------


def _no_range(start: str | None, end: str | None, as_of: str | None) -> None:
    for name, value in (("start", start), ("end", end), ("as_of", as_of)):
        if value is not None:
            raise Problem("VALIDATION_ERROR", f"{name}: it chooses from a history; name a metric, too")


async def _latest(
    request: Request,
    deps: GatewayDeps,
    series: Series,
    prefix: tuple[Any, ...],
    chosen: tuple[str, str] | None,
    limit: int,
    cursor: str | None,
    head: Row,
    show: Any,
) -> Response:
    """The newest moment of each series, ``limit`` series a page."""
    own = len(series.group) - len(prefix)
    after = after_names(cursor, own)

    def read(conn: Connection) -> list[Row]:
        found = source_queries.groups(conn, series, prefix, (*prefix, *after) if after is not None else None)
        if chosen is not None:
            place = series.group.index(chosen[0])
            found = (group for group in found if group[place] == chosen[1])
        newest = (row for group in found for row in source_queries.latest(conn, series, group))
        return list(islice(newest, limit + 1))

    rows = await from_database(deps, read)
    if not rows:
        raise Problem("DATA_NOT_AVAILABLE", f"there is no such data{_of(head)}")
    page = rows[:limit]
    names = [page[-1][name] for name in series.group[len(prefix) :]]
    more = names_cursor(names) if len(rows) > limit else None
    return respond(request, deps, head, page, show, next_cursor=more)


async def _history(
    request: Request,
    deps: GatewayDeps,
    series: Series,
    prefix: tuple[Any, ...],
    asked: Span,
    limit: int,
    head: Row,
    show: Any,
) -> Response:
    """A page of moments, series after series. What a cursor names is what stands behind the asset and the metric."""
    own = min(len(series.group), 2)  # asset and metric; of fear and greed there is only the source
    fixed = prefix[:own] if len(series.group) > 1 else ()
    after = None if asked.after is None else ((*fixed, *asked.after[0]), asked.after[1])
    if after is not None and after[0][: len(prefix)] != prefix:
        raise Problem("VALIDATION_ERROR", "cursor: not one this API gave out for this request; start again without it")

    def read(conn: Connection) -> list[Row]:
        start, end, as_of = asked.start, asked.end, asked.as_of
        return source_queries.history(
            conn, series, prefix, start=start, end=end, as_of=as_of, after=after, limit=limit + 1
        )

    rows = await from_database(deps, read)
    if not rows:
        raise Problem("DATA_NOT_AVAILABLE", f"there is no such data{_of(head)} in this range")
    page, last = rows[:limit], rows[min(limit, len(rows)) - 1]
    names = [last[name] for name in series.group[len(fixed) :]]
    more = asked.next_cursor(names, last["event_time"]) if len(rows) > limit else None
    quality = "current" if asked.as_of is None else "point_in_time"
    return respond(request, deps, head | asked.shown(), page, show, next_cursor=more, quality=quality)


def _of(head: Row) -> str:
    return f" of {head['symbol']}" if "symbol" in head else ""

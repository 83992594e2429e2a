"""Current prices: one symbol, several, or all. Answered from the board; from the database while it is not loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from ray_app.assets import Asset
from ray_app.clock import iso
from ray_app.errors import UnknownSymbol
from ray_app.serving.deps import GatewayDeps
from ray_app.serving.keys import Level
from ray_app.serving.prices_board import Entry, rows_as_entry
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
from ray_app.storage import gateway_queries

router = APIRouter(prefix="/api/v1/prices", tags=["prices"], dependencies=[Depends(requires(Level.readonly))])

MAX_SYMBOLS = 1_000

Symbol = Annotated[
    str, Path(min_length=1, max_length=150, description="ticker or coin id, any case", examples=["BTC", "bitcoin"])
]

_EXAMPLE: dict[str, Any] = {
    "symbol": "BTC",
    "coin_id": "bitcoin",
    "name": "Bitcoin",
    "current_price": 91234.0,
    "price_change_24h": -512.3,
    "price_change_percentage_24h": -0.55839,
    "market_cap": 1820333444555.0,
    "market_cap_rank": 1,
    "volume_24h": 35111222333.0,
    "high_24h": 92011.0,
    "low_24h": 90321.0,
    "open_24h": 91746.3,
    "consensus_price": None,
    "venues": None,
    "timestamp": "2026-11-24T08:00:03Z",
    "as_of": "2026-11-24T08:00:07.250Z",
    "source": "coingecko.markets",
    "quality": "observed",
}


def ok(description: str, example: Any) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": description, "content": {"application/json": {"example": example}}}}


@router.get(
    "/current/{symbol}",
    summary="Current price of one asset",
    responses=ok(
        "Amounts in USD, changes over 24 h in USD and percent. `consensus_price` is the median of `venues`, both null "
        "unless several sources report the same slot. `quality`: observed, reconstructed (from candles or chart data "
        "after a missed slot) or fallback (exchange rate).",
        _EXAMPLE,
    ),
)
async def current(symbol: Symbol, request: Request, deps: Gateway) -> Response:
    """The newest price this node has of an asset."""
    view = deps.board.view(symbol)
    if deps.board.loaded:
        entry = view.entry()
    else:
        entry = await asyncio.to_thread(_read_entry, deps, view.asset, view.note)
    if entry is None:
        raise Problem("DATA_NOT_AVAILABLE", _why_nothing(view.asset))
    return answer(request, Prepared(entry.body, entry.as_of), deps.clock.now_ms())


def _why_nothing(asset: Asset) -> str:
    named = f"{asset.symbol} ({asset.coin_id})"
    if asset.status == "inactive":
        since = f" since {iso(asset.valid_to)[:10]}" if asset.valid_to is not None else ""
        return f"{named} has been inactive{since}: there is no current price of it"
    return f"no price of {named} has been collected yet"


@router.get(
    "/current",
    summary="Current prices of several assets, or of all",
    responses=ok(
        "`data` in the order asked for, or by market-cap rank. `missing` names every symbol asked for that has no "
        "price or is not known, so that nothing is left out silently.",
        {
            "data": [_EXAMPLE],
            "count": 1,
            "missing": [{"symbol": "DOGGE", "code": "INVALID_SYMBOL", "near": ["DOGE"]}],
            "next_cursor": None,
            "as_of": "2026-11-24T08:00:07.250Z",
            "source": "coingecko.markets",
            "quality": "observed",
        },
    ),
)
async def current_many(
    request: Request,
    deps: Gateway,
    symbols: Annotated[
        str | None,
        Query(max_length=20_000, description="comma-separated; without it all assets", examples=["BTC,ETH,solana"]),
    ] = None,
    limit: Limit = 250,
    cursor: CursorParam = None,
) -> Response:
    """Several prices in one answer; pages of ``limit`` when all are asked for."""
    if not deps.board.loaded:
        await asyncio.to_thread(_require_database, deps)
        raise Problem("SERVICE_UNAVAILABLE", "prices are being loaded", headers={"Retry-After": "1"})
    if symbols is not None:
        return answer(request, _named(deps, _split(symbols)), deps.clock.now_ms())
    return answer(request, _page(deps, limit, cursor), deps.clock.now_ms())


def _split(symbols: str) -> list[str]:
    asked = list(dict.fromkeys(part.strip() for part in symbols.split(",") if part.strip()))
    if not asked:
        raise Problem("VALIDATION_ERROR", "symbols: names no symbol; leave it out for all assets")
    if len(asked) > MAX_SYMBOLS:
        raise Problem("VALIDATION_ERROR", f"symbols: {len(asked)} are more than {MAX_SYMBOLS}")
    return asked


def _named(deps: GatewayDeps, asked: Sequence[str]) -> Prepared:
    found: dict[int, Entry] = {}
    missing: list[dict[str, Any]] = []
    for typed in asked:
        try:
            view = deps.board.view(typed)
        except UnknownSymbol as error:
            missing.append({"symbol": typed, "code": "INVALID_SYMBOL", "near": list(error.near)})
            continue
        entry = view.entry()
        if entry is None:
            missing.append({"symbol": typed, "code": "DATA_NOT_AVAILABLE", "near": []})
        else:
            found.setdefault(view.asset.asset_id, entry)
    if not found:
        codes = {entry["code"] for entry in missing}
        code = "INVALID_SYMBOL" if codes == {"INVALID_SYMBOL"} else "DATA_NOT_AVAILABLE"
        raise Problem(code, "none of the symbols asked for has a price", missing=missing)
    return _list(list(found.values()), missing, None)


def _page(deps: GatewayDeps, limit: int, cursor: str | None) -> Prepared:
    pages = deps.board.pages()
    kept = pages.get((limit, cursor))
    if isinstance(kept, Prepared):
        return kept
    after = (-1.0, -1)
    if cursor is not None:
        position = decode_cursor(cursor, rank=int, asset=int)
        after = (position["rank"] if position["rank"] >= 0 else float("inf"), position["asset"])
    remaining = (asset for asset in deps.board.ranked() if asset.by_rank > after)
    priced = [(asset, entry) for asset in remaining if (entry := deps.board.entry(asset)) is not None]
    if not priced:
        raise Problem("DATA_NOT_AVAILABLE", "no prices have been collected yet" if cursor is None else "no more prices")
    next_cursor = None
    if len(priced) > limit:
        last: Asset = priced[limit - 1][0]
        rank = last.market_cap_rank if last.market_cap_rank is not None else -1
        next_cursor = encode_cursor({"rank": rank, "asset": last.asset_id})
    page = pages[limit, cursor] = _list([entry for _, entry in priced[:limit]], [], next_cursor)
    return page


def _list(entries: Sequence[Entry], missing: list[dict[str, Any]], next_cursor: str | None) -> Prepared:
    """The bodies of the entries in one; ``as_of`` is the newest of theirs."""
    as_of = max(entry.as_of for entry in entries)
    sources = sorted({entry.source for entry in entries})
    qualities = {entry.quality for entry in entries}
    frame = dumps(
        {
            "count": len(entries),
            "missing": missing,
            "next_cursor": next_cursor,
            "as_of": iso(as_of),
            "source": ",".join(sources),
            "quality": qualities.pop() if len(qualities) == 1 else "mixed",
        }
    )
    return Prepared(b'{"data":[' + b",".join(entry.body for entry in entries) + b"]," + frame[1:], as_of)


def _read_entry(deps: GatewayDeps, asset: Asset, note: str | None) -> Entry | None:
    with deps.db.read() as conn:
        return rows_as_entry(asset, gateway_queries.board_prices(conn, asset.asset_id), note)


def _require_database(deps: GatewayDeps) -> None:
    with deps.db.read() as conn:
        gateway_queries.reachable(conn)

"""The asset registry: what can be asked for, and what it was called before."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response

from ray_app.assets import Asset
from ray_app.clock import iso
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

router = APIRouter(prefix="/api/v1/assets", tags=["assets"], dependencies=[Depends(requires(Level.readonly))])


def show(asset: Asset) -> dict[str, Any]:
    """An asset as the API shows it."""
    return {
        "symbol": asset.symbol,
        "coin_id": asset.coin_id,
        "name": asset.name,
        "market_cap_rank": asset.market_cap_rank,
        "status": asset.status,
        "venues": {"coinbase": asset.coinbase_product} if asset.coinbase_product is not None else {},
        "valid_from": iso(asset.valid_from) if asset.valid_from is not None else None,
        "valid_to": iso(asset.valid_to) if asset.valid_to is not None else None,
        "successor": asset.successor_coin_id,
        "successor_ratio": asset.successor_ratio,
    }


@router.get("", summary="All assets, highest market cap first")
async def assets(
    request: Request,
    deps: Gateway,
    status: Annotated[
        Literal["active", "renamed", "merged", "inactive"] | None, Query(description="only these; default all")
    ] = None,
    limit: Limit = 250,
    cursor: CursorParam = None,
) -> Response:
    """The registry. `venues` is empty for an asset without a venue: it has prices but no candles."""
    after = (-1.0, -1)
    if cursor is not None:
        position = decode_cursor(cursor, rank=int, asset=int)
        after = (position["rank"] if position["rank"] >= 0 else float("inf"), position["asset"])
    chosen = sorted((a for a in deps.registry.current if status in {None, a.status}), key=lambda a: a.by_rank)
    chosen = [asset for asset in chosen if asset.by_rank > after]
    if not chosen:
        raise Problem(
            "DATA_NOT_AVAILABLE", "there are no such assets" if cursor is None else "there are no more assets"
        )
    next_cursor = None
    if len(chosen) > limit:
        last = chosen[limit - 1]
        rank = last.market_cap_rank if last.market_cap_rank is not None else -1
        next_cursor = encode_cursor({"rank": rank, "asset": last.asset_id})
    page = chosen[:limit]
    content = {"data": [show(asset) for asset in page], "count": len(page), "next_cursor": next_cursor}
    return _answer(request, deps, content)


@router.get("/{symbol}", summary="One asset")
async def asset(symbol: Symbol, request: Request, deps: Gateway) -> Response:
    """One asset; `note` says what was assumed where a ticker is shared or an asset was renamed."""
    found = deps.registry.current.resolve(symbol)
    return _answer(request, deps, {**show(found.asset), "note": found.note})


def _answer(request: Request, deps: GatewayDeps, content: dict[str, Any]) -> Response:
    as_of = deps.registry.as_of
    quality = {"as_of": iso(as_of) if as_of is not None else None, "source": "registry", "quality": "curated"}
    return answer(request, Prepared(dumps(content | quality), as_of), deps.clock.now_ms())

"""What was expected, what came, what is owed: the evidence behind the data."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response

from ray_app.clock import iso
from ray_app.collection.datasets import DATASETS, FEED_DATASETS, load
from ray_app.collection.feeds import subject_id
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
    from_database,
    requires,
)
from ray_app.storage import evidence_queries, queries

router = APIRouter(prefix="/api/v1/stats", tags=["stats"], dependencies=[Depends(requires(Level.readonly))])

State = Literal["owed", "repaired", "confirmed_empty", "unrepairable"]
# fmt: off
Dataset = Literal[
    "prices", "candles-300", "candles-3600", "candles-86400", "macro-fred", "macro-market", "crypto-news", "stock-news",
    "social-reddit", "social-x", "onchain", "derivatives", "fear-greed", "ohlc-coingecko", "ticks",
]
# fmt: on


@router.get("/collectors", summary="How each collector fares")
async def collectors(request: Request, deps: Gateway) -> Response:
    """Per collector: expected, received and missing slots, last event, last error, quota, next run."""
    rows = await asyncio.to_thread(deps.stats.collectors)
    now_ms = deps.clock.now_ms()
    body = dumps({"data": rows, "count": len(rows), "as_of": iso(now_ms), "source": "node", "quality": "measured"})
    return answer(request, Prepared(body, now_ms), now_ms)


@router.get("/gaps", summary="The gap ledger")
async def gaps(
    request: Request,
    deps: Gateway,
    dataset: Annotated[Dataset | None, Query(description="only this one")] = None,
    symbol: Annotated[str | None, Query(min_length=1, max_length=150, description="only this asset")] = None,
    state: Annotated[State | None, Query(description="only these")] = None,
    limit: Limit = 250,
    cursor: CursorParam = None,
) -> Response:
    """Ranges that were expected and not there when looked for: `owed` (asked for again), `repaired`,
    `confirmed_empty` (the venue had no trade) or `unrepairable` (with the reason). `symbol` of a feed is its name.
    `start` is the first slot, `end` the first after the range. `summary` counts all of them per dataset and state.
    `repaired_prices` says of the price slots that were repaired how many they are, and per field in how many it stays
    NULL: history does not give it.
    """  # noqa: D205 - shown as one paragraph in OpenAPI
    asset_id: int | None = None
    if symbol is not None and dataset in FEED_DATASETS:
        asset_id = subject_id(dataset, symbol)
    elif symbol is not None:
        asset_id = deps.registry.current.resolve(symbol).asset.asset_id
    position = decode_cursor(cursor, dataset=str, asset=int, start=int) if cursor is not None else None
    if position is not None and position["dataset"] not in DATASETS:
        raise Problem("VALIDATION_ERROR", "cursor: not one this API gave out; start again without it")
    names: list[str] = [dataset] if dataset is not None else list(DATASETS)
    rows, summary, repaired, feeds = await asyncio.to_thread(_read, deps, names, state, asset_id, position, limit + 1)
    next_cursor = None
    if len(rows) > limit:
        last = rows[limit - 1]
        next_cursor = encode_cursor({"dataset": last["dataset"], "asset": last["asset_id"], "start": last["start"]})
    page = [_show(deps, row, feeds) for row in rows[:limit]]
    now_ms = deps.clock.now_ms()
    body = dumps(
        {
            "data": page,
            "count": len(page),
            "summary": [
                {
                    "dataset": row["dataset"],
                    "state": row["state"],
                    "ranges": row["ranges"],
                    "oldest": iso(row["oldest"]),
                    "newest": iso(row["newest"]),
                }
                for row in summary
            ],
            "repaired_prices": {"slots": repaired[0], "null": repaired[1]},
            "next_cursor": next_cursor,
            "as_of": iso(now_ms),
            "source": "node",
            "quality": "measured",
        }
    )
    return answer(request, Prepared(body, now_ms), now_ms)


@router.get("/archive", summary="How large the archive is")
async def archive(request: Request, deps: Gateway) -> Response:
    """Per source: answers archived, bytes of their bodies, how many of them were deleted because terms say so, and the
    compressed bytes on this machine's disk (`null`: it holds none of them; archives are per machine).
    """  # noqa: D205 - shown as one paragraph in OpenAPI
    sizes = await from_database(deps, evidence_queries.archive_sizes)
    on_disk = await asyncio.to_thread(_on_disk, deps.settings.archive_dir)
    rows = [{"source": name, **sizes[name], "disk_bytes": on_disk.get(name)} for name in sorted(sizes)]
    parts = ("answers", "payload_bytes", "deleted")
    total: dict[str, int | None] = {part: sum(size[part] for size in sizes.values()) for part in parts}
    total["disk_bytes"] = sum(on_disk.values()) if on_disk else None
    now_ms = deps.clock.now_ms()
    content = {"data": rows, "count": len(rows), "total": total, "as_of": iso(now_ms), "source": "node"}
    return answer(request, Prepared(dumps(content | {"quality": "measured"}), now_ms), now_ms)


def _on_disk(folder: Path) -> dict[str, int]:
    """Bytes of each source's segments and their indexes."""
    found: dict[str, int] = {}
    for place in folder.glob("*/*"):
        with contextlib.suppress(OSError):  # deleted meanwhile
            found[place.parent.name] = found.get(place.parent.name, 0) + place.stat().st_size
    return found


def _read(
    deps: GatewayDeps,
    datasets: list[str],
    state: str | None,
    asset_id: int | None,
    position: dict[str, Any] | None,
    limit: int,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], tuple[int, dict[str, int]], dict[int, str]]:
    after = None
    if position is not None:
        datasets = datasets[datasets.index(position["dataset"]) :] if position["dataset"] in datasets else []
        after = (position["asset"], position["start"])
    rows: list[dict[str, Any]] = []
    states = (state,) if state is not None else ()
    with deps.db.read() as conn:
        for dataset in datasets:
            if len(rows) < limit:
                missing = limit - len(rows)
                rows += queries.gaps(conn, dataset, states=states, asset_id=asset_id, after=after, limit=missing)
            after = None
        polled = {row["dataset"] for row in rows} & set(FEED_DATASETS)
        feeds = {s.asset_id: s.symbol for name in polled for s in load(conn, name).subjects()}
        return rows, queries.gap_counts(conn), queries.repaired_fields(conn), feeds


def _show(deps: GatewayDeps, row: dict[str, Any], feeds: dict[int, str]) -> dict[str, Any]:
    of_feed = row["dataset"] in FEED_DATASETS
    asset = None if of_feed else deps.registry.current.by_id(row["asset_id"])
    return {
        "dataset": row["dataset"],
        "symbol": feeds.get(row["asset_id"]) if of_feed else asset.symbol if asset is not None else None,
        "coin_id": asset.coin_id if asset is not None else None,
        "start": iso(row["start"]),
        "end": iso(row["end"]),
        "state": row["state"],
        "reason": row["reason"],
        "detected_at": iso(row["detected_at"]),
        "updated_at": iso(row["updated_at"]),
    }

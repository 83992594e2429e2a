"""What was wrong with what came, how full the columns are, and where a value comes from."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from sqlalchemy import Connection

from ray_app.clock import DAY_MS, iso
from ray_app.serving import lineage as lineages
from ray_app.serving.keys import Level
from ray_app.serving.licensing import level_of, require, shown, withheld
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
from ray_app.serving.routes.history import moment
from ray_app.serving.routes.prices import ok
from ray_app.storage import evidence_queries

router = APIRouter(prefix="/api/v1/stats", tags=["stats"], dependencies=[Depends(requires(Level.readonly))])

MAX_DAYS = 31
#: kinds of findings listed in the summary
MOST_COUNTS = 500

Row = dict[str, Any]


_QUALITY: Row = {
    "since": "2026-11-23T08:00:00Z",
    "data": [
        {
            "source": "coingecko.markets",
            "kind": "out_of_range",
            "subject": "ethereum",
            "field": "market_cap",
            "detail": "-1 is below 0",
            "fetched_at": "2026-11-24T07:55:07.250Z",
            "payload_hash": "9f2d…",
        }
    ],
    "count": 1,
    "next_cursor": None,
    "counts": [
        {
            "source": "coingecko.markets",
            "kind": "out_of_range",
            "field": "market_cap",
            "events": 1,
            "subjects": 1,
            "newest": "2026-11-24T07:55:07.250Z",
        }
    ],
    "null_rates": [{"table": "price_data_real", "column": "ath", "rows": 5000, "nulls": 50, "null_rate": 0.01}],
    "null_rates_at": "2026-11-24T07:58:00Z",
    "as_of": "2026-11-24T08:00:00Z",
    "source": "node",
    "quality": "measured",
}


@router.get(
    "/quality",
    summary="What was wrong with what came, and how full the columns are",
    responses=ok("Findings of the parsers, and shares of NULL.", _QUALITY),
)
async def quality(
    request: Request,
    deps: Gateway,
    since: Annotated[str | None, Query(description="RFC 3339; default: a day ago, at most 31 days")] = None,
    source: Annotated[str | None, Query(min_length=1, max_length=48, description="only of this endpoint")] = None,
    kind: Annotated[str | None, Query(min_length=1, max_length=24, description="only findings of this kind")] = None,
    limit: Limit = 100,
    cursor: CursorParam = None,
) -> Response:
    """`data`: findings of the parsers, newest first: a value that cannot be true or read was left NULL, a row left
    out. `counts`: all of them by source, kind and field. `null_rates`: per column the share of NULL among the newest
    rows fetched in the last day (thousands of a table at most; measured every few minutes).
    """  # noqa: D205 - shown as one paragraph in OpenAPI
    now_ms, level = deps.clock.now_ms(), level_of(request)
    begins = moment("since", since) if since is not None else now_ms - DAY_MS
    if begins < now_ms - MAX_DAYS * DAY_MS:
        raise Problem("VALIDATION_ERROR", f"since: at most {MAX_DAYS} days back")
    before = None
    if cursor is not None:
        place = decode_cursor(cursor, at=int, payload=str, kind=str, subject=str, field=str)
        before = (place["at"], place["payload"], place["kind"], place["subject"], place["field"])

    def read(conn: Connection) -> tuple[list[Row], list[Row]]:
        events = evidence_queries.quality_events(conn, begins, source, kind, before, limit + 1)
        return events, evidence_queries.quality_counts(conn, begins, source, kind, MOST_COUNTS)

    events, counts = await from_database(deps, read)
    shares, measured_at = await asyncio.to_thread(deps.measured.null_shares)
    page = events[:limit]
    body = dumps(
        {
            "since": iso(begins),
            "data": [shown(_event(row), ("detail",), withheld(level, row["source"])) for row in page],
            "count": len(page),
            "next_cursor": _behind(page[-1]) if len(events) > limit else None,
            "counts": [_counted(row) for row in counts],
            "null_rates": shares,
            "null_rates_at": iso(measured_at),
            "as_of": iso(now_ms),
            "source": "node",
            "quality": "measured",
        }
    )
    return answer(request, Prepared(body, now_ms), now_ms)


def _event(row: Row) -> Row:
    return {
        **{name: row[name] for name in ("source", "kind", "subject", "field", "detail")},
        "fetched_at": iso(row["fetched_at"]),
        "payload_hash": row["payload_hash"],
    }


def _counted(row: Row) -> Row:
    names = ("source", "kind", "field", "events", "subjects")
    return {name: row[name] for name in names} | {"newest": iso(row["newest"])}


def _behind(row: Row) -> str:
    place = {"at": row["fetched_at"], "payload": row["payload_hash"]}
    return encode_cursor(place | {name: row[name] for name in ("kind", "subject", "field")})


_LINEAGE: Row = {
    "table": "fear_greed",
    "data": [
        {
            "row": {"source": "alternative_me.fng", "event_time": 1795478400000, "value": 47.0},
            "order": {
                "event_version": 1795478400000,
                "fetched_at": 1795478702000,
                "parser_version": 1,
                "payload_hash": "9f2d…",
            },
            "fetch": {
                "fetch_id": "1882695873724416000",
                "source": "alternative_me.fng",
                "collector": "fear-greed",
                "request": {"context": {}, "params": {"limit": "2"}, "path": "/fng/"},
                "status": 200,
                "fetched_at": "2026-11-24T00:05:02Z",
                "payload_bytes": 212,
                "segment": "alternative_me.fng/20261124T00.writer-1.zst",
                "position": 0,
                "outcome": "ok",
            },
            "payload_hash": "9f2d…",
            "archive": {"has_it": True, "why": None},
            "parser": {"then": 1, "now": 1},
            "verify": "crypto-data verify --table fear_greed --key 'source=alternative_me.fng,…'",
        }
    ],
    "count": 1,
    "as_of": "2026-11-24T00:05:02Z",
    "source": "alternative_me.fng",
    "quality": "stored",
}


@router.get(
    "/lineage",
    summary="From a stored value back to the answer it was read from",
    responses=ok("The stored row, the fetch it was read from, and whether the archive still has the answer.", _LINEAGE),
)
async def lineage(
    request: Request,
    deps: Gateway,
    table: Annotated[str, Query(max_length=64, description="a table of values", examples=["price_data_real"])],
    key: Annotated[
        str,
        Query(
            max_length=1_000,
            description="the first columns of its key, or all: NAME=VALUE,… or a JSON object",
            examples=["asset=BTC,slot=2026-11-24T07:55:00Z"],
        ),
    ],
) -> Response:
    """Each row (at most 20) as it is stored (times in ms), its place in the order of writes, the request and answer it
    was read from, whether the archive still has that answer, and the command that derives the row anew.
    """  # noqa: D205 - shown as one paragraph in OpenAPI
    chosen = lineages.TABLES.get(table)
    if chosen is None:
        raise Problem("VALIDATION_ERROR", f"table: is none of {', '.join(lineages.TABLES)}")
    wanted = lineages.parse_key(chosen, key, deps.registry.current)
    level = level_of(request)

    def read(conn: Connection) -> list[Row]:
        rows = evidence_queries.rows_of_key(conn, chosen, wanted, lineages.MOST_ROWS)
        for row in rows:
            require(level, lineages.source_of(conn, row), row.get("indicator_name"))
        return [lineages.lineage(conn, deps.settings.archive_dir, chosen, row) for row in rows]

    found = await from_database(deps, read)
    if not found:
        raise Problem("DATA_NOT_AVAILABLE", f"{table} has no row of this key")
    as_of = max(one["row"]["fetched_at"] for one in found)
    sources = sorted({one["fetch"]["source"] for one in found if one["fetch"] is not None})
    body: Row = {"table": table, "data": found, "count": len(found), "as_of": iso(as_of)}
    body |= {"source": ",".join(sources), "quality": "stored"}
    return answer(request, Prepared(dumps(body), as_of), deps.clock.now_ms())

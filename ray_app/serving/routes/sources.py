"""Every source: whether it can be asked, what its data may be used for, how late it comes."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from sqlalchemy import Connection

from ray_app.clock import iso
from ray_app.collection.upstreams import build_upstreams
from ray_app.serving.keys import Level
from ray_app.serving.problems import Problem
from ray_app.serving.routes.answers import Gateway, Prepared, answer, dumps, from_database, requires
from ray_app.serving.routes.prices import ok
from ray_app.sources import ENDPOINTS
from ray_app.sources.base import Endpoint
from ray_app.sources.terms import Terms, terms_of
from ray_app.storage import evidence_queries

router = APIRouter(prefix="/api/v1/sources", tags=["stats"], dependencies=[Depends(requires(Level.readonly))])

Row = dict[str, Any]

#: what upstreams answer those they have shut out: a key that is not good, a country, an address
_SHUT_OUT = frozenset({401, 403, 418, 451})

_EXAMPLE: Row = {
    "data": [
        {
            "source": "coingecko.markets",
            "account": "coingecko",
            "state": "active",
            "last_fetched_at": "2026-11-24T07:55:07.250Z",
            "last_outcome": "ok",
            "licence": "CoinGecko API terms; to be shown with attribution, not to be resold as raw data",
            "redistribution": "attribution",
            "attribution": "Data provided by CoinGecko (https://www.coingecko.com)",
            "terms_url": "https://brand.coingecko.com/resources/attribution-guide",
            "terms_verified": True,
            "retention_h": None,
            "availability": {"p50_lag_s": 4.25, "p99_lag_s": 61.0, "sample": 5000},
            "schema": {"fingerprint": "6f1c0a9b2e44d3f7", "changed_at": "2026-11-20T10:00:03Z"},
            "parser_version": 1,
        }
    ],
    "count": 1,
    "as_of": "2026-11-24T08:00:00Z",
    "source": "node",
    "quality": "measured",
}


@router.get(
    "",
    summary="Every source with its state, terms and measured availability",
    responses=ok(
        "`state`: active, idle (not asked yet), disabled (with what to set) or blocked (the upstream's last answer shut"
        " this node out). `availability`: seconds from the moment a value is about to when the node had it, of the "
        "newest rows of 30 days; null: none. `schema`: a fingerprint of the fields and types of its answers.",
        _EXAMPLE,
    ),
)
async def sources(
    request: Request,
    deps: Gateway,
    account: Annotated[str | None, Query(min_length=1, max_length=32, description="only of this account")] = None,
) -> Response:
    """State, licence, redistribution, attribution and retention; p50 and p99 lag; schema fingerprint."""
    chosen = [endpoint for endpoint in ENDPOINTS.values() if account in {None, endpoint.account}]
    if not chosen:
        accounts = dict.fromkeys(endpoint.account for endpoint in ENDPOINTS.values())
        raise Problem("NOT_FOUND", f"there is no such account; there are {', '.join(accounts)}")

    def read(conn: Connection) -> tuple[dict[str, Row | None], dict[str, Row]]:
        newest = {endpoint.name: evidence_queries.last_fetch(conn, endpoint.name) for endpoint in chosen}
        return newest, evidence_queries.shapes(conn)

    newest, shapes = await from_database(deps, read)
    lags, _ = await asyncio.to_thread(deps.measured.lags)
    upstreams = build_upstreams(deps.settings)
    disabled = {name: upstream.disabled for name, upstream in upstreams.items()}
    now_ms = deps.clock.now_ms()
    rows = [
        {
            "source": endpoint.name,
            "account": endpoint.account,
            **_state(disabled.get(endpoint.account), newest[endpoint.name]),
            **_terms(terms_of(endpoint.name)),
            "availability": lags.get(endpoint.name),
            "schema": _schema(shapes.get(endpoint.name)),
            "parser_version": endpoint.parser_version,
        }
        for endpoint in _sorted(chosen)
    ]
    content = {"data": rows, "count": len(rows), "as_of": iso(now_ms), "source": "node", "quality": "measured"}
    return answer(request, Prepared(dumps(content), now_ms), now_ms)


def _sorted(endpoints: list[Endpoint]) -> list[Endpoint]:
    return sorted(endpoints, key=lambda endpoint: endpoint.name)


def _state(disabled: str | None, last: Row | None) -> Row:
    if disabled is not None:
        state = disabled
    elif last is None:
        state = "idle"
    elif last["status"] in _SHUT_OUT:
        state = f"blocked: HTTP {last['status']}"
    else:
        state = "active"
    return {
        "state": state,
        "last_fetched_at": iso(last["fetched_at"]) if last is not None else None,
        "last_outcome": last["outcome"] if last is not None else None,
    }


def _terms(terms: Terms) -> Row:
    return {
        "licence": terms.licence,
        "redistribution": terms.redistribution,
        "attribution": terms.attribution,
        "terms_url": terms.url or None,
        "terms_verified": terms.verified,
        "retention_h": terms.retention_h,
    }


def _schema(shape: Row | None) -> Row | None:
    if shape is None:
        return None
    fingerprint = hashlib.sha256(shape["shape"].encode()).hexdigest()[:16]
    return {"fingerprint": fingerprint, "changed_at": iso(shape["updated_at"])}

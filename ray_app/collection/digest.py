"""From an archived exchange to the rows it stands for. Pure: a function of the exchange, its place and the registry.

Live ingestion, recovery after a crash, ``crypto-data reprocess`` and the check of stored values all go through
:func:`digest`, so they cannot disagree on what a payload says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import orjson
from sqlalchemy import Table

from ray_app.assets import AssetRegistry
from ray_app.collection.archive import ArchivedAt
from ray_app.collection.polls import poll_rows
from ray_app.editions import joined, text_hash
from ray_app.errors import MalformedPayload, RateLimited, UpstreamError, UpstreamRejected, UpstreamUnavailable
from ray_app.mentions import Named, matcher_of
from ray_app.sentiment import stance
from ray_app.sources import endpoint
from ray_app.sources.base import Endpoint, Exchange, Parsed, Request, Row
from ray_app.storage.tables import (
    collection_polls,
    crypto_news,
    derivatives_data,
    fear_greed,
    macro_indicators,
    market_data,
    ohlc_data,
    onchain_data,
    price_data_real,
    social_posts,
    stock_news,
    text_mentions,
    text_parts,
)

#: tables whose rows are written as parsed; ``crypto_assets`` rows go through the registry's reconciliation
VALUE_TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        *(price_data_real, ohlc_data, market_data, macro_indicators, onchain_data, derivatives_data, fear_greed),
        *(crypto_news, stock_news, social_posts),
    )
}
#: tables whose rows follow from an answer and from what the node knows: its registry, its note on the request
DERIVED_TABLES: dict[str, Table] = {table.name: table for table in (text_mentions, text_parts, collection_polls)}

#: tables of texts, and the column of each that follows the title
_TEXTS = {crypto_news.name: "summary", stock_news.name: "summary", social_posts.name: "text"}

#: what a row's key calls its asset
_IDENTITIES = ("coin_id", "coinbase_product")


@dataclass(frozen=True, slots=True)
class Digest:
    """What a body yields. ``rows`` by table name, ready for the guarded upsert; ``quality`` and ``dead`` likewise.

    ``outcome``: ok, not_modified, rejected, rate_limited, unavailable or malformed. ``unknown``: ids in the answer
    that the registry does not know; their rows are not stored.
    """

    outcome: str
    error: UpstreamError | None = None
    parsed: Parsed | None = None
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    quality: list[dict[str, Any]] = field(default_factory=list)
    dead: dict[str, Any] | None = None
    unknown: tuple[str, ...] = ()

    @property
    def row_count(self) -> int:
        """Rows the body yielded, whether their assets are known or not."""
        return len(self.parsed.rows) if self.parsed is not None else 0


def says(exchange: Exchange) -> Parsed | UpstreamError | None:
    """What the body says, or the error it is; None: nothing new (304). The part of a digest that needs the exchange
    alone, so that another process can do it.
    """  # noqa: D205 - one sentence after the other
    if exchange.status == HTTPStatus.NOT_MODIFIED:
        return None
    try:
        return endpoint(exchange.request.endpoint).parse(exchange)
    except (RateLimited, UpstreamUnavailable, UpstreamRejected, MalformedPayload) as error:
        return error


def digest(
    exchange: Exchange, at: ArchivedAt, registry: AssetRegistry, said: Parsed | UpstreamError | None = None
) -> Digest:
    """Parse the exchange and resolve the upstream's identities to assets.

    ``said``: what :func:`says` made of it already; then its body is not looked at.
    """
    source = endpoint(exchange.request.endpoint)
    provenance = {
        "fetched_at": exchange.fetched_at,
        "parser_version": source.parser_version,
        "payload_hash": at.payload_hash,
    }
    try:
        if exchange.status == HTTPStatus.NOT_MODIFIED:
            polls = [row | provenance for row in poll_rows(exchange, None, at.fetch_id)]
            return Digest("not_modified", rows={collection_polls.name: polls} if polls else {})
        if isinstance(said, UpstreamError):
            raise said
        parsed = said if said is not None else source.parse(exchange)
        polls = [row | provenance for row in poll_rows(exchange, parsed, at.fetch_id)]
    except RateLimited as error:
        return Digest("rate_limited", error)
    except UpstreamUnavailable as error:
        return Digest("unavailable", error)
    except UpstreamRejected as error:
        return Digest("rejected", error)
    except MalformedPayload as error:
        return Digest("malformed", error, dead=_dead_letter(source, exchange, at, error))
    rows, unknown = _resolved(parsed.rows, provenance, registry)
    if polls:
        rows[collection_polls.name] = polls
    for table, row in of_texts(rows, registry):
        rows.setdefault(table, []).append(row | provenance)
    return Digest("ok", None, parsed, rows, _quality(source, exchange, at, parsed, unknown), None, tuple(unknown))


def _resolved(
    rows: Iterable[Row], provenance: dict[str, Any], registry: AssetRegistry
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """Rows of the value tables by table; and the identities nobody knows, with the column they came in."""
    found: dict[str, list[dict[str, Any]]] = {}
    unknown: dict[str, str] = {}
    for row in rows:
        if row.table not in VALUE_TABLES:
            continue
        stored: dict[str, Any] = {**row.values, "event_version": row.event_version, **provenance}
        for name, value in row.key.items():
            if name in _IDENTITIES:
                asset_id = _asset_id(registry, name, str(value))
                if asset_id is None:
                    unknown[str(value)] = name
                stored["asset_id"] = asset_id
            else:
                stored[name] = value
        if stored.get("asset_id", 0) is not None:
            found.setdefault(row.table, []).append(stored)
    return found, unknown


def of_texts(rows: dict[str, list[dict[str, Any]]], registry: AssetRegistry) -> list[tuple[str, dict[str, Any]]]:
    """Rows, with their table, of what the texts name and say, as the registry knows assets at this answer."""
    found: list[tuple[str, dict[str, Any]]] = []
    for kind, body in _TEXTS.items():
        for row in rows.get(kind, ()):
            title, text = (row["title"] or "").strip(), (row[body] or "").strip()
            if not title and not text:
                continue
            named = matcher_of(registry).read(title, text)
            same = {"content_id": row["content_id"], "kind": kind, "event_version": row["event_version"]}
            found += [(text_mentions.name, same | one) for one in _mentions(row, named)]
            found += [(text_parts.name, same | one) for one in _parts(row, joined(title, text), named)]
    return found


def _mentions(row: dict[str, Any], named: Named) -> Iterable[dict[str, Any]]:
    """Which assets a text names."""
    published = row["published_at"] if row["published_at"] is not None else row["known_at"]
    for asset_id, term in named.mentions:
        yield {"asset_id": asset_id, "term": term[:100], "published_at": published}


def _parts(row: dict[str, Any], text: str, named: Named) -> Iterable[dict[str, Any]]:
    """What a text says in this answer: in whole, and of each asset it names."""
    whole, *windows = stance.parts(text, named.places)
    edition = text_hash(whole.text)
    for part in (whole, *windows):
        yield {
            "edition": edition,
            "asset_id": part.asset_id,
            "text_hash": edition if part.spans is None else text_hash(part.text),
            "spans": stance.written(part.spans),
            "known_at": row["known_at"],
        }


def _asset_id(registry: AssetRegistry, identity: str, value: str) -> int | None:
    asset = registry.by_coin_id(value) if identity == "coin_id" else registry.by_product(value)
    return asset.asset_id if asset is not None else None


def _quality(
    source: Endpoint, exchange: Exchange, at: ArchivedAt, parsed: Parsed, unknown: dict[str, str]
) -> list[dict[str, Any]]:
    found = [(issue.kind, issue.subject, issue.field, issue.detail) for issue in parsed.issues]
    found += [("missing_id", subject, "", "asked for, silently left out of the answer") for subject in parsed.missing]
    found += [
        ("unknown_id", subject, name, "not in the registry; its rows are not stored")
        for subject, name in unknown.items()
    ]
    return [
        {
            "payload_hash": at.payload_hash,
            "kind": kind[:24],
            "subject": subject[:150],
            "field": name[:64],
            "source": source.name,
            "fetched_at": exchange.fetched_at,
            "detail": detail,
        }
        for kind, subject, name, detail in found
    ]


def _dead_letter(source: Endpoint, exchange: Exchange, at: ArchivedAt, error: UpstreamError) -> dict[str, Any]:
    return {
        "payload_hash": at.payload_hash,
        "source": source.name,
        "parser_version": source.parser_version,
        "fetched_at": exchange.fetched_at,
        "error": str(error),
    }


def asked(request: Request) -> str:
    """What was asked, in canonical JSON: path, params and context."""
    parts = {"path": request.path, "params": dict(request.params), "context": dict(request.context)}
    return orjson.dumps(parts, option=orjson.OPT_SORT_KEYS).decode()


def fetch_row(exchange: Exchange, at: ArchivedAt, collector: str, found: Digest) -> dict[str, Any]:
    """The row of ``fetches`` that indexes the exchange."""
    request = exchange.request
    return {
        "fetch_id": at.fetch_id,
        "source": request.endpoint,
        "collector": collector,
        "request": asked(request),
        "status": exchange.status,
        "fetched_at": exchange.fetched_at,
        "payload_hash": at.payload_hash,
        "payload_bytes": at.payload_bytes,
        "segment": at.segment,
        "position": at.position,
        "outcome": found.outcome,
        "row_count": found.row_count,
        "error": str(found.error) if found.error is not None else None,
    }

"""From a stored row back to the answer it was read from."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson
from sqlalchemy import Connection, Table

from ray_app.assets import AssetRegistry
from ray_app.clock import iso, to_ms
from ray_app.collection.archive import Archive
from ray_app.errors import ArchiveError
from ray_app.serving.problems import Problem
from ray_app.serving.routes.history import moment
from ray_app.serving.stats import public_text
from ray_app.sources import ENDPOINTS
from ray_app.storage import evidence_queries, tables
from ray_app.storage.upsert import key_columns, order_columns

#: whose rows carry their payload's hash
TABLES: Final[dict[str, Table]] = {
    table.name: table
    for table in (
        *(tables.price_data_real, tables.ohlc_data, tables.market_data),
        *(tables.macro_indicators, tables.onchain_data, tables.derivatives_data, tables.fear_greed),
        *(tables.crypto_news, tables.stock_news, tables.social_posts, tables.text_mentions),
        tables.text_parts,
    )
}
#: rows of one answer
MOST_ROWS = 20

#: columns of keys that hold times
_TIMES = frozenset({"slot", "open_time", "event_time", "indicator_date"})
#: other names of key columns, as ``crypto-data verify --key`` has them
_FRIENDLY = {"asset": "asset_id", "symbol": "asset_id", "interval": "interval_s", "date": "indicator_date"}
_FIRST_MS = to_ms(datetime(1776, 1, 1, tzinfo=UTC))


def parse_key(table: Table, text: str, registry: AssetRegistry) -> dict[str, Any]:
    """The key's columns from ``asset=BTC,slot=2026-11-24T08:00:00Z`` or a JSON object; Problem VALIDATION_ERROR.

    The first columns of the key are needed, the last may be left out: they are what an index can find.
    """
    said = _pairs(text)
    columns = key_columns(table)
    found: dict[str, Any] = {}
    for shown, value in said.items():
        name = _FRIENDLY.get(shown, shown)
        if name not in columns:
            raise Problem("VALIDATION_ERROR", f"key: {shown!r} is not in the key of {table.name}: {', '.join(columns)}")
        found[name] = _value(table, name, value, registry)
    missing = next((name for name in columns if name not in found), None)
    if not found or (missing is not None and columns.index(missing) < len(found)):
        needed = ", ".join(columns[: len(found) + 1])
        raise Problem("VALIDATION_ERROR", f"key: {missing} is missing; give the key's first columns: {needed}")
    return found


def _pairs(text: str) -> dict[str, str]:
    if text.lstrip().startswith("{"):
        try:
            said = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise Problem("VALIDATION_ERROR", "key: not a JSON object") from error
        if not isinstance(said, dict):
            raise Problem("VALIDATION_ERROR", "key: not a JSON object")
        return {str(name): str(value) for name, value in said.items()}
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(equals and name.strip() and value.strip() for name, equals, value in pairs):
        raise Problem("VALIDATION_ERROR", "key: expected NAME=VALUE,… or a JSON object")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _value(table: Table, name: str, text: str, registry: AssetRegistry) -> Any:
    whole = text.isascii() and text.removeprefix("-").isdigit() and len(text) < 20
    if table.columns[name].type.python_type is str:
        return text
    if name == "asset_id" and not (whole and registry.by_id(int(text)) is not None):
        return registry.resolve(text).asset.asset_id
    if name in _TIMES and not (whole and len(text) > 8):
        return moment("key", text, _FIRST_MS)
    if not whole or abs(int(text)) >= 1 << 63:
        raise Problem("VALIDATION_ERROR", f"key: {name} is a whole number")
    return int(text)


def lineage(conn: Connection, archive_dir: Path, table: Table, row: dict[str, Any]) -> dict[str, Any]:
    """Where a stored row comes from, and how to derive it anew."""
    fetch = evidence_queries.fetch_of(conn, row["payload_hash"], row["fetched_at"])
    source = row.get("source") or (fetch["source"] if fetch is not None else None)
    known = ENDPOINTS.get(source or "")
    names = key_columns(table)
    key = ",".join(f"{name}={iso(row[name]) if name in _TIMES else row[name]}" for name in names)
    return {
        "row": {str(name): value for name, value in row.items()},  # orjson wants plain text for names
        "order": {str(name): row[name] for name in order_columns(table)},
        "fetch": _show(fetch) if fetch is not None else None,
        "payload_hash": row["payload_hash"],
        "archive": _archived(conn, archive_dir, fetch, row["payload_hash"]),
        "parser": {"then": row["parser_version"], "now": known.parser_version if known is not None else None},
        "verify": f"crypto-data verify --table {table.name} --key '{key}'",
    }


def source_of(conn: Connection, row: dict[str, Any]) -> str:
    """The endpoint a row is from; of tables without such a column its fetch says so."""
    if row.get("source") is not None:
        return str(row["source"])
    fetch = evidence_queries.fetch_of(conn, row["payload_hash"], row["fetched_at"])
    return str(fetch["source"]) if fetch is not None else ""


def _show(fetch: dict[str, Any]) -> dict[str, Any]:
    return {
        "fetch_id": str(fetch["fetch_id"]),  # above 2^53
        "source": fetch["source"],
        "collector": fetch["collector"],
        "request": orjson.loads(fetch["request"]),  # never holds a key (collection/digest.py)
        "status": fetch["status"],
        "fetched_at": iso(fetch["fetched_at"]),
        "payload_bytes": fetch["payload_bytes"],
        "segment": fetch["segment"],
        "position": fetch["position"],
        "outcome": fetch["outcome"],
    }


def _archived(conn: Connection, archive_dir: Path, fetch: dict[str, Any] | None, payload_hash: str) -> dict[str, Any]:
    """Whether the archive has the body still; ``why`` not: deleted on purpose, as its tombstone says, or lost."""
    if fetch is None:
        return {"has_it": False, "why": "no archived answer has this payload hash and time"}
    gone = evidence_queries.purged(conn, fetch["segment"])
    if gone is not None:
        return {"has_it": False, "why": f"deleted {iso(gone['purged_at'])}: {public_text(gone['reason'])}"}
    if not archive_dir.is_dir():
        return {"has_it": None, "why": "the archive is not on this machine; ask where the collectors run"}
    try:
        at, _ = Archive(archive_dir).record(fetch["segment"], fetch["position"])
    except ArchiveError as error:
        return {"has_it": False, "why": public_text(str(error))}
    if at.payload_hash != payload_hash:
        return {"has_it": False, "why": f"the body there has the hash {at.payload_hash}"}
    return {"has_it": True, "why": None}

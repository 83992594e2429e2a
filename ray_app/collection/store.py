"""The one transaction in which an exchange becomes rows: index, values, quality events, registry, outbox.

Synchronous and free of any policy: :mod:`ray_app.collection.ingest` decides when and under which lease, and
``crypto-data reprocess`` calls the same functions to rebuild tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, select

from ray_app.assets import AssetRegistry
from ray_app.collection import news_events
from ray_app.collection.archive import ArchivedAt
from ray_app.collection.digest import DERIVED_TABLES, VALUE_TABLES, Digest, fetch_row
from ray_app.collection.news_events import NEWS_CHANNEL
from ray_app.sources.base import Exchange
from ray_app.storage import outbox, queries, records, texts
from ray_app.storage.queries import TICKS
from ray_app.storage.tables import ORDER_COLUMNS, price_data_real, social_posts, text_mentions
from ray_app.storage.upsert import guarded_upsert, standing

PRICE_CHANNEL = "prices"
#: live ticks have a channel of their own: about a hundred times as many, of one venue, and kept for an hour
TICK_CHANNEL = "ticks"
#: what an event of it says beside symbol and coin id
_TICK_COLUMNS = (
    *("asset_id", "slot", "source", "event_time", "known_at", "current_price", "bid_price", "ask_price"),
    *("volume_qty_24h", "high_24h", "low_24h", "open_24h"),
)
#: ms: ticks this much older than the newest of their batch are no news (the first frame after a subscription may be)
_NEWS_MS = 300_000
#: what an event says of a price beside its symbol and coin id
_EVENT_COLUMNS = tuple(str(column.name) for column in price_data_real.c if column.name not in ORDER_COLUMNS)
#: rows per statement: bounds the memory of a large body
_CHUNK = 2_000


@dataclass(frozen=True, slots=True)
class Item:
    """An archived exchange and what it says."""

    at: ArchivedAt
    collector: str
    exchange: Exchange
    found: Digest


@dataclass(frozen=True, slots=True)
class Events:
    """What a transaction added to one channel of the outbox; ``first_seq`` is the number of the first."""

    channel: str
    first_seq: int
    bodies: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Written:
    """What a transaction did."""

    fresh: frozenset[int]  # fetch ids ingested now; the others had been before
    changed: int  # rows of value tables
    newest_event: int | None  # ms: newest event time among the values
    events: tuple[Events, ...] = ()


def write(conn: Connection, items: Sequence[Item], registry: AssetRegistry, now_ms: int) -> Written:
    """Ingest every item that has not been before. Call inside a write transaction, under the lease's fence."""
    known = records.known_fetches(conn, [item.at.fetch_id for item in items])
    fresh = [item for item in items if item.at.fetch_id not in known]
    records.add_fetches(conn, [fetch_row(i.exchange, i.at, i.collector, i.found) for i in fresh])
    prices = [row for item in fresh for row in item.found.rows.get(price_data_real.name, ())]
    ticks = _news([row for row in prices if row["source"] == TICKS])
    before = _ticks_before(conn, ticks)
    articles = news_events.unseen(conn, [item.found for item in fresh])
    changed = write_values(conn, fresh)
    bodies = {  # always in this order: each channel's row stays locked until the commit
        PRICE_CHANNEL: price_events(conn, [row for row in prices if row["source"] != TICKS], registry),
        TICK_CHANNEL: tick_events(conn, ticks, before, registry),
        NEWS_CHANNEL: news_events.news_events(conn, articles, registry),
    }
    events = [
        Events(channel, outbox.append(conn, channel, told, now_ms).start, tuple(told))
        for channel, told in bodies.items()
        if told
    ]
    return Written(frozenset(item.at.fetch_id for item in fresh), changed, newest_event(fresh), tuple(events))


def write_values(conn: Connection, items: Sequence[Item]) -> int:
    """Values, quality events and dead letters of the items; how many rows of value tables changed."""
    changed = 0
    for name, table in (VALUE_TABLES | DERIVED_TABLES).items():
        rows = [row for item in items for row in item.found.rows.get(name, ())]
        for start in range(0, len(rows), _CHUNK):
            changed += guarded_upsert(conn, table, rows[start : start + _CHUNK])
    posts = [row for item in items for row in item.found.rows.get(social_posts.name, ())]
    noted = [row for item in items for row in item.found.rows.get(text_mentions.name, ())]  # also where they come alone
    ours = [*posts, *(row for row in noted if row["kind"] == social_posts.name)]
    texts.forget_mentions(conn, [row["content_id"] for row in ours])
    records.add_quality_events(conn, [row for item in items for row in item.found.quality])
    records.add_dead_letters(conn, [item.found.dead for item in items if item.found.dead is not None])
    return changed


def newest_event(items: Sequence[Item]) -> int | None:
    """The newest event time (ms) among the values of the items: of candles their close, of texts their date."""
    values = (row for item in items for name, rows in item.found.rows.items() if name in VALUE_TABLES for row in rows)
    return max((row.get("published_at") or row["event_version"] for row in values), default=None)


def price_events(conn: Connection, rows: Sequence[dict[str, Any]], registry: AssetRegistry) -> list[bytes]:
    """Events of the rows that were just written, won, and are now the newest the node has of their asset.

    A repaired slot of the past is no news to a price stream and makes no event; the table has it.
    """
    if not rows:
        return []
    won = [row for row, stands in zip(rows, standing(conn, price_data_real, rows), strict=True) if stands]
    newest = queries.newest_slots(conn, "prices")
    current = [row for row in won if row["slot"] == newest.get(row["asset_id"])]
    best = _best_sources(conn, current)
    return [
        _event(row, registry)
        for row in sorted(current, key=lambda r: r["asset_id"])
        if row["source"] == best[row["asset_id"], row["slot"]]
    ]


def _news(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest tick of each asset, by asset, but for those that are older than the rest by far."""
    newest: dict[int, dict[str, Any]] = {}
    for row in rows:
        held = newest.get(row["asset_id"])
        if held is None or row["event_version"] > held["event_version"]:
            newest[row["asset_id"]] = row
    since = max((row["event_version"] for row in newest.values()), default=0) - _NEWS_MS
    return [newest[asset_id] for asset_id in sorted(newest) if newest[asset_id]["event_version"] >= since]


def _ticks_before(conn: Connection, rows: Sequence[dict[str, Any]]) -> dict[int, tuple[int, float]]:
    """Event time and price of the newest stored tick of each row's asset, if it is at most two slots old."""
    if not rows:
        return {}
    columns = price_data_real.c
    since = min(row["slot"] for row in rows) - _NEWS_MS
    ids = [row["asset_id"] for row in rows]
    query = (
        select(columns.asset_id, columns.event_time, columns.current_price)
        .where(columns.asset_id.in_(ids), columns.slot >= since, columns.source == TICKS)
        .order_by(columns.asset_id, columns.slot)
    )
    return {asset_id: (at, price) for asset_id, at, price in conn.execute(query)}


def tick_events(
    conn: Connection, rows: Sequence[dict[str, Any]], before: dict[int, tuple[int, float]], registry: AssetRegistry
) -> list[bytes]:
    """Events of the ticks that were just written and won, whose price is another than ``before`` and newer."""
    changed = []
    for row in rows:
        at, price = before.get(row["asset_id"], (0, None))
        if row["event_time"] > at and row["current_price"] != price:
            changed.append(row)
    won = standing(conn, price_data_real, changed)
    return [_event(row, registry, _TICK_COLUMNS) for row, stands in zip(changed, won, strict=True) if stands]


def _best_sources(conn: Connection, rows: Sequence[dict[str, Any]]) -> dict[tuple[int, int], str]:
    """By (asset, slot): the stored source that consumers are shown."""
    ranks = {name: rank for rank, name in enumerate(queries.SOURCE_PRIORITY)}
    best: dict[tuple[int, int], str] = {}
    columns = price_data_real.c
    for slot in sorted({row["slot"] for row in rows}):
        ids = [row["asset_id"] for row in rows if row["slot"] == slot]
        query = select(columns.asset_id, columns.source).where(columns.asset_id.in_(ids), columns.slot == slot)
        for asset_id, source in conn.execute(query):
            held = best.get((asset_id, slot))
            if held is None or (ranks.get(source, 99), source) < (ranks.get(held, 99), held):
                best[asset_id, slot] = source
    return best


def _event(row: dict[str, Any], registry: AssetRegistry, columns: Sequence[str] = _EVENT_COLUMNS) -> bytes:
    asset = registry.by_id(row["asset_id"])
    assert asset is not None  # noqa: S101 - digest() took the id from this very registry
    body: dict[str, Any] = {"symbol": asset.symbol, "coin_id": asset.coin_id}
    body |= {name: row.get(name) for name in columns}
    return orjson.dumps(body)

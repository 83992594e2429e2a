"""Rows for storage tests, and what guarded writes must leave of them, computed without a database."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Table, select

from ray_app.storage.engine import Database
from ray_app.storage.tables import ORDER_COLUMNS

Record = dict[str, Any]
MINUTE = 60_000
T0 = 1_700_000_100_000 - 1_700_000_100_000 % 300_000


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def price(asset_id: int, slot: int, **more: Any) -> Record:
    row = {
        "asset_id": asset_id,
        "slot": slot,
        "source": "coingecko.markets",
        "interval_s": 300,
        "event_time": slot + 1,
        "known_at": slot + 2,
        "current_price": 1.5,
        "event_version": slot + 1,
        "fetched_at": slot + 2,
        "parser_version": 1,
        "payload_hash": digest(asset_id, slot),
    }
    return row | more


def candle(asset_id: int, open_time: int, close: float = 2.0, **more: Any) -> Record:
    row = {
        "asset_id": asset_id,
        "venue": "coinbase",
        "interval_s": 3_600,
        "open_time": open_time,
        "version": int(digest(close)[:15], 16),
        "known_at": open_time + 60 * MINUTE,
        "first_seen_at": open_time + 61 * MINUTE,
        "open_price": 1.0,
        "high_price": 3.0,
        "low_price": 0.5,
        "close_price": close,
        "volume": None,
        "event_version": open_time,
        "fetched_at": open_time + 61 * MINUTE,
        "parser_version": 1,
        "payload_hash": digest(asset_id, open_time, close),
    }
    return row | more


def asset(asset_id: int, **more: Any) -> Record:
    row = {
        "asset_id": asset_id,
        "symbol": f"S{asset_id}",
        "coin_id": f"coin-{asset_id}",
        "name": f"Coin {asset_id}",
        "status": "active",
        "updated_at": T0,
    }
    return row | more


def writes(seed: int, distinct: int, keys: int) -> list[Record]:
    """Distinct writes of few candles, many of them fighting for the same key: ties in the leading order columns."""
    rng = random.Random(seed)
    made: dict[tuple[object, ...], Record] = {}
    while len(made) < distinct:
        key = rng.randrange(keys)
        place = (rng.randrange(3), rng.randrange(3), rng.randrange(1, 3), digest(rng.randrange(6)))
        value = None if rng.random() < 0.2 else rng.lognormvariate(0, 20)
        made[(key, *place)] = candle(
            key // 50,
            T0 + key % 50 * 60 * MINUTE,
            rng.lognormvariate(0, 20),
            version=0,
            volume=value,
            known_at=T0 + rng.randrange(1_000),
            first_seen_at=T0 + rng.randrange(1_000),
            **dict(zip(ORDER_COLUMNS, place, strict=True)),
        )
    return list(made.values())


def expected(table: Table, rows: Iterable[Record]) -> list[tuple[object, ...]]:
    """The highest write per key, with the smallest value of each earliest column."""
    best: dict[tuple[object, ...], Record] = {}
    for row in rows:
        key = tuple(row[column.name] for column in table.primary_key.columns)
        held = best.get(key, row)
        top = max(held, row, key=lambda r: tuple(r[name] for name in ORDER_COLUMNS))
        best[key] = top | {name: min(held[name], row[name]) for name in table.info.get("earliest", ())}
    return [tuple(best[key].get(column.name) for column in table.columns) for key in sorted(best)]


def stored(db: Database, table: Table) -> list[tuple[object, ...]]:
    """Every row, by key."""
    with db.read() as conn:
        return [tuple(row) for row in conn.execute(select(table).order_by(*table.primary_key.columns))]


def chunks(rows: Sequence[Record], sizes: Iterable[int]) -> Iterable[Sequence[Record]]:
    start = 0
    for size in sizes:
        if start >= len(rows):
            return
        yield rows[start : start + size]
        start += size
    yield rows[start:]

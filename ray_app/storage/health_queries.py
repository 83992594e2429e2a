"""Reads that only /health makes, named (their indexes: tests/health/test_health_queries.py). Times in ms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, func, select, text

from ray_app.storage.queries import current_prices_query
from ray_app.storage.tables import collector_leases, data_quality_events, dead_letters


@dataclass(frozen=True, slots=True)
class LeaseState:
    """A lease as the database sees it. ``left_ms``: wall time it still lasts; negative: it expired that long ago."""

    name: str
    left_ms: int
    released: bool


def leases(conn: Connection) -> dict[str, LeaseState]:
    """Every lease ever taken, by name, against the database's own clock (whole seconds on SQLite are enough)."""
    clock = (
        "SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
        if conn.dialect.name == "sqlite"
        else "SELECT CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)"
    )
    now = int(conn.execute(text(clock)).scalar_one())
    rows = conn.execute(select(collector_leases.c.name, collector_leases.c.holder, collector_leases.c.expires_at))
    return {row.name: LeaseState(row.name, row.expires_at - now, not row.holder) for row in rows}


def price_event_times(conn: Connection) -> dict[int, int]:
    """Per asset with a price: the upstream's own time of its current price."""
    current = current_prices_query().subquery()
    return {row.asset_id: row.event_time for row in conn.execute(select(current.c.asset_id, current.c.event_time))}


def dead_letters_since_query(since: int) -> Select[Any]:
    """Bodies that could not be parsed since a moment, per endpoint. The table is small: unreadable bodies are rare."""
    columns = dead_letters.c
    return select(columns.source, func.count()).where(columns.fetched_at >= since).group_by(columns.source)


def dead_letters_since(conn: Connection, since: int) -> dict[str, int]:
    """Per endpoint, how many bodies since ``since`` could not be parsed."""
    return {source: int(count) for source, count in conn.execute(dead_letters_since_query(since))}


def quality_events_since_query(since: int) -> Select[Any]:
    """Values that cannot be true, since a moment, per kind."""
    columns = data_quality_events.c
    return select(columns.kind, func.count()).where(columns.fetched_at >= since).group_by(columns.kind)


def quality_events_since(conn: Connection, since: int) -> dict[str, int]:
    """Per kind, how many values since ``since`` were left NULL because they cannot be true."""
    return {kind: int(count) for kind, count in conn.execute(quality_events_since_query(since))}

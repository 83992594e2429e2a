"""How late each source is, measured: from the moment a value is about to when this node had it.

Housekeeping stores one measurement a source and day (``source_availability``); the API measures anew every few minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, select

from ray_app.clock import DAY_MS
from ray_app.storage import evidence_queries
from ray_app.storage.engine import Database
from ray_app.storage.tables import source_availability

#: days of rows that a measurement looks back on
LAG_DAYS = 30


class Lag(NamedTuple):
    """Milliseconds, of ``samples`` rows."""

    p50_ms: int
    p99_ms: int
    samples: int


def measure(conn: Connection, now_ms: int) -> dict[str, Lag]:
    """Per source, of the newest rows about the last :data:`LAG_DAYS` days; backfilled rows with their whole lag."""
    found = evidence_queries.lags(conn, now_ms - LAG_DAYS * DAY_MS)
    return {source: quantiles(sorted(values)) for source, values in found.items()}


def quantiles(ordered: Sequence[int]) -> Lag:
    """Nearest rank: a measured lag, never one between two. ``ordered`` ascends and is not empty."""
    p50, p99 = (ordered[-(-len(ordered) * share // 100) - 1] for share in (50, 99))
    return Lag(p50, p99, len(ordered))


def store_day(db: Database, now_ms: int) -> int:
    """Store today's measurement of every source that has none yet; how many.

    The measuring reads what a day has brought, which takes seconds: nobody's write waits for it.
    """
    day = now_ms // DAY_MS * DAY_MS
    with db.read() as conn:
        known = _measured(conn, day)
        found = {source: lag for source, lag in measure(conn, now_ms).items() if source not in known}

    def store(conn: Connection) -> int:
        rows = [
            {"source": source, "day": day, **found[source]._asdict(), "measured_at": now_ms}
            for source in sorted(found.keys() - _measured(conn, day))
        ]
        if rows:
            conn.execute(source_availability.insert(), rows)
        return len(rows)

    return db.run(store) if found else 0


def _measured(conn: Connection, day: int) -> set[str]:
    columns = source_availability.c
    return set(conn.scalars(select(columns.source).where(columns.day == day)))

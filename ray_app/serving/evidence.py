"""How late sources come and how full columns are, measured on what is stored, and kept: a look reads many rows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from ray_app.clock import DAY_MS, Clock
from ray_app.collection import availability
from ray_app.storage import evidence_queries
from ray_app.storage.engine import Database

#: wall seconds a measurement is used again
KEEP_S = 300.0

Lag = dict[str, Any]


class Measured:
    """Measurements of the stored data, each made anew every few minutes at most. Blocking."""

    def __init__(self, db: Database, clock: Clock, keep_s: float = KEEP_S) -> None:
        self._db = db
        self._clock = clock
        self._keep_s = keep_s
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, int, Any]] = {}

    def null_shares(self) -> tuple[list[dict[str, Any]], int]:
        """Per table and column, of the newest rows fetched in the last day; and when it was measured (node ms)."""
        return self._once("nulls", self._null_shares)

    def lags(self) -> tuple[dict[str, Lag], int]:
        """Per source p50 and p99 of seconds from the moment to having it, of 30 days; and when it was measured."""
        return self._once("lags", self._lags)

    def _once(self, name: str, measure: Callable[[int], Any]) -> tuple[Any, int]:
        with self._lock:
            kept = self._kept.get(name)
            if kept is None or time.monotonic() - kept[0] > self._keep_s:
                now_ms = self._clock.now_ms()
                kept = self._kept[name] = (time.monotonic(), now_ms, measure(now_ms))
            return kept[2], kept[1]

    def _null_shares(self, now_ms: int) -> list[dict[str, Any]]:
        with self._db.read() as conn:
            found = evidence_queries.null_shares(conn, now_ms - DAY_MS)
        return [row | {"null_rate": round(row["nulls"] / row["rows"], 6)} for row in found]

    def _lags(self, now_ms: int) -> dict[str, Lag]:
        with self._db.read() as conn:
            found = availability.measure(conn, now_ms)
        return {
            source: {"p50_lag_s": lag.p50_ms / 1_000, "p99_lag_s": lag.p99_ms / 1_000, "sample": lag.samples}
            for source, lag in found.items()
        }

"""How the collectors fare, as the API shows it: computed from schedules and what is stored, kept for a few seconds."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from typing import Any

from ray_app.clock import Clock, iso
from ray_app.collection import spending
from ray_app.collection.budget_ledger import DatabaseLedger
from ray_app.collection.budget_rules import month_of
from ray_app.collection.collectors import COLLECTORS, Collector
from ray_app.collection.reports import collector_report
from ray_app.collection.spending import Outlook
from ray_app.collection.upstreams import Upstream, build_upstreams
from ray_app.serving.prices_board import RegistryProvider
from ray_app.settings import Settings
from ray_app.storage.engine import Database

#: wall seconds a report is used again: it looks at a day of slots of every asset
KEEP_S = 5.0

_PRIVATE = re.compile(
    r"""\b[a-z][a-z0-9+.-]*://\S+          # addresses
      | (?<![\w.])/[\w.-]+(?:/[\w.-]+)+    # paths
      | \b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)? # hosts
      | \b(?:SELECT|INSERT|UPDATE|DELETE)\b.*  # statements
    """,
    re.VERBOSE | re.DOTALL,
)


def public_text(text: str | None) -> str | None:
    """An error's first line without addresses, paths, hosts and SQL."""
    return _PRIVATE.sub("…", text.splitlines()[0]) if text else None


class StoredStats:
    """The collectors' report from the database."""

    def __init__(self, db: Database, clock: Clock, registry: RegistryProvider, settings: Settings) -> None:
        self._db = db
        self._clock = clock
        self._registry = registry
        self._settings = settings
        self._lock = threading.Lock()
        self._kept: tuple[float, list[dict[str, Any]]] | None = None

    def collectors(self) -> list[dict[str, Any]]:
        """Per collector over the last 24 h: expected, received, missing, last event, last error, quota, next run.

        Times RFC 3339; None: never, or not known. Blocking; callers at the same time share one look.
        """
        with self._lock:
            if self._kept is None or time.monotonic() - self._kept[0] > KEEP_S:
                self._kept = (time.monotonic(), self._read())
            return self._kept[1]

    def _read(self) -> list[dict[str, Any]]:
        names = {name: kind.datasets for name, kind in COLLECTORS.items()}
        now, registry, ledger = self._clock.now_ms(), self._registry.current, DatabaseLedger(self._db)
        upstreams = build_upstreams(self._settings)
        spent = {name: ledger.peek(name, one.limits, month_of(now)).spent for name, one in upstreams.items()}
        with self._db.read() as conn:
            rows = collector_report(conn, registry, names, now)
            outlooks = {
                name: spending.outlook(conn, name, registry, self._settings, one.limits, spent[name], now)
                for name, one in upstreams.items()
            }
        return [_show(row, COLLECTORS[row["collector"]], self._settings, upstreams, outlooks) for row in rows]


def _owing_nothing(row: dict[str, Any]) -> dict[str, Any]:
    return {"expected": row["received"] + row["settled"], "missing": 0}


_TIMES = ("last_event_time", "last_started_at", "last_success_at", "last_error_at", "next_run_at")


def _show(
    row: dict[str, Any],
    kind: type[Collector],
    settings: Settings,
    upstreams: Mapping[str, Upstream],
    outlooks: Mapping[str, Outlook],
) -> dict[str, Any]:
    off = kind.off(settings, upstreams)
    if off is not None:  # nobody owes what nobody can be asked for
        row = row | _owing_nothing(row) | {"datasets": [part | _owing_nothing(part) for part in row["datasets"]]}
    return row | {
        "state": off or "active",
        "disabled": {name: said for name in kind.accounts if (said := upstreams[name].disabled) is not None},
        **{name: _time(row[name]) for name in _TIMES},
        "last_error": public_text(row["last_error"]),
        "datasets": [part | {"since": iso(part["since"])} for part in row["datasets"]],
        "quota": [_quota(outlooks[name]) for name in kind.accounts],
    }


def _quota(outlook: Outlook) -> dict[str, Any]:
    seen = outlook.forecast
    return {
        "account": seen.account,
        "month": f"{seen.month // 100}-{seen.month % 100:02d}",
        "spent": seen.spent,
        "limit": seen.limit,
        "projected": seen.projected,
        "runs_out_at": _time(seen.runs_out_at),
        "thinned": list(outlook.thinned),
        "advice": outlook.advice,
        "remarks": list(outlook.remarks),
    }


def _time(ms: int | None) -> str | None:
    return iso(ms) if ms is not None else None

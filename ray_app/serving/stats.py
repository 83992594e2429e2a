"""How the collectors fare, as the API shows it: computed from schedules and what is stored, kept for a few seconds."""

from __future__ import annotations

import re
import threading
import time
from typing import Any

from ray_app.clock import Clock, iso
from ray_app.collection.budget import BudgetAuthority
from ray_app.collection.budget_rules import Forecast
from ray_app.collection.collectors import COLLECTORS
from ray_app.collection.reports import collector_report
from ray_app.collection.upstreams import build_upstreams, limits_of
from ray_app.serving.prices_board import RegistryProvider
from ray_app.settings import Settings
from ray_app.storage.engine import Database

#: wall seconds a report is used again: it looks at a day of slots of every asset
KEEP_S = 5.0

#: whose budget each collector spends
ACCOUNTS: dict[str, tuple[str, ...]] = {
    "crypto-prices": ("coingecko", "coinbase", "coinbase-v2"),
    "unified-ohlc": ("coinbase",),
    "asset-registry": ("coingecko", "coinbase"),
}

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
        self._budgets = BudgetAuthority(db, clock, limits_of(build_upstreams(settings)))
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
        with self._db.read() as conn:
            rows = collector_report(conn, self._registry.current, names, self._clock.now_ms())
        quotas = {
            account: self._budgets.forecast(account) for account in {a for used in ACCOUNTS.values() for a in used}
        }
        return [_show(row, [quotas[account] for account in ACCOUNTS.get(row["collector"], ())]) for row in rows]


_TIMES = ("last_event_time", "last_started_at", "last_success_at", "last_error_at", "next_run_at")


def _show(row: dict[str, Any], quotas: list[Forecast]) -> dict[str, Any]:
    return row | {
        **{name: _time(row[name]) for name in _TIMES},
        "last_error": public_text(row["last_error"]),
        "datasets": [part | {"since": iso(part["since"])} for part in row["datasets"]],
        "quota": [
            {
                "account": quota.account,
                "month": f"{quota.month // 100}-{quota.month % 100:02d}",
                "spent": quota.spent,
                "limit": quota.limit,
                "projected": quota.projected,
                "runs_out_at": _time(quota.runs_out_at),
            }
            for quota in quotas
        ],
    }


def _time(ms: int | None) -> str | None:
    return iso(ms) if ms is not None else None

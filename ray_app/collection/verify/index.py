"""The archive against ``fetches``, its index."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Row, select

from ray_app.clock import iso
from ray_app.collection.archive import ArchivedAt
from ray_app.collection.digest import asked
from ray_app.collection.verify.days import Days
from ray_app.collection.verify.report import Verified
from ray_app.sources.base import Exchange
from ray_app.storage.tables import fetches

_PAGE = 1_000


class Index:
    """``fetches`` by rising fetch id, beside the archive in the same order."""

    def __init__(self, conn: Connection, days: Days, start: int | None, end: int | None) -> None:
        self._days = days
        self._rows = self._all(conn, start, end)
        self._next = next(self._rows, None)

    @staticmethod
    def _all(conn: Connection, start: int | None, end: int | None) -> Iterator[Row[Any]]:
        last = -1 if start is None else (start << 20) - 1
        while True:
            query = select(fetches).where(fetches.c.fetch_id > last).order_by(fetches.c.fetch_id).limit(_PAGE)
            page = conn.execute(query if end is None else query.where(fetches.c.fetch_id < end << 20)).all()
            yield from page
            if len(page) < _PAGE:
                return
            last = page[-1].fetch_id

    def compare(
        self, at: ArchivedAt, exchange: Exchange, report: Verified, damage: dict[str, str], *, must: bool
    ) -> bool:
        """Look an answer up; whether it is indexed. ``must``: it is a problem if it is not."""
        while self._next is not None and self._next.fetch_id < at.fetch_id:
            self._lost(self._next, report, damage)
            self._next = next(self._rows, None)
        if self._next is None or self._next.fetch_id != at.fetch_id:
            if must:
                report.problem(f"{place(at)}: extra: fetch {at.fetch_id} is archived and not in fetches")
            return False
        row, self._next = self._next, next(self._rows, None)
        have = {
            "segment": at.segment,
            "position": at.position,
            "payload_hash": at.payload_hash,
            "payload_bytes": at.payload_bytes,
            "source": exchange.request.endpoint,
            "request": asked(exchange.request),
            "status": exchange.status,
            "fetched_at": exchange.fetched_at,
        }
        wrong = [f"{name} {row._mapping[name]} in fetches" for name in have if row._mapping[name] != have[name]]  # noqa: SLF001 - SQLAlchemy's documented name
        if wrong:
            report.problem(
                f"{place(at)}: changed: fetch {at.fetch_id} has payload {at.payload_hash}; {', '.join(wrong)}"
            )
        return True

    def rest(self, report: Verified, damage: dict[str, str]) -> None:
        """What is left in ``fetches`` when the archive is at its end."""
        while self._next is not None:
            self._lost(self._next, report, damage)
            self._next = next(self._rows, None)

    def _lost(self, row: Row[Any], report: Verified, damage: dict[str, str]) -> None:
        if row.segment in self._days.purged:
            report.purged += 1
            self._days.add_purged(row)
            return
        place = f"{row.segment} at offset {row.position}"
        why = damage.get(place, "no such record")
        report.problem(
            f"{place}: missing: fetch {row.fetch_id} ({row.source}, {iso(row.fetched_at)}) cannot be read: {why}"
        )


def place(at: ArchivedAt) -> str:
    return f"{at.segment} at offset {at.position}"

"""Days against their manifests."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, select

from ray_app.clock import DAY_MS
from ray_app.collection import manifest
from ray_app.collection.archive import ArchivedAt
from ray_app.collection.manifest import WHOLE_DAY, DayManifest, Leaf, Root
from ray_app.collection.verify.report import Day, Verified, written
from ray_app.sources.base import Exchange
from ray_app.storage.tables import archive_tombstones

_NOTHING = Root(0, 0, "none")


class Days:
    """Builds each day's manifest as its answers come by, and compares it when the day is over.

    ``purged``: the segments that were deleted after their retention.
    """

    def __init__(self, conn: Connection, report: Verified, settled: int) -> None:
        self._conn, self._report, self._settled = conn, report, settled
        self._start: int | None = None
        self._manifest = DayManifest()
        self._missed = manifest.recorded_days(conn)
        columns = archive_tombstones.c
        gone = conn.execute(select(columns.segment, columns.source, columns.answers - columns.committed))
        self.purged: frozenset[str] = frozenset()
        #: by day (yyyymmdd) and source: answers that were purged and never committed
        self._unknown: dict[tuple[int, str], int] = {}
        for segment, source, unknown in gone:
            self.purged |= {segment}
            if unknown > 0:
                place = int(segment.rsplit("/", 1)[1][:8]), source
                self._unknown[place] = self._unknown.get(place, 0) + unknown

    def add(self, at: ArchivedAt, exchange: Exchange) -> None:
        self._turn_to(exchange.fetched_at)
        self._manifest.add(at, exchange)

    def add_purged(self, row: Row[Any]) -> None:
        """An answer of which only its row in ``fetches`` is left."""
        self._turn_to(row.fetched_at)
        leaf = Leaf(row.fetched_at, row.request, row.status, row.payload_hash)
        self._manifest.add_leaf(row.source, leaf, row.payload_bytes)

    def _turn_to(self, ms: int) -> None:
        start = ms - ms % DAY_MS
        if start != self._start:
            self.end()
            self._start, self._manifest = start, DayManifest()

    def end(self) -> None:
        if self._start is None:
            return
        day, roots = manifest.day_of(self._start), self._manifest.roots()
        recorded = manifest.recorded(self._conn, day)
        self._report.days.append(Day(day, roots[WHOLE_DAY], recorded.get(WHOLE_DAY), self._start < self._settled))
        for source in sorted(recorded.keys() | roots.keys() if recorded else ()):
            have, had = roots.get(source, _NOTHING), recorded.get(source, _NOTHING)
            unknown = self._unknown.get((day, source), 0)
            if unknown and have.answers + unknown == had.answers:
                continue  # nobody can tell the root without what was never committed
            if have != had and source != WHOLE_DAY:
                self._report.problem(
                    f"manifest of {written(day)}, {source}: {had.answers} answers, {had.payload_bytes} bytes, root "
                    f"{had.root} recorded; {have.answers} answers, {have.payload_bytes} bytes, root {have.root} found"
                )

"""Days against their manifests."""

from __future__ import annotations

from sqlalchemy import Connection

from ray_app.clock import DAY_MS
from ray_app.collection import manifest
from ray_app.collection.archive import ArchivedAt
from ray_app.collection.manifest import WHOLE_DAY, DayManifest, Root
from ray_app.collection.verify.report import Day, Verified, written
from ray_app.sources.base import Exchange

_NOTHING = Root(0, 0, "none")


class Days:
    """Builds each day's manifest as its answers come by, and compares it when the day is over."""

    def __init__(self, conn: Connection, report: Verified, settled: int) -> None:
        self._conn, self._report, self._settled = conn, report, settled
        self._start: int | None = None
        self._manifest = DayManifest()
        self._missed = manifest.recorded_days(conn)

    def add(self, at: ArchivedAt, exchange: Exchange) -> None:
        start = exchange.fetched_at - exchange.fetched_at % DAY_MS
        if start != self._start:
            self.end()
            self._start, self._manifest = start, DayManifest()
        self._manifest.add(at, exchange)

    def end(self) -> None:
        if self._start is None:
            return
        day, roots = manifest.day_of(self._start), self._manifest.roots()
        recorded = manifest.recorded(self._conn, day)
        self._report.days.append(Day(day, roots[WHOLE_DAY], recorded.get(WHOLE_DAY), self._start < self._settled))
        for source in sorted(recorded.keys() | roots.keys() if recorded else ()):
            have, had = roots.get(source, _NOTHING), recorded.get(source, _NOTHING)
            if have != had and source != WHOLE_DAY:
                self._report.problem(
                    f"manifest of {written(day)}, {source}: {had.answers} answers, {had.payload_bytes} bytes, root "
                    f"{had.root} recorded; {have.answers} answers, {have.payload_bytes} bytes, root {have.root} found"
                )

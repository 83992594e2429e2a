"""One pass over the archive by rising fetch id, beside one over ``fetches`` in the same order.

Rows are compared some thousands at a time. Memory is bounded by such a batch, however much there is.
"""

from __future__ import annotations

from ray_app.collection import manifest
from ray_app.collection.archive import Archive
from ray_app.collection.digest import VALUE_TABLES, digest
from ray_app.collection.reprocess import first_registry
from ray_app.collection.verify.days import Days
from ray_app.collection.verify.index import Index
from ray_app.collection.verify.registries import Registries
from ray_app.collection.verify.report import Verified
from ray_app.collection.verify.rows import Answer, compare, count, note_missing
from ray_app.errors import ArchiveError
from ray_app.storage.engine import Database

_BATCH_ITEMS, _BATCH_ROWS = 500, 6_000


def verify(
    archive: Archive, db: Database, *, now_ms: int, start: int | None = None, end: int | None = None, limit: int = 20
) -> Verified:
    """Read every archived answer fetched in ``[start, end)`` ms (default: all) and compare what there is to compare.

    * its place and its body's hash with ``fetches``, both ways;
    * each day's manifest with the one recorded when the day was settled: of answers that were deleted after their
      retention (archive_tombstones) ``fetches`` has what the manifest needs;
    * every stored row with the payload it names, and that no older statement stands where this payload's should.

    ``now_ms``: node time. What a node archived on a day that is not settled may be about to be committed, so that it is
    not in ``fetches`` is no problem. ``start`` and ``end`` are midnights where manifests are to be compared.
    """
    report = Verified(limit)
    settled = manifest.settled_before(now_ms)
    with db.read() as conn:
        report.stored = {name: count(conn, table, start, end) for name, table in VALUE_TABLES.items()}
        report.found = dict.fromkeys(VALUE_TABLES, 0)
        known = Registries(conn, archive, *first_registry(db), start)
        days = Days(conn, report, settled)
        index = Index(conn, days, start, end)
        damage: dict[str, str] = {}
        batch: list[Answer] = []
        rows = 0
        for at, _, exchange in archive.scan(start=start, end=end, on_damage=lambda e: _note(damage, e)):
            full = rows >= _BATCH_ROWS or len(batch) >= _BATCH_ITEMS
            if full and exchange.fetched_at > batch[-1].fetched_at:  # one moment's answers stay together
                compare(conn, batch, report)
                batch, rows = [], 0
            report.answers += 1
            indexed = index.compare(at, exchange, report, damage, must=exchange.fetched_at < settled)
            days.add(at, exchange)  # after the index: it has told of what was purged before this answer
            found = digest(exchange, at, known.now)
            known.after(conn, archive, at, exchange, found)
            batch.append(Answer(exchange.fetched_at, found.rows, indexed))
            rows += found.row_count
        compare(conn, batch, report)
        index.rest(report, damage)
        days.end()
        for table in VALUE_TABLES.values():
            note_missing(conn, table, report, start, end)
    return report


def _note(damage: dict[str, str], error: ArchiveError) -> None:
    if len(damage) < 1_000:
        place, _, what = str(error).partition(": ")
        damage[place] = what

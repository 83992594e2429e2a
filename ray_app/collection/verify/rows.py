"""Stored rows against what the payloads say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table, exists, func, select

from ray_app.clock import iso
from ray_app.collection.digest import VALUE_TABLES
from ray_app.collection.verify.report import Verified
from ray_app.storage.lookup import rows_of_keys
from ray_app.storage.tables import archive_tombstones, fetches
from ray_app.storage.upsert import key_columns, order_columns


class Answer(NamedTuple):
    fetched_at: int
    rows: dict[str, list[dict[str, Any]]]
    indexed: bool


def count(conn: Connection, table: Table, start: int | None, end: int | None) -> int:
    """Rows whose payload should be in the archive: all but those of segments that were deleted after retention."""
    rows = fetched_in(select(func.count()).select_from(table), table, start, end)
    if conn.scalar(select(archive_tombstones.c.segment).limit(1)) is not None:
        rows = rows.where(~_purged(table))
    return int(conn.scalar(rows) or 0)


def _purged(table: Table) -> Any:
    """Whether the payload a row names was deleted after its retention, and no other answer has the same."""
    named = (fetches.c.payload_hash == table.c.payload_hash, fetches.c.fetched_at == table.c.fetched_at)
    gone = exists().where(archive_tombstones.c.segment == fetches.c.segment)
    return exists().where(*named, gone) & ~exists().where(*named, ~gone)


def fetched_in(query: Any, table: Table, start: int | None, end: int | None) -> Any:
    query = query if start is None else query.where(table.c.fetched_at >= start)
    return query if end is None else query.where(table.c.fetched_at < end)


def compare(conn: Connection, batch: Sequence[Answer], report: Verified) -> None:
    """Compare what the answers say with what is stored under the same keys."""
    for name, table in VALUE_TABLES.items():
        said = [(row, answer.indexed) for answer in batch for row in answer.rows.get(name, ())]
        if said:
            _compare_table(conn, table, said, report)


def _compare_table(
    conn: Connection, table: Table, said: Sequence[tuple[dict[str, Any], bool]], report: Verified
) -> None:
    shape = Shape(table)
    by_key: dict[tuple[Any, ...], dict[tuple[Any, ...], tuple[tuple[Any, ...], bool]]] = {}
    for row, indexed in said:
        values = tuple(map(row.get, shape.names))
        by_key.setdefault(shape.key(values), {})[shape.source(values)] = (values, indexed)
    for stored in rows_of_keys(conn, table, list(by_key)):
        statements = by_key.pop(shape.key(stored))
        for source, (values, indexed) in statements.items():
            if source == shape.source(stored):
                if wrong := [] if values == stored else shape.differing(stored, values):
                    report.problem(unlike(table, shape, stored, values, wrong))
                else:
                    report.found[table.name] += 1
            elif indexed and shape.order(values) > shape.order(stored):
                report.problem(
                    f"{table.name} {shape.key(stored)}: payload {stored[shape.hash]} of {iso(stored[shape.fetched])} "
                    f"stands over the later payload {values[shape.hash]} of {iso(values[shape.fetched])}"
                )
            elif indexed and any(stored[i] > values[i] for i in shape.earliest):
                report.problem(
                    f"{table.name} {shape.key(stored)}: {', '.join(shape.names[i] for i in shape.earliest)} should be "
                    f"no later than payload {values[shape.hash]} of {iso(values[shape.fetched])} says"
                )
    for key, statements in by_key.items():
        for values, indexed in statements.values():
            if indexed:
                report.problem(f"{table.name} {key}: not stored, though payload {values[shape.hash]} says it")


def note_missing(conn: Connection, table: Table, report: Verified, start: int | None, end: int | None) -> None:
    """Rows that no payload was found for, named where they are few."""
    missing = report.stored[table.name] - report.found[table.name]
    if missing <= 0:
        return
    orphans = select(table).where(~exists().where(fetches.c.payload_hash == table.c.payload_hash)).limit(5)
    for row in conn.execute(fetched_in(orphans, table, start, end)):
        report.problem(f"{table.name}: no archived payload for {tuple(row)!r:.300}")
    report.problem(f"{table.name}: {missing} rows are not what the payload they name says")


class Shape:
    """Where in a table's rows what is found."""

    def __init__(self, table: Table) -> None:
        self.names = [column.name for column in table.columns]
        self._key = [self.names.index(name) for name in key_columns(table)]
        self._order = [self.names.index(name) for name in order_columns(table)]
        self.earliest = [self.names.index(name) for name in table.info.get("earliest", ())]
        self.hash, self.fetched = self.names.index("payload_hash"), self.names.index("fetched_at")
        self.parser = self.names.index("parser_version")

    def key(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple([row[i] for i in self._key])

    def order(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple([row[i] for i in self._order])

    def source(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        """Which payload, fetched when, a row is of."""
        return row[self.hash], row[self.fetched]

    def differing(self, stored: tuple[Any, ...], said: tuple[Any, ...]) -> list[int]:
        """Columns that differ; those that keep the earliest value of all payloads may be lower than this one says."""
        return [
            i for i in range(len(self.names)) if (stored[i] > said[i] if i in self.earliest else stored[i] != said[i])
        ]


def unlike(table: Table, shape: Shape, stored: tuple[Any, ...], said: tuple[Any, ...], wrong: Sequence[int]) -> str:
    text = f"{table.name} {shape.key(stored)}: " + ", ".join(
        f"{shape.names[i]} is {stored[i]!r}, payload {said[shape.hash]} says {said[i]!r}" for i in wrong[:3]
    )
    if len(wrong) > 3:
        text += f", and {len(wrong) - 3} more columns differ"
    if stored[shape.parser] < said[shape.parser]:
        text += " (an older parser's row: run crypto-data reprocess)"
    return text

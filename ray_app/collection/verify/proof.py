"""One row: the payload it names, and what that says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Table, select

from ray_app.assets import AssetRegistry
from ray_app.clock import iso
from ray_app.collection.archive import Archive
from ray_app.collection.digest import digest
from ray_app.collection.reprocess import first_registry
from ray_app.collection.verify.index import place
from ray_app.collection.verify.registries import Registries
from ray_app.collection.verify.rows import Shape, unlike
from ray_app.errors import ArchiveError
from ray_app.storage.engine import Database
from ray_app.storage.tables import archive_tombstones, fetches


@dataclass(frozen=True, slots=True)
class RowProof:
    """A stored row, the payload it names, and what that payload says of it. ``problem``: None if they are one."""

    stored: dict[str, Any]
    fetch: dict[str, Any] | None
    derived: dict[str, Any] | None
    problem: str | None


def prove_rows(archive: Archive, db: Database, table: Table, key: dict[str, Any], *, limit: int = 20) -> list[RowProof]:
    """Each stored row that has these key columns (some or all of them), with its proof; at most ``limit``."""
    with db.read() as conn:
        query = select(table).where(*(table.c[name] == value for name, value in key.items()))
        rows = conn.execute(query.order_by(*table.primary_key.columns).limit(limit)).all()
        first = first_registry(db)
        return [_prove(conn, archive, table, dict(row._mapping), first) for row in rows]  # noqa: SLF001 - documented


def _prove(
    conn: Connection, archive: Archive, table: Table, stored: dict[str, Any], first: tuple[AssetRegistry, int]
) -> RowProof:
    columns = fetches.c
    query = select(fetches).where(
        columns.payload_hash == stored["payload_hash"], columns.fetched_at == stored["fetched_at"]
    )
    named = [dict(row._mapping) for row in conn.execute(query.order_by(columns.fetch_id))]  # noqa: SLF001
    if not named:
        return RowProof(stored, None, None, "no archived answer has this payload hash and time")
    registry = Registries(conn, archive, *first, stored["fetched_at"] + 1).now
    shape, problem = Shape(table), ""
    have = tuple(stored[name] for name in shape.names)
    for fetch in named:  # one body may have answered two requests in one millisecond
        try:
            at, exchange = archive.record(fetch["segment"], fetch["position"])
        except ArchiveError as error:
            problem = _purged(conn, fetch["segment"]) or str(error)
            continue
        if at.payload_hash != stored["payload_hash"]:
            problem = f"{place(at)}: the body there has the hash {at.payload_hash}"
            continue
        for row in digest(exchange, at, registry).rows.get(table.name, ()):
            said = tuple(map(row.get, shape.names))
            if shape.key(said) == shape.key(have):
                wrong = shape.differing(have, said)
                text = unlike(table, shape, have, said, wrong) if wrong else None
                return RowProof(stored, fetch, dict(zip(shape.names, said, strict=True)), text)
        problem = f"{place(at)}: the payload says nothing of this key"
    return RowProof(stored, named[0], None, problem)


def _purged(conn: Connection, segment: str) -> str | None:
    """When and why a segment was deleted; None: it was not."""
    stone = archive_tombstones.c
    row = conn.execute(select(stone.purged_at, stone.reason).where(stone.segment == segment)).first()
    return None if row is None else f"{segment}: deleted {iso(row.purged_at)} ({row.reason}); nothing can prove the row"

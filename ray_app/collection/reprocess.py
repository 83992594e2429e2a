"""Rebuilding the tables from the archive alone, and comparing two databases.

A rebuild uses the same :func:`~ray_app.collection.digest.digest` as live ingestion, and tells the outbox nothing: a
rebuilt row is no news. Synchronous; wrap it in a thread where an event loop must stay free.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import zip_longest
from typing import Any

from sqlalchemy import Connection, Row, Table, delete, func, select

from ray_app.assets import AssetRegistry
from ray_app.clock import MINUTE_MS
from ray_app.collection import disagreement, drift
from ray_app.collection.archive import Archive
from ray_app.collection.digest import DERIVED_TABLES, VALUE_TABLES, digest, fetch_row
from ray_app.collection.refresh import PRODUCTS, refresh_registry
from ray_app.collection.reparse import readings
from ray_app.collection.store import Item, write_values
from ray_app.errors import ArchiveError, ConfigError
from ray_app.storage import records, registry
from ray_app.storage.engine import Database
from ray_app.storage.tables import collection_schedules, crypto_assets, data_quality_events, dead_letters, fetches

log = logging.getLogger(__name__)

#: what a rebuild restores
REBUILT: tuple[Table, ...] = (
    crypto_assets,
    *VALUE_TABLES.values(),
    *DERIVED_TABLES.values(),
    fetches,
    data_quality_events,
    dead_letters,
)
#: what a rebuild may be limited to
REBUILT_BY_NAME: frozenset[str] = frozenset(VALUE_TABLES | DERIVED_TABLES)
_BATCH_ITEMS, _BATCH_ROWS = 200, 6_000
#: how long an archived answer may take to its commit beside a running node, ms
_UNSETTLED_MS = 10 * MINUTE_MS
_REPORT_EVERY = 1_000


@dataclass
class Rebuilt:
    """What a rebuild did so far. ``damaged``: archive records that could not be read, one line each.

    ``seconds``: wall time.
    """

    answers: int = 0
    rows: int = 0
    changed: int = 0
    refreshes: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        by = ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items()))
        rate = f" ({self.answers / self.seconds:,.0f} answers/s)" if self.seconds > 0 else ""
        return f"{self.answers} archived answers ({by or 'none'}), {self.rows} rows, {self.changed} changed{rate}"


def reprocess(
    archive: Archive,
    db: Database,
    *,
    first_registry: AssetRegistry | None = None,
    first_registry_at: int = 0,
    start: int | None = None,
    end: int | None = None,
    tables: Collection[str] | None = None,
    processes: int = 1,
    progress: Callable[[Rebuilt], None] | None = None,
) -> Rebuilt:
    """Write everything the archive holds (fetched in ``[start, end)`` ms) into a migrated database.

    ``first_registry``: the registry the node began with, put into ``crypto_assets`` as of ``first_registry_at`` (of a
    database that is empty or was rebuilt before; ConfigError: a node has collected into it); from there on each
    archived refresh is repeated. None: the database's own registry is used as it is, and refreshes are not repeated
    (re-parsing in place, after a parser was mended); then an answer of the last minutes that is not indexed yet is left
    to the node that archived it, which will also tell the outbox of it.

    ``tables``: write these of VALUE_TABLES and DERIVED_TABLES alone, and nothing else but what a first registry needs
    (the registry, the index of answers); None: all there is. ``processes``: how many others parse
    (:func:`~ray_app.collection.reparse.readings`); this one writes, in the archive's order. The rows are the same
    whatever the number, and after a kill anywhere a second run leaves what one would have.
    """
    if unknown := set(tables or ()) - REBUILT_BY_NAME:
        raise ConfigError(
            f"no table that is rebuilt is called {', '.join(sorted(unknown))}; there are "
            f"{', '.join(sorted(REBUILT_BY_NAME))}"
        )
    report, begun = Rebuilt(), time.monotonic()
    repeat = first_registry is not None
    settled = _settled_until(db) if not repeat else None
    if first_registry is not None:
        db.run(partial(_begin, first=first_registry, at=first_registry_at, where=db.where))
    with db.read() as conn:
        assets = registry.load(conn)
    batch: list[Item] = []

    def flush() -> None:
        nonlocal assets, batch
        if not batch:
            return
        write = partial(_write, archive=archive, repeat=repeat, tables=tables)
        changed, refreshed = db.run(lambda conn: write(conn, batch=_ours(conn, batch, settled)))
        report.changed += changed
        if refreshed:
            report.refreshes += 1
            with db.read() as conn:
                assets = registry.load(conn)
        batch = []

    rows = 0
    every = readings(archive, start=start, end=end, processes=processes, on_damage=lambda e: _damaged(report, e))
    with closing(every):
        for one in every:
            found = digest(one.exchange, one.at, assets, one.said)
            batch.append(Item(one.at, one.collector, one.exchange, found))
            report.answers += 1
            report.rows += found.row_count
            report.outcomes[found.outcome] = report.outcomes.get(found.outcome, 0) + 1
            rows += found.row_count
            # what follows a refresh is resolved by the registry it left
            if len(batch) >= _BATCH_ITEMS or rows >= _BATCH_ROWS or one.exchange.request.endpoint == PRODUCTS:
                flush()
                rows = 0
            report.seconds = time.monotonic() - begun
            if progress is not None and report.answers % _REPORT_EVERY == 0:
                progress(report)
        flush()
    report.seconds = time.monotonic() - begun
    return report


def _begin(conn: Connection, first: AssetRegistry, at: int, where: str) -> None:
    """Put the registry at its beginning: what an interrupted rebuild made of it would name the past differently."""
    stored = registry.load(conn)
    if stored.assets == first.assets:
        return
    if len(stored) and conn.execute(select(collection_schedules.c.dataset).limit(1)).first() is not None:
        raise ConfigError(f"a node has collected into {where}: rebuild into an empty database, or one rebuilt before")
    conn.execute(delete(crypto_assets))
    registry.save(conn, first, at)


def _settled_until(db: Database) -> int | None:
    """The ms from which answers may be waiting for their commit; None: nothing has been ingested at all."""
    with db.read() as conn:
        newest = conn.scalar(select(func.max(fetches.c.fetched_at)))
    return None if newest is None else newest - _UNSETTLED_MS


def _ours(conn: Connection, batch: Sequence[Item], settled: int | None) -> list[Item]:
    if settled is None or all(item.exchange.fetched_at < settled for item in batch):
        return list(batch)
    known = records.known_fetches(conn, [item.at.fetch_id for item in batch])
    return [item for item in batch if item.exchange.fetched_at < settled or item.at.fetch_id in known]


def _damaged(report: Rebuilt, damage: ArchiveError) -> None:
    log.warning("archive: %s", damage)
    report.damaged.append(str(damage))


def _write(
    conn: Connection, batch: Sequence[Item], archive: Archive, *, repeat: bool, tables: Collection[str] | None
) -> tuple[int, bool]:
    """How many rows changed, and whether the registry was saved anew."""
    if repeat or tables is None:
        records.replace_fetches(conn, [fetch_row(i.exchange, i.at, i.collector, i.found) for i in batch])
    changed = write_values(conn, batch if tables is None else [_only(tables, item) for item in batch])
    if repeat:
        return changed, refresh_registry(conn, archive, batch)
    if tables is None:
        readable = [(i.at.payload_hash, i.exchange.request.endpoint) for i in batch if i.found.outcome == "ok"]
        records.drop_dead_letters(conn, readable)
    return changed, False


def _only(tables: Collection[str], item: Item) -> Item:
    """The item with the rows of these tables alone."""
    rows = {name: found for name, found in item.found.rows.items() if name in tables}
    return replace(item, found=replace(item.found, rows=rows, quality=[], dead=None))


# --- comparing two databases ----------------------------------------------------------------------------------


def differences(left: Database, right: Database, tables: Sequence[Table] = REBUILT, limit: int = 20) -> list[str]:
    """Rows that are not the same in both, all columns compared; at most ``limit`` sentences, [] if identical.

    Events of drift and of disagreement are left out (see drift.py, disagreement.py): no single answer makes them.
    """
    found: list[str] = []
    with left.read() as a, right.read() as b:
        for table in tables:
            for mine, theirs in zip_longest(_all(a, table), _all(b, table)):
                if mine is None or theirs is None or tuple(mine) != tuple(theirs):
                    found.append(f"{table.name}: {_shown(mine)} here, {_shown(theirs)} there")
                    if len(found) >= limit:
                        return found
                    if mine is None or theirs is None or _key(table, mine) != _key(table, theirs):
                        break  # from here on the two lists are out of step
    return found


def _all(conn: Connection, table: Table) -> Iterator[Row[Any]]:
    query = select(table).order_by(*table.primary_key.columns)
    if table is data_quality_events:  # told in the order in which a node took answers in, or of what it had by an hour
        query = query.where(data_quality_events.c.kind.not_in((drift.KIND, disagreement.KIND)))
    return iter(conn.execution_options(stream_results=True, yield_per=5_000).execute(query))


def _key(table: Table, row: Row[Any]) -> tuple[Any, ...]:
    return tuple(row._mapping[column] for column in table.primary_key.columns)  # noqa: SLF001 - SQLAlchemy's name


def _shown(row: Row[Any] | None) -> str:
    return "nothing" if row is None else repr(tuple(row))[:300]


def first_registry(db: Database) -> tuple[AssetRegistry, int]:
    """The registry a node began with, and when: the packaged one, or that of the replayed market's symbols.

    It is not in the archive, but a function of the package and of the tickers, so it can be had again.
    """
    with db.read() as conn:
        stored = registry.load(conn)
        begun = conn.scalar(select(func.min(crypto_assets.c.updated_at))) or 0
    seed = AssetRegistry.seed()
    if {asset.asset_id for asset in seed} <= {asset.asset_id for asset in stored} or not len(stored):
        return seed, int(begun)
    return AssetRegistry.for_replay(asset.symbol for asset in stored), int(begun)

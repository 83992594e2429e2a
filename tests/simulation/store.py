"""What the simulated processes share: one in-memory database with transactions, one archive, one budget ledger.

The database is SQLite in memory, so the statements are the node's own. A transaction runs whole or not at all; faults
strike before it, instead of its commit, or after its commit. Every commit is checked.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import StaticPool

from ray_app.assets import Asset, AssetRegistry
from ray_app.clock import from_ms
from ray_app.collection.archive import ArchivedAt, Entry
from ray_app.collection.budget_ledger import MemoryLedger
from ray_app.collection.lease import Lease, LeaseKeeper
from ray_app.errors import ArchiveError, StorageError
from ray_app.sources.base import Exchange
from ray_app.storage import registry, upsert
from ray_app.storage.tables import metadata, ohlc_data, price_data_real
from tests.simulation.loop import PROCESS

T = TypeVar("T")
_CLOCK: list[Callable[[], float]] = [lambda: 0.0]
#: wall ms that the simulation's time begins at, as the database says it
EPOCH_MS = 1_700_000_000_000


@cache
def _shared() -> tuple[Engine, sqlite3.Connection]:
    """One engine for all runs of this process: its statements are compiled once.

    Whatever is loaded by now stays: the collector of garbage need not look at it in every life.
    """
    gc.freeze()
    raw = sqlite3.connect(":memory:", check_same_thread=False, cached_statements=512)
    raw.create_function("julianday", 1, lambda _: 2440587.5 + (EPOCH_MS + _CLOCK[0]() * 1_000) / 86_400_000)
    engine = create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)
    return engine, raw


@cache
def _template(assets: tuple[Asset, ...]) -> bytes:
    scratch = create_engine("sqlite://", poolclass=StaticPool)
    metadata.create_all(scratch)
    with scratch.connect() as conn:
        registry.save(conn, AssetRegistry(assets), 0)
        conn.commit()
        driver = conn.connection.dbapi_connection
        assert isinstance(driver, sqlite3.Connection)
        return driver.serialize()


def _away(message: str) -> StorageError:
    error = StorageError(f"the database {message}; it is waited for")
    error.__cause__ = OperationalError(message, None, Exception(message))
    return error


class _Dialect:
    name = "sqlite"


class _Plain:
    """A connection of SQLAlchemy whose plain statements go to the driver at once."""

    dialect = _Dialect()

    def __init__(self, raw: sqlite3.Connection, alchemy: Connection) -> None:
        self._raw, self.execute = raw, alchemy.execute

    def exec_driver_sql(self, statement: str, values: Any) -> sqlite3.Cursor:
        return (
            self._raw.executemany(statement, values)
            if isinstance(values, list)
            else self._raw.execute(statement, values)
        )


class Store:
    """The database. ``fault()`` says what strikes the next transaction: "", "before", "instead" or "after"."""

    def __init__(
        self,
        assets: tuple[Asset, ...],
        clock: Callable[[], float],
        fault: Callable[[], str],
        broken: Callable[[str, str], None],
        node_ms: Callable[[], int],
        *,
        plain: bool = True,
    ) -> None:
        self.node_ms = node_ms
        engine, self.raw = _shared()
        _CLOCK[0] = clock
        self.raw.deserialize(_template(assets))
        self._alchemy: Connection = engine.connect()
        self.conn: Any = _Plain(self.raw, self._alchemy) if plain else self._alchemy
        self.fault, self.broken = fault, broken
        self.events: list[bytes] = []  # the outbox as committed
        self.committed_at: list[int] = []  # node ms, of each
        self.delivered: dict[tuple[Any, ...], tuple[tuple[Any, ...], float]] = {}  # key: highest write ever committed
        self.offered: list[tuple[str, dict[str, Any]]] = []  # by the transaction that runs
        self.commits = 0

    def close(self) -> None:
        self._alchemy.close()

    # --- transactions ---

    def run(self, work: Callable[[Connection], T], *, fenced: str | None) -> T:
        """One transaction. ``fenced``: the lease under which it may write."""
        fault = self.fault()
        if fault == "before":
            raise _away("is away")
        self.offered.clear()
        changes = self.raw.total_changes
        try:
            result = work(self.conn)
            if fault == "instead":
                raise _away("went away before the commit")
            if fenced is not None and self.raw.total_changes != changes:
                self._check_fence(fenced)
        except BaseException:
            self._end(self._alchemy.rollback)
            self.raw.rollback()
            raise
        self._end(self._alchemy.commit)
        self.raw.commit()
        self.commits += 1
        self._check_writes()
        self._check_outbox()
        if fault == "after":
            raise _away("was lost during the commit")
        return result

    @contextmanager
    def read(self) -> Iterator[Connection]:
        if self.fault() == "before":
            raise _away("is away")
        try:
            yield self.conn
        finally:
            self._end(self._alchemy.rollback)

    def _end(self, how: Callable[[], None]) -> None:
        """Tell SQLAlchemy that the transaction is over, if it knew of one."""
        if self._alchemy.in_transaction():
            how()

    # --- invariants 1, 2 and 5, after every commit ---

    def _check_fence(self, name: str) -> None:
        process: Any = PROCESS.get()
        row = self.raw.execute("SELECT holder, token FROM collector_leases WHERE name = ?", (name,)).fetchone()
        if row is None or row[1] not in process.tokens or row[0] != process.holder:
            self.broken("fence", f"{process.name} wrote with tokens {sorted(process.tokens)}, the newest is {row}")

    def _check_writes(self) -> None:
        touched = {}
        for table, row in self.offered:
            key, order, value = _identity(table, row)
            held = self.delivered.get(key)
            if held is None or order > held[0]:
                self.delivered[key] = order, value
            touched[key] = None
        for key in touched:
            self._check_row(key)

    def _check_row(self, key: tuple[Any, ...]) -> None:
        table, *identity = key
        found = self.raw.execute(_LOOK[table], identity).fetchone()
        order, value = self.delivered[key]
        if found is None or tuple(found[:-1]) != order or found[-1] != value:
            self.broken("writes", f"{key} holds {found}, the highest write delivered is {(*order, value)}")

    def _check_outbox(self) -> None:
        head = self.raw.execute("SELECT seq FROM outbox_heads WHERE channel = 'prices'").fetchone()
        known = len(self.events)
        if head is None or head[0] == known:
            return
        fresh = self.raw.execute(
            "SELECT seq, body FROM outbox WHERE channel = 'prices' AND seq > ? ORDER BY seq", (known,)
        ).fetchall()
        if [seq for seq, _ in fresh] != list(range(known + 1, head[0] + 1)):
            self.broken("outbox", f"after {known} come {[seq for seq, _ in fresh]}, and the head is {head[0]}")
        self.events += [body for _, body in fresh]
        self.committed_at += [self.node_ms()] * len(fresh)


_LOOK = {
    "price_data_real": "SELECT event_version, fetched_at, parser_version, payload_hash, current_price "
    "FROM price_data_real WHERE asset_id = ? AND slot = ? AND source = ?",
    "ohlc_data": "SELECT event_version, fetched_at, parser_version, payload_hash, close_price FROM ohlc_data "
    "WHERE asset_id = ? AND venue = ? AND interval_s = ? AND open_time = ? AND version = ?",
}
_ORDER = ("event_version", "fetched_at", "parser_version", "payload_hash")


def _identity(table: str, row: dict[str, Any]) -> tuple[tuple[Any, ...], tuple[Any, ...], float]:
    """Key, place in the total order, and value of a write; written out here, not asked of the code under test."""
    if table == price_data_real.name:
        key = (table, row["asset_id"], row["slot"], row["source"])
        return key, tuple(row[name] for name in _ORDER), row["current_price"]
    key = (table, row["asset_id"], row["venue"], row["interval_s"], row["open_time"], row["version"])
    return key, tuple(row[name] for name in _ORDER), row["close_price"]


class Database:
    """The store as one process sees it; has the face of :class:`ray_app.storage.engine.Database`."""

    dialect = "sqlite"
    where = "the simulation"

    def __init__(self, store: Store, fenced: str | None = None) -> None:
        self._store, self._fenced = store, fenced

    def run(self, work: Callable[[Connection], T]) -> T:
        return self._store.run(work, fenced=self._fenced)

    def read(self) -> Any:
        return self._store.read()

    def dispose(self) -> None:
        pass


class Leases(LeaseKeeper):
    """The node's own; remembers which tokens a process was given."""

    def acquire(self, name: str, holder: str, ttl_s: float) -> Lease | None:
        lease = super().acquire(name, holder, ttl_s)
        if lease is not None:
            process: Any = PROCESS.get()
            process.tokens.add(lease.token)
            process.acquired_s = _CLOCK[0]()
        return lease


class Ledger(MemoryLedger):
    """The budget's accounts; a transaction takes time and can fail before or after its commit."""

    def __init__(self, fault: Callable[[], str], paused: Callable[[str, int], None]) -> None:
        super().__init__()
        self._fault, self._paused = fault, paused

    async def transact(self, account: str, limits: Any, month: int, change: Any) -> Any:
        def work() -> Any:
            fault = self._fault()
            if fault in {"before", "instead"}:
                raise _away("is away")
            before = self.peek(account, limits, month)
            after, result = change(before)
            self._accounts[account] = after
            self._spent[account, month] = after.spent
            if after.paused_until > before.paused_until:
                self._paused(account, after.paused_until)
            if fault == "after":
                raise _away("was lost during the commit")
            return result

        return await asyncio.to_thread(work)


class Archive:
    """The archive all processes of a machine share; has the face of :class:`ray_app.collection.archive.Archive`."""

    def __init__(
        self,
        records: dict[str, list[tuple[ArchivedAt, Exchange]]],
        writer: str,
        full: Callable[[], bool],
        safe: Callable[[Exchange, bool], None],
    ) -> None:
        self._records, self._writer, self._full, self._safe = records, writer, full, safe

    def append(self, exchange: Exchange, collector: str) -> ArchivedAt:
        if self._full():
            self._safe(exchange, False)
            raise ArchiveError("the disk is full")
        segment = f"{exchange.request.endpoint}/{from_ms(exchange.fetched_at):%Y%m%dT%H}.{self._writer}.zst"
        held = self._records.setdefault(segment, [])
        digest = hashlib.sha256(exchange.body).hexdigest()
        number = sum(map(len, self._records.values())) & 0xFFFFF
        at = ArchivedAt(exchange.fetched_at << 20 | number, segment, len(held), digest, len(exchange.body))
        held.append((at, exchange))
        self._safe(exchange, True)
        return at

    def sync(self, segments: Iterable[str]) -> None:
        if self._full():
            raise ArchiveError("the disk is full")

    def segments(self, source: str | None = None) -> list[str]:
        return sorted(self._records, key=lambda name: (name.rsplit("/", 1)[1], name))

    def index(self, segment: str) -> list[Entry]:
        return [Entry(at.fetch_id, at.position, 1) for at, _ in self._records[segment]]

    def record(self, segment: str, position: int) -> tuple[ArchivedAt, Exchange]:
        return self._records[segment][position]

    def close(self) -> None:
        pass


def offering(store: Store) -> Callable[..., int]:
    """The node's guarded upsert, with each write noted before it is made."""

    def noted(conn: Connection, table: Any, rows: Any) -> int:
        if table is price_data_real or table is ohlc_data:
            store.offered += [(table.name, row) for row in rows]
        return upsert.guarded_upsert(conn, table, rows)

    return noted

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
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import orjson
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
from ray_app.storage import queries, registry, upsert
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
        # by key: order and value of the highest write ever committed, and the known_at that goes with it
        self.delivered: dict[tuple[Any, ...], tuple[tuple[Any, ...], float, int]] = {}
        self.offered: list[tuple[str, dict[str, Any]]] = []  # by the transaction that runs
        self.filed: list[dict[str, Any]] = []  # rows of fetches, by the transaction that runs
        self.disk = Disk()
        self.newest: dict[str, Any] = {}  # lease: the process that was last given it
        self.told: dict[int, int] = {}  # asset: slot of its last event
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
        self.filed.clear()
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
        self._check_archive()
        self._check_outbox(fenced is not None)
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
        elif self.newest[name] is not process:
            self.broken("fence", f"{process.name} wrote, and {self.newest[name].name} was given the lease since")

    def _check_writes(self) -> None:
        touched = {}
        for table, row in self.offered:
            key, order, value = _identity(table, row)
            known_at, held = row["known_at"], self.delivered.get(key)
            if held is None:
                self.delivered[key] = order, value, known_at
            else:
                best = (order, value, known_at) if order > held[0] else held
                self.delivered[key] = *best[:2], min(known_at, held[2]) if table == ohlc_data.name else best[2]
            touched[key] = None
        for key in touched:
            self._check_row(key)

    def _check_row(self, key: tuple[Any, ...]) -> None:
        table, *identity = key
        found = self.raw.execute(_LOOK[table], identity).fetchone()
        order, value, known_at = self.delivered[key]
        if found != (*order, value, known_at):
            self.broken("writes", f"{key} holds {found}, by the writes delivered it is {(*order, value, known_at)}")

    def _check_archive(self) -> None:
        """Whatever is committed is on the disk by then."""
        for row in self.filed:
            segment, position = row["segment"], row["position"]
            if position >= self.disk.synced.get(segment, 0):
                self.broken(
                    "archive", f"fetch {row['fetch_id']} is committed; {segment} at {position} is not on the disk"
                )

    def _check_outbox(self, fenced: bool) -> None:
        """Dense numbers; and an event of each asset whose newest price changes under a lease, of no other price."""
        head = self.raw.execute("SELECT seq FROM outbox_heads WHERE channel = 'prices'").fetchone()
        known = len(self.events)
        if head is None or head[0] == known:
            self._check_events([], fenced)
            return
        fresh = self.raw.execute(
            "SELECT seq, body FROM outbox WHERE channel = 'prices' AND seq > ? ORDER BY seq", (known,)
        ).fetchall()
        if [seq for seq, _ in fresh] != list(range(known + 1, head[0] + 1)):
            self.broken("outbox", f"after {known} come {[seq for seq, _ in fresh]}, and the head is {head[0]}")
        self.events += [body for _, body in fresh]
        self.committed_at += [self.node_ms()] * len(fresh)
        self._check_events([orjson.loads(body) for _, body in fresh], fenced)

    def _check_events(self, events: list[dict[str, Any]], fenced: bool) -> None:
        told = set()
        for event in events:
            key = (event["asset_id"], event["slot"], event["source"])
            row = self.raw.execute(_EVENT, key).fetchone()
            if row != (event["event_time"], event["known_at"], event["current_price"]):
                self.broken("outbox", f"an event of {key} says {event}, stored is {row}")
            if event["slot"] < self.told.get(event["asset_id"], 0):
                self.broken("outbox", f"an event of {key} comes after one of {self.told[event['asset_id']]}")
            self.told[event["asset_id"]] = event["slot"]
            told.add(key)
        if not fenced:
            return  # a rebuild tells nobody
        written = {}
        for table, row in self.offered:
            if table == price_data_real.name:
                key, order, _ = _identity(table, row)
                written[key[1:]] = max(order, written.get(key[1:], order))
        for asset_id in {key[0]: None for key in written}:
            rows = self.raw.execute(_NEWEST, (asset_id, asset_id)).fetchall()
            slot, source, *order = min(rows, key=lambda row: queries.SOURCE_PRIORITY.index(row[1]))
            if written.get((asset_id, slot, source)) == tuple(order) and (asset_id, slot, source) not in told:
                self.broken("outbox", f"{(asset_id, slot, source)} is stored and the newest, and there is no event")


_LOOK = {
    "price_data_real": "SELECT event_version, fetched_at, parser_version, payload_hash, current_price, known_at "
    "FROM price_data_real WHERE asset_id = ? AND slot = ? AND source = ?",
    "ohlc_data": "SELECT event_version, fetched_at, parser_version, payload_hash, close_price, known_at FROM ohlc_data "
    "WHERE asset_id = ? AND venue = ? AND interval_s = ? AND open_time = ? AND version = ?",
}
_EVENT = (
    "SELECT event_time, known_at, current_price FROM price_data_real WHERE asset_id = ? AND slot = ? AND source = ?"
)
_NEWEST = (
    "SELECT slot, source, event_version, fetched_at, parser_version, payload_hash FROM price_data_real "
    "WHERE asset_id = ? AND slot = (SELECT max(slot) FROM price_data_real WHERE asset_id = ?)"
)
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
    """The node's own; remembers who was given which token."""

    def __init__(self, store: Store) -> None:
        super().__init__(Database(store))  # type: ignore[arg-type]
        self._store = store

    def acquire(self, name: str, holder: str, ttl_s: float) -> Lease | None:
        lease = super().acquire(name, holder, ttl_s)
        if lease is not None:
            process: Any = PROCESS.get()
            process.tokens.add(lease.token)
            process.acquired_s = _CLOCK[0]()
            self._store.newest[name] = process
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


@dataclass
class Disk:
    """What the archives hold: records by segment, and how many of each would outlive a power failure."""

    records: dict[str, list[tuple[ArchivedAt, Exchange]]] = field(default_factory=dict)
    synced: dict[str, int] = field(default_factory=dict)
    count: int = 0


class Archive:
    """The archive all processes of a machine share; has the face of :class:`ray_app.collection.archive.Archive`."""

    def __init__(
        self, disk: Disk, writer: str, full: Callable[[], bool], safe: Callable[[Exchange, bool], None]
    ) -> None:
        self._disk, self._records = disk, disk.records
        self._writer, self._full, self._safe = writer, full, safe

    def append(self, exchange: Exchange, collector: str) -> ArchivedAt:
        if self._full():
            self._safe(exchange, False)
            raise ArchiveError("the disk is full")
        segment = f"{exchange.request.endpoint}/{from_ms(exchange.fetched_at):%Y%m%dT%H}.{self._writer}.zst"
        held = self._records.setdefault(segment, [])
        digest = hashlib.sha256(exchange.body).hexdigest()
        number = self._disk.count & 0xFFFFF
        self._disk.count += 1
        at = ArchivedAt(exchange.fetched_at << 20 | number, segment, len(held), digest, len(exchange.body))
        held.append((at, exchange))
        self._safe(exchange, True)
        return at

    def sync(self, segments: Iterable[str]) -> None:
        if self._full():
            raise ArchiveError("the disk is full")
        for segment in segments:
            self._disk.synced[segment] = len(self._records[segment])

    def segments(self, source: str | None = None) -> list[str]:
        return sorted(self._records, key=lambda name: (name.rsplit("/", 1)[1], name))

    def index(self, segment: str) -> list[Entry]:
        return [Entry(at.fetch_id, at.position, 1) for at, _ in self._records[segment]]

    def record(self, segment: str, position: int) -> tuple[ArchivedAt, Exchange]:
        return self._records[segment][position]

    def close(self) -> None:
        pass


def filing(store: Store, add_fetches: Callable[..., None]) -> Callable[..., None]:
    """The index of answers, with each row noted before it is written."""

    def noted(conn: Connection, rows: Any) -> None:
        store.filed += rows
        add_fetches(conn, rows)

    return noted


def offering(store: Store) -> Callable[..., int]:
    """The node's guarded upsert, with each write noted before it is made."""

    def noted(conn: Connection, table: Any, rows: Any) -> int:
        if table is price_data_real or table is ohlc_data:
            store.offered += [(table.name, row) for row in rows]
        return upsert.guarded_upsert(conn, table, rows)

    return noted

"""Ingestion: archive first, then one fenced transaction, then tell the event bus.

Every complete HTTP answer, error or not, passes through :meth:`Ingestor.archived`, which the transport calls before
it goes on. From then on the answer cannot be lost: if the database is down it waits (in memory and in the archive),
if the process dies :meth:`Ingestor.recover` finds it in the archive. The upstream is never asked twice for it. And it
is on the disk before the transaction that makes rows of it commits.

Answers that arrive together are committed together: one transaction carries whatever is waiting, up to a bound.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, SQLAlchemyError

from ray_app.assets import AssetRegistry
from ray_app.clock import Clock
from ray_app.collection import drift, recovery
from ray_app.collection.archive import Archive, ArchivedAt
from ray_app.collection.digest import Digest, digest
from ray_app.collection.event_bus import Notifier
from ray_app.collection.lease import Lease, LeaseKeeper
from ray_app.collection.refresh import refresh_registry
from ray_app.collection.store import Item, Written, write
from ray_app.errors import ArchiveError, LeaseLost, StorageError, UpstreamError
from ray_app.sources.base import Exchange, Parsed
from ray_app.storage import records
from ray_app.storage.engine import Database

log = logging.getLogger(__name__)

#: answers in one transaction, and rows in one transaction (a single larger body still goes whole)
BATCH_ITEMS = 64
BATCH_ROWS = 6_000
#: bodies held in memory while the database is away; beyond it answers are archived only and recovered later
MAX_PENDING_BYTES = 64 * 1024 * 1024
#: wall seconds between two tries while the database is away: first, longest
_RETRY_S = (0.1, 2.0)
#: wall seconds the notifier may take; it is a convenience, the outbox is the truth
_NOTIFY_S = 2.0


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of an exchange. ``again``: it was ingested before. ``error``: what the answer says went wrong."""

    fetch_id: int
    payload_hash: str
    outcome: str
    error: UpstreamError | None
    parsed: Parsed | None
    unknown: tuple[str, ...] = ()
    again: bool = False

    @property
    def ok(self) -> bool:
        """The answer was usable (or unchanged)."""
        return self.outcome in {"ok", "not_modified"}


@dataclass(eq=False, slots=True)
class _Pending:
    at: ArchivedAt
    exchange: Exchange
    done: asyncio.Future[Receipt]


@dataclass
class IngestState:
    """For health: what is waiting, and why."""

    waiting: int = 0
    waiting_bytes: int = 0
    stalled_by: str | None = None
    ingested: int = 0
    rows_changed: int = 0
    dropped_to_archive: int = 0
    notifier_error: str | None = None


@dataclass
class Ingestor:
    """Ingests the answers of one collector in one process.

    It acts only while :attr:`lease` is set and held. ``registry`` gives the asset registry in use,
    ``registry_changed`` is called after a refresh was committed. For one event loop.
    """

    db: Database
    archive: Archive
    leases: LeaseKeeper
    clock: Clock
    collector: str
    registry: Callable[[], AssetRegistry]
    notifier: Notifier | None = None
    registry_changed: Callable[[], None] = lambda: None
    state: IngestState = field(default_factory=IngestState)
    _queue: deque[_Pending] = field(default_factory=deque, repr=False)
    _by_exchange: dict[int, _Pending] = field(default_factory=dict, repr=False)
    _drift: drift.Watch = field(default_factory=drift.Watch, repr=False)
    _held: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    _lease: Lease | None = None
    _committer: asyncio.Task[None] | None = None
    #: answers on their way to the archive; what has begun to be written gets in line, whoever is cancelled
    _taking: set[asyncio.Task[_Pending]] = field(default_factory=set, repr=False)
    #: ms: when the oldest answer was fetched that was left to the archive; None: there is none
    _left_since: int | None = None

    @property
    def behind(self) -> bool:
        """Answers exist that are in the archive only: :meth:`recover` is due."""
        return self._left_since is not None

    # --- lease ---

    @property
    def lease(self) -> Lease | None:
        """The lease under which this process writes; None: it writes nothing."""
        return self._lease

    @lease.setter
    def lease(self, lease: Lease | None) -> None:
        self._lease = lease
        if lease is None:
            self._held.clear()
        else:
            self._held.set()

    # --- taking in ---

    async def archived(self, exchange: Exchange) -> None:
        """Archive a complete answer and put it in line. Raises ArchiveError: then nothing is known of it anywhere."""
        await self._take(exchange)

    async def ingest(self, exchange: Exchange) -> Receipt:
        """Wait until the answer is committed (archiving it first, if the transport has not) and say what it held.

        Waits while the database is away. Raises LeaseLost when another holder has taken over; StorageError when the
        rows cannot be stored (a defect), or when too much is waiting already (the answer is safe in the archive).
        """
        pending = self._by_exchange.pop(id(exchange), None) or await self._take(exchange, remember=False)
        return await asyncio.shield(pending.done)

    async def _take(self, exchange: Exchange, *, remember: bool = True) -> _Pending:
        taking = asyncio.create_task(self._append(exchange, remember=remember))
        self._taking.add(taking)
        taking.add_done_callback(self._taking.discard)
        taking.add_done_callback(_retrieve)
        return await asyncio.shield(taking)

    async def _append(self, exchange: Exchange, *, remember: bool) -> _Pending:
        at = await asyncio.to_thread(self.archive.append, exchange, self.collector)
        pending = _Pending(at, exchange, asyncio.get_running_loop().create_future())
        pending.done.add_done_callback(_retrieve)
        if remember:
            # keyed by identity: the transport hands the very same object to its caller. Refused attempts that
            # nobody asks for leave with their commit (_finish).
            self._by_exchange[id(exchange)] = pending
        if self.state.waiting_bytes + len(exchange.body) > MAX_PENDING_BYTES:
            self._left_since = min(exchange.fetched_at, self._left_since or exchange.fetched_at)
            self._forget_later(pending)
            self.state.dropped_to_archive += 1
            message = "the database has been away for long; the answer is archived and will be ingested from there"
            pending.done.set_exception(StorageError(message))
            return pending
        self._enqueue(pending)
        return pending

    def _enqueue(self, pending: _Pending) -> None:
        self._queue.append(pending)
        self.state.waiting += 1
        self.state.waiting_bytes += len(pending.exchange.body)
        if self._committer is None or self._committer.done():
            self._committer = asyncio.get_running_loop().create_task(
                self._commit_all(), name=f"ingest {self.collector}"
            )

    # --- committing ---

    async def _commit_all(self) -> None:
        """Commit what is in line until nothing is."""
        delay = _RETRY_S[0]
        while self._queue:
            await self._held.wait()
            lease, batch = self._lease, list(self._queue)[:BATCH_ITEMS]
            if lease is None:
                continue
            items, error = await self._try(batch, lease)
            if error is None:
                delay, self.state.stalled_by = _RETRY_S[0], None
                continue
            if isinstance(error, LeaseLost):
                self._lose(lease, error)
            elif _is_away(error):
                if self.state.stalled_by is None:
                    log.warning("%s: %d answers wait for the database: %s", self.collector, len(self._queue), error)
                self.state.stalled_by = str(error)
                await asyncio.sleep(delay)  # wall time: a server comes back when it does
                delay = min(delay * 2, _RETRY_S[1])
            else:
                await self._one_by_one(items, lease)

    async def _try(self, batch: Sequence[_Pending], lease: Lease) -> tuple[list[_Pending], Exception | None]:
        """Commit as many of the batch as fit one transaction; the ones tried, and what went wrong."""
        tried = list(batch)
        try:
            tried, items, written = await asyncio.to_thread(self._commit, tried, lease)
        except Exception as error:  # noqa: BLE001 - classified and logged by the caller; nothing may stop the line
            return tried, error
        self._finish(tried, items, written)
        await self._notify(written)
        return tried, None

    async def _one_by_one(self, batch: Sequence[_Pending], lease: Lease) -> None:
        """Something in the batch cannot be stored: find it, report it, and let the others through."""
        for pending in batch:
            _, error = await self._try([pending], lease)
            if error is None:
                continue
            if isinstance(error, LeaseLost) or _is_away(error):
                return  # the line is intact; the main loop deals with it
            log.error(
                "%s: an answer of %s (fetch %d, %s at %d) cannot be stored; it stays in the archive",
                self.collector,
                pending.exchange.request.endpoint,
                pending.at.fetch_id,
                pending.at.segment,
                pending.at.position,
                exc_info=error,
            )
            self._leave(pending)
            if not pending.done.done():
                pending.done.set_exception(error)

    def _commit(self, batch: list[_Pending], lease: Lease) -> tuple[list[_Pending], list[Item], Written]:
        """Parse and write, in a thread. The parse happens once, outside the transaction."""
        try:
            self.archive.sync({pending.at.segment for pending in batch})
        except ArchiveError as error:
            raise StorageError("nothing is committed whose payload the disk does not take") from error
        registry = self.registry()
        items: list[Item] = []
        rows = 0
        for pending in batch:
            found = digest(pending.exchange, pending.at, registry)
            rows += found.row_count
            if items and rows > BATCH_ROWS:
                break
            items.append(Item(pending.at, self.collector, pending.exchange, found))
        unlike = self._drift.unlike(items)
        refreshed = False
        shapes: dict[str, drift.Shape] = {}

        def work(conn: Connection) -> Written:
            nonlocal refreshed, shapes
            self.leases.assert_held(conn, lease)
            written = write(conn, items, registry, self.clock.now_ms())
            refreshed = refresh_registry(conn, self.archive, [i for i in items if i.at.fetch_id in written.fresh])
            shapes = drift.take_in(conn, [(i, body) for i, body in unlike if i.at.fetch_id in written.fresh])
            if written.newest_event is not None:
                records.saw_event(conn, self.collector, written.newest_event)
            return written

        written = self.db.run(work)
        self._drift.remember(shapes)
        if refreshed:
            self.registry_changed()
        return batch[: len(items)], items, written

    def _finish(self, batch: Sequence[_Pending], items: Sequence[Item], written: Written) -> None:
        self.state.ingested += len(written.fresh)
        self.state.rows_changed += written.changed
        for pending, item in zip(batch, items, strict=True):
            self._leave(pending)
            if not pending.done.done():
                pending.done.set_result(_receipt(item.at, item.found, again=item.at.fetch_id not in written.fresh))

    def _leave(self, pending: _Pending) -> None:
        self._queue.remove(pending)
        self.state.waiting -= 1
        self.state.waiting_bytes -= len(pending.exchange.body)
        self._forget_later(pending)

    def _forget_later(self, pending: _Pending) -> None:
        """Nobody may ever ask for a refused attempt; who asks for an answer does so in this turn or the next."""
        key = id(pending.exchange)

        def forget() -> None:
            if self._by_exchange.get(key) is pending:
                del self._by_exchange[key]

        asyncio.get_running_loop().call_later(5.0, forget)

    def _lose(self, lease: Lease, error: LeaseLost) -> None:
        """Somebody else acts now: write nothing, and let every waiter know. The answers stay archived and in line.

        Where the lease is ours again already, under another token, the line is tried with that one.
        """
        if self._lease is not None and self._lease is not lease:
            return
        self.lease = None
        for pending in self._queue:
            if not pending.done.done():
                pending.done.set_exception(error)

    async def _notify(self, written: Written) -> None:
        if self.notifier is None or not written.events:
            return
        try:
            async with asyncio.timeout(_NOTIFY_S):
                for told in written.events:
                    await self.notifier.publish(told.channel, list(enumerate(told.bodies, told.first_seq)))
        except Exception as error:  # noqa: BLE001 - whatever it is: the outbox has the events, readers look there
            if self.state.notifier_error is None:
                log.warning("%s: event bus not told (readers use the outbox): %r", self.collector, error)
            self.state.notifier_error = repr(error)
        else:
            self.state.notifier_error = None

    # --- recovery ---

    async def recover(self, since_ms: int | None = None) -> int:
        """Ingest what this collector archived but never committed (a crash, a long outage); how many answers.

        What stands in line already, from an earlier hold of the lease, is committed too when this returns: whoever
        looks for missing slots next finds it stored. ``since_ms``: where to begin; default: an hour before the last
        commit of this collector.
        """
        standing = [self._promise(pending) for pending in self._queue]
        left_since, self._left_since = self._left_since, None  # whatever is left from now on asks for another look
        lost = await asyncio.to_thread(recovery.lost, self.db, self.archive, self.collector, since_ms, left_since)
        recovered = 0
        for start in range(0, len(lost), BATCH_ITEMS):
            waiting = [pending.done for pending in await self._again(lost[start : start + BATCH_ITEMS])]
            recovered += len(waiting)
            if waiting:
                await asyncio.wait(waiting)
        if standing:
            await asyncio.wait(standing)
        if recovered:
            log.info("%s: %d archived answers ingested that had not been committed", self.collector, recovered)
        return recovered

    @staticmethod
    def _promise(pending: _Pending) -> asyncio.Future[Receipt]:
        """What tells that the answer has left the line; a new one if its asker was told that the lease was lost."""
        if pending.done.done():
            pending.done = asyncio.get_running_loop().create_future()
            pending.done.add_done_callback(_retrieve)
        return pending.done

    async def _again(self, places: Sequence[recovery.Place]) -> list[_Pending]:
        """Put archived answers in line, but for those that stand there already."""
        found = await asyncio.to_thread(recovery.read, self.archive, places)
        own = {pending.at.fetch_id for pending in self._queue}
        again = []
        for at, exchange in found:
            if at.fetch_id not in own:
                again.append(_Pending(at, exchange, asyncio.get_running_loop().create_future()))
                again[-1].done.add_done_callback(_retrieve)
                self._enqueue(again[-1])
        return again

    # --- end ---

    async def drain(self, timeout_s: float) -> bool:
        """Wait at most ``timeout_s`` wall seconds for the line to empty; False if it did not (the archive has it)."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._taking:
                    await asyncio.wait(self._taking)
                if self._committer is not None:
                    await asyncio.wait({self._committer})
        return not self._taking and not self._queue

    async def aclose(self) -> None:
        """Stop committing; what is left is in the archive."""
        if self._taking:  # appending to a file takes milliseconds, and the archive is closed next
            await asyncio.wait(self._taking)
        if self._committer is not None and not self._committer.done():
            self._committer.cancel()
            await asyncio.wait({self._committer})
        for pending in self._queue:
            pending.done.cancel()


def _receipt(at: ArchivedAt, found: Digest, *, again: bool) -> Receipt:
    return Receipt(at.fetch_id, at.payload_hash, found.outcome, found.error, found.parsed, found.unknown, again)


def _is_away(error: Exception) -> bool:
    """Whether database or disk cannot be used now (rather than rows that no database would ever take)."""
    cause = error.__cause__
    away = isinstance(cause, SQLAlchemyError | ArchiveError) and not isinstance(cause, DataError)
    return isinstance(error, StorageError) and away


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Mark an exception as seen: nobody waits for the answers of refused attempts."""
    if not future.cancelled():
        future.exception()

"""One reader of an outbox channel per process, and the clients it writes to.

The hub holds the channel's state as of exactly one event (``seq``). It advances event by event, without a pause
between taking an event in and handing it to the clients, so whoever reads ``state`` and attaches in one breath sees
each event exactly once: in the snapshot, or as an update.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Any, Protocol

from sqlalchemy.exc import SQLAlchemyError

from ray_app.collection.event_bus import Event, Hotline
from ray_app.collection.price_events import UnreadableEvent
from ray_app.errors import StorageError
from ray_app.serving.channels import Channel, State, StreamEvent
from ray_app.serving.feed import Gap, OutboxFeed, read_after
from ray_app.storage import outbox
from ray_app.storage.engine import Database

log = logging.getLogger(__name__)

#: how much of the recent past is kept decoded, so that clients that come back do not read the table (an event weighs
#: about 1 kB decoded)
LOG_EVENTS = 10_000
#: at most this many clients read the table at a time
TABLE_READERS = 4
#: wall seconds before the state is read again after the database could not be read
RETRY_S = 1.0
#: events between two breaths of the event loop
BREATH = 32


class Client(Protocol):
    """What the hub needs of a connection."""

    def deliver(self, event: StreamEvent) -> None:
        """Queue the event if the client wants it; never blocks."""

    def lost(self, first_missing: int, last_missing: int | None, first_available: int) -> None:
        """Events are gone for good; the hub's state has been read anew."""


class ChannelHub:
    """A channel as of :attr:`seq`, kept current from the outbox, and written to the attached clients."""

    def __init__(
        self, db: Database, hotline: Hotline | None, channel: Channel[Any], log_events: int | None = None
    ) -> None:
        #: what it reads, whose sequence numbers these are
        self.channel = channel
        self._db = db
        self._hotline = hotline
        self._feed: OutboxFeed | None = None
        self._log: deque[StreamEvent | None] = deque(maxlen=log_events or LOG_EVENTS)  # None: an unreadable event
        self._clients: set[Client] = set()  # attached for all assets
        self._by_asset: dict[int, set[Client]] = {}
        self._readers = asyncio.Semaphore(TABLE_READERS)
        self._advanced = asyncio.Event()
        self.ready = asyncio.Event()
        #: as of :attr:`seq`; there once :attr:`ready` is set
        self.state: State[Any]
        self.seq = 0
        #: rises each time the state was read anew behind a gap
        self.generation = 0
        self.unreadable = 0

    @property
    def feed(self) -> OutboxFeed | None:
        """The feed it reads, once there is one."""
        return self._feed

    # --- clients -------------------------------------------------------------------------------------------

    def attach(self, client: Client, assets: Iterable[int] | None) -> None:
        """Deliver events after :attr:`seq` of ``assets`` (None: of all) to ``client``; replaces what was before."""
        self.detach(client)
        if assets is None:
            self._clients.add(client)
            return
        for asset_id in assets:
            self._by_asset.setdefault(asset_id, set()).add(client)

    def detach(self, client: Client) -> None:
        """Deliver nothing more to ``client``."""
        self._clients.discard(client)
        for asset_id in [asset_id for asset_id, clients in self._by_asset.items() if client in clients]:
            clients = self._by_asset[asset_id]
            clients.discard(client)
            if not clients:
                del self._by_asset[asset_id]

    # --- the past ------------------------------------------------------------------------------------------

    async def events_after(self, after_seq: int, limit: int) -> list[StreamEvent | None]:
        """Events after ``after_seq`` up to :attr:`seq`, contiguous, at most ``limit``; None for an unreadable one.

        From memory where it reaches, else from the table. [] if there are none. Raises Gap where they are pruned,
        StorageError where the table cannot be read.
        """
        first_in_memory = self.seq - len(self._log) + 1
        if after_seq + 1 >= first_in_memory:
            skipped = after_seq + 1 - first_in_memory
            return list(islice(self._log, skipped, skipped + limit))
        async with self._readers:
            events = await asyncio.to_thread(self._read_table, after_seq, limit)
        return [self._decode(seq, body) for seq, body in events if seq <= self.seq]

    def _read_table(self, after_seq: int, limit: int) -> list[Event]:
        try:
            with self._db.read() as conn:
                return read_after(conn, self.channel.name, after_seq, limit)
        except SQLAlchemyError as error:
            raise StorageError(f"outbox channel {self.channel.name}: {type(error).__name__}") from error

    async def head(self) -> int:
        """The newest event in the table (this process may be a moment behind it)."""

        def work() -> int:
            with self._db.read() as conn:
                return outbox.head(conn, self.channel.name)

        return await asyncio.to_thread(work)

    async def reached(self, seq: int) -> None:
        """Return once :attr:`seq` is at least ``seq``."""
        while self.seq < seq:
            await self._advanced.wait()

    # --- the reader ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read until cancelled. Nothing the database or the hotline does ends it."""
        try:
            while True:
                await self._load()
                try:
                    await self._follow()
                except Gap as gap:
                    log.warning("%s stream: %s", self.channel.name, gap)
                    await self._restart(gap)
        finally:
            if self._feed is not None:
                await self._feed.aclose()

    async def _load(self) -> None:
        """Take the state of the database as of one event."""
        while True:
            try:
                seq, state = await asyncio.to_thread(self._read_state)
                break
            except (StorageError, SQLAlchemyError) as error:
                log.warning("%s stream: no state yet, trying again: %s", self.channel.name, type(error).__name__)
                await asyncio.sleep(RETRY_S)
        self._log.clear()
        self.state, self.seq = state, seq
        if self._feed is None:
            self._feed = OutboxFeed(self._db, self.channel.name, self._hotline, after_seq=seq)
        else:
            self._feed.seek(seq)
        self.ready.set()
        self._wake()

    def _read_state(self) -> tuple[int, State[Any]]:
        with self._db.read() as conn:  # one snapshot: the state is as of exactly this event
            seq = outbox.head(conn, self.channel.name)
            return seq, self.channel.load(conn, seq)

    async def _follow(self) -> None:
        assert self._feed is not None  # noqa: S101 - _load made it
        async for batch in self._feed:
            for number, (seq, body) in enumerate(batch, start=1):
                self._advance(seq, body)
                if number % BREATH == 0:
                    await asyncio.sleep(0)

    def _advance(self, seq: int, body: bytes) -> None:
        event = self._decode(seq, body)
        self._log.append(event)
        self.seq = seq
        if event is not None:
            self.state.apply(event)
            assets = self.channel.assets(event)
            for client in self._clients.union(*(self._by_asset.get(asset, ()) for asset in assets)):
                client.deliver(event)
        self._wake()

    def _decode(self, seq: int, body: bytes) -> StreamEvent | None:
        try:
            found: StreamEvent = self.channel.parse(seq, body)
        except UnreadableEvent as error:
            self.unreadable += 1
            log.error("%s stream: %s", self.channel.name, error)  # noqa: TRY400 - the message says it all
            return None
        return found

    async def _restart(self, gap: Gap) -> None:
        """Read the state anew and tell every client what it will never see."""
        await self._load()
        self.generation += 1
        last_missing = self.seq if self.seq >= gap.first_missing else None
        for client in {*self._clients, *(client for clients in self._by_asset.values() for client in clients)}:
            client.lost(gap.first_missing, last_missing, self.seq + 1)

    def _wake(self) -> None:
        self._advanced.set()
        self._advanced = asyncio.Event()

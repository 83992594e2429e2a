"""One channel of the outbox as an endless series of contiguous batches: nothing skipped, nothing twice.

The table is the truth, the hotline (the event bus) is how news travels in milliseconds. Whatever the hotline does
(restarts, loses notifications, answers out of place, raises, hangs), the feed goes on from the table: at once where
an answer does not fit, every second while the hotline fails, and every :data:`QUIET_S` seconds while it says that
nothing has happened. All waiting here is in wall time: it is about processes, not about the market.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Literal

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from ray_app.collection.event_bus import Event, Hotline
from ray_app.errors import CryptoDataError, StorageError
from ray_app.storage import outbox
from ray_app.storage.engine import Database

log = logging.getLogger(__name__)

#: how long one question to the hotline may stay unanswered; also how late an event can be whose notification is lost
QUIET_S = 5.0
#: how much longer than it promised the hotline may take before it counts as failing
GRACE_S = 2.0
#: how often the table is read while the hotline fails or there is none
POLL_S = 1.0
#: events read from the table at a time
BATCH = 1_000

HotlineState = Literal["off", "ok", "failing"]


class Gap(CryptoDataError):
    """The outbox no longer holds what follows the reader's position; the state must be read anew.

    Missing are ``first_missing`` … ``first_available - 1``. Where ``first_available <= first_missing`` the table
    ends before the reader's position: it is not the table the reader knew (another database).
    """

    def __init__(self, channel: str, first_missing: int, first_available: int) -> None:
        super().__init__(
            f"outbox channel {channel!r} holds nothing between {first_missing} and {first_available} any more: "
            "read the current state and follow from there"
        )
        self.channel = channel
        self.first_missing = first_missing
        self.first_available = first_available


class OutboxFeed(AsyncIterator[list[Event]]):
    """The events of ``channel`` after ``after_seq`` (None: what comes after the first look), batch by batch.

    Iterating raises :class:`Gap` where the table was pruned beyond the position; the position stays, so a consumer
    either gives up or calls :meth:`seek` and goes on. A database that cannot be read is waited for and logged, not
    raised: the position stands, and nothing is lost by waiting. One consumer per feed.
    """

    def __init__(
        self,
        db: Database,
        channel: str,
        hotline: Hotline | None = None,
        *,
        after_seq: int | None = None,
        poll_s: float = POLL_S,
        quiet_s: float = QUIET_S,
    ) -> None:
        self._db = db
        self._channel = channel
        self._hotline = hotline
        self._position = after_seq
        self._poll_s = poll_s
        self._quiet_s = quiet_s
        self._failing = False
        self._table_failing = False
        self._read_table = True  # what was published before the first question is only there for sure
        self._question: asyncio.Task[list[Event]] | None = None

    @property
    def position(self) -> int | None:
        """The last sequence number delivered (or started from); None before the first look at the table."""
        return self._position

    @property
    def hotline_state(self) -> HotlineState:
        """``off``: there is none; ``failing``: the table is polled instead."""
        if self._hotline is None:
            return "off"
        return "failing" if self._failing else "ok"

    @property
    def table_failing(self) -> bool:
        """Whether the last read of the table failed."""
        return self._table_failing

    async def head(self) -> int:
        """The newest sequence number in the table; 0 if the channel has none yet."""

        def work() -> int:
            with self._db.read() as conn:
                return outbox.head(conn, self._channel)

        return await asyncio.to_thread(work)

    def seek(self, after_seq: int) -> None:
        """Go on after ``after_seq``: what a consumer does once it has read the state as of that event."""
        self._position = after_seq
        self._read_table = True

    async def aclose(self) -> None:
        """Let go of the hotline. The feed can be iterated again."""
        question, self._question = self._question, None
        if question is not None:
            question.cancel()
            await asyncio.wait({question})
            if not question.cancelled():
                question.exception()  # taken note of, so that asyncio does not report it as forgotten

    async def __anext__(self) -> list[Event]:
        while True:
            if self._read_table or self._position is None:
                events = await self._from_table()
                if events:
                    return events
                if self._position is None:
                    continue
            if (events := await self._from_hotline(self._position)) or (events := await self._from_table()):
                return events

    async def _from_hotline(self, position: int) -> list[Event]:
        """The hotline's next events if they continue ``position``; [] when the table is to be read."""
        self._read_table = False
        if self._hotline is None:
            await asyncio.sleep(self._poll_s)
            return []
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        if self._question is None:
            self._question = asyncio.create_task(self._ask(self._hotline, position))
        patience = self._poll_s if self._failing else self._quiet_s + GRACE_S
        done, _ = await asyncio.wait({self._question}, timeout=patience)
        if not done:
            # A failing hotline keeps the question it already has: the answer is its sign of recovery.
            if not self._failing:
                self._fails(f"no answer within {patience:g} s")
            return []
        question, self._question = self._question, None
        try:
            events = question.result()
        except (asyncio.CancelledError, Exception) as error:  # noqa: BLE001 - remote code: every failure is the same
            self._fails(repr(error))
            await asyncio.sleep(max(0.0, self._poll_s - (loop.time() - asked_at)))
            return []
        self._works()
        fitting = _fitting(events, position)
        if fitting:
            self._position = fitting[-1][0]
        elif loop.time() - asked_at < self._poll_s:
            fitting = await self._after_a_quick_no(loop.time() - asked_at)
        return fitting

    async def _ask(self, hotline: Hotline, after_seq: int) -> list[Event]:
        return await hotline.wait(self._channel, after_seq, self._quiet_s)

    async def _after_a_quick_no(self, took_s: float) -> list[Event]:
        """A hotline that says "read the table" although the table has nothing must not make the feed spin."""
        events = await self._from_table()
        if not events:
            await asyncio.sleep(self._poll_s - took_s)
        return events

    async def _from_table(self) -> list[Event]:
        """The next events in the table, [] if it has none or cannot be read; raises Gap."""
        try:
            events = await asyncio.to_thread(self._read)
        except Gap:
            self._read_table = True
            raise
        except (SQLAlchemyError, StorageError) as error:
            if not self._table_failing:
                log.warning("outbox of channel %s cannot be read, trying on: %s", self._channel, type(error).__name__)
            self._table_failing = True
            if self._position is None:
                await asyncio.sleep(self._poll_s)
            return []
        if self._table_failing:
            log.info("outbox of channel %s can be read again", self._channel)
        self._table_failing = False
        if events:
            self._position = events[-1][0]
            self._read_table = len(events) == BATCH
        return events

    def _read(self) -> list[Event]:
        with self._db.read() as conn:
            if self._position is None:
                self._position = outbox.head(conn, self._channel)
                return []
            return read_after(conn, self._channel, self._position, BATCH)

    def _fails(self, why: str) -> None:
        if not self._failing:
            log.warning("hotline of channel %s fails, polling the outbox: %s", self._channel, why)
        self._failing = True

    def _works(self) -> None:
        if self._failing:
            log.info("hotline of channel %s works again", self._channel)
            self._read_table = True  # a notification may have been lost meanwhile
        self._failing = False


def read_after(conn: Connection, channel: str, after_seq: int, limit: int) -> list[Event]:
    """The events after ``after_seq`` in the table, contiguous, at most ``limit``; raises Gap where they are pruned."""
    events = outbox.read(conn, channel, after_seq, limit)
    fitting = _fitting(events, after_seq)
    if fitting:
        return fitting
    if events:
        raise Gap(channel, after_seq + 1, events[0][0])
    head = outbox.head(conn, channel)
    if head != after_seq:
        raise Gap(channel, after_seq + 1, head + 1)
    return []


def _fitting(events: list[Event], after_seq: int) -> list[Event]:
    """The leading part of ``events`` that continues ``after_seq`` without a hole; what is older is dropped."""
    fitting: list[Event] = []
    expected = after_seq + 1
    for event in events:
        if event[0] == expected:
            fitting.append(event)
            expected += 1
        elif event[0] > expected:
            break
    return fitting

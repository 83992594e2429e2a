"""Keep a price board current: snapshot of the database, then the outbox's channels."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from sqlalchemy.exc import SQLAlchemyError

from ray_app.collection.event_bus import Event
from ray_app.collection.store import PRICE_CHANNEL, TICK_CHANNEL
from ray_app.errors import StorageError
from ray_app.serving.prices_board import PriceBoard
from ray_app.storage import gateway_queries, outbox
from ray_app.storage.engine import Database

logger = logging.getLogger(__name__)

#: wall seconds between two looks at the database while the feed does not work
REFRESH_S = 5.0
#: wall seconds between two comparisons with the database while the feed works
RECONCILE_S = 60.0


class SeekableFeed(Protocol):
    """What the board follows (serving/feed.py)."""

    def __aiter__(self) -> AsyncIterator[list[Event]]:
        """Batches of events, ascending, without holes; raises where events have been lost."""

    async def aclose(self) -> None:
        """Let go of what the feed holds."""


class BoardKeeper:
    """Keeps a board current: snapshot, then the feed; whatever happens to the feed, the snapshot again.

    ``open_feed(after_seq)`` makes a feed. The head of the outbox is read *before* the snapshot, so nothing can fall
    between the two. While the feed fails, the database is read every ``refresh_s`` wall seconds instead.
    """

    def __init__(
        self,
        board: PriceBoard,
        db: Database,
        open_feed: Callable[[int], SeekableFeed],
        refresh_s: float = REFRESH_S,
    ) -> None:
        self._board = board
        self._db = db
        self._open_feed = open_feed
        self._refresh_s = refresh_s
        self.state = "starting"  # then "following" or "refreshing" (the feed or the database fails)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.reload()
                await self._follow()
            except (StorageError, SQLAlchemyError) as error:
                self._fails(f"the database cannot be read: {error}")
            except Exception as error:  # noqa: BLE001 - whatever ends the feed, prices go on from the table
                self._fails(f"the feed ended: {error!r}")
            else:
                self._fails("the feed ended")
            await asyncio.sleep(self._refresh_s)

    async def reload(self) -> None:
        """Read everything anew from the database."""
        head, rows = await asyncio.to_thread(self._read)
        self._board.load(rows, head)

    def reload_now(self) -> None:
        """The same, blocking: before the event loop has anything to do."""
        head, rows = self._read()
        self._board.load(rows, head)

    def _read(self) -> tuple[int, list[dict[str, Any]]]:
        with self._db.read() as conn:
            head = outbox.head(conn, PRICE_CHANNEL)
            return head, gateway_queries.board_prices(conn)

    async def reconcile(self) -> None:
        """Every minute of wall time: take in what makes no event (a second source's row of the same slot)."""
        while True:
            await asyncio.sleep(RECONCILE_S)
            try:
                _, rows = await asyncio.to_thread(self._read)
            except (StorageError, SQLAlchemyError) as error:
                logger.info("current prices not compared with the database this time: %s", error)
            else:
                self._board.merge(rows)

    async def _follow(self) -> None:
        feed = self._open_feed(self._board.position)
        # a feed that has lasted as long as a refresh would have waited works, even if there is no news
        lasted = asyncio.get_running_loop().call_later(self._refresh_s, self._works)
        try:
            async for batch in feed:
                self._works()
                self._board.apply(batch)
        finally:
            lasted.cancel()
            await feed.aclose()

    def _works(self) -> None:
        self.state = "following"

    def _fails(self, why: str) -> None:
        if self.state != "refreshing":
            logger.warning("current prices are read from the database every %g s: %s", self._refresh_s, why)
        self.state = "refreshing"


class TickKeeper:
    """Keeps a board's ticks current. They are a convenience: what is lost is replaced by the next tick or reload."""

    def __init__(self, board: PriceBoard, db: Database, open_feed: Callable[[int], SeekableFeed]) -> None:
        self._board = board
        self._db = db
        self._open_feed = open_feed

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._follow()
            except Exception as error:  # noqa: BLE001 - whatever ends the feed, the next one begins at the newest tick
                logger.info("live ticks are followed anew: %r", error)
            await asyncio.sleep(REFRESH_S)

    def _head(self) -> int:
        with self._db.read() as conn:
            return outbox.head(conn, TICK_CHANNEL)

    async def _follow(self) -> None:
        feed = self._open_feed(await asyncio.to_thread(self._head))
        try:
            async for batch in feed:
                self._board.apply(batch, TICK_CHANNEL)
        finally:
            await feed.aclose()

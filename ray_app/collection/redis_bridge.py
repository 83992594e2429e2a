"""Publishes price updates to Redis for consumers outside Ray: channel ``price_update:SYMBOL``, the WebSocket's message.

Redis is optional and never in the way: publishing returns at once, whatever Redis does. What cannot be sent waits in a
bounded queue from which the oldest goes first, is counted, and is sent after a reconnection. Pub/sub remembers
nothing, so consumers that must not miss anything use ``/ws/prices`` with ``resume``; ``seq`` lets them tell.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from redis.asyncio import Redis
from redis.exceptions import RedisError

from ray_app.collection.event_bus import Event
from ray_app.collection.price_events import ALL_FIELDS, PriceEvent, UnreadableEvent

log = logging.getLogger(__name__)

#: events that may wait (about 0.3 kB each)
MAX_QUEUED = 10_000
#: events in one round trip
BATCH = 500
#: wall seconds: for one round trip or connection attempt, and the bounds of the wait between two attempts
TIMEOUT_S = 5.0
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class BridgeState:
    """How the bridge fares. Counts are since it was made; ``error`` is the kind of the last failure, never its text."""

    state: Literal["idle", "ok", "failing"]
    published: int
    dropped: int
    queued: int
    error: str | None


class RedisBridge:
    """A Notifier that passes price updates on to Redis. ``url`` may hold a password and is never printed."""

    def __init__(
        self,
        url: str,
        *,
        max_queued: int = MAX_QUEUED,
        timeout_s: float = TIMEOUT_S,
        first_wait_s: float = FIRST_WAIT_S,
    ) -> None:
        self._redis = Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=None, health_check_interval=0
        )
        self._max_queued = max_queued
        self._first_wait_s = first_wait_s
        self._queue: deque[tuple[str, str]] = deque()  # channel, message
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._published = self._dropped = 0
        self._error: str | None = None

    async def publish(self, channel: str, events: Sequence[Event]) -> None:
        """Queue the price updates among ``events``; never waits for Redis, never raises. Repairs are no updates."""
        if channel != "prices":
            return
        for seq, body in events:
            try:
                event = PriceEvent.parse(seq, body)
            except UnreadableEvent as error:
                log.warning("not passed on to Redis: %s", error)
                continue
            if not event.is_repair:
                self._queue.append((f"price_update:{event.symbol}", event.text(ALL_FIELDS)))
        self._bound()
        self._wake.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    def state(self) -> BridgeState:
        """For /health and metrics."""
        state: Literal["idle", "ok", "failing"] = "ok" if self._published else "idle"
        return BridgeState(
            state="failing" if self._error is not None else state,
            published=self._published,
            dropped=self._dropped,
            queued=len(self._queue),
            error=self._error,
        )

    async def aclose(self) -> None:
        """Stop; what is still queued is given up."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._redis.aclose()

    async def _run(self) -> None:
        wait_s = self._first_wait_s
        while True:
            self._wake.clear()
            if not self._queue:
                await self._wake.wait()
            batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            try:
                await self._send(batch)
            except (RedisError, OSError, TimeoutError) as error:
                self._queue.extendleft(reversed(batch))
                self._bound()
                self._failed(error)
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, LONGEST_WAIT_S)
            else:
                self._succeeded(len(batch))
                wait_s = self._first_wait_s

    async def _send(self, batch: Sequence[tuple[str, str]]) -> None:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for channel, message in batch:
                pipeline.publish(channel, message)
            await pipeline.execute()

    def _bound(self) -> None:
        while len(self._queue) > self._max_queued:
            self._queue.popleft()
            self._dropped += 1

    def _failed(self, error: BaseException) -> None:
        if self._error is None:
            log.warning("Redis does not take price updates, trying on: %s", type(error).__name__)
        self._error = type(error).__name__

    def _succeeded(self, count: int) -> None:
        if self._error is not None:
            log.info("Redis takes price updates again; %d were dropped meanwhile or before", self._dropped)
        self._error = None
        self._published += count

"""``crypto-ticks``: the venue's live tick stream, flushed every few seconds.

While it acts it holds one WebSocket (ray_app/collection/ticks). Each pass archives what came as one exchange, in the
way of every answer: archive first, then rows, events and index in one transaction. Nothing is asked for again when the
stream was down: prices are polled all the same (``crypto-prices``), and that is its repair. Where the stream cannot be
reached, the node is fine without it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, ClassVar

from ray_app.clock import HOUR_MS, MINUTE_MS
from ray_app.collection.collectors.base import Collector, PollResult
from ray_app.collection.runtime import Runtime
from ray_app.collection.store import TICK_CHANNEL
from ray_app.collection.ticks.client import TickStream
from ray_app.collection.ticks.sequence import BATCH, HEARTBEAT, LIVE
from ray_app.collection.upstreams import Upstream
from ray_app.errors import ArchiveError, StorageError
from ray_app.settings import Settings
from ray_app.sources.base import Exchange
from ray_app.sources.coinbase_ws import ACCOUNT, Ticker
from ray_app.storage import outbox

log = logging.getLogger(__name__)

#: the name of what its exchanges are about, one slot a minute
DATASET, SLOT_MS = "ticks", MINUTE_MS
#: node seconds between two flushes, and wall seconds at least
FLUSH_S, FLUSH_WALL_S = 5.0, 1.0
#: node ms between two passes where there is no stream to hold
IDLE_MS = 10 * MINUTE_MS
#: wall seconds that the first pass waits for the stream's first frames
FIRST_S = 3.0
#: node ms: how long events of the ticks are kept (docs/streams.md), and how often they are pruned
EVENTS_KEPT_MS, PRUNE_MS = HOUR_MS, 5 * MINUTE_MS
#: wall seconds an outage may last before a pass says so
PATIENCE_S = 30.0


class TickCollector(Collector):
    """Ticks of every product of an active asset."""

    name: ClassVar[str] = "crypto-ticks"
    accounts: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def off(cls, settings: Settings, upstreams: Mapping[str, Upstream]) -> str | None:
        """There may be no stream to hold."""
        if settings.ticks_url is None:
            return "disabled: there is no tick stream (TICK_STREAM)"
        return super().off(settings, upstreams)

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._stream: TickStream | None = None
        self._task: asyncio.Task[None] | None = None
        self._pruned_at = 0
        self._fresh = True
        self._down_since: float | None = None
        self._covered = (0.0, 0.0)  # seconds seen and lost up to the last batch
        self._superseded = self._dropped = self._lost_frames = 0

    # --- what the runner calls ---

    async def prepare(self) -> None:
        """Connect, or follow the registry's products on the connection there is."""
        url = self.runtime.settings.ticks_url
        if url is None:
            return
        products, live = self._products()
        if self._stream is None:
            self._stream, self._fresh = TickStream(url, products, live), True
            self._covered = (0.0, 0.0)
        else:
            self._stream.change(products, live)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._stream.run(), name=f"{self.name} stream")

    def _products(self) -> tuple[list[str], set[str]]:
        """Products by rank, and those of the first ranks, which are streamed trade by trade."""
        active = [asset for asset in self.runtime.registry.active() if asset.coinbase_product is not None]
        products = [str(asset.coinbase_product) for asset in active]
        return products, set(products[: self.runtime.settings.tick_live_ranks])

    def next_due(self, now: int) -> int:
        """Five node seconds on, but not more often than once a wall second; without a stream now and then."""
        if self._stream is None:
            return now + IDLE_MS
        return now + round(max(FLUSH_S, FLUSH_WALL_S * self.runtime.clock.scale) * 1_000)

    async def poll(self) -> PollResult:
        """Archive and store what has come since the last pass."""
        result = PollResult()
        stream = self._stream
        if stream is None:
            result.notes.append("there is no tick stream: TICK_STREAM is off, or the sandbox's address is not known")
            return result
        await self._look_after(stream)
        if self._fresh:
            await stream.arrived(FIRST_S)
            self._fresh = False
        batch = stream.take()
        self._superseded += batch.superseded
        self._dropped += batch.dropped
        if batch.frames:
            await self._store(stream, batch.body, len(batch.frames), result)
        self._note_outage(stream, result)
        await self._prune()
        return result

    async def close(self) -> None:
        """End the connection. What came since the last pass is lost with it, as what comes until the next one."""
        task, self._task, self._stream = self._task, None, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled() and task.exception() is not None:
                log.warning("%s: the stream had ended with %r", self.name, task.exception())

    def state(self) -> dict[str, Any] | None:
        """The stream's own account: connection, seconds covered and lost, frames lost and why."""
        if self._stream is None:
            return None
        lost = {"superseded": self._superseded, "dropped": self._dropped, "lost_frames": self._lost_frames}
        return self._stream.state() | lost

    # --- details ---

    async def _look_after(self, stream: TickStream) -> None:
        """A defect may end the stream's task; it is shown with its stack, and another is started."""
        if self._task is not None and self._task.done():
            error = None if self._task.cancelled() else self._task.exception()
            log.error("%s: the stream's task ended; starting it again", self.name, exc_info=error)
            stream.watch.closed(asyncio.get_running_loop().time(), "defect")
            self._task = asyncio.create_task(stream.run(), name=f"{self.name} stream")

    async def _store(self, stream: TickStream, body: bytes, frames: int, result: PollResult) -> None:
        now = self.runtime.clock.now_ms()
        live = len(stream.watch.live)
        channels = [*([LIVE] if live else []), BATCH, HEARTBEAT]
        noted = {"dataset": DATASET, "subject": ACCOUNT, "slot": str(now - now % SLOT_MS)} | self._coverage(stream)
        request = Ticker().request(channels, len(stream.watch.products), live=live, frames=frames, **noted)
        result.requests += 1
        try:
            receipt = await self.runtime.ingestor.ingest(Exchange(request, 200, {}, body, now))
        except ArchiveError as error:  # nobody can be asked for them again
            self._lost_frames += frames
            result.errors.append(f"{frames} frames are lost: {error}")
        except StorageError as error:  # they are in the archive
            result.errors.append(str(error))
        else:
            if receipt.error is not None:
                result.errors.append(str(receipt.error))
            result.slots += len(receipt.parsed.rows) if receipt.parsed is not None else 0

    def _coverage(self, stream: TickStream) -> dict[str, str]:
        """Wall seconds of stream seen and not seen since the last batch, as its request notes them."""
        state = stream.state()
        before, self._covered = self._covered, (state["covered_s"], state["lost_s"])
        return {
            name: f"{max(now - then, 0.0):.3f}"
            for name, now, then in zip(("covered_s", "lost_s"), self._covered, before, strict=True)
        }

    def _note_outage(self, stream: TickStream, result: PollResult) -> None:
        now = asyncio.get_running_loop().time()
        if stream.watch.phase == "live":
            self._down_since = None
            return
        self._down_since = now if self._down_since is None else self._down_since
        if now - self._down_since >= PATIENCE_S:
            result.owed = 1  # so the pass counts as failed, and health tells
            result.errors.append(f"the tick stream is down: {stream.watch.last_end or 'not subscribed yet'}")

    async def _prune(self) -> None:
        now = self.runtime.clock.now_ms()
        if now - self._pruned_at < PRUNE_MS:
            return
        self._pruned_at = now
        before = now - EVENTS_KEPT_MS
        while await self.runtime.write(lambda conn: outbox.prune(conn, before, channel=TICK_CHANNEL)):
            pass

"""The tick stream's connection: kept open, read without a pause, its frames put into a buffer for the next flush.

All waiting here is in wall time. It connects to the address it was given and nowhere else: redirects are refused.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from ray_app.collection.ticks.buffer import MAX_BYTES, Batch, Buffer
from ray_app.collection.ticks.sequence import Message, Rules, Watch

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds are wall time. The server allows 8 connections a second and 100 messages a second."""

    open_s: float = 10.0
    send_s: float = 5.0
    close_s: float = 1.0
    ping_s: float = 20.0
    look_s: float = 1.0
    frame_bytes: int = 1024 * 1024
    buffer_bytes: int = MAX_BYTES
    #: frames that wait unread before the server is made to wait
    unread: int = 512
    between_messages_s: float = 0.02


class _Connect(connect):
    """websockets follows redirects; a feed that moved is not the one that was configured."""

    def process_redirect(self, exc: Exception) -> Exception | Any:
        """The redirect is the error."""
        return exc


class TickStream:
    """Holds one connection to ``url`` while :meth:`run` runs. For one event loop."""

    def __init__(
        self,
        url: str,
        products: Iterable[str],
        live: Collection[str] = (),
        *,
        limits: Limits | None = None,
        rules: Rules | None = None,
        now: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.url = url
        self._limits = limits or Limits()
        self._now = now
        self.watch = Watch(products, live, now=now(), random=jitter, rules=rules)
        self._buffer = Buffer(self._limits.buffer_bytes)
        self._socket: ClientConnection | None = None
        self._outgoing: list[Message] = []
        self._arrived = asyncio.Event()
        self._complained = False

    # --- for the collector ---

    def take(self) -> Batch:
        """The frames since the last call."""
        self._arrived.clear()
        return self._buffer.take()

    async def arrived(self, timeout_s: float) -> bool:
        """Whether there is anything to take, after at most ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._arrived.wait()
        except TimeoutError:
            return False
        return True

    def change(self, products: Iterable[str], live: Collection[str] = ()) -> None:
        """Stream other products from now on."""
        self._outgoing += self.watch.change(products, live, self._now())

    def state(self) -> dict[str, Any]:
        """JSON-able: connection, coverage, what was lost and why."""
        watch, now = self.watch, self._now()
        return {
            "url": self.url,
            "phase": watch.phase,
            "products": len(watch.products),
            "live_products": len(watch.live),
            "refused": sorted(watch.refused)[:20],
            "last_end": watch.last_end,
            "retry_in_s": round(max(watch.retry_at - now, 0.0), 3) if watch.phase == "down" else None,
            "waiting_frames": len(self._buffer),
            "waiting_bytes": self._buffer.size,
            **watch.counts.shown(),
            "covered_s": round(watch.counts.covered_s, 3),
            "lost_s": round(watch.lost_s(now), 3),
        }

    # --- the connection ---

    async def run(self) -> None:
        """Until cancelled; whatever ends a connection, another follows after a growing pause."""
        while True:
            await asyncio.sleep(max(self.watch.retry_at - self._now(), 0.0))
            why = await self._connected()
            self.watch.closed(self._now(), why)
            if not self._complained:
                log.warning("tick stream %s: %s; it is opened again", self.url, why)
            self._complained = True

    async def _connected(self) -> str:
        """One connection, from its opening to its end; why it ended."""
        limits = self._limits
        try:
            async with _Connect(
                self.url,
                open_timeout=limits.open_s,
                close_timeout=limits.close_s,
                ping_interval=limits.ping_s,
                ping_timeout=limits.ping_s,
                max_size=limits.frame_bytes,
                max_queue=limits.unread,
                user_agent_header="crypto-data-collection",
            ) as socket:
                self._socket = socket
                try:
                    return await self._follow(socket)
                finally:
                    self._socket = None
        except ConnectionClosed as error:
            frame = error.rcvd or error.sent
            reason = frame.reason if frame is not None else ""
            self.watch.slow_close(reason)
            return f"closed {frame.code}" if frame is not None else "connection lost"
        except (InvalidHandshake, InvalidURI, ValueError) as error:
            return f"refused: {type(error).__name__}"
        except TimeoutError:
            return "timed out"
        except OSError as error:
            return f"unreachable: {type(error).__name__}"

    async def _follow(self, socket: ClientConnection) -> str:
        now = self._now
        self._outgoing = self.watch.opened(now())
        looked_at = now()
        while True:
            await self._send(socket)
            try:
                async with asyncio.timeout(self._limits.look_s):
                    self._take_in(await socket.recv(decode=False))
            except TimeoutError:
                pass
            if now() - looked_at < self._limits.look_s:
                continue
            looked_at = now()
            why = self.watch.look(looked_at)
            if why is not None:
                return why
            self._outgoing += self.watch.again(looked_at)
            if self.watch.phase == "live" and self._complained:
                log.info("tick stream %s works again", self.url)
                self._complained = False

    async def _send(self, socket: ClientConnection) -> None:
        while self._outgoing:
            message = self._outgoing.pop(0)
            async with asyncio.timeout(self._limits.send_s):
                await socket.send(orjson.dumps(message).decode())
            if self._outgoing:
                await asyncio.sleep(self._limits.between_messages_s)

    def _take_in(self, data: bytes) -> None:
        now = self._now()
        try:
            frame = orjson.loads(data)
        except orjson.JSONDecodeError:
            frame = None
        if not isinstance(frame, dict):
            self.watch.malformed(now)
            self._keep(None, data)
            return
        self._outgoing += self.watch.heard(frame, now)
        kind, product = frame.get("type"), frame.get("product_id")
        if kind == "ticker" and isinstance(product, str):
            self._keep(product, data)
        elif kind != "heartbeat":  # heartbeats are evidence for the watch; archived they would be most of the archive
            self._keep(None, data)

    def _keep(self, product: str | None, data: bytes) -> None:
        self._buffer.add(product, data)
        self._arrived.set()

"""One WebSocket client: what it is sent, in which order, and what happens when it does not keep up.

Everything goes through one bounded queue and one writing task. A client is either *attached* (the hub hands it each
event) or *catching up* (a resume sends the past in order, then attaches it in the same breath in which it has
reached the present); so no event is lost or doubled between the two.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import orjson

from ray_app.clock import Clock, iso
from ray_app.errors import StorageError
from ray_app.serving.channels import StreamEvent, View
from ray_app.serving.feed import Gap
from ray_app.serving.keys import Level
from ray_app.serving.stream_hub import ChannelHub
from ray_app.serving.subscriptions import BadMessage, Command, Resolver, Subscription, resolve_all

log = logging.getLogger(__name__)

Send = Callable[[dict[str, Any]], Awaitable[None]]

#: events read at a time while catching up
CATCH_UP = 500
#: messages to one client between two breaths of the event loop
BREATH = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may take. Seconds are wall time."""

    queue_bytes: int = 4 * 1024 * 1024
    heartbeat_s: float = 15.0
    #: how long a client may leave its queue untouched before it counts as slow, while it is catching up
    stall_s: float = 30.0
    #: how long it has to take the last message and the close frame
    farewell_s: float = 10.0
    #: how long a subscription waits for the first state after a start
    ready_s: float = 10.0
    #: messages held back while a resume is under way
    deferred: int = 16


class Connection:
    """The protocol of one authorised client; streams.py owns the socket."""

    def __init__(
        self, hub: ChannelHub, registry: Callable[[], Resolver], clock: Clock, send: Send, origin: str, limits: Limits
    ) -> None:
        self._hub = hub
        self._view = View(hub.channel.choices)
        self._registry = registry
        self._clock = clock
        self._send = send
        self._origin = origin
        self._limits = limits
        self._subscription = Subscription()
        self._attached = False
        self._queue: deque[tuple[str, int]] = deque()  # text, and its seq where it is an event
        self._queued = 0
        self._sent_seq = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closing: tuple[int, str] | None = None
        self._slow = False
        self._farewell: asyncio.Task[None] | None = None
        self._catching_up: asyncio.Task[None] | None = None
        self._deferred: list[Command] = []
        self._writer: asyncio.Task[None] | None = None

    # --- life ----------------------------------------------------------------------------------------------

    def start(self) -> asyncio.Task[None]:
        """Begin to write; the task ends when the connection is closed or broken."""
        self._writer = asyncio.create_task(self._write())
        return self._writer

    def admit(self, level: Level) -> None:
        """The client's key is good, and of this level."""
        self._view = replace(self._view, level=level)

    async def stop(self) -> None:
        """End every task of the connection; nothing more is sent."""
        self._detach()
        tasks = [task for task in (self._catching_up, self._farewell, self._writer) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def closing_code(self) -> int | None:
        """The close code decided upon, None while open."""
        return self._closing[0] if self._closing else None

    @property
    def was_slow(self) -> bool:
        """Whether it is closed because the client did not keep up."""
        return self._slow

    def close(self, code: int, reason: str, last_words: dict[str, Any] | None = None) -> None:
        """Send what is queued, then ``last_words``, then the close frame. The first reason stands."""
        if self._closing is not None:
            return
        self._detach()
        if self._catching_up is not None and self._catching_up is not asyncio.current_task():
            self._catching_up.cancel()
        if last_words is not None:
            self._append(orjson.dumps(last_words).decode(), 0)
        self._closing = (code, reason)
        self._wake.set()
        self._farewell = asyncio.create_task(self._give_up_on())

    async def _give_up_on(self) -> None:
        await asyncio.sleep(self._limits.farewell_s)
        if self._writer is not None:
            self._writer.cancel()

    def _too_slow(self) -> None:
        """Drop what it did not take: it can resume."""
        self._slow = True
        self._queue.clear()
        self._queued = 0
        last_words = {
            "error": f"too slow: more than {self._limits.queue_bytes} bytes were waiting for you; "
            'connect again and resume with "after_seq"',
            "code": "SLOW_CONSUMER",
            "last_seq": self._sent_seq,
        }
        log.info("%s stream: a slow client is closed after event %d", self._hub.channel.name, self._sent_seq)
        self.close(1013, "slow consumer", last_words)

    # --- writing -------------------------------------------------------------------------------------------

    def say(self, message: dict[str, Any], seq: int = 0) -> None:
        """Queue a message."""
        if self._closing is None:
            self._append(orjson.dumps(message).decode(), seq)
            if self._queued > self._limits.queue_bytes:
                self._too_slow()

    def _append(self, text: str, seq: int) -> None:
        self._queue.append((text, seq))
        self._queued += len(text)
        if self._queued > self._limits.queue_bytes // 2:
            self._room.clear()
        self._wake.set()

    def deliver(self, event: StreamEvent) -> None:
        """Queue an event if the client wants it: what the hub calls."""
        if self._closing is not None or not self._wants(event):
            return
        self._append(self._hub.channel.text(event, self._view), event.seq)
        if self._queued > self._limits.queue_bytes:
            self._too_slow()

    def _wants(self, event: StreamEvent) -> bool:
        channel, subscription = self._hub.channel, self._subscription
        if not channel.chosen(event, self._view) or (channel.is_repair(event) and not subscription.repairs):
            return False
        return subscription.wants(channel.assets(event))

    async def _write(self) -> None:
        sent = 0
        while True:
            while self._queue:
                text, seq = self._queue.popleft()
                self._queued -= len(text)
                if seq:
                    self._sent_seq = seq  # before the send: while it waits for the peer, the event is on its way
                await self._send({"type": "websocket.send", "text": text})
                if self._queued <= self._limits.queue_bytes // 4:
                    self._room.set()
                sent += 1
                if sent % BREATH == 0:
                    await asyncio.sleep(0)  # a send that the kernel takes at once does not let anybody else run
            if self._closing is not None:
                code, reason = self._closing
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
                return
            self._wake.clear()
            try:
                async with asyncio.timeout(self._limits.heartbeat_s):
                    await self._wake.wait()
            except TimeoutError:
                self.say(self._heartbeat())

    def _heartbeat(self) -> dict[str, Any]:
        beat = {"type": "heartbeat", "channel": self._hub.channel.name, "timestamp": iso(self._clock.now_ms())}
        # While attached, with an empty queue, the client has everything up to here.
        return beat | {"seq": self._hub.seq} if self._attached else beat

    # --- commands ------------------------------------------------------------------------------------------

    async def obey(self, command: Command) -> None:
        """Do what the client asks; raises BadMessage where that cannot be."""
        if self._closing is not None:
            return
        if command.action == "ping":
            self.say({"type": "pong", "timestamp": iso(self._clock.now_ms())} | _tagged(command))
            return
        if self._catching_up is not None:
            if len(self._deferred) >= self._limits.deferred:
                raise BadMessage("BUSY", "a resume is under way; wait for its end before you ask for more")
            self._deferred.append(command)
            return
        await self._ready()
        match command.action:
            case "subscribe":
                self._subscribe(command)
            case "unsubscribe":
                self._unsubscribe(command)
            case "resume":
                await self._resume(command)

    async def _ready(self) -> None:
        if self._hub.ready.is_set():
            return
        try:
            async with asyncio.timeout(self._limits.ready_s):
                await self._hub.ready.wait()
        except TimeoutError:
            raise BadMessage(
                "SERVICE_UNAVAILABLE", f"{self._hub.channel.name} cannot be read at the moment; try again"
            ) from None

    def _subscribe(self, command: Command) -> None:
        wanted = self._add(command)
        self._attach()
        if wanted is None or wanted:
            self._snapshot(wanted)

    def _add(self, command: Command) -> list[int] | None:
        """Subscribe and say so; the assets added, None for all."""
        subscription = self._subscription
        if command.channels is not None:
            if (
                self._hub.channel.choice_of_events
                and not subscription.empty
                and command.channels != self._view.channels
            ):
                raise BadMessage(
                    "VALIDATION_ERROR",
                    '"channels" is chosen with the first subscription; open another connection, or unsubscribe first',
                )
            self._view = replace(self._view, channels=command.channels)
        if command.repairs is not None:
            subscription.repairs = command.repairs
        resolved = None
        if command.symbols == ("*",):
            subscription.add_everything(self._hub.seq)
        else:
            resolved = resolve_all(command.symbols or (), self._registry(), self._clock.now_ms())
            subscription.add(resolved.assets, self._hub.seq)
        self._say_subscribed(command, resolved.notes if resolved else [], resolved.unknown if resolved else [])
        return None if resolved is None else list(resolved.assets)

    def _unsubscribe(self, command: Command) -> None:
        if command.symbols == ("*",):
            self._subscription.clear()
            self._say_subscribed(command, [], [])
        else:
            resolved = resolve_all(command.symbols or (), self._registry(), self._clock.now_ms())
            self._subscription.remove(resolved.assets)
            self._say_subscribed(command, resolved.notes, resolved.unknown)
        self._attach()

    def _say_subscribed(self, command: Command, notes: list[dict[str, str]], unknown: list[dict[str, Any]]) -> None:
        message: dict[str, Any] = {
            "type": "subscribed",
            "channel": self._hub.channel.name,
            "symbols": self._subscription.described(),
            "channels": list(self._view.channels),
            "repairs": self._subscription.repairs,
            "notes": notes,
            "unknown": unknown,
            "origin": self._origin,
        }
        if excluded := self._subscription.excluded():
            message["excluded"] = excluded
        self.say(message | _tagged(command))

    def _snapshot(self, assets: list[int] | None) -> None:
        """The state as of the hub's seq: of ``assets``, None: of all that is subscribed."""
        channel, state = self._hub.channel, self._hub.state
        held = [event for event in (state.all() if assets is None else state.of(assets)) if self._shows(event)]
        self.say(
            {
                "type": "snapshot",
                "channel": channel.name,
                "seq": self._hub.seq,
                channel.listed: [channel.row(event, self._view) for event in held],
                "timestamp": iso(self._clock.now_ms()),
            },
            self._hub.seq,
        )

    def _shows(self, event: StreamEvent) -> bool:
        """Whether a snapshot has it: of a price filled afterwards too, where it is the newest."""
        channel = self._hub.channel
        return channel.chosen(event, self._view) and self._subscription.wants(channel.assets(event))

    def _attach(self) -> None:
        if self._closing is not None:
            return
        subscription = self._subscription
        self._hub.attach(self, None if subscription.everything else subscription.assets)
        self._attached = True

    def _detach(self) -> None:
        self._hub.detach(self)
        self._attached = False

    # --- the past ------------------------------------------------------------------------------------------

    async def _resume(self, command: Command) -> None:
        after_seq = command.after_seq or 0
        if self._subscription.empty and command.symbols is None:
            raise BadMessage("VALIDATION_ERROR", 'nothing is subscribed: resume needs "symbols" here')
        if after_seq > self._hub.seq and after_seq > await self._head():
            raise BadMessage(
                "UNKNOWN_SEQ",
                f"event {after_seq} has not happened (the last one is {self._hub.seq}): subscribe for a snapshot",
            )
        # No await from here to the task: what the subscription covers ends exactly where the hub is now.
        if command.symbols is not None:
            self._add(command)
        self._detach()
        self._catching_up = asyncio.create_task(self._catch_up(command, after_seq, seen=self._hub.seq))

    async def _head(self) -> int:
        try:
            return await self._hub.head()
        except StorageError:
            raise BadMessage("SERVICE_UNAVAILABLE", "the past cannot be read at the moment; try again") from None

    async def _catch_up(self, command: Command, after_seq: int, *, seen: int) -> None:
        """Send what was missed after ``after_seq``, in order, up to the present; then attach."""
        try:
            async with asyncio.timeout(self._limits.ready_s):
                await self._hub.reached(after_seq)  # another process may have been ahead of this one
            await self._replay(command, after_seq, seen=seen)
        except TimeoutError:
            self._trouble("SERVICE_UNAVAILABLE", "the stream has not reached that event yet; try again")
        except StorageError:
            self._trouble("SERVICE_UNAVAILABLE", "the past cannot be read at the moment; resume again")
        finally:
            self._catching_up = None
        await self._catch_up_on_commands()

    def _trouble(self, code: str, message: str) -> None:
        """The past could not be sent: going on with the present would be a silent hole, so the client comes again."""
        self.close(1013, "try again later", {"error": message, "code": code, "last_seq": self._sent_seq})

    async def _replay(self, command: Command, after_seq: int, *, seen: int) -> None:
        """``seen``: of the events up to it, those that the subscription covers have been sent already."""
        hub, generation, count, snapshot = self._hub, self._hub.generation, 0, False
        cursor = after_seq
        while True:
            if hub.generation != generation:
                self.say(_gap(hub.channel.name, cursor + 1, hub.seq, hub.seq + 1))
                generation, cursor, snapshot = hub.generation, hub.seq, True
            if cursor >= hub.seq:
                break
            try:
                events = await hub.events_after(cursor, CATCH_UP)
            except Gap as gap:
                last_missing = min(gap.first_available - 1, hub.seq)
                self.say(_gap(hub.channel.name, gap.first_missing, last_missing, last_missing + 1))
                cursor, snapshot = last_missing, True
                continue
            if hub.generation != generation:
                continue
            for event in events:
                cursor += 1
                if event is not None and self._missed(event, seen):
                    self._append(self._hub.channel.text(event, self._view), event.seq)
                    count += 1
            await self._wait_for_room()
        # No await from the last look at hub.seq to here: nothing can slip between the past and the present.
        self._subscription.lower(after_seq)
        self._attach()
        self.say(
            {
                "type": "resumed",
                "channel": self._hub.channel.name,
                "after_seq": after_seq,
                "through_seq": cursor,
                "events": count,
            }
            | _tagged(command)
        )
        if snapshot:
            self._snapshot(None)

    def _missed(self, event: StreamEvent, seen: int) -> bool:
        if not self._wants(event):
            return False
        return event.seq > seen or not self._subscription.had(self._hub.channel.assets(event), event.seq)

    async def _wait_for_room(self) -> None:
        """A client that is catching up is not slow as long as it takes something now and then."""
        while not self._room.is_set():
            before = self._queued
            try:
                async with asyncio.timeout(self._limits.stall_s):
                    await self._room.wait()
            except TimeoutError:
                if self._queued >= before:
                    self._too_slow()
                    raise asyncio.CancelledError from None

    async def _catch_up_on_commands(self) -> None:
        while self._deferred and self._catching_up is None:
            command = self._deferred.pop(0)
            try:
                await self.obey(command)
            except BadMessage as error:
                self.say({"error": str(error), "code": error.code} | _tagged(command))

    def lost(self, first_missing: int, last_missing: int | None, first_available: int) -> None:
        """The hub had to read its state anew: say what is missing, and how things stand."""
        self._subscription.restart(self._hub.seq)
        self.say(_gap(self._hub.channel.name, first_missing, last_missing, first_available))
        self._snapshot(None)


def _gap(channel: str, first_missing: int, last_missing: int | None, first_available: int) -> dict[str, Any]:
    return {
        "type": "gap",
        "channel": channel,
        "first_missing": first_missing,
        "last_missing": last_missing,
        "first_available": first_available,
    }


def _tagged(command: Command) -> dict[str, Any]:
    """The client's own id of its message comes back with the answer."""
    return {} if command.tag is None else {"id": command.tag}

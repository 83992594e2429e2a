"""The hot tail of the outbox in memory, and how its readers are woken.

The outbox table is the truth; the ring only makes readers fast. Whatever it loses (a restart, a late or lost
notification, eviction) costs a read of the table and never an event: an answer of :meth:`EventRing.wait` is either
contiguous from where the reader stands, or empty, and an empty answer means "read the table".

Pure asyncio: the ``event_bus`` actor wraps one ring; tests and single-process tools use it directly. All waiting here
is in wall time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Protocol

#: one event of a channel: its sequence number (dense per channel, from 1) and its JSON body
Event = tuple[int, bytes]

#: what a stored event costs beyond its body (tuple, int, bytes header, deque slot), measured on CPython 3.11
EVENT_OVERHEAD_BYTES = 144

#: above this an answer is cut (still contiguous): one wait never ships the whole ring
MAX_ANSWER_BYTES = 4 * 1024 * 1024


class Notifier(Protocol):
    """What writers tell after their transaction has committed. Losing a call is allowed; the table has the events."""

    async def publish(self, channel: str, events: Sequence[Event]) -> None:
        """Make ``events`` (ascending, dense) known to the readers of ``channel``."""


class Hotline(Protocol):
    """What readers ask for the newest events before they turn to the table."""

    async def wait(self, channel: str, after_seq: int, timeout_s: float) -> list[Event]:
        """Events after ``after_seq``, contiguous; [] means nothing yet or not in memory: read the table."""


@dataclass(frozen=True, slots=True)
class ChannelState:
    """What the ring holds of a channel. ``first_seq`` is None when nothing is held."""

    first_seq: int | None
    last_seq: int
    events: int
    bytes: int


@dataclass(slots=True)
class _Channel:
    events: deque[Event] = field(default_factory=deque)
    last_seq: int = 0  # newest ever published here, held or not
    bytes: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class EventRing:
    """The newest events of every channel, at most ``max_bytes`` together; both :class:`Notifier` and :class:`Hotline`.

    For one event loop; it takes no locks.
    """

    def __init__(self, max_bytes: int = 32 * 1024 * 1024, max_answer_bytes: int = MAX_ANSWER_BYTES) -> None:
        if max_bytes <= 0 or max_answer_bytes <= 0:
            raise ValueError("an event ring needs room: max_bytes and max_answer_bytes must be above 0")
        self._max_bytes = max_bytes
        self._max_answer_bytes = max_answer_bytes
        self._channels: dict[str, _Channel] = {}
        self._bytes = 0

    async def publish(self, channel: str, events: Sequence[Event]) -> None:
        """Append ``events`` and wake the channel's readers; ValueError if they are not ascending and dense.

        Notifications of different writers may arrive late or twice. What is not newer than the newest is ignored; a
        batch that leaves a hole starts the channel anew behind the hole, and readers before it turn to the table
        (which has it all: sequence numbers commit in order).
        """
        if any(after[0] != before[0] + 1 for before, after in pairwise(events)):
            raise ValueError(f"events of {channel!r} are not ascending and dense: {[seq for seq, _ in events]}")
        state = self._channels.setdefault(channel, _Channel())
        fresh = [event for event in events if event[0] > state.last_seq]
        if not fresh:
            return
        if fresh[0][0] != state.last_seq + 1:
            self._clear(state)
        for event in fresh:
            state.events.append(event)
            self._count(state, _cost(event))
        state.last_seq = fresh[-1][0]
        self._evict()
        state.changed.set()
        state.changed = asyncio.Event()

    async def wait(self, channel: str, after_seq: int, timeout_s: float) -> list[Event]:
        """Events after ``after_seq``, contiguous from ``after_seq + 1``, as soon as there are any.

        [] after ``timeout_s`` wall seconds without news, or at once when the next event is not in memory; either way
        the table knows. A large answer is cut; the rest comes with the next call.
        """
        state = self._channels.setdefault(channel, _Channel())
        deadline = asyncio.get_running_loop().time() + timeout_s
        while state.last_seq <= after_seq:
            remaining = deadline - asyncio.get_running_loop().time()
            if remaining <= 0:
                return []
            try:
                async with asyncio.timeout(remaining):
                    await state.changed.wait()
            except TimeoutError:
                return []
        return self._after(state, after_seq)

    def state(self) -> dict[str, ChannelState]:
        """What is held, by channel."""
        return {
            name: ChannelState(
                first_seq=channel.events[0][0] if channel.events else None,
                last_seq=channel.last_seq,
                events=len(channel.events),
                bytes=channel.bytes,
            )
            for name, channel in self._channels.items()
        }

    def _after(self, state: _Channel, after_seq: int) -> list[Event]:
        if not state.events or state.events[0][0] > after_seq + 1:
            return []
        skipped, wanted = after_seq + 1 - state.events[0][0], state.last_seq - after_seq
        # A deque is walked from an end: readers at the tail must not pay for a long ring.
        tail = (
            islice(state.events, skipped, None)
            if skipped < wanted
            else reversed(list(islice(reversed(state.events), wanted)))
        )
        answer: list[Event] = []
        size = 0
        for event in tail:
            size += len(event[1])
            if answer and size > self._max_answer_bytes:
                break
            answer.append(event)
        return answer

    def _evict(self) -> None:
        """Drop the oldest events of whichever channel holds most, so that a chatty one cannot push out the others."""
        while self._bytes > self._max_bytes:
            largest = max(self._channels.values(), key=lambda channel: channel.bytes)
            self._count(largest, -_cost(largest.events.popleft()))

    def _clear(self, state: _Channel) -> None:
        self._count(state, -state.bytes)
        state.events.clear()

    def _count(self, state: _Channel, delta: int) -> None:
        state.bytes += delta
        self._bytes += delta


def _cost(event: Event) -> int:
    return len(event[1]) + EVENT_OVERHEAD_BYTES

"""When each slot of a dataset is due. Pure arithmetic on wall-clock-aligned slots: no state, no clock.

A **slot** is the start (ms) of an interval aligned to the epoch. A price slot is due when it starts: the price is
polled in it. A candle slot is due when the bar has closed and the venue has had ``grace_s`` to finish it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

Anchor = Literal["start", "close"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """The polling schedule of a dataset.

    ``jitter_s`` spreads the polls of different schedules: slot by slot a fixed delay in ``[0, jitter_s)`` that
    every process computes alike (a hash of dataset and slot), so that a restart or a second supervisor never
    moves a due time. ``anchor`` says whether a slot is due from its start ("start") or after its end ("close"); None
    takes "close" for ``candles-…`` and "start" for every other dataset.
    """

    dataset: str
    interval_s: int
    grace_s: float = 0.0
    jitter_s: float = 0.0
    anchor: Anchor | None = None

    def __post_init__(self) -> None:
        if self.interval_s < 1 or self.grace_s < 0 or not 0 <= self.jitter_s < self.interval_s:
            raise ValueError(f"{self}: needs interval_s >= 1, grace_s >= 0 and 0 <= jitter_s < interval_s")
        if self.anchor is None:
            object.__setattr__(self, "anchor", "close" if self.dataset.startswith("candles") else "start")

    @property
    def interval_ms(self) -> int:
        """Length of a slot, ms."""
        return self.interval_s * 1_000

    @property
    def _lag_ms(self) -> int:
        return round(self.grace_s * 1_000) + (self.interval_ms if self.anchor == "close" else 0)

    def slot_of(self, ms: int) -> int:
        """The slot that ``ms`` lies in."""
        return ms - ms % self.interval_ms

    def jitter_ms(self, slot: int) -> int:
        """The slot's own delay, 0 to ``jitter_s`` (exclusive), the same on every machine."""
        span = round(self.jitter_s * 1_000)
        if span == 0:
            return 0
        digest = hashlib.blake2b(f"{self.dataset}/{self.interval_s}/{slot}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) % span

    def due_at(self, slot: int) -> int:
        """The moment (ms) from which the slot is due. Rises strictly from slot to slot."""
        return slot + self._lag_ms + self.jitter_ms(slot)

    def newest_due(self, now: int) -> int:
        """The newest slot that is due at ``now``."""
        slot = self.slot_of(now - self._lag_ms)  # due if it had no jitter
        return slot if self.due_at(slot) <= now else slot - self.interval_ms

    def next_due(self, now: int) -> int:
        """The moment (ms, after ``now``) at which the next slot becomes due."""
        return self.due_at(self.newest_due(now) + self.interval_ms)


@dataclass(frozen=True, slots=True)
class ScheduleVersion:
    """A schedule and the time it was in force: slots in ``[valid_from, valid_to)``; None: still in force."""

    schedule: Schedule
    valid_from: int
    valid_to: int | None = None

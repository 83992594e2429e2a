"""The node's time. Nothing else in the package asks the operating system what time it is.

Times travel as integer milliseconds since the Unix epoch, UTC (``*_ms`` or the columns documented as such).

*Node time* drives schedules, budgets and staleness. It is the wall clock on a live node; on a sandbox node it can run
faster: an :class:`Epoch` (wall start, node start, scale) in the data directory says how. Leases and socket time-outs
stay in wall time; docs/operations.md lists both sides.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from ray_app.errors import ConfigError

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

#: wall seconds between two looks of :meth:`Clock.sleep_until` at the clock
NAP_S = 30.0


def to_ms(moment: datetime) -> int:
    """Milliseconds since the epoch of an aware datetime; a naive one is a bug and raises ValueError."""
    if moment.tzinfo is None:
        raise ValueError(f"naive datetime {moment!r}: attach a time zone before converting")
    return round(moment.timestamp() * 1_000)


def from_ms(ms: int) -> datetime:
    """The aware UTC datetime of ``ms``."""
    return datetime.fromtimestamp(ms / 1_000, tz=UTC)


def iso(ms: int) -> str:
    """RFC 3339 UTC with milliseconds only where there are any: ``2026-11-24T08:00:00Z``."""
    moment = from_ms(ms)
    return moment.isoformat(timespec="milliseconds" if ms % 1_000 else "seconds").replace("+00:00", "Z")


class Clock(ABC):
    """What every part that needs the time is given."""

    #: node seconds that pass in one wall second
    scale: float = 1.0

    @abstractmethod
    def now_ms(self) -> int:
        """Node time in milliseconds since the epoch."""

    @abstractmethod
    async def sleep(self, node_seconds: float) -> None:
        """Return after ``node_seconds`` of node time."""

    async def sleep_until(self, when_ms: int) -> None:
        """Return once node time has reached ``when_ms`` (at once if it has passed).

        Sleep itself knows nothing of a clock that is set, and stops while a laptop is suspended: so the clock is
        looked at again every :data:`NAP_S`.
        """
        while (remaining := when_ms - self.now_ms()) > 0:
            await self.sleep(min(remaining / 1_000, NAP_S * self.scale))


class WallClock(Clock):
    """Node time is the machine's UTC clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    async def sleep(self, node_seconds: float) -> None:
        await asyncio.sleep(node_seconds)


@dataclass(frozen=True)
class Epoch:
    """Where a sandbox node's time began: node time = node_start_ms + (wall - wall_start_ms) × scale.

    ``first_node_ms`` is the node time of the very first start. It stays when a new scale gives the record a new
    beginning: a replayed market is shifted by it, and must not move.
    """

    wall_start_ms: int
    node_start_ms: int
    scale: float
    first_node_ms: int

    @classmethod
    def begin(cls, wall_ms: int, scale: float) -> Epoch:
        """A node whose time starts as the wall clock's and runs ``scale`` times as fast."""
        return cls(wall_ms, wall_ms, scale, wall_ms)

    def rescaled(self, wall_ms: int, scale: float) -> Epoch:
        """The same node time going on from ``wall_ms`` at another pace: never a jump."""
        return Epoch(wall_ms, self.node_ms(wall_ms), scale, self.first_node_ms)

    def node_ms(self, wall_ms: float) -> int:
        """Node time at a wall time."""
        return self.node_start_ms + round((wall_ms - self.wall_start_ms) * self.scale)

    def save(self, path: Path) -> None:
        """Write the record atomically: after a power failure it is the old one or the new one, never half of one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.tmp")
        with partial.open("w") as file:
            file.write(json.dumps(asdict(self)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Epoch | None:
        """The record at ``path``; None if there is none; ConfigError if it cannot be read."""
        try:
            return cls(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path} is not a readable epoch record ({error}); move it away to begin anew") from error


class ScaledClock(Clock):
    """Node time of an :class:`Epoch`."""

    def __init__(self, epoch: Epoch) -> None:
        if epoch.scale <= 0:
            raise ConfigError(f"time scale {epoch.scale} is not above 0")
        self.epoch = epoch
        self.scale = epoch.scale

    def now_ms(self) -> int:
        return self.epoch.node_ms(time.time_ns() / 1e6)

    async def sleep(self, node_seconds: float) -> None:
        await asyncio.sleep(node_seconds / self.scale)


class ManualClock(Clock):
    """A clock that moves only when told to: tests and simulations."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms

    def advance(self, node_seconds: float) -> None:
        """Move time forward."""
        self._now_ms += round(node_seconds * 1_000)

    async def sleep(self, node_seconds: float) -> None:
        self.advance(max(node_seconds, 0.0))
        await asyncio.sleep(0)


def open_clock(epoch_file: Path | None) -> Clock:
    """The clock of a node: scaled if its epoch file exists, else the wall clock."""
    epoch = Epoch.load(epoch_file) if epoch_file is not None else None
    return ScaledClock(epoch) if epoch is not None else WallClock()

"""What test_storm.py runs beside each other: collectors in processes of their own, as actors are, pass by pass."""

from __future__ import annotations

import asyncio
import multiprocessing
from dataclasses import dataclass, field
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

from ray_app.collection.budget import TERM_S
from ray_app.collection.collectors import collector
from ray_app.collection.control import holding
from ray_app.collection.runtime import Runtime
from ray_app.sandbox.faults import parse_faults
from ray_app.settings import Settings
from tests.collection.world import MINUTE, JumpingClock, World

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.collection.stormy"])
#: wall seconds after which a pass hangs
PATIENCE_S = 120.0


class SharedClock(JumpingClock):
    """One time for all processes: whoever moves it moves it for everybody. It counts from the machine's uptime."""

    def __init__(self, now_ms: int, scale: float) -> None:
        self._shared = processes.Value("d", now_ms)
        super().__init__(now_ms, scale)

    @property
    def _base_ms(self) -> float:
        return self._shared.value

    @_base_ms.setter
    def _base_ms(self, ms: float) -> None:
        self._shared.value = ms


@dataclass
class Crew:
    """Collectors of one node, one process each; they begin and end each pass together."""

    world: World
    clock: SharedClock
    turns: Barrier
    over: Event
    notes: Path
    ended: list[int] = field(default_factory=list)  # node ms at the end of each pass

    def pass_at(self, ms: int) -> None:
        """All collectors poll, track and repair at once."""
        self.clock.go_to(ms)
        self.turns.wait(PATIENCE_S)
        self.turns.wait(PATIENCE_S)
        self.ended.append(self.clock.now_ms())

    def pass_after(self, minutes: float) -> None:
        """A pass so long after the end of the last one."""
        self.pass_at(self.ended[-1] + round(minutes * MINUTE))

    def suffers(self, faults: str) -> None:
        """From now on the sandbox has these faults."""
        self.world.app.faults = parse_faults(faults, self.clock.now_ms())

    def asked(self, source: str, endpoint: str | None = None, status: int | None = None) -> list[int]:
        """The moments at which the sandbox was asked."""
        return [
            entry["at"]
            for entry in self.world.requests(endpoint)
            if entry["source"] == source and status in (None, entry["status"])
        ]

    def failures(self) -> str:
        """What the collectors said of what they could not do, a line each."""
        return self.notes.read_text()

    def within_a_pause(self, source: str, orders: list[int], retry_after_s: float) -> list[int]:
        """The moments at which the source was asked though a 429 (at a moment of ``orders``) had ordered a pause.

        The order is in the database when the pass of its 429 ends. Who held a lane then may use it to the end of its
        term: that much of the pause is not looked at.
        """
        term_ms, pause_ms = round(TERM_S[1] * self.clock.scale * 1_000), round(retry_after_s * 1_000)
        found = []
        for order in orders:
            known = next(end for end in self.ended if end >= order) + term_ms
            found += [at for at in self.asked(source) if known < at < order + pause_ms]
        return found


def collect(settings: Settings, name: str, clock: SharedClock, turns: Barrier, over: Event, notes: str) -> None:
    """A collector's process: a pass whenever all are ready for one; what it could not do goes to ``notes``."""
    asyncio.run(_collect(settings, name, clock, turns, over, Path(notes)))


async def _collect(settings: Settings, name: str, clock: SharedClock, turns: Barrier, over: Event, notes: Path) -> None:
    try:
        async with await Runtime.open(settings, name, clock=clock) as runtime, holding(runtime, name, "test"):
            acting = collector(name)(runtime)
            await acting.prepare()
            with notes.open("a", buffering=1) as file:
                while True:
                    await asyncio.to_thread(turns.wait, PATIENCE_S)
                    if over.is_set():
                        return
                    result = await acting.poll()
                    await acting.track()
                    await acting.repair()
                    file.writelines(f"{name}: {error}\n" for error in result.errors)
                    await asyncio.to_thread(turns.wait, PATIENCE_S)
    except BaseException:
        turns.abort()  # the others would wait for it
        raise

"""The life of one collector in one process: hold the lease, poll what is due, survive everything, say how it goes.

Leases, their renewal and the waits after a database failure are about processes and run in wall time. Schedules,
retries of upstreams and budgets run in node time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection

from ray_app.clock import Clock
from ray_app.collection.collectors import Collector, PollResult, collector
from ray_app.collection.control import holding
from ray_app.collection.event_bus import Notifier
from ray_app.collection.runtime import Runtime
from ray_app.errors import CryptoDataError, LeaseLost, LeaseTaken, StorageError
from ray_app.settings import Settings
from ray_app.storage import records

log = logging.getLogger(__name__)

#: wall seconds between two looks at a lease somebody else holds
STANDBY_S = 1.0
#: wall seconds before the whole loop starts again after a failure: first; longest when the database is away, which
#: is looked for often; longest after anything else, where haste would only ask upstreams in vain
_RESTART_S, _RESTART_AWAY_S, _RESTART_OTHER_S = 0.2, 5.0, 60.0
#: node seconds between two looks at what can be repaired while nothing new is owed
_REPAIR_EVERY_S = 300.0


@dataclass
class RunnerState:
    """How a collector fares. Times: node ms; None: never, or not known."""

    collector: str
    holder: str
    lease_held: bool = False
    lease_token: int | None = None
    running: bool = False
    passes: int = 0
    failures: int = 0
    failures_in_a_row: int = 0
    last_started_at: int | None = None
    last_success_at: int | None = None
    last_error: str | None = None
    last_error_at: int | None = None
    next_run_at: int | None = None
    repairing: bool = False
    owed: int = 0
    notes: tuple[str, ...] = ()


class CollectorRunner:
    """Runs the collector called ``name``: ``await run()`` until ``stop()``; the loop survives every failure.

    ``holder`` names who acts in the lease, unique among what runs at a time: the cluster's id and the collector's
    name, so that a restarted actor takes over from its dead predecessor at once. Constructing it touches nothing.
    ``open_runtime``: how the runtime is made (tests); default :meth:`Runtime.open` with the node's clock.
    """

    def __init__(
        self,
        settings: Settings,
        name: str,
        *,
        holder: str | None = None,
        notifier: Notifier | None = None,
        open_runtime: Callable[[], Awaitable[Runtime]] | None = None,
    ) -> None:
        self._kind = collector(name)
        self.name = name
        self._open = open_runtime or (lambda: Runtime.open(settings, name, notifier=notifier))
        self._state = RunnerState(name, holder or f"{socket.gethostname()}-{os.getpid()}/{name}")
        self._runtime: Runtime | None = None
        self._acting: Collector | None = None
        self._clock: Clock | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._now = asyncio.Event()  # somebody asked for a pass now
        self._waiting: list[asyncio.Future[PollResult]] = []

    # --- from outside ---

    def state(self) -> dict[str, Any]:
        """JSON-able evidence for health: lease, task, passes, errors, what waits for the database."""
        answer: dict[str, Any] = asdict(self._state)
        runtime = self._runtime
        now = runtime.clock.now_ms() if runtime is not None else None
        last = self._state.last_success_at
        answer["task_alive"] = self._task is not None and not self._task.done()
        answer["last_success_age_s"] = (now - last) / 1_000 if now is not None and last is not None else None
        answer["now"] = now
        answer["ingest"] = asdict(runtime.ingestor.state) if runtime is not None else None
        answer["details"] = self._acting.state() if self._acting is not None else None
        return answer

    async def collect_now(self, timeout_s: float = 60.0) -> dict[str, Any]:
        """Ask for a pass now instead of at the next due moment; what it did. Wall seconds.

        CryptoDataError if this process holds no lease (another acts) or the pass does not end in time.
        """
        if not self._state.lease_held:
            raise CryptoDataError(f"{self.name}: another process holds the lease; ask it, or wait for the lease to end")
        done: asyncio.Future[PollResult] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._now.set()
        try:
            async with asyncio.timeout(timeout_s):
                return asdict(await done)
        except TimeoutError:
            raise CryptoDataError(f"{self.name}: the pass did not end within {timeout_s:g} s; it goes on") from None
        finally:
            if done in self._waiting:
                self._waiting.remove(done)

    async def run(self) -> None:
        """The loop. Ends after :meth:`stop` or by cancellation, with the lease released."""
        self._task = asyncio.current_task()
        delay = _RESTART_S
        try:
            while not self._stopping:
                succeeded_at = self._state.last_success_at
                try:
                    await self._with_runtime()
                except Exception as error:
                    self._failed(error)
                    if self._state.last_success_at != succeeded_at:
                        delay = _RESTART_S
                    longest = _RESTART_AWAY_S if isinstance(error, StorageError) else _RESTART_OTHER_S
                    delay = min(delay, longest)
                    log.exception("%s: starting over in %.1f s", self.name, delay)
                    await asyncio.sleep(delay)
                    delay *= 2
        except asyncio.CancelledError:
            if not self._stopping:
                raise

    async def stop(self) -> None:
        """End the loop within three wall seconds: unfinished work is cancelled, the lease released, nothing lost."""
        self._stopping = True
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=2.8)

    async def once(self, *, repair: bool = False) -> PollResult:
        """One pass in this process, for the command line: recover, poll, track, and repair if asked to.

        LeaseTaken if another process holds the lease.
        """
        runtime = self._runtime = await self._open()
        self._clock = runtime.clock
        try:
            async with holding(runtime, self.name, self._state.holder):
                acting = self._kind(runtime)
                try:
                    await runtime.ingestor.recover()
                    await acting.prepare()
                    result = await self._pass(acting, runtime)
                    if repair:
                        await acting.repair()
                    return result
                finally:
                    await acting.close()
        finally:
            await runtime.close()

    # --- the loop ---

    async def _with_runtime(self) -> None:
        runtime = self._runtime = await self._open()
        self._clock = runtime.clock
        try:
            while not self._stopping:
                try:
                    async with holding(runtime, self.name, self._state.holder) as lease:
                        self._state.lease_held, self._state.lease_token = True, lease.token
                        await self._act(runtime)
                except LeaseTaken:
                    await asyncio.sleep(STANDBY_S)
                except LeaseLost as error:
                    log.warning("%s: %s", self.name, error)
                    await asyncio.sleep(STANDBY_S)
                finally:
                    state = self._state
                    state.lease_held, state.running, state.repairing = False, False, False
        finally:
            self._runtime = None
            await runtime.close()

    async def _act(self, runtime: Runtime) -> None:
        """Passes at due moments, repairs in between."""
        acting = self._acting = self._kind(runtime)
        repairing: asyncio.Task[None] | None = None
        repaired_at = -1
        try:
            await runtime.ingestor.recover()
            await acting.prepare()
            while True:
                if await runtime.refresh_registry():
                    await acting.prepare()
                if runtime.ingestor.behind:
                    await runtime.ingestor.recover()
                await self._pass(acting, runtime)
                now = runtime.clock.now_ms()
                due = repaired_at < 0 or now - repaired_at >= _REPAIR_EVERY_S * 1_000
                if due and (repairing is None or repairing.done()):
                    repaired_at = now
                    repairing = asyncio.create_task(self._repair(acting), name=f"repair {self.name}")
                await self._until(runtime, self._state.next_run_at or now)
        finally:
            self._acting = None
            await _cancelled(repairing)
            await acting.close()

    async def _pass(self, acting: Collector, runtime: Runtime) -> PollResult:
        """One pass, recorded in ``collector_runs``."""
        clock, state = runtime.clock, self._state
        asked, self._waiting = self._waiting, []
        self._now.clear()
        started = state.last_started_at = clock.now_ms()
        state.passes, state.running = state.passes + 1, True
        try:
            await runtime.write(lambda conn: records.run_started(conn, self.name, started))
            result = await acting.poll()
            await acting.track()
        except BaseException as error:
            for done in asked:
                if not done.done():
                    done.set_exception(CryptoDataError(f"{self.name}: the pass failed: {error!r}"))
            raise
        finally:
            state.running = False
        now = clock.now_ms()
        next_run = state.next_run_at = self._next(acting, result, started, now)
        state.owed, state.notes = result.owed, tuple(result.notes)
        message = "; ".join(result.errors)
        if message:
            state.failures += 1
            state.last_error, state.last_error_at = message, now
        if result.slots or not result.owed:
            state.last_success_at, state.failures_in_a_row = now, 0
        else:
            state.failures_in_a_row += 1

        def record(conn: Connection) -> None:
            if message:
                records.run_failed(conn, self.name, now, message, next_run)
            if result.slots or not result.owed:
                records.run_succeeded(conn, self.name, now, next_run)

        await runtime.write(record)
        for done in asked:
            if not done.done():
                done.set_result(result)
        return result

    def _next(self, acting: Collector, result: PollResult, started: int, now: int) -> int:
        """When the next pass is due. What became due while this one ran is due at once."""
        due = acting.next_due(started)
        if result.retry_at is None:
            return due
        return min(due, max(result.retry_at, now + 1_000))

    async def _repair(self, acting: Collector) -> None:
        self._state.repairing = True
        try:
            await acting.repair()
        except LeaseLost:
            raise
        except Exception as error:
            self._failed(error)
            log.exception("%s: repair failed; tried again in %.0f s", self.name, _REPAIR_EVERY_S)
        finally:
            self._state.repairing = False

    async def _until(self, runtime: Runtime, when_ms: int) -> None:
        """Return when node time has come, or a pass is asked for."""
        await _first(runtime.clock.sleep_until(when_ms), self._now.wait())

    def _failed(self, error: Exception) -> None:
        state = self._state
        state.failures, state.failures_in_a_row = state.failures + 1, state.failures_in_a_row + 1
        state.last_error = f"{type(error).__name__}: {error}"
        state.last_error_at = self._clock.now_ms() if self._clock is not None else None
        for done in self._waiting:
            if not done.done():
                done.set_exception(CryptoDataError(f"{self.name}: {state.last_error}"))
        self._waiting.clear()


async def _first(*awaitables: Coroutine[Any, Any, Any]) -> None:
    """Return when one of them does; the others are cancelled."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await _cancelled(*tasks)


async def _cancelled(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel and wait for the end of each; their errors are theirs."""
    alive = [task for task in tasks if task is not None]
    for task in alive:
        task.cancel()
    if alive:
        await asyncio.wait(alive)
    for task in alive:
        if not task.cancelled() and task.exception() is not None:
            log.debug("%s ended with %r", task.get_name(), task.exception())

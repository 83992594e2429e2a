"""An asyncio event loop on a virtual clock, whose callbacks belong to processes that can be killed and stopped.

The code under test is the node's own and does not know: it awaits, sleeps and calls ``asyncio.to_thread`` as ever. Time
jumps from event to event. Everything that runs carries its :class:`Process` in its context; a killed process never
runs again (no ``finally`` runs either: that is what kill -9 is), a stopped one runs what has piled up when it goes on.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


@dataclass(eq=False)
class Process:
    """A process of the node. ``steps_left``: callbacks until the scheduler strikes it (None: never)."""

    name: str
    alive: bool = True
    stopped: bool = False
    steps_left: int | None = None
    backlog: list[asyncio.Handle] = field(default_factory=list)

    @property
    def idle(self) -> bool:
        """Whether it runs no steps now."""
        return self.stopped or not self.alive


class _Task(asyncio.Task):  # type: ignore[type-arg]
    """Hashes by its number: sets of tasks are walked in the same order in every run."""

    def __init__(self, number: int, *args: Any, **options: Any) -> None:
        self.number = number
        super().__init__(*args, **options)

    def __hash__(self) -> int:
        return self.number


class _Future(asyncio.Future):  # type: ignore[type-arg]
    def __init__(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self.number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class VirtualLoop(asyncio.AbstractEventLoop):
    """``on_step(process)`` is called when a process's ``steps_left`` runs out; ``on_thread`` runs what is sent to threads."""

    def __init__(self, on_step: Callable[[Process], None], on_thread: Callable[..., None]) -> None:
        self._now = 0.0
        self._heap: list[tuple[float, int, asyncio.Handle]] = []  # timers: when, number, what
        self._ready: deque[asyncio.Handle] = deque()
        self._halted = False
        self._numbers = itertools.count()
        self._on_step, self._on_thread = on_step, on_thread
        self._over = False
        self.steps = 0
        self.tasks: list[asyncio.Task[Any]] = []
        self.problems: list[str] = []

    # --- running ---

    def run(self, until_s: float) -> None:
        """Run what is due until virtual second ``until_s``, or until a callback calls :meth:`halt`."""
        heap, ready = self._heap, self._ready
        self._halted = False
        asyncio._set_running_loop(self)
        try:
            while not self._halted:
                if ready:
                    handle = ready.popleft()
                elif heap and heap[0][0] <= until_s:
                    when, _, handle = heapq.heappop(heap)
                    self._now = max(self._now, when)
                else:
                    self._now = max(self._now, until_s)
                    return
                if handle._cancelled:
                    continue
                process = handle._context.get(PROCESS)
                if (
                    process is not None
                    and (not process.alive or process.stopped or process.steps_left is not None)
                    and self._waits(process)
                ):
                    process.backlog.append(handle)
                    continue
                self.steps += 1
                handle._run()
        finally:
            asyncio._set_running_loop(None)

    def _waits(self, process: Process) -> bool:
        """Whether the process does not run its next step, maybe because it is struck just now."""
        if not process.idle and process.steps_left is not None:
            process.steps_left -= 1
            if process.steps_left < 0:
                process.steps_left = None
                self._on_step(process)
        return process.idle

    def halt(self) -> None:
        """Let :meth:`run` return after this callback."""
        self._halted = True

    def go_on(self, process: Process) -> None:
        """A stopped process runs again, beginning with what has piled up."""
        process.stopped = False
        self._ready += process.backlog
        process.backlog.clear()

    def end(self, processes: Iterable[Process]) -> None:
        """Let every coroutine end in an orderly way, those of killed processes too: nothing is left to the collector.

        The world is over by then: whatever ``finally`` blocks do now reaches nothing any more.
        """
        for process in processes:
            process.alive, process.steps_left = True, None
            self.go_on(process)
        for _ in range(20):
            self.tasks = [task for task in self.tasks if not task.done()]
            if not self.tasks:
                break
            for task in self.tasks:
                task.cancel()
            waiting = len(self.tasks)

            def one_less(_: Any) -> None:
                nonlocal waiting
                waiting -= 1
                if not waiting:
                    self.halt()

            for task in self.tasks:
                task.add_done_callback(one_less)
            self.run(self._now + 100.0)
        self._over = True
        for task in self.tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._heap.clear()
        self._ready.clear()

    # --- what asyncio asks of a loop ---

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self._over:
            self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        if not self._over:
            heapq.heappush(self._heap, (when, next(self._numbers), handle))
        return handle

    def create_future(self) -> Any:
        return _Future(next(self._numbers), self)

    def create_task(self, coro: Any, *, name: Any = None, context: Any = None) -> Any:
        if self._over:
            raise RuntimeError("the simulation is over")
        task = _Task(next(self._numbers), coro, loop=self, name=name, context=context)
        self.tasks.append(task)
        if len(self.tasks) > 4_000:
            self.tasks = [kept for kept in self.tasks if not kept.done()]
        return task

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        future = self.create_future()
        if not self._over:
            self._on_thread(future, lambda: func(*args))
        return future

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return self._over

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._over:
            self.problems.append(f"{context.get('message')}: {context.get('exception')!r}")

    default_exception_handler = call_exception_handler

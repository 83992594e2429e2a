"""Processes of this machine: who they are, who their descendants are, what they weigh, and how they end.

A process is named by its pid *and* its start time: a pid alone may have been given to somebody else since.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """One process. ``started`` is its start in clock ticks since boot (0 where the system does not tell)."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has ``pid`` now; None if there is none (a zombie counts as none)."""
        fields = _stat(pid)
        return None if fields is None or fields[0] == "Z" else cls(pid, int(fields[19]))

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return Process.of(self.pid) == self

    @property
    def command(self) -> str:
        """Its command line; empty once it is gone."""
        try:
            return Path(f"/proc/{self.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            return ""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this very process, if it still runs."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):  # it went in between: what we wanted
                os.kill(self.pid, number)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the command's name, state first; None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def _all() -> dict[int, tuple[int, str]]:
    """Every process by pid: (parent, state)."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            found[int(entry.name)] = (int(fields[1]), fields[0])
    return found


def descendants(roots: Iterable[int]) -> set[int]:
    """``roots`` and everything below them that runs."""
    everything = _all()
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in everything.items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    waiting = [pid for pid in roots if pid in everything]
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting.extend(children.get(pid, ()))
    return {pid for pid in found if everything[pid][1] != "Z"}


def started_with(variable: str, value: str) -> set[Process]:
    """Running processes of this user that were started with ``variable=value`` in their environment.

    Finds what has lost its parent; not what has overwritten its environment since (a process that changes its title
    may). Never this process itself.
    """
    wanted = f"{variable}={value}".encode()
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # gone, or another user's
        if wanted in environment and (process := Process.of(int(entry.name))) is not None:
            found.add(process)
    return found


def pss_bytes(pids: Iterable[int]) -> int:
    """Proportional memory of ``pids``: shared pages are divided among those who share them."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1_024 for line in lines if line.startswith("Pss:"))
    return total


def end(processes: Iterable[Process], grace_s: float) -> set[Process]:
    """SIGTERM each, then SIGKILL what is left after ``grace_s`` wall seconds; returns what had to be killed."""
    waiting = {process for process in processes if process.alive}
    for process in waiting:
        process.signal(signal.SIGTERM)
    waiting = _wait(waiting, grace_s)
    for process in waiting:
        process.signal(signal.SIGKILL)
    _wait(waiting, 2.0)
    return waiting


def _wait(processes: set[Process], timeout_s: float) -> set[Process]:
    deadline = time.monotonic() + timeout_s
    while processes and time.monotonic() < deadline:
        time.sleep(0.05)
        processes = {process for process in processes if process.alive}
    return processes

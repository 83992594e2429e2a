"""``crypto-data up``: start a node, watch it, end it. Imports neither Ray nor a database driver, and stays small.

The sequence: lock the data directory, end what a killed node left, decide (plan.py), prepare the database, start the
sandbox (if any) and the Ray head, deploy serve_config.yaml, wait until a price is served. Ctrl-C and SIGTERM undo it in
the opposite order; a second signal hurries.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

import httpx

from ray_app.clock import WallClock
from ray_app.errors import NodeError
from ray_app.node import processes, record, screen
from ray_app.node.dashboard import Dashboard, NotTaken
from ray_app.node.head import ray_dir_of
from ray_app.node.plan import Options, Plan, settings_of
from ray_app.node.processes import Process
from ray_app.node.readiness import Readiness, probe_key
from ray_app.settings import ignored_names

#: wall seconds
HEAD_START_S = 60.0
DEPLOY_S = 90.0
SANDBOX_START_S = 30.0
NOT_READY_AFTER_S = 60.0
ASK_EVERY_S = 1.0
SERVE_STOP_S = 7.5
HEAD_STOP_S = 3.5
#: all of an ending takes less than 15 s: what Serve has left of this, the head may use
STOP_S = 12.0
LEFTOVERS_STOP_S = 5.0
RECORD_EVERY_S = 3.0


class _Interrupted(BaseException):
    """A signal asks the node to end. Not an Exception: nothing on the way may swallow it."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What ray_app/node/prepare.py prints."""

    revision: str
    where: str
    assets: int
    probes: list[str]
    new_keys: dict[str, str]


class Launcher:
    """One run of a node, from its command line to its end."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._settings = settings_of(options)
        self._data_dir = self._settings.data_dir
        self._signals = 0
        self._may_interrupt = True
        self._head: subprocess.Popen[bytes] | None = None
        self._sandbox: subprocess.Popen[bytes] | None = None
        self._dashboard: Dashboard | None = None
        self._record: record.NodeRecord | None = None
        self._remembered = 0.0

    def run(self) -> int:
        """Run the node until it is asked to end (0); NodeError where it cannot start or its heart stops."""
        with record.lock(self._data_dir):
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                    signal.signal(number, self._on_signal)
            try:
                self._end_leftovers()
                self._start(Plan.make(self._options, self._settings))
                self._watch()
            except _Interrupted:
                say("stopping (again to hurry)")
            finally:
                self._stop()
        return 0

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        if self._may_interrupt:
            self._may_interrupt = False
            raise _Interrupted

    # --- starting ---

    def _start(self, plan: Plan) -> None:
        self._plan = plan
        for line in screen.banner(plan):
            say(line)
        for name, reason in ignored_names().items():
            say(f"ignored     {name}: {reason}")
        say("preparing   database, assets, keys")
        prepared = self._prepare(plan)
        for line in screen.overview(plan, prepared.where, prepared.assets, prepared.new_keys):
            say(line)

        self._record = record.NodeRecord(
            launcher=_myself(),
            started_ms=WallClock().now_ms(),
            url=plan.options.url,
            dashboard_url=plan.head.dashboard_url,
            origin=plan.choice.origin,
            reason=plan.choice.reason,
            database=prepared.where,
            time_scale=plan.options.time_scale,
            temp_dir=str(plan.head.temp_dir),
            sandbox_port=plan.head.ports.sandbox if plan.sandboxed else None,
        )
        token = plan.head.prepare()
        if plan.sandboxed:
            say("starting    sandbox")
            self._start_sandbox(plan)
        say("starting    Ray")
        with self._uninterrupted():
            self._head = self._spawn(plan, plan.head.command(), "ray.log")
            self._remember()
        if plan.sandboxed:
            self._await_sandbox(plan.head.ports.sandbox)
        dashboard = Dashboard(plan.head.dashboard_url, token)
        self._await_head(dashboard)
        say("starting    gateway, streams, collection")
        self._dashboard = dashboard
        self._deploy(plan, dashboard)
        self._remember()
        self._await_ready(Readiness(plan.options.url, probe_key(plan.settings), prepared.probes, dashboard))

    def _deploy(self, plan: Plan, dashboard: Dashboard) -> None:
        assert self._head is not None  # noqa: S101 - started before
        deadline = time.monotonic() + DEPLOY_S
        while True:
            try:
                return dashboard.deploy(plan.serve_config())
            except NotTaken:
                with suppress(subprocess.TimeoutExpired):
                    self._head.wait(HEAD_STOP_S)
                self._check_head()  # where Ray is ending, the dashboard that hangs up is only its first sign
                if time.monotonic() > deadline:
                    raise
                say("            Ray Serve is slow to start; trying again")

    @staticmethod
    def _prepare(plan: Plan) -> _Prepared:
        done = subprocess.run(  # noqa: S603 - our own program
            plan.prepare_command(),
            env=plan.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise NodeError(lines[-1] if lines else f"preparing the database ended with {done.returncode}")
        return _Prepared(**json.loads(done.stdout))

    @contextmanager
    def _uninterrupted(self) -> Iterator[None]:
        """A signal waits for the end of the block: nothing may be started that nobody knows of."""
        self._may_interrupt = False
        yield
        if self._signals:
            raise _Interrupted
        self._may_interrupt = True

    def _start_sandbox(self, plan: Plan) -> None:
        with self._uninterrupted():
            self._sandbox = self._spawn(plan, plan.sandbox_command(), "sandbox.log")
            self._remember()

    def _spawn(self, plan: Plan, command: list[str], log: str) -> subprocess.Popen[bytes]:
        """Start a process in a session of its own (Ctrl-C reaches only us), its output in DATA_DIR/run/``log``."""
        with (record.run_dir(self._data_dir) / log).open("ab") as stream:
            return subprocess.Popen(  # noqa: S603 - our own programs
                command,
                env=plan.environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one thread, and nothing else does this
            )

    def _await_sandbox(self, port: int) -> None:
        deadline = time.monotonic() + SANDBOX_START_S
        assert self._sandbox is not None  # noqa: S101 - started before
        while time.monotonic() < deadline:
            if self._sandbox.poll() is not None:
                raise NodeError(f"the sandbox ended: {_tail(record.run_dir(self._data_dir) / 'sandbox.log')}")
            try:
                if httpx.get(f"http://127.0.0.1:{port}/sandbox/state", timeout=2, trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise NodeError(f"the sandbox does not answer after {SANDBOX_START_S:g} s; see run/sandbox.log")

    def _await_head(self, dashboard: Dashboard) -> None:
        deadline = time.monotonic() + HEAD_START_S
        while time.monotonic() < deadline:
            self._check_head()
            if dashboard.answers():
                return
            time.sleep(0.2)
        raise NodeError(f"Ray does not answer after {HEAD_START_S:g} s; see {self._data_dir}/run/ray.log")

    def _await_ready(self, readiness: Readiness) -> None:
        started = time.monotonic()
        complain_at = started + NOT_READY_AFTER_S
        while not readiness.ready():
            self._beat()
            for line in readiness.news():
                say(line)
            if time.monotonic() >= complain_at:
                complain_at += NOT_READY_AFTER_S
                say(f"NOT READY after {time.monotonic() - started:.0f} s; still trying. What is missing:")
                for line in readiness.missing():
                    say(f"  - {line}")
            time.sleep(ASK_EVERY_S)
        assert self._record is not None  # noqa: S101 - made in _start
        self._record = replace(self._record, ready=True)
        self._remember()
        say(f"READY {self._record.url}")

    # --- running ---

    def _watch(self) -> NoReturn:
        """Stay until a signal comes: a sandbox that ends is started again, a head that ends is the end."""
        while True:
            self._beat()
            time.sleep(0.5)

    def _beat(self) -> None:
        self._check_head()
        if self._sandbox is not None and self._sandbox.poll() is not None:
            say(f"the sandbox ended ({self._sandbox.returncode}); starting it again")
            self._start_sandbox(self._plan)
        if time.monotonic() >= self._remembered + RECORD_EVERY_S:
            self._remember()

    def _check_head(self) -> None:
        assert self._head is not None  # noqa: S101 - started before
        if self._head.poll() is not None:
            log = record.run_dir(self._data_dir) / "ray.log"
            raise NodeError(f"Ray ended ({self._head.returncode}): {_tail(log)} (all of it: {log})")

    def _remember(self) -> None:
        """Write down every process of the node, for whoever has to clean up after a kill -9."""
        assert self._record is not None  # noqa: S101 - made in _start
        named = {name: child for name, child in (("ray", self._head), ("sandbox", self._sandbox)) if child is not None}
        roots = {name: process for name, child in named.items() if (process := Process.of(child.pid)) is not None}
        everything = processes.descendants(process.pid for process in roots.values())
        others = {
            process
            for pid in everything - {process.pid for process in roots.values()}
            if (process := Process.of(pid)) is not None
        }
        # What has lost its parent is no descendant any more, but still ours.
        others |= {process for process in self._record.others if process.alive}
        self._record = replace(
            self._record, processes=roots, others=tuple(sorted(others, key=lambda process: process.pid))
        )
        self._remembered = time.monotonic()
        try:
            record.save(self._data_dir, self._record)
        except OSError as error:  # a full disk is no reason to end, nor to leave an ending half done
            say(f"{record.record_file(self._data_dir)} cannot be written: {error.strerror}")

    # --- ending ---

    def _end_leftovers(self) -> None:
        """End what a node whose launcher was killed left behind; NodeError names what will not end."""
        old = record.load(self._data_dir)
        left = {*(record.leftovers(old) if old is not None else ()), *self._strays()}
        if left:
            say(f"cleaning up after a node that was killed: {record.describe(left)}")
            below = {Process.of(pid) for pid in processes.descendants(process.pid for process in left)}
            processes.end({*left, *(process for process in below if process is not None)}, LEFTOVERS_STOP_S)
            if still := [process for process in left if process.alive]:
                raise NodeError(f"processes of a killed node will not end: {record.describe(still)}; end them by hand")
        record.forget(self._data_dir)

    def _stop(self) -> None:
        """Undo everything that was started, the last first. A further signal skips the waiting."""
        stop_by = time.monotonic() + STOP_S
        if self._dashboard is not None and self._head is not None and self._head.poll() is None:
            try:
                self._may_interrupt = self._signals < 2
                self._dashboard.shut_down_serve(SERVE_STOP_S)
                self._may_interrupt = False
            except httpx.HTTPError as error:
                say(f"Serve did not stop in time ({type(error).__name__}); going on")
            except _Interrupted:
                say("hurrying")
        self._may_interrupt = False
        if self._dashboard is not None:
            self._dashboard.close()
        if self._record is None:
            return  # nothing had been started
        self._remember()
        hurry = self._signals > 1
        head_grace_s = 0.5 if hurry else max(HEAD_STOP_S, stop_by - time.monotonic())
        names = {process: record.describe([process]) for process in self._record.started_processes()}
        for process in self._end_processes(head_grace_s, 0.2 if hurry else 1.0):
            say(f"had to be killed, for it did not end: {names.get(process, process.pid)}")
        record.forget(self._data_dir)
        self._clear()
        say("stopped")

    def _end_processes(self, head_grace_s: float, grace_s: float) -> set[Process]:
        """End the head and what is below it, then the sandbox, then what got away; returns what had to be killed."""
        assert self._record is not None  # noqa: S101 - asked before
        killed = set()
        if self._head is not None:
            head = Process.of(self._head.pid)
            killed |= processes.end([head] if head else [], head_grace_s)
            self._head.wait()
        self._end_sandbox()
        return killed | processes.end({*self._record.others, *self._strays()}, grace_s)

    def _strays(self) -> set[Process]:
        """What was started for a node in this data directory, whoever its parent is now."""
        return processes.started_with("RAY_TMPDIR", str(ray_dir_of(self._data_dir)))

    def _clear(self) -> None:
        try:
            self._plan.head.clear()
        except OSError as error:
            say(f"logs stay in {self._plan.head.temp_dir}: {error.strerror} ({error.filename})")

    def _end_sandbox(self) -> None:
        if self._sandbox is not None and self._sandbox.poll() is None:
            self._sandbox.terminate()
            try:
                self._sandbox.wait(2)
            except subprocess.TimeoutExpired:
                self._sandbox.kill()
                self._sandbox.wait()


def say(line: str) -> None:
    """One line to whoever watches, at once. Nobody watching (a closed terminal or pipe) is no reason to stop."""
    try:
        print(line, flush=True)  # noqa: T201 - this is the user interface
    except OSError:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - for the rest of this process


def _myself() -> Process:
    process = Process.of(os.getpid())
    assert process is not None  # noqa: S101 - we run
    return process


def _die_with_parent() -> None:
    """Ask the kernel to end this process when the launcher dies, even by kill -9 (Linux)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _tail(log: Path, lines: int = 3) -> str:
    try:
        return " / ".join(log.read_text(errors="replace").strip().splitlines()[-lines:])[-1_000:]
    except OSError:
        return "no log"

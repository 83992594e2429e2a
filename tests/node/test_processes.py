"""Processes are known by pid and start; they end when asked, or are made to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ray_app.node import processes
from ray_app.node.processes import Process
from tests.servers import wait_until

STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint(1, flush=True)\nsignal.pause()"
PARENT = (
    "import subprocess,sys\n"
    "child=subprocess.Popen([sys.executable,'-c','input()'],stdin=subprocess.PIPE)\nprint(child.pid,flush=True)\ninput()"
)


@pytest.fixture
def spawn():
    """Start ``python -c PROGRAM``; whatever is left is killed."""
    started = []

    def start(program: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def process_of(child: subprocess.Popen[str]) -> Process:
    found = Process.of(child.pid)
    assert found is not None
    return found


def test_a_process_is_its_pid_and_its_start():
    myself = Process.of(os.getpid())
    assert myself is not None
    assert myself.alive
    assert not Process(myself.pid, myself.started + 1).alive
    assert "python" in myself.command


def test_a_zombie_is_no_process(spawn):
    child = spawn("")
    process = process_of(child)
    wait_until(lambda: not process.alive, 20, "the end of a process nobody has waited for")
    assert child.returncode is None, "nobody has waited"
    assert process.command == ""


def test_a_signal_never_reaches_who_got_the_pid_since():
    Process(os.getpid(), 1).signal(signal.SIGKILL)


def test_descendants_are_found_to_the_last(spawn):
    parent = spawn(PARENT)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert processes.descendants([parent.pid]) == {parent.pid, child}
    assert {parent.pid, child} <= processes.descendants([os.getpid()])
    processes.end({process_of(parent), *filter(None, [Process.of(child)])}, 5.0)
    assert processes.descendants([parent.pid]) <= {parent.pid}


def test_what_was_started_for_a_node_is_found_by_its_environment(spawn):
    child = spawn("print(1, flush=True)\ninput()", RAY_TMPDIR="/tmp/node-a")
    other = spawn("print(1, flush=True)\ninput()", RAY_TMPDIR="/tmp/node-ab")
    for process in (child, other):
        assert process.stdout is not None
        process.stdout.readline()
    assert processes.started_with("RAY_TMPDIR", "/tmp/node-a") == {process_of(child)}


def test_this_process_is_never_a_stray():
    first = Path("/proc/self/environ").read_text().split("\0")[0]
    name, value = first.split("=", 1)
    assert os.getpid() not in {process.pid for process in processes.started_with(name, value)}


def test_who_ends_when_asked_is_not_killed(spawn):
    child = spawn("input()")
    assert processes.end([process_of(child)], 10.0) == set()
    assert child.wait(5) == -signal.SIGTERM


def test_who_does_not_is(spawn):
    child = spawn(STUBBORN)
    assert child.stdout is not None
    child.stdout.readline()
    process = process_of(child)
    assert processes.end([process], 0.2) == {process}
    assert child.wait(5) == -signal.SIGKILL


def test_ending_what_is_gone_takes_no_time(spawn):
    started = time.monotonic()
    assert processes.end([Process(os.getpid(), 1)], 60.0) == set()
    assert time.monotonic() - started < 30


def test_memory_is_counted_and_the_dead_weigh_nothing():
    assert processes.pss_bytes([os.getpid()]) > 5_000_000
    assert processes.pss_bytes([2**22 - 1]) == 0

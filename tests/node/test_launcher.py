"""The launcher's own manners, without a node."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ray_app.node import launcher

SAY_INTO_A_CLOSED_PIPE = """
import os, sys
reading, writing = os.pipe()
os.dup2(writing, 1); os.close(writing); os.close(reading)
from ray_app.node.launcher import say
say("one"); say("two")
sys.exit(7)
"""


def test_nobody_reading_is_no_reason_to_stop():
    done = subprocess.run([sys.executable, "-c", SAY_INTO_A_CLOSED_PIPE], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (7, "")


def test_a_signal_interrupts_the_launcher_once():
    node = launcher.Launcher(launcher.Options())
    with pytest.raises(launcher._Interrupted):
        node._on_signal(2, None)
    node._on_signal(2, None)  # it is on its way out; this one only hurries it


def test_a_signal_waits_until_what_is_being_started_is_known():
    node, reached = launcher.Launcher(launcher.Options()), []

    def start() -> None:
        with node._uninterrupted():
            node._on_signal(2, None)
            reached.append("the end of the block")

    with pytest.raises(launcher._Interrupted):
        start()
    assert reached == ["the end of the block"]


def test_the_launcher_stays_small():
    """It lives as long as the node: no Ray, no database driver, no data frames in it."""
    program = "import sys, ray_app.node.launcher; print(*(set(sys.modules) & {'ray', 'sqlalchemy', 'polars', 'numpy'}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_tail_of_a_log_is_one_line(tmp_path):
    log = tmp_path / "ray.log"
    log.write_text("a\nb\nc\nd\n")
    assert launcher._tail(log) == "b / c / d"
    assert launcher._tail(tmp_path / "none") == "no log"

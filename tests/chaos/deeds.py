"""How each deed of a plan is done to a running node, and undone."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from ray_app.node.processes import Process, descendants
from tests.nodes import Node
from tests.servers import MariaDB, wait_until

#: what the command line of a victim contains
TITLES = {
    "prices": "ray::CryptoPrices",
    "candles": "ray::UnifiedOhlc",
    "slow feeds": "ray::SlowFeeds",
    "supervisor": "ray::ServeReplica:collection:Supervisor",
    "event bus": "ray::EventBus",
    "gateway": "ray::ServeReplica:gateway:Gateway",
    "streams": "ray::ServeReplica:streams:Streams",
    "controller": "ray::ServeController",
    "haproxy": "/bin/haproxy -db",
    "haproxy manager": "ray::HAProxyManager",
    "worker": "ray::IDLE",
    "sandbox": "main() sandbox ",
    "raylet": "/raylet/raylet ",
    "gcs": "/gcs/gcs_server ",
    "job driver": "jobs/backfill.py",
}
JOBS = Path(__file__).resolve().parents[2] / "jobs"


def processes(node: Node, victim: str) -> set[Process]:
    """The node's processes that ``victim`` names."""
    found = {Process.of(pid) for pid in descendants(process.pid for process in node.record.processes.values())}
    return {process for process in found if process is not None and TITLES[victim] in process.command}


def awaited(node: Node, victim: str) -> set[Process]:
    """The same, once there are any; none where none comes: it is just being replaced for longer than usual."""
    with contextlib.suppress(AssertionError):
        wait_until(lambda: processes(node, victim), 20)
    return processes(node, victim)


@dataclass(frozen=True)
class World:
    """What deeds are done to. ``mariadb`` is None for a node on SQLite.

    A deed returns how many it struck: 0 where its victim was not there.
    """

    node: Node
    mariadb: MariaDB | None

    def kill(self, victim: str, _seconds: float) -> int:
        """kill -9."""
        gone = awaited(self.node, victim)
        for process in gone:
            process.signal(signal.SIGKILL)
        return len(gone)

    def stop(self, victim: str, seconds: float) -> int:
        """SIGSTOP, and SIGCONT after ``seconds`` to what still lives."""
        held = awaited(self.node, victim)
        for process in held:
            process.signal(signal.SIGSTOP)
        time.sleep(seconds)
        for process in held:
            process.signal(signal.SIGCONT)
        return len(held)

    def database(self, how: str, seconds: float) -> int:
        """The database does not take writes, or is not there."""
        if how == "lock":
            return self._lock(seconds)
        assert self.mariadb is not None
        if how == "stop":
            self.mariadb.process.send_signal(signal.SIGSTOP)
            time.sleep(seconds)
            self.mariadb.process.send_signal(signal.SIGCONT)
            return 1
        self.mariadb.kill()
        time.sleep(seconds)
        self.mariadb.start()
        return 1

    def _lock(self, seconds: float) -> int:
        with contextlib.closing(
            sqlite3.connect(self.node.state_dir / "node.db", timeout=30, isolation_level=None)
        ) as db:
            db.execute("BEGIN IMMEDIATE")
            time.sleep(seconds)
            db.execute("ROLLBACK")
        return 1

    def fill_disk(self, _target: str, seconds: float) -> int:
        """Nothing more fits where the state is. Needs :func:`small_disk`."""
        filler = self.node.state_dir / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(1 << 20)):  # a short write, then none: to the last byte
                pass
        time.sleep(seconds)
        filler.unlink()
        return 1

    def write_protect(self, _target: str, seconds: float) -> int:
        """The archive's directory is read-only. Needs root."""
        archive = self.node.state_dir / "archive"
        _run("mount", "--bind", str(archive), str(archive))
        try:
            _run("mount", "-o", "remount,ro,bind", str(archive))
            time.sleep(seconds)
        finally:
            _run("umount", "--lazy", str(archive))
        return 1

    def kill_job(self, _target: str, seconds: float) -> int:
        """The driver of a backfill job dies in its work; a job is submitted where none runs."""
        if not processes(self.node, "job driver"):
            url, token = f"http://127.0.0.1:{self.node.dashboard_port}", self.node.data_dir / "run" / "ray_token"
            body = {
                "entrypoint": f"{sys.executable} {JOBS / 'backfill.py'} --dataset candles-3600",
                "submission_id": f"chaos-{uuid.uuid4().hex[:12]}",
            }
            headers = {"Authorization": f"Bearer {token.read_text()}"}
            try:
                httpx.post(
                    f"{url}/api/jobs/", json=body, headers=headers, timeout=30, trust_env=False
                ).raise_for_status()
                wait_until(lambda: processes(self.node, "job driver"), 30, "a job driver")
            except (httpx.HTTPError, AssertionError):  # the cluster takes none now: the deed before still works
                return 0
        time.sleep(min(seconds / 3, 3))
        return self.kill("job driver", 0)

    def crash(self, how: str, _seconds: float) -> int:
        """The whole node dies; the caller starts it again."""
        if how == "everything":
            everything = self.node.processes()
            for process in everything:
                process.signal(signal.SIGKILL)
            gone = len(everything)
        elif how == "launcher":
            self.node.process.kill()
            gone = 1
        else:
            gone = self.kill(how, 0)
        self.node.process.wait(90)  # TimeoutExpired: a launcher that does not see that its cluster is dead
        return gone

    def does(self) -> dict[str, Callable[[str, float], int]]:
        """Kind of deed → how."""
        return {
            "kill": self.kill,
            "stop": self.stop,
            "database": self.database,
            "disk full": self.fill_disk,
            "read-only": self.write_protect,
            "job": self.kill_job,
            "crash": self.crash,
        }


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)


@contextmanager
def small_disk(state_dir: Path, mebibytes: int = 400) -> Iterator[bool]:
    """A file system of its own for the state directory, with the sandbox's request log outside of it.

    Yields whether there is one: only root may mount. Without it the deeds "disk full" and "read-only" are left out.
    What is on it at the end stays in the directory.
    """
    state_dir.mkdir(parents=True)
    if os.geteuid() != 0:
        yield False
        return
    _run("mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "chaos", str(state_dir))
    try:
        log = state_dir.parent / "requests.jsonl"
        log.touch()
        (state_dir / "requests.jsonl").symlink_to(log)
        (state_dir / "archive").mkdir()
        yield True
    finally:
        kept = state_dir.with_name("kept")
        shutil.copytree(state_dir, kept, symlinks=True)
        _run("umount", "--lazy", str(state_dir))
        state_dir.rmdir()
        kept.rename(state_dir)

"""A whole node as its user starts it: ``crypto-data up`` in a process of its own, on free loopback ports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from ray_app.collection.collectors.everything import FEED_COLLECTORS
from ray_app.node import processes, record
from ray_app.node.processes import Process
from ray_app.node.record import NodeRecord
from tests.servers import free_port, wait_until

COMMAND = (sys.executable, "-c", "from ray_app.cli import main; main()")
READY_S = 240.0  # a guard against a start that hangs; 30 s on two cores that are free


@dataclass
class Node:
    """A started ``crypto-data up``. ``lines`` are what it has printed so far, stdout and stderr together."""

    data_dir: Path
    port: int
    dashboard_port: int
    process: subprocess.Popen[str]
    host: str = "127.0.0.1"
    lines: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where the API is."""
        return f"http://{self.host}:{self.port}"

    @property
    def state_dir(self) -> Path:
        """Where a sandbox node keeps its database, archive, epoch and request log."""
        return self.data_dir / "sandbox"

    @property
    def record(self) -> NodeRecord:
        """What the node wrote down about itself."""
        found = record.load(self.data_dir)
        assert found is not None, "the node has no record"
        return found

    def key(self, level: str = "master") -> str:
        """An API key of ``level``, as the first start wrote it down."""
        keys: dict[str, str] = json.loads((self.data_dir / "keys.json").read_text())
        return keys[level]

    def get(self, path: str, level: str = "master", **params: Any) -> httpx.Response:
        """GET ``path`` with a key of ``level``."""
        headers = {"Authorization": f"Bearer {self.key(level)}"}
        return httpx.get(self.url + path, headers=headers, params=params, timeout=20, trust_env=False)

    def post(self, path: str, body: Any = None, level: str = "master") -> httpx.Response:
        """POST ``body`` as JSON to ``path`` with a key of ``level``."""
        headers = {"Authorization": f"Bearer {self.key(level)}"}
        return httpx.post(self.url + path, headers=headers, json=body, timeout=20, trust_env=False)

    def dashboard(self, path: str, token: str | None = None, **params: Any) -> httpx.Response:
        """GET ``path`` of the Ray dashboard, by default with the node's token."""
        token = (self.data_dir / "run" / "ray_token").read_text() if token is None else token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = f"http://127.0.0.1:{self.dashboard_port}{path}"
        return httpx.get(url, headers=headers, params=params, timeout=30, trust_env=False)

    def processes(self) -> set[Process]:
        """Every process of the node that runs now, the launcher included."""
        pids = processes.descendants([self.process.pid])
        known = {process for pid in pids if (process := Process.of(pid)) is not None}
        return known | {process for process in self.record.started_processes() if process.alive}

    def wait_printed(self, text: str, timeout_s: float = READY_S) -> None:
        """Until it has printed ``text``; AssertionError with everything printed where it does not come."""
        wait_until(
            lambda: text in self.printed or self.process.poll() is not None, timeout_s, f"{text}\n{self.printed}"
        )
        assert text in self.printed, f"the node ended with {self.process.poll()}:\n{self.printed}"

    def wait_job(self, job_id: str, timeout_s: float = READY_S) -> dict[str, Any]:
        """The job as the API shows it once it has ended, one way or another."""
        seen: dict[str, Any] = {}

        def ended() -> bool:
            seen.update(self.get(f"/api/v1/admin/jobs/{job_id}").json())
            return seen.get("status") in {"SUCCEEDED", "FAILED", "STOPPED"}

        wait_until(ended, timeout_s, f"the end of job {job_id}")
        return seen

    def cli(
        self, *arguments: str, timeout_s: float = 120, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Another ``crypto-data`` command on this node's data directory, in its environment and ``environment``."""
        return subprocess.run(
            [*COMMAND, *arguments],
            env=clean_environment({"DATA_DIR": str(self.data_dir), **(environment or {})}),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def wait_ready(self, timeout_s: float = READY_S) -> None:
        """Until the READY line is there; AssertionError with everything printed where it does not come."""
        wait_until(lambda: self._ready() or self.process.poll() is not None, timeout_s, f"READY\n{self.printed}")
        assert self._ready(), f"the node ended with {self.process.poll()}:\n{self.printed}"

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = 60) -> int:
        """Send the signal and wait for the end; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout_s)

    @property
    def printed(self) -> str:
        """All it has printed."""
        return "".join(self.lines)

    def _ready(self) -> bool:
        return any(line.startswith("READY ") for line in self.lines)


def clean_environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what would make a node somebody else's, and with ``variables``."""
    foreign = ("RAY_", "COINGECKO_", "COINBASE_", "MYSQL_", "REDIS_", "DATABASE_", "DATA_DIR", "API_KEY_", "EPOCH_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, **(variables or {})}


@contextmanager
def started_node(
    data_dir: Path,
    *options: str,
    environment: Mapping[str, str] | None = None,
    upstream: str = "sandbox",
    host: str = "127.0.0.1",
    every_source: bool = False,
) -> Iterator[Node]:
    """Start ``crypto-data up`` with ``options`` for the block; it is ended at the end, whatever happened.

    ``host``: a loopback address. ``every_source``: with the collectors of feeds too; each is a process more, and most
    tests are about something else.
    """
    if not every_source:
        off = ",".join(("crypto-ticks", *(kind.name for kind in FEED_COLLECTORS)))
        environment = {"COLLECTORS_OFF": off, **(environment or {})}
    port, dashboard_port = free_port(), free_port()
    arguments = ["--upstream", upstream, "--data-dir", str(data_dir), "--host", host]
    arguments += ["--port", str(port), "--dashboard-port", str(dashboard_port), *options]
    process = subprocess.Popen(
        [*COMMAND, "up", *arguments],
        env=clean_environment(environment),
        cwd=data_dir.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    node = Node(data_dir, port, dashboard_port, process, host)
    reader = threading.Thread(target=_collect, args=(node,), daemon=True)
    reader.start()
    try:
        yield node
    finally:
        try:
            node.stop()
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(10)
        assert process.stdout is not None
        process.stdout.close()


def _collect(node: Node) -> None:
    assert node.process.stdout is not None
    for line in node.process.stdout:
        node.lines.append(line)

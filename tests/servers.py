"""Real servers for tests: each on a free loopback port with a data directory of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pymysql
import pytest


def free_port() -> int:
    """A loopback port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require(present: bool, reason: str) -> None:
    """Skip with ``reason`` where something is absent; under CI=true that is a failure, never a skip."""
    if present:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have it: {reason}", pytrace=False)
    pytest.skip(reason)


def wait_until(condition: Callable[[], object], timeout_s: float = 30.0, what: str = "condition") -> None:
    """Poll until ``condition()`` is true; AssertionError after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s:g} s"
        time.sleep(0.05)


class MariaDB:
    """A MariaDB server of its own in ``directory``. User ``node``, password ``node``, may create databases."""

    process: subprocess.Popen[bytes]

    def __init__(self, directory: Path) -> None:
        self._binary, install = shutil.which("mariadbd") or "/usr/sbin/mariadbd", shutil.which("mariadb-install-db")
        require(
            Path(self._binary).exists() and install is not None,
            "mariadb-server is not installed (apt-get install mariadb-server)",
        )
        self._data, self._log = directory / "mysql", directory / "mariadb.log"
        self._socket = f"/tmp/crypto-test-{os.getpid()}-{free_port()}.sock"
        self._user = ["--user=root"] if os.geteuid() == 0 else []
        options = [f"--datadir={self._data}", "--auth-root-authentication-method=normal", "--skip-test-db"]
        command = [str(install), "--no-defaults", *options, *self._user]
        subprocess.run(command, check=True, capture_output=True)
        self.port = free_port()  # as late as can be: until the server listens, somebody else may take it

    def start(self) -> None:
        """Start it, as after a crash too, and wait until it answers."""
        options = [
            f"--datadir={self._data}",
            f"--port={self.port}",
            f"--socket={self._socket}",
            "--bind-address=127.0.0.1",
            "--innodb-buffer-pool-size=128M",
            "--innodb-flush-log-at-trx-commit=2",
            "--skip-log-bin",
            "--max-connections=200",
        ]
        with self._log.open("ab") as log:
            command = [self._binary, "--no-defaults", *options, *self._user]
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        wait_until(lambda: _answers(self._socket) or self.process.poll() is not None, 60, "MariaDB")
        assert self.process.poll() is None, self._log.read_text()[-2000:]

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(30)

    def stop(self) -> None:
        """SIGTERM, and wait for its end."""
        self.process.terminate()
        self.process.wait(30)

    def run(self, *statements: str) -> None:
        """Run statements as root."""
        with pymysql.connect(unix_socket=self._socket, user="root") as root, root.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


@contextmanager
def mariadb_server(directory: Path) -> Iterator[int]:
    """A MariaDB server for the block; yields its port."""
    with mariadb(directory) as server:
        yield server.port


@contextmanager
def mariadb(directory: Path) -> Iterator[MariaDB]:
    """A MariaDB server for the block, to be killed and started as one likes."""
    server = MariaDB(directory)
    server.start()
    try:
        server.run("CREATE USER 'node'@'127.0.0.1' IDENTIFIED BY 'node'", "GRANT ALL ON *.* TO 'node'@'127.0.0.1'")
        yield server
    finally:
        server.stop()


def _answers(socket_path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:  # PyMySQL would leave the socket of a refused connection open
        return probe.connect_ex(socket_path) == 0


@contextmanager
def redis_server(directory: Path) -> Iterator[int]:
    """A Redis server for the block; yields its port."""
    binary = shutil.which("redis-server")
    require(binary is not None, "redis-server is not installed (apt-get install redis-server)")
    port = free_port()
    server = subprocess.Popen(
        [
            str(binary),
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(directory),
            "--save",
            "",
            "--appendonly",
            "no",
        ],
        stdout=subprocess.DEVNULL,
    )

    def listening() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(listening, 20, "Redis")
        yield port
    finally:
        server.terminate()
        server.wait(20)

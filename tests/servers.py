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


@contextmanager
def mariadb_server(directory: Path) -> Iterator[int]:
    """A MariaDB server for the block; yields its port. User ``node``, password ``node``, may create databases."""
    mariadbd, install = shutil.which("mariadbd") or "/usr/sbin/mariadbd", shutil.which("mariadb-install-db")
    require(
        Path(mariadbd).exists() and install is not None,
        "mariadb-server is not installed (apt-get install mariadb-server)",
    )
    data, port, socket_path = (
        directory / "mysql",
        free_port(),
        f"/tmp/crypto-test-{os.getpid()}-{free_port()}.sock",
    )
    user = ["--user=root"] if os.geteuid() == 0 else []
    subprocess.run(
        [
            str(install),
            "--no-defaults",
            f"--datadir={data}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            *user,
        ],
        check=True,
        capture_output=True,
    )
    log = (directory / "mariadb.log").open("wb")
    server = subprocess.Popen(
        [
            mariadbd,
            "--no-defaults",
            f"--datadir={data}",
            f"--port={port}",
            f"--socket={socket_path}",
            "--bind-address=127.0.0.1",
            "--innodb-buffer-pool-size=128M",
            "--innodb-flush-log-at-trx-commit=2",
            "--skip-log-bin",
            "--max-connections=200",
            *user,
        ],
        stdout=subprocess.DEVNULL,
        stderr=log,
    )
    try:
        wait_until(lambda: _answers(socket_path) or server.poll() is not None, 60, "MariaDB")
        assert server.poll() is None, (directory / "mariadb.log").read_text()[-2000:]
        with pymysql.connect(unix_socket=socket_path, user="root") as root, root.cursor() as cursor:
            cursor.execute("CREATE USER 'node'@'127.0.0.1' IDENTIFIED BY 'node'")
            cursor.execute("GRANT ALL ON *.* TO 'node'@'127.0.0.1'")
        yield port
    finally:
        server.terminate()
        server.wait(30)
        log.close()


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

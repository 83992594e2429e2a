"""What the tests of the local node share."""

from __future__ import annotations

import itertools
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ray_app.cli import main
from ray_app.node.ports import Ports
from tests.nodes import clean_environment
from tests.servers import free_port


@pytest.fixture(autouse=True)
def bare_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of whoever runs the tests reaches them, nor a .env of the working directory."""
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def ports() -> Ports:
    """Ports nobody needs to be able to listen on."""
    return Ports.from_block(20_000, 8_000, 8_265)


@pytest.fixture
def listener() -> Iterator[int]:
    """A loopback port that this process listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        yield server.getsockname()[1]


@dataclass(frozen=True)
class Refusal:
    """How ``crypto-data up`` ended: its exit status and what it said on stderr and stdout."""

    status: int
    error: str
    output: str


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Refusal]]:
    """Run ``crypto-data up`` with the given options where it must end before anything is started."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def run(*options: str, data_dir: Path = tmp_path / "data", upstream: str | None = "sandbox") -> Refusal:
        given = dict.fromkeys(("--port", "--dashboard-port"), "") | {
            name: value for name, value in itertools.pairwise(options) if name.startswith("--")
        }
        free = [part for name, value in given.items() if not value for part in (name, str(free_port()))]
        upstreams = [] if upstream is None else ["--upstream", upstream]
        with pytest.raises(SystemExit) as ended:
            main(["up", "--data-dir", str(data_dir), *upstreams, *free, *options])
        said = capsys.readouterr()
        for log in ("ray.log", "sandbox.log"):
            assert not (data_dir / "run" / log).exists(), f"something was started:\n{said.out}"
        assert not (data_dir / "run" / "node.json").exists()
        return Refusal(int(ended.value.code or 0), said.err, said.out)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)

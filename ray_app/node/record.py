"""DATA_DIR/run: which node runs here. The lock that lets only one run, and the record that others read.

``node.json`` is for ``crypto-data status`` and for the next ``crypto-data up``, which ends what a killed node left
behind: every process is recorded with its start time, so that a pid given to somebody else since is never touched.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ray_app.errors import NodeError
from ray_app.node.processes import Process


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """What is known about a running node. Holds no secret. ``started_ms`` is wall time."""

    launcher: Process
    started_ms: int
    url: str
    dashboard_url: str
    origin: str
    reason: str
    database: str
    time_scale: float
    temp_dir: str
    sandbox_port: int | None = None
    ready: bool = False
    processes: dict[str, Process] = field(default_factory=dict)
    others: tuple[Process, ...] = ()

    def started_processes(self) -> Iterator[Process]:
        """Everything this node started, the launcher itself excluded."""
        yield from self.processes.values()
        yield from self.others


def run_dir(data_dir: Path) -> Path:
    """Where the running node of ``data_dir`` keeps its record, token and logs."""
    return data_dir / "run"


def record_file(data_dir: Path) -> Path:
    """Where the record is."""
    return run_dir(data_dir) / "node.json"


def save(data_dir: Path, record: NodeRecord) -> None:
    """Write the record atomically, for its owner's eyes only."""
    path = record_file(data_dir)
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(json.dumps(asdict(record), indent=1) + "\n")
    partial.replace(path)


def load(data_dir: Path) -> NodeRecord | None:
    """The record of the last node of ``data_dir`` (it may have ended without removing it); None without one."""
    path = record_file(data_dir)
    try:
        content = json.loads(path.read_text())
        return NodeRecord(
            **{
                **content,
                "launcher": Process(**content["launcher"]),
                "processes": {name: Process(**process) for name, process in content["processes"].items()},
                "others": tuple(Process(**process) for process in content["others"]),
            }
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NodeError(f"{path} cannot be read ({error!r}); if no node runs on {data_dir}, remove it") from error


def forget(data_dir: Path) -> None:
    """Remove the record: nothing of the node is left."""
    record_file(data_dir).unlink(missing_ok=True)


@contextmanager
def lock(data_dir: Path) -> Iterator[None]:
    """Hold the data directory for this process; NodeError names the process that already does.

    The kernel releases the lock with the process, however it ends.
    """
    directory = run_dir(data_dir)
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        stream = (directory / "lock").open("a+")
    except OSError as error:
        raise NodeError(f"{data_dir} cannot be used as data directory ({error}); choose another: --data-dir") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            stream.seek(0)
            holder = stream.read().strip() or "unknown"
            running = load(data_dir)
            where = f", {running.url}" if running is not None else ""
            raise NodeError(
                f"a node already runs on {data_dir} (process {holder}{where}); "
                "stop it (Ctrl-C there), or choose another --data-dir with other --port and --dashboard-port"
            ) from None
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield


def leftovers(record: NodeRecord) -> list[Process]:
    """What of a node whose launcher is gone still runs."""
    return [process for process in record.started_processes() if process.alive]


def describe(processes: Iterable[Process]) -> str:
    """Processes as a person reads them."""
    return ", ".join(f"{process.pid} ({process.command[:60] or 'gone'})" for process in processes)

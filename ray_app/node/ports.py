"""Which ports a local node uses, and whether they are free.

The API and dashboard ports are the operator's. Everything else is inside the machine: those ports are taken from one
block below the kernel's ephemeral range (so that no outgoing connection can sit on one), starting at a place derived
from the data directory: a node finds the same block again, and two nodes look in different places.
"""

from __future__ import annotations

import errno
import hashlib
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from ray_app.errors import NodeError

LOOPBACK = "127.0.0.1"

#: where the blocks lie: above the ports services are known by, below Linux's default ephemeral range (32768)
FIRST_PORT, LAST_PORT = 20_000, 32_000
#: replicas (and their successors during an update) that may run at once, per protocol
REPLICA_PORTS = 24
BLOCK = 80


@dataclass(frozen=True, slots=True)
class Ports:
    """Every port of a node. All are on loopback, except ``api`` where the operator says so."""

    api: int
    dashboard: int
    gcs: int
    node_manager: int
    object_manager: int
    agent_http: int
    agent_grpc: int
    runtime_env_agent: int
    metrics_export: int
    dashboard_metrics: int
    autoscaler_metrics: int
    haproxy_stats: int
    haproxy_metrics: int
    fallback_http: int
    fallback_grpc: int
    serve_grpc: int
    sandbox: int
    replica_http: int
    replica_grpc: int

    @classmethod
    def from_block(cls, first: int, api: int, dashboard: int) -> Ports:
        """The ports of the block that begins at ``first``."""
        names = [name for name in cls.__dataclass_fields__ if name not in {"api", "dashboard"}]
        numbers = {name: first + offset for offset, name in enumerate(names[:-2])}
        return cls(
            api=api,
            dashboard=dashboard,
            **numbers,
            replica_http=first + BLOCK - 2 * REPLICA_PORTS,
            replica_grpc=first + BLOCK - REPLICA_PORTS,
        )


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen on ``host:port`` now."""
    return _problem(port, host) is None


def _problem(port: int, host: str) -> OSError | None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            return error
    return None


def choose_ports(data_dir: Path, host: str, api: int, dashboard: int) -> Ports:
    """The ports of a node about to start.

    NodeError names the port that is taken, by whom where that can be seen, and the flag that moves it.
    """
    if api == dashboard:
        raise NodeError(f"--port and --dashboard-port are both {api}; choose different ones")
    if (problem := _problem(0, host)) is not None:
        raise NodeError(
            f"--host {host}: this machine cannot listen there ({problem.strerror}); "
            f"{LOOPBACK} is this machine only, 0.0.0.0 every network it is on"
        )
    for flag, port, where in (("--port", api, host), ("--dashboard-port", dashboard, LOOPBACK)):
        if (problem := _problem(port, where)) is None:
            continue
        if problem.errno == errno.EACCES:
            raise NodeError(f"port {port} needs more rights than this user has; choose one above 1023 with {flag}")
        raise NodeError(f"port {port} is taken{_by(port)}; stop that, or choose another with {flag}")
    blocks = (LAST_PORT - FIRST_PORT) // BLOCK
    digest = hashlib.sha256(str(data_dir.absolute()).encode()).digest()
    start = int.from_bytes(digest[:4]) % blocks
    taken = listening_ports() | {api, dashboard}
    for step in range(blocks):
        first = FIRST_PORT + (start + step) % blocks * BLOCK
        block = range(first, first + BLOCK)
        if taken.isdisjoint(block) and all(is_free(port) for port in block):
            return Ports.from_block(first, api, dashboard)
    raise NodeError(f"no {BLOCK} free ports in a row between {FIRST_PORT} and {LAST_PORT}: too many servers run here")


def listening_ports() -> set[int]:
    """Every TCP port somebody listens on, on any address (Linux; elsewhere empty: binding then tells)."""
    return {port for port, _ in _listeners()}


def _listeners() -> list[tuple[int, str]]:
    """(port, socket inode) of every listening TCP socket."""
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == "0A":  # TCP_LISTEN
                found.append((int(fields[1].rsplit(":", 1)[1], 16), fields[9]))
    return found


def open_addresses(pids: set[int]) -> list[tuple[str, int, int]]:
    """(address, port, pid) of every TCP socket that ``pids`` listen on."""
    owners = {inode: pid for pid in pids for inode in _socket_inodes(pid)}
    found = []
    for table, family in (("/proc/net/tcp", socket.AF_INET), ("/proc/net/tcp6", socket.AF_INET6)):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in owners:
                address, port = fields[1].rsplit(":", 1)
                packed = b"".join(struct.pack("<I", int(address[i : i + 8], 16)) for i in range(0, len(address), 8))
                found.append((socket.inet_ntop(family, packed), int(port, 16), owners[fields[9]]))
    return sorted(found)


def owner_of(port: int) -> int | None:
    """The pid of the process (of ours, unless root) that listens on ``port``; None where that cannot be seen."""
    inodes = {inode for number, inode in _listeners() if number == port}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and inodes & _socket_inodes(int(entry.name)):
            return int(entry.name)
    return None


def _socket_inodes(pid: int) -> set[str]:
    inodes = set()
    try:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            target = str(descriptor.readlink())
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    except OSError:
        pass  # gone, or not ours to look at
    return inodes


def _by(port: int) -> str:
    pid = owner_of(port)
    if pid is None:
        return ""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
    name = command if len(command) <= 80 else command[:77] + "..."
    orphan = ""
    if "ray/dashboard/agent.py" in command or "runtime_env/agent/main.py" in command:
        orphan = ", an agent that outlived a killed Ray node"
    return f" by process {pid} ({name}{orphan})"

"""The Ray head of a local node: its command line, its environment, its private directory.

Everything a second node on the same machine could collide with is set here: ports, temporary directory, token,
HAProxy's files. What listens where, and its guard: docs/security.md.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ray_app.errors import NodeError
from ray_app.node.haproxy import install
from ray_app.node.ports import LOOPBACK, REPLICA_PORTS, Ports

#: the objects of this node are small; 100 MB is above the least Ray takes (75 MB)
OBJECT_STORE_BYTES = 100 * 1024 * 1024
#: logical CPUs offered to Ray. Actors and replicas of this node ask for 0 or 0.01; jobs are drivers and hold none.
LOGICAL_CPUS = 2
#: Ray sessions whose logs are kept in DATA_DIR/run/logs after they ended
KEPT_SESSIONS = 3
#: bytes the directory's path may have: HAProxy takes socket paths of 97, and /h/ + a node id of 56 + /m.sock follow
LONGEST_PRIVATE_DIR = 97 - 3 - 56 - 7
#: where Python finds what makes its processes smaller (ray_app/lean/sitecustomize.py)
LEAN = Path(__file__).resolve().parents[1] / "lean"
#: a path that means the same inside a shell command and outside
_PLAIN = re.compile(r"[\w./+@%=,:-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Head:
    """What it takes to start the Ray head of the node in ``data_dir``."""

    data_dir: Path
    ports: Ports

    @property
    def run_dir(self) -> Path:
        """What belongs to the running node: record, token, logs (mode 0700)."""
        return self.data_dir / "run"

    @property
    def private_dir(self) -> Path:
        """Around Ray's and HAProxy's files (mode 0700): short enough for a Unix socket, the same at every start."""
        return private_dir_of(self.data_dir)

    @property
    def temp_dir(self) -> Path:
        """Ray's sockets and logs. Ray opens this directory to everybody; only ``private_dir`` around it is a wall."""
        return ray_dir_of(self.data_dir)

    @property
    def haproxy_dir(self) -> Path:
        """HAProxy's configuration and sockets; its path is short on purpose."""
        return self.private_dir / "h"

    @property
    def kept_logs(self) -> Path:
        """Ray's logs of sessions that have ended."""
        return self.run_dir / "logs"

    @property
    def dashboard_url(self) -> str:
        """The dashboard and its API."""
        return f"http://{LOOPBACK}:{self.ports.dashboard}"

    @property
    def token_file(self) -> Path:
        """The token that the dashboard, its API and every Ray process ask for (mode 0600)."""
        return self.run_dir / "ray_token"

    @property
    def gcs_address(self) -> str:
        """Where drivers find the cluster."""
        return f"{LOOPBACK}:{self.ports.gcs}"

    @property
    def python(self) -> Path:
        """The interpreter of every Ray process.

        Ray pastes its path into shell commands without quotes. Where the virtual environment's path has a space (or
        worse), a link in ``private_dir`` stands for it: Python takes the environment it is called through.
        """
        if _PLAIN.fullmatch(sys.prefix):
            return Path(sys.executable)
        return self.private_dir / "venv" / Path(sys.executable).relative_to(sys.prefix)

    def prepare(self) -> str:
        """Make the private directories, the token (kept over restarts) and HAProxy's wrapper; returns the token.

        NodeError where a directory is not ours or cannot be written.
        """
        try:
            return self._prepare()
        except OSError as error:
            raise NodeError(f"{error.filename}: {error.strerror}; a node needs to write there") from error

    def _prepare(self) -> str:
        for directory in (self.run_dir, self.private_dir):
            _make_ours(directory)
        self.clear()
        _make_ours(self.private_dir)
        self.temp_dir.mkdir(exist_ok=True)
        (self.private_dir / "venv").symlink_to(sys.prefix, target_is_directory=True)
        install(self.run_dir / "haproxy")
        # Ray's job supervisor looks here for its cluster; without it, it takes any cluster it finds on the host.
        (self.temp_dir / "ray_current_cluster").write_text(self.gcs_address)
        return ensure_token(self.token_file)

    def clear(self) -> None:
        """Leave nothing of an ended node in the system's temporary directory: its logs move to ``kept_logs``.

        OSError where they cannot be moved (a full disk); they stay where they are then.
        """
        for session in sorted(self.temp_dir.glob("session_2*")):
            if (session / "logs").is_dir():
                self.kept_logs.mkdir(parents=True, exist_ok=True, mode=0o700)
                shutil.move(session / "logs", self.kept_logs / session.name)
        for old in sorted(self.kept_logs.glob("session_2*"))[:-KEPT_SESSIONS]:
            shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(self.private_dir, ignore_errors=True)

    def command(self) -> list[str]:
        """``ray start`` in the foreground, every port chosen."""
        ports = self.ports
        options: dict[str, object] = {
            "port": ports.gcs,
            "node-ip-address": LOOPBACK,
            "node-manager-port": ports.node_manager,
            "object-manager-port": ports.object_manager,
            "min-worker-port": 0,
            "max-worker-port": 0,
            "dashboard-host": LOOPBACK,
            "dashboard-port": ports.dashboard,
            "dashboard-agent-listen-port": ports.agent_http,
            "dashboard-agent-grpc-port": ports.agent_grpc,
            "runtime-env-agent-port": ports.runtime_env_agent,
            "metrics-export-port": ports.metrics_export,
            "num-cpus": LOGICAL_CPUS,
            "object-store-memory": OBJECT_STORE_BYTES,
            "temp-dir": self.temp_dir,
            "include-dashboard": "true",
            "include-log-monitor": "false",
        }
        return [
            *(str(self.python), "-m", "ray_app.node.start_ray", "start", "--head", "--block"),
            *(f"--{name}={value}" for name, value in options.items()),
            "--no-monitor",  # the autoscaler's: a local node has one machine
            "--disable-usage-stats",
        ]

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """The environment of the head, which its actors, replicas and jobs inherit.

        What ``inherited`` says about another cluster is dropped; the rest of it stays.
        """
        ports = self.ports
        haproxy = self.haproxy_dir
        kept = {name: value for name, value in inherited.items() if name not in _FOREIGN}
        return kept | {
            "RAY_TMPDIR": str(self.temp_dir),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file.absolute()),
            "RAY_USAGE_STATS_ENABLED": "0",
            # loopback: GCS, raylet, agents and workers
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_DASHBOARD_URL": self.dashboard_url,
            "DASHBOARD_METRIC_PORT": str(ports.dashboard_metrics),
            "AUTOSCALER_METRIC_PORT": str(ports.autoscaler_metrics),
            # Serve behind HAProxy
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_SERVE_HAPROXY_BINARY_PATH": str((self.run_dir / "haproxy").absolute()),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "a.sock"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(haproxy / "m.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "server-state"),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.haproxy_stats),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.haproxy_metrics),
            "RAY_SERVE_HAPROXY_NBTHREAD": "2",
            # a proxy that takes longer to start is killed and started again: on a busy machine for ever
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "20",
            "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "10",
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback_http),
            "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports.fallback_grpc),
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports.replica_http),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports.replica_http + REPLICA_PORTS - 1),
            "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(ports.replica_grpc),
            "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(ports.replica_grpc + REPLICA_PORTS - 1),
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
            # SIGTERM ends the head at once: Serve has been shut down before, there is no other node to drain to
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            # memory: no idle workers kept ready, fewer malloc arenas than 8 × cores, and what was freed goes back
            # to the system (left alone, malloc learns from one large body to keep the next ones)
            "RAY_prestart_worker_first_driver": "0",
            "RAY_enable_worker_prestart": "0",
            "RAY_num_workers_soft_limit": "0",
            "RAY_idle_worker_killing_time_threshold_ms": "1000",
            "MALLOC_ARENA_MAX": "2",
            "MALLOC_TRIM_THRESHOLD_": "131072",
            "MALLOC_MMAP_THRESHOLD_": "131072",
            "OMP_NUM_THREADS": "1",
            "POLARS_MAX_THREADS": "2",
            "RAY_event_stats": "0",
            "RAY_DEDUP_LOGS": "0",
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(LEAN), inherited.get("PYTHONPATH")))),
        }


#: variables that would point this node's processes at another cluster
_FOREIGN = frozenset(
    {
        "RAY_ADDRESS",
        "RAY_API_SERVER_ADDRESS",
        "RAY_AUTH_TOKEN",
        "RAY_JOB_CONFIG_JSON_ENV_VAR",
        "RAY_NODE_ID",
        "RAY_RAYLET_PID",
        "RAY_SESSION_NAME",
        "RAY_SERVE_DEFAULT_HTTP_HOST",
    }
)


def _make_ours(directory: Path) -> None:
    """See to it that ``directory`` is there and closed to everybody else; NodeError if it is not ours."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if directory.lstat().st_uid != os.getuid():  # lstat: a link of somebody else's is somebody else's
        raise NodeError(f"{directory} belongs to another user; remove it or set TMPDIR to a directory of your own")
    directory.chmod(0o700)


def private_dir_of(data_dir: Path) -> Path:
    """The directory under the system's temporary one that belongs to the node in ``data_dir``."""
    name = "crypto-" + hashlib.sha256(str(data_dir.absolute()).encode()).hexdigest()[:10]
    chosen = Path(tempfile.gettempdir()) / name
    if len(os.fsencode(chosen)) > LONGEST_PRIVATE_DIR or not _PLAIN.fullmatch(str(chosen)):
        chosen = Path("/tmp") / name  # noqa: S108 - mode 0700 and ours, checked in prepare()
    return chosen


def ray_dir_of(data_dir: Path) -> Path:
    """Ray's temporary directory of the node in ``data_dir``."""
    return private_dir_of(data_dir) / "r"


def ensure_token(path: Path) -> str:
    """The token in ``path``; a new one is made (mode 0600 from its first byte) where there is none."""
    if path.exists():
        path.chmod(0o600)
        token = path.read_text().strip()
        if token:
            return token
    token = secrets.token_hex(32)
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(token)
    return token

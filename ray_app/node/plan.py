"""What a node will be, decided before anything is started: origin, ports, settings and environment of its processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from dotenv import dotenv_values

from ray_app.errors import NodeError
from ray_app.node.haproxy import LISTEN_HOST
from ray_app.node.head import Head
from ray_app.node.origin import Choice, Upstream, choose, probe_live, sandbox_variables
from ray_app.node.ports import LOOPBACK, choose_ports
from ray_app.settings import Settings, load_settings

SERVE_CONFIG = Path(__file__).resolve().parents[2] / "serve_config.yaml"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line said; None: the setting decides."""

    upstream: Upstream = "auto"
    replay: Path | None = None
    replay_text: Path | None = None
    replay_macro: Path | None = None
    faults: Path | None = None
    data_dir: Path | None = None
    database_url: str | None = None
    redis_url: str | None = None
    host: str = LOOPBACK
    port: int = 8000
    dashboard_port: int = 8265
    time_scale: float = 1.0
    serve_config: Path = SERVE_CONFIG

    @property
    def url(self) -> str:
        """Where this machine reaches the API."""
        host = LOOPBACK if self.host in {"0.0.0.0", "::", ""} else self.host  # noqa: S104 - compared, not bound
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


def settings_of(options: Options) -> Settings:
    """The environment's settings with the command line's above them; the data directory is absolute."""
    given = {"database_url": options.database_url, "redis_url": options.redis_url}
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    data_dir = (options.data_dir or settings.data_dir).absolute()
    return settings.model_copy(update={"data_dir": data_dir})


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is decided. ``settings`` are those the node's processes will read from ``environment``."""

    options: Options
    choice: Choice
    settings: Settings
    head: Head
    environment: dict[str, str]

    @property
    def sandboxed(self) -> bool:
        """Whether upstreams are simulated."""
        return self.choice.origin == "sandbox"

    def sandbox_command(self) -> list[str]:
        """The program of the simulated upstreams."""
        return [
            *(sys.executable, "-c", "from ray_app.cli import main; main()", "sandbox"),
            *("--port", str(self.head.ports.sandbox)),
            *("--epoch-file", str(self.settings.epoch_file)),
            *("--request-log", str(self.settings.state_dir / "requests.jsonl")),
            *self._market_files(),
            *_flags("--replay-text", self.options.replay_text),
            *_flags("--replay-macro", self.options.replay_macro),
        ]

    def prepare_command(self) -> list[str]:
        """The program that looks at everything given and brings the data directory and the database up to date."""
        scale = ("--time-scale", str(self.options.time_scale)) if self.sandboxed else ()
        return [sys.executable, "-m", "ray_app.node.prepare", *scale, *self._market_files()]

    def serve_config(self) -> dict[str, Any]:
        """serve_config.yaml with this node's addresses; everything else as it stands in the file.

        Replicas listen on loopback whatever --host says: HAProxy, which takes Serve's own switches out of clients'
        requests, is the only way to them.
        """
        path = self.options.serve_config
        try:
            config: dict[str, Any] = yaml.safe_load(path.read_text())
        except OSError as error:
            raise NodeError(f"{path} cannot be read ({error}); the node runs from a checkout") from error
        config["http_options"] |= {"host": LOOPBACK, "port": self.options.port}
        config["grpc_options"] |= {"port": self.head.ports.serve_grpc}
        return config

    def _market_files(self) -> list[str]:
        options = self.options
        return [*_flags("--replay", options.replay), *_flags("--faults", options.faults)]

    @classmethod
    def make(cls, options: Options, settings: Settings, probe: Callable[[Settings], str | None] = probe_live) -> Plan:
        """Decide; NodeError where flags contradict each other or a port is taken."""
        choice = choose(
            options.upstream,
            files={
                "--replay": options.replay,
                "--replay-text": options.replay_text,
                "--replay-macro": options.replay_macro,
                "--faults": options.faults,
            },
            time_scale=options.time_scale,
            probe=lambda: probe(settings),
        )
        ports = choose_ports(settings.data_dir, options.host, options.port, options.dashboard_port)
        settings, variables = _specialise(settings, choice, ports.sandbox)
        inherited = {name: value for name, value in dotenv_values(".env").items() if value is not None} | os.environ
        head = Head(settings.data_dir, ports)
        variables[LISTEN_HOST] = options.host
        return cls(options, choice, settings, head, head.environment(inherited | variables))


def _flags(flag: str, path: Path | None) -> tuple[str, ...]:
    return (flag, str(path.absolute())) if path is not None else ()


def _specialise(settings: Settings, choice: Choice, sandbox_port: int) -> tuple[Settings, dict[str, str]]:
    """The settings of this origin, and the variables that make every process of the node read the same."""
    update: dict[str, Any] = {"origin": choice.origin}
    variables = {"DATA_DIR": str(settings.data_dir), "DATA_ORIGIN": choice.origin}
    if choice.fallback:
        # Nobody asked for simulated data: it must not reach a database that was meant for real ones.
        update |= {"database_url": None, "mysql_host": None}
    if choice.origin == "sandbox":
        variables |= sandbox_variables(sandbox_port)
        update |= {"coingecko_api_key": None, "coingecko_base_url": variables["COINGECKO_BASE_URL"]}
    settings = settings.model_copy(update=update)
    variables["DATABASE_URL"] = settings.resolved_database_url
    if settings.resolved_redis_url is not None:
        variables["REDIS_URL"] = settings.resolved_redis_url
    return settings, variables

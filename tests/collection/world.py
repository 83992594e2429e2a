"""A small market behind the real sandbox over HTTP, a database and the settings of a node that collects from it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_app.assets import AssetRegistry
from ray_app.clock import Clock, Epoch, ScaledClock
from ray_app.collection.runtime import Runtime
from ray_app.sandbox.app import SandboxApp, SandboxConfig, create_app
from ray_app.sandbox.faults import parse_faults
from ray_app.sandbox.server import running
from ray_app.settings import Settings
from ray_app.storage import registry as stored_registry
from ray_app.storage.engine import Database
from ray_app.storage.migrate import upgrade

#: 2026-11-24T08:00:00Z
START = 1_795_507_200_000
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
#: four with a venue in the fast tier (the first ranks), one without; two with a venue and one without in the slow one
FAST, SLOW = ("BTC", "ETH", "SOL", "XRP", "TRX"), ("LINK", "UNI", "OKB")


class JumpingClock(Clock):
    """Runs ``scale`` times as fast as the wall and can be moved forward besides.

    A ManualClock will not do where tasks wait for each other in threads: whoever sleeps on it moves time for all.
    """

    def __init__(self, now_ms: int, scale: float = 60.0) -> None:
        self.scale = scale
        self._from = time.monotonic()
        self._base_ms = float(now_ms)

    def now_ms(self) -> int:
        return round(self._base_ms + (time.monotonic() - self._from) * 1_000 * self.scale)

    async def sleep(self, node_seconds: float) -> None:
        await asyncio.sleep(max(node_seconds, 0.0) / self.scale)

    def go_to(self, ms: int) -> None:
        self._base_ms += max(ms - self.now_ms(), 0)


def small_registry(symbols: tuple[str, ...] = (*FAST, *SLOW)) -> AssetRegistry:
    seed = AssetRegistry.seed()
    return AssetRegistry([seed.by_symbol(symbol)[0] for symbol in symbols])


@dataclass
class World:
    url: str
    app: SandboxApp
    clock: Clock
    settings: Settings
    registry: AssetRegistry
    log_file: Path

    @property
    def database_url(self) -> str:
        return self.settings.resolved_database_url

    def db(self) -> Database:
        return Database(self.database_url)

    def requests(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        lines = self.log_file.read_text().splitlines() if self.log_file.exists() else []
        entries = [json.loads(line) for line in lines]
        return [entry for entry in entries if endpoint in (None, entry["endpoint"])]

    async def open(self, collector: str, **options: Any) -> Runtime:
        return await Runtime.open(self.settings, collector, clock=self.clock, **options)


@contextlib.contextmanager
def world(
    directory: Path,
    database_url: str,
    *,
    scale: float = 60.0,
    clock: Clock | None = None,
    faults: str = "",
    registry: AssetRegistry | None = None,
    replay: Path | None = None,
    start: int = START,
    **settings: Any,
) -> Iterator[World]:
    """The sandbox in a thread, its registry in a migrated database, and settings that point at both."""
    epoch = Epoch(round(time.time() * 1_000), start, scale, start)
    used = clock or ScaledClock(epoch)
    log_file = directory / "requests.jsonl"
    config = SandboxConfig(
        epoch,
        seed=7,
        replay=replay,
        registry=registry or (None if replay else small_registry()),
        clock=used,
        faults=parse_faults(faults, start),
        request_log=log_file,
    )
    app = create_app(config)
    with running(app) as url:
        values: dict[str, Any] = {
            "data_dir": directory / "data",
            "origin": "sandbox",
            "database_url": database_url,
            "coingecko_base_url": f"{url}/coingecko/api/v3",
            "coinbase_exchange_base_url": f"{url}/coinbase-exchange",
            "coinbase_api_base_url": f"{url}/coinbase-api/v2",
            "sandbox_url": url,
            "price_fast_ranks": len(FAST),
            "history_hourly_days": 2,
            "history_daily_days": 5,
            "api_timeout_s": 5.0,
            **settings,
        }
        built = Settings(_env_file=None, **values)
        epoch.save(built.state_dir / "epoch.json")
        db = Database(database_url)
        upgrade(db)
        db.run(lambda conn: stored_registry.save(conn, app.world.registry, start))
        db.dispose()
        yield World(url, app, used, built, app.world.registry, log_file)

"""Sandboxes for tests: a small registry, markets that live for the whole run, in-process clients, real servers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest

from ray_app.assets import Asset, AssetRegistry
from ray_app.clock import DAY_MS, HOUR_MS, Epoch, ManualClock
from ray_app.sandbox.app import SandboxApp, SandboxConfig, create_app
from ray_app.sandbox.generated import GeneratedMarket

NOW = 1_795_509_445_500  # 2026-11-24T08:37:25.500Z
HOUR = NOW // HOUR_MS * HOUR_MS
COINGECKO, COINBASE, COINBASE_V2 = "/coingecko/api/v3", "/coinbase-exchange", "/coinbase-api/v2"

_NAMES = [
    ("BTC", "bitcoin"),
    ("ETH", "ethereum"),
    ("USDT", "tether"),
    ("WBTC", "wrapped-bitcoin"),
    ("SHIB", "shiba-inu"),
]
_NAMES += [(f"S{n}", f"coin-{n}") for n in range(6, 41)]


def small_registry() -> AssetRegistry:
    """40 assets, three of them thinly traded; OLD ended and NEW began at midnight ten days ago."""
    turn = NOW // DAY_MS * DAY_MS - 10 * DAY_MS
    assets = [Asset(n, s, c, c.title(), f"{s}-USD", n) for n, (s, c) in enumerate(_NAMES, 1)]
    assets += [Asset(100 + n, f"THIN{n}", f"thin-{n}", f"Thin {n}", f"THIN{n}-USD", 400 + n) for n in range(3)]
    assets += [
        Asset(200, "OLD", "old-coin", "Old", "OLD-USD", 60, "renamed", None, turn, "new-coin", 1.0),
        Asset(201, "NEW", "new-coin", "New", None, 61, "active", turn),
    ]
    return AssetRegistry(assets)


@pytest.fixture(scope="session")
def registry() -> AssetRegistry:
    return small_registry()


@pytest.fixture(scope="session")
def market(registry: AssetRegistry) -> GeneratedMarket:
    return GeneratedMarket(7, tuple(registry))


def epoch(first_node_ms: int = NOW) -> Epoch:
    """An epoch whose clock nobody reads: tests set the time."""
    return Epoch(first_node_ms, first_node_ms, 1.0, first_node_ms)


@dataclass
class Sandbox:
    """An application with a clock that the test moves, asked in-process."""

    app: SandboxApp
    clock: ManualClock

    async def get(self, path: str, headers: dict[str, str] | None = None, **params: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://sandbox") as client:
            return await client.get(path, params=params, headers=headers)


@pytest.fixture
def sandbox(registry: AssetRegistry) -> Callable[..., Sandbox]:
    """Makes a sandbox: ``sandbox(faults=…, now=…)``."""

    def make(now: int = NOW, **options: Any) -> Sandbox:
        clock = ManualClock(now)
        options.setdefault("seed", 7)
        if "replay" not in options:
            options.setdefault("registry", registry)
        return Sandbox(create_app(SandboxConfig(epoch(), clock=clock, **options)), clock)

    return make


def ohlcv(symbols: tuple[str, ...] = ("BTC", "ETH", "EUR"), days: int = 140) -> pl.DataFrame:
    """Hourly candles of a made-up past: decimals as exchanges have them, and hours that are absent."""
    generator = np.random.default_rng(5)
    start = 1_688_169_600_000  # 2023-07-01T00:00:00Z
    frames = []
    for n, symbol in enumerate(symbols):
        closes = np.round(100.0 * 10**n * np.exp(np.cumsum(generator.normal(0, 0.01, days * 24))), 2)
        opens = np.concatenate([[closes[0]], closes[:-1]])
        frame = pl.DataFrame(
            {
                "timestamp": start + HOUR_MS * np.arange(days * 24),
                "symbol": symbol,
                "open": opens,
                "high": np.round(np.maximum(opens, closes) * (1 + generator.exponential(0.004, days * 24)), 2),
                "low": np.round(np.minimum(opens, closes) * (1 - generator.exponential(0.004, days * 24)), 2),
                "close": closes,
                "volume": np.round(generator.exponential(1234.56, days * 24), 6),
            }
        ).with_columns(
            pl.max_horizontal("high", "open", "close").alias("high"),
            pl.min_horizontal("low", "open", "close").alias("low"),
        )
        keep = generator.random(days * 24) > 0.02 * n
        frames.append(frame.filter(pl.Series(keep)))
    frame = pl.concat(frames)
    return frame.with_columns(pl.from_epoch("timestamp", "ms").dt.replace_time_zone("UTC"))


@pytest.fixture(scope="session")
def replay_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("replay") / "ohlcv.parquet"
    ohlcv().write_parquet(path)
    return path

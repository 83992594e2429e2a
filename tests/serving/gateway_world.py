"""A gateway over a small stored market: real database, real registry, real keys, a clock that stands still."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import httpx
import orjson

from ray_app.assets import Asset, AssetRegistry
from ray_app.clock import HOUR_MS, ManualClock
from ray_app.collection.jobs import JobError, JobInfo
from ray_app.health.report import HealthReporter
from ray_app.sentiment.analysis import Analysis, Said
from ray_app.sentiment.ensemble import WEIGHTS, Ensemble
from ray_app.sentiment.vocabulary import TextScore
from ray_app.serving.api import Gateway, build_api
from ray_app.serving.deps import GatewayDeps, StoredRegistry
from ray_app.serving.keys import KeyRing, Level
from ray_app.serving.limits import Policy, RateLimiter
from ray_app.serving.price_keepers import BoardKeeper
from ray_app.serving.prices_board import PriceBoard
from ray_app.serving.stats import StoredStats
from ray_app.settings import Settings
from ray_app.storage import registry
from ray_app.storage.engine import Database
from ray_app.storage.tables import ohlc_data, price_data_real
from ray_app.storage.upsert import guarded_upsert

#: 2026-11-24T08:00:00Z
NOW = 1_795_507_200_000

BTC = Asset(1, "BTC", "bitcoin", "Bitcoin", "BTC-USD", 1)
ETH = Asset(2, "ETH", "ethereum", "Ethereum", "ETH-USD", 2)
NOVENUE = Asset(3, "NOV", "novenue", "No Venue", None, 3)
UNPRICED = Asset(4, "UNP", "unpriced", "Unpriced", None, 4)
TWIN_BIG = Asset(5, "TWN", "twin-big", "Big Twin", None, 5)
TWIN_SMALL = Asset(6, "TWN", "twin-small", "Small Twin", None, 600)
UNRANKED = Asset(7, "UNR", "unranked", "Unranked", None, None)
MARKET = AssetRegistry([BTC, ETH, NOVENUE, UNPRICED, TWIN_BIG, TWIN_SMALL, UNRANKED])


def price_row(
    asset: Asset, slot: int, price: float, source: str = "coingecko.markets", **values: Any
) -> dict[str, Any]:
    """A row of price_data_real; everything the upstream did not say is None."""
    event_time = values.pop("event_time", slot + 3_000)
    known_at = values.pop("known_at", slot + 7_250)
    row: dict[str, Any] = dict.fromkeys(str(column.name) for column in price_data_real.c)
    return row | {
        "asset_id": asset.asset_id,
        "slot": slot,
        "source": source,
        "interval_s": 300,
        "event_time": event_time,
        "known_at": known_at,
        "current_price": price,
        "event_version": event_time,
        "fetched_at": known_at,
        "parser_version": 1,
        "payload_hash": "0" * 64,
        **values,
    }


def price_event(row: Mapping[str, Any], asset: Asset) -> bytes:
    """The outbox event of a price row, as the collectors write it: without the order columns."""
    order = {"event_version", "fetched_at", "parser_version", "payload_hash"}
    body = {"symbol": asset.symbol, "coin_id": asset.coin_id}
    return orjson.dumps(body | {name: value for name, value in row.items() if name not in order})


def candle_row(asset: Asset, interval_s: int, open_time: int, **values: Any) -> dict[str, Any]:
    """A candle whose numbers follow from its time."""
    n = open_time // (interval_s * 1_000) % 1_000
    row = {
        "asset_id": asset.asset_id,
        "venue": "coinbase",
        "interval_s": interval_s,
        "open_time": open_time,
        "version": 1,
        "known_at": open_time + interval_s * 1_000,
        "first_seen_at": open_time + interval_s * 1_000 + 20_000,
        "open_price": 100.0 + n,
        "high_price": 110.0 + n,
        "low_price": 90.0 + n,
        "close_price": 101.0 + n,
        "volume": 1.5,
        "event_version": open_time + interval_s * 1_000,
        "fetched_at": open_time + interval_s * 1_000 + 20_000,
        "parser_version": 1,
        "payload_hash": "0" * 64,
    }
    return row | values


class RecordingJobs:
    """A job server that runs nothing and remembers what it was told."""

    def __init__(self) -> None:
        self.submitted: dict[str, tuple[str, ...]] = {}
        self.down = False

    async def submit(self, entrypoint_args: Sequence[str], submission_id: str) -> str:
        if self.down:
            raise JobError("the Ray dashboard at http://10.0.0.7:8265 does not answer")
        self.submitted.setdefault(submission_id, tuple(entrypoint_args))
        return submission_id

    async def info(self, job_id: str) -> JobInfo | None:
        if self.down:
            raise JobError("the Ray dashboard at http://10.0.0.7:8265 does not answer")
        if job_id not in self.submitted:
            return None
        return JobInfo(job_id, "FAILED", "failed with exit code 1\n/work/secret.py line 3", "python x", NOW, None)


class FixedAnalyst:
    """The lexicon finds every text as good; the other models are not there. ``asked``: what of it and with what."""

    SAID = TextScore(0.5, (0.125, 0.25, 0.625))
    AWAY = TextScore(None, None, "model unavailable: it is being fetched or loaded")

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[str, ...], str]] = []
        self.error: Exception | None = None

    async def analyze(self, texts: Sequence[str], domain: str) -> Analysis:
        self.asked.append((tuple(texts), domain))
        if self.error is not None:
            raise self.error
        scores = {model: self.SAID if model == "lexicon" else self.AWAY for model in WEIGHTS[domain]}
        return Analysis([Said(scores, Ensemble(domain).combine(scores)) for _ in texts], {"lexicon": "1-abc"})


class World:
    """The gateway, and what it stands on. ``client`` talks to it without a server."""

    def __init__(self, db: Database, assets: AssetRegistry = MARKET, **settings: Any) -> None:
        self.db = db
        self.clock = ManualClock(NOW)
        self.now_s = 1_000.0
        db.run(lambda conn: registry.save(conn, assets, NOW - HOUR_MS) if len(assets) else 0)
        stored = StoredRegistry(db)
        stored.refresh()
        keyring = KeyRing(db, self.clock)
        keyring.refresh()
        board = PriceBoard(stored)
        self.keeper = BoardKeeper(board, db, lambda _after: None)
        self.jobs = RecordingJobs()
        self.analyst = FixedAnalyst()
        options = {"access_log": False, "rate_limit_requests": 10_000} | settings
        chosen = Settings(_env_file=None, **options)
        self.deps = GatewayDeps(
            db=db,
            settings=chosen,
            clock=self.clock,
            registry=stored,
            board=board,
            keyring=keyring,
            limiter=RateLimiter(Policy(chosen.rate_limit_requests, chosen.rate_limit_window_s)),
            health=HealthReporter(db, self.clock, chosen, keep_s=0),
            stats=StoredStats(db, self.clock, stored, chosen),
            jobs=self.jobs,
            analyst=self.analyst,
            now_s=lambda: self.now_s,
        )
        self.keys = {level: keyring.create(f"test {level.name}", level) for level in Level}
        self.api: Gateway = build_api(self.deps)

    def store_prices(self, *rows: Mapping[str, Any]) -> None:
        self.db.run(lambda conn: guarded_upsert(conn, price_data_real, rows))
        self.keeper.reload_now()

    def store_candles(self, *rows: Mapping[str, Any]) -> None:
        self.db.run(lambda conn: guarded_upsert(conn, ohlc_data, rows))

    def client(self, level: Level | None = Level.readonly, **headers: str) -> httpx.AsyncClient:
        if level is not None:
            headers["Authorization"] = f"Bearer {self.keys[level].secret}"
        return client_of(self.api, **headers)


def client_of(app: Any, **headers: str) -> httpx.AsyncClient:
    """A client of an ASGI app; a 500 is an answer here, never an exception."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=headers)


def market(db: Database, **settings: Any) -> World:
    """A world with a few prices: BTC complete, ETH with nulls, and so on."""
    world = World(db, **settings)
    slot = NOW - 300_000
    complete = {
        "price_change_24h": -512.25,
        "price_change_percentage_24h": -0.5,
        "market_cap": 1.8e12,
        "market_cap_rank": 1,
        "volume_usd_24h": 3.5e10,
        "high_24h": 92_000.0,
        "low_24h": 90_000.0,
        "open_24h": 91_746.25,
    }
    world.store_prices(
        price_row(BTC, slot - 300_000, 90_000.0),
        price_row(BTC, slot, 91_234.0, **complete),
        price_row(ETH, slot, 3_000.5),
        price_row(NOVENUE, slot, 1.25e-9),
        price_row(TWIN_BIG, slot, 5.0),
        price_row(TWIN_SMALL, slot, 0.5),
        price_row(UNRANKED, slot, 7.0),
    )
    return world


def renamed(world: World, asset: Asset, **changes: Any) -> None:
    """Change an asset in the registry, as a refresh of the collectors does."""
    current = world.deps.registry.current.replaced([replace(asset, **changes)])
    world.db.run(lambda conn: registry.save(conn, current, world.clock.now_ms()))
    world.deps.registry.refresh()  # type: ignore[attr-defined]

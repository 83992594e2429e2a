"""What the gateway is made of, and how it is put together from the settings.

Everything is given to :func:`ray_app.serving.api.build_api` from here, so a test builds the same gateway with other
parts, without Serve.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy.exc import SQLAlchemyError

from ray_app.assets import AssetRegistry
from ray_app.clock import Clock, WallClock, open_clock
from ray_app.collection.collectors import COLLECTORS
from ray_app.collection.event_bus import Hotline
from ray_app.collection.jobs import JobInfo
from ray_app.collection.jobs import JobsClient as RayJobs
from ray_app.collection.store import PRICE_CHANNEL, TICK_CHANNEL
from ray_app.errors import StorageError
from ray_app.health.evidence import Probe
from ray_app.health.report import HealthReporter, ProbeFunction
from ray_app.serving.analyst import Analyst, Away
from ray_app.serving.evidence import Measured
from ray_app.serving.feed import OutboxFeed
from ray_app.serving.health_probes import bus_probe
from ray_app.serving.keys import REFRESH_S, KeyRing, seed_keys
from ray_app.serving.limits import Policy, RateLimiter
from ray_app.serving.price_keepers import BoardKeeper, TickKeeper
from ray_app.serving.prices_board import PriceBoard, RegistryProvider
from ray_app.serving.stats import StoredStats
from ray_app.settings import Settings
from ray_app.storage import gateway_queries, registry
from ray_app.storage.engine import Database

logger = logging.getLogger(__name__)

#: wall seconds between two looks at the asset registry
REGISTRY_REFRESH_S = 30.0


class JobsClient(Protocol):
    """Whoever starts work outside the gateway (Ray jobs)."""

    async def submit(self, entrypoint_args: Sequence[str], submission_id: str) -> str:
        """Start a job program with arguments; its id. A known submission id is not run again. Raises JobError."""

    async def info(self, job_id: str) -> JobInfo | None:
        """What became of a job; None: there is none of that id. Raises JobError."""


class HealthProvider(Protocol):
    """Whoever computes the node's health."""

    async def summary(self) -> Mapping[str, Any]:
        """Score and component states: what anybody may see. No secrets, hosts, paths or error texts."""

    async def details(self) -> Mapping[str, Any]:
        """The summary with every piece of evidence."""


class StatsProvider(Protocol):
    """Whoever compares what was expected with what came. Blocking; called in a thread."""

    def collectors(self) -> list[dict[str, Any]]:
        """Per collector: expected, received, missing, last event, last error, quota, next run."""


class StoredRegistry:
    """The asset registry of the database, read anew now and then."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.as_of: int | None = None
        self._current: AssetRegistry | None = None

    @property
    def current(self) -> AssetRegistry:
        """The registry as last read; StorageError before the first successful :meth:`refresh`."""
        if self._current is None:
            raise StorageError("the asset registry has not been read yet")
        return self._current

    def refresh(self) -> None:
        """Read it (blocking). An unchanged registry stays the same object."""
        with self._db.read() as conn:
            found, changed_at = registry.load(conn), gateway_queries.registry_changed_at(conn)
        if not len(found):
            found = AssetRegistry.seed()  # the collectors have not saved theirs yet
        if self._current is None or found != self._current:
            self._current = found
        self.as_of = changed_at


@dataclass
class GatewayDeps:
    """The parts of a gateway. ``background``: coroutines that run as long as it does (each once, by name)."""

    db: Database
    settings: Settings
    clock: Clock
    registry: RegistryProvider
    board: PriceBoard
    keyring: KeyRing
    limiter: RateLimiter
    health: HealthProvider
    stats: StatsProvider
    jobs: JobsClient
    #: scores the texts of requests
    analyst: Analyst = field(default_factory=Away)
    #: names that /admin/collect takes
    collectors: tuple[str, ...] = tuple(COLLECTORS)
    #: Ray Serve adds X-Request-ID to answers itself
    echo_request_id: bool = True
    background: dict[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)
    now_s: Callable[[], float] = time.monotonic
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    #: how late sources come, how full columns are
    measured: Measured = field(init=False)

    def __post_init__(self) -> None:
        self.measured = Measured(self.db, self.clock)

    async def start(self) -> None:
        """Start the background work; returns at once."""
        if not self._tasks:
            self._tasks = [asyncio.create_task(_forever(name, work)) for name, work in self.background.items()]

    async def stop(self) -> None:
        """End the background work and wait for it."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        if isinstance(self.jobs, RayJobs):
            await self.jobs.aclose()
        await asyncio.to_thread(self.db.dispose)

    def wall_s(self) -> float:
        """Unix time of the machine: limits are in wall time, whatever the node's scale."""
        return WallClock().now_ms() / 1_000


def open_gateway(
    settings: Settings,
    hotline: Hotline | None = None,
    *,
    jobs: JobsClient | None = None,
    analyst: Analyst | None = None,
    probes: Mapping[str, ProbeFunction] | None = None,
    echo_request_id: bool = True,
) -> GatewayDeps:
    """Everything a gateway needs, from the settings alone (blocking).

    ``hotline``: the event bus, if there is one; without it the outbox is polled. ``jobs``: default the Ray cluster of
    ``RAY_DASHBOARD_URL``. ``analyst``: who scores texts; default: nobody. ``probes``: how health asks what only the
    caller can reach (``streams``, ``redis``).

    A database that does not answer now is no error: what needs it answers 503 until it does.
    """
    db = Database(settings.resolved_database_url, pool_size=settings.db_pool_size)
    clock = open_clock(settings.epoch_file)
    assets, keyring = StoredRegistry(db), KeyRing(db, clock)
    board = PriceBoard(assets)
    feeds: deque[OutboxFeed] = deque(maxlen=1)  # the one the board follows now

    def open_feed(after_seq: int) -> OutboxFeed:
        feeds.append(OutboxFeed(db, PRICE_CHANNEL, hotline, after_seq=after_seq))
        return feeds[-1]

    async def ask_bus() -> Probe:
        return bus_probe(feeds[-1] if feeds else None)

    keeper = BoardKeeper(board, db, open_feed)
    ticks = TickKeeper(board, db, lambda after_seq: OutboxFeed(db, TICK_CHANNEL, hotline, after_seq=after_seq))

    def read_keys() -> None:
        seed_keys(db, settings, clock)
        keyring.refresh()

    for what, look in (("asset registry", assets.refresh), ("API keys", read_keys), ("prices", keeper.reload_now)):
        try:
            look()
        except (StorageError, SQLAlchemyError) as error:
            logger.warning("%s cannot be read yet: %s", what, error)
    return GatewayDeps(
        db=db,
        settings=settings,
        clock=clock,
        registry=assets,
        board=board,
        keyring=keyring,
        limiter=RateLimiter(Policy(settings.rate_limit_requests, settings.rate_limit_window_s)),
        health=HealthReporter(db, clock, settings, probes=dict(probes or {}) | {"event_bus": ask_bus}),
        stats=StoredStats(db, clock, assets, settings),
        jobs=jobs if jobs is not None else RayJobs.from_settings(settings),
        analyst=analyst if analyst is not None else Away(),
        echo_request_id=echo_request_id,
        background={
            "API keys": every(REFRESH_S, "API keys", keyring.refresh),
            "asset registry": every(REGISTRY_REFRESH_S, "asset registry", assets.refresh),
            "current prices": keeper.run,
            "live ticks": ticks.run,
            "comparison of current prices": keeper.reconcile,
        },
    )


async def _forever(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run ``work``; if it ends or fails, say so and start it again after a second."""
    while True:
        try:
            await work()
            logger.error("%s ended; starting it again", name)
        except Exception:
            logger.exception("%s failed; starting it again", name)
        await asyncio.sleep(1.0)


def every(seconds: float, what: str, refresh: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    """Background work: call the blocking ``refresh`` in a thread every ``seconds`` of wall time."""

    async def work() -> None:
        failing = False
        while True:
            try:
                await asyncio.to_thread(refresh)
                failing = False
            except (StorageError, SQLAlchemyError) as error:
                if not failing:
                    logger.warning("%s cannot be read, the last known ones stay in force: %s", what, error)
                failing = True
            await asyncio.sleep(1.0 if failing else seconds)

    return work

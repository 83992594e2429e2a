"""What a collecting process works with: clock, database, budgets, transport, archive, ingestor, registry.

``Runtime.open`` builds it from the settings alone, so that an actor, a job and the command line get the same thing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from ray_app.assets import AssetRegistry
from ray_app.clock import Clock, iso, open_clock
from ray_app.collection import spending
from ray_app.collection.archive import Archive
from ray_app.collection.budget import BudgetAuthority, Priority
from ray_app.collection.event_bus import Notifier
from ray_app.collection.ingest import Ingestor, Receipt
from ray_app.collection.lease import Lease, LeaseKeeper
from ray_app.collection.recovery import writer_name
from ray_app.collection.refresh import COINS_LIST, PRODUCTS
from ray_app.collection.transport import Attempt, Transport
from ray_app.collection.upstreams import Upstream, build_upstreams, limits_of, refuse_live_upstreams
from ray_app.errors import LeaseLost, RateLimited
from ray_app.settings import Settings
from ray_app.sources import ENDPOINTS
from ray_app.sources.base import Request
from ray_app.storage import records, registry
from ray_app.storage.engine import Database
from ray_app.storage.migrate import require_current

log = logging.getLogger(__name__)
T = TypeVar("T")

#: endpoints asked with If-None-Match: large lists that rarely change, and feeds
CONDITIONAL = (COINS_LIST, PRODUCTS, *(name for name, endpoint in ENDPOINTS.items() if endpoint.conditional))
#: wall seconds in which close() gives unused budget back
_CLOSE_S = 0.5


@dataclass
class Runtime:
    """The tools of one collector in one process. Close it, or use it as an asynchronous context manager."""

    settings: Settings
    collector: str
    clock: Clock
    db: Database
    leases: LeaseKeeper
    archive: Archive
    upstreams: dict[str, Upstream]
    budgets: BudgetAuthority
    transport: Transport
    ingestor: Ingestor
    _registry: AssetRegistry
    _generation: tuple[int, int]

    def __post_init__(self) -> None:
        self.budgets.reserve = self._reserve

    @classmethod
    async def open(
        cls,
        settings: Settings,
        collector: str,
        *,
        notifier: Notifier | None = None,
        clock: Clock | None = None,
        writer: str | None = None,
    ) -> Runtime:
        """Open everything; an empty registry is seeded.

        SchemaDrift or StorageError if the database is not ready, ConfigError if a sandbox's data would mix with real.

        ``clock``: default the node's (the epoch record of a sandbox node, else the wall clock). ``writer``: the
        name of this process in the archive; default made of collector, host and process id.
        """
        upstreams = build_upstreams(settings)
        refuse_live_upstreams(settings, upstreams)
        clock = clock or open_clock(settings.epoch_file)
        db = Database(settings.resolved_database_url, pool_size=settings.db_pool_size)
        try:
            assets, generation = await asyncio.to_thread(_ready, db, clock.now_ms())
        except BaseException:
            db.dispose()
            raise
        budgets = BudgetAuthority(db, clock, limits_of(upstreams), request_timeout_s=settings.api_timeout_s)
        leases = LeaseKeeper(db)
        archive = Archive(settings.archive_dir, writer or writer_name(collector, socket.gethostname(), os.getpid()))
        ingestor = Ingestor(db, archive, leases, clock, collector, lambda: runtime.registry, notifier)

        async def keep(attempt: Attempt) -> None:
            await ingestor.archived(attempt.exchange)

        transport = Transport(upstreams, clock, budgets, settings, conditional=CONDITIONAL, on_attempt=keep)
        runtime = cls(
            settings, collector, clock, db, leases, archive, upstreams, budgets, transport, ingestor, assets, generation
        )
        ingestor.registry_changed = runtime._reload
        return runtime

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close connections and files. What is not committed yet stays in the archive."""
        await self.ingestor.aclose()
        await self.transport.aclose()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self.budgets.aclose()
        except Exception as error:  # noqa: BLE001 - nothing depends on it: loans end by themselves
            log.info("%s: budget not given back on close (%r); its loans end by themselves", self.collector, error)
        await asyncio.to_thread(self.archive.close)
        await asyncio.to_thread(self.db.dispose)

    # --- registry ---

    @property
    def registry(self) -> AssetRegistry:
        """The registry as this process knows it."""
        return self._registry

    async def refresh_registry(self) -> bool:
        """Load the registry again if another process has changed it; whether it had."""
        generation = await self.read(records.registry_generation)
        if generation == self._generation:
            return False
        await asyncio.to_thread(self._reload)
        return True

    def _reload(self) -> None:
        with self.db.read() as conn:
            self._registry, self._generation = registry.load(conn), records.registry_generation(conn)

    # --- upstream and database ---

    async def _reserve(self, account: str, priority: Priority) -> int:
        """Credits of the account's month that a request of this priority must leave."""
        if account != spending.ACCOUNT:
            return 0
        limits, now, assets = self.upstreams[account].limits, self.clock.now_ms(), len(self._registry.active())
        # undecided, a month without anything spent reserves most
        decision = await self.read(lambda conn: spending.in_force(conn, assets, self.settings, limits, 0, now))
        return spending.reserve(decision, limits, priority, now)

    async def fetch(self, request: Request, priority: Priority = Priority.TOP) -> Receipt:
        """Ask the upstream, ingest the answer, and say what it held. ``priority``: whose credits it may take.

        Raises what :meth:`Transport.fetch` and :meth:`Ingestor.ingest` raise. A receipt that is not ``ok`` carries
        the error the answer stands for.
        """
        exchange = await self.transport.fetch(request, priority)
        receipt = await self.ingestor.ingest(exchange)
        if receipt.outcome == "ok":
            self.transport.confirm(exchange)
        elif isinstance(receipt.error, RateLimited):
            _, until = await self.transport.slow_down(exchange)
            log.warning("%s; all pause until %s", receipt.error, iso(until))
        return receipt

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run a query in a read transaction, in a thread."""

        def work() -> T:
            with self.db.read() as conn:
                return query(conn)

        return await asyncio.to_thread(work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a write transaction under this process's lease; LeaseLost if it has none."""
        lease = self.ingestor.lease
        if lease is None:
            raise LeaseLost(f"{self.collector}: no lease is held; acquire it before writing")
        held: Lease = lease

        def fenced(conn: Connection) -> T:
            self.leases.assert_held(conn, held)
            return work(conn)

        return await asyncio.to_thread(self.db.run, fenced)


def _ready(db: Database, now_ms: int) -> tuple[AssetRegistry, tuple[int, int]]:
    require_current(db)
    with db.read() as conn:
        assets = registry.load(conn)
        generation = records.registry_generation(conn)
    if len(assets):
        return assets, generation

    def seed(conn: Connection) -> None:
        if not len(registry.load(conn)):  # another process may have been quicker
            registry.save(conn, AssetRegistry.seed(), now_ms)

    with contextlib.suppress(IntegrityError):  # at the same moment as another process, who has seeded it then
        db.run(seed)
    with db.read() as conn:
        return registry.load(conn), records.registry_generation(conn)

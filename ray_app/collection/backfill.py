"""Filling history: what is owed is computed, asked for newest first, and never asked twice.

The live candle collector looks after the last 300 intervals; everything older is done here, 300 candles a request,
under a lease of its own per dataset, so that a second backfill of the same dataset says so and ends. There is no
state to resume from: whoever starts again computes what is still owed.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from sqlalchemy import Connection

from ray_app.assets import Asset
from ray_app.collection import datasets, gaps
from ray_app.collection.budget_rules import Priority
from ray_app.collection.collectors.base import Absences, bounded
from ray_app.collection.collectors.candles import candles_of
from ray_app.collection.collectors.prices import PriceCollector
from ray_app.collection.control import holding
from ray_app.collection.datasets import ASSET_DATASETS, LIVE_INTERVALS, PRICES, Plan, interval_of
from ray_app.collection.expectation import SlotRange, count, newest_first
from ray_app.collection.runtime import Runtime
from ray_app.errors import BudgetExhausted, CircuitOpen, ConfigError, LeaseTaken, UpstreamError
from ray_app.storage import records

log = logging.getLogger(__name__)

COLLECTOR = "backfill"
#: datasets whose history is filled by default, the quickest first
HISTORY = ("candles-86400", "candles-3600", "candles-300")
#: candles per request, and requests in flight at once: live polls need lanes of the same budget, and the processor
PER_REQUEST, CONCURRENCY = 300, 2
#: looks at what is still owed before a run ends: a bar at the edge of an answer is believed to be missing only when
#: a second answer lacks it too
ROUNDS = 3
#: node seconds to wait when the upstream pauses everybody, at least
_PAUSE_S = 5.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a dataset is: slots ``owed`` and ``expected`` of the range asked for, requests ``failed``."""

    dataset: str
    requests_done: int
    requests_total: int
    owed: int
    expected: int
    failed: int = 0
    no_venue: int = 0

    @property
    def percent(self) -> float:
        """Share of the expected slots that owe nothing any more, percent."""
        return 100.0 if self.expected == 0 else 100.0 * (self.expected - self.owed) / self.expected

    def __str__(self) -> str:
        return (
            f"{self.dataset}: {self.percent:.1f} % ({self.expected - self.owed} of {self.expected} slots), "
            f"request {self.requests_done} of {self.requests_total}"
            + (f", {self.failed} failed" if self.failed else "")
            + (f"; {self.no_venue} assets have no venue" if self.no_venue else "")
        )


Report = Callable[[Progress], None]


def lease_name(dataset: str) -> str:
    """The lease under which a dataset is backfilled; also its name in ``collector_runs``."""
    return f"{COLLECTOR}:{dataset}"


async def backfill(
    runtime: Runtime,
    names: Sequence[str] = HISTORY,
    start: int | None = None,
    end: int | None = None,
    assets: Sequence[Asset] | None = None,
    progress: Report | None = None,
    holder: str | None = None,
) -> dict[str, Progress]:
    """Fill what the datasets owe in ``[start, end)`` (ms); the last progress of each.

    ``start`` default: the schedule's horizon; ``end`` default: where the live collector takes over. ``assets``
    default: all. LeaseTaken if another process backfills a dataset; StorageError, ArchiveError as ever. Upstream
    failures are counted, logged and worked around; what stays owed is owed the next time.
    """
    unknown = [name for name in names if name not in ASSET_DATASETS]
    if unknown:
        raise ConfigError(f"no dataset is called {unknown[0]!r}; there are {', '.join(ASSET_DATASETS)}")
    holder = holder or f"{socket.gethostname()}-{os.getpid()}"
    done: dict[str, Progress] = {}
    for name in names:
        try:
            async with holding(runtime, lease_name(name), f"{holder}/{name}"):
                await runtime.ingestor.recover()
                done[name] = await _Backfill(runtime, name, start, end, assets, progress or _log).run()
        except LeaseTaken:
            raise LeaseTaken(f"{name}: another backfill of it is running; it goes on by itself") from None
    return done


class _Backfill:
    """One run over one dataset."""

    def __init__(
        self,
        runtime: Runtime,
        dataset: str,
        start: int | None,
        end: int | None,
        assets: Sequence[Asset] | None,
        report: Report,
    ) -> None:
        self.runtime = runtime
        self.dataset = dataset
        self.start = start
        self.end = end
        self.assets = tuple(assets if assets is not None else runtime.registry.assets)
        self.report = report
        self.absences = Absences()
        no_venue = 0 if dataset == PRICES else sum(1 for a in self.assets if a.coinbase_product is None and a.alive())
        self.state = Progress(dataset, 0, 0, 0, 0, no_venue=no_venue)

    async def run(self) -> Progress:
        runtime, name = self.runtime, lease_name(self.dataset)
        started = runtime.clock.now_ms()
        await runtime.write(lambda conn: records.run_started(conn, name, started))
        plan = await self._plan()
        try:
            for _ in range(ROUNDS):
                if not await (self._prices(plan) if self.dataset == PRICES else self._candles(plan)):
                    break
        finally:
            seen = await self._survey(plan)
            expected, _, _, owed = seen.counts()
            self.state = replace(self.state, owed=owed, expected=expected)
            self.report(self.state)
        now, failed = runtime.clock.now_ms(), self.state.failed

        def finished(conn: Connection) -> None:
            if failed:
                records.run_failed(conn, name, now, f"{failed} requests failed", None)
            records.run_succeeded(conn, name, now, None)

        await runtime.write(finished)
        return self.state

    async def _plan(self) -> Plan:
        """The dataset's plan; declared here if no collector has run yet."""
        runtime, now = self.runtime, self.runtime.clock.now_ms()
        settings = runtime.settings
        tiers = (
            datasets.price_tiers(runtime.registry.active(), settings, now)
            if self.dataset == PRICES
            else datasets.candle_tiers(interval_of(self.dataset), settings, now)
        )
        plan = await runtime.read(lambda conn: datasets.load(conn, self.dataset))
        if plan.versions:
            return plan
        return await runtime.write(lambda conn: datasets.declare(conn, self.dataset, tiers, now))

    async def _survey(self, plan: Plan) -> gaps.Survey[Asset]:
        now = self.runtime.clock.now_ms()
        since = max(plan.horizon or now, self.start or 0)
        until = self.end
        if until is None and self.dataset != PRICES:
            until = now - LIVE_INTERVALS * interval_of(self.dataset) * 1_000
        return await self.runtime.read(lambda conn: gaps.survey(conn, plan, self.assets, since, now, until=until))

    async def _candles(self, plan: Plan) -> bool:
        """One round; whether there was anything to do."""
        seen = await self._survey(plan)
        interval_s = interval_of(self.dataset)
        pieces = [
            (part.asset, piece) for part in seen.owed for piece in newest_first(part.owed, interval_s, PER_REQUEST)
        ]
        await self._record_all(plan, seen)
        if not pieces:
            return False
        rank = {asset.asset_id: place for place, asset in enumerate(sorted(self.assets, key=lambda a: a.by_rank))}
        pieces.sort(key=lambda piece: (-piece[1].end, rank[piece[0].asset_id]))
        expected, _, _, owed = seen.counts()
        total = self.state.requests_done + len(pieces)
        self.state = replace(self.state, requests_total=total, owed=owed, expected=expected)
        self.report(self.state)
        await bounded(CONCURRENCY, (partial(self._one, plan, asset, piece) for asset, piece in pieces))
        return True

    async def _one(self, plan: Plan, asset: Asset, piece: SlotRange) -> None:
        interval_s = interval_of(self.dataset)
        answered = True
        try:
            await candles_of(self.runtime, self.absences, self.dataset, asset, interval_s, piece)
        except (CircuitOpen, BudgetExhausted) as error:
            answered = False
            log.warning("%s %s: %s", self.dataset, asset.symbol, error)
            # everybody waits for the same moment: asking the next piece at once would only fail as well
            await self.runtime.clock.sleep_until(max(error.until_ms, self._now() + round(_PAUSE_S * 1_000)))
        except UpstreamError as error:
            answered = False
            log.warning("%s %s: %s", self.dataset, asset.symbol, error)
        left = await self._record(plan, piece.start, piece.end, asset) if answered else 0
        state = self.state
        self.state = replace(
            state,
            requests_done=state.requests_done + 1,
            owed=state.owed - (count([piece], interval_s) - left if answered else 0),
            failed=state.failed + (not answered),
        )
        self.report(self.state)

    def _now(self) -> int:
        return self.runtime.clock.now_ms()

    async def _record_all(self, plan: Plan, seen: gaps.Survey[Asset]) -> None:
        """Bring the ledger up to date for what a survey looked at."""
        ids = [asset.asset_id for asset in self.assets]
        looking = partial(gaps.look, plan=plan, assets=self.assets, since=seen.since, due=seen.now, now=seen.now)
        for look in await self.runtime.read(partial(looking, until=seen.until, asset_ids=ids)):
            await self.runtime.write(partial(gaps.amend, plan=plan, seen=look, now=seen.now))

    async def _record(self, plan: Plan, since: int, until: int, asset: Asset) -> int:
        """Bring the ledger up to date for one asset; slots still owed there."""
        now = self._now()

        def look(conn: Connection) -> int:
            datasets.load(conn, self.dataset, lock=True)
            seen = gaps.survey(conn, plan, (asset,), since, now, until=until)
            gaps.record(conn, seen, now, asset_ids=[asset.asset_id])
            return seen.counts()[3]

        return await self.runtime.write(look)

    async def _prices(self, plan: Plan) -> bool:
        """Price slots are repaired as the live collector does, over the range asked for."""
        acting = PriceCollector(self.runtime)
        acting.repairs_are = Priority.BACKFILL
        acting.plans = {PRICES: plan}
        seen = await self._survey(plan)
        expected, _, _, owed = seen.counts()
        self.state = replace(self.state, owed=owed, expected=expected)
        self.report(self.state)
        done = await acting.repair_all(seen)
        requests = self.state.requests_done + done
        self.state = replace(self.state, requests_done=requests, requests_total=requests)
        await self._record_all(plan, seen)
        return done > 0


def _log(progress: Progress) -> None:
    log.info("%s", progress)

"""Sees to it that the history which live polling cannot reach is filled: by backfill jobs, one at a time.

Live polls repair whatever lies within their last request (datasets.LIVE_INTERVALS). What is owed before that, at first
the whole history of the horizon, later what a long downtime left, is a job's work. Whether there is any is looked up at
the start and every hour of node time, so a job that failed is followed by the next.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError

from ray_app.clock import HOUR_MS, Clock, from_ms, iso, open_clock
from ray_app.collection import datasets, gaps
from ray_app.collection.collectors.candles import CandleCollector
from ray_app.collection.datasets import LIVE_INTERVALS, interval_of
from ray_app.collection.expectation import SlotRange
from ray_app.collection.jobs import JobInfo
from ray_app.errors import CryptoDataError
from ray_app.settings import Settings
from ray_app.storage import ledger, records, registry
from ray_app.storage.engine import Database

log = logging.getLogger(__name__)

#: the datasets with a history, the quickly filled one first
DATASETS = ("candles-86400", "candles-3600", "candles-300")
#: node seconds between two looks
LOOK_EVERY_S = 3_600.0
#: wall seconds between two looks while something is on its way: a job, or the collectors' first schedules
SOON_S = 2.0


class Jobs(Protocol):
    """What is needed of a jobs client."""

    async def submit(self, entrypoint_args: list[str], submission_id: str) -> str:
        """Start a job; a known submission id is no error."""

    async def info(self, job_id: str) -> JobInfo | None:
        """What became of a job; None: unknown."""


class HistoryKeeper:
    """Runs beside the supervisor; touches nothing before :meth:`run`."""

    def __init__(self, settings: Settings, jobs: Jobs) -> None:
        self._settings = settings
        self._jobs = jobs
        self._running: str | None = None

    async def run(self) -> None:
        """Until cancelled; survives a database and a job server that are away."""
        clock = open_clock(self._settings.epoch_file)
        db = Database(self._settings.resolved_database_url, pool_size=2)
        try:
            while True:
                try:
                    soon = await self.look(db, clock)
                except (SQLAlchemyError, CryptoDataError) as error:
                    log.warning("history: cannot look for what is owed (%s); trying again", error)
                    soon = True
                await (asyncio.sleep(SOON_S) if soon else clock.sleep(LOOK_EVERY_S))
        finally:
            await asyncio.to_thread(db.dispose)

    async def look(self, db: Database, clock: Clock) -> bool:
        """Start a job if one is owed and none runs; whether to look again soon."""
        if self._running is not None:
            job = await self._jobs.info(self._running)
            if job is not None and not job.ended:
                return True
            ended, self._running = self._running, None
            log.info("history: %s ended: %s", ended, job.status if job is not None else "unknown to the cluster")
        now = clock.now_ms()
        for dataset in DATASETS:
            owed = await asyncio.to_thread(owed_ranges, db, dataset, now)
            if owed is None:
                return True
            if owed:
                submission_id = f"backfill-{dataset}-{from_ms(now // HOUR_MS * HOUR_MS):%Y%m%dT%H}"
                known = await self._jobs.info(submission_id)
                if known is not None and known.ended:
                    continue  # this hour's has ended and left something: the next hour's tries again
                slots = sum(part.end - part.start for part in owed) // (interval_of(dataset) * 1_000)
                log.info("history: %d slots of %s are owed; job %s", slots, dataset, submission_id)
                since = iso(min(part.start for part in owed))
                arguments = ["backfill", "--dataset", dataset, "--from", since]
                self._running = await self._jobs.submit(arguments, submission_id)
                return True
        return False


def owed_ranges(db: Database, dataset: str, now: int) -> list[SlotRange] | None:
    """What of ``dataset`` only a backfill can fill, one range per asset and gap; None before its first schedule.

    The collector's ledger says it (looking at all that is stored would take minutes after a year). Before the collector
    has written it, next to nothing is stored, and a look at that is quick.
    """
    with db.read() as conn:
        plan = datasets.load(conn, dataset)
        if plan.horizon is None:
            return None
        until = now - LIVE_INTERVALS * interval_of(dataset) * 1_000
        if until <= plan.horizon:
            return []
        if records.last_success(conn, CandleCollector.name) is None:
            seen = gaps.survey(conn, plan, registry.load(conn), plan.horizon, now, until=until)
            return [part for survey in seen.owed for part in survey.owed]
        entries = ledger.entries(conn, dataset, end=until, states=(gaps.OWED,))
    return [SlotRange(entry.start, min(entry.end, until)) for entry in entries]

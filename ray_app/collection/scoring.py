"""Sees to it that texts are scored: by the job ``score_texts``, now and then, never two at a time.

The job finds out what has no score and does that, so one that failed, or never ran, is made good by the next. It brings
the models' weights where they are not here (``--fetch``), while the node serves: not on a sandbox node, which calls
nobody outside.
"""

from __future__ import annotations

import logging
from typing import Protocol

from ray_app.clock import Clock, from_ms, open_clock
from ray_app.collection.jobs import JobInfo
from ray_app.errors import CryptoDataError
from ray_app.settings import Settings

log = logging.getLogger(__name__)

#: wall seconds between two jobs at least: starting one takes seconds of a processor, however fast node time runs
LEAST_S = 180.0
PREFIX = "score-"


class Jobs(Protocol):
    """What is needed of a jobs client."""

    async def submit(self, entrypoint_args: list[str], submission_id: str) -> str:
        """Start a job; a known submission id is no error."""

    async def info(self, job_id: str) -> JobInfo | None:
        """What became of a job; None: unknown."""

    async def forget(self, job_id: str) -> None:
        """Take an ended job off the cluster's list."""


class ScoringKeeper:
    """Runs beside the supervisor; touches nothing before :meth:`run`."""

    def __init__(self, settings: Settings, jobs: Jobs) -> None:
        self._settings = settings
        self._jobs = jobs
        self._last: str | None = None

    async def run(self) -> None:
        """Until cancelled; survives a job server that is away. Never looks where SCORING_INTERVAL is 0."""
        clock = open_clock(self._settings.epoch_file)
        interval_s = max(self._settings.scoring_interval_s, LEAST_S * clock.scale)
        await clock.sleep(LEAST_S * clock.scale)  # the first: what a node has when it starts, it has by then
        while True:
            try:
                if self._settings.scoring_interval_s > 0:
                    await self.look(clock)
            except CryptoDataError as error:
                log.warning("scoring: no job can be started (%s); trying again", error)
            await clock.sleep(interval_s)

    async def look(self, clock: Clock) -> None:
        """Start a job, unless the last one is still at it."""
        if self._last is not None:
            job = await self._jobs.info(self._last)
            if job is not None and not job.ended:
                return
            if job is not None and job.status == "SUCCEEDED":
                await self._jobs.forget(self._last)  # there are a hundred a day; of one that failed the log is kept
            elif job is not None:
                log.warning("scoring: %s ended as %s: %s", self._last, job.status, job.message)
        arguments = ["score_texts", *(["--fetch"] if self._settings.origin != "sandbox" else [])]
        self._last = await self._jobs.submit(arguments, f"{PREFIX}{from_ms(clock.now_ms()):%Y%m%dT%H%M%S}")

"""Serve application ``collection``: no route, one replica. ``serve_config.yaml`` imports ``collection`` from here."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ray import serve

from ray_app.collection.cluster import refuse_shared_sqlite
from ray_app.collection.history import HistoryKeeper
from ray_app.collection.housekeeping import keep_house
from ray_app.collection.jobs import JobsClient
from ray_app.collection.manifest import keep_manifests
from ray_app.collection.scoring import ScoringKeeper
from ray_app.collection.supervisor import Reconciler, children_of, machines
from ray_app.logs import configure
from ray_app.settings import load_settings

log = logging.getLogger(__name__)


class Supervisor:
    """Looks after the collector actors, has owed history filled and texts scored, and records what the archive held."""

    def __init__(self) -> None:
        settings = load_settings()
        configure(settings.log_level)
        refuse_shared_sqlite(settings.resolved_database_url, machines())
        self._database_url = settings.resolved_database_url
        self._reconciler = Reconciler(children_of(settings), settings.ray_namespace)
        self._jobs = JobsClient.from_settings(settings)
        history, scoring = HistoryKeeper(settings, self._jobs), ScoringKeeper(settings, self._jobs)
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._reconciler.run(), name="reconciler"),
            loop.create_task(history.run(), name="history"),
            loop.create_task(scoring.run(), name="scoring"),
            loop.create_task(keep_manifests(settings), name="manifests"),
            loop.create_task(keep_house(settings), name="housekeeping"),
        ]

    async def check_health(self) -> None:
        """Serve asks every few seconds, and replaces this replica where the answer is an error."""
        for task in self._tasks:
            if task.done():
                raise RuntimeError(f"the supervisor's {task.get_name()} is dead: {task}")
        refuse_shared_sqlite(self._database_url, await asyncio.to_thread(machines))  # machines may join at any time

    async def states(self) -> list[dict[str, Any]]:
        """Each actor as last seen."""
        return self._reconciler.states()

    async def __del__(self) -> None:
        """Serve awaits this before it ends the replica: collectors finish what they write."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self._reconciler.stop()
        await self._jobs.aclose()


collection = serve.deployment(name="Supervisor")(Supervisor).bind()

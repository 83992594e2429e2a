"""Serve application ``sentiment``: no route; gateways and jobs ask by its handle. ``serve_config.yaml`` imports it.

A node starts without a replica (``min_replicas: 0``): the first request, or the first job that has texts to score
(collection/scoring.py), starts one within seconds. Half an hour after the last it goes, and the memory of its models
with it. Where the first answer must come at once, or on a GPU, an overlay raises ``min_replicas`` and ``num_gpus``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import ray
from ray import serve

from ray_app.logs import configure
from ray_app.scoring.online import Desk, Limits, Shelf
from ray_app.sentiment.analysis import Analysis, Busy, Scores
from ray_app.settings import load_settings

#: batches in a row that weights may fail before the replica is replaced (a GPU that is lost stays lost to its process)
FAILURES: Final = 5


class Sentiment:
    """Scores texts. It is up before any model is; see scoring/online.py."""

    def __init__(self) -> None:
        settings = load_settings()
        configure(settings.log_level)
        device = "cuda" if ray.get_runtime_context().get_accelerator_ids().get("GPU") else "cpu"
        self._shelf = Shelf(settings, device=device, fetch=settings.origin != "sandbox")  # which calls nobody outside
        self._desk = Desk(self._shelf)
        loop = asyncio.get_running_loop()
        self._opening = loop.create_task(self._shelf.run(), name="models")
        self._scoring = loop.create_task(self._desk.run(), name="scoring")

    def reconfigure(self, limits: Mapping[str, Any]) -> None:
        """``user_config`` of serve_config.yaml: the fields of :class:`Limits`; applies without a restart."""
        self._desk.limits = Limits(**limits)

    async def check_health(self) -> None:
        """Serve asks every few seconds, and replaces this replica where the answer is an error."""
        if self._scoring.done():
            raise RuntimeError(f"nothing is scored any more: {self._scoring}")
        if any(count >= FAILURES for count in self._shelf.failures.values()):
            raise RuntimeError(f"batches failed in a row: {self._shelf.failures}; another process may do better")

    async def analyze(self, texts: Sequence[str], domain: str) -> Analysis | Busy:
        """See :meth:`Desk.analyze`."""
        return await self._desk.analyze(texts, domain)

    async def score(self, model: str, texts: Sequence[str]) -> Scores | Busy:
        """See :meth:`Desk.score`."""
        return await self._desk.score(model, texts)

    async def models(self) -> dict[str, str]:
        """Each model: its revision, or why it cannot be asked."""
        return {name: f"revision {one.revision}" for name, one in self._shelf.opened.items()} | self._shelf.missing

    async def __del__(self) -> None:
        """Serve awaits this before it ends the replica."""
        self._opening.cancel()
        self._scoring.cancel()


deployment = serve.deployment(name="Sentiment")(Sentiment)
sentiment = deployment.bind()

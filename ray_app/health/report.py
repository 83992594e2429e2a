"""What /health says: an open summary without secrets, and all of the evidence for the master key."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

from ray_app.clock import Clock, iso
from ray_app.health.collect import collect_evidence, unreadable_evidence
from ray_app.health.evidence import NOT_PROBED, Evidence, Probe
from ray_app.health.score import Component, Health, score
from ray_app.settings import Settings
from ray_app.storage.engine import Database

log = logging.getLogger(__name__)

#: wall seconds a verdict is used again: half a second of work for 400 assets on SQLite (a day of slots of each)
KEEP_S = 15.0
#: wall seconds after which a database that does not answer counts as unreadable, and a probe as failed
PATIENCE_S = 8.0

ProbeFunction = Callable[[], Awaitable[Probe]]


def health_summary(health: Health) -> dict[str, Any]:
    """The open body: score, status, component states, and what cost how much. Nothing in it is a secret or an error."""
    return {
        "status": health.status,
        "score": health.score,
        "timestamp": iso(health.as_of),
        "components": {component.name: _component(component) for component in health.components},
        "losses": [
            {
                "component": loss.component,
                "points": round(loss.points, 2),
                "reason": loss.reason,
                "since": iso(loss.since) if loss.since is not None else None,
            }
            for loss in sorted(health.losses, key=lambda loss: -loss.points)
        ],
    }


def health_details(health: Health, evidence: Evidence) -> dict[str, Any]:
    """The body for the master key: the summary and every piece of evidence, errors' texts included. Times in ms."""
    return health_summary(health) | {"evidence": asdict(evidence)}


def _component(component: Component) -> dict[str, Any]:
    answer: dict[str, Any] = {"status": component.state, "score": component.score}
    return answer | {"reason": component.reason} if component.reason is not None else answer


class HealthReporter:
    """Looks, judges and reports; one look serves everybody for :data:`KEEP_S`.

    ``probes``: how to ask the components that the database knows nothing of (``event_bus``, ``streams``, ``redis``);
    one without a probe counts as dead. ``breakers``: open circuits by account → until ms, from whoever can see them.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        settings: Settings,
        *,
        probes: Mapping[str, ProbeFunction] | None = None,
        breakers: Callable[[], Awaitable[Mapping[str, int]]] | None = None,
        patience_s: float = PATIENCE_S,
        keep_s: float = KEEP_S,
    ) -> None:
        self._db = db
        self._clock = clock
        self._settings = settings
        self._probes = dict(probes or {})
        self._breakers = breakers
        self._patience_s = patience_s
        self._keep_s = keep_s
        self._up_since = clock.now_ms()
        self._lock = asyncio.Lock()
        self._kept: tuple[float, Health, Evidence] | None = None

    async def summary(self) -> Mapping[str, Any]:
        """What anybody may see."""
        health, _ = await self.look()
        return health_summary(health)

    async def details(self) -> Mapping[str, Any]:
        """What the master key may see."""
        return health_details(*await self.look())

    async def look(self) -> tuple[Health, Evidence]:
        """The verdict and what it rests on, at most :data:`KEEP_S` old."""
        async with self._lock:
            if self._kept is None or time.monotonic() - self._kept[0] > self._keep_s:
                evidence = await self._evidence()
                self._kept = (time.monotonic(), score(evidence), evidence)
            return self._kept[1], self._kept[2]

    async def _evidence(self) -> Evidence:
        names = ("event_bus", "streams", "redis")
        answers = await asyncio.gather(*(self._probe(name) for name in names))
        probes: dict[str, Any] = dict(zip(names, answers, strict=True))
        probes["breakers"] = await self._open_circuits()
        try:
            async with asyncio.timeout(self._patience_s):
                return await asyncio.to_thread(
                    collect_evidence, self._db, self._clock, self._settings, up_since=self._up_since, **probes
                )
        except TimeoutError:
            log.warning("the database does not answer within %g s", self._patience_s)
            return await asyncio.to_thread(self._without_database, probes)

    def _without_database(self, probes: dict[str, Any]) -> Evidence:
        return unreadable_evidence(self._clock, self._settings, up_since=self._up_since, **probes)

    async def _probe(self, name: str) -> Probe:
        ask = self._probes.get(name)
        if ask is None:
            return NOT_PROBED
        try:
            async with asyncio.timeout(self._patience_s):
                return await ask()
        except Exception as error:  # noqa: BLE001 - a probe that fails is a finding, whatever failed in it
            log.warning("health: %s does not answer: %r", name, error)
            return Probe("dead", "it does not answer")

    async def _open_circuits(self) -> Mapping[str, int]:
        if self._breakers is None:
            return {}
        try:
            async with asyncio.timeout(self._patience_s):
                return await self._breakers()
        except Exception as error:  # noqa: BLE001 - as above; open circuits are also found in the database
            log.warning("health: circuit breakers cannot be asked: %r", error)
            return {}

"""Creates, watches and replaces the collector actors and the event bus: the one replica of application ``collection``.

The actors are its children: they die with it, and the next supervisor makes new ones. Nothing is lost by either,
because what is owed is computed from what is stored. How long to wait between two starts is decided in supervision.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from pydantic import SecretStr
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError

from ray_app.collection.actors import COLLECTOR_ACTORS, EVENT_BUS, EventBus, actor_of
from ray_app.collection.collectors import COLLECTORS
from ray_app.collection.supervision import Watch
from ray_app.collection.upstreams import build_upstreams
from ray_app.errors import CryptoDataError
from ray_app.settings import Settings

log = logging.getLogger(__name__)

#: wall seconds
LOOK_EVERY_S = 1.0
ANSWER_S = 10.0
STOP_S = 3.0
#: restarts Ray itself makes, at once, before the supervisor takes over with its growing pauses
MAX_RESTARTS = 2

PREFIX = "collector:"


@dataclass(slots=True)
class Child:
    """One actor that shall run."""

    name: str
    kind: type[Any]
    arguments: tuple[Any, ...] = ()
    watch: Watch = field(default_factory=Watch)
    actor: Any = None
    state: dict[str, Any] | None = None  # its last answer


def digest_of(settings: Settings) -> str:
    """What the actors would do differently with other code or other settings, in ten characters."""
    root = Path(__file__).resolve().parents[1]
    found = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(str(path.relative_to(root)).encode())
        found.update(path.read_bytes())
    for name, value in sorted(settings.model_dump().items()):
        shown = value.get_secret_value() if isinstance(value, SecretStr) else value
        found.update(f"{name}={shown!r}\n".encode())
    return found.hexdigest()[:10]


def children_of(settings: Settings) -> list[Child]:
    """The actors of a node. Their names hold the digest, so a new version never takes an old actor for its own.

    A collector that has nobody to ask, for want of a key, runs in none.
    """
    digest = digest_of(settings)
    upstreams = build_upstreams(settings)
    children = [Child(EVENT_BUS, EventBus)]
    for kind in COLLECTOR_ACTORS:
        names = [name for name in kind.collectors if COLLECTORS[name].off(settings, upstreams) is None]
        if names:
            children.append(Child(f"{PREFIX}{kind.title()}:{digest}", kind, (names,)))
    return children


def machines() -> set[str]:
    """The addresses of the machines of this cluster that are alive. Ray must be connected."""
    return {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}


def find_collector(collector: str, namespace: str) -> Any:
    """The running actor that hosts ``collector``; CryptoDataError where there is none. Ray must be connected."""
    prefix = f"{PREFIX}{actor_of(collector)}:"
    names = [
        actor["name"]
        for actor in ray.util.list_named_actors(all_namespaces=True)
        if actor["namespace"] == namespace and actor["name"].startswith(prefix)
    ]
    for name in names:
        with contextlib.suppress(ValueError):  # gone in between
            return ray.get_actor(name, namespace=namespace)
    raise CryptoDataError(f"no actor collects {collector!r} now; the supervisor may be restarting it")


class Reconciler:
    """Keeps ``children`` running in ``namespace``."""

    def __init__(self, children: Sequence[Child], namespace: str) -> None:
        self.children = list(children)
        self._namespace = namespace

    async def run(self) -> None:
        """Until cancelled. Each child has a loop of its own: a hung one delays no other."""
        async with asyncio.TaskGroup() as group:
            for child in self.children:
                group.create_task(self._keep(child), name=child.name)

    async def stop(self) -> None:
        """End every child: ask first, then kill."""

        async def end(child: Child) -> None:
            actor, child.actor = child.actor, None
            if actor is None:
                return
            try:
                async with asyncio.timeout(STOP_S):
                    await actor.stop.remote()
            except (RayError, TimeoutError) as error:
                log.warning("%s did not stop when asked: %s", child.name, type(error).__name__)
            ray.kill(actor, no_restart=True)

        await asyncio.gather(*(end(child) for child in self.children))

    def states(self) -> list[dict[str, Any]]:
        """Each child as last seen."""
        return [
            {
                "name": child.name,
                "running": child.actor is not None,
                "starts": child.watch.starts,
                "last_problem": child.watch.last_problem,
                "state": child.state,
            }
            for child in self.children
        ]

    async def _keep(self, child: Child) -> None:
        while True:
            try:
                await self._look(child)
            except Exception:  # supervision must outlive whatever Ray raises; the next look is a second away
                log.exception("%s: looking after it failed", child.name)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _look(self, child: Child) -> None:
        now = asyncio.get_running_loop().time
        if child.actor is None:
            if child.watch.may_start(now()):
                await self._start(child)
            return
        try:
            async with asyncio.timeout(ANSWER_S):
                child.state = await child.actor.state.remote()
        except ActorUnavailableError:
            log.info("%s is being restarted by Ray", child.name)
        except ActorDiedError as error:
            self._drop(child, f"died: {str(error).strip().splitlines()[0]}")
        except (TimeoutError, RayError) as error:  # an actor that only ever answers with an error is no better
            if child.watch.silent():
                self._drop(child, f"no answer, {child.watch.unanswered} times within {ANSWER_S:g} s ({error!r:.200})")
        else:
            if child.state is not None and not child.state["loop_alive"]:
                self._drop(child, f"its loop is dead: {child.state['problem']}")
            else:
                child.watch.answered(now())

    async def _start(self, child: Child) -> None:
        now = asyncio.get_running_loop().time
        options = {
            "name": child.name,
            "namespace": self._namespace,
            "num_cpus": 0,
            "max_restarts": MAX_RESTARTS,
            "max_task_retries": 0,
            "max_concurrency": 1_000,
        }
        try:
            starting = ray.remote(child.kind).options(**options).remote
            child.actor = await asyncio.to_thread(starting, child.name, *child.arguments)
        except ValueError:
            # The name is taken: the actor of a supervisor that is going. It goes with it.
            child.watch.ended(now(), "an earlier actor of that name is still there")
            child.watch.not_before = now() + LOOK_EVERY_S
            return
        child.watch.started(now())
        log.info("%s started", child.name)

    def _drop(self, child: Child, problem: str) -> None:
        """Give a child up; another is started when its pause is over."""
        actor, child.actor, child.state = child.actor, None, None
        child.watch.ended(asyncio.get_running_loop().time(), problem)
        log.warning("%s: %s; start number %d follows", child.name, problem, child.watch.starts + 1)
        ray.kill(actor, no_restart=True)

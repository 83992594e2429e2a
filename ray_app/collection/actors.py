"""The named actors of a node, as the Ray dashboard shows them: thin shells around plain code.

Rules they follow (measured on Ray 2.60, docs/operations.md): a constructor touches nothing outside, because its failure
would be final; the work starts with the actor, because what a ``start()`` began is gone after a restart; a dead task
does not kill its actor, so ``state()`` tells and the supervisor acts.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import ray
from ray.exceptions import RayError

from ray_app.collection.event_bus import Event, EventRing
from ray_app.collection.redis_bridge import RedisBridge
from ray_app.collection.runner import CollectorRunner
from ray_app.errors import CryptoDataError
from ray_app.logs import configure
from ray_app.settings import load_settings

log = logging.getLogger(__name__)

EVENT_BUS = "event-bus"
#: wall seconds a caller of the bus waits beyond what it asked for, and how long a bus that failed is left alone
GRACE_S = 2.0
RETRY_S = 0.5


class _Worker(ABC):
    """An async actor around one endless task."""

    def __init__(self, actor_name: str) -> None:
        self.actor_name = actor_name
        self._task = asyncio.get_running_loop().create_task(self._work(), name=actor_name)

    @abstractmethod
    async def _work(self) -> None:
        """What the actor is for; its end is a problem."""

    def _life(self) -> dict[str, Any]:
        """Whether the task lives; if not, why it ended."""
        problem = None
        if self._task.done():
            error = None if self._task.cancelled() else self._task.exception()
            problem = f"{type(error).__name__}: {error}" if error is not None else "ended"
        return {"actor": self.actor_name, "loop_alive": problem is None, "problem": problem}

    async def _end(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=2)


class _CollectorActor(_Worker):
    """The collectors of one process; its class name is what the dashboard shows.

    ``names``: those of ``collectors`` that have somebody to ask.
    """

    collectors: ClassVar[tuple[str, ...]]
    #: what it is called where that is not its one collector's name
    group: ClassVar[str | None] = None

    @classmethod
    def title(cls) -> str:
        """What the actor is called between ``collector:`` and the digest."""
        return cls.group or cls.collectors[0]

    def __init__(self, actor_name: str, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._runners: dict[str, CollectorRunner] = {}
        super().__init__(actor_name)

    async def _work(self) -> None:
        settings = load_settings()
        configure(settings.log_level)
        # The machine's id in its cluster, unique in the world (addresses are not: every local node's is 127.0.0.1), and
        # the actor's name with its code digest: a restarted actor takes its own lease over at once, another cluster's,
        # machine's or version's waits until the lease is free.
        holder = f"{ray.get_runtime_context().get_node_id()}/{self.actor_name}"
        bus = EventBusClient(settings.ray_namespace)
        self._runners = {name: CollectorRunner(settings, name, holder=holder, notifier=bus) for name in self._names}
        async with asyncio.TaskGroup() as group:  # one that breaks ends them all: the supervisor starts them anew
            for name, runner in self._runners.items():
                group.create_task(runner.run(), name=name)

    async def state(self) -> dict[str, Any]:
        """Evidence of life: ``loop_alive``, ``problem``, and each runner's own account under ``runners``."""
        return {**self._life(), "runners": {name: runner.state() for name, runner in self._runners.items()}}

    async def collect_now(self, collector: str) -> dict[str, Any]:
        """One pass of a collector now; what it did. CryptoDataError where it cannot be."""
        runner = self._runners.get(collector)
        if runner is None:
            raise CryptoDataError(f"{collector} is still starting; try again in a second")
        return await runner.collect_now()

    async def stop(self) -> None:
        """End the loops; the leases are released, nothing is lost."""
        await asyncio.gather(*(runner.stop() for runner in self._runners.values()))
        await self._end()


class CryptoPrices(_CollectorActor):
    """Current prices and the repair of missed ones."""

    collectors = ("crypto-prices",)


class UnifiedOhlc(_CollectorActor):
    """Candles of every interval."""

    collectors = ("unified-ohlc",)


class CryptoTicks(_CollectorActor):
    """The venue's live tick stream."""

    collectors = ("crypto-ticks",)


class CryptoNews(_CollectorActor):
    """Crypto news."""

    collectors = ("crypto-news",)


class StockNews(_CollectorActor):
    """Business and market news."""

    collectors = ("stock-news",)


class SocialReddit(_CollectorActor):
    """Posts of subreddits."""

    collectors = ("social-reddit",)


class Onchain(_CollectorActor):
    """On-chain figures."""

    collectors = ("onchain",)


class Derivatives(_CollectorActor):
    """Funding, open interest, volatility."""

    collectors = ("derivatives",)


class SlowFeeds(_CollectorActor):
    """What is asked a few times a day: a process for each would cost 110 MB more."""

    group = "slow-feeds"
    collectors = ("asset-registry", "macro-fred", "macro-market", "social-x", "fear-greed", "ohlc-coingecko")


#: every collector is in one of them
COLLECTOR_ACTORS: tuple[type[_CollectorActor], ...] = (
    *(CryptoPrices, UnifiedOhlc, CryptoTicks, CryptoNews, StockNews, SocialReddit, Onchain, Derivatives, SlowFeeds),
)


def actor_of(collector: str) -> str:
    """The title of the actor that hosts a collector; CryptoDataError where none does."""
    for kind in COLLECTOR_ACTORS:
        if collector in kind.collectors:
            return kind.title()
    known = ", ".join(name for kind in COLLECTOR_ACTORS for name in kind.collectors)
    raise CryptoDataError(f"no collector is called {collector!r}; there are {known}")


class EventBus(_Worker):
    """Wakes the readers of the outbox, and publishes to Redis where that is configured. Holds no truth."""

    def __init__(self, actor_name: str) -> None:
        self._ring = EventRing()
        self._redis: RedisBridge | None = None
        super().__init__(actor_name)

    async def _work(self) -> None:
        settings = load_settings()
        configure(settings.log_level)
        if settings.resolved_redis_url is not None:
            self._redis = RedisBridge(settings.resolved_redis_url)
        await asyncio.Event().wait()

    async def publish(self, channel: str, events: Sequence[Event]) -> None:
        """As :meth:`EventRing.publish`."""
        await self._ring.publish(channel, events)
        if self._redis is not None:
            await self._redis.publish(channel, events)

    async def wait(self, channel: str, after_seq: int, timeout_s: float) -> list[Event]:
        """As :meth:`EventRing.wait`."""
        return await self._ring.wait(channel, after_seq, timeout_s)

    async def state(self) -> dict[str, Any]:
        """Evidence of life, what the ring holds, and how Redis fares (None: there is none)."""
        channels = {name: asdict(channel) for name, channel in self._ring.state().items()}
        redis = asdict(self._redis.state()) if self._redis is not None else None
        return {**self._life(), "channels": channels, "redis": redis}

    async def stop(self) -> None:
        """End the bridge to Redis."""
        await self._end()
        if self._redis is not None:
            await self._redis.aclose()


class EventBusClient:
    """The event bus from another process: both Notifier and Hotline. Finds the actor by name again after it died.

    ``publish`` never raises: a lost notification costs a read of the table. ``wait`` raises what it meets; the feed
    reads the table meanwhile and asks again.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._actor: Any = None
        self._quiet_until = 0.0

    async def publish(self, channel: str, events: Sequence[Event]) -> None:
        """Tell the bus."""
        try:
            async with asyncio.timeout(GRACE_S):
                await (await self._handle()).publish.remote(channel, list(events))
        except (RayError, ValueError, TimeoutError) as error:
            self._forget()
            log.info("event bus not told of %d events of %s: %s", len(events), channel, type(error).__name__)

    async def wait(self, channel: str, after_seq: int, timeout_s: float) -> list[Event]:
        """Ask the bus. RayError, ValueError (no such actor) or TimeoutError where it does not answer."""
        try:
            async with asyncio.timeout(timeout_s + GRACE_S):
                answer: list[Event] = await (await self._handle()).wait.remote(channel, after_seq, timeout_s)
                return answer
        except (RayError, ValueError, TimeoutError):
            self._forget()
            raise

    async def state(self) -> dict[str, Any]:
        """The bus's own account. Raises as :meth:`wait` does."""
        try:
            async with asyncio.timeout(GRACE_S):
                answer: dict[str, Any] = await (await self._handle()).state.remote()
                return answer
        except (RayError, ValueError, TimeoutError):
            self._forget()
            raise

    async def _handle(self) -> Any:
        if self._actor is None:
            now = asyncio.get_running_loop().time()
            if now < self._quiet_until:
                raise ValueError("the event bus was not there a moment ago")
            self._actor = await asyncio.to_thread(ray.get_actor, EVENT_BUS, namespace=self._namespace)
        return self._actor

    def _forget(self) -> None:
        self._actor = None
        self._quiet_until = asyncio.get_running_loop().time() + RETRY_S

"""What every collector is: schedules it declares, one pass over what is due, and repairs in the background.

A collector keeps no progress. Each pass computes what is due from schedules and what is stored, so a restart in the
middle of a slot goes on where the last process stopped and asks for nothing twice.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, TypeVar

from sqlalchemy import Connection

from ray_app.clock import HOUR_MS
from ray_app.collection import datasets, gaps
from ray_app.collection.datasets import Member, Plan, Tier
from ray_app.collection.expectation import SlotRange, difference, intersect, union
from ray_app.collection.runtime import Runtime
from ray_app.collection.upstreams import Upstream
from ray_app.errors import BudgetExhausted, CircuitOpen, RateLimited, UpstreamError, UpstreamRejected
from ray_app.settings import Settings
from ray_app.sources.base import Parsed
from ray_app.storage import records

log = logging.getLogger(__name__)
T = TypeVar("T")

#: a due slot that is still missing this long after it was due is a gap (one interval of the fastest schedule), ms
TOLERANCE_MS = 300_000
#: ms of slots that a look at the ledger covers once an hour; of what is older only the owed ranges are looked at again
LOOK_BACK_MS = 25 * 3_600_000
#: node seconds before a refused request is worth another try where the upstream names no time
RETRY_S = 60.0


@dataclass
class PollResult:
    """What a pass did.

    ``owed``: slots asked for that are still missing. ``retry_at``: ms when to try those again (None: with the next
    slot). ``errors``: what upstreams said, one line each.
    """

    requests: int = 0
    slots: int = 0
    owed: int = 0
    retry_at: int | None = None
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def failed(self, error: UpstreamError, now_ms: int) -> None:
        """Note what went wrong and when it is worth another try."""
        text = str(error)
        if text not in self.errors:
            self.errors.append(text)
        if isinstance(error, UpstreamRejected):
            return  # asked again with the next slot: sooner would change nothing
        at = retry_at(error, now_ms)
        self.retry_at = at if self.retry_at is None else min(self.retry_at, at)


def retry_at(error: UpstreamError, now_ms: int) -> int:
    """When (ms) a refused request is worth another try."""
    if isinstance(error, CircuitOpen | BudgetExhausted):
        return max(error.until_ms, now_ms + 1_000)
    if isinstance(error, RateLimited) and error.retry_after_s is not None:
        return now_ms + max(round(error.retry_after_s * 1_000), 1_000)
    return now_ms + round(RETRY_S * 1_000)


class Collector(ABC):
    """One collector, working with one runtime. Used from one event loop, while the runtime's lease is held."""

    name: ClassVar[str]
    #: whose budgets it spends
    accounts: ClassVar[tuple[str, ...]]
    #: datasets whose expectation and gaps are this collector's
    datasets: ClassVar[tuple[str, ...]] = ()

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    @classmethod
    def off(cls, settings: Settings, upstreams: Mapping[str, Upstream]) -> str | None:
        """Why it does not run: it is not to, or it has nobody to ask (and what to do about it). None: it runs."""
        if cls.name in settings.collectors_off:
            return "disabled: named in COLLECTORS_OFF"
        reasons = [upstreams[account].disabled for account in cls.accounts]
        if not reasons or any(reason is None for reason in reasons):
            return None
        return "disabled: " + "; ".join(sorted({str(reason).removeprefix("disabled: ") for reason in reasons}))

    # --- what the runner calls ---

    @abstractmethod
    def next_due(self, now: int) -> int:
        """The next moment (ms) at which something becomes due."""

    @abstractmethod
    async def poll(self) -> PollResult:
        """Ask for everything that is due now and not stored. Upstream errors are in the result, not raised."""

    async def prepare(self) -> None:  # noqa: B027 - nothing to prepare without datasets
        """Get ready to act (again after the registry has changed)."""

    async def track(self) -> None:  # noqa: B027 - no gaps without datasets
        """Bring the gap ledger up to date."""

    def state(self) -> dict[str, Any] | None:
        """JSON-able evidence of its own, for health; None: there is none."""
        return None

    async def close(self) -> None:  # noqa: B027 - most hold nothing
        """Let go of what it holds beside the runtime. It may be prepared again."""

    async def repair(self) -> None:  # noqa: B027 - a collector without history has nothing to repair
        """Work off what is owed from the past, newest first. May be cancelled anywhere and started again."""


class SlotCollector(Collector):
    """A collector whose datasets owe slots: it declares their schedules and keeps their gaps."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.plans: dict[str, Plan] = {}
        self._looked_at: dict[str, int] = {}  # ms of this process's last look, by dataset
        self._looked_back_at: dict[str, int] = {}  # ms of its last look that went back LOOK_BACK_MS
        self._venues: dict[str, dict[int, str | None]] = {}  # asset to product at that look

    @abstractmethod
    def tiers(self, conn: Connection, dataset: str, now: int) -> list[Tier]:
        """The schedule the settings and the registry ask for; called in the transaction that declares it."""

    def members(self, plan: Plan) -> Sequence[Member]:  # noqa: ARG002 - what a dataset of feeds goes by
        """Who owes slots of the dataset: every asset."""
        return self.runtime.registry.assets

    async def prepare(self) -> None:
        """Declare the schedules."""
        now = self.runtime.clock.now_ms()

        def declare(conn: Connection) -> dict[str, Plan]:
            wanted = {dataset: self.tiers(conn, dataset, now) for dataset in self.datasets}
            plans = {name: datasets.declare(conn, name, tiers, now) for name, tiers in wanted.items()}
            return {name: plan for name, plan in plans.items() if plan.versions}

        self.plans = await self.runtime.write(declare)
        self._looked_back_at.clear()  # what was expected of the past may be something else now

    def next_due(self, now: int) -> int:
        """The next moment (ms) at which a slot becomes due."""
        moments = [due for plan in self.plans.values() if (due := plan.next_due(now)) is not None]
        return min(moments, default=now + round(RETRY_S * 1_000))

    async def track(self) -> None:
        """Bring the gap ledger up to date: back to the last look at least, and all the way for what is new to it.

        The look takes long where a day of slots of hundreds of assets is stored, and mostly finds nothing new. So it
        is made in a read transaction; the write lock, which everybody waits for, is taken for what it found.
        """
        now = self.runtime.clock.now_ms()
        for dataset, plan in self.plans.items():
            since, assets = await self._since(plan, now), self.members(plan)
            looks = await self.runtime.read(
                partial(_looks, plan=plan, assets=assets, since=since, before=self._venues.get(dataset), now=now)
            )
            for look in looks:  # each its own transaction: nobody waits for all of them
                await self.runtime.write(partial(gaps.amend, plan=plan, seen=look, now=now))
            self._looked_at[dataset], self._venues[dataset] = now, _venues(assets)
            if since <= now - LOOK_BACK_MS:
                self._looked_back_at[dataset] = now

    async def _since(self, plan: Plan, now: int) -> int:
        """Where the look begins: every slot before it has been looked at, and in the last hour so has a whole day."""
        last = self._looked_at.get(plan.dataset)
        if last is not None and 0 <= now - self._looked_back_at.get(plan.dataset, 0) < HOUR_MS:
            # what has become due since then began an interval earlier
            return min(now, last) - max(plan.intervals, default=0) * 1_000 - HOUR_MS
        if last is None:
            last = await self.runtime.read(lambda conn: records.last_success(conn, self.name))
        if last is None:
            return plan.horizon or now - LOOK_BACK_MS
        return min(now, last) - LOOK_BACK_MS


def _looks(
    conn: Connection,
    *,
    plan: Plan,
    assets: Sequence[Member],
    since: int,
    before: dict[int, str | None] | None,
    now: int,
) -> list[gaps.Look[Member]]:
    """Where the ledger is to be brought up to date: the window, what was filled before it, and newcomers' history."""
    due = now - TOLERANCE_MS
    looks = gaps.look(conn, plan, assets, since, due, now) + gaps.look_back(conn, plan, assets, since, now)
    if new := _newcomers(conn, plan, assets, before, due):
        ids = [asset.asset_id for asset in new]
        looks += gaps.look(conn, plan, new, plan.horizon or since, due, now, asset_ids=ids)
    return looks


def _venues(assets: Iterable[Member]) -> dict[int, str | None]:
    return {asset.asset_id: asset.coinbase_product for asset in assets}


def _newcomers(
    conn: Connection, plan: Plan, assets: Sequence[Member], before: dict[int, str | None] | None, due: int
) -> list[Member]:
    """Assets whose history the ledger may not know: never looked at, or with another venue than ``before``."""
    if before == _venues(assets):
        return []
    unseen = set(gaps.never_looked_at(conn, plan, assets, due))
    return [
        asset
        for asset in assets
        if asset in unseen
        or (before is not None and before.get(asset.asset_id, asset.coinbase_product) != asset.coinbase_product)
    ]


async def bounded(limit: int, work: Iterable[Callable[[], Awaitable[T]]]) -> list[T]:
    """Run the calls, at most ``limit`` at a time, starting them in order; if one raises, the others are cancelled."""
    todo = iter(work)
    results: list[T] = []

    async def worker() -> None:
        for call in todo:  # the iterator is shared: each worker takes the next one
            results.append(await call())  # noqa: PERF401 - one at a time is the point

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(limit):
                group.create_task(worker())
    except BaseExceptionGroup as broken:
        raise broken.exceptions[0] from None
    return results


class Absences:
    """Which slots a venue has answered without: a slot is known to be empty once that is sure.

    A page may be cut short, and venues publish late. So a missing bar is believed only when a whole interval has passed
    since it closed, and it either lies between two bars of the same answer or has been missing from an earlier one too.
    """

    def __init__(self) -> None:
        self._missed: dict[tuple[str, int], list[SlotRange]] = {}

    def judge(
        self,
        dataset: str,
        asset_id: int,
        asked: SlotRange,
        step_ms: int,
        present: Sequence[int],
        doubtful: Sequence[int],
        now: int,
    ) -> list[SlotRange]:
        """Ranges of ``asked`` now known to be empty.

        ``present``: slots in the answer; ``doubtful``: slots it mentions but contradicts itself about.
        """
        there = union(SlotRange(slot, slot + step_ms) for slot in (*present, *doubtful))
        absent = difference([asked], there)
        inside = [slot for slot in present if asked.start <= slot < asked.end]
        between = [SlotRange(min(inside), max(inside))] if inside else []
        key = (dataset, asset_id)
        before = self._missed.get(key, [])
        sure = union(intersect(absent, between), intersect(absent, before))
        old = [SlotRange(0, now - step_ms - now % step_ms)]
        confirmed = intersect(sure, old)
        rest = union(difference(before, [asked]), difference(absent, confirmed))
        if rest:
            self._missed[key] = rest
        else:
            self._missed.pop(key, None)
        return confirmed


def doubtful_slots(parsed: Parsed) -> list[int]:
    """Bars an answer mentions but cannot be believed about (their issues name them ``open_time@<ms>``)."""
    found = []
    for issue in parsed.issues:
        name, _, at = issue.field.partition("@")
        if name == "open_time" and at.isdigit():
            found.append(int(at))
    return found

"""The collectors of feeds: macro, news, social, on-chain, derivatives, fear and greed. One mechanism, a catalogue each.

Each feed is asked once per slot, in the slot. What a missed slot would have said the next answer says too, as far as it
reaches back (collection/feeds.py); what it does not reach is beyond repair, and the ledger says so. A feed that fails
holds up no other.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from sqlalchemy import Connection

from ray_app.clock import DAY_MS, HOUR_MS, iso
from ray_app.collection import datasets, gaps
from ray_app.collection.budget_rules import Priority
from ray_app.collection.catalogue import CATALOGUE
from ray_app.collection.collectors.base import TOLERANCE_MS, PollResult, SlotCollector, bounded, retry_at
from ray_app.collection.datasets import Plan, Subject, Tier
from ray_app.collection.expectation import SlotRange, intersect
from ray_app.collection.feeds import Ask, Feed, subject_id
from ray_app.collection.polls import Note
from ray_app.collection.runtime import Runtime
from ray_app.collection.schedule import Schedule
from ray_app.errors import (
    BudgetExhausted,
    ConfigError,
    MalformedPayload,
    RateLimited,
    RegionBlocked,
    StorageError,
    UpstreamError,
    UpstreamRejected,
    UpstreamUnavailable,
)
from ray_app.sources import ENDPOINTS
from ray_app.sources.base import Request
from ray_app.storage import ledger

log = logging.getLogger(__name__)

#: feeds asked at once; the accounts' budgets decide how fast they go
_AT_ONCE = 6
#: wall seconds that a first pass may take, beside those of all other collectors, each of which begins with its whole
#: history: whoever starts at the end of a slot cannot ask in it any more
START_S = 30.0
#: the most a slot's poll is delayed, so that the feeds of a dataset do not all fall on the full hour
_JITTER_S = 20.0
_NO_REPAIR = {
    "snapshot": "what was the case then cannot be asked for later",
    "window": "the feed no longer shows what it showed then",
    "history": "the answers since did not reach back so far",
}


class _PassIsOver(Exception):
    """The pass has taken its time; what is left goes on in the next one."""


@dataclass(frozen=True, slots=True)
class Due:
    """A feed whose newest slot is due and not covered."""

    dataset: str
    feed: Feed
    note: Note


class FeedCollector(SlotCollector):
    """Polls the feeds that the catalogue has for its datasets; subclasses name themselves."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._feeds: dict[str, dict[int, Feed]] = {}  # by dataset and number, those that can be asked
        self._off: list[str] = []  # why some cannot
        self._resting: dict[tuple[str, int], int] = {}  # a refused feed, ms until when it is left alone
        self._pass_ends = 0  # ms
        self._blocked: dict[str, int] = {}  # an account that serves nobody from here, ms until when it is left alone
        self._next_page: dict[tuple[str, int], Request] = {}  # of a poll that broke off between two pages

    # --- what is owed ---

    def next_due(self, now: int) -> int:
        """As its base; an hour where no feed can be asked."""
        return super().next_due(now) if any(self._feeds.values()) else now + HOUR_MS

    def tiers(self, conn: Connection, dataset: str, now: int) -> list[Tier]:  # noqa: ARG002 - the catalogue says it
        """One tier per interval and grace. A feed whose account cannot be asked owes nothing, and says why."""
        settings, registry = self.runtime.settings, self.runtime.registry
        feeds: dict[int, Feed] = {}
        by_schedule: dict[tuple[int, float], list[Subject]] = defaultdict(list)
        off: set[str] = set()
        for feed in CATALOGUE[dataset](settings, registry):
            reason = self.runtime.upstreams[feed.account].disabled
            if reason is not None:
                off.add(f"{feed.account} {reason}")
                continue
            number = subject_id(dataset, feed.subject)
            if number in feeds:
                raise ConfigError(f"{dataset}: two feeds are called {feed.subject!r}; rename one")
            feeds[number] = feed
            by_schedule[feed.interval_s, feed.grace_s].append(Subject(number, feed.subject))
        self._feeds[dataset] = feeds
        self._off = sorted(
            {*(o for o in self._off if not o.startswith(f"{dataset}: ")), *(f"{dataset}: {o}" for o in off)}
        )
        tiers = []
        for (interval_s, grace_s), subjects in sorted(by_schedule.items()):
            schedule = Schedule(dataset, interval_s, grace_s, min(_JITTER_S, interval_s / 4))
            members = frozenset(subject.asset_id for subject in subjects)
            # a slot that ends before the first pass does can never be filled: the first expected one is not such
            first = schedule.slot_of(now + round(START_S * 1_000 * self.runtime.clock.scale))
            tiers.append(Tier(schedule, first, members, tuple(sorted(subjects, key=lambda s: s.symbol))))
        return tiers

    def members(self, plan: Plan) -> Sequence[Subject]:
        """Every subject that was ever declared."""
        return plan.subjects()

    # --- the slots that are open now ---

    async def poll(self) -> PollResult:
        """Ask every feed whose newest slot is due and not covered yet; accounts do not wait for each other.

        Snapshots go first, and a pass begins no page after a quarter of the shortest interval: a long history goes on
        in the next pass, and the snapshots that fall due meanwhile are not missed for it.
        """
        result = PollResult()
        now = self.runtime.clock.now_ms()
        intervals = [t.schedule.interval_ms for plan in self.plans.values() for t in plan.tiers_at(now)]
        self._pass_ends = now + min(intervals, default=HOUR_MS) // 4
        by_account: dict[str, list[Due]] = defaultdict(list)
        for dataset, plan in self.plans.items():
            for one in await self._due(dataset, plan, now, result):
                by_account[one.feed.account].append(one)
        for due in by_account.values():
            due.sort(key=lambda one: one.feed.reach != "snapshot")
        several = [partial(self._several, due, result) for due in by_account.values()]
        answered = [done for part in await bounded(max(len(several), 1), several) for done in part]
        result.slots += answered.count(True)
        result.owed += answered.count(False)
        now = self.runtime.clock.now_ms()
        blocked = [
            f"{account}: refuses this region, asked again {iso(until)}"
            for account, until in self._blocked.items()
            if until > now
        ]
        result.notes += [*self._off, *blocked]
        if self.next_due(now) - now > HOUR_MS:
            await asyncio.to_thread(self.runtime.archive.close)  # an open segment would outlive what terms allow
        return result

    async def _several(self, due: Sequence[Due], result: PollResult) -> list[bool]:
        return await bounded(_AT_ONCE, (partial(self._one, one, result) for one in due))

    async def _due(self, dataset: str, plan: Plan, now: int, result: PollResult) -> list[Due]:
        """Those to ask now; ``result`` is told when the first of those at rest is to be asked."""
        feeds = self._feeds.get(dataset, {})
        newest = await self.runtime.read(lambda conn: ledger.newest_covered(conn, dataset, feeds))
        found = []
        for tier in plan.tiers_at(now):
            slot = tier.schedule.newest_due(now)
            for subject in tier.subjects:
                feed, covered = feeds.get(subject.asset_id), newest.get(subject.asset_id)
                if feed is None or slot < tier.valid_from or (covered is not None and covered >= slot):
                    continue
                step = tier.schedule.interval_ms
                rests_until = self._resting.get((dataset, subject.asset_id), 0)
                if rests_until > now:
                    if rests_until < slot + step:  # else its next slot is the next pass
                        result.retry_at = min(result.retry_at or rests_until, rests_until)
                    continue
                since = now - feed.history_s * 1_000 if covered is None else covered - feed.overlap_s * 1_000
                # without any answer yet, all slots since the first are to be made good
                covers = tier.valid_from if covered is None else min(covered + step, slot)
                found.append(Due(dataset, feed, Note.of(dataset, feed, slot, covers, since)))
        return found

    async def _one(self, due: Due, result: PollResult) -> bool:
        """Whether the slot is covered now. Every page is asked for until what is stored is reached."""
        key = (due.dataset, subject_id(due.dataset, due.feed.subject))
        note = due.note
        now = self.runtime.clock.now_ms()
        if self._blocked.get(due.feed.account, 0) > now:
            return False
        try:
            if now >= self._pass_ends:
                raise _PassIsOver
            if (broken_off := self._next_page.get(key)) is not None:  # an earlier poll, between two of its pages
                await self._pages(key, broken_off, due.feed, result)
                earlier = Note.read(broken_off) or note
                since = earlier.slot - due.feed.overlap_s * 1_000
                note = replace(note, covers=min(earlier.slot + note.step, note.slot), since=since)
                if earlier.slot >= note.slot:
                    return True
            await self._asked(key, due.feed, note, result)
        except _PassIsOver:
            soon = self.runtime.clock.now_ms() + 1_000
            result.retry_at = min(result.retry_at or soon, soon)
            return False
        except UpstreamError as error:
            self._failed(key, due, error, result)
            return False
        except StorageError as error:  # no database takes it, and no other feed shall wait for that
            self._next_page.pop(key, None)
            self._resting[key] = due.note.slot + due.note.step
            result.errors.append(f"{due.feed.subject}: {error}")
            return False
        return True

    async def _asked(self, key: tuple[str, int], feed: Feed, note: Note, result: PollResult) -> None:
        """The feed's question, or the one it has instead where the first is refused."""
        ask = Ask(note.since, self.runtime.clock.now_ms())
        try:
            await self._pages(key, note.on(feed.ask(ask)), feed, result)
        except UpstreamRejected as refusal:
            other = feed.instead(ask, str(refusal)) if feed.instead is not None else None
            if other is None:
                raise
            await self._pages(key, note.on(other), feed, result)

    async def _pages(self, key: tuple[str, int], first: Request, feed: Feed, result: PollResult) -> None:
        """Every page from ``first`` on; where it breaks off after one of them, the next poll goes on there."""
        request: Request | None = first
        while request is not None:
            result.requests += 1
            request = await self._page(request, feed.priority)
            if request is not None:
                self._next_page[key] = request
                if self.runtime.clock.now_ms() >= self._pass_ends:
                    raise _PassIsOver
        self._next_page.pop(key, None)

    def _failed(self, key: tuple[str, int], due: Due, error: UpstreamError, result: PollResult) -> None:
        now = self.runtime.clock.now_ms()
        if isinstance(error, UpstreamRejected):
            # the same question would get the same answer: the next slot begins anew
            self._next_page.pop(key, None)
            self._resting[key] = due.note.slot + due.note.step
            if isinstance(error, RegionBlocked) and self.runtime.upstreams[due.feed.account].many_hosts:
                self._resting[key] = now + DAY_MS
            elif isinstance(error, RegionBlocked):
                self._blocked[due.feed.account] = now + DAY_MS
        else:
            # a broken body may be for good; and what costs more than a credit is not asked for again in a minute
            paid = isinstance(error, UpstreamUnavailable | RateLimited) and _cost(error.endpoint) > 1
            slowly = isinstance(error, MalformedPayload) or paid
            self._resting[key] = max(retry_at(error, now), now + (due.note.step // 4 if slowly else 0))
        if isinstance(error, BudgetExhausted) and error.until_ms < due.note.slot + due.note.step:
            result.retry_at = min(result.retry_at or error.until_ms, error.until_ms)  # its turn comes within the slot
            return
        result.failed(error, now)
        log.warning("%s: %s: %s", self.name, due.feed.subject, error)

    async def _page(self, request: Request, priority: Priority) -> Request | None:
        """Ask for one page; the next one, or None where the poll ends with this one."""
        receipt = await self.runtime.fetch(request, priority)
        if receipt.error is not None:
            raise receipt.error
        note = Note.read(request)
        if receipt.parsed is None or receipt.parsed.next is None or note is None or note.ends(receipt.parsed):
            return None
        following = replace(receipt.parsed.next, context={**receipt.parsed.next.context, **request.context})
        return note.following(receipt.parsed).on(following)

    # --- the past ---

    async def repair(self) -> None:
        """Say of what is owed and was not covered by a later answer that it cannot be had any more."""
        for dataset, plan in self.plans.items():
            now = self.runtime.clock.now_ms()
            owed = await self.runtime.read(
                lambda conn, dataset=dataset: ledger.entries(conn, dataset, states=(gaps.OWED,))  # type: ignore[misc]
            )
            if owed:
                since = min(entry.start for entry in owed)
                await self._give_up(dataset, plan, sorted({entry.asset_id for entry in owed}), since, now)

    async def _give_up(self, dataset: str, plan: Plan, numbers: list[int], since: int, now: int) -> None:
        feeds = self._feeds.get(dataset, {})
        subjects = [subject for subject in plan.subjects() if subject.asset_id in numbers]

        def mark(conn: Connection) -> int:
            datasets.load(conn, dataset, lock=True)
            newest = ledger.newest_covered(conn, dataset, numbers)
            seen = gaps.survey(conn, plan, subjects, since, now - TOLERANCE_MS)
            lost = 0
            for part in seen.owed:
                feed = feeds.get(part.asset.asset_id)
                before = newest.get(part.asset.asset_id, 0)
                if feed is None or feed.reach == "snapshot":
                    before = max(before, now - 2 * part.interval_s * 1_000)
                gone = intersect(part.owed, [SlotRange(0, before)])
                if gone:
                    reason = _NO_REPAIR[feed.reach] if feed is not None else "the feed is asked for no more"
                    gaps.mark(conn, dataset, part.asset.asset_id, gone, gaps.UNREPAIRABLE, reason, now)
                    lost += len(gone)
            return lost

        lost = await self.runtime.write(mark)
        if lost:
            log.info("%s: %s: %d ranges cannot be had any more", self.name, dataset, lost)


def _cost(endpoint: str) -> int:
    """Credits that a call of it costs; 1 of what is no endpoint (a token)."""
    one = ENDPOINTS.get(endpoint)
    return one.cost if one is not None else 1

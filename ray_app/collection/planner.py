"""What a plan carries: each work at the interval it is wanted at, or stretched where the month's credits do not do.

Work has an order: the prices of the first ranks, the other prices, the lists and the market's figures; then repairs,
then the history. Of all ways to stretch it the one is taken that keeps the first work as frequent as can be, then the
second, and so on. Repairs and history get what is left, spread over the days that are left.

Pure, and a function of what the database holds, so every process of every cluster comes to the same decision. Node
time in ms; intervals in seconds.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from ray_app.clock import DAY_MS
from ray_app.collection.budget_rules import Limits, Priority, month_of, month_start, next_month

#: intervals that work may be stretched to
_STEPS_S = (300, 600, 900, 1_800, 3_600, 7_200, 14_400, 21_600, 43_200, 86_400)
#: the share of the rate that schedules may take; the rest is for retries and repairs
_RATE_SHARE = 0.75
#: how far repairs and history may be ahead of an even spread of what is left for them
_AHEAD_MS = {Priority.REPAIR: 7 * DAY_MS, Priority.BACKFILL: DAY_MS}
#: a decision stands this long unless the month, the plan or the wanted work changes
STANDS_MS = DAY_MS


@dataclass(frozen=True, slots=True)
class Work:
    """Requests of ``credits`` altogether, every ``intervals[0]`` seconds; where that is too much, rarer.

    ``slotted``: by a schedule that the gap ledger follows; a change of it begins where intervals of both meet.
    ``late_s``: so long after a slot has begun its request may still be on its way.
    """

    name: str
    priority: Priority
    credits: int
    intervals: tuple[int, ...]
    slotted: bool = False
    late_s: int = 0


def stretched(wanted_s: int, longest_s: int) -> tuple[int, ...]:
    """The wanted interval and those it may be stretched to."""
    return (wanted_s, *(step for step in _STEPS_S if wanted_s < step <= longest_s and step % wanted_s == 0))


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done how often from ``decided_at`` on, when ``spent`` of the month's ``limit`` were spent.

    ``intervals``: of each of ``works``. ``spread``: work may be stretched. ``fits``: the credits last to the end of the
    month, and the schedules leave room in the rate.
    """

    month: int
    decided_at: int
    spent: int
    limit: int | None
    per_minute: float
    spread: bool
    works: tuple[Work, ...]
    intervals: tuple[int, ...]
    fits: bool

    def interval_of(self, name: str) -> int | None:
        """Seconds between two runs of a work; None: there is no such work."""
        return next((i for work, i in zip(self.works, self.intervals, strict=True) if work.name == name), None)

    def need(self, since: int, until: int, *, before: Priority = Priority.REPAIR, late: bool = False) -> int:
        """Credits that the work of a higher rank than ``before`` asks for in slots that begin in ``[since, until)``.

        ``late``: and in those before ``since`` that may not have been asked for yet.
        """
        return sum(
            work.credits * _slots(since - work.late_s * 1_000 * late, until, every)
            for work, every in zip(self.works, self.intervals, strict=True)
            if work.priority < before
        )

    def thinned(self) -> list[str]:
        """What is done less often than wanted, in words."""
        return [
            f"{work.name} every {span(every)} instead of {span(work.intervals[0])}"
            for work, every in zip(self.works, self.intervals, strict=True)
            if every != work.intervals[0]
        ]

    def dump(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def load(cls, text: str) -> Decision:
        """Of :meth:`dump`."""
        said = json.loads(text)
        works = tuple(
            Work(**(w | {"priority": Priority(w["priority"]), "intervals": tuple(w["intervals"])}))
            for w in said["works"]
        )
        return cls(**(said | {"works": works, "intervals": tuple(said["intervals"])}))


def span(seconds: int) -> str:
    """A round length of time in words: 5 min, 24 h, 7 d."""
    if seconds % 86_400 == 0 and seconds > 86_400:
        return f"{seconds // 86_400} d"
    if seconds % 3_600 == 0:
        return f"{seconds // 3_600} h"
    return f"{seconds // 60} min" if seconds % 60 == 0 else f"{seconds} s"


def _slots(since: int, until: int, interval_s: int) -> int:
    """How many slots begin in ``[since, until)``."""
    step = interval_s * 1_000
    return max(-(-until // step) - -(-since // step), 0)


# --- deciding -------------------------------------------------------------------------------------------------------


def reconsider(
    before: Decision | None,
    works: Sequence[Work],
    limits: Limits,
    spent: int,
    now: int,
    *,
    starting: bool = False,
    spread: bool = True,
) -> Decision:
    """The decision from now on; ``before`` itself where it stands.

    It is made anew with each month, and when plan or wanted work change. Otherwise a day later at the earliest, and
    only if the credits no longer last, or at a start (``starting``): what was thinned is not thickened in between, and
    what lasts is not thinned at a start.
    """
    if before is None or _question(before) != _question(_asked(works, limits, spent, now, spread=spread)):
        return decide(works, limits, spent, now, before, spread=spread)
    lasts = not short(before, spent, now)
    if now - before.decided_at < STANDS_MS or (lasts and not starting):
        return before
    fresh = decide(works, limits, spent, now, before, spread=spread)
    end = next_month(now)
    if lasts and fresh.need(now, end) < before.need(now, end):
        return before  # it counts the open slots as if none had been asked for: no reason yet to do less
    return fresh if (fresh.intervals, fresh.fits) != (before.intervals, before.fits) else before


def _question(decision: Decision) -> tuple[object, ...]:
    return decision.month, decision.limit, decision.per_minute, decision.spread, decision.works


def short(decision: Decision, spent: int, now: int) -> bool:
    """Whether the month's credits end before the month, if everything goes on like this."""
    return decision.limit is not None and decision.need(now, next_month(now)) > decision.limit - spent


def decide(
    works: Sequence[Work], limits: Limits, spent: int, now: int, before: Decision | None = None, *, spread: bool = True
) -> Decision:
    """The most frequent work that the rest of the month carries, first ranks first.

    ``before``: what has been done so far, and goes on until a changed schedule begins. Everything is as wanted with
    ``spread`` False, and where no stretching is enough: then credits end early, and what needs none goes on.
    """
    asked = _asked(works, limits, spent, now, spread=spread)
    for choice in _choices(asked) if spread else (asked,):
        if _carried(choice, before, now):
            return replace(choice, fits=True)
    return asked


def _asked(works: Sequence[Work], limits: Limits, spent: int, now: int, *, spread: bool) -> Decision:
    """Everything as wanted."""
    per_minute = limits.requests / limits.per_s * 60
    wanted = tuple(work.intervals[0] for work in works)
    return Decision(month_of(now), now, spent, limits.monthly, per_minute, spread, tuple(works), wanted, fits=False)


def _choices(asked: Decision) -> Iterator[Decision]:
    """Every way to stretch the work, the best first. No prices are more frequent than those of higher ranks."""
    slotted = [n for n, work in enumerate(asked.works) if work.slotted]
    for intervals in itertools.product(*(work.intervals for work in asked.works)):
        if all(intervals[first] <= intervals[then] for first, then in itertools.pairwise(slotted)):
            yield replace(asked, intervals=intervals)


def _carried(choice: Decision, before: Decision | None, now: int) -> bool:
    chosen = zip(choice.works, choice.intervals, strict=True)
    if sum(work.credits * 60 / every for work, every in chosen) > _RATE_SHARE * choice.per_minute:
        return False
    return choice.limit is None or _cost(choice, before, now) <= choice.limit - choice.spent


def _cost(choice: Decision, before: Decision | None, now: int) -> int:
    """Credits until the month ends. The slots that are open now count: they may still have to be asked for."""
    end = next_month(now)
    turn = _turn(choice, before, now, end)
    total = 0
    for work, every in zip(choice.works, choice.intervals, strict=True):
        until, old = now, every
        if work.slotted and before is not None:
            until, old = turn, before.interval_of(work.name) or every
        total += work.credits * (_slots(now - now % (old * 1_000), until, old) + _slots(until, end, every))
    return total


def _turn(choice: Decision, before: Decision | None, now: int, end: int) -> int:
    """When the chosen intervals of slotted work begin: now, if they are those of ``before``."""
    new = _slotted(choice)
    old = _slotted(before) if before is not None else new
    return now if old == new else min(next_boundary((*old.values(), *new.values()), now), end)


def _slotted(decision: Decision) -> dict[str, int]:
    return {w.name: every for w, every in zip(decision.works, decision.intervals, strict=True) if w.slotted}


def next_boundary(intervals_s: Iterable[int], now: int) -> int:
    """The next moment, from ``now`` on, at which slots of all the intervals begin."""
    step = math.lcm(*intervals_s) * 1_000
    return -(-now // step) * step


# --- what the decision means for each ask, and for the month --------------------------------------------------------


def reserve(decision: Decision, priority: Priority, now: int) -> int:
    """Credits of the month that a request of this priority must leave: what goes before it still needs them.

    What repairs and history may take of the rest grows evenly over the month, a few days ahead.
    """
    if decision.limit is None:
        return 0
    end = next_month(now)
    # what goes by its own slot has its own credit; a repair has none, and must leave those of slots just begun
    kept = decision.need(now, end, before=priority, late=priority in _AHEAD_MS)
    if priority in _AHEAD_MS:
        since, spent = decision.decided_at, decision.spent
        if decision.month != month_of(now):  # nobody has decided yet in this month
            since, spent = month_start(month_of(now)), 0
        spare = max(decision.limit - spent - decision.need(since, end), 0)
        kept += spare * max(end - now - _AHEAD_MS[priority], 0) // max(end - since, 1)
    return kept


@dataclass(frozen=True, slots=True)
class Forecast:
    """Where the month is heading. ``limit`` None: no monthly limit. ``runs_out_at`` ms; None: not this month."""

    account: str
    month: int
    spent: int
    limit: int | None
    projected: int
    runs_out_at: int | None


def forecast(account: str, limit: int | None, spent: int, now: int, decision: Decision) -> Forecast:
    """Spent, what the schedules still ask for, and repairs and retries at the rate since the decision.

    Where there is a limit the latter get what the schedules leave, no more. So more than the limit is projected only
    if the schedules alone need it.
    """
    end = next_month(now)
    ahead = decision.need(now, end)
    extra = _unscheduled(decision, spent, now)
    if limit is not None:
        extra = min(extra, max(limit - spent - ahead, 0))
    projected = spent + ahead + extra
    runs_out: int | None = None
    if limit is not None and spent >= limit:
        runs_out = now
    elif limit is not None and projected > limit:
        runs_out = now + (limit - spent) * (end - now) // ahead
    return Forecast(account, month_of(now), spent, limit, projected, runs_out)


def _unscheduled(decision: Decision, spent: int, now: int) -> int:
    """What repairs and retries will take at their rate since the decision, a day at least: one burst is no rate."""
    if decision.month != month_of(now) or now <= decision.decided_at:
        return 0
    passed = now - decision.decided_at
    so_far = max(spent - decision.spent - decision.need(decision.decided_at, now), 0)
    return so_far * (next_month(now) - now) // max(passed, DAY_MS)

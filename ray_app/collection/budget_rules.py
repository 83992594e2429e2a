"""One budget per upstream account for the whole installation: requests per window, credits per month, pauses.

**The promise.** Never do more than ``Limits.requests`` requests reach the upstream in any (half-open) window of
``per_s``, however long calls take, however processes interleave, and whichever of them dies. Spacing what is *sent*
cannot promise that: two requests sent a window apart arrive together when the first one is slow. So the rate is cut
into **lanes**, each a GCRA of burst 1 (one request at a time) whose next theoretical arrival counts from the moment the
previous *answer* came, not from when it was asked: an arrival lies between sending and answer, so successive arrivals
in a lane are at least a gap apart, and ``lanes × (window / gap) <= requests``. No latency bound is assumed.

**Across processes** a lane is lent: one transaction writes the end of the loan into the lane's row, far enough ahead
to cover the last request that may start under it. The borrower then uses the lane without the database and gives it
back with its true next moment. If it dies, the loan simply ends. One process never holds every lane
(:attr:`Limits.share`), so a newcomer, or the successor of a killed one, is never locked out.

**The month.** Credits are booked before the call. Those booked and not used are given back; those of a process
that died stay counted. The ledger can therefore only overstate what this installation spent; what others spend with the
same key it learns a day late at most, and by a few credits too low where some of ours were on their way meanwhile. An
ask of low priority books only what lies above the **reserve**: credits that more important work still needs this month
(planner.py says how many).

Node time throughout. What the promise rests on: clocks of the hosts of one installation differ by less than the margin
the limits leave below the upstream's own (1 % of the gap is added on top), and a request that its sender has given up
on (time-out, closed socket) does not arrive later.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import IntEnum
from typing import Literal

from ray_app.clock import from_ms, to_ms
from ray_app.errors import ConfigError


class Priority(IntEnum):
    """What an ask is for; the first go before the others when a month's credits run short."""

    TOP = 0  # live prices of the first ranks
    REST = 1  # live prices of the others
    REGISTRY = 2  # lists and the market's figures
    REPAIR = 3  # slots that were missed
    BACKFILL = 4  # history


@dataclass(frozen=True, slots=True)
class Limits:
    """What an account may spend: ``requests`` in any window of ``per_s`` node seconds, ``monthly`` credits.

    ``lanes`` is how many requests may be in flight at once over all processes; each lane carries
    ``requests // lanes`` per window. ``monthly`` None: the upstream counts no credits.
    ``pause_s``: how long a 429 that names no time silences the account, node seconds.
    """

    requests: int
    per_s: float
    lanes: int = 1
    monthly: int | None = None
    pause_s: float = 60.0

    def __post_init__(self) -> None:
        if self.requests < 1 or self.per_s <= 0 or not 1 <= self.lanes <= min(self.requests, 100):
            raise ConfigError(f"{self}: needs requests >= 1, per_s > 0 and 1 <= lanes <= min(requests, 100)")

    @property
    def gap_ms(self) -> int:
        """How long a lane rests after an answer, ms."""
        bare = self.per_s * 1_000 / (self.requests // self.lanes)
        return math.ceil(bare * 1.01) + 2  # 2 ms: both clocks are read to the millisecond

    @property
    def share(self) -> int:
        """The most lanes one process may hold."""
        return max(1, self.lanes * 3 // 4)


# --- the account as the database holds it: pure transitions ---------------------------------------------------


@dataclass(frozen=True, slots=True)
class Account:
    """``free_at``: for each lane the ms from which it may be lent. ``spent``: credits booked in ``month``."""

    free_at: tuple[int, ...]
    paused_until: int
    month: int
    spent: int


@dataclass(frozen=True, slots=True)
class Loan:
    """A lane lent until ``until`` ms, which is also its fence: no two loans of a lane end at the same time."""

    lane: int
    until: int


@dataclass(frozen=True, slots=True)
class Grant:
    """Lanes lent and credits booked."""

    loans: tuple[Loan, ...]
    credits: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nothing before ``until`` ms: the account is paused, all lanes are lent or resting, or the month is spent.

    Or spent but for what more important asks still need (``reserve``).
    """

    until: int
    reason: Literal["paused", "rate", "month", "reserve"]


#: how soon an ask that met the reserve may be worth another try, ms
RESERVE_AGAIN_MS = 6 * 3_600_000


@dataclass(frozen=True, slots=True)
class Ask:
    """What a process wants: ``lanes`` for ``loan_ms``; between ``least`` and ``credits`` credits.

    ``reserve``: credits of the month that must be left for others.
    """

    lanes: int
    loan_ms: int
    credits: int = 0
    least: int = 0
    reserve: int = 0


def borrow(account: Account, limits: Limits, now: int, ask: Ask) -> tuple[Account, Grant | Refusal]:
    """Lend lanes and book credits, all or nothing of the credits' least; as many lanes as are free."""
    if account.paused_until > now:
        return account, Refusal(account.paused_until, "paused")
    booked = ask.credits
    if limits.monthly is not None:
        left = limits.monthly - account.spent
        if left < ask.least:
            return account, Refusal(next_month(now), "month")
        booked = max(min(booked, left - ask.reserve), 0)
        if booked < ask.least:
            return account, Refusal(min(now + RESERVE_AGAIN_MS, next_month(now)), "reserve")
    # A loan that lies twice its longest term ahead was lent before the clock was set back: cut it to what a loan can
    # last. One that lies a little further than a term was lent by a host whose clock goes before ours: it is its fence.
    free_at = [now + ask.loan_ms if at > now + 2 * ask.loan_ms else at for at in account.free_at]
    free = sorted((at, lane) for lane, at in enumerate(free_at) if at <= now)[: ask.lanes]
    if ask.lanes and not free:
        return replace(account, free_at=tuple(free_at)), Refusal(min(free_at), "rate")
    loans = tuple(Loan(lane, now + ask.loan_ms) for _, lane in free)
    for loan in loans:
        free_at[loan.lane] = loan.until
    account = replace(account, free_at=tuple(free_at), spent=account.spent + booked)
    return account, Grant(loans, booked)


def settle(account: Account, returned: Sequence[tuple[Loan, int]], month: int, credits_back: int) -> Account:
    """Take lanes back, each with the ms from which it is free, and unused credits of ``month``.

    A loan that has ended and was lent anew is not touched: its ``until`` is not the row's any more.
    """
    free_at = list(account.free_at)
    for loan, at in returned:
        if loan.lane < len(free_at) and free_at[loan.lane] == loan.until:
            free_at[loan.lane] = at
    back = credits_back if month == account.month else 0
    return replace(account, free_at=tuple(free_at), spent=max(account.spent - back, 0))


def raised(account: Account, spent: int) -> Account:
    """The upstream has counted ``spent`` credits, ours and those of others; what we counted beyond stays counted."""
    return replace(account, spent=max(account.spent, spent))


def pause(account: Account, until_ms: int) -> Account:
    """Nobody sends before ``until_ms``; an earlier, longer pause stands."""
    return replace(account, paused_until=max(account.paused_until, until_ms))


# --- the lane as its borrower uses it: pure transitions -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lane:
    """A lent lane in the borrower's hands: free to start a request from ``ready_at`` to ``last_start``."""

    loan: Loan
    ready_at: int
    last_start: int
    busy: bool = False

    @classmethod
    def of(cls, loan: Loan, limits: Limits, now: int, hold_ms: int) -> Lane:
        """The lane of a fresh loan. ``hold_ms``: the longest a request can last."""
        return cls(loan, now, loan.until - limits.gap_ms - hold_ms)

    def ready(self, now: int) -> bool:
        """Whether a request may start now."""
        return not self.busy and self.ready_at <= now <= self.last_start

    def spent(self, now: int) -> bool:
        """Whether no request can start any more."""
        return not self.busy and max(now, self.ready_at) > self.last_start

    def started(self) -> Lane:
        """A request has been sent."""
        return replace(self, busy=True)

    def answered(self, limits: Limits, now: int) -> Lane:
        """Its answer (or failure) is here: the lane rests from now."""
        return replace(self, busy=False, ready_at=now + limits.gap_ms)

    def unused(self) -> Lane:
        """The request was never sent: as if it had not been started."""
        return replace(self, busy=False)


# --- months --------------------------------------------------------------------------------------


def month_of(ms: int) -> int:
    """yyyymm, UTC."""
    moment = from_ms(ms)
    return moment.year * 100 + moment.month


def month_start(month: int) -> int:
    """The first ms of yyyymm."""
    return to_ms(datetime(month // 100, month % 100, 1, tzinfo=UTC))


def next_month(ms: int) -> int:
    """The first ms of the month after the one ``ms`` is in."""
    month = month_of(ms)
    return month_start(month + 1 if month % 100 < 12 else month + 89)

"""The authority that hands out permits under :mod:`ray_app.collection.budget_rules`, across processes."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Protocol, Self, TypeVar

from ray_app.clock import Clock, iso
from ray_app.collection import budget_rules
from ray_app.collection.budget_ledger import DatabaseLedger
from ray_app.collection.budget_rules import Account, Ask, Grant, Lane, Limits, Priority, Refusal
from ray_app.errors import BudgetExhausted, ConfigError, CryptoDataError
from ray_app.storage.engine import Database

log = logging.getLogger(__name__)
T = TypeVar("T")

#: wall seconds a lane stays lent at least and at most before others may have it: long enough to be used a few times
#: per transaction, short because it bounds how late a process sees a pause that another one ordered
TERM_S = (1.0, 3.0)
#: wall seconds an idle lane is kept for the next request of the same process
LINGER_S = 0.25
#: wall seconds between two looks at an account whose lanes are all lent, at least; an eighth of the gap if longer
POLL_S = 0.05
#: credits booked at a time where the upstream counts none per month
FREE_CREDITS = 32


class Ledger(Protocol):
    """Where accounts are kept. ``transact`` is atomic over all processes."""

    async def transact(
        self, account: str, limits: Limits, month: int, change: Callable[[Account], tuple[Account, T]]
    ) -> T:
        """Read the account, apply ``change`` and store what it returns; gives ``change``'s second result."""
        ...

    def peek(self, account: str, limits: Limits, month: int) -> Account:
        """The account as it is, without locking it."""
        ...


@dataclass(eq=False)
class _Held:
    """A lane this process holds."""

    lane: Lane


@dataclass(eq=False)
class _Book:
    """What this process knows and holds of one account. Touched from one event loop only."""

    limits: Limits
    queue: deque[object] = field(default_factory=deque)  # tickets; the first one may act
    #: credits the queue asks for, and credits booked, by priority: what was booked for prices is not for repairs
    wanted: Counter[Priority] = field(default_factory=Counter)
    credits: Counter[Priority] = field(default_factory=Counter)
    held: list[_Held] = field(default_factory=list)
    month: int = 0
    paused_until: int = 0
    ask_again_at: int = 0  # ms: no look at the database before, all lanes were lent
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    tidy: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """Let every waiter look again."""
        self.changed.set()
        self.changed = asyncio.Event()


class Permit:
    """Leave to send one request now. ``close()`` it when the answer is complete or has failed.

    As a context manager it closes itself. A permit that is never closed blocks its lane until the loan ends.
    """

    def __init__(
        self, authority: BudgetAuthority, book: _Book, held: _Held, cost: int, priority: Priority, month: int
    ) -> None:
        self._authority = authority
        self._book = book
        self._held = held
        self._cost = cost
        self._priority = priority
        self._month = month
        self._open = True

    def valid(self) -> bool:
        """Still good to send with? Not after the process stood still beyond the loan's last start."""
        return self._open and self._authority.clock.now_ms() <= self._held.lane.last_start

    def close(self, *, sent: bool = True) -> None:
        """The request is over. ``sent=False``: it never left, and neither rate nor credits are spent."""
        if not self._open:
            return
        self._open = False
        now, book = self._authority.clock.now_ms(), self._book
        lane = self._held.lane
        self._held.lane = lane.answered(book.limits, now) if sent else lane.unused()
        if not sent and book.month == self._month:
            book.credits[self._priority] += self._cost
        book.wake()
        self._authority.tidy_later(book)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class BudgetAuthority:
    """Permits for upstream accounts.

    ``ledger``: the database that all processes of the installation share, or any other :class:`Ledger`.
    ``request_timeout_s``: wall seconds after which the transport gives up on a request; loans cover it.
    """

    def __init__(
        self,
        ledger: Database | Ledger,
        clock: Clock,
        limits: Mapping[str, Limits],
        *,
        request_timeout_s: float = 30.0,
    ) -> None:
        self.clock = clock
        #: credits of the month that an ask of this priority must leave; none where nobody plans
        self.reserve: Callable[[str, Priority], Awaitable[int]] | None = None
        self._ledger: Ledger = DatabaseLedger(ledger) if isinstance(ledger, Database) else ledger
        self._hold_ms = self._node_ms(request_timeout_s + 1.0)
        self._books = {account: _Book(of) for account, of in limits.items()}

    def _node_ms(self, wall_s: float) -> int:
        return max(round(wall_s * 1_000 * self.clock.scale), 1)

    def _term_ms(self, limits: Limits) -> int:
        shortest, longest = (self._node_ms(wall_s) for wall_s in TERM_S)
        return min(max(4 * limits.gap_ms, shortest), longest)

    def _poll_ms(self, limits: Limits) -> int:
        return max(self._node_ms(POLL_S), limits.gap_ms // 8)

    def _book(self, account: str) -> _Book:
        try:
            return self._books[account]
        except KeyError:
            known = ", ".join(sorted(self._books))
            raise ConfigError(f"no budget for upstream account {account!r}; there are {known}") from None

    async def acquire(
        self,
        account: str,
        cost: int = 1,
        *,
        priority: Priority = Priority.TOP,
        max_wait_s: float | None = None,
    ) -> Permit:
        """Wait for leave to send one request that costs ``cost`` credits; first come, first served.

        BudgetExhausted (with the ms from which to try again) at once when the month is spent, or what is left of it is
        reserved for higher priorities, and when it would take longer than ``max_wait_s`` node seconds.
        """
        book = self._book(account)
        give_up_at = None if max_wait_s is None else self.clock.now_ms() + round(max_wait_s * 1_000)
        ticket = object()
        book.queue.append(ticket)
        book.wanted[priority] += cost
        try:
            await asyncio.sleep(0)  # who asks in the same moment borrows in the same transaction
            while True:
                changed, until, reason = book.changed, None, "rate"
                if book.queue[0] is ticket:
                    outcome = await self._step(account, book, cost, priority)
                    if isinstance(outcome, Permit):
                        return outcome
                    until, reason = outcome.until, outcome.reason
                    if reason in {"month", "reserve"}:
                        raise self._exhausted(account, book, outcome.until, reason)
                now = self.clock.now_ms()
                if give_up_at is not None:
                    if now >= give_up_at or (reason == "paused" and until is not None and until > give_up_at):
                        raise self._exhausted(account, book, until or now + self._term_ms(book.limits), reason)
                    until = give_up_at if until is None else min(until, give_up_at)
                await self._until(changed, None if until is None else max(until - now, 1) / 1_000)
        finally:
            book.queue.remove(ticket)
            book.wanted[priority] -= cost
            book.wake()
            self.tidy_later(book)

    def _exhausted(self, account: str, book: _Book, until: int, reason: str) -> BudgetExhausted:
        limits = book.limits
        text = {
            "month": f"the {limits.monthly} credits of {book.month} are spent; raise the plan or poll less",
            "reserve": f"the rest of the {limits.monthly} credits of {book.month} is reserved for more important work",
            "paused": "paused by the upstream's Retry-After",
            "rate": f"{limits.requests} requests per {limits.per_s:g} s leave no room in the time allowed",
        }[reason]
        return BudgetExhausted(account, f"{text}; next try {iso(until)}", until)

    async def _until(self, changed: asyncio.Event, node_seconds: float | None) -> None:
        """Return when the book changed or the time has passed."""
        if node_seconds is None:
            await changed.wait()
            return
        racers = {
            asyncio.ensure_future(changed.wait()),
            asyncio.ensure_future(self.clock.sleep(node_seconds)),
        }
        try:
            await asyncio.wait(racers, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for racer in racers:
                racer.cancel()

    async def _step(self, account: str, book: _Book, cost: int, priority: Priority) -> Permit | Refusal:
        """Serve the first in the queue from what is held, or borrow more."""
        now = self.clock.now_ms()
        self._turn_month(book, now)
        if book.paused_until > now:
            return Refusal(book.paused_until, "paused")
        ready = [held for held in book.held if held.lane.ready(now)]
        room = book.limits.share - self._holds(book, now)
        lanes = 0 if ready or now < book.ask_again_at else min(len(book.queue), room)
        if lanes or book.credits[priority] < cost:
            refusal = await self._borrow(account, book, lanes, cost, priority)
            if refusal is not None and refusal.reason != "rate":
                return refusal
            now = self.clock.now_ms()
            self._turn_month(book, now)
            ready = [held for held in book.held if held.lane.ready(now)]
        if ready and book.credits[priority] >= cost and book.paused_until <= now:
            held = min(ready, key=lambda h: h.lane.ready_at)
            held.lane = held.lane.started()
            book.credits[priority] -= cost
            return Permit(self, book, held, cost, priority, book.month)
        own = [held.lane.ready_at for held in book.held if not held.lane.busy and not held.lane.spent(now)]
        idle_ms = self._poll_ms(book.limits) if room else self._term_ms(book.limits)
        look = book.ask_again_at if book.ask_again_at > now else now + idle_ms
        soonest = min([*own, look])
        return Refusal(max(soonest, now + 1), "rate")

    @staticmethod
    def _holds(book: _Book, now: int) -> int:
        return sum(not held.lane.spent(now) for held in book.held)

    @staticmethod
    def _turn_month(book: _Book, now: int) -> None:
        if book.month != budget_rules.month_of(now):
            book.month = budget_rules.month_of(now)
            book.credits.clear()

    async def _borrow(self, account: str, book: _Book, lanes: int, cost: int, priority: Priority) -> Refusal | None:
        """One transaction: give back what has run out, then borrow lanes and book credits."""
        wanted, has, reserve = 0, book.credits[priority], 0
        if has < cost:
            wanted = book.wanted[priority] - has if book.limits.monthly is not None else FREE_CREDITS
            if self.reserve is not None and book.limits.monthly is not None:
                reserve = await self.reserve(account, priority)
        loan_ms = self._term_ms(book.limits) + self._hold_ms + book.limits.gap_ms
        ask = Ask(lanes, loan_ms, wanted, max(cost - has, 0), reserve)
        # shielded: a caller that is cancelled must not lose lanes which the database has already lent
        outcome = await asyncio.shield(asyncio.ensure_future(self._exchange(account, book, ask, 0, priority)))
        return outcome if isinstance(outcome, Refusal) else None

    async def _exchange(
        self, account: str, book: _Book, ask: Ask | None, credits_back: int, priority: Priority = Priority.TOP
    ) -> Grant | Refusal | None:
        """Settle every lane that has run out (all idle ones when nothing is asked), then ask; book the result."""
        now = self.clock.now_ms()
        over = [h for h in book.held if not h.lane.busy and (ask is None or h.lane.spent(now))]
        for held in over:  # out of the book before anything is awaited: nobody may start a request in them
            book.held.remove(held)
        returned = [(held.lane.loan, held.lane.ready_at) for held in over]
        if over and ask is not None:  # a term is over: leave the lanes to others for one of their looks
            ask = replace(ask, lanes=0)
            book.ask_again_at = now + round(1.2 * self._poll_ms(book.limits))
        month = book.month

        def change(state: Account) -> tuple[Account, tuple[Account, Grant | Refusal | None, int]]:
            at = self.clock.now_ms()  # under the lock, which may have been waited for longer than a term lasts
            state = budget_rules.settle(state, returned, month, credits_back)
            outcome: Grant | Refusal | None = None
            if ask is not None:
                state, outcome = budget_rules.borrow(state, book.limits, at, ask)
            return state, (state, outcome, at)

        state, outcome, at = await self._ledger.transact(account, book.limits, month, change)
        book.paused_until = max(book.paused_until, state.paused_until)
        if isinstance(outcome, Grant):
            book.held += [_Held(Lane.of(loan, book.limits, at, self._hold_ms)) for loan in outcome.loans]
            book.credits[priority] += outcome.credits if book.month == month else 0
        elif isinstance(outcome, Refusal) and outcome.reason == "rate":
            book.ask_again_at = min(outcome.until, at + self._poll_ms(book.limits))
        return outcome

    def tidy_later(self, book: _Book) -> None:
        """Give idle lanes and unused credits back once nobody has wanted them for a moment."""
        if book.queue or (book.tidy is not None and not book.tidy.done()) or not (book.held or book.credits.total()):
            return
        account = next(name for name, other in self._books.items() if other is book)
        book.tidy = asyncio.ensure_future(self._tidy(account, book))

    async def _tidy(self, account: str, book: _Book) -> None:
        try:
            while True:
                await self.clock.sleep(self._node_ms(LINGER_S) / 1_000)
                if book.queue or not (book.credits.total() or any(not held.lane.busy for held in book.held)):
                    return
                await self._give_back(account, book)
        except CryptoDataError as error:  # nothing depends on it: loans end by themselves, credits stay counted
            log.warning("budget of %s: lanes could not be given back early: %s", account, error)

    async def _give_back(self, account: str, book: _Book) -> None:
        unused = book.credits.total()
        book.credits.clear()
        await asyncio.shield(asyncio.ensure_future(self._exchange(account, book, None, unused)))

    async def pause(self, account: str, until_ms: int) -> None:
        """Nobody, in any process, gets a permit of this account before ``until_ms`` (an ordered Retry-After).

        Other processes see it with their next loan, at most 3 wall seconds later (``TERM_S``).
        """
        book = self._book(account)
        book.paused_until = max(book.paused_until, until_ms)
        month = budget_rules.month_of(self.clock.now_ms())
        await self._ledger.transact(
            account, book.limits, month, lambda state: (budget_rules.pause(state, until_ms), None)
        )

    def spent(self, account: str) -> int:
        """Credits booked this month over all processes, from the database (blocking)."""
        month = budget_rules.month_of(self.clock.now_ms())
        return self._ledger.peek(account, self._book(account).limits, month).spent

    async def reconcile(self, account: str, counted: int, month: int) -> int:
        """The upstream says ``counted`` credits of ``month`` are spent; by how much that raises the ledger.

        It only rises: what we booked and the upstream has not counted yet may still be on its way.
        """

        def change(state: Account) -> tuple[Account, int]:
            after = budget_rules.raised(state, counted)
            return after, after.spent - state.spent

        return await self._ledger.transact(account, self._book(account).limits, month, change)

    async def aclose(self) -> None:
        """Give everything back now instead of when the loans end."""
        for account, book in self._books.items():
            if book.tidy is not None:
                book.tidy.cancel()
            if book.held or book.credits.total():
                await self._give_back(account, book)


__all__ = ["BudgetAuthority", "Ledger", "Limits", "Permit", "Priority"]

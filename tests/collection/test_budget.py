from __future__ import annotations

import asyncio
import heapq
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from itertools import count, repeat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from ray_app.clock import Clock, ManualClock, WallClock
from ray_app.collection import budget_rules as rules
from ray_app.collection.budget import BudgetAuthority, Limits, Priority
from ray_app.collection.budget_ledger import DatabaseLedger, MemoryLedger
from ray_app.collection.budget_rules import Account, Ask, Grant, Lane, Loan, Refusal
from ray_app.errors import BudgetExhausted, ConfigError, StorageError
from ray_app.storage.engine import Database
from ray_app.storage.tables import metadata, provider_budgets, quota_ledger
from tests.servers import wait_until

NOW = 1_795_521_600_000  # 2026-11-24T12:00:00Z
MONTH = 202611
DECEMBER = 1_796_083_200_000
processes = multiprocessing.get_context("spawn")


def most_in_a_window(arrivals: list[int], window_ms: float) -> int:
    """The most arrivals in any half-open window, by two pointers over the sorted times."""
    times, most, left = sorted(arrivals), 0, 0
    for right, at in enumerate(times):
        while at - times[left] >= window_ms:
            left += 1
        most = max(most, right - left + 1)
    return most


# --- the rules ------------------------------------------------------------------------------------------------------

limits_ = st.builds(
    lambda lanes, per_lane, per_s: Limits(lanes * per_lane, per_s, lanes),
    st.integers(1, 5),
    st.integers(1, 4),
    st.sampled_from([0.5, 1.0, 60.0]),
)


@settings(max_examples=300, deadline=None)
@given(limits_, st.integers(1, 4), st.integers(1, 400), st.randoms(use_true_random=False))
def test_no_interleaving_of_processes_exceeds_any_window_at_the_upstream(limits, workers, steps, rng):
    """Processes borrow, send, stall, give back late and die at random; a request arrives anywhere before its answer."""
    window = round(limits.per_s * 1_000)
    hold = window * 3  # the longest a request lasts
    ask = Ask(limits.lanes, window + hold + limits.gap_ms)
    account = Account((0,) * limits.lanes, 0, MONTH, 0)
    held: list[dict[int, Lane]] = [{} for _ in range(workers)]
    in_flight: list[tuple[int, int, int]] = []  # (answered at, worker, lane)
    arrivals: list[int] = []
    now = NOW
    for _ in range(steps):
        now += rng.choice([0, 0, 1, rng.randint(0, window // 2), rng.randint(0, window * 4)])
        while in_flight and in_flight[0][0] <= now:
            at, who, lane = heapq.heappop(in_flight)
            if lane in held[who]:
                held[who][lane] = held[who][lane].answered(limits, at)
        who = rng.randrange(workers)
        mine = held[who]
        action = rng.choice(["borrow", "send", "send", "send", "settle", "die"])
        if action == "borrow":
            account, outcome = rules.borrow(account, limits, now, ask)
            if isinstance(outcome, Grant):
                assert len(outcome.loans) >= 1
                for loan in outcome.loans:
                    mine[loan.lane] = Lane.of(loan, limits, now, hold)
        elif action == "send":
            ready = [n for n, lane in mine.items() if lane.ready(now)]
            if ready:
                lane = rng.choice(ready)
                mine[lane] = mine[lane].started()
                answered = now + rng.randint(0, hold)
                arrivals.append(rng.randint(now, answered))
                heapq.heappush(in_flight, (answered, who, lane))
        elif action == "settle":
            idle = {n: lane for n, lane in mine.items() if not lane.busy}
            account = rules.settle(account, [(lane.loan, lane.ready_at) for lane in idle.values()], MONTH, 0)
            for n in idle:
                del mine[n]
        else:
            mine.clear()  # kill -9: what is in flight still arrives, nothing is given back
    assert most_in_a_window(arrivals, window) <= limits.requests


def test_the_rate_is_used_and_not_only_kept():
    """Lanes that answer at once carry the whole rate but for the margin."""
    limits = Limits(8, 1.0, lanes=8)
    assert limits.lanes * 1_000 / limits.gap_ms > 0.97 * 8
    assert Limits(10, 60.0, lanes=3).gap_ms >= 20_000, "3 lanes of 3 a minute: 9, never 10.x"


def test_a_loan_is_fenced_by_its_end():
    account = Account((0,), 0, MONTH, 0)
    limits = Limits(1, 1.0)
    account, first = rules.borrow(account, limits, NOW, Ask(1, 5_000))
    assert first == Grant((Loan(0, NOW + 5_000),), 0)
    account, refused = rules.borrow(account, limits, NOW + 4_999, Ask(1, 5_000))
    assert refused == Refusal(NOW + 5_000, "rate")
    account, second = rules.borrow(account, limits, NOW + 5_000, Ask(1, 5_000))
    assert second == Grant((Loan(0, NOW + 10_000),), 0)
    late = rules.settle(account, [(first.loans[0], NOW)], MONTH, 0)
    assert late == account, "the first borrower comes back late and must not free the second one's lane"
    assert rules.settle(account, [(second.loans[0], NOW + 7)], MONTH, 0).free_at == (NOW + 7,)


def test_a_clock_set_back_does_not_lock_an_account_for_ever():
    account = Account((NOW + 365 * 86_400_000,), 0, MONTH, 0)
    account, outcome = rules.borrow(account, Limits(1, 1.0), NOW, Ask(1, 5_000))
    assert outcome == Refusal(NOW + 5_000, "rate")
    assert isinstance(rules.borrow(account, Limits(1, 1.0), NOW + 5_000, Ask(1, 5_000))[1], Grant)


def test_a_host_whose_clock_goes_behind_does_not_cut_the_loan_of_another():
    """Its fence would be gone: the lane could not be given back, and nobody could use it until the loan ends."""
    limits, ask = Limits(1, 1.0), Ask(1, 5_000)
    account, grant = rules.borrow(Account((0,), 0, MONTH, 0), limits, NOW, ask)
    account, outcome = rules.borrow(account, limits, NOW - 700, ask)
    assert outcome == Refusal(NOW + 5_000, "rate")
    assert rules.settle(account, [(grant.loans[0], NOW + 7)], MONTH, 0).free_at == (NOW + 7,)


def test_pauses_only_grow_and_refuse_everybody():
    account = rules.pause(rules.pause(Account((0,), 0, MONTH, 0), NOW + 60_000), NOW + 1)
    assert rules.borrow(account, Limits(1, 1.0), NOW, Ask(1, 5_000))[1] == Refusal(NOW + 60_000, "paused")
    assert isinstance(rules.borrow(account, Limits(1, 1.0), NOW + 60_000, Ask(1, 5_000))[1], Grant)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.booleans()), max_size=40), st.integers(0, 30))
def test_the_month_is_never_overspent_whatever_is_given_back(steps, monthly):
    limits = Limits(100, 1.0, lanes=100, monthly=monthly)
    account = Account((0,) * 100, 0, MONTH, 0)
    used = 0
    for wanted, used_of_it, crash in steps:
        least = min(wanted, 1)
        account, outcome = rules.borrow(account, limits, NOW, Ask(0, 1, wanted, least))
        if isinstance(outcome, Refusal):
            assert outcome == Refusal(DECEMBER, "month")
            assert monthly - account.spent < least
            continue
        spend = min(used_of_it, outcome.credits)
        used += spend
        if not crash:
            account = rules.settle(account, [], MONTH, outcome.credits - spend)
        assert used <= account.spent <= monthly


def test_credits_of_another_month_are_not_given_back_to_this_one():
    account = Account((0,), 0, 202612, 10)
    assert rules.settle(account, [], MONTH, 5).spent == 10
    assert rules.settle(account, [], 202612, 5).spent == 5


def test_a_low_ask_leaves_the_reserve_and_a_high_one_may_have_it():
    limits = Limits(10, 1.0, 10, monthly=100)
    account = Account((0,) * 10, 0, MONTH, 95)
    refused = rules.borrow(account, limits, NOW, Ask(1, 5_000, 3, 1, reserve=5))
    assert refused == (account, Refusal(NOW + rules.RESERVE_AGAIN_MS, "reserve"))
    after, granted = rules.borrow(account, limits, NOW, Ask(1, 5_000, 3, 1, reserve=3))
    assert (granted.credits, after.spent) == (2, 97), "as much of it as there is"
    after, granted = rules.borrow(after, limits, NOW, Ask(1, 5_000, 3, 1))
    assert (granted.credits, after.spent) == (3, 100)
    assert rules.borrow(after, limits, NOW, Ask(1, 5_000, 1, 1, reserve=50))[1] == Refusal(DECEMBER, "month")
    lanes_only, granted = rules.borrow(after, limits, NOW, Ask(1, 5_000, reserve=50))
    assert (granted.credits, lanes_only.spent) == (0, 100)


@given(st.lists(st.tuples(st.integers(1, 5), st.booleans(), st.integers(0, 40)), max_size=60))
def test_low_asks_never_take_what_is_reserved_in_any_order(asks):
    limits, account = Limits(100, 1.0, 100, monthly=40), Account((0,) * 100, 0, MONTH, 0)
    for wanted, low, reserve in asks:
        before = account.spent
        account, outcome = rules.borrow(account, limits, NOW, Ask(0, 1, wanted, 1, reserve if low else 0))
        if low and isinstance(outcome, Grant):
            assert account.spent <= 40 - reserve
        assert before <= account.spent <= 40


def test_the_upstreams_count_raises_the_ledger_and_never_lowers_it():
    account = Account((0,), 0, MONTH, 50)
    assert rules.raised(account, 70).spent == 70
    assert rules.raised(account, 30) == account


@pytest.mark.parametrize("wrong", [(0, 1.0, 1), (1, 0, 1), (1, 1.0, 2), (1, 1.0, 0), (200, 1.0, 101)])
def test_limits_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ConfigError, match="needs requests"):
        Limits(*wrong)


def test_months_begin_at_utc_midnight():
    assert rules.month_of(DECEMBER - 1) == MONTH
    assert rules.month_of(DECEMBER) == 202612
    assert rules.next_month(NOW) == rules.next_month(DECEMBER - 1) == DECEMBER
    assert rules.month_of(rules.next_month(rules.month_start(202612))) == 202701


# --- the authority on a virtual clock -------------------------------------------------------------------------------


class VirtualClock(Clock):
    """Time that jumps to the next sleeper whenever every task waits: an hour passes at once, in order."""

    def __init__(self, now_ms: int = NOW) -> None:
        self._now = now_ms
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0

    def now_ms(self) -> int:
        return self._now

    async def sleep(self, node_seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self._now + max(round(node_seconds * 1_000), 0), self._count, future))
        await future

    async def run(self, *tasks: asyncio.Task, until: int | None = None) -> None:
        while not all(task.done() for task in tasks) or until is not None:
            for _ in range(12):  # let every runnable task come to rest
                await asyncio.sleep(0)
            while self._sleepers and self._sleepers[0][2].done():
                heapq.heappop(self._sleepers)
            if all(task.done() for task in tasks) and (
                until is None or not self._sleepers or self._sleepers[0][0] > until
            ):
                break
            if not self._sleepers:
                continue
            at, _, future = heapq.heappop(self._sleepers)
            self._now = max(self._now, at)
            future.set_result(None)
        for task in tasks:
            task.result()


def authorities(clock: Clock, limits: Limits, count: int, ledger: MemoryLedger | None = None) -> list[BudgetAuthority]:
    ledger = ledger or MemoryLedger()
    return [BudgetAuthority(ledger, clock, {"up": limits}, request_timeout_s=5) for _ in range(count)]


async def request(
    authority: BudgetAuthority, clock: Clock, rng: random.Random, arrivals: list[int], latency_s: float
) -> None:
    with await authority.acquire("up"):
        took = rng.uniform(0, latency_s)
        before = rng.uniform(0, took)
        await clock.sleep(before)
        arrivals.append(clock.now_ms())
        await clock.sleep(took - before)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([Limits(8, 1.0, 8), Limits(10, 60.0, 5), Limits(3, 1.0, 1), Limits(7, 2.0, 3)]),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.3, 4.0]),
    st.integers(0, 10_000),
)
def test_authorities_that_share_a_ledger_keep_the_rate_and_serve_everybody(limits, count, latency, seed):
    async def scene() -> None:
        clock, rng, arrivals = VirtualClock(), random.Random(seed), []
        several = authorities(clock, limits, count)
        tasks = [
            asyncio.ensure_future(request(several[n % count], clock, rng, arrivals, latency)) for n in range(25 * count)
        ]
        await clock.run(*tasks)
        assert len(arrivals) == 25 * count
        assert most_in_a_window(arrivals, limits.per_s * 1_000) <= limits.requests
        lanes_free = limits.gap_ms * 25 * count / limits.lanes
        assert clock.now_ms() - NOW < 6 * (lanes_free + 25 * count * latency * 1_000 / limits.lanes + 10_000), (
            "no starvation"
        )

    asyncio.run(scene())


class AwaitedLedger(MemoryLedger):
    """A database whose write lock is waited for: each transaction as long as ``waits`` says next, seconds."""

    def __init__(self, clock: Clock, waits: Iterator[float]) -> None:
        super().__init__()
        self._clock, self._waits = clock, waits

    async def transact(self, account, limits, month, change):
        await self._clock.sleep(next(self._waits))
        return await super().transact(account, limits, month, change)


@pytest.mark.parametrize("seed", range(5))
def test_the_rate_is_kept_where_the_database_is_waited_for(seed):
    """Transactions overtake each other; of two loans of a lane the later one begins when the first has ended."""

    async def scene() -> None:
        clock, rng, limits, arrivals = VirtualClock(), random.Random(seed), Limits(8, 1.0, 8), []
        ledger = AwaitedLedger(clock, (rng.choice([0.0, 0.1, 8.0]) for _ in count()))
        several = authorities(clock, limits, 3, ledger)
        tasks = [asyncio.ensure_future(request(several[n % 3], clock, rng, arrivals, 0.1)) for n in range(300)]
        await clock.run(*tasks)
        assert len(arrivals) == 300
        assert most_in_a_window(arrivals, 1_000) <= 8

    asyncio.run(scene())


def test_a_loan_runs_from_when_it_was_granted():
    """Counted from when it was asked for, its term would have passed before the database said yes."""

    async def scene() -> None:
        clock = VirtualClock()
        (authority,) = authorities(clock, Limits(8, 1.0, 8), 1, AwaitedLedger(clock, repeat(8.0)))
        task = asyncio.ensure_future(authority.acquire("up", max_wait_s=10))
        await clock.run(task)
        assert task.result().valid()
        assert clock.now_ms() == NOW + 8_000

    asyncio.run(scene())


def test_a_lone_request_gives_its_lane_back_and_spends_one_credit():
    async def scene() -> None:
        clock, ledger = VirtualClock(), MemoryLedger()
        limits = Limits(10, 60.0, 5, monthly=100)
        (authority,) = authorities(clock, limits, 1, ledger)
        task = asyncio.ensure_future(request(authority, clock, random.Random(1), [], 0.2))
        await clock.run(task, until=NOW + 10_000)
        account = ledger.peek("up", limits, MONTH)
        assert account.spent == 1
        assert max(account.free_at) <= NOW + 200 + limits.gap_ms, "not blocked for the length of a loan"
        assert authority.spent("up") == 1

    asyncio.run(scene())


def test_credits_booked_ahead_come_back_where_the_upstream_counts_no_months():
    async def scene() -> None:
        clock, ledger = VirtualClock(), MemoryLedger()
        (authority,) = authorities(clock, Limits(8, 1.0, 8), 1, ledger)
        tasks = [asyncio.ensure_future(request(authority, clock, random.Random(n), [], 0.2)) for n in range(5)]
        await clock.run(*tasks)
        await authority.aclose()
        assert authority.spent("up") == 5

    asyncio.run(scene())


def test_a_request_that_was_never_sent_costs_nothing():
    async def scene() -> None:
        (authority,) = authorities(ManualClock(NOW), Limits(1, 60.0, monthly=1), 1)
        permit = await authority.acquire("up")
        assert permit.valid()
        permit.close(sent=False)
        permit.close()  # twice is once
        with await authority.acquire("up", max_wait_s=1):
            pass
        await authority.aclose()
        assert authority.spent("up") == 1

    asyncio.run(scene())


def test_a_permit_held_beyond_its_loan_is_not_valid_any_more():
    async def scene() -> None:
        clock = ManualClock(NOW)
        (authority,) = authorities(clock, Limits(8, 1.0, 8), 1)
        permit = await authority.acquire("up")
        clock.advance(3_600)
        assert not permit.valid()
        permit.close(sent=False)
        await authority.aclose()

    asyncio.run(scene())


def test_a_spent_month_says_until_when_and_the_next_month_starts_fresh():
    async def scene() -> None:
        clock = ManualClock(NOW)
        (authority,) = authorities(clock, Limits(10, 1.0, monthly=2), 1)
        for _ in range(2):
            (await authority.acquire("up")).close()
        with pytest.raises(BudgetExhausted, match="the 2 credits of 202611 are spent") as caught:
            await authority.acquire("up")
        assert caught.value.until_ms == DECEMBER
        clock.advance((DECEMBER - clock.now_ms()) / 1_000)
        (await authority.acquire("up")).close()
        assert authority.spent("up") == 1
        await authority.aclose()

    asyncio.run(scene())


def test_a_pause_reaches_the_other_authorities_and_long_ones_are_not_waited_for():
    async def scene() -> None:
        clock = VirtualClock()
        one, two = authorities(clock, Limits(8, 1.0, 8), 2)
        await one.pause("up", NOW + 60_000)
        with pytest.raises(BudgetExhausted, match=r"Retry-After.*2026-11-24T12:01:00Z"):
            await two.acquire("up", max_wait_s=30)
        arrivals: list[int] = []
        tasks = [asyncio.ensure_future(request(a, clock, random.Random(1), arrivals, 0.0)) for a in (one, two)]
        await clock.run(*tasks)
        assert min(arrivals) >= NOW + 60_000

    asyncio.run(scene())


def test_a_pause_ordered_while_another_process_is_in_full_flow_is_seen_within_a_term():
    async def scene() -> None:
        clock, rng, arrivals = VirtualClock(), random.Random(3), []
        one, two = authorities(clock, Limits(8, 1.0, 8), 2)
        tasks = [asyncio.ensure_future(request(two, clock, rng, arrivals, 0.1)) for _ in range(60)]

        async def order() -> None:
            await clock.sleep(3)
            await one.pause("up", NOW + 100_000)

        await clock.run(*tasks, asyncio.ensure_future(order()))
        assert len(arrivals) == 60
        assert not [at for at in arrivals if NOW + 3_000 + 3_200 < at < NOW + 100_000]

    asyncio.run(scene())


def test_waiting_is_first_come_first_served_and_bounded():
    async def scene() -> None:
        clock = VirtualClock()
        (authority,) = authorities(clock, Limits(1, 10.0), 1)
        order: list[int] = []

        async def one(n: int) -> None:
            with await authority.acquire("up", max_wait_s=25):
                order.append(n)

        tasks = [asyncio.ensure_future(one(n)) for n in range(5)]
        for task in tasks:
            task.add_done_callback(lambda t: t.exception())
        with pytest.raises(BudgetExhausted, match="leave no room in the time allowed"):
            await clock.run(*tasks)
        assert order == [0, 1, 2], "at 0, 10 and 20 s; the others gave up after 25"

    asyncio.run(scene())


def test_a_cancelled_waiter_leaves_the_queue_and_loses_no_lane():
    async def scene() -> None:
        clock = VirtualClock()
        (authority,) = authorities(clock, Limits(1, 10.0), 1)
        first = await authority.acquire("up")
        waiter = asyncio.ensure_future(authority.acquire("up"))
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        first.close()
        arrivals: list[int] = []
        await clock.run(asyncio.ensure_future(request(authority, clock, random.Random(1), arrivals, 0)))
        assert arrivals[0] <= NOW + 10_200
        await authority.aclose()

    asyncio.run(scene())


def test_lanes_that_cannot_be_given_back_early_end_by_themselves(caplog):
    class Failing(MemoryLedger):
        down = False

        async def transact(self, *args):
            if self.down:
                raise StorageError("the database is away")
            return await super().transact(*args)

    async def scene() -> None:
        clock, ledger = VirtualClock(), Failing()
        limits = Limits(1, 1.0)
        (authority,) = authorities(clock, limits, 1, ledger)
        arrivals: list[int] = []
        await clock.run(asyncio.ensure_future(request(authority, clock, random.Random(1), arrivals, 0)))
        ledger.down = True
        await clock.run(until=NOW + 5_000)
        assert "lanes could not be given back early: the database is away" in caplog.text
        with pytest.raises(StorageError):
            await authority.acquire("up")
        ledger.down = False
        await clock.run(asyncio.ensure_future(request(authority, clock, random.Random(1), arrivals, 0)))
        assert arrivals[1] - arrivals[0] <= 15_000, "a term, a request's time-out and a gap"

    asyncio.run(scene())


def test_closing_early_gives_back_what_is_idle():
    async def scene() -> None:
        clock, ledger = VirtualClock(), MemoryLedger()
        limits = Limits(8, 1.0, 8)
        (authority,) = authorities(clock, limits, 1, ledger)
        (await authority.acquire("up")).close()
        assert max(ledger.peek("up", limits, MONTH).free_at) > NOW + 5_000
        await authority.aclose()
        account = ledger.peek("up", limits, MONTH)
        assert (max(account.free_at), account.spent) == (NOW + limits.gap_ms, 1)

    asyncio.run(scene())


def test_a_refused_repair_names_the_reserve_and_the_live_ask_behind_it_is_served():
    async def scene() -> None:
        clock = VirtualClock()
        (authority,) = authorities(clock, Limits(10, 60.0, 5, monthly=10), 1)

        async def reserve(account: str, priority: Priority) -> int:
            assert account == "up"
            return 8 if priority == Priority.REPAIR else 0

        authority.reserve = reserve

        async def ask(priority: Priority) -> str:
            try:
                (await authority.acquire("up", priority=priority)).close()
            except BudgetExhausted as error:
                return str(error)
            return "sent"

        repairs = [asyncio.ensure_future(ask(Priority.REPAIR)) for _ in range(4)]
        live = asyncio.ensure_future(ask(Priority.TOP))
        await clock.run(*repairs, live)
        said = [task.result() for task in repairs]
        assert said.count("sent") == 2
        assert [text for text in said if text != "sent"] == [
            text for text in said if "the rest of the 10 credits" in text
        ]
        assert "reserved for more important work" in said[-1]
        assert live.result() == "sent", "it stood behind the repairs"
        again = asyncio.ensure_future(ask(Priority.TOP))
        await clock.run(again)
        assert again.result() == "sent"

    asyncio.run(scene())


def test_credits_booked_for_live_asks_are_not_spent_on_repairs():
    """Four live asks book together and three are never sent: what they leave goes back, not to the repair."""

    async def scene() -> None:
        clock = ManualClock(NOW)
        (authority,) = authorities(clock, Limits(10, 1.0, 10, monthly=4), 1)

        async def reserve(_: str, priority: Priority) -> int:
            return 4 if priority == Priority.REPAIR else 0

        authority.reserve = reserve
        permits = [await authority.acquire("up") for _ in range(3)]
        for permit in permits[1:]:
            permit.close(sent=False)
        with pytest.raises(BudgetExhausted, match="reserved"):
            await authority.acquire("up", priority=Priority.REPAIR)
        permits[0].close()
        await authority.aclose()
        assert authority.spent("up") == 1

    asyncio.run(scene())


def test_an_account_without_a_budget_is_named():
    async def scene() -> None:
        (authority,) = authorities(ManualClock(NOW), Limits(1, 1.0), 1)
        with pytest.raises(ConfigError, match="'nowhere'; there are up"):
            await authority.acquire("nowhere")

    asyncio.run(scene())


# --- the ledger in a database ---------------------------------------------------------------------------------------


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    database.run(metadata.create_all)
    yield database
    database.dispose()


async def test_the_database_keeps_what_memory_keeps(db: Database):
    """The same random transactions on both ledgers end in the same account."""
    limits, rng = Limits(6, 1.0, 3, monthly=50), random.Random(4)
    ledgers = (DatabaseLedger(db), MemoryLedger())
    month = MONTH
    assert ledgers[0].peek("up", limits, month) == ledgers[1].peek("up", limits, month)
    for n in range(40):
        now = NOW + n * 300
        month = MONTH if n < 30 else 202612
        kind, lanes, credits_ = rng.choice(["borrow", "borrow", "pause"]), rng.randint(0, 3), rng.randint(0, 3)

        def change(account: Account, kind=kind, lanes=lanes, wanted=credits_, now=now):
            if kind == "pause":
                return rules.pause(account, now + 500), None
            return rules.borrow(account, limits, now, Ask(lanes, 1_000, wanted))

        assert await ledgers[0].transact("up", limits, month, change) == await ledgers[1].transact(
            "up", limits, month, change
        )
        assert ledgers[0].peek("up", limits, month) == ledgers[1].peek("up", limits, month)


async def test_more_lanes_or_a_new_month_add_rows_and_lose_nothing(db: Database):
    ledger = DatabaseLedger(db)
    await ledger.transact("up", Limits(2, 1.0, 2), MONTH, lambda a: (rules.pause(a, NOW), None))
    wider = await ledger.transact("up", Limits(4, 1.0, 4), 202612, lambda a: (a, a))
    assert wider == Account((0, 0, 0, 0), NOW, 202612, 0)
    with db.read() as conn:
        assert len(conn.execute(select(provider_budgets.c.account)).all()) == 5
        assert len(conn.execute(select(quota_ledger.c.month)).all()) == 2


async def test_a_failed_transaction_changes_nothing(db: Database):
    ledger, limits = DatabaseLedger(db), Limits(2, 1.0, 2)

    def fail(_: Account):
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        await ledger.transact("up", limits, MONTH, fail)
    assert ledger.peek("up", limits, MONTH) == Account((0, 0), 0, MONTH, 0)


RATE = Limits(20, 1.0, 10, monthly=100_000)
SHORT = Limits(40, 1.0, 10, monthly=60)


def spend(url: str, log: str, seconds: float, limits: Limits = RATE) -> None:
    """Send as fast as the budget allows, noting the moment in the middle of each request."""

    async def one(authority: BudgetAuthority, notes, rng: random.Random, end: float) -> None:
        while time.monotonic() < end:
            try:
                permit = await authority.acquire("up", max_wait_s=1)
            except BudgetExhausted as error:
                if "are spent" in str(error):
                    return
                continue
            with permit:
                await asyncio.sleep(rng.uniform(0, 0.05))
                notes.write(b"%d\n" % (time.time_ns() // 1_000_000))
                await asyncio.sleep(rng.uniform(0, 0.05))

    async def main() -> None:
        db = Database(url)
        authority = BudgetAuthority(db, WallClock(), {"up": limits}, request_timeout_s=1)
        with Path(log).open("ab", buffering=0) as notes:
            rng = random.Random(os.getpid())
            await asyncio.gather(*(one(authority, notes, rng, time.monotonic() + seconds) for _ in range(12)))
        await authority.aclose()
        db.dispose()

    asyncio.run(main())


def arrivals_of(logs: list[Path]) -> list[int]:
    return [int(line) for log in logs if log.exists() for line in log.read_text().split()]


@pytest.mark.integration
def test_processes_that_share_a_database_keep_one_budget_even_when_one_is_killed(
    db: Database, database_url: str, tmp_path: Path
):
    logs = [tmp_path / f"log{n}" for n in range(3)]
    # the first one spends until it is killed, however long the others keep it waiting
    spending = zip(logs, (120.0, 5.0, 5.0), strict=True)
    spenders = [processes.Process(target=spend, args=(database_url, str(log), seconds)) for log, seconds in spending]
    for spender in spenders:
        spender.start()
    wait_until(lambda: len(arrivals_of(logs[:1])) >= 5, 60, "the first process sends")
    os.kill(spenders[0].pid, signal.SIGKILL)
    for spender in spenders:
        spender.join(60)
    assert [spender.exitcode for spender in spenders] == [-signal.SIGKILL, 0, 0]
    arrivals = arrivals_of(logs)
    assert most_in_a_window(arrivals, 1_000) <= RATE.requests
    assert all(arrivals_of([log]) for log in logs[1:]), "both survivors were served"
    booked = DatabaseLedger(db).peek("up", RATE, rules.month_of(time.time_ns() // 1_000_000)).spent
    assert len(arrivals) <= booked <= len(arrivals) + 24, "at most what the killed process had booked is lost"


def stand_still(url: str, log: str) -> None:
    """Take a permit, be stopped before sending, and go on as the transport does."""

    async def main() -> None:
        db = Database(url)
        authority = BudgetAuthority(db, WallClock(), {"up": SHORT}, request_timeout_s=1)
        permit = await authority.acquire("up")
        os.kill(os.getpid(), signal.SIGSTOP)
        Path(log).write_text(str(permit.valid()))
        permit.close(sent=False)
        await authority.aclose()
        db.dispose()

    asyncio.run(main())


@pytest.mark.integration
def test_two_clusters_share_a_month_and_a_zombie_spends_nothing_of_it(db: Database, database_url: str, tmp_path: Path):
    """Two processes spend what is left of 60 credits while a third stands still with a permit in its hand."""
    awake, logs = tmp_path / "zombie", [tmp_path / f"log{n}" for n in range(2)]
    zombie = processes.Process(target=stand_still, args=(database_url, str(awake)))
    zombie.start()
    wait_until(lambda: Path(f"/proc/{zombie.pid}/stat").read_text().split()[2] == "T", 60, "the zombie stands still")
    spenders = [processes.Process(target=spend, args=(database_url, str(log), 60.0, SHORT)) for log in logs]
    for spender in spenders:
        spender.start()
    for spender in spenders:
        spender.join(60)
    arrivals, month = arrivals_of(logs), rules.month_of(time.time_ns() // 1_000_000)
    assert 50 < len(arrivals) < SHORT.monthly
    loan_ends = max(DatabaseLedger(db).peek("up", SHORT, month).free_at)
    wait_until(lambda: time.time_ns() // 1_000_000 > loan_ends, 60, "the zombie's loan is over")
    os.kill(zombie.pid, signal.SIGCONT)
    zombie.join(60)
    assert awake.read_text() == "False", "it may not send what it was allowed to send then"
    assert len(arrivals) <= DatabaseLedger(db).peek("up", SHORT, month).spent < SHORT.monthly, "its credit is back"

"""A month of every account's schedule, asked for permit by permit: the budget's own rules on a clock that jumps.

The arithmetic of averages is in test_catalogue.py; here each slot's requests must be had before the next slot is due.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from ray_app.assets import AssetRegistry
from ray_app.clock import DAY_MS, HOUR_MS, ManualClock
from ray_app.collection import datasets, planner, spending
from ray_app.collection.accounts import ACCOUNTS, limits_of_account
from ray_app.collection.budget import BudgetAuthority
from ray_app.collection.budget_ledger import MemoryLedger
from ray_app.collection.budget_rules import Limits, Priority
from ray_app.collection.catalogue import CATALOGUE
from ray_app.collection.collectors.registry import schedules
from ray_app.collection.schedule import Schedule
from ray_app.collection.upstreams import coingecko_limits
from ray_app.errors import BudgetExhausted
from ray_app.settings import Settings
from ray_app.sources import ENDPOINTS
from ray_app.sources.coingecko_base import MAX_IDS

SETTINGS = Settings(_env_file=None)
ASSETS = AssetRegistry.seed().active()[:320]
REGISTRY = AssetRegistry(ASSETS)
#: 2026-12-01T00:00:00Z: a month of 31 days begins
MONTH = 1_796_083_200_000
ENDS = MONTH + 31 * DAY_MS
#: node seconds that an answer takes
ANSWER_S = 2.0


class Owed(NamedTuple):
    """A request of a slot: when it falls due, and when the next slot does."""

    due: int
    until: int
    collector: str
    priority: Priority = Priority.REST
    cost: int = 1


def owed(schedule: Schedule, since: int, until: int, *what: object) -> Iterator[Owed]:
    """A request in each slot that begins in ``[since, until)``."""
    step = schedule.interval_ms
    for slot in range(-(-since // step) * step, until, step):
        yield Owed(schedule.due_at(slot), schedule.due_at(slot + step), *what)  # type: ignore[arg-type]


class Account:
    """An account whose collectors each have an authority of their own, as their processes have."""

    def __init__(self, name: str, limits: Limits, since: int) -> None:
        self.name, self.limits, self.clock, self.ledger = name, limits, ManualClock(since), MemoryLedger()
        self._authorities: dict[str, BudgetAuthority] = {}
        self.reserve = None

    async def ask(self, one: Owed) -> int:
        """Wait for the permit, use it, and say when it was had."""
        if one.collector not in self._authorities:
            authority = BudgetAuthority(self.ledger, self.clock, {self.name: self.limits})
            authority.reserve = self.reserve
            self._authorities[one.collector] = authority
        self.clock.advance(max(one.due - self.clock.now_ms(), 0) / 1_000)
        with await self._authorities[one.collector].acquire(self.name, one.cost, priority=one.priority):
            had = self.clock.now_ms()
            self.clock.advance(ANSWER_S)
        return had

    async def spent(self, month: int) -> int:
        """Credits of the month, once everybody has given back what is left."""
        for authority in self._authorities.values():
            await authority.aclose()
        return self.ledger.peek(self.name, self.limits, month).spent


def of_feeds(account: str, since: int, until: int) -> list[Owed]:
    """The first page of every slot of the account's feeds; snapshots first, as a pass has them."""
    cost = max(one.cost for one in ENDPOINTS.values() if one.account == account)
    found = []
    for dataset, feeds in CATALOGUE.items():
        for feed in sorted(feeds(SETTINGS, REGISTRY), key=lambda one: one.reach != "snapshot"):
            if feed.account == account:
                # as FeedCollector.tiers has it
                schedule = Schedule(dataset, feed.interval_s, feed.grace_s, min(20.0, feed.interval_s / 4))
                found += owed(schedule, since, until, dataset, feed.priority, cost)
    return sorted(found, key=lambda one: one.due)


@pytest.mark.parametrize("account", [a for a in ACCOUNTS if a.name != "x"], ids=lambda a: a.name)
async def test_each_slot_of_a_feed_has_its_permit_before_the_next_is_due(account):
    # two windows of a day; of a minute's the hours after midnight, when the daily ones are due as well
    until = MONTH + (2 * DAY_MS if account.limits.per_s == 86_400 else 4 * HOUR_MS)
    used = Account(account.name, account.limits, MONTH)
    asks = of_feeds(account.name, MONTH, until)
    late = [one for one in asks if await used.ask(one) >= one.until]
    assert asks
    assert late == []


async def test_the_posts_of_x_are_paid_for_to_the_end_of_the_month():
    (account,) = (a for a in ACCOUNTS if a.name == "x")
    limits = limits_of_account(account, SETTINGS)
    used, asks = Account("x", limits, MONTH), of_feeds("x", MONTH, ENDS + 2 * DAY_MS)
    assert [one for one in asks if await used.ask(one) >= one.until] == []
    assert await used.spent(202612) == 100 * sum(one.due < ENDS for one in asks) <= limits.monthly
    assert 0 < await used.spent(202701) < 500, "and the next month begins with all of it"


def of_coingecko(decision: planner.Decision, since: int, until: int) -> list[Owed]:
    """Prices by tier, the list of coins, the market's figures: as often as the decision has them."""
    every = spending.price_intervals(decision)
    found: list[Owed] = []
    for place, tier in enumerate(datasets.price_tiers(ASSETS, SETTINGS, since, every)):
        calls = -(-sum(tier.holds(asset) for asset in ASSETS) // MAX_IDS)
        for _ in range(calls):
            found += owed(tier.schedule, since, until, "crypto-prices", Priority.REST if place else Priority.TOP)
    for source, schedule in schedules(decision):
        if ENDPOINTS[source].account == spending.ACCOUNT:
            found += owed(schedule, since, until, "asset-registry", Priority.REGISTRY)
    return sorted(found, key=lambda one: one.due)


async def test_a_keyless_month_pays_every_slot_of_320_assets_whatever_repairs_take():
    """A repair takes what it gets each hour, and the node starts anew each night; docs/sources.md has the figure."""
    limits = coingecko_limits(SETTINGS)
    used = Account("coingecko", limits, MONTH)
    wanted = spending.wanted(len(ASSETS), SETTINGS)
    decision = planner.decide(wanted, limits, 0, MONTH)

    async def reserve(_: str, priority: Priority) -> int:
        return spending.reserve(decision, limits, priority, used.clock.now_ms())

    used.reserve = reserve
    asks, refused = of_coingecko(decision, MONTH, ENDS), 0
    looked, late = MONTH, []
    for one in asks:
        if await used.ask(one) >= one.until:
            late.append(one)
        if one.due - looked >= HOUR_MS:
            looked = one.due
            try:
                await used.ask(Owed(one.due, one.until, "crypto-prices", Priority.REPAIR))
            except BudgetExhausted:
                refused += 1
            spent = used.ledger.peek("coingecko", limits, 202612).spent
            decision = planner.reconsider(decision, wanted, limits, spent, one.due, starting=one.due % DAY_MS < HOUR_MS)
            assert decision.thinned() == []
    assert late == []
    assert len(asks) == 9_951
    assert len(asks) < await used.spent(202612) <= 10_000
    assert refused, "so repairs were up to the limit"

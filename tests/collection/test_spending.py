"""The decision on the month in the database, and the schedules that follow from it, against the real sandbox."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import select

from ray_app.collection import spending
from ray_app.collection.budget_rules import month_of, next_month
from ray_app.collection.collectors import collector
from ray_app.collection.control import holding
from ray_app.collection.datasets import PRICES
from ray_app.collection.reports import dataset_report
from ray_app.collection.upstreams import coingecko_limits
from ray_app.health.collect import collect_evidence
from ray_app.storage.engine import Database
from ray_app.storage.tables import account_plans, collection_schedules
from tests.collection.world import DAY, HOUR, MINUTE, START, JumpingClock, world

pytestmark = pytest.mark.integration
NAME = "crypto-prices"


@pytest.fixture
def place(tmp_path):
    """Six days and 16 hours of November are left: the schedules want 2,143 credits, and there are 1,400."""
    options = {
        "clock": JumpingClock(START + MINUTE, 10.0),
        "coingecko_monthly_limit": 1_400,
        "coingecko_requests_per_minute": 500,
    }
    with world(tmp_path, f"sqlite:///{tmp_path}/node.db", **options) as used:
        yield used


async def look(place, work, **settings):
    """``work(collector)`` in a process of its own; the settings may change from one to the next."""
    place.settings = place.settings.model_copy(update=settings)
    async with await place.open(NAME) as runtime, holding(runtime, NAME, "test"):
        acting = collector(NAME)(runtime)
        await acting.prepare()
        return await work(acting)


async def intervals(acting):
    now = acting.runtime.clock.now_ms()
    return [tier.schedule.interval_s for tier in acting.plans[PRICES].versions[-1].tiers], now


def stored(place):
    db = place.db()
    with db.read() as conn:
        schedules = conn.execute(select(collection_schedules.c.version).where(collection_schedules.c.dataset == PRICES))
        found = len(schedules.all()), spending.load(conn)[0]
    db.dispose()
    return found


async def test_what_the_month_does_not_carry_is_not_expected_and_nothing_of_it_is_missing(place):
    async def two_hours(acting):
        for minutes in range(2, 122, 5):
            place.clock.go_to(START + minutes * MINUTE)
            await acting.poll()
            await acting.track()
        with acting.runtime.db.read() as conn:
            report = dataset_report(conn, acting.runtime.registry, PRICES, place.clock.now_ms())
        return acting.plans[PRICES].versions[0].tiers, report

    tiers, report = await look(place, two_hours)
    assert [tier.schedule.interval_s for tier in tiers] == [600, 3_600]
    assert len(place.requests("markets")) == 12 + 2
    assert report["expected"] == report["received"] == 12 * 5 + 2 * 3
    evidence = collect_evidence(place.db(), place.clock, place.settings, up_since=START)
    (account,) = [a for a in evidence.accounts if a.account == "coingecko"]
    assert account.thinned == ("prices of the first ranks every 10 min instead of 5 min",)
    assert "a larger plan" in account.advice
    assert account.runs_out_at is None
    assert account.projected <= 1_400


async def test_a_larger_plan_thickens_and_the_past_keeps_what_was_expected_then(place):
    await look(place, intervals)
    place.clock.go_to(START + 90 * MINUTE)
    (now_wanted, now) = await look(place, intervals, coingecko_monthly_limit=None)
    assert now_wanted == [300, 3_600]

    async def versions(acting):
        return [(v.valid_from, v.valid_to, v.tiers[0].schedule.interval_s) for v in acting.plans[PRICES].versions]

    assert await look(place, versions) == [(START, START + 2 * HOUR, 600), (START + 2 * HOUR, None, 300)]
    assert now < START + 2 * HOUR


async def test_every_process_finds_the_same_decision_and_one_version_of_the_schedule(place):
    first, _ = await look(place, intervals)
    decided = stored(place)
    place.clock.go_to(START + 30 * MINUTE)
    second, _ = await look(place, intervals)
    assert (first, decided) == (second, stored(place))
    assert decided[0] == 1


async def test_two_clusters_that_decide_at_once_write_one_decision(tmp_path, mariadb_url):
    with world(tmp_path, mariadb_url, coingecko_monthly_limit=1_400) as place:
        limits, settings = coingecko_limits(place.settings), place.settings

        def decide(now: int):
            db = Database(mariadb_url)
            try:
                return db.run(lambda c: spending.settle(c, 8, settings, limits, 0, now, starting=True))
            finally:
                db.dispose()

        found = await asyncio.gather(*(asyncio.to_thread(decide, START + n) for n in range(6)))
        assert len(set(found)) == 1
        db = Database(mariadb_url)
        with db.read() as conn:
            assert len(conn.execute(select(account_plans)).all()) == 1
        db.dispose()


async def test_a_ledger_that_runs_ahead_of_the_plan_thins_while_the_node_runs(place):
    async def others_spend(acting):
        budgets = acting.runtime.budgets
        place.clock.go_to(START + DAY + MINUTE)
        await acting.poll()
        before = [tier.schedule.interval_s for tier in acting.plans[PRICES].versions[-1].tiers]
        await budgets.reconcile("coingecko", 8_600, month_of(START))
        place.clock.go_to(START + DAY + 2 * HOUR + MINUTE)
        await acting.poll()
        return before, [tier.schedule.interval_s for tier in acting.plans[PRICES].versions[-1].tiers]

    before, after = await look(place, others_spend, coingecko_monthly_limit=10_000)
    assert before == [300, 3_600]
    assert after == [600, 3_600], "1,400 credits for five days and a half of 321"


async def test_a_month_that_turns_while_it_is_decided_is_not_begun_with_the_old_months_spending(place):
    turn = next_month(START)

    async def stalls(acting):
        place.clock.go_to(turn - 10 * MINUTE)
        seen = acting.runtime.budgets.spent

        def slowly(account):
            spent = seen(account)
            place.clock.go_to(turn + MINUTE)
            return spent + 9_000

        acting.runtime.budgets.spent = slowly
        await acting.prepare()

    await look(place, stalls, coingecko_monthly_limit=10_000)
    _, decision = stored(place)
    assert (decision.month, decision.spent, decision.fits) == (month_of(turn), 0, True)


async def test_what_was_said_of_a_key_that_is_not_used_any_more_limits_nothing(place):
    db = place.db()
    usage = spending.KeyUsage(START, "Basic", 10, 1_000, 10)
    db.run(lambda conn: spending.save_usage(conn, usage, START))
    db.dispose()
    await look(place, intervals)
    assert stored(place)[1].limit == 1_400


async def test_planning_that_is_switched_off_asks_as_set_until_the_credits_are_spent(place):
    wanted, _ = await look(place, intervals, budget_planner=False)
    assert wanted == [300, 3_600]
    assert stored(place)[1].fits is False


async def test_a_month_turns_and_everything_is_decided_anew(place):
    async def turn(acting):
        place.clock.go_to(START + 7 * DAY)
        await acting.poll()
        return acting.plans[PRICES].versions[-1].tiers[0].schedule.interval_s

    assert await look(place, turn) == 3_600, "1,400 credits for a whole month"
    version, decision = stored(place)
    assert (decision.month, decision.spent, version) == (202612, 0, 2)

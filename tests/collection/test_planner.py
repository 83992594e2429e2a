"""What a month's credits carry: pure decisions, forecasts and reserves."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_app.clock import DAY_MS, HOUR_MS, to_ms
from ray_app.collection import planner, spending
from ray_app.collection.budget_rules import Limits, Priority, next_month
from ray_app.collection.planner import Decision, decide, forecast, reconsider, reserve
from ray_app.collection.spending import GLOBAL, REST, TOP, wanted
from ray_app.collection.upstreams import COINGECKO_PLANS
from ray_app.settings import Settings

KEYLESS = COINGECKO_PLANS["keyless"]
ASSETS = 425


def at(text: str) -> int:
    return to_ms(datetime.fromisoformat(text + "+00:00"))


@functools.cache
def works(assets: int = ASSETS, **overrides):
    return wanted(assets, Settings(_env_file=None, **overrides))


def plan(monthly: int | None, **changes) -> Limits:
    return replace(KEYLESS, monthly=monthly, **changes)


def counted(decision: Decision, now: int, until: int) -> int:
    """Credits of the slots that begin in [now, until), one by one: what the collectors do."""
    total = 0
    for work, every in zip(decision.works, decision.intervals, strict=True):
        step = every * 1_000
        total += work.credits * len(range(-(-now // step) * step, until, step))
    return total


# --- deciding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("month", ["2027-02", "2028-02", "2026-11", "2026-12"])
def test_the_keyless_plan_carries_everything_from_the_start_of_any_month(month):
    decision = decide(works(), KEYLESS, 0, at(f"{month}-01T00:00:05"))
    assert (decision.thinned(), decision.fits) == ([], True)


def test_what_the_plan_does_not_carry_is_stretched_from_the_last_rank_on():
    begins = at("2026-12-01T00:00:00")
    found = {monthly: decide(works(), plan(monthly), 0, begins) for monthly in (10_000, 9_900, 9_600, 9_000, 3_000)}
    assert found[10_000].thinned() == []
    assert found[9_900].thinned() == ["the market's figures every 6 h instead of 3 h"]
    assert found[9_600].thinned()[0] == "prices of the other ranks every 2 h instead of 1 h"
    assert found[9_000].interval_of(TOP) == 300, "8,928 credits: the first ranks come first"
    assert found[9_000].interval_of(REST) == 86_400
    assert found[3_000].interval_of(TOP) == 1_800, "15 min would leave 24 credits, and the others need 31"
    assert found[3_000].interval_of(REST) == 3_600
    assert all(decision.fits for decision in found.values())


def test_a_registry_of_over_500_assets_is_polled_less_often_in_its_long_tail_only():
    decision = decide(works(501), KEYLESS, 0, at("2026-12-01T00:00:00"))
    assert decision.interval_of(TOP) == 300
    assert decision.thinned() == ["prices of the other ranks every 2 h instead of 1 h"]


def test_where_no_stretching_is_enough_nothing_is_stretched():
    """What CoinGecko does not give then, Coinbase does, as often as wanted."""
    decision = decide(works(), plan(500), 0, at("2026-12-01T00:00:00"))
    assert (decision.thinned(), decision.fits) == ([], False)


def test_a_plan_without_months_is_bound_by_its_rate_alone():
    now = at("2026-12-10T10:00:00")
    assert decide(works(), plan(None), 10**9, now).thinned() == []
    narrow = decide(works(5_000, price_fast_ranks=5_000, price_interval_s=60), plan(None, requests=10), 0, now)
    assert narrow.interval_of(TOP) == 300, "20 requests a minute do not go into 10"
    assert narrow.fits


def test_prices_that_are_wanted_hourly_or_rarer_are_one_work():
    assert works(price_interval_s=3_600)[0].name == TOP
    assert REST not in [work.name for work in works(price_interval_s=3_600)]
    assert spending.price_intervals(decide(works(price_interval_s=86_400), KEYLESS, 0, at("2026-12-01T00:00:00"))) == (
        86_400,
        86_400,
    )


def test_planning_can_be_switched_off():
    decision = decide(works(), plan(3_000), 0, at("2026-12-01T00:00:00"), spread=False)
    assert (decision.thinned(), decision.fits) == ([], False)


moments = st.integers(at("2026-01-01T00:00:00"), at("2028-12-31T23:59:59"))


@settings(max_examples=25, deadline=None)
@given(moments, st.integers(1, 12_000), st.integers(1, 1_200), st.integers(0, 9_000))
def test_what_fits_is_paid_to_the_end_of_the_month(now, monthly, assets, spent):
    """Counted slot by slot, the open ones included; and a more frequent choice of the first work would not be."""
    wanted_ = works(assets)
    decision = decide(wanted_, plan(monthly), min(spent, monthly), now)
    assert decision == decide(wanted_, plan(monthly), min(spent, monthly), now), "everybody decides alike"
    if decision.fits:
        assert counted(decision, now, next_month(now)) <= monthly - min(spent, monthly)
    assert Decision.load(decision.dump()) == decision


def test_a_thinned_schedule_begins_at_a_boundary_and_what_is_spent_until_then_counts():
    """At 13:00 a long tail of three calls an hour can become four-hourly at 16:00 only, and daily at midnight."""
    now = at("2026-12-31T13:00:00")
    first = decide(works(1_000), plan(20_000), 0, at("2026-12-01T00:00:00"))
    hourly = replace(first, intervals=(300, 3_600, 86_400, 604_800))
    top, open_ones = 11 * 12, 2

    def rest_for(left: int) -> tuple[int | None, int | None]:
        decision = decide(works(1_000), plan(20_000), 20_000 - left, now, hourly)
        assert decision.fits
        return decision.interval_of(TOP), decision.interval_of(REST)

    assert rest_for(top + open_ones + 11 * 3 + 4) == (300, 3_600)
    assert rest_for(top + open_ones + 3 * 3 + 2 * 3) == (300, 14_400), "13, 14 and 15 h, then 16 and 20 h"
    assert rest_for(top + open_ones + 3 * 3 + 2 * 3 - 1)[0] == 600, "no tail is rare enough in what is left of the day"


# --- when it is decided ---------------------------------------------------------------------------------------------


def test_a_decision_stands_unless_month_plan_or_work_change():
    begins = at("2026-12-01T00:00:05")
    first = reconsider(None, works(), plan(3_000), 0, begins)
    hours = [begins + n * HOUR_MS for n in range(1, 24)]
    assert all(reconsider(first, works(), plan(3_000), 2_990, now, starting=True) is first for now in hours)
    assert reconsider(first, works(), KEYLESS, 20, hours[0]).thinned() == [], "a larger plan thickens at once"
    assert reconsider(first, works(600), plan(3_000), 100, hours[0]).works != first.works
    assert reconsider(first, works(), plan(3_000), 0, begins + 31 * DAY_MS).month == 202701


def test_a_ledger_that_runs_ahead_thins_once_a_day_and_never_thickens_before_a_start():
    begins = at("2026-12-01T00:00:00")
    first = reconsider(None, works(), KEYLESS, 0, begins)
    later = begins + 3 * DAY_MS
    as_planned = first.need(begins, later)
    assert reconsider(first, works(), KEYLESS, as_planned, later) is first
    second = reconsider(first, works(), KEYLESS, as_planned + 60, later)
    assert second.thinned() == ["the market's figures every 6 h instead of 3 h"]
    again = later + 2 * DAY_MS
    assert reconsider(second, works(), KEYLESS, as_planned, again) is second, "no flapping while it runs"
    assert reconsider(second, works(), KEYLESS, as_planned, again, starting=True).thinned() == []


def test_a_start_thins_nothing_that_lasts():
    """Repairs have had all that was to spare; what is left is what the slots to come need."""
    begins, now = at("2026-12-01T00:00:00"), at("2026-12-26T10:07:00")
    first = reconsider(None, works(), KEYLESS, 0, begins)
    spent = KEYLESS.monthly - first.need(now, next_month(now))
    assert reconsider(first, works(), KEYLESS, spent, now, starting=True) is first
    assert reconsider(first, works(), KEYLESS, spent + 1, now, starting=True).thinned() != []


@settings(max_examples=4, deadline=None)
@given(st.lists(st.integers(0, 400), min_size=31, max_size=31), st.sampled_from([1_200, 3_000, 7_000, 10_000]))
def test_however_the_spending_goes_a_month_sees_at_most_one_change_a_day(bursts, monthly):
    now, spent = at("2026-12-01T00:00:00"), 0
    decision, changes = reconsider(None, works(), plan(monthly), 0, now), []
    for burst in bursts:
        for hour in range(0, 24, 4):
            moment = now + hour * HOUR_MS
            fresh = reconsider(decision, works(), plan(monthly), min(spent, monthly), moment, starting=hour == 8)
            if fresh is not decision:
                changes.append(moment)
                decision = fresh
            spent += decision.need(moment, moment + 4 * HOUR_MS)
        spent += burst
        now += DAY_MS
    assert all(later - sooner >= DAY_MS for sooner, later in itertools.pairwise(changes))


# --- reserves -------------------------------------------------------------------------------------------------------


def test_each_rank_leaves_what_those_before_it_still_need():
    now = at("2026-12-11T00:00:00")
    decision = decide(works(), KEYLESS, 3_210, now)
    end, days = next_month(now), 21
    assert reserve(decision, Priority.TOP, now) == 0
    assert reserve(decision, Priority.REST, now) == 288 * days
    assert reserve(decision, Priority.REGISTRY, now) == (288 + 24) * days
    assert reserve(decision, Priority.REPAIR, now) >= decision.need(now, end) == 321 * days
    assert reserve(decision, Priority.BACKFILL, now) >= reserve(decision, Priority.REPAIR, now)
    assert reserve(replace(decision, limit=None), Priority.BACKFILL, now) == 0


def test_repairs_and_history_get_the_rest_evenly_and_all_of_it_in_the_end():
    begins = at("2026-12-01T00:00:00")
    decision = decide(works(), plan(20_000), 0, begins)
    spare = 20_000 - decision.need(begins, next_month(begins))

    def free(priority: Priority, days: float) -> float:
        """The share of the spare credits that was free for it by then, had the schedules alone spent."""
        now = begins + round(days * DAY_MS)
        return (20_000 - decision.need(begins, now) - reserve(decision, priority, now)) / spare

    assert free(Priority.REPAIR, 0) == pytest.approx(7 / 31, abs=0.01)
    assert free(Priority.BACKFILL, 0) == pytest.approx(1 / 31, abs=0.01)
    assert free(Priority.BACKFILL, 15) == pytest.approx(16 / 31, abs=0.01)
    assert free(Priority.REPAIR, 24.5) == free(Priority.BACKFILL, 30.5) == 1.0


def test_a_repair_leaves_the_credits_of_slots_that_have_begun_and_may_not_be_asked_for_yet():
    """Coins are due 40 minutes after midnight; the last spare credit taken at 00:00:18 was theirs."""
    decision = decide(works(), KEYLESS, 0, at("2026-12-01T00:00:00"))

    def kept_of_begun(time: str) -> int:
        now = at(f"2026-12-25T{time}")
        return reserve(decision, Priority.REPAIR, now) - decision.need(now, next_month(now))

    moments = ("00:00:18", "00:01:30", "00:45:30", "01:02:00")
    assert [kept_of_begun(time) for time in moments] == [4, 2, 2, 0]
    assert reserve(decision, Priority.REST, at("2026-12-25T00:00:18")) == decision.need(
        at("2026-12-25T00:00:18"), at("2027-01-01T00:00:00"), before=Priority.REST
    )


def test_in_a_month_nobody_has_decided_on_yet_the_last_decision_counts_anew():
    decision = decide(works(), KEYLESS, 9_000, at("2026-11-29T00:00:00"))
    assert reserve(decision, Priority.REPAIR, at("2026-12-01T00:00:00")) >= 9_951


# --- forecasts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "spent", "days_left"),
    [
        ("2027-02-01T00:00:00", 0, 28),
        ("2028-02-01T00:00:00", 0, 29),
        ("2026-11-01T00:00:00", 0, 30),
        ("2026-12-01T00:00:00", 0, 31),
        ("2026-12-20T00:00:00", 17, 12),
        ("2026-12-31T00:00:00", 9_000, 1),
    ],
)
def test_the_forecast_is_what_was_spent_and_what_the_schedules_still_ask_for(now, spent, days_left):
    """Right in the first minute of a node: nothing is extrapolated."""
    decision = decide(works(), KEYLESS, spent, at(now))
    found = forecast("coingecko", 10_000, spent, at(now), decision)
    assert (found.spent, found.projected, found.runs_out_at) == (spent, spent + 321 * days_left, None)


def test_the_forecast_says_when_the_credits_end():
    now = at("2026-12-11T00:00:00")
    decision = decide(works(), plan(5_000), 4_000, now, spread=False)
    found = forecast("coingecko", 5_000, 4_000, now, decision)
    assert found.projected == 4_000 + 321 * 21
    assert found.runs_out_at == pytest.approx(now + 1_000 / 321 * DAY_MS, abs=HOUR_MS)
    assert forecast("coingecko", 5_000, 5_000, now, decision).runs_out_at == now
    assert forecast("coingecko", None, 4_000, now, decision).runs_out_at is None


def test_repairs_are_forecast_at_their_rate_and_take_no_more_than_is_free():
    begins, days = at("2026-12-01T00:00:00"), 10
    decision = decide(works(), plan(20_000), 0, begins)
    now = begins + days * DAY_MS
    scheduled = decision.need(begins, now)
    found = forecast("coingecko", 20_000, scheduled + 100, now, decision)
    assert found.projected == 9_951 + 100 + 10 * 21
    greedy = forecast("coingecko", 20_000, scheduled + 6_000, now, decision)
    assert (greedy.projected, greedy.runs_out_at) == (20_000, None)
    burst = forecast("coingecko", 20_000, decision.need(begins, begins + HOUR_MS) + 50, begins + HOUR_MS, decision)
    assert burst.projected < 9_951 + 50 + 50 * 31, "an hour's burst is not the month's rate"


def test_spans_are_said_in_the_unit_a_person_would_take():
    assert [planner.span(s) for s in (45, 300, 3_600, 86_400, 604_800)] == ["45 s", "5 min", "1 h", "24 h", "7 d"]


def test_the_upstreams_word_lowers_the_plan_and_never_raises_it():
    low = spending.KeyUsage(0, "Analyst", 1, 300_000, 250)
    assert spending.carried_limits(COINGECKO_PLANS["analyst"], low).monthly == 300_000
    assert spending.carried_limits(COINGECKO_PLANS["analyst"], replace(low, credits=9**9)).monthly == 500_000
    assert spending.carried_limits(COINGECKO_PLANS["enterprise"], low).monthly == 300_000
    assert spending.carried_limits(COINGECKO_PLANS["analyst"], low).requests == 250
    decision = decide(works(), spending.carried_limits(COINGECKO_PLANS["analyst"], low), 0, at("2026-12-01T00:00:00"))
    assert spending.reserve(decision, COINGECKO_PLANS["analyst"], Priority.TOP, decision.decided_at) == 200_000
    assert GLOBAL in [work.name for work in decision.works]

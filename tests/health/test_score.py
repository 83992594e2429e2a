"""Every lost point names what cost it; nothing dead is left out; 100 means that nothing at all was found."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS
from ray_app.health.evidence import (
    NOT_PROBED,
    AccountEvidence,
    ArchiveEvidence,
    CollectorEvidence,
    DatasetEvidence,
    Evidence,
    Probe,
    Slots,
)
from ray_app.health.score import ESSENTIAL, START_MS, WEIGHTS, Component, Health, score

NOW = 1_700_000_000_000
OK = Probe("ok")


def dataset(name: str = "prices", **values: Any) -> DatasetEvidence:
    perfect = DatasetEvidence(
        dataset=name,
        hour=Slots(1_200, 1_200),
        day=Slots(28_800, 28_800),
        assets=100,
        stale=0,
        stale_since=None,
        newest_event=NOW - 1_000,
        oldest_owed=None,
        first_due=NOW - DAY_MS,
    )
    return replace(perfect, **values)


def collector(name: str = "crypto-prices", *datasets: DatasetEvidence, **values: Any) -> CollectorEvidence:
    perfect = CollectorEvidence(
        name=name,
        datasets=datasets,
        leased=True,
        started_at=NOW - 60_000,
        succeeded_at=NOW - 50_000,
        next_run_at=NOW + 240_000,
        overdue_ms=0,
        patience_ms=600_000,
    )
    return replace(perfect, **values)


def account(name: str = "coingecko", **values: Any) -> AccountEvidence:
    perfect = AccountEvidence(name, 100, 10_000, 9_000, None, 0, None)
    return replace(perfect, **values)


def evidence(**values: Any) -> Evidence:
    perfect = Evidence(
        now=NOW,
        up_since=NOW - DAY_MS,
        readable=True,
        collectors=(
            collector("crypto-prices", dataset()),
            collector("unified-ohlc", dataset("candles-300"), dataset("candles-3600"), dataset("candles-86400")),
            collector("asset-registry"),
        ),
        accounts=(account(), account("coinbase", monthly=None), account("coinbase-v2", monthly=None)),
        archive=ArchiveEvidence(writable=True, free_bytes=50 * 1024**3, total_bytes=100 * 1024**3),
        event_bus=OK,
        streams=OK,
        redis=Probe("off", "no Redis is configured"),
    )
    return replace(perfect, **values)


def prices(**values: Any) -> Evidence:
    """Perfect evidence but for the prices' dataset."""
    return with_collector(0, collector("crypto-prices", dataset(**values)))


def with_collector(place: int, changed: CollectorEvidence) -> Evidence:
    collectors = list(evidence().collectors)
    collectors[place] = changed
    return evidence(collectors=tuple(collectors))


def component(health: Health, name: str) -> Component:
    return {component.name: component for component in health.components}[name]


def state(health: Health, name: str) -> str:
    return component(health, name).state


def points(health: Health, name: str) -> float:
    return math.fsum(loss.points for loss in health.losses if loss.component == name)


def test_weights_are_points_of_100() -> None:
    assert math.fsum(WEIGHTS.values()) == 100


def test_nothing_found_is_100_and_healthy() -> None:
    health = score(evidence())
    assert (health.score, health.status, health.losses) == (100.0, "healthy", ())


def test_what_is_off_is_said_with_its_reason_and_costs_nothing() -> None:
    [redis] = [c for c in score(evidence()).components if c.name == "redis"]
    assert (redis.state, redis.score, redis.reason) == ("off", None, "no Redis is configured")


IMPERFECT = {
    "an open gap": prices(day=Slots(28_800, 28_799), oldest_owed=NOW - HOUR_MS),
    "a gap in one of three datasets": with_collector(
        1,
        collector(
            "unified-ohlc",
            dataset("candles-300", day=Slots(28_800, 28_799)),
            dataset("candles-3600"),
            dataset("candles-86400"),
        ),
    ),
    "a stale asset": prices(stale=1, stale_since=NOW - HOUR_MS),
    "an open circuit": evidence(accounts=(account(circuit_until=NOW + 1_000),)),
    "an upstream's pause": evidence(accounts=(account(paused_until=NOW + 1_000),)),
    "spent credits": evidence(accounts=(account(spent=10_000),)),
    "credits that will not last": evidence(accounts=(account(runs_out_at=NOW + DAY_MS),)),
    "work that is thinned": evidence(accounts=(account(thinned=("the market's figures every 6 h instead of 3 h",)),)),
    "a key that others use": evidence(accounts=(account(remarks=("others have spent 12 credits",)),)),
    "an unreadable database": evidence(readable=False),
    "a dead letter": evidence(dead_letters={"coingecko.markets": 1}),
    "a failed pass": with_collector(0, collector("crypto-prices", dataset(), last_error_at=NOW)),
    "no lease": with_collector(0, collector("crypto-prices", dataset(), leased=False)),
    "a dead loop": with_collector(0, collector("crypto-prices", dataset(), overdue_ms=HOUR_MS)),
    "a collector that never ran": with_collector(2, collector("asset-registry", started_at=None)),
    "a collector without a trace": evidence(collectors=evidence().collectors[:2]),
    "nothing scheduled": prices(first_due=None),
    "no assets": prices(assets=0),
    "a dead bus": evidence(event_bus=Probe("dead", "it does not answer")),
    "streams in trouble": evidence(streams=Probe("degraded", "full")),
    "a configured Redis that is away": evidence(redis=Probe("dead", "it does not answer")),
    "nobody asked": evidence(streams=NOT_PROBED),
    "a full disk": evidence(archive=ArchiveEvidence(True, 1024**2, 100 * 1024**3)),
    "a disk filling up": evidence(archive=ArchiveEvidence(True, 1024**3, 100 * 1024**3)),
    "a read-only archive": evidence(archive=ArchiveEvidence(False, 50 * 1024**3, 100 * 1024**3)),
}


@pytest.mark.parametrize("found", IMPERFECT.values(), ids=IMPERFECT.keys())
def test_whatever_is_found_costs_named_points_and_100_is_out_of_reach(found: Evidence) -> None:
    health = score(found)
    assert health.score < 100
    assert health.losses
    for loss in health.losses:
        assert loss.points > 0
        assert loss.reason
        assert loss.component in {component.name for component in health.components}
    assert health.score == pytest.approx(100 - math.fsum(loss.points for loss in health.losses), abs=0.11)


def test_a_plan_that_does_not_carry_the_month_is_a_warning_that_says_what_was_done_and_what_to_do() -> None:
    thinned = account(monthly=3_000, thinned=("prices every 30 min instead of 5 min",), advice="a larger plan")
    health = score(evidence(accounts=(thinned,)))
    (loss,) = health.losses
    assert loss.reason == (
        "coingecko: 3000 credits a month do not carry all that is wanted: prices every 30 min instead of 5 min. "
        "More takes a larger plan"
    )
    assert health.status == "healthy", "what was decided is done"
    dry = score(evidence(accounts=(account(monthly=500, runs_out_at=NOW + 3 * DAY_MS, advice="a larger plan"),)))
    assert [loss.reason for loss in dry.losses] == [
        "coingecko: this month's 500 credits last 3 more days, the first ranks longest; longer lasts a larger plan"
    ]


def test_every_component_is_listed_whatever_its_state() -> None:
    for found in IMPERFECT.values():
        names = {component.name for component in score(found).components}
        assert names == {*WEIGHTS, "redis"}


@pytest.mark.parametrize("essential", ESSENTIAL)
def test_without_an_essential_component_the_node_is_critical_whatever_else_shines(essential: str) -> None:
    found = {
        "database": evidence(readable=False),
        "collector:crypto-prices": with_collector(0, collector("crypto-prices", dataset(), started_at=None)),
        "archive": evidence(archive=ArchiveEvidence(False, None, None)),
    }[essential]
    health = score(found)
    assert state(health, essential) == "dead"
    assert health.status == "critical"
    assert health.score <= 50


def test_a_dead_component_loses_all_of_its_weight_but_no_more() -> None:
    dead = collector(
        "asset-registry", started_at=NOW, overdue_ms=DAY_MS, leased=False, last_error_at=NOW, succeeded_at=None
    )
    health = score(with_collector(2, dead))
    assert state(health, "collector:asset-registry") == "dead"
    assert points(health, "collector:asset-registry") == pytest.approx(5)
    assert health.score == 95.0


def test_an_unreadable_database_makes_everything_in_it_unknown_and_counts_it_as_dead() -> None:
    health = score(evidence(readable=False, collectors=(), accounts=()))
    for name in WEIGHTS:
        assert state(health, name) == ("ok" if name in {"archive", "event_bus", "streams"} else "dead")
    assert health.score == 25.0


def test_the_day_on_which_248_of_35712_rows_scored_100_is_critical() -> None:
    """Section 6D of the earlier system: 0.7 % of the prices, "100/100"."""
    found = prices(
        hour=Slots(1_488, 10), day=Slots(35_712, 248), assets=124, stale=123, stale_since=NOW - DAY_MS, oldest_owed=1
    )
    health = score(found)
    assert health.status == "critical"
    reasons = [loss.reason for loss in health.losses]
    assert any("35464 of 35712 slots of the last day are missing" in reason for reason in reasons)


def test_one_fresh_symbol_does_not_hide_the_stale_ones() -> None:
    """MAX(timestamp) over all symbols: the five-day stall."""
    health = score(prices(newest_event=NOW, stale=99, stale_since=NOW - 5 * DAY_MS))
    [loss] = health.losses
    assert "99 of 100 assets is too old (by event time)" in loss.reason
    assert loss.since == NOW - 5 * DAY_MS
    assert loss.points > 20


def test_the_more_is_missing_the_more_it_costs() -> None:
    scores = [score(prices(day=Slots(1_000, 1_000 - n), oldest_owed=1)).score for n in (0, 1, 100, 500, 1_000)]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(scores)


def test_settled_slots_are_not_missing() -> None:
    assert score(prices(day=Slots(100, 60, settled=40))).score == 100


def test_many_findings_of_a_component_never_take_more_than_it_has() -> None:
    found = evidence(
        accounts=tuple(
            account(name, spent=10_000, paused_until=NOW + 1, circuit_until=NOW + 1) for name in ("a", "b", "c")
        )
    )
    assert points(score(found), "upstreams") == pytest.approx(10)


@pytest.mark.parametrize("until", [NOW, NOW - 1])
def test_a_circuit_or_pause_that_is_over_costs_nothing(until: int) -> None:
    assert score(evidence(accounts=(account(circuit_until=until, paused_until=until),))).score == 100


def test_words_follow_the_score() -> None:
    def with_missing(share: float) -> Health:
        day = Slots(10_000, round(10_000 * (1 - share)))
        lost = collector("crypto-prices", dataset(hour=day, day=day, stale=round(100 * share)))
        worse = evidence(event_bus=Probe("dead", "x"), streams=Probe("dead", "x"))
        return score(replace(worse, collectors=(lost, *evidence().collectors[1:])))

    seen = {with_missing(share).status: with_missing(share).score for share in (0.0, 0.3, 0.49)}
    assert set(seen) == {"healthy", "degraded"}
    assert seen["healthy"] >= 80 > seen["degraded"] >= 60


def test_a_long_pass_is_slow_and_dead_only_after_an_hour() -> None:
    def after(minutes: int, **values: Any) -> Component:
        began = NOW - minutes * MINUTE_MS
        found = collector(
            "crypto-prices",
            dataset(),
            started_at=began,
            overdue_ms=minutes * MINUTE_MS,
            next_run_at=began - 1,
            **values,
        )
        return component(
            score(with_collector(0, replace(found, succeeded_at=began - HOUR_MS))), "collector:crypto-prices"
        )

    assert after(5).state == "ok"
    assert after(20).state == "degraded"
    assert after(20, leased=False).state == "dead", "whoever ran it is gone"
    assert after(60).state == "dead"


# --- starting ------------------------------------------------------------------------------------------------


def newborn(**values: Any) -> Evidence:
    blank = {"started_at": None, "succeeded_at": None, "next_run_at": None, "leased": False}
    nothing = dataset(hour=Slots(0, 0), day=Slots(0, 0), assets=0, newest_event=None, first_due=None)
    found = evidence(
        up_since=NOW - MINUTE_MS,
        collectors=(
            collector("crypto-prices", nothing, **blank),
            collector("unified-ohlc", replace(nothing, dataset="candles-300"), **blank),
            collector("asset-registry", **blank),
        ),
    )
    return replace(found, **values)


def test_a_node_that_has_just_begun_is_starting() -> None:
    health = score(newborn())
    assert (health.status, health.score) == ("starting", 100.0)
    assert state(health, "collector:crypto-prices") == "starting"


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        ({"started_at": None, "succeeded_at": None}, "its first pass has not begun"),
        ({"succeeded_at": None}, "its first pass is running"),
        ({"succeeded_at": None, "last_error_at": NOW}, "its first pass failed; it tries again"),
    ],
)
def test_a_starting_collector_says_what_it_waits_for(run: dict[str, Any], reason: str) -> None:
    young = replace(with_collector(0, collector("crypto-prices", dataset(), **run)), up_since=NOW - MINUTE_MS)
    found = component(score(young), "collector:crypto-prices")
    assert (found.state, found.reason) == ("starting", reason)


def test_a_starting_collector_is_ok_once_its_first_pass_is_done() -> None:
    done = replace(with_collector(0, collector("crypto-prices", dataset())), up_since=NOW - MINUTE_MS)
    found = component(score(done), "collector:crypto-prices")
    assert (found.state, found.reason) == ("ok", None)


def test_a_collector_whose_first_slots_are_not_due_says_so() -> None:
    soon = dataset(hour=Slots(0, 0), day=Slots(0, 0), first_due=NOW + 1)
    found = component(score(with_collector(0, collector("crypto-prices", soon))), "collector:crypto-prices")
    assert (found.state, found.reason) == ("starting", "its first slots are not due yet")


def test_a_node_whose_collectors_never_come_is_not_starting_for_ever() -> None:
    health = score(newborn(up_since=NOW - START_MS))
    assert health.status == "critical"
    assert state(health, "collector:crypto-prices") == "dead"


def test_a_dead_database_is_critical_also_while_starting() -> None:
    assert score(newborn(readable=False, collectors=(), accounts=())).status == "critical"


def test_a_first_pass_that_fails_is_not_hidden_by_starting() -> None:
    failing = collector("crypto-prices", dataset(first_due=None), succeeded_at=None, last_error_at=NOW)
    health = score(replace(newborn(), collectors=(failing, *newborn().collectors[1:])))
    assert "its last pass failed" in [loss.reason for loss in health.losses]


def test_before_the_first_slot_is_due_its_absence_costs_nothing() -> None:
    soon = dataset(hour=Slots(0, 0), day=Slots(0, 0), stale=100, first_due=NOW + 1)
    assert score(with_collector(0, collector("crypto-prices", soon))).score == 100
    late = replace(soon, first_due=NOW)
    assert score(with_collector(0, collector("crypto-prices", late))).score < 100


# --- whatever the evidence -----------------------------------------------------------------------------------

counts = st.integers(0, 50_000)
slots = st.builds(Slots, counts, counts, counts)
moments = st.one_of(st.none(), st.integers(NOW - 3 * DAY_MS, NOW + DAY_MS))
datasets = st.builds(
    DatasetEvidence, st.just("prices"), slots, slots, st.integers(0, 300), st.integers(0, 300), moments, moments,
    moments, moments,
)  # fmt: skip
collectors = st.builds(
    CollectorEvidence,
    st.sampled_from(["crypto-prices", "unified-ohlc", "asset-registry", "another"]),
    st.lists(datasets, max_size=3).map(tuple),
    st.booleans(),
    moments,
    moments,
    moments,
    st.integers(0, DAY_MS),
    st.integers(1, DAY_MS),
    last_error_at=moments,
)
accounts = st.builds(
    AccountEvidence, st.just("coingecko"), counts, st.one_of(st.none(), st.integers(1, 50_000)), counts, moments,
    st.integers(0, 2 * NOW), moments, moments,
)  # fmt: skip
probes = st.sampled_from([OK, NOT_PROBED, Probe("off", "x"), Probe("degraded", "x")])
anything = st.builds(
    Evidence,
    st.just(NOW),
    st.integers(NOW - DAY_MS, NOW),
    st.booleans(),
    st.lists(collectors, max_size=4, unique_by=lambda c: c.name).map(tuple),
    st.lists(accounts, max_size=3).map(tuple),
    st.builds(
        ArchiveEvidence, st.booleans(), st.one_of(st.none(), counts), st.one_of(st.none(), st.integers(1, 10**12))
    ),
    probes,
    probes,
    probes,
    dead_letters=st.dictionaries(st.just("x"), st.integers(1, 500)),
)


@given(anything)
def test_points_add_up_whatever_the_evidence(found: Evidence) -> None:
    health = score(found)
    lost = math.fsum(loss.points for loss in health.losses)
    assert 0 <= health.score <= 100
    assert abs(health.score - max(100 - lost, 0)) <= 0.11
    assert (health.score == 100) == (not health.losses)
    names = [component.name for component in health.components]
    assert len(names) == len(set(names))
    assert set(WEIGHTS) <= set(names)
    for component in health.components:
        assert (component.score is None) == (component.state == "off")
        if component.state == "dead":
            assert component.score == 0
            assert points(health, component.name) > 0
    if any(c.state == "dead" and c.name in ESSENTIAL for c in health.components):
        assert health.status == "critical"

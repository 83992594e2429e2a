from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_app.collection import expectation as ex
from ray_app.collection.expectation import Expected, Lifetime, SlotRange
from ray_app.collection.schedule import Schedule, ScheduleVersion

I = 60  # noqa: E741 - seconds of a slot in these tests
MS = I * 1_000

ranges = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 12)).map(lambda p: SlotRange(p[0] * MS, (p[0] + p[1]) * MS)),
    max_size=8,
)


def naive(parts) -> set[int]:
    return {slot for part in parts for slot in range(part.start, part.end, MS)}


def assert_normal(parts: list[SlotRange]) -> None:
    assert all(part.start < part.end for part in parts)
    assert all(a.end < b.start for a, b in itertools.pairwise(parts))


@given(ranges, ranges)
def test_algebra_agrees_with_sets(left, right):
    for result, truth in (
        (ex.normal(left), naive(left)),
        (ex.union(left, right), naive(left) | naive(right)),
        (ex.intersect(left, right), naive(left) & naive(right)),
        (ex.difference(left, right), naive(left) - naive(right)),
    ):
        assert_normal(result)
        assert naive(result) == truth
        assert ex.count(result, I) == len(truth)
        assert list(ex.each_slot(result, I)) == sorted(truth)


@given(ranges, ranges)
def test_touching_is_all_that_an_intersection_needs(left, right):
    parts = ex.normal(left)
    for one in ex.normal(right):
        near = ex.touching(parts, one)
        assert all(part.start < one.end and part.end > one.start for part in near)
        assert ex.intersect(near, [one]) == ex.intersect(parts, [one])


@given(ranges, ranges, ranges, ranges)
def test_owed_is_expected_minus_everything_accounted_for(expected, stored, empty, lost):
    owed = ex.owed(expected, stored, empty, lost)
    assert_normal(owed)
    assert naive(owed) == naive(expected) - naive(stored) - naive(empty) - naive(lost)


@given(st.lists(st.integers(0, 60).map(lambda n: n * MS), max_size=60))
def test_slots_become_ranges_in_any_order_and_with_repeats(slots):
    for given_as in (slots, np.array(slots, dtype=np.int64)):
        result = ex.from_slots(given_as, I)
        assert_normal(result)
        assert naive(result) == set(slots)


@given(ranges, st.integers(1, 7))
def test_newest_first_covers_everything_once_in_falling_pieces(parts, size):
    pieces = list(ex.newest_first(parts, I, size))
    assert all(0 < piece.end - piece.start <= size * MS for piece in pieces)
    assert all(later.end <= earlier.start for earlier, later in itertools.pairwise(pieces))
    slots = [slot for piece in pieces for slot in range(piece.start, piece.end, MS)]
    assert len(slots) == len(set(slots))
    assert set(slots) == naive(ex.normal(parts))


def test_pieces_of_nothing_are_refused():
    with pytest.raises(ValueError, match="pieces of 0"):
        next(ex.newest_first([SlotRange(0, MS)], I, 0))


def test_count_counts_slots_that_start_inside():
    assert ex.count([SlotRange(1, MS)], I) == 0
    assert ex.count([SlotRange(1, MS + 1)], I) == 1
    assert ex.count([SlotRange(0, 1)], I) == 1
    assert ex.count([], I) == 0


START = 1_795_521_600_000
HOUR = 3_600_000
CANDLES = Schedule("candles-3600", 3_600, grace_s=30)


def expected(versions, lifetime=Lifetime(), since=START, now=START + 10 * HOUR):  # noqa: B008 - frozen
    return ex.expected(versions, lifetime, since, now)


def test_only_due_slots_are_expected():
    version = ScheduleVersion(CANDLES, 0)
    assert expected([version]) == [Expected(3_600, SlotRange(START, START + 9 * HOUR))]  # the bar of hour 9 lacks grace
    assert expected([version], now=START + 10 * HOUR + 30_000) == [Expected(3_600, SlotRange(START, START + 10 * HOUR))]
    assert expected([version], now=START + HOUR) == []


def test_slots_outside_the_lifetime_are_not_expected():
    version = ScheduleVersion(CANDLES, 0)
    life = Lifetime(
        START + HOUR + 1, START + 4 * HOUR + 1
    )  # listed and delisted within an hour: those bars are partial
    assert expected([version], life) == [Expected(3_600, SlotRange(START + 2 * HOUR, START + 4 * HOUR))]
    assert expected([version], Lifetime(0, START)) == []
    assert expected([version], Lifetime(START + 100 * HOUR)) == []


def test_each_version_expects_the_slots_of_its_own_time():
    five = Schedule("prices", 300)
    versions = [
        ScheduleVersion(Schedule("prices", 3_600), START + 2 * HOUR),
        ScheduleVersion(five, 0, START + 2 * HOUR),
    ]
    assert expected(versions, now=START + 4 * HOUR) == [
        Expected(300, SlotRange(START, START + 2 * HOUR)),
        Expected(3_600, SlotRange(START + 2 * HOUR, START + 5 * HOUR)),
    ]


def test_a_horizon_within_a_slot_starts_at_the_next():
    version = ScheduleVersion(CANDLES, 0)
    assert expected([version], since=START + 1)[0].range.start == START + HOUR


def test_a_year_of_four_hundred_assets_is_handled_in_bulk():
    """400 assets x 35,000 slots: the ranges stay few, whatever the number of slots."""
    rng = np.random.default_rng(7)
    grid = np.arange(35_000, dtype=np.int64) * 300_000
    total = 0
    for _ in range(400):
        holes = rng.integers(0, 35_000, 20)
        stored = np.delete(grid, holes)
        owed = ex.owed([SlotRange(0, 35_000 * 300_000)], ex.from_slots(stored, 300))
        assert ex.count(owed, 300) == len(set(holes.tolist()))
        total += len(owed)
    assert total > 400

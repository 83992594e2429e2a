from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_app.collection.schedule import Schedule

NOON = 1_795_521_600_000  # 2026-11-24T12:00:00Z
PRICES = Schedule("prices", 300, jitter_s=20)
CANDLES = Schedule("candles-3600", 3_600, grace_s=30, jitter_s=60)

schedules = st.builds(
    lambda interval, grace, jitter, anchor: Schedule("prices", interval, grace, jitter * interval, anchor),
    st.sampled_from([60, 300, 3_600, 86_400]),
    st.floats(0, 7_200),
    st.floats(0, 0.99),
    st.sampled_from(["start", "close"]),
)
moments = st.integers(0, 4_102_444_800_000)


def test_slots_are_aligned_to_the_epoch():
    assert PRICES.slot_of(NOON + 299_999) == NOON
    assert PRICES.slot_of(NOON + 300_000) == NOON + 300_000
    assert Schedule("candles-86400", 86_400).slot_of(NOON) == NOON - 12 * 3_600_000


def test_a_price_is_due_in_its_slot_and_a_candle_after_its_close_and_grace():
    assert NOON <= PRICES.due_at(NOON) < NOON + 20_000
    assert NOON + 3_630_000 <= CANDLES.due_at(NOON) < NOON + 3_690_000
    assert Schedule("candles-300", 300, 10).due_at(NOON) == NOON + 310_000


def test_jitter_is_the_same_in_every_process_and_differs_between_slots():
    assert PRICES.due_at(NOON) == Schedule("prices", 300, 0, 20).due_at(NOON)
    assert len({PRICES.jitter_ms(NOON + i * 300_000) for i in range(50)}) > 25
    # a fixed value: a change of the hash would move every due time of a running installation
    assert PRICES.jitter_ms(NOON) == 3_332


@given(schedules, moments)
def test_newest_due_and_next_due_agree_with_due_at(schedule: Schedule, now: int):
    newest = schedule.newest_due(now)
    assert newest == schedule.slot_of(newest)
    assert schedule.due_at(newest) <= now < schedule.due_at(newest + schedule.interval_ms)
    assert schedule.next_due(now) == schedule.due_at(newest + schedule.interval_ms) > now


@given(schedules, moments)
def test_due_times_rise_strictly(schedule: Schedule, now: int):
    slot = schedule.slot_of(now)
    due = [schedule.due_at(slot + i * schedule.interval_ms) for i in range(5)]
    assert due == sorted(set(due))


@given(schedules, moments)
def test_following_next_due_visits_every_slot_once(schedule: Schedule, now: int):
    seen = []
    for _ in range(6):
        now = schedule.next_due(now)
        seen.append(schedule.newest_due(now))
    assert seen == [seen[0] + i * schedule.interval_ms for i in range(6)]


@pytest.mark.parametrize(
    "arguments",
    [("prices", 0), ("prices", 300, -1), ("prices", 300, 0, 300), ("prices", 300, 0, -1)],
)
def test_nonsense_is_refused(arguments):
    with pytest.raises(ValueError, match=r"needs interval_s|anchor"):
        Schedule(*arguments)

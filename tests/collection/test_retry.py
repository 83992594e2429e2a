from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_app.collection.retry import Backoff, Breaker, BreakerRules, abandoned, admit, failed, retry_after_s, succeeded

NOW = 1_795_521_600_000  # Tue, 24 Nov 2026 12:00:00 GMT
RULES = BreakerRules(threshold=3, open_s=60)


@given(st.integers(0, 5_000), st.floats(0, 1, exclude_max=True))
def test_backoff_stays_between_floor_and_cap(retry, draw):
    backoff = Backoff(retries=3, base_s=1, cap_s=60, floor_s=0.1)
    assert 0.1 <= backoff.delay_s(retry, draw) <= min(60, 2**retry)


def test_backoff_doubles_until_its_cap_and_is_fully_jittered():
    backoff = Backoff(base_s=1, cap_s=60, floor_s=0)
    assert [backoff.delay_s(n, 0.5) for n in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert backoff.delay_s(5, 0.0) == 0


@pytest.mark.parametrize("wrong", [{"retries": -1}, {"base_s": 0.01}, {"cap_s": 0.5}, {"floor_s": -1}])
def test_backoff_refuses_nonsense(wrong):
    with pytest.raises(ValueError, match="needs retries"):
        Backoff(**wrong)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "1.5"}, None),
        ({"retry-after": "٣"}, None),  # a digit, but not one of HTTP
        ({"retry-after": "0"}, 0),
        ({"retry-after": " 30 "}, 30),
        ({"retry-after": "9" * 400}, 600),
        ({"retry-after": "Tue, 24 Nov 2026 12:01:30 GMT"}, 90),
        ({"retry-after": "Tue, 24 Nov 2026 11:00:00 GMT"}, 0),
        ({"retry-after": "Tue, 24 Nov 2026 19:00:00 GMT"}, 600),
        ({"retry-after": "Tue, 24 Nov 2026 12:01:30"}, None),  # no zone
        # the upstream's clock is an hour slow: what counts is the difference to its own Date
        ({"retry-after": "Tue, 24 Nov 2026 11:00:45 GMT", "date": "Tue, 24 Nov 2026 11:00:00 GMT"}, 45),
        ({"retry-after": "Tue, 24 Nov 2026 12:00:45 GMT", "date": "yesterday"}, 45),
    ],
)
def test_retry_after_in_each_form(headers, expected):
    assert retry_after_s(headers, NOW, cap_s=600) == expected


def test_the_circuit_opens_at_the_threshold_and_lets_one_probe_through_later():
    state = Breaker()
    for n in range(3):
        state, wait = admit(state, RULES, NOW + n)
        assert wait is None
        state = failed(state, RULES, NOW + n)
    assert admit(state, RULES, NOW + 3)[1] == NOW + 2 + 60_000
    probing, wait = admit(state, RULES, NOW + 60_002)
    assert wait is None
    assert admit(probing, RULES, NOW + 60_003)[1] is not None, "only one probe at a time"
    assert succeeded(probing) == Breaker()
    again = failed(probing, RULES, NOW + 60_100)
    assert again.open_until == NOW + 120_100, "a failed probe opens it at once"


def test_a_success_starts_the_count_anew():
    state = failed(failed(Breaker(), RULES, NOW), RULES, NOW)
    state = failed(succeeded(state), RULES, NOW)
    assert admit(state, RULES, NOW)[1] is None


def test_a_probe_that_was_never_sent_or_never_came_back_does_not_hold_the_circuit():
    state = Breaker(3, open_until=NOW)
    probing, _ = admit(state, RULES, NOW)
    assert admit(abandoned(probing), RULES, NOW + 1)[1] is None
    assert admit(probing, RULES, NOW + 60_000)[1] is None


@given(st.lists(st.tuples(st.sampled_from(["ok", "fail", "abandon"]), st.integers(0, 90_000)), max_size=60))
def test_the_breaker_never_sends_while_open_and_never_sticks(steps):
    state, now, row = Breaker(), NOW, 0
    for what, pause in steps:
        now += pause
        state, wait = admit(state, RULES, now)
        if wait is not None:
            assert row >= RULES.threshold, "it is open only after failures in a row"
            assert now < wait <= now + 60_000
            now = wait
            state, wait = admit(state, RULES, now)
            assert wait is None, "when it said to come back it admits"
        if what == "ok":
            state, row = succeeded(state), 0
        elif what == "fail":
            state, row = failed(state, RULES, now), row + 1
        else:
            state = abandoned(state)


@pytest.mark.parametrize("wrong", [{"threshold": 0}, {"open_s": 0}])
def test_breaker_rules_refuse_nonsense(wrong):
    with pytest.raises(ValueError, match="needs threshold"):
        BreakerRules(**wrong)

"""Limits as pure arithmetic over injected time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_app.serving.limits import Policy, RateLimiter


def test_a_quiet_key_may_send_its_whole_window_at_once_and_no_more():
    limiter = RateLimiter(Policy(100, 60))
    verdicts = [limiter.take("k", 5.0) for _ in range(101)]
    assert [v.remaining for v in verdicts[:100]] == list(range(99, -1, -1))
    assert all(v.allowed and v.retry_after_s == 0 for v in verdicts[:100])
    refused = verdicts[100]
    assert (refused.allowed, refused.remaining, refused.retry_after_s, refused.reset_s) == (False, 0, 1, 60)


def test_after_retry_after_there_is_a_token_and_after_reset_all_of_them():
    limiter = RateLimiter(Policy(6, 60))
    for _ in range(6):
        limiter.take("k", 0.0)
    refused = limiter.take("k", 0.0)
    assert refused.retry_after_s == 10
    assert not limiter.take("k", 9.0).allowed
    assert limiter.take("k", 10.0).allowed
    assert not limiter.take("k", 10.0).allowed
    assert limiter.take("k", 10.0 + 60).remaining == 5, "one of six was taken by asking"


def test_a_refused_request_takes_no_token():
    limiter = RateLimiter(Policy(1, 10))
    assert limiter.take("k", 0.0).allowed
    for second in range(1, 10):
        assert not limiter.take("k", float(second)).allowed
    assert limiter.take("k", 10.0).allowed


def test_keys_do_not_share_a_bucket():
    limiter = RateLimiter(Policy(1, 60))
    assert limiter.take("a", 0.0).allowed
    assert limiter.take("b", 0.0).allowed
    assert not limiter.take("a", 0.0).allowed


@given(
    st.integers(1, 20),
    st.integers(1, 20),
    st.lists(st.floats(0, 3, allow_nan=False), min_size=1, max_size=200),
)
def test_never_more_than_a_burst_and_the_refill_in_any_stretch_of_time(requests, window_s, pauses):
    limiter = RateLimiter(Policy(requests, window_s))
    now, granted = 0.0, []
    for pause in pauses:
        now += pause
        if limiter.take("k", now).allowed:
            granted.append(now)
    for first in range(len(granted)):
        for last in range(first, len(granted)):
            stretch = granted[last] - granted[first]
            assert last - first + 1 <= requests + stretch * requests / window_s + 1e-6


@given(st.integers(1, 50), st.integers(1, 50), st.lists(st.floats(0, 5, allow_nan=False), max_size=100))
def test_a_waiting_client_that_obeys_retry_after_is_served(requests, window_s, pauses):
    limiter = RateLimiter(Policy(requests, window_s))
    now = 0.0
    for pause in pauses:
        now += pause
        verdict = limiter.take("k", now)
        if not verdict.allowed:
            assert verdict.retry_after_s >= 1
            now += verdict.retry_after_s
            assert limiter.take("k", now).allowed


def test_memory_is_bounded_and_full_buckets_go_first():
    limiter = RateLimiter(Policy(10, 10), max_keys=100)
    for number in range(100):
        limiter.take(f"old{number}", 0.0)
    for _ in range(10):
        limiter.take("busy", 5.0)
    assert len(limiter) == 1  # the old ones were full again
    for number in range(1_000):
        limiter.take(f"new{number}", 5.0)
    assert len(limiter) == 100


@pytest.mark.parametrize(("requests", "window_s"), [(0, 60), (-1, 60), (1, 0)])
def test_a_limit_that_allows_nothing_is_refused(requests, window_s):
    with pytest.raises(ValueError, match="allows nothing"):
        Policy(requests, window_s)

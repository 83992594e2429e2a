"""When to try again, and when to stop trying: backoff and circuit breaker as pure functions of (state, now).

Nothing here sleeps, draws random numbers or reads a clock: the caller hands in a number in [0, 1) and the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime

from ray_app.clock import to_ms


@dataclass(frozen=True, slots=True)
class Backoff:
    """Capped exponential backoff with full jitter.

    ``retries`` tries follow the first. The wait before retry ``n`` (from 0) is drawn evenly from
    ``[floor_s, min(cap_s, base_s · 2ⁿ)]`` node seconds. Full jitter keeps clients that failed together from
    coming back together (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/); the floor keeps
    a lucky draw from hammering an upstream that is down.
    """

    retries: int = 3
    base_s: float = 1.0
    cap_s: float = 60.0
    floor_s: float = 0.1

    def __post_init__(self) -> None:
        if self.retries < 0 or not 0 <= self.floor_s <= self.base_s <= self.cap_s:
            raise ValueError(f"{self}: needs retries >= 0 and 0 <= floor_s <= base_s <= cap_s")

    def delay_s(self, retry: int, draw: float) -> float:
        """Node seconds to wait before retry number ``retry`` (from 0); ``draw`` is uniform in [0, 1)."""
        # beyond 2**40 any base is capped; the exponent is bounded so that no float overflows
        ceiling = min(self.cap_s, self.base_s * 2.0 ** min(retry, 40))
        return self.floor_s + (ceiling - self.floor_s) * draw


def retry_after_s(headers: Mapping[str, str], now_ms: int, cap_s: float) -> float | None:
    """Seconds an answer asks us to wait (RFC 9110 §10.2.3), at most ``cap_s``; None: it does not say.

    ``headers`` have lower-case names. A date is taken against the answer's own ``Date`` where it has one, so that a
    difference between the upstream's clock and ours does not matter. Unreadable and negative values: None and 0.
    """
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    if value.isascii() and value.isdigit():
        return min(float(value[:18]), cap_s)
    until_ms = _http_date_ms(value)
    if until_ms is None:
        return None
    base_ms = _http_date_ms(headers.get("date", ""))
    return min(max((until_ms - (now_ms if base_ms is None else base_ms)) / 1_000, 0.0), cap_s)


def _http_date_ms(value: str) -> int | None:
    try:
        return to_ms(parsedate_to_datetime(value))
    except (ValueError, OverflowError):  # not a date, or one without a zone
        return None


@dataclass(frozen=True, slots=True)
class BreakerRules:
    """After ``threshold`` failures in a row nothing is sent for ``open_s`` node seconds; then one probe is."""

    threshold: int = 5
    open_s: float = 60.0

    def __post_init__(self) -> None:
        if self.threshold < 1 or self.open_s <= 0:
            raise ValueError(f"{self}: needs threshold >= 1 and open_s > 0")


@dataclass(frozen=True, slots=True)
class Breaker:
    """State of a circuit breaker.

    ``failures`` in a row; ``open_until`` ms (None: closed); ``probe_until`` ms: a probe is under way and no other
    request goes out before then (its lease: a caller that dies with the probe must not hold the circuit for ever).
    """

    failures: int = 0
    open_until: int | None = None
    probe_until: int | None = None


def admit(state: Breaker, rules: BreakerRules, now_ms: int) -> tuple[Breaker, int | None]:
    """May a request go out? ``(new state, None)`` if so, else ``(state, ms when to ask again)``."""
    if state.open_until is None:
        return state, None
    if now_ms < state.open_until:
        return state, state.open_until
    if state.probe_until is not None and now_ms < state.probe_until:
        return state, state.probe_until
    return replace(state, probe_until=now_ms + round(rules.open_s * 1_000)), None


def succeeded(_state: Breaker) -> Breaker:
    """An answer that is not a failure closes the circuit."""
    return Breaker()


def failed(state: Breaker, rules: BreakerRules, now_ms: int) -> Breaker:
    """A failure: opens the circuit at the threshold; a failed probe opens it again at once."""
    failures = state.failures + 1
    if failures < rules.threshold and state.open_until is None:
        return Breaker(failures)
    return Breaker(failures, open_until=now_ms + round(rules.open_s * 1_000))


def abandoned(state: Breaker) -> Breaker:
    """The admitted request was never sent (no budget, cancelled): if it was the probe, another may go."""
    return replace(state, probe_until=None)

"""How often a key may ask.

Pure: time is an argument (seconds of any steady clock; the gateway uses the machine's monotonic one, because limits
protect this process and do not follow scaled node time). One replica counts for itself: with N replicas a key gets up
to N times its limit.

A key has a bucket of ``requests`` tokens that fills at ``requests / window_s`` a second: a quiet key may send its whole
window at once (the burst), and over any window never more than ``2 × requests``. The bucket is kept as one number, the
moment at which it would be full again (GCRA).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """``requests`` per ``window_s`` seconds."""

    requests: int
    window_s: int

    def __post_init__(self) -> None:
        if self.requests < 1 or self.window_s < 1:
            raise ValueError(f"a limit of {self.requests} requests in {self.window_s} s allows nothing")


class Verdict:
    """What one request got. ``remaining`` tokens are left; the bucket is full again in ``reset_s``.

    ``retry_after_s`` is 0 for an allowed request, else the seconds (at least 1) until there is a token.
    """

    __slots__ = ("allowed", "remaining", "reset_s", "retry_after_s")

    def __init__(self, allowed: bool, remaining: int, reset_s: int, retry_after_s: int) -> None:
        self.allowed = allowed
        self.remaining = remaining
        self.reset_s = reset_s
        self.retry_after_s = retry_after_s

    def __repr__(self) -> str:
        return f"Verdict({self.allowed}, {self.remaining}, reset {self.reset_s} s, retry {self.retry_after_s} s)"


class RateLimiter:
    """One bucket per key, in bounded memory.

    Buckets that are full again are forgotten (a fresh bucket is full too, so nothing is lost by it); with more than
    ``max_keys`` busy ones the one that has been quiet longest goes first.
    """

    def __init__(self, policy: Policy, max_keys: int = 10_000) -> None:
        self.policy = policy
        self._interval = policy.window_s / policy.requests
        self._full_at: OrderedDict[str, float] = OrderedDict()
        self._max_keys = max_keys

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: str, now: float) -> Verdict:
        """Take one token of ``key`` at ``now``; a refused request takes none."""
        full_at = self._full_at.get(key, now)
        full_at = max(full_at, now)
        after = full_at + self._interval
        wait = after - now - self.policy.window_s
        if wait > 1e-9:
            return Verdict(False, 0, _up(full_at - now), max(1, _up(wait)))
        self._full_at[key] = after
        self._full_at.move_to_end(key)
        if len(self._full_at) > self._max_keys:
            self._shrink(now)
        remaining = int((self.policy.window_s - (after - now)) / self._interval + 1e-9)
        return Verdict(True, remaining, _up(after - now), 0)

    def _shrink(self, now: float) -> None:
        for key in [key for key, full_at in self._full_at.items() if full_at <= now]:
            del self._full_at[key]
        while len(self._full_at) > self._max_keys:
            self._full_at.popitem(last=False)


def _up(seconds: float) -> int:
    """Whole seconds, rounded up."""
    whole = int(seconds)
    return whole + 1 if seconds - whole > 1e-9 else whole

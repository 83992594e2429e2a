"""When to start, restart and kill a supervised process: a pure state machine over (what was seen, now).

Times are wall seconds of a monotonic clock: this is about processes being alive, which scaled time does not change.
"""

from __future__ import annotations

from dataclasses import dataclass

#: pause before the second start in a row, doubled for each further one
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
#: a child that has lived this long has earned a clean record
PROVEN_S = 120.0
#: unanswered questions in a row after which a child counts as hung
PATIENCE = 3


@dataclass(slots=True)
class Watch:
    """The supervision of one child."""

    starts: int = 0  # in a row, without a proven life between them
    started_at: float | None = None  # None: does not run
    not_before: float = 0.0
    unanswered: int = 0
    last_problem: str | None = None

    def may_start(self, now: float) -> bool:
        """Whether the child should be started now."""
        return self.started_at is None and now >= self.not_before

    def started(self, now: float) -> None:
        """The child was started."""
        self.started_at, self.unanswered = now, 0
        self.starts += 1

    def answered(self, now: float) -> None:
        """The child says that it works."""
        self.unanswered = 0
        if self.started_at is not None and now - self.started_at >= PROVEN_S:
            self.starts = 0

    def silent(self) -> bool:
        """A question was not answered in time; True where the child counts as hung by now."""
        self.unanswered += 1
        return self.unanswered >= PATIENCE

    def ended(self, now: float, problem: str) -> None:
        """The child is gone (or was killed): when it may start again depends on how often that has happened."""
        self.started_at = None
        self.last_problem = problem
        self.not_before = now + (pause_s(self.starts) if self.starts else 0.0)


def pause_s(starts: int) -> float:
    """The pause after ``starts`` (≥ 1) starts in a row: 0 after the first, then 1, 2, 4 … :data:`LONGEST_PAUSE_S`."""
    return 0.0 if starts <= 1 else min(FIRST_PAUSE_S * 2.0 ** min(starts - 2, 30), LONGEST_PAUSE_S)

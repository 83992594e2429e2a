"""What a comparison found."""

from __future__ import annotations

from dataclasses import dataclass, field

from ray_app.collection.manifest import Root


@dataclass
class Day:
    """What became of a day (yyyymmdd). ``recorded``: None where the day has no manifest (yet)."""

    day: int
    found: Root
    recorded: Root | None
    settled: bool

    def __str__(self) -> str:
        text = f"{written(self.day)}  {self.found.answers} answers, {self.found.payload_bytes} bytes  {self.found.root}"
        if self.recorded is not None:
            return f"{text}  {'as recorded' if self.recorded == self.found else 'NOT AS RECORDED'}"
        return f"{text}  {'not recorded yet: a running node does it' if self.settled else 'not over yet'}"


@dataclass
class Verified:
    """What was compared, and what was wrong: at most ``limit`` problems are kept, all are counted.

    ``stored``: rows by table, but for those whose payload was deleted after its retention; ``found``: how many of them
    are what the payload they name says. ``purged``: answers that were so deleted.
    """

    limit: int = 20
    days: list[Day] = field(default_factory=list)
    answers: int = 0
    purged: int = 0
    stored: dict[str, int] = field(default_factory=dict)
    found: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    problem_count: int = 0

    @property
    def ok(self) -> bool:
        """Every stored value was found, and every day is as recorded."""
        return self.problem_count == 0

    def problem(self, text: str) -> None:
        """Note what is wrong."""
        self.problem_count += 1
        if len(self.problems) < self.limit:
            self.problems.append(text)

    def __str__(self) -> str:
        per_table = ", ".join(f"{name} {self.found[name]} of {total}" for name, total in sorted(self.stored.items()))
        gone = f", {self.purged} deleted after their retention" if self.purged else ""
        return f"{self.answers} archived answers{gone}; rows found in the payload they name: {per_table}"


def written(day: int) -> str:
    """A day, yyyymmdd, as people write it."""
    return f"{day // 10_000:04}-{day // 100 % 100:02}-{day % 100:02}"

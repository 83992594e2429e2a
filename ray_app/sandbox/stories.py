"""Made-up news for the simulated feeds: streams of articles, each a function of its stream and number.

A stream has one article per step of time, at a moment of its own within the step: the number of articles between two
moments is arithmetic, and an article of the past is the same whenever it is asked for. Every title says that it is
made up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ray_app.clock import MINUTE_MS
from ray_app.sandbox.answers import World
from ray_app.sandbox.rng import key_of, unit_of

_CRYPTO = (
    "{a} {moves} {n}% as traders eye {b}",
    "{a} {moves} above ${n},000, analysts split",
    "Developers of {a} delay upgrade by {n} weeks",
    "{a} and {b} lead {n}-day inflows into funds",
    "Exchange lists {a}, suspends deposits of {b} for {n} hours",
    "Lawmakers question {n} issuers over {a} reserves",
    "{a} network halts for {n} minutes & recovers",
    "Report: {n}% of {a} holders have not sold in a year",
)
_STOCK = (
    "Stocks {moves} {n}% as yields steady",
    "Retailer cuts outlook for quarter {n}, shares slip",
    "Chip makers {moves} {n}% after earnings",
    "Central bank holds rates; {n} members dissent",
    "Oil {moves} {n}% on supply report",
    "Bank sets aside ${n} billion & shares fall",
)
_MOVES = ("rises", "falls", "climbs", "slips", "jumps", "drops")
_AUTHORS = ("A. Sandbox", "B. Sandbox", "C. Sandbox", None)
_TOPICS = ("Markets", "Technology", "Policy", "Business", None)


@dataclass(frozen=True, slots=True)
class Story:
    """What an article tells; ``summary`` is HTML."""

    key: int
    title: str
    summary: str
    author: str | None
    topic: str | None


def moment_of(world: World, stream: str, step_ms: int, number: int) -> int:
    """When article ``number`` of a stream is published, ms; whole seconds."""
    at = number * step_ms + int(unit_of(world.seed, "story", stream, number, "at") * step_ms)
    return at // 1_000 * 1_000


def latest(world: World, stream: str, step_ms: int, now_ms: int) -> int:
    """The number of the last article published by ``now_ms``."""
    number = now_ms // step_ms
    return number if moment_of(world, stream, step_ms, number) <= now_ms else number - 1


def story_of(world: World, stream: str, number: int, *, stock: bool = False) -> Story:
    """The story of article ``number`` of a stream."""
    here = (world.seed, "story", stream, number)
    templates = _STOCK if stock else _CRYPTO
    assets = world.market.assets
    first, second = (assets[int(len(assets) * unit_of(*here, which) ** 3)].name for which in ("a", "b"))
    filled = templates[int(len(templates) * unit_of(*here, "template"))].format(
        a=first,
        b=second,
        n=1 + int(97 * unit_of(*here, "n")),
        moves=_MOVES[int(len(_MOVES) * unit_of(*here, "moves"))],
    )
    return Story(
        key_of(*here),
        f"[sandbox] {filled}",
        f"<p>Made up by the sandbox: <b>{filled.replace('&', '&amp;')}</b>&nbsp;(no. {number}).</p>",
        _AUTHORS[int(len(_AUTHORS) * unit_of(*here, "author"))],
        _TOPICS[int(len(_TOPICS) * unit_of(*here, "topic"))],
    )


def slug_of(story: Story) -> str:
    """Its part of an address."""
    words = re.findall(r"[a-z0-9]+", story.title.lower())[1:9]
    return f"{'-'.join(words)}-{story.key % 10**8:08d}"


#: stories that several feeds reprint
SHARED = "shared"
SHARED_STEP_MS = 20 * MINUTE_MS

"""What a source collector polls, as data: feeds, each with its own interval, and how far back an answer reaches.

A **feed** is one question asked again and again: a FRED series, an RSS feed, the open interest of one instrument. Its
slots are owed like those of prices; a slot is stored when a complete answer covers it (``collection_polls``).

``reach`` says which earlier slots an answer covers besides its own:

* ``snapshot``: none. What was the case then cannot be asked for later; a missed slot is beyond repair at once.
* ``window``: those back to the oldest item of the answer. A feed shows its last items, a gap longer than that is lost.
* ``history``: all since what is stored. The request names its range, and the next one repairs what was missed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ray_app.collection.budget_rules import Priority
from ray_app.sources.base import Request

Reach = Literal["snapshot", "window", "history"]


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request is to cover: from ``since`` (ms; what is stored ends there) up to ``now``."""

    since: int
    now: int


@dataclass(frozen=True, slots=True)
class Feed:
    """One question of a dataset.

    ``subject``: its name, unique in the dataset; what gaps and reports show. ``account``: whose budget it spends.
    ``ask``: the request, a pure function. ``history_s``: how far back the very first request goes. ``overlap_s``: how
    far before what is stored each request begins (late corrections). ``pages``: the most pages of one poll.
    ``grace_s``: how long after a slot's start it is asked for. ``instead``: what to ask where the upstream refuses, by
    its reason (None: nothing). ``priority``: whose turn it is where a month's credits are short.
    """

    subject: str
    account: str
    interval_s: int
    reach: Reach
    ask: Callable[[Ask], Request]
    history_s: int = 0
    overlap_s: int = 0
    pages: int = 1
    grace_s: float = 0.0
    instead: Callable[[Ask, str], Request | None] | None = None
    priority: Priority = Priority.REST


def subject_id(dataset: str, subject: str) -> int:
    """The number of a subject, 31 bits of a hash of its name: the same on every machine and after every rebuild."""
    digest = hashlib.sha256(f"{dataset}/{subject}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1

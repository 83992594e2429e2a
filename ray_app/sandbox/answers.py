"""What a simulated endpoint is: a name, a path, and a pure function from (question, market) to an answer."""

from __future__ import annotations

import hashlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import orjson

from ray_app.assets import Asset, AssetRegistry
from ray_app.clock import MINUTE_MS, from_ms
from ray_app.sandbox.market import Lru, Market


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, a body and the headers beside Content-Type, Content-Length and Date."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json; charset=utf-8"


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """``value`` as JSON; NaN becomes null."""
    return Answer(status, orjson.dumps(value), headers or {})


def tagged(answer: Answer, if_none_match: str | None) -> Answer:
    """The answer with a weak ETag of its body, or 304 without body if the client has it already."""
    tag = f'W/"{hashlib.md5(answer.body, usedforsecurity=False).hexdigest()}"'
    headers = {**answer.headers, "etag": tag}
    if if_none_match is not None and tag.removeprefix("W/") in {
        item.strip().removeprefix("W/") for item in if_none_match.split(",")
    }:
        return Answer(304, b"", headers, answer.content_type)
    return Answer(answer.status, answer.body, headers, answer.content_type)


class Rejection(Exception):
    """An endpoint refuses a question; ``answer`` is how."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


@dataclass(frozen=True, slots=True)
class World:
    """What endpoints answer from: one market, one registry; and what of texts and macro series is replayed.

    ``seed``: of everything that is generated. ``replay_text``: a CSV of real texts; ``replay_macro``: a folder of CSVs
    of real series (None: generated). ``first_node_ms``: the epoch's first node time, to which
    real series and texts are moved (None: they are not).
    """

    market: Market
    registry: AssetRegistry
    seed: int = 0
    replay_text: Path | None = None
    replay_macro: Path | None = None
    first_node_ms: int | None = None
    _listed: Lru[int, tuple[Asset, ...]] = field(default_factory=lambda: Lru(4), repr=False)

    def listed(self, now_ms: int) -> tuple[Asset, ...]:
        """The assets that upstreams list at a time (to the minute), by rank."""
        if self.market.kind == "replay":
            return self.market.assets
        minute = now_ms // MINUTE_MS * MINUTE_MS
        return self._listed.get(
            minute, lambda: tuple(a for a in self.registry.active(minute) if a.asset_id in self.market.row_of)
        )


@dataclass(frozen=True, slots=True)
class Question:
    """One request: node time, what the path's placeholder stands for, query parameters, If-None-Match.

    ``calls``: how many with its paid key came this month, itself included; None: it has none.
    """

    now_ms: int
    subject: str
    params: Mapping[str, str]
    if_none_match: str | None = None
    calls: int | None = None


class SimulatedEndpoint(ABC):
    """One endpoint of one upstream."""

    #: the account whose budget a call spends: coingecko, coinbase or coinbase-v2
    source: ClassVar[str]
    #: as in ``ray_app.sources``, without the source: markets, candles, …
    name: ClassVar[str]
    #: path under the source's base; its only group is the subject
    pattern: ClassVar[re.Pattern[str]]
    methods: ClassVar[frozenset[str]] = frozenset({"GET", "HEAD"})

    @abstractmethod
    def answer(self, question: Question, world: World) -> Answer:
        """The answer; raises Rejection where the upstream would refuse."""


def digits(text: str) -> bool:
    """Whether the text is a whole number in ASCII digits; what ``str.isdigit`` takes besides, ``int`` may not read."""
    return text.isascii() and text.isdigit()


def number(value: float) -> float | None:
    """A JSON number, or None for NaN."""
    return None if math.isnan(value) else float(value)


def iso_millis(ms: int) -> str:
    """``2026-11-24T08:00:00.000Z``: how CoinGecko writes times."""
    return from_ms(ms).strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1_000:03d}Z"


def decimal_text(value: float, digits: int = 16) -> str:
    """A positional decimal with ``digits`` significant digits and no exponent: how Coinbase writes amounts."""
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text

"""Who scores the texts of requests, and how many may wait for it at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from ray_app.errors import ScorerBusy
from ray_app.sentiment.analysis import Analysis

#: seconds until another try, where nobody knows better
RETRY_S: Final = 5
#: requests of a gateway that wait for scores: HAProxy lets 32 in (node/haproxy.py), and prices must not queue for these
AT_ONCE: Final = 24
#: wall seconds for an answer; starting a replica takes some
DEADLINE_S: Final = 60.0


class Analyst(Protocol):
    """Scores texts."""

    async def analyze(self, texts: Sequence[str], domain: str) -> Analysis:
        """What the models of the domain (crypto, stock) say of each text. ScorerBusy: not now."""


class Away:
    """Nobody: a gateway without the application ``sentiment``."""

    async def analyze(self, texts: Sequence[str], domain: str) -> Analysis:  # noqa: ARG002
        """ScorerBusy."""
        raise ScorerBusy("no application that scores texts runs beside this gateway", RETRY_S)


class Bounded:
    """An analyst that is asked so many things at once, and given so long; ScorerBusy beyond."""

    def __init__(self, analyst: Analyst, at_once: int = AT_ONCE, deadline_s: float = DEADLINE_S) -> None:
        self._analyst = analyst
        self._at_once = at_once
        self._deadline_s = deadline_s
        self._waiting = 0

    async def analyze(self, texts: Sequence[str], domain: str) -> Analysis:
        """What the analyst says."""
        if self._waiting >= self._at_once:
            raise ScorerBusy("too many wait to have texts scored", RETRY_S)
        self._waiting += 1
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._analyst.analyze(texts, domain)
        except TimeoutError as error:
            raise ScorerBusy(f"texts were not scored within {self._deadline_s:.0f} s", RETRY_S) from error
        finally:
            self._waiting -= 1

"""News events as the stream's clients see them: under the names of GET /api/v1/news, within the publishers' terms."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Self

import orjson

from ray_app.clock import iso
from ray_app.collection.event_bus import Event
from ray_app.collection.price_events import UnreadableEvent
from ray_app.serving.keys import Level
from ray_app.serving.licensing import shown, withheld
from ray_app.storage import news_queries

log = logging.getLogger(__name__)

#: what a client may choose with ``channels``
MARKETS: Final = tuple(news_queries.MARKETS)
#: what a key gets none of where terms forbid to pass it on
TEXTS: Final = ("title", "summary", "author")


@dataclass(slots=True)
class NewsEvent:
    """One article, with its place in the outbox. ``assets``: ids of those it mentions."""

    seq: int
    assets: tuple[int, ...]
    market: str
    article: dict[str, Any]
    _texts: dict[str | None, str] = field(default_factory=dict, repr=False, compare=False)

    def row(self, level: Level) -> dict[str, Any]:
        """The article as a key of this level may see it."""
        return shown(self.article, TEXTS, withheld(level, self.article["source"]))

    def text(self, level: Level) -> str:
        """The message; the same object for all keys that may see the same."""
        reason = withheld(level, self.article["source"])
        text = self._texts.get(reason)
        if text is None:
            message = {"type": "news", "seq": self.seq} | shown(self.article, TEXTS, reason)
            text = self._texts[reason] = orjson.dumps(message).decode()
        return text

    @classmethod
    def parse(cls, seq: int, body: bytes) -> Self:
        """From the body of an outbox event; UnreadableEvent if it is none."""
        try:
            said = orjson.loads(body)
            mentions = said["mentions"]
            article = said | {
                "mentions": [{name: one[name] for name in ("symbol", "coin_id", "term")} for one in mentions],
                "published_at": iso(said["published_at"]) if said["published_at"] is not None else None,
                "known_at": iso(said["known_at"]),
                "text_known_at": iso(said["text_known_at"]),
                "source": str(said["source"]),
            }
            return cls(seq, tuple(int(one["asset_id"]) for one in mentions), str(said["market"]), article)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise UnreadableEvent(f"event {seq} is no article: {error!r}") from error


class LatestNews:
    """The newest articles, as of one event of the outbox, oldest first."""

    KEPT: ClassVar[int] = 100

    def __init__(self, events: Iterable[NewsEvent] = ()) -> None:
        self._events = deque(events, maxlen=self.KEPT)

    @classmethod
    def read(cls, events: Iterable[Event]) -> Self:
        """From the outbox; what cannot be read there is left out."""
        found = []
        for seq, body in events:
            try:
                found.append(NewsEvent.parse(seq, body))
            except UnreadableEvent as error:
                log.error("news stream: %s", error)  # noqa: TRY400 - the message says it all
        return cls(found)

    def apply(self, event: NewsEvent) -> None:
        """Take an event in."""
        self._events.append(event)

    def of(self, assets: Collection[int]) -> list[NewsEvent]:
        """Those that mention one of them."""
        wanted = set(assets)
        return [event for event in self._events if wanted.intersection(event.assets)]

    def all(self) -> list[NewsEvent]:
        """All of them."""
        return list(self._events)

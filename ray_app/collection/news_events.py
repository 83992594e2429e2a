"""News events: one per article that the node had not seen before, in the transaction that stores it.

An event is no bulletin of the past: what was published more than :data:`FRESH_MS` before the node saw it (the history
that a first poll brings) makes none. A later edition of an article makes none either. ``reprint`` says that another
article told the same story before it (storage/news_queries.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import orjson
from sqlalchemy import Connection

from ray_app.assets import AssetRegistry
from ray_app.clock import DAY_MS
from ray_app.storage import news_queries

NEWS_CHANNEL: Final = "news"
#: ms between publication and first sight above which an article is history
FRESH_MS: Final = DAY_MS
#: how long events are kept, node ms: no longer than the strictest of the publishers' terms lets a text be kept
EVENTS_KEPT_MS: Final = DAY_MS
#: how much of an article's text an event holds
TEASER: Final = 300
_SHOWN: Final = ("title", "summary", "url", "author", "category", "language", "feed")


def teaser(summary: str | None, longest: int = TEASER) -> str | None:
    """The beginning of a text, at most ``longest`` characters."""
    if summary is None or len(summary) <= longest:
        return summary
    return summary[: longest - 1].rstrip() + "…"


class Rows(Protocol):
    """What is told of: the rows of an answer by table."""

    @property
    def rows(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """By table name."""


def unseen(conn: Connection, found: Iterable[Rows]) -> dict[str, set[str]]:
    """Per market: the articles of these answers that the node has no row of yet. Call before they are written."""
    answers = list(found)
    new: dict[str, set[str]] = {}
    for market, table in news_queries.MARKETS.items():
        ids = {row["content_id"] for answer in answers for row in answer.rows.get(table.name, ())}
        if ids:
            new[market] = ids - news_queries.known(conn, market, sorted(ids))
    return {market: ids for market, ids in new.items() if ids}


def news_events(conn: Connection, new: Mapping[str, Collection[str]], registry: AssetRegistry) -> list[bytes]:
    """Events of the articles ``new`` by market, which were just written; in order of publication."""
    told: list[tuple[int, str, dict[str, Any]]] = []
    for market, ids in new.items():
        rows = news_queries.rows_of(conn, market, sorted(ids))
        fresh = [row for row in rows if row["known_at"] - (row["published_at"] or row["known_at"]) <= FRESH_MS]
        fresh_ids = [row["content_id"] for row in fresh]
        mentions = news_queries.mentions(conn, fresh_ids)
        reprints = news_queries.retold(conn, market, fresh_ids)
        for row in fresh:
            said = _body(market, row, mentions.get(row["content_id"], []), row["content_id"] in reprints, registry)
            told.append((row["published_at"] or row["known_at"], row["content_id"], said))
    return [orjson.dumps(body) for _, _, body in sorted(told, key=lambda one: one[:2])]


def _body(
    market: str, row: Mapping[str, Any], mentions: Iterable[Mapping[str, Any]], reprint: bool, registry: AssetRegistry
) -> dict[str, Any]:
    assets = [(registry.by_id(one["asset_id"]), one["term"]) for one in mentions]
    return {
        "market": market,
        "id": row["content_id"],
        **{name: row[name] for name in _SHOWN},
        "summary": teaser(row["summary"]),
        "story_id": row["story_id"],
        "reprint": reprint,
        "mentions": [
            {"asset_id": asset.asset_id, "symbol": asset.symbol, "coin_id": asset.coin_id, "term": term}
            for asset, term in assets
            if asset is not None
        ],
        "published_at": row["published_at"],
        "known_at": row["known_at"],
        "text_known_at": row["known_at"],  # the first edition: later ones make no event
        "source": row["source"],
    }

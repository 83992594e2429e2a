"""A few aggregated hours, and the score of an article, as the batch job leaves them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert, select

from ray_app.clock import HOUR_MS
from ray_app.editions import edition_of
from ray_app.sentiment.aggregate import VALUES
from ray_app.storage.tables import crypto_news, text_scores
from tests.serving.gateway_world import BTC, NOW, World
from tests.serving.source_world import put

DAY_S = 86_400


def window(
    scope: str,
    asset_id: int,
    score: float | None = 0.25,
    volume: int = 4,
    *,
    model: str = "ensemble",
    source: str = "all",
    end: int = NOW,
    width: int = DAY_S,
    known_at: int | None = None,
) -> dict[str, Any]:
    """A row of sentiment_aggregation; without texts every value is NULL."""
    known = end - 55_000 if known_at is None else known_at
    row: dict[str, Any] = dict.fromkeys(VALUES)
    if volume:
        row |= {"avg_sentiment": score, "weighted_sentiment": score, "avg_confidence": 0.75}
        row |= {"sentiment_positive": 0.5, "sentiment_neutral": 0.25, "sentiment_negative": 0.25}
        row |= {"sentiment_dispersion": 0.125}
    return row | {
        "scope": scope,
        "asset_id": asset_id,
        "model": model,
        "source": source,
        "window_s": width,
        "window_end": end,
        "sentiment_volume": volume,
        "known_at": known,
        "rules_version": 1,
        "computed_at": known,
        "values_hash": "0" * 64,
    }


def add_sentiment(world: World) -> World:
    """Three hours of the markets, two of Bitcoin's; the lexicon has scored the article that mentions it."""
    hours = [NOW - n * HOUR_MS for n in range(3)]
    put(world, "sentiment_aggregation", *[window("crypto", 0, 0.125, 9, end=end) for end in hours])
    put(
        world,
        "sentiment_aggregation",
        window("stock", 0, 0.0, 2),
        window("stock", 0, volume=0, model="finbert"),
        window("asset", BTC.asset_id),
        window("asset", BTC.asset_id, model="lexicon"),
        window("asset", BTC.asset_id, 0.5, 3, source="news"),
        window("asset", BTC.asset_id, -0.5, 1, source="reddit"),
        window("asset", BTC.asset_id, 0.05, 2, end=NOW - HOUR_MS),
    )
    score_article(world, "Bitcoin ETFs see record inflows")
    return world


def score_article(world: World, title: str) -> None:
    """The lexicon finds it good, a minute after it was there."""
    with world.db.read() as conn:
        query = select(crypto_news).where(crypto_news.c.title == title)
        article = dict(conn.execute(query).mappings().one())
    edition = edition_of(article["title"], article["summary"])
    part = {
        "content_id": article["content_id"],
        "edition": edition,
        "asset_id": BTC.asset_id,
        "text_hash": edition,
        "kind": "crypto_news",
        "spans": None,
        **{
            name: article[name]
            for name in ("known_at", "event_version", "fetched_at", "parser_version", "payload_hash")
        },
    }
    put(world, "text_parts", part)
    score = {
        "text_hash": edition,
        "model": "lexicon",
        "revision": "1-abc",
        "score": 0.5,
        "p_negative": 0.125,
        "p_neutral": 0.25,
        "p_positive": 0.625,
        "reason": None,
        "known_at": article["known_at"] + 60_000,
        "run_id": "run-1",
    }
    world.db.run(lambda conn: conn.execute(insert(text_scores), [score]))

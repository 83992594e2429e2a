"""Stored sentiment: the newest window of an asset or a market, as known at a moment; nothing where nobody spoke."""

from __future__ import annotations

from typing import Any

import pytest

from ray_app.clock import HOUR_MS, iso
from ray_app.sentiment.aggregate import VALUES
from ray_app.serving.keys import Level
from tests.serving.gateway_world import NOW, World, market
from tests.serving.sentiment_world import add_sentiment, window
from tests.serving.source_world import get, news, put
from tests.serving.test_api import problem

END = NOW
BITCOIN = "/sentiment/crypto/BTC"


@pytest.fixture
def world(sqlite_db) -> World:
    return add_sentiment(news(market(sqlite_db)))


async def refused(world: World, path: str, **params: Any):
    async with world.client(Level.readonly) as client:
        return await client.get(f"/api/v1{path}", params=params)


async def test_the_newest_window_of_an_asset(world):
    body = await get(world, BITCOIN)
    assert (body["symbol"], body["timeframe"], body["window_end"]) == ("BTC", "24h", iso(END))
    assert body["overall_sentiment"] == {"score": 0.25, "label": "positive", "confidence": 0.75, "reason": None}
    assert body["sample_size"] == 4
    assert body["statistics"].keys() == VALUES.keys() - {"avg_sentiment", "sentiment_volume"}
    assert body["statistics"]["sentiment_positive"] == 0.5
    assert body["breakdown"] == {
        "news": {"score": 0.5, "label": "positive", "confidence": 0.75, "sample_size": 3},
        "reddit": {"score": -0.5, "label": "negative", "confidence": 0.75, "sample_size": 1},
    }
    assert body["models"]["lexicon"]["score"] == 0.25
    assert body["as_of"] == iso(END - 55_000)
    assert body["quality"] == "complete"


async def test_history_has_every_hour_that_was_aggregated_also_those_in_which_nobody_spoke(world):
    history = (await get(world, BITCOIN))["history"]
    assert history == [
        {"window_end": iso(END - 2 * HOUR_MS), "score": None, "sample_size": 0},
        {"window_end": iso(END - HOUR_MS), "score": 0.05, "sample_size": 2},
        {"window_end": iso(END), "score": 0.25, "sample_size": 4},
    ]
    assert len((await get(world, BITCOIN, limit=1))["history"]) == 1


async def test_an_asset_nobody_speaks_of_has_no_score_and_says_so(world):
    body = await get(world, "/sentiment/crypto/novenue")
    assert body["overall_sentiment"] == {
        "score": None,
        "label": None,
        "confidence": None,
        "reason": "no text of the window has a score",
    }
    assert (body["sample_size"], body["breakdown"], body["models"], body["quality"]) == (0, {}, {}, "no texts")
    assert all(value is None for value in body["statistics"].values())


async def test_sources_are_put_together_by_their_numbers_of_texts(world):
    one = await get(world, BITCOIN, sources="reddit")
    assert (one["overall_sentiment"]["score"], one["sample_size"]) == (-0.5, 1)
    assert one["overall_sentiment"]["label"] == "negative"
    assert list(one["breakdown"]) == ["reddit"]
    both = await get(world, BITCOIN, sources="news, reddit")
    assert (both["overall_sentiment"]["score"], both["sample_size"]) == (0.25, 4)
    assert both["statistics"]["sentiment_dispersion"] is None, "only of all together is it stored"
    problem(await refused(world, BITCOIN, sources="telegram"), 422, "VALIDATION_ERROR")


async def test_as_of_answers_with_nothing_that_came_later(world):
    body = await get(world, BITCOIN, as_of=iso(END - HOUR_MS // 2))
    assert body["window_end"] == iso(END - HOUR_MS)
    assert (body["overall_sentiment"]["score"], body["overall_sentiment"]["label"]) == (0.05, "neutral")
    assert body["as_known_at"] == iso(END - HOUR_MS // 2)
    assert body["latest"] == []
    before = await refused(world, BITCOIN, as_of=iso(END - 10 * HOUR_MS))
    problem(before, 404, "DATA_NOT_AVAILABLE")


async def test_a_window_that_became_known_late_is_not_known_before(world):
    later = END - HOUR_MS
    put(world, "sentiment_aggregation", window("crypto", 0, end=later, width=3_600, known_at=NOW - 1_000))
    problem(await refused(world, BITCOIN, timeframe="1h", as_of=iso(NOW - 2_000)), 404, "DATA_NOT_AVAILABLE")
    assert (await get(world, BITCOIN, timeframe="1h"))["window_end"] == iso(later)


async def test_the_latest_articles_with_what_is_said_of_the_asset(world):
    (latest,) = (await get(world, BITCOIN))["latest"]
    assert latest["title"] == "Bitcoin ETFs see record inflows"
    assert (latest["score"], latest["label"], latest["members"]) == (pytest.approx(0.425), "positive", ["lexicon"])
    assert (await get(world, "/sentiment/crypto/ETH"))["latest"] == [], "it has no score yet"


async def test_markets(world):
    body = await get(world, "/sentiment/crypto/market")
    assert (body["symbol"], body["market"], body["sample_size"]) == (None, "crypto", 9)
    stocks = await get(world, "/sentiment/stock/market")
    assert (stocks["market"], stocks["overall_sentiment"]["label"]) == ("stock", "neutral")
    assert stocks["models"]["finbert"] == {"score": None, "label": None, "confidence": None, "sample_size": 0}
    assert stocks["quality"] == "partial"
    assert "stock/market" in problem(await refused(world, "/sentiment/stock/AAPL"), 404, "DATA_NOT_AVAILABLE")["detail"]


async def test_before_anything_was_aggregated(sqlite_db):
    world = market(sqlite_db)
    found = problem(await refused(world, "/sentiment/crypto/ETH"), 404, "DATA_NOT_AVAILABLE")
    assert "crypto-data score" in found["detail"]


async def test_what_did_not_change_is_304(world):
    async with world.client() as client:
        first = await client.get(f"/api/v1{BITCOIN}")
        again = await client.get(f"/api/v1{BITCOIN}", headers={"if-none-match": first.headers["etag"]})
    assert again.status_code == 304

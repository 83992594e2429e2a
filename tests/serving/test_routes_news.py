"""News: a story once, with who reprinted it and what it mentions; deleted texts gone; a search by words."""

from __future__ import annotations

import pytest

from ray_app.clock import DAY_MS, HOUR_MS, iso
from ray_app.serving.keys import Level
from tests.serving.gateway_world import NOW, market
from tests.serving.source_world import get, news, pages, put
from tests.serving.test_api import problem
from tests.storage.source_samples import article, mention


@pytest.fixture
def world(sqlite_db):
    return news(market(sqlite_db))


async def test_the_latest_of_crypto(world):
    body = await get(world, "/news/crypto/latest")
    first, second = body["data"]
    assert first == {
        "id": first["id"],
        "title": "Bitcoin ETFs see record inflows",
        "summary": first["summary"],
        "url": first["url"],
        "author": None,
        "category": "market",
        "language": "en",
        "feed": "coindesk",
        "feeds": ["coindesk", "decrypt"],
        "reprints": 1,
        "mentions": [{"symbol": "BTC", "coin_id": "bitcoin", "term": "Bitcoin"}],
        "published_at": iso(NOW - 25 * 60_000),
        "known_at": iso(NOW - 20 * 60_000),
        "text_known_at": iso(NOW - 20 * 60_000),
        "source": "rss.feed",
    }
    assert (second["title"], second["published_at"], second["reprints"]) == ("Ethereum upgrade is scheduled", None, 0)
    assert "Withdrawn" not in str(body)
    assert (body["since"], body["as_of"], body["source"]) == (iso(NOW - 7 * DAY_MS), first["known_at"], "rss.feed")
    assert await pages(world, "/news/crypto/latest", limit=1) == body["data"]


async def test_a_readonly_key_gets_a_teaser(world):
    put(world, "crypto_news", article("Long", NOW - 1, summary="Spot funds took in more than ever. " * 20))
    for level, longest in ((Level.readonly, 300), (Level.trading, 2_000)):
        summary = (await get(world, "/news/crypto/latest", level))["data"][0]["summary"]
        assert len(summary) <= longest
        assert summary.endswith("…") is (level is Level.readonly)


async def test_since_and_symbol_choose(world):
    since = iso(NOW - HOUR_MS)
    assert [row["feed"] for row in (await get(world, "/news/crypto/latest", since=since))["data"]] == ["coindesk"]
    body = await get(world, "/news/crypto/latest", symbol="ethereum")
    assert [row["title"] for row in body["data"]] == ["Ethereum upgrade is scheduled"]
    async with world.client() as client:
        for query, status, code in (
            ("symbol=BTC&since=2026-01-01", 422, "VALIDATION_ERROR"),
            ("symbol=nosuchthing", 404, "INVALID_SYMBOL"),
            ("symbol=NOV", 404, "DATA_NOT_AVAILABLE"),
            ("since=2026-11-24T07:59:59Z", 404, "DATA_NOT_AVAILABLE"),
            ("since=now", 422, "VALIDATION_ERROR"),
            ("cursor=e30", 422, "VALIDATION_ERROR"),
        ):
            problem(await client.get(f"/api/v1/news/crypto/latest?{query}"), status, code)


async def test_stock_news_are_another_list(world):
    body = await get(world, "/news/stock/latest")
    assert [(row["title"], row["source"]) for row in body["data"]] == [("Fed holds rates", "guardian.search")]
    assert "Guardian" in body["attribution"][0]


async def test_a_search_finds_words_and_their_beginnings(world):
    put(world, "crypto_news", article("Methods of staking: ÜBERBLICK der Straße", NOW - 2 * HOUR_MS))

    async def titles(**asked):
        return [row["title"] for row in (await get(world, "/news/search", **asked))["data"]]

    assert await titles(q="etf") == ["Bitcoin ETFs see record inflows"]
    assert await titles(q="ETF funds") == ["Bitcoin ETFs see record inflows"]  # one in the title, one in the summary
    assert await titles(q="eth") == ["Ethereum upgrade is scheduled"]  # and no mETHods
    assert await titles(q="überblick Straße") == ["Methods of staking: ÜBERBLICK der Straße"]
    assert await titles(q="rates") == ["Fed holds rates"]
    body = await get(world, "/news/search", q="record", market="crypto")
    assert (body["complete"], body["q"], body["data"][0]["reprints"]) == (True, "record", 1)
    async with world.client() as client:
        for query, status, code in (
            ("q=rates&market=crypto", 404, "DATA_NOT_AVAILABLE"),
            ("q=withdrawn", 404, "DATA_NOT_AVAILABLE"),
            ("q=%25%25", 422, "VALIDATION_ERROR"),
            ("q=a+b+c+d+e+f+g+h+i", 422, "VALIDATION_ERROR"),
            ("q=x", 422, "VALIDATION_ERROR"),
            ("", 422, "VALIDATION_ERROR"),
            ("q=rates&days=32", 422, "VALIDATION_ERROR"),
            ("q=rates&market=bond", 422, "VALIDATION_ERROR"),
        ):
            problem(await client.get(f"/api/v1/news/search?{query}"), status, code)


async def test_a_search_says_where_it_did_not_look_at_all(world, monkeypatch):
    monkeypatch.setattr("ray_app.serving.routes.news.MOST_READ", 2)
    put(world, "crypto_news", *[article(f"Metheor {n}", NOW - n * HOUR_MS) for n in range(3)])
    put(world, "crypto_news", article("eth", NOW - 1))
    body = await get(world, "/news/search", q="eth", market="crypto")
    assert ([row["title"] for row in body["data"]], body["complete"]) == (["eth"], False)


async def test_a_text_that_must_not_be_passed_on_is_withheld(world):
    post = article("Somebody's words", NOW - 1, source="reddit.new", summary="more of them", author="somebody")
    put(world, "crypto_news", post)
    put(world, "text_mentions", mention(post, 1, "Bitcoin"))
    row = (await get(world, "/news/crypto/latest"))["data"][0]
    assert row.keys() & {"title", "summary", "author"} == set()
    assert (row["id"], row["mentions"][0]["symbol"]) == (post["content_id"], "BTC")
    assert "contract" in row["withheld"]
    assert (await get(world, "/news/crypto/latest", Level.trading))["data"][0]["title"] == "Somebody's words"

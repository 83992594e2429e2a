"""``/ws/news``: articles as they are stored, from the feed's answer to the client."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from email.utils import format_datetime
from xml.sax.saxutils import escape

import pytest

from ray_app.assets import AssetRegistry
from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS, from_ms
from ray_app.collection.archive import Archive
from ray_app.collection.digest import digest
from ray_app.collection.housekeeping import one_round
from ray_app.collection.news_events import NEWS_CHANNEL
from ray_app.collection.store import Item, write
from ray_app.editions import edition_of
from ray_app.serving import news_stream
from ray_app.settings import Settings
from ray_app.sources import ENDPOINTS
from ray_app.sources.base import Exchange
from ray_app.storage import news_queries, outbox, registry
from ray_app.storage.engine import Database
from ray_app.storage.texts import editions_known_at
from tests.serving.stream_world import KEY, World, serving

pytestmark = pytest.mark.integration

NOW = 1_795_507_200_000
REGISTRY = AssetRegistry.seed()


class News(World):
    """A world whose feeds tell of articles."""

    def __init__(self, db: Database, folder) -> None:
        self.archive = Archive(folder / "archive", writer="w")
        super().__init__(db)

    def __post_init__(self) -> None:
        self.db.run(lambda conn: registry.save(conn, REGISTRY, NOW))

    async def tell(self, *titles: str, feed: str = "coindesk", at: int = NOW, age_ms: int = MINUTE_MS, text: str = "…"):
        """An answer of the feed with these articles, stored as ingestion does; the sequence numbers of its events."""
        items = "".join(
            f"<item><title>{escape(title)}</title><link>https://www.example.com/{feed}/{title.split(':')[0]}</link>"
            f"<pubDate>{format_datetime(from_ms(at - age_ms - n * 1_000))}</pubDate>"
            f"<description>{escape(text)}</description></item>"
            for n, title in enumerate(titles)
        )
        body = f"<rss version='2.0'><channel><title>News</title>{items}</channel></rss>".encode()
        exchange = Exchange(ENDPOINTS["rss.feed"].request(feed), 200, {}, body, at)
        where = self.archive.append(exchange, "crypto-news")
        item = Item(where, "crypto-news", exchange, digest(exchange, where, REGISTRY))
        assert item.found.error is None
        written = await asyncio.to_thread(self.db.run, lambda conn: write(conn, [item], REGISTRY, at))
        for told in written.events:
            assert told.channel == NEWS_CHANNEL
            events = list(enumerate(told.bodies, told.first_seq))
            await self.ring.publish(told.channel, events)
            return [seq for seq, _ in events]
        return []

    def deps(self, **changes):
        return replace(super().deps(**changes), registry=lambda: REGISTRY)


@pytest.fixture
def world(sqlite_db: Database, tmp_path) -> News:
    return News(sqlite_db, tmp_path)


async def subscribe(client, *symbols, **more):
    await client.say({"symbols": list(symbols), "api_key": KEY, **more})
    heard = await client.hear_of("subscribed")
    assert heard["channel"] == "news"
    return heard, await client.hear_of("snapshot")


async def test_an_article_is_heard_as_it_is_stored_under_the_names_of_the_rest_api(world: News) -> None:
    async with serving(world.deps(), path="/ws/news") as server, server.connect() as client:
        said, snapshot = await subscribe(client, "*")
        assert said["channels"] == ["crypto", "stock"]
        assert (snapshot["seq"], snapshot["articles"]) == (0, [])
        await world.tell("1: Bitcoin slips while Ethereum holds", text="x" * 400)
        heard = await client.hear_of("news")
    assert {name: heard[name] for name in ("seq", "market", "feed", "reprint", "source", "url")} == {
        "seq": 1,
        "market": "crypto",
        "feed": "coindesk",
        "reprint": False,
        "source": "rss.feed",
        "url": "https://www.example.com/coindesk/1",
    }
    assert heard["title"] == "1: Bitcoin slips while Ethereum holds"
    assert len(heard["summary"]) == 300
    assert heard["mentions"] == [
        {"symbol": "BTC", "coin_id": "bitcoin", "term": "Bitcoin"},
        {"symbol": "ETH", "coin_id": "ethereum", "term": "Ethereum"},
    ]
    assert (heard["known_at"], heard["published_at"]) == ("2026-11-24T08:00:00Z", "2026-11-24T07:59:00Z")


async def test_a_client_hears_of_the_assets_it_named_once_each_and_of_none_else(world: News) -> None:
    async with serving(world.deps(), path="/ws/news") as server, server.connect() as client:
        await subscribe(client, "BTC", "ETH")
        await world.tell("1: A day without coins", "2: Solana is faster", "3: Bitcoin and Ethereum rise")
        assert (await client.hear_of("news"))["title"].startswith("3:")
        [seq] = await world.tell("4: Ethereum again")
        assert (await client.hear_of("news"))["seq"] == seq


async def test_the_snapshot_is_the_newest_articles_and_a_resume_brings_what_was_missed(world: News) -> None:
    await world.tell("1: Bitcoin first", "2: Nothing in particular", age_ms=HOUR_MS)
    await world.tell("3: Solana second", at=NOW + HOUR_MS)
    async with serving(world.deps(), path="/ws/news") as server:
        async with server.connect() as client:
            _, snapshot = await subscribe(client, "SOL", "BTC")
            assert [one["title"][:1] for one in snapshot["articles"]] == ["1", "3"]
            assert snapshot["seq"] == 3
        async with server.connect() as client:
            await client.say({"action": "resume", "after_seq": 1, "symbols": ["*"], "api_key": KEY})
            await client.hear_of("subscribed")
            assert [(await client.hear_of("news"))["seq"] for _ in range(2)] == [2, 3]
            assert (await client.hear_of("resumed"))["events"] == 2


async def test_a_resume_after_a_subscription_repeats_no_article_that_was_heard(world: News) -> None:
    await world.tell("1: Bitcoin first")
    async with serving(world.deps(), path="/ws/news") as server, server.connect() as client:
        await subscribe(client, "BTC")
        await world.tell("2: Bitcoin and Solana", "3: Solana alone")
        assert (await client.hear_of("news"))["title"].startswith("2:")
        await client.say({"action": "resume", "after_seq": 0, "symbols": ["BTC", "SOL"]})
        await client.hear_of("subscribed")
        heard = [(await client.hear_of("news"))["title"][:1] for _ in range(2)]
        assert sorted(heard) == ["1", "3"]
        assert (await client.hear_of("resumed"))["events"] == 2


async def test_the_same_article_again_and_the_history_of_a_first_poll_are_no_news(world: News) -> None:
    assert await world.tell("1: Bitcoin first") == [1]
    assert await world.tell("1: Bitcoin first", at=NOW + HOUR_MS, age_ms=HOUR_MS) == []
    assert await world.tell("1: Bitcoin first, edited", at=NOW + HOUR_MS) == []
    assert await world.tell("2: Bitcoin long ago", age_ms=DAY_MS + MINUTE_MS) == []
    assert await world.tell("3: Bitcoin lately", age_ms=DAY_MS - MINUTE_MS) == [2]


@pytest.mark.parametrize("late_first", [False, True], ids=["in order", "the later answer first"])
async def test_what_a_revised_article_says_is_known_from_its_own_first_fetch(world: News, late_first) -> None:
    editions = [("1: Bitcoin steady", NOW), ("1: Bitcoin crashes as Ethereum holds", NOW + HOUR_MS)]
    for title, at in reversed(editions) if late_first else editions:
        await world.tell(title, at=at)
    await world.tell(editions[1][0], at=NOW + 2 * HOUR_MS)
    with world.db.read() as conn:
        (article,) = news_queries.articles(conn, "crypto", since=0, limit=10)
        shown = article["content_id"], edition_of(article["title"], article["summary"])
        assert article["title"] == editions[1][0]
        assert article["known_at"] == NOW
        assert editions_known_at(conn, [shown]) == {shown: NOW + HOUR_MS}


async def test_who_tells_a_story_after_another_is_a_reprint(world: News) -> None:
    async with serving(world.deps(), path="/ws/news") as server, server.connect() as client:
        await subscribe(client, "*")
        await world.tell("Bitcoin reaches a new high today", feed="coindesk")
        await world.tell("Bitcoin reaches a new high today", feed="decrypt", at=NOW + HOUR_MS)
        first, second = [await client.hear_of("news") for _ in range(2)]
    assert (first["reprint"], second["reprint"]) == (False, True)
    assert first["story_id"] == second["story_id"]


async def test_the_market_is_chosen_with_the_first_subscription(world: News) -> None:
    async with serving(world.deps(), path="/ws/news") as server, server.connect() as client:
        said, _ = await subscribe(client, "*", channels=["stock"])
        assert said["channels"] == ["stock"]
        await world.tell("1: Bitcoin first")
        await world.tell("2: The market opens", feed="cnbc-markets")
        assert (await client.hear_of("news"))["title"].startswith("2:")
        await client.say({"action": "subscribe", "symbols": ["BTC"], "channels": ["crypto"]})
        assert "chosen with the first subscription" in (await client.hear())["error"]
        await client.say({"action": "subscribe", "symbols": ["BTC"], "channels": ["price"]})
        assert "crypto, stock" in (await client.hear())["error"]


async def test_what_terms_forbid_to_pass_on_has_no_text_for_readonly_keys(world: News, monkeypatch) -> None:
    monkeypatch.setattr(
        news_stream, "withheld", lambda level, source: f"{source}: not to be passed on" if level < 2 else None
    )
    world.keys.good.add("trader")
    world.keys.levels = {"trader": 2}
    async with serving(world.deps(), path="/ws/news") as server, server.connect() as low, server.connect() as high:
        await subscribe(low, "*")
        await high.say({"symbols": ["*"], "api_key": "trader"})
        await high.hear_of("subscribed")
        await high.hear_of("snapshot")
        await world.tell("1: Bitcoin first")
        shown, whole = await low.hear_of("news"), await high.hear_of("news")
        assert shown["withheld"] == "rss.feed: not to be passed on"
        assert not {"title", "summary", "author"} & shown.keys()
        assert shown["url"] == whole["url"]
        assert whole["title"] == "1: Bitcoin first"


async def test_events_are_kept_for_a_day_and_behind_that_is_a_gap(world: News, tmp_path) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path)
    await world.tell("1: Bitcoin first")
    await world.tell("2: Bitcoin second", at=NOW + HOUR_MS)
    one_round(settings, world.db, NOW + DAY_MS + MINUTE_MS)
    with world.db.read() as conn:
        assert [seq for seq, _ in outbox.read(conn, NEWS_CHANNEL, 0, 10)] == [2]
    async with serving(world.deps(), path="/ws/news") as server, server.connect() as client:
        await client.say({"action": "resume", "after_seq": 0, "symbols": ["*"], "api_key": KEY})
        await client.hear_of("subscribed")
        gap = await client.hear_of("gap")
        assert (gap["channel"], gap["first_missing"], gap["last_missing"]) == ("news", 1, 1)
        assert (await client.hear_of("news"))["seq"] == 2
        await client.hear_of("resumed")
        assert [one["title"][:1] for one in (await client.hear_of("snapshot"))["articles"]] == ["2"]


async def test_an_event_that_is_no_article_is_counted_and_breaks_nothing(world: News) -> None:
    world.db.run(lambda conn: outbox.append(conn, NEWS_CHANNEL, [b"{}", b'{"mentions": 3}'], NOW))
    async with serving(world.deps(), path="/ws/news") as server, server.connect() as client:
        _, snapshot = await subscribe(client, "*")
        assert (snapshot["seq"], snapshot["articles"]) == (2, [])
        world.db.run(lambda conn: outbox.append(conn, NEWS_CHANNEL, [b"nothing"], NOW))
        [seq] = await world.tell("1: Bitcoin first")
        assert (await client.hear_of("news"))["seq"] == seq == 4
        assert server.streams.status().unreadable_events == 1

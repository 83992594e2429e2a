"""Simulated feeds: read by the node's own parser, the same whenever asked, and real texts played onward."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from ray_app.assets import AssetRegistry
from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS
from ray_app.sandbox import rss
from ray_app.sandbox.answers import Question, World
from ray_app.sandbox.generated import GeneratedMarket
from ray_app.sources import ENDPOINTS, Exchange
from ray_app.sources.rss_feeds import FEEDS, SITES
from ray_app.sources.texts import depth_of
from tests.sandbox.conftest import NOW, Sandbox

Make = Callable[..., Sandbox]
NAMES = [site.name for site in SITES]
feed = ENDPOINTS["rss.feed"]


@pytest.fixture
def world(market: GeneratedMarket, registry: AssetRegistry) -> World:
    return World(market, registry, 7)


def rows(world: World, name: str, now: int = NOW):
    answer = rss.ENDPOINTS[0].answer(Question(now, name, {}), world)
    parsed = feed.parse(Exchange(feed.request(name), 200, {"content-type": answer.content_type}, answer.body, now))
    assert parsed.issues == ()
    return parsed


@pytest.mark.parametrize("name", NAMES)
def test_every_known_feed_is_read_without_an_issue(world, name):
    parsed = rows(world, name)
    assert len(parsed.rows) == rss.ITEMS
    assert {row.table for row in parsed.rows} == {f"{FEEDS[name].market}_news"}
    times = [row.values["published_at"] for row in parsed.rows]
    assert times == sorted(times, reverse=True)
    assert NOW - 3 * DAY_MS < times[-1] <= parsed.oldest == depth_of(times) < times[0] <= NOW
    for row in parsed.rows:
        assert row.values["title"].startswith("[sandbox] ")
        assert "utm_" not in row.values["url"]
        assert row.values["summary"].startswith("Made up by the sandbox")


def test_all_three_formats_are_spoken(world):
    kinds = {rss.ENDPOINTS[0].answer(Question(NOW, name, {}), world).content_type for name in NAMES}
    assert {kind.split(";")[0] for kind in kinds} == {
        "application/rss+xml",
        "application/atom+xml",
        "application/rdf+xml",
    }


def test_past_never_changes_and_polls_join_without_loss(world):
    seen = {}
    for poll in range(20):  # five hours
        for row in rows(world, "coindesk", NOW + poll * 15 * MINUTE_MS).rows:
            content_id = row.key["content_id"]
            said = {k: v for k, v in row.values.items() if k != "known_at"}
            assert seen.setdefault(content_id, said) == said
    published = sorted(row["published_at"] for row in seen.values())
    later = rows(world, "coindesk", NOW + 20 * 15 * MINUTE_MS)
    assert len([t for t in published if t > min(row.values["published_at"] for row in later.rows)]) >= rss.ITEMS - 2
    assert max(b - a for a, b in pairwise(published)) < 5 * HOUR_MS


def test_some_stories_are_reprinted_by_other_feeds_under_other_addresses(world):
    told: dict[str, set[str]] = {}
    for name in NAMES[:16]:
        for row in rows(world, name).rows:
            told.setdefault(str(row.values["story_id"]), set()).add(str(row.values["url"]))
    reprinted = [urls for urls in told.values() if len(urls) > 2]
    assert len(reprinted) > 3


async def test_what_a_client_has_is_not_sent_again(sandbox: Make):
    world = sandbox()
    first = await world.get("/rss/coindesk")
    again = await world.get("/rss/coindesk", headers={"if-none-match": first.headers["etag"]})
    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
    world.clock.advance(6 * 3_600)
    changed = await world.get("/rss/coindesk/", headers={"if-none-match": first.headers["etag"]})
    assert changed.status_code == 200


def test_an_answer_is_cheap(world):
    started = time.process_time()
    for name in NAMES:
        rss.ENDPOINTS[0].answer(Question(NOW, name, {}), world)
    assert (time.process_time() - started) / len(NAMES) < 0.02


# --- real texts ---

LINE = '{date},"Title {n} & more","Text <{n}>",{source},bitcoin,https://news.example/{source}/{n}\n'


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.csv"
    lines = ["date,title,text,source,subject,url\n"]
    for n in range(120):
        day, hour = 1 + n // 4, 1 + 6 * (n % 4)
        lines.append(
            LINE.format(date=f"{day}-1-2022 {hour}:05", n=n, source="CoinTelegraph" if n % 2 else "CryptoNews")
        )
    lines.append("no date,x,x,CryptoNews,x,https://news.example/x\n")
    path.write_text("".join(lines))
    return path


@pytest.fixture
def replayed(market: GeneratedMarket, registry: AssetRegistry, texts: Path) -> World:
    return World(market, registry, 7, texts, first_node_ms=NOW)


def test_texts_play_onward_from_the_start_by_whole_days(replayed, texts):
    # the 20th text of the later source is of 10 January: that day is the sandbox's first
    shift = rss.shift_of(replayed, texts)
    assert shift % DAY_MS == 0
    parsed = rows(replayed, "cointelegraph")
    assert len(parsed.rows) >= 19
    newest = parsed.rows[0]
    assert newest.values["published_at"] == NOW // DAY_MS * DAY_MS + 7 * HOUR_MS + 5 * MINUTE_MS
    assert newest.values["title"] == "Title 37 & more"
    assert newest.values["url"] == "https://news.example/CoinTelegraph/37"
    assert newest.values["summary"] == "Text <37>"
    tomorrow = rows(replayed, "cointelegraph", NOW + DAY_MS)
    assert tomorrow.rows[0].values["title"] == "Title 41 & more"


def test_feeds_of_other_names_reprint_some_and_all_go_quiet_when_the_file_ends(replayed):
    reprints = rows(replayed, "decrypt", NOW + 60 * DAY_MS)
    assert 0 < len(reprints.rows) <= rss.ITEMS
    later = rows(replayed, "crypto-news", NOW + 90 * DAY_MS)
    assert later.rows[0].values["published_at"] < NOW + 30 * DAY_MS
    assert [r.key for r in later.rows] == [r.key for r in rows(replayed, "crypto-news", NOW + 200 * DAY_MS).rows]


@pytest.mark.shared_data
def test_the_real_texts_are_read(market, registry, shared_data):
    world = World(market, registry, 7, shared_data / "text" / "crypto_news_2021_2022.csv", first_node_ms=NOW)
    for name in ("cointelegraph", "crypto-news", "coindesk"):
        for day in (0, 60):
            assert len(rows(world, name, NOW + day * DAY_MS).rows) >= 15

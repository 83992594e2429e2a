"""Reddit's wire format: tokens, listings with their pages, posts that are deleted later."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from ray_app.clock import DAY_MS, HOUR_MS
from ray_app.errors import UpstreamRejected
from ray_app.sandbox.answers import Question
from ray_app.sandbox.chatter import replayed
from ray_app.sandbox.reddit import Listing as Simulated
from ray_app.sources import endpoint
from ray_app.sources.base import Exchange, Parsed, Request, Row
from tests.sandbox.conftest import NOW, Sandbox

Make = Callable[..., Sandbox]
REDDIT = "/reddit"


async def ask(world: Sandbox, request: Request) -> Parsed:
    answer = await world.get(REDDIT + request.path, **dict(request.params))
    exchange = Exchange(request, answer.status_code, dict(answer.headers), answer.content, world.clock.now_ms())
    return endpoint(request.endpoint).parse(exchange)


def by_name(rows: Any) -> dict[str, Row]:
    return {row.key["content_id"].removeprefix("reddit:"): row for row in rows}


@pytest.mark.parametrize("subreddit", ["CryptoCurrency", "ethfinance"])
async def test_our_parser_reads_every_page_and_pages_join_without_loss(sandbox: Make, subreddit: str) -> None:
    world = sandbox()
    request: Request | None = endpoint("reddit.listing").request(subreddit)
    names: list[str] = []
    pages = 0
    moments = [NOW]
    while request is not None:
        raw = (await world.get(REDDIT + request.path, **dict(request.params))).json()["data"]["children"]
        parsed = await ask(world, request)
        assert parsed.issues == ()
        kept = by_name(parsed.rows)
        assert set(kept) == {
            c["data"]["name"] for c in raw if not c["data"]["over_18"] or c["data"]["removed_by_category"]
        }
        names += [child["data"]["name"] for child in raw]
        moments += [round(child["data"]["created_utc"] * 1_000) for child in raw]
        assert parsed.oldest == moments[-1]
        request, pages = parsed.next, pages + 1
    assert (len(names), len(set(names)), pages) == (1_000, 1_000, 10)
    assert moments == sorted(moments, reverse=True)
    # what lies between two pages is nothing: the numbers are without gaps
    numbers = [int(name[3:], 36) // 64 for name in names]
    assert numbers == list(range(numbers[0], numbers[0] - 1_000, -1))


async def test_every_time_shows_the_same_past_but_for_what_grows_and_what_is_deleted(sandbox: Make) -> None:
    world, other = sandbox(), sandbox(now=NOW + 20 * HOUR_MS)
    request = endpoint("reddit.listing").request("CryptoCurrency")
    before = by_name((await ask(world, request)).rows)
    assert by_name((await ask(sandbox(), request)).rows) == before
    names = list(before)
    after = by_name((await ask(other, endpoint("reddit.by_id").request(names))).rows)
    gone = {name for name in names if after[name].values["deleted_at"] is not None}
    assert {name for name in names if before[name].values["deleted_at"] is not None} < gone
    for name in names:
        one, two = before[name].values, after[name].values
        assert one["published_at"] == two["published_at"]
        assert one["score"] <= two["score"]
        assert one["comments"] <= two["comments"]
        if name in gone:
            assert (two["author"], two["title"], two["text"], two["url"]) == (None, None, None, None)
        else:
            assert (one["title"], one["text"]) == (two["title"], two["text"])
            assert one["title"].startswith("[sandbox] ")
    assert sum(before[name].values["score"] < after[name].values["score"] for name in names) > 50


async def test_new_posts_come_at_the_subreddit_s_rate(sandbox: Make) -> None:
    world = sandbox()
    request = endpoint("reddit.listing").request("Bitcoin")
    before = {
        c["data"]["name"] for c in (await world.get("/reddit/r/bitcoin/new", limit=100)).json()["data"]["children"]
    }
    world.clock.advance(5 * 3_600)
    raw = (await world.get(REDDIT + request.path, **dict(request.params))).json()["data"]["children"]
    assert len({child["data"]["name"] for child in raw} - before) in {29, 30, 31}


async def test_posts_asked_for_by_name(sandbox: Make) -> None:
    world = sandbox()
    names = list(by_name((await ask(world, endpoint("reddit.listing").request("solana"))).rows))[:3]
    newer = await ask(sandbox(now=NOW + DAY_MS), endpoint("reddit.listing").request("solana"))
    later = next(iter(by_name(newer.rows)))
    parsed = await ask(world, endpoint("reddit.by_id").request([*names, "t3_zz", later]))
    assert list(by_name(parsed.rows)) == names
    assert parsed.missing == ("t3_zz", later), "nobody knows the future"
    path = f"/reddit/by_id/{','.join(names)}"
    assert [c["data"]["name"] for c in (await world.get(path)).json()["data"]["children"]] == names


async def test_before_gives_what_came_since(sandbox: Make) -> None:
    world = sandbox()
    page = (await world.get("/reddit/r/Bitcoin/new", limit=10)).json()["data"]["children"]
    names = [child["data"]["name"] for child in page]
    newer = (await world.get("/reddit/r/Bitcoin/new", before=names[4])).json()["data"]["children"]
    assert [child["data"]["name"] for child in newer] == names[:4]
    assert (await world.get("/reddit/r/Bitcoin/new", after="t3_nonsense!")).json()["data"]["children"] == []


async def test_texts_are_escaped_unless_asked_for_raw(sandbox: Make) -> None:
    world = sandbox()

    async def texts(**params: Any) -> list[str]:
        answer = await world.get("/reddit/r/CryptoCurrency/new", limit=100, **params)
        return [child["data"]["selftext"] for child in answer.json()["data"]["children"]]

    escaped, raw = await texts(), await texts(raw_json=1)
    assert any("< 1 cent" in text for text in raw)
    assert [t.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for t in raw] == escaped


async def test_refusals_are_reddit_s(sandbox: Make) -> None:
    world = sandbox()
    for name, reason in (("private_club", "private"), ("nowhere", "banned")):
        with pytest.raises(UpstreamRejected, match=rf"\({reason}\)"):
            await ask(world, endpoint("reddit.listing").request(name))


async def test_tokens(sandbox: Make) -> None:
    transport = httpx.ASGITransport(sandbox().app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://sandbox") as client:
        path = "/reddit/api/v1/access_token"
        token = (await client.post(path, data={"grant_type": "client_credentials"})).json()
        assert (token["token_type"], token["expires_in"]) == ("bearer", 86_400)
        assert token["access_token"]
        wrong = await client.post(path, params={"grant_type": "password"})
        assert (wrong.status_code, wrong.json()) == (200, {"error": "unsupported_grant_type"})
        assert (await client.get(path)).status_code == 405


async def test_limits_are_told(sandbox: Make) -> None:
    headers = (await sandbox().get("/reddit/r/Bitcoin/new")).headers
    assert float(headers["x-ratelimit-remaining"]) > 0
    assert 0 < int(headers["x-ratelimit-reset"]) <= 600


@pytest.mark.parametrize("columns", ["text,label,url", "title,text,sentiment"])
async def test_only_a_file_of_posts_is_replayed(sandbox: Make, tmp_path: Path, columns: str) -> None:
    file = tmp_path / "texts.csv"
    file.write_text(
        f'{columns}\n"To the moon, \n now",Positive,https://x\n,Negative,https://y\nSold it all,Negative,\n'
    )
    world = sandbox(replay_text=file)
    rows = (await ask(world, endpoint("reddit.listing").request("CryptoCurrency"))).rows
    texts = {row.values["text"] for row in rows} - {None}
    assert (texts == {"To the moon, now", "Sold it all"}) == columns.startswith("text")
    assert replayed(tmp_path / "absent.csv") == ()


async def test_an_answer_costs_little(sandbox: Make) -> None:
    world = sandbox().app.world
    question = Question(NOW, "CryptoCurrency", {"limit": "100", "raw_json": "1"})
    Simulated().answer(question, world)
    started = time.process_time()
    for _ in range(5):
        Simulated().answer(question, world)
    assert (time.process_time() - started) / 5 < 0.02, "some milliseconds; a busy machine's caches are cold"

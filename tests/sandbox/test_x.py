"""X's wire format: recent search with its pages, joined users, partial errors and refusals."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ray_app.clock import DAY_MS, HOUR_MS, iso
from ray_app.errors import UpstreamRejected
from ray_app.sandbox.answers import Question
from ray_app.sandbox.x import RecentSearch as Simulated
from ray_app.sources import endpoint
from ray_app.sources.base import Exchange, Parsed, Request
from tests.sandbox.conftest import NOW, Sandbox

Make = Callable[..., Sandbox]
SEARCH = "/x/tweets/search/recent"
x = endpoint("x.recent_search")
QUERY = "($BTC OR $ETH) -is:retweet lang:en"


async def ask(world: Sandbox, request: Request) -> Parsed:
    answer = await world.get("/x" + request.path, **dict(request.params))
    return x.parse(Exchange(request, answer.status_code, dict(answer.headers), answer.content, world.clock.now_ms()))


async def pages(world: Sandbox, request: Request | None, most: int = 300) -> list[Parsed]:
    found = []
    while request is not None and len(found) < most:
        found.append(await ask(world, request))
        request = found[-1].next
    return found


async def test_pages_join_without_loss_down_to_the_start(sandbox: Make) -> None:
    world = sandbox()
    read = await pages(world, x.request(QUERY, NOW - 12 * HOUR_MS))
    rows = [row for page in read for row in page.rows]
    ids = [int(row.key["content_id"].removeprefix("x:")) for row in rows]
    assert ids == sorted(set(ids), reverse=True)
    assert [len(page.rows) for page in read[:-1]] == [100] * (len(read) - 1)
    assert abs(len(rows) - 12 * 100) <= 4, "60 and 40 an hour"
    made = [row.values["published_at"] for row in rows]
    assert min(made) >= NOW - 12 * HOUR_MS - 1_000
    assert max(made) <= NOW - 30_000
    assert [page.oldest for page in read] == [min(r.values["published_at"] for r in page.rows) for page in read]
    whole = await pages(
        world, replace(x.request(QUERY), params={**x.request(QUERY).params, "end_time": iso(NOW - 6 * DAY_MS)})
    )
    assert min(page.oldest for page in whole) >= NOW - 7 * DAY_MS - 1_000


async def test_rows_are_whole_and_the_same_whenever_asked(sandbox: Make) -> None:
    bounds = {"start_time": iso(NOW - HOUR_MS), "end_time": iso(NOW - 60_000)}
    request = replace(x.request(QUERY), params={**x.request(QUERY).params, **bounds})
    first, later = await ask(sandbox(), request), await ask(sandbox(now=NOW + DAY_MS), request)
    assert first == await ask(sandbox(), request)
    for one, two in zip(first.rows, later.rows, strict=True):
        same = ("author", "author_verified", "text", "url", "language", "published_at")
        assert (one.key, [one.values[c] for c in same]) == (two.key, [two.values[c] for c in same])
        assert all(one.values[c] <= two.values[c] for c in ("score", "comments", "reposts", "views"))
        assert one.values["text"].startswith("[sandbox] $")
        assert one.values["language"] == "en"


async def test_authors_are_joined_but_for_the_suspended(sandbox: Make) -> None:
    read = await pages(sandbox(), x.request(QUERY, NOW - DAY_MS))
    errors = {issue.subject for page in read for issue in page.issues}
    rows = [row for page in read for row in page.rows]
    unknown = [row for row in rows if row.values["author"] is None]
    assert 0 < len(errors) <= len(unknown) < len(rows) / 50
    assert {issue.kind for page in read for issue in page.issues} == {"missing_id"}
    assert {row.values["author_verified"] for row in rows} == {0, 1, None}


async def test_fields_come_only_where_asked_for(sandbox: Make) -> None:
    body = (await sandbox().get(SEARCH, query="$BTC")).json()
    assert set(body) == {"data", "meta"}
    assert len(body["data"]) == 10
    assert {tuple(post) for post in body["data"]} == {("id", "text", "edit_history_tweet_ids")}
    assert all(isinstance(post["id"], str) for post in body["data"])


async def test_nothing_found_has_no_data(sandbox: Make) -> None:
    world = sandbox()
    assert (await world.get(SEARCH, query="weather")).json() == {"meta": {"result_count": 0}}
    parsed = await ask(world, x.request("$NOSUCHCOIN"))
    assert (parsed.rows, parsed.issues, parsed.next) == ((), (), None)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"query": "x" * 513},
        {"query": "($BTC"},
        {"query": "$BTC", "max_results": "9"},
        {"query": "$BTC", "max_results": "²"},
        {"query": "$BTC", "start_time": "yesterday"},
        {"query": "$BTC", "start_time": iso(NOW - 8 * DAY_MS)},
        {"query": "$BTC", "end_time": iso(NOW)},
        {"query": "$BTC", "next_token": "nonsense"},
        {"query": "$BTC", "since_id": "x"},
    ],
)
async def test_refusals_are_problems(sandbox: Make, params: dict[str, Any]) -> None:
    answer = await sandbox().get(SEARCH, **params)
    assert (answer.status_code, answer.json()["title"]) == (400, "Invalid Request")
    with pytest.raises(UpstreamRejected, match="HTTP 400: Invalid Request"):
        x.parse(Exchange(x.request("$BTC"), 400, {}, answer.content, NOW))


async def test_since_and_until_are_exclusive(sandbox: Make) -> None:
    world = sandbox()
    ids = [post["id"] for post in (await world.get(SEARCH, query="$BTC", max_results=20)).json()["data"]]
    between = await world.get(SEARCH, query="$BTC", since_id=ids[9], until_id=ids[3], max_results=10)
    assert [post["id"] for post in between.json()["data"]] == ids[4:9]


async def test_replayed_texts_are_bodies(sandbox: Make, tmp_path: Path) -> None:
    file = tmp_path / "texts.csv"
    file.write_text("text,label,url\nHODL & relax,Positive,\n")
    rows = (await ask(sandbox(replay_text=file), x.request("$BTC"))).rows
    assert {row.values["text"] for row in rows} == {"$BTC HODL & relax"}


async def test_an_answer_costs_little(sandbox: Make) -> None:
    world = sandbox().app.world
    params = dict(x.request("$BTC OR $ETH OR $SHIB OR $WBTC OR $USDT").params)
    Simulated().answer(Question(NOW, "", params), world)
    started = time.process_time()
    for _ in range(5):
        Simulated().answer(Question(NOW, "", params), world)
    assert (time.process_time() - started) / 5 < 0.02, "some milliseconds; a busy machine's caches are cold"
    assert "x-rate-limit-reset" in (await sandbox().get(SEARCH, query="$BTC")).headers

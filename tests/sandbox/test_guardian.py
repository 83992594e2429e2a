"""The simulated Guardian, read by the node's own parser."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ray_app.clock import DAY_MS
from ray_app.errors import UpstreamRejected
from ray_app.sources import ENDPOINTS, Exchange
from tests.sandbox.conftest import NOW, Sandbox

Make = Callable[..., Sandbox]
search = ENDPOINTS["guardian.search"]


async def ask(world: Sandbox, request, **params):
    answer = await world.get("/guardian/search", **{"api-key": "k"}, **dict(request.params), **params)
    return search.parse(
        Exchange(request, answer.status_code, dict(answer.headers), answer.content, world.clock.now_ms())
    )


async def test_pages_join_without_loss_newest_first(sandbox: Make):
    world = sandbox()
    request = search.request("stock", NOW - 7 * DAY_MS, section="business")
    parsed, pages = await ask(world, request), 1
    rows, last = list(parsed.rows), parsed
    while last.next is not None:
        last, pages = await ask(world, last.next), pages + 1
        rows += last.rows
    times = [row.values["published_at"] for row in rows]
    assert times == sorted(times, reverse=True)
    assert len({row.key["content_id"] for row in rows}) == len(rows)
    assert pages == 2
    first_day = (NOW - 7 * DAY_MS) // DAY_MS * DAY_MS
    assert first_day <= min(times) < first_day + 2 * 3_600_000
    assert NOW - 2 * 3_600_000 < max(times) <= NOW
    assert {row.table for row in rows} == {"stock_news"}
    assert all(row.values["title"].startswith("[sandbox]") and row.values["summary"] for row in rows)


async def test_past_never_changes(sandbox: Make):
    world = sandbox()
    request = search.request("crypto", NOW - 2 * DAY_MS, tag="technology/cryptocurrencies")
    before = {row.key["content_id"]: row.values["title"] for row in (await ask(world, request)).rows}
    world.clock.advance(86_400)
    after = {row.key["content_id"]: row.values["title"] for row in (await ask(world, request)).rows}
    assert before.items() < after.items()


async def test_fields_are_told_only_if_asked_for(sandbox: Make):
    answer = await sandbox().get("/guardian/search", **{"api-key": "k", "section": "money"})
    body = answer.json()["response"]
    assert (body["status"], body["pageSize"], len(body["results"])) == ("ok", 10, 10)
    assert all("fields" not in article for article in body["results"])


async def test_bounds_are_days_and_oldest_first_is_the_other_order(sandbox: Make):
    bounds = {
        "api-key": "k",
        "section": "business",
        "from-date": "2026-11-20",
        "to-date": "2026-11-21",
        "page-size": "200",
    }
    newest = (await sandbox().get("/guardian/search", **bounds)).json()["response"]["results"]
    oldest = (await sandbox().get("/guardian/search", **bounds, **{"order-by": "oldest"})).json()["response"]["results"]
    assert newest == oldest[::-1]
    assert {article["webPublicationDate"][:10] for article in newest} == {"2026-11-20", "2026-11-21"}


@pytest.mark.parametrize(
    ("params", "status", "why"),
    [
        ({}, 401, "Unauthorized"),
        ({"api-key": "k", "page": "999999"}, 400, "beyond"),
        ({"api-key": "k", "page-size": "201"}, 400, "page-size"),
        ({"api-key": "k", "page": "0"}, 400, "page"),
        ({"api-key": "k", "from-date": "soon"}, 400, "from-date"),
    ],
)
async def test_refusals_are_understood(sandbox: Make, params, status, why):
    answer = await sandbox().get("/guardian/search", **params)
    assert answer.status_code == status
    with pytest.raises(UpstreamRejected, match=why):
        search.parse(Exchange(search.request("stock", NOW), status, {}, answer.content, NOW))

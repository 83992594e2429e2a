"""Simulated CryptoPanic, read by the node's own parser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ray_app.errors import UpstreamRejected
from ray_app.sources import ENDPOINTS, Exchange
from tests.sandbox.conftest import NOW, Sandbox

Make = Callable[..., Sandbox]
posts = ENDPOINTS["cryptopanic.posts"]


async def ask(world: Sandbox, request):
    answer = await world.get(f"/cryptopanic{request.path}", auth_token="the-key", **dict(request.params))
    return posts.parse(
        Exchange(request, answer.status_code, dict(answer.headers), answer.content, world.clock.now_ms())
    )


@pytest.mark.parametrize("path", ["/v1/posts/", "/developer/v2/posts/"])
async def test_pages_join_without_loss(sandbox: Make, path):
    world = sandbox()
    last = await ask(world, replace(posts.request(), path=path))
    rows = list(last.rows)
    while last.next is not None:
        assert "the-key" not in str(last.next)
        last = await ask(world, last.next)
        assert last.issues == ()
        rows += last.rows
    times = [row.values["published_at"] for row in rows]
    assert (len(rows), times) == (200, sorted(times, reverse=True))
    assert len({row.key["content_id"] for row in rows}) == 200
    assert any(row.values["category"] for row in rows)


async def test_past_never_changes(sandbox: Make):
    world = sandbox()
    before = {row.key["content_id"]: row.values["title"] for row in (await ask(world, posts.request())).rows}
    world.clock.advance(3_600)
    after = {row.key["content_id"]: row.values["title"] for row in (await ask(world, posts.request())).rows}
    assert 15 < len(before.keys() & after.keys()) < 20
    assert all(before[key] == after[key] for key in before.keys() & after.keys())


@pytest.mark.parametrize(
    ("params", "status"), [({}, 401), ({"auth_token": "k", "page": "11"}, 404), ({"auth_token": "k", "page": "x"}, 404)]
)
async def test_refusals_are_understood(sandbox: Make, params, status):
    answer = await sandbox().get("/cryptopanic/developer/v2/posts/", **params)
    assert answer.status_code == status
    with pytest.raises(UpstreamRejected):
        posts.parse(Exchange(posts.request(), status, {}, answer.content, NOW))

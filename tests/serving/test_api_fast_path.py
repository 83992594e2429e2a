"""The hot path and the general way are one API: same request, same answer."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_app.serving.keys import Level
from ray_app.storage.queries import current_price
from tests.serving.gateway_world import BTC, NOW, client_of, market, price_event, price_row

CURRENT = "/api/v1/prices/current/"
#: headers that differ from request to request
MOVING = {"x-request-id", "ratelimit", "x-ratelimit-remaining", "x-ratelimit-reset"}


@pytest.fixture(params=["live", "sandbox"])
def world(request, sqlite_db):
    return market(sqlite_db, origin=request.param, cors_origins="https://console.example")


class Ways:
    """The same request by the general way, and by the whole gateway twice (the second time it may be fast)."""

    def __init__(self, world) -> None:
        self.world = world
        self.passed: list[str] = []
        general = world.api.general

        async def counted(scope, receive, send):
            self.passed.append(scope["path"])
            await general(scope, receive, send)

        world.api._app._app = counted

    async def ask(self, method: str, path: str, headers: dict) -> tuple[httpx.Response, httpx.Response, bool]:
        async with client_of(self.world.api.general) as general, client_of(self.world.api) as whole:
            slow = await general.request(method, path, headers=headers)
            await whole.request(method, path, headers=headers)
            before = len(self.passed)
            fast = await whole.request(method, path, headers=headers)
        return slow, fast, len(self.passed) == before


def same(one: httpx.Response, other: httpx.Response) -> None:
    assert one.status_code == other.status_code
    first, second = (
        sorted((name, value) for name, value in answer.headers.items() if name not in MOVING) for answer in (one, other)
    )
    assert first == second
    assert set(one.headers) == set(other.headers)
    if one.headers.get("content-type") != "application/problem+json" or not one.content:
        assert one.content == other.content
    else:
        left, right = one.json(), other.json()
        left.pop("request_id")
        right.pop("request_id")
        assert left == right


async def test_the_hot_path_takes_what_it_should_and_answers_like_the_general_way(world):
    ways = Ways(world)
    key = {"Authorization": f"Bearer {world.keys[Level.readonly].secret}"}
    for typed in ("BTC", "btc", "bitcoin", "ETH", "TWN", "twin-small", "NOV"):
        slow, fast, was_fast = await ways.ask("GET", CURRENT + typed, key)
        assert was_fast, typed
        assert slow.status_code == 200
        same(slow, fast)


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "BTC?x=1", {}),
        ("GET", "BTX", {}),
        ("GET", "UNP", {}),
        ("GET", "BTC/", {}),
        ("GET", "BTC/x", {}),
        ("GET", "", {}),
        ("HEAD", "BTC", {}),
        ("POST", "BTC", {}),
        ("GET", "BTC", {"Origin": "https://console.example"}),
        ("GET", "BTC", {"Origin": "https://evil.example"}),
        ("GET", "BTC", {"Authorization": "Bearer wrong"}),
        ("GET", "BTC", {"Authorization": "Basic x"}),
    ],
)
async def test_what_the_hot_path_leaves_alone_is_answered_the_general_way(world, method, path, headers):
    ways = Ways(world)
    key = {"Authorization": f"Bearer {world.keys[Level.readonly].secret}"}
    slow, fast, was_fast = await ways.ask(method, CURRENT + path, key | headers)
    assert not was_fast
    same(slow, fast)


async def test_not_modified_is_the_same_on_both_ways(world):
    ways = Ways(world)
    key = {"Authorization": f"Bearer {world.keys[Level.readonly].secret}"}
    etag = (await ways.ask("GET", CURRENT + "BTC", key))[0].headers["etag"]
    for none_match, status in (
        (etag, 304),
        (f"W/{etag}", 304),
        (f'"x", {etag}', 304),
        ("*", 304),
        ('"x"', 200),
        ("", 200),
        (etag.strip('"'), 200),
    ):
        slow, fast, was_fast = await ways.ask("GET", CURRENT + "BTC", key | {"If-None-Match": none_match})
        assert was_fast
        assert slow.status_code == status, none_match
        same(slow, fast)


async def test_a_new_price_is_on_both_ways_at_once(world):
    ways = Ways(world)
    key = {"Authorization": f"Bearer {world.keys[Level.readonly].secret}"}
    await ways.ask("GET", CURRENT + "BTC", key)
    world.deps.board.apply([(1, price_event(price_row(BTC, NOW, 95_000.0), BTC))])
    slow, fast, was_fast = await ways.ask("GET", CURRENT + "BTC", key)
    assert was_fast
    assert fast.json()["current_price"] == 95_000.0
    same(slow, fast)


async def test_the_age_counts_from_as_of(world):
    async with world.client() as client:
        for path in ("BTC", "BTC"):
            assert (await client.get(CURRENT + path)).headers["age"] == "292"
        world.clock.advance(10)
        assert (await client.get(CURRENT + "BTC")).headers["age"] == "302"


async def test_a_token_is_taken_once_on_either_way(sqlite_db):
    world = market(sqlite_db, rate_limit_requests=5)
    async with world.client() as client:
        left = [(await client.get(CURRENT + "BTC")).headers["x-ratelimit-remaining"] for _ in range(5)]
        assert left == ["4", "3", "2", "1", "0"]
        assert (await client.get(CURRENT + "BTC")).status_code == 429


async def test_an_expired_key_stops_on_the_hot_path_too(world):
    made = world.deps.keyring.create("short", Level.readonly, expires_at=NOW + 5_000)
    async with client_of(world.api, Authorization=f"Bearer {made.secret}") as client:
        assert [(await client.get(CURRENT + "BTC")).status_code for _ in range(3)] == [200] * 3
        world.clock.advance(5)
        assert (await client.get(CURRENT + "BTC")).status_code == 401


header_values = st.sampled_from(["", "*", '"x"', "W/", "Bearer x", "gzip", "https://console.example", "?1", "0"])
header_names = st.sampled_from(["If-None-Match", "Origin", "X-API-Key", "X-Request-ID", "Accept-Encoding", "Accept"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    typed=st.sampled_from(["BTC", "btc ", "bitcoin", "ETH", "UNP", "nope", "TWN", "%42TC", "BTC%2F", "B TC"]),
    method=st.sampled_from(["GET", "GET", "GET", "HEAD", "DELETE"]),
    query=st.sampled_from(["", "", "?", "?limit=0", "?symbols=x"]),
    headers=st.dictionaries(header_names, header_values, max_size=3),
)
async def test_whatever_the_request_both_ways_agree(world, typed, method, query, headers):
    ways = Ways(world)
    key = {"Authorization": f"Bearer {world.keys[Level.readonly].secret}"}
    slow, fast, _ = await ways.ask(method, CURRENT + typed + query, key | headers)
    same(slow, fast)


async def test_the_board_agrees_with_the_databases_named_query(world):
    with world.db.read() as conn:
        row = current_price(conn, BTC.asset_id)
    async with world.client() as client:
        body = (await client.get(CURRENT + "BTC")).json()
    assert body["current_price"] == row["current_price"]
    assert body["volume_24h"] == row["volume_usd_24h"]

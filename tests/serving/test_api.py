"""The conventions of the API: keys, levels, errors, limits, cross-origin reading, request ids, what is open."""

from __future__ import annotations

import json
import logging

import pytest

from ray_app.errors import StorageError
from ray_app.serving.keys import Level
from ray_app.serving.middleware import OPEN_PATHS
from ray_app.serving.problems import CODES
from tests.serving.gateway_world import NOW, World, client_of, market

CURRENT = "/api/v1/prices/current/BTC"
GUARDED = (
    CURRENT,
    "/api/v1/prices/current",
    "/api/v1/prices/historical/BTC",
    "/api/v1/assets",
    "/api/v1/assets/BTC",
    "/api/v1/stats/collectors",
    "/api/v1/stats/gaps",
    "/api/v1/admin/keys",
    "/api/v1/nothing/here",
    "/",
)


@pytest.fixture
def world(sqlite_db):
    return market(sqlite_db)


def problem(response, status: int, code: str) -> dict:
    """The problem document of an answer, checked for what every one must have."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["code"] == code
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["title"] == CODES[code][1]
    assert body["detail"]
    assert body["type"].startswith("urn:crypto-data:problem:")
    return body


# --- keys and levels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", GUARDED)
async def test_without_a_key_nothing_but_the_open_paths_answers(world, path):
    async with world.client(None) as client:
        response = await client.get(path)
    problem(response, 401, "INVALID_API_KEY")
    assert response.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("path", sorted(OPEN_PATHS))
async def test_the_open_paths_need_no_key(world, path):
    async with world.client(None) as client:
        assert (await client.get(path)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"Authorization": "Bearer cdc_aaaaaaaa_" + "a" * 52},
        {"X-API-Key": "wrong"},
        {"X-API-Key": ""},
        {"Authorization": "Bearer " + "x" * 5_000},
        {"Authorization": b"Bearer \xff\xfe"},
    ],
)
async def test_a_wrong_key_is_401(world, headers):
    async with client_of(world.api) as client:
        problem(await client.get(CURRENT, headers=headers), 401, "INVALID_API_KEY")


async def test_a_key_may_come_in_either_header_and_the_scheme_in_any_case(world):
    secret = world.keys[Level.readonly].secret
    for headers in (
        {"Authorization": f"Bearer {secret}"},
        {"Authorization": f"bearer {secret}"},
        {"Authorization": f"BEARER   {secret}"},
        {"X-API-Key": secret},
        {"Authorization": "Basic x", "X-API-Key": secret},
    ):
        async with client_of(world.api) as client:
            for _ in range(2):  # the general way, and then perhaps the fast one
                assert (await client.get(CURRENT, headers=headers)).status_code == 200


async def test_levels_are_enforced_per_route(world):
    wanted = {Level.readonly: 403, Level.trading: 403, Level.master: 200}
    for level, status in wanted.items():
        async with world.client(level) as client:
            response = await client.get("/api/v1/admin/keys")
            assert response.status_code == status
            if status == 403:
                assert "master" in problem(response, 403, "FORBIDDEN")["detail"]
            assert (await client.get(CURRENT)).status_code == 200


def test_every_route_is_open_on_purpose_or_asks_for_a_level(world):
    from fastapi.routing import APIRoute

    def levels(dependant):
        yield from (d.call.level for d in dependant.dependencies if hasattr(d.call, "level"))

    routes = [route for route in _flat(world.api.fastapi.routes) if isinstance(route, APIRoute)]
    assert len(routes) > 15
    for route in routes:
        asked = list(levels(route.dependant))
        assert (route.path in OPEN_PATHS) != bool(asked), route.path
        if "/admin/" in route.path:
            assert asked == [Level.master], route.path


def _flat(routes):
    for route in routes:
        inner = getattr(route, "original_router", None) or getattr(route, "router", None)
        yield from _flat(inner.routes) if inner is not None else [route]


async def test_revocation_works_in_a_running_gateway_on_both_ways(world):
    secret = world.keys[Level.readonly].secret
    async with world.client() as client:
        assert (await client.get(CURRENT)).status_code == 200
        assert (await client.get(CURRENT)).status_code == 200
        world.deps.keyring.revoke(world.keys[Level.readonly].key_id)
        problem(await client.get(CURRENT), 401, "INVALID_API_KEY")
        problem(await client.get("/api/v1/assets", headers={"X-API-Key": secret}), 401, "INVALID_API_KEY")


async def test_before_the_keys_could_be_read_the_answer_is_503_not_401(world):
    world.deps.keyring.loaded = False
    async with world.client() as client:
        problem(await client.get("/api/v1/assets"), 503, "SERVICE_UNAVAILABLE")


# --- errors --------------------------------------------------------------------------------------------------


async def test_unknown_paths_and_methods_are_problems(world):
    async with world.client() as client:
        problem(await client.get("/api/v1/nothing"), 404, "NOT_FOUND")
        problem(await client.get("/api/v1/prices/current/"), 404, "NOT_FOUND")
        response = await client.post(CURRENT)
        problem(response, 405, "METHOD_NOT_ALLOWED")
        assert response.headers["allow"] == "GET"


async def test_a_failure_inside_says_nothing_of_itself_and_is_logged_with_the_request_id(world, caplog):
    class Broken:
        async def summary(self):
            raise RuntimeError("SELECT secret FROM /etc/passwd at 10.0.0.7")

    world.deps.health = Broken()
    async with world.client(None) as client:
        response = await client.get("/health")
    body = problem(response, 500, "INTERNAL_ERROR")
    for leak in ("SELECT", "passwd", "10.0.0.7", "RuntimeError", "Traceback"):
        assert leak not in response.text
    assert body["request_id"] in caplog.text
    assert len([record for record in caplog.records if record.exc_info]) == 1


@pytest.mark.parametrize(
    "path", ["/api/v1/prices/historical/BTC", "/api/v1/stats/gaps", "/api/v1/stats/collectors", "/ready", CURRENT]
)
async def test_without_a_database_the_answer_is_503_and_names_no_host_path_or_sql(world, path, monkeypatch):
    def away():
        raise StorageError("mysql+pymysql://node:***@db.internal:3306/prices: SELECT x FROM /var/lib (2003)")

    monkeypatch.setattr(world.db, "read", away)
    world.deps.board.loaded = False
    world.deps.board._states = {}
    async with world.client() as client:
        response = await client.get(path)
    problem(response, 503, "SERVICE_UNAVAILABLE")
    assert int(response.headers["retry-after"]) > 0
    for leak in ("mysql", "db.internal", "3306", "SELECT", "/var", "pymysql", "2003"):
        assert leak not in response.text


async def test_health_without_a_database_is_an_answer_without_details(world, monkeypatch):
    def away():
        raise StorageError("mysql+pymysql://node:***@db.internal:3306/prices")

    monkeypatch.setattr(world.db, "read", away)
    async with world.client(None) as client:
        response = await client.get("/health")
    assert response.json()["components"]["database"]["status"] == "dead"
    assert "db.internal" not in response.text


async def test_a_body_that_is_too_large_is_refused_while_it_comes(world):
    async def endless():
        for _ in range(40):
            yield b" " * 65_536

    async with world.client(Level.master) as client:
        response = await client.post("/api/v1/admin/keys", content=endless())
    problem(response, 413, "PAYLOAD_TOO_LARGE")


# --- request ids ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["abc-123", "A" * 128, "0123:ab.cd_ef"])
async def test_a_sane_request_id_is_kept(world, given):
    async with world.client() as client:
        for path in (CURRENT, CURRENT, "/api/v1/nothing"):
            assert (await client.get(path, headers={"X-Request-ID": given})).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "A" * 129, "a b", 'a"b', "a\tb", "<script>", "ä".encode()])
async def test_any_other_is_replaced(world, given):
    async with world.client() as client:
        for path in (CURRENT, CURRENT, "/api/v1/nothing"):
            answered = (await client.get(path, headers={"X-Request-ID": given})).headers["x-request-id"]
            assert len(answered) == 32
            assert answered.isalnum()


async def test_behind_serve_the_request_id_is_left_to_it(sqlite_db):
    world = market(sqlite_db)
    world.deps.echo_request_id = False
    from ray_app.serving.api import build_api

    app = build_api(world.deps)
    async with client_of(app, Authorization=f"Bearer {world.keys[Level.readonly].secret}") as client:
        for path in (CURRENT, CURRENT, "/api/v1/assets"):
            assert "x-request-id" not in (await client.get(path)).headers
        body = (await client.get("/api/v1/nothing", headers={"X-Request-ID": "serve-made-it"})).json()
        assert body["request_id"] == "serve-made-it"


# --- limits --------------------------------------------------------------------------------------------------


async def test_the_limit_of_a_key_is_shown_enforced_and_comes_back(sqlite_db):
    world = market(sqlite_db, rate_limit_requests=3, rate_limit_window_s=60)
    async with world.client() as client:
        remaining = []
        for path in (CURRENT, CURRENT, "/api/v1/assets"):
            response = await client.get(path)
            assert response.status_code == 200
            assert response.headers["ratelimit-policy"] == '"default";q=3;w=60'
            assert response.headers["x-ratelimit-limit"] == "3"
            remaining.append(response.headers["x-ratelimit-remaining"])
            assert response.headers["ratelimit"].startswith(f'"default";r={remaining[-1]};t=')
            assert int(response.headers["x-ratelimit-reset"]) > 1_700_000_000
        assert remaining == ["2", "1", "0"]
        for path in (CURRENT, "/api/v1/assets"):
            refused = await client.get(path)
            problem(refused, 429, "RATE_LIMIT_EXCEEDED")
            assert refused.headers["retry-after"] == "20"
            assert refused.headers["x-ratelimit-remaining"] == "0"
        world.now_s += 20
        assert (await client.get(CURRENT)).status_code == 200
    async with world.client(Level.trading) as other:
        assert (await other.get(CURRENT)).status_code == 200
    async with world.client(None) as nobody:
        assert (await nobody.get("/live")).status_code == 200
        assert "ratelimit" not in (await nobody.get("/live")).headers


async def test_wrong_keys_lock_nobody_out_who_shares_the_address(world):
    """Behind a proxy everybody does; and keys are too long to be guessed."""
    async with client_of(world.api, Authorization="Bearer guess") as guesser:
        assert {(await guesser.get(CURRENT)).status_code for _ in range(200)} == {401}
    async with world.client(Level.master) as newcomer:
        assert (await newcomer.get(CURRENT)).status_code == 200


# --- cross-origin reading ------------------------------------------------------------------------------------

HERE, ELSEWHERE = "https://console.example", "https://evil.example"


async def test_cross_origin_reading_is_for_listed_origins_only_and_never_with_credentials(sqlite_db):
    world = market(sqlite_db, cors_origins=HERE)
    async with world.client() as client:
        for path in (CURRENT, CURRENT, "/api/v1/assets", "/api/v1/nothing"):
            listed = await client.get(path, headers={"Origin": HERE})
            assert listed.headers["access-control-allow-origin"] == HERE
            assert "RateLimit" in listed.headers["access-control-expose-headers"]
            other = await client.get(path, headers={"Origin": ELSEWHERE})
            assert "access-control-allow-origin" not in other.headers
            for response in (listed, other, await client.get(path)):
                assert "Origin" in response.headers["vary"]
                assert "access-control-allow-credentials" not in response.headers


async def test_a_preflight_needs_no_key_and_is_refused_to_strangers(sqlite_db):
    world = market(sqlite_db, cors_origins=f"{HERE},https://two.example")
    ask = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
    async with client_of(world.api) as client:
        allowed = await client.options(CURRENT, headers={"Origin": HERE, **ask})
        assert allowed.status_code == 204
        assert allowed.headers["access-control-allow-origin"] == HERE
        assert "authorization" in allowed.headers["access-control-allow-headers"]
        assert allowed.headers["vary"] == "Origin"
        refused = await client.options(CURRENT, headers={"Origin": ELSEWHERE, **ask})
        problem(refused, 403, "FORBIDDEN")
        assert "access-control-allow-origin" not in refused.headers


async def test_without_a_list_there_is_no_cross_origin_reading(world):
    async with world.client() as client:
        response = await client.get(CURRENT, headers={"Origin": HERE})
    assert response.status_code == 200
    assert "access-control-allow-origin" not in response.headers


# --- sandbox, HEAD, stripped headers, log --------------------------------------------------------------------


async def test_sandbox_data_says_so_in_every_answer_and_live_data_never(sqlite_db):
    sandbox, live = market(sqlite_db, origin="sandbox"), market(sqlite_db)
    for path in (CURRENT, CURRENT, "/api/v1/assets", "/api/v1/nothing", "/health"):
        async with sandbox.client() as client:
            assert (await client.get(path)).headers["x-data-origin"] == "sandbox"
        async with live.client() as client:
            assert "x-data-origin" not in (await client.get(path)).headers


async def test_head_is_get_without_the_body(world):
    async with world.client() as client:
        get, head = await client.get(CURRENT), await client.head(CURRENT)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("etag", "content-length", "content-type", "age"):
        assert head.headers[name] == get.headers[name]


async def test_serves_own_switches_are_taken_from_a_client(world):
    seen = {}

    async def spy(scope, receive, send):
        seen.update(dict(scope["headers"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    world.api.general._app = spy
    async with world.client() as client:
        await client.get(
            "/x", headers={"X-Request-Timeout-Seconds": "0", "X-Request-Disconnect-Disabled": "?1", "A": "b"}
        )
    assert seen[b"a"] == b"b"
    assert b"x-request-timeout-seconds" not in seen
    assert b"x-request-disconnect-disabled" not in seen


async def test_the_access_log_is_json_per_request_without_keys_or_queries(sqlite_db, caplog, monkeypatch):
    world = market(sqlite_db, access_log=True)
    monkeypatch.setattr(logging.getLogger("crypto_data.access"), "propagate", True)
    secret = world.keys[Level.readonly].secret
    with caplog.at_level(logging.INFO, "crypto_data.access"):
        async with world.client() as client:
            for _ in range(2):
                await client.get(CURRENT, headers={"X-Request-ID": "one"})
            await client.get(f"/api/v1/prices/current/{secret}?api_key={secret}")
        async with client_of(world.api, Authorization="Bearer guess") as client:
            await client.get("/api/v1/assets")
    lines = [json.loads(record.message) for record in caplog.records if record.name == "crypto_data.access"]
    assert [(line["status"], line["method"]) for line in lines] == [
        (200, "GET"),
        (200, "GET"),
        (404, "GET"),
        (401, "GET"),
    ]
    first, fast = lines[0], lines[1]
    key_id = world.keys[Level.readonly].key_id
    for line in (first, fast):
        assert (line["path"], line["key_id"], line["request_id"], line["time_ms"]) == (CURRENT, key_id, "one", NOW)
        assert line["bytes"] > 100
        assert line["duration_ms"] >= 0
    assert lines[3]["key_id"] is None
    everything = " ".join(json.dumps(line) for line in lines)
    assert secret not in everything
    assert "api_key" not in everything
    assert "guess" not in everything


# --- the description -----------------------------------------------------------------------------------------


async def test_openapi_lists_every_route_with_its_security_and_its_errors(world):
    async with world.client(None) as client:
        document = (await client.get("/openapi.json")).json()
    paths = document["paths"]
    assert "/api/v1/prices/current/{symbol}" in paths
    assert set(document["components"]["securitySchemes"]) == {"bearerKey", "headerKey"}
    for path, operations in paths.items():
        for operation in operations.values():
            assert operation["summary"]
            if path in OPEN_PATHS:
                assert "security" not in operation
            else:
                assert operation["security"] == [{"bearerKey": []}, {"headerKey": []}]
                assert {"401", "429", "503"} <= operation["responses"].keys()
    problem_schema = document["components"]["schemas"]["Problem"]
    assert set(problem_schema["properties"]["code"]["enum"]) == set(CODES)
    assert "HTTPValidationError" not in json.dumps(document)


async def test_the_docs_page_needs_no_other_host(world):
    async with world.client(None) as client:
        page = (await client.get("/docs")).text
    assert "openapi.json" in page
    assert "http://" not in page
    assert "https://" not in page
    assert "src=" not in page


async def test_an_empty_database_is_data_not_available_and_never_500(sqlite_db):
    from ray_app.assets import AssetRegistry

    world = World(sqlite_db, assets=AssetRegistry([]))
    async with world.client() as client:
        for loaded in (False, True):
            if loaded:
                world.keeper.reload_now()
            problem(await client.get(CURRENT), 404, "DATA_NOT_AVAILABLE")
            problem(await client.get("/api/v1/prices/historical/BTC"), 404, "DATA_NOT_AVAILABLE")
        problem(await client.get("/api/v1/prices/current"), 404, "DATA_NOT_AVAILABLE")
        problem(await client.get("/api/v1/prices/current?symbols=BTC,ETH"), 404, "DATA_NOT_AVAILABLE")
        assert (await client.get("/api/v1/stats/gaps")).json()["data"] == []
        assert (await client.get("/api/v1/stats/collectors")).status_code == 200
        assert (await client.get("/ready")).status_code == 200
        assert (await client.get("/health")).status_code == 200

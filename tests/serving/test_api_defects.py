"""Each defect of the earlier gateway, as something that cannot happen here (earlier_system.md §4d)."""

from __future__ import annotations

import pytest
from sqlalchemy import inspect

from ray_app.errors import ConfigError, StorageError
from ray_app.serving.keys import KeyRing, Level, seed_keys
from ray_app.settings import Settings, load_settings
from ray_app.storage.engine import Database
from ray_app.storage.migrate import check, upgrade
from tests.serving.gateway_world import BTC, NOW, World, candle_row, client_of, market, price_row

HOUR_MS = 3_600_000
EVERY_DATA_ROUTE = (
    "/api/v1/prices/current/BTC",
    "/api/v1/prices/current",
    "/api/v1/prices/current?symbols=BTC,ETH",
    "/api/v1/prices/historical/BTC",
    "/api/v1/assets",
    "/api/v1/assets/BTC",
    "/api/v1/stats/collectors",
    "/api/v1/stats/gaps",
)


@pytest.fixture
def migrated(database_url):
    """A database made by the migrations alone: what production has."""
    database = Database(database_url)
    upgrade(database)
    yield database
    database.dispose()


async def test_every_data_route_answers_over_the_schema_the_migrations_make(migrated):
    """Then: queries named tables and columns that did not exist, so every data route failed."""
    assert check(migrated) == []
    world = market(migrated)
    world.store_candles(*[candle_row(BTC, 3_600, NOW - n * HOUR_MS) for n in range(1, 30)])
    with migrated.read() as conn:
        assert "raw_price_data" not in inspect(conn).get_table_names()
    async with world.client() as client:
        for path in EVERY_DATA_ROUTE:
            assert (await client.get(path)).status_code == 200, path


async def test_nothing_needs_redis(sqlite_db):
    """Then: without Redis prices were 503, /ready failed for ever and /health was never healthy."""
    world = market(sqlite_db)
    assert world.deps.settings.resolved_redis_url is None
    async with world.client() as client:
        assert (await client.get("/api/v1/prices/current/BTC")).status_code == 200
        assert (await client.get("/ready")).status_code == 200
        components = (await client.get("/health")).json()["components"]
    assert components["redis"]["status"] == "off"
    assert components["redis"]["score"] is None  # an absence costs nothing


async def test_a_redis_that_refuses_does_not_stop_an_answer(sqlite_db):
    """Then: a failed Redis AUTH took the whole gateway down."""
    world = market(sqlite_db, redis_url="redis://:wrong@127.0.0.1:1/0")
    async with world.client() as client:
        assert (await client.get("/api/v1/prices/current/BTC")).status_code == 200
        assert (await client.get("/ready")).status_code == 200
        assert (await client.get("/health")).status_code == 200


def test_redis_enabled_is_reported_as_ignored_with_the_reason(monkeypatch):
    """Then: REDIS_ENABLED was read and ignored in silence."""
    from ray_app.settings import ignored_names

    monkeypatch.setenv("REDIS_ENABLED", "false")
    assert "REDIS_URL" in ignored_names()["REDIS_ENABLED"]


async def test_configured_limits_are_enforced(sqlite_db):
    """Then: rate limits were configured and never enforced."""
    world = market(sqlite_db, rate_limit_requests=2, rate_limit_window_s=60)
    async with world.client() as client:
        assert [(await client.get("/api/v1/assets")).status_code for _ in range(3)] == [200, 200, 429]


@pytest.mark.parametrize("key", ["master-key", "trading-key", "readonly-key", "master-crypto-data-key-2025"])
async def test_guessable_default_keys_are_refused_everywhere(sqlite_db, monkeypatch, key):
    """Then: with the variables unset, `master-key` and its like opened everything."""
    world = market(sqlite_db)
    async with client_of(world.api, Authorization=f"Bearer {key}") as client:
        assert (await client.get("/api/v1/assets")).status_code == 401
    for name in ("API_KEY_MASTER", "API_KEY_TRADING", "API_KEY_READONLY"):
        monkeypatch.setenv(name, key)
    with pytest.raises(ConfigError, match="API_KEY_MASTER"):
        load_settings(_env_file=None)


def test_without_configured_keys_there_are_none(sqlite_db):
    ring = KeyRing(sqlite_db, World(sqlite_db).clock)
    assert seed_keys(sqlite_db, Settings(_env_file=None), ring.clock) == []


def test_a_star_as_allowed_origin_is_refused_at_start(monkeypatch):
    """Then: CORS allowed `*` together with credentials."""
    monkeypatch.setenv("CORS_ORIGINS", "*")
    with pytest.raises(ConfigError, match="CORS_ORIGINS"):
        load_settings(_env_file=None)


def test_a_replica_opens_no_more_connections_than_its_pool(sqlite_db):
    """Then: 4 workers with pools of 20 made 80 connections."""
    assert Settings(_env_file=None).db_pool_size == 15


async def test_the_interval_is_obeyed(sqlite_db):
    """Then: interval was accepted and ignored."""
    world = market(sqlite_db)
    world.store_candles(*[candle_row(BTC, 3_600, NOW - n * HOUR_MS) for n in range(1, 30)])
    async with world.client() as client:
        bars = {}
        for interval in ("1h", "4h", "1d"):
            answer = await client.get("/api/v1/prices/historical/BTC", params={"days": "1", "interval": interval})
            bars[interval] = len(answer.json()["data"])
    assert bars == {"1h": 24, "4h": 6, "1d": 1}


async def test_the_level_of_a_key_is_checked(sqlite_db):
    """Then: no route checked it."""
    world = market(sqlite_db)
    async with world.client(Level.trading) as client:
        assert (await client.post("/api/v1/admin/collect/crypto-prices")).status_code == 403
    assert world.jobs.submitted == {}


@pytest.mark.parametrize("typed", ["bitcoin", "Bitcoin", "BTC", "btc"])
async def test_the_readmes_own_example_works(sqlite_db, typed):
    """Then: /prices/current/bitcoin was upper-cased, compared with the ticker, and 404."""
    world = market(sqlite_db)
    async with world.client() as client:
        assert (await client.get(f"/api/v1/prices/current/{typed}")).json()["symbol"] == "BTC"


async def test_a_null_in_a_row_is_null_in_the_answer(sqlite_db):
    """Then: fields were declared as floats, and a NULL was a 500."""
    world = World(sqlite_db)
    world.store_prices(price_row(BTC, NOW, 1.0))
    world.store_candles(candle_row(BTC, 3_600, NOW - HOUR_MS, volume=None))
    async with world.client() as client:
        assert (await client.get("/api/v1/prices/current/BTC")).json()["price_change_24h"] is None
        assert (await client.get("/api/v1/prices/historical/BTC")).json()["data"][0]["volume"] is None


async def test_a_symbol_without_data_is_named_in_a_bulk_answer(sqlite_db):
    """Then: bulk left out symbols without a recent row, in silence."""
    world = market(sqlite_db)
    async with world.client() as client:
        body = (await client.get("/api/v1/prices/current", params={"symbols": "BTC,UNP,zzzz"})).json()
    assert [entry["symbol"] for entry in body["missing"]] == ["UNP", "zzzz"]


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "1e9", "NaN"])
@pytest.mark.parametrize("path", ["prices/current", "prices/historical/BTC", "assets", "stats/gaps"])
async def test_a_limit_has_bounds_on_both_sides(sqlite_db, path, limit):
    """Then: 0 and negative limits reached the SQL."""
    world = market(sqlite_db)
    async with world.client() as client:
        response = await client.get(f"/api/v1/{path}", params={"limit": limit})
    assert response.status_code == 422
    assert response.json()["code"] == "VALIDATION_ERROR"


@pytest.mark.parametrize("path", ["/health", "/ready"])
async def test_a_database_error_does_not_leak_into_open_answers(sqlite_db, monkeypatch, path):
    """Then: exception texts with hosts and SQL stood in /health and /ready, which need no key."""
    world = market(sqlite_db)

    def away():
        raise StorageError("(2003, \"Can't connect to MySQL server on 'db.internal' ([Errno 111])\") SELECT 1")

    monkeypatch.setattr(world.db, "read", away)
    async with world.client(None) as client:
        text = (await client.get(path)).text
    for leak in ("MySQL", "db.internal", "Errno", "SELECT", "2003"):
        assert leak not in text


async def test_a_word_that_is_also_a_path_is_not_mistaken_for_a_symbol(sqlite_db):
    """Then: /ml-features/{symbol} would have captured `bulk`."""
    world = market(sqlite_db)
    async with world.client() as client:
        assert (await client.get("/api/v1/prices/current")).json()["count"] > 1
        assert (await client.get("/api/v1/prices/current/historical")).json()["code"] == "INVALID_SYMBOL"

"""The gateway as it really runs: opened from the settings, on a real server, over real connections."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager

import httpx
import pytest
import uvicorn

from ray_app.assets import AssetRegistry
from ray_app.serving.api import build_api
from ray_app.serving.deps import open_gateway
from ray_app.serving.keys import KeyRing, Level, ensure_local_keys
from ray_app.settings import Settings
from ray_app.storage import outbox, registry
from ray_app.storage.engine import Database
from ray_app.storage.migrate import upgrade
from ray_app.storage.tables import price_data_real
from ray_app.storage.upsert import guarded_upsert
from tests.serving.gateway_world import price_event, price_row

pytestmark = pytest.mark.integration
CURRENT = "/api/v1/prices/current/BTC"


@pytest.fixture
def settings(tmp_path, database_url):
    return Settings(_env_file=None, data_dir=tmp_path, database_url=database_url, access_log=False)


@pytest.fixture
def node(settings):
    """A migrated database with a registry and keys, as the launcher leaves it."""
    db = Database(settings.resolved_database_url)
    upgrade(db)
    deps = open_gateway(settings)
    now_ms = deps.clock.now_ms()
    db.run(lambda conn: registry.save(conn, AssetRegistry.seed(), now_ms))
    keys = {key.level: key for key in ensure_local_keys(db, settings.keys_file, deps.clock)}
    deps.db.dispose()
    yield db, keys, now_ms // 300_000 * 300_000
    db.dispose()


@asynccontextmanager
async def serving(settings):
    """The gateway on uvicorn, with its lifespan; yields the base URL."""
    app = build_api(open_gateway(settings))
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="on"))
        task = asyncio.create_task(server.serve(sockets=[sock]))
        try:
            async with asyncio.timeout(20):
                while not server.started:
                    await asyncio.sleep(0.01)
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


def client(url, key):
    return httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key.secret}"}, trust_env=False)


def store(db, row, asset):
    def work(conn):
        guarded_upsert(conn, price_data_real, [row])
        outbox.append(conn, "prices", [price_event(row, asset)], row["known_at"])

    db.run(work)


async def eventually(ask, wanted, timeout_s=15.0, pause_s=0.05):
    async with asyncio.timeout(timeout_s):
        while True:
            answer = await ask()
            if wanted(answer):
                return answer
            await asyncio.sleep(pause_s)


async def test_a_price_stored_elsewhere_appears_and_is_revalidated_over_one_connection(settings, node):
    db, keys, slot = node
    btc = AssetRegistry.seed().resolve("BTC").asset
    async with serving(settings) as url, client(url, keys[Level.readonly]) as http:
        assert (await http.get(CURRENT)).json()["code"] == "DATA_NOT_AVAILABLE"
        store(db, price_row(btc, slot, 91_000.5, known_at=slot), btc)
        first = await eventually(lambda: http.get(CURRENT), lambda answer: answer.status_code == 200)
        assert first.json()["current_price"] == 91_000.5
        ports = set()
        for _ in range(5):
            answer = await http.get(CURRENT, headers={"If-None-Match": first.headers["etag"]})
            assert (answer.status_code, answer.content) == (304, b"")
            ports.add(answer.extensions["network_stream"].get_extra_info("client_addr"))
        assert len(ports) == 1
        store(db, price_row(btc, slot + 300_000, 92_000.5, known_at=slot), btc)
        changed = await eventually(
            lambda: http.get(CURRENT, headers={"If-None-Match": first.headers["etag"]}),
            lambda answer: answer.status_code == 200,
        )
        assert changed.json()["current_price"] == 92_000.5
        assert int(changed.headers["age"]) >= 0


async def test_large_answers_travel_compressed_and_head_keeps_the_connection_usable(settings, node):
    db, keys, slot = node
    rows = [price_row(asset, slot, 1.0 + asset.asset_id) for asset in AssetRegistry.seed().active()]
    db.run(lambda conn: guarded_upsert(conn, price_data_real, rows))
    async with serving(settings) as url, client(url, keys[Level.readonly]) as http:
        packed = await http.get("/api/v1/prices/current", params={"limit": "1000"})
        assert packed.headers["content-encoding"] == "gzip"
        assert len(packed.json()["data"]) == len(rows) >= 300
        assert int(packed.headers["content-length"]) < len(packed.content) / 4
        plain = await http.get(
            "/api/v1/prices/current", params={"limit": "1000"}, headers={"Accept-Encoding": "identity"}
        )
        assert plain.content == packed.content
        for _ in range(3):
            head = await http.head("/api/v1/prices/current")
            assert (head.status_code, head.content) == (200, b"")
            assert (await http.get(CURRENT)).status_code == 200


async def test_a_key_made_or_revoked_elsewhere_is_known_to_a_running_gateway_within_seconds(settings, node):
    db, keys, _ = node

    async def becomes(status):
        await eventually(lambda: http.get("/api/v1/assets"), lambda answer: answer.status_code == status, pause_s=0.3)

    async with serving(settings) as url:
        ring = KeyRing(db, open_gateway_clock(settings))
        made = ring.create("late", Level.readonly)
        async with client(url, made) as http:
            await becomes(200)
            ring.revoke(made.key_id)
            await becomes(401)
        async with client(url, keys[Level.master]) as http:
            assert (await http.get("/api/v1/assets")).status_code == 200


def open_gateway_clock(settings):
    from ray_app.clock import open_clock

    return open_clock(settings.epoch_file)


async def test_a_gateway_starts_without_its_database_and_recovers_when_it_comes(tmp_path, settings):
    """Nothing is migrated yet: open paths answer, the rest is 503, and then everything works without a restart."""
    async with serving(settings) as url:
        async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
            assert (await http.get("/live")).status_code == 200
            assert (await http.get("/ready")).status_code == 503
            assert (await http.get("/health")).status_code == 200
            answer = await http.get("/api/v1/assets", headers={"X-API-Key": "x" * 20})
            assert answer.json()["code"] == "SERVICE_UNAVAILABLE"
        db = Database(settings.resolved_database_url)
        try:
            upgrade(db)
            (key, *_) = ensure_local_keys(db, settings.keys_file, open_gateway_clock(settings))
        finally:
            db.dispose()
        async with client(url, key) as http:
            await eventually(lambda: http.get("/api/v1/assets"), lambda answer: answer.status_code == 200)
            assert (await http.get("/ready")).status_code == 200


async def test_a_body_is_refused_as_too_large_without_being_kept(settings, node):
    _, keys, _ = node
    async with serving(settings) as url, client(url, keys[Level.master]) as http:
        answer = await http.post("/api/v1/admin/backfill", content=b" " * 3_000_000)
        assert answer.json()["code"] == "PAYLOAD_TOO_LARGE"

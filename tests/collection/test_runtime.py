"""What the tools of a collector do together, against a scripted HTTP server."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager

import pytest

from ray_app.assets import AssetRegistry
from ray_app.clock import ManualClock
from ray_app.collection import control
from ray_app.collection.control import holding
from ray_app.collection.runtime import Runtime
from ray_app.errors import BudgetExhausted, LeaseLost, RateLimited
from ray_app.sources.coingecko import Markets
from ray_app.storage import tables
from ray_app.storage.engine import Database
from ray_app.storage.migrate import upgrade
from tests.collection.test_ingest import NOW, prepare, rows, settings_of
from tests.collection.test_transport import Upstreamish, answer
from tests.collection.world import START

pytestmark = pytest.mark.integration  # a real HTTP server on loopback

REQUEST = Markets().request(["bitcoin"], START)
ENVELOPE = b'{"status": {"error_code": 429, "error_message": "You\'ve exceeded the Rate Limit."}}'


@asynccontextmanager
async def collecting(directory, url, *replies):
    """A runtime that holds its lease and asks a server that plays ``replies``."""
    prepare(url)
    server = Upstreamish(list(replies))
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    base = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    settings = settings_of(directory / "data", url).model_copy(update={"coingecko_base_url": base})
    async with (
        listener,
        await Runtime.open(settings, "crypto-prices", clock=ManualClock(NOW)) as runtime,
        holding(runtime, "crypto-prices", "me"),
    ):
        yield runtime, server


@pytest.mark.parametrize(("headers", "pause_s"), [((), 60), (("Retry-After: 300",), 300)])
async def test_a_429_inside_a_200_pauses_the_account_as_one_outside_does(tmp_path, sqlite_url, headers, pause_s):
    async with collecting(tmp_path, sqlite_url, answer("200 OK", ENVELOPE, *headers)) as (runtime, server):
        receipt = await runtime.fetch(REQUEST)
        assert isinstance(receipt.error, RateLimited)
        with pytest.raises(BudgetExhausted, match="paused") as refused:
            await runtime.budgets.acquire("coingecko", max_wait_s=1)
        (fetch,) = rows(runtime.db, tables.fetches)
        assert refused.value.until_ms == fetch["fetched_at"] + pause_s * 1_000
        assert len(server.requests) == 1


async def test_processes_that_start_at_once_on_an_empty_database_share_one_registry(tmp_path, mariadb_url):
    db = Database(mariadb_url)
    upgrade(db)
    db.dispose()
    settings = settings_of(tmp_path / "data", mariadb_url)
    opened = await asyncio.gather(
        *(Runtime.open(settings, "crypto-prices", clock=ManualClock(NOW), writer=f"w{n}") for n in range(8))
    )
    assert len({runtime.registry for runtime in opened}) == 1
    assert opened[0].registry == AssetRegistry.seed()
    await asyncio.gather(*(runtime.close() for runtime in opened))


async def test_a_lease_ends_for_its_holder_also_where_the_database_hangs(tmp_path, sqlite_url, monkeypatch):
    monkeypatch.setattr(control, "LEASE_TTL_S", 0.3)
    monkeypatch.setattr(control, "RENEW_S", 0.1)
    prepare(sqlite_url)
    answers = threading.Event()
    async with await Runtime.open(
        settings_of(tmp_path / "data", sqlite_url), "crypto-prices", clock=ManualClock(NOW)
    ) as runtime:
        monkeypatch.setattr(runtime.leases, "renew", lambda _: answers.wait(60))
        try:
            with pytest.raises(LeaseLost, match="does not answer"):
                async with holding(runtime, "crypto-prices", "me"):
                    await asyncio.Event().wait()
        finally:
            answers.set()

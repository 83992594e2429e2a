"""What the tools of a collector do together, against a scripted HTTP server."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from ray_app.clock import ManualClock
from ray_app.collection.control import holding
from ray_app.collection.runtime import Runtime
from ray_app.errors import BudgetExhausted, RateLimited
from ray_app.sources.coingecko import Markets
from ray_app.storage import tables
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

"""The client against the sandbox's WebSocket, in process: what is lost when it is killed, stalled or complained about."""

from __future__ import annotations

import asyncio
import contextlib
import time

import orjson
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ray_app.clock import Epoch
from ray_app.collection.ticks.client import Limits, TickStream
from ray_app.collection.ticks.sequence import Rules
from ray_app.sandbox.app import SandboxConfig, create_app
from ray_app.sandbox.faults import FaultScript, parse_faults
from ray_app.sandbox.server import running
from ray_app.sources import ENDPOINTS, Exchange
from tests.collection.world import START, small_registry

pytestmark = pytest.mark.integration

#: node seconds a wall second
SCALE = 20.0
PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD", "LINK-USD")
RULES = Rules(chunk=2, reply_s=1.0, stale_s=0.5, silent_s=0.5, live_s=0.3, batch_s=0.8, pause_s=0.05, steady_s=0.2)
LIMITS = Limits(look_s=0.05, open_s=2.0)


@pytest.fixture(scope="module")
def sandbox():
    config = SandboxConfig(Epoch(round(time.time() * 1_000), START, SCALE, START), seed=7, registry=small_registry())
    app = create_app(config)
    app.ticks.pace.round_s = 0.05
    with running(app) as url:
        yield app, url.replace("http://", "ws://") + "/coinbase-ws", url


@pytest.fixture
def feed(sandbox):
    app, _, _ = sandbox
    yield app.ticks
    app.ticks.faults = FaultScript()


@contextlib.asynccontextmanager
async def streaming(url, products=PRODUCTS, live=(), rules=RULES):
    stream = TickStream(url, products, live, limits=LIMITS, rules=rules)
    task = asyncio.create_task(stream.run())
    try:
        yield stream
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()


async def until(condition, seconds=5.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def fault(kind, **options):
    more = "".join(f", {name}: {value}" for name, value in options.items())
    return parse_faults(f"faults: [{{source: coinbase-ws, kind: {kind}{more}}}]", START)


async def test_every_product_has_ticks_at_once_and_then_whenever_it_trades(sandbox, feed):
    async with streaming(sandbox[1]) as stream:
        await until(lambda: stream.watch.counts.heartbeats > 10 * len(PRODUCTS))
        frames = [orjson.loads(frame) for frame in stream.take().frames]
        ticks = [frame for frame in frames if frame["type"] == "ticker"]
        assert {tick["product_id"] for tick in ticks} == set(PRODUCTS)
        assert {frame["type"] for frame in frames} == {"ticker", "subscriptions"}, "heartbeats are not kept"
        assert stream.watch.phase == "live"
        assert stream.watch.counts.lost_ticks == 0
        assert 0 < stream.state()["covered_s"] < 5


async def test_what_is_received_is_what_the_source_reads(sandbox, feed):
    async with streaming(sandbox[1]) as stream:
        await until(lambda: stream.watch.counts.ticks >= 2 * len(PRODUCTS))
        batch = stream.take()
    now = feed.clock.now_ms()
    request = ENDPOINTS["coinbase.ticker"].request(["ticker_batch"], len(PRODUCTS), frames=len(batch.frames))
    parsed = ENDPOINTS["coinbase.ticker"].parse(Exchange(request, 200, {}, batch.body, now))
    assert parsed.issues == ()
    assert {row.key["coinbase_product"] for row in parsed.rows} == set(PRODUCTS)
    market = feed.world.market
    for row in parsed.rows:
        asset = market.by_product[row.key["coinbase_product"]]
        price, _ = market.price(asset.asset_id, row.values["event_time"])
        assert row.values["current_price"] == pytest.approx(price, rel=1e-6)
        assert row.values["bid_price"] < price < row.values["ask_price"]
        assert row.values["low_24h"] <= price <= row.values["high_24h"]


async def test_no_tick_is_lost_between_two_heartbeats_of_the_live_channel(sandbox, feed):
    async with streaming(sandbox[1], live=PRODUCTS) as stream:
        await until(lambda: stream.watch.counts.heartbeats > 20 * len(PRODUCTS))
        newest = {name: product.trade_id for name, product in stream.watch._products.items()}
        ids: dict[str, list[int]] = {}
        for frame in map(orjson.loads, stream.take().frames):
            if frame["type"] == "ticker":
                ids.setdefault(frame["product_id"], []).append(frame["trade_id"])
    assert stream.watch.counts.lost_ticks == 0
    for product, seen in ids.items():
        assert seen == sorted(seen)
        assert len(seen) >= 15
        assert newest[product] >= seen[-1]


async def test_ticks_that_are_left_out_are_noticed(sandbox, feed):
    async with streaming(sandbox[1], live=PRODUCTS) as stream:
        await until(lambda: stream.watch.counts.ticks > 2 * len(PRODUCTS))
        feed.faults = fault("drop_ids", ids="[ETH-USD]")
        await until(lambda: stream.watch.counts.lost_ticks >= 1)
        before = stream.watch.counts.lost_ticks
        feed.faults = FaultScript()
        await asyncio.sleep(0.5)
        assert stream.watch.counts.lost_ticks <= before + 1


async def test_a_killed_connection_is_opened_again_with_every_product(sandbox, feed):
    async with streaming(sandbox[1]) as stream:
        await until(lambda: stream.watch.phase == "live")
        stream._socket.transport.abort()
        await until(lambda: stream.watch.counts.connections == 2 and stream.watch.phase == "live")
        stream.take()
        await until(lambda: stream.watch.counts.ticks > 0 and len(stream._buffer) >= len(PRODUCTS) - 1)
        assert stream.state()["lost_s"] > 0


async def test_a_stalled_stream_is_given_up_and_opened_again(sandbox, feed):
    async with streaming(sandbox[1]) as stream:
        await until(lambda: stream.watch.phase == "live")
        feed.faults = fault("timeout")
        await until(lambda: "stalled" in stream.watch.counts.ended)
        feed.faults = FaultScript()
        await until(lambda: stream.watch.phase == "live" and stream.watch.counts.connections >= 2)
        assert stream.state()["lost_s"] >= RULES.stale_s


async def test_an_outage_is_waited_out(sandbox, feed):
    async with streaming(sandbox[1]) as stream:
        await until(lambda: stream.watch.phase == "live")
        feed.faults = fault("outage")
        await until(lambda: stream.watch.counts.ended.get("refused: InvalidStatus", 0) >= 2)
        assert stream.watch.counts.ended["closed 1012"] == 1
        feed.faults = FaultScript()
        await until(lambda: stream.watch.phase == "live")


async def test_a_slow_reader_is_told_and_counted(sandbox, feed):
    async with streaming(sandbox[1]) as stream:
        await until(lambda: stream.watch.phase == "live")
        feed.faults = fault("status")
        await until(lambda: stream.watch.counts.slow >= 2)
        assert stream.watch.counts.errors >= 1


async def test_broken_frames_are_counted_and_kept_for_the_archive(sandbox, feed):
    feed.faults = fault("truncate", at=0.5)
    async with streaming(sandbox[1]) as stream:
        await until(lambda: stream.watch.counts.malformed >= len(PRODUCTS))
        assert stream.watch.phase == "live"
        assert any(frame.startswith(b'{"type":"ticker"') for frame in stream.take().frames)


async def test_unknown_products_cost_nobody_else_anything(sandbox, feed):
    async with streaming(sandbox[1], (*PRODUCTS, "NOPE-USD")) as stream:
        await until(lambda: stream.watch.phase == "live")
        assert stream.state()["refused"] == ["NOPE-USD"]


async def test_other_products_are_followed_on_the_same_connection(sandbox, feed):
    async with streaming(sandbox[1], ("BTC-USD", "ETH-USD")) as stream:
        await until(lambda: stream.watch.phase == "live")
        stream.change(["BTC-USD", "SOL-USD"])
        await until(lambda: set(stream.watch._confirmed.get("heartbeat", ())) == {"BTC-USD", "SOL-USD"})
        assert stream.watch.counts.connections == 1


async def test_nobody_listening_is_no_error(sandbox):
    async with streaming("ws://127.0.0.1:9/ws") as stream:
        await until(lambda: sum(stream.watch.counts.ended.values()) >= 3)
        state = orjson.loads(orjson.dumps(stream.state()))
        assert (state["phase"], set(state["ended"])) == ("down", {"unreachable: ConnectionRefusedError"})
        assert stream.take().frames == []


async def test_a_redirect_is_not_followed(sandbox):
    def elsewhere(connection, request):
        response = connection.respond(302, "elsewhere\n")
        response.headers["Location"] = sandbox[1]
        return response

    async with serve(lambda _: None, "127.0.0.1", 0, process_request=elsewhere) as server:
        port = server.sockets[0].getsockname()[1]
        async with streaming(f"ws://127.0.0.1:{port}/") as stream:
            await until(lambda: sum(stream.watch.counts.ended.values()) >= 2)
            assert set(stream.watch.counts.ended) == {"refused: InvalidStatus"}
            assert stream.watch.counts.connections == 0


async def test_a_frame_over_a_megabyte_ends_the_connection(sandbox):
    async def shout(socket):
        await socket.recv()
        await socket.send("x" * (LIMITS.frame_bytes + 1))
        await socket.wait_closed()

    async with serve(shout, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with streaming(f"ws://127.0.0.1:{port}/") as stream:
            await until(lambda: stream.watch.counts.ended.get("closed 1009", 0) >= 1)
            assert stream._buffer.size == 0


# --- the sandbox's manners ---


async def test_who_does_not_subscribe_is_sent_away(sandbox, feed):
    feed.pace.subscribe_s = 0.1
    try:
        async with connect(sandbox[1]) as socket:
            with pytest.raises(ConnectionClosed):
                async with asyncio.timeout(3):
                    await socket.recv()
    finally:
        feed.pace.subscribe_s = 5.0


@pytest.mark.parametrize("said", ["{", "[]", "1", '{"type": "subscribe"}', '{"type": "x", "channels": ["ticker"]}'])
async def test_what_is_no_subscription_is_answered_with_an_error(sandbox, feed, said):
    async with connect(sandbox[1]) as socket:
        await socket.send(said)
        async with asyncio.timeout(3):
            assert orjson.loads(await socket.recv())["type"] == "error"


async def test_channels_may_be_objects(sandbox, feed):
    async with connect(sandbox[1]) as socket:
        channels = [{"name": "heartbeat", "product_ids": ["ETH-USD"]}, "ticker"]
        await socket.send(
            orjson.dumps({"type": "subscribe", "product_ids": ["BTC-USD"], "channels": channels}).decode()
        )
        async with asyncio.timeout(3):
            reply = orjson.loads(await socket.recv())
    assert {c["name"]: c["product_ids"] for c in reply["channels"]} == {"heartbeat": ["ETH-USD"], "ticker": ["BTC-USD"]}


async def test_another_path_speaks_no_websocket(sandbox):
    with pytest.raises(InvalidStatus):
        async with connect(sandbox[1].replace("coinbase-ws", "elsewhere")):
            pass


async def test_the_http_side_goes_on_beside_the_stream(sandbox, feed):
    import httpx

    async with streaming(sandbox[1], live=PRODUCTS), httpx.AsyncClient() as http:
        await asyncio.sleep(0.3)
        took = []
        for _ in range(20):
            began = time.perf_counter()
            assert (await http.get(f"{sandbox[2]}/sandbox/state")).status_code == 200
            took.append(time.perf_counter() - began)
        assert sorted(took)[10] < 0.1

"""``/ws/ticks``: the same protocol as prices, with sequence numbers of its own."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from ray_app.storage import outbox
from ray_app.storage.engine import Database
from ray_app.storage.tables import price_data_real
from ray_app.storage.upsert import guarded_upsert
from tests.serving.stream_world import KEY, START, World, price_row, serving

pytestmark = pytest.mark.integration


@pytest.fixture
def world(sqlite_db: Database) -> World:
    return World(sqlite_db)


async def tick(world: World, *assets: int, number: int = 1) -> list[int]:
    rows = [
        price_row(asset, number, source="coinbase.ticker", market_cap=None, bid_price=99.0, ask_price=101.0)
        for asset in assets
    ]

    def work(conn):
        names = ("symbol", "coin_id")
        guarded_upsert(conn, price_data_real, [{k: v for k, v in row.items() if k not in names} for row in rows])
        bodies = [orjson.dumps(row) for row in rows]
        return list(zip(outbox.append(conn, "ticks", bodies, START), bodies, strict=True))

    events = await asyncio.to_thread(world.db.run, work)
    await world.ring.publish("ticks", events)
    return [seq for seq, _ in events]


async def subscribe(client, *symbols):
    await client.say({"symbols": list(symbols), "api_key": KEY})
    assert (await client.hear_of("subscribed"))["channel"] == "ticks"
    return await client.hear_of("snapshot")


async def test_ticks_come_with_bid_and_ask_and_numbers_of_their_own(world: World) -> None:
    await world.move(1, 2)
    await tick(world, 1)
    async with serving(world.deps(), path="/ws/ticks") as server, server.connect() as client:
        snapshot = await subscribe(client, "BTC", "ETH")
        assert (snapshot["seq"], [price["symbol"] for price in snapshot["prices"]]) == (1, ["BTC"])
        await world.move(1)
        [seq] = await tick(world, 2, number=7)
        heard = await client.hear_of("tick")
        assert heard == {
            "type": "tick",
            "seq": 2,
            "symbol": "ETH",
            "coin_id": "ethereum",
            "data": {"price_usd": 107.0, "bid": 99.0, "ask": 101.0, "volume_base_24h": None},
            "timestamp": heard["timestamp"],
            "source": "coinbase.ticker",
        }
        assert seq == 2


async def test_prices_hear_of_no_tick_and_ticks_are_not_read_before_somebody_wants_them(world: World) -> None:
    await world.move(1)
    async with serving(world.deps()) as server, server.subscribed("BTC") as (client, snapshot):
        assert snapshot["prices"][0]["source"] == "coingecko.markets"
        assert set(server.streams._hubs) == {"prices"}
        await tick(world, 1)
        [seq] = await world.move(1)
        assert (await client.hear_of("price_update"))["seq"] == seq


async def test_a_resume_brings_the_ticks_missed_and_behind_what_is_kept_a_gap(world: World) -> None:
    for number in range(1, 7):
        await tick(world, 1, number=number)
    async with serving(world.deps(), path="/ws/ticks") as server:
        async with server.connect() as client:
            await client.say({"action": "resume", "after_seq": 4, "symbols": ["BTC"], "api_key": KEY})
            await client.hear_of("subscribed")
            assert [(await client.hear_of("tick"))["seq"] for _ in range(2)] == [5, 6]
            assert (await client.hear_of("resumed"))["channel"] == "ticks"
        world.db.run(lambda conn: outbox.append(conn, "ticks", [b"{}"], START + 10))
    world.db.run(lambda conn: outbox.prune(conn, START + 5, channel="ticks"))
    async with serving(world.deps(), path="/ws/ticks") as server, server.connect() as client:
        await client.say({"action": "resume", "after_seq": 2, "symbols": ["BTC"], "api_key": KEY})
        await client.hear_of("subscribed")
        gap = await client.hear_of("gap")
        assert (gap["channel"], gap["first_missing"], gap["last_missing"]) == ("ticks", 3, 6)
        await client.hear_of("resumed")
        assert (await client.hear_of("snapshot"))["prices"][0]["data"]["price_usd"] == 106.0

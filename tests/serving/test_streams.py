"""The WebSocket protocol of prices, spoken to a real server by a real client."""

from __future__ import annotations

import asyncio
import json
import random
import socket as sockets
from dataclasses import replace

import httpx
import pytest
import websockets
from sqlalchemy import Connection

from ray_app.serving import stream_hub
from ray_app.serving.stream_connection import Limits
from ray_app.settings import Settings
from ray_app.storage import outbox
from ray_app.storage.engine import Database
from tests.serving.stream_world import KEY, PATIENCE_S, QUIET, SLOT, START, Client, World, serving, until
from tests.serving.test_feed import prune_before

pytestmark = pytest.mark.integration


@pytest.fixture
def world(sqlite_db: Database) -> World:
    return World(sqlite_db)


# --- getting in ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        pytest.param({"symbols": ["BTC"], "api_key": KEY}, id="the earlier system's form"),
        pytest.param({"action": "subscribe", "symbols": ["BTC"], "api_key": KEY}, id="with an action"),
        pytest.param(
            {"action": "subscribe", "symbols": ["BTC"], "channels": ["price", "volume"], "api_key": KEY},
            id="with channels",
        ),
        pytest.param({"symbols": "BTC", "api_key": KEY}, id="one symbol as text"),
    ],
)
async def test_a_key_in_the_first_message_lets_in(world: World, message: dict[str, object]) -> None:
    async with serving(world.deps()) as server, server.connect() as client:
        await client.say(message)
        assert (await client.hear_of("subscribed"))["symbols"] == ["BTC"]


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": f"Bearer {KEY}"}, {"authorization": f"bearer  {KEY}"}, {"X-API-Key": KEY}],
    ids=["bearer", "bearer in any case", "x-api-key"],
)
async def test_a_key_in_a_header_lets_in(world: World, headers: dict[str, str]) -> None:
    async with serving(world.deps()) as server, server.connect(headers) as client:
        await client.say({"symbols": ["BTC"]})
        assert (await client.hear_of("subscribed"))["symbols"] == ["BTC"]


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        pytest.param({}, {"symbols": ["BTC"], "api_key": "wrong"}, id="wrong key in the message"),
        pytest.param({}, {"symbols": ["BTC"]}, id="no key at all"),
        pytest.param({}, {"symbols": ["BTC"], "api_key": None}, id="null"),
        pytest.param({}, {"symbols": ["BTC"], "api_key": 7}, id="no text"),
        pytest.param({}, {"symbols": ["BTC"], "api_key": ""}, id="empty"),
        pytest.param({}, {"action": "ping"}, id="a ping without a key"),
        pytest.param({"Authorization": "Bearer wrong"}, None, id="wrong bearer"),
        pytest.param({"X-API-Key": "wrong"}, None, id="wrong x-api-key"),
        pytest.param({"X-API-Key": "wrong"}, {"symbols": ["BTC"], "api_key": KEY}, id="wrong header, good message"),
    ],
)
async def test_a_bad_key_is_told_and_closed_4401(
    world: World, headers: dict[str, str], message: dict[str, object] | None
) -> None:
    async with serving(world.deps()) as server, server.connect(headers) as client:
        if message is not None:
            await client.say(message)
        assert await client.hear() == {"error": "Invalid API key"}
        assert (await client.closed())[0] == 4401
        await until(lambda: server.streams.status().open == 0)


async def test_who_says_nothing_is_sent_away(world: World) -> None:
    async with serving(world.deps(first_message_s=0.1)) as server:
        for headers in ({}, {"X-API-Key": KEY}):
            async with server.connect(headers) as client:
                assert (await client.hear())["code"] == "FIRST_MESSAGE_TIMEOUT"
                assert (await client.closed())[0] == 4408


async def test_a_first_message_that_is_no_json_may_be_said_again(world: World) -> None:
    async with serving(world.deps()) as server, server.connect() as client:
        await client.say("{symbols: BTC}")
        assert (await client.hear())["code"] == "VALIDATION_ERROR"
        await client.say({"symbols": ["BTC"], "api_key": KEY})
        await client.hear_of("subscribed")


async def test_a_revoked_key_ends_its_streams_only(world: World) -> None:
    world.keys.good.add("other")
    async with (
        serving(world.deps(key_check_s=0.02)) as server,
        server.subscribed("BTC") as (mine, _),
        server.subscribed("BTC", api_key="other") as (theirs, _),
    ):
        world.keys.good.discard("other")
        assert await theirs.hear() == {"error": "Invalid API key"}
        assert (await theirs.closed())[0] == 4401
        [seq] = await world.move(1)
        assert (await mine.hear_of("price_update"))["seq"] == seq


async def test_keys_stay_known_while_they_cannot_be_refreshed(world: World) -> None:
    world.keys.down = True
    async with serving(world.deps(key_check_s=0.01)) as server, server.subscribed("BTC") as (client, _):
        await asyncio.sleep(0.05)
        await client.say({"action": "ping"})
        await client.hear_of("pong")


async def test_streams_are_capped_and_the_rest_refused_with_1013(world: World) -> None:
    async with serving(world.deps(max_streams=2)) as server, server.subscribed("BTC"):
        async with server.subscribed("ETH"), server.connect() as third:
            refusal = await third.hear()
            assert refusal["code"] == "TOO_MANY_STREAMS"
            code, reason = await third.closed()
            assert (code, reason) == (1013, "all 2 streams of this replica are taken")
        await until(lambda: server.streams.status().open == 1)
        async with server.subscribed("ETH"):  # a place is free again
            assert server.streams.status().refused == 1


@pytest.mark.parametrize(
    ("root_path", "path"),
    [("", "/ws/prices"), ("", "/prices"), ("/ws", "/prices"), ("/ws", "/ws/prices"), ("/api", "/ws/prices")],
)
async def test_it_works_at_the_root_and_mounted(world: World, root_path: str, path: str) -> None:
    async with serving(world.deps(), root_path, path) as server, server.subscribed("BTC"):
        pass


async def test_other_paths_are_refused_before_the_handshake(world: World) -> None:
    async with serving(world.deps(), path="/ws/nothing") as server:
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with server.connect():
                pass
        assert refused.value.response.status_code == 403
        assert server.streams.status().open == 0


async def test_plain_http_is_told_to_speak_websocket(world: World) -> None:
    async with serving(world.deps()) as server, httpx.AsyncClient() as http:
        url = server.url.replace("ws://", "http://")
        answer = await http.get(url)
        assert (answer.status_code, answer.headers["content-type"]) == (426, "application/problem+json")
        answer = await http.get(url + "/x")
        assert (answer.status_code, answer.json()["status"]) == (404, 404)


async def test_the_sandbox_says_that_it_is_one(world: World) -> None:
    settings = Settings(_env_file=None, DATA_ORIGIN="sandbox")
    async with serving(world.deps(settings=settings)) as server, server.connect() as client:
        assert client.socket.response.headers["x-data-origin"] == "sandbox"
        await client.say({"symbols": ["BTC"], "api_key": KEY})
        assert (await client.hear_of("subscribed"))["origin"] == "sandbox"


# --- subscribing ---------------------------------------------------------------------------------------------


async def test_subscribed_says_what_was_understood(world: World) -> None:
    async with serving(world.deps()) as server, server.connect() as client:
        await client.say({"symbols": ["btc", "bitcoin", "MATIC", "eth", "BTCC", "XYZ"], "api_key": KEY, "id": "first"})
        said = await client.hear_of("subscribed")
        assert said == {
            "type": "subscribed",
            "channel": "prices",
            "symbols": ["BTC", "ETH", "POL"],
            "channels": ["price", "volume", "market_cap", "change"],
            "repairs": False,
            "notes": [
                {"symbol": "MATIC", "note": "MATIC became POL on 2024-09-04"},
                {"symbol": "eth", "note": "2 assets are called ETH; this is the larger"},
            ],
            "unknown": [{"symbol": "BTCC", "near": ["BTC", "BCH"]}, {"symbol": "XYZ", "near": []}],
            "origin": "live",
            "id": "first",
        }


async def test_the_snapshot_is_the_state_as_of_its_seq(world: World) -> None:
    await world.move(1, 2)
    [last] = await world.move(1, current_price=5e-10, market_cap=None)
    async with serving(world.deps()) as server, server.subscribed("BTC", "PEPE") as (_, snapshot):
        assert snapshot["seq"] == last
        assert snapshot["channel"] == "prices"
        [btc] = snapshot["prices"]  # PEPE has no price yet: nothing is made up for it
        assert btc == {
            "symbol": "BTC",
            "coin_id": "bitcoin",
            "data": {"price_usd": 5e-10, "volume_24h": None, "market_cap": None, "change_24h": 2.5},
            "timestamp": "2023-11-14T22:15:01.002Z",
            "source": "coingecko.markets",
        }


async def test_an_update_names_what_and_when_and_change_is_percent(world: World) -> None:
    async with serving(world.deps()) as server, server.subscribed("BTC") as (client, snapshot):
        assert (snapshot["seq"], snapshot["prices"]) == (0, [])
        await world.move(2)
        [seq] = await world.move(1)
        assert await client.hear() == {
            "type": "price_update",
            "seq": seq,
            "symbol": "BTC",
            "coin_id": "bitcoin",
            "data": {"price_usd": 101.0, "volume_24h": None, "market_cap": 1e9, "change_24h": 2.5},
            "timestamp": "2023-11-14T22:15:01.001Z",
            "source": "coingecko.markets",
        }


async def test_channels_select_the_fields_of_data(world: World) -> None:
    await world.move(1)
    async with (
        serving(world.deps()) as server,
        server.subscribed("BTC", channels=["change", "price"]) as (client, snapshot),
    ):
        assert list(snapshot["prices"][0]["data"]) == ["price_usd", "change_24h"]
        await world.move(1)
        assert list((await client.hear())["data"]) == ["price_usd", "change_24h"]
        await client.say({"action": "subscribe", "symbols": ["BTC"], "channels": ["volume"]})
        assert (await client.hear_of("subscribed"))["channels"] == ["volume"]
        assert list((await client.hear_of("snapshot"))["prices"][0]["data"]) == ["volume_24h"]


async def test_star_is_every_asset_also_those_to_come(world: World) -> None:
    await world.move(1, 2)
    async with serving(world.deps()) as server, server.subscribed("BTC", "*") as (client, snapshot):
        assert {price["symbol"] for price in snapshot["prices"]} == {"BTC", "ETH"}
        seqs = await world.move(4, 3, 1)
        heard = await client.hear_until(seqs[-1])
        assert [(m["seq"], m["symbol"]) for m in heard] == list(zip(seqs, ["PEPE", "POL", "BTC"], strict=True))


async def test_more_can_be_subscribed_and_taken_back(world: World) -> None:
    await world.move(1, 2)
    async with serving(world.deps()) as server, server.subscribed("BTC") as (client, _):
        await client.say({"action": "subscribe", "symbols": ["ETH"]})
        assert (await client.hear_of("subscribed"))["symbols"] == ["BTC", "ETH"]
        assert [p["symbol"] for p in (await client.hear_of("snapshot"))["prices"]] == ["ETH"], "only what is new"
        await client.say({"action": "unsubscribe", "symbols": ["bitcoin"]})
        assert (await client.hear_of("subscribed"))["symbols"] == ["ETH"]
        _, eth = await world.move(1, 2)
        assert (await client.hear())["seq"] == eth
        await client.say({"action": "unsubscribe", "symbols": "*"})
        assert (await client.hear_of("subscribed"))["symbols"] == []
        await world.move(1, 2)
        await client.say({"action": "ping", "id": 7})
        assert (await client.hear_of("pong"))["id"] == 7


async def test_single_assets_can_be_taken_out_of_star(world: World) -> None:
    async with serving(world.deps()) as server, server.subscribed("*") as (client, _):
        await client.say({"action": "unsubscribe", "symbols": ["BTC"]})
        said = await client.hear_of("subscribed")
        assert (said["symbols"], said["excluded"]) == (["*"], ["BTC"])
        _, eth = await world.move(1, 2)
        assert (await client.hear())["seq"] == eth


async def test_a_missed_slot_filled_later_is_no_update_and_comes_only_on_request(world: World) -> None:
    """A price of an hour ago must not look like a price of now."""
    async with (
        serving(world.deps()) as server,
        server.subscribed("BTC") as (plain, _),
        server.subscribed("BTC", repairs=True) as (eager, _),
    ):
        [repair] = await world.move(1, slot=START - 12 * SLOT, source="coinbase.candles")
        [update] = await world.move(1)
        assert (await plain.hear_of("price_update"))["seq"] == update
        assert (await eager.hear_of("price_repair"))["seq"] == repair
        assert (await eager.hear_of("price_update"))["seq"] == update
        async with server.subscribed("BTC") as (_, snapshot):
            assert snapshot["prices"][0]["source"] == "coingecko.markets", "the state is the newest slot's"


async def test_heartbeats_come_when_nothing_else_does_and_say_how_far_the_client_is(world: World) -> None:
    async with (
        serving(world.deps(client=Limits(heartbeat_s=0.05))) as server,
        server.subscribed("BTC") as (client, _),
    ):
        [_, last] = await world.move(2, 2)  # nothing for this client
        while (beat := await client.hear_of("heartbeat"))["seq"] < last:
            pass
        assert (beat["channel"], beat["timestamp"]) == ("prices", "2023-11-14T22:15:01Z")


# --- nonsense ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("not json", "VALIDATION_ERROR"),
        ("[]", "VALIDATION_ERROR"),
        ("17", "VALIDATION_ERROR"),
        (b"\xff\xfe", "VALIDATION_ERROR"),
        ({}, "VALIDATION_ERROR"),
        ({"action": "buy"}, "VALIDATION_ERROR"),
        ({"action": ["ping"]}, "VALIDATION_ERROR"),
        ({"action": "subscribe"}, "VALIDATION_ERROR"),
        ({"symbols": []}, "VALIDATION_ERROR"),
        ({"symbols": [1]}, "VALIDATION_ERROR"),
        ({"symbols": [""]}, "VALIDATION_ERROR"),
        ({"symbols": ["x" * 200]}, "VALIDATION_ERROR"),
        ({"symbols": ["BTC"], "channels": ["colour"]}, "VALIDATION_ERROR"),
        ({"symbols": ["BTC"], "channels": []}, "VALIDATION_ERROR"),
        ({"symbols": ["BTC"], "channels": [["price"]]}, "VALIDATION_ERROR"),
        ({"symbols": ["BTC"], "repairs": "yes"}, "VALIDATION_ERROR"),
        ({"symbols": ["BTC"], "id": [1]}, "VALIDATION_ERROR"),
        ({"symbols": [f"S{n}" for n in range(1_001)]}, "TOO_MANY_SYMBOLS"),
        ({"symbols": ["BTC"], "padding": "x" * 70_000}, "MESSAGE_TOO_LARGE"),
        ({"action": "resume"}, "VALIDATION_ERROR"),
        ({"action": "resume", "after_seq": -1}, "VALIDATION_ERROR"),
        ({"action": "resume", "after_seq": "3"}, "VALIDATION_ERROR"),
        ({"action": "resume", "after_seq": True}, "VALIDATION_ERROR"),
        ({"action": "resume", "after_seq": 2**70}, "VALIDATION_ERROR"),
        ({"action": "resume", "after_seq": 999}, "UNKNOWN_SEQ"),
    ],
    ids=lambda value: (value if isinstance(value, str) else json.dumps(value) if isinstance(value, dict) else "bytes")[
        :45
    ],
)
async def test_nonsense_is_answered_and_the_connection_stays_good(world: World, message: object, code: str) -> None:
    async with serving(world.deps()) as server, server.subscribed("BTC") as (client, _):
        await client.say(message)
        answer = await client.hear()
        assert set(answer) == {"error", "code"}
        assert answer["code"] == code
        [seq] = await world.move(1)
        assert (await client.hear_of("price_update"))["seq"] == seq


async def test_a_resume_without_a_subscription_is_refused(world: World) -> None:
    async with serving(world.deps()) as server, server.connect() as client:
        await client.say({"action": "resume", "after_seq": 0, "api_key": KEY})
        assert (await client.hear())["code"] == "VALIDATION_ERROR"


async def test_errors_in_a_row_end_the_connection_errors_now_and_then_do_not(world: World) -> None:
    async with serving(world.deps(errors_in_a_row=3)) as server, server.subscribed("BTC") as (client, _):
        for _ in range(5):
            await client.say("?")
            assert (await client.hear())["code"] == "VALIDATION_ERROR"
            await client.say({"action": "ping"})
            await client.hear_of("pong")
        for _ in range(3):
            await client.say("?")
            await client.hear()
        assert (await client.hear())["code"] == "TOO_MANY_ERRORS"
        assert (await client.closed())[0] == 1008


async def test_an_unreadable_event_is_counted_and_skipped(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(world.deps()) as server, server.subscribed("BTC") as (client, _):

        def work(conn):
            bodies = [b"not json", b"[]", b'{"asset_id": 1}', b'{"asset_id": 1, "current_price": "12"}']
            return list(zip(outbox.append(conn, "prices", bodies, START), bodies, strict=True))

        events = world.db.run(work)
        await world.ring.publish("prices", events)
        [seq] = await world.move(1)
        assert (await client.hear_of("price_update"))["seq"] == seq == len(events) + 1
        assert server.streams.status().unreadable_events == len(events)


# --- no update lost or doubled -------------------------------------------------------------------------------


async def test_between_snapshot_and_first_update_nothing_is_lost_or_doubled(world: World) -> None:
    """Many clients come while prices move; each one's snapshot plus updates is the whole history of BTC."""
    stop = asyncio.Event()

    async def market() -> None:
        while not stop.is_set():
            await world.move(1)
            await asyncio.sleep(0.001)

    async with serving(world.deps()) as server:
        moving = asyncio.create_task(market())
        seen = []
        for _ in range(25):
            async with server.subscribed("BTC") as (client, snapshot):
                heard = await client.hear_until(snapshot["seq"] + 3)
                seen.append((snapshot, heard))
        stop.set()
        await moving
    prices = {seq: json.loads(body)["current_price"] for seq, body in world.sent}
    for snapshot, heard in seen:
        if snapshot["seq"]:
            assert snapshot["prices"][0]["data"]["price_usd"] == prices[snapshot["seq"]]
        assert [m["seq"] for m in heard] == list(range(snapshot["seq"] + 1, snapshot["seq"] + 1 + len(heard)))
        assert [m["data"]["price_usd"] for m in heard] == [prices[m["seq"]] for m in heard]


async def test_resume_in_the_first_message_brings_what_was_missed_in_order_and_no_snapshot(world: World) -> None:
    await world.move(1)
    async with serving(world.deps()) as server:
        async with server.subscribed("BTC", "ETH") as (client, snapshot):
            await world.move(2)
        missed = await world.move(1, 4, 2, 1)
        async with server.connect() as client:
            await client.say(
                {"action": "resume", "after_seq": snapshot["seq"] + 1, "symbols": ["BTC", "ETH"], "api_key": KEY}
            )
            await client.hear_of("subscribed")
            heard = [await client.hear_of("price_update") for _ in range(3)]
            assert [m["seq"] for m in heard] == [missed[0], missed[2], missed[3]], "PEPE is not subscribed"
            assert await client.hear_of("resumed") == {
                "type": "resumed",
                "channel": "prices",
                "after_seq": snapshot["seq"] + 1,
                "through_seq": missed[-1],
                "events": 3,
            }
            [seq] = await world.move(1)
            assert (await client.hear_of("price_update"))["seq"] == seq


async def test_resume_after_a_subscription_fills_only_what_lies_before_it(world: World) -> None:
    missed = await world.move(1, 1)
    async with serving(world.deps()) as server, server.subscribed("BTC") as (client, snapshot):
        [live] = await world.move(1)
        assert (await client.hear_of("price_update"))["seq"] == live
        await client.say({"action": "resume", "after_seq": 0})
        assert [(await client.hear_of("price_update"))["seq"] for _ in missed] == missed
        assert (await client.hear_of("resumed"))["events"] == 2
        await client.say({"action": "resume", "after_seq": 0})  # asked again: it has everything
        assert (await client.hear_of("resumed"))["events"] == 0
        assert snapshot["seq"] == missed[-1]


async def test_resume_at_the_present_misses_nothing(world: World) -> None:
    [last] = await world.move(1)
    async with serving(world.deps()) as server, server.subscribed("BTC") as (client, _):
        await client.say({"action": "resume", "after_seq": last, "id": "r"})
        said = await client.hear_of("resumed")
        assert (said["events"], said["through_seq"], said["id"]) == (0, last, "r")


async def test_resume_beyond_memory_reads_the_table(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_hub, "LOG_EVENTS", 5)
    first = await world.move(*[1] * 40)
    async with serving(world.deps()) as server:
        more = await world.move(*[1] * 40)
        async with server.subscribed("BTC"):
            pass
        async with server.connect() as client:
            await client.say({"action": "resume", "after_seq": 3, "symbols": ["BTC"], "api_key": KEY})
            await client.hear_of("subscribed")
            heard = await client.hear_until(more[-1])
            assert [m["seq"] for m in heard] == (first + more)[3:]


async def test_a_resume_from_a_process_that_was_ahead_waits_for_this_one(world: World) -> None:
    """Another replica had already delivered it: the table has the event, this process not yet."""
    await world.move(1)
    async with serving(world.deps()) as server, server.subscribed("BTC") as (client, _):
        rows = world.db.run(lambda conn: outbox.append(conn, "prices", [world.sent[0][1]] * 2, START))
        await client.say({"action": "resume", "after_seq": rows[-1]})
        await until(lambda: any(s._connection._catching_up for s in server.streams._sockets))
        await world.ring.publish("prices", [(seq, world.sent[0][1]) for seq in rows])
        said = await client.hear_of("resumed")
        assert (said["events"], said["through_seq"]) == (0, rows[-1])


@pytest.mark.parametrize("kept", [3, 0])
async def test_resume_behind_what_is_kept_is_a_gap_with_bounds_then_the_rest_then_a_snapshot(
    world: World, kept: int
) -> None:
    seqs = await world.move(*[1] * 10)
    prune_before(world.db, seqs[-1] + 1 - kept)
    async with serving(world.deps()) as server, server.connect() as client:
        await client.say({"action": "resume", "after_seq": 2, "symbols": ["BTC"], "api_key": KEY})
        await client.hear_of("subscribed")
        assert await client.hear_of("gap") == {
            "type": "gap",
            "channel": "prices",
            "first_missing": 3,
            "last_missing": 10 - kept,
            "first_available": 11 - kept,
        }
        heard = [await client.hear_of("price_update") for _ in range(kept)]
        assert [m["seq"] for m in heard] == seqs[10 - kept :]
        assert (await client.hear_of("resumed"))["through_seq"] == seqs[-1]
        assert (await client.hear_of("snapshot"))["seq"] == seqs[-1]
        [seq] = await world.move(1)
        assert (await client.hear_of("price_update"))["seq"] == seq


async def test_when_the_server_itself_falls_behind_what_is_kept_everyone_hears_of_the_gap(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.move(1)
    async with serving(world.deps()) as server, server.subscribed("BTC") as (client, _):
        hub = server.streams.hub

        def lose(conn: Connection) -> range:  # in one transaction: no reader sees what is between the two
            numbers = outbox.append(conn, "prices", [world.sent[0][1]] * 4, START)
            outbox.prune(conn, START + 1)
            return numbers

        lost = world.db.run(lose)
        await world.ring.publish("prices", [(lost[-1] + 5, b"{}")])  # wakes the reader: the table has a hole
        gap = await client.hear_of("gap")
        assert (gap["first_missing"], gap["last_missing"], gap["first_available"]) == (2, 5, 6)
        snapshot = await client.hear_of("snapshot")
        assert snapshot["seq"] == lost[-1] == hub.seq
        assert snapshot["prices"][0]["symbol"] == "BTC"


async def test_commands_said_during_a_resume_are_followed_after_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.move(1, 2)
    async with serving(world.deps()) as server, server.connect() as client:
        hub = server.streams.hub
        release, original = asyncio.Event(), hub.events_after

        async def held_up(after_seq: int, limit: int):
            await release.wait()
            return await original(after_seq, limit)

        monkeypatch.setattr(hub, "events_after", held_up)
        await client.say({"action": "resume", "after_seq": 0, "symbols": ["BTC"], "api_key": KEY})
        await client.hear_of("subscribed")
        await client.say({"action": "subscribe", "symbols": ["ETH"]})
        for _ in range(16):
            await client.say({"action": "subscribe", "symbols": ["BTC"]})
        assert (await client.hear())["code"] == "BUSY"
        await client.say({"action": "ping"})
        await client.hear_of("pong")
        release.set()
        assert (await client.hear_of("price_update"))["symbol"] == "BTC"
        await client.hear_of("resumed")
        assert (await client.hear_of("subscribed"))["symbols"] == ["BTC", "ETH"]


@pytest.mark.parametrize("seed", [1, 2])
async def test_100_random_disconnects_and_the_received_set_is_the_sent_set(
    world: World, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is cut at any moment, comes back with the last number it saw, and has heard each event exactly once."""
    rng = random.Random(seed)
    monkeypatch.setattr(stream_hub, "LOG_EVENTS", rng.choice([20, 1_000]))
    done = asyncio.Event()
    disconnects = 100

    async def market() -> None:
        while not done.is_set():
            await world.move(*rng.choices([1, 2, 3], k=rng.choice([1, 1, 3, 30])))
            await asyncio.sleep(rng.uniform(0, 0.02))
        await world.move(1)

    heard: list[int] = []
    last = 0
    async with serving(world.deps()) as server:
        moving = asyncio.create_task(market())
        for number in range(disconnects + 1):
            final = number == disconnects
            if final:
                done.set()
                await moving
            client = await websockets.connect(server.url, proxy=None, close_timeout=0.1)
            await client.send(
                json.dumps({"action": "resume", "after_seq": last, "symbols": ["BTC", "ETH"], "api_key": KEY})
            )
            left = rng.randrange(25)
            head = world.sent[-1][0] if final else None
            async with asyncio.timeout(PATIENCE_S):
                while (last < head) if final else left > 0:
                    message = json.loads(await client.recv())
                    assert message["type"] in {"subscribed", "price_update", "resumed"}, message
                    left -= 1
                    if message["type"] == "price_update":
                        heard.append(message["seq"])
                        last = message["seq"]
            if rng.random() < 0.5:
                client.transport.abort()  # no goodbye
                await client.wait_closed()
            else:
                await client.close()
    wanted = [seq for seq, body in world.sent if json.loads(body)["symbol"] in {"BTC", "ETH"}]
    assert heard == wanted
    assert len(heard) > disconnects


# --- slow, and over ------------------------------------------------------------------------------------------


async def test_a_slow_consumer_is_told_and_closed_1013_and_can_resume(world: World) -> None:
    """A client that really stops reading from its socket, until the server's queue for it is full."""
    small = sockets.socket()
    small.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    async with (
        serving(world.deps(client=replace(QUIET, queue_bytes=50_000))) as server,
        server.subscribed("ETH") as (good, _),
    ):
        port = int(server.url.split(":")[2].split("/")[0])
        small.setblocking(False)
        await asyncio.get_running_loop().sock_connect(small, ("127.0.0.1", port))
        async with websockets.connect(
            server.url, sock=small, proxy=None, max_queue=1, compression=None, ping_interval=None
        ) as socket:
            await socket.send(json.dumps({"symbols": ["BTC"], "api_key": KEY}))
            json.loads(await socket.recv()), json.loads(await socket.recv())
            socket.transport.pause_reading()
            async with asyncio.timeout(PATIENCE_S):
                while not any(s.was_slow for s in server.streams._sockets):
                    await world.move(*[1] * 200)
            socket.transport.resume_reading()
            async with asyncio.timeout(PATIENCE_S):
                heard = [json.loads(text) async for text in Client(socket).everything()]
            assert await Client(socket).closed() == (1013, "slow consumer")
            *updates, told = heard
            assert told["code"] == "SLOW_CONSUMER"
            assert told["last_seq"] == updates[-1]["seq"], "everything up to there was sent"
        assert [m["seq"] for m in updates] == list(range(1, len(updates) + 1))

        [eth] = await world.move(2)  # nobody else noticed
        assert (await good.hear_of("price_update"))["seq"] == eth

        async with server.connect() as again:
            await again.say({"action": "resume", "after_seq": told["last_seq"], "symbols": ["BTC"], "api_key": KEY})
            await again.hear_of("subscribed")
            rest = await again.hear_until(eth - 1)
        assert [m["seq"] for m in updates + rest] == list(range(1, eth))


async def test_a_slow_consumer_that_never_reads_again_does_not_stay(world: World) -> None:
    async with (
        serving(world.deps(client=replace(QUIET, queue_bytes=50_000, farewell_s=0.2))) as server,
        websockets.connect(server.url, proxy=None, max_queue=1, compression=None) as socket,
    ):
        await socket.send(json.dumps({"symbols": ["BTC"], "api_key": KEY}))
        await socket.recv(), await socket.recv()
        socket.transport.pause_reading()
        async with asyncio.timeout(PATIENCE_S):
            while server.streams.status().slow == 0:
                await world.move(*[1] * 300)
        await until(lambda: server.streams.status().open == 0)
        socket.transport.abort()


async def test_a_long_resume_does_not_make_a_reading_client_slow(world: World) -> None:
    """The past is longer than the queue: it is sent as fast as the client takes it."""
    seqs = await world.move(*[1] * 3_000)
    async with serving(world.deps(client=replace(QUIET, queue_bytes=50_000))) as server, server.connect() as client:
        await client.say({"action": "resume", "after_seq": 0, "symbols": ["BTC"], "api_key": KEY})
        await client.hear_of("subscribed")
        assert [m["seq"] for m in await client.hear_until(seqs[-1])] == seqs
        await client.hear_of("resumed")
        assert server.streams.status().slow == 0


async def test_a_client_that_asks_much_at_once_and_reads_the_answers_is_not_slow(world: World) -> None:
    async with serving(world.deps(client=replace(QUIET, queue_bytes=10_000))) as server, server.connect() as client:
        await client.say({"symbols": ["*"], "api_key": KEY})
        asked = [client.say({"action": "subscribe", "symbols": ["*"], "id": number}) for number in range(200)]
        await asyncio.gather(*asked)
        async with asyncio.timeout(PATIENCE_S):
            while json.loads(await client.socket.recv()).get("id") != 199:
                pass
        assert server.streams.status().slow == 0


async def test_shutdown_closes_every_client_with_1012(world: World) -> None:
    async with serving(world.deps()) as server, server.subscribed("BTC") as (one, _), server.connect() as two:
        await server.streams.aclose()
        for client in (one, two):
            assert await client.closed() == (1012, "service restart")
        async with server.connect() as late:
            assert (await late.closed())[0] == 1012
        assert server.streams.status().open == 0
        assert not server.streams.status().reading


async def test_the_servers_own_shutdown_is_1012_too(world: World) -> None:
    async with serving(world.deps()) as server, server.subscribed("BTC") as (client, _):
        server.uvicorn.should_exit = True
        assert (await client.closed())[0] == 1012


async def test_clients_that_go_leave_nothing_behind(world: World) -> None:
    async with serving(world.deps()) as server:
        for number in range(10):
            async with server.subscribed("BTC" if number % 2 else "*"):
                pass
        await until(lambda: server.streams.status().open == 0)
        hub = server.streams.hub
        assert not hub._clients
        assert not hub._by_asset
        assert server.streams.status().accepted == 10


async def test_a_database_that_is_down_is_said_and_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray_app.errors import StorageError
    from ray_app.storage import queries

    await world.move(1)
    monkeypatch.setattr(stream_hub, "RETRY_S", 0.01)
    original, down = queries.current_prices, True

    def flaky(conn):
        if down:
            raise StorageError("mysql://secret-host: gone")
        return original(conn)

    monkeypatch.setattr(queries, "current_prices", flaky)
    async with serving(world.deps(client=replace(QUIET, ready_s=0.05))) as server, server.connect() as client:
        await client.say({"symbols": ["BTC"], "api_key": KEY})
        said = await client.hear()
        assert said["code"] == "SERVICE_UNAVAILABLE"
        assert "secret-host" not in said["error"]
        assert not server.streams.status().ready
        down = False
        await until(lambda: server.streams.status().ready)
        await client.say({"symbols": ["BTC"]})
        await client.hear_of("subscribed")
        assert (await client.hear_of("snapshot"))["seq"] == 1


async def test_one_event_is_encoded_once_for_all_clients(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray_app.collection import price_events

    encoded = 0
    original = price_events.orjson.dumps

    class Counting:
        loads = staticmethod(price_events.orjson.loads)
        JSONDecodeError = price_events.orjson.JSONDecodeError

        @staticmethod
        def dumps(value):
            nonlocal encoded
            encoded += 1
            return original(value)

    monkeypatch.setattr(price_events, "orjson", Counting)
    async with serving(world.deps()) as server:
        from contextlib import AsyncExitStack

        async with AsyncExitStack() as stack:
            clients = [(await stack.enter_async_context(server.subscribed("*")))[0] for _ in range(20)]
            seqs = await world.move(1, 2, 3)
            for client in clients:
                assert [m["seq"] for m in await client.hear_until(seqs[-1])] == seqs
    assert encoded == 3

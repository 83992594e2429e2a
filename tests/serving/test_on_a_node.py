"""The gateway and the streams as their users meet them: one whole node, behind HAProxy."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket as sockets
from collections.abc import Iterator
from typing import Any

import pytest
import websockets

from tests.nodes import Node, started_node
from tests.servers import wait_until

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A sandbox node on which five minutes pass in five seconds."""
    directory = tmp_path_factory.mktemp("serving") / "data"
    with started_node(directory, "--time-scale", "60") as started:
        started.wait_ready()
        yield started


def stream(node: Node, **options: Any) -> websockets.connect:
    headers = {"X-API-Key": node.key("readonly")}
    url = f"ws://127.0.0.1:{node.port}/ws/prices"
    return websockets.connect(url, additional_headers=headers, proxy=None, max_size=None, **options)


async def hear(socket: websockets.ClientConnection, kind: str) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_S):
        message: dict[str, Any] = json.loads(await socket.recv())
    assert message.get("type") == kind, message
    return message


async def test_updates_follow_the_snapshot_without_a_hole_and_reach_the_rest_api_too(node: Node) -> None:
    async with stream(node) as socket:
        await socket.send(json.dumps({"symbols": ["*"]}))
        assert (await hear(socket, "subscribed"))["origin"] == "sandbox"
        seq = (await hear(socket, "snapshot"))["seq"]
        heard = [await hear(socket, "price_update") for _ in range(300)]
    assert [update["seq"] for update in heard] == list(range(seq + 1, seq + 301))
    newest = {update["symbol"]: update["timestamp"] for update in heard}
    assert newest["BTC"] <= node.get("/api/v1/prices/current/BTC").json()["timestamp"]


async def test_a_client_that_stops_reading_is_told_and_closed_1013(node: Node) -> None:
    """The kernel's and HAProxy's buffers fill first (about 9 MB), then the replica's own queue of 4 MiB."""
    small = sockets.socket()
    small.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 65_536)
    small.setblocking(False)
    await asyncio.get_running_loop().sock_connect(small, ("127.0.0.1", node.port))
    async with stream(node, sock=small, max_queue=1, compression=None, ping_interval=None) as socket:
        for _ in range(500):  # a snapshot of all is about 85 kB
            await socket.send(json.dumps({"action": "subscribe", "symbols": ["*"]}))
            await asyncio.sleep(0.01)
        told: dict[str, Any] = {}
        with contextlib.suppress(websockets.ConnectionClosed):
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    told = json.loads(await socket.recv())
    assert told["code"] == "SLOW_CONSUMER"
    assert (socket.close_code, socket.close_reason) == (1013, "slow consumer")


async def test_a_bad_key_is_told_and_closed_4401(node: Node) -> None:
    async with websockets.connect(f"ws://127.0.0.1:{node.port}/ws/prices", proxy=None) as socket:
        await socket.send(json.dumps({"symbols": ["BTC"], "api_key": "master-crypto-data-key-2025"}))
        assert json.loads(await socket.recv()) == {"error": "Invalid API key"}
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4401


def test_every_collector_gets_from_starting_to_work(node: Node) -> None:
    def at_work() -> bool:
        components = node.get("/health").json()["components"]
        states = {found["status"] for name, found in components.items() if name.startswith("collector:")}
        # on a busy machine some slots of a minute's hour are late; most collectors are off here
        return states > {"off"} and states <= {"ok", "degraded", "off"}

    wait_until(at_work, PATIENCE_S, "the first passes")

"""Redis gets every price update when it is there, and nobody notices when it is not."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from ray_app.collection.event_bus import Event
from ray_app.collection.redis_bridge import BATCH, RedisBridge
from tests.servers import free_port, redis_server
from tests.serving.stream_world import price_row

PATIENCE_S = 20.0


def event(seq: int, asset: int = 1, **values: object) -> Event:
    return seq, json.dumps(price_row(asset, seq, **values)).encode()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def nobody() -> str:
    """The URL of a Redis that is not there."""
    return f"redis://:secret-password@127.0.0.1:{free_port()}/0"


@asynccontextmanager
async def listening(
    url: str, pattern: str = "price_update:*"
) -> AsyncIterator[Callable[[], AsyncIterator[tuple[str, dict]]]]:
    async with Redis.from_url(url) as redis, redis.pubsub() as subscriber:
        await subscriber.psubscribe(pattern)
        await subscriber.get_message(timeout=PATIENCE_S)  # the confirmation

        async def messages() -> AsyncIterator[tuple[str, dict]]:
            while True:
                message = await subscriber.get_message(timeout=PATIENCE_S)
                assert message is not None, "Redis had nothing to say"
                yield message["channel"].decode(), json.loads(message["data"])

        yield messages


@asynccontextmanager
async def bridge_to(url: str, **options: object) -> AsyncIterator[RedisBridge]:
    bridge = RedisBridge(url, **{"first_wait_s": 0.02} | options)
    try:
        yield bridge
    finally:
        await bridge.aclose()


@pytest.mark.integration
async def test_updates_reach_the_channel_of_their_symbol_as_on_the_websocket(redis_port: int) -> None:
    url = f"redis://127.0.0.1:{redis_port}/0"
    async with listening(url) as messages, bridge_to(url) as bridge:
        assert bridge.state().state == "idle"
        await bridge.publish("prices", [event(1), event(2, asset=2)])
        heard = messages()
        channel, message = await anext(heard)
        assert channel == "price_update:BTC"
        assert message["type"] == "price_update"
        assert (message["seq"], message["symbol"]) == (1, "BTC")
        assert set(message["data"]) == {"price_usd", "volume_24h", "market_cap", "change_24h"}
        assert (await anext(heard))[0] == "price_update:ETH"
        await until(lambda: bridge.state().published == 2)
        assert (bridge.state().state, bridge.state().dropped) == ("ok", 0)


@pytest.mark.integration
async def test_a_burst_arrives_whole_and_in_order(redis_port: int) -> None:
    url = f"redis://127.0.0.1:{redis_port}/0"
    count = 3 * BATCH + 7
    async with listening(url) as messages, bridge_to(url) as bridge:
        await bridge.publish("prices", [event(seq) for seq in range(1, count + 1)])
        heard = messages()
        assert [(await anext(heard))[1]["seq"] for _ in range(count)] == list(range(1, count + 1))


@pytest.mark.integration
async def test_repairs_other_channels_and_garbage_are_not_published(
    redis_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"redis://127.0.0.1:{redis_port}/0"
    async with listening(url) as messages, bridge_to(url) as bridge:
        await bridge.publish("news", [event(1)])
        await bridge.publish("prices", [event(1, source="coinbase.candles"), (2, b"garbage"), event(3)])
        assert (await anext(messages()))[1]["seq"] == 3
    assert "not passed on to Redis" in caplog.text


async def test_without_redis_publishing_returns_at_once_and_the_oldest_go(
    nobody: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        async with bridge_to(nobody, max_queued=10) as bridge:
            for seq in range(1, 31):
                async with asyncio.timeout(1):
                    await bridge.publish("prices", [event(seq)])
            await until(lambda: bridge.state().error)
            state = bridge.state()
            assert state.state == "failing"
            assert state.queued <= 10
            assert state.published == 0
            await until(lambda: bridge.state().queued == 10)
            assert bridge.state().dropped == 20
    assert len([m for m in caplog.messages if "does not take" in m]) == 1, "said once"
    assert "secret-password" not in caplog.text


@pytest.mark.integration
async def test_after_redis_comes_back_the_newest_arrive_and_publishing_goes_on(tmp_path: Path) -> None:
    with redis_server(tmp_path) as port:
        pass  # it was there once; its port is free now
    url = f"redis://127.0.0.1:{port}/0"
    async with bridge_to(url, max_queued=5) as bridge:
        await bridge.publish("prices", [event(seq) for seq in range(1, 9)])
        await until(lambda: bridge.state().state == "failing")
        with server_on(port, tmp_path):
            await until(lambda: bridge.state().published == 5)
            async with listening(url) as messages:
                await bridge.publish("prices", [event(9)])
                assert (await anext(messages()))[1]["seq"] == 9
            assert (bridge.state().state, bridge.state().dropped, bridge.state().queued) == ("ok", 3, 0)
        await bridge.publish("prices", [event(10)])  # it is gone again
        await until(lambda: bridge.state().state == "failing")


@pytest.mark.integration
async def test_a_refused_password_is_a_failure_like_any_other(redis_port: int) -> None:
    """The earlier gateway went down with it."""
    async with Redis.from_url(f"redis://127.0.0.1:{redis_port}/0") as admin:
        await admin.config_set("requirepass", "right")
        try:
            async with bridge_to(f"redis://:wrong@127.0.0.1:{redis_port}/0") as bridge:
                await bridge.publish("prices", [event(1)])
                await until(lambda: bridge.state().state == "failing")
                assert bridge.state().error == "AuthenticationError"
        finally:
            await admin.config_set("requirepass", "")


async def test_a_redis_that_accepts_and_never_answers_is_given_up(nobody: str) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with bridge_to(f"redis://127.0.0.1:{port}/0", timeout_s=0.05) as bridge:
        await bridge.publish("prices", [event(1)])
        await until(lambda: bridge.state().state == "failing")
    server.close()
    await server.wait_closed()


def server_on(port: int, directory: Path) -> _Server:
    return _Server(port, directory)


class _Server:
    """A Redis on a given port."""

    def __init__(self, port: int, directory: Path) -> None:
        self._port, self._directory = port, directory

    def __enter__(self) -> None:
        import shutil
        import socket
        import subprocess

        from tests.servers import wait_until

        self._process = subprocess.Popen(
            [
                str(shutil.which("redis-server")),
                "--port",
                str(self._port),
                "--bind",
                "127.0.0.1",
                "--dir",
                str(self._directory),
                "--save",
                "",
                "--appendonly",
                "no",
            ],
            stdout=subprocess.DEVNULL,
        )

        def listening() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self._port)) == 0

        wait_until(listening, 20, "Redis")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)

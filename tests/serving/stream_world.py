"""What a stream test needs: a database with assets and prices, a writer, a real server, a client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import uvicorn
import websockets
from sqlalchemy import insert

from ray_app.clock import ManualClock
from ray_app.collection.event_bus import Event, EventRing
from ray_app.errors import StorageError, UnknownSymbol
from ray_app.serving.stream_connection import Limits
from ray_app.serving.streams import ServerLimits, StreamDeps, Streams, build_streams
from ray_app.settings import Settings
from ray_app.storage import outbox
from ray_app.storage.engine import Database
from ray_app.storage.tables import crypto_assets, price_data_real
from ray_app.storage.upsert import guarded_upsert
from tests.servers import free_port

START = 1_700_000_100_000  # a slot
SLOT = 300_000
KEY = "cdc_test_key-of-a-reader"
PATIENCE_S = 60.0
#: no heartbeat falls between two messages on a busy machine
QUIET = Limits(heartbeat_s=300.0)
SYMBOLS = {1: ("BTC", "bitcoin"), 2: ("ETH", "ethereum"), 3: ("POL", "polygon-ecosystem-token"), 4: ("PEPE", "pepe")}


async def until(condition: Callable[[], object]) -> None:
    """Poll until ``condition()``; TimeoutError after the usual patience."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


@dataclass(frozen=True)
class Asset:
    asset_id: int
    symbol: str


@dataclass(frozen=True)
class Resolution:
    asset: Asset
    note: str | None = None


class Registry:
    """Four assets; MATIC is POL's old name, ETH is ambiguous."""

    def resolve(self, typed: str, at_ms: int | None = None) -> Resolution:
        wanted = typed.lower()
        if wanted == "matic":
            return Resolution(Asset(3, "POL"), "MATIC became POL on 2024-09-04")
        for asset_id, (symbol, coin_id) in SYMBOLS.items():
            if wanted in {symbol.lower(), coin_id}:
                note = "2 assets are called ETH; this is the larger" if wanted == "eth" else None
                return Resolution(Asset(asset_id, symbol), note)
        raise UnknownSymbol(typed, ("BTC", "BCH") if wanted.startswith("b") else ())


@dataclass(frozen=True)
class Principal:
    level: int


@dataclass
class Keys:
    """Keys by hand: good ones, and a refresh that may fail."""

    good: set[str] = field(default_factory=lambda: {KEY})
    levels: dict[str, int] = field(default_factory=dict)  # readonly where none is named
    down: bool = False

    def authenticate(self, presented: bytes) -> Any:
        key = presented.decode(errors="replace")
        return Principal(self.levels.get(key, 1)) if key in self.good else None

    def refresh(self) -> None:
        if self.down:
            raise StorageError("no database")


@dataclass
class World:
    """The database, and a writer that does what ingestion does: values and events in one transaction, then the ring."""

    db: Database
    ring: EventRing = field(default_factory=EventRing)
    keys: Keys = field(default_factory=Keys)
    clock: ManualClock = field(default_factory=lambda: ManualClock(START + 1_000))
    sent: list[Event] = field(default_factory=list)
    prices: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = [
            {"asset_id": asset_id, "symbol": symbol, "coin_id": coin, "name": coin, "status": "active", "updated_at": 1}
            for asset_id, (symbol, coin) in SYMBOLS.items()
        ]
        self.db.run(lambda conn: conn.execute(insert(crypto_assets), rows))

    def store(self, rows: Iterable[dict[str, Any]]) -> list[Event]:
        """Store price rows with their events, as one transaction; the events."""
        rows = list(rows)

        def work(conn) -> list[Event]:
            names = ("symbol", "coin_id")
            guarded_upsert(conn, price_data_real, [{k: v for k, v in row.items() if k not in names} for row in rows])
            bodies = [orjson.dumps(row) for row in rows]
            return list(zip(outbox.append(conn, "prices", bodies, START), bodies, strict=True))

        events = self.db.run(work)
        self.sent += events
        return events

    async def move(
        self, *assets: int, slot: int = START, source: str = "coingecko.markets", **values: Any
    ) -> list[int]:
        """One new price per asset, told to the ring; the sequence numbers."""
        rows = [price_row(asset, len(self.sent) + place, slot, source, **values) for place, asset in enumerate(assets)]
        events = await asyncio.to_thread(self.store, rows)
        await self.ring.publish("prices", events)
        return [seq for seq, _ in events]

    def deps(self, **changes: Any) -> StreamDeps:
        settings = changes.pop("settings", None) or Settings(
            _env_file=None, MAX_STREAMS=changes.pop("max_streams", 100)
        )
        values = {
            "db": self.db,
            "hotline": self.ring,
            "keyring": self.keys,
            "registry": Registry,
            "settings": settings,
            "clock": self.clock,
        }
        changes.setdefault("client", QUIET)
        return StreamDeps(**values, limits=ServerLimits(**changes))


def price_row(
    asset: int, number: int, slot: int = START, source: str = "coingecko.markets", **values: Any
) -> dict[str, Any]:
    symbol, coin_id = SYMBOLS[asset]
    return {
        "symbol": symbol,
        "coin_id": coin_id,
        "asset_id": asset,
        "slot": slot,
        "source": source,
        "interval_s": 300,
        "event_time": slot + 1_000 + number,
        "known_at": slot + 2_000 + number,
        "current_price": 100.0 + number,
        "price_change_24h": -1.5,
        "price_change_percentage_24h": 2.5,
        "market_cap": 1e9,
        "volume_usd_24h": None,
        "event_version": slot + number,
        "fetched_at": slot + 3_000 + number,
        "parser_version": 1,
        "payload_hash": "0" * 64,
    } | values


class Client:
    """A client that keeps what it hears, and asks for one thing at a time."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self.socket = socket

    async def say(self, message: Any) -> None:
        await self.socket.send(message if isinstance(message, str | bytes) else json.dumps(message))

    async def hear(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_S):
            text = await self.socket.recv()
        assert isinstance(text, str), "messages are text frames"
        return json.loads(text)

    async def hear_of(self, kind: str) -> dict[str, Any]:
        """The next message, which must be of this type."""
        message = await self.hear()
        assert message.get("type") == kind, message
        return message

    async def hear_until(self, seq: int) -> list[dict[str, Any]]:
        """Price messages up to ``seq``; a resume is over where the stream was when it was asked for, maybe before that."""
        heard: list[dict[str, Any]] = []
        while not heard or heard[-1]["seq"] < seq:
            message = await self.hear()
            if message.get("type") != "resumed":
                assert message.get("type") in {"price_update", "price_repair"}, message
                heard.append(message)
        return heard

    async def everything(self) -> AsyncIterator[str]:
        """What is said until the connection is closed, however that is."""
        while True:
            try:
                yield await self.socket.recv()
            except websockets.ConnectionClosed:
                return

    async def closed(self) -> tuple[int, str]:
        """Code and reason with which the server closed; anything still to hear is dropped."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    await self.socket.recv()
                except websockets.ConnectionClosed as closed:
                    frame = closed.rcvd
                    break
        assert frame is not None, "no close frame came"
        return frame.code, frame.reason


@dataclass
class Server:
    """A running server."""

    streams: Streams
    url: str
    uvicorn: uvicorn.Server

    @asynccontextmanager
    async def connect(self, headers: dict[str, str] | None = None, **options: Any) -> AsyncIterator[Client]:
        """A client, without a word said yet."""
        # A client that has not read everything cannot finish the closing handshake: it need not wait long for it.
        options = {"close_timeout": 0.5} | options
        async with websockets.connect(self.url, additional_headers=headers, proxy=None, **options) as socket:
            yield Client(socket)

    @asynccontextmanager
    async def subscribed(self, *symbols: str, **more: Any) -> AsyncIterator[tuple[Client, dict[str, Any]]]:
        """A client that has subscribed and heard ``subscribed`` and its snapshot."""
        async with self.connect() as client:
            await client.say({"symbols": list(symbols), "api_key": KEY, **more})
            await client.hear_of("subscribed")
            yield client, await client.hear_of("snapshot")


@asynccontextmanager
async def serving(deps: StreamDeps, root_path: str = "", path: str = "/ws/prices") -> AsyncIterator[Server]:
    """The streams under uvicorn on a loopback port."""
    streams = build_streams(deps)
    port = free_port()
    config = uvicorn.Config(
        streams, host="127.0.0.1", port=port, log_level="warning", root_path=root_path, timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        assert not task.done(), task.exception()
        await asyncio.sleep(0.005)
    try:
        yield Server(streams, f"ws://127.0.0.1:{port}{path}", server)
    finally:
        server.should_exit = True
        await task

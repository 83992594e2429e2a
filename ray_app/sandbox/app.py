"""The simulated upstreams as one ASGI application: CoinGecko, Coinbase Exchange and api.coinbase.com/v2.

Pure ASGI, without a framework: a candle request costs well under a millisecond, and a router's cost would show. The
answers come from :mod:`coingecko` and :mod:`coinbase`; what a fault script does to them from :mod:`spoil`; this
module routes, delivers (slowly, cut off or not at all, where a fault says so) and writes the request log.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, replace
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from ray_app.assets import AssetRegistry
from ray_app.clock import SECOND_MS, Clock, Epoch, ScaledClock, WallClock, iso
from ray_app.sandbox import (
    alternative_me,
    binance,
    blockchain_com,
    blockchair,
    bybit,
    coinbase,
    coinbase_ws,
    coingecko,
    coingecko_derivatives,
    coinmetrics,
    cryptopanic,
    defillama,
    deribit,
    etherscan,
    fred,
    guardian,
    mempool,
    okx,
    reddit,
    rss,
    x,
    yahoo,
)
from ray_app.sandbox.answers import Answer, Question, Rejection, SimulatedEndpoint, World, json_answer
from ray_app.sandbox.faults import Fault, FaultScript, load_faults
from ray_app.sandbox.generated import GeneratedMarket
from ray_app.sandbox.market import Market
from ray_app.sandbox.replay import ReplayFile, ReplayMarket, replay_shift
from ray_app.sandbox.request_log import Calls, Logged, RequestLog, caller_of
from ray_app.sandbox.spoil import first_page, replacement, spoilt

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

#: base path → source and its endpoints
BASES: dict[str, tuple[str, tuple[SimulatedEndpoint, ...]]] = {
    "/coingecko/api/v3": ("coingecko", (*coingecko.ENDPOINTS, *coingecko_derivatives.ENDPOINTS)),
    "/coinbase-exchange": ("coinbase", tuple(e for e in coinbase.ENDPOINTS if e.source == "coinbase")),
    "/coinbase-api/v2": ("coinbase-v2", tuple(e for e in coinbase.ENDPOINTS if e.source == "coinbase-v2")),
    "/fred": ("fred", fred.ENDPOINTS),
    "/yahoo": ("yahoo", yahoo.ENDPOINTS),
    "/rss": ("rss", rss.ENDPOINTS),
    "/guardian": ("guardian", guardian.ENDPOINTS),
    "/cryptopanic": ("cryptopanic", cryptopanic.ENDPOINTS),
    "/reddit": ("reddit", reddit.ENDPOINTS),
    "/x": ("x", x.ENDPOINTS),
    "/coinmetrics": ("coinmetrics", coinmetrics.ENDPOINTS),
    "/blockchain_com": ("blockchain_com", blockchain_com.ENDPOINTS),
    "/mempool": ("mempool", mempool.ENDPOINTS),
    "/etherscan": ("etherscan", etherscan.ENDPOINTS),
    "/blockchair": ("blockchair", blockchair.ENDPOINTS),
    "/defillama": ("defillama", tuple(e for e in defillama.ENDPOINTS if e.source == "defillama")),
    "/stablecoins": ("stablecoins", tuple(e for e in defillama.ENDPOINTS if e.source == "stablecoins")),
    "/alternative_me": ("alternative_me", alternative_me.ENDPOINTS),
    "/binance": ("binance", binance.ENDPOINTS),
    "/bybit": ("bybit", bybit.ENDPOINTS),
    "/okx": ("okx", okx.ENDPOINTS),
    "/deribit": ("deribit", deribit.ENDPOINTS),
}
_NOT_FOUND: dict[str, Any] = {
    "coingecko": {"error": "Incorrect path. Please check https://www.coingecko.com/api/"},
    "coinbase": {"message": "NotFound"},
    "coinbase-v2": {"errors": [{"id": "not_found", "message": "Not found"}]},
}
_GZIP_FROM = 1_000  # bytes; smaller bodies travel plain
#: the server offers scope["extensions"][ABORT]["abort"](reset), which breaks the TCP connection
ABORT = "sandbox.abort"


@dataclass(frozen=True)
class SandboxConfig:
    """What a sandbox is made of. Without ``registry``: the packaged assets, or the symbols of the replayed file."""

    epoch: Epoch
    seed: int = 0
    replay: Path | None = None
    faults: Path | FaultScript | None = None
    request_log: Path | None = None
    registry: AssetRegistry | None = None
    clock: Clock | None = None  # default: the epoch's
    replay_text: Path | None = None
    replay_macro: Path | None = None


def build_world(config: SandboxConfig) -> World:
    """The market and registry of a configuration. ConfigError where the replay file will not do."""
    if config.replay is not None:
        file = ReplayFile(config.replay)
        registry = config.registry or AssetRegistry.for_replay(file.symbols)
        shift = replay_shift(file.start_ms, file.end_ms, config.epoch.first_node_ms)
        market: Market = ReplayMarket(file, tuple(registry), shift)
    else:
        registry = config.registry or AssetRegistry.seed()
        market = GeneratedMarket(config.seed, tuple(registry))
    return World(market, registry, config.seed, config.replay_text, config.replay_macro, config.epoch.first_node_ms)


def create_app(config: SandboxConfig) -> SandboxApp:
    """The application of a configuration. ConfigError where a file in it will not do."""
    script = config.faults
    if isinstance(script, Path):
        script = load_faults(script, config.epoch.first_node_ms)
    return SandboxApp(config, build_world(config), script or FaultScript())


class SandboxApp:
    """An ASGI application; one per process, as it owns the request log."""

    def __init__(self, config: SandboxConfig, world: World, faults: FaultScript) -> None:
        self.config = config
        self.world = world
        self.faults = faults
        self.clock = config.clock or ScaledClock(config.epoch)
        self.requests = 0
        #: set when the server is about to end: answers that a fault holds back are broken off
        self.ending = asyncio.Event()
        self.ticks = coinbase_ws.Feed(world, self.clock, faults, self.ending)
        self._calls = Calls(config.request_log, WallClock().now_ms())
        self._log = RequestLog(config.request_log) if config.request_log is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["path"] == coinbase_ws.PATH:
            await self.ticks.serve(receive, send)
        else:  # no other WebSocket is here
            await send({"type": "websocket.close", "code": 1000})

    def close(self) -> None:
        """Close the request log."""
        if self._log is not None:
            self._log.close()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                self.close()
                return

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == "/sandbox/state":
            await _Delivery(scope, receive, send, self.clock.now_ms()).send(json_answer(self.state()))
            return
        for base, (source, endpoints) in BASES.items():
            if path.startswith(base + "/"):
                await self._upstream(scope, receive, send, source, endpoints, path[len(base) :])
                return
        await _Delivery(scope, receive, send, self.clock.now_ms()).send(
            json_answer({"error": f"nothing is here; base paths: {', '.join(BASES)}"}, 404)
        )

    async def _upstream(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        source: str,
        endpoints: tuple[SimulatedEndpoint, ...],
        path: str,
    ) -> None:
        started, wall, now = time.perf_counter(), WallClock().now_ms(), self.clock.now_ms()
        self.requests += 1
        params = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        endpoint, subject = _route(endpoints, path.rstrip("/"))
        name = endpoint.name if endpoint is not None else "unknown"
        fault = self.faults.pick(source, name, now, params) if endpoint is not None else None

        def log(delivery: _Delivery) -> None:
            if self._log is None:
                return
            took = round((time.perf_counter() - started) * 1_000, 3)
            kind = None if fault is None else fault.kind
            seen = (now, wall, source, name, path, params, delivery.status, kind, delivery.sent, took)
            self._log.write(Logged(*seen, caller=caller))

        delivery = _Delivery(scope, receive, send, now, fault, self.ending, log)
        caller = caller_of(delivery.request_header(b"x-cg-pro-api-key")) if source == "coingecko" else None
        self._calls.came(caller, now)
        try:
            if scope["method"] not in (endpoint.methods if endpoint is not None else {"GET", "HEAD"}):
                answer = json_answer({"message": "method not allowed"}, 405)
            elif endpoint is None:
                answer = json_answer(_NOT_FOUND.get(source, {"message": "Not Found"}), 404)
            else:
                calls = self._calls.of(caller, now)
                question = Question(now, subject, params, delivery.request_header(b"if-none-match"), calls)
                answer = self._answer(endpoint, question, fault)
            await delivery.send(answer)
        finally:
            delivery.record()

    def _answer(self, endpoint: SimulatedEndpoint, question: Question, fault: Fault | None) -> Answer:
        if fault is None:
            return _ask(endpoint, question, self.world)
        if fault.kind in {"timeout", "outage"}:
            return Answer(200, b"")  # never sent
        if (instead := replacement(fault, endpoint.source, question.now_ms)) is not None:
            return instead
        if (params := first_page(fault, question.params)) is not None:
            return _ask(endpoint, Question(question.now_ms, question.subject, params), self.world)
        # Without If-None-Match: a fault changes what is said, so nobody has it already.
        answer = _ask(endpoint, replace(question, if_none_match=None), self.world)
        return spoilt(answer, fault, self.faults.seed, endpoint.source, endpoint.name)

    def state(self) -> dict[str, Any]:
        """What this sandbox is, and its time."""
        now, market = self.clock.now_ms(), self.world.market
        return {
            "now": now,
            "now_iso": iso(now),
            "epoch": vars(self.config.epoch),
            "market": market.kind,
            "seed": self.config.seed if market.kind == "generated" else None,
            "replay": None if self.config.replay is None else str(self.config.replay),
            "time_shift_ms": market.time_shift_ms,
            "symbols": [asset.symbol for asset in self.world.listed(now)],
            "faults": len(self.faults.faults),
            "requests": self.requests,
        }


def _route(endpoints: tuple[SimulatedEndpoint, ...], path: str) -> tuple[SimulatedEndpoint | None, str]:
    for endpoint in endpoints:
        if match := endpoint.pattern.fullmatch(path):
            return endpoint, match[1] if match.re.groups else ""
    return None, ""


def _ask(endpoint: SimulatedEndpoint, question: Question, world: World) -> Answer:
    try:
        return endpoint.answer(question, world)
    except Rejection as rejection:
        return rejection.answer


class _Delivery:
    """One answer on its way: sent whole, or as a fault has it."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        now_ms: int,
        fault: Fault | None = None,
        ending: asyncio.Event | None = None,
        log: Callable[[_Delivery], None] | None = None,
    ) -> None:
        self._scope, self._receive, self._send, self._now_ms, self._fault = scope, receive, send, now_ms, fault
        self._ending, self._log = ending or asyncio.Event(), log
        self.status = 0  # of the answer, once it has gone out complete
        self.sent = 0  # body bytes

    def record(self) -> None:
        """Write the request's line of the log, once."""
        if self._log is not None:
            log, self._log = self._log, None
            log(self)

    def request_header(self, name: bytes) -> str | None:
        """A header of the request, by its lower-case name."""
        for key, value in self._scope["headers"]:
            if key == name:
                return str(value.decode("latin-1"))
        return None

    async def send(self, answer: Answer) -> None:
        """Deliver ``answer`` in the way the fault prescribes."""
        kind = None if self._fault is None else self._fault.kind
        if kind == "outage":
            await self._break(reset=True)
        elif kind == "timeout":
            await self._stall()
        else:
            await self._answer(answer, kind)

    async def _answer(self, answer: Answer, kind: str | None) -> None:
        body, options = answer.body, {} if self._fault is None else self._fault.options
        cut_connection = kind == "truncate" and options["how"] == "connection"
        if kind == "truncate" and not cut_connection:
            body = body[: int(len(body) * options["at"])]
        headers = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers.items()]
        if len(body) >= _GZIP_FROM and "gzip" in (self.request_header(b"accept-encoding") or ""):
            body = gzip.compress(body, 1, mtime=0)
            headers += [(b"content-encoding", b"gzip"), (b"vary", b"Accept-Encoding")]
        skew = options["seconds"] if kind == "clock_skew" else 0
        headers += [
            (b"content-type", answer.content_type.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"date", formatdate(self._now_ms / SECOND_MS + skew, usegmt=True).encode()),
        ]
        if self._scope["method"] == "HEAD":
            body = b""
        await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})
        if cut_connection:
            await self._piece(body[: int(len(body) * options["at"])])
            await self._break(reset=False)
            return
        if kind == "slow":
            if not await self._drip(body, options["bytes_per_s"]):
                return
            body = b""
        self.status = answer.status
        self.sent += len(body)
        # Before the last byte goes out: who has read an answer finds it in the log.
        self.record()
        await self._send({"type": "http.response.body", "body": body})

    async def _piece(self, body: bytes) -> None:
        self.sent += len(body)
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def _drip(self, body: bytes, bytes_per_s: float) -> bool:
        """The body at a pace, ten pieces a second; False if the client has left before its end, or we have to."""
        size = max(1, round(bytes_per_s / 10))
        gone = asyncio.ensure_future(self._gone())
        try:
            for start in range(0, len(body), size):
                await self._piece(body[start : start + size])
                await asyncio.wait({gone}, timeout=size / bytes_per_s)
                if gone.done():
                    await self._break(reset=False)
                    return False
        finally:
            gone.cancel()
        return True

    async def _stall(self) -> None:
        assert self._fault is not None  # noqa: S101 - only called for a fault
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._fault.options["hold"]):
                await self._gone()
        await self._break(reset=False)

    async def _gone(self) -> None:
        """Return when the client has left or the server is about to end."""
        waits = {asyncio.ensure_future(self._disconnected()), asyncio.ensure_future(self._ending.wait())}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _disconnected(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _break(self, *, reset: bool) -> None:
        """Break the connection; without a server that can (in-process tests) the caller sees the exception."""
        abort = self._scope.get("extensions", {}).get(ABORT, {}).get("abort")
        if abort is None:
            raise ConnectionResetError("the sandbox broke the connection, as its fault script says")
        abort(reset)
        await self._disconnected()

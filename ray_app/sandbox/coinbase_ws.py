"""Coinbase Exchange's WebSocket feed, simulated: ticker, ticker_batch and heartbeat (shared/upstreams.md §18).

A product trades once a node second in every minute in which the market says that it trades, at the market's price; its
trade ids count those seconds, so they rise by one a second and never repeat, whoever is connected. Frames go out in
wall time, at most one round a second, however fast node time runs: what lies between is skipped, as the exchange skips.

Faults are those entries of the fault script that name the source ``coinbase-ws`` (others never meet it, so that a
connection does not use up what a script counts); while one covers the present: ``outage`` ends connections and refuses
new ones, ``timeout`` sends nothing, ``status`` and ``rate_limit`` complain (ErrSlowConsume) and end the connection,
``drop_ids`` leaves out ticks of products though their trade ids go on, ``truncate`` cuts frames.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from ray_app.assets import Asset
from ray_app.clock import MINUTE_MS, Clock, from_ms
from ray_app.sandbox.answers import World, decimal_text
from ray_app.sandbox.faults import Fault, FaultScript
from ray_app.sandbox.market import FIVE_MS, Snapshot
from ray_app.sandbox.rng import unit_of

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

SOURCE, ENDPOINT = "coinbase-ws", "ticker"
PATH = "/coinbase-ws"
CHANNELS = ("ticker", "ticker_batch", "heartbeat")
#: trade ids count seconds from here: 2020-01-01
_BEGINNING_S = 1_577_836_800
#: frames between two breaths of the event loop, so that the HTTP side goes on
_BREATH = 32


@dataclass(slots=True)
class Pace:
    """Wall seconds: a round of heartbeats and live ticks, how long a client may take to subscribe; tests change it."""

    round_s: float = 1.0
    batch_s: float = 5.0  # node seconds
    subscribe_s: float = 5.0


class Feed:
    """The feed of a sandbox; :meth:`serve` is one connection."""

    def __init__(self, world: World, clock: Clock, faults: FaultScript, ending: asyncio.Event) -> None:
        self.world, self.clock, self.faults, self.ending = world, clock, faults, ending
        self.pace = Pace()
        self.connections = 0  # open now

    async def serve(self, receive: Receive, send: Send) -> None:
        """Speak with one client until it goes, or a fault or the sandbox's end has it sent away."""
        if (await receive())["type"] != "websocket.connect":
            return
        if self._fault("outage") is not None:
            await send({"type": "websocket.close", "code": 1013})  # before the handshake: HTTP 403
            return
        await send({"type": "websocket.accept"})
        client = _Client(self, send)
        self.connections += 1
        tasks = [asyncio.create_task(client.listen(receive)), asyncio.create_task(client.speak())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.connections -= 1
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception) and not isinstance(result, OSError | RuntimeError):
                    raise result  # a peer that is gone is no error; a defect is

    def _fault(self, *kinds: str) -> Fault | None:
        """The first fault of these kinds that covers the present."""
        now = self.clock.now_ms()
        return next(
            (
                fault
                for fault in self.faults.faults
                if fault.kind in kinds and fault.source == SOURCE and fault.covers(SOURCE, ENDPOINT, now, {})
            ),
            None,
        )

    def products(self, now_ms: int) -> dict[str, Asset]:
        """Products that trade now."""
        return {a.coinbase_product: a for a in self.world.listed(now_ms) if a.coinbase_product is not None}


@dataclass(slots=True)
class _Client:
    """One connection."""

    feed: Feed
    send: Send
    channels: dict[str, set[str]] = field(default_factory=lambda: {channel: set() for channel in CHANNELS})
    sent: dict[str, int] = field(default_factory=dict)  # product → trade id of the last tick sent
    subscribed: asyncio.Event = field(default_factory=asyncio.Event)

    # --- what the client says ---

    async def listen(self, receive: Receive) -> None:
        while True:
            message = await receive()
            if message["type"] != "websocket.receive":
                return
            await self._obey(message.get("text") or (message.get("bytes") or b"").decode("utf-8", "replace"))

    async def _obey(self, text: str) -> None:
        try:
            said = orjson.loads(text)
            kind, wanted = said["type"], self._wanted(said)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            await self._say({"type": "error", "message": "Malformed JSON", "reason": "not a subscribe message"})
            return
        known = self.feed.products(self.feed.clock.now_ms())
        unknown = sorted({product for products in wanted.values() for product in products} - set(known))
        if kind not in {"subscribe", "unsubscribe"} or set(wanted) - set(CHANNELS) or not wanted:
            reason = f"{kind} of {', '.join(wanted) or 'no channel'} is not known"
            await self._say({"type": "error", "message": "Failed to subscribe", "reason": reason})
            return
        if unknown and kind == "subscribe":
            reason = f"{unknown[0]} is not a valid product"
            await self._say({"type": "error", "message": "Failed to subscribe", "reason": reason})
            return
        for channel, products in wanted.items():
            if kind == "subscribe":
                self.channels[channel] |= products
            else:
                self.channels[channel] -= products
        reply = [{"name": name, "product_ids": sorted(ids)} for name, ids in self.channels.items() if ids]
        await self._say({"type": "subscriptions", "channels": reply})
        self.subscribed.set()
        if kind == "subscribe":
            fresh = {p for name, ids in wanted.items() if name != "heartbeat" for p in ids}
            await self._ticks(fresh, again=True)

    @staticmethod
    def _wanted(said: dict[str, Any]) -> dict[str, set[str]]:
        """Channel → products, from either form of the message."""
        shared = set(said.get("product_ids", ()))
        wanted: dict[str, set[str]] = {}
        for channel in said["channels"]:
            name, own = (
                (channel["name"], set(channel["product_ids"])) if isinstance(channel, dict) else (channel, set())
            )
            wanted[str(name)] = own or shared
        return wanted

    # --- what it hears ---

    async def speak(self) -> None:
        feed, pace = self.feed, self.feed.pace
        try:
            async with asyncio.timeout(pace.subscribe_s):
                await self.subscribed.wait()
        except TimeoutError:
            await self._close(1008, "no subscription in 5 s")
            return
        batch_at = feed.clock.now_ms()
        while not await self._ending(pace.round_s):
            if feed._fault("outage") is not None:  # noqa: SLF001 - one module, two classes
                await self._close(1012, "restart")
                return
            if feed._fault("status", "rate_limit") is not None:  # noqa: SLF001
                await self._say({"type": "error", "message": "ErrSlowConsume", "reason": "ErrSlowConsume"})
                await self._close(1008, "ErrSlowConsume")
                return
            now = feed.clock.now_ms()
            await self._ticks(self.channels["ticker"])
            if now - batch_at >= pace.batch_s * 1_000:
                batch_at = now
                await self._ticks(self.channels["ticker_batch"] - self.channels["ticker"])
            await self._beats()
        await self._close(1001, "the sandbox ends")

    async def _ending(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.feed.ending.wait()
        return self.feed.ending.is_set()

    async def _ticks(self, products: Iterable[str], *, again: bool = False) -> None:
        """A tick of each product that has traded since its last one; with ``again`` of all that ever traded."""
        feed = self.feed
        now = feed.clock.now_ms()
        known = feed.products(now)
        day = feed.world.market.snapshot(now // FIVE_MS * FIVE_MS)
        dropping = feed._fault("drop_ids")  # noqa: SLF001
        for number, product in enumerate(sorted(products), start=1):
            asset = known.get(product)
            trade = self._trade(asset, now) if asset is not None else None
            if asset is None or trade is None or (not again and self.sent.get(product) == trade[0]):
                continue
            self.sent[product] = trade[0]
            if dropping is None or not _dropped(dropping, feed.faults.seed, product):
                await self._say(self._tick(asset, day, *trade), cut=feed._fault("truncate"))  # noqa: SLF001
            if number % _BREATH == 0:
                await asyncio.sleep(0)

    async def _beats(self) -> None:
        feed = self.feed
        now = feed.clock.now_ms()
        known = feed.products(now)
        for number, product in enumerate(sorted(self.channels["heartbeat"]), start=1):
            asset = known.get(product)
            trade = self._trade(asset, now) if asset is not None else None
            last = trade[0] if trade is not None else 0
            beat = {"type": "heartbeat", "sequence": _sequence(last, 5), "last_trade_id": last, "product_id": product}
            await self._say({**beat, "time": _micros(now)})
            if number % _BREATH == 0:
                await asyncio.sleep(0)

    def _trade(self, asset: Asset, now_ms: int) -> tuple[int, int, float] | None:
        """Id, time (ms) and price of the product's last trade; None before its first."""
        price, minute = self.feed.world.market.price(asset.asset_id, now_ms)
        if not minute or math.isnan(price):
            return None
        second = now_ms // 1_000 if minute == now_ms // MINUTE_MS * MINUTE_MS else minute // 1_000
        return second - _BEGINNING_S, min(second * 1_000 + 250, now_ms), price

    def _tick(self, asset: Asset, day: Snapshot, trade_id: int, at_ms: int, price: float) -> dict[str, Any]:
        """``day``: the 24 h figures, as of the last whole five minutes: every minute would cost the HTTP side time."""
        market = self.feed.world.market
        row = market.row_of[asset.asset_id]
        decimals = int(market.profiles[row].decimals)
        step = 10.0**-decimals

        def text(value: float) -> str:
            return "0" if math.isnan(value) or value <= 0 else f"{value:.{decimals}f}"

        units = float(day.volume[row]) * market.profiles[row].venue_share / price
        size = decimal_text(max(100.0 / price, 1e-8), 6)
        return {
            "type": "ticker",
            "sequence": _sequence(trade_id, 0),
            "product_id": asset.coinbase_product,
            "price": text(price),
            "open_24h": text(float(day.price_24h[row])),
            "volume_24h": decimal_text(units if math.isfinite(units) else 0.0, 12),
            "low_24h": text(np.fmin(day.low[row], price)),
            "high_24h": text(np.fmax(day.high[row], price)),
            "volume_30d": decimal_text(30 * units if math.isfinite(units) else 0.0, 12),
            "best_bid": text(max(price - step, step)),
            "best_bid_size": size,
            "best_ask": text(price + step),
            "best_ask_size": size,
            "side": "buy" if trade_id % 2 else "sell",
            "time": _micros(at_ms),
            "trade_id": trade_id,
            "last_size": size,
        }

    async def _say(self, frame: dict[str, Any], cut: Fault | None = None) -> None:
        if self.feed._fault("timeout") is not None:  # noqa: SLF001
            return
        text = orjson.dumps(frame).decode()
        if cut is not None:
            text = text[: int(len(text) * cut.options["at"])]
        await self.send({"type": "websocket.send", "text": text})

    async def _close(self, code: int, reason: str) -> None:
        await self.send({"type": "websocket.close", "code": code, "reason": reason})


def _sequence(trade_id: int, more: int) -> int:
    """Ten messages a trade, of which a ticker sees the first."""
    return trade_id * 10 + more


def _micros(ms: int) -> str:
    return from_ms(ms).strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1_000:03d}000Z"


def _dropped(fault: Fault, seed: int, product: str) -> bool:
    ids = fault.options.get("ids")
    if ids is not None:
        return product in ids
    return unit_of(seed, fault.number, product) < float(fault.options["share"])

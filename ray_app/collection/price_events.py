"""Price events on their way from the outbox to consumers (WebSocket, Redis): read once, written once per selection.

``change_24h`` is PERCENT (CoinGecko's ``price_change_percentage_24h``), everything else in ``data`` is USD; null
means the upstream did not say. ``timestamp`` is the upstream's time of the price (``event_time``), as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import orjson

from ray_app.clock import iso
from ray_app.storage.queries import SOURCE_PRIORITY

#: what a client may name in ``channels`` → the field of ``data`` it selects, and the column it comes from
FIELDS: dict[str, tuple[str, str]] = {
    "price": ("price_usd", "current_price"),
    "volume": ("volume_24h", "volume_usd_24h"),
    "market_cap": ("market_cap", "market_cap"),
    "change": ("change_24h", "price_change_percentage_24h"),
}
ALL_FIELDS = tuple(FIELDS)

#: what a tick says, and the column it comes from
TICK_FIELDS = {
    "price_usd": "current_price",
    "bid": "bid_price",
    "ask": "ask_price",
    "volume_base_24h": "volume_qty_24h",
}

#: sources that fill missed slots afterwards: their events say what was, not what is
REPAIR_SOURCES = frozenset({"coinbase.candles", "coinbase.price_candles", "coingecko.market_chart"})


class UnreadableEvent(ValueError):
    """A body in the outbox is not a price event."""


@dataclass(slots=True)
class PriceEvent:
    """One price of one asset, with its place in the outbox (0: it came from the table of prices)."""

    seq: int
    asset_id: int
    symbol: str
    coin_id: str
    slot: int  # ms
    source: str
    event_time: int  # ms
    data: dict[str, float | None]
    _texts: dict[tuple[str, ...], str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_repair(self) -> bool:
        """Whether it tells of a slot that was missed and filled afterwards."""
        return self.source in REPAIR_SOURCES

    @property
    def rank(self) -> tuple[int, int]:
        """What the current price is chosen by: the newest slot, and in it the best source."""
        return self.slot, -_priority(self.source)

    def text(self, fields: tuple[str, ...]) -> str:
        """The message for clients that selected ``fields``; the same object for all of them."""
        text = self._texts.get(fields)
        if text is None:
            message = {"type": "price_repair" if self.is_repair else "price_update", "seq": self.seq}
            text = self._texts[fields] = orjson.dumps(message | self.row(fields)).decode()
        return text

    def row(self, fields: tuple[str, ...]) -> dict[str, Any]:
        """Symbol, coin id, selected data and timestamp: the part that snapshots and updates share."""
        return {
            "symbol": self.symbol,
            "coin_id": self.coin_id,
            "data": {FIELDS[name][0]: self.data[name] for name in fields},
            "timestamp": iso(self.event_time),
            "source": self.source,
        }

    @classmethod
    def of(cls, row: Mapping[str, Any], seq: int = 0) -> PriceEvent:
        """From a row of prices by its column names; UnreadableEvent where one that must be there is not."""
        try:
            return cls(
                seq=seq,
                asset_id=int(row["asset_id"]),
                symbol=str(row["symbol"]),
                coin_id=str(row["coin_id"]),
                slot=int(row["slot"]),
                source=str(row["source"]),
                event_time=int(row["event_time"]),
                data={name: _number(row.get(column)) for name, (_, column) in FIELDS.items()},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UnreadableEvent(f"not a price: {error!r}") from error

    @classmethod
    def parse(cls, seq: int, body: bytes) -> PriceEvent:
        """From the body of an outbox event; UnreadableEvent if it is none."""
        try:
            row = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise UnreadableEvent(f"event {seq} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise UnreadableEvent(f"event {seq} is not an object")
        return cls.of(row, seq)


@dataclass(slots=True)
class TickEvent(PriceEvent):
    """One live tick, of the channel ``ticks``: always every field; ``volume_base_24h`` is in units, on one venue."""

    @property
    def rank(self) -> tuple[int, int]:
        """The newest trade stands, whatever its slot."""
        return self.event_time, 0

    def text(self, fields: tuple[str, ...]) -> str:
        """The message; the same for all clients."""
        text = self._texts.get(())
        if text is None:
            text = self._texts[()] = orjson.dumps({"type": "tick", "seq": self.seq} | self.row(fields)).decode()
        return text

    def row(self, fields: tuple[str, ...]) -> dict[str, Any]:  # noqa: ARG002 - as of a price
        """Symbol, coin id, price, bid, ask, volume and timestamp."""
        return {
            "symbol": self.symbol,
            "coin_id": self.coin_id,
            "data": self.data,
            "timestamp": iso(self.event_time),
            "source": self.source,
        }

    @classmethod
    def of(cls, row: Mapping[str, Any], seq: int = 0) -> TickEvent:
        """As :meth:`PriceEvent.of`."""
        found = super(TickEvent, cls).of(row, seq)
        try:
            found.data = {name: _number(row.get(column)) for name, column in TICK_FIELDS.items()}
        except TypeError as error:
            raise UnreadableEvent(f"not a tick: {error!r}") from error
        return cast("TickEvent", found)


class CurrentPrices:
    """The current price of every asset, as of one event of the outbox."""

    def __init__(self, prices: Iterable[PriceEvent] = ()) -> None:
        self._prices = {price.asset_id: price for price in prices}

    def apply(self, event: PriceEvent) -> None:
        """Take an event in; one of an older slot, or of a lesser source in the same slot, changes nothing."""
        held = self._prices.get(event.asset_id)
        if held is None or event.rank >= held.rank:
            self._prices[event.asset_id] = event

    def of(self, assets: Iterable[int]) -> list[PriceEvent]:
        """The current prices of these assets, of those that have one."""
        return [price for asset in assets if (price := self._prices.get(asset)) is not None]

    def all(self) -> Iterable[PriceEvent]:
        """Every asset's current price."""
        return self._prices.values()


def _priority(source: str) -> int:
    return SOURCE_PRIORITY.index(source) if source in SOURCE_PRIORITY else len(SOURCE_PRIORITY)


def _number(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return value

"""Coinbase Exchange's WebSocket feed (wss://ws-feed.exchange.coinbase.com): what a batch of its frames says.

Formats: https://docs.cdp.coinbase.com/exchange/websocket-feed/channels and upstreams.md §18. There is no request and
no answer: what was received in a few seconds is archived as one exchange, whose body is NDJSON, one frame a line as it
came (a line break within a frame becomes a space). What trips people up:

* Every number is a string. ``side`` is the taker's. ``time`` is that of the trade: of a product that nobody trades the
  first frame after a subscription is as old as its last trade.
* ``ticker_batch`` sends frames of type ``ticker`` too: every five seconds, of the products that changed.
* ``sequence`` counts everything that happens to a product, so on ``ticker`` it skips: it orders, it proves no loss.
* Frame types may be added at any time.

A price is one venue's last trade. Its slot is the five minutes its trade was in; the last trade of the slot stands
(``event_version`` is its time). ``known_at`` is when the batch was complete, at most some seconds after the frame.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Final

from ray_app.errors import MalformedPayload
from ray_app.sources.base import Endpoint, Exchange, JsonScalar, Parsed, Request, Row
from ray_app.sources.context import DEFAULT_INTERVAL_S
from ray_app.sources.reading import (
    PRICE,
    VOLUME,
    Bounds,
    Findings,
    as_number,
    decode,
    identifier,
    integer,
    iso_time,
    not_ahead,
    number,
    shown,
)
from ray_app.sources.refusals import read_answer, require_ok
from ray_app.sources.rows import Slot, price_row, slot_at

ACCOUNT: Final = "coinbase-ws"
#: types that are understood and hold no prices
SILENT: Final = frozenset({"subscriptions", "heartbeat", "status"})
#: issues of one batch about lines and frame types: whatever comes, a batch does not flood the table
_MOST_ISSUES = 20
#: frames of a batch whose shape is looked at
_SAMPLED = 40
_CUT: Final = "the last line does not end: cut off?"
_SEQUENCE: Final = Bounds("a sequence number", 0, 2**53)

#: field of a ticker frame → column, and what it may be
_FIELDS: Final = {
    "best_bid": ("bid_price", PRICE),
    "best_ask": ("ask_price", PRICE),
    "volume_24h": ("volume_qty_24h", VOLUME),
    "high_24h": ("high_24h", PRICE),
    "low_24h": ("low_24h", PRICE),
    "open_24h": ("open_24h", PRICE),
}


class Ticker(Endpoint):
    """A batch of frames: of each product the newest tick of each slot."""

    name: ClassVar[str] = "coinbase.ticker"
    account: ClassVar[str] = ACCOUNT
    paths: ClassVar[tuple[str, ...]] = ("/ws",)
    query: ClassVar[frozenset[str]] = frozenset({"channels", "products", "live"})
    parser_version: ClassVar[int] = 2  # 2: of a body whose lines nobody counted, the last needs no line break

    def request(
        self, channels: Sequence[str], products: int, *, live: int = 0, frames: int | None = None, **context: str
    ) -> Request:
        """What was subscribed to while a batch came in: ``live`` of the ``products`` trade by trade.

        ``frames``: how many lines the body has, so that a body cut short is known for one. ``context``: more notes.
        """
        params = {"channels": ",".join(channels), "products": str(products), "live": str(live)}
        noted = {"frames": str(frames)} if frames is not None else {}
        return Request(self.name, "/ws", params, noted | context)

    def shape_of(self, body: bytes) -> Any:
        """The ticks, as a list: the other frames are of other shapes. ValueError where there are none."""
        lines, _ = _lines(body, counted=False)
        ticks = [frame for kind, frame in _frames(Findings(), lines[:_SAMPLED]) if kind == "ticker"]
        if not ticks:
            raise ValueError("no tick is among the first frames")
        return ticks

    def parse(self, exchange: Exchange) -> Parsed:
        """price_data_real rows of source ``coinbase.ticker``: price, bid, ask and the venue's 24 h figures."""
        require_ok(exchange)
        found = Findings()
        expected = exchange.request.context.get("frames")
        lines, ended = _lines(exchange.body, counted=expected is not None)
        frames = list(_frames(found, lines))
        if not frames:
            read_answer(exchange)  # an error envelope, text, HTML: says so itself
            what = f"none of the {len(lines)} lines is a frame with a type" if lines else _CUT
            raise MalformedPayload(self.name, what)
        if expected is not None and (not ended or expected != str(len(lines))):
            raise MalformedPayload(self.name, f"the body is cut off: {len(lines)} whole lines of {shown(expected)}")
        if not ended:
            raise MalformedPayload(self.name, _CUT)
        newest: dict[tuple[str, int], tuple[tuple[int, int], Row]] = {}
        contradicted: set[tuple[str, int]] = set()
        others: Counter[str] = Counter()
        for kind, frame in frames:
            if kind != "ticker":
                others[kind] += kind not in SILENT
                continue
            tick = self._tick(found, frame, exchange.fetched_at)
            if tick is None:
                continue
            row, place = tick
            key = (str(row.key["coinbase_product"]), int(str(row.key["slot"])))
            held = newest.get(key)
            if held is None or place > held[0]:
                newest[key] = (place, row)
                contradicted.discard(key)
            elif place == held[0] and row != held[1]:
                contradicted.add(key)
        for product, slot in sorted(contradicted):
            found.add("duplicate", product, f"slot@{slot}", "one trade, stated twice with different values")
            del newest[product, slot]
        for kind, count in sorted((+others).items())[:_MOST_ISSUES]:
            what = "the upstream complains" if kind == "error" else "a type that is not read"
            found.add("wrong_type", kind, "type", f"{count} frames: {what}")
        return Parsed(tuple(row for _, row in newest.values()), found.all())

    def _tick(self, found: Findings, frame: dict[str, Any], fetched_at: int) -> tuple[Row, tuple[int, int]] | None:
        """The row of a ticker frame, and its place in time among the others of its product."""
        product = identifier(frame.get("product_id"))
        if product is None:
            found.add("missing_id", "ticker", "product_id", f"{shown(frame.get('product_id'))} names no product")
            return None
        if not product.endswith("-USD"):
            found.add("inconsistent", product, "product_id", "not quoted in USD; the table is")
            return None
        price = number(found, product, "price", frame.get("price"), PRICE)
        time = not_ahead(found, product, "time", iso_time(found, product, "time", frame.get("time")), fetched_at)
        if price is None or time is None:
            if frame.get("price") is None or frame.get("time") is None:
                found.add("wrong_type", product, "ticker", "a tick needs a price and a time")
            return None
        sequence = integer(found, product, "sequence", frame.get("sequence"), _SEQUENCE)
        said: dict[str, JsonScalar] = {
            column: number(found, product, field, _said(frame.get(field), bounds), bounds)
            for field, (column, bounds) in _FIELDS.items()
        }
        row = price_row(
            ("coinbase_product", product),
            Slot(slot_at(time, DEFAULT_INTERVAL_S), DEFAULT_INTERVAL_S),
            self.name,
            event_time=time,
            known_at=fetched_at,
            current_price=price,
            **said,
        )
        return row, (time, sequence if sequence is not None else -1)


def _lines(body: bytes, *, counted: bool) -> tuple[list[bytes], bool]:
    """The lines, and whether the last of them is whole.

    What somebody else recorded (not ``counted``) may end without a line break, or be one frame or an array of frames
    written over several lines.
    """
    lines = body.split(b"\n")
    last = lines.pop()
    if counted:
        return lines, last == b""
    if body.lstrip()[:1] == b"[" or (body.lstrip()[:1] == b"{" and not _whole(lines[0] if lines else last)):
        try:
            said = decode(Ticker.name, body)
        except MalformedPayload:
            pass  # said of its lines
        else:
            return [json.dumps(frame).encode() for frame in (said if isinstance(said, list) else [said])], True
    if last.strip() and _whole(last):
        return [*lines, last], True
    return lines, last.strip() == b""


def _whole(line: bytes) -> bool:
    try:
        return isinstance(decode(Ticker.name, line), dict)
    except MalformedPayload:
        return False


def _frames(found: Findings, lines: Sequence[bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line that is a frame, with its type; the first lines that are none become issues."""
    bad = 0
    for position, line in enumerate(lines):
        try:
            frame = decode(Ticker.name, line)
        except MalformedPayload as error:
            frame, why = None, str(error)
        else:
            why = "no object with a type"
        kind = identifier(frame.get("type")) if isinstance(frame, dict) else None
        if kind is not None:
            yield kind, frame
            continue
        bad += 1
        if bad <= _MOST_ISSUES:
            found.add("wrong_type", "frame", f"line@{position}", shown(why))
    if bad > _MOST_ISSUES:
        found.add("wrong_type", "frame", "lines", f"{bad} lines are no frames")


def _said(value: object, bounds: Bounds) -> object:
    """The value, but None where a product without orders or trades has an empty text, or 0 for a price."""
    return None if value == "" or (bounds is PRICE and as_number(value) == 0) else value


ENDPOINTS: Final[tuple[Endpoint, ...]] = (Ticker(),)

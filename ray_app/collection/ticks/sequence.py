"""What the tick stream's connection should do next, and how much of the stream was seen. Pure: no I/O, no clock.

Times are seconds of any clock that only rises (the client gives wall time: a connection is about machines, not about
the market). Whoever holds the socket tells the watch what happened and does what it answers.

*Loss.* The sequence on ``ticker`` skips by design (upstreams.md §18), so it proves nothing. What proves loss: a
heartbeat names the last trade of a product, and no tick of that trade or a later one follows within the time the
channel takes. And no frame at all, though each product has a heartbeat every second, is a stall.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal

Phase = Literal["down", "subscribing", "live"]
Message = dict[str, Any]

BATCH, LIVE, HEARTBEAT = "ticker_batch", "ticker", "heartbeat"
#: what the server says to who reads too slowly
SLOW: Final = ("ErrSlowConsume", "ErrSlowRead")
_PRODUCT = re.compile(r"[A-Z0-9]+-[A-Z0-9]+")


@dataclass(frozen=True, slots=True)
class Rules:
    """Seconds, unless said otherwise."""

    #: the server disconnects who has not subscribed in 5 s; its confirmation may take as long again
    reply_s: float = 10.0
    #: without a tick or a heartbeat for so long the stream has stalled
    stale_s: float = 10.0
    #: without a heartbeat for so long a product is subscribed to again, at most as often
    silent_s: float = 30.0
    #: a tick of the trade that a heartbeat named comes within: of a batch (sent every 5 s), of the live channel
    batch_s: float = 12.0
    live_s: float = 5.0
    #: first and longest pause before the next connection; how long one must last for the pauses to begin anew
    pause_s: float = 0.5
    longest_pause_s: float = 60.0
    steady_s: float = 30.0
    #: products named in one message
    chunk: int = 50


@dataclass(slots=True)
class Product:
    """What was seen of one product on this connection. None: nothing yet."""

    beat_at: float | None = None
    trade_id: int | None = None  # of the newest tick
    behind: int | None = None  # the trade that a heartbeat named and no tick has reached
    behind_since: float = 0.0
    asked_at: float = 0.0  # when it was last subscribed to


@dataclass(slots=True)
class Counts:
    """Since the watch began."""

    connections: int = 0
    ticks: int = 0
    heartbeats: int = 0
    errors: int = 0
    malformed: int = 0
    lost_ticks: int = 0  # products × times that a heartbeat named a trade whose tick never came
    backwards: int = 0  # ticks older than one seen before
    resubscribed: int = 0
    slow: int = 0  # times the server said that this client reads too slowly
    covered_s: float = 0.0
    lost_s: float = 0.0
    unknown: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)  # connections by why they ended

    def shown(self) -> dict[str, Any]:
        """As plain data (asdict() of a Counter counts its items)."""
        named = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in named.items()}


class Watch:
    """The stream of ``products``, of which those in ``live`` are wanted trade by trade.

    ``random`` gives numbers in [0, 1): jitter of the pauses.
    """

    def __init__(
        self,
        products: Iterable[str],
        live: Collection[str] = (),
        *,
        now: float,
        random: Callable[[], float],
        rules: Rules | None = None,
    ) -> None:
        self.rules = rules or Rules()
        self.counts = Counts()
        self.phase: Phase = "down"
        self.retry_at = now
        self.last_end: str | None = None
        #: products the server does not know; not asked for again until the products change
        self.refused: set[str] = set()
        self._random = random
        self._wanted: tuple[str, ...] = ()
        self._live: frozenset[str] = frozenset()
        self._products: dict[str, Product] = {}
        self._confirmed: dict[str, frozenset[str]] = {}
        self._failures = 0
        self._opened_at = self._heard_at = self._sent_at = now
        self._mark = now  # up to here time is counted as covered or lost
        self._want(products, live)

    # --- what is wanted ---

    @property
    def products(self) -> tuple[str, ...]:
        """Products asked for, without those refused."""
        return tuple(product for product in self._wanted if product not in self.refused)

    @property
    def live(self) -> frozenset[str]:
        """Products wanted trade by trade."""
        return self._live

    def change(self, products: Iterable[str], live: Collection[str], now: float) -> list[Message]:
        """Want other products from now on; what to send for it on an open connection."""
        before, before_live = set(self.products), self._live
        products = tuple(products)
        if products == self._wanted and frozenset(live) & set(products) == before_live:
            return []
        self._want(products, live)
        self.refused.clear()
        if self.phase == "down":
            return []
        gone = before - set(self._wanted)
        moved = (before_live ^ self._live) - gone
        for product in gone:
            self._products.pop(product, None)
        messages = [
            _message("unsubscribe", chunk, [BATCH, LIVE, HEARTBEAT])
            for chunk in _chunks(sorted(gone | moved), self.rules.chunk)
        ]
        return messages + self._subscribe(sorted((set(self._wanted) - before) | moved), now)

    def _want(self, products: Iterable[str], live: Collection[str]) -> None:
        self._wanted = tuple(products)
        self._live = frozenset(live) & set(self._wanted)

    # --- the connection ---

    def opened(self, now: float) -> list[Message]:
        """A connection stands: what to send at once."""
        self.counts.connections += 1
        self.phase = "subscribing"
        self._opened_at = self._heard_at = now
        self._products, self._confirmed = {}, {}
        return self._subscribe(self.products, now)

    def closed(self, now: float, why: str) -> None:
        """The connection has ended, or none came about; ``why`` is one of few words (it is counted by)."""
        steady = self.phase == "live" and now - self._opened_at >= self.rules.steady_s
        self._failures = 1 if steady else self._failures + 1
        pause = min(self.rules.pause_s * 2 ** min(self._failures - 1, 30), self.rules.longest_pause_s)
        self.retry_at = now + pause * (0.5 + self._random() / 2)
        self.phase = "down"
        self.last_end = why
        self.counts.ended[why] += 1

    def look(self, now: float) -> str | None:
        """Why the connection must be given up; None: it is good. Call about once a second."""
        if self.phase == "down":
            return None
        if now - self._heard_at > self.rules.stale_s:
            return "stalled"
        if self.phase == "subscribing" and now - self._sent_at > self.rules.reply_s:
            return "subscription not confirmed"
        self._count_losses(now)
        return None

    def again(self, now: float) -> list[Message]:
        """What to send for products whose heartbeats have stopped, though others go on."""
        if self.phase != "live":
            return []
        silent = [
            name
            for name in self.products
            if now - max((one := self._of(name)).asked_at, one.beat_at or 0.0) > self.rules.silent_s
        ]
        self.counts.resubscribed += len(silent)
        return self._subscribe(silent, now)

    # --- frames ---

    def heard(self, frame: Mapping[str, Any], now: float) -> list[Message]:
        """Take in a decoded frame; what to send because of it."""
        kind = frame.get("type")
        kind = kind if isinstance(kind, str) else "?"
        if self.phase != "live" or kind in {"ticker", "heartbeat"}:  # what answers our own words proves no stream
            self._cover(now)
            self._heard_at = now
        if kind == "ticker":
            self._tick(frame)
        elif kind == "heartbeat":
            self._beat(frame, now)
        elif kind == "subscriptions":
            self._confirm(frame, now)
        elif kind == "error":
            return self._error(frame, now)
        elif kind != "status":
            self._unknown(kind)
        return []

    def malformed(self, now: float) -> None:
        """A frame came that is no JSON object."""
        self._cover(now)
        self._heard_at = now  # something flows, though not what should
        self.counts.malformed += 1

    def _unknown(self, kind: str) -> None:
        name = kind[:32]
        if name in self.counts.unknown or len(self.counts.unknown) < 20:
            self.counts.unknown[name] += 1

    def _tick(self, frame: Mapping[str, Any]) -> None:
        self.counts.ticks += 1
        product, trade = self._known(frame), _whole(frame.get("trade_id"))
        if product is None or trade is None:
            return
        if product.trade_id is not None and trade < product.trade_id:
            self.counts.backwards += 1
            return
        product.trade_id = trade
        if product.behind is not None and trade >= product.behind:
            product.behind = None

    def _beat(self, frame: Mapping[str, Any], now: float) -> None:
        self.counts.heartbeats += 1
        product, trade = self._known(frame), _whole(frame.get("last_trade_id"))
        if product is None:
            return
        product.beat_at = now
        # Before the first tick of a connection nothing is known of where the product stands.
        if trade is None or product.trade_id is None or trade <= product.trade_id or product.behind is not None:
            return
        product.behind, product.behind_since = trade, now

    def _count_losses(self, now: float) -> None:
        for name, product in self._products.items():
            patience = self.rules.live_s if name in self._live else self.rules.batch_s
            if product.behind is not None and now - product.behind_since > patience:
                self.counts.lost_ticks += 1
                product.trade_id, product.behind = max(product.behind, product.trade_id or 0), None

    def _confirm(self, frame: Mapping[str, Any], now: float) -> None:
        channels = frame.get("channels")
        self._confirmed = {
            str(channel.get("name")): frozenset(filter(_is_text, channel.get("product_ids") or ()))
            for channel in (channels if isinstance(channels, list) else ())
            if isinstance(channel, Mapping) and isinstance(channel.get("product_ids") or [], list)
        }
        self._settle(now)

    def _settle(self, now: float) -> None:
        if self.phase == "subscribing" and not self.unconfirmed():
            self.phase = "live"
            self._count_lost(now)

    def unconfirmed(self) -> list[str]:
        """Products whose subscription the server has not confirmed on all their channels."""
        beats = self._confirmed.get(HEARTBEAT, frozenset())
        return [
            product
            for product in self.products
            if product not in beats or product not in self._confirmed.get(self._channel(product), frozenset())
        ]

    def _error(self, frame: Mapping[str, Any], now: float) -> list[Message]:
        """A complaint: of a slow reader, or of products it does not know, which fails a whole subscription."""
        self.counts.errors += 1
        said = f"{frame.get('message')} {frame.get('reason')}"
        if any(reason in said for reason in SLOW):
            self.counts.slow += 1
        refused = set(_PRODUCT.findall(said)) & set(self.products)
        if not refused:
            return []
        self.refused |= refused
        self._settle(now)
        return self._subscribe(self.unconfirmed(), now)

    def slow_close(self, reason: str) -> None:
        """The close frame's reason, where it says the same."""
        if any(word in reason for word in SLOW):
            self.counts.slow += 1

    # --- time ---

    def lost_s(self, now: float) -> float:
        """Seconds of stream that were not seen, with those of an outage that goes on."""
        return self.counts.lost_s + (max(now - self._mark, 0.0) if self.phase != "live" else 0.0)

    def _cover(self, now: float) -> None:
        """Time since the last frame was covered, unless it was too long for a stream of heartbeats."""
        if self.phase != "live":
            return
        if now - self._mark > self.rules.stale_s:
            self._count_lost(now)
        else:
            self.counts.covered_s += max(now - self._mark, 0.0)
            self._mark = max(now, self._mark)

    def _count_lost(self, now: float) -> None:
        self.counts.lost_s += max(now - self._mark, 0.0)
        self._mark = max(now, self._mark)

    # --- details ---

    def _subscribe(self, products: Sequence[str], now: float) -> list[Message]:
        """Messages that subscribe, a chunk each: live ones to their own channel."""
        for name in products:
            self._of(name).asked_at = now
        if products:
            self._sent_at = now
        messages: list[Message] = []
        for channel in (LIVE, BATCH):
            mine = [product for product in products if self._channel(product) == channel]
            messages += [
                _message("subscribe", chunk, [channel, HEARTBEAT]) for chunk in _chunks(mine, self.rules.chunk)
            ]
        return messages

    def _channel(self, product: str) -> str:
        return LIVE if product in self._live else BATCH

    def _of(self, name: str) -> Product:
        return self._products.setdefault(name, Product())

    def _known(self, frame: Mapping[str, Any]) -> Product | None:
        """The product a frame is about, if it was asked for: what was not takes no memory."""
        name = frame.get("product_id")
        return self._products.get(name) if isinstance(name, str) else None


def _message(kind: str, products: Sequence[str], channels: Sequence[str]) -> Message:
    return {"type": kind, "product_ids": list(products), "channels": list(channels)}


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _chunks(items: Sequence[str], size: int) -> list[Sequence[str]]:
    return [items[start : start + size] for start in range(0, len(items), size)]

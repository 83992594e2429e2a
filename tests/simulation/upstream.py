"""The upstreams as one model: true prices that are a function of asset and time, real wire formats, counted requests.

It counts what arrives (that is what a provider bills), then answers, or does one of the things upstreams do.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson

from ray_app.assets import Asset
from ray_app.clock import iso
from ray_app.collection.budget_rules import Limits
from ray_app.sources.base import Request
from tests.simulation.loop import VirtualLoop

MINUTE_MS = 60_000
#: what an upstream may do in a fault's window
MISDEEDS = ("503", "hangs", "lost", "429", "429", "cut short", "no json", "late", "leaves out")
Answer = tuple[int, dict[str, str], bytes]


@dataclass(frozen=True, slots=True)
class Market:
    """What is true. ``quiet`` of ten thousand bars have no trade."""

    seed: int
    quiet: int = 150

    def price(self, asset_id: int, ms: int) -> float:
        """USD, constant within a minute."""
        return 100 + (asset_id * 7_919 + ms // MINUTE_MS * 104_729 + self.seed) % 10_007 / 100

    def traded(self, asset_id: int, start: int, step_ms: int) -> bool:
        """Whether the bar exists at the venue."""
        return step_ms > 300_000 or (start // 300_000 * 48_271 + asset_id * 31 + self.seed) % 10_000 >= self.quiet

    def bar(self, asset_id: int, start: int, step_ms: int) -> list[Any]:
        """The venue's candle: time, low, high, open, close, volume."""
        opened, close = self.price(asset_id, start), self.price(asset_id, start + step_ms - 1)
        return [start // 1_000, min(opened, close) - 1, max(opened, close) + 1, opened, close, 1.5]


@dataclass
class Misdeed:
    """What an account does between two virtual seconds, to this share of the requests."""

    kind: str
    account: str
    start_s: float
    end_s: float
    share: float


@dataclass
class Upstream:
    """All accounts. ``counted`` is told of each request on arrival: (account, request, virtual second it was sent)."""

    market: Market
    assets: list[Asset]
    loop: VirtualLoop
    rng: random.Random
    node_ms: Callable[[], int]
    limits: dict[str, Limits]
    broken: Callable[[str, str], None]
    misdeeds: list[Misdeed] = field(default_factory=list)
    requests: int = 0
    #: node ms at which a body was made, by its hash
    said_at: dict[str, int] = field(default_factory=dict)
    #: how many answers lacked a bar (asset, ms, open) although it was asked for
    omitted: dict[tuple[int, int, int], int] = field(default_factory=dict)
    _arrivals: dict[str, deque[float]] = field(default_factory=dict)
    _credits: dict[tuple[str, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.by_coin = {asset.coin_id: asset for asset in self.assets}
        self.by_product = {a.coinbase_product: a for a in self.assets if a.coinbase_product}

    # --- counting: the third invariant ---

    def count(self, account: str, month: int, scale: float, cost: int = 1) -> None:
        """A request has arrived. More than the limit in any window, or in a month, breaks the budget's promise."""
        self.requests += 1
        limits = self.limits[account]
        window_s = limits.per_s / scale
        times = self._arrivals.setdefault(account, deque())
        now = self.loop.time()
        times.append(now)
        while now - times[0] >= window_s:
            times.popleft()
        if len(times) > limits.requests:
            self.broken("budget", f"{len(times)} requests reached {account} within {limits.per_s:g} s")
        spent = self._credits[account, month] = self._credits.get((account, month), 0) + cost
        if limits.monthly is not None and spent > limits.monthly:
            self.broken("budget", f"{spent} credits of {account} spent in {month}, {limits.monthly} are allowed")

    def forget_windows(self) -> None:
        """The machine's clock was set forward: what a window is across that moment nobody can say."""
        self._arrivals.clear()

    # --- answering ---

    def misdeed(self, account: str) -> str | None:
        """What happens to a request that arrives now."""
        now = self.loop.time()
        for one in self.misdeeds:
            if one.account == account and one.start_s <= now < one.end_s and self.rng.random() < one.share:
                return one.kind
        return None

    def answer(self, request: Request, kind: str | None) -> Answer | Exception | None:
        """What comes back; None: nothing ever does."""
        if kind == "503":
            return 503, {}, b"upstream connect error"
        if kind == "hangs":
            return None
        if kind == "lost":
            return httpx.ReadError("connection reset after the request was counted")
        if kind == "429":
            return 429, {"retry-after": str(self.rng.choice((5, 900, 3_600, 7_200)))}, b"{}"
        if kind == "no json":
            return 200, {}, b"<html>maintenance</html>"
        body = orjson.dumps(self._body(request, kind))
        self.said_at[hashlib.sha256(body).hexdigest()] = self.node_ms()
        return 200, {}, body

    def _body(self, request: Request, kind: str | None) -> Any:
        now, params = self.node_ms(), request.params
        if request.path == "/coins/markets":
            wanted = [self.by_coin[coin] for coin in params["ids"].split(",")]
            if kind == "leaves out":
                wanted = wanted[1:]
            seen = now - 20_000
            return [
                {"id": a.coin_id, "current_price": self.market.price(a.asset_id, seen), "last_updated": iso(seen)}
                for a in wanted
            ]
        if request.path == "/exchange-rates":
            rates = {
                p.removesuffix("-USD"): str(1 / self.market.price(a.asset_id, now)) for p, a in self.by_product.items()
            }
            return {"data": {"currency": "USD", "rates": rates}}
        if request.path.endswith("/market_chart/range"):
            asset = self.by_coin[request.path.split("/")[2]]
            start, end = int(params["from"]) * 1_000, min(int(params["to"]) * 1_000, now)
            step = 300_000 if end - start <= 86_400_000 else 3_600_000
            moments = range(-(-start // step) * step, end, step)
            if kind == "cut short":
                moments = moments[: len(moments) // 2]
            self._note_omissions(asset.asset_id, step, range(-(-start // step) * step, end, step), moments)
            prices = [[at, self.market.price(asset.asset_id, at)] for at in moments if self._charted(asset, at)]
            return {"prices": prices, "market_caps": [], "total_volumes": []}
        return self._candles(request, kind, now)

    def _note_omissions(self, asset_id: int, step: int, asked: range, given: Iterable[int]) -> None:
        for at in set(asked) - set(given):
            self.omitted[asset_id, step, at] = self.omitted.get((asset_id, step, at), 0) + 1

    def range_of(self, request: Request) -> tuple[int, int, int, int]:
        """(first slot, end, step, asset id) of a request for candles or a chart."""
        name, params = request.path.split("/")[2], request.params
        if "granularity" in params:
            step = int(params["granularity"]) * 1_000
            start, end = _ms(params["start"]), _ms(params["end"]) + 1_000
            return start, end, step, self.by_product[name].asset_id
        step = int(request.context["interval_s"]) * 1_000
        return int(params["from"]) * 1_000, int(params["to"]) * 1_000 + 1_000, step, self.by_coin[name].asset_id

    def _charted(self, asset: Asset, at: int) -> bool:
        return self.market.traded(asset.asset_id, at - at % 300_000, 300_000)

    def _candles(self, request: Request, kind: str | None, now: int) -> list[Any]:
        asset = self.by_product[request.path.split("/")[2]]
        step = int(request.params["granularity"]) * 1_000
        start, end = _ms(request.params["start"]), _ms(request.params["end"])
        newest = now - (600_000 if kind == "late" else 0) - step
        opens = [
            at
            for at in range(-(-start // step) * step, end + 1, step)
            if at <= newest and self.market.traded(asset.asset_id, at, step)
        ]
        if kind == "cut short":
            opens = opens[: len(opens) // 2] if self.rng.random() < 0.5 else opens[len(opens) // 2 :]
        self._note_omissions(asset.asset_id, step, range(-(-start // step) * step, end + 1, step), opens)
        return [self.market.bar(asset.asset_id, at, step) for at in reversed(opens)]


def _ms(text: str) -> int:
    from datetime import datetime

    return round(datetime.fromisoformat(text).timestamp() * 1_000)

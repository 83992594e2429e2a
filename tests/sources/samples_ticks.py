"""A batch of the tick stream, written by hand after the documented format (see samples.py)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ray_app.clock import iso
from ray_app.sources import ENDPOINTS, Request

NOON = 1_779_105_600_000
FETCHED_AT = NOON + 7_300


def tick(product: str = "BTC-USD", **changes: Any) -> dict[str, Any]:
    """A frame of type ticker; ``changes`` replace members, a value of ``...`` removes one."""
    frame = {
        "type": "ticker",
        "sequence": 96_300_123_456,
        "product_id": product,
        "price": "77671.3",
        "open_24h": "78418.55",
        "volume_24h": "6543.21098765",
        "low_24h": "76696.01",
        "high_24h": "78419",
        "volume_30d": "234567.89",
        "best_bid": "77671.29",
        "best_bid_size": "0.5",
        "best_ask": "77671.31",
        "best_ask_size": "0.25",
        "side": "buy",
        "time": iso(NOON + 5_123).replace("Z", "456Z"),
        "trade_id": 812_345_678,
        "last_size": "0.001",
    } | changes
    return {name: value for name, value in frame.items() if value is not ...}


def lines(*frames: Any) -> bytes:
    """A body: one frame a line."""
    texts = [frame if isinstance(frame, bytes) else json.dumps(frame).encode() for frame in frames]
    return b"".join(text + b"\n" for text in texts)


def request(frames: int | None = None) -> Request:
    """Of a batch with so many frames."""
    return ENDPOINTS["coinbase.ticker"].request(["ticker_batch", "heartbeat"], 2, frames=frames)


_FRAMES = (
    {"type": "subscriptions", "channels": [{"name": "ticker_batch", "product_ids": ["BTC-USD", "ETH-USD"]}]},
    tick(),
    tick("ETH-USD", price="2150.5", best_bid="2150.49", best_ask="2150.51", open_24h="2143", low_24h="2100"),
    {"type": "heartbeat", "sequence": 96_300_123_500, "last_trade_id": 812_345_678, "product_id": "BTC-USD"},
)
BODIES: Mapping[str, Any] = {"coinbase.ticker": lines(*_FRAMES)}
REQUESTS: Mapping[str, Callable[[], Request]] = {"coinbase.ticker": lambda: request(len(_FRAMES))}

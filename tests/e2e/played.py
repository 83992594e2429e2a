"""What the tests of a played market share: a file to play, and the node's time."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import polars as pl

from tests.e2e.checker import HOUR, moment
from tests.nodes import Node

SYMBOLS = ("BTC", "ETH", "SOL", "XRP", "ADA", "DOGE", "LTC", "LINK", "UNI", "SHIB", "XLM", "BCH")


def own_file(path: Path) -> Path:
    """12 markets of 150 days, an hour in fifty absent, prices of every size."""
    generator = np.random.default_rng(11)
    hours = 150 * 24
    frames = []
    for number, symbol in enumerate(
        ("BTC", "ETH", "SOL", "XRP", "ADA", "DOGE", "LTC", "LINK", "UNI", "SHIB", "XLM", "BCH")
    ):
        digits = max(0, number - 1)
        unit = 10.0**-digits
        level = 40_000.0 / 5.0**number
        closes = np.maximum(np.round(level * np.exp(np.cumsum(generator.standard_t(4, hours) * 0.006)), digits), unit)
        opens = np.concatenate([[closes[0]], closes[:-1]])
        span = np.exp(generator.exponential(0.005, hours))
        highs = np.maximum(np.round(np.maximum(opens, closes) * span, digits), np.maximum(opens, closes))
        lows = np.maximum(np.round(np.minimum(opens, closes) / span, digits), unit)
        frame = pl.DataFrame(
            {
                "timestamp": 1_688_169_600_000 + HOUR * np.arange(hours),
                "symbol": symbol,
                "open": opens,
                "high": highs,
                "low": np.minimum(lows, np.minimum(opens, closes)),
                "close": closes,
                "volume": np.round(generator.exponential(1e9 / level, hours), 4),
            }
        )
        frames.append(frame.filter(pl.Series(generator.random(hours) > 0.02)))
    frame = pl.concat(frames).with_columns(pl.from_epoch("timestamp", "ms").dt.replace_time_zone("UTC"))
    frame.write_parquet(path)
    return path


def now(node: Node) -> int:
    """Node time, by the epoch's definition."""
    epoch = json.loads((node.state_dir / "epoch.json").read_text())
    return int(epoch["node_start_ms"] + (time.time() * 1_000 - epoch["wall_start_ms"]) * epoch["scale"])


def owed(node: Node, end: int) -> list[str]:
    """Ranges before ``end`` that the node's own ledger says it owes."""
    answer = node.get("/api/v1/stats/gaps", state="owed", limit=1000)
    assert answer.status_code == 200, answer.text
    return [f"{row['dataset']} {row['symbol']}" for row in answer.json()["data"] if moment(row["start"]) < end]


def wait_repaired(node: Node, end: int, timeout_s: float) -> None:
    """Until nothing before ``end`` is owed; AssertionError with what still is. A key may ask 100 times a minute."""
    deadline = time.monotonic() + timeout_s
    while left := owed(node, end):
        assert time.monotonic() < deadline, f"still owed after {timeout_s:g} s: {left[:10]}"
        time.sleep(1)

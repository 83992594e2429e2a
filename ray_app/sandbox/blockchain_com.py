"""Blockchain.com's charts and statistics, simulated: shared/upstreams.md §8."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, Final

import numpy as np

from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS, to_ms
from ray_app.sandbox.answers import Answer, Question, Rejection, SimulatedEndpoint, World, json_answer
from ray_app.sandbox.onchain_series import FIRST_DAY, at, day_prices, height, level_of, price, supply, wave
from ray_app.sandbox.rng import FloatArray, IntArray, unit_of

COIN: Final = "bitcoin"
_POINTS: Final = 1_500
_QUARTER: Final = 15 * MINUTE_MS
_UNITS_MS: Final[Mapping[str, int]] = {
    "minute": MINUTE_MS,
    "hour": HOUR_MS,
    "day": DAY_MS,
    "week": 7 * DAY_MS,
    "month": 30 * DAY_MS,
    "year": 365 * DAY_MS,
}
#: chart → (title, unit, period)
CHARTS: Final[Mapping[str, tuple[str, str, str]]] = {
    "n-unique-addresses": ("Number Of Unique Addresses Used", "Unique Addresses", "day"),
    "n-transactions": ("Confirmed Transactions Per Day", "Transactions", "day"),
    "estimated-transaction-volume-usd": ("Estimated USD Transaction Value", "USD", "day"),
    "hash-rate": ("Hash Rate", "Hash Rate TH/s", "day"),
    "difficulty": ("Difficulty", "Difficulty", "day"),
    "miners-revenue": ("Miners Revenue", "USD", "day"),
    "transaction-fees-usd": ("Total Transaction Fees (USD)", "USD", "day"),
    "market-price": ("Market Price (USD)", "USD", "day"),
    "market-cap": ("Market Capitalization", "USD", "day"),
    "avg-block-size": ("Average Block Size", "MB", "day"),
    "median-confirmation-time": ("Median Confirmation Time", "Minutes", "day"),
    "total-bitcoins": ("Bitcoins in circulation", "BTC", "day"),
    "mempool-count": ("Mempool Transaction Count", "Transactions", "minute"),
    "mempool-size": ("Mempool Size", "Bytes", "minute"),
}


def _refuse(message: str) -> Rejection:
    return Rejection(json_answer({"error": "bad-request", "message": message, "status": 400}, 400))


def published_at(seed: int, day: int) -> int:
    """When a day's points appear, ms: 6 to 14 hours into the next one."""
    return (day + 1) * DAY_MS + int((6 + 8 * unit_of(seed, "blockchain.com", day)) * HOUR_MS)


class Chart(SimulatedEndpoint):
    """GET /charts/{name}."""

    source: ClassVar[str] = "blockchain_com"
    name = "chart"
    pattern = re.compile(r"/charts/([^/]+)")

    def answer(self, question: Question, world: World) -> Answer:
        if question.subject not in CHARTS:
            raise Rejection(json_answer({"status": "not-found"}, 404))
        title, unit, period = CHARTS[question.subject]
        first, last = _window(question, "1year" if period == "day" else "1week")
        if period == "minute":
            times = np.arange(-(-first // _QUARTER), last // _QUARTER + 1, dtype=np.int64) * _QUARTER
            values = _quarterly(world.seed, question.subject, times)
        else:
            times, values = _daily(world, question, first, last)
        if question.params.get("sampled", "true") != "false" and len(times) > _POINTS:
            kept = np.arange(0, len(times), -(-len(times) // _POINTS))
            times, values = times[kept], [values[n] for n in kept]
        points = [{"x": x // 1_000, "y": y} for x, y in zip(times.tolist(), values, strict=True)]
        about = f"[sandbox] {title} of Bitcoin, generated."
        head = {"status": "ok", "name": title, "unit": unit, "period": period, "description": about}
        return json_answer({**head, "values": points})


def _daily(world: World, question: Question, first: int, last: int) -> tuple[IntArray, list[Any]]:
    days = np.arange(max(FIRST_DAY, -(-first // DAY_MS)), last // DAY_MS + 1, dtype=np.int64)
    days = days[: _known(world.seed, days, question.now_ms)]
    chart = question.subject
    if chart == "total-bitcoins":
        times = days * DAY_MS + np.array([int(unit_of(world.seed, "block", d) * DAY_MS) for d in days.tolist()], "i8")
        coins = [supply(world, COIN, int(t)) for t in times]
        kept = [n for n, c in enumerate(coins) if c is not None]
        return times[kept], [coins[n] for n in kept]
    if chart in {"market-price", "market-cap", "miners-revenue"}:
        prices = day_prices(world, COIN, days)
        days = np.array([d for d in days.tolist() if d in prices], dtype=np.int64)
        return days * DAY_MS, [prices[d] * _coins(world, chart, (d + 1) * DAY_MS) for d in days.tolist()]
    figures = figure(world.seed, chart, (days + 1) * DAY_MS)
    whole = chart in {"n-unique-addresses", "n-transactions"}
    return days * DAY_MS, [float(round(v)) if whole else v for v in figures.tolist()]


def _coins(world: World, chart: str, ms: int) -> float:
    """How many coins a chart in USD is the value of."""
    if chart == "market-price":
        return 1.0
    return supply(world, COIN, ms) or 0.0 if chart == "market-cap" else 455.0


def _known(seed: int, days: IntArray, now: int) -> int:
    """How many of ascending ``days`` are published."""
    count = len(days)
    while count and published_at(seed, int(days[count - 1])) > now:
        count -= 1
    return count


def figure(seed: int, chart: str, ends: IntArray) -> FloatArray:
    """A chart's figure over the day (or the 24 hours) that ends at each of ``ends``."""
    if chart == "n-unique-addresses":
        return 0.72 * wave(seed, f"{COIN} addresses", ends, level_of(seed, COIN, "addresses"))
    if chart == "n-transactions":
        return wave(seed, f"{COIN} transactions", ends, level_of(seed, COIN, "transactions"))
    if chart == "hash-rate":
        return 1.01 * wave(seed, f"{COIN} hashes", ends, level_of(seed, COIN, "hashes")) / 1e12
    if chart == "difficulty":
        epoch = ends // (14 * DAY_MS) * (14 * DAY_MS)
        return wave(seed, f"{COIN} hashes", epoch, level_of(seed, COIN, "hashes")) * 600 / 2**32
    if chart == "estimated-transaction-volume-usd":
        return wave(seed, f"{COIN} volume", ends, level_of(seed, COIN, "volume"), swing=0.25)
    level = {"transaction-fees-usd": 4.5e5, "avg-block-size": 1.6, "median-confirmation-time": 8.0}[chart]
    return wave(seed, f"{COIN} {chart}", ends, level, swing=0.2, growth=0.0)


def _quarterly(seed: int, chart: str, times: IntArray) -> list[float]:
    count = wave(seed, f"{COIN} mempool", times, 35_000.0, swing=0.4, noise=0.2, knot_ms=HOUR_MS, growth=0.0)
    return [float(round(v)) for v in (count * (620.0 if chart == "mempool-size" else 1.0)).tolist()]


def _window(question: Question, default: str) -> tuple[int, int]:
    """First and last moment asked for, ms."""
    said = question.params.get("timespan", default)
    now = question.now_ms
    if said == "all":
        span = now
    else:
        match = re.fullmatch(r"(\d{1,6})([a-z]+?)s?", said, re.ASCII)
        if match is None or match[2] not in _UNITS_MS:
            raise _refuse(f"Invalid timespan: {said}")
        span = int(match[1]) * _UNITS_MS[match[2]]
    start = question.params.get("start")
    if not start:
        return max(0, now - span), now
    try:
        moment = datetime.fromisoformat(start)
        first = to_ms(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise _refuse(f"Invalid start: {start}") from None
    return max(0, first), min(now, first + span)


class Stats(SimulatedEndpoint):
    """GET /stats: the last 24 hours, made each minute."""

    source: ClassVar[str] = "blockchain_com"
    name = "stats"
    pattern = re.compile(r"/stats")

    def answer(self, question: Question, world: World) -> Answer:
        seed, now = world.seed, question.now_ms // MINUTE_MS * MINUTE_MS
        worth, coins = price(world, COIN, now), supply(world, COIN, now)
        ends = np.array([now], dtype=np.int64)
        blocks = round(at(seed, f"{COIN} blocks", now, 144.0, swing=0.03, growth=0.0))
        return json_answer(
            {
                "timestamp": now,
                "market_price_usd": worth,
                "hash_rate": float(figure(seed, "hash-rate", ends)[0]) * 1e3,
                "total_fees_btc": round(at(seed, f"{COIN} fees", now, 4e8, growth=0.0)),
                "n_btc_mined": blocks * 312_500_000,
                "n_tx": round(float(figure(seed, "n-transactions", ends)[0])),
                "n_blocks_mined": blocks,
                "minutes_between_blocks": round(1_440 / blocks, 4),
                "totalbc": None if coins is None else round(coins * 1e8),
                "n_blocks_total": height(now),
                "estimated_transaction_volume_usd": float(figure(seed, "estimated-transaction-volume-usd", ends)[0]),
                "blocks_size": blocks * 1_600_000,
                "miners_revenue_usd": None if worth is None else round(worth * 455.0, 2),
                "difficulty": float(figure(seed, "difficulty", ends)[0]),
            }
        )


ENDPOINTS: Final[tuple[SimulatedEndpoint, ...]] = (Chart(), Stats())

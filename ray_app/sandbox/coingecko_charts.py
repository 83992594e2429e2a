"""CoinGecko's endpoints about one coin over time: market_chart, market_chart/range, ohlc."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from typing import ClassVar

import numpy as np

from ray_app.assets import Asset
from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from ray_app.sandbox.answers import Answer, Question, Rejection, World, digits, json_answer
from ray_app.sandbox.coingecko_base import CoinGeckoEndpoint, beyond_the_plan, in_usd, precision_of, priced, refuse
from ray_app.sandbox.market import FIVE_MS, Market
from ray_app.sandbox.rng import unit_of

PUBLIC_HISTORY_MS = 365 * DAY_MS


class CoinEndpoint(CoinGeckoEndpoint):
    """An endpoint about one coin: 404 for an id that is not listed."""

    def answer(self, question: Question, world: World) -> Answer:
        for asset in world.listed(question.now_ms):
            if asset.coin_id == question.subject:
                in_usd(question.params)
                return self.about(asset, question, world)
        raise refuse(404, "coin not found")

    @abstractmethod
    def about(self, asset: Asset, question: Question, world: World) -> Answer:
        """The answer for a coin that exists."""


class MarketChart(CoinEndpoint):
    """GET /coins/{id}/market_chart?days=: price, market value and volume up to now."""

    name = "market_chart"
    pattern = re.compile(r"/coins/([^/]+)/market_chart")

    def about(self, asset: Asset, question: Question, world: World) -> Answer:
        days = question.params.get("days", "")
        if not days:
            raise refuse(422, "Missing parameter days")
        if days != "max" and not (digits(days.replace(".", "", 1)) and float(days) > 0):
            raise refuse(400, "invalid days")
        span = math.inf if days == "max" else float(days) * DAY_MS
        if span > PUBLIC_HISTORY_MS:
            raise _too_old(question.now_ms)
        start = question.now_ms - int(span)
        return _chart(asset, question, world.market, start, question.now_ms)


class MarketChartRange(CoinEndpoint):
    """GET /coins/{id}/market_chart/range?from=&to= (unix seconds)."""

    name = "market_chart"
    pattern = re.compile(r"/coins/([^/]+)/market_chart/range")

    def about(self, asset: Asset, question: Question, world: World) -> Answer:
        bounds = []
        for name in ("from", "to"):
            if not question.params.get(name):
                raise refuse(422, f"Missing parameter {name}")
            try:
                bounds.append(int(float(question.params[name]) * SECOND_MS))
            except (ValueError, OverflowError):
                raise refuse(400, f"invalid {name}") from None
        start, end = bounds
        # A minute of grace: a client asks for exactly a year and its request takes a moment.
        if start < question.now_ms - PUBLIC_HISTORY_MS - MINUTE_MS:
            raise _too_old(question.now_ms)
        return _chart(asset, question, world.market, start, min(end, question.now_ms))


def _too_old(now_ms: int) -> Rejection:
    return beyond_the_plan(
        now_ms,
        10012,
        "Your request exceeds the allowed time range. Public API users are limited to querying historical data within "
        "the past 365 days. Upgrade to a paid plan to enjoy full historical data access: "
        "https://www.coingecko.com/en/api/pricing. ",
    )


def _chart(asset: Asset, question: Question, market: Market, start: int, end: int) -> Answer:
    step = _chart_step(question, start, end)
    first, last = -(-start // step), end // step
    slots = np.arange(first, last + 1, dtype=np.int64) * step
    if step == DAY_MS:
        stamps = slots.copy()
    else:
        # Upstream samples a little after each mark, never at the same moment twice.
        jitter = np.array([int(unit_of("chart", asset.coin_id, int(slot)) * 55 * SECOND_MS) for slot in slots])
        stamps = slots + jitter.astype(np.int64)
    keep = (stamps >= start) & (stamps <= end)
    slots, stamps = slots[keep], stamps[keep]
    nothing = np.empty(0)
    series = market.chart(asset.asset_id, slots) if len(slots) else (nothing, nothing, nothing)
    points = [
        [[int(t), float(v)] for t, v in zip(stamps, values, strict=True) if not math.isnan(v)] for values in series
    ]
    if start <= question.now_ms <= end:  # the present, as the last point
        snapshot = market.snapshot(question.now_ms)
        row = market.row_of[asset.asset_id]
        if not math.isnan(price := float(snapshot.price[row])):
            present = (price, price * float(snapshot.circulating[row]), float(snapshot.volume[row]))
            for values, value in zip(points, present, strict=True):
                if not values or values[-1][0] < question.now_ms:
                    values.append([question.now_ms, value])
    return json_answer(dict(zip(("prices", "market_caps", "total_volumes"), points, strict=True)))


def _chart_step(question: Question, start: int, end: int) -> int:
    interval = question.params.get("interval")
    if interval == "daily":
        return DAY_MS
    if interval in {"5m", "hourly"}:
        raise beyond_the_plan(
            question.now_ms,
            10005,
            f"interval={interval} is exclusive to paid plans; leave it empty for automatic granularity.",
        )
    if interval:
        raise refuse(400, "invalid interval")
    if end - start > 90 * DAY_MS:
        return DAY_MS
    # "1 day from current time" is 5-minutely; a day further back is hourly (docs.coingecko.com).
    recent = start >= question.now_ms - DAY_MS - MINUTE_MS
    return FIVE_MS if recent else HOUR_MS


class Ohlc(CoinEndpoint):
    """GET /coins/{id}/ohlc?days=: [[close time ms, open, high, low, close]], no volume.

    Granularity by days; with a paid key by ``interval``, too.
    """

    name = "ohlc"
    pattern = re.compile(r"/coins/([^/]+)/ohlc")
    _DAYS = ("1", "7", "14", "30", "90", "180", "365")
    #: seconds, and the days it can be had of
    _INTERVALS: ClassVar[dict[str, tuple[int, tuple[str, ...]]]] = {
        "hourly": (3_600, _DAYS[:5]),
        "daily": (86_400, _DAYS[:6]),
    }

    def about(self, asset: Asset, question: Question, world: World) -> Answer:
        days = question.params.get("days", "")
        if not days:
            raise refuse(422, "Missing parameter days")
        if days == "max":
            raise _too_old(question.now_ms)
        if days not in self._DAYS:
            raise refuse(400, "Invalid days parameter")
        precision = precision_of(question.params)
        count, interval = int(days), self._interval(question, days)
        step = interval * SECOND_MS
        end = question.now_ms // step * step
        start = -(-(question.now_ms - count * DAY_MS) // step) * step
        closed = world.market.candles(asset.asset_id, interval, start, end)
        bars = closed.bars
        columns = zip(closed.times, bars.open, bars.high, bars.low, bars.close, strict=True)
        return json_answer([[int(t) + step, *(priced(float(p), precision) for p in prices)] for t, *prices in columns])

    def _interval(self, question: Question, days: str) -> int:
        """Length of a candle, s."""
        count, named = int(days), question.params.get("interval")
        if not named:
            return 1_800 if count <= 2 else 14_400 if count <= 30 else 4 * 86_400
        if question.calls is None:
            raise beyond_the_plan(question.now_ms, 10005, "The interval parameter is exclusive to paid plans.")
        interval, spans = self._INTERVALS.get(named, (0, ()))
        if days not in spans:
            raise refuse(400, "Invalid interval parameter")
        return interval

"""CoinGecko's time series of one coin: past prices and candles.

What trips people up:

* The time stamp of ``/ohlc`` is the candle's **close**, and the candle's length follows from ``days``.
* ``total_volumes`` of ``/market_chart`` is a rolling 24 h figure, not the volume of a bar.

Formats: https://docs.coingecko.com/reference and upstreams.md §1. ``known_at``: see ray_app/sources/rows.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Final
from urllib.parse import quote

from ray_app.clock import DAY_MS, MINUTE_MS
from ray_app.errors import MalformedPayload
from ray_app.sources.base import Exchange, Parsed, Request, Row
from ray_app.sources.coingecko_base import CoinGeckoEndpoint
from ray_app.sources.context import interval_of
from ray_app.sources.reading import (
    PRICE,
    USD_AMOUNT,
    Bounds,
    Findings,
    epoch_time,
    expect_list,
    expect_object,
    members,
    not_ahead,
    number,
    readable,
    shown,
)
from ray_app.sources.refusals import read_answer
from ray_app.sources.rows import Candle, Slot, candle_row, consistent, price_row, settle, slot_at

#: /ohlc is cached 15 minutes; the last UTC day is ready at 00:35 UTC (CoinGecko's documentation of the endpoint).
OHLC_LAG_MS: Final = 15 * MINUTE_MS
OHLC_DAILY_LAG_MS: Final = 35 * MINUTE_MS
#: /market_chart is cached up to 5 minutes.
CHART_LAG_MS: Final = 5 * MINUTE_MS
_NAMED_INTERVALS: Final = {"5m": 300, "hourly": 3_600, "daily": 86_400}


class MarketChart(CoinGeckoEndpoint):
    """``/coins/{id}/market_chart`` and ``…/range``: past prices of one coin, for slots that were missed.

    The three arrays are joined by time stamp. A slot takes the last price in it; slots without one stay owed.
    """

    name: ClassVar[str] = "coingecko.market_chart"
    parser_version: ClassVar[int] = 3  # 2: a point ahead of the fetch has no say in the slots' length; 3: nor has
    # one outside of the range asked for, and it makes no row
    paths: ClassVar[tuple[str, ...]] = ("/coins/{id}/market_chart/range", "/coins/{id}/market_chart")
    query: ClassVar[frozenset[str]] = frozenset({"vs_currency", "days", "from", "to", "interval", "precision"})

    def request(self, coin_id: str, start_ms: int, end_ms: int, interval_s: int = 300) -> Request:
        """Prices in ``[start_ms, end_ms)``, to fill slots of ``interval_s`` seconds.

        Without a paid plan CoinGecko chooses the spacing: 5 min up to a day, hourly up to 90 days, else daily.
        """
        params = {
            "vs_currency": "usd",
            "from": str(start_ms // 1_000),
            "to": str(max(end_ms - 1, start_ms) // 1_000),
            "precision": "full",
        }
        path = f"/coins/{quote(coin_id, safe='')}/market_chart/range"
        return Request(self.name, path, params, {"interval_s": str(interval_s)})

    def parse(self, exchange: Exchange) -> Parsed:
        """price_data_real rows with price, market cap and rolling 24 h volume, ascending."""
        self.in_usd(exchange)
        coin_id = self.coin_id(exchange)
        body = expect_object(self.name, read_answer(exchange), "prices, market_caps, total_volumes")
        if body.get("prices") is None:
            raise MalformedPayload(self.name, f"no prices in the object ({members(body)})")
        found = Findings()
        prices = self._series(found, coin_id, body, "prices", PRICE)
        caps = self._series(found, coin_id, body, "market_caps", USD_AMOUNT)
        volumes = self._series(found, coin_id, body, "total_volumes", USD_AMOUNT)
        rows: dict[int, Row] = {}
        moments = [
            moment
            for moment in _within_range(exchange.request, sorted(prices))
            if not_ahead(found, coin_id, f"prices@{moment}", moment, exchange.fetched_at) is not None
        ]
        interval_s = self._interval_s(exchange.request, moments) if moments else 0
        for moment in moments:
            slot = Slot(slot_at(moment, interval_s), interval_s)
            rows[slot.start] = price_row(
                ("coin_id", coin_id),
                slot,
                self.name,
                event_time=moment,
                known_at=min(exchange.fetched_at, moment + CHART_LAG_MS),
                current_price=prices[moment],
                market_cap=caps.get(moment),
                volume_usd_24h=volumes.get(moment),
            )
        return Parsed(tuple(rows.values()), found.all())

    def _series(
        self, found: Findings, coin_id: str, body: Mapping[str, Any], field: str, bounds: Bounds
    ) -> dict[int, float]:
        """One array as value by time stamp (ms); a moment stated twice with different values is left out."""
        said = body.get(field)
        points = expect_list(self.name, [] if said is None else said, f"[ms, value] in {field}")
        series: dict[int, float] = {}
        contradicted: set[int] = set()
        timed = 0
        for position, point in enumerate(points):
            if not isinstance(point, list) or len(point) != 2:
                found.add("wrong_type", coin_id, f"{field}#{position}", f"expected [ms, value], got {shown(point)}")
                continue
            moment = epoch_time(found, coin_id, f"{field}#{position}", point[0], 1)
            if moment is None:
                continue
            timed += 1
            value = number(found, coin_id, field, point[1], bounds, where=str(moment))
            if value is not None and series.setdefault(moment, value) != value:
                contradicted.add(moment)
                found.add("duplicate", coin_id, f"{field}@{moment}", "stated twice with different values")
        readable(self.name, points, timed, "a pair of epoch milliseconds and a value")
        return {moment: value for moment, value in series.items() if moment not in contradicted}

    def _interval_s(self, request: Request, moments: Sequence[int]) -> int:
        """Length of the slots: the node's note, the interval asked for, what days or range imply, or the spacing."""
        if "interval_s" in request.context:
            return interval_of(request)
        named = _NAMED_INTERVALS.get(request.params.get("interval", ""))
        if named is not None:
            return named
        if len(moments) > 1:
            gaps = sorted(b - a for a, b in pairwise(moments))
            typical_s = gaps[len(gaps) // 2] / 1_000
            return min(_NAMED_INTERVALS.values(), key=lambda s: abs(s - typical_s))
        days = _days(request.params)
        if days is None:
            raise MalformedPayload(self.name, "one price and no days, range or interval: its slot cannot be told")
        return 300 if days <= 1 else 3_600 if days <= 90 else 86_400


def _within_range(request: Request, moments: Sequence[int]) -> Sequence[int]:
    """Those that the request asked about; all of them where it names no range, or not in seconds."""
    bounds = [request.params.get(name, "") for name in ("from", "to")]
    if not all(text.isascii() and text.isdigit() for text in bounds):
        return moments
    first, last = (int(text) * 1_000 for text in bounds)
    return [moment for moment in moments if first <= moment < last + 1_000]


def _days(params: Mapping[str, str]) -> float | None:
    """Days a chart request spans; None if it does not say or says it unreadably."""
    try:
        if "days" in params:
            days = float("inf") if params["days"] == "max" else float(params["days"])
        else:
            days = (float(params["to"]) - float(params["from"])) * 1_000 / DAY_MS
    except (KeyError, ValueError):
        return None
    return days if days >= 0 else None


class Ohlc(CoinGeckoEndpoint):
    """``/coins/{id}/ohlc`` and ``…/range``: candles without volume, each stamped with its **close**.

    Length of a candle: ``interval`` if asked for (hourly, daily), else by ``days``: 1–2 → 30 minutes, 3–30 → 4 hours,
    31 and more → 4 **days**. A body whose spacing is another is refused as a whole: intervals are never mixed.
    """

    name: ClassVar[str] = "coingecko.ohlc"
    paths: ClassVar[tuple[str, ...]] = ("/coins/{id}/ohlc/range", "/coins/{id}/ohlc")
    query: ClassVar[frozenset[str]] = frozenset({"vs_currency", "days", "from", "to", "interval", "precision"})

    def request(self, coin_id: str, days: int | str = 1, interval: str | None = None) -> Request:
        """Candles of the last ``days`` (1, 7, 14, 30, 90, 180, 365 or max); ``interval``: hourly, daily (paid)."""
        params = {"vs_currency": "usd", "days": str(days), "precision": "full"}
        if interval is not None:
            params["interval"] = interval
        return Request(self.name, f"/coins/{quote(coin_id, safe='')}/ohlc", params)

    def parse(self, exchange: Exchange) -> Parsed:
        """ohlc_data rows of venue ``coingecko``, ascending; only candles that had closed when fetched."""
        self.in_usd(exchange)
        coin_id = self.coin_id(exchange)
        interval_s = self._interval_s(exchange.request)
        items = expect_list(self.name, read_answer(exchange), "[ms, open, high, low, close]")
        found = Findings()
        candles: list[Candle] = []
        timed = 0
        for position, item in enumerate(items):
            if not isinstance(item, list) or len(item) != 5:
                found.add("wrong_type", coin_id, f"candle#{position}", f"expected 5 numbers, got {shown(item)}")
                continue
            closed = epoch_time(found, coin_id, f"candle#{position}", item[0], 1)
            if closed is None:
                continue
            timed += 1
            candle = self._candle(found, coin_id, closed, item, interval_s)
            if candle is not None:
                candles.append(candle)
        readable(self.name, items, timed, "an array of 5 numbers that begins with epoch milliseconds")
        candles = self._one_interval(found, coin_id, settle(found, coin_id, candles), interval_s)
        lag_ms = OHLC_DAILY_LAG_MS if interval_s >= 86_400 else OHLC_LAG_MS
        rows = [
            candle_row(("coin_id", coin_id), "coingecko", candle, exchange.fetched_at, lag_ms)
            for candle in candles
            if candle.close_time <= exchange.fetched_at and consistent(found, coin_id, candle)
        ]
        return Parsed(tuple(rows), found.all())

    def _candle(self, found: Findings, coin_id: str, closed: int, item: list[Any], interval_s: int) -> Candle | None:
        where = str(closed)
        fields = ("open", "high", "low", "close")
        prices = [number(found, coin_id, f, v, PRICE, where=where) for f, v in zip(fields, item[1:], strict=True)]
        if None in prices:
            return None
        opened, high, low, close = (p for p in prices if p is not None)
        return Candle(closed - interval_s * 1_000, interval_s, opened, high, low, close, None)

    def _one_interval(self, found: Findings, coin_id: str, candles: list[Candle], interval_s: int) -> list[Candle]:
        """The candles on the grid of the interval; MalformedPayload if the body's own spacing is another one.

        4-day candles may start on any day, at midnight UTC: there only whole days and the spacing can be checked.
        """
        grid_ms = min(interval_s, 86_400) * 1_000
        aligned = [candle for candle in candles if candle.open_time % grid_ms == 0]
        if candles and 2 * len(aligned) <= len(candles):
            raise MalformedPayload(self.name, f"most time stamps are not on the grid of {interval_s} s candles")
        gaps = [b.open_time - a.open_time for a, b in pairwise(aligned)]
        if gaps:
            typical = Counter(gaps).most_common(1)[0][0]
            if typical != interval_s * 1_000:
                raise MalformedPayload(
                    self.name, f"candles are {typical // 1_000} s apart; the request implies {interval_s} s"
                )
        for candle in candles:
            if candle.open_time % grid_ms:
                found.add("inconsistent", coin_id, f"close_time@{candle.close_time}", f"not on the {interval_s} s grid")
        kept: list[Candle] = []
        for candle in aligned:
            if kept and (candle.open_time - kept[-1].open_time) % (interval_s * 1_000):
                found.add(
                    "inconsistent", coin_id, f"close_time@{candle.close_time}", f"not {interval_s} s after the last"
                )
            else:
                kept.append(candle)
        return kept

    def _interval_s(self, request: Request) -> int:
        asked = request.params.get("interval")
        if asked is not None:
            if asked not in {"hourly", "daily"}:
                raise MalformedPayload(self.name, f"interval {asked!r} is not hourly or daily")
            return _NAMED_INTERVALS[asked]
        days = _days(request.params)
        if days is None:
            raise MalformedPayload(self.name, "the length of the candles needs the request's days or interval")
        return 1_800 if days <= 2 else 14_400 if days <= 30 else 345_600

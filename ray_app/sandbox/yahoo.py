"""Yahoo Finance's chart (query1.finance.yahoo.com/v8), simulated: daily bars only; shared/upstreams.md §3.

As the real one it gives the session that is open, as far as it went, stamped with its last trade; its close keeps that
stamp until the day is over; and now and then a day is all nulls.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Final
from urllib.parse import unquote

import numpy as np

from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from ray_app.sandbox.answers import Answer, Question, Rejection, SimulatedEndpoint, World, digits, json_answer
from ray_app.sandbox.macro import (
    FIRST_DAY,
    QUOTED,
    SERIES,
    date_of,
    day_of,
    is_holiday,
    nth_weekday,
    replayed_bars,
    uniform,
    values_of,
    weekday,
)
from ray_app.sandbox.rng import FloatArray, IntArray

_RANGES: Final = {
    "1d": 1,
    "5d": 7,
    "1mo": 31,
    "3mo": 92,
    "6mo": 183,
    "1y": 366,
    "2y": 731,
    "5y": 1_827,
    "10y": 3_653,
    "max": 36_500,
}
_INTERVALS: Final = ("1m", "2m", "5m", "15m", "30m", "60m", "90m", "1h", "1d", "5d", "1wk", "1mo", "3mo")
#: one day in so many is all nulls
_NULL_DAYS: Final = 180


@dataclass(frozen=True, slots=True)
class Listed:
    """What a symbol quotes: a series of the sandbox's economy, and when its market is open (local time, ms)."""

    series: str
    kind: str
    opens: int
    closes: int
    london: bool = False
    currency: str = "USD"

    def offset(self, day: int) -> int:
        """What the exchange's clock is ahead of UTC on a day, ms."""
        return _offset(day, self.london)


_STOCK: Final = (9 * HOUR_MS + 30 * MINUTE_MS, 16 * HOUR_MS)
_ALL_DAY: Final = (0, 24 * HOUR_MS - MINUTE_MS)
LISTED: Final = {
    "^VIX": Listed("VIXCLS", "INDEX", *_STOCK),
    "^GSPC": Listed("SP500", "INDEX", *_STOCK),
    "DX-Y.NYB": Listed("DXY", "INDEX", *_ALL_DAY),
    "^FVX": Listed("DGS5", "INDEX", 8 * HOUR_MS + 20 * MINUTE_MS, 15 * HOUR_MS),
    "^TNX": Listed("DGS10", "INDEX", 8 * HOUR_MS + 20 * MINUTE_MS, 15 * HOUR_MS),
    "^TYX": Listed("DGS30", "INDEX", 8 * HOUR_MS + 20 * MINUTE_MS, 15 * HOUR_MS),
    **{
        f"{code}=F": Listed(series, "FUTURE", *_ALL_DAY)
        for code, series in (("GC", "GOLD"), ("SI", "SILVER"), ("HG", "COPPER"), ("CL", "DCOILWTICO"), ("NG", "GAS"))
    },
    **{fund: Listed(fund, "ETF", *_STOCK) for fund in ("QQQ", "ARKK", "XLE", "XLF", "XLY", "XLP", "XLK")},
    "EURUSD=X": Listed("DEXUSEU", "CURRENCY", *_ALL_DAY, london=True),
    "GBPUSD=X": Listed("GBPUSD", "CURRENCY", *_ALL_DAY, london=True),
    "JPY=X": Listed("DEXJPUS", "CURRENCY", *_ALL_DAY, london=True, currency="JPY"),
    "CNY=X": Listed("DEXCHUS", "CURRENCY", *_ALL_DAY, london=True, currency="CNY"),
}


def _refuse(status: int, code: str, description: str) -> Rejection:
    error = {"code": code, "description": description}
    return Rejection(json_answer({"chart": {"result": None, "error": error}}, status))


class Chart(SimulatedEndpoint):
    """GET /v8/finance/chart/{symbol}?interval=1d with range, or period1 and period2."""

    source: ClassVar[str] = "yahoo"
    name = "chart"
    pattern = re.compile(r"/v8/finance/chart/([^/]+)")

    def answer(self, question: Question, world: World) -> Answer:
        symbol = unquote(question.subject).upper()
        listed = LISTED.get(symbol)
        if listed is None:
            raise _refuse(404, "Not Found", "No data found, symbol may be delisted")
        interval = question.params.get("interval", "1d")
        if interval not in _INTERVALS:
            raise _refuse(422, "Unprocessable Entity", f"Invalid input - interval={interval} is not supported")
        if interval != "1d":
            raise _refuse(422, "Unprocessable Entity", "The sandbox only has interval=1d")
        start, end = _bounds(question, listed)
        now = question.now_ms
        today = (now + listed.offset(now // DAY_MS)) // DAY_MS
        days = _sessions(listed, start // DAY_MS - 1, min(end // DAY_MS + 1, today))
        days = days[(_open(listed, days) >= start) & (_open(listed, days) < end) & (_open(listed, days) <= now)]
        times, columns = _bars(question, world, symbol, listed, days)
        result: dict[str, Any] = {"meta": _meta(question, symbol, listed, columns["close"], times)}
        if times:
            result |= {"timestamp": times}
        quote = columns if times else {}
        adjusted = {"adjclose": columns["close"]} if times else {}
        result["indicators"] = {"quote": [quote], "adjclose": [adjusted]}
        return json_answer({"chart": {"result": [result], "error": None}})


@lru_cache(maxsize=4_096)
def _offset(day: int, london: bool) -> int:
    year = date_of(day).year
    if london:
        return HOUR_MS * (nth_weekday(year, 3, 6, -1) <= day < nth_weekday(year, 10, 6, -1))
    return HOUR_MS * (-4 if nth_weekday(year, 3, 6, 2) <= day < nth_weekday(year, 11, 6, 1) else -5)


def _bounds(question: Question, listed: Listed) -> tuple[int, int]:
    """The range asked for, ms: ``[start, end)``."""
    params, now = question.params, question.now_ms
    if "period1" in params or "period2" in params:
        said = [params.get("period1", "0"), params.get("period2", str(now // SECOND_MS + 1))]
        if not all(digits(text.removeprefix("-")) and len(text) < 12 for text in said):
            raise _refuse(422, "Unprocessable Entity", "Invalid input - period1 and period2 are seconds")
        start, end = (int(text) for text in said)
        if start > end:
            words = f"Invalid input - start date cannot be after end date. startDate = {start}, endDate = {end}"
            raise _refuse(400, "Bad Request", words)
        return max(start * SECOND_MS, FIRST_DAY * DAY_MS), min(end * SECOND_MS, now + DAY_MS)
    span = params.get("range", "1d")
    today = (now + listed.offset(now // DAY_MS)) // DAY_MS
    if span == "ytd":
        return day_of(date_of(today).replace(month=1, day=1)) * DAY_MS, now + DAY_MS
    if span not in _RANGES:
        raise _refuse(422, "Unprocessable Entity", f"Invalid input - range={span} is not supported")
    return max(today - _RANGES[span], FIRST_DAY) * DAY_MS, now + DAY_MS


def _sessions(listed: Listed, first: int, last: int) -> IntArray:
    """The days of ``[first, last]`` on which the market is open."""
    days = np.arange(first, max(last, first - 1) + 1, dtype=np.int64)
    days = days[weekday(days) < 5]
    return days if listed.london else days[~is_holiday(days)]


def _open(listed: Listed, days: IntArray) -> IntArray:
    offsets = np.array([listed.offset(int(day)) for day in days], dtype=np.int64)
    return days * DAY_MS + listed.opens - offsets


def _bars(
    question: Question, world: World, symbol: str, listed: Listed, days: IntArray
) -> tuple[list[int], dict[str, list[float | None]]]:
    """Times in seconds and the five columns; the last bar may be of a session that is still open."""
    names = ("open", "high", "low", "close", "volume")
    if not len(days):
        return [], {name: [] for name in names}
    days, bars = _whole(world, symbol, listed, days)
    opens = _open(listed, days)
    times = (opens // SECOND_MS).tolist()
    volumes = np.zeros(len(days))
    if listed.kind in {"ETF", "FUTURE"} or symbol == "^GSPC":
        volumes = np.round(3e7 * (1.2 + uniform(days, world.seed, "yahoo-volume", symbol)))
    if len(days):
        last, ends = int(days[-1]), int(opens[-1]) + listed.closes - listed.opens
        now = question.now_ms
        if now < ends:
            done = (now - int(opens[-1])) / (ends - int(opens[-1]))
            bars[-1] = _so_far(bars[-1], done)
            volumes[-1] = np.floor(volumes[-1] * done)
        if (now + listed.offset(last)) // DAY_MS == last:
            times[-1] = _last_trade(min(now, ends))
    columns: dict[str, list[float | None]] = {}
    for name, column in zip(names, (*bars.T, volumes), strict=True):
        # prices travel as single precision: 4766.18 is 4766.18017578125
        said = column.astype(np.float32).astype(np.float64) if name != "volume" else column
        columns[name] = said.tolist()
    for row in (uniform(days, world.seed, "yahoo-null", symbol) > 1 - 2 / _NULL_DAYS).nonzero()[0].tolist():
        for values in columns.values():
            values[row] = None
    return times, columns


def _whole(world: World, symbol: str, listed: Listed, days: IntArray) -> tuple[IntArray, FloatArray]:
    """Those of the days that the series has, and open, high, low, close of each when it is over."""
    known, values = values_of(world, listed.series, int(days[0]) - 7, int(days[-1]))
    known, values = known[~np.isnan(values)], values[~np.isnan(values)]
    days = days[np.isin(days, known)]
    places = np.searchsorted(known, days)
    spec = SERIES.get(listed.series) or QUOTED[listed.series]
    swing = spec.swing if not spec.additive else spec.swing / max(spec.level, 1e-9)
    # Another quote at another time of the day: close to what FRED states, not the same.
    near = 0.0 if symbol in {"^VIX", "^GSPC"} else 0.15 * swing
    closes: FloatArray = values[places] * (1 + near * uniform(days, world.seed, "yahoo-close", symbol))
    before = values[np.maximum(places - 1, 0)]
    opens = before * (1 + 0.2 * swing * uniform(days, world.seed, "yahoo-open", symbol))
    above, below = (np.abs(uniform(days, world.seed, f"yahoo-{end}", symbol)) * 0.6 * swing for end in ("high", "low"))
    highs, lows = np.maximum(opens, closes) * (1 + above), np.minimum(opens, closes) * (1 - below)
    bars: FloatArray = np.stack([opens, highs, lows, closes], axis=-1).round(max(spec.decimals, 2)).astype(np.float64)
    real = replayed_bars(world, symbol.removeprefix("^"))
    if real is not None:
        rows = np.minimum(np.searchsorted(real[0], days), len(real[0]) - 1)
        bars = np.where((real[0][rows] == days)[:, None], real[1][rows], bars)
    return days, bars


def _so_far(bar: FloatArray, done: float) -> FloatArray:
    """A bar as it stands when a part of its session is over: on a straight way from its open to its close."""
    opened, high, low, close = bar
    now = opened + (close - opened) * done
    up, down = high - max(opened, close), min(opened, close) - low
    return np.round(np.array([opened, max(opened, now) + up * done, min(opened, now) - down * done, now]), 4)


def _last_trade(ms: int) -> int:
    return ms // MINUTE_MS * MINUTE_MS // SECOND_MS


def _meta(
    question: Question, symbol: str, listed: Listed, closes: list[float | None], times: list[int]
) -> dict[str, Any]:
    now = question.now_ms
    today = (now + listed.offset(now // DAY_MS)) // DAY_MS
    session = int(_sessions(listed, today, today + 7)[0])  # today's, or the next
    starts = int(_open(listed, np.array([session]))[0])
    ends = starts + listed.closes - listed.opens
    offset, zone = listed.offset(today) // SECOND_MS, "Europe/London" if listed.london else "America/New_York"
    short = ("BST" if offset else "GMT") if listed.london else ("EDT" if offset == -14_400 else "EST")

    def period(start: int, end: int) -> dict[str, Any]:
        return {"timezone": short, "start": start // SECOND_MS, "end": end // SECOND_MS, "gmtoffset": offset}

    return {
        "currency": listed.currency,
        "symbol": symbol,
        "exchangeName": "CCY" if listed.london else "SBX",
        "fullExchangeName": "[sandbox]",
        "instrumentType": listed.kind,
        "firstTradeDate": FIRST_DAY * 86_400,
        "regularMarketTime": times[-1] if times else None,
        "gmtoffset": offset,
        "timezone": short,
        "exchangeTimezoneName": zone,
        "regularMarketPrice": closes[-1] if closes else None,
        "chartPreviousClose": closes[0] if closes else None,
        "priceHint": 2,
        "currentTradingPeriod": {
            "pre": period(starts, starts),
            "regular": period(starts, ends),
            "post": period(ends, ends),
        },
        "dataGranularity": "1d",
        "range": question.params.get("range", ""),
        "validRanges": [*list(_RANGES)[:-1], "ytd", "max"],
    }


ENDPOINTS: Final[tuple[SimulatedEndpoint, ...]] = (Chart(),)

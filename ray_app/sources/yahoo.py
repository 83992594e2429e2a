"""Yahoo Finance: daily bars of indices, yields, futures, funds and currencies (query1.finance.yahoo.com/v8).

There is no documentation by Yahoo; upstreams.md §3 and recorded answers. What trips people up:

* The last bar may be of a session that is still open, stamped with the time of its last trade instead of its start;
  and the last session may stand there twice, under either stamp: the later one counts.
* Arrays hold nulls; ``timestamp`` is absent where there is nothing at all; times are in seconds.
* ``gmtoffset`` is the exchange's offset **now**. A bar of last summer that began at midnight then begins at 23:00 by
  the offset of winter: it belongs to the day after (see :func:`_date_of`).
* 429 is plain text. A refusal is ``{"chart": {"result": null, "error": {"code", "description"}}}``.
* ``^TNX`` was ten times the yield in older feeds.
* Volume is 0 for indices and currencies, which have none: it is kept as stated.
* What is not the adjusted close (splits, dividends) is what is read here: ``close`` of indices and rates has neither.

``known_at`` is the end of the session plus half an hour, and a bar is not read before that: what changes afterwards is
another version (``vintage`` is the content hash of the five values), known from its own ``first_seen_at``. The end is
``currentTradingPeriod.regular.end`` for its own day, else the bar's time plus the length of that period, which may be
that of a day of early close: the usual length, where it is longer (see ``_Session``). The recorded answers stamp past
bars with their session's start. A bar stamped later than that is known too late, never too early.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final
from urllib.parse import quote

from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS, from_ms
from ray_app.errors import MalformedPayload
from ray_app.sources.addressing import path_values
from ray_app.sources.base import Endpoint, Exchange, Parsed, Request, Row
from ray_app.sources.reading import (
    CONFLICT,
    Bounds,
    Findings,
    as_number,
    decode,
    expect_object,
    identifier,
    number,
    readable,
    shown,
)
from ray_app.sources.refusals import read_answer
from ray_app.sources.statements import version_of

#: symbol -> indicator and unit; a symbol that is not here is its own indicator, in the currency the answer names, or an
#: index
INDICATORS: Final[Mapping[str, tuple[str, str]]] = {
    "^VIX": ("VIX", "index"),
    "^GSPC": ("SPX", "index"),
    "DX-Y.NYB": ("DXY", "index"),
    "^FVX": ("FVX", "percent"),
    "^TNX": ("TNX", "percent"),
    "^TYX": ("TYX", "percent"),
    "GC=F": ("GOLD", "usd_per_troy_ounce"),
    "SI=F": ("SILVER", "usd_per_troy_ounce"),
    "HG=F": ("COPPER", "usd_per_pound"),
    "CL=F": ("OIL", "usd_per_barrel"),
    "NG=F": ("GAS", "usd_per_mmbtu"),
    **{fund: (fund, "usd") for fund in ("QQQ", "ARKK", "XLE", "XLF", "XLY", "XLP", "XLK")},
    "EURUSD=X": ("EURUSD", "usd_per_eur"),
    "GBPUSD=X": ("GBPUSD", "usd_per_gbp"),
    "JPY=X": ("USDJPY", "jpy_per_usd"),
    "CNY=X": ("USDCNY", "cny_per_usd"),
}
_NAMES: Final = {name for name, _ in INDICATORS.values()}
#: of indices that are no number of points, and that nobody here collects
_UNITS: Final = {"^IRX": "percent"}

#: a bar is read, and known, this long after its session's end
SETTLED_MS: Final = 30 * MINUTE_MS
#: how long what is listed in the USA trades on a usual day: the stock exchanges; Cboe's indices, as VIX
_SESSIONS: Final = {"America/New_York": 390 * MINUTE_MS, "America/Chicago": 405 * MINUTE_MS}
_LISTED: Final = ("INDEX", "ETF", "EQUITY", "MUTUALFUND")
#: nothing that trades in the day begins before this hour; what does trades around the clock
_MORNING_MS: Final = 6 * HOUR_MS
#: a session around the clock, as Yahoo states it
_WHOLE_DAY_MS: Final = DAY_MS - MINUTE_MS

_PRICE: Final = Bounds("a price", 1e-12, 1e12)
_VOLUME: Final = Bounds("a traded volume", 0.0, 1e18)
_BOUNDS: Final[Mapping[str, Bounds]] = {
    # ten times a yield is what older feeds stated: 43 is no yield of a Treasury note
    "^FVX": Bounds("a yield in percent", 0.05, 20.0),
    "^IRX": Bounds("a yield in percent", -2.0, 20.0),
    "^TNX": Bounds("a yield in percent", 0.3, 20.0),
    "^TYX": Bounds("a yield in percent", 0.3, 20.0),
    # on 2020-04-20 oil closed at -37.63
    "CL=F": Bounds("a price in USD a barrel", -1_000.0, 10_000.0),
    "NG=F": Bounds("a price in USD a million BTU", -1_000.0, 10_000.0),
}
#: 1900 to 2100: some series are older than any coin
_SECONDS: Final = Bounds("a time in seconds between 1900 and 2100", -2_208_988_800, 4_102_444_800)
_OFFSET: Final = Bounds("an offset from UTC in seconds", -50_400, 50_400)
_CURRENCY: Final = re.compile(r"[A-Za-z]{3}", re.ASCII)


class Chart(Endpoint):
    """``/v8/finance/chart/{symbol}`` with ``interval=1d``: bars of closed sessions. Other intervals are refused.

    A daily indicator cannot be made of hours honestly: they need not add up to the session's open, close and volume.
    """

    name: ClassVar[str] = "yahoo.chart"
    account: ClassVar[str] = "yahoo"
    #: 2: a day of early close makes no other day shorter; units of indices; the last session under two stamps
    parser_version: ClassVar[int] = 2
    paths: ClassVar[tuple[str, ...]] = ("/v8/finance/chart/{symbol}",)
    query: ClassVar[frozenset[str]] = frozenset(
        {
            *("interval", "range", "period1", "period2", "includePrePost", "events", "includeAdjustedClose"),
            *("lang", "region", "corsDomain", "useYfid", "formatted", "crumb"),
        }
    )

    def request(self, symbol: str, start_ms: int, end_ms: int) -> Request:
        """Daily bars of ``symbol`` that begin in ``[start_ms, end_ms)``."""
        params = {"interval": "1d", "period1": str(start_ms // 1_000), "period2": str(-(-end_ms // 1_000))}
        return Request(self.name, f"/v8/finance/chart/{quote(symbol, safe='')}", {**params, "includePrePost": "false"})

    def parse(self, exchange: Exchange) -> Parsed:
        """macro_indicators rows, ascending, of sessions that had ended half an hour before the fetch."""
        symbol = path_values(self, exchange.request.path)["symbol"].upper()
        result = self._result(exchange, symbol)
        found = Findings()
        session = self._session(found, symbol, result["meta"])
        times, columns = self._arrays(found, symbol, result)
        stamps: dict[int, dict[int, list[int]]] = {}  # date: stamp: positions
        for position, said in enumerate(times):
            starts = _milliseconds(found, symbol, f"timestamp#{position}", said)
            if starts is not None:
                stamps.setdefault(_date_of(starts, session.offset_ms), {}).setdefault(starts, []).append(position)
        readable(self.name, times, len(stamps), "a time in epoch seconds")
        indicator, unit = _indicator(symbol, result["meta"])
        rows: list[Row] = []
        newest = max(stamps, default=None)
        for date, stated in sorted(stamps.items()):
            first, last = min(stated), max(stated)
            ends = session.end_of(first)
            if ends is None or max(ends, last) + SETTLED_MS > exchange.fetched_at:
                continue
            said = {
                stamp: [{name: column[position] for name, column in columns.items()} for position in positions]
                for stamp, positions in stated.items()
            }
            bar = _settled(found, symbol, max(ends, last), date, said, newest=date == newest)
            if bar is not None:
                rows.append(bar.row(indicator, unit, exchange.fetched_at))
        return Parsed(tuple(rows), found.all(), oldest=min(stamps, default=None))

    def _result(self, exchange: Exchange, symbol: str) -> dict[str, Any]:
        """The one result of an answer about ``symbol`` in daily bars; MalformedPayload for any other."""
        body = expect_object(self.name, read_answer(_refusal_plainly(exchange)), "chart")
        chart = body.get("chart")
        results = chart.get("result") if isinstance(chart, dict) else None
        result = results[0] if isinstance(results, list) and len(results) == 1 else None
        if not isinstance(result, dict) or not isinstance(result.get("meta"), dict):
            raise MalformedPayload(self.name, f"no 'chart.result' with one chart and its 'meta', but {shown(chart)}")
        about = result["meta"].get("symbol")
        if not isinstance(about, str) or about.upper() != symbol:
            raise MalformedPayload(self.name, f"asked for {shown(symbol)}, the answer is about {shown(about)}")
        interval = result["meta"].get("dataGranularity")
        if interval != "1d" or exchange.request.params.get("interval", "1d") != "1d":
            raise MalformedPayload(self.name, f"bars of {shown(interval)}; only interval=1d is read")
        return result

    def _session(self, found: Findings, symbol: str, meta: Mapping[str, Any]) -> _Session:
        offset_s = number(found, symbol, "gmtoffset", meta.get("gmtoffset"), _OFFSET)
        if offset_s is None:
            raise MalformedPayload(self.name, f"no 'gmtoffset', which says whose days these are: {shown(meta)}")
        periods = meta.get("currentTradingPeriod")
        regular = periods.get("regular") if isinstance(periods, dict) else None
        if not isinstance(regular, dict):
            raise MalformedPayload(
                self.name, f"no 'currentTradingPeriod.regular', which says what is open: {shown(meta)}"
            )
        start, end = (_milliseconds(found, symbol, f"regular.{name}", regular.get(name)) for name in ("start", "end"))
        if start is None or end is None or not 0 < end - start <= DAY_MS:
            raise MalformedPayload(self.name, f"'currentTradingPeriod.regular' is no session: {shown(regular)}")
        zone, kind = meta.get("exchangeTimezoneName"), meta.get("instrumentType")
        usual = _SESSIONS.get(zone) if isinstance(zone, str) and kind in _LISTED else None
        return _Session(start, end, int(offset_s) * 1_000, usual)

    def _arrays(
        self, found: Findings, symbol: str, result: Mapping[str, Any]
    ) -> tuple[list[Any], dict[str, Sequence[Any]]]:
        """The times and the five columns, all of one length; nothing where the answer has no times."""
        times = result.get("timestamp")
        if times is None:
            return [], {}
        indicators = result.get("indicators")
        quotes = indicators.get("quote") if isinstance(indicators, dict) else None
        said = quotes[0] if isinstance(quotes, list) and quotes and isinstance(quotes[0], dict) else None
        if not isinstance(times, list) or said is None:
            raise MalformedPayload(self.name, f"no arrays 'timestamp' and 'indicators.quote': {shown(result)}")
        columns: dict[str, Sequence[Any]] = {}
        for name in ("open", "high", "low", "close", "volume"):
            column = said.get(name)
            if isinstance(column, list) and len(column) == len(times):
                columns[name] = column
                continue
            if name == "close" and times:
                raise MalformedPayload(self.name, f"'close' is not {len(times)} values, one a time: {shown(column)}")
            if column is not None:
                found.add("wrong_type", symbol, name, f"not {len(times)} values, one a time: {shown(column)}")
            columns[name] = [None] * len(times)
        return times, columns


@dataclass(frozen=True, slots=True)
class _Session:
    """The session ``currentTradingPeriod`` names: the one that is open, or the next, or the last. Times ms.

    ``usual_ms``: how long such a session is, where that is known.
    """

    start: int
    end: int
    offset_ms: int
    usual_ms: int | None

    def end_of(self, starts: int) -> int | None:
        """When the session of a bar ends; None: it is after the one named, and cannot have."""
        date, named = _date_of(starts, self.offset_ms), _date_of(self.start, self.offset_ms)
        if date > named:
            return None
        if date == named:
            return max(self.end, starts)
        return starts + max(self.end - self.start, self._usual(starts - date + self.offset_ms))

    def _usual(self, opens: int) -> int:
        """How long a session that opens at this local time lasts at the longest: where unknown, to its day's end.

        ``opens`` is by today's offset and may be an hour off: the day's end is an hour later than it.
        """
        if self.usual_ms is not None and opens >= _MORNING_MS:
            return self.usual_ms
        return min(_WHOLE_DAY_MS, DAY_MS + HOUR_MS - opens)


@dataclass(frozen=True, slots=True)
class _Bar:
    date: int
    ends: int = field(compare=False)
    open: float | None
    high: float | None
    low: float | None
    close: float
    volume: float | None

    def row(self, indicator: str, unit: str, fetched_at: int) -> Row:
        vintage = version_of(self.open, self.high, self.low, self.close, self.volume)
        return Row(
            "macro_indicators",
            {"indicator_name": indicator, "source": Chart.name, "indicator_date": self.date, "vintage": vintage},
            {
                "value": self.close,
                "unit": unit,
                "open_price": self.open,
                "high_price": self.high,
                "low_price": self.low,
                "volume": self.volume,
                "known_at": min(fetched_at, self.ends + SETTLED_MS),
                "first_seen_at": fetched_at,
            },
            self.date,  # and not its end, which depends on how a bar is stamped: of two versions the later fetch counts
        )


def _settled(
    found: Findings,
    symbol: str,
    ends: int,
    date: int,
    stated: Mapping[int, Sequence[Mapping[str, Any]]],
    *,
    newest: bool,
) -> _Bar | None:
    """A session's bar of what is stated under each stamp; None and an issue where that differs.

    The ``newest`` session of an answer may stand there twice: as the day's bar, and stamped with its last trade. The
    later one counts.
    """
    bars: list[_Bar] = []
    for _, said in sorted(stated.items(), reverse=True):
        bars += [bar for one in said if (bar := _bar(found, symbol, ends, date, one)) is not None]
        if bars and newest:
            break
    if any(bar != bars[0] for bar in bars):
        found.add("duplicate", symbol, f"timestamp@{_day(date)}", "one session, stated twice with different values")
        return None
    return bars[0] if bars else None


def _bar(found: Findings, symbol: str, ends: int, date: int, said: Mapping[str, Any]) -> _Bar | None:
    """A bar of what is said; None where it has no close. Extremes that contradict the others are left out."""
    day, bounds = _day(date), _BOUNDS.get(symbol, _PRICE)
    opened, high, low, close = (
        number(found, symbol, name, said[name], bounds, where=day) for name in ("open", "high", "low", "close")
    )
    if close is None:
        return None
    inside = [value for value in (opened, close) if value is not None]
    if (low is not None and low > min(inside)) or (high is not None and high < max(inside)):
        found.add("inconsistent", symbol, f"high@{day}", f"{shown([opened, close])} outside of {shown([low, high])}")
        high = low = None
    volume = number(found, symbol, "volume", said["volume"], _VOLUME, where=day)
    return _Bar(date, ends, opened, high, low, close, volume)


def _date_of(ms: int, offset_ms: int) -> int:
    """Midnight UTC of the exchange's day. The last hour counts to the next day: no session begins or ends in it, and a
    bar that began at midnight half a year ago is there by today's offset.
    """  # noqa: D205 - one sentence after the other
    return (ms + offset_ms + HOUR_MS) // DAY_MS * DAY_MS


def _milliseconds(found: Findings, symbol: str, name: str, value: object) -> int | None:
    """The ms of a time in seconds, of any year a market has; None and an issue for anything but null."""
    if value is None or value is CONFLICT or as_number(value) is None:
        found.add("wrong_type", symbol, name, f"expected a time in seconds, got {shown(value)!r}")
        return None
    read = number(found, symbol, name, value, _SECONDS)
    return round(read * 1_000) if read is not None else None


def _indicator(symbol: str, meta: Mapping[str, Any]) -> tuple[str, str]:
    """What the table calls it, and its unit. A ticker that is one of our names (GOLD, a miner) gets a mark."""
    if symbol in INDICATORS:
        return INDICATORS[symbol]
    name = quote(symbol, safe="^=.-")
    if len(name) > 60 or identifier(name) is None:
        raise MalformedPayload(Chart.name, f"{shown(symbol)} is no symbol")
    currency = meta.get("currency")
    unit = _UNITS.get(symbol, "index" if meta.get("instrumentType") == "INDEX" else "unknown")
    if unit == "unknown" and isinstance(currency, str) and _CURRENCY.fullmatch(currency):
        # GBp and ZAc are hundredths: the case is part of the name
        unit = currency.lower() if currency.isupper() else f"hundredth_{currency.lower()}"
    return (f"{name}~" if name in _NAMES else name), unit


def _refusal_plainly(exchange: Exchange) -> Exchange:
    """The exchange with Yahoo's refusal as ``{"error": "Not Found: …"}``, so that one place reads refusals."""
    try:
        body = decode(exchange.request.endpoint, exchange.body)
    except MalformedPayload:
        return exchange
    for name in ("chart", "finance", "quoteSummary"):
        part = body.get(name) if isinstance(body, dict) else None
        error = part.get("error") if isinstance(part, dict) else None
        if error is not None:
            said = [error.get(key) for key in ("code", "description")] if isinstance(error, dict) else [error]
            words = ": ".join(str(one) for one in said if one) or "unnamed error"
            return replace(exchange, body=json.dumps({"error": words}).encode())
    return exchange


def _day(ms: int) -> str:
    return from_ms(ms).strftime("%Y-%m-%d")


ENDPOINTS: Final[tuple[Endpoint, ...]] = (Chart(),)

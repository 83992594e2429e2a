"""Good answers of the sources of macro series and markets, written by hand after the documented formats (see samples.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray_app.clock import DAY_MS
from ray_app.sources import ENDPOINTS, Request

NOON = 1_779_105_600_000  # 2026-05-18T12:00:00Z, a Monday
FETCHED_AT = NOON + 7_300


def observation(date: str, value: Any, since: str, until: str = "9999-12-31") -> dict[str, Any]:
    """One observation as FRED writes it."""
    return {"realtime_start": since, "realtime_end": until, "date": date, "value": value}


#: CPI of two months, one of them revised, and one that has not been published
FRED = {
    "realtime_start": "2026-03-01",
    "realtime_end": "9999-12-31",
    "observation_start": "2026-03-01",
    "observation_end": "9999-12-31",
    "units": "lin",
    "output_type": 1,
    "file_type": "json",
    "order_by": "observation_date",
    "sort_order": "asc",
    "count": 4,
    "offset": 0,
    "limit": 100_000,
    "observations": [
        observation("2026-03-01", "330.213", "2026-04-14", "2026-05-11"),
        observation("2026-03-01", "330.293", "2026-05-12"),
        observation("2026-04-01", "331.01", "2026-05-12"),
        observation("2026-05-01", ".", "2026-05-12"),
    ],
}

#: the opening bell in New York on three days of May 2026, in seconds: Thursday, Friday, and the Monday of the fetch
BELLS = (1_778_765_400, 1_778_851_800, 1_779_111_000)


def chart(symbol: str = "^GSPC", times: Any = BELLS[:2], **changes: Any) -> dict[str, Any]:
    """A chart of daily bars; ``changes`` replace members of its meta, a value of ``...`` removes one."""
    times = list(times)
    meta = {
        "currency": "USD",
        "symbol": symbol,
        "exchangeName": "SNP",
        "fullExchangeName": "SNP",
        "instrumentType": "INDEX",
        "firstTradeDate": -1_325_583_000,
        "regularMarketTime": 1_778_875_512,
        "gmtoffset": -14_400,
        "timezone": "EDT",
        "exchangeTimezoneName": "America/New_York",
        "regularMarketPrice": 7_402.5,
        "chartPreviousClose": 7_350.25,
        "priceHint": 2,
        "currentTradingPeriod": {
            "pre": {"timezone": "EDT", "start": 1_779_091_200, "end": 1_779_111_000, "gmtoffset": -14_400},
            "regular": {"timezone": "EDT", "start": 1_779_111_000, "end": 1_779_134_400, "gmtoffset": -14_400},
            "post": {"timezone": "EDT", "start": 1_779_134_400, "end": 1_779_148_800, "gmtoffset": -14_400},
        },
        "dataGranularity": "1d",
        "range": "",
        "validRanges": ["1d", "5d", "1mo"],
    } | changes
    columns = {
        "open": [7_360.5 + n for n in range(len(times))],
        "high": [7_410.75 + n for n in range(len(times))],
        "low": [7_340.0 + n for n in range(len(times))],
        "close": [7_401.5 + n for n in range(len(times))],
        "volume": [3_100_000_000 + n for n in range(len(times))],
    }
    result = {
        "meta": {name: value for name, value in meta.items() if value is not ...},
        "timestamp": times,
        "indicators": {"quote": [columns], "adjclose": [{"adjclose": columns["close"]}]},
    }
    return {"chart": {"result": [result], "error": None}}


BODIES: Mapping[str, Any] = {"fred.observations": FRED, "yahoo.chart": chart()}
REQUESTS: Mapping[str, Callable[[], Request]] = {
    "fred.observations": lambda: ENDPOINTS["fred.observations"].request("CPIAUCSL", NOON - 78 * DAY_MS),
    "yahoo.chart": lambda: ENDPOINTS["yahoo.chart"].request("^GSPC", NOON - 10 * DAY_MS, NOON),
}

"""Macro series: FRED with its vintages, and Yahoo's daily bars as the second opinion and for what FRED lacks.

**FRED**: 22 series x 4 polls a day = 88 requests a day; the account may do 60 a minute. A value is released once a day
at most: six hours are early enough, and the real-time period says when it was known, however late it is asked for.

**Yahoo**: 22 symbols x 4 polls a day = 88 requests a day; the account may do 20 a minute.

Both name their range, so the next answer repairs what was missed: a history of months costs one request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ray_app.assets import AssetRegistry
from ray_app.collection.feeds import Ask, Feed
from ray_app.settings import Settings
from ray_app.sources.base import Request
from ray_app.sources.fred import Observations
from ray_app.sources.yahoo import INDICATORS, Chart

INTERVAL_S: Final = 6 * 3_600
_DAY_S: Final = 86_400
#: below the 2,000 vintages FRED gives at once, also of a series of every day
FRED_HISTORY_S: Final = 5 * 365 * _DAY_S
YAHOO_HISTORY_S: Final = 2 * 365 * _DAY_S

#: published every day and hardly ever revised: a month back is enough (holidays, and releases of the week)
_DAILY: Final = (
    *("VIXCLS", "DGS2", "DGS10", "DGS30", "T10Y2Y", "DFF", "SP500"),
    *("DEXUSEU", "DEXJPUS", "DEXCHUS", "DCOILWTICO"),
)
#: revised for years (seasonal factors, benchmarks, weights): each poll asks for all of the history again. A month's
#: value comes weeks after the month: a short way back would find nothing
_REVISED: Final = (
    *("CPIAUCSL", "UNRATE", "FEDFUNDS", "INDPRO", "RSAFS", "UMCSENT", "GDPC1", "ICSA", "HOUST", "M2SL", "DTWEXBGS"),
)
#: FRED answers "The series does not exist in ALFRED but may exist in FRED": they are asked without vintages, and each
#: value counts as known only from the first answer that said it (observed of SP500, August 2026)
WITHOUT_VINTAGES: Final = frozenset({"SP500"})


def lacks_vintages(refusal: str) -> bool:
    """Whether FRED's refusal says that a series belongs into WITHOUT_VINTAGES: asked without, it would be answered."""
    said = refusal.casefold()
    return "does not exist in alfred" in said or "no vintage dates exist" in said


def fred_feeds(settings: Settings, registry: AssetRegistry) -> list[Feed]:  # noqa: ARG001 - as every catalogue
    """One feed per series, called by FRED's id."""
    return [
        Feed(
            subject=series,
            account="fred",
            interval_s=INTERVAL_S,
            reach="history",
            ask=_fred(series),
            history_s=FRED_HISTORY_S,
            overlap_s=FRED_HISTORY_S if series in _REVISED else 30 * _DAY_S,
            pages=3,
            instead=_without_vintages(series),
        )
        for series in (*_DAILY, *_REVISED)
    ]


def yahoo_feeds(settings: Settings, registry: AssetRegistry) -> list[Feed]:  # noqa: ARG001 - as every catalogue
    """One feed per symbol, called by it. A week back: holidays, and bars that are settled late."""
    return [
        Feed(
            subject=symbol,
            account="yahoo",
            interval_s=INTERVAL_S,
            reach="history",
            ask=_yahoo(symbol),
            history_s=YAHOO_HISTORY_S,
            overlap_s=7 * _DAY_S,
        )
        for symbol in INDICATORS
    ]


def _fred(series: str) -> Callable[[Ask], Request]:
    return lambda asked: Observations().request(series, asked.since, vintages=series not in WITHOUT_VINTAGES)


def _without_vintages(series: str) -> Callable[[Ask, str], Request | None]:
    """The plain question, where FRED says that it keeps no vintages of the series."""

    def ask(asked: Ask, refusal: str) -> Request | None:
        return Observations().request(series, asked.since, vintages=False) if lacks_vintages(refusal) else None

    return ask


def _yahoo(symbol: str) -> Callable[[Ask], Request]:
    return lambda asked: Chart().request(symbol, asked.since, asked.now)

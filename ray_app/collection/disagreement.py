"""Two sources of one indicator that contradict each other: what a reader must be told before he trusts either.

FRED is primary, Yahoo secondary (no service level, terms that forbid redistribution). They quote the same thing at
different hours of the day, so each pair has a tolerance; a difference beyond it is an issue of the secondary's row.
Nothing is changed or left out because of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Select, select

from ray_app.clock import DAY_MS, from_ms
from ray_app.storage.tables import ORDER_COLUMNS, data_quality_events, macro_indicators

KIND: Final = "disagreement"
PRIMARY: Final = "fred.observations"
SECONDARY: Final = "yahoo.chart"
#: how many days back a comparison goes, unless told: FRED's weekly releases are in by then
DAYS: Final = 30

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Pair:
    """One indicator under two names. They agree within ``relative`` of the primary or ``absolute``, the greater."""

    secondary: str
    primary: str
    relative: float = 0.0
    absolute: float = 0.0

    @property
    def name(self) -> str:
        """As events call it."""
        return f"{self.secondary}~{self.primary}"

    def allowed(self, primary: float) -> float:
        """The greatest difference that is none."""
        return max(self.absolute, self.relative * abs(primary))


PAIRS: Final[tuple[Pair, ...]] = (
    # the same index, the same close; Cboe and S&P round to two decimals
    Pair("VIX", "VIXCLS", 0.005, 0.02),
    Pair("SPX", "SP500", 0.001),
    # the yield of the last note issued at 15:00 in Chicago against the Treasury's fitted curve: points of percent
    Pair("TNX", "DGS10", absolute=0.15),
    # the future of the front month against the price on the spot in Cushing
    Pair("OIL", "DCOILWTICO", 0.06, 1.0),
    # midnight in London against noon in New York
    Pair("EURUSD", "DEXUSEU", 0.02),
    Pair("USDJPY", "DEXJPUS", 0.025),
    # the renminbi in China and abroad
    Pair("USDCNY", "DEXCHUS", 0.015),
)


def disagreements(rows: Iterable[Record], pairs: Iterable[Pair] = PAIRS) -> list[dict[str, Any]]:
    """Rows of ``data_quality_events``: one per pair and day on which the current values differ too much.

    ``rows``: of macro_indicators, of both sources, any number of vintages; of each day the last in order counts. A day
    that only one source has, or that one says has no value, is no disagreement.
    """
    current = _current(rows)
    found = []
    for pair in pairs:
        for (name, source, day), row in sorted(current.items()):
            if (name, source) != (pair.secondary, SECONDARY):
                continue
            other = current.get((pair.primary, PRIMARY, day))
            if other is None or row["value"] is None or other["value"] is None:
                continue
            apart = abs(row["value"] - other["value"])
            if apart > pair.allowed(other["value"]):
                found.append(_event(pair, day, row, other, apart))
    return found


def recent(conn: Connection, now_ms: int, days: int = DAYS, pairs: tuple[Pair, ...] = PAIRS) -> list[dict[str, Any]]:
    """The disagreements of the last days that are stored and not reported yet, as :func:`disagreements` gives them.

    A row is written anew with each answer that repeats it, its payload then another: what is reported in the same words
    is not reported again.
    """
    since = now_ms - days * DAY_MS
    rows = [dict(row) for row in conn.execute(_series(since, pairs)).mappings()]
    said = {(row.subject, row.field, row.detail) for row in conn.execute(_reported(since, pairs))}
    return [e for e in disagreements(rows, pairs) if (e["subject"], e["field"], e["detail"]) not in said]


def _current(rows: Iterable[Record]) -> dict[tuple[str, str, int], Record]:
    current: dict[tuple[str, str, int], Record] = {}
    for row in rows:
        key = (row["indicator_name"], row["source"], row["indicator_date"])
        if key not in current or _place(row) > _place(current[key]):
            current[key] = row
    return current


def _place(row: Record) -> tuple[Any, ...]:
    return (*(row[name] for name in ORDER_COLUMNS), row["vintage"])


def _event(pair: Pair, day: int, row: Record, other: Record, apart: float) -> dict[str, Any]:
    date = from_ms(day).strftime("%Y-%m-%d")
    return {
        "payload_hash": row["payload_hash"],
        "kind": KIND,
        "subject": pair.name,
        "field": f"value@{date}",
        "source": row["source"],
        "fetched_at": row["fetched_at"],
        "detail": (
            f"{date}: {pair.secondary} is {row['value']:.10g} by {SECONDARY}, {pair.primary} {other['value']:.10g} by "
            f"{PRIMARY}: {apart:.4g} apart, {pair.allowed(other['value']):.4g} are allowed"
        ),
    }


def _series(since: int, pairs: tuple[Pair, ...]) -> Select[Any]:
    """Every vintage of both series of each pair since a day: by the index on name and date."""
    columns = macro_indicators.c
    names = sorted({name for pair in pairs for name in (pair.primary, pair.secondary)})
    wanted = ("indicator_name", "source", "indicator_date", "vintage", "value", *ORDER_COLUMNS)
    return select(*(columns[name] for name in wanted)).where(
        columns.indicator_name.in_(names),
        columns.indicator_date >= since,
        columns.source.in_((PRIMARY, SECONDARY)),
    )


def _reported(since: int, pairs: tuple[Pair, ...]) -> Select[Any]:
    columns = data_quality_events.c
    return select(columns.subject, columns.field, columns.detail).where(
        columns.fetched_at >= since, columns.kind == KIND, columns.subject.in_([pair.name for pair in pairs])
    )

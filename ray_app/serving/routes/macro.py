"""Macro indicators: the latest of each, and their history as it is known now or as it was known at any time."""

from __future__ import annotations

import difflib
from itertools import islice
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Path, Request, Response
from sqlalchemy import Connection

from ray_app.clock import DAY_MS, iso
from ray_app.serving.keys import Level
from ray_app.serving.licensing import level_of, require, withheld
from ray_app.serving.problems import Problem
from ray_app.serving.routes.answers import CursorParam, Gateway, Limit, from_database, requires
from ray_app.serving.routes.prices import ok
from ray_app.serving.routes.series import (
    AsOf,
    End,
    Row,
    Source,
    Span,
    Start,
    after_names,
    names_cursor,
    respond,
    span,
)
from ray_app.storage import source_queries
from ray_app.storage.source_queries import MACRO

router = APIRouter(prefix="/api/v1/macro", tags=["series"], dependencies=[Depends(requires(Level.readonly))])

#: how far back a history reaches that has no start, days
DAYS = 365
#: the least a number may be overdue before it counts as stale: a long weekend
LEAST_GRACE_MS = 5 * DAY_MS

#: what people call an indicator, and the names it may be stored by, best first
KNOWN_AS: Final[dict[str, tuple[str, ...]]] = {
    "VIX": ("VIX", "VIXCLS"),
    **dict.fromkeys(("S&P500", "S&P 500", "SP500", "SPX", "GSPC"), ("SP500", "SPX")),
    **dict.fromkeys(("DXY", "DOLLAR", "USD_INDEX"), ("DXY", "DTWEXBGS")),
    **dict.fromkeys(("CPI", "INFLATION"), ("CPIAUCSL",)),
    **dict.fromkeys(("GDP", "REAL_GDP"), ("GDPC1",)),
    **dict.fromkeys(("UNEMPLOYMENT", "UNEMPLOYMENT_RATE"), ("UNRATE",)),
    **dict.fromkeys(("FED_FUNDS", "FED_FUNDS_RATE", "INTEREST_RATE"), ("FEDFUNDS", "DFF")),
    **dict.fromkeys(("10Y", "US10Y", "TREASURY_10Y", "TNX"), ("DGS10", "TNX")),
    **dict.fromkeys(("2Y", "US2Y", "TREASURY_2Y"), ("DGS2",)),
    **dict.fromkeys(("30Y", "US30Y", "TREASURY_30Y", "TYX"), ("DGS30", "TYX")),
    **dict.fromkeys(("YIELD_CURVE", "10Y2Y"), ("T10Y2Y",)),
    "M2": ("M2SL",),
    **dict.fromkeys(("OIL", "WTI", "CRUDE"), ("OIL", "DCOILWTICO")),
    **dict.fromkeys(("GOLD", "XAU"), ("GOLD",)),
    **dict.fromkeys(("EURUSD", "EUR"), ("EURUSD", "DEXUSEU")),
    **dict.fromkeys(("USDJPY", "JPY"), ("USDJPY", "DEXJPUS")),
    **dict.fromkeys(("USDCNY", "CNY"), ("USDCNY", "DEXCHUS")),
    **dict.fromkeys(("JOBLESS_CLAIMS", "INITIAL_CLAIMS"), ("ICSA",)),
    "CONSUMER_SENTIMENT": ("UMCSENT",),
    "RETAIL_SALES": ("RSAFS",),
    "INDUSTRIAL_PRODUCTION": ("INDPRO",),
    "HOUSING_STARTS": ("HOUST",),
}

_VALUES = ("value", "open", "high", "low", "volume")

_ROW: Row = {
    "date": "2026-10-01",
    "value": 4.1,
    "unit": "percent",
    "open": None,
    "high": None,
    "low": None,
    "volume": None,
    "vintage": "2026-11-06",
    "known_at": "2026-11-07T06:00:00Z",
}
_EXAMPLE: Row = {
    "data": [
        {
            "indicator": "UNRATE",
            "source": "fred.observations",
            **_ROW,
            "stale": False,
            "stale_after": "2026-12-17T00:00:00Z",
        }
    ],
    "count": 1,
    "next_cursor": None,
    "attribution": ["This product uses the FRED® API but is not endorsed or certified by the Federal Reserve Bank …"],
    "as_of": "2026-11-07T06:00:00Z",
    "source": "fred.observations",
    "quality": "current",
}


@router.get(
    "",
    summary="The latest of every macro indicator",
    responses=ok(
        "One entry per indicator and source: its newest date that has a value. `stale`: the next number is overdue by "
        "more than a whole period (null: one number alone tells no period).",
        _EXAMPLE,
    ),
)
async def macro(
    request: Request, deps: Gateway, source: Source = None, limit: Limit = 250, cursor: CursorParam = None
) -> Response:
    """Value, unit, date, when it was known, and whether it is stale, by indicator and source."""
    after = after_names(cursor, 2)

    def read(conn: Connection) -> list[list[Row]]:
        found = source_queries.groups(conn, MACRO, (), after)
        chosen = (group for group in found if source in {None, group[1]})
        newest = (source_queries.latest(conn, MACRO, group, 2) for group in chosen)
        return list(islice(filter(None, newest), limit + 1))

    found = await from_database(deps, read)
    if not found:
        raise Problem("DATA_NOT_AVAILABLE", "no macro indicators have been collected yet")
    now_ms, page = deps.clock.now_ms(), found[:limit]
    overdue = {(rows[0]["indicator_name"], rows[0]["source"]): _stale_after(rows) for rows in page}

    def show(row: Row) -> Row:
        due = overdue[row["indicator_name"], row["source"]]
        fresh = {"stale": None if due is None else now_ms > due, "stale_after": None if due is None else iso(due)}
        return {"indicator": row["indicator_name"], "source": row["source"], **_show(row), **fresh}

    last = page[-1][0]
    more = names_cursor((last["indicator_name"], last["source"])) if len(found) > limit else None
    rows = [rows[0] for rows in page]
    return respond(request, deps, {}, rows, show, next_cursor=more, series=_series, values=_VALUES)


def _series(row: Row) -> str:
    return str(row["indicator_name"])


def _stale_after(rows: list[Row]) -> int | None:
    """When the number after the newest is overdue, ms: two periods and some from its date. A period is the time
    between the newest two; publication takes most of another one.
    """  # noqa: D205 - one sentence after the other
    if len(rows) < 2:
        return None
    newest, period = rows[0]["indicator_date"], rows[0]["indicator_date"] - rows[1]["indicator_date"]
    return int(newest + 2 * period + max(period // 2, LEAST_GRACE_MS))


def _show(row: Row) -> Row:
    released = MACRO.released(row)
    return {
        "date": iso(row["indicator_date"])[:10],
        "value": row["value"],
        "unit": row["unit"],
        "open": row["open_price"],
        "high": row["high_price"],
        "low": row["low_price"],
        "volume": row["volume"],
        "vintage": iso(released)[:10] if released is not None else None,
        "known_at": iso(row["known_at"]),
    }


_HISTORY: Row = {
    "indicator": "UNRATE",
    "unit": "percent",
    "sources": ["fred.observations"],
    "start": "2026-01-01T00:00:00Z",
    "end": "2026-11-24T08:00:00Z",
    "as_known_at": None,
    **_EXAMPLE,
    "data": [{name: value for name, value in _ROW.items() if name != "unit"}],
}


@router.get(
    "/{indicator}",
    summary="History of one macro indicator",
    responses=ok(
        "Of one source, ascending by date. `vintage` (FRED): the day this value was published, null where nobody says; "
        "with `as_of` the newest vintage that was public then. A null value: the source says that there is none (a "
        "holiday).",
        _HISTORY,
    ),
)
async def history(
    indicator: Annotated[
        str, Path(min_length=1, max_length=64, description="FRED id or name, any case", examples=["UNRATE", "vix"])
    ],
    request: Request,
    deps: Gateway,
    start: Start = None,
    end: End = None,
    as_of: AsOf = None,
    source: Source = None,
    limit: Limit = 250,
    cursor: CursorParam = None,
) -> Response:
    """Values of `start` to `end` (default: a year), as known now or at `as_of`."""
    asked, level = span(start, end, as_of, cursor, deps.clock.now_ms(), DAYS, 1), level_of(request)
    name, sources = await from_database(deps, lambda conn: _found(conn, indicator))
    if asked.after is not None:
        source = asked.after[0][0]
    if source is not None and source not in sources:
        raise Problem("DATA_NOT_AVAILABLE", f"{name} is not of {source}; there are {', '.join(sources)}")
    chosen = source if source is not None else _best(level, name, sources)
    require(level, chosen, name)

    def read(conn: Connection) -> list[Row]:
        return _page(conn, (name, chosen), asked, limit + 1)

    rows = await from_database(deps, read)
    if not rows:
        raise Problem("DATA_NOT_AVAILABLE", f"there is nothing of {name} from {chosen} in this range")
    page = rows[:limit]
    more = asked.next_cursor((chosen,), page[-1]["indicator_date"]) if len(rows) > limit else None
    head = {"indicator": name, "unit": page[-1]["unit"], "sources": sources, **asked.shown()}
    return respond(
        request,
        deps,
        head,
        page,
        lambda row: {key: value for key, value in _show(row).items() if key != "unit"},
        next_cursor=more,
        series=_series,
        values=_VALUES,
        quality="current" if asked.as_of is None else "point_in_time",
    )


def _page(conn: Connection, group: tuple[str, str], asked: Span, limit: int) -> list[Row]:
    after = None if asked.after is None else (group, asked.after[1])
    return source_queries.history(
        conn, MACRO, group, start=asked.start, end=asked.end, as_of=asked.as_of, after=after, limit=limit
    )


def _found(conn: Connection, typed: str) -> tuple[str, list[str]]:
    """The stored indicator meant, and its sources; Problem NOT_FOUND with near matches."""
    stored = source_queries.names(conn, MACRO)
    if not stored:
        raise Problem("DATA_NOT_AVAILABLE", "no macro indicators have been collected yet")
    word = typed.strip().upper()
    by_name = {name.upper(): name for name in stored}
    for candidate in (word, *KNOWN_AS.get(word, ())):
        if candidate in by_name:
            name = by_name[candidate]
            return name, [group[1] for group in source_queries.groups(conn, MACRO, (name,))]
    if word in KNOWN_AS:
        raise Problem("DATA_NOT_AVAILABLE", f"{word} ({', '.join(KNOWN_AS[word])}) has not been collected yet")
    near = difflib.get_close_matches(word, [*by_name, *KNOWN_AS], 3, 0.5)
    hint = f"; did you mean {', '.join(near)}?" if near else "; all of them are at /api/v1/macro"
    raise Problem("NOT_FOUND", f"no indicator is called {typed!r}{hint}", near=near)


def _best(level: Level, name: str, sources: list[str]) -> str:
    """Of an indicator's sources: one whose values the key may see, FRED's before others'."""
    return min(sources, key=lambda source: (withheld(level, source, name) is not None, not source.startswith("fred.")))

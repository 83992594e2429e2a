"""FRED (api.stlouisfed.org/fred), simulated: shared/upstreams.md §2.

Estimates are revised as in reality: GDP has a first, second and third, each in force from its day of release. A release
is there from 21:30 UTC of its day. Holidays are ``.``; S&P's index has no vintages, and asking for some is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, ClassVar, Final
from xml.sax.saxutils import quoteattr

import numpy as np

from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS
from ray_app.sandbox.answers import Answer, Question, Rejection, SimulatedEndpoint, World, digits, json_answer
from ray_app.sandbox.macro import SERIES, Spec, date_of, day_of, on_weekday, uniform, values_of, weekday
from ray_app.sandbox.rng import FloatArray, IntArray

_RELEASED_AT: Final = 21 * HOUR_MS + 30 * MINUTE_MS
#: how far the day in St. Louis lies behind
_ST_LOUIS: Final = 6 * HOUR_MS
_FIRST: Final = "1776-07-04"
_FOREVER: Final = "9999-12-31"
_FOREVER_DAY: Final = day_of(date(9999, 12, 31))
_MOST_VINTAGES: Final = 2_000
_READ_MORE: Final = "Read https://fred.stlouisfed.org/docs/api/api_key.html for more information."
#: how much an estimate differs from the next one, at most
_REVISED_BY: Final = 0.002
#: what would be other numbers than those published
_PLAIN: Final[Mapping[str, str]] = {"units": "lin", "output_type": "1", "frequency": "", "vintage_dates": ""}


def _refuse(question: Question, message: str) -> Rejection:
    """400 in the format asked for; the two spaces after "Bad Request." are FRED's."""
    said = f"Bad Request.  {message}"
    if question.params.get("file_type", "xml") == "json":
        return Rejection(json_answer({"error_code": 400, "error_message": said}, 400))
    body = f'<?xml version="1.0" encoding="utf-8" ?>\n<error code="400" message={quoteattr(said)}/>\n'
    return Rejection(Answer(400, body.encode(), {}, "text/xml; charset=UTF-8"))


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a request asks for. Days are counted from 1970-01-01; ``until`` of 9999-12-31 is as FRED counts it."""

    series: str
    today: int  # in St. Louis
    since: int
    until: int
    first: int
    last: int
    limit: int
    offset: int
    descending: bool


class Observations(SimulatedEndpoint):
    """GET /series/observations: JSON or, by default, XML."""

    source: ClassVar[str] = "fred"
    name = "observations"
    pattern = re.compile(r"/series/observations")

    def answer(self, question: Question, world: World) -> Answer:
        asked = _asked(question)
        rows = _rows(question, world, asked)
        if asked.descending:
            rows = rows[::-1]
        page = rows[asked.offset : asked.offset + asked.limit]
        head: dict[str, Any] = {
            "realtime_start": _text(asked.since),
            "realtime_end": _text(asked.until),
            "observation_start": question.params.get("observation_start", _FIRST),
            "observation_end": question.params.get("observation_end", _FOREVER),
            "units": "lin",
            "output_type": 1,
            "file_type": question.params.get("file_type", "xml"),
            "order_by": "observation_date",
            "sort_order": "desc" if asked.descending else "asc",
            "count": len(rows),
            "offset": asked.offset,
            "limit": asked.limit,
        }
        names = ("realtime_start", "realtime_end", "date", "value")
        items = [dict(zip(names, row, strict=True)) for row in page]
        if head["file_type"] == "json":
            return json_answer({**head, "observations": items})
        lines = [f"  <observation {_attributes(item)}/>" for item in items]
        body = "\n".join(
            [
                '<?xml version="1.0" encoding="utf-8" ?>',
                f"<observations {_attributes(head)}>",
                *lines,
                "</observations>",
            ]
        )
        return Answer(200, f"{body}\n\n\n\n".encode(), {}, "text/xml; charset=UTF-8")


def _attributes(item: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={quoteattr(str(value))}" for name, value in item.items())


def _asked(question: Question) -> _Asked:
    params = question.params
    if not params.get("api_key"):
        raise _refuse(question, f"Variable api_key is not set.  {_READ_MORE}")
    if params.get("file_type", "xml") not in {"xml", "json"}:
        raise _refuse(question, "Value of file_type is not one of: 'xml', 'json'.")
    series = params.get("series_id", "").upper()
    if not series:
        raise _refuse(question, "Variable series_id is not set.")
    if series not in SERIES:
        raise _refuse(question, "The series does not exist.")
    for name, plain in _PLAIN.items():
        if params.get(name, plain) != plain:
            raise _refuse(question, f"The sandbox only knows {name}={plain or 'nothing'}.")
    today = (question.now_ms - _ST_LOUIS) // DAY_MS
    since, until = (_day(question, name, today) for name in ("realtime_start", "realtime_end"))
    if since > until:
        raise _refuse(question, "The value for variable realtime_start can not be after realtime_end.")
    if not SERIES[series].alfred and (since, until) != (today, today):
        raise _refuse(question, "The series does not exist in ALFRED but may exist in FRED.")
    limit, offset = params.get("limit", "100000"), params.get("offset", "0")
    if not digits(limit) or not 1 <= int(limit) <= 100_000:
        raise _refuse(question, "Variable limit is not between 1 and 100000.")
    if not digits(offset):
        raise _refuse(question, "Variable offset is not 0 or greater.")
    order = params.get("sort_order", "asc")
    if order not in {"asc", "desc"}:
        raise _refuse(question, "Variable sort_order is not one of: 'asc', 'desc'.")
    first = _day(question, "observation_start", day_of(date(1776, 7, 4)))
    last = _day(question, "observation_end", _FOREVER_DAY)
    return _Asked(series, today, since, until, first, last, int(limit), int(offset), order == "desc")


def _day(question: Question, name: str, otherwise: int) -> int:
    text = question.params.get(name)
    if text is None:
        return otherwise
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
            return day_of(date.fromisoformat(text))
    except ValueError:
        pass
    raise _refuse(question, f"Value of {name} is not a valid date, formatted as YYYY-MM-DD.")


def _rows(question: Question, world: World, asked: _Asked) -> list[tuple[str, str, str, str]]:
    """realtime_start, realtime_end, date, value of every estimate in force in the real-time range, ascending."""
    spec = SERIES[asked.series]
    visible = (question.now_ms - _RELEASED_AT) // DAY_MS  # the last day whose releases are out
    days, finals = values_of(world, asked.series, asked.first, min(asked.last, visible))
    releases = np.stack([_released(spec, days, lag) for lag in spec.releases], axis=-1)
    following = np.concatenate([releases[:, 1:], np.full((len(days), 1), _FOREVER_DAY + 1)], axis=-1)
    following = np.where(following <= visible, following, _FOREVER_DAY + 1)
    starts, ends = np.maximum(releases, asked.since), np.minimum(following - 1, asked.until)
    in_force = (releases <= visible) & (starts <= ends)
    vintages = len(np.unique(releases[in_force & (releases >= asked.since)]))
    if vintages > _MOST_VINTAGES:
        raise _refuse(
            question,
            f"There are {vintages} vintage dates in the specified real-time period: {_text(asked.since)} to "
            f"{_text(asked.until)}.  This exceeds the maximum number of vintage dates allowed ({_MOST_VINTAGES}).",
        )
    which, estimate = in_force.nonzero()
    values = _estimates(world, asked.series, spec, days, finals)[which, estimate]
    columns = (_texts(starts[which, estimate]), _texts(ends[which, estimate]), _texts(days[which]))
    said = ["." if value != value else f"{value:.{spec.decimals}f}" for value in values.tolist()]  # noqa: PLR0124 - NaN
    return list(zip(*columns, said, strict=True))


def _released(spec: Spec, days: IntArray, lag: int) -> IntArray:
    """The days on which an estimate is released: a Monday, or ``lag`` days after the period's start."""
    return days + 7 - weekday(days) if spec.mondays else on_weekday(days + lag)


def _estimates(world: World, series: str, spec: Spec, days: IntArray, finals: FloatArray) -> FloatArray:
    """Each period's estimates, the last of them final."""
    count = len(spec.releases)
    off = [
        _REVISED_BY * (count - 1 - n) * uniform(days, world.seed, "estimate", series, n) * (n < count - 1)
        for n in range(count)
    ]
    return np.round(finals[:, None] * (1 + np.stack(off, axis=-1)), spec.decimals)


def _texts(days: IntArray) -> list[str]:
    texts: list[str] = np.datetime_as_string(days.astype("datetime64[D]")).tolist()
    return texts


def _text(day: int) -> str:
    return date_of(day).isoformat()


ENDPOINTS: Final[tuple[SimulatedEndpoint, ...]] = (Observations(),)

"""FRED: observations of economic series, with their vintages (api.stlouisfed.org/fred).

Formats: https://fred.stlouisfed.org/docs/api/fred/series_observations.html and upstreams.md §2. What trips people up:

* The answer is XML unless ``file_type=json`` is asked for. A value is text; ``"."`` says that there is none.
* The body does not say which series it is: the request's ``series_id`` does.
* ``date`` is the **start** of the period, days or months before anybody knew the value. When a value was released is
  the ``realtime_start`` of its row (its *vintage*), and only where the request asked for a real-time range.
* Without a range (the default) both bounds are the day of the answer, in St. Louis. Such an answer does **not** say
  when a value was released. Its rows are versioned as those of sources without vintages: ``vintage`` is the content
  hash of the value, known from the fetch that first said it, so that a value changed later is not known before.
* Real-time periods are cut to the range asked for: a value older than the range seems to begin with it. A request whose
  range begins with its first observation cannot meet that: nothing is released before its period.
* At most 2,000 vintages a request: 5 years of a daily series, not all of it.

``known_at`` is ``min(fetched_at, midnight UTC of realtime_start + 30 h)``: the day is one in US Central time, and the
30th hour after its midnight UTC is over in St. Louis, too, whether it is winter there or summer. A release that is
corrected on its own day stays one row, under the first ``known_at``: FRED has no finer vintages than days.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, ClassVar, Final
from xml.parsers import expat

from ray_app.clock import HOUR_MS, from_ms, to_ms
from ray_app.errors import MalformedPayload
from ray_app.sources.base import Endpoint, Exchange, Parsed, Request, Row
from ray_app.sources.reading import (
    CONFLICT,
    COUNT,
    Bounds,
    Findings,
    as_number,
    decode,
    expect_object,
    not_ahead,
    number,
    readable,
    shown,
)
from ray_app.sources.refusals import heed_words, read_answer, refusal_in
from ray_app.sources.statements import version_of

#: the unit of each series collected, and of those that recorded answers have; of others nothing is claimed. Base years
#: are not part of it: they change between vintages (real GDP of 2022 was in dollars of 2012)
UNITS: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("DGS1MO", "DGS3MO", "DGS6MO", "DGS1", "DGS2", "DGS3", "DGS5", "DGS7", "DGS10", "DGS20"), "percent"
    ),
    **dict.fromkeys(("DGS30", "T10Y2Y", "T10Y3M", "FEDFUNDS", "DFF", "UNRATE"), "percent"),
    "VIXCLS": "index",
    "DTWEXBGS": "index",
    "CPIAUCSL": "index",
    "INDPRO": "index",
    "UMCSENT": "index",
    "SP500": "index",
    "RSAFS": "millions_usd",
    "GDPC1": "billions_chained_usd",
    "M2SL": "billions_usd",
    "ICSA": "persons",
    "HOUST": "thousands",
    "DEXUSEU": "usd_per_eur",
    "DEXJPUS": "jpy_per_usd",
    "DEXCHUS": "cny_per_usd",
    "DCOILWTICO": "usd_per_barrel",
}
UNKNOWN_UNIT: Final = "unknown"
#: from midnight UTC of a day to its end in US Central standard time
RELEASED_WITHIN_MS: Final = 30 * HOUR_MS
#: no other vintage than the one in force can be after this
FOREVER: Final = "9999-12-31"

_VALUE: Final = Bounds("a value of a series", -1e15, 1e15)
_SERIES: Final = re.compile(r"[A-Z0-9_]{1,64}", re.ASCII)
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
#: what else may be asked for would be another indicator under the same name
_AS_PUBLISHED: Final[Mapping[str, str]] = {
    "units": "lin",
    "output_type": "1",
    "frequency": "",
    "aggregation_method": "",
}


class Observations(Endpoint):
    """``/series/observations``: one series, as JSON or XML (``file_type``), one row an observation and vintage."""

    name: ClassVar[str] = "fred.observations"
    account: ClassVar[str] = "fred"
    paths: ClassVar[tuple[str, ...]] = ("/series/observations",)
    #: 2: XML after line breaks is read; 3: plain answers are versioned by value, JSON after a byte order mark is read
    parser_version: ClassVar[int] = 3
    query: ClassVar[frozenset[str]] = frozenset(
        {
            *("series_id", "file_type", "realtime_start", "realtime_end", "limit", "offset", "sort_order"),
            *("observation_start", "observation_end", "units", "frequency", "aggregation_method", "output_type"),
            "vintage_dates",
        }
    )

    def request(self, series: str, start_ms: int, *, vintages: bool = True) -> Request:
        """Observations of ``series`` since the day of ``start_ms``, as JSON.

        ``vintages``: every value that was ever in force since that day, each with its day of release (ALFRED). False:
        only the values in force now; FRED refuses vintages of series that ALFRED does not have.
        """
        start = from_ms(start_ms).strftime("%Y-%m-%d")
        params = {"series_id": series, "file_type": "json", "observation_start": start}
        if vintages:
            params |= {"realtime_start": start, "realtime_end": FOREVER}
        return Request(self.name, "/series/observations", params)

    def parse(self, exchange: Exchange) -> Parsed:
        """macro_indicators rows, in the order of the answer; ``next`` where the answer is one page of several."""
        series = self._series(exchange.request)
        page = self._page(exchange)
        dated = _says_when(page)
        found = Findings()
        rows: dict[tuple[int, int], Row] = {}
        contradicted: set[tuple[int, int]] = set()
        read = 0
        for position, item in enumerate(page.observations):
            when = _when(found, series, f"#{position}", item, exchange.fetched_at)
            if when is None:
                continue
            read += 1
            row = _row(found, series, when, item, exchange.fetched_at, dated=dated)
            if row is not None and rows.setdefault(when, row) != row:
                contradicted.add(when)
        readable(self.name, page.observations, read, "an observation with date and realtime_start")
        for date, vintage in sorted(contradicted):
            found.add("duplicate", series, f"value@{_day(date)}", f"vintage {_day(vintage)}: two different values")
        kept = tuple(row for when, row in rows.items() if when not in contradicted)
        following = self._next(exchange.request, found, series, page)
        ascends = exchange.request.params.get("sort_order", "asc") == "asc"
        # pages that ascend lead away from the past: that one of them reaches back says nothing of the next
        oldest = min((date for date, _ in rows), default=None) if following is None or not ascends else None
        return Parsed(kept, found.all(), next=following, oldest=oldest)

    def _series(self, request: Request) -> str:
        series = request.params.get("series_id", "").upper()
        if not series:
            raise MalformedPayload(self.name, "needs --param series_id=…: the body does not say what it is about")
        if _SERIES.fullmatch(series) is None:
            raise MalformedPayload(self.name, f"the request's series_id {shown(series)!r} is none")
        for name, plain in _AS_PUBLISHED.items():
            said = request.params.get(name, plain)
            if said != plain:
                raise MalformedPayload(
                    self.name, f"{name}={shown(said)} is another indicator; only what is published is read"
                )
        return series

    def _page(self, exchange: Exchange) -> _Page:
        exchange = replace(exchange, body=exchange.body.lstrip().removeprefix(BOM_UTF8))
        braced = exchange.body.lstrip().startswith(b"{")
        # without file_type FRED answers XML; a file on its own may well be JSON
        form = exchange.request.params.get("file_type", "json" if braced else "xml")
        if form not in {"json", "xml"}:
            raise MalformedPayload(self.name, f"file_type={shown(form)} is not read; only json and xml are")
        exchange = _refusal_as_json(exchange)
        if form == "json" or exchange.status != HTTPStatus.OK or exchange.body.lstrip().startswith(b"{"):
            body = expect_object(self.name, read_answer(exchange), "observations")
            if form != "json":
                raise MalformedPayload(self.name, "the body is JSON; the request asked for XML")
            items = body.get("observations")
            if not isinstance(items, list):
                raise MalformedPayload(self.name, f"no array 'observations', but {shown(items)}")
            page = _Page(body, items)
        else:
            try:
                page = _xml_page(exchange.request.endpoint, exchange.body)
            except MalformedPayload:
                heed_words(exchange)
                raise
        for name, plain in _AS_PUBLISHED.items():
            said = page.head.get(name)
            if said is not None and str(said) != plain:
                raise MalformedPayload(self.name, f"the answer's {name} is {shown(said)}, not {plain or 'absent'}")
        return page

    def _next(self, request: Request, found: Findings, series: str, page: _Page) -> Request | None:
        count, offset = (number(found, series, name, page.head.get(name), COUNT) for name in ("count", "offset"))
        if count is None or offset is None:
            return None
        after = int(offset) + len(page.observations)
        if not page.observations or after >= count:
            return None
        return replace(request, params={**request.params, "offset": str(after)})


@dataclass(slots=True)
class _Page:
    """An answer in either format: its own members, and its observations."""

    head: Mapping[str, Any]
    observations: list[Any] = field(default_factory=list)


def _when(found: Findings, series: str, where: str, item: object, fetched_at: int) -> tuple[int, int] | None:
    """An observation's date and vintage, ms; None and an issue where one of them cannot be read."""
    if not isinstance(item, dict):
        found.add("wrong_type", series, f"observation{where}", f"expected an observation, got {shown(item)}")
        return None
    date = _midnight(found, series, f"date{where}", item.get("date"))
    vintage = _midnight(found, series, f"realtime_start{where}", item.get("realtime_start"))
    vintage = not_ahead(found, series, f"realtime_start{where}", vintage, fetched_at)
    return (date, vintage) if date is not None and vintage is not None else None


def _says_when(page: _Page) -> bool:
    """Whether ``realtime_start`` is the day of a release; where the range is one day, it is that of the answer."""
    return page.head.get("realtime_start") != page.head.get("realtime_end")


def _row(
    found: Findings, series: str, when: tuple[int, int], item: Mapping[str, Any], fetched_at: int, *, dated: bool
) -> Row | None:
    date, day = when
    said = item.get("value")
    value = None if said == "." else number(found, series, "value", said, _VALUE, where=_day(date))
    if value is None and said is not None and said != ".":
        return None  # NULL would say that the source has none
    vintage = day if dated else version_of(value)
    return Row(
        "macro_indicators",
        {"indicator_name": series, "source": Observations.name, "indicator_date": date, "vintage": vintage},
        {
            "value": value,
            "unit": UNITS.get(series, UNKNOWN_UNIT),
            "open_price": None,
            "high_price": None,
            "low_price": None,
            "volume": None,
            "known_at": min(fetched_at, day + RELEASED_WITHIN_MS),
            "first_seen_at": fetched_at,
        },
        day,  # of what a release and a plain answer say, the later day counts
    )


def _midnight(found: Findings, series: str, where: str, value: object) -> int | None:
    """Midnight UTC of a date from 1776 (FRED's first) to 2100, ms."""
    if isinstance(value, str) and _DATE.fullmatch(value) and "1776-07-04" <= value <= "2100-01-01":
        try:
            return to_ms(datetime.fromisoformat(value).replace(tzinfo=UTC))
        except ValueError:
            pass
    found.add(
        "duplicate" if value is CONFLICT else "wrong_type", series, where, f"expected a date, got {shown(value)!r}"
    )
    return None


def _day(ms: int) -> str:
    return from_ms(ms).strftime("%Y-%m-%d")


# --- XML ----------------------------------------------------------------------------------------------------


class _Reader:
    """Collects the attributes of the elements FRED documents.

    A body with a document type is refused before it is parsed, so there are no entities to expand. Only UTF-8 is read,
    whatever a body declares, so that none can hide in another encoding.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.root = ""
        self.head: dict[str, str] = {}
        self.items: list[dict[str, str]] = []
        self._depth = 0

    def read(self, body: bytes) -> None:
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise MalformedPayload(self.endpoint, f"the XML is broken: not UTF-8 (byte {error.start})") from None
        if b"\x00" in body:
            raise MalformedPayload(self.endpoint, "the XML is broken: it holds NUL bytes, or is UTF-16")
        if b"<!DOCTYPE" in body or b"<!ENTITY" in body:
            raise MalformedPayload(self.endpoint, "the XML declares a document type; FRED's does not")
        body = body.lstrip()  # XML may not begin with a line break; files that were saved do
        parser = expat.ParserCreate("utf-8")
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        try:
            parser.Parse(body, True)
        except expat.ExpatError as error:
            text = shown(body[:60].decode("utf-8", "replace").strip())
            raise MalformedPayload(
                self.endpoint, f"the XML is broken at byte {parser.ErrorByteIndex}: {error}; it begins {text!r}"
            ) from None

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 1:
            self.root, self.head = name, attributes
        elif self._depth == 2 and name == "observation":
            self.items.append(attributes)
        elif self._depth > 4:
            raise MalformedPayload(self.endpoint, "the XML is nested deeper than any answer of FRED")

    def _end(self, _: str) -> None:
        self._depth -= 1


def _xml_page(endpoint: str, body: bytes) -> _Page:
    reader = _Reader(endpoint)
    reader.read(body)
    if reader.root != "observations":
        raise MalformedPayload(endpoint, f"expected the element 'observations', got {shown(reader.root)!r}")
    return _Page(reader.head, list(reader.items))


def _refusal_as_json(exchange: Exchange) -> Exchange:
    """The exchange with an XML refusal (``<error code="400" message="…"/>``) as JSON says it: one place reads both.

    A refusal that says 429 in its body counts as one, whatever the HTTP status.
    """
    endpoint, body = exchange.request.endpoint, exchange.body
    if body.lstrip()[:5] in {b"<?xml", b"<erro"}:
        reader = _Reader(endpoint)
        try:
            reader.read(body)
        except MalformedPayload:
            return exchange  # what it is instead is said where it is read
        if reader.root == "error":
            refused = {"error_code": _code(reader.head.get("code")), "error_message": reader.head.get("message", "")}
            exchange = replace(exchange, body=json.dumps(refused).encode())
    if exchange.status != HTTPStatus.OK:
        try:
            refusal = refusal_in(decode(endpoint, exchange.body))
        except MalformedPayload:
            return exchange
        if refusal is not None and refusal.code == HTTPStatus.TOO_MANY_REQUESTS:
            return replace(exchange, status=HTTPStatus.TOO_MANY_REQUESTS)
    return exchange


def _code(text: str | None) -> int:
    read = as_number(text)
    return int(read) if read is not None and 0 < read < 1_000 else HTTPStatus.BAD_REQUEST


ENDPOINTS: Final[tuple[Endpoint, ...]] = (Observations(),)

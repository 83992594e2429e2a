"""How the parsers read JSON: strict about what a value may be, and clear about what was wrong with it.

A body that is broken as a whole raises (:func:`decode`, :func:`check_status`, :func:`readable`). One bad value in a
good body becomes None and an :class:`~ray_app.sources.base.Issue` in a :class:`Findings`; null and absent are None
without an issue, because that is how upstreams say "we do not know".
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from ray_app.clock import to_ms
from ray_app.errors import MalformedPayload
from ray_app.sources.base import Issue


class _Conflict:
    def __repr__(self) -> str:
        return "two different values"


#: JSON objects that state one key twice with different values hold this in the key's place.
CONFLICT: Final = _Conflict()

#: What a time stamp may be: 2009-01-01 (before the first block of the first coin) to 2100-01-01.
EARLIEST_MS: Final = 1_230_768_000_000
LATEST_MS: Final = 4_102_444_800_000
#: An upstream's clock may be this far ahead of ours before its time stamps count as wrong.
CLOCK_TOLERANCE_MS: Final = 300_000

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_IDENTIFIER = re.compile(r"[^\s\x00-\x1f\x7f]{1,150}")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a number may be, both ends included. ``what`` names unit and meaning in the issue's text."""

    what: str
    low: float
    high: float


#: USD per unit. The bounds are not opinions about prices: beyond them a double loses the digits that matter.
PRICE = Bounds("a price in USD", 1e-24, 1e12)
USD_AMOUNT = Bounds("an amount in USD", 0.0, 1e21)
USD_CHANGE = Bounds("a change in USD", -1e12, 1e12)
PERCENT_CHANGE = Bounds("a change in percent", -100.0, 1e12)
PERCENT_SHARE = Bounds("a share in percent", 0.0, 100.0)
SUPPLY = Bounds("a number of units", 0.0, 1e36)
VOLUME = Bounds("a traded volume in units", 0.0, 1e24)
RATE = Bounds("units per US dollar", 1e-12, 1e24)
RANK = Bounds("a rank", 1, 1_000_000)
COUNT = Bounds("a count", 0, 2_147_483_647)


#: of one body so many issues are kept; what there is beyond them says no more about it
MOST_ISSUES: Final = 500


class Findings:
    """Collects the issues of one body; the same thing said twice is kept once (data_quality_events' key).

    The first :data:`MOST_ISSUES` are kept and the others counted: a body of 1 MB can be wrong in 200,000 places.
    """

    def __init__(self) -> None:
        self._issues: dict[tuple[str, str, str], Issue] = {}
        self._further = 0

    def add(self, kind: str, subject: str, field: str, detail: str) -> None:
        """Record an issue; ids that upstreams make up are made printable and cut to what the table holds."""
        issue = Issue(kind, printable(subject)[:150], printable(field)[:64], detail)
        key = (issue.kind, issue.subject, issue.field)
        if key in self._issues:
            return
        if len(self._issues) < MOST_ISSUES:
            self._issues[key] = issue
        else:
            self._further += 1

    def all(self) -> tuple[Issue, ...]:
        """The issues, in the order found; where there were more, the last one says how many."""
        kept = tuple(self._issues.values())
        if not self._further:
            return kept
        return (
            *kept,
            Issue("further", "answer", "issues", f"{self._further} more than the {MOST_ISSUES} that are kept"),
        )


def printable(text: str) -> str:
    """The text in one line that any terminal and database can take."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def shown(value: object) -> str:
    """A value as an issue's text quotes it: short, one line, printable."""
    text = printable(value if isinstance(value, str) else repr(value))
    return f"{text[:60]}…" if len(text) > 60 else text


# --- bodies -------------------------------------------------------------------------------------------------


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: dict[str, Any] = {}
        for name, value in pairs:
            if name in seen and seen[name] != value:
                found[name] = CONFLICT
            seen.setdefault(name, value)
    return found


def decode(endpoint: str, body: bytes) -> Any:
    """The JSON value of a body; MalformedPayload says what it is instead (empty, HTML, text, cut off).

    The bare words NaN and Infinity, which some encoders emit, are read as such and refused value by value.
    """
    if body.startswith(b"\x1f\x8b"):
        raise MalformedPayload(endpoint, "the body is still gzip-compressed; expected JSON")
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MalformedPayload(endpoint, f"the body is not UTF-8 (byte {error.start}); expected JSON") from None
    start = text.lstrip()[:200]
    if not start:
        raise MalformedPayload(endpoint, "the body is empty; expected JSON")
    if start.startswith("<"):
        raise MalformedPayload(endpoint, f"the body is HTML or XML, not JSON; it begins {shown(start)!r}")
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        if start[0] not in '{["' and not _NUMBER.match(start):
            raise MalformedPayload(endpoint, f"the body is text, not JSON; it begins {shown(start)!r}") from None
        cut = "cut off" if error.pos >= len(text.rstrip()) - 1 or "Unterminated" in error.msg else "broken"
        raise MalformedPayload(endpoint, f"the JSON is {cut} at character {error.pos}: {error.msg}") from None
    except (RecursionError, ValueError) as error:  # absurd nesting; an integer of thousands of digits
        raise MalformedPayload(endpoint, f"the JSON cannot be read: {shown(str(error))}") from None


def expect_list(endpoint: str, body: Any, what: str) -> list[Any]:
    """``body`` if it is a list, else MalformedPayload."""
    if isinstance(body, list):
        return body
    raise MalformedPayload(endpoint, f"expected a JSON array of {what}, got {_kind(body)}")


def expect_object(endpoint: str, body: Any, what: str) -> dict[str, Any]:
    """``body`` if it is an object, else MalformedPayload."""
    if isinstance(body, dict):
        return body
    raise MalformedPayload(endpoint, f"expected a JSON object ({what}), got {_kind(body)}")


def readable(endpoint: str, items: Sequence[object], read: int, what: str) -> None:
    """MalformedPayload where a body had items and not one could be read: then the body is of another kind."""
    if items and not read:
        raise MalformedPayload(endpoint, f"none of the {len(items)} items is {what}; the first is {shown(items[0])}")


def members(value: Mapping[str, object]) -> str:
    """The first member names of an object, as an error quotes them."""
    return shown(", ".join(sorted(value)[:5])) or "no members"


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return f"an object with {members(value)}"
    if isinstance(value, list):
        return f"an array of {len(value)}"
    return f"{type(value).__name__} {shown(value)!r}" if value is not None else "null"


# --- values -------------------------------------------------------------------------------------------------


def as_number(value: object) -> float | None:
    """The finite number a JSON value states, numeric strings included; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        if len(value) > 64 or _NUMBER.fullmatch(value.strip()) is None:
            return None
        value = float(value)
    if not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number + 0.0 if math.isfinite(number) else None  # + 0.0 turns -0.0 into 0.0


def number(
    found: Findings, subject: str, field: str, value: object, bounds: Bounds, *, where: str | None = None
) -> float | None:
    """A number within its bounds. null is None; anything unreadable or out of bounds is None and an issue.

    ``where`` tells apart several values of one field (a time stamp): it becomes part of the issue's field.
    """
    if value is None:
        return None
    place = f"{field}@{where}" if where is not None else field
    if value is CONFLICT:
        found.add("duplicate", subject, place, "stated twice with different values")
        return None
    if isinstance(value, float) and not math.isfinite(value):
        found.add("out_of_range", subject, place, f"{value} is no number")
        return None
    read = as_number(value)
    if read is None:
        found.add("wrong_type", subject, place, f"expected {bounds.what}, got {shown(value)!r}")
        return None
    if not bounds.low <= read <= bounds.high:
        found.add("out_of_range", subject, place, f"{shown(value)} is not {bounds.what}")
        return None
    return read


def decimal(value: float) -> Decimal:
    """The decimal a JSON number stated (17 digits and fewer survive as written): arithmetic on it does not drift."""
    return Decimal(repr(value))


def integer(found: Findings, subject: str, field: str, value: object, bounds: Bounds) -> int | None:
    """Like :func:`number` for whole numbers; 3.0 is 3, and 3.5 is an issue."""
    read = number(found, subject, field, value, bounds)
    if read is None:
        return None
    if read != int(read):
        found.add("wrong_type", subject, field, f"{shown(value)} is not whole")
        return None
    return int(read)


def text(found: Findings, subject: str, field: str, value: object, *, longest: int) -> str | None:
    """A printable, non-empty string without surrounding space; None and an issue for anything but null."""
    if value is None:
        return None
    if value is CONFLICT:
        found.add("duplicate", subject, field, "stated twice with different values")
        return None
    if not isinstance(value, str):
        found.add("wrong_type", subject, field, f"expected text, got {shown(value)!r}")
        return None
    trimmed = value.strip()
    if not trimmed or len(trimmed) > longest or not _storable(trimmed):
        found.add("out_of_range", subject, field, f"{shown(trimmed)!r} is not text of 1 to {longest} characters")
        return None
    return trimmed


def identifier(value: object) -> str | None:
    """An upstream's id: one word of at most 150 characters; None for anything else."""
    return value if isinstance(value, str) and _IDENTIFIER.fullmatch(value) and _storable(value) else None


def _storable(value: str) -> bool:
    """No lone surrogates (cannot be encoded) and no NUL (databases cut there)."""
    return "\x00" not in value and not any("\ud800" <= c <= "\udfff" for c in value)


def iso_time(found: Findings, subject: str, field: str, value: object) -> int | None:
    """Milliseconds of an ISO 8601 time with an offset or Z; None and an issue for anything but null."""
    if value is None:
        return None
    moment: datetime | None = None
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value.strip())
        except ValueError:
            moment = None
    if moment is None or moment.tzinfo is None:
        found.add("wrong_type", subject, field, f"expected an ISO time with its zone, got {shown(value)!r}")
        return None
    try:
        ms = to_ms(moment.astimezone(UTC))
    except OverflowError:
        ms = -1
    return _plausible(found, subject, field, value, ms)


def epoch_time(found: Findings, subject: str, field: str, value: object, unit_ms: int) -> int | None:
    """Milliseconds of an epoch time in units of ``unit_ms`` (1 or 1000); None and an issue for anything but null."""
    if value is None:
        return None
    read = as_number(value)
    if read is None:
        found.add("wrong_type", subject, field, f"expected an epoch time, got {shown(value)!r}")
        return None
    if abs(read) > 1e15:
        return _plausible(found, subject, field, value, -1)
    return _plausible(found, subject, field, value, round(read * unit_ms))


def _plausible(found: Findings, subject: str, field: str, value: object, ms: int) -> int | None:
    if EARLIEST_MS <= ms <= LATEST_MS:
        return ms
    found.add("out_of_range", subject, field, f"{shown(value)} is not a time between 2009 and 2100")
    return None


def not_ahead(found: Findings, subject: str, field: str, ms: int | None, fetched_at: int) -> int | None:
    """``ms`` unless it lies ahead of the fetch by more than clocks differ: such a time would outrank the truth."""
    if ms is None or ms <= fetched_at + CLOCK_TOLERANCE_MS:
        return ms
    found.add("out_of_range", subject, field, f"{(ms - fetched_at) / 1000:.0f} s ahead of the fetch")
    return None


def requested(csv: str | None) -> tuple[str, ...]:
    """The ids of a comma-separated request parameter, in order, without blanks and repetitions."""
    return tuple(dict.fromkeys(part for part in (csv or "").split(",") if part))


def absent(asked: Iterable[str], answered: Mapping[str, object] | set[str]) -> tuple[str, ...]:
    """The ids asked for that an answer silently left out, in the order asked."""
    return tuple(one for one in asked if one not in answered)

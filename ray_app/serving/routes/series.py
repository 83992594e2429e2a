"""What the routes of numbers about moments have in common: ranges, positions in them, the shape of an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Query, Request, Response

from ray_app.assets import Resolution
from ray_app.clock import DAY_MS, iso, to_ms
from ray_app.serving.deps import GatewayDeps
from ray_app.serving.licensing import attributions, level_of, shown, withheld
from ray_app.serving.problems import Problem
from ray_app.serving.routes.answers import Prepared, answer, decode_cursor, dumps, encode_cursor
from ray_app.serving.routes.history import LATEST_MS, moment

Row = dict[str, Any]

Start = Annotated[str | None, Query(description="RFC 3339 or a date; inclusive", examples=["2026-11-01"])]
End = Annotated[str | None, Query(description="RFC 3339 or a date; exclusive; default: up to as_of, or now")]
AsOf = Annotated[
    str | None,
    Query(description="RFC 3339: what was known then; default: what is known now", examples=["2026-11-20T08:00:00Z"]),
]
Source = Annotated[str | None, Query(min_length=1, max_length=48, description="only of this endpoint")]

#: where FRED's longest series begin
FIRST_MS = to_ms(datetime(1776, 1, 1, tzinfo=UTC))


@dataclass(frozen=True, slots=True)
class Span:
    """What of a history is asked for: ``[start, end)`` as known at ``as_of``; behind ``after``, where a page ended."""

    start: int
    end: int
    as_of: int | None
    after: tuple[tuple[str, ...], int] | None = None

    def shown(self) -> Row:
        """As the answer repeats it."""
        known = iso(self.as_of) if self.as_of is not None else None
        return {"start": iso(self.start), "end": iso(self.end), "as_known_at": known}

    def next_cursor(self, group: Sequence[str], at: int) -> str:
        """For the page behind this row."""
        place = {f"g{i}": name for i, name in enumerate(group)}
        return encode_cursor({**place, "at": at, "start": self.start, "end": self.end})


def span(
    start: str | None, end: str | None, as_of: str | None, cursor: str | None, now_ms: int, days: int, names: int
) -> Span:
    """The range asked for, ``days`` back where it has no start. ``names``: how many of them a cursor's series has."""
    known = moment("as_of", as_of, FIRST_MS) if as_of is not None else None
    if cursor is not None:
        return _resumed(cursor, known, names)
    last = moment("end", end, FIRST_MS) if end is not None else known if known is not None else now_ms
    first = moment("start", start, FIRST_MS) if start is not None else last - days * DAY_MS
    if first >= last:
        raise Problem("VALIDATION_ERROR", f"start: {iso(first)} is not before the end, {iso(last)}")
    return Span(first, last, known)


def _resumed(cursor: str, known: int | None, names: int) -> Span:
    position = decode_cursor(cursor, **{f"g{i}": str for i in range(names)}, at=int, start=int, end=int)
    if not FIRST_MS - 400 * DAY_MS <= position["start"] <= position["at"] < position["end"] <= LATEST_MS:
        raise Problem("VALIDATION_ERROR", "cursor: not one this API gave out; start again without it")
    group = tuple(position[f"g{i}"] for i in range(names))
    return Span(position["start"], position["end"], known, (group, position["at"]))


def after_names(cursor: str | None, names: int) -> tuple[str, ...] | None:
    """Where a list of series goes on."""
    if cursor is None:
        return None
    position = decode_cursor(cursor, **{f"g{i}": str for i in range(names)})
    return tuple(position.values())


def names_cursor(group: Sequence[str]) -> str:
    """For the series behind this one."""
    return encode_cursor({f"g{i}": name for i, name in enumerate(group)})


def about(resolution: Resolution) -> Row:
    """The asset an answer is about."""
    asset = resolution.asset
    named: Row = {"symbol": asset.symbol, "coin_id": asset.coin_id, "name": asset.name}
    return named if resolution.note is None else named | {"note": resolution.note}


def respond(
    request: Request,
    deps: GatewayDeps,
    head: Row,
    rows: Sequence[Row],
    show: Callable[[Row], Row],
    *,
    next_cursor: str | None,
    series: Callable[[Row], str | None] = lambda _row: None,
    values: Sequence[str] = ("value",),
    quality: str = "current",
) -> Response:
    """Stored ``rows`` as an answer, without the ``values`` the key's level may not see (licensing.py)."""
    level = level_of(request)
    reasons = [withheld(level, row["source"], series(row)) for row in rows]
    as_of = max((row["first_seen_at"] for row in rows), default=None)
    content = {
        **head,
        "data": [shown(show(row), values, reason) for row, reason in zip(rows, reasons, strict=True)],
        "count": len(rows),
        "next_cursor": next_cursor,
        "attribution": attributions((row["source"], series(row)) for row in rows),
        "as_of": iso(as_of) if as_of is not None else None,
        "source": ",".join(sorted({row["source"] for row in rows})),
        "quality": "partial" if any(reasons) else quality,
    }
    return answer(request, Prepared(dumps(content), as_of), deps.clock.now_ms())

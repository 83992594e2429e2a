"""Times as people type them on the command line."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from ray_app.clock import to_ms


class Moment(click.ParamType[int]):
    """A moment in time: RFC 3339 (UTC where it names no zone), or a Unix time in seconds or milliseconds.

    Converts to milliseconds. Whole numbers from 100,000,000,000 on (in seconds: the year 5138) are milliseconds.
    """

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Milliseconds since the epoch, UTC."""
        if isinstance(value, int):
            return value
        text = str(value).strip()
        if text.isascii() and text.isdigit() and len(text) <= 14:
            number = int(text)
            return number if number >= 100_000_000_000 else number * 1_000
        try:
            moment = datetime.fromisoformat(text)
            return to_ms(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a time such as 2026-11-24T08:00:00Z or 1795507200", param, ctx)


MOMENT = Moment()

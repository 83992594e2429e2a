"""Rows that state one number about one thing at one moment: macro, on-chain, derivatives, fear and greed.

**known_at** (design.md rule 4). A number was public when its moment was over plus the publication lag of its source,
however late this node asked: ``known_at = min(fetched_at, event_time + lag)``; a number that only a live poll can give
has no lag to speak of and is known from ``fetched_at`` (``lag_ms=None``). A revision is another ``version`` (content
hash), known only from its own ``first_seen_at``: see ray_app/sources/rows.py, whose rule for candles this is.
"""

from __future__ import annotations

import hashlib
import struct

from ray_app.sources.base import JsonScalar, Row


def version_of(*values: float | None) -> int:
    """63-bit content hash: the same values are the same version, on every machine, forever."""
    packed = b"".join(struct.pack(">?d", value is None, value or 0.0) for value in values)
    return int.from_bytes(hashlib.sha256(packed).digest()[:8], "big") >> 1


def known_from(event_time: int, fetched_at: int, lag_ms: int | None) -> int:
    """When a consumer of this node could know it, ms (see the module's docstring)."""
    return fetched_at if lag_ms is None else min(fetched_at, event_time + lag_ms)


def statement_row(
    table: str,
    key: dict[str, JsonScalar],
    event_time: int,
    value: float,
    fetched_at: int,
    lag_ms: int | None,
    **more: JsonScalar,
) -> Row:
    """A row of onchain_data, derivatives_data or fear_greed.

    ``key``: the identifying columns but for ``event_time`` and ``version``. ``event_time``: ms, the moment the number
    is about (of a period its end, so that ``lag_ms`` counts from when it was complete). ``more``: further columns.
    """
    return Row(
        table,
        {**key, "event_time": event_time, "version": version_of(value)},
        {
            "value": value,
            "known_at": known_from(event_time, fetched_at, lag_ms),
            "first_seen_at": fetched_at,
            **more,
        },
        event_time,
    )

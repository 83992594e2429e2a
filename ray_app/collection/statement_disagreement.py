"""Sources and venues that state one number of one asset too far apart: on-chain figures, prices of derivatives.

What may be how far apart stands with the metrics (ray_app/sources/onchain.py, derivatives.py). Nothing is changed or
left out because of it; the row farthest from the middle is named.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any, Final

from sqlalchemy import Connection, Table, select

from ray_app.clock import DAY_MS, HOUR_MS, from_ms, iso
from ray_app.collection.disagreement import KIND
from ray_app.sources import derivatives, onchain
from ray_app.storage.tables import (
    ORDER_COLUMNS,
    crypto_assets,
    data_quality_events,
    derivatives_data,
    onchain_data,
)

#: how far back a look goes, ms
ONCHAIN_MS: Final = 4 * DAY_MS
DERIVATIVES_MS: Final = 2 * HOUR_MS

Record = dict[str, Any]


def recent(conn: Connection, now_ms: int) -> list[Record]:
    """Rows of ``data_quality_events`` that are not there yet."""
    found = [*_onchain(conn, now_ms - ONCHAIN_MS), *_derivatives(conn, now_ms - DERIVATIVES_MS)]
    columns = data_quality_events.c
    query = select(columns.subject, columns.field).where(
        columns.fetched_at >= now_ms - ONCHAIN_MS - DAY_MS, columns.kind == KIND
    )
    said = {tuple(row) for row in conn.execute(query)}
    return [event for event in found if (event["subject"], event["field"]) not in said]


def _onchain(conn: Connection, since: int) -> Iterable[Record]:
    """Figures that end on one UTC day: of each source its newest, against the middle of all of them."""
    rows = _current(conn, onchain_data, [one.metric for one in onchain.DISAGREEMENTS], ("source",), since)
    days: dict[tuple[str, str, int], dict[str, Record]] = defaultdict(dict)
    for row in rows:
        day = (row["event_time"] - 1) // DAY_MS * DAY_MS
        held = days[row["coin_id"], row["metric"], day].setdefault(row["source"], row)
        if row["event_time"] > held["event_time"]:
            days[row["coin_id"], row["metric"], day][row["source"]] = row
    for one in onchain.DISAGREEMENTS:
        for (coin_id, metric, day), by_source in sorted(days.items()):
            stated = [row for source, row in sorted(by_source.items()) if source in one.sources]
            if metric == one.metric and len(stated) > 1:
                yield from _apart(stated, coin_id, f"{metric}@{from_ms(day):%Y-%m-%d}", one.tolerance, "source")


def _derivatives(conn: Connection, since: int) -> Iterable[Record]:
    """The newest price of each venue, where two were stated about the same time."""
    metrics = sorted({one.metric for one in derivatives.DISAGREEMENTS})
    newest: dict[tuple[str, str, str], Record] = {}
    for row in _current(conn, derivatives_data, metrics, ("venue", "instrument"), since):
        key = (row["coin_id"], row["metric"], row["venue"])
        if key not in newest or row["event_time"] > newest[key]["event_time"]:
            newest[key] = row
    for one in derivatives.DISAGREEMENTS:
        for coin_id in sorted({coin for coin, metric, _ in newest if metric == one.metric}):
            keys = ((coin_id, one.metric, venue) for venue in one.venues)
            stated = [newest[key] for key in keys if key in newest]
            moments = [row["event_time"] for row in stated]
            if len(stated) == len(one.venues) and max(moments) - min(moments) <= one.within_s * 1_000:
                field = f"{one.metric}@{iso(max(moments))}"
                yield from _apart(stated, coin_id, field, one.percent / 100, "venue")


def _apart(stated: Sequence[Record], coin_id: str, field: str, tolerance: float, who: str) -> Iterable[Record]:
    middle = median(row["value"] for row in stated)
    farthest = max(stated, key=lambda row: abs(row["value"] - middle))
    allowed = tolerance * abs(middle)
    # of two, each is half of their distance from the middle
    apart = max(row["value"] for row in stated) - min(row["value"] for row in stated) if len(stated) == 2 else None
    if (abs(farthest["value"] - middle) if apart is None else apart) <= allowed:
        return
    said = ", ".join(f"{row['value']:.10g} by {row[who]}" for row in stated)
    yield {
        "payload_hash": farthest["payload_hash"],
        "kind": KIND,
        "subject": coin_id,
        "field": field[:64],
        "source": farthest["source"],
        "fetched_at": farthest["fetched_at"],
        "detail": f"{field}: {said}; {allowed:.4g} apart are allowed",
    }


def _current(
    conn: Connection, table: Table, metrics: Sequence[str], stated_by: tuple[str, ...], since: int
) -> Iterable[Record]:
    """The version last in order of each statement about a moment since ``since``: by the index on metric and time."""
    columns = table.c
    wanted = dict.fromkeys(("metric", "event_time", "version", "value", "source", *stated_by, *ORDER_COLUMNS))
    query = (
        select(crypto_assets.c.coin_id, *(columns[name] for name in wanted))
        .join(crypto_assets, crypto_assets.c.asset_id == columns.asset_id)
        .where(columns.metric.in_(metrics), columns.event_time >= since)
    )
    last: dict[tuple[Any, ...], Record] = {}
    for row in conn.execute(query).mappings():
        key = (row["coin_id"], row["metric"], row["event_time"], *(row[name] for name in stated_by))
        if key not in last or _place(row) > _place(last[key]):
            last[key] = dict(row)
    return last.values()


def _place(row: Any) -> tuple[Any, ...]:
    return (*(row[name] for name in ORDER_COLUMNS), row["version"])

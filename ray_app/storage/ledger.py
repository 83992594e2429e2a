"""What is stored and what is known to be missing, as ranges of slots. Times in ms, ranges half open.

A **dataset** is ``prices`` (price_data_real but for its ticks, see queries.TICKS), ``candles-<seconds>`` (ohlc_data of
the venue ``coinbase``), or one of feeds, whose slots are those that an answer covers (collection_polls).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, insert, or_, select

from ray_app.storage.queries import TICKS
from ray_app.storage.tables import collection_gaps, collection_polls, ohlc_data, price_data_real

VENUE = "coinbase"
_IN_LIST = 1_000


class LedgerEntry(NamedTuple):
    """One row of ``collection_gaps``. ``reason`` None: it needs none (owed, repaired)."""

    dataset: str
    asset_id: int
    start: int
    end: int
    state: str
    reason: str | None
    detected_at: int
    updated_at: int


def _source(dataset: str) -> tuple[Any, ColumnElement[int], list[ColumnElement[bool]]]:
    """Asset column, slot column and conditions of a dataset."""
    if dataset == "prices":
        return price_data_real.c.asset_id, price_data_real.c.slot, [price_data_real.c.source != TICKS]
    if dataset.startswith("candles-"):
        columns = ohlc_data.c
        return (
            columns.asset_id,
            columns.open_time,
            [columns.venue == VENUE, columns.interval_s == int(dataset.removeprefix("candles-"))],
        )
    polls = collection_polls.c
    return polls.subject_id, polls.slot, [polls.dataset == dataset]


def newest_covered(conn: Connection, dataset: str, subject_ids: Iterable[int]) -> dict[int, int]:
    """The newest slot of each subject that an answer covers, ms; without any: no entry. One seek in the key each."""
    columns = collection_polls.c
    found: dict[int, int] = {}
    for subject_id in subject_ids:
        query = select(columns.slot).where(columns.dataset == dataset, columns.subject_id == subject_id)
        slot = conn.scalar(query.order_by(columns.slot.desc()).limit(1))
        if slot is not None:
            found[subject_id] = slot
    return found


def stored_ranges(
    conn: Connection, dataset: str, asset_ids: Sequence[int], interval_s: int, start: int, end: int
) -> dict[int, list[tuple[int, int]]]:
    """Stored slots of ``interval_s`` in ``[start, end)`` by asset, as ascending ranges.

    The database finds the edges (window functions over the key), so the answer is as small as the gaps are few.
    Slots that are not multiples of the interval are left out. Assets without a stored slot have no entry.
    """
    found: dict[int, list[tuple[int, int]]] = {}
    step = interval_s * 1_000
    for first in range(0, len(asset_ids), _IN_LIST):
        for asset_id, low, high in _edges(conn, dataset, asset_ids[first : first + _IN_LIST], step, start, end):
            found.setdefault(asset_id, []).append((low, high))
    return found


def _edges(
    conn: Connection, dataset: str, asset_ids: Sequence[int], step: int, start: int, end: int
) -> Iterable[tuple[int, int, int]]:
    asset, slot, conditions = _source(dataset)
    order = {"partition_by": asset, "order_by": slot}
    inner = (
        select(
            asset.label("asset"),
            slot.label("slot"),
            func.lag(slot).over(**order).label("before"),
            func.lead(slot).over(**order).label("after"),
        )
        .where(asset.in_(asset_ids), *conditions, slot >= start, slot < end, slot % step == 0)
        .subquery()
    )
    begins = or_(inner.c.before.is_(None), inner.c.slot - inner.c.before > step)
    ends = or_(inner.c.after.is_(None), inner.c.after - inner.c.slot > step)
    rows = conn.execute(
        select(inner.c.asset, inner.c.slot, begins.label("begins"), ends.label("ends"))
        .where(or_(begins, ends))
        .order_by(inner.c.asset, inner.c.slot, ends)  # of two sources in one slot the one that ends comes last
    )
    opened = 0
    for asset_id, at, is_start, is_end in rows:
        if is_start:
            opened = at
        if is_end:
            yield asset_id, opened, at + step


def entries(
    conn: Connection,
    dataset: str,
    *,
    start: int | None = None,
    end: int | None = None,
    asset_ids: Sequence[int] | None = None,
    states: Sequence[str] | None = None,
) -> list[LedgerEntry]:
    """Ledger rows that touch ``[start, end)``, by asset and start."""
    columns = collection_gaps.c
    conditions = [columns.dataset == dataset]
    if start is not None:
        conditions.append(columns.end > start)
    if end is not None:
        conditions.append(columns.start < end)
    if asset_ids is not None:
        conditions.append(columns.asset_id.in_(list(asset_ids)))
    if states is not None:
        conditions.append(columns.state.in_(list(states)))
    rows = conn.execute(select(collection_gaps).where(*conditions).order_by(columns.asset_id, columns.start))
    return [LedgerEntry(**row._mapping) for row in rows]  # noqa: SLF001 - SQLAlchemy's documented name


def filled(conn: Connection, dataset: str, states: Sequence[str], before: int) -> list[LedgerEntry]:
    """Ledger rows in these states that begin before ``before`` and in which something is stored all the same."""
    asset, slot, conditions = _source(dataset)
    gap = collection_gaps.c
    inside = exists().where(asset == gap.asset_id, *conditions, slot >= gap.start, slot < gap.end)
    query = select(collection_gaps).where(gap.dataset == dataset, gap.state.in_(states), gap.start < before, inside)
    rows = conn.execute(query.order_by(gap.asset_id, gap.start))
    return [LedgerEntry(**row._mapping) for row in rows]  # noqa: SLF001 - SQLAlchemy's documented name


def replace(conn: Connection, old: Iterable[LedgerEntry], new: Iterable[LedgerEntry]) -> int:
    """Put ``new`` in the place of ``old``; rows in both are left alone. How many rows changed."""
    before, after = set(old), set(new)
    gone, come = before - after, after - before
    columns = collection_gaps.c
    for row in gone:
        conn.execute(
            delete(collection_gaps).where(
                and_(columns.dataset == row.dataset, columns.asset_id == row.asset_id, columns.start == row.start)
            )
        )
    if come:
        conn.execute(
            insert(collection_gaps),
            [row._asdict() for row in sorted(come, key=lambda row: (row.dataset, row.asset_id, row.start))],
        )
    return len(gone | come)


def totals(conn: Connection) -> list[tuple[str, str, int, int]]:
    """(dataset, state, ranges, ms covered) over the whole ledger."""
    columns = collection_gaps.c
    rows = conn.execute(
        select(columns.dataset, columns.state, func.count(), func.sum(columns.end - columns.start))
        .group_by(columns.dataset, columns.state)
        .order_by(columns.dataset, columns.state)
    )
    return [(dataset, state, int(ranges), int(ms)) for dataset, state, ranges, ms in rows]

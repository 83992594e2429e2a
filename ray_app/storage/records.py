"""Writes that are not upstream values: what was asked, what was wrong with it, how collectors fare.

All of them converge: whatever the order and however often, the same facts leave the same rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects import mysql, sqlite

from ray_app.storage.tables import (
    account_plans,
    collection_schedules,
    collector_runs,
    crypto_assets,
    data_quality_events,
    dead_letters,
    endpoint_shapes,
    fetches,
)

#: at most this many values in one IN list
_IN_LIST = 500


def known_fetches(conn: Connection, fetch_ids: Sequence[int]) -> set[int]:
    """Which of these fetches have been ingested already."""
    known: set[int] = set()
    for start in range(0, len(fetch_ids), _IN_LIST):
        part = fetch_ids[start : start + _IN_LIST]
        known.update(conn.scalars(select(fetches.c.fetch_id).where(fetches.c.fetch_id.in_(part))))
    return known


def last_fetch(conn: Connection, collector: str) -> int | None:
    """When the newest ingested answer of the collector was fetched (ms); None: it has none."""
    return conn.scalar(
        select(fetches.c.fetched_at)
        .where(fetches.c.collector == collector)
        .order_by(fetches.c.fetched_at.desc())
        .limit(1)
    )


def last_good_fetch(conn: Connection, source: str, *, before: int) -> tuple[str, int] | None:
    """(segment, position) of the endpoint's newest usable answer among fetch ids below ``before``; None: none yet."""
    columns = fetches.c
    row = conn.execute(
        select(columns.segment, columns.position)
        .where(columns.source == source, columns.outcome == "ok", columns.fetch_id < before)
        .order_by(columns.fetched_at.desc(), columns.fetch_id.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else (row[0], row[1])


def good_fetches(conn: Connection, source: str, *, since: int) -> list[tuple[int, str]]:
    """(fetch id, request as JSON) of the endpoint's usable answers fetched at ``since`` ms or later, newest first."""
    columns = fetches.c
    found = conn.execute(
        select(columns.fetch_id, columns.request)
        .where(columns.source == source, columns.outcome == "ok", columns.fetched_at >= since)
        .order_by(columns.fetched_at.desc(), columns.fetch_id.desc())
    )
    return [(fetch_id, request) for fetch_id, request in found]


def fetch_places(conn: Connection, fetch_ids: Sequence[int]) -> list[tuple[str, int]]:
    """(segment, position) of those fetches that are indexed, in the order of their ids; for a handful of them."""
    columns = fetches.c
    found = conn.execute(
        select(columns.segment, columns.position).where(columns.fetch_id.in_(fetch_ids)).order_by(columns.fetch_id)
    )
    return [(segment, position) for segment, position in found]


def last_good_fetched_at(conn: Connection, source: str) -> int | None:
    """When the endpoint last gave a usable or unchanged answer (ms); None: never."""
    columns = fetches.c
    return conn.scalar(
        select(columns.fetched_at)
        .where(columns.source == source, columns.outcome.in_(("ok", "not_modified")))
        .order_by(columns.fetched_at.desc())
        .limit(1)
    )


def add_fetches(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Index fetches that are not in the table yet (see :func:`known_fetches`)."""
    if rows:
        conn.execute(insert(fetches), list(rows))


def replace_fetches(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Index fetches, replacing what a former parser said of them."""
    ids = [row["fetch_id"] for row in rows]
    for start in range(0, len(ids), _IN_LIST):
        conn.execute(delete(fetches).where(fetches.c.fetch_id.in_(ids[start : start + _IN_LIST])))
    add_fetches(conn, rows)


def add_quality_events(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Record what was wrong with a body; of several fetches of the same body the earliest is kept."""
    earliest_wins(conn, data_quality_events, rows, ("fetched_at", "source", "detail"))


def add_dead_letters(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Record bodies that could not be parsed; of several fetches of the same body the earliest is kept."""
    earliest_wins(conn, dead_letters, rows, ("fetched_at", "parser_version", "error"))


def drop_dead_letters(conn: Connection, keys: Iterable[tuple[str, str]]) -> None:
    """Forget dead letters, by (payload hash, source), that a newer parser could read."""
    for payload_hash, source in keys:
        conn.execute(
            delete(dead_letters).where(dead_letters.c.payload_hash == payload_hash, dead_letters.c.source == source)
        )


def shapes(conn: Connection, sources: Sequence[str], *, lock: bool = False) -> dict[str, str]:
    """What was learnt of the endpoints' bodies, as JSON; one of which nothing was learnt yet is left out.

    ``lock``: nobody else changes them before this transaction ends.
    """
    query = select(endpoint_shapes.c.source, endpoint_shapes.c.shape).where(endpoint_shapes.c.source.in_(sources))
    query = query.order_by(endpoint_shapes.c.source)
    if lock and conn.dialect.name != "sqlite":  # a SQLite write transaction is alone anyway
        query = query.with_for_update()
    found = {row.source: row.shape for row in conn.execute(query)}
    if lock and (new := sorted(set(sources) - found.keys())):  # a row that is not there cannot be locked
        verb = "OR IGNORE" if conn.dialect.name == "sqlite" else "IGNORE"
        blank = [{"source": source, "shape": "", "updated_at": 0} for source in new]
        conn.execute(insert(endpoint_shapes).prefix_with(verb), blank)
        found = {row.source: row.shape for row in conn.execute(query)}
    return {source: shape for source, shape in found.items() if shape}


def save_shape(conn: Connection, source: str, shape: str, updated_at: int) -> None:
    """Keep what was learnt of an endpoint's bodies; :func:`shapes` has locked it."""
    values = {"shape": shape, "updated_at": updated_at}
    conn.execute(update(endpoint_shapes).where(endpoint_shapes.c.source == source).values(values))


def earliest_wins(conn: Connection, table: Table, rows: Sequence[Mapping[str, Any]], order: tuple[str, ...]) -> None:
    """Upsert in which the lowest ``order`` tuple (of columns that are never NULL) wins the whole row."""
    if not rows:
        return
    key = [column.name for column in table.primary_key.columns]
    best: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for row in rows:
        identity = tuple(row[name] for name in key)
        held = best.get(identity)
        if held is None or tuple(row[name] for name in order) < tuple(held[name] for name in order):
            best[identity] = row
    # order columns last and least significant first, so that MySQL's left-to-right assignment keeps "lower" true
    values = [c.name for c in table.columns if c.name not in key and c.name not in order] + list(reversed(order))
    ordered = [dict(best[identity]) for identity in sorted(best)]
    if conn.dialect.name == "sqlite":
        lite = sqlite.insert(table)
        lower = _tuple(lite.excluded, order) < _tuple(table.c, order)
        conn.execute(
            lite.on_conflict_do_update(
                index_elements=key, set_={name: lite.excluded[name] for name in values}, where=lower
            ),
            ordered,
        )
        return
    theirs = mysql.insert(table)
    lower = _tuple(theirs.inserted, order) < _tuple(table.c, order)
    conn.execute(
        theirs.on_duplicate_key_update(
            [(name, func.if_(lower, theirs.inserted[name], table.c[name])) for name in values]
        ),
        ordered,
    )


def _tuple(columns: Any, names: Iterable[str]) -> Any:
    from sqlalchemy import tuple_

    return tuple_(*(columns[name] for name in names))


# --- collectors -----------------------------------------------------------------------------------------------


def run_started(conn: Connection, collector: str, now_ms: int) -> None:
    """A pass of the collector begins."""
    changed = conn.execute(
        update(collector_runs)
        .where(collector_runs.c.collector == collector)
        .values(started_at=now_ms, runs=collector_runs.c.runs + 1)
    )
    if changed.rowcount == 0:
        conn.execute(insert(collector_runs).values(collector=collector, started_at=now_ms, runs=1, failures=0))


def run_succeeded(conn: Connection, collector: str, now_ms: int, next_run_at: int | None) -> None:
    """A pass stored something or owed nothing."""
    conn.execute(
        update(collector_runs)
        .where(collector_runs.c.collector == collector)
        .values(succeeded_at=now_ms, next_run_at=next_run_at)
    )


def run_failed(conn: Connection, collector: str, now_ms: int, error: str, next_run_at: int | None) -> None:
    """A pass failed; ``error`` is what an operator reads."""
    conn.execute(
        update(collector_runs)
        .where(collector_runs.c.collector == collector)
        .values(
            failures=collector_runs.c.failures + 1,
            last_error=error[:2_000],
            last_error_at=now_ms,
            next_run_at=next_run_at,
        )
    )


def saw_event(conn: Connection, collector: str, event_time: int) -> None:
    """The newest event time the collector has stored only rises."""
    row = collector_runs.c
    conn.execute(
        update(collector_runs)
        .where(row.collector == collector, func.coalesce(row.last_event_time, -1) < bindparam("seen"))
        .values(last_event_time=bindparam("seen")),
        {"seen": event_time},
    )


def last_success(conn: Connection, collector: str) -> int | None:
    """When the collector last succeeded (ms); None: never."""
    return conn.scalar(select(collector_runs.c.succeeded_at).where(collector_runs.c.collector == collector))


# --- schedules and registry generation ------------------------------------------------------------------------


def schedule_versions(conn: Connection, dataset: str, *, lock: bool = False) -> list[dict[str, Any]]:
    """The dataset's schedule versions, oldest first. ``lock``: nobody else changes the dataset's ledger meanwhile."""
    query = (
        select(collection_schedules)
        .where(collection_schedules.c.dataset == dataset)
        .order_by(collection_schedules.c.version)
    )
    if lock and conn.dialect.name != "sqlite":  # a SQLite write transaction is alone anyway
        query = query.with_for_update()
    return [dict(row._mapping) for row in conn.execute(query)]  # noqa: SLF001 - SQLAlchemy's documented name


def add_schedule_version(conn: Connection, dataset: str, version: int, definition: str, valid_from: int) -> None:
    """Put a version into force from ``valid_from``; the one before ends there."""
    columns = collection_schedules.c
    conn.execute(
        update(collection_schedules)
        .where(columns.dataset == dataset, columns.valid_to.is_(None))
        .values(valid_to=valid_from)
    )
    conn.execute(
        insert(collection_schedules).values(
            dataset=dataset, version=version, definition=definition, valid_from=valid_from, valid_to=None
        )
    )


def account_plan(conn: Connection, account: str, *, lock: bool = False) -> tuple[str | None, str | None]:
    """(decision, key usage) of an upstream account, as JSON or None. ``lock``: nobody else changes them meanwhile."""
    query = select(account_plans.c.decision, account_plans.c.key_usage).where(account_plans.c.account == account)
    if lock and conn.dialect.name != "sqlite":
        query = query.with_for_update()
    row = conn.execute(query).one_or_none()
    if lock and row is None:  # a row that is not there cannot be locked
        verb = "OR IGNORE" if conn.dialect.name == "sqlite" else "IGNORE"
        conn.execute(insert(account_plans).prefix_with(verb), {"account": account, "updated_at": 0})
        row = conn.execute(query).one_or_none()
    return (None, None) if row is None else (row.decision, row.key_usage)


def save_account_plan(conn: Connection, account: str, now_ms: int, **texts: str) -> None:
    """Keep ``decision`` or ``key_usage``; :func:`account_plan` has locked the row."""
    values = {**texts, "updated_at": now_ms}
    conn.execute(update(account_plans).where(account_plans.c.account == account).values(values))


def rate_limited_since(conn: Connection, sources: Sequence[str], since: int) -> bool:
    """Whether one of the endpoints has refused for its rate limit after ``since`` ms."""
    columns = fetches.c
    found = select(columns.fetch_id).where(
        columns.source.in_(list(sources)), columns.fetched_at > since, columns.outcome == "rate_limited"
    )
    return conn.execute(found.limit(1)).first() is not None


def registry_generation(conn: Connection) -> tuple[int, int]:
    """Changes whenever the asset registry does: (number of assets, newest update)."""
    row = conn.execute(select(func.count(), func.coalesce(func.max(crypto_assets.c.updated_at), 0))).one()
    return int(row[0]), int(row[1])

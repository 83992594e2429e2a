"""Reads about the data itself: what was wrong with it, how late it came, where a row comes from.

Each has a bound on what it looks at, whatever is stored; named, with the index it uses
(tests/storage/test_evidence_queries.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Select, Table, and_, func, or_, select

from ray_app.clock import DAY_MS, to_ms
from ray_app.storage import source_queries
from ray_app.storage.tables import (
    archive_manifests,
    archive_tombstones,
    crypto_assets,
    crypto_news,
    data_quality_events,
    derivatives_data,
    endpoint_shapes,
    fear_greed,
    fetches,
    macro_indicators,
    market_data,
    ohlc_data,
    onchain_data,
    price_data_real,
    social_posts,
    stock_news,
)

Record = dict[str, Any]

#: rows looked at for NULLs and lags: of a table, and of a series or metric in it
NEWEST_ROWS = 5_000
NEWEST_OF_SERIES = 50
NEWEST_OF_METRIC = 1_000
#: candles are looked at of the assets up to this rank
LARGEST = 20

_HOUR_MS = 3_600_000


# --- what was wrong -------------------------------------------------------------------------------------------


def quality_counts_query(since: int, source: str | None = None, kind: str | None = None) -> Select[Any]:
    """Events since a moment per source, kind and field: the index on fetched_at."""
    columns = data_quality_events.c
    query = (
        select(
            columns.source,
            columns.kind,
            columns.field,
            func.count().label("events"),
            func.count(columns.subject.distinct()).label("subjects"),
            func.max(columns.fetched_at).label("newest"),
        )
        .where(columns.fetched_at >= since, *_which(source, kind))
        .group_by(columns.source, columns.kind, columns.field)
    )
    return query.order_by(func.count().desc(), columns.source, columns.kind, columns.field)


def quality_counts(conn: Connection, since: int, source: str | None, kind: str | None, limit: int) -> list[Record]:
    """Most frequent first: source, kind, field, events, subjects, newest (ms)."""
    query = quality_counts_query(since, source, kind).limit(limit)
    return [dict(row) for row in conn.execute(query).mappings()]


def quality_events_query(
    since: int,
    source: str | None = None,
    kind: str | None = None,
    before: tuple[int, str, str, str, str] | None = None,
) -> Select[Any]:
    """Events newest first; ``before``: fetched_at and key of the last one of the page before."""
    columns = data_quality_events.c
    key = (columns.payload_hash, columns.kind, columns.subject, columns.field)
    query = select(data_quality_events).where(columns.fetched_at >= since, *_which(source, kind))
    if before is not None:
        behind = [
            and_(
                *(column == value for column, value in zip(key[:i], before[1 : i + 1], strict=True)),
                key[i] > before[i + 1],
            )
            for i in range(len(key))
        ]
        query = query.where(
            columns.fetched_at <= before[0],
            or_(columns.fetched_at < before[0], and_(columns.fetched_at == before[0], or_(*behind))),
        )
    return query.order_by(columns.fetched_at.desc(), *key)


def quality_events(
    conn: Connection,
    since: int,
    source: str | None,
    kind: str | None,
    before: tuple[int, str, str, str, str] | None,
    limit: int,
) -> list[Record]:
    """A page of events, newest first."""
    query = quality_events_query(since, source, kind, before).limit(limit)
    return [dict(row) for row in conn.execute(query).mappings()]


def _which(source: str | None, kind: str | None) -> list[Any]:
    columns = data_quality_events.c
    chosen = [] if source is None else [columns.source == source]
    return chosen if kind is None else [*chosen, columns.kind == kind]


# --- the newest rows of a table ----------------------------------------------------------------------------------


def newest_query(table: Table, since: int) -> Select[Any]:
    """A table's newest rows by the time it has an index on, at most NEWEST_ROWS."""
    column = table.c[{price_data_real: "slot", social_posts: "published_at"}.get(table, "known_at")]
    query = select(table).where(column >= since).order_by(column.desc()).limit(NEWEST_ROWS)
    return query.with_hint(table, f"FORCE INDEX (ix_{table.name}_{column.name})", "mysql")  # it prefers to read all


def largest_query() -> Select[Any]:
    """The largest assets: the registry is read whole."""
    return select(crypto_assets.c.asset_id).where(crypto_assets.c.market_cap_rank <= LARGEST)


def newest_candles_query(asset_id: int, since: int) -> Select[Any]:
    """An asset's newest hourly candles."""
    columns = ohlc_data.c
    mine = (columns.asset_id == asset_id, columns.venue == "coinbase", columns.interval_s == 3_600)
    query = select(ohlc_data).where(*mine, columns.open_time >= since)
    return query.order_by(columns.open_time.desc()).limit(NEWEST_OF_SERIES)


def newest_of_metric_query(table: Table, metric: str, since: int) -> Select[Any]:
    """On-chain or derivatives: the newest rows of a metric, of every asset."""
    query = select(table).where(table.c.metric == metric, table.c.event_time >= since)
    return query.order_by(table.c.event_time.desc()).limit(NEWEST_OF_METRIC)


def next_metric_query(table: Table, after: str) -> Select[Any]:
    """The next metric in the index."""
    return select(table.c.metric).where(table.c.metric > after).order_by(table.c.metric).limit(1)


def newest_of_source_query(table: Table, source: str, since: int) -> Select[Any]:
    """Market-wide numbers: the newest rows of a source."""
    query = select(table).where(table.c.source == source, table.c.event_time >= since)
    return query.order_by(table.c.event_time.desc()).limit(NEWEST_OF_SERIES)


def next_source_query(table: Table, after: str) -> Select[Any]:
    """The next source in the key."""
    return select(table.c.source).where(table.c.source > after).order_by(table.c.source).limit(1)


def newest_of_indicator_query(indicator: str, since: int) -> Select[Any]:
    """The newest rows of an indicator, from all sources."""
    columns = macro_indicators.c
    query = select(macro_indicators).where(columns.indicator_name == indicator, columns.indicator_date >= since)
    return query.order_by(columns.indicator_date.desc()).limit(NEWEST_OF_SERIES)


def newest_rows(conn: Connection, since: int) -> Iterator[tuple[Table, list[Record]]]:
    """Of every table of upstream values: rows about the time since, the newest ones where there are many."""
    for table in (price_data_real, crypto_news, stock_news, social_posts):
        yield table, _rows(conn, newest_query(table, since))
    for asset_id in conn.scalars(largest_query()).all():
        yield ohlc_data, _rows(conn, newest_candles_query(asset_id, since))
    for table in (onchain_data, derivatives_data):
        metric = ""
        while (metric := conn.scalar(next_metric_query(table, metric)) or "") != "":
            yield table, _rows(conn, newest_of_metric_query(table, metric, since))
    for table in (market_data, fear_greed):
        source = ""
        while (source := conn.scalar(next_source_query(table, source)) or "") != "":
            yield table, _rows(conn, newest_of_source_query(table, source, since))
    for indicator in source_queries.names(conn, source_queries.MACRO):
        yield macro_indicators, _rows(conn, newest_of_indicator_query(indicator, since))


def _rows(conn: Connection, query: Select[Any]) -> list[Record]:
    return [dict(row) for row in conn.execute(query).mappings()]


def null_shares(conn: Connection, since: int) -> list[Record]:
    """Per table and column that may be NULL: ``rows`` looked at, ``nulls`` among them. Fetched since a moment."""
    rows: dict[str, int] = {}
    nulls: dict[tuple[str, str], int] = {}
    # what was fetched in a day is about that day, but for daily numbers: they come a few days later
    for table, found in newest_rows(conn, since - 5 * 24 * _HOUR_MS):
        mine = [row for row in found if row["fetched_at"] >= since]
        if not mine:
            continue
        rows[table.name] = rows.get(table.name, 0) + len(mine)
        for column in table.columns:
            if column.nullable and column.name != "deleted_at":
                missing = sum(row[column.name] is None for row in mine)
                nulls[table.name, column.name] = nulls.get((table.name, column.name), 0) + missing
    return [
        {"table": table, "column": str(column), "rows": rows[table], "nulls": count}
        for (table, column), count in sorted(nulls.items())
    ]


def lags(conn: Connection, since: int) -> dict[str, list[int]]:
    """Per source: ms from the moment a value is about to when the node had it, of rows about the time since."""
    found: dict[str, list[int]] = {}
    for table, rows in newest_rows(conn, since):
        for row in rows:
            about, had = _moments(table, row)
            if about is not None:
                source = row.get("source") or f"{row['venue']}.candles"
                found.setdefault(source, []).append(had - about)
    return found


def _moments(table: Table, row: Record) -> tuple[int | None, int]:
    """The moment a row is about, ms (None: nobody says), and when the node first had it."""
    if table is ohlc_data:
        return row["open_time"] + row["interval_s"] * 1_000, row["first_seen_at"]
    if table is macro_indicators:
        return row["indicator_date"], row["first_seen_at"]
    if table is price_data_real or table is market_data:
        return row["event_time"], row["fetched_at"]
    if "published_at" in row:
        return row["published_at"], row["known_at"]
    return row["event_time"], row["first_seen_at"]


# --- how large the archive is -----------------------------------------------------------------------------------


def archive_sizes(conn: Connection) -> dict[str, dict[str, int]]:
    """Per source: ``answers`` and ``payload_bytes`` of their bodies that were archived, and ``deleted`` of the answers.

    Recorded days come from their manifests, the days since from the index.
    """
    day = archive_manifests.c
    recorded = conn.execute(
        select(day.source, func.sum(day.answers), func.sum(day.payload_bytes))
        .where(day.source != "*")
        .group_by(day.source)
    ).all()
    last = conn.scalar(select(func.max(day.day)))
    since = 0 if last is None else to_ms(datetime.strptime(str(last), "%Y%m%d").replace(tzinfo=UTC)) + DAY_MS
    fresh = conn.execute(
        select(fetches.c.source, func.count(), func.sum(fetches.c.payload_bytes))
        .where(fetches.c.fetched_at >= since)
        .group_by(fetches.c.source)
    ).all()
    gone = archive_tombstones.c
    deleted = conn.execute(select(gone.source, func.sum(gone.answers)).group_by(gone.source)).all()
    found: dict[str, dict[str, int]] = {}
    for source, answers, size in (*recorded, *fresh):
        row = found.setdefault(source, {"answers": 0, "payload_bytes": 0, "deleted": 0})
        row["answers"] += int(answers)
        row["payload_bytes"] += int(size)
    for source, answers in deleted:
        found.setdefault(source, {"answers": 0, "payload_bytes": 0, "deleted": 0})["deleted"] = int(answers)
    return found


# --- where a row comes from ---------------------------------------------------------------------------------------


def rows_of_key_query(table: Table, key: dict[str, Any]) -> Select[Any]:
    """Rows by the first columns of their key."""
    wanted = [table.c[name] == value for name, value in key.items()]
    return select(table).where(*wanted).order_by(*table.primary_key.columns)


def rows_of_key(conn: Connection, table: Table, key: dict[str, Any], limit: int) -> list[Record]:
    """The stored rows whose key begins with these columns."""
    return _rows(conn, rows_of_key_query(table, key).limit(limit))


def fetch_of(conn: Connection, payload_hash: str, fetched_at: int) -> Record | None:
    """The fetch that brought a body at a time; None: no archived answer has it."""
    columns = fetches.c
    query = select(fetches).where(columns.payload_hash == payload_hash, columns.fetched_at == fetched_at)
    found = conn.execute(query.order_by(columns.fetch_id).limit(1)).mappings().first()
    return dict(found) if found is not None else None


def purged(conn: Connection, segment: str) -> Record | None:
    """Why and when (ms) an archive segment was deleted on purpose; None: it was not."""
    columns = archive_tombstones.c
    found = conn.execute(select(columns.reason, columns.purged_at).where(columns.segment == segment)).mappings().first()
    return dict(found) if found is not None else None


# --- endpoints ----------------------------------------------------------------------------------------------------


def last_fetch_query(source: str) -> Select[Any]:
    """The newest answer of an endpoint: two steps on the index. ORDER BY … LIMIT 1 makes MariaDB walk all fetches."""
    columns, other = fetches.c, fetches.alias("newest").c
    newest = select(func.max(other.fetched_at)).where(other.source == source).scalar_subquery()
    wanted = select(columns.status, columns.fetched_at, columns.outcome)
    return wanted.where(columns.source == source, columns.fetched_at == newest).limit(1)


def last_fetch(conn: Connection, source: str) -> Record | None:
    """Status, fetched_at and outcome of an endpoint's newest answer; None: it was never asked."""
    found = conn.execute(last_fetch_query(source)).mappings().first()
    return dict(found) if found is not None else None


def shapes(conn: Connection) -> dict[str, Record]:
    """The learnt shape of every endpoint's answers (JSON), and when it last changed (ms)."""
    return {row["source"]: dict(row) for row in conn.execute(select(endpoint_shapes)).mappings()}

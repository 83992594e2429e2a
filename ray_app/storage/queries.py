# ruff: noqa: SLF001 - Row._mapping is public in SQLAlchemy; the underscore keeps column names free
"""Every read the node makes more than once, named, each with the index it uses (tests/storage/test_explain.py).

Results are plain dicts under the tables' column names: times in ms since the epoch, prices in USD, None where the
upstream did not say. Ranges are half-open: ``start <= t < end``. Lists that may be long are read in pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Exists, Row, Select, and_, case, func, literal, or_, select, tuple_

from ray_app.errors import StorageError
from ray_app.storage import tables
from ray_app.storage.tables import (
    collection_gaps,
    crypto_assets,
    fetches,
    market_data,
    ohlc_data,
    price_data_real,
)

#: Whose price is shown where several sources have one for a slot, best first.
SOURCE_PRIORITY = (
    "coingecko.markets",
    "coinbase.candles",
    "coingecko.market_chart",
    "coinbase.exchange_rates",
    "coinbase.ticker",
)
#: One venue's live ticks. They are no observations: they know no market cap and come as long as a connection holds, so
#: a slot that has only them is still owed, and the dataset ``prices`` (what is current, stored, newest, history) is of
#: the other sources. Whoever wants the newest price of all takes the newer of both, as the gateway's board does.
TICKS = "coinbase.ticker"

#: Candle datasets: their interval in seconds. All are of one venue.
CANDLE_DATASETS = {"candles-300": 300, "candles-3600": 3_600, "candles-86400": 86_400}
CANDLE_VENUE = "coinbase"

Record = dict[str, Any]


def _records(rows: Sequence[Row[Any]]) -> list[Record]:
    return [dict(row._mapping) for row in rows]


# --- prices ---------------------------------------------------------------------------------------------------

_p = price_data_real.alias("p")
_s = price_data_real.alias("s")
_q = price_data_real.alias("q")


def _rank(prices: Any) -> Any:
    ranks = {name: rank for rank, name in enumerate(SOURCE_PRIORITY)}
    return case(ranks, value=prices.c.source, else_=len(ranks))


#: The best source of p's asset and slot; sources without a rank come last, by name.
_best_source = (
    select(_s.c.source)
    .where(_s.c.asset_id == _p.c.asset_id, _s.c.slot == _p.c.slot)
    .order_by(_rank(_s), _s.c.source)
    .limit(1)
    .correlate(_p)
    .scalar_subquery()
)
#: A few steps back on the primary key per asset (over its ticks since), however long its history.
_newest_slot = (
    select(_q.c.slot)
    .where(_q.c.asset_id == crypto_assets.c.asset_id, _q.c.source != TICKS)
    .order_by(_q.c.slot.desc())
    .limit(1)
    .correlate(crypto_assets)
    .scalar_subquery()
)


def current_prices_query() -> Select[Any]:
    """One row per asset that has a price: its newest slot, from the best source that has it."""
    return (
        select(
            crypto_assets.c.symbol,
            crypto_assets.c.coin_id,
            crypto_assets.c.name,
            crypto_assets.c.coinbase_product,
            crypto_assets.c.status,
            *_p.c,
        )
        .select_from(crypto_assets)
        # + 0: from the registry to the prices; a SQLite without statistics would read all prices to get there
        .join(_p, and_(_p.c.asset_id == crypto_assets.c.asset_id + 0, _p.c.slot == _newest_slot))
        .where(_p.c.source == _best_source)
    )


def current_prices(conn: Connection) -> list[Record]:
    """The current price of every asset that has one, with symbol, coin_id and name; by asset_id."""
    return _records(conn.execute(current_prices_query().order_by(crypto_assets.c.asset_id)).all())


def current_price(conn: Connection, asset_id: int) -> Record | None:
    """The current price of one asset; None if it never had one."""
    found = conn.execute(current_prices_query().where(crypto_assets.c.asset_id == asset_id)).first()
    return dict(found._mapping) if found is not None else None


def venue_prices(conn: Connection, asset_id: int, slot: int) -> list[Record]:
    """Every source's row of one slot, best source first."""
    query = select(_p).where(_p.c.asset_id == asset_id, _p.c.slot == slot).order_by(_rank(_p), _p.c.source)
    return _records(conn.execute(query).all())


def price_history_query(asset_id: int, start: int, end: int) -> Select[Any]:
    """The best source's row per slot."""
    return (
        select(_p)
        .where(_p.c.asset_id == asset_id, _p.c.slot >= start, _p.c.slot < end)
        .where(_p.c.source == _best_source, _p.c.source != TICKS)
        .order_by(_p.c.slot)
    )


def price_history(conn: Connection, asset_id: int, start: int, end: int, limit: int = 10_000) -> list[Record]:
    """One row per slot in [start, end), ascending, best source; next page: start = last slot + 1."""
    return _records(conn.execute(price_history_query(asset_id, start, end).limit(limit)).all())


# --- candles --------------------------------------------------------------------------------------------------

_o = ohlc_data.alias("o")
_n = ohlc_data.alias("n")


def _place(candles: Any) -> Any:
    columns = candles.c
    return tuple_(
        columns.event_version, columns.fetched_at, columns.parser_version, columns.payload_hash, columns.version
    )


def _another_version(such_that: ColumnElement[bool]) -> Exists:
    """Whether there is a version n of candle o's bar for which the condition holds."""
    same_bar = [_n.c[name] == _o.c[name] for name in ("asset_id", "venue", "interval_s", "open_time")]
    return select(literal(1)).where(*same_bar, such_that).correlate(_o).exists()


def candles_query(asset_id: int, venue: str, interval_s: int, start: int, end: int) -> Select[Any]:
    """The current version of each candle: the one no other version of it stands above in the order of writes.

    ``known_at`` is when a consumer could have known that version: one that was not the bar's first only from when it
    was first seen (sources/rows.py).
    """
    known_at = case(
        (_another_version(_n.c.first_seen_at < _o.c.first_seen_at), _o.c.first_seen_at), else_=_o.c.known_at
    )
    others = [column for column in _o.c if column.name != "known_at"]
    return select(*others, known_at.label("known_at")).where(
        _o.c.asset_id == asset_id,
        _o.c.venue == venue,
        _o.c.interval_s == interval_s,
        _o.c.open_time >= start,
        _o.c.open_time < end,
        ~_another_version(_place(_n) > _place(_o)),
    )


def candles(
    conn: Connection, asset_id: int, venue: str, interval_s: int, start: int, end: int, limit: int = 10_000
) -> list[Record]:
    """Current versions of the candles in [start, end), ascending; next page: start = last open_time + 1."""
    query = candles_query(asset_id, venue, interval_s, start, end).order_by(_o.c.open_time).limit(limit)
    return _records(conn.execute(query).all())


# --- what is stored, per dataset ------------------------------------------------------------------------------


def stored_slots(
    conn: Connection, dataset: str, asset_ids: Sequence[int], start: int, end: int
) -> dict[int, list[int]]:
    """Per asset, the slots in [start, end) that are stored, ascending; an asset without any has an empty list."""
    found: dict[int, list[int]] = {asset_id: [] for asset_id in asset_ids}
    for asset_id in found:
        found[asset_id] = list(conn.scalars(stored_slots_query(dataset, asset_id, start, end)))
    return found


def stored_slots_query(dataset: str, asset_id: int, start: int, end: int) -> Select[Any]:
    """Distinct slots of one asset, from any source or version."""
    if dataset == "prices":
        slot = price_data_real.c.slot
        mine = [price_data_real.c.asset_id == asset_id, price_data_real.c.source != TICKS]
    else:
        slot, mine = ohlc_data.c.open_time, [ohlc_data.c.asset_id == asset_id, *_dataset_of_candles(dataset, ohlc_data)]
    return select(slot).where(*mine, slot >= start, slot < end).distinct().order_by(slot)


def _dataset_of_candles(dataset: str, candles: Any) -> list[Any]:
    if dataset not in CANDLE_DATASETS:
        raise StorageError(f"no dataset is called {dataset!r}; there are prices, {', '.join(CANDLE_DATASETS)}")
    return [candles.c.venue == CANDLE_VENUE, candles.c.interval_s == CANDLE_DATASETS[dataset]]


def newest_slots(conn: Connection, dataset: str) -> dict[int, int]:
    """Per asset that has any, its newest stored slot."""
    newest = newest_slots_query(dataset)
    return {asset_id: slot for asset_id, slot in conn.execute(newest) if slot is not None}


def newest_slots_query(dataset: str) -> Select[Any]:
    """One step back on the primary key per asset."""
    if dataset == "prices":
        return select(crypto_assets.c.asset_id, _newest_slot.label("slot"))
    newest = (
        select(_o.c.open_time)
        .where(_o.c.asset_id == crypto_assets.c.asset_id, *_dataset_of_candles(dataset, _o))
        .order_by(_o.c.open_time.desc())
        .limit(1)
        .correlate(crypto_assets)
        .scalar_subquery()
    )
    return select(crypto_assets.c.asset_id, newest.label("slot"))


# --- gaps -----------------------------------------------------------------------------------------------------


def gaps_query(
    dataset: str,
    *,
    states: Sequence[str] = (),
    asset_id: int | None = None,
    after: tuple[int, int] | None = None,
) -> Select[Any]:
    """Ranges of one dataset by (asset_id, start)."""
    columns = collection_gaps.c
    query = select(collection_gaps).where(columns.dataset == dataset)
    if states:
        query = query.where(columns.state.in_(states))
    if asset_id is not None:
        query = query.where(columns.asset_id == asset_id)
    if after is not None:
        past = or_(columns.asset_id > after[0], and_(columns.asset_id == after[0], columns.start > after[1]))
        query = query.where(columns.asset_id >= after[0], past)
    return query.order_by(columns.asset_id, columns.start)


def gaps(
    conn: Connection,
    dataset: str,
    *,
    states: Sequence[str] = (),
    asset_id: int | None = None,
    after: tuple[int, int] | None = None,
    limit: int = 1_000,
) -> list[Record]:
    """Ranges of the gap ledger, by (asset_id, start); next page: ``after`` = that pair of the last one."""
    query = gaps_query(dataset, states=states, asset_id=asset_id, after=after)
    return _records(conn.execute(query.limit(limit)).all())


def gap_counts(conn: Connection) -> list[Record]:
    """Per dataset and state: ``ranges``, how many; ``oldest`` and ``newest``, ms, the bounds of all of them."""
    columns = collection_gaps.c
    query = (
        select(
            columns.dataset,
            columns.state,
            func.count().label("ranges"),
            func.min(columns.start).label("oldest"),
            func.max(columns.end).label("newest"),
        )
        .group_by(columns.dataset, columns.state)
        .order_by(columns.dataset, columns.state)
    )
    return _records(conn.execute(query).all())


#: what an observation may say of an asset besides its price
PRICE_FIELDS = tuple(str(column.name) for column in price_data_real.c if column.nullable)


def repaired_fields_query() -> Select[*tuple[Any, ...]]:
    """Price slots that the ledger calls repaired: how many, and in how many of them each field is known."""
    gap, price = collection_gaps.c, price_data_real.c
    inside = and_(price.asset_id == gap.asset_id, price.slot >= gap.start, price.slot < gap.end, price.source != TICKS)
    known = [func.max(case((price[name].is_not(None), 1), else_=0)).label(name) for name in PRICE_FIELDS]
    slots = (
        select(price.asset_id, price.slot, *known)
        .select_from(collection_gaps.join(price_data_real, inside))
        .where(gap.dataset == "prices", gap.state == "repaired")
        .group_by(price.asset_id, price.slot)
        .subquery()
    )
    counts: list[ColumnElement[Any]] = [func.sum(slots.c[name]).label(name) for name in PRICE_FIELDS]
    return select(func.count().label("slots"), *counts)


def repaired_fields(conn: Connection) -> tuple[int, dict[str, int]]:
    """How many price slots were repaired, and field → in how many of them it is NULL, for history does not give it."""
    row = conn.execute(repaired_fields_query()).mappings().one()
    return row["slots"], {name: n for name in PRICE_FIELDS if (n := row["slots"] - int(row[name] or 0))}


# --- fetches and collectors -----------------------------------------------------------------------------------


def fetch_stats_query(since: int) -> Select[Any]:
    """Counts over the fetches since a moment."""
    columns = fetches.c
    return (
        select(
            columns.collector,
            columns.source,
            columns.outcome,
            func.count().label("fetches"),
            func.sum(columns.row_count).label("row_count"),
            func.sum(columns.payload_bytes).label("payload_bytes"),
            func.max(columns.fetched_at).label("last_fetched_at"),
        )
        .where(columns.fetched_at >= since)
        .group_by(columns.collector, columns.source, columns.outcome)
    )


def fetch_stats(conn: Connection, since: int) -> list[Record]:
    """Per collector, source and outcome since ``since`` (ms): fetches, row_count, payload_bytes, last_fetched_at."""
    rows = _records(conn.execute(fetch_stats_query(since)).all())
    for row in rows:  # SUM is DECIMAL on MySQL
        row["row_count"], row["payload_bytes"] = int(row["row_count"]), int(row["payload_bytes"])
    return sorted(rows, key=lambda row: (row["collector"], row["source"], row["outcome"]))


def fetches_of_payload(conn: Connection, payload_hash: str) -> list[Record]:
    """Every fetch that brought this body, oldest first: where a stored value comes from."""
    query = select(fetches).where(fetches.c.payload_hash == payload_hash).order_by(fetches.c.fetch_id)
    return _records(conn.execute(query).all())


def fetches_page(conn: Connection, *, after: int = 0, limit: int = 1_000) -> list[Record]:
    """Fetches in time order; next page: ``after`` = the last fetch_id."""
    query = select(fetches).where(fetches.c.fetch_id > after).order_by(fetches.c.fetch_id).limit(limit)
    return _records(conn.execute(query).all())


def collector_runs(conn: Connection) -> list[Record]:
    """The last run of every collector."""
    return _records(conn.execute(select(tables.collector_runs).order_by(tables.collector_runs.c.collector)).all())


def market_now(conn: Connection) -> Record | None:
    """The newest market-wide observation of any source; None if there is none."""
    query = select(market_data).order_by(market_data.c.event_time.desc()).limit(1)
    found = conn.execute(query).first()
    return dict(found._mapping) if found is not None else None

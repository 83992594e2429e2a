"""Reads that only the gateway makes, named, each with the index it uses (tests/serving/test_gateway_queries.py).

As in queries.py: plain dicts, times in ms, half-open ranges, None where the upstream did not say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, and_, func, select

from ray_app.storage.queries import TICKS
from ray_app.storage.tables import crypto_assets, ohlc_data, outbox_heads, price_data_real

Record = dict[str, Any]

_p = price_data_real.alias("p")
_q = price_data_real.alias("q")


def board_prices_query(asset_id: int | None = None, *, ticks: bool = False) -> Select[Any]:
    """Every source's row of the newest slot that was observed, per asset: a few steps back on the primary key each.

    ``ticks``: instead, the tick of the newest slot of all, where it has one. An older tick is none to show: something
    newer was observed.
    """
    newest = select(_q.c.slot).where(_q.c.asset_id == crypto_assets.c.asset_id)
    if not ticks:
        newest = newest.where(_q.c.source != TICKS)
    newest_slot = newest.order_by(_q.c.slot.desc()).limit(1).correlate(crypto_assets).scalar_subquery()
    query = (
        select(crypto_assets.c.symbol, crypto_assets.c.coin_id, *_p.c)
        .select_from(crypto_assets)
        # + 0: from the registry to the prices; a SQLite without statistics would read all prices to get there
        .join(_p, and_(_p.c.asset_id == crypto_assets.c.asset_id + 0, _p.c.slot == newest_slot))
    )
    if ticks:
        query = query.where(_p.c.source == TICKS)
    return query if asset_id is None else query.where(crypto_assets.c.asset_id == asset_id)


def board_prices(conn: Connection, asset_id: int | None = None) -> list[Record]:
    """The rows of each asset's newest slot, from every source that has it, and its newest tick; of one, if asked."""
    queries = (board_prices_query(asset_id), board_prices_query(asset_id, ticks=True))
    return [dict(row) for query in queries for row in conn.execute(query).mappings()]


def current_ticks(conn: Connection) -> list[Record]:
    """The newest tick of each asset that has one in its newest slot, with symbol and coin_id."""
    return [dict(row) for row in conn.execute(board_prices_query(ticks=True)).mappings()]


def registry_changed_at(conn: Connection) -> int | None:
    """When any asset was last changed, ms; None: there are none."""
    newest: int | None = conn.scalar(select(func.max(crypto_assets.c.updated_at)))
    return newest


def candle_span_query(asset_id: int, venue: str, interval_s: int, start: int, end: int) -> Select[Any]:
    """First and last candle in the range: two steps on the primary key (min() and max() in one query scan it all)."""
    mine = (ohlc_data.c.asset_id == asset_id, ohlc_data.c.venue == venue, ohlc_data.c.interval_s == interval_s)
    inside = (ohlc_data.c.open_time >= start, ohlc_data.c.open_time < end)
    either = select(ohlc_data.c.open_time).where(*mine, *inside).limit(1)
    first = either.order_by(ohlc_data.c.open_time).scalar_subquery()
    return select(first, either.order_by(ohlc_data.c.open_time.desc()).scalar_subquery())


def candle_spans(
    conn: Connection, asset_id: int, venue: str, intervals_s: Sequence[int], start: int, end: int
) -> dict[int, tuple[int, int]]:
    """Per stored interval: open times of first and last candle in [start, end); intervals without any are absent."""
    spans: dict[int, tuple[int, int]] = {}
    for interval_s in intervals_s:
        first, last = conn.execute(candle_span_query(asset_id, venue, interval_s, start, end)).one()
        if first is not None:
            spans[interval_s] = (first, last)
    return spans


def reachable(conn: Connection) -> None:
    """Read one row the node cannot work without; raises if the database or the schema is not there."""
    conn.execute(select(outbox_heads.c.seq).limit(1)).first()

"""A hash that names a whole data set."""

from __future__ import annotations

import hashlib

import orjson
from sqlalchemy import Table, select

from ray_app.storage.engine import Database

#: the column that says which time a row is about; of texts when the node first had them, for not all are dated
TIME_COLUMNS = {
    "price_data_real": "slot",
    "ohlc_data": "open_time",
    "macro_indicators": "indicator_date",
    **dict.fromkeys(("market_data", "onchain_data", "derivatives_data", "fear_greed"), "event_time"),
    **dict.fromkeys(("crypto_news", "stock_news", "social_posts"), "known_at"),
}


def dataset_hash(db: Database, table: Table, start: int | None = None, end: int | None = None) -> tuple[int, str]:
    """(rows, SHA-256 in hex) of a table's rows whose slot, open or event time lies in ``[start, end)`` ms.

    The hash is of the table's name and columns, and of each row by rising key as a JSON array: the same rows have
    the same hash on every database and after every rebuild. It covers provenance, so it names the payloads too.
    """
    names = [column.name for column in table.columns]
    found = hashlib.sha256(orjson.dumps([table.name, names]))
    time = table.c[TIME_COLUMNS[table.name]]
    query = select(table).order_by(*table.primary_key.columns)
    query = query if start is None else query.where(time >= start)
    query = query if end is None else query.where(time < end)
    count = 0
    with db.read() as conn:
        for row in conn.execution_options(stream_results=True, yield_per=5_000).execute(query):
            found.update(b"\n" + orjson.dumps(list(row)))
            count += 1
    return count, found.hexdigest()

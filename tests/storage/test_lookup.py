"""Many rows by their keys: all of them, nothing else, and each by the primary key."""

from __future__ import annotations

import random

from sqlalchemy import event

from ray_app.storage.engine import Database
from ray_app.storage.lookup import rows_of_keys
from ray_app.storage.tables import ohlc_data
from tests.storage.samples import T0, candle

KEY = [column.name for column in ohlc_data.primary_key.columns]


def test_rows_are_found_by_their_whole_key_through_the_index(db: Database) -> None:
    rows = [candle(asset, T0 + 3_600_000 * hour) for asset in range(10) for hour in range(200)]
    db.run_chunked(ohlc_data, rows)
    keys = [tuple(row[name] for name in KEY) for row in rows]
    wanted = random.Random(1).sample(keys, 700)
    unknown = [(*key[:-1], -1) for key in wanted[:30]]
    statements: list[tuple[str, tuple[object, ...]]] = []
    with db.read() as conn:
        event.listen(conn, "before_cursor_execute", lambda *a: statements.append((a[2], a[3])))
        found = list(rows_of_keys(conn, ohlc_data, [*wanted, *unknown], (*KEY, "close_price")))
        whole = list(rows_of_keys(conn, ohlc_data, wanted[:1]))
        statement, values = next(one for one in statements if "SELECT" in one[0])
        verb = "EXPLAIN QUERY PLAN" if db.dialect == "sqlite" else "EXPLAIN"
        plan = [str(tuple(row)) for row in conn.exec_driver_sql(f"{verb} {statement}", values)]
    assert sorted(row[:-1] for row in found) == sorted(wanted)
    assert len(whole[0]) == len(ohlc_data.columns)
    if db.dialect == "sqlite":
        assert any("USING INDEX" in line and "version=?" in line for line in plan), plan
    else:
        assert "'range'" in plan[0], plan
        assert "'PRIMARY'" in plan[0], plan


def test_no_keys_are_no_rows(db: Database) -> None:
    with db.read() as conn:
        assert list(rows_of_keys(conn, ohlc_data, [])) == []

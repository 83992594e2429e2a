"""Hot reads use an index on both databases, and their cost does not grow with history they do not ask for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Select, insert, select, text
from sqlalchemy.dialects import mysql, sqlite

from ray_app.storage import migrate, outbox, queries
from ray_app.storage.engine import Database
from ray_app.storage.tables import collection_gaps, crypto_assets, fetches, ohlc_data, price_data_real
from tests.storage.samples import MINUTE, T0, asset, candle, price
from tests.storage.test_queries import fetch

ASSETS, SLOTS, STEP = 25, 600, 5 * MINUTE
END = T0 + SLOTS * STEP


def history(db: Database, slots: range) -> None:
    """Prices and candles of every asset for these slots."""
    wanted = [(a, T0 + s * STEP) for a in range(ASSETS) for s in slots]
    db.run_chunked(price_data_real, [price(a, slot) for a, slot in wanted], size=5_000)
    db.run_chunked(ohlc_data, [candle(a, slot, interval_s=300) for a, slot in wanted], size=5_000)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("mariadb", marks=pytest.mark.integration)])
def full(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database with enough in it that the optimizer has a reason to choose."""
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path_factory.mktemp('full') / 'node.db'}")
    else:
        port = request.getfixturevalue("mariadb_port")
        server = Database(f"mysql+pymysql://node:node@127.0.0.1:{port}/mysql")
        server.run(lambda conn: conn.execute(text("CREATE DATABASE explain_plans CHARACTER SET utf8mb4")))
        server.dispose()
        database = Database(f"mysql+pymysql://node:node@127.0.0.1:{port}/explain_plans")
    migrate.upgrade(database)
    database.run(lambda conn: conn.execute(insert(crypto_assets), [asset(i) for i in range(ASSETS)]))
    history(database, range(SLOTS))
    database.run(lambda conn: conn.execute(insert(fetches), [fetch(i) for i in range(1, 3_000)]))
    times = {"detected_at": T0, "updated_at": T0}
    gaps = [
        {"dataset": d, "asset_id": a, "start": T0 + i, "end": T0 + i + 1, "state": ("owed", "repaired")[i % 20 > 0]}
        | times
        for d in ("prices", "candles-300", "candles-3600")
        for a in range(ASSETS)
        for i in range(40)
    ]
    database.run(lambda conn: conn.execute(insert(collection_gaps), gaps))
    database.run(lambda conn: outbox.append(conn, "prices", [b"x"] * 3_000, 1))
    if database.dialect == "mysql":  # MariaDB keeps its statistics itself, if late; a node's SQLite never has any
        with database._writing.connect() as conn:
            for table in ("price_data_real", "ohlc_data", "fetches", "collection_gaps", "outbox", "crypto_assets"):
                conn.execute(text(f"ANALYZE TABLE {table}")).close()
            conn.commit()
    yield database
    if database.dialect == "mysql":
        database.run(lambda conn: conn.execute(text("DROP DATABASE explain_plans")))
    database.dispose()


def plan(conn: Connection, query: Select[Any] | str) -> list[str]:
    """One line per table access: what the database says it will do."""
    if conn.dialect.name == "sqlite":
        sql = (
            query
            if isinstance(query, str)
            else str(query.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}))
        )
        return [row.detail for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}")]
    sql = (
        query
        if isinstance(query, str)
        else str(query.compile(dialect=mysql.dialect(), compile_kwargs={"literal_binds": True}))
    )
    rows = conn.execute(text(f"EXPLAIN {sql.replace(':', chr(92) + ':')}"))
    return [f"{row.table} type={row.type} key={row.key} rows={row.rows} {row.Extra}" for row in rows]


def full_scans(lines: list[str], allowed: str = "") -> list[str]:
    """Accesses that read a whole table or a whole index."""
    scan = re.compile(r"^SCAN (?!CONSTANT|\(sub)|type=(?:ALL|index) ")
    return [line for line in lines if scan.search(line) and not (allowed and re.search(allowed, line))]


REGISTRY = r"^SCAN (crypto_assets|a)\b|^(crypto_assets|a) type="
HOT: dict[str, tuple[Callable[[], Select[Any] | str], str]] = {
    # every asset has a current price: the registry itself (hundreds of rows) is read whole
    "current prices": (lambda: queries.current_prices_query().order_by(crypto_assets.c.asset_id), REGISTRY),
    "current prices in any order": (queries.current_prices_query, REGISTRY),
    "current price": (lambda: queries.current_prices_query().where(crypto_assets.c.asset_id == 3), ""),
    "price history": (lambda: queries.price_history_query(3, T0, T0 + 20 * STEP).limit(100), ""),
    "candles": (lambda: queries.candles_query(3, "coinbase", 300, T0, T0 + 20 * STEP).limit(100), ""),
    "stored prices": (lambda: queries.stored_slots_query("prices", 3, T0, T0 + 20 * STEP), ""),
    "stored candles": (lambda: queries.stored_slots_query("candles-300", 3, T0, T0 + 20 * STEP), ""),
    "newest prices": (lambda: queries.newest_slots_query("prices"), REGISTRY),
    "newest candles": (lambda: queries.newest_slots_query("candles-300"), REGISTRY),
    "owed ranges": (lambda: queries.gaps_query("prices", states=["owed"]).limit(100), ""),
    "a page of ranges": (lambda: queries.gaps_query("prices", after=(3, T0)).limit(100), ""),
    "fetches of an hour": (lambda: queries.fetch_stats_query(T0 + 2_950), ""),
    "fetches of a payload": (lambda: select(fetches).where(fetches.c.payload_hash == "a"), ""),
    "outbox": (
        lambda: (
            select(outbox.outbox)
            .where(outbox.outbox.c.channel == "prices", outbox.outbox.c.seq > 9)
            .order_by("seq")
            .limit(9)
        ),
        "",
    ),
    "view price_current": (lambda: "SELECT * FROM price_current WHERE asset_id = 3", ""),
    "view price_current by symbol": (lambda: "SELECT * FROM price_current WHERE symbol = 'S3'", ""),
    "view crypto_prices_view": (
        lambda: f"SELECT * FROM crypto_prices_view WHERE symbol = 'S3' AND slot >= {END - 9 * STEP}",
        "",
    ),
    "view ohlc_current": (
        lambda: (
            f"SELECT * FROM ohlc_current WHERE symbol = 'S3' AND venue = 'coinbase' AND interval_s = 300 AND open_time > {END - 9 * STEP}"
        ),
        "",
    ),
}


@pytest.mark.parametrize("name", HOT)
def test_hot_reads_use_an_index(full: Database, name: str) -> None:
    query, allowed = HOT[name]
    with full.read() as conn:
        lines = plan(conn, query())
    assert lines
    assert full_scans(lines, allowed) == [], lines


def test_this_test_would_see_a_full_scan(full: Database) -> None:
    with full.read() as conn:
        assert full_scans(plan(conn, select(price_data_real).where(price_data_real.c.ath == 1.0)), REGISTRY)
        assert full_scans(plan(conn, "SELECT ath FROM price_data_real"))


def rows_read(db: Database, work: Callable[[Connection], object]) -> int:
    """How much the database touched: rows on MariaDB, thousands of instructions on SQLite."""
    with db.read() as conn:
        work(conn)  # plans and caches
        if db.dialect == "mysql":
            counted = text("SHOW SESSION STATUS LIKE 'Handler_read%'")
            before = sum(int(value) for _, value in conn.execute(counted))
            work(conn)
            return sum(int(value) for _, value in conn.execute(counted)) - before
        steps = [0]

        def step() -> None:
            steps[0] += 1

        driver = conn.connection.dbapi_connection
        driver.set_progress_handler(step, 100)  # type: ignore[union-attr]
        work(conn)
        driver.set_progress_handler(None, 0)  # type: ignore[union-attr]
        return steps[0]


READS: dict[str, Callable[[Connection], object]] = {
    "current prices": queries.current_prices,
    "current price": lambda conn: queries.current_price(conn, 3),
    "price history": lambda conn: queries.price_history(conn, 3, T0 + 10 * STEP, T0 + 30 * STEP),
    "candles": lambda conn: queries.candles(conn, 3, "coinbase", 300, T0 + 10 * STEP, T0 + 30 * STEP),
    "stored prices": lambda conn: queries.stored_slots(conn, "prices", [1, 2, 3], T0, T0 + 20 * STEP),
    "newest prices": lambda conn: queries.newest_slots(conn, "prices"),
    "newest candles": lambda conn: queries.newest_slots(conn, "candles-300"),
    "view price_current": lambda conn: conn.execute(text("SELECT * FROM price_current")).all(),
}


def test_the_cost_of_a_hot_read_does_not_grow_with_history(full: Database) -> None:
    before = {name: rows_read(full, read) for name, read in READS.items()}
    history(full, range(SLOTS, 3 * SLOTS))
    after = {name: rows_read(full, read) for name, read in READS.items()}
    for name, cost in after.items():
        assert cost <= before[name] * 1.3 + 5, f"{name}: {before[name]} -> {cost} while history tripled"


def test_the_newest_price_of_an_asset_costs_a_handful_of_rows(full: Database) -> None:
    if full.dialect == "mysql":
        assert rows_read(full, queries.current_prices) <= 12 * ASSETS
    else:
        assert rows_read(full, queries.current_prices) <= 3 * ASSETS

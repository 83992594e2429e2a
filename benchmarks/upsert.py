"""Guarded upserts against plain executemany of the same rows, in one run, on SQLite and a real MariaDB.

    python benchmarks/upsert.py [--rows 20000] [--rounds 3]

Each line is the median of the rounds, in rows per second of one process, commit included:

* ``new``: every key is new. ``newer``: every key is there and every row wins. ``again``: nothing changes.
* ``guarded``: what the node does (Database.run_chunked: transactions of 1,000 rows on SQLite).
* ``guarded, one go``: the same in one transaction.
* ``plain``: executemany of the driver in one transaction; INSERT for ``new``, REPLACE (which overwrites blindly: late
  data would destroy newer data) for the others. ``plain, same chunks`` commits as often as ``guarded``.

A MariaDB server is started for the run if its binary is installed, else that half is left out and said so.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sqlalchemy import Table, delete

from ray_app.storage import migrate, upsert
from ray_app.storage.engine import Database
from ray_app.storage.rows import checked
from ray_app.storage.tables import ohlc_data, price_data_real
from ray_app.storage.upsert import guarded_upsert

Row = dict[str, object]


def candles(count: int) -> list[Row]:
    rng = random.Random(1)
    order = {"event_version": 1, "fetched_at": 10, "parser_version": 1, "payload_hash": "a" * 64}
    key = {"venue": "coinbase", "interval_s": 3_600}
    return [
        {"asset_id": i % 320, **key, "open_time": i // 320 * 3_600_000, "version": rng.getrandbits(63), "known_at": 5}
        | {"first_seen_at": 10, "open_price": rng.random(), "high_price": rng.random(), "low_price": rng.random()}
        | {"close_price": rng.random(), "volume": rng.random() * 1e6, **order}
        for i in range(count)
    ]


def prices(count: int) -> list[Row]:
    rng = random.Random(2)
    order = {"event_version": 1, "fetched_at": 10, "parser_version": 1, "payload_hash": "a" * 64}
    numbers = [column.name for column in price_data_real.columns if column.type.python_type is float]
    return [
        {"asset_id": i % 320, "slot": i // 320 * 300_000, "source": "coingecko.markets", "interval_s": 300}
        | {"event_time": 1, "known_at": 10, "market_cap_rank": i % 320, **order}
        | {name: rng.lognormvariate(0, 5) for name in numbers}
        for i in range(count)
    ]


def later(rows: Sequence[Row]) -> list[Row]:
    return [row | {"fetched_at": 20} for row in rows]


def plain(db: Database, table: Table, rows: Sequence[Row], verb: str, chunk: int) -> None:
    mark = "?" if db.dialect == "sqlite" else "%s"
    places = ", ".join([mark] * len(table.columns))
    names = ", ".join(column.name for column in table.columns)
    statement = f"{verb} INTO {table.name} ({names}) VALUES ({places})"
    for start in range(0, len(rows), chunk):
        part = [tuple(row.get(column.name) for column in table.columns) for row in rows[start : start + chunk]]
        db.run(lambda conn, part=part: conn.exec_driver_sql(statement, part))


def one_go(db: Database, table: Table, rows: Sequence[Row]) -> None:
    db.run(lambda conn: guarded_upsert(conn, table, rows))


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def compare(db: Database, table: Table, rows: list[Row], rounds: int) -> None:
    print(f"\n{db.dialect}, {table.name} ({len(table.columns)} columns), {len(rows):,} rows")
    newer = later(rows)
    ways: dict[str, Callable[[Sequence[Row], str], None]] = {
        "guarded": lambda some, _: void(db.run_chunked(table, some)),
        "guarded, chunks of 10,000": lambda some, _: void(db.run_chunked(table, some, size=10_000)),
        "guarded, one go": lambda some, _: one_go(db, table, some),
        "plain": lambda some, verb: plain(db, table, some, verb, len(some)),
        "plain, same chunks": lambda some, verb: plain(db, table, some, verb, 1_000),
    }
    took: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            db.run(lambda conn: conn.execute(delete(table)))
            for phase, some, verb in (
                ("new", rows, "INSERT"),
                ("newer", newer, "REPLACE"),
                ("again", newer, "REPLACE"),
            ):
                took.setdefault((name, phase), []).append(timed(lambda way=way, some=some, verb=verb: way(some, verb)))
    for name in ways:
        speeds = {phase: len(rows) / statistics.median(took[name, phase]) for phase in ("new", "newer", "again")}
        ratios = {
            phase: statistics.median(took["plain", phase]) / statistics.median(took[name, phase]) for phase in speeds
        }
        print(
            f"  {name:<26}" + "".join(f"{phase} {speeds[phase]:>9,.0f}/s (x{ratios[phase]:.2f})   " for phase in speeds)
        )


def void(_: object) -> None:
    return None


def batches(db: Database) -> None:
    """Where the bulk path begins to pay (upsert.BULK_ROWS)."""
    for table, make in ((ohlc_data, candles), (price_data_real, prices)):
        print(f"\n{table.name}: milliseconds for one batch, statements / bulk")
        for size in (100, 250, 500, 1_000, 2_000):
            took = {}
            for path, limit in (("statements", 10**9), ("bulk", 1)):
                upsert.BULK_ROWS = limit
                rows, samples = make(size), []
                for turn in range(15):
                    again = [row | {"fetched_at": 100 + turn} for row in rows]
                    samples.append(timed(lambda again=again, table=table: one_go(db, table, again)))
                took[path] = statistics.median(samples) * 1_000
            print(f"  {size:>5} rows  {took['statements']:7.1f} / {took['bulk']:7.1f}")
    upsert.BULK_ROWS = 500


def checking() -> None:
    """What the checks of values cost by themselves."""
    rows = prices(20_000)
    print(f"\nchecking values alone: {len(rows) / timed(lambda: checked(price_data_real, rows)):,.0f} rows/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores; load {os.getloadavg()[0]:.1f} (other work on the machine distorts: compare ratios)")
    with tempfile.TemporaryDirectory() as directory:
        checking()
        lite = Database(f"sqlite:///{directory}/bench.db")
        migrate.upgrade(lite)
        compare(lite, ohlc_data, candles(options.rows), options.rounds)
        compare(lite, price_data_real, prices(options.rows), options.rounds)
        lite.dispose()
        if not (shutil.which("mariadbd") and shutil.which("mariadb-install-db")):
            print("\nMariaDB is not installed: its half is left out")
            return
        from tests.servers import mariadb_server

        with mariadb_server(Path(directory)) as port:
            server = Database(f"mysql+pymysql://node:node@127.0.0.1:{port}/mysql")
            server.run(lambda conn: conn.exec_driver_sql("CREATE DATABASE bench CHARACTER SET utf8mb4"))
            server.dispose()
            maria = Database(f"mysql+pymysql://node:node@127.0.0.1:{port}/bench")
            migrate.upgrade(maria)
            compare(maria, ohlc_data, candles(options.rows), options.rounds)
            compare(maria, price_data_real, prices(options.rows), options.rounds)
            batches(maria)
            maria.dispose()


if __name__ == "__main__":
    main()

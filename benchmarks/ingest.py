"""From an archived payload to the database, and the guarded write alone against plain executemany, in one run.

    python benchmarks/ingest.py [--rows 10000] [--rounds 3]

Medians of the rounds on SQLite and a real MariaDB, in rows per second of wall time, commit included; ``x`` is the
ratio to ``executemany`` of the same rows (above 1: faster).

* ``payload to database``: what a node does with an archived answer but for the network: read from the archive, parse,
  resolve, look for drift, one transaction with index, values and events. Coinbase candles (300 a body) and CoinGecko
  prices (250 a body) of the sandbox's wire formats.
* ``guarded``: Database.run_chunked in transactions of 1,000 rows on SQLite, of 10,000 on MariaDB.
* ``executemany``: the driver's, all rows in one transaction; INSERT for ``new``, REPLACE (which overwrites blindly:
  late data would destroy newer data) for the others.
* ``new``: every key is new. ``newer``: every key is there and every row wins. ``again``: nothing changes.
* Tables: candles (16 columns), prices (27), and 200 columns of features with 17 digits each, a tenth NULL.

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
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import orjson
from sqlalchemy import BigInteger, Column, Connection, Double, Integer, MetaData, String, Table, delete

from ray_app.assets import AssetRegistry
from ray_app.clock import iso
from ray_app.collection import store
from ray_app.collection.archive import Archive
from ray_app.collection.digest import digest
from ray_app.collection.drift import Body, Watch, take_in
from ray_app.collection.store import Item
from ray_app.sources.base import Exchange
from ray_app.sources.coinbase import Candles
from ray_app.sources.coingecko import Markets
from ray_app.storage import migrate, upsert
from ray_app.storage import registry as stored_registry
from ray_app.storage.engine import Database
from ray_app.storage.tables import MYSQL, fetches, ohlc_data, outbox, price_data_real
from ray_app.storage.upsert import guarded_upsert

Row = dict[str, object]
#: 2026-11-24T00:00:00Z
NOW = 1_795_478_400_000


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


PHASES = ("new", "newer", "again")
#: as many columns as the feature tables will have
WIDE = Table(
    "benchmark_wide",
    MetaData(),
    Column("asset_id", Integer, primary_key=True, autoincrement=False),
    Column("hour", BigInteger, primary_key=True, autoincrement=False),
    *(Column(f"feature_{i}", Double) for i in range(194)),
    Column("event_version", BigInteger, nullable=False),
    Column("fetched_at", BigInteger, nullable=False),
    Column("parser_version", Integer, nullable=False),
    Column("payload_hash", String(64), nullable=False),
    **MYSQL,
)


def features(count: int) -> list[Row]:
    rng = random.Random(3)
    order = {"event_version": 1, "fetched_at": 10, "parser_version": 1, "payload_hash": "a" * 64}
    return [
        {"asset_id": i % 320, "hour": i // 320 * 3_600_000, **order}
        | {f"feature_{k}": rng.lognormvariate(0, 5) if rng.random() > 0.1 else None for k in range(194)}
        for i in range(count)
    ]


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def compare(db: Database, table: Table, rows: list[Row], rounds: int) -> None:
    print(f"\n{db.dialect}, {table.name} ({len(table.columns)} columns), {len(rows):,} rows")
    newer = later(rows)
    size = 1_000 if db.dialect == "sqlite" else 10_000
    ways: dict[str, Callable[[Sequence[Row], str], None]] = {
        "guarded": lambda some, _: void(db.run_chunked(table, some, size=size)),
        "executemany": lambda some, verb: plain(db, table, some, verb, len(some)),
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
        middle = {phase: statistics.median(took[name, phase]) for phase in PHASES}
        ratio = {phase: statistics.median(took["executemany", phase]) / middle[phase] for phase in PHASES}
        shown = "   ".join(f"{p} {len(rows) / middle[p]:>9,.0f}/s (x{ratio[p]:.2f})" for p in PHASES)
        print(f"  {name:<12} {shown}")


def write(db: Database, table: Table, rows: Sequence[Row]) -> None:
    db.run(lambda conn: guarded_upsert(conn, table, rows))


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
                    samples.append(timed(lambda again=again, table=table: write(db, table, again)))
                took[path] = statistics.median(samples) * 1_000
            print(f"  {size:>5} rows  {took['statements']:7.1f} / {took['bulk']:7.1f}")
    upsert.BULK_ROWS = 500


def candle_answers(count: int, registry: AssetRegistry) -> list[Exchange]:
    """Bodies of 300 candles as Coinbase sends them."""
    rng, found = random.Random(4), []
    products = [asset.coinbase_product for asset in registry if asset.coinbase_product is not None]
    for number in range(count):
        product, start = products[number % len(products)], NOW - (number // len(products) + 1) * 300 * 3_600_000
        bars = []
        for bar in range(300):
            price = round(rng.lognormvariate(3, 2), 4)
            bars.append([start // 1_000 + bar * 3_600, price, price * 1.01, price, price, round(rng.random() * 1e4, 4)])
        request = Candles().request(product, 3_600, start, start + 300 * 3_600_000)
        found.append(Exchange(request, 200, {}, orjson.dumps(bars[::-1]), NOW + number))
    return found


def price_answers(count: int, registry: AssetRegistry) -> list[Exchange]:
    """Bodies of 250 prices as CoinGecko sends them."""
    rng, found = random.Random(5), []
    ids = [asset.coin_id for asset in registry][:250]
    numbers = ("price_change_24h", "market_cap", "total_volume", "circulating_supply", "total_supply", "ath", "atl")
    for number in range(count):
        at = NOW + number * 300_000
        coins = [
            {"id": coin_id, "symbol": "x", "name": coin_id, "current_price": round(rng.lognormvariate(3, 2), 6)}
            | {"last_updated": iso(at - 5_000), "ath_date": iso(0x15000000000), "atl_date": None, "max_supply": None}
            | {"market_cap_rank": 1, **{name: round(rng.random() * 1e6, 4) for name in numbers}}
            for coin_id in ids
        ]
        found.append(Exchange(Markets().request(ids, at), 200, {}, orjson.dumps(coins), at))
    return found


def ingest(db: Database, archive: Archive, registry: AssetRegistry) -> int:
    """Everything the archive holds into the tables; the rows it yielded."""
    watch, total = Watch(), 0
    answers = archive.scan()
    while batch := list(islice(answers, 16)):
        items = [Item(at, collector, exchange, digest(exchange, at, registry)) for at, collector, exchange in batch]
        unlike = watch.unlike(items)

        def work(conn: Connection, items: list[Item] = items, unlike: list[tuple[Item, Body]] = unlike) -> Any:
            store.write(conn, items, registry, NOW)
            return take_in(conn, unlike)

        watch.remember(db.run(work))
        total += sum(item.found.row_count for item in items)
    return total


def payloads(db: Database, directory: Path, answers: int, rounds: int) -> None:
    """Rows per second from the archive to the commit, 16 answers a transaction."""
    registry = AssetRegistry.seed()
    db.run(lambda conn: void(stored_registry.save(conn, registry, NOW)))
    for name, make in (("candles", candle_answers), ("prices", price_answers)):
        root = directory / f"archive-{db.dialect}-{name}"
        with Archive(root, "bench") as archive:
            for exchange in make(answers, registry):
                archive.append(exchange, "bench")
            speeds = []
            for _ in range(rounds):
                for table in (fetches, ohlc_data, price_data_real, outbox):
                    db.run(lambda conn, table=table: void(conn.execute(delete(table))))
                begin = time.perf_counter()
                speeds.append(ingest(db, archive, registry) / (time.perf_counter() - begin))
        print(f"  payload to database, {name:<8} {statistics.median(speeds):>9,.0f} rows/s")


def everything(db: Database, directory: Path, rows: int, rounds: int) -> None:
    migrate.upgrade(db)
    db.run(WIDE.create)
    print(f"\n{db.dialect}")
    payloads(db, directory, max(rows // 300, 16), rounds)
    compare(db, ohlc_data, candles(rows), rounds)
    compare(db, price_data_real, prices(rows), rounds)
    compare(db, WIDE, features(max(rows // 5, 100)), rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores; load {os.getloadavg()[0]:.1f} (other work on the machine distorts: compare ratios)")
    with tempfile.TemporaryDirectory() as directory:
        lite = Database(f"sqlite:///{directory}/bench.db")
        everything(lite, Path(directory), options.rows, options.rounds)
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
            everything(maria, Path(directory), options.rows, options.rounds)
            batches(maria)
            maria.dispose()


if __name__ == "__main__":
    main()

"""From an archived payload to the database, and the guarded write alone against plain executemany, in one run.

    python benchmarks/ingest.py [--rows 10000] [--rounds 5] [--wide]

``--wide``: only the table of 200 columns on MariaDB.

On SQLite and a real MariaDB, in rows per second of wall time, commit included: medians of the rounds. ``x``: how many
times as fast the guarded write is, the median of the rounds' own ratios (each round runs every way, in turn first).
``cpu``: the same ratio of processor seconds, this process's and the server's together, over all rounds: what other work
on the machine distorts less, and what does not count that the two work at once.

* ``payload to database``: what a node does with an archived answer but for the network: read from the archive, parse,
  resolve, look for drift, one transaction with index, values and events. Coinbase candles (300 a body) and CoinGecko
  prices (250 a body) of the sandbox's wire formats.
* ``guarded``: Database.run_chunked of dictionaries, values checked.
* ``executemany``: the driver's, of the same rows as tuples made beforehand, in the same transactions over the same
  connections. The driver is sqlite3 or PyMySQL, which joins the rows of an INSERT into statements of up to 1 MB. Three
  ways to write it: ``plain`` is INSERT for ``new`` and REPLACE for the rest; ``upsert`` is INSERT … ON DUPLICATE KEY
  UPDATE (ON CONFLICT DO UPDATE) of every column; both overwrite blindly. ``same`` guards as the guarded write does,
  comparing in each assignment.
* ``new``: every key is new. ``newer``: every row is there and every write wins. ``again``: the same once more.
  ``half``: every second write wins, the others are older than what is stored (the blind ways destroy newer data).
  In the first round all ways are seen to leave the same rows, the blind ones before ``half``.
* Transactions of 1,000 rows on SQLite, of 10,000 on MariaDB.
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
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import orjson
from sqlalchemy import BigInteger, Column, Connection, Double, Integer, MetaData, String, Table, delete, select

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


def half_later(rows: Sequence[Row]) -> list[Row]:
    return [row | {"fetched_at": 30 if i % 2 else 5} for i, row in enumerate(rows)]


PHASES = ("new", "newer", "again", "half")
WAYS = ("guarded", "plain", "upsert", "same")
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


def statement_of(db: Database, table: Table, way: str, phase: str) -> str:
    """What a way hands to executemany."""
    lite = db.dialect == "sqlite"
    if way == "same":
        guarded = upsert._sqlite_statement if lite else partial(upsert._mysql_statement, is_mariadb=False)  # noqa: SLF001
        return guarded(table)
    names, keys = [column.name for column in table.columns], upsert.key_columns(table)
    verb = "REPLACE" if way == "plain" and phase != "new" else "INSERT"
    marks = ", ".join(["?" if lite else "%s"] * len(names))
    values = f"{verb} INTO {table.name} ({', '.join(names)}) VALUES ({marks})"
    if way == "plain":
        return values
    if lite:
        sets = ", ".join(f"{name} = excluded.{name}" for name in names if name not in keys)
        return f"{values} ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {sets}"
    return f"{values} ON DUPLICATE KEY UPDATE " + ", ".join(f"{n} = VALUES({n})" for n in names if n not in keys)


class Meter:
    """Wall and processor seconds; the latter of this process and of the database's server."""

    def __init__(self, db: Database) -> None:
        self._server: Path | None = None
        if db.dialect == "mysql":
            with db.read() as conn:
                folder, pid_file = conn.exec_driver_sql("SELECT @@datadir, @@pid_file").one()
            self._server = Path("/proc") / (Path(folder) / pid_file).read_text().strip() / "stat"

    def measure(self, work: Callable[[], object]) -> tuple[float, float]:
        before = self._processor_s()
        wall_s = timed(work)
        return wall_s, self._processor_s() - before

    def _processor_s(self) -> float:
        if self._server is None:
            return time.process_time()
        fields = self._server.read_text().rsplit(")", 1)[1].split()
        return time.process_time() + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def writing(db: Database, table: Table, way: str, phase: str, rows: Sequence[Row], size: int) -> Callable[[], object]:
    """What is measured; whatever may be made beforehand is."""
    if way == "guarded":
        return lambda: db.run_chunked(table, rows, size=size)
    statement, names = statement_of(db, table, way, phase), [column.name for column in table.columns]
    tuples = [tuple(map(row.get, names)) for row in rows]

    def work() -> None:
        for start in range(0, len(tuples), size):
            part = tuples[start : start + size]
            db.run(lambda conn, part=part: void(conn.exec_driver_sql(statement, part)))

    return work


def content(db: Database, table: Table) -> int:
    with db.read() as conn:
        return hash(tuple(map(tuple, conn.execute(select(table).order_by(*table.primary_key.columns)))))


def compare(db: Database, table: Table, rows: list[Row], rounds: int) -> None:
    load = os.getloadavg()[0]
    print(f"\n{db.dialect}, {table.name} ({len(table.columns)} columns), {len(rows):,} rows; load {load:.1f}")
    size = 1_000 if db.dialect == "sqlite" else 10_000
    written = dict(zip(PHASES, (rows, later(rows), later(rows), half_later(rows)), strict=True))
    took: dict[tuple[str, str], list[tuple[float, float]]] = {}
    left: dict[str, set[int]] = {}
    meter = Meter(db)
    for turn in range(rounds):
        for way in (*WAYS[turn % len(WAYS) :], *WAYS[: turn % len(WAYS)]):
            db.run(lambda conn: void(conn.execute(delete(table))))
            for phase, some in written.items():
                took.setdefault((way, phase), []).append(meter.measure(writing(db, table, way, phase, some, size)))
                if turn == 0 and (phase != "half" or way in {"guarded", "same"}):
                    left.setdefault(phase, set()).add(content(db, table))
    assert all(len(contents) == 1 for contents in left.values()), "the ways left different rows"
    for way in WAYS:
        results = (result(phase, len(rows), took[way, phase], took["guarded", phase]) for phase in PHASES)
        print(f"  {way if way == 'guarded' else 'executemany, ' + way:<19} {'   '.join(results)}")


def result(phase: str, rows: int, mine: list[tuple[float, float]], guarded: list[tuple[float, float]]) -> str:
    rate = f"{phase} {rows / statistics.median(wall for wall, _ in mine):>7,.0f}/s"
    if mine is guarded:
        return f"{rate}                  "
    wall = statistics.median(a / b for (a, _), (b, _) in zip(mine, guarded, strict=True))
    return f"{rate} (x{wall:.2f}, cpu {sum(cpu for _, cpu in mine) / sum(cpu for _, cpu in guarded):.2f})"


def write(db: Database, table: Table, rows: Sequence[Row]) -> None:
    db.run(lambda conn: guarded_upsert(conn, table, rows))


def void(_: object) -> None:
    return None


def batches(db: Database) -> None:
    """Where prepared statements begin to pay (upsert.BATCH_CELLS)."""
    pays = upsert.BATCH_CELLS
    for table, make in ((ohlc_data, candles), (price_data_real, prices), (WIDE, features)):
        print(f"\n{table.name}: milliseconds for one batch, as text / by prepared statement")
        for size in (2, 5, 10, 20, 50, 100, 500):
            took: dict[int, list[float]] = {10**9: [], 1: []}
            rows = make(size)
            for turn in range(30):
                for limit, samples in took.items():
                    upsert.BATCH_CELLS = limit
                    again = [row | {"fetched_at": 100 + turn} for row in rows]
                    samples.append(timed(lambda again=again, table=table: write(db, table, again)))
            text, prepared = (statistics.median(samples) * 1_000 for samples in took.values())
            print(f"  {size:>5} rows  {text:7.2f} / {prepared:7.2f}")
    upsert.BATCH_CELLS = pays


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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--wide", action="store_true", help="only the 200 columns, on MariaDB")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores; load {os.getloadavg()[0]:.1f} (other work on the machine distorts: compare ratios)")
    with tempfile.TemporaryDirectory() as directory:
        if not options.wide:
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
            if options.wide:
                maria.run(WIDE.create)
                compare(maria, WIDE, features(max(options.rows // 5, 100)), options.rounds)
            else:
                everything(maria, Path(directory), options.rows, options.rounds)
                batches(maria)
            maria.dispose()


if __name__ == "__main__":
    main()

"""Processes that write at once: run as ``python -m tests.storage.writers ROLE URL …`` by test_concurrency.py."""

from __future__ import annotations

import random
import sys
import time

from sqlalchemy import Connection, insert, select

from ray_app.storage import outbox
from ray_app.storage.engine import Database
from ray_app.storage.tables import ohlc_data, price_data_real
from ray_app.storage.upsert import guarded_upsert
from tests.storage.samples import T0, chunks, price, writes

DISTINCT, KEYS, WRITES, WRITERS = 30_000, 6_000, 100_000, 4


def plan(seed: int) -> list[int]:
    """Which of the distinct writes are made, in which order: each at least once, most several times."""
    rng = random.Random(seed)
    made = list(range(DISTINCT)) + rng.choices(range(DISTINCT), k=WRITES - DISTINCT)
    rng.shuffle(made)
    return made


def fight(db: Database, seed: int, mine: int) -> None:
    """One writer's share of the 100,000 writes, in batches of every size from a single row to a bulk load."""
    distinct, rng = writes(seed, DISTINCT, KEYS), random.Random(mine)
    share = [distinct[i] for i in plan(seed)[mine::WRITERS]]
    wait_for_start()
    for batch in chunks(share, iter(lambda: rng.choice((1, 40, 300, 1_500)), 0)):
        db.run(lambda conn, batch=batch: guarded_upsert(conn, ohlc_data, batch))


def announce(db: Database, count: int, mine: int) -> None:
    """Transactions of one to five events; now and then one that is rolled back."""
    rng = random.Random(mine)
    wait_for_start()
    for turn in range(count):
        bodies = [b"%d.%d.%d" % (mine, turn, i) for i in range(rng.randint(1, 5))]

        def work(conn: Connection, bodies: list[bytes] = bodies) -> None:
            outbox.append(conn, "prices", bodies, 1)
            if rng.random() < 0.1:
                raise LookupError

        try:
            db.run(work)
        except LookupError:
            continue
        for body in bodies:
            print(body.decode())


def round_after_round(db: Database, rows: int) -> None:
    """Round k sets every row to k and adds one event per row, in one transaction; for ever, until killed."""
    with db.read() as conn:
        last = max(conn.scalars(select(price_data_real.c.parser_version)), default=0)
    while True:
        last += 1

        def work(conn: Connection, k: int = last) -> None:
            guarded_upsert(
                conn, price_data_real, [price(i, T0, parser_version=k, event_version=k) for i in range(rows)]
            )
            outbox.append(conn, "prices", [b"%d" % k] * rows, 1)

        db.run(work)
        print(last, flush=True)


def stop_half_way(db: Database) -> None:
    """Write values and their events, say so, and never commit."""

    def work(conn: Connection) -> None:
        guarded_upsert(conn, price_data_real, [price(i, T0) for i in range(2_000)])
        outbox.append(conn, "prices", [b"x"] * 10, 1)
        conn.execute(insert(price_data_real).values(price(5_000, T0)))
        print("written", flush=True)
        time.sleep(600)

    db.run(work)


def wait_for_start() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def main(role: str, url: str, *numbers: str) -> None:
    db = Database(url)
    try:
        globals()[role](db, *map(int, numbers))
    finally:
        db.dispose()


if __name__ == "__main__":
    main(*sys.argv[1:])

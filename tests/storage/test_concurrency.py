"""Several processes, one database: what remains is what one orderly writer would have left."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import func, select

from ray_app.storage import migrate, outbox
from ray_app.storage.engine import Database
from ray_app.storage.tables import ORDER_COLUMNS, ohlc_data, price_data_real
from tests.servers import wait_until
from tests.storage.samples import T0, expected, price, stored, writes
from tests.storage.writers import DISTINCT, KEYS, WRITERS, WRITES, plan

pytestmark = pytest.mark.integration


@contextmanager
def process(role: str, db: Database, *numbers: int) -> Iterator[subprocess.Popen[str]]:
    url = db.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "tests.storage.writers", role, url, *map(str, numbers)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


def at_once(db: Database, role: str, *numbers: int) -> list[str]:
    """Run one process per writer, all starting together; what each printed."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        running = [stack.enter_context(process(role, db, *numbers, mine)) for mine in range(WRITERS)]
        for one in running:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        for one in running:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        said = [one.communicate(timeout=240)[0] for one in running]
        assert [one.returncode for one in running] == [0] * WRITERS
        return said


def test_four_writers_and_100_000_shuffled_repeated_writes_end_as_one_ordered_writer_would(
    db: Database, tmp_path_factory: pytest.TempPathFactory
) -> None:
    seed = 20_261_124
    at_once(db, "fight", seed)

    distinct = writes(seed, DISTINCT, KEYS)
    made = plan(seed)
    assert (len(made), len(set(made))) == (WRITES, DISTINCT)
    orderly = Database(f"sqlite:///{tmp_path_factory.mktemp('orderly') / 'one.db'}")
    migrate.upgrade(orderly)
    in_order = sorted(distinct, key=lambda row: tuple(row[name] for name in ORDER_COLUMNS))
    orderly.run_chunked(ohlc_data, in_order, size=10_000)

    found = stored(db, ohlc_data)
    assert found == stored(orderly, ohlc_data)
    assert found == expected(ohlc_data, distinct)  # and neither is right only by the SQL they share
    assert len(found) > KEYS * 0.9
    orderly.dispose()


def test_numbers_of_the_outbox_stay_dense_and_in_order_of_commit(db: Database) -> None:
    committed = [line for said in at_once(db, "announce", 120) for line in said.split()]
    with db.read() as conn:
        events = outbox.read(conn, "prices", 0, 10**6)
        assert outbox.head(conn, "prices") == len(events) == len(committed)
    assert [seq for seq, _ in events] == list(range(1, len(events) + 1))
    assert sorted(body.decode() for _, body in events) == sorted(committed)
    for mine in range(WRITERS):  # each process's events in the order it committed them
        own = [tuple(map(int, body.split(b"."))) for _, body in events if body.startswith(b"%d." % mine)]
        assert own == sorted(own)


def test_a_reader_never_sees_a_hole_while_others_append(db: Database) -> None:
    with process("round_after_round", db, 3) as writer, process("round_after_round", db, 2) as other:
        seen = 0
        while seen < 300:
            with db.read() as conn:
                events = outbox.read(conn, "prices", seen, 50)
            assert [seq for seq, _ in events] == list(range(seen + 1, seen + 1 + len(events)))
            seen += len(events)
            assert writer.poll() is None
            assert other.poll() is None


def test_sigkill_in_mid_transaction_leaves_neither_values_nor_events(db: Database) -> None:
    db.run(lambda conn: conn.execute(price_data_real.insert(), [price(1, T0, current_price=9.0)]))
    before = stored(db, price_data_real)
    with process("stop_half_way", db) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        writer.kill()
    assert stored(db, price_data_real) == before
    with db.read() as conn:
        assert (outbox.head(conn, "prices"), outbox.read(conn, "prices", 0, 1)) == (0, [])
    # and nobody inherits its locks: the same keys can be written at once
    newer = [price(i, T0, fetched_at=T0 + 10**6) for i in range(2_000)]
    assert db.run_chunked(price_data_real, newer) == 2_000


def test_sigkill_at_any_moment_leaves_values_and_events_together(db: Database) -> None:
    rows, rng = 600, random.Random(7)
    for _ in range(6):
        with process("round_after_round", db, rows) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(rng.uniform(0.0, 0.15))  # the moment of death: anywhere in a later round
            writer.kill()

        def settled() -> bool:
            with db.read() as conn:
                rounds = set(conn.scalars(select(price_data_real.c.parser_version)))
                events = conn.scalar(select(func.count()).select_from(outbox.outbox))
                assert len(rounds) == 1
                (last,) = rounds
                assert events == outbox.head(conn, "prices") == last * rows
            return True

        wait_until(settled, 30, "a state of whole rounds")

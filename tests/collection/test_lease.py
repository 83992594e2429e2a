from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import insert, select, update

from ray_app.collection.lease import Lease, LeaseKeeper
from ray_app.errors import LeaseLost
from ray_app.storage.engine import Database
from ray_app.storage.tables import collector_leases, collector_runs, metadata
from tests.servers import wait_until

processes = multiprocessing.get_context("spawn")


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    database.run(metadata.create_all)
    yield database
    database.dispose()


def expire(db: Database, name: str) -> None:
    """Let the lease have expired by the database's clock."""
    db.run(
        lambda conn: conn.execute(update(collector_leases).where(collector_leases.c.name == name).values(expires_at=1))
    )


def test_one_holder_at_a_time_and_tokens_rise(db: Database):
    keeper = LeaseKeeper(db)
    first = keeper.acquire("prices", "a", 60)
    assert first is not None
    assert first.token == 1
    assert keeper.acquire("prices", "b", 60) is None
    assert keeper.acquire("candles", "b", 60) is not None, "leases of other names are other leases"
    again = keeper.acquire("prices", "a", 60)
    assert again is not None
    assert again.token == 2, "the same holder takes over from itself at once"
    with pytest.raises(LeaseLost, match=r"a \(token 1\) lost it, a \(token 2\) holds it now"):
        keeper.renew(first)


def test_another_holder_gets_it_only_after_it_expired_by_the_databases_clock(db: Database):
    keeper = LeaseKeeper(db)
    first = keeper.acquire("prices", "a", 0.3)
    assert first is not None
    taken: list[Lease] = []

    def try_it() -> bool:
        lease = keeper.acquire("prices", "b", 60)
        return lease is not None and not taken.append(lease)

    wait_until(try_it, 20, "take-over after expiry")
    assert taken[0].token == 2
    assert taken[0].expires_at - 60_000 >= first.expires_at, "taken before it had expired"


def test_expiry_is_in_the_databases_wall_time(db: Database):
    before = time.time_ns() // 1_000_000
    lease = LeaseKeeper(db).acquire("prices", "a", 60)
    assert lease is not None
    assert before - 2 <= lease.expires_at - 60_000 <= time.time_ns() // 1_000_000 + 2


def test_renewing_extends_and_a_lease_nobody_took_can_be_renewed_late(db: Database):
    keeper = LeaseKeeper(db)
    lease = keeper.acquire("prices", "a", 60)
    assert lease is not None
    expire(db, "prices")
    renewed = keeper.renew(lease)
    assert renewed.token == lease.token
    assert renewed.expires_at >= lease.expires_at
    assert keeper.acquire("prices", "b", 60) is None


def test_a_released_lease_is_free_at_once_and_its_token_is_never_given_again(db: Database):
    keeper = LeaseKeeper(db)
    lease = keeper.acquire("prices", "a", 60)
    assert lease is not None
    assert keeper.release(lease) is True
    assert keeper.release(lease) is False
    with pytest.raises(LeaseLost, match="nobody holds it now"):
        db.run(lambda conn: keeper.assert_held(conn, lease))
    taken = keeper.acquire("prices", "b", 60)
    assert taken is not None
    assert taken.token == 2
    assert keeper.release(lease) is False
    db.run(lambda conn: keeper.assert_held(conn, taken))


def test_a_lease_that_never_was_is_lost(db: Database):
    with pytest.raises(LeaseLost):
        db.run(lambda conn: LeaseKeeper(db).assert_held(conn, Lease("ghost", "a", 1, 0, 1)))


@pytest.mark.parametrize(("holder", "ttl"), [("", 5), ("a", 0)])
def test_nonsense_is_refused(sqlite_url: str, holder: str, ttl: float):
    with pytest.raises(ValueError, match="needs a holder"):
        LeaseKeeper(Database(sqlite_url)).acquire("x", holder, ttl)


def record(conn, name: str, runs: int) -> None:
    conn.execute(insert(collector_runs).values(collector=name, runs=runs, failures=0))


def test_a_paused_holder_writes_nothing_once_another_has_taken_over(db: Database):
    """The old holder wakes up, still believing in its lease: its transaction must not commit."""
    keeper = LeaseKeeper(db)
    old = keeper.acquire("prices", "a", 60)
    expire(db, "prices")
    assert keeper.acquire("prices", "b", 60) is not None

    def write(conn) -> None:
        record(conn, "by-the-old-holder", 1)  # even what was written before the check is rolled back
        keeper.assert_held(conn, old)

    with pytest.raises(LeaseLost):
        db.run(write)
    with db.read() as conn:
        assert conn.execute(select(collector_runs.c.collector)).all() == []


def test_nobody_takes_over_between_the_check_and_the_commit(db: Database):
    """The holder checks, then stalls inside its transaction past its expiry: a successor waits for its commit."""
    keeper = LeaseKeeper(db)
    lease = keeper.acquire("prices", "a", 0.05)
    checked, go_on = threading.Event(), threading.Event()
    order: list[str] = []

    def write(conn) -> None:
        keeper.assert_held(conn, lease)
        checked.set()
        go_on.wait(20)
        record(conn, "by-the-holder", 1)
        order.append("holder wrote")

    def succeed() -> None:
        taken = keeper.acquire("prices", "b", 60)
        with db.read() as conn:
            seen = conn.execute(select(collector_runs.c.collector)).scalars().all()
        order.append(f"successor has token {taken.token if taken else None} and sees {list(seen)}")

    holder = threading.Thread(target=lambda: db.run(write))
    holder.start()
    assert checked.wait(20)
    time.sleep(0.1)  # past the expiry
    successor = threading.Thread(target=succeed)
    successor.start()
    time.sleep(0.3)  # the successor has every chance to be wrong
    assert order == []
    go_on.set()
    holder.join(30)
    successor.join(60)
    assert order == ["holder wrote", "successor has token 2 and sees ['by-the-holder']"]


def compete(url: str, holder: str, seconds: float) -> None:
    """Acquire, write under the fence, release or just forget; every write names holder and token."""
    db = Database(url)
    keeper = LeaseKeeper(db)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        lease = keeper.acquire("prices", holder, 0.05)
        if lease is None:
            time.sleep(0.005)
            continue
        for _ in range(3):
            time.sleep(0.02)

            def write(conn, lease: Lease = lease) -> None:
                keeper.assert_held(conn, lease)
                row = conn.execute(select(collector_runs.c.runs, collector_runs.c.failures)).one()
                # runs holds the highest token that ever wrote; failures counts writes of an older one
                conn.execute(
                    update(collector_runs).values(
                        runs=max(row.runs, lease.token), failures=row.failures + (lease.token < row.runs)
                    )
                )

            try:
                db.run(write)
            except LeaseLost:
                break
    db.dispose()


@pytest.mark.integration
def test_processes_that_fight_for_a_lease_never_write_out_of_token_order(db: Database, database_url: str):
    db.run(lambda conn: record(conn, "prices", 0))
    rivals = [processes.Process(target=compete, args=(database_url, name, 3.0)) for name in ("a", "b", "c")]
    for rival in rivals:
        rival.start()

    def tokens() -> int:
        with db.read() as conn:
            return conn.execute(select(collector_runs.c.runs)).scalar_one()

    wait_until(lambda: tokens() >= 2, 60, "a first hand-over")
    os.kill(rivals[0].pid, signal.SIGSTOP)  # paused mid-work, past its expiry, then woken
    paused_at = tokens()
    until = time.monotonic() + 2  # it may have been paused holding the database's lock: then nobody moves, rightly
    while tokens() <= paused_at + 2 and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(rivals[0].pid, signal.SIGCONT)
    for rival in rivals:
        rival.join(60)
        assert rival.exitcode == 0
    with db.read() as conn:
        row = conn.execute(select(collector_runs.c.runs, collector_runs.c.failures)).one()
    assert row.failures == 0
    assert row.runs > 2

"""The database behind the node: transactions, retries shown on a real server, and what errors say."""

from __future__ import annotations

import socket
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, delete, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from ray_app.errors import ConfigError, LeaseLost, StorageError
from ray_app.storage import engine, outbox
from ray_app.storage.engine import Database
from ray_app.storage.tables import outbox_heads, price_data_real, quota_ledger
from tests.servers import free_port
from tests.storage.samples import T0, price, stored

MONTH = 202_611


def spend(account: str, amount: int) -> Any:
    row = (quota_ledger.c.account == account) & (quota_ledger.c.month == MONTH)
    return update(quota_ledger).where(row).values(spent=quota_ledger.c.spent + amount)


def open_accounts(db: Database, *accounts: str) -> None:
    rows = [{"account": account, "month": MONTH, "spent": 0} for account in accounts]
    db.run(lambda conn: conn.execute(insert(quota_ledger), rows))


def spent(db: Database) -> dict[str, int]:
    with db.read() as conn:
        return dict(tuple(row) for row in conn.execute(select(quota_ledger.c.account, quota_ledger.c.spent)))


# --- transactions ---------------------------------------------------------------------------------------------


def test_a_transaction_that_raises_leaves_nothing(db: Database) -> None:
    def work(conn: Connection) -> None:
        conn.execute(insert(quota_ledger).values(account="a", month=MONTH, spent=1))
        outbox.append(conn, "prices", [b"x"], 1)
        raise LeaseLost("somebody else holds it")

    with pytest.raises(LeaseLost):
        db.run(work)
    with db.read() as conn:
        assert (spent(db), outbox.head(conn, "prices")) == ({}, 0)


def test_a_reader_sees_one_snapshot_while_writers_commit(db: Database) -> None:
    open_accounts(db, "a")
    with db.read() as conn:
        before = conn.scalar(select(quota_ledger.c.spent))
        db.run(lambda other: other.execute(spend("a", 5)))
        assert conn.scalar(select(quota_ledger.c.spent)) == before == 0
    assert spent(db) == {"a": 5}


def test_a_sqlite_reader_cannot_write(sqlite_url: str) -> None:
    db = Database(sqlite_url)
    db.run(lambda conn: conn.exec_driver_sql("CREATE TABLE t (x)"))
    with pytest.raises(StorageError, match="readonly"), db.read() as conn:
        conn.exec_driver_sql("INSERT INTO t VALUES (1)")
    db.dispose()


def test_sqlite_files_are_in_wal_mode_and_durable_enough(sqlite_url: str) -> None:
    db = Database(sqlite_url)
    pragmas = db.run(
        lambda conn: [conn.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
    )
    assert pragmas == ["wal", 1]
    db.dispose()


def test_run_inside_run_says_so_instead_of_waiting_for_ever(sqlite_url: str) -> None:
    db = Database(sqlite_url)
    with pytest.raises(StorageError, match="inside"):
        db.run(lambda _: db.run(lambda conn: conn.exec_driver_sql("SELECT 1")))
    assert db.run(lambda conn: conn.exec_driver_sql("SELECT 1").scalar()) == 1
    db.dispose()


def test_threads_of_one_process_all_get_their_turn(db: Database) -> None:
    open_accounts(db, "a")
    threads = [
        threading.Thread(target=lambda: [db.run(lambda conn: conn.execute(spend("a", 1))) for _ in range(25)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert spent(db) == {"a": 200}


def test_who_writes_all_the_time_stands_behind_who_waits(sqlite_url: str) -> None:
    """Two Databases stand for two processes, one of which wants the lock again as soon as it has given it back."""
    busy, other = Database(sqlite_url), Database(sqlite_url)
    done: list[int] = []
    over = threading.Event()

    def write(_: Connection) -> None:
        time.sleep(0.003)

    def write_all_the_time() -> None:
        while not over.is_set():
            busy.run(write)
            done.append(1)

    thread = threading.Thread(target=write_all_the_time)
    thread.start()
    waited = []
    for _ in range(60):
        time.sleep(0.005)
        before = len(done)
        waited.append(other.run(lambda _: len(done)) - before)
    over.set()
    thread.join()
    busy.dispose()
    other.dispose()
    assert max(waited) <= 2, "the one that was on, and the one that had come before"


def test_who_is_stopped_in_the_queue_holds_up_the_others_for_a_moment_only(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_SQLITE_QUEUE_S", 0.05)
    stopped, db = Database(sqlite_url), Database(sqlite_url)
    with stopped._queue.first(lambda: None):
        assert db.run(lambda conn: conn.exec_driver_sql("SELECT 1").scalar()) == 1
    stopped.dispose()
    db.dispose()


# --- bulk loads -----------------------------------------------------------------------------------------------


def test_a_chunked_load_counts_what_changed_and_fences_every_chunk(db: Database) -> None:
    fences: list[int] = []

    def fence(conn: Connection) -> None:
        fences.append(conn.scalar(select(func.count()).select_from(price_data_real)) or 0)
        if len(fences) == 6:
            raise LeaseLost("taken over")

    rows = [price(i, T0) for i in range(250)]
    assert db.run_chunked(price_data_real, rows, size=100, before_each=fence) == 250
    assert fences == [0, 100, 200]
    assert db.run_chunked(price_data_real, rows, size=1_000) == 0
    more = [price(i, T0) for i in range(1_000, 1_400)]
    with pytest.raises(LeaseLost):
        db.run_chunked(price_data_real, more, size=100, before_each=fence)
    assert len(stored(db, price_data_real)) == 450  # two chunks stand; the third found the lease gone


def test_short_writes_do_not_wait_for_a_bulk_load_to_end(db: Database) -> None:
    """Another Database stands for another process: only the database's own lock is between the two."""
    open_accounts(db, "lease")
    other = Database(db.url)
    loading, between = threading.Event(), []
    chunks_begun: list[int] = []

    def fence(_: Connection) -> None:
        chunks_begun.append(1)
        loading.set()

    def renew() -> None:
        loading.wait(30)
        for _ in range(10):
            before = len(chunks_begun)
            other.run(lambda conn: conn.execute(spend("lease", 1)))
            between.append(len(chunks_begun) - before)

    thread = threading.Thread(target=renew)
    thread.start()
    rows = [price(i, T0 + 300_000 * j) for i in range(100) for j in range(120)]
    assert db.run_chunked(price_data_real, rows, size=200, before_each=fence) == len(rows)
    thread.join()
    other.dispose()
    assert spent(db) == {"lease": 10}
    assert max(between) <= 12, f"a short write waited for {max(between)} of 60 chunks"


# --- retries, for real ----------------------------------------------------------------------------------------


@pytest.mark.integration
def test_a_deadlock_is_run_again(mariadb: Database) -> None:
    open_accounts(mariadb, "a", "b")
    both_hold_one = threading.Barrier(2)
    attempts: dict[str, int] = {"a": 0, "b": 0}

    def transfer(first: str, second: str) -> None:
        def work(conn: Connection) -> None:
            attempts[first] += 1
            conn.execute(spend(first, 1))
            if attempts[first] == 1:
                both_hold_one.wait(30)
            conn.execute(spend(second, 1))

        mariadb.run(work)

    threads = [threading.Thread(target=transfer, args=pair) for pair in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert spent(mariadb) == {"a": 2, "b": 2}
    assert sorted(attempts.values()) in ([1, 2], [1, 3])  # the victim of 1213 ran again


@pytest.mark.integration
def test_a_lock_wait_timeout_is_run_again(mariadb: Database) -> None:
    open_accounts(mariadb, "a", "b")
    attempts: list[int] = []

    with mariadb._writing.connect() as blocker:
        blocker.execute(spend("a", 1))

        def work(conn: Connection) -> None:
            attempts.append(1)
            if len(attempts) == 2:
                blocker.commit()
            conn.execute(text("SET SESSION innodb_lock_wait_timeout = 1"))
            conn.execute(spend("b", 1))  # 1205 undoes only its own statement: all of it must be rolled back
            conn.execute(spend("a", 1))

        mariadb.run(work)
    assert (len(attempts), spent(mariadb)) == (2, {"a": 2, "b": 1})


def kill(db: Database, conn: Connection) -> None:
    victim = conn.scalar(text("SELECT CONNECTION_ID()"))
    with db._writing.connect() as killer:
        killer.exec_driver_sql(f"KILL CONNECTION {victim}")


@pytest.mark.integration
def test_a_server_that_vanishes_without_a_word_is_noticed_within_about_a_minute(mariadb: Database) -> None:
    with mariadb.read() as conn:
        connected = conn.connection.dbapi_connection._sock
        assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle, interval, count, unsent_ms = (
            connected.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
        )
    assert idle + interval * count <= 60
    assert unsent_ms == 60_000


@pytest.mark.integration
def test_a_connection_lost_before_the_commit_is_run_again(mariadb: Database) -> None:
    open_accounts(mariadb, "a")
    attempts: list[int] = []

    def work(conn: Connection) -> None:
        attempts.append(1)
        conn.execute(spend("a", 1))
        if len(attempts) == 1:
            kill(mariadb, conn)
        conn.execute(spend("a", 1))

    mariadb.run(work)
    assert (len(attempts), spent(mariadb)) == (2, {"a": 2})


@pytest.mark.integration
def test_a_connection_lost_during_the_commit_is_not_run_again(mariadb: Database) -> None:
    open_accounts(mariadb, "a")
    attempts: list[int] = []

    def work(conn: Connection) -> None:
        attempts.append(1)
        conn.execute(spend("a", 1))
        kill(mariadb, conn)

    with pytest.raises(StorageError, match="whether it happened is unknown"):
        mariadb.run(work)
    assert len(attempts) == 1


@pytest.mark.integration
def test_a_connection_that_died_in_the_pool_is_replaced_unseen(mariadb: Database) -> None:
    with mariadb.read() as conn:
        mine = conn.scalar(text("SELECT CONNECTION_ID()"))
    with mariadb._writing.connect() as first, mariadb._writing.connect() as second:
        for conn in (first, second):
            if conn.scalar(text("SELECT CONNECTION_ID()")) != mine:
                conn.exec_driver_sql(f"KILL CONNECTION {mine}")
                break
        first.invalidate()
    with mariadb.read() as conn:
        assert conn.scalar(text("SELECT 1")) == 1


def test_a_sqlite_writer_waits_for_a_foreign_lock(sqlite_url: str, tmp_path: Path) -> None:
    naps: list[float] = []
    foreign = sqlite3.connect(tmp_path / "node.db", isolation_level=None, check_same_thread=False)

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            foreign.execute("COMMIT")

    db = Database(sqlite_url, sleep=nap)
    db.run(lambda conn: conn.exec_driver_sql("CREATE TABLE t (x)"))
    foreign.execute("BEGIN IMMEDIATE")
    db.run(lambda conn: conn.exec_driver_sql("INSERT INTO t VALUES (1)"))
    assert len(naps) == 3
    foreign.close()
    db.dispose()


# --- what errors say ------------------------------------------------------------------------------------------


def test_an_unreachable_server_is_named_without_its_password() -> None:
    db = Database(f"mysql+pymysql://node:sesame@127.0.0.1:{free_port()}/crypto")
    with pytest.raises(StorageError) as caught, db.read() as conn:
        conn.execute(text("SELECT 1"))
    assert "127.0.0.1" in str(caught.value)
    assert "is the server running" in str(caught.value)
    shown = f"{caught.value!r} {caught.value.__cause__!r} {db!r}"
    assert "sesame" not in shown
    db.dispose()


@pytest.mark.integration
def test_a_refused_login_says_what_to_check(mariadb_port: int) -> None:
    db = Database(f"mysql+pymysql://node:wrong-sesame@127.0.0.1:{mariadb_port}/crypto")
    with pytest.raises(StorageError, match="MYSQL_PASSWORD") as caught:
        db.run(lambda conn: conn.execute(text("SELECT 1")))
    assert "wrong-sesame" not in str(caught.value)
    db.dispose()


def test_a_missing_table_says_how_to_get_it(database_url: str) -> None:
    db = Database(database_url)
    with pytest.raises(StorageError, match=r"quota_ledger.* \(run: crypto-data db upgrade\)"):
        db.run(lambda conn: conn.execute(delete(quota_ledger)))
    with pytest.raises(StorageError, match="crypto-data db upgrade"), db.read() as conn:
        conn.execute(select(outbox_heads))
    db.dispose()


@pytest.mark.integration
def test_a_value_that_does_not_fit_is_an_error_never_another_value(mariadb: Database) -> None:
    row = {"account": "a" * 33, "month": MONTH, "spent": 1}
    with pytest.raises(StorageError, match="Data too long for column 'account'"):
        mariadb.run(lambda conn: conn.execute(insert(quota_ledger).values(row)))


def test_a_key_that_is_there_already_is_the_callers_business(db: Database) -> None:
    open_accounts(db, "a")
    with pytest.raises(IntegrityError):
        open_accounts(db, "a")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("postgresql://node:sesame@localhost/db", "names 'postgresql'"),
        ("not a url", "is not a database URL"),
        ("sqlite://", "in-memory"),
        ("sqlite:///:memory:", "in-memory"),
    ],
)
def test_an_unusable_url_is_a_config_error(url: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        Database(url)
    assert "sesame" not in str(caught.value)


def test_a_pool_that_is_used_up_says_so(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    db = Database(sqlite_url, pool_size=1)
    monkeypatch.setattr(db._reading.pool, "_timeout", 0.01)
    with db.read() as conn:
        conn.exec_driver_sql("SELECT 1")
        with pytest.raises(StorageError, match="DB_POOL_SIZE"), db.read() as second:
            second.exec_driver_sql("SELECT 1")
    db.dispose()


@pytest.mark.parametrize("scheme", ["mysql", "mariadb", "mysql+mysqldb", "mariadb+pymysql"])
def test_every_spelling_of_mysql_is_one_driver_with_utf8mb4(scheme: str) -> None:
    db = Database(f"{scheme}://node@localhost/crypto?charset=latin1")
    assert (db.dialect, db.url.drivername, db.url.query["charset"]) == ("mysql", "mysql+pymysql", "utf8mb4")

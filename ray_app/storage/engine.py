"""The database behind the node: one class over SQLite and MySQL/MariaDB.

Every write goes through :meth:`Database.run` (one transaction, retried while nothing is committed) and every read
through :meth:`Database.read` (one snapshot). On SQLite a write begins with BEGIN IMMEDIATE, so it never fails half
way for want of the lock, and readers use connections that cannot write. On MySQL a write runs at READ COMMITTED
(no gap locks, so far fewer deadlocks) and a read at the default REPEATABLE READ.

Waiting here is about other processes holding locks: it is wall time, never the node's scaled time.
"""

from __future__ import annotations

import fcntl
import logging
import os
import random
import socket
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import pymysql
from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, exc, make_url
from sqlalchemy.pool import QueuePool

from ray_app.errors import ConfigError, StorageError
from ray_app.storage.cursor import Cursor

logger = logging.getLogger(__name__)
T = TypeVar("T")

#: MySQL/MariaDB: the transaction lost a race and may be run again (deadlock, lock wait, snapshot conflict).
_CONTENTION = frozenset({1213, 1205, 1020})
#: MySQL/MariaDB: the connection is gone.
_DISCONNECTED = frozenset({1053, 1927, 2003, 2006, 2013, 2014, 2055})

#: Wall seconds a SQLite writer waits for the write lock, all attempts together.
_SQLITE_PATIENCE_S = 60.0
#: Wall seconds between two looks at the SQLite write lock. SQLite's own handler backs off to 100 ms, which
#: starves short transactions beside a bulk load that takes the lock again at once.
_SQLITE_LOOK_S = 0.002
#: Wall seconds a SQLite writer stands in the queue of processes at most. Then it goes for the lock itself: who stands
#: before it may have been stopped.
_SQLITE_QUEUE_S = 1.0
#: A bulk load leaves the lock alone this long between chunks: longer than any waiter sleeps between two looks.
_CHUNK_PAUSE_S = 0.004
_MYSQL_ATTEMPTS = 12
#: Strict: a value that does not fit is an error, never silently another value.
_SQL_MODE = "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,ERROR_FOR_DIVISION_BY_ZERO"


class Database:
    """A pool of connections to one database.

    ``pool_size`` bounds the connections of this process (MySQL: DB_POOL_SIZE). Connections are checked before use
    (pre-ping). Raises ConfigError for a URL that names no supported database. Synchronous: asynchronous callers use
    ``asyncio.to_thread``. Safe to share between threads, not across a fork.
    """

    dialect: Literal["sqlite", "mysql"]

    def __init__(self, url: str | URL, *, pool_size: int = 15, sleep: Callable[[float], None] = time.sleep) -> None:
        self.url = _normalised(url)
        self._sleep = sleep
        if self.url.get_backend_name() == "sqlite":
            self.dialect = "sqlite"
            self._turns = _Turns()
            self._queue = _Queue(f"{self.url.database}-queue")
            self._writing = _sqlite_engine(self.url, 1, writes=True)
            self._reading = _sqlite_engine(self.url, pool_size, writes=False)
        else:
            self.dialect = "mysql"
            self._writing = self._reading = _mysql_engine(self.url, pool_size)

    def __repr__(self) -> str:
        return f"Database({self.where})"

    @property
    def where(self) -> str:
        """The database's URL without its password: safe to print."""
        return self.url.render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection in a read transaction: every statement sees one snapshot. StorageError if unreachable."""
        with _explained(self.where), self._reading.connect() as connection:
            yield connection

    def run(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in one write transaction and commit; its result is returned.

        ``work`` may be called again after a deadlock, a lock wait or a lost connection, as long as nothing was
        committed: it must have no effect outside its connection. Whatever it raises rolls everything back and is
        raised here. A connection lost during the commit itself is not retried (it may have happened): StorageError.
        StorageError too if the database is unreachable or stays locked; its message holds no password.
        """
        with _explained(self.where):
            return self._run_sqlite(work) if self.dialect == "sqlite" else self._run_mysql(work)

    def run_chunked(
        self,
        table: Table,
        rows: Sequence[Mapping[str, object]],
        *,
        size: int = 1_000,
        before_each: Callable[[Connection], None] | None = None,
    ) -> int:
        """Guarded upsert of many rows in transactions of ``size``; the rows changed, summed over the chunks.

        Leases and quota never wait behind it for longer than one chunk: the write lock is left alone between two.
        ``before_each`` runs first inside every transaction (a fence: LeaseLost from it stops the load; the chunks
        before stay, which is harmless because guarded writes converge).
        """
        from ray_app.storage.upsert import guarded_upsert

        changed = 0
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]

            def work(connection: Connection, chunk: Sequence[Mapping[str, object]] = chunk) -> int:
                if before_each is not None:
                    before_each(connection)
                return guarded_upsert(connection, table, chunk)

            if start and self.dialect == "sqlite":
                self._sleep(_CHUNK_PAUSE_S)
            changed += self.run(work)
        return changed

    def dispose(self) -> None:
        """Close every pooled connection. The object may be used again; it connects anew."""
        self._writing.dispose()
        self._reading.dispose()
        if self.dialect == "sqlite":
            self._queue.close()

    def _run_sqlite(self, work: Callable[[Connection], T]) -> T:
        with self._turns.take(), self._writing.connect() as connection:
            self._begin_immediate(connection)
            result = work(connection)
            connection.commit()
            return result

    def _begin_immediate(self, connection: Connection) -> None:
        """Take the write lock: nothing has been done yet, so waiting and trying again is always safe."""
        deadline = time.monotonic() + _SQLITE_PATIENCE_S
        with self._queue.first(self._pause):
            while True:
                try:
                    connection.begin()
                    return
                except exc.OperationalError as error:
                    if "locked" not in str(error.orig) or time.monotonic() > deadline:
                        raise
                self._pause()

    def _pause(self) -> None:
        self._sleep(_SQLITE_LOOK_S * random.uniform(0.5, 1.5))

    def _run_mysql(self, work: Callable[[Connection], T]) -> T:
        for attempt in range(1, _MYSQL_ATTEMPTS + 1):
            try:
                with self._writing.connect() as connection:
                    connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
                    result = work(connection)
                    _commit(connection)
                    return result
            except exc.DBAPIError as error:
                code = mysql_code(error)
                if attempt == _MYSQL_ATTEMPTS or not (code in _CONTENTION or _is_disconnect(error)):
                    raise
                logger.info("transaction run again (attempt %d) after MySQL error %s", attempt + 1, code)
            self._sleep(min(0.01 * 2**attempt, 1.0) * random.uniform(0.5, 1.5))
        raise AssertionError("unreachable")


class _Turns:
    """A first-come, first-served lock: a loop that takes it again at once cannot starve the others."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._queue: deque[threading.Event] = deque()
        self._holder: int | None = None

    @contextmanager
    def take(self) -> Iterator[None]:
        turn, me = threading.Event(), threading.get_ident()
        if self._holder == me:
            raise StorageError("Database.run inside Database.run would wait for itself; pass the connection on")
        with self._guard:
            self._queue.append(turn)
            if len(self._queue) == 1:
                turn.set()
        try:
            turn.wait()
            self._holder = me
            yield
        finally:
            self._holder = None
            with self._guard:
                self._queue.remove(turn)
                if self._queue:
                    self._queue[0].set()


class _Queue:
    """Lets one process at a time try for SQLite's write lock, so that whoever has just had it stands behind the others.

    A process that writes all the time would else take it again before a sleeping one has looked. Politeness only: the
    lock is SQLite's own. Kept by ``flock`` on a file beside the database, which ends with the process.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: int | None = None

    @contextmanager
    def first(self, pause: Callable[[], None]) -> Iterator[None]:
        """Stand first in the queue, or have stood in it for _SQLITE_QUEUE_S. Used by one thread at a time."""
        file = self._opened()
        until = time.monotonic() + _SQLITE_QUEUE_S
        while file is not None and not _locked(file) and time.monotonic() < until:
            pause()
        try:
            yield
        finally:
            if file is not None:
                fcntl.flock(file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file; it is opened again when needed."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _opened(self) -> int | None:
        if self._file is None:
            with suppress(OSError):  # a directory that cannot be written: SQLite will say so itself
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        return self._file


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def mysql_code(error: exc.DBAPIError) -> int | None:
    """The server's (or client library's) error number; None where there is none."""
    args = error.orig.args if error.orig is not None else ()
    return args[0] if args and isinstance(args[0], int) else None


def _is_disconnect(error: exc.DBAPIError) -> bool:
    return error.connection_invalidated or mysql_code(error) in _DISCONNECTED


def _commit(connection: Connection) -> None:
    try:
        connection.commit()
    except exc.DBAPIError as error:
        if _is_disconnect(error):
            raise StorageError(
                "the connection was lost while a transaction was being committed; whether it happened is unknown. "
                "Guarded writes may simply be repeated"
            ) from error
        raise


def _normalised(url: str | URL) -> URL:
    """One driver per database, and utf8mb4 always."""
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):  # never "from" it: a traceback would show the URL with its password
        raise ConfigError("DATABASE_URL is not a database URL, e.g. mysql+pymysql://user:password@host/db") from None
    if "@" in (parsed.host or ""):  # what follows the first @ would be shown as a host's name
        raise ConfigError("DATABASE_URL has two @: write %40 for one that belongs to the user's name or password")
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return parsed.set(drivername="sqlite")
    if backend in {"mysql", "mariadb"}:
        if not parsed.database:
            raise ConfigError("DATABASE_URL names no database, e.g. mysql+pymysql://user:password@host/crypto_prices")
        return parsed.set(drivername="mysql+pymysql").update_query_dict({"charset": "utf8mb4"})
    raise ConfigError(f"DATABASE_URL names {backend!r}; supported are sqlite and mysql+pymysql (MySQL 8, MariaDB)")


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite URL, whether it exists or not; None for a server's. ConfigError as :class:`Database`."""
    parsed = _normalised(url)
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def _sqlite_engine(url: URL, pool_size: int, *, writes: bool) -> Engine:
    if url.database in {None, "", ":memory:"}:
        raise ConfigError("an in-memory SQLite database cannot be shared between processes; name a file")
    Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=pool_size,
        max_overflow=0,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={"timeout": 30.0, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves: the driver's own would be deferred
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "journal_size_limit=67108864"):
            _patiently(connection, f"PRAGMA {pragma}")
        if writes:
            connection.execute("PRAGMA busy_timeout=0").close()  # _begin_immediate waits, and more fairly
        else:
            connection.execute("PRAGMA query_only=ON").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _patiently(connection: Any, statement: str) -> None:
    """Run a statement on a new connection; the switch to WAL ignores the busy time-out when processes start at once."""
    deadline = time.monotonic() + _SQLITE_PATIENCE_S
    while True:
        try:
            connection.execute(statement).close()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(_SQLITE_LOOK_S)


def _mysql_engine(url: URL, pool_size: int) -> Engine:
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_pre_ping=True,
        pool_recycle=1_800,
        hide_parameters=True,
        connect_args={
            "cursorclass": Cursor,
            "connect_timeout": 10,
            "init_command": f"SET SESSION sql_mode='{_SQL_MODE}', time_zone='+00:00', innodb_lock_wait_timeout=10",
        },
    )

    @event.listens_for(engine, "do_connect")
    def without_found_rows(_dialect: object, _record: object, _args: object, parameters: dict[str, Any]) -> None:
        parameters["client_flag"] = parameters.get("client_flag", 0) & ~pymysql.constants.CLIENT.FOUND_ROWS

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        _notice_a_dead_peer(connection._sock)  # noqa: SLF001

    return engine


def _notice_a_dead_peer(connected: socket.socket) -> None:
    """End a connection whose other side is gone without a word (cut network, dead host) within about a minute.

    The system's own patience is a quarter of an hour with something unsent and two hours without. A time-out for
    reading would do as well, and would also end every migration that takes longer.
    """
    if connected.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 60_000)):
        if hasattr(socket, name):  # Linux has all of them
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Turn what the driver says about the database or a value into StorageError.

    IntegrityError (a key that is there already) and programming errors are the caller's and pass.
    """
    try:
        yield
    except exc.TimeoutError as error:
        raise StorageError(f"{where}: every pooled connection is in use (DB_POOL_SIZE): {error}") from error
    except (exc.OperationalError, exc.InternalError, exc.InterfaceError, exc.DataError) as error:
        raise StorageError(f"{where}: {error.orig}{_advice(error)}") from error
    except exc.ProgrammingError as error:
        if mysql_code(error) == 1146:
            raise StorageError(f"{where}: {error.orig}{_advice(error)}") from error
        raise
    except exc.DatabaseError as error:
        if "file is not a database" not in str(error.orig):  # every other kind is the caller's
            raise
        raise StorageError(f"{where}: {error.orig}{_advice(error)}") from error


def _advice(error: exc.DBAPIError) -> str:
    code, text = mysql_code(error), str(error.orig)
    if code == 1146 or "no such table" in text:
        return " (run: crypto-data db upgrade)"
    if code in {2003, 2005}:
        return " (is the server running, and are MYSQL_HOST and MYSQL_PORT right?)"
    if code in {1044, 1045, 1049, 1698}:
        return " (check MYSQL_USER, MYSQL_PASSWORD and MYSQL_DATABASE)"
    if code in {1142, 1370}:
        return " (that user may not do this here: GRANT ALL ON the database TO it, or upgrade as one who may)"
    if "file is not a database" in text:
        return " (DATABASE_URL or DATA_DIR names a file of something else)"
    if "unable to open database file" in text:
        return " (check DATA_DIR: does the folder exist, and may this user write there?)"
    return ""

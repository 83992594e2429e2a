"""Fenced leases: at most one process acts for a collector, across clusters that share a database.

A lease is a row of ``collector_leases``. Its expiry is read and written in the **database's** wall time: no host's
clock matters, and neither does scaled node time (a lease is about processes being alive). Its token rises with every
acquisition. What makes it safe is not the expiry but the fence: whoever writes under a lease calls
:meth:`LeaseKeeper.assert_held` inside the same transaction. That locks the row, so a process that was paused past
its expiry either finds another token there and writes nothing, or commits before the next holder can acquire.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sqlalchemy import Connection, Row, func, insert, select, text, update
from sqlalchemy.dialects import mysql

from ray_app.errors import LeaseLost
from ray_app.storage.engine import Database
from ray_app.storage.tables import collector_leases

_FREE = ""  # holder of a lease that was released


@dataclass(frozen=True, slots=True)
class Lease:
    """Proof of having acquired ``name``. ``expires_at`` is in ms of the database's clock, not node time."""

    name: str
    holder: str
    token: int
    expires_at: int
    ttl_s: float


class LeaseKeeper:
    """Leases in one database. Blocking: asynchronous callers use ``asyncio.to_thread``."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def acquire(self, name: str, holder: str, ttl_s: float) -> Lease | None:
        """The lease for ``ttl_s`` wall seconds, or None while another holder's has not expired.

        The same ``holder`` gets it at once with a higher token: a restarted process does not wait for itself, and
        whatever is left of its predecessor is fenced off. So a holder's name must never be used by two at a time.
        """
        if not holder or ttl_s <= 0:
            raise ValueError(f"lease {name}: needs a holder and ttl_s > 0, got {holder!r} and {ttl_s}")

        def work(conn: Connection) -> Lease | None:
            row = _locked(conn, name)
            if row is None:
                _insert_free(conn, name)
                row = _locked(conn, name)
            now = _database_ms(conn)  # after the lock: waiting for it may have taken long
            if row is None or (row.holder not in {_FREE, holder} and row.expires_at > now):
                return None
            lease = Lease(name, holder, row.token + 1, now + round(ttl_s * 1_000), ttl_s)
            _store(conn, lease)
            return lease

        return self._db.run(work)

    def renew(self, lease: Lease) -> Lease:
        """The same lease for another ``ttl_s`` from now; LeaseLost if somebody acquired it meanwhile.

        A lease that has expired unnoticed is renewed too: as long as nobody took it, nothing was lost.
        """

        def work(conn: Connection) -> Lease:
            self.assert_held(conn, lease)
            renewed = replace(lease, expires_at=_database_ms(conn) + round(lease.ttl_s * 1_000))
            _store(conn, renewed)
            return renewed

        return self._db.run(work)

    def release(self, lease: Lease) -> bool:
        """Give the lease up so that another may have it at once; False if it was no longer ours."""

        def work(conn: Connection) -> bool:
            row = _locked(conn, lease.name)
            if row is None or (row.holder, row.token) != (lease.holder, lease.token):
                return False
            _store(conn, replace(lease, holder=_FREE, expires_at=0))
            return True

        return self._db.run(work)

    def assert_held(self, conn: Connection, lease: Lease) -> None:
        """Raise LeaseLost unless ``lease`` is still the newest; holds the row locked until ``conn`` commits.

        Call it inside the write transaction that the lease protects (``Database.run``).
        """
        row = _locked(conn, lease.name)
        if row is None or (row.holder, row.token) != (lease.holder, lease.token):
            now_has_it = "nobody" if row is None or row.holder == _FREE else f"{row.holder} (token {row.token})"
            raise LeaseLost(
                f"lease {lease.name}: {lease.holder} (token {lease.token}) lost it, {now_has_it} holds it now; "
                "stop acting, write nothing, acquire anew"
            )


def _locked(conn: Connection, name: str) -> Row[str, int, int] | None:
    """The row, locked against every other writer: FOR UPDATE on MySQL; SQLite's write transaction already is."""
    columns = collector_leases.c
    statement = select(columns.holder, columns.token, columns.expires_at).where(columns.name == name)
    return conn.execute(statement.with_for_update()).one_or_none()


def _insert_free(conn: Connection, name: str) -> None:
    row = {"name": name, "holder": _FREE, "token": 0, "expires_at": 0}
    if conn.dialect.name == "sqlite":
        conn.execute(insert(collector_leases).values(row))
    else:  # another process may insert it at the same moment: then wait for its row lock instead of failing
        upsert = mysql.insert(collector_leases).values(row)
        conn.execute(upsert.on_duplicate_key_update(token=collector_leases.c.token))


def _store(conn: Connection, lease: Lease) -> None:
    values = {"holder": lease.holder, "token": lease.token, "expires_at": lease.expires_at}
    conn.execute(update(collector_leases).where(collector_leases.c.name == lease.name).values(values))


def _database_ms(conn: Connection) -> int:
    """The database's wall clock, ms since the epoch."""
    if conn.dialect.name == "sqlite":
        moment = func.round((func.julianday("now") - 2440587.5) * 86_400_000)
        return int(conn.execute(select(moment)).scalar_one())
    # UTC_TIMESTAMP and not UNIX_TIMESTAMP(NOW()): the latter is ambiguous in the hour a session's zone repeats
    sql = "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000"
    return int(conn.execute(text(sql)).scalar_one())

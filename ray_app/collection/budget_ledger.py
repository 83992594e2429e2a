"""Budget accounts in the database (``provider_budgets``, ``quota_ledger``) and, for simulations, in memory.

An account has one row of its own (its pause; it is also the lock that every transaction takes first, so that there are
no deadlocks) and one row per lane, ``<account>/<lane>``, whose ``theoretical_arrival`` is the ms from which the
lane may be lent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, Insert, Table, insert, select, update
from sqlalchemy.dialects import mysql, sqlite

from ray_app.collection.budget_rules import Account, Limits
from ray_app.errors import StorageError
from ray_app.storage.engine import Database
from ray_app.storage.tables import provider_budgets, quota_ledger

T = TypeVar("T")


class DatabaseLedger:
    """Accounts shared by every process that uses the database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def transact(
        self, account: str, limits: Limits, month: int, change: Callable[[Account], tuple[Account, T]]
    ) -> T:
        """Apply ``change`` to the locked account in one transaction (in a thread)."""

        def work(conn: Connection) -> T:
            before = _load(conn, account, limits, month, lock=True)
            if before is None:
                _create(conn, account, limits, month)
                before = _load(conn, account, limits, month, lock=True)
            if before is None:
                raise StorageError(f"the budget rows of {account} vanish as they are written; check triggers")
            after, result = change(before)
            _store(conn, account, before, after)
            return result

        return await asyncio.to_thread(self._db.run, work)

    def peek(self, account: str, limits: Limits, month: int) -> Account:
        """The account as it is; an account nobody has used yet is fresh."""
        with self._db.read() as conn:
            found = _load(conn, account, limits, month, lock=False)
        return found or Account((0,) * limits.lanes, 0, month, 0)


def _lanes(account: str, lanes: int) -> list[str]:
    return [f"{account}/{lane}" for lane in range(lanes)]


def _load(conn: Connection, account: str, limits: Limits, month: int, *, lock: bool) -> Account | None:
    """The account, or None where a row of it is missing. Locks the account's row before any other."""
    budgets, ledger = provider_budgets.c, quota_ledger.c
    head = select(budgets.paused_until).where(budgets.account == account)
    names = _lanes(account, limits.lanes)
    lanes = select(budgets.account, budgets.theoretical_arrival).where(budgets.account.in_(names))
    spent = select(ledger.spent).where(ledger.account == account, ledger.month == month)
    if lock:
        head, lanes, spent = head.with_for_update(), lanes.with_for_update(), spent.with_for_update()
    paused_until = conn.execute(head).scalar()
    if paused_until is None:
        return None
    free_at: dict[str, int] = {row.account: row.theoretical_arrival for row in conn.execute(lanes)}
    booked = conn.execute(spent).scalar()
    if len(free_at) < len(names) or booked is None:
        return None if lock else Account((0,) * limits.lanes, paused_until, month, booked or 0)
    return Account(tuple(free_at[name] for name in names), paused_until, month, booked)


def _create(conn: Connection, account: str, limits: Limits, month: int) -> None:
    """Add the rows that are missing."""
    for name in (account, *_lanes(account, limits.lanes)):
        row = {"account": name, "theoretical_arrival": 0, "paused_until": 0}
        conn.execute(_insert_missing(conn, provider_budgets, row))
    conn.execute(_insert_missing(conn, quota_ledger, {"account": account, "month": month, "spent": 0}))


def _insert_missing(conn: Connection, table: Table, row: dict[str, Any]) -> Insert:
    """Insert the row unless its key is there. On MySQL this locks an existing row instead of failing."""
    if conn.dialect.name == "sqlite":
        return sqlite.insert(table).values(row).on_conflict_do_nothing()
    if conn.dialect.name in {"mysql", "mariadb"}:
        return mysql.insert(table).values(row).on_duplicate_key_update(account=table.c.account)
    return insert(table).values(row)


def _store(conn: Connection, account: str, before: Account, after: Account) -> None:
    """Write the rows that changed."""
    budgets, ledger = provider_budgets, quota_ledger
    for lane, (old, new) in enumerate(zip(before.free_at, after.free_at, strict=True)):
        if old != new:
            name = f"{account}/{lane}"
            conn.execute(update(budgets).where(budgets.c.account == name).values(theoretical_arrival=new))
    if before.paused_until != after.paused_until:
        statement = update(budgets).where(budgets.c.account == account)
        conn.execute(statement.values(paused_until=after.paused_until))
    if before.spent != after.spent:
        key = (ledger.c.account == account, ledger.c.month == before.month)
        conn.execute(update(ledger).where(*key).values(spent=after.spent))


class MemoryLedger:
    """Accounts of one process: simulations, and tools that make a handful of requests without a database."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._spent: dict[tuple[str, int], int] = {}

    def peek(self, account: str, limits: Limits, month: int) -> Account:
        """The account as it is."""
        fresh = Account((0,) * limits.lanes, 0, month, 0)
        found = self._accounts.get(account, fresh)
        spent = self._spent.get((account, month), 0)
        return Account(found.free_at, found.paused_until, month, spent)

    async def transact(
        self, account: str, limits: Limits, month: int, change: Callable[[Account], tuple[Account, T]]
    ) -> T:
        """Apply ``change``; nothing else runs in between."""
        after, result = change(self.peek(account, limits, month))
        self._accounts[account] = after
        self._spent[account, month] = after.spent
        return result

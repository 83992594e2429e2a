# ruff: noqa: S608 - statements are built from the tables' own column names, quoted
"""Guarded upserts: whatever the order, repetition or interleaving of writes, the same rows remain.

Each write carries its place in one total order (tables.ORDER_COLUMNS, most significant first). A row is replaced as a
whole by a write that stands higher, and left alone by any other; ``Table.info["earliest"]`` columns keep the
smallest value of all writes. So the final row is a maximum (and a minimum): commutative, associative and idempotent.
Two writes of the same place in the order must be the same write: it names payload and parser, and parsers are pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import itemgetter

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import mysql, sqlite

from ray_app.errors import StorageError
from ray_app.storage.cursor import Batch
from ray_app.storage.lookup import rows_of_keys
from ray_app.storage.rows import Cell, checked
from ray_app.storage.tables import ORDER_COLUMNS

#: From this many values on, MySQL takes rows by prepared statement: to prepare one costs a round trip more than it
#: saves on fewer (measured: benchmarks/ingest.py, about 190 rows of 16 columns, 110 of 27, 15 of 200).
BATCH_CELLS = 3_000

_QUOTE = {"sqlite": sqlite.dialect().identifier_preparer.quote, "mysql": mysql.dialect().identifier_preparer.quote}


def key_columns(table: Table) -> tuple[str, ...]:
    """The natural key, in key order."""
    return tuple(column.name for column in table.primary_key.columns)


def order_columns(table: Table) -> tuple[str, ...]:
    """The part of the total order the table has, most significant first; columns of the key cannot differ.

    ``Table.info["order"]`` names another: of what is computed here, from no single payload.
    """
    order = table.info.get("order", ORDER_COLUMNS)
    found = tuple(name for name in order if name in table.columns and not table.columns[name].primary_key)
    if not found:
        raise StorageError(f"{table.name} has none of {', '.join(ORDER_COLUMNS)}: it has no guarded upsert")
    return found


def guarded_upsert(conn: Connection, table: Table, rows: Sequence[Mapping[str, object]]) -> int:
    """Write rows of upstream values; the number of stored rows that this call changed.

    Changed means: a key that was not there, a row replaced by a higher write, or an ``earliest`` column lowered. A
    key counts once however often the call names it, and a repetition counts 0: the same on every database.
    A column that a row leaves out is NULL. StorageError for values no database should hold (rows.py).
    """
    if not rows:
        return 0
    order_columns(table)
    cells = _merged(table, checked(table, rows))
    if conn.dialect.name == "sqlite":
        return conn.exec_driver_sql(_sqlite_statement(table), cells).rowcount
    statement = _mysql_statement(table, bool(getattr(conn.dialect, "is_mariadb", False)))
    if len(cells) * len(table.columns) < BATCH_CELLS:
        return conn.exec_driver_sql(statement, cells).rowcount
    batch = Batch([column.type.python_type for column in table.columns], cells)
    return conn.exec_driver_sql(statement, (batch,)).rowcount


def standing(conn: Connection, table: Table, rows: Sequence[Mapping[str, object]]) -> list[bool]:
    """For each row, whether the stored row of its key is this very write (same place in the total order).

    Asked after :func:`guarded_upsert` in the same transaction it says which rows won.
    """
    names = [column.name for column in table.columns]
    key, order = key_columns(table), order_columns(table)
    taken = [dict(zip(names, row, strict=True)) for row in checked(table, rows)] if rows else []
    identities = sorted({tuple(row[name] for name in key) for row in taken})
    found = rows_of_keys(conn, table, identities, (*key, *order))
    stored = {row[: len(key)]: row[len(key) :] for row in found}
    return [stored.get(tuple(row[n] for n in key)) == tuple(row[n] for n in order) for row in taken]


def _merged(table: Table, cells: list[tuple[Cell, ...]]) -> list[tuple[Cell, ...]]:
    """One row per key, by the rules the database applies, in key order: writers of the same rows queue."""
    names = [column.name for column in table.columns]
    identity = itemgetter(*(names.index(name) for name in key_columns(table)))
    best = dict(zip(map(identity, cells), cells, strict=True))
    if len(best) < len(cells):
        order = [names.index(name) for name in order_columns(table)]
        earliest = [names.index(name) for name in table.info.get("earliest", ())]
        best = {}
        for row in cells:
            held = best.get(key := identity(row))
            best[key] = row if held is None else _merge_two(held, row, order, earliest)
    return [best[key] for key in sorted(best)]


def _merge_two(
    held: tuple[Cell, ...], row: tuple[Cell, ...], order: list[int], earliest: list[int]
) -> tuple[Cell, ...]:
    higher = tuple(row[i] for i in order) > tuple(held[i] for i in order)  # never NULL
    winner = list(row if higher else held)
    for i in earliest:
        winner[i] = min((v for v in (held[i], row[i]) if v is not None), default=None)
    return tuple(winner)


# --- SQLite ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _sqlite_statement(table: Table) -> str:
    q, target = _QUOTE["sqlite"], _QUOTE["sqlite"](table.name)
    key, earliest = key_columns(table), table.info.get("earliest", ())
    columns = [column.name for column in table.columns]
    order = order_columns(table)
    higher = f"({_list(q, order, 'excluded.')}) > ({_list(q, order, target + '.')})"
    lower = [f"excluded.{q(c)} < {target}.{q(c)}" for c in earliest]
    assignments = [
        f"{q(c)} = min({target}.{q(c)}, excluded.{q(c)})"
        if c in earliest
        else f"{q(c)} = CASE WHEN {higher} THEN excluded.{q(c)} ELSE {target}.{q(c)} END"
        if earliest
        else f"{q(c)} = excluded.{q(c)}"
        for c in columns
        if c not in key
    ]
    return (
        f"INSERT INTO {target} ({_list(q, columns)}) VALUES ({', '.join('?' * len(columns))}) "
        f"ON CONFLICT ({_list(q, key)}) DO UPDATE SET {', '.join(assignments)} WHERE {' OR '.join([higher, *lower])}"
    )


# --- MySQL and MariaDB ----------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _mysql_statement(table: Table, is_mariadb: bool) -> str:
    """INSERT … ON DUPLICATE KEY UPDATE under the total order.

    MySQL assigns from left to right and later expressions see the new values. So the order columns come last, and
    among them the least significant first: once one is assigned, "higher" still holds if a more significant column
    decided, and if none did the columns still to come are equal anyway.

    MariaDB compares once a row, in the first assignment, and remembers the answer: on 200 columns comparing in each
    is a third of the server's work. MySQL 8 has deprecated setting a variable within an expression, and compares.
    """
    q, key, order = _QUOTE["mysql"], key_columns(table), order_columns(table)
    earliest, target = table.info.get("earliest", ()), _QUOTE["mysql"](table.name)
    columns = [column.name for column in table.columns]
    news = ", ".join(f"VALUES({q(c)})" for c in order)
    higher = f"({news}) > ({_list(q, order, target + '.')})"
    guarded = [c for c in columns if c not in {*key, *order, *earliest}] + [*reversed(order)]
    known = [f"@higher := {higher}", *["@higher"] * (len(guarded) - 1)] if is_mariadb else [higher] * len(guarded)
    assignments = [
        *(f"{q(c)} = LEAST({target}.{q(c)}, VALUES({q(c)}))" for c in earliest),
        *(f"{q(c)} = IF({h}, VALUES({q(c)}), {target}.{q(c)})" for c, h in zip(guarded, known, strict=True)),
    ]
    return (
        f"INSERT INTO {target} ({_list(q, columns)}) VALUES ({', '.join(['%s'] * len(columns))}) "
        f"ON DUPLICATE KEY UPDATE {', '.join(assignments)}"
    )


def _list(quote: object, columns: Sequence[str], prefix: str = "") -> str:
    return ", ".join(prefix + quote(column) for column in columns)  # type: ignore[operator]

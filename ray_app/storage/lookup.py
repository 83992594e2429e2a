# ruff: noqa: S608 - statements are built from the tables' own column names, quoted
"""Many rows by their keys, in few statements. Building such a query from expressions costs ten times what it takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import mysql, sqlite

#: keys in one statement
_KEYS = 250
_QUOTE = {"sqlite": sqlite.dialect().identifier_preparer.quote, "mysql": mysql.dialect().identifier_preparer.quote}


def rows_of_keys(
    conn: Connection, table: Table, keys: Iterable[tuple[Any, ...]], columns: Sequence[str] | None = None
) -> Iterator[tuple[Any, ...]]:
    """The stored rows that have one of the (distinct) primary keys, as tuples of ``columns`` (default: all).

    In no particular order; a key that is not stored yields nothing.
    """
    wanted = tuple(columns or (column.name for column in table.columns))
    todo = iter(keys)
    while some := tuple(islice(todo, _KEYS)):
        statement = _statement("sqlite" if conn.dialect.name == "sqlite" else "mysql", table, wanted, len(some))
        flat = tuple(value for key in some for value in key)
        yield from map(tuple, conn.exec_driver_sql(statement, flat))


@lru_cache(maxsize=256)
def _statement(dialect: str, table: Table, columns: tuple[str, ...], count: int) -> str:
    quote = _QUOTE[dialect]
    target, keys = quote(table.name), [quote(column.name) for column in table.primary_key.columns]
    shown = ", ".join(f"{target}.{quote(column)}" for column in columns)
    if dialect == "sqlite":  # the keys first, then each row by its key: SQLite would walk the table for an IN list
        named = [f"k{i}" for i in range(len(keys))]
        rows = ", ".join([f"({', '.join('?' * len(keys))})"] * count)
        same = " AND ".join(f"{target}.{key} = wanted.{name}" for key, name in zip(keys, named, strict=True))
        wanted = f"WITH wanted({', '.join(named)}) AS (VALUES {rows})"
        return f"{wanted} SELECT {shown} FROM wanted CROSS JOIN {target} ON {same}"
    one = f"({' AND '.join(f'{key} = %s' for key in keys)})"
    return f"SELECT {shown} FROM {target} WHERE {' OR '.join([one] * count)}"

# ruff: noqa: S608 - statements are built from the tables' own column names, quoted
"""Guarded upserts: whatever the order, repetition or interleaving of writes, the same rows remain.

Each write carries its place in one total order (tables.ORDER_COLUMNS, most significant first). A row is replaced as a
whole by a write that stands higher, and left alone by any other; ``Table.info["earliest"]`` columns keep the
smallest value of all writes. So the final row is a maximum (and a minimum): commutative, associative and idempotent.
Two writes of the same place in the order must be the same write: it names payload and parser, and parsers are pure.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter

import orjson
from sqlalchemy import Connection, Table, exc
from sqlalchemy.dialects import mysql, sqlite

from ray_app.errors import StorageError
from ray_app.storage.engine import mysql_code
from ray_app.storage.lookup import rows_of_keys
from ray_app.storage.rows import Cell, checked
from ray_app.storage.tables import ORDER_COLUMNS

logger = logging.getLogger(__name__)

#: From this many rows on, MySQL loads a staging table instead of reading statements (measured: benchmarks/ingest.py).
BULK_ROWS = 500
#: Servers and users that may not LOAD DATA LOCAL or create a temporary table.
_BULK_REFUSED = frozenset({1148, 3948, 4166, 2068, 1044, 1142, 1227, 1290})
_STAGE = "_guarded_stage"

_QUOTE = {"sqlite": sqlite.dialect().identifier_preparer.quote, "mysql": mysql.dialect().identifier_preparer.quote}
_MYSQL = mysql.dialect()


def key_columns(table: Table) -> tuple[str, ...]:
    """The natural key, in key order."""
    return tuple(column.name for column in table.primary_key.columns)


def order_columns(table: Table) -> tuple[str, ...]:
    """The part of the total order the table has, most significant first; columns of the key cannot differ."""
    found = tuple(name for name in ORDER_COLUMNS if name in table.columns and not table.columns[name].primary_key)
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
    if len(cells) >= BULK_ROWS and conn.info.get("bulk", True):
        changed = _bulk(conn, table, cells)
        if changed is not None:
            return changed
    return conn.exec_driver_sql(_mysql_statement(table), cells).rowcount


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
def _mysql_statement(table: Table) -> str:
    q = _QUOTE["mysql"]
    columns = [column.name for column in table.columns]
    return (
        f"INSERT INTO {q(table.name)} ({_list(q, columns)}) VALUES ({', '.join(['%s'] * len(columns))}) "
        f"{_mysql_guard(table)}"
    )


@lru_cache(maxsize=256)
def _mysql_guard(table: Table) -> str:
    """ON DUPLICATE KEY UPDATE under the total order.

    MySQL assigns from left to right and later expressions see the new values. So the order columns come last, and
    among them the least significant first: once one is assigned, "higher" still holds if a more significant column
    decided, and if none did the columns still to come are equal anyway.
    """
    q, key, order = _QUOTE["mysql"], key_columns(table), order_columns(table)
    earliest, target = table.info.get("earliest", ()), _QUOTE["mysql"](table.name)

    def old(column: str) -> str:
        return f"{target}.{q(column)}"

    news = ", ".join(f"VALUES({q(c)})" for c in order)
    higher = f"({news}) > ({_list(q, order, target + '.')})"
    values = [column.name for column in table.columns if column.name not in {*key, *order}]
    assignments = [
        f"{q(c)} = LEAST({old(c)}, VALUES({q(c)}))"
        if c in earliest
        else f"{q(c)} = IF({higher}, VALUES({q(c)}), {old(c)})"
        for c in (*values, *reversed(order))
    ]
    return f"ON DUPLICATE KEY UPDATE {', '.join(assignments)}"


def _bulk(conn: Connection, table: Table, cells: list[tuple[Cell, ...]]) -> int | None:
    """LOAD DATA into a temporary table, then one guarded merge; None if this server or user may not do that."""
    q, names = _QUOTE["mysql"], [column.name for column in table.columns]
    types = ", ".join(f"{q(c.name)} {c.type.compile(dialect=_MYSQL)} NULL" for c in table.columns)
    try:
        conn.exec_driver_sql(f"DROP TEMPORARY TABLE IF EXISTS {_STAGE}")
        conn.exec_driver_sql(
            f"CREATE TEMPORARY TABLE {_STAGE} ({types}) ENGINE=InnoDB CHARSET=utf8mb4 COLLATE=utf8mb4_bin"
        )
        _load(conn, table, cells)
    except exc.DBAPIError as error:
        if mysql_code(error) not in _BULK_REFUSED:
            raise
        conn.info["bulk"] = False
        logger.warning("bulk loading is refused (%s); writing rows by statement, which is slower", error.orig)
        return None
    changed = conn.exec_driver_sql(
        f"INSERT INTO {q(table.name)} ({_list(q, names)}) SELECT {_list(q, names)} FROM {_STAGE} {_mysql_guard(table)}"
    ).rowcount
    conn.exec_driver_sql(f"DROP TEMPORARY TABLE {_STAGE}")
    return changed


def _load(conn: Connection, table: Table, cells: list[tuple[Cell, ...]]) -> None:
    q, kinds = _QUOTE["mysql"], {column.name: column.type.python_type for column in table.columns}
    names = list(kinds)
    numeric = [place for place, name in enumerate(names) if kinds[name] in {int, float}]
    rest = [place for place, name in enumerate(names) if kinds[name] not in {int, float}]
    binary = {name: f"@b{place}" for place, name in enumerate(names) if kinds[name] is bytes}
    targets = ", ".join(binary.get(names[place]) or q(names[place]) for place in (*numeric, *rest))
    decoded = ", ".join(f"{q(name)} = UNHEX({variable})" for name, variable in binary.items())
    with tempfile.TemporaryFile("w+b") as file:  # without a name: a killed process leaves nothing behind
        file.writelines(_lines(cells, numeric, rest))
        file.seek(0)
        statement = (
            f"LOAD DATA LOCAL INFILE '/dev/fd/{file.fileno()}' INTO TABLE {_STAGE} CHARACTER SET utf8mb4 "
            rf"FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n' ({targets})"
            + (f" SET {decoded}" if decoded else "")
        )
        driver = conn.connection.dbapi_connection
        driver._local_infile = True  # type: ignore[union-attr]  # noqa: SLF001 - see engine.py: off otherwise
        try:
            loaded = conn.exec_driver_sql(statement).rowcount
        finally:
            driver._local_infile = False  # type: ignore[union-attr]  # noqa: SLF001
    # LOCAL turns errors into warnings: whatever was changed on the way in must stop the transaction.
    warnings = conn.exec_driver_sql("SHOW WARNINGS LIMIT 3").all()
    if loaded != len(cells) or warnings:
        said = "; ".join(str(warning[2]) for warning in warnings)
        raise StorageError(f"LOAD DATA took {loaded} of {len(cells)} rows: {said or 'no warning'}")


_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\0": "\\0"})


def _lines(cells: list[tuple[Cell, ...]], numeric: Sequence[int], rest: Sequence[int]) -> Iterator[bytes]:
    """The rows as LOAD DATA reads them: numeric columns, then the others, between tabs.

    Numbers are written by orjson, all at once and in the shortest form that reads back the same: a tenth of the time
    that Python takes cell by cell.
    """
    pick = _picked(numeric)
    numbers = (
        orjson.dumps([pick(row) for row in cells])[2:-2].replace(b"null", b"\\N").replace(b",", b"\t").split(b"]\t[")
    )
    escaped = [_escaped([row[place] for row in cells]) for place in rest]
    for first, *others in zip(numbers, *escaped, strict=True):
        yield b"\t".join((first, *others)) + b"\n"


def _picked(places: Sequence[int]) -> Callable[[tuple[Cell, ...]], tuple[Cell, ...]]:
    if len(places) == 1:
        (place,) = places
        return lambda row: (row[place],)
    return itemgetter(*places)


def _escaped(values: list[Cell]) -> Iterator[bytes]:
    """A column of text or bytes; what repeats (hashes, sources) is escaped once."""
    return map({value: _field(value) for value in set(values)}.__getitem__, values)


def _field(value: Cell) -> bytes:
    if value is None:
        return b"\\N"
    if isinstance(value, bytes):
        return value.hex().encode()
    return str(value).translate(_ESCAPES).encode()


def _list(quote: object, columns: Sequence[str], prefix: str = "") -> str:
    return ", ".join(prefix + quote(column) for column in columns)  # type: ignore[operator]

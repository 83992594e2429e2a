"""What may go into a table, checked before any database sees it: the same answer for SQLite and MySQL.

Left alone, the two differ: SQLite stores NaN as NULL, text of any length and 64 bits in an INTEGER; LOAD DATA LOCAL
turns whatever does not fit into something that does, and NULL in a NOT NULL column into 0. Here each is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

from sqlalchemy import Column, Table
from sqlalchemy import types as sqltypes
from sqlalchemy.dialects import mysql

from ray_app.errors import StorageError

Cell = int | float | str | bytes | None
_MYSQL = mysql.dialect()
_BYTES_OF_TEXT = {"TINYTEXT": 255, "TEXT": 65_535, "MEDIUMTEXT": 2**24 - 1, "LONGTEXT": 2**32 - 1}
_BYTES_OF_BLOB = {"TINYBLOB": 255, "BLOB": 65_535, "MEDIUMBLOB": 2**24 - 1, "LONGBLOB": 2**32 - 1}


def checked(table: Table, rows: Sequence[Mapping[str, object]]) -> list[tuple[Cell, ...]]:
    """The rows as tuples in column order; a column that a row leaves out is NULL.

    Text in a key loses its trailing spaces: MySQL's collations compare as if they were not there. StorageError names
    table, column and row of the first value that cannot be stored as it is: NaN or infinity, NULL where the
    table wants a value, a wrong type, a number or text too long, text outside ASCII in an ASCII column.
    """
    names = [column.name for column in table.columns]
    unknown = set().union(*rows) - set(names)
    if unknown:
        raise StorageError(f"{table.name} has no column {', '.join(sorted(map(str, unknown)))}")
    columns = [_cells(table, column, [row.get(column.name) for row in rows]) for column in table.columns]
    return list(zip(*columns, strict=True))


def _cells(table: Table, column: Column[object], values: list[object]) -> Iterable[Cell]:
    clean = _cleaner(table, column.name)
    try:
        return [clean(value) for value in values]
    except (ValueError, TypeError, OverflowError) as error:
        position, problem = _first_problem(clean, values)
        raise StorageError(f"{table.name}.{column.name}, row {position}: {problem or error}") from None


def _first_problem(clean: Callable[[object], Cell], values: list[object]) -> tuple[int, str]:
    for position, value in enumerate(values):
        try:
            clean(value)
        except (ValueError, TypeError, OverflowError) as error:
            return position, str(error)
    raise AssertionError("unreachable: a value was refused a moment ago")


@lru_cache(maxsize=2_048)
def _cleaner(table: Table, name: str) -> Callable[[object], Cell]:
    column = table.columns[name]
    convert = _converter(column)

    def clean(value: object) -> Cell:
        if value is None:
            if not column.nullable:
                raise ValueError("is NULL, and the table wants a value")
            return None
        return convert(value)

    return clean


def _converter(column: Column[object]) -> Callable[[object], Cell]:
    """How a value of the column's type is checked; limits are those of the MySQL type, the tighter one."""
    kind = column.type.dialect_impl(_MYSQL)
    if isinstance(kind, sqltypes.BigInteger):
        return lambda value: _integer(value, 63)
    if isinstance(kind, sqltypes.Integer):
        return lambda value: _integer(value, 31)
    if isinstance(kind, sqltypes.Float):
        return _number
    if isinstance(kind, sqltypes.LargeBinary | mysql.MEDIUMBLOB | mysql.LONGBLOB):
        room = _BYTES_OF_BLOB[kind.compile(dialect=_MYSQL)]
        return lambda value: _binary(value, room)
    if isinstance(kind, sqltypes.String):
        ascii_only = getattr(kind, "charset", None) == "ascii"
        length = kind.length
        bytes_of_text = _BYTES_OF_TEXT.get(kind.compile(dialect=_MYSQL).split()[0]) if length is None else None
        return lambda value: _text(value, length, bytes_of_text, ascii_only=ascii_only, key=column.primary_key)
    raise StorageError(f"{column}: columns of type {column.type} have no guarded upsert")


def _integer(value: object, bits: int) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is not an integer")
    if not -(2**bits) <= value < 2**bits:
        raise ValueError(f"{value} does not fit {bits + 1} bits")
    return int(value)


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is not a finite number; what is not known is NULL")
    return number + 0.0  # -0.0 becomes 0.0: the two are equal but print differently


def _binary(value: object, room: int) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"{type(value).__name__} is not bytes")
    if len(value) > room:
        raise ValueError(f"{len(value)} bytes do not fit {room}")
    return bytes(value)


def _text(value: object, length: int | None, room: int | None, *, ascii_only: bool, key: bool) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    if key:
        value = value.rstrip(" ")
    if length is not None and len(value) > length:
        raise ValueError(f"{value[:40]!r}… has {len(value)} characters; {length} fit")
    if ascii_only:
        if not value.isascii():
            raise ValueError(f"{value[:40]!r} is not ASCII")
        return str(value)
    encoded = value.encode()  # a lone surrogate is a UnicodeEncodeError, which is a ValueError
    if room is not None and len(encoded) > room:
        raise ValueError(f"{len(encoded)} bytes of UTF-8 do not fit {room}")
    return str(value)

"""What may go into a table, checked before any database sees it: the same answer for SQLite and MySQL.

Left alone, the two differ: SQLite stores NaN as NULL, text of any length and 64 bits in an INTEGER, where MySQL refuses
each in its own words. Here each is an error that names the row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from operator import itemgetter
from typing import Any, cast

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
    taken = _taken(table, names, rows)
    cells = list(chain.from_iterable(taken))
    cleaned: dict[int, list[Cell]] = {}
    for place, column in enumerate(table.columns):
        values = cells[place :: len(names)]
        if not _check_of(table, column.name).in_order(values):
            cleaned[place] = _cleaned(table, column, values)
    if not cleaned:
        return cast("list[tuple[Cell, ...]]", taken)
    columns = list(zip(*taken, strict=True))
    return list(zip(*(cleaned.get(place, values) for place, values in enumerate(columns)), strict=True))


def _taken(table: Table, names: list[str], rows: Sequence[Mapping[str, object]]) -> list[tuple[object, ...]]:
    if all(len(row) == len(names) for row in rows):
        try:
            return list(map(itemgetter(*names), rows))  # as many names as there are, and all of them: none is unknown
        except KeyError:
            pass
    unknown = set().union(*rows) - set(names)
    if unknown:
        raise StorageError(f"{table.name} has no column {', '.join(sorted(map(str, unknown)))}")
    return [tuple(map(row.get, names)) for row in rows]


def _cleaned(table: Table, column: Column[object], values: Sequence[object]) -> list[Cell]:
    check = _check_of(table, column.name)
    try:
        return [check.clean(value) for value in values]
    except (ValueError, TypeError, OverflowError) as error:
        position, problem = _first_problem(check.clean, values)
        raise StorageError(f"{table.name}.{column.name}, row {position}: {problem or error}") from None


def _first_problem(clean: Callable[[object], Cell], values: Sequence[object]) -> tuple[int, str]:
    for position, value in enumerate(values):
        try:
            clean(value)
        except (ValueError, TypeError, OverflowError) as error:
            return position, str(error)
    raise AssertionError("unreachable: a value was refused a moment ago")


@dataclass(frozen=True)
class _Check:
    """How the values of one column are checked.

    ``convert`` checks (and normalises) one value that is not None. ``plain`` looks at all of them at once, at C
    speed, and is true only if ``convert`` would return each as it is: the usual case, four times faster.
    """

    kind: type
    nullable: bool
    convert: Callable[[object], Cell]
    plain: Callable[[Sequence[Any]], bool]

    def clean(self, value: object) -> Cell:
        if value is None:
            if not self.nullable:
                raise ValueError("is NULL, and the table wants a value")
            return None
        return self.convert(value)

    def in_order(self, values: Sequence[Any]) -> bool:
        kinds = set(map(type, values))
        if type(None) in kinds:
            if not self.nullable:
                return False
            kinds.discard(type(None))
            values = [value for value in values if value is not None]
        return not kinds or (kinds == {self.kind} and self.plain(values))


@lru_cache(maxsize=2_048)
def _check_of(table: Table, name: str) -> _Check:
    """The limits are those of the column's MySQL type, the tighter one."""
    column = table.columns[name]
    kind, nullable = column.type.dialect_impl(_MYSQL), bool(column.nullable)
    if isinstance(kind, sqltypes.Integer):
        bits = 63 if isinstance(kind, sqltypes.BigInteger) else 31
        return _Check(int, nullable, partial(_integer, bits=bits), partial(_plain_integers, bits=bits))
    if isinstance(kind, sqltypes.Float):
        return _Check(float, nullable, _number, _plain_numbers)
    if isinstance(kind, sqltypes.LargeBinary | mysql.MEDIUMBLOB | mysql.LONGBLOB):
        room = _BYTES_OF_BLOB[kind.compile(dialect=_MYSQL)]
        return _Check(bytes, nullable, partial(_binary, room=room), partial(_plain_binaries, room=room))
    if isinstance(kind, sqltypes.String):
        limits = _TextLimits(
            length=kind.length,
            room=_BYTES_OF_TEXT.get(kind.compile(dialect=_MYSQL).split()[0]) if kind.length is None else None,
            ascii_only=getattr(kind, "charset", None) == "ascii",
            key=column.primary_key,
        )
        return _Check(str, nullable, limits.text, limits.plain)
    raise StorageError(f"{column}: columns of type {column.type} have no guarded upsert")


def _integer(value: object, bits: int) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is not an integer")
    if not -(1 << bits) <= value < 1 << bits:
        raise ValueError(f"{value} does not fit {bits + 1} bits")
    return int(value)


def _plain_integers(values: Sequence[int], bits: int) -> bool:
    return -(1 << bits) <= min(values) and max(values) < 1 << bits


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is not a finite number; what is not known is NULL")
    return number + 0.0  # -0.0 becomes 0.0: the two are equal but print differently


def _plain_numbers(values: Sequence[float]) -> bool:
    return math.isfinite(sum(values)) and 0.0 not in values  # finite sum: no NaN, no infinity


def _binary(value: object, room: int) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"{type(value).__name__} is not bytes")
    if len(value) > room:
        raise ValueError(f"{len(value)} bytes do not fit {room}")
    return bytes(value)


def _plain_binaries(values: Sequence[bytes], room: int) -> bool:
    return max(map(len, values)) <= room


@dataclass(frozen=True)
class _TextLimits:
    """``length`` in characters, ``room`` in bytes of UTF-8; None: not limited in that unit."""

    length: int | None
    room: int | None
    ascii_only: bool
    key: bool

    def text(self, value: object) -> str:
        if not isinstance(value, str):
            raise TypeError(f"{value!r} is not text")
        if self.key:
            value = value.rstrip(" ")
        if self.length is not None and len(value) > self.length:
            raise ValueError(f"{value[:40]!r}… has {len(value)} characters; {self.length} fit")
        if self.ascii_only and not value.isascii():
            raise ValueError(f"{value[:40]!r} is not ASCII")
        encoded = value.encode()  # a lone surrogate is a UnicodeEncodeError, which is a ValueError
        if self.room is not None and len(encoded) > self.room:
            raise ValueError(f"{len(encoded)} bytes of UTF-8 do not fit {self.room}")
        return str(value)

    def plain(self, values: Sequence[str]) -> bool:
        """ASCII throughout, short enough, and (in a key) without trailing spaces."""
        together = "\n".join(values)
        if not together.isascii() or (self.key and (" \n" in together or together.endswith(" "))):
            return False
        limit = self.length if self.length is not None else self.room
        return limit is None or max(map(len, values)) <= limit

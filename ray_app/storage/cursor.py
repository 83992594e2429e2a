"""The MySQL driver's cursor as the node uses it: counts as SQLite counts, and many rows by prepared statement.

PyMySQL makes SQL text of every value, cell by cell, and the server reads it back digit by digit: of a row of 200
numbers that is nearly all the work (benchmarks/ingest.py). A prepared statement takes values as they lie in memory.
PyMySQL has none, so this file speaks the part of the protocol that writing needs; MySQL and MariaDB share it since
4.1: https://mariadb.com/kb/en/3-binary-protocol-prepared-statements/
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, compress
from typing import Any, Self
from weakref import WeakSet

import pymysql.cursors
from pymysql.protocol import OKPacketWrapper

logger = logging.getLogger(__name__)

#: Parameters of one statement: it takes rows until it has so many. The server describes each of them in a packet.
_PARAMETERS = 4_096
#: Bytes of one execution, far below any server's max_allowed_packet: PyMySQL's own measure for text.
_EXECUTION_BYTES = pymysql.cursors.Cursor.max_stmt_length

_PREPARE, _EXECUTE, _CLOSE = 0x16, 0x17, 0x19
#: The protocol's number of a type and, for numbers, struct's letter.
_TYPES: dict[type, tuple[int, str]] = {int: (8, "q"), float: (5, "d"), str: (253, ""), bytes: (252, "")}
_BITS_OF_NULL = bytes.maketrans(b"\0\1", b"10")

#: What servers and proxies answer that know no prepared statements, or hold too many.
_NOT_PREPARED = frozenset({1047, 1295, 1461})
#: The connections to such servers.
_text_only: WeakSet[Any] = WeakSet()


@dataclass(frozen=True)
class Batch:
    """The rows of one INSERT … VALUES: as the only parameter of a statement they go by prepared statement.

    ``kinds``: each column's type, one of int (of 64 bits), float, str and bytes; every value has it, or is NULL.
    """

    kinds: Sequence[type]
    rows: Sequence[Sequence[Any]]


class Cursor(pymysql.cursors.Cursor):
    """Makes ``rowcount`` mean on MySQL what it means on SQLite, and takes a :class:`Batch`.

    UPDATE: rows matched by WHERE. INSERT … ON DUPLICATE KEY UPDATE: rows inserted or really changed (MySQL reports
    2 for a changed row). The server says both in the OK packet's text: ``Rows matched: N`` and ``Duplicates: D``.
    It needs a session without CLIENT_FOUND_ROWS, under which unchanged rows cannot be told from inserted ones.
    """

    def _query(self, q: str | bytes) -> int:
        super()._query(q)  # type: ignore[misc]  # not in the stubs
        text = self._result.message or b""  # type: ignore[attr-defined]
        if b"Rows matched:" in text:
            self.rowcount = int(text.split(b":", 1)[1].split()[0])
        elif _upserts(q):
            self.rowcount = _changed(self.rowcount, text)
        return self.rowcount

    def execute(self, query: str, args: Any = None) -> int:
        """As the driver's; of a batch, ``query`` has one row of ``%s`` after VALUES and is run for every row."""
        if not (isinstance(args, tuple) and len(args) == 1 and isinstance(args[0], Batch)):
            return super().execute(query, args)
        batch: Batch = args[0]
        size = _rows_at_once(batch)
        whole = len(batch.rows) // size * size
        changed = self._prepared(query, batch, range(0, whole, size))
        if whole < len(batch.rows):
            changed += self._prepared(query, batch, range(whole, len(batch.rows), len(batch.rows) - whole))
        self.rowcount = changed
        return changed

    def _prepared(self, query: str, batch: Batch, places: range) -> int:
        """The rows changed of those in ``places``, whose step is the rows of one execution."""
        statement = self._prepare(query, len(batch.kinds), places.step)
        if statement is None:
            return self.executemany(query, batch.rows[places.start : places.stop]) or 0
        with statement:
            return statement.write(batch, places)

    def _prepare(self, query: str, columns: int, rows: int) -> _Statement | None:
        """None if the server refuses to, which is asked once in a connection."""
        if self.connection in _text_only:
            return None
        row = f"({', '.join(['%s'] * columns)})"
        head, guard = query.split(row)
        try:
            return _Statement(self.connection, head + ", ".join([row.replace("%s", "?")] * rows) + guard)
        except pymysql.MySQLError as error:
            if error.args[0] not in _NOT_PREPARED:
                raise
            _text_only.add(self.connection)
            logger.warning("prepared statements are refused (%s); writing rows as text, which is slower", error)
            return None


def _upserts(query: str | bytes) -> bool:
    if isinstance(query, str):
        return "ON DUPLICATE KEY UPDATE" in query
    return b"ON DUPLICATE KEY UPDATE" in query


def _changed(affected: int, text: bytes) -> int:
    """Rows inserted or changed, from the OK packet of an INSERT … ON DUPLICATE KEY UPDATE."""
    if b"Duplicates:" in text:
        return affected - int(text.split(b"Duplicates:", 1)[1].split()[0])
    return min(affected, 1)  # one row of VALUES comes without a text


class _Statement:
    """A statement the server has prepared, until the block ends."""

    def __init__(self, connection: Any, sql: str) -> None:
        self._connection = connection
        connection._execute_command(_PREPARE, sql)  # noqa: SLF001 - the driver offers nothing else
        reply = connection._read_packet().get_all_data()  # noqa: SLF001
        self._number, _, parameters = struct.unpack_from("<IHH", reply, 1)
        for _ in range(parameters + 1):  # what it knows of each of them, which is nothing, and that this was all
            connection._read_packet()  # noqa: SLF001

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection.open:
            self._connection._execute_command(_CLOSE, struct.pack("<I", self._number))  # noqa: SLF001 - no answer

    def write(self, batch: Batch, places: range) -> int:
        """The rows changed. While the server works on some, the next are encoded."""
        types = b"".join(struct.pack("<H", _TYPES[kind][0]) for kind in batch.kinds) * places.step
        bound = b"\1" + types
        parts = (_encoded(batch.kinds, batch.rows[start : start + places.step]) for start in places)
        changed, part = 0, next(parts, None)
        while part is not None:
            nulls, values = part
            self._execute(nulls + bound + values)
            bound = b"\0"  # the server remembers the types
            try:
                part = next(parts, None)
            finally:
                changed += self._answer()
        return changed

    def _execute(self, parameters: bytes) -> None:
        once = struct.pack("<IBI", self._number, 0, 1)
        self._connection._execute_command(_EXECUTE, once + parameters)  # noqa: SLF001

    def _answer(self) -> int:
        answer = OKPacketWrapper(self._connection._read_packet())  # noqa: SLF001
        return _changed(answer.affected_rows, answer.message)


def _rows_at_once(batch: Batch) -> int:
    """Parts as even as can be: a last one of another size is another statement to prepare."""
    texts = [place for place, kind in enumerate(batch.kinds) if not _TYPES[kind][1]]
    widest = 8 * len(batch.kinds) + sum(max(len(row[place] or "") for row in batch.rows) * 4 for place in texts)
    most = max(1, min(_PARAMETERS // len(batch.kinds), _EXECUTION_BYTES // widest))
    parts = -(-len(batch.rows) // most)
    return -(-len(batch.rows) // parts)


def _encoded(kinds: Sequence[type], rows: Sequence[Sequence[Any]]) -> tuple[bytes, bytes]:
    """Rows as an execution takes them: a bit per parameter, set where it is NULL, and the values that are not."""
    cells = list(chain.from_iterable(rows))
    formats = [_TYPES[kind][1] for kind in kinds] * len(rows)
    for place, kind in enumerate(kinds):
        if not _TYPES[kind][1]:
            column = slice(place, None, len(kinds))
            encoded = {value: _counted(value) for value in set(cells[column])}  # what repeats is encoded once
            cells[column] = [encoded[value] for value in cells[column]]
            formats[column] = [f"{len(value or b'')}s" for value in cells[column]]
    present = [cell is not None for cell in cells]
    bits = int(bytes(present).translate(_BITS_OF_NULL)[::-1], 2)
    values = struct.pack("<" + "".join(compress(formats, present)), *compress(cells, present))
    return bits.to_bytes(-(-len(cells) // 8), "little"), values


def _counted(value: str | bytes | None) -> bytes | None:
    """The bytes with their number before them, as the protocol writes it; None stays."""
    if value is None:
        return None
    raw = value.encode() if isinstance(value, str) else value
    size = len(raw)
    if size < 251:
        return size.to_bytes() + raw
    mark, width = (b"\xfc", 2) if size < 1 << 16 else (b"\xfd", 3) if size < 1 << 24 else (b"\xfe", 8)
    return mark + size.to_bytes(width, "little") + raw

"""Reads of numbers about moments: macro, on-chain, derivatives, fear and greed (tests/storage/test_source_queries.py).

A moment may have several versions (tables.py). Shown is the **current** one: the last in the order of writes. Asked
``as_of`` a time, only versions count that a consumer could know by then: the one first seen from its ``known_at``, any
other from its ``first_seen_at``. FRED states when each of its vintages was public: there the newest vintage counts;
what it says without vintages is known from the fetch that first said it.

A version's place in the order rises whenever it is seen again. What came after ``as_of`` must not raise it: a value
that was corrected and later came back would hide its correction before it came back.

As in queries.py: plain dicts, times in ms, half-open ranges, None where the upstream did not say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

from sqlalchemy import Connection, Exists, Integer, Select, Table, bindparam, case, literal, select, tuple_

from ray_app.storage.tables import derivatives_data, fear_greed, macro_indicators, onchain_data

Record = dict[str, Any]
Group = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Series:
    """A table of numbers: ``group`` names a series (the key's first columns, in its order), then comes the moment."""

    table: Table
    group: tuple[str, ...]
    moment: str = "event_time"
    version: str = "version"

    def vintages(self, group: Group) -> bool:
        """Whether ``known_at`` says of every version when that one was public, and not of the first alone."""
        if self.table is not macro_indicators:
            return False
        return str(group[self.group.index("source")]).startswith("fred.")

    def released(self, row: Record) -> int | None:
        """The day on which the source says it released the version, ms; None: it does not say."""
        dated = self.vintages(tuple(row[name] for name in self.group)) and row[self.version] == row["event_version"]
        return int(row[self.version]) if dated else None


MACRO = Series(macro_indicators, ("indicator_name", "source"), "indicator_date", "vintage")
ONCHAIN = Series(onchain_data, ("asset_id", "metric", "source"))
DERIVATIVES = Series(derivatives_data, ("asset_id", "metric", "venue", "instrument"))
FEAR_GREED = Series(fear_greed, ("source",))


# --- which series there are -----------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _next_value(series: Series, depth: int) -> Select[Any]:
    column = series.table.c[series.group[depth]]
    return (
        select(column)
        .where(*_equal(series, series.table, depth), column > bindparam("after"))
        .order_by(column)
        .limit(1)
    )


def next_value_query(series: Series, prefix: Group, after: Any) -> Select[Any]:
    """The next value of the column behind ``prefix``: one step on the primary key, however long the series."""
    return _next_value(series, len(prefix)).params(_next_values(series, prefix, after))


def _next_values(series: Series, prefix: Group, after: Any) -> Record:
    numbers = series.table.c[series.group[len(prefix)]].type.python_type is int
    below_any = -1 if numbers else ""  # a bound from below: nobody reads the index from its end on
    return _values(prefix) | {"after": below_any if after is None else after}


def _next(conn: Connection, series: Series, prefix: Group, after: Any) -> Any:
    return conn.scalar(_next_value(series, len(prefix)), _next_values(series, prefix, after))


def groups(conn: Connection, series: Series, prefix: Group = (), after: Group | None = None) -> Iterator[Group]:
    """The series that begin with ``prefix``, in key order; ``after``: only those behind this one.

    A few steps on the key for each; a whole ``prefix`` is taken for a series unseen.
    """
    depth = len(prefix)
    if depth == len(series.group):
        if after is None:
            yield prefix
        return
    value = after[depth] if after is not None else None
    if after is not None:
        yield from groups(conn, series, (*prefix, value), after)
    while (value := _next(conn, series, prefix, value)) is not None:
        yield from groups(conn, series, (*prefix, value))


def names(conn: Connection, series: Series) -> list[str]:
    """The values of the key's first column."""
    found: list[str] = []
    value = None
    while (value := _next(conn, series, (), value)) is not None:
        found.append(value)
    return found


def _equal(series: Series, table: Any, depth: int) -> list[Any]:
    return [table.c[name] == bindparam(f"g{i}") for i, name in enumerate(series.group[:depth])]


def _values(group: Group) -> Record:
    return {f"g{i}": value for i, value in enumerate(group)}


# --- the version to show --------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _statement(series: Series, vintages: bool, bounds: frozenset[str], newest: bool) -> Select[Any]:
    """Built once a kind: to build such a statement takes ten times as long as to run it."""
    shown, other = series.table.alias("o"), series.table.alias("n")
    moment = shown.c[series.moment]
    known = _known_at(series, shown, vintages)
    point_in_time = "as_of" in bounds
    higher, lower = (_place(series, one, vintages, point_in_time) for one in (other, shown))
    rival = [higher > lower]
    if point_in_time:
        rival.append(_known_at(series, other, vintages) <= bindparam("as_of"))
    others = [column for column in shown.c if column.name != "known_at"]
    query = select(*others, known.label("known_at")).where(
        *_equal(series, shown, len(series.group)), ~_another(series, shown, other, rival)
    )
    limits = {"start": moment >= bindparam("start"), "end": moment < bindparam("end")}
    limits["as_of"] = known <= bindparam("as_of")
    query = query.where(*(limit for name, limit in limits.items() if name in bounds))
    if newest:
        query = query.where(shown.c.value.is_not(None))
    return query.order_by(moment.desc() if newest else moment).limit(bindparam("limit", type_=Integer))


def _asked(series: Series, group: Group, limit: int, newest: bool, **bounds: int | None) -> tuple[Select[Any], Record]:
    given = {name: value for name, value in bounds.items() if value is not None}
    statement = _statement(series, series.vintages(group), frozenset(given), newest)
    return statement, _values(group) | given | {"limit": limit}


def series_query(
    series: Series,
    group: Group,
    *,
    start: int | None = None,
    end: int | None = None,
    as_of: int | None = None,
    limit: int = 1_000,
) -> Select[Any]:
    """The version to show of each moment in ``[start, end)``, ascending; ``known_at`` is that of this version."""
    statement, values = _asked(series, group, limit, False, start=start, end=end, as_of=as_of)
    return statement.params(values)


def _another(series: Series, one: Any, other: Any, such_that: list[Any]) -> Exists:
    """Whether the moment of ``one`` has another version for which the conditions hold."""
    same = [other.c[name] == one.c[name] for name in (*series.group, series.moment)]
    return select(literal(1)).where(*same, *such_that).correlate(one).exists()


def _known_at(series: Series, one: Any, vintages: bool) -> Any:
    if vintages:
        return one.c.known_at
    first = series.table.alias("f" + one.name)
    was_not_first = _another(series, one, first, [first.c.first_seen_at < one.c.first_seen_at])
    return case((was_not_first, one.c.first_seen_at), else_=one.c.known_at)


def _place(series: Series, one: Any, vintages: bool, point_in_time: bool) -> Any:
    """Where a version stands among those of its moment; of one seen again later only its first fetch counts."""
    stated, seen, version = one.c.event_version, one.c.fetched_at, one.c[series.version]
    if point_in_time:
        seen = case((seen <= bindparam("as_of"), seen), else_=one.c.first_seen_at)
        # a release states its day for good, a plain answer the day of its last repetition
        stated = case((version == stated, stated), else_=seen) if vintages else stated
    return tuple_(stated, seen, one.c.parser_version, one.c.payload_hash, version)


def latest_query(series: Series, group: Group, limit: int = 1) -> Select[Any]:
    """Newest first, moments without a value left out: those say that there is none, not what it is."""
    statement, values = _asked(series, group, limit, True)
    return statement.params(values)


def latest(conn: Connection, series: Series, group: Group, count: int = 1) -> list[Record]:
    """The newest ``count`` moments of a series that have a value, newest first."""
    return [dict(row) for row in conn.execute(*_asked(series, group, count, True)).mappings()]


def history(
    conn: Connection,
    series: Series,
    prefix: Group,
    *,
    start: int | None,
    end: int | None,
    as_of: int | None = None,
    after: tuple[Group, int] | None = None,
    limit: int = 1_000,
) -> list[Record]:
    """Moments of every series that begins with ``prefix``, series after series, each ascending.

    ``after``: series and moment of the last row of the page before.
    """
    rows: list[Record] = []
    resumed = [after[0]] if after is not None else []
    for group in chain(resumed, groups(conn, series, prefix, after[0] if after is not None else None)):
        begin = start
        if after is not None and group == after[0]:
            begin = max(after[1] + 1, start if start is not None else after[1] + 1)
        asked = _asked(series, group, limit - len(rows), False, start=begin, end=end, as_of=as_of)
        rows += [dict(row) for row in conn.execute(*asked).mappings()]
        if len(rows) >= limit:
            break
    return rows

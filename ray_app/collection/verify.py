"""Proving that what is stored is what the archive says: days, rows, one row, and a hash that names a whole data set.

One pass over the archive by rising fetch id, beside one pass over ``fetches`` in the same order; rows are compared
some thousands at a time. Memory is bounded by such a batch, however much there is. Nothing is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, Row, Table, exists, func, select

from ray_app.assets import AssetRegistry
from ray_app.clock import DAY_MS, iso
from ray_app.collection import manifest
from ray_app.collection.archive import Archive, ArchivedAt
from ray_app.collection.digest import VALUE_TABLES, Digest, asked, digest
from ray_app.collection.manifest import WHOLE_DAY, DayManifest, Root
from ray_app.collection.refresh import PRODUCTS, refreshed
from ray_app.collection.reprocess import first_registry
from ray_app.errors import ArchiveError
from ray_app.sources.base import Exchange
from ray_app.storage.engine import Database
from ray_app.storage.lookup import rows_of_keys
from ray_app.storage.tables import fetches, market_data, ohlc_data, price_data_real
from ray_app.storage.upsert import key_columns, order_columns

_BATCH_ITEMS, _BATCH_ROWS = 500, 6_000
_PAGE = 1_000
#: the column that says which time a row is about
TIME_COLUMNS = {price_data_real.name: "slot", ohlc_data.name: "open_time", market_data.name: "event_time"}


@dataclass
class Day:
    """What became of a day (yyyymmdd). ``recorded``: None where the day has no manifest (yet)."""

    day: int
    found: Root
    recorded: Root | None
    settled: bool

    def __str__(self) -> str:
        text = f"{_day(self.day)}  {self.found.answers} answers, {self.found.payload_bytes} bytes  {self.found.root}"
        if self.recorded is not None:
            return f"{text}  {'as recorded' if self.recorded == self.found else 'NOT AS RECORDED'}"
        return f"{text}  {'not recorded yet: a running node does it' if self.settled else 'not over yet'}"


@dataclass
class Verified:
    """What was compared, and what was wrong: at most ``limit`` problems are kept, all are counted.

    ``stored``: rows by table; ``found``: how many of them are what the payload they name says.
    """

    limit: int = 20
    days: list[Day] = field(default_factory=list)
    answers: int = 0
    stored: dict[str, int] = field(default_factory=dict)
    found: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    problem_count: int = 0

    @property
    def ok(self) -> bool:
        """Every stored value was found, and every day is as recorded."""
        return self.problem_count == 0

    def problem(self, text: str) -> None:
        """Note what is wrong."""
        self.problem_count += 1
        if len(self.problems) < self.limit:
            self.problems.append(text)

    def __str__(self) -> str:
        per_table = ", ".join(f"{name} {self.found[name]} of {total}" for name, total in sorted(self.stored.items()))
        return f"{self.answers} archived answers; rows found in the payload they name: {per_table}"


class _Answer(NamedTuple):
    fetched_at: int
    rows: dict[str, list[dict[str, Any]]]
    indexed: bool


def verify(
    archive: Archive, db: Database, *, now_ms: int, start: int | None = None, end: int | None = None, limit: int = 20
) -> Verified:
    """Read every archived answer fetched in ``[start, end)`` ms (default: all) and compare what there is to compare.

    * its place and its body's hash with ``fetches``, both ways;
    * each day's manifest with the one recorded when the day was settled;
    * every stored row with the payload it names, and that no older statement stands where this payload's should.

    ``now_ms``: node time. What a node archived on a day that is not settled may be about to be committed, so that it is
    not in ``fetches`` is no problem. ``start`` and ``end`` are midnights where manifests are to be compared.
    """
    report = Verified(limit)
    settled = manifest.settled_before(now_ms)
    with db.read() as conn:
        report.stored = {name: _count(conn, table, start, end) for name, table in VALUE_TABLES.items()}
        report.found = dict.fromkeys(VALUE_TABLES, 0)
        known = _Registries(conn, archive, *first_registry(db), start)
        index = _Index(conn, start, end)
        days = _Days(conn, report, settled)
        damage: dict[str, str] = {}
        batch: list[_Answer] = []
        rows = 0
        for at, _, exchange in archive.scan(start=start, end=end, on_damage=lambda e: _note(damage, e)):
            full = rows >= _BATCH_ROWS or len(batch) >= _BATCH_ITEMS
            if full and exchange.fetched_at > batch[-1].fetched_at:  # one moment's answers stay together
                _compare(conn, batch, report)
                batch, rows = [], 0
            report.answers += 1
            days.add(at, exchange)
            indexed = index.compare(at, exchange, report, damage, must=exchange.fetched_at < settled)
            found = digest(exchange, at, known.now)
            known.after(conn, archive, at, exchange, found)
            batch.append(_Answer(exchange.fetched_at, found.rows, indexed))
            rows += found.row_count
        _compare(conn, batch, report)
        index.rest(report, damage)
        days.end()
        for table in VALUE_TABLES.values():
            _missing(conn, table, report, start, end)
    return report


def _note(damage: dict[str, str], error: ArchiveError) -> None:
    if len(damage) < 1_000:
        place, _, what = str(error).partition(": ")
        damage[place] = what


def _count(conn: Connection, table: Table, start: int | None, end: int | None) -> int:
    return int(conn.scalar(_fetched_in(select(func.count()).select_from(table), table, start, end)) or 0)


def _fetched_in(query: Any, table: Table, start: int | None, end: int | None) -> Any:
    query = query if start is None else query.where(table.c.fetched_at >= start)
    return query if end is None else query.where(table.c.fetched_at < end)


# --- days -----------------------------------------------------------------------------------------------------


class _Days:
    """Builds each day's manifest as its answers come by, and compares it when the day is over."""

    def __init__(self, conn: Connection, report: Verified, settled: int) -> None:
        self._conn, self._report, self._settled = conn, report, settled
        self._start: int | None = None
        self._manifest = DayManifest()
        self._missed = manifest.recorded_days(conn)

    def add(self, at: ArchivedAt, exchange: Exchange) -> None:
        start = exchange.fetched_at - exchange.fetched_at % DAY_MS
        if start != self._start:
            self.end()
            self._start, self._manifest = start, DayManifest()
        self._manifest.add(at, exchange)

    def end(self) -> None:
        if self._start is None:
            return
        day, roots = manifest.day_of(self._start), self._manifest.roots()
        recorded = manifest.recorded(self._conn, day)
        self._report.days.append(Day(day, roots[WHOLE_DAY], recorded.get(WHOLE_DAY), self._start < self._settled))
        for source in sorted(recorded.keys() | roots.keys() if recorded else ()):
            have, had = roots.get(source, _NOTHING), recorded.get(source, _NOTHING)
            if have != had and source != WHOLE_DAY:
                self._report.problem(
                    f"manifest of {_day(day)}, {source}: {had.answers} answers, {had.payload_bytes} bytes, root "
                    f"{had.root} recorded; {have.answers} answers, {have.payload_bytes} bytes, root {have.root} found"
                )


_NOTHING = Root(0, 0, "none")


def _day(day: int) -> str:
    return f"{day // 10_000:04}-{day // 100 % 100:02}-{day % 100:02}"


# --- the index of the archive ---------------------------------------------------------------------------------


class _Index:
    """``fetches`` by rising fetch id, beside the archive in the same order."""

    def __init__(self, conn: Connection, start: int | None, end: int | None) -> None:
        self._rows = self._all(conn, start, end)
        self._next = next(self._rows, None)

    @staticmethod
    def _all(conn: Connection, start: int | None, end: int | None) -> Iterator[Row[Any]]:
        last = -1 if start is None else (start << 20) - 1
        while True:
            query = select(fetches).where(fetches.c.fetch_id > last).order_by(fetches.c.fetch_id).limit(_PAGE)
            page = conn.execute(query if end is None else query.where(fetches.c.fetch_id < end << 20)).all()
            yield from page
            if len(page) < _PAGE:
                return
            last = page[-1].fetch_id

    def compare(
        self, at: ArchivedAt, exchange: Exchange, report: Verified, damage: dict[str, str], *, must: bool
    ) -> bool:
        """Look an answer up; whether it is indexed. ``must``: it is a problem if it is not."""
        while self._next is not None and self._next.fetch_id < at.fetch_id:
            self._lost(self._next, report, damage)
            self._next = next(self._rows, None)
        if self._next is None or self._next.fetch_id != at.fetch_id:
            if must:
                report.problem(f"{_place(at)}: extra: fetch {at.fetch_id} is archived and not in fetches")
            return False
        row, self._next = self._next, next(self._rows, None)
        have = {
            "segment": at.segment,
            "position": at.position,
            "payload_hash": at.payload_hash,
            "payload_bytes": at.payload_bytes,
            "source": exchange.request.endpoint,
            "request": asked(exchange.request),
            "status": exchange.status,
            "fetched_at": exchange.fetched_at,
        }
        wrong = [f"{name} {row._mapping[name]} in fetches" for name in have if row._mapping[name] != have[name]]  # noqa: SLF001 - SQLAlchemy's documented name
        if wrong:
            report.problem(
                f"{_place(at)}: changed: fetch {at.fetch_id} has payload {at.payload_hash}; {', '.join(wrong)}"
            )
        return True

    def rest(self, report: Verified, damage: dict[str, str]) -> None:
        """What is left in ``fetches`` when the archive is at its end."""
        while self._next is not None:
            self._lost(self._next, report, damage)
            self._next = next(self._rows, None)

    @staticmethod
    def _lost(row: Row[Any], report: Verified, damage: dict[str, str]) -> None:
        place = f"{row.segment} at offset {row.position}"
        why = damage.get(place, "no such record")
        report.problem(
            f"{place}: missing: fetch {row.fetch_id} ({row.source}, {iso(row.fetched_at)}) cannot be read: {why}"
        )


def _place(at: ArchivedAt) -> str:
    return f"{at.segment} at offset {at.position}"


# --- rows -----------------------------------------------------------------------------------------------------


class _Registries:
    """The registry as the node had it at each answer: the first one, and each archived refresh since.

    ``now`` still knows the product of an asset that has lost its venue: the payloads of before speak of it.
    """

    def __init__(self, conn: Connection, archive: Archive, first: AssetRegistry, at_ms: int, start: int | None) -> None:
        self._true = self.now = first
        if start is not None:
            for at, _, exchange in archive.scan(PRODUCTS, start=at_ms or None, end=start):
                self.after(conn, archive, at, exchange, digest(exchange, at, first))

    def after(self, conn: Connection, archive: Archive, at: ArchivedAt, exchange: Exchange, found: Digest) -> None:
        """Repeat the refresh that an answer led to, if it did."""
        if exchange.request.endpoint != PRODUCTS:
            return
        true = refreshed(conn, archive, at, exchange, found, self._true)
        if true is None:
            return
        lost = [
            replace(asset, coinbase_product=before.coinbase_product)
            for asset in true
            if asset.coinbase_product is None
            and (before := self.now.by_id(asset.asset_id)) is not None
            and before.coinbase_product is not None
            and true.by_product(before.coinbase_product) is None
        ]
        self._true, self.now = true, true.replaced(lost)


def _compare(conn: Connection, batch: Sequence[_Answer], report: Verified) -> None:
    """Compare what the answers say with what is stored under the same keys."""
    for name, table in VALUE_TABLES.items():
        said = [(row, answer.indexed) for answer in batch for row in answer.rows.get(name, ())]
        if said:
            _compare_table(conn, table, said, report)


def _compare_table(
    conn: Connection, table: Table, said: Sequence[tuple[dict[str, Any], bool]], report: Verified
) -> None:
    shape = _Shape(table)
    by_key: dict[tuple[Any, ...], dict[tuple[Any, ...], tuple[tuple[Any, ...], bool]]] = {}
    for row, indexed in said:
        values = tuple(map(row.get, shape.names))
        by_key.setdefault(shape.key(values), {})[shape.source(values)] = (values, indexed)
    for stored in rows_of_keys(conn, table, list(by_key)):
        statements = by_key.pop(shape.key(stored))
        for source, (values, indexed) in statements.items():
            if source == shape.source(stored):
                if wrong := [] if values == stored else shape.differing(stored, values):
                    report.problem(_unlike(table, shape, stored, values, wrong))
                else:
                    report.found[table.name] += 1
            elif indexed and shape.order(values) > shape.order(stored):
                report.problem(
                    f"{table.name} {shape.key(stored)}: payload {stored[shape.hash]} of {iso(stored[shape.fetched])} "
                    f"stands over the later payload {values[shape.hash]} of {iso(values[shape.fetched])}"
                )
            elif indexed and any(stored[i] > values[i] for i in shape.earliest):
                report.problem(
                    f"{table.name} {shape.key(stored)}: {', '.join(shape.names[i] for i in shape.earliest)} should be "
                    f"no later than payload {values[shape.hash]} of {iso(values[shape.fetched])} says"
                )
    for key, statements in by_key.items():
        for values, indexed in statements.values():
            if indexed:
                report.problem(f"{table.name} {key}: not stored, though payload {values[shape.hash]} says it")


class _Shape:
    """Where in a table's rows what is found."""

    def __init__(self, table: Table) -> None:
        self.names = [column.name for column in table.columns]
        self._key = [self.names.index(name) for name in key_columns(table)]
        self._order = [self.names.index(name) for name in order_columns(table)]
        self.earliest = [self.names.index(name) for name in table.info.get("earliest", ())]
        self.hash, self.fetched = self.names.index("payload_hash"), self.names.index("fetched_at")
        self.parser = self.names.index("parser_version")

    def key(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple([row[i] for i in self._key])

    def order(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple([row[i] for i in self._order])

    def source(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        """Which payload, fetched when, a row is of."""
        return row[self.hash], row[self.fetched]

    def differing(self, stored: tuple[Any, ...], said: tuple[Any, ...]) -> list[int]:
        """Columns that differ; those that keep the earliest value of all payloads may be lower than this one says."""
        return [
            i for i in range(len(self.names)) if (stored[i] > said[i] if i in self.earliest else stored[i] != said[i])
        ]


def _unlike(table: Table, shape: _Shape, stored: tuple[Any, ...], said: tuple[Any, ...], wrong: Sequence[int]) -> str:
    text = f"{table.name} {shape.key(stored)}: " + ", ".join(
        f"{shape.names[i]} is {stored[i]!r}, payload {said[shape.hash]} says {said[i]!r}" for i in wrong[:3]
    )
    if len(wrong) > 3:
        text += f", and {len(wrong) - 3} more columns differ"
    if stored[shape.parser] < said[shape.parser]:
        text += " (an older parser's row: run crypto-data reprocess)"
    return text


def _missing(conn: Connection, table: Table, report: Verified, start: int | None, end: int | None) -> None:
    """Rows that no payload was found for, named where they are few."""
    missing = report.stored[table.name] - report.found[table.name]
    if missing <= 0:
        return
    orphans = select(table).where(~exists().where(fetches.c.payload_hash == table.c.payload_hash)).limit(5)
    for row in conn.execute(_fetched_in(orphans, table, start, end)):
        report.problem(f"{table.name}: no archived payload for {tuple(row)!r:.300}")
    report.problem(f"{table.name}: {missing} rows are not what the payload they name says")


# --- one row --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RowProof:
    """A stored row, the payload it names, and what that payload says of it. ``problem``: None if they are one."""

    stored: dict[str, Any]
    fetch: dict[str, Any] | None
    derived: dict[str, Any] | None
    problem: str | None


def prove_rows(archive: Archive, db: Database, table: Table, key: dict[str, Any], *, limit: int = 20) -> list[RowProof]:
    """Each stored row that has these key columns (some or all of them), with its proof; at most ``limit``."""
    with db.read() as conn:
        query = select(table).where(*(table.c[name] == value for name, value in key.items()))
        rows = conn.execute(query.order_by(*table.primary_key.columns).limit(limit)).all()
        first = first_registry(db)
        return [_prove(conn, archive, table, dict(row._mapping), first) for row in rows]  # noqa: SLF001 - documented


def _prove(
    conn: Connection, archive: Archive, table: Table, stored: dict[str, Any], first: tuple[AssetRegistry, int]
) -> RowProof:
    columns = fetches.c
    query = select(fetches).where(
        columns.payload_hash == stored["payload_hash"], columns.fetched_at == stored["fetched_at"]
    )
    named = [dict(row._mapping) for row in conn.execute(query.order_by(columns.fetch_id))]  # noqa: SLF001
    if not named:
        return RowProof(stored, None, None, "no archived answer has this payload hash and time")
    registry = _Registries(conn, archive, *first, stored["fetched_at"] + 1).now
    shape, problem = _Shape(table), ""
    have = tuple(stored[name] for name in shape.names)
    for fetch in named:  # one body may have answered two requests in one millisecond
        try:
            at, exchange = archive.record(fetch["segment"], fetch["position"])
        except ArchiveError as error:
            problem = str(error)
            continue
        if at.payload_hash != stored["payload_hash"]:
            problem = f"{_place(at)}: the body there has the hash {at.payload_hash}"
            continue
        for row in digest(exchange, at, registry).rows.get(table.name, ()):
            said = tuple(map(row.get, shape.names))
            if shape.key(said) == shape.key(have):
                wrong = shape.differing(have, said)
                text = _unlike(table, shape, have, said, wrong) if wrong else None
                return RowProof(stored, fetch, dict(zip(shape.names, said, strict=True)), text)
        problem = f"{_place(at)}: the payload says nothing of this key"
    return RowProof(stored, named[0], None, problem)


# --- a data set -----------------------------------------------------------------------------------------------


def dataset_hash(db: Database, table: Table, start: int | None = None, end: int | None = None) -> tuple[int, str]:
    """(rows, SHA-256 in hex) of a table's rows whose slot, open or event time lies in ``[start, end)`` ms.

    The hash is of the table's name and columns, and of each row by rising key as a JSON array: the same rows have
    the same hash on every database and after every rebuild. It covers provenance, so it names the payloads too.
    """
    names = [column.name for column in table.columns]
    found = hashlib.sha256(orjson.dumps([table.name, names]))
    time = table.c[TIME_COLUMNS[table.name]]
    query = select(table).order_by(*table.primary_key.columns)
    query = query if start is None else query.where(time >= start)
    query = query if end is None else query.where(time < end)
    count = 0
    with db.read() as conn:
        for row in conn.execution_options(stream_results=True, yield_per=5_000).execute(query):
            found.update(b"\n" + orjson.dumps(list(row)))
            count += 1
    return count, found.hexdigest()

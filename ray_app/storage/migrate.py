"""The schema's state: bring a database up to date, or say precisely how it differs.

``upgrade`` runs the Alembic chain under a lock, so that several processes may start at once. ``check`` compares what is
there with storage/tables.py: every difference is one sentence.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Connection, Table, UniqueConstraint, inspect, text
from sqlalchemy import types as sqltypes
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.exc import DBAPIError, UnreflectableTableError

from ray_app.errors import SchemaDrift, StorageError
from ray_app.storage.engine import Database
from ray_app.storage.tables import MYSQL, VIEWS, metadata

VERSION_TABLE = "schema_version"
_LOCK_WAIT_S = 120


def upgrade(db: Database) -> str:
    """Run every migration that has not run; the revision the database is at now.

    Safe to call from many processes at once: one runs the chain, the others wait and find it done. On SQLite a
    failing chain leaves nothing behind; on MySQL (where DDL commits) it is simply run again.
    """
    return db.run(_upgrade)


def _upgrade(conn: Connection) -> str:
    if conn.dialect.name != "sqlite":
        lock = f"crypto-data upgrade {conn.scalar(text('SELECT DATABASE()'))}"[:64]
        if conn.scalar(text("SELECT GET_LOCK(:name, :wait)"), {"name": lock, "wait": _LOCK_WAIT_S}) != 1:
            raise StorageError(f"another process has been upgrading the schema for {_LOCK_WAIT_S} s; try again later")
        try:
            return _run_chain(conn)
        finally:
            conn.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": lock})
    return _run_chain(conn)


def _run_chain(conn: Connection) -> str:
    config = _config()
    newest = ScriptDirectory.from_config(config).get_current_head() or ""
    if found := list(_foreign(conn)) or list(_newer(conn)):
        raise SchemaDrift("nothing was changed: " + "; ".join(found))
    if _revision(conn) != newest:
        config.attributes["connection"] = conn
        command.upgrade(config, "head")
    return newest


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _revision(conn: Connection) -> str | None:
    """The revision a database is at; None: no migration has run. Only after :func:`_foreign` found nothing."""
    return MigrationContext.configure(conn, opts={"version_table": VERSION_TABLE}).get_current_revision()


def require_current(db: Database) -> None:
    """SchemaDrift, with every difference and what to do, unless the schema is exactly this version's."""
    if found := check(db):
        raise SchemaDrift(f"{db.where}: the schema is not this version's: " + "; ".join(found))


def check(db: Database) -> list[str]:
    """Every difference between the database's schema and this version's, one sentence each; [] = none."""
    with db.read() as conn:
        drift = list(_foreign(conn)) or list(_revision_drift(conn))
        if drift and not metadata.tables.keys() & set(inspect(conn).get_table_names()):
            return drift  # nothing of ours is there: that each table is missing says no more
        return [*drift, *_table_drift(conn), *_view_drift(conn)]


def _revision_drift(conn: Connection) -> Iterator[str]:
    newest, present = ScriptDirectory.from_config(_config()).get_current_head(), _revision(conn)
    if present is None:
        yield f"no migration has run, {newest} is expected: run crypto-data db upgrade"
    elif newer := list(_newer(conn)):
        yield from newer
    elif present != newest:
        yield f"the schema is at revision {present}, {newest} is expected: run crypto-data db upgrade"


def _newer(conn: Connection) -> Iterator[str]:
    present = _revision(conn)
    if present not in {None, *(one.revision for one in ScriptDirectory.from_config(_config()).walk_revisions())}:
        yield f"the schema is at revision {present}, which this version does not know: a newer version has used it"


def _foreign(conn: Connection) -> Iterator[str]:
    """Tables that have our names and not our columns in a database no migration of ours has touched."""
    inspector = inspect(conn)
    present = set(inspector.get_table_names())
    foreign: list[str] = []
    if VERSION_TABLE in present and "version_num" not in {c["name"] for c in inspector.get_columns(VERSION_TABLE)}:
        foreign.append(VERSION_TABLE)
    elif _revision(conn) is None:
        foreign += [t.name for t in metadata.sorted_tables if t.name in present and any(_column_drift(conn, t))]
    for name in foreign:
        yield f"table {name} is another program's: give the node a database of its own (MYSQL_DATABASE, DATABASE_URL)"


# --- tables ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shape:
    """What of a column is compared. ``collation`` is None where the database has none of its own (SQLite)."""

    type: str
    nullable: bool
    collation: str | None


def _table_drift(conn: Connection) -> Iterator[str]:
    present = set(inspect(conn).get_table_names())
    for table in metadata.sorted_tables:
        if table.name not in present:
            yield f"table {table.name} is missing"
            continue
        if conn.dialect.name != "sqlite" and (engine := _mysql_engine_of(conn, table)) != MYSQL["mysql_engine"]:
            yield f"table {table.name} is stored by {engine}, {MYSQL['mysql_engine']} is expected"
        yield from _column_drift(conn, table)
        yield from _index_drift(conn, table)


def _column_drift(conn: Connection, table: Table) -> Iterator[str]:
    found = _sqlite_columns(conn, table) if conn.dialect.name == "sqlite" else _mysql_columns(conn, table)
    for column in table.columns:
        where, wanted = f"column {table.name}.{column.name}", _wanted(conn, column)
        there = found.get(column.name)
        if there is None:
            yield f"{where} is missing"
            continue
        if there.type != wanted.type:
            yield f"{where} is {there.type}, {wanted.type} is expected"
        if there.nullable != wanted.nullable:
            yield f"{where} {_may(there)} be NULL, and it {_may(wanted)} by this version"
        if there.collation != wanted.collation:
            yield f"{where} has collation {there.collation}, {wanted.collation} is expected"
    for name in found.keys() - {column.name for column in table.columns}:
        yield f"column {table.name}.{name} is not of this version"


def _may(shape: _Shape) -> str:
    return "may" if shape.nullable else "may not"


def _wanted(conn: Connection, column: Column[object]) -> _Shape:
    if conn.dialect.name == "sqlite":
        return _Shape(column.type.compile(dialect=sqlite.dialect()).upper(), bool(column.nullable), None)
    kind = column.type.dialect_impl(mysql.dialect())
    spelled = kind.compile(dialect=mysql.dialect()).split(" CHARACTER SET")[0]
    collation = (getattr(kind, "collation", None) or MYSQL["mysql_collate"]) if _is_text(kind) else None
    return _Shape(_plain(spelled), bool(column.nullable), collation)


def _is_text(kind: sqltypes.TypeEngine[object]) -> bool:
    return isinstance(kind, sqltypes.String)


def _plain(mysql_type: str) -> str:
    """One spelling: MariaDB adds display widths (``bigint(20)``), INTEGER is INT."""
    plain = re.sub(r"^((?:BIG)?INT)(?:EGER)?(?:\(\d+\))?", r"\1", mysql_type.upper())
    return re.sub(r"^DOUBLE(?: PRECISION)?$", "DOUBLE", plain)


def _sqlite_columns(conn: Connection, table: Table) -> dict[str, _Shape]:
    rows = conn.exec_driver_sql(f"PRAGMA table_info({table.name})")
    return {row.name: _Shape(row.type.upper(), not row.notnull, None) for row in rows}


def _mysql_columns(conn: Connection, table: Table) -> dict[str, _Shape]:
    rows = conn.execute(
        text(
            "SELECT column_name, column_type, is_nullable, collation_name FROM information_schema.columns "
            "WHERE table_schema = DATABASE() AND table_name = :name"
        ),
        {"name": table.name},
    )
    return {name: _Shape(_plain(kind), null == "YES", collation) for name, kind, null, collation in rows}


def _mysql_engine_of(conn: Connection, table: Table) -> str:
    """MyISAM knows no transactions: values and events would no longer come together."""
    query = "SELECT engine FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = :name"
    return str(conn.scalar(text(query), {"name": table.name}))


def _index_drift(conn: Connection, table: Table) -> Iterator[str]:
    inspector = inspect(conn)
    key = tuple(inspector.get_pk_constraint(table.name)["constrained_columns"])
    wanted_key = tuple(column.name for column in table.primary_key.columns)
    if key != wanted_key:
        yield f"the primary key of {table.name} is ({', '.join(key)}), ({', '.join(wanted_key)}) is expected"
    found = {tuple(index["column_names"]): bool(index["unique"]) for index in inspector.get_indexes(table.name)}
    found |= {tuple(unique["column_names"]): True for unique in inspector.get_unique_constraints(table.name)}
    wanted = {tuple(column.name for column in index.columns): bool(index.unique) for index in table.indexes}
    wanted |= {
        tuple(column.name for column in constraint.columns): True
        for constraint in table.constraints
        if isinstance(constraint, UniqueConstraint)
    }
    for columns, unique in wanted.items():
        name = f"{'unique ' if unique else ''}index on {table.name} ({', '.join(columns)})"
        if columns not in found:
            yield f"{name} is missing"
        elif found[columns] != unique:
            yield f"{name} is {'not unique' if unique else 'unique'}"
    for there, unique in found.items():
        if unique and there not in wanted and there != wanted_key:
            named = ", ".join(column or "an expression" for column in there)
            yield f"unique index on {table.name} ({named}) is not of this version: it refuses rows"


# --- views ----------------------------------------------------------------------------------------------------


def _view_drift(conn: Connection) -> Iterator[str]:
    inspector = inspect(conn)
    present = set(inspector.get_view_names())
    for view, wanted in VIEWS.items():
        if view not in present:
            yield f"view {view} is missing"
            continue
        with warnings.catch_warnings():  # SQLAlchemy cannot name the type of a computed column; names are what we ask
            warnings.simplefilter("ignore")
            try:
                found = tuple(str(column["name"]) for column in inspector.get_columns(view))
            except (DBAPIError, UnreflectableTableError) as error:
                yield f"view {view} does not work: {str(error).splitlines()[0]}"
                continue
        if found != wanted:
            yield f"view {view} has columns ({', '.join(found)}), ({', '.join(wanted)}) are expected"

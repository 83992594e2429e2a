"""A database with this version's schema, on SQLite and on a real MariaDB in turn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ray_app.storage import migrate
from ray_app.storage.engine import Database


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    migrate.upgrade(database)
    yield database
    database.dispose()


@pytest.fixture
def mariadb(mariadb_url: str) -> Iterator[Database]:
    database = Database(mariadb_url)
    migrate.upgrade(database)
    yield database
    database.dispose()


@pytest.fixture
def sqlite_db(sqlite_url: str) -> Iterator[Database]:
    """An empty, migrated SQLite database: for what does not depend on which it is."""
    database = Database(sqlite_url)
    migrate.upgrade(database)
    yield database
    database.dispose()

"""A migrated database to read from and write to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ray_app.storage import migrate
from ray_app.storage.engine import Database


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    """An empty, migrated database, on SQLite and on MariaDB in turn."""
    database = Database(database_url)
    migrate.upgrade(database)
    yield database
    database.dispose()


@pytest.fixture
def sqlite_db(sqlite_url: str) -> Iterator[Database]:
    """An empty, migrated SQLite database: for tests whose subject is not the database."""
    database = Database(sqlite_url)
    migrate.upgrade(database)
    yield database
    database.dispose()

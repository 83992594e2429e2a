"""A node's database in a chosen state, and evidence made by hand."""

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
    """An empty, migrated SQLite database."""
    database = Database(sqlite_url)
    migrate.upgrade(database)
    yield database
    database.dispose()

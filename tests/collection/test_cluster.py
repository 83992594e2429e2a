"""A database on one machine's disk serves one machine."""

from __future__ import annotations

import pytest

from ray_app.collection.cluster import refuse_shared_sqlite
from ray_app.errors import ConfigError

SQLITE = "sqlite:////data/live/node.db"
MYSQL = "mysql+pymysql://node:pass-word@db/prices"


def test_one_machine_may_use_sqlite():
    refuse_shared_sqlite(SQLITE, {"10.0.0.1"})


def test_several_machines_share_a_server():
    refuse_shared_sqlite(MYSQL, {"10.0.0.1", "10.0.0.2"})


@pytest.mark.parametrize("url", [SQLITE, "sqlite+pysqlite:///node.db"])
def test_several_machines_with_sqlite_are_refused_with_reason_and_cure(url):
    with pytest.raises(ConfigError) as refused:
        refuse_shared_sqlite(url, {"10.0.0.2", "10.0.0.1"})
    said = str(refused.value)
    assert "SQLite cannot be shared by the 2 machines of this cluster (10.0.0.1, 10.0.0.2)" in said
    assert "set MYSQL_HOST or DATABASE_URL to a MySQL or MariaDB server" in said

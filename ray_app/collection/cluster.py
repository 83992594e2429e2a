"""What the cluster around a process must be able to carry. Ray-free: the edges ask Ray and pass it on."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import make_url

from ray_app.errors import ConfigError


def refuse_shared_sqlite(database_url: str, machines: Collection[str]) -> None:
    """ConfigError where several machines (by address) would share a SQLite database.

    SQLite locks by shared memory: over a network file system its locks do not hold, and without one every machine
    would write a file of its own. Two Ray nodes on one machine are fine.
    """
    if len(machines) > 1 and make_url(database_url).get_backend_name() == "sqlite":
        raise ConfigError(
            f"SQLite cannot be shared by the {len(machines)} machines of this cluster ({', '.join(sorted(machines))}): "
            "set MYSQL_HOST or DATABASE_URL to a MySQL or MariaDB server, or run a cluster of one machine"
        )

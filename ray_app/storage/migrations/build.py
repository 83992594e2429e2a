"""What migrations build tables with: columns of codes, and creation that a killed upgrade may simply repeat.

Migrations are frozen, and so is what these functions have made: a change here needs a migration of its own.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql


def code(length: int) -> sa.String:
    """Text of ASCII letters, compared byte by byte."""
    return sa.String(length).with_variant(
        mysql.VARCHAR(length, charset="ascii", collation="ascii_bin"), "mysql", "mariadb"
    )


def create(name: str, *parts: Any, indexes: list[tuple[str, ...]] | None = None) -> None:
    """Create what is not there yet: MySQL commits each DDL statement, so a killed upgrade is simply run again."""
    if not sa.inspect(op.get_bind()).has_table(name):
        op.create_table(name, *parts, mysql_engine="InnoDB", mysql_charset="utf8mb4", mysql_collate="utf8mb4_bin")
    present = {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(name)}
    for columns in indexes or []:
        index_name = f"ix_{name}_{'_'.join(columns)}"
        if index_name not in present:
            op.create_index(index_name, name, list(columns))

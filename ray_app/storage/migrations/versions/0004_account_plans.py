"""What is decided about each upstream account's month, and what the upstream says of it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _code(length: int) -> sa.String:
    return sa.String(length).with_variant(
        mysql.VARCHAR(length, charset="ascii", collation="ascii_bin"), "mysql", "mariadb"
    )


def upgrade() -> None:
    """One table. MySQL commits DDL: what a killed upgrade left is taken as it is."""
    if sa.inspect(op.get_bind()).has_table("account_plans"):
        return
    op.create_table(
        "account_plans",
        sa.Column("account", _code(32), nullable=False),
        sa.Column(
            "decision",
            sa.Text,
            comment="JSON: what the month's credits carry (collection/planner.py); NULL: undecided",
        ),
        sa.Column("key_usage", sa.Text, comment="JSON: what the upstream last said of the key (GET /key)"),
        sa.Column("updated_at", sa.BigInteger, nullable=False, comment="ms"),
        sa.PrimaryKeyConstraint("account", name="pk_account_plans"),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
    )


def downgrade() -> None:
    """It is decided again."""
    op.drop_table("account_plans")

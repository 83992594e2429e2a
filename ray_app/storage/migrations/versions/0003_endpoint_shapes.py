"""What was learnt of the shape of each endpoint's bodies."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def _code(length: int) -> sa.String:
    return sa.String(length).with_variant(
        mysql.VARCHAR(length, charset="ascii", collation="ascii_bin"), "mysql", "mariadb"
    )


def upgrade() -> None:
    """One table. MySQL commits DDL: what a killed upgrade left is taken as it is."""
    if sa.inspect(op.get_bind()).has_table("endpoint_shapes"):
        return
    op.create_table(
        "endpoint_shapes",
        sa.Column("source", _code(48), nullable=False, comment="endpoint name"),
        sa.Column(
            "shape",
            sa.Text,
            nullable=False,
            comment="JSON: fields, types and ranges learnt so far (collection/drift.py)",
        ),
        sa.Column("updated_at", sa.BigInteger, nullable=False, comment="ms: fetch of the answer that last changed it"),
        sa.PrimaryKeyConstraint("source", name="pk_endpoint_shapes"),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
    )


def downgrade() -> None:
    """It is learnt again."""
    op.drop_table("endpoint_shapes")

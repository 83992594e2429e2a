"""What the archive held on each day, as a Merkle root per endpoint and for the day."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _code(length: int) -> sa.String:
    return sa.String(length).with_variant(
        mysql.VARCHAR(length, charset="ascii", collation="ascii_bin"), "mysql", "mariadb"
    )


def upgrade() -> None:
    """One table. MySQL commits DDL: what a killed upgrade left is taken as it is."""
    if sa.inspect(op.get_bind()).has_table("archive_manifests"):
        return
    op.create_table(
        "archive_manifests",
        sa.Column("day", sa.Integer, autoincrement=False, nullable=False, comment="yyyymmdd, UTC, of fetched_at"),
        sa.Column("source", _code(48), nullable=False, comment="endpoint; '*': all of them"),
        sa.Column("answers", sa.Integer, nullable=False),
        sa.Column("payload_bytes", sa.BigInteger, nullable=False),
        sa.Column("root", _code(64), nullable=False, comment="Merkle root, SHA-256, hex (collection/manifest.py)"),
        sa.Column("recorded_at", sa.BigInteger, nullable=False, comment="ms"),
        sa.PrimaryKeyConstraint("day", "source", name="pk_archive_manifests"),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
    )


def downgrade() -> None:
    """Manifests can be computed again for as long as the archive is whole."""
    op.drop_table("archive_manifests")

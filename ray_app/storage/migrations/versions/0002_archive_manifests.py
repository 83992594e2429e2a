"""What the archive held on each day, as a Merkle root per endpoint and for the day."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from ray_app.storage.migrations.build import code, create

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One table."""
    create(
        "archive_manifests",
        sa.Column("day", sa.Integer, autoincrement=False, nullable=False, comment="yyyymmdd, UTC, of fetched_at"),
        sa.Column("source", code(48), nullable=False, comment="endpoint; '*': all of them"),
        sa.Column("answers", sa.Integer, nullable=False),
        sa.Column("payload_bytes", sa.BigInteger, nullable=False),
        sa.Column("root", code(64), nullable=False, comment="Merkle root, SHA-256, hex (collection/manifest.py)"),
        sa.Column("recorded_at", sa.BigInteger, nullable=False, comment="ms"),
        sa.PrimaryKeyConstraint("day", "source", name="pk_archive_manifests"),
    )


def downgrade() -> None:
    """Manifests can be computed again for as long as the archive is whole."""
    op.drop_table("archive_manifests")

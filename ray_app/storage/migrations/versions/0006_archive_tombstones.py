"""Which archive segments were deleted because their source's terms allow no longer keeping."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from ray_app.storage.migrations.build import code, create

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One table."""
    create(
        "archive_tombstones",
        sa.Column("segment", code(120), nullable=False, comment="as fetches.segment; its files are deleted"),
        sa.Column("source", code(48), nullable=False, comment="endpoint"),
        sa.Column("answers", sa.Integer, nullable=False, comment="that it held"),
        sa.Column("committed", sa.Integer, nullable=False, comment="of them, those that fetches knows"),
        sa.Column("payload_bytes", sa.BigInteger, nullable=False, comment="of their bodies"),
        sa.Column("purged_at", sa.BigInteger, nullable=False, comment="ms"),
        sa.Column("reason", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("segment", name="pk_archive_tombstones"),
    )


def downgrade() -> None:
    """What they stand for is gone either way; verify then takes it for missing."""
    op.drop_table("archive_tombstones")

"""How late each source is, one measurement a day."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from ray_app.storage.migrations.build import code, create

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One table."""
    create(
        "source_availability",
        sa.Column("source", code(48), nullable=False, comment="endpoint; of candles <venue>.candles"),
        sa.Column(
            "day", sa.BigInteger, nullable=False, autoincrement=False, comment="ms: midnight UTC of the measurement"
        ),
        sa.Column(
            "p50_ms",
            sa.BigInteger,
            nullable=False,
            comment="ms from the moment a value is about to when the node had it",
        ),
        sa.Column("p99_ms", sa.BigInteger, nullable=False),
        sa.Column("samples", sa.Integer, nullable=False, comment="rows it was measured on"),
        sa.Column("measured_at", sa.BigInteger, nullable=False, comment="ms"),
        sa.PrimaryKeyConstraint("source", "day", name="pk_source_availability"),
    )


def downgrade() -> None:
    """It is measured again."""
    op.drop_table("source_availability")

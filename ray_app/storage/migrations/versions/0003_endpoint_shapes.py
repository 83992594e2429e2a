"""What was learnt of the shape of each endpoint's bodies."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from ray_app.storage.migrations.build import code, create

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One table."""
    create(
        "endpoint_shapes",
        sa.Column("source", code(48), nullable=False, comment="endpoint name"),
        sa.Column(
            "shape",
            sa.Text,
            nullable=False,
            comment="JSON: fields, types and ranges learnt so far (collection/drift.py)",
        ),
        sa.Column("updated_at", sa.BigInteger, nullable=False, comment="ms: fetch of the answer that last changed it"),
        sa.PrimaryKeyConstraint("source", name="pk_endpoint_shapes"),
    )


def downgrade() -> None:
    """It is learnt again."""
    op.drop_table("endpoint_shapes")

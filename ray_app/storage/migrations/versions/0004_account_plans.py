"""What is decided about each upstream account's month, and what the upstream says of it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from ray_app.storage.migrations.build import code, create

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One table."""
    create(
        "account_plans",
        sa.Column("account", code(32), nullable=False),
        sa.Column(
            "decision",
            sa.Text,
            comment="JSON: what the month's credits carry (collection/planner.py); NULL: undecided",
        ),
        sa.Column("key_usage", sa.Text, comment="JSON: what the upstream last said of the key (GET /key)"),
        sa.Column("updated_at", sa.BigInteger, nullable=False, comment="ms"),
        sa.PrimaryKeyConstraint("account", name="pk_account_plans"),
    )


def downgrade() -> None:
    """It is decided again."""
    op.drop_table("account_plans")

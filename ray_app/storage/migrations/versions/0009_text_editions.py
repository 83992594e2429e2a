"""When each edition of a text was first seen: what a text says is not known before that."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from ray_app.storage.migrations.build import code, create

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One table. It begins with the next answers; ``crypto-data reprocess`` finds the older editions."""
    create(
        "text_editions",
        sa.Column("content_id", code(64), nullable=False),
        sa.Column("edition", code(64), nullable=False, comment="SHA-256 of title and text, hex"),
        sa.Column("kind", code(16), nullable=False, comment="crypto_news, stock_news, social_posts"),
        sa.Column("known_at", sa.BigInteger, nullable=False, comment="ms: first fetch of this edition"),
        sa.Column(
            "event_version",
            sa.BigInteger,
            nullable=False,
            comment="ms: the moment the upstream says the value is of",
        ),
        sa.Column("fetched_at", sa.BigInteger, nullable=False, comment="ms: when this node took it in"),
        sa.Column("parser_version", sa.Integer, nullable=False),
        sa.Column("payload_hash", code(64), nullable=False, comment="SHA-256 of the archived body, hex"),
        sa.PrimaryKeyConstraint("content_id", "edition", name="pk_text_editions"),
    )


def downgrade() -> None:
    """What stood in it is in the archive."""
    op.drop_table("text_editions")

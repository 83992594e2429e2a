"""When each edition of a text, and each mention, was first seen: what a text says is not known before that."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from ray_app.storage.migrations.build import code, create

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_NEW, _OLD = "text_mentions_0009", "text_mentions"
_COPIED = "content_id, asset_id, kind, term, published_at, event_version, fetched_at, parser_version, payload_hash"


def _order_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column(
            "event_version",
            sa.BigInteger,
            nullable=False,
            comment="ms: the moment the upstream says the value is of",
        ),
        sa.Column("fetched_at", sa.BigInteger, nullable=False, comment="ms: when this node took it in"),
        sa.Column("parser_version", sa.Integer, nullable=False),
        sa.Column("payload_hash", code(64), nullable=False, comment="SHA-256 of the archived body, hex"),
    ]


def upgrade() -> None:
    """A table, and a column. Mentions of before count as known when last seen; ``reprocess`` finds the true moment."""
    create(
        "text_editions",
        sa.Column("content_id", code(64), nullable=False),
        sa.Column("edition", code(64), nullable=False, comment="SHA-256 of title and text, hex"),
        sa.Column("kind", code(16), nullable=False, comment="crypto_news, stock_news, social_posts"),
        sa.Column("known_at", sa.BigInteger, nullable=False, comment="ms: first fetch of this edition"),
        *_order_columns(),
        sa.PrimaryKeyConstraint("content_id", "edition", name="pk_text_editions"),
    )
    # a copy, for SQLite adds no NOT NULL column; each step may be the one at which an earlier try was killed
    present = set(sa.inspect(op.get_bind()).get_table_names())
    if _OLD in present:
        if any(column["name"] == "known_at" for column in sa.inspect(op.get_bind()).get_columns(_OLD)):
            create(_OLD, indexes=[("asset_id", "published_at")])
            return
        if _NEW in present:
            op.drop_table(_NEW)
        _mentions()
        op.execute(f"INSERT INTO {_NEW} ({_COPIED}, known_at) SELECT {_COPIED}, fetched_at FROM {_OLD}")  # noqa: S608
        op.drop_table(_OLD)
    op.rename_table(_NEW, _OLD)
    create(_OLD, indexes=[("asset_id", "published_at")])


def _mentions() -> None:
    create(
        _NEW,
        sa.Column("content_id", code(64), nullable=False),
        sa.Column("asset_id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("kind", code(16), nullable=False, comment="crypto_news, stock_news, social_posts"),
        sa.Column("term", sa.String(100), nullable=False, comment="the words that name the asset"),
        sa.Column("published_at", sa.BigInteger, nullable=False, comment="ms; of an undated text its first fetch"),
        sa.Column("known_at", sa.BigInteger, nullable=False, comment="ms: first fetch of a text with this mention"),
        *_order_columns(),
        sa.PrimaryKeyConstraint("content_id", "asset_id", name="pk_text_mentions"),
    )


def downgrade() -> None:
    """What stood in them is in the archive."""
    op.drop_table("text_editions")
    with op.batch_alter_table(_OLD) as batch:
        batch.drop_column("known_at")

"""Parts of texts, what models make of them, and the aggregates that features read."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from ray_app.storage.migrations.build import code, create

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_SHARE = "share of texts, 0 to 1"
_POSTS_KNOWN = "ix_social_posts_known_at"


def upgrade() -> None:
    """Three tables; posts are read by when they were known.

    ``text_parts`` takes the place of ``text_editions``, whose ids were of another hash: it begins with the next
    answers; ``crypto-data reprocess`` finds the older editions.
    """
    create(
        "text_parts",
        sa.Column("content_id", code(64), nullable=False),
        sa.Column("edition", code(64), nullable=False, comment="SHA-256 of title and text, hex"),
        sa.Column(
            "asset_id",
            sa.Integer,
            nullable=False,
            autoincrement=False,
            comment="whom this part of the text is about (sentiment/stance.py); 0: the whole text",
        ),
        sa.Column("text_hash", code(64), nullable=False, comment="SHA-256 of its words, hex; of a whole the edition"),
        sa.Column("kind", code(16), nullable=False, comment="crypto_news, stock_news, social_posts"),
        sa.Column("spans", sa.Text, comment="start:end of the words in title and text (editions.py); NULL: the whole"),
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
        sa.PrimaryKeyConstraint("content_id", "edition", "asset_id", "text_hash", name="pk_text_parts"),
        indexes=[("kind", "known_at", "content_id", "asset_id", "text_hash")],
    )
    op.drop_table("text_editions", if_exists=True)
    create(
        "text_scores",
        sa.Column("text_hash", code(64), nullable=False),
        sa.Column("model", code(32), nullable=False, comment="cryptobert, finbert, vader, textblob, lexicon"),
        sa.Column(
            "revision",
            code(64),
            nullable=False,
            comment="of the model and its data: each scores a text once, ever",
        ),
        sa.Column("score", sa.Double, comment="-1 to 1; NULL: not to be scored, see reason"),
        sa.Column("p_negative", sa.Double, comment="0 to 1; NULL with a score: the model has no probabilities"),
        sa.Column("p_neutral", sa.Double),
        sa.Column("p_positive", sa.Double),
        sa.Column("reason", sa.String(200), comment="why there is no score"),
        sa.Column("known_at", sa.BigInteger, nullable=False, comment="ms: when this node first had the score"),
        sa.Column("run_id", code(64), nullable=False, comment="which run wrote it"),
        sa.PrimaryKeyConstraint("text_hash", "model", "revision", name="pk_text_scores"),
        indexes=[("model", "revision", "known_at")],
    )
    _aggregation()
    present = {index["name"] for index in sa.inspect(op.get_bind()).get_indexes("social_posts")}
    if _POSTS_KNOWN not in present:
        op.create_index(_POSTS_KNOWN, "social_posts", ["known_at"])


def _aggregation() -> None:
    create(
        "sentiment_aggregation",
        sa.Column("asset_id", sa.Integer, nullable=False, autoincrement=False, comment="0: of a market"),
        sa.Column("scope", code(16), nullable=False, comment="asset, crypto, stock"),
        sa.Column("model", code(32), nullable=False, comment="as in text_scores; ensemble"),
        sa.Column("source", code(16), nullable=False, comment="news, reddit, x, …; all: together"),
        sa.Column("window_s", sa.Integer, nullable=False, autoincrement=False, comment="seconds: 1 h, 4 h, 24 h, 7 d"),
        sa.Column("window_end", sa.BigInteger, nullable=False, autoincrement=False, comment="ms: a full hour"),
        sa.Column(
            "sentiment_volume", sa.Integer, nullable=False, comment="texts with a score; 0: all other values are NULL"
        ),
        sa.Column("avg_sentiment", sa.Double, comment="mean score, -1 to 1"),
        sa.Column("weighted_sentiment", sa.Double, comment="by confidence"),
        sa.Column("engagement_weighted_sentiment", sa.Double, comment="by log(1 + engagement)"),
        sa.Column("verified_user_sentiment", sa.Double, comment="mean of verified authors"),
        sa.Column("sentiment_positive", sa.Double, comment=_SHARE),
        sa.Column("sentiment_neutral", sa.Double, comment=_SHARE),
        sa.Column("sentiment_negative", sa.Double, comment=_SHARE),
        sa.Column("avg_confidence", sa.Double, comment="0 to 1"),
        sa.Column("sentiment_dispersion", sa.Double, comment="standard deviation of the scores"),
        sa.Column("sentiment_momentum", sa.Double, comment="avg_sentiment less that of the window before"),
        sa.Column("total_engagement", sa.BigInteger),
        sa.Column("unique_authors", sa.Integer),
        sa.Column("known_at", sa.BigInteger, nullable=False, comment="ms: when this node first had the window"),
        sa.Column("rules_version", sa.Integer, nullable=False, comment="of the aggregation: newer rules win"),
        sa.Column("computed_at", sa.BigInteger, nullable=False, comment="ms"),
        sa.Column("values_hash", code(64), nullable=False, comment="SHA-256 of the values, hex"),
        sa.PrimaryKeyConstraint(
            *("asset_id", "scope", "model", "source", "window_s", "window_end"), name="pk_sentiment_aggregation"
        ),
        indexes=[("window_end", "window_s")],
    )


def downgrade() -> None:
    """Scores and aggregates can be made again, of the texts that are still there; editions are in the archive."""
    op.drop_index(_POSTS_KNOWN, "social_posts")
    for name in ("sentiment_aggregation", "text_scores", "text_parts"):
        op.drop_table(name)
    create(
        "text_editions",
        sa.Column("content_id", code(64), nullable=False),
        sa.Column("edition", code(64), nullable=False),
        sa.Column("kind", code(16), nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("known_at", "event_version", "fetched_at")),
        sa.Column("parser_version", sa.Integer, nullable=False),
        sa.Column("payload_hash", code(64), nullable=False),
        sa.PrimaryKeyConstraint("content_id", "edition", name="pk_text_editions"),
    )

"""Macro, on-chain and derivatives statements, fear and greed, texts with mentions, answered polls; quotes of prices."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from ray_app.storage.migrations.build import code, create

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_QUOTES = {
    "bid_price": "USD; best bid, coinbase.ticker only",
    "ask_price": "USD; best ask, coinbase.ticker only",
    "volume_qty_24h": "base units, rolling 24 h, on one venue",
}
_NEW = (
    *("macro_indicators", "onchain_data", "derivatives_data", "fear_greed", "crypto_news", "stock_news"),
    *("social_posts", "text_mentions", "collection_polls"),
)


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
    """Nine tables and three columns."""
    present = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("price_data_real")}
    for name, comment in _QUOTES.items():
        if name not in present:
            op.add_column("price_data_real", sa.Column(name, sa.Double, comment=comment))
    create(
        "macro_indicators",
        sa.Column(
            "indicator_name", code(64), nullable=False, comment="one name a concept: FRED's id, or VIX, SPX, GOLD, …"
        ),
        sa.Column("source", code(48), nullable=False, comment="endpoint"),
        sa.Column(
            "indicator_date",
            sa.BigInteger,
            nullable=False,
            autoincrement=False,
            comment="ms: midnight UTC of the period",
        ),
        sa.Column(
            "vintage",
            sa.BigInteger,
            nullable=False,
            autoincrement=False,
            comment="FRED: ms, midnight UTC of realtime_start. Sources without vintages: content hash of the values",
        ),
        sa.Column("value", sa.Double, comment="NULL: the source says that there is none"),
        sa.Column("unit", code(32), nullable=False, comment="percent, index, usd, usd_per_eur, …"),
        sa.Column("open_price", sa.Double, comment="of a market's day; value is its close"),
        sa.Column("high_price", sa.Double),
        sa.Column("low_price", sa.Double),
        sa.Column("volume", sa.Double),
        sa.Column("known_at", sa.BigInteger, nullable=False, comment="ms: when this vintage was public"),
        sa.Column("first_seen_at", sa.BigInteger, nullable=False, comment="ms: first fetch of this vintage"),
        *_order_columns(),
        sa.PrimaryKeyConstraint("indicator_name", "source", "indicator_date", "vintage", name="pk_macro_indicators"),
        indexes=[("indicator_name", "indicator_date")],
    )
    create(
        "onchain_data",
        sa.Column("asset_id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("metric", code(48), nullable=False, comment="active_addresses, hash_rate, total_value_locked, …"),
        sa.Column("source", code(48), nullable=False, comment="endpoint"),
        sa.Column(
            "event_time", sa.BigInteger, nullable=False, autoincrement=False, comment="ms: what moment it is about"
        ),
        sa.Column("version", sa.BigInteger, nullable=False, autoincrement=False, comment="content hash of the value"),
        sa.Column("value", sa.Double, nullable=False),
        sa.Column("known_at", sa.BigInteger, nullable=False, comment="ms: when the first statement was public"),
        sa.Column("first_seen_at", sa.BigInteger, nullable=False, comment="ms: first fetch of this version"),
        *_order_columns(),
        sa.PrimaryKeyConstraint("asset_id", "metric", "source", "event_time", "version", name="pk_onchain_data"),
        indexes=[("metric", "event_time")],
    )
    create(
        "derivatives_data",
        sa.Column("asset_id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column(
            "metric", code(48), nullable=False, comment="funding_rate, open_interest_usd, put_call_ratio, dvol, …"
        ),
        sa.Column("venue", code(32), nullable=False, comment="binance, bybit, okx, deribit, or as CoinGecko names it"),
        sa.Column("instrument", code(64), nullable=False, comment="the venue's own symbol"),
        sa.Column(
            "event_time", sa.BigInteger, nullable=False, autoincrement=False, comment="ms: what moment it is about"
        ),
        sa.Column("version", sa.BigInteger, nullable=False, autoincrement=False, comment="content hash of the value"),
        sa.Column("value", sa.Double, nullable=False),
        sa.Column("known_at", sa.BigInteger, nullable=False, comment="ms: when the first statement was public"),
        sa.Column("first_seen_at", sa.BigInteger, nullable=False, comment="ms: first fetch of this version"),
        sa.Column("source", code(48), nullable=False, comment="endpoint"),
        *_order_columns(),
        sa.PrimaryKeyConstraint(
            "asset_id", "metric", "venue", "instrument", "event_time", "version", name="pk_derivatives_data"
        ),
        indexes=[("metric", "event_time")],
    )
    create(
        "fear_greed",
        sa.Column("source", code(48), nullable=False, comment="endpoint"),
        sa.Column(
            "event_time", sa.BigInteger, nullable=False, autoincrement=False, comment="ms: what moment it is about"
        ),
        sa.Column("version", sa.BigInteger, nullable=False, autoincrement=False, comment="content hash of the value"),
        sa.Column("value", sa.Double, nullable=False),
        sa.Column("known_at", sa.BigInteger, nullable=False, comment="ms: when the first statement was public"),
        sa.Column("first_seen_at", sa.BigInteger, nullable=False, comment="ms: first fetch of this version"),
        sa.Column("classification", code(32), comment="as published, e.g. Extreme Fear"),
        *_order_columns(),
        sa.PrimaryKeyConstraint("source", "event_time", "version", name="pk_fear_greed"),
    )
    create(
        "crypto_news",
        sa.Column("content_id", code(64), nullable=False, comment="SHA-256 of the canonical URL, hex"),
        sa.Column("source", code(48), nullable=False, comment="endpoint"),
        sa.Column("feed", code(64), nullable=False, comment="which feed, section or listing said it"),
        sa.Column("url", sa.Text, nullable=False, comment="canonical: no tracking parameters, no fragment"),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("summary", sa.Text, comment="plain text"),
        sa.Column("author", sa.String(200)),
        sa.Column("category", sa.String(100)),
        sa.Column("language", code(16)),
        sa.Column("story_id", code(64), nullable=False, comment="of the normalised title: reprints share it"),
        sa.Column("published_at", sa.BigInteger, comment="ms; NULL: the feed does not say"),
        sa.Column("known_at", sa.BigInteger, nullable=False, comment="ms: first fetch"),
        sa.Column("deleted_at", sa.BigInteger, comment="ms: withdrawn upstream; the text is gone"),
        *_order_columns(),
        sa.PrimaryKeyConstraint("content_id", name="pk_crypto_news"),
        indexes=[("known_at",), ("published_at",), ("story_id",)],
    )
    create(
        "stock_news",
        sa.Column("content_id", code(64), nullable=False, comment="SHA-256 of the canonical URL, hex"),
        sa.Column("source", code(48), nullable=False, comment="endpoint"),
        sa.Column("feed", code(64), nullable=False, comment="which feed, section or listing said it"),
        sa.Column("url", sa.Text, nullable=False, comment="canonical: no tracking parameters, no fragment"),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("summary", sa.Text, comment="plain text"),
        sa.Column("author", sa.String(200)),
        sa.Column("category", sa.String(100)),
        sa.Column("language", code(16)),
        sa.Column("story_id", code(64), nullable=False, comment="of the normalised title: reprints share it"),
        sa.Column("published_at", sa.BigInteger, comment="ms; NULL: the feed does not say"),
        sa.Column("known_at", sa.BigInteger, nullable=False, comment="ms: first fetch"),
        sa.Column("deleted_at", sa.BigInteger, comment="ms: withdrawn upstream; the text is gone"),
        *_order_columns(),
        sa.PrimaryKeyConstraint("content_id", name="pk_stock_news"),
        indexes=[("known_at",), ("published_at",), ("story_id",)],
    )
    create(
        "social_posts",
        sa.Column("content_id", code(64), nullable=False, comment="platform:id, e.g. reddit:t3_1abcde"),
        sa.Column("source", code(48), nullable=False, comment="endpoint"),
        sa.Column("platform", code(16), nullable=False, comment="reddit, x"),
        sa.Column("community", sa.String(100), comment="subreddit; NULL on x"),
        sa.Column("author", sa.String(100), comment="NULL: deleted"),
        sa.Column("author_verified", sa.Integer, comment="1, 0; NULL: the platform does not say"),
        sa.Column("title", sa.Text),
        sa.Column("text", sa.Text),
        sa.Column("url", sa.Text),
        sa.Column("language", code(16)),
        sa.Column("published_at", sa.BigInteger, nullable=False, comment="ms"),
        sa.Column("known_at", sa.BigInteger, nullable=False, comment="ms: first fetch"),
        sa.Column("score", sa.Integer, comment="upvotes less downvotes, or likes, as of fetched_at"),
        sa.Column("upvote_ratio", sa.Double, comment="0 to 1"),
        sa.Column("comments", sa.Integer, comment="as of fetched_at"),
        sa.Column("reposts", sa.Integer, comment="as of fetched_at"),
        sa.Column("views", sa.BigInteger, comment="as of fetched_at"),
        sa.Column("deleted_at", sa.BigInteger, comment="ms: seen deleted; author and text are gone"),
        *_order_columns(),
        sa.PrimaryKeyConstraint("content_id", name="pk_social_posts"),
        indexes=[("platform", "community", "published_at"), ("published_at",)],
    )
    create(
        "text_mentions",
        sa.Column("content_id", code(64), nullable=False),
        sa.Column("asset_id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("kind", code(16), nullable=False, comment="crypto_news, stock_news, social_posts"),
        sa.Column("term", sa.String(100), nullable=False, comment="the words that name the asset"),
        sa.Column("published_at", sa.BigInteger, nullable=False, comment="ms; of an undated text its first fetch"),
        *_order_columns(),
        sa.PrimaryKeyConstraint("content_id", "asset_id", name="pk_text_mentions"),
        indexes=[("asset_id", "published_at")],
    )
    create(
        "collection_polls",
        sa.Column("dataset", code(32), nullable=False),
        sa.Column("subject_id", sa.Integer, nullable=False, autoincrement=False, comment="of the subject's name"),
        sa.Column("slot", sa.BigInteger, nullable=False, autoincrement=False, comment="ms: the slot an answer covers"),
        sa.Column("fetch_id", sa.BigInteger, nullable=False, comment="the answer, or the last page of it"),
        *_order_columns(),
        sa.PrimaryKeyConstraint("dataset", "subject_id", "slot", name="pk_collection_polls"),
    )


def downgrade() -> None:
    """What stood in them is in the archive."""
    for name in _NEW:
        op.drop_table(name)
    for name in _QUOTES:
        op.drop_column("price_data_real", name)

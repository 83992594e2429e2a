"""The tables, declared once. Alembic's chain builds them; ``crypto-data db check`` compares a database with this.

Conventions, without exception:

* Times are ``BIGINT`` milliseconds since the epoch, UTC. The views for direct consumers show them as ISO text on
  SQLite and as DATETIME(6), UTC whatever the session's time zone, on MySQL and MariaDB.
* Prices and amounts are ``DOUBLE`` (a DECIMAL(20,8) cannot hold a price below 1e-8); percent is percent, USD is USD.
* NULL means the upstream did not say. Nothing is ever 0 for want of a value.
* Every table of upstream values ends with the **order columns** ``event_version, fetched_at, parser_version,
  payload_hash``: the total order under which a write wins (storage/upsert.py), and at once its provenance:
  ``fetched_at`` is when this node took the value in, ``payload_hash`` names the archived body it was parsed from.
* ``Table.info["order"]`` names the order of a table that is computed, from no single payload.
* ``Table.info["earliest"]`` names columns that keep the smallest value ever written, whatever the order.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects import mysql

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

MYSQL: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}

#: The total order of writes, most significant first. Kept last in each table: MySQL assigns left to right.
ORDER_COLUMNS = ("event_version", "fetched_at", "parser_version", "payload_hash")


def _code(length: int) -> String:
    """Short ASCII identifiers, compared byte by byte on every database."""
    return String(length).with_variant(
        mysql.VARCHAR(length, charset="ascii", collation="ascii_bin"), "mysql", "mariadb"
    )


def _blob() -> LargeBinary:
    return LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")


def _order_columns() -> list[Column[object]]:
    return [
        Column("event_version", BigInteger, nullable=False, comment="ms: the moment the upstream says the value is of"),
        Column("fetched_at", BigInteger, nullable=False, comment="ms: when this node took it in"),
        Column("parser_version", Integer, nullable=False),
        Column("payload_hash", _code(64), nullable=False, comment="SHA-256 of the archived body, hex"),
    ]


# --- what the node knows of the market ----------------------------------------------------------------------

crypto_assets = Table(
    "crypto_assets",
    metadata,
    Column("asset_id", Integer, primary_key=True, autoincrement=False),
    Column("symbol", String(32), nullable=False, comment="upper case; not unique: tickers are reused"),
    Column("coin_id", String(150), nullable=False, comment="CoinGecko id"),
    Column("name", String(300), nullable=False),
    Column("coinbase_product", _code(40), comment="Coinbase Exchange product in USD; NULL: no venue"),
    Column("market_cap_rank", Integer),
    Column("status", _code(16), nullable=False, comment="active, renamed, merged, inactive"),
    Column("valid_from", BigInteger, comment="ms; NULL: before the node's horizon"),
    Column("valid_to", BigInteger, comment="ms; NULL: still valid"),
    Column("successor_coin_id", String(150), comment="where holders went at valid_to"),
    Column("successor_ratio", Double, comment="units of the successor per unit of this asset"),
    Column("updated_at", BigInteger, nullable=False),
    UniqueConstraint("coin_id"),
    Index(None, "symbol"),
    **MYSQL,
)

price_data_real = Table(
    "price_data_real",
    metadata,
    Column("asset_id", Integer, primary_key=True, autoincrement=False),
    Column("slot", BigInteger, primary_key=True, autoincrement=False, comment="ms: start of the slot polled for"),
    Column("source", _code(32), primary_key=True, comment="endpoint, e.g. coingecko.markets"),
    Column("interval_s", Integer, nullable=False, comment="length of the slot, seconds"),
    Column("event_time", BigInteger, nullable=False, comment="ms: when the upstream says the price was"),
    Column("known_at", BigInteger, nullable=False, comment="ms: when a consumer of this node could know it"),
    Column("current_price", Double, nullable=False, comment="USD"),
    Column("price_change_24h", Double, comment="USD"),
    Column("price_change_percentage_24h", Double, comment="percent"),
    Column("market_cap", Double, comment="USD"),
    Column("market_cap_rank", Integer),
    Column("fully_diluted_valuation", Double, comment="USD"),
    Column("volume_usd_24h", Double, comment="USD, rolling 24 h"),
    Column("high_24h", Double, comment="USD"),
    Column("low_24h", Double, comment="USD"),
    Column("open_24h", Double, comment="USD: current_price - price_change_24h"),
    Column("circulating_supply", Double),
    Column("total_supply", Double),
    Column("max_supply", Double),
    Column("ath", Double, comment="USD"),
    Column("ath_date", BigInteger, comment="ms"),
    Column("atl", Double, comment="USD"),
    Column("atl_date", BigInteger, comment="ms"),
    Column("bid_price", Double, comment="USD; best bid, coinbase.ticker only"),
    Column("ask_price", Double, comment="USD; best ask, coinbase.ticker only"),
    Column("volume_qty_24h", Double, comment="base units, rolling 24 h, on one venue"),
    *_order_columns(),
    Index(None, "slot"),
    **MYSQL,
)

ohlc_data = Table(
    "ohlc_data",
    metadata,
    Column("asset_id", Integer, primary_key=True, autoincrement=False),
    Column("venue", _code(16), primary_key=True, comment="coinbase, coingecko"),
    Column("interval_s", Integer, primary_key=True, autoincrement=False, comment="seconds; never mixed"),
    Column("open_time", BigInteger, primary_key=True, autoincrement=False, comment="ms"),
    Column(
        "version",
        BigInteger,
        primary_key=True,
        autoincrement=False,
        comment="content hash of the five values: a revision is another row, the current one is the last in order",
    ),
    Column("known_at", BigInteger, nullable=False, comment="ms: when the venue's first statement of the bar is public"),
    Column(
        "first_seen_at",
        BigInteger,
        nullable=False,
        comment="ms: first fetch of this version; a version that is not the bar's first is known only from here",
    ),
    Column("open_price", Double, nullable=False, comment="USD"),
    Column("high_price", Double, nullable=False, comment="USD"),
    Column("low_price", Double, nullable=False, comment="USD"),
    Column("close_price", Double, nullable=False, comment="USD"),
    Column("volume", Double, comment="base units traded in the bar; NULL: the venue does not say"),
    *_order_columns(),
    info={"earliest": ("known_at", "first_seen_at")},
    **MYSQL,
)

market_data = Table(
    "market_data",
    metadata,
    Column("source", _code(32), primary_key=True),
    Column("event_time", BigInteger, primary_key=True, autoincrement=False, comment="ms"),
    Column("known_at", BigInteger, nullable=False, comment="ms"),
    Column("total_market_cap_usd", Double),
    Column("total_volume_usd", Double, comment="rolling 24 h"),
    Column("btc_dominance_pct", Double),
    Column("eth_dominance_pct", Double),
    Column("market_cap_change_percentage_24h", Double, comment="percent"),
    Column("active_cryptocurrencies", Integer),
    Column("markets", Integer),
    *_order_columns(),
    **MYSQL,
)

# --- statements: one number about one thing at one moment, with every revision --------------------------------
#
# ``version`` is a content hash of the value: a revision is another row. Of the versions of one moment the one first
# seen is known from ``known_at``, every other only from its ``first_seen_at``; the current one is the last in order.


def _statement_columns() -> list[Column[object]]:
    return [
        Column("event_time", BigInteger, primary_key=True, autoincrement=False, comment="ms: what moment it is about"),
        Column("version", BigInteger, primary_key=True, autoincrement=False, comment="content hash of the value"),
        Column("value", Double, nullable=False),
        Column("known_at", BigInteger, nullable=False, comment="ms: when the first statement was public"),
        Column("first_seen_at", BigInteger, nullable=False, comment="ms: first fetch of this version"),
    ]


_STATEMENT = {"earliest": ("known_at", "first_seen_at")}

macro_indicators = Table(
    "macro_indicators",
    metadata,
    Column(
        "indicator_name", _code(64), primary_key=True, comment="one name a concept: FRED's id, or VIX, SPX, GOLD, …"
    ),
    Column("source", _code(48), primary_key=True, comment="endpoint"),
    Column(
        "indicator_date", BigInteger, primary_key=True, autoincrement=False, comment="ms: midnight UTC of the period"
    ),
    Column(
        "vintage",
        BigInteger,
        primary_key=True,
        autoincrement=False,
        comment="FRED: ms, midnight UTC of realtime_start. Sources without vintages: content hash of the values",
    ),
    Column("value", Double, comment="NULL: the source says that there is none"),
    Column("unit", _code(32), nullable=False, comment="percent, index, usd, usd_per_eur, …"),
    Column("open_price", Double, comment="of a market's day; value is its close"),
    Column("high_price", Double),
    Column("low_price", Double),
    Column("volume", Double),
    Column("known_at", BigInteger, nullable=False, comment="ms: when this vintage was public"),
    Column("first_seen_at", BigInteger, nullable=False, comment="ms: first fetch of this vintage"),
    *_order_columns(),
    Index(None, "indicator_name", "indicator_date"),
    info=_STATEMENT,
    **MYSQL,
)

onchain_data = Table(
    "onchain_data",
    metadata,
    Column("asset_id", Integer, primary_key=True, autoincrement=False),
    Column("metric", _code(48), primary_key=True, comment="active_addresses, hash_rate, total_value_locked, …"),
    Column("source", _code(48), primary_key=True, comment="endpoint"),
    *_statement_columns(),
    *_order_columns(),
    Index(None, "metric", "event_time"),
    info=_STATEMENT,
    **MYSQL,
)

derivatives_data = Table(
    "derivatives_data",
    metadata,
    Column("asset_id", Integer, primary_key=True, autoincrement=False),
    Column("metric", _code(48), primary_key=True, comment="funding_rate, open_interest_usd, put_call_ratio, dvol, …"),
    Column("venue", _code(32), primary_key=True, comment="binance, bybit, okx, deribit, or as CoinGecko names it"),
    Column("instrument", _code(64), primary_key=True, comment="the venue's own symbol"),
    *_statement_columns(),
    Column("source", _code(48), nullable=False, comment="endpoint"),
    *_order_columns(),
    Index(None, "metric", "event_time"),
    info=_STATEMENT,
    **MYSQL,
)

fear_greed = Table(
    "fear_greed",
    metadata,
    Column("source", _code(48), primary_key=True, comment="endpoint"),
    *_statement_columns(),
    Column("classification", _code(32), comment="as published, e.g. Extreme Fear"),
    *_order_columns(),
    info=_STATEMENT,
    **MYSQL,
)

# --- texts ----------------------------------------------------------------------------------------------------


def _news_columns() -> list[Any]:
    return [
        Column("content_id", _code(64), primary_key=True, comment="SHA-256 of the canonical URL, hex"),
        Column("source", _code(48), nullable=False, comment="endpoint"),
        Column("feed", _code(64), nullable=False, comment="which feed, section or listing said it"),
        Column("url", Text, nullable=False, comment="canonical: no tracking parameters, no fragment"),
        Column("title", Text, nullable=False),
        Column("summary", Text, comment="plain text"),
        Column("author", String(200)),
        Column("category", String(100)),
        Column("language", _code(16)),
        Column("story_id", _code(64), nullable=False, comment="of the normalised title: reprints share it"),
        Column("published_at", BigInteger, comment="ms; NULL: the feed does not say"),
        Column("known_at", BigInteger, nullable=False, comment="ms: first fetch"),
        Column("deleted_at", BigInteger, comment="ms: withdrawn upstream; the text is gone"),
    ]


crypto_news = Table(
    "crypto_news",
    metadata,
    *_news_columns(),
    *_order_columns(),
    Index(None, "published_at"),
    Index(None, "known_at"),
    Index(None, "story_id"),
    info={"earliest": ("known_at",)},
    **MYSQL,
)

stock_news = Table(
    "stock_news",
    metadata,
    *_news_columns(),
    *_order_columns(),
    Index(None, "published_at"),
    Index(None, "known_at"),
    Index(None, "story_id"),
    info={"earliest": ("known_at",)},
    **MYSQL,
)

social_posts = Table(
    "social_posts",
    metadata,
    Column("content_id", _code(64), primary_key=True, comment="platform:id, e.g. reddit:t3_1abcde"),
    Column("source", _code(48), nullable=False, comment="endpoint"),
    Column("platform", _code(16), nullable=False, comment="reddit, x"),
    Column("community", String(100), comment="subreddit; NULL on x"),
    Column("author", String(100), comment="NULL: deleted"),
    Column("author_verified", Integer, comment="1, 0; NULL: the platform does not say"),
    Column("title", Text),
    Column("text", Text),
    Column("url", Text),
    Column("language", _code(16)),
    Column("published_at", BigInteger, nullable=False, comment="ms"),
    Column("known_at", BigInteger, nullable=False, comment="ms: first fetch"),
    Column("score", Integer, comment="upvotes less downvotes, or likes, as of fetched_at"),
    Column("upvote_ratio", Double, comment="0 to 1"),
    Column("comments", Integer, comment="as of fetched_at"),
    Column("reposts", Integer, comment="as of fetched_at"),
    Column("views", BigInteger, comment="as of fetched_at"),
    Column("deleted_at", BigInteger, comment="ms: seen deleted; author and text are gone"),
    *_order_columns(),
    Index(None, "published_at"),
    Index(None, "known_at"),
    Index(None, "platform", "community", "published_at"),
    info={"earliest": ("known_at",)},
    **MYSQL,
)

text_mentions = Table(
    "text_mentions",
    metadata,
    Column("content_id", _code(64), primary_key=True),
    Column("asset_id", Integer, primary_key=True, autoincrement=False),
    Column("kind", _code(16), nullable=False, comment="crypto_news, stock_news, social_posts"),
    Column("term", String(100), nullable=False, comment="the words that name the asset"),
    Column("published_at", BigInteger, nullable=False, comment="ms; of an undated text its first fetch"),
    *_order_columns(),
    Index(None, "asset_id", "published_at"),
    info={"earliest": ("published_at",)},
    **MYSQL,
)

# --- what models make of texts ---------------------------------------------------------------------------------

#: what the editions of a text say: in whole (asset 0) and of each asset they name. A text keeps one row, as last read;
#: since when the node knows what it says stands here. No words do: the parts of a deleted text may stay
text_parts = Table(
    "text_parts",
    metadata,
    Column("content_id", _code(64), primary_key=True),
    Column("edition", _code(64), primary_key=True, comment="SHA-256 of title and text, hex"),
    Column(
        "asset_id",
        Integer,
        primary_key=True,
        autoincrement=False,
        comment="whom this part of the text is about (sentiment/stance.py); 0: the whole text",
    ),
    Column("text_hash", _code(64), primary_key=True, comment="SHA-256 of its words, hex; of a whole the edition"),
    Column("kind", _code(16), nullable=False, comment="crypto_news, stock_news, social_posts"),
    Column("spans", Text, comment="start:end of the words in title and text (editions.py); NULL: the whole text"),
    Column("known_at", BigInteger, nullable=False, comment="ms: first fetch of this edition"),
    *_order_columns(),
    Index(None, "kind", "known_at", "content_id", "asset_id", "text_hash"),
    info={"earliest": ("known_at",)},
    **MYSQL,
)

text_scores = Table(
    "text_scores",
    metadata,
    Column("text_hash", _code(64), primary_key=True),
    Column("model", _code(32), primary_key=True, comment="cryptobert, finbert, vader, textblob, lexicon"),
    Column("revision", _code(64), primary_key=True, comment="of the model and its data: each scores a text once, ever"),
    Column("score", Double, comment="-1 to 1; NULL: not to be scored, see reason"),
    Column("p_negative", Double, comment="0 to 1; NULL with a score: the model has no probabilities"),
    Column("p_neutral", Double),
    Column("p_positive", Double),
    Column("reason", String(200), comment="why there is no score"),
    Column("known_at", BigInteger, nullable=False, comment="ms: when this node first had the score"),
    Column("run_id", _code(64), nullable=False, comment="which run wrote it"),
    Index(None, "model", "revision", "known_at"),
    **MYSQL,
)

sentiment_aggregation = Table(
    "sentiment_aggregation",
    metadata,
    Column("asset_id", Integer, primary_key=True, autoincrement=False, comment="0: of a market"),
    Column("scope", _code(16), primary_key=True, comment="asset, crypto, stock"),
    Column("model", _code(32), primary_key=True, comment="as in text_scores; ensemble"),
    Column("source", _code(16), primary_key=True, comment="news, reddit, x, …; all: together"),
    Column("window_s", Integer, primary_key=True, autoincrement=False, comment="seconds: 1 h, 4 h, 24 h, 7 d"),
    Column("window_end", BigInteger, primary_key=True, autoincrement=False, comment="ms: a full hour"),
    Column("sentiment_volume", Integer, nullable=False, comment="texts with a score; 0: all other values are NULL"),
    Column("avg_sentiment", Double, comment="mean score, -1 to 1"),
    Column("weighted_sentiment", Double, comment="by confidence"),
    Column("engagement_weighted_sentiment", Double, comment="by log(1 + engagement)"),
    Column("verified_user_sentiment", Double, comment="mean of verified authors"),
    Column("sentiment_positive", Double, comment="share of texts, 0 to 1"),
    Column("sentiment_neutral", Double, comment="share of texts, 0 to 1"),
    Column("sentiment_negative", Double, comment="share of texts, 0 to 1"),
    Column("avg_confidence", Double, comment="0 to 1"),
    Column("sentiment_dispersion", Double, comment="standard deviation of the scores"),
    Column("sentiment_momentum", Double, comment="avg_sentiment less that of the window before"),
    Column("total_engagement", BigInteger),
    Column("unique_authors", Integer),
    Column("known_at", BigInteger, nullable=False, comment="ms: when this node first had the window"),
    Column("rules_version", Integer, nullable=False, comment="of the aggregation: newer rules win"),
    Column("computed_at", BigInteger, nullable=False, comment="ms"),
    Column("values_hash", _code(64), nullable=False, comment="SHA-256 of the values, hex"),
    Index(None, "window_end", "window_s"),
    info={"earliest": ("known_at",), "order": ("rules_version", "computed_at", "values_hash")},
    **MYSQL,
)

# --- what was asked, and what came back ---------------------------------------------------------------------

collection_polls = Table(
    "collection_polls",
    metadata,
    Column("dataset", _code(32), primary_key=True),
    Column("subject_id", Integer, primary_key=True, autoincrement=False, comment="of the subject's name"),
    Column("slot", BigInteger, primary_key=True, autoincrement=False, comment="ms: the slot an answer covers"),
    Column("fetch_id", BigInteger, nullable=False, comment="the answer, or the last page of it"),
    *_order_columns(),
    **MYSQL,
)

fetches = Table(
    "fetches",
    metadata,
    Column("fetch_id", BigInteger, primary_key=True, autoincrement=False, comment="time-ordered, made by the archive"),
    Column("source", _code(48), nullable=False, comment="endpoint name"),
    Column("collector", _code(32), nullable=False),
    Column("request", Text, nullable=False, comment="JSON: path, params, context; never a key"),
    Column("status", Integer, nullable=False, comment="HTTP status"),
    Column("fetched_at", BigInteger, nullable=False, comment="ms"),
    Column("payload_hash", _code(64), nullable=False),
    Column("payload_bytes", Integer, nullable=False),
    Column("segment", _code(120), nullable=False, comment="archive segment, relative path"),
    Column("position", BigInteger, nullable=False, comment="byte offset of the record's frame in the segment"),
    Column(
        "outcome", _code(16), nullable=False, comment="ok, not_modified, rejected, rate_limited, unavailable, malformed"
    ),
    Column("row_count", Integer, nullable=False, comment="rows the body yielded"),
    Column("error", Text),
    Index(None, "source", "fetched_at"),
    Index(None, "fetched_at"),
    Index(None, "payload_hash"),
    **MYSQL,
)

archive_manifests = Table(
    "archive_manifests",
    metadata,
    Column("day", Integer, primary_key=True, autoincrement=False, comment="yyyymmdd, UTC, of fetched_at"),
    Column("source", _code(48), primary_key=True, comment="endpoint; '*': all of them"),
    Column("answers", Integer, nullable=False),
    Column("payload_bytes", BigInteger, nullable=False),
    Column("root", _code(64), nullable=False, comment="Merkle root, SHA-256, hex (collection/manifest.py)"),
    Column("recorded_at", BigInteger, nullable=False, comment="ms"),
    **MYSQL,
)

archive_tombstones = Table(
    "archive_tombstones",
    metadata,
    Column("segment", _code(120), primary_key=True, comment="as fetches.segment; its files are deleted"),
    Column("source", _code(48), nullable=False, comment="endpoint"),
    Column("answers", Integer, nullable=False, comment="that it held"),
    Column("committed", Integer, nullable=False, comment="of them, those that fetches knows"),
    Column("payload_bytes", BigInteger, nullable=False, comment="of their bodies"),
    Column("purged_at", BigInteger, nullable=False, comment="ms"),
    Column("reason", Text, nullable=False),
    **MYSQL,
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("payload_hash", _code(64), primary_key=True),
    Column("source", _code(48), primary_key=True),
    Column("parser_version", Integer, nullable=False),
    Column("fetched_at", BigInteger, nullable=False),
    Column("error", Text, nullable=False),
    **MYSQL,
)

data_quality_events = Table(
    "data_quality_events",
    metadata,
    Column("payload_hash", _code(64), primary_key=True),
    Column("kind", _code(24), primary_key=True),
    Column("subject", String(150), primary_key=True, comment="the upstream's id of what it is about"),
    Column("field", String(64), primary_key=True),
    Column("source", _code(48), nullable=False),
    Column("fetched_at", BigInteger, nullable=False),
    Column("detail", Text, nullable=False),
    Index(None, "fetched_at"),
    **MYSQL,
)

source_availability = Table(
    "source_availability",
    metadata,
    Column("source", _code(48), primary_key=True, comment="endpoint; of candles <venue>.candles"),
    Column("day", BigInteger, primary_key=True, autoincrement=False, comment="ms: midnight UTC of the measurement"),
    Column("p50_ms", BigInteger, nullable=False, comment="ms from the moment a value is about to when the node had it"),
    Column("p99_ms", BigInteger, nullable=False),
    Column("samples", Integer, nullable=False, comment="rows it was measured on"),
    Column("measured_at", BigInteger, nullable=False, comment="ms"),
    **MYSQL,
)

endpoint_shapes = Table(
    "endpoint_shapes",
    metadata,
    Column("source", _code(48), primary_key=True, comment="endpoint name"),
    Column("shape", Text, nullable=False, comment="JSON: fields, types and ranges learnt so far (collection/drift.py)"),
    Column("updated_at", BigInteger, nullable=False, comment="ms: fetch of the answer that last changed it"),
    **MYSQL,
)

# --- what was expected, what is owed, who may act -----------------------------------------------------------

collection_schedules = Table(
    "collection_schedules",
    metadata,
    Column("dataset", _code(32), primary_key=True, comment="prices, candles-300, macro-fred, …"),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("definition", Text, nullable=False, comment="JSON: interval, grace, tiers, horizon"),
    Column("valid_from", BigInteger, nullable=False, comment="ms: first slot this version expects"),
    Column("valid_to", BigInteger, comment="ms; NULL: in force"),
    **MYSQL,
)

collection_gaps = Table(
    "collection_gaps",
    metadata,
    Column("dataset", _code(32), primary_key=True),
    Column("asset_id", Integer, primary_key=True, autoincrement=False),
    Column("start", BigInteger, primary_key=True, autoincrement=False, comment="ms, first slot"),
    Column("end", BigInteger, nullable=False, comment="ms, first slot after the range"),
    Column("state", _code(16), nullable=False, comment="owed, confirmed_empty, unrepairable, repaired"),
    Column("reason", Text),
    Column("detected_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Index(None, "dataset", "state"),
    Index(None, "dataset", "end"),  # the ledger is read by window: ranges that end after its start
    **MYSQL,
)

collector_runs = Table(
    "collector_runs",
    metadata,
    Column("collector", _code(32), primary_key=True),
    Column("started_at", BigInteger, comment="ms: last run's start"),
    Column("succeeded_at", BigInteger, comment="ms: end of the last run that stored something or owed nothing"),
    Column("next_run_at", BigInteger),
    Column("last_event_time", BigInteger, comment="ms: newest event time stored by it"),
    Column("runs", BigInteger, nullable=False),
    Column("failures", BigInteger, nullable=False),
    Column("last_error", Text),
    Column("last_error_at", BigInteger),
    **MYSQL,
)

collector_leases = Table(
    "collector_leases",
    metadata,
    Column("name", _code(64), primary_key=True),
    Column("holder", String(120), nullable=False),
    Column("token", BigInteger, nullable=False, comment="fence: rises with every change of holder"),
    Column("expires_at", BigInteger, nullable=False, comment="ms"),
    **MYSQL,
)

provider_budgets = Table(
    "provider_budgets",
    metadata,
    Column("account", _code(32), primary_key=True),
    Column("theoretical_arrival", BigInteger, nullable=False, comment="ms: GCRA state of the rate limit"),
    Column("paused_until", BigInteger, nullable=False, comment="ms: ordered by Retry-After"),
    **MYSQL,
)

quota_ledger = Table(
    "quota_ledger",
    metadata,
    Column("account", _code(32), primary_key=True),
    Column("month", Integer, primary_key=True, autoincrement=False, comment="yyyymm, UTC"),
    Column("spent", BigInteger, nullable=False, comment="credits reserved this month"),
    **MYSQL,
)

account_plans = Table(
    "account_plans",
    metadata,
    Column("account", _code(32), primary_key=True),
    Column("decision", Text, comment="JSON: what the month's credits carry (collection/planner.py); NULL: undecided"),
    Column("key_usage", Text, comment="JSON: what the upstream last said of the key (GET /key)"),
    Column("updated_at", BigInteger, nullable=False, comment="ms"),
    **MYSQL,
)

outbox_heads = Table(
    "outbox_heads",
    metadata,
    Column("channel", _code(32), primary_key=True),
    Column("seq", BigInteger, nullable=False, comment="last sequence number given out; dense per channel"),
    **MYSQL,
)

outbox = Table(
    "outbox",
    metadata,
    Column("channel", _code(32), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("created_at", BigInteger, nullable=False),
    Column("body", _blob(), nullable=False, comment="the event, JSON bytes"),
    Index(None, "created_at"),
    **MYSQL,
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", _code(16), primary_key=True, comment="public part of the key"),
    Column("name", String(120), nullable=False),
    Column("level", _code(16), nullable=False, comment="readonly, trading, master"),
    Column(
        "secret_hash", _code(64), nullable=False, comment="SHA-256 of the whole key, hex (keys are 256 random bits)"
    ),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    **MYSQL,
)

# --- for consumers that read SQL directly -------------------------------------------------------------------

_PRICE_VIEW = (
    *("symbol", "coin_id", "name", "asset_id", "slot", "timestamp", "timestamp_iso", "collection_interval"),
    *("data_source", "current_price", "price_change_24h", "price_change_percentage_24h", "market_cap"),
    *("market_cap_rank", "fully_diluted_valuation", "volume_usd_24h", "high_24h", "low_24h", "open_24h"),
    *("circulating_supply", "total_supply", "max_supply", "ath", "ath_date", "atl", "atl_date", "known_at"),
    *("ingested_at", "payload_hash"),
)

#: Views and their columns, in order; the migrations hold their text. ``timestamp`` is ms, the upstream's event time.
VIEWS: dict[str, tuple[str, ...]] = {
    "crypto_prices_view": _PRICE_VIEW,
    "price_current": _PRICE_VIEW,
    "ohlc_current": (
        *("symbol", "coin_id", "name", "asset_id", "venue", "interval_s", "open_time", "timestamp_iso"),
        *("open_price", "high_price", "low_price", "close_price", "volume", "known_at", "ingested_at", "version"),
        "payload_hash",
    ),
}

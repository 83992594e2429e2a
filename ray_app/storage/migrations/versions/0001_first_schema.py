"""The first schema: assets, prices, candles, what was asked, what is owed, who may act, and the consumers' views.

Frozen: what changes later gets a migration of its own. ``tests/storage/test_migrate.py`` proves that the whole
chain builds exactly the tables of storage/tables.py.
"""

# ruff: noqa: S608 - the text of these views is in this file
from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from ray_app.storage.migrations.build import code, create

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _blob() -> sa.LargeBinary:
    return sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")


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
    """Build everything."""
    _market()
    _evidence()
    _progress()
    _access()
    _views()


def downgrade() -> None:
    """There is nothing before this: an empty database is a new database."""
    raise NotImplementedError("drop the database instead")


def _market() -> None:
    """What the node knows of the market."""
    create(
        "crypto_assets",
        sa.Column("asset_id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("symbol", sa.String(32), nullable=False, comment="upper case; not unique: tickers are reused"),
        sa.Column("coin_id", sa.String(150), nullable=False, comment="CoinGecko id"),
        sa.Column("name", sa.String(300), nullable=False),
        sa.Column("coinbase_product", code(40), comment="Coinbase Exchange product in USD; NULL: no venue"),
        sa.Column("market_cap_rank", sa.Integer),
        sa.Column("status", code(16), nullable=False, comment="active, renamed, merged, inactive"),
        sa.Column("valid_from", sa.BigInteger, comment="ms; NULL: before the node's horizon"),
        sa.Column("valid_to", sa.BigInteger, comment="ms; NULL: still valid"),
        sa.Column("successor_coin_id", sa.String(150), comment="where holders went at valid_to"),
        sa.Column("successor_ratio", sa.Double, comment="units of the successor per unit of this asset"),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("asset_id", name="pk_crypto_assets"),
        sa.UniqueConstraint("coin_id", name="uq_crypto_assets_coin_id"),
        indexes=[("symbol",)],
    )
    create(
        "price_data_real",
        sa.Column("asset_id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column(
            "slot", sa.BigInteger, nullable=False, autoincrement=False, comment="ms: start of the slot polled for"
        ),
        sa.Column("source", code(32), nullable=False, comment="endpoint, e.g. coingecko.markets"),
        sa.Column("interval_s", sa.Integer, nullable=False, comment="length of the slot, seconds"),
        sa.Column("event_time", sa.BigInteger, nullable=False, comment="ms: when the upstream says the price was"),
        sa.Column("known_at", sa.BigInteger, nullable=False, comment="ms: when a consumer of this node could know it"),
        sa.Column("current_price", sa.Double, nullable=False, comment="USD"),
        sa.Column("price_change_24h", sa.Double, comment="USD"),
        sa.Column("price_change_percentage_24h", sa.Double, comment="percent"),
        sa.Column("market_cap", sa.Double, comment="USD"),
        sa.Column("market_cap_rank", sa.Integer),
        sa.Column("fully_diluted_valuation", sa.Double, comment="USD"),
        sa.Column("volume_usd_24h", sa.Double, comment="USD, rolling 24 h"),
        sa.Column("high_24h", sa.Double, comment="USD"),
        sa.Column("low_24h", sa.Double, comment="USD"),
        sa.Column("open_24h", sa.Double, comment="USD: current_price - price_change_24h"),
        sa.Column("circulating_supply", sa.Double),
        sa.Column("total_supply", sa.Double),
        sa.Column("max_supply", sa.Double),
        sa.Column("ath", sa.Double, comment="USD"),
        sa.Column("ath_date", sa.BigInteger, comment="ms"),
        sa.Column("atl", sa.Double, comment="USD"),
        sa.Column("atl_date", sa.BigInteger, comment="ms"),
        *_order_columns(),
        sa.PrimaryKeyConstraint("asset_id", "slot", "source", name="pk_price_data_real"),
        indexes=[("slot",)],
    )
    create(
        "ohlc_data",
        sa.Column("asset_id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("venue", code(16), nullable=False, comment="coinbase, coingecko"),
        sa.Column("interval_s", sa.Integer, nullable=False, autoincrement=False, comment="seconds; never mixed"),
        sa.Column("open_time", sa.BigInteger, nullable=False, autoincrement=False, comment="ms"),
        sa.Column(
            "version",
            sa.BigInteger,
            nullable=False,
            autoincrement=False,
            comment="content hash of the five values: a revision is another row, the current one is the last in order",
        ),
        sa.Column(
            "known_at",
            sa.BigInteger,
            nullable=False,
            comment="ms: when the venue's first statement of the bar is public",
        ),
        sa.Column(
            "first_seen_at",
            sa.BigInteger,
            nullable=False,
            comment="ms: first fetch of this version; a version that is not the bar's first is known only from here",
        ),
        sa.Column("open_price", sa.Double, nullable=False, comment="USD"),
        sa.Column("high_price", sa.Double, nullable=False, comment="USD"),
        sa.Column("low_price", sa.Double, nullable=False, comment="USD"),
        sa.Column("close_price", sa.Double, nullable=False, comment="USD"),
        sa.Column("volume", sa.Double, comment="base units traded in the bar; NULL: the venue does not say"),
        *_order_columns(),
        sa.PrimaryKeyConstraint("asset_id", "venue", "interval_s", "open_time", "version", name="pk_ohlc_data"),
    )
    create(
        "market_data",
        sa.Column("source", code(32), nullable=False),
        sa.Column("event_time", sa.BigInteger, nullable=False, autoincrement=False, comment="ms"),
        sa.Column("known_at", sa.BigInteger, nullable=False, comment="ms"),
        sa.Column("total_market_cap_usd", sa.Double),
        sa.Column("total_volume_usd", sa.Double, comment="rolling 24 h"),
        sa.Column("btc_dominance_pct", sa.Double),
        sa.Column("eth_dominance_pct", sa.Double),
        sa.Column("market_cap_change_percentage_24h", sa.Double, comment="percent"),
        sa.Column("active_cryptocurrencies", sa.Integer),
        sa.Column("markets", sa.Integer),
        *_order_columns(),
        sa.PrimaryKeyConstraint("source", "event_time", name="pk_market_data"),
    )


def _evidence() -> None:
    """What was asked, and what came back."""
    create(
        "fetches",
        sa.Column(
            "fetch_id", sa.BigInteger, nullable=False, autoincrement=False, comment="time-ordered, made by the archive"
        ),
        sa.Column("source", code(48), nullable=False, comment="endpoint name"),
        sa.Column("collector", code(32), nullable=False),
        sa.Column("request", sa.Text, nullable=False, comment="JSON: path, params, context; never a key"),
        sa.Column("status", sa.Integer, nullable=False, comment="HTTP status"),
        sa.Column("fetched_at", sa.BigInteger, nullable=False, comment="ms"),
        sa.Column("payload_hash", code(64), nullable=False),
        sa.Column("payload_bytes", sa.Integer, nullable=False),
        sa.Column("segment", code(120), nullable=False, comment="archive segment, relative path"),
        sa.Column(
            "position", sa.BigInteger, nullable=False, comment="byte offset of the record's frame in the segment"
        ),
        sa.Column(
            "outcome",
            code(16),
            nullable=False,
            comment="ok, not_modified, rejected, rate_limited, unavailable, malformed",
        ),
        sa.Column("row_count", sa.Integer, nullable=False, comment="rows the body yielded"),
        sa.Column("error", sa.Text),
        sa.PrimaryKeyConstraint("fetch_id", name="pk_fetches"),
        indexes=[("fetched_at",), ("payload_hash",), ("source", "fetched_at")],
    )
    create(
        "dead_letters",
        sa.Column("payload_hash", code(64), nullable=False),
        sa.Column("source", code(48), nullable=False),
        sa.Column("parser_version", sa.Integer, nullable=False),
        sa.Column("fetched_at", sa.BigInteger, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("payload_hash", "source", name="pk_dead_letters"),
    )
    create(
        "data_quality_events",
        sa.Column("payload_hash", code(64), nullable=False),
        sa.Column("kind", code(24), nullable=False),
        sa.Column("subject", sa.String(150), nullable=False, comment="the upstream's id of what it is about"),
        sa.Column("field", sa.String(64), nullable=False),
        sa.Column("source", code(48), nullable=False),
        sa.Column("fetched_at", sa.BigInteger, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("payload_hash", "kind", "subject", "field", name="pk_data_quality_events"),
        indexes=[("fetched_at",)],
    )


def _progress() -> None:
    """What was expected and what is owed."""
    create(
        "collection_schedules",
        sa.Column("dataset", code(32), nullable=False, comment="prices, candles-300, candles-3600, candles-86400"),
        sa.Column("version", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("definition", sa.Text, nullable=False, comment="JSON: interval, grace, tiers, horizon"),
        sa.Column("valid_from", sa.BigInteger, nullable=False, comment="ms: first slot this version expects"),
        sa.Column("valid_to", sa.BigInteger, comment="ms; NULL: in force"),
        sa.PrimaryKeyConstraint("dataset", "version", name="pk_collection_schedules"),
    )
    create(
        "collection_gaps",
        sa.Column("dataset", code(32), nullable=False),
        sa.Column("asset_id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("start", sa.BigInteger, nullable=False, autoincrement=False, comment="ms, first slot"),
        sa.Column("end", sa.BigInteger, nullable=False, comment="ms, first slot after the range"),
        sa.Column("state", code(16), nullable=False, comment="owed, confirmed_empty, unrepairable, repaired"),
        sa.Column("reason", sa.Text),
        sa.Column("detected_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("dataset", "asset_id", "start", name="pk_collection_gaps"),
        indexes=[("dataset", "end"), ("dataset", "state")],
    )
    create(
        "collector_runs",
        sa.Column("collector", code(32), nullable=False),
        sa.Column("started_at", sa.BigInteger, comment="ms: last run's start"),
        sa.Column(
            "succeeded_at", sa.BigInteger, comment="ms: end of the last run that stored something or owed nothing"
        ),
        sa.Column("next_run_at", sa.BigInteger),
        sa.Column("last_event_time", sa.BigInteger, comment="ms: newest event time stored by it"),
        sa.Column("runs", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.BigInteger, nullable=False),
        sa.Column("last_error", sa.Text),
        sa.Column("last_error_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("collector", name="pk_collector_runs"),
    )


def _access() -> None:
    """Who may act, what it costs, what is announced."""
    create(
        "collector_leases",
        sa.Column("name", code(64), nullable=False),
        sa.Column("holder", sa.String(120), nullable=False),
        sa.Column("token", sa.BigInteger, nullable=False, comment="fence: rises with every change of holder"),
        sa.Column("expires_at", sa.BigInteger, nullable=False, comment="ms"),
        sa.PrimaryKeyConstraint("name", name="pk_collector_leases"),
    )
    create(
        "provider_budgets",
        sa.Column("account", code(32), nullable=False),
        sa.Column("theoretical_arrival", sa.BigInteger, nullable=False, comment="ms: GCRA state of the rate limit"),
        sa.Column("paused_until", sa.BigInteger, nullable=False, comment="ms: ordered by Retry-After"),
        sa.PrimaryKeyConstraint("account", name="pk_provider_budgets"),
    )
    create(
        "quota_ledger",
        sa.Column("account", code(32), nullable=False),
        sa.Column("month", sa.Integer, nullable=False, autoincrement=False, comment="yyyymm, UTC"),
        sa.Column("spent", sa.BigInteger, nullable=False, comment="credits reserved this month"),
        sa.PrimaryKeyConstraint("account", "month", name="pk_quota_ledger"),
    )
    create(
        "outbox_heads",
        sa.Column("channel", code(32), nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False, comment="last sequence number given out; dense per channel"),
        sa.PrimaryKeyConstraint("channel", name="pk_outbox_heads"),
    )
    create(
        "outbox",
        sa.Column("channel", code(32), nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("body", _blob(), nullable=False, comment="the event, JSON bytes"),
        sa.PrimaryKeyConstraint("channel", "seq", name="pk_outbox"),
        indexes=[("created_at",)],
    )
    create(
        "api_keys",
        sa.Column("key_id", code(16), nullable=False, comment="public part of the key"),
        sa.Column("name", sa.String(120), nullable=False),
        sa.Column("level", code(16), nullable=False, comment="readonly, trading, master"),
        sa.Column(
            "secret_hash", code(64), nullable=False, comment="SHA-256 of the whole key, hex (keys are 256 random bits)"
        ),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("key_id", name="pk_api_keys"),
    )


#: Current view of prices by source, best first; a source not named here comes last.
_SOURCE_RANK = (
    "CASE {0}.source WHEN 'coingecko.markets' THEN 1 WHEN 'coinbase.candles' THEN 2 "
    "WHEN 'coingecko.market_chart' THEN 3 WHEN 'coinbase.exchange_rates' THEN 4 ELSE 9 END"
)
#: The names of the earlier system's price table; those without a source today are left out rather than NULL.
_PRICE_COLUMNS = """
  a.symbol, a.coin_id, a.name, p.asset_id, p.slot, p.event_time AS timestamp, {iso} AS timestamp_iso,
  p.interval_s AS collection_interval, p.source AS data_source, p.current_price, p.price_change_24h,
  p.price_change_percentage_24h, p.market_cap, p.market_cap_rank, p.fully_diluted_valuation, p.volume_usd_24h,
  p.high_24h, p.low_24h, p.open_24h, p.circulating_supply, p.total_supply, p.max_supply,
  p.ath, p.ath_date, p.atl, p.atl_date, p.known_at, p.fetched_at AS ingested_at, p.payload_hash
"""
#: SQLite has no dates: text. MySQL: DATETIME(6), and UTC whatever the time zone of the session that reads.
_ISO = {
    "sqlite": "strftime('%Y-%m-%dT%H:%M:%fZ', {0} / 1000.0, 'unixepoch')",
    "mysql": "TIMESTAMPADD(MICROSECOND, {0} * 1000, TIMESTAMP('1970-01-01 00:00:00.000000'))",
}


def _views() -> None:
    """For consumers that read SQL: one row per fact, the current one, with symbols and readable times."""
    iso = _ISO["sqlite" if op.get_bind().dialect.name == "sqlite" else "mysql"]
    best_source = f"""p.source = (SELECT s.source FROM price_data_real s
      WHERE s.asset_id = p.asset_id AND s.slot = p.slot ORDER BY {_SOURCE_RANK.format("s")}, s.source LIMIT 1)"""
    prices = _PRICE_COLUMNS.format(iso=iso.format("p.event_time"))
    _view(
        "crypto_prices_view",
        f"""SELECT {prices} FROM price_data_real p JOIN crypto_assets a ON a.asset_id = p.asset_id
            WHERE {best_source}""",
    )
    # + 0: from the registry to the prices; a SQLite without statistics would read all prices to get there
    _view(
        "price_current",
        f"""SELECT {prices.replace("p.asset_id", "a.asset_id")} FROM crypto_assets a
            JOIN price_data_real p ON p.asset_id = a.asset_id + 0
            AND p.slot = (SELECT q.slot FROM price_data_real q WHERE q.asset_id = a.asset_id
                          ORDER BY q.slot DESC LIMIT 1)
            WHERE {best_source}""",
    )
    same_bar = """FROM ohlc_data {0} WHERE {0}.asset_id = o.asset_id AND {0}.venue = o.venue
              AND {0}.interval_s = o.interval_s AND {0}.open_time = o.open_time"""
    # A version that was not the bar's first could be known only from when it was first seen (sources/rows.py).
    known_at = f"""CASE WHEN EXISTS (SELECT 1 {same_bar.format("f")} AND f.first_seen_at < o.first_seen_at)
              THEN o.first_seen_at ELSE o.known_at END"""
    order = "{0}.event_version, {0}.fetched_at, {0}.parser_version, {0}.payload_hash, {0}.version"
    _view(
        "ohlc_current",
        f"""SELECT a.symbol, a.coin_id, a.name, o.asset_id, o.venue, o.interval_s, o.open_time,
              {iso.format("o.open_time")} AS timestamp_iso, o.open_price, o.high_price, o.low_price, o.close_price,
              o.volume, {known_at} AS known_at, o.fetched_at AS ingested_at, o.version, o.payload_hash
            FROM ohlc_data o JOIN crypto_assets a ON a.asset_id = o.asset_id
            WHERE NOT EXISTS (SELECT 1 {same_bar.format("n")}
              AND ({order.format("n")}) > ({order.format("o")}))""",
    )


def _view(name: str, query: str) -> None:
    """Views hold no data: an old one is replaced."""
    connection = op.get_bind()
    connection.exec_driver_sql(f"DROP VIEW IF EXISTS {name}")
    connection.exec_driver_sql(f"CREATE VIEW {name} AS {query}")

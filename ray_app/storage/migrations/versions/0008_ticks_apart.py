"""The views of prices leave the live ticks out: they are no observations (storage/queries.py, TICKS)."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_TICKS = "coinbase.ticker"
#: as in 0001
_RANK = (
    "CASE s.source WHEN 'coingecko.markets' THEN 1 WHEN 'coinbase.candles' THEN 2 "
    "WHEN 'coingecko.market_chart' THEN 3 WHEN 'coinbase.exchange_rates' THEN 4 ELSE 9 END"
)
_BEST = f"""p.source = (SELECT s.source FROM price_data_real s
  WHERE s.asset_id = p.asset_id AND s.slot = p.slot ORDER BY {_RANK}, s.source LIMIT 1)"""  # noqa: S608 - constants
_COLUMNS = """
  a.symbol, a.coin_id, a.name, {asset}.asset_id, p.slot, p.event_time AS timestamp, {iso} AS timestamp_iso,
  p.interval_s AS collection_interval, p.source AS data_source, p.current_price, p.price_change_24h,
  p.price_change_percentage_24h, p.market_cap, p.market_cap_rank, p.fully_diluted_valuation, p.volume_usd_24h,
  p.high_24h, p.low_24h, p.open_24h, p.circulating_supply, p.total_supply, p.max_supply,
  p.ath, p.ath_date, p.atl, p.atl_date, p.known_at, p.fetched_at AS ingested_at, p.payload_hash
"""
_ISO = {
    "sqlite": "strftime('%Y-%m-%dT%H:%M:%fZ', p.event_time / 1000.0, 'unixepoch')",
    "mysql": "TIMESTAMPADD(MICROSECOND, p.event_time * 1000, TIMESTAMP('1970-01-01 00:00:00.000000'))",
}


def upgrade() -> None:
    """Ticks are nobody's current price here, and no row of the history."""
    _views(f"AND p.source <> '{_TICKS}'", f"AND q.source <> '{_TICKS}'")


def downgrade() -> None:
    """Every source alike."""
    _views("", "")


def _views(not_p: str, not_q: str) -> None:
    iso = _ISO["sqlite" if op.get_bind().dialect.name == "sqlite" else "mysql"]
    queries = {
        "crypto_prices_view": f"""SELECT {_COLUMNS.format(asset="p", iso=iso)} FROM price_data_real p
            JOIN crypto_assets a ON a.asset_id = p.asset_id WHERE {_BEST} {not_p}""",  # noqa: S608 - constants
        # + 0: from the registry to the prices; a SQLite without statistics would read all prices to get there
        "price_current": f"""SELECT {_COLUMNS.format(asset="a", iso=iso)} FROM crypto_assets a
            JOIN price_data_real p ON p.asset_id = a.asset_id + 0
            AND p.slot = (SELECT q.slot FROM price_data_real q WHERE q.asset_id = a.asset_id {not_q}
                          ORDER BY q.slot DESC LIMIT 1)
            WHERE {_BEST}""",  # noqa: S608 - constants
    }
    connection = op.get_bind()
    for name, query in queries.items():  # views hold no data: an old one is replaced
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {name}")
        connection.exec_driver_sql(f"CREATE VIEW {name} AS {query}")

"""The metrics of onchain_data: one name per concept and unit, whoever states it; and the rows that state them.

``METRICS`` is the only place that names them. A figure "of 24 h" covers the 24 hours that end at ``event_time``: a UTC
day where the source states days, a rolling window where it states "the last 24 hours". Figures of two sources under one
name are of one concept but not of one method: ``DISAGREEMENTS`` says how far apart they may be before one is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from ray_app.sources.base import JsonScalar, Row
from ray_app.sources.reading import PRICE, USD_AMOUNT, Bounds, Findings, decimal, number
from ray_app.sources.statements import statement_row


@dataclass(frozen=True, slots=True)
class Metric:
    """What a number of onchain_data is. ``unit`` is the unit of ``value`` as stored."""

    unit: str
    description: str
    bounds: Bounds


_COUNT = Bounds("a count", 0, 1e12)
_SOME = Bounds("a count above 0", 1, 1e12)
_UNITS = Bounds("a number of coins", 0, 1e18)
_HASHES = Bounds("a hash rate in H/s", 0, 1e27)
_DIFFICULTY = Bounds("a difficulty", 0, 1e24)
_RATIO = Bounds("a ratio", -1e6, 1e6)
_FEE_RATE = Bounds("a fee rate in sat/vB", 0, 1e8)
_GWEI = Bounds("a gas price in gwei", 0, 1e9)
_PERCENT = Bounds("a percentage", -100, 1e6)
_SECONDS = Bounds("a number of seconds", 0, 1e9)
_MINUTES = Bounds("a number of minutes", 0, 1e7)
_BYTES = Bounds("a number of bytes", 0, 1e15)
_VALUE = Bounds("a value in USD", 1.0, 1e21)  # a market value of 0 is how upstreams write "not known"

METRICS: Final[Mapping[str, Metric]] = {
    "active_addresses": Metric("addresses", "distinct addresses that sent or received, 24 h", _COUNT),
    "holding_addresses": Metric("addresses", "addresses with a balance", _SOME),
    "transaction_count": Metric("transactions", "confirmed transactions, 24 h", _COUNT),
    "transfer_count": Metric("transfers", "transfers of value between addresses, 24 h", _COUNT),
    "transaction_volume_usd": Metric("USD", "estimated value transacted, change left out, 24 h", USD_AMOUNT),
    "block_height": Metric("height", "height of the best block", _COUNT),
    "block_count": Metric("blocks", "blocks of the chain so far, as the source counts them", _COUNT),
    "blocks_24h": Metric("blocks", "blocks found, 24 h", _COUNT),
    "block_interval_s": Metric("s", "mean time between blocks", _SECONDS),
    "block_size_mb": Metric("MB", "mean size of a block, 24 h", Bounds("a size in MB", 0, 1e6)),
    "hash_rate": Metric("H/s", "estimated mean hash rate, 24 h", _HASHES),
    "difficulty": Metric("difficulty", "mining difficulty", _DIFFICULTY),
    "difficulty_change_expected_percent": Metric("percent", "expected change at the next retarget", _PERCENT),
    "difficulty_change_last_percent": Metric("percent", "change at the last retarget", _PERCENT),
    "retarget_progress_percent": Metric("percent", "how much of the difficulty period is over", _PERCENT),
    "blocks_to_retarget": Metric("blocks", "blocks until the next retarget", _COUNT),
    "circulating_supply": Metric("coins", "coins in existence", _UNITS),
    "supply_issued_usd": Metric("USD", "value of the coins issued, 24 h", USD_AMOUNT),
    "price_usd": Metric("USD", "price of a coin", PRICE),
    "market_cap_usd": Metric("USD", "price times supply", _VALUE),
    "mvrv_ratio": Metric("ratio", "market value by realised value", _RATIO),
    "nvt_ratio": Metric("ratio", "market value by value transacted in a day", _RATIO),
    "exchange_inflow_usd": Metric("USD", "sent to exchanges, 24 h", USD_AMOUNT),
    "exchange_outflow_usd": Metric("USD", "withdrawn from exchanges, 24 h", USD_AMOUNT),
    "fees_usd": Metric("USD", "transaction fees, 24 h", USD_AMOUNT),
    "average_transaction_fee_usd": Metric("USD", "mean fee of a transaction, 24 h", USD_AMOUNT),
    "median_transaction_fee_usd": Metric("USD", "median fee of a transaction, 24 h", USD_AMOUNT),
    "miners_revenue_usd": Metric("USD", "block subsidy and fees, 24 h", USD_AMOUNT),
    "median_confirmation_minutes": Metric("minutes", "median time until a paying transaction is mined", _MINUTES),
    "mempool_transactions": Metric("transactions", "transactions that wait", _COUNT),
    "mempool_vsize": Metric("vB", "virtual size of what waits", _BYTES),
    "mempool_bytes": Metric("bytes", "size of what waits", _BYTES),
    "fee_fastest_sat_vb": Metric("sat/vB", "fee rate for the next block", _FEE_RATE),
    "fee_half_hour_sat_vb": Metric("sat/vB", "fee rate for half an hour", _FEE_RATE),
    "fee_hour_sat_vb": Metric("sat/vB", "fee rate for an hour", _FEE_RATE),
    "fee_economy_sat_vb": Metric("sat/vB", "low fee rate, no hurry", _FEE_RATE),
    "fee_minimum_sat_vb": Metric("sat/vB", "fee rate below which nodes forget", _FEE_RATE),
    "gas_price_safe_gwei": Metric("gwei", "gas price, slow", _GWEI),
    "gas_price_propose_gwei": Metric("gwei", "gas price, usual", _GWEI),
    "gas_price_fast_gwei": Metric("gwei", "gas price, fast", _GWEI),
    "base_fee_gwei": Metric("gwei", "base fee of the next block", _GWEI),
    "total_value_locked": Metric("USD", "value in the chain's DeFi protocols", USD_AMOUNT),
    "nodes": Metric("nodes", "nodes reachable", _SOME),
}


@dataclass(frozen=True, slots=True)
class Disagreement:
    """How far apart the sources of a metric may be, as a part of their middle, at the same time."""

    metric: str
    sources: tuple[str, ...]
    tolerance: float


#: Assumed from how the sources compute; to be replaced by what is measured. Hash rates are estimates from a day's
#: blocks (a Poisson count of 144: 8 % each); addresses are counted with and without those that only receive.
DISAGREEMENTS: Final = (
    Disagreement(
        "hash_rate",
        ("coinmetrics.asset_metrics", "blockchain_com.chart", "mempool.hashrate", "blockchair.stats"),
        0.25,
    ),
    Disagreement("active_addresses", ("coinmetrics.asset_metrics", "blockchain_com.chart"), 0.50),
    Disagreement("transaction_count", ("coinmetrics.asset_metrics", "blockchain_com.chart", "blockchair.stats"), 0.10),
    Disagreement("difficulty", ("blockchain_com.chart", "mempool.hashrate", "blockchair.stats"), 0.15),
    Disagreement(
        "circulating_supply",
        ("coinmetrics.asset_metrics", "blockchain_com.chart", "blockchair.stats", "etherscan.eth_supply"),
        0.02,
    ),
    Disagreement("market_cap_usd", ("coinmetrics.asset_metrics", "blockchain_com.chart", "blockchair.stats"), 0.15),
    Disagreement("total_value_locked", ("defillama.chains", "defillama.chain_tvl"), 0.15),
)


class Statements:
    """The onchain_data rows of one body: each moment of a metric once.

    Stated twice alike it is one row; stated twice differently it is left out with an issue.
    """

    def __init__(self, source: str, fetched_at: int, found: Findings) -> None:
        self.source = source
        self.fetched_at = fetched_at
        self.found = found
        self.seen = 0  # values that were there, readable or not
        self._rows: dict[tuple[str, str, int], Row] = {}
        self._contradicted: set[tuple[str, str, int]] = set()

    def add(
        self,
        coin_id: str,
        metric: str,
        event_time: int,
        value: object,
        lag_ms: int | None,
        *,
        field: str,
        scale: float = 1.0,
    ) -> None:
        """State ``value`` × ``scale`` (an upstream's JSON value; null: nothing). ``field``: the upstream's name."""
        if value is None:
            return
        self.seen += 1
        bounds = METRICS[metric].bounds
        raw = Bounds(bounds.what, bounds.low / scale, bounds.high / scale)
        read = number(self.found, coin_id, field, value, raw, where=None if lag_ms is None else str(event_time))
        if read is None:
            return
        if scale != 1.0:
            read = float(decimal(read) * Decimal(repr(scale)))
        key: dict[str, JsonScalar] = {"coin_id": coin_id, "metric": metric, "source": self.source}
        row = statement_row("onchain_data", key, event_time, read, self.fetched_at, lag_ms)
        place = (coin_id, metric, event_time)
        if self._rows.setdefault(place, row) != row:
            self._contradicted.add(place)
            self.found.add("duplicate", coin_id, f"{field}@{event_time}", "stated twice with different values")

    def rows(self) -> tuple[Row, ...]:
        """The rows, in the order found."""
        return tuple(row for place, row in self._rows.items() if place not in self._contradicted)

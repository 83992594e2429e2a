"""Blockchain.com: charts and statistics of Bitcoin (api.blockchain.info).

Format: https://www.blockchain.com/explorer/api/charts_api. What trips people up:

* A chart's ``x`` is in seconds; of a chart of days it is the day's **start**, and the newest day may still run.
* ``sampled`` is true unless given: then about 1,500 points of the range. Averaged charts (``rollingAverage``) are
  refused here: they are another number.
* The unit is text: the hash rate's is TH/s in the chart, and GH/s (unstated) in ``/stats``.
* ``/stats`` counts the last 24 hours; its coins are in satoshi and its ``timestamp`` in milliseconds.

``known_at`` of a chart: a day after its point's end, assumed until measured.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final
from urllib.parse import quote

from ray_app.clock import DAY_MS, iso
from ray_app.errors import MalformedPayload
from ray_app.sources.addressing import path_values
from ray_app.sources.base import Endpoint, Exchange, Parsed, Request
from ray_app.sources.onchain import Statements
from ray_app.sources.reading import (
    Findings,
    epoch_time,
    expect_list,
    expect_object,
    members,
    not_ahead,
    readable,
    shown,
)
from ray_app.sources.refusals import Refusal, read_answer, refuse, words

COIN: Final = "bitcoin"
LAG_MS: Final = DAY_MS
#: chart → (our metric, how long after ``x`` what a point is about ends)
CHARTS: Final[Mapping[str, tuple[str, int]]] = {
    "n-unique-addresses": ("active_addresses", DAY_MS),
    "n-transactions": ("transaction_count", DAY_MS),
    "estimated-transaction-volume-usd": ("transaction_volume_usd", DAY_MS),
    "hash-rate": ("hash_rate", DAY_MS),
    "difficulty": ("difficulty", DAY_MS),
    "miners-revenue": ("miners_revenue_usd", DAY_MS),
    "transaction-fees-usd": ("fees_usd", DAY_MS),
    "market-price": ("price_usd", DAY_MS),
    "market-cap": ("market_cap_usd", DAY_MS),
    "avg-block-size": ("block_size_mb", DAY_MS),
    "median-confirmation-time": ("median_confirmation_minutes", DAY_MS),
    "mvrv": ("mvrv_ratio", DAY_MS),
    "nvt": ("nvt_ratio", DAY_MS),
    "total-bitcoins": ("circulating_supply", 0),
    "mempool-count": ("mempool_transactions", 0),
    "mempool-size": ("mempool_bytes", 0),
}
_HASH_UNIT: Final = re.compile(r"(?:^|\s)([kKMGTPEZ]?)H/s", re.ASCII)
_PREFIX: Final = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18, "Z": 1e21}


class Chart(Endpoint):
    """``/charts/{name}``: one figure over time, oldest first."""

    name: ClassVar[str] = "blockchain_com.chart"
    account: ClassVar[str] = "blockchain_com"
    paths: ClassVar[tuple[str, ...]] = ("/charts/{name}",)
    aliases: ClassVar[Mapping[str, str]] = {"chartName": "name"}
    query: ClassVar[frozenset[str]] = frozenset(
        {"timespan", "rollingAverage", "start", "format", "sampled", "metadata", "cors", "daysAverageString", "scale"}
    )

    def request(self, chart: str, start_ms: int, end_ms: int) -> Request:
        """Every point of ``chart`` from the day of ``start_ms`` to ``end_ms``."""
        if chart not in CHARTS:
            raise ValueError(f"{self.name}: {chart} is none of {', '.join(CHARTS)}")
        days = max(1, end_ms // DAY_MS - start_ms // DAY_MS + 1)
        params = {"timespan": f"{days}days", "start": iso(start_ms)[:10], "sampled": "false", "format": "json"}
        return Request(self.name, f"/charts/{quote(chart, safe='')}", params)

    def parse(self, exchange: Exchange) -> Parsed:
        """onchain_data rows of bitcoin. Days that are not over yet yield no row; that is not an issue."""
        chart = path_values(self, exchange.request.path)["name"]
        if chart not in CHARTS:
            raise MalformedPayload(self.name, f"{shown(chart)} is no chart this node reads")
        for name, plain in (("rollingAverage", {"24hours", "1days", "1day"}), ("daysAverageString", {"1"})):
            if exchange.request.params.get(name, next(iter(plain))) not in plain:
                raise MalformedPayload(self.name, f"{name}={shown(exchange.request.params[name])} is another figure")
        body = expect_object(self.name, read_answer(exchange), "values")
        if body.get("status", "ok") != "ok":
            refuse(exchange, Refusal(words(body["status"])))
        metric, span = CHARTS[chart]
        scale = self._scale(body.get("unit")) if metric == "hash_rate" else 1.0
        items = expect_list(self.name, body.get("values"), "{x, y}")
        found = Findings()
        rows = Statements(self.name, exchange.fetched_at, found)
        times: list[int] = []
        for position, item in enumerate(items):
            if not isinstance(item, dict):
                found.add("wrong_type", COIN, f"values#{position}", f"expected x and y, got {shown(item)}")
                continue
            x = epoch_time(found, COIN, f"x#{position}", item.get("x"), 1_000)
            if x is not None:
                times.append(x)
            if x is None or (span and x <= exchange.fetched_at < x + span):
                continue
            ends = not_ahead(found, COIN, f"x#{position}", x + span, exchange.fetched_at)
            if ends is not None:
                rows.add(COIN, metric, min(ends, exchange.fetched_at), item.get("y"), LAG_MS, field=chart, scale=scale)
        readable(self.name, items, len(times), "a point with x in epoch seconds")
        return Parsed(rows.rows(), found.all(), oldest=min(times, default=None))

    def _scale(self, unit: object) -> float:
        """H/s of one of the chart's unit. Absent (``metadata=false``): the documented TH/s."""
        if unit is None:
            return _PREFIX["T"]
        match = _HASH_UNIT.search(unit) if isinstance(unit, str) else None
        if match is None:
            raise MalformedPayload(self.name, f"the hash rate's unit is {shown(unit)}, not some H/s")
        return _PREFIX[match[1].upper()]


#: member of /stats → (our metric, what one of theirs is in our unit)
STATS: Final[Mapping[str, tuple[str, float]]] = {
    "market_price_usd": ("price_usd", 1.0),
    "hash_rate": ("hash_rate", 1e9),
    "n_tx": ("transaction_count", 1.0),
    "n_blocks_mined": ("blocks_24h", 1.0),
    "n_blocks_total": ("block_count", 1.0),
    "minutes_between_blocks": ("block_interval_s", 60.0),
    "totalbc": ("circulating_supply", 1e-8),
    "difficulty": ("difficulty", 1.0),
    "estimated_transaction_volume_usd": ("transaction_volume_usd", 1.0),
    "miners_revenue_usd": ("miners_revenue_usd", 1.0),
}


class Stats(Endpoint):
    """``/stats``: the last 24 hours of Bitcoin, as of its own ``timestamp``."""

    name: ClassVar[str] = "blockchain_com.stats"
    account: ClassVar[str] = "blockchain_com"
    paths: ClassVar[tuple[str, ...]] = ("/stats",)
    query: ClassVar[frozenset[str]] = frozenset({"format", "cors"})

    def request(self) -> Request:
        """The statistics as they are now."""
        return Request(self.name, "/stats")

    def parse(self, exchange: Exchange) -> Parsed:
        """onchain_data rows of bitcoin, known from the fetch."""
        body: Mapping[str, Any] = expect_object(self.name, read_answer(exchange), "the statistics")
        found = Findings()
        at = epoch_time(found, COIN, "timestamp", body.get("timestamp"), 1)
        at = not_ahead(found, COIN, "timestamp", at, exchange.fetched_at)
        if at is None:
            raise MalformedPayload(self.name, f"no timestamp in milliseconds among {members(body)}")
        rows = Statements(self.name, exchange.fetched_at, found)
        for theirs, (metric, scale) in STATS.items():
            rows.add(COIN, metric, min(at, exchange.fetched_at), body.get(theirs), None, field=theirs, scale=scale)
        readable(self.name, [body], rows.seen, "an object with statistics")
        return Parsed(rows.rows(), found.all())


ENDPOINTS: Final[tuple[Endpoint, ...]] = (Chart(), Stats())

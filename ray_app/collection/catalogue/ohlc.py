"""Hourly candles of assets that no venue of ours lists, from CoinGecko, where a paid plan's month has room.

With 100 such assets, 400 credits a day: 12,400 of the analyst plan's 500,000 in a month of 31 days. They are asked for
as history is: after everything that the month's credits are needed for.
"""

from __future__ import annotations

from collections.abc import Callable

from ray_app.assets import AssetRegistry
from ray_app.clock import DAY_MS
from ray_app.collection.budget_rules import Priority
from ray_app.collection.feeds import Ask, Feed
from ray_app.collection.upstreams import FREE_PLANS, coingecko_plan
from ray_app.settings import Settings
from ray_app.sources import Request
from ray_app.sources.coingecko_charts import Ohlc

_EVERY_S = 6 * 3_600
#: the spans that CoinGecko offers hourly candles of, days
_SPANS = (1, 7, 14, 30, 90)


def ohlc_feeds(settings: Settings, registry: AssetRegistry) -> list[Feed]:
    """One feed per active asset without a venue, called by its coin id; none on a free plan."""
    if coingecko_plan(settings) in FREE_PLANS:
        return []
    return [
        Feed(
            asset.coin_id,
            "coingecko",
            _EVERY_S,
            "history",
            _hours(asset.coin_id),
            history_s=_SPANS[-1] * 86_400,
            overlap_s=2 * 3_600,
            grace_s=1_200,
            priority=Priority.BACKFILL,
        )
        for asset in registry.active()
        if asset.coinbase_product is None
    ]


def _hours(coin_id: str) -> Callable[[Ask], Request]:
    """Hourly candles back to what is stored, or as far as they go."""

    def ask(asked: Ask) -> Request:
        days = next((span for span in _SPANS if asked.now - asked.since <= span * DAY_MS), _SPANS[-1])
        return Ohlc().request(coin_id, days, "hourly")

    return ask

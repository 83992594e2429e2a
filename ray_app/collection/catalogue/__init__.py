"""Which feeds each source collector polls. Pure functions of settings and registry; one file per group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from ray_app.assets import AssetRegistry
from ray_app.collection.catalogue import derivatives, macro, news, ohlc, onchain, social
from ray_app.collection.feeds import Feed
from ray_app.settings import Settings

FeedsOf = Callable[[Settings, AssetRegistry], list[Feed]]


def _of(feeds: Callable[[Settings], list[Feed]]) -> FeedsOf:
    """Feeds that do not depend on the registry."""
    return lambda settings, registry: feeds(settings)  # noqa: ARG005 - the common shape


#: the feeds of each dataset
CATALOGUE: Final[Mapping[str, FeedsOf]] = {
    "macro-fred": macro.fred_feeds,
    "macro-market": macro.yahoo_feeds,
    "crypto-news": news.crypto_news_feeds,
    "stock-news": news.stock_news_feeds,
    "social-reddit": social.reddit_feeds,
    "social-x": social.x_feeds,
    "onchain": onchain.onchain_feeds,
    "derivatives": derivatives.derivatives_feeds,
    "fear-greed": onchain.fear_greed_feeds,
    "ohlc-coingecko": ohlc.ohlc_feeds,
}

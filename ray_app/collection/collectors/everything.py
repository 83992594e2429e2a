"""The collectors of feeds by name: each its own dataset, lease and actor, so that none delays another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ray_app.clock import HOUR_MS
from ray_app.collection.budget_rules import Priority
from ray_app.collection.collectors.base import PollResult
from ray_app.collection.collectors.sources import FeedCollector
from ray_app.collection.schedule import Schedule
from ray_app.collection.upstreams import FREE_PLANS, Upstream, coingecko_plan
from ray_app.errors import UpstreamError
from ray_app.settings import Settings
from ray_app.sources.reddit import PAGE, ById
from ray_app.storage import records, texts

#: when the posts of the last two days are looked at again, and how many of them at most: those seen longest ago first
_AGAIN = Schedule("social-reddit/again", 6 * 3_600, grace_s=600)
_WATCHED_MS = 48 * HOUR_MS
_AGAIN_MOST = 1_000


class MacroFred(FeedCollector):
    """FRED's series with their vintages."""

    name: ClassVar[str] = "macro-fred"
    accounts: ClassVar[tuple[str, ...]] = ("fred",)
    datasets: ClassVar[tuple[str, ...]] = ("macro-fred",)


class MacroMarket(FeedCollector):
    """Daily bars of indices, yields, commodities, ETFs and currencies from Yahoo."""

    name: ClassVar[str] = "macro-market"
    accounts: ClassVar[tuple[str, ...]] = ("yahoo",)
    datasets: ClassVar[tuple[str, ...]] = ("macro-market",)


class CryptoNews(FeedCollector):
    """Crypto news: RSS and Atom feeds, the Guardian, CryptoPanic."""

    name: ClassVar[str] = "crypto-news"
    accounts: ClassVar[tuple[str, ...]] = ("rss", "guardian", "cryptopanic")
    datasets: ClassVar[tuple[str, ...]] = ("crypto-news",)


class StockNews(FeedCollector):
    """Business and market news: the Guardian, RSS feeds."""

    name: ClassVar[str] = "stock-news"
    accounts: ClassVar[tuple[str, ...]] = ("rss", "guardian")
    datasets: ClassVar[tuple[str, ...]] = ("stock-news",)


class SocialReddit(FeedCollector):
    """New posts of subreddits; and a second look at those of the last days, so that deletions are honoured."""

    name: ClassVar[str] = "social-reddit"
    accounts: ClassVar[tuple[str, ...]] = ("reddit",)
    datasets: ClassVar[tuple[str, ...]] = ("social-reddit",)

    async def poll(self) -> PollResult:
        """New posts, then what has become of the ones that are stored."""
        result = await super().poll()
        now = self.runtime.clock.now_ms()
        slot = _AGAIN.newest_due(now)
        last = await self.runtime.read(lambda conn: records.last_good_fetched_at(conn, ById.name))
        if result.retry_at is None and self._feeds.get(self.name) and (last is None or last < slot):
            await self._look_again(now, result)
        return result

    async def _look_again(self, now: int, result: PollResult) -> None:
        names = await self.runtime.read(
            lambda conn: texts.posts_to_look_at(conn, "reddit", now - _WATCHED_MS, _AGAIN_MOST)
        )
        for start in range(0, len(names), PAGE):
            result.requests += 1
            try:
                receipt = await self.runtime.fetch(ById().request(names[start : start + PAGE]), Priority.REPAIR)
                if receipt.error is not None:
                    raise receipt.error
            except UpstreamError as error:
                result.failed(error, now)
                return


class SocialX(FeedCollector):
    """Recent posts on X, as far as the month's money goes."""

    name: ClassVar[str] = "social-x"
    accounts: ClassVar[tuple[str, ...]] = ("x",)
    datasets: ClassVar[tuple[str, ...]] = ("social-x",)


class Onchain(FeedCollector):
    """What block chains and their explorers count."""

    name: ClassVar[str] = "onchain"
    accounts: ClassVar[tuple[str, ...]] = (
        *("coinmetrics", "blockchain_com", "mempool", "etherscan", "blockchair", "defillama", "stablecoins"),
    )
    datasets: ClassVar[tuple[str, ...]] = ("onchain",)


class Derivatives(FeedCollector):
    """Funding, open interest and volatility per venue."""

    name: ClassVar[str] = "derivatives"
    accounts: ClassVar[tuple[str, ...]] = ("binance", "bybit", "okx", "deribit")
    datasets: ClassVar[tuple[str, ...]] = ("derivatives",)


class FearGreed(FeedCollector):
    """alternative.me's index."""

    name: ClassVar[str] = "fear-greed"
    accounts: ClassVar[tuple[str, ...]] = ("alternative_me",)
    datasets: ClassVar[tuple[str, ...]] = ("fear-greed",)


class OhlcCoingecko(FeedCollector):
    """Candles of assets without a venue."""

    name: ClassVar[str] = "ohlc-coingecko"
    accounts: ClassVar[tuple[str, ...]] = ("coingecko",)
    datasets: ClassVar[tuple[str, ...]] = ("ohlc-coingecko",)

    @classmethod
    def off(cls, settings: Settings, upstreams: Mapping[str, Upstream]) -> str | None:
        """A free plan's month has no room for it."""
        if coingecko_plan(settings) in FREE_PLANS:
            return "disabled: a free CoinGecko month has no room for candles; set COINGECKO_PLAN and COINGECKO_API_KEY"
        return super().off(settings, upstreams)


FEED_COLLECTORS: tuple[type[FeedCollector], ...] = (
    *(MacroFred, MacroMarket, CryptoNews, StockNews, SocialReddit, SocialX, Onchain, Derivatives, FearGreed),
    OhlcCoingecko,
)

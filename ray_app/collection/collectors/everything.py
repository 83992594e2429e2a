"""The collectors of feeds by name: each its own dataset, lease and actor, so that none delays another."""

from __future__ import annotations

from typing import ClassVar

from ray_app.collection.collectors.sources import FeedCollector


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
    """New posts of subreddits."""

    name: ClassVar[str] = "social-reddit"
    accounts: ClassVar[tuple[str, ...]] = ("reddit",)
    datasets: ClassVar[tuple[str, ...]] = ("social-reddit",)


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


FEED_COLLECTORS: tuple[type[FeedCollector], ...] = (
    *(MacroFred, MacroMarket, CryptoNews, StockNews, SocialReddit, SocialX, Onchain, Derivatives, FearGreed),
)

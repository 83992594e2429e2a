"""The feeds this node knows: name, address, which market's news they are, and whether anything still answers there.

Crypto feeds: upstreams.md §16, with its corrections. Feeds of the stock market: MarketWatch's was recorded; the others
are as public lists of feeds name them. None but CoinDesk's and MarketWatch's has been read by us: each is unverified
until its first answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

Market = Literal["crypto", "stock"]


@dataclass(frozen=True, slots=True)
class Site:
    """One feed. ``dead``: known to answer no more; it is not polled, and what was recorded of it can still be read."""

    name: str
    url: str
    market: Market
    category: str
    dead: bool = False


SITES: Final[tuple[Site, ...]] = (
    Site("coindesk", "https://www.coindesk.com/arc/outboundfeeds/rss/", "crypto", "general"),
    Site("cointelegraph", "https://cointelegraph.com/rss", "crypto", "general"),
    Site("cryptoslate", "https://cryptoslate.com/feed/", "crypto", "general"),
    Site("decrypt", "https://decrypt.co/feed", "crypto", "general"),
    Site("bitcoin-magazine", "https://bitcoinmagazine.com/feed", "crypto", "bitcoin"),
    Site("coinjournal", "https://coinjournal.net/feed/", "crypto", "general"),
    Site("newsbtc", "https://www.newsbtc.com/feed/", "crypto", "analysis"),
    Site("beincrypto", "https://beincrypto.com/feed/", "crypto", "general"),
    Site("the-block", "https://www.theblock.co/rss.xml", "crypto", "general"),
    Site("defi-pulse", "https://defipulse.com/blog/feed/", "crypto", "defi", dead=True),
    Site("coingecko-news", "https://www.coingecko.com/en/news/feed", "crypto", "market", dead=True),
    Site("coinmarketcap", "https://coinmarketcap.com/headlines/news/feed/", "crypto", "market", dead=True),
    Site("coin-center", "https://www.coincenter.org/feed/", "crypto", "regulatory"),
    Site("blockchain-association", "https://theblockchainassociation.org/feed/", "crypto", "regulatory"),
    # upstreams.md lists /feed.xml, which leads here
    Site("ethereum-foundation", "https://blog.ethereum.org/en/feed.xml", "crypto", "ethereum"),
    # upstreams.md lists bitcoin.org's, which is another site's
    Site("bitcoin-core", "https://bitcoincore.org/en/rss.xml", "crypto", "bitcoin"),
    Site("solana", "https://solana.com/news/rss.xml", "crypto", "solana"),
    Site("polygon", "https://blog.polygon.technology/feed/", "crypto", "general"),
    Site("crypto-briefing", "https://cryptobriefing.com/feed/", "crypto", "general"),
    Site("crypto-daily", "https://cryptodaily.co.uk/feed", "crypto", "general"),
    Site("ambcrypto", "https://ambcrypto.com/feed/", "crypto", "analysis"),
    Site("crypto-news", "https://cryptonews.com/news/feed/", "crypto", "general"),
    Site("coinspeaker", "https://www.coinspeaker.com/feed/", "crypto", "general"),
    Site("cryptoglobe", "https://www.cryptoglobe.com/latest/feed/", "crypto", "international"),
    Site("bitcoinist", "https://bitcoinist.com/feed/", "crypto", "bitcoin"),
    Site("crypto-news-flash", "https://www.crypto-news-flash.com/feed/", "crypto", "international"),
    Site("marketwatch", "https://feeds.content.dowjones.io/public/rss/mw_topstories", "stock", "market"),
    Site("cnbc", "https://www.cnbc.com/id/100003114/device/rss/rss.html", "stock", "general"),
    Site("cnbc-markets", "https://www.cnbc.com/id/15839135/device/rss/rss.html", "stock", "market"),
    Site(
        "yahoo-finance",
        "https://feeds.finance.yahoo.com/rss/2.0/headline?s=%5EGSPC&region=US&lang=en-US",
        "stock",
        "market",
    ),
    Site("nasdaq", "https://www.nasdaq.com/feed/nasdaq-original/rss.xml", "stock", "market"),
    Site("investing", "https://www.investing.com/rss/news_25.rss", "stock", "market"),
    Site("sec", "https://www.sec.gov/news/pressreleases.rss", "stock", "regulatory"),
    Site("federal-reserve", "https://www.federalreserve.gov/feeds/press_all.xml", "stock", "regulatory"),
)

#: every feed by its name
FEEDS: Final[dict[str, Site]] = {site.name: site for site in SITES}
#: addresses that lead, or once led, to a feed of another address
ALIASES: Final[dict[str, str]] = {
    "https://blog.ethereum.org/feed.xml": "ethereum-foundation",
    "https://bitcoin.org/en/rss.xml": "bitcoin-core",
    "https://feeds.marketwatch.com/marketwatch/topstories/": "marketwatch",
}


def place_of(url: str) -> str:
    """What of an address tells a feed: host, path and query; neither its scheme nor a slash at the end."""
    parts = urlsplit(url.strip())
    query = f"?{parts.query}" if parts.query else ""
    return f"{(parts.hostname or '').removeprefix('www.')}{parts.path.rstrip('/')}{query}"


#: which feed's an address is
NAME_OF: Final[dict[str, str]] = {place_of(url): name for url, name in ALIASES.items()} | {
    place_of(site.url): site.name for site in SITES
}

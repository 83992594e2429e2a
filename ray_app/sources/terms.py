"""What each upstream allows to be done with its data, as data: licence, redistribution, attribution, retention.

This is what the node's operator is told and what the API enforces (serving/licensing.py); it is no legal advice, and an
operator's own contract may say otherwise. ``verified``: read in the upstream's own text; everything else is from
general knowledge and stands as the more careful of two readings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from ray_app.sources import ENDPOINTS

#: allowed: as one likes. attribution: with the attribution beside it. non-commercial: that, and not for money.
#: forbidden: only the own systems may have it. unknown: nothing found; ask before passing it on.
Redistribution = Literal["allowed", "attribution", "non-commercial", "forbidden", "unknown"]


@dataclass(frozen=True, slots=True)
class Terms:
    """What an account's data may be used for. ``retention_h``: how long contents may be kept, hours; None: no limit
    is known.
    """  # noqa: D205 - one sentence after the other

    licence: str
    redistribution: Redistribution
    attribution: str
    url: str
    retention_h: int | None = None
    verified: bool = False


_VENUE: Final = "terms of the exchange's API; market data for own use"

#: By account (collection/accounts.py).
TERMS: Final[dict[str, Terms]] = {
    "coingecko": Terms(
        "CoinGecko API terms; to be shown with attribution, not to be resold as raw data",
        "attribution",
        "Data provided by CoinGecko (https://www.coingecko.com)",
        "https://brand.coingecko.com/resources/attribution-guide",
        verified=True,  # the attribution; the rest of the terms was not read
    ),
    "coinbase": Terms(_VENUE, "unknown", "Coinbase Exchange", "https://www.coinbase.com/legal/market_data"),
    "coinbase-ws": Terms(_VENUE, "unknown", "Coinbase Exchange", "https://www.coinbase.com/legal/market_data"),
    "coinbase-v2": Terms(
        "Coinbase Developer Platform terms",
        "unknown",
        "Coinbase",
        "https://www.coinbase.com/legal/cloud/terms-of-service",
    ),
    "fred": Terms(
        "FRED API terms; mostly public domain, some series are copyrighted by others (RESTRICTED_SERIES)",
        "attribution",
        "This product uses the FRED® API but is not endorsed or certified by the Federal Reserve Bank of St. Louis.",
        "https://fred.stlouisfed.org/docs/api/terms_of_use.html",
    ),
    "yahoo": Terms(
        "Yahoo terms of service: personal use, no redistribution",
        "forbidden",
        "Yahoo Finance",
        "https://legal.yahoo.com/us/en/yahoo/terms/otos/index.html",
    ),
    "rss": Terms(
        "each publisher's own: headline, link and a short teaser are what a feed is for",
        "attribution",
        "the publisher, with a link to the article",
        "",
    ),
    "guardian": Terms(
        "Guardian Open Platform, developer key: non-commercial; contents may be kept 24 hours",
        "non-commercial",
        "Powered by the Guardian Open Platform, with a link to the article",
        "https://www.theguardian.com/open-platform/terms-and-conditions",
        retention_h=24,
        verified=True,  # upstreams.md §4, from the documentation
    ),
    "cryptopanic": Terms(
        "CryptoPanic API terms; headlines with a link back",
        "attribution",
        "CryptoPanic (https://cryptopanic.com)",
        "https://cryptopanic.com/developers/api/terms",
    ),
    "reddit": Terms(
        "Reddit Data API terms: commercial use and redistribution need a contract; what is deleted must be removed",
        "forbidden",
        "Reddit",
        "https://redditinc.com/policies/data-api-terms",
        retention_h=48,
    ),
    "x": Terms(
        "X Developer Policy: ids may be passed on, contents may not; what is deleted must be removed in 24 hours",
        "forbidden",
        "X",
        "https://docs.x.com/developer-terms/policy",
        retention_h=24,
    ),
    "coinmetrics": Terms(
        "CC BY-NC 4.0",
        "non-commercial",
        "Source: Coin Metrics Community Network Data (https://coinmetrics.io), CC BY-NC 4.0",
        "https://docs.coinmetrics.io/access-our-data/api",
        verified=True,
    ),
    "blockchain_com": Terms(
        "Blockchain.com API terms", "attribution", "Blockchain.com", "https://www.blockchain.com/legal/api-terms"
    ),
    "mempool": Terms(
        "mempool.space terms of service; the chain's own facts",
        "attribution",
        "mempool.space",
        "https://mempool.space/terms-of-service",
    ),
    "etherscan": Terms(
        "Etherscan API terms: attribution where it is shown",
        "attribution",
        "Powered by Etherscan.io APIs",
        "https://etherscan.io/apiterms",
    ),
    "blockchair": Terms(
        "Blockchair API terms: attribution on the free plan",
        "attribution",
        "Data by Blockchair (https://blockchair.com)",
        "https://blockchair.com/api/docs",
    ),
    "defillama": Terms(
        "DefiLlama's open API", "attribution", "DefiLlama (https://defillama.com)", "https://defillama.com/terms"
    ),
    "stablecoins": Terms(
        "DefiLlama's open API", "attribution", "DefiLlama (https://defillama.com)", "https://defillama.com/terms"
    ),
    "alternative_me": Terms(
        "free, commercial use too, with attribution right beside the number",
        "attribution",
        "Crypto Fear & Greed Index by Alternative.me (https://alternative.me/crypto/fear-and-greed-index/)",
        "https://alternative.me/crypto/fear-and-greed-index/#api",
        verified=True,  # upstreams.md §12, from the documentation
    ),
    "binance": Terms(_VENUE, "unknown", "Binance", "https://www.binance.com/en/terms"),
    "bybit": Terms(_VENUE, "unknown", "Bybit", "https://www.bybit.com/en/terms-service"),
    "okx": Terms(_VENUE, "unknown", "OKX", "https://www.okx.com/help/terms-of-service"),
    "deribit": Terms(_VENUE, "unknown", "Deribit", "https://statics.deribit.com/files/TermsofServiceDeribit.pdf"),
}

#: An account nobody has looked up.
UNKNOWN: Final = Terms("unknown", "unknown", "", "")

#: FRED's series whose owners allow no redistribution without their permission [unverified against the series' notes],
#: under FRED's ids and the names they are stored by.
RESTRICTED_SERIES: Final[dict[str, str]] = {
    **dict.fromkeys(("SP500", "SPX", "DJIA"), "S&P Dow Jones Indices LLC"),
    **dict.fromkeys(("VIXCLS", "VIX"), "Chicago Board Options Exchange"),
    **dict.fromkeys(("NASDAQCOM", "NASDAQ100"), "NASDAQ OMX Group"),
    "UMCSENT": "University of Michigan",
    **dict.fromkeys(("BAMLH0A0HYM2", "BAMLC0A0CM"), "ICE Data Indices, LLC"),
}


def account_of(source: str) -> str:
    """The account an endpoint spends (``coinbase.exchange_rates`` is one of ``coinbase-v2``)."""
    known = ENDPOINTS.get(source)
    return known.account if known is not None else source.split(".", maxsplit=1)[0]


def terms_of(source: str, series: str | None = None) -> Terms:
    """The terms of what an endpoint gave; ``series``: of this series of it, which may have an owner of its own."""
    terms = TERMS.get(account_of(source), UNKNOWN)
    owner = RESTRICTED_SERIES.get(series or "")
    if owner is None or not source.startswith("fred."):
        return terms
    return replace(
        terms,
        licence=f"copyright {owner}: no redistribution without its permission",
        redistribution="forbidden",
        attribution=f"{owner}, through FRED. {terms.attribution}",
    )

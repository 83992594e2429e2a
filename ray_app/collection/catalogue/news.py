"""News: feeds of publishers, the Guardian, CryptoPanic.

Requests, against what the accounts allow (accounts.py):

* rss: 23 crypto and 8 stock feeds every 15 minutes are 31 requests a quarter of an hour, 3.1 of 60 a minute. They are
  conditional: most are answered 304.
* guardian: one question of crypto news and two of stock news every 30 minutes are 144 requests a day of 450. A page
  holds 200 articles, more than a section publishes in a day; only a first request of many days needs more (at most 5).
* cryptopanic: one page every 30 minutes is 48 requests a day of 90.
"""

from __future__ import annotations

import difflib
from functools import partial
from typing import Final, Literal

from ray_app.assets import AssetRegistry
from ray_app.clock import SECOND_MS
from ray_app.collection.feeds import Ask, Feed
from ray_app.errors import ConfigError
from ray_app.settings import Settings
from ray_app.sources import cryptopanic, guardian, rss
from ray_app.sources.base import Request
from ray_app.sources.rss_feeds import FEEDS, SITES, Market

_RSS_S: Final = 900
_SEARCH_S: Final = 1_800
#: how far back the first question to the Guardian goes
_HISTORY_S: Final = 7 * 86_400
#: articles are corrected, and dated before they appear
_OVERLAP_S: Final = 6 * 3_600
#: what the Guardian is asked: market, subject, section or tag
_GUARDIAN: Final[tuple[tuple[Market, str, dict[Literal["section", "tag"], str]], ...]] = (
    ("crypto", "guardian/cryptocurrencies", {"tag": "technology/cryptocurrencies"}),
    ("stock", "guardian/business", {"section": "business"}),
    ("stock", "guardian/money", {"section": "money"}),
)
_feed, _search, _posts = rss.Feed(), guardian.Search(), cryptopanic.Posts()


def crypto_news_feeds(settings: Settings, registry: AssetRegistry) -> list[Feed]:  # noqa: ARG001 - a catalogue's shape
    """What crypto_news is made of. ConfigError: RSS_FEEDS names a feed that there is not."""
    posts = Feed("cryptopanic", cryptopanic.ACCOUNT, _SEARCH_S, "window", _ask_posts)
    return [*_rss(settings, "crypto"), *_guardian("crypto"), posts]


def stock_news_feeds(settings: Settings, registry: AssetRegistry) -> list[Feed]:  # noqa: ARG001 - a catalogue's shape
    """What stock_news is made of. ConfigError: RSS_FEEDS names a feed that there is not."""
    return [*_rss(settings, "stock"), *_guardian("stock")]


def _rss(settings: Settings, market: Market) -> list[Feed]:
    wanted = set(settings.rss_feeds or [site.name for site in SITES if not site.dead])
    for name in sorted(wanted - set(FEEDS)):
        near = difflib.get_close_matches(name, FEEDS, 3, 0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"all of them: {', '.join(FEEDS)}"
        raise ConfigError(f"RSS_FEEDS: no feed is called {name!r}; {hint}")
    return [
        Feed(f"rss/{site.name}", _feed.account, _RSS_S, "window", partial(_ask_rss, site.name))
        for site in SITES
        if site.market == market and site.name in wanted
    ]


def _guardian(market: Market) -> list[Feed]:
    return [
        Feed(
            subject,
            guardian.ACCOUNT,
            _SEARCH_S,
            "history",
            partial(_ask_guardian, market, about),
            history_s=_HISTORY_S,
            overlap_s=_OVERLAP_S,
            pages=5,
        )
        for of, subject, about in _GUARDIAN
        if of == market
    ]


def _ask_rss(name: str, ask: Ask) -> Request:  # noqa: ARG001 - a feed shows what it shows
    return _feed.request(name)


def _ask_guardian(market: Market, about: dict[Literal["section", "tag"], str], ask: Ask) -> Request:
    since = min(ask.since, ask.now - SECOND_MS)
    return _search.request(market, since, section=about.get("section"), tag=about.get("tag"))


def _ask_posts(ask: Ask) -> Request:  # noqa: ARG001 - the newest page
    return _posts.request()

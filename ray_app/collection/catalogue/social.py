"""What is asked of Reddit and X.

Reddit: ten subreddits every 15 minutes are 960 requests a day where nobody writes more than 100 posts in six hours and
15 minutes; wallstreetbets needs up to three pages then, so at most some 1,500 a day. The account allows 60 a minute,
86,400 a day. The first poll of all reads at most 10 x 10 pages, in two minutes.

X: money. A call may return 100 posts, so it costs 100 credits; the month has ``X_MONTHLY_USD`` / 0.005 of them (25 USD:
5,000 posts, 50 calls). A tenth is left for retries: 45 calls. Two queries every 36 hours are 2 x 21 = 42 in 31 days.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from ray_app.assets import AssetRegistry
from ray_app.collection.accounts import ACCOUNTS, limits_of_account
from ray_app.collection.feeds import Ask, Feed
from ray_app.settings import Settings
from ray_app.sources.base import Request
from ray_app.sources.reddit import Listing
from ray_app.sources.x import RecentSearch

SUBREDDITS: Final = (
    *("CryptoCurrency", "Bitcoin", "ethereum", "CryptoMarkets", "ethfinance", "solana", "defi", "btc"),
    *("investing", "wallstreetbets"),
)
REDDIT_EVERY_S: Final = 900
#: posts are read again this long: their scores grow, and some are deleted
REDDIT_AGAIN_S: Final = 6 * 3_600
#: how far back the first poll goes, if 1,000 posts reach
REDDIT_HISTORY_S: Final = 86_400

#: in the order in which they are given up where money is short, last first
X_QUERIES: Final = {
    "majors": "($BTC OR $ETH) lang:en -is:retweet",
    "alts": "($SOL OR $XRP OR $BNB OR $ADA OR $DOGE OR $AVAX OR $LINK OR $DOT OR $LTC OR $UNI) lang:en -is:retweet",
}
#: hours between two calls of one query, of which the shortest is taken that the month can pay
X_HOURS: Final = (1, 2, 3, 4, 6, 8, 12, 24, 36, 48, 72, 168)
#: hours in the longest month
_MONTH_H: Final = 31 * 24
#: how much of the month's calls is planned, in tenths; the rest is for retries
_PLANNED: Final = 9


def reddit_feeds(settings: Settings, registry: AssetRegistry) -> list[Feed]:  # noqa: ARG001 - every catalogue's form
    """New posts of each subreddit. A listing ends after 1,000 posts: what is older cannot be asked for."""
    return [
        Feed(
            f"r/{name}",
            "reddit",
            REDDIT_EVERY_S,
            "window",
            partial(_listing, name),
            history_s=REDDIT_HISTORY_S,
            overlap_s=REDDIT_AGAIN_S,
            pages=10,
        )
        for name in SUBREDDITS
    ]


def x_feeds(settings: Settings, registry: AssetRegistry) -> list[Feed]:  # noqa: ARG001 - every catalogue's form
    """Searches for cashtags, as often as the month's money allows; fewer of them, or none, where it is very little.

    Each is a sample: the newest 100 posts of the moment.
    """
    account = next(account for account in ACCOUNTS if account.name == "x")
    posts = limits_of_account(account, settings).monthly or 0
    for count in range(len(X_QUERIES), 0, -1):
        hours = hours_between(count, posts)
        if hours is not None:
            queries = list(X_QUERIES.items())[:count]
            return [Feed(name, "x", hours * 3_600, "window", partial(_search, query)) for name, query in queries]
    return []


def hours_between(queries: int, posts: int) -> int | None:
    """The shortest interval at which so many queries cost at most nine tenths of a month's posts; None: none does."""
    calls = posts // RecentSearch.cost * _PLANNED // 10
    return next((hours for hours in X_HOURS if queries * -(-_MONTH_H // hours) <= calls), None)


def _listing(subreddit: str, _: Ask) -> Request:
    return Listing().request(subreddit)


def _search(query: str, _: Ask) -> Request:
    return RecentSearch().request(query)

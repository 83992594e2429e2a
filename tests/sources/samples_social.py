"""Good answers of the sources of social posts, written by hand after the documented formats (see samples.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray_app.sources import ENDPOINTS, Request

NOON = 1_779_105_600_000
FETCHED_AT = NOON + 7_300


def post(name: str = "t3_1abcde", **changes: Any) -> dict[str, Any]:
    """A post of a listing; ``changes`` replace members, a value of ``...`` removes one."""
    data = {
        "id": name[3:],
        "name": name,
        "title": "Fees & where they go",
        "selftext": "A fee < 1 sat?\n\nYes.",
        "author": "satoshi_fan",
        "author_fullname": "t2_abc",
        "subreddit": "Bitcoin",
        "score": 41,
        "ups": 41,
        "upvote_ratio": 0.93,
        "num_comments": 12,
        "created_utc": NOON / 1_000 - 3_600.0,
        "created": NOON / 1_000 + 25_200.0,
        "permalink": f"/r/Bitcoin/comments/{name[3:]}/fees_where_they_go/",
        "url": f"https://www.reddit.com/r/Bitcoin/comments/{name[3:]}/fees_where_they_go/",
        "domain": "self.Bitcoin",
        "is_self": True,
        "over_18": False,
        "stickied": False,
        "removed_by_category": None,
        "link_flair_text": None,
        "edited": False,
    } | changes
    return {"kind": "t3", "data": {key: value for key, value in data.items() if value is not ...}}


def listing(*children: Any, after: str | None = "t3_1abcdf") -> dict[str, Any]:
    return {
        "kind": "Listing",
        "data": {
            "after": after,
            "before": None,
            "dist": len(children),
            "modhash": None,
            "geo_filter": "",
            "children": list(children),
        },
    }


def tweet(tweet_id: str = "2056339471364567040", **changes: Any) -> dict[str, Any]:
    """A post of a search; ``changes`` as in :func:`post`."""
    data = {
        "id": tweet_id,
        "text": "$BTC &amp; $ETH &gt; all",
        "author_id": "2244994945",
        "created_at": "2026-05-18T11:59:00.000Z",
        "lang": "en",
        "public_metrics": {
            "retweet_count": 3,
            "reply_count": 4,
            "like_count": 25,
            "quote_count": 2,
            "bookmark_count": 1,
            "impression_count": 9_001,
        },
        "edit_history_tweet_ids": [tweet_id],
    } | changes
    return {key: value for key, value in data.items() if value is not ...}


def search(*tweets: Any, token: str | None = "b26v89c19zqg8o3fn0m2", **members: Any) -> dict[str, Any]:
    meta = {"newest_id": "1", "oldest_id": "1", "result_count": len(tweets)}
    users = [{"id": "2244994945", "name": "Dev", "username": "TwitterDev", "verified": True}]
    body = {
        "data": list(tweets),
        "includes": {"users": users},
        "meta": meta | ({"next_token": token} if token is not None else {}),
    }
    return body | members


BODIES: Mapping[str, Any] = {
    "reddit.listing": listing(post(), post("t3_1abcdf", selftext="", created_utc=NOON / 1_000 - 7_200.0)),
    "reddit.by_id": listing(post(), post("t3_1abcdf"), after=None),
    "x.recent_search": search(tweet(), tweet("2056339471364567039", author_id="7")),
}
REQUESTS: Mapping[str, Callable[[], Request]] = {
    "reddit.listing": lambda: ENDPOINTS["reddit.listing"].request("Bitcoin"),
    "reddit.by_id": lambda: ENDPOINTS["reddit.by_id"].request(["t3_1abcde", "t3_1abcdf"]),
    "x.recent_search": lambda: ENDPOINTS["x.recent_search"].request("($BTC OR $ETH) -is:retweet lang:en"),
}

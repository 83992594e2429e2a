"""Reddit (oauth.reddit.com): tokens, new posts of subreddits, posts by name: shared/upstreams.md §5.

A subreddit has posts at a steady rate, each at a moment of its own within its slot; a post's id tells its subreddit and
number. Scores and comments grow with age. Some posts are deleted hours later: the real listing drops those, here they
stay in it as they do in ``/api/info``, so that both ways to learn of a deletion can be tried. Counts in the rate-limit
headers are not kept: they say what the window would allow. A form is not looked at: a grant type counts as a parameter.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Final

import numpy as np

from ray_app.clock import HOUR_MS, SECOND_MS
from ray_app.sandbox.answers import Answer, Question, Rejection, SimulatedEndpoint, World, digits, json_answer
from ray_app.sandbox.chatter import asset_of, body_of, grown, lots, popularity, title_of
from ray_app.sandbox.rng import key_of

#: posts an hour
SUBREDDITS: Final = {
    "CryptoCurrency": 12,
    "Bitcoin": 6,
    "ethereum": 2,
    "CryptoMarkets": 4,
    "ethfinance": 1,
    "solana": 3,
    "defi": 1,
    "btc": 2,
    "investing": 4,
    "wallstreetbets": 12,
}
#: how deep a listing is
DEPTH: Final = 1_000
_NAMES: Final = tuple(SUBREDDITS)
_BY_LOWER: Final = {name.lower(): number for number, name in enumerate(_NAMES)}
_ID: Final = re.compile(r"t3_([0-9a-z]{1,12})")
_WINDOW_S: Final = 600
_ESCAPED: Final = ("title", "selftext")


def _refuse(status: int, message: str, **more: str) -> Rejection:
    return Rejection(json_answer({**more, "message": message, "error": status}, status))


class AccessToken(SimulatedEndpoint):
    """POST /api/v1/access_token: a bearer token for a day."""

    source: ClassVar[str] = "reddit"
    name = "token"
    pattern = re.compile(r"/api/v1/access_token")
    methods: ClassVar[frozenset[str]] = frozenset({"POST"})

    def answer(self, question: Question, world: World) -> Answer:
        if question.params.get("grant_type", "client_credentials") != "client_credentials":
            return json_answer({"error": "unsupported_grant_type"})
        token = f"sandbox-{key_of(world.seed, 'reddit token', question.now_ms):x}"
        return json_answer({"access_token": token, "token_type": "bearer", "expires_in": 86_400, "scope": "*"})


class Listing(SimulatedEndpoint):
    """GET /r/{subreddit}/new: newest first, 1,000 deep, at most 100 a page."""

    source: ClassVar[str] = "reddit"
    name = "listing"
    pattern = re.compile(r"/r/([^/]+)/new")

    def answer(self, question: Question, world: World) -> Answer:
        if question.subject.lower().startswith("private"):
            raise _refuse(403, "Forbidden", reason="private")
        subreddit = _BY_LOWER.get(question.subject.lower())
        if subreddit is None:
            raise _refuse(404, "Not Found", reason="banned")
        params, now = question.params, question.now_ms
        limit = int(params["limit"]) if digits(params.get("limit", "")) else 25
        limit = min(max(limit, 1), 100)
        newest = _newest(world.seed, subreddit, now)
        deepest = newest - DEPTH + 1
        if (after := _number(params.get("after", ""))) is not None and after[0] == subreddit:
            first = after[1] - 1
        elif params.get("after"):
            first = deepest - 1  # a cursor of nothing here: an empty page
        else:
            first = newest
        last = max(first - limit + 1, deepest)
        if (before := _number(params.get("before", ""))) is not None and before[0] == subreddit:
            last = before[1] + 1
            first = min(last + limit - 1, newest)
        posts = [_post(world, subreddit, number, now) for number in range(min(first, newest), last - 1, -1)]
        return _listed(posts, last > deepest, question)


class ById(SimulatedEndpoint):
    """GET /api/info and /by_id/{names}: posts as they are now; unknown ones are absent."""

    source: ClassVar[str] = "reddit"
    name = "by_id"
    pattern = re.compile(r"/(?:api/info|by_id/([^/]+))")

    def answer(self, question: Question, world: World) -> Answer:
        names = (question.subject or question.params.get("id", "")).split(",")
        found = [number for name in names[:100] if (number := _number(name)) is not None]
        now = question.now_ms
        posts = [_post(world, sub, n, now) for sub, n in found if n <= _newest(world.seed, sub, now)]
        return _listed(posts, False, question)


def _width_ms(subreddit: int) -> int:
    return HOUR_MS // SUBREDDITS[_NAMES[subreddit]]


def _made_s(subreddit: int, number: int, drawn: float) -> int:
    """When the post was made, seconds: within its slot."""
    width = _width_ms(subreddit)
    return (number * width + int(drawn * width)) // SECOND_MS


def _newest(seed: int, subreddit: int, now_ms: int) -> int:
    number = now_ms // _width_ms(subreddit)
    made = _made_s(subreddit, number, lots(seed, "reddit", subreddit, number)[0])
    return number if made * SECOND_MS <= now_ms else number - 1


def _name(subreddit: int, number: int) -> str:
    return "t3_" + np.base_repr(number * 64 + subreddit, 36).lower()


def _number(name: str) -> tuple[int, int] | None:
    """Subreddit and number of a post's name; None: there is none such."""
    match = _ID.fullmatch(name)
    if match is None:
        return None
    number, subreddit = divmod(int(match[1], 36), 64)
    return (subreddit, number) if subreddit < len(_NAMES) else None


def _post(world: World, subreddit: int, number: int, now_ms: int) -> dict[str, Any]:
    """A post as it is at ``now_ms``."""
    made_at, about, opening, body, liked, who, self_post, talked, ratio, adult, gone, gone_at, *_ = lots(
        world.seed, "reddit", subreddit, number
    )
    community, name = _NAMES[subreddit], _name(subreddit, number)
    made = _made_s(subreddit, number, made_at)
    age = now_ms - made * SECOND_MS
    asset, most = asset_of(world, made * SECOND_MS, about), popularity(liked)
    title, is_self = title_of(asset, opening), self_post < 0.8
    score = max(grown(most, age), 1)
    author = f"sandbox_{int(who * 5_000)}"
    text = body_of(world, f"${asset.symbol}" if asset is not None else "Crypto", body) if is_self else ""
    permalink = f"/r/{community}/comments/{name[3:]}/sandbox_post/"
    removed = _removed(age, gone, gone_at)
    if removed is not None:
        text = "[removed]" if removed == "moderator" else "[deleted]"
        author, title = ("[deleted]", "[deleted by user]") if removed == "deleted" else (author, title)
    return {
        "id": name[3:],
        "name": name,
        "title": title,
        "selftext": text,
        "author": author,
        "author_fullname": f"t2_{int(who * 5_000):x}",
        "subreddit": community,
        "subreddit_name_prefixed": f"r/{community}",
        "score": score,
        "ups": score,
        "downs": 0,
        "upvote_ratio": round(0.55 + 0.44 * ratio, 2),
        "num_comments": grown(most * talked, age),
        "created": float(made),
        "created_utc": float(made),
        "permalink": permalink,
        "url": f"https://www.reddit.com{permalink}" if is_self else f"https://sandbox.invalid/{name}",
        "domain": f"self.{community}" if is_self else "sandbox.invalid",
        "is_self": is_self,
        "over_18": adult < 0.01,
        "stickied": False,
        "edited": False,
        "removed_by_category": removed,
        "link_flair_text": None,
    }


def _removed(age_ms: int, gone: float, gone_at: float) -> str | None:
    """Who removed the post by now: one of twenty goes, after one hour to twenty."""
    if gone >= 0.05 or age_ms < HOUR_MS * (1 + 19 * gone_at):
        return None
    return "deleted" if gone < 0.03 else "moderator"


def _listed(posts: list[dict[str, Any]], more: bool, question: Question) -> Answer:
    if question.params.get("raw_json") != "1":
        for post in posts:
            for field in _ESCAPED:
                post[field] = post[field].replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    data = {
        "after": posts[-1]["name"] if posts and more else None,
        "dist": len(posts),
        "modhash": None,
        "geo_filter": "",
        "children": [{"kind": "t3", "data": post} for post in posts],
        "before": posts[0]["name"] if posts and question.params.get("count", "0") != "0" else None,
    }
    left = _WINDOW_S - question.now_ms // SECOND_MS % _WINDOW_S
    limits = {"x-ratelimit-used": "1", "x-ratelimit-remaining": "999.0", "x-ratelimit-reset": str(left)}
    return json_answer({"kind": "Listing", "data": data}, headers=limits)


ENDPOINTS: Final[tuple[SimulatedEndpoint, ...]] = (AccessToken(), Listing(), ById())

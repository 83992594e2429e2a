"""X API v2 (api.x.com/2): recent search: shared/upstreams.md §6.

Every cashtag of a listed asset has posts of its own at a steady rate, and a query finds those of the cashtags it names
(operators are not looked at); other words find nothing. Likes, replies and views grow with age. Of some authors X says
nothing but an error beside the data, as it does of suspended ones.
"""

from __future__ import annotations

import heapq
import itertools
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, ClassVar, Final, NamedTuple

from ray_app.clock import DAY_MS, HOUR_MS, SECOND_MS, to_ms
from ray_app.sandbox.answers import (
    Answer,
    Question,
    Rejection,
    SimulatedEndpoint,
    World,
    digits,
    iso_millis,
    json_answer,
)
from ray_app.sandbox.chatter import body_of, grown, lots, popularity
from ray_app.sandbox.rng import key_of, unit_of

_SNOWFLAKES: Final = 1_288_834_974_657
_WINDOW_MS: Final = 7 * DAY_MS
#: the newest a search finds is this old
_DELAY_MS: Final = 30 * SECOND_MS
_CASHTAG: Final = re.compile(r"\$([A-Za-z][A-Za-z0-9_]{0,19})\b")
_TOKEN: Final = re.compile(r"s([0-9a-f]{1,16})")
_PROBLEMS: Final = "https://api.twitter.com/2/problems/"
_QUOTA: Final = 450
#: posts an hour; of other cashtags 2 to 11
_AN_HOUR: Final = {"BTC": 60, "ETH": 40, "SOL": 20}


class _Found(NamedTuple):
    """A post that a search found: its id, its cashtag, and the numbers that are its own."""

    post_id: int
    tag: str
    drawn: tuple[float, ...]

    @property
    def author(self) -> int:
        """The id of its author."""
        return 1_000_000 + int(self.drawn[3] * 2_000)


class RecentSearch(SimulatedEndpoint):
    """GET /tweets/search/recent: seven days, newest first, 10 to 100 a page."""

    source: ClassVar[str] = "x"
    name = "recent_search"
    pattern = re.compile(r"/tweets/search/recent")

    def answer(self, question: Question, world: World) -> Answer:
        params, now = question.params, question.now_ms
        query = params.get("query", "")
        if not 0 < len(query) <= 512:
            raise _invalid("query", query[:20], "Invalid 'query': its length must be between 1 and 512")
        if query.count("(") != query.count(")"):
            raise _invalid("query", query[:80], "There were errors processing your request: missing ')'")
        limit = _limit(params.get("max_results", "10"))
        low = max(_bound(question, "start_time", now - _WINDOW_MS), now - _WINDOW_MS)
        high = min(_bound(question, "end_time", now - _DELAY_MS), now - _DELAY_MS)
        since, until = _id_param(params, "since_id"), _id_param(params, "until_id")
        token = params.get("next_token") or params.get("pagination_token")
        if token is not None:
            match = _TOKEN.fullmatch(token)
            if match is None:
                raise _invalid("next_token", token[:40], "Invalid 'next_token'")
            until = int(match[1], 16)
        found = _newest(world, _tags(world, query, now), low, high, since or 0, until or 1 << 63, limit + 1)
        page = found[:limit]
        posts = [_post(world, one, now, params) for one in page]
        if not posts:
            return json_answer({"meta": {"result_count": 0}}, headers=_limits(now))
        meta = {"newest_id": posts[0]["id"], "oldest_id": posts[-1]["id"], "result_count": len(posts)}
        if len(found) > limit:
            meta["next_token"] = f"s{page[-1].post_id:x}"
        body: dict[str, Any] = {"data": posts}
        if "author_id" in params.get("expansions", "").split(","):
            body |= _joined(world, sorted({one.author for one in page}), params)
        return json_answer({**body, "meta": meta}, headers=_limits(now))


def _tags(world: World, query: str, now_ms: int) -> dict[str, int]:
    """The query's cashtags that exist, with the ms between two posts of each."""
    listed = {asset.symbol.upper() for asset in world.listed(now_ms)}
    named = dict.fromkeys(tag.upper() for tag in _CASHTAG.findall(query))
    return {tag: HOUR_MS // _AN_HOUR.get(tag, 2 + key_of("x rate", tag) % 10) for tag in named if tag in listed}


def _newest(
    world: World, tags: dict[str, int], low: int, high: int, since: int, until: int, count: int
) -> list[_Found]:
    """The newest posts made in ``[low, high]`` with ids between ``since`` and ``until``, newest first."""
    high = min(high, (until >> 22) + _SNOWFLAKES)
    streams = [_stream(world.seed, tag, width, low, high) for tag, width in tags.items()]
    fitting = (found for found in heapq.merge(*streams, reverse=True) if since < found.post_id < until)
    return list(itertools.islice(fitting, count))


def _stream(seed: int, tag: str, width: int, low: int, high: int) -> Iterator[_Found]:
    """The posts of a cashtag made in ``[low, high]``, newest first; a slot of ``width`` ms has one."""
    own = key_of("x", tag) % (1 << 22)
    for number in range(high // width, low // width - 1, -1):
        drawn = lots(seed, "x", tag, number)
        made = number * width + int(drawn[0] * width)
        if low <= made <= high:
            yield _Found((made - _SNOWFLAKES) << 22 | own, tag, drawn)


def _post(world: World, found: _Found, now_ms: int, params: Mapping[str, str]) -> dict[str, Any]:
    asked = params.get("tweet.fields", "").split(",")
    _, body, liked, *_ = found.drawn
    made = (found.post_id >> 22) + _SNOWFLAKES
    name = str(found.post_id)
    post: dict[str, Any] = {"id": name, "text": _text(world, found.tag, body), "edit_history_tweet_ids": [name]}
    if "author_id" in asked or "author_id" in params.get("expansions", "").split(","):
        post["author_id"] = str(found.author)
    if "created_at" in asked:
        post["created_at"] = iso_millis(made // SECOND_MS * SECOND_MS)
    if "lang" in asked:
        post["lang"] = "en"
    if "public_metrics" in asked:
        most, age = popularity(liked), now_ms - made
        post["public_metrics"] = {
            "retweet_count": grown(most / 5, age),
            "reply_count": grown(most / 8, age),
            "like_count": grown(most, age),
            "quote_count": grown(most / 40, age),
            "bookmark_count": grown(most / 20, age),
            "impression_count": grown(most * 60, age),
        }
    return post


def _text(world: World, tag: str, drawn: float) -> str:
    words = body_of(world, f"${tag}", drawn)
    words = words if f"${tag}" in words else f"${tag} {words}"
    return words[:270].replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _joined(world: World, authors: list[int], params: Mapping[str, str]) -> dict[str, Any]:
    """``includes`` and, of authors that are suspended, ``errors``."""
    users, errors = [], []
    for author in authors:
        if unit_of(world.seed, "x", author, "suspended") < 0.002:
            errors.append(
                {
                    "value": str(author),
                    "detail": f"Could not find user with author_id: [{author}].",
                    "title": "Not Found Error",
                    "resource_type": "user",
                    "parameter": "author_id",
                    "resource_id": str(author),
                    "type": f"{_PROBLEMS}resource-not-found",
                }
            )
            continue
        user: dict[str, Any] = {"id": str(author), "name": f"Sandbox {author}", "username": f"sandbox_{author}"}
        if "verified" in params.get("user.fields", "").split(","):
            user["verified"] = unit_of(world.seed, "x", author, "verified") < 0.2
        users.append(user)
    return {"includes": {"users": users}} | ({"errors": errors} if errors else {})


def _limit(text: str) -> int:
    if digits(text) and len(text) < 4 and 10 <= int(text) <= 100:
        return int(text)
    raise _invalid(
        "max_results", text[:20], f"The `max_results` query parameter value [{text[:20]}] is not between 10 and 100"
    )


def _bound(question: Question, name: str, otherwise: int) -> int:
    said = question.params.get(name)
    if said is None:
        return otherwise
    try:
        moment = datetime.fromisoformat(said)
        ms = to_ms(moment) if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        ms = None
    if ms is None:
        raise _invalid(name, said[:40], f"Invalid '{name}':'{said[:40]}'. It must be an RFC 3339 time")
    if ms < question.now_ms - _WINDOW_MS:
        raise _invalid(name, said, f"Invalid '{name}':'{said}'. '{name}' must be within the last seven days")
    if ms > question.now_ms - 10 * SECOND_MS:
        raise _invalid(name, said, f"Invalid '{name}':'{said}'. '{name}' must be a minimum of 10 seconds ago")
    return ms


def _id_param(params: Mapping[str, str], name: str) -> int | None:
    said = params.get(name)
    if said is None:
        return None
    if not digits(said) or len(said) > 19:
        raise _invalid(name, said[:40], f"The `{name}` query parameter value [{said[:40]}] is not valid")
    return int(said)


def _invalid(name: str, value: str, message: str) -> Rejection:
    body = {
        "errors": [{"parameters": {name: [value]}, "message": message}],
        "title": "Invalid Request",
        "detail": "One or more parameters to your request was invalid.",
        "type": f"{_PROBLEMS}invalid-request",
    }
    return Rejection(json_answer(body, 400))


def _limits(now_ms: int) -> dict[str, str]:
    """A window of 15 minutes; what is left of it is not counted."""
    reset = (now_ms // (900 * SECOND_MS) + 1) * 900
    return {
        "x-rate-limit-limit": str(_QUOTA),
        "x-rate-limit-remaining": str(_QUOTA - 1),
        "x-rate-limit-reset": str(reset),
    }


ENDPOINTS: Final[tuple[SimulatedEndpoint, ...]] = (RecentSearch(),)

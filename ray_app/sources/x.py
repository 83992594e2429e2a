"""X: recent search of API v2 (api.x.com/2).

Formats: https://docs.x.com/x-api/posts/search-recent-posts and upstreams.md §6. What trips people up:

* Each post read costs money (pay-per-use), so a call costs as many credits as it may return posts.
* Ids are strings; as JSON numbers they would lose digits. An id holds the moment it was made (snowflake).
* No result has no ``data``, only ``meta.result_count`` 0. Fields must be asked for; by default there are id and text.
* ``errors`` may come with HTTP 200: beside ``data`` they are about what could not be joined, without it a refusal.
* Errors are RFC 9457 problems (``title``, ``detail``, ``type``, ``status``); the limit's headers are
  ``x-rate-limit-*``, its reset an epoch time in seconds.
* ``&``, ``<`` and ``>`` in texts come escaped.

What X shows no more (deleted, protected) is absent from the search: nothing here tells that a stored post is gone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Final, NoReturn

from ray_app.clock import iso
from ray_app.errors import MalformedPayload, RateLimited, UpstreamRejected, UpstreamUnavailable
from ray_app.sources.addressing import path_values
from ray_app.sources.base import Endpoint, Exchange, Parsed, Request, Row
from ray_app.sources.posts import SCORE, VIEWS, Posts, post_row, said
from ray_app.sources.reading import (
    COUNT,
    Findings,
    as_number,
    decode,
    expect_object,
    integer,
    iso_time,
    members,
    not_ahead,
    printable,
    readable,
    shown,
    text,
)
from ray_app.sources.refusals import Refusal, read_answer, refusal_in, refuse, retry_after_s

SITE: Final = "https://x.com"
PAGE: Final = 100
LONGEST_QUERY: Final = 512
_ID: Final = re.compile(r"[0-9]{1,19}")
_USERNAME: Final = re.compile(r"\w{1,50}", re.ASCII)
_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})?")
_CURSOR: Final = re.compile(r"[\w-]{1,200}", re.ASCII)
#: ms of 2010-11-04T01:42:54.657Z, from which snowflakes count; ids before the first one hold no time
_SNOWFLAKES: Final = 1_288_834_974_657
_FIRST_SNOWFLAKE: Final = 29_700_859_247
_FIELDS: Final = {
    "tweet.fields": "author_id,created_at,lang,public_metrics",
    "expansions": "author_id",
    "user.fields": "username,verified",
}


class RecentSearch(Endpoint):
    """``/tweets/search/recent`` (seven days) and ``/tweets/search/all``."""

    name: ClassVar[str] = "x.recent_search"
    account: ClassVar[str] = "x"
    #: posts a call may return, which is what is paid for
    cost: ClassVar[int] = PAGE
    paths: ClassVar[tuple[str, ...]] = ("/tweets/search/recent", "/tweets/search/all")
    query: ClassVar[frozenset[str]] = frozenset(
        {"query", "max_results", "next_token", "pagination_token", "since_id", "until_id", "start_time", "end_time"}
        | {"sort_order", "tweet.fields", "user.fields", "media.fields", "place.fields", "poll.fields", "expansions"}
    )

    def request(self, query: str, start_ms: int | None = None) -> Request:
        """The newest 100 posts that match ``query`` (at most 512 characters), from ``start_ms`` on."""
        if not 0 < len(query) <= LONGEST_QUERY:
            raise ValueError(f"{self.name}: a query has 1 to {LONGEST_QUERY} characters, not {len(query)}")
        params = {"query": query, "max_results": str(PAGE), "sort_order": "recency", **_FIELDS}
        if start_ms is not None:
            params["start_time"] = iso(start_ms // 1_000 * 1_000)
        return Request(self.name, "/tweets/search/recent", params)

    def parse(self, exchange: Exchange) -> Parsed:
        """social_posts rows; ``next``: the page of older ones; ``oldest``: of all posts of the page.

        ``score`` are likes, ``comments`` replies, ``reposts`` retweets and quotes together, ``views`` impressions, all
        as of the fetch. ``published_at``: ``created_at``, else what the id says.
        """
        path_values(self, exchange.request.path)
        found = Findings()
        body = self._body(exchange, found)
        items = body.get("data")
        meta = body.get("meta")
        if items is None and isinstance(meta, dict) and meta.get("result_count") == 0:
            return Parsed((), found.all())
        if not isinstance(items, list):
            raise MalformedPayload(self.name, f"no array 'data', but an object with {members(body)}")
        users = _users(found, body.get("includes"))
        posts, moments = Posts(found), list[int]()
        read = 0
        for position, item in enumerate(items):
            post_id = item.get("id") if isinstance(item, dict) else None
            if not isinstance(post_id, str) or not _ID.fullmatch(post_id):
                found.add("wrong_type", f"item {position}", "id", f"expected a post with an id, got {shown(item)!r}")
                continue
            read += 1
            published_at = _published(found, post_id, item.get("created_at"), exchange.fetched_at)
            if published_at is not None:
                moments.append(published_at)
                posts.add(post_id, self._row(exchange, found, post_id, item, published_at, users))
        readable(self.name, items, read, "a post with an id")
        following = self._next(exchange.request, found, meta)
        return Parsed(posts.rows(), found.all(), next=following, oldest=min(moments, default=None))

    def _body(self, exchange: Exchange, found: Findings) -> dict[str, Any]:
        """The answer with data; errors beside them are issues, errors alone are raised."""
        if exchange.status != 200:
            _raise_problem(exchange)
        try:
            body = decode(self.name, exchange.body)
        except MalformedPayload:
            body = None
        errors = body.get("errors") if isinstance(body, dict) else None
        if not isinstance(body, dict) or not isinstance(errors, list) or not errors:
            _raise_problem(exchange, body)
            return expect_object(self.name, read_answer(exchange), "data and meta")
        if not isinstance(body.get("data"), list):
            _refuse(exchange, errors[0])
        rest = {name: value for name, value in body.items() if name != "errors"}
        refusal = refusal_in(rest)
        if refusal is not None:
            raise UpstreamRejected(self.name, f"the upstream refused: {refusal.message}")
        for error in errors[:PAGE]:
            about = error.get("resource_id") or error.get("value") if isinstance(error, dict) else None
            what = _problem(error) or shown(error)
            found.add("missing_id", str(about) if about is not None else "search", "errors", what)
        return rest

    def _row(
        self,
        exchange: Exchange,
        found: Findings,
        post_id: str,
        item: Mapping[str, Any],
        published_at: int,
        users: Mapping[str, Mapping[str, Any]],
    ) -> Row:
        author = item.get("author_id")
        user = users.get(author, {}) if isinstance(author, str) else {}
        username = _username(found, post_id, user.get("username"))
        metrics = item.get("public_metrics")
        if metrics is not None and not isinstance(metrics, dict):
            found.add("wrong_type", post_id, "public_metrics", f"expected an object, got {shown(metrics)!r}")
        counts = metrics if isinstance(metrics, dict) else {}
        retweets, quotes = (
            integer(found, post_id, name, counts.get(name), COUNT) for name in ("retweet_count", "quote_count")
        )
        both = retweets + quotes if retweets is not None and quotes is not None else None
        values = {
            "author": username,
            "author_verified": _verified(found, post_id, user.get("verified")),
            "text": said(found, post_id, "text", item.get("text"), escaped=True),
            "url": f"{SITE}/{username or 'i'}/status/{post_id}",
            "language": _language(found, post_id, item.get("lang")),
            "score": integer(found, post_id, "like_count", counts.get("like_count"), SCORE),
            "comments": integer(found, post_id, "reply_count", counts.get("reply_count"), COUNT),
            "reposts": both if both is None or both <= COUNT.high else None,
            "views": integer(found, post_id, "impression_count", counts.get("impression_count"), VIEWS),
        }
        return post_row("x", post_id, self.name, published_at, exchange.fetched_at, values)

    def _next(self, request: Request, found: Findings, meta: object) -> Request | None:
        cursor = meta.get("next_token") if isinstance(meta, dict) else None
        if cursor is None:
            return None
        if not isinstance(cursor, str) or not _CURSOR.fullmatch(cursor) or cursor == request.params.get("next_token"):
            found.add("wrong_type", "search", "next_token", f"{shown(cursor)!r} leads to no next page")
            return None
        return replace(request, params={**request.params, "next_token": cursor})


def _users(found: Findings, includes: object) -> dict[str, Mapping[str, Any]]:
    """The users of ``includes`` by id."""
    users = includes.get("users") if isinstance(includes, dict) else None
    if users is not None and not isinstance(users, list):
        found.add("wrong_type", "search", "includes.users", f"expected an array, got {shown(users)!r}")
    listed = users if isinstance(users, list) else []
    return {user["id"]: user for user in listed if isinstance(user, dict) and isinstance(user.get("id"), str)}


def _published(found: Findings, post_id: str, created_at: object, fetched_at: int) -> int | None:
    """When a post was made: as stated; where that was not asked for, as its id says."""
    if created_at is not None:
        return not_ahead(found, post_id, "created_at", iso_time(found, post_id, "created_at", created_at), fetched_at)
    if int(post_id) < _FIRST_SNOWFLAKE:
        found.add("wrong_type", post_id, "created_at", "not stated, and the id is too old to hold the time")
        return None
    return not_ahead(found, post_id, "id", (int(post_id) >> 22) + _SNOWFLAKES, fetched_at)


def _username(found: Findings, post_id: str, value: object) -> str | None:
    name = text(found, post_id, "username", value, longest=100)
    if name is not None and not _USERNAME.fullmatch(name):
        found.add("wrong_type", post_id, "username", f"{shown(name)!r} is no user name")
        return None
    return name


def _verified(found: Findings, post_id: str, value: object) -> int | None:
    if value is None or isinstance(value, bool):
        return None if value is None else int(value)
    found.add("wrong_type", post_id, "verified", f"expected true or false, got {shown(value)!r}")
    return None


def _language(found: Findings, post_id: str, value: object) -> str | None:
    """The language; X's ``und`` is "we do not know"."""
    if value is None or value == "und":
        return None
    if not isinstance(value, str) or not _LANGUAGE.fullmatch(value):
        found.add("wrong_type", post_id, "lang", f"{shown(value)!r} is no language")
        return None
    return value


def _problem(body: object) -> str | None:
    """What a problem or an entry of ``errors`` says, in one short line; None: it is neither."""
    if not isinstance(body, dict):
        return None
    parts = [body[name] for name in ("title", "detail", "message") if isinstance(body.get(name), str)]
    words = " ".join(printable(": ".join(parts)).split())
    return (f"{words[:160]}…" if len(words) > 160 else words) or None


def _refuse(exchange: Exchange, error: object) -> NoReturn:
    """Raise what an entry of ``errors`` says where there is nothing beside it."""
    status = as_number(error.get("status")) if isinstance(error, dict) else None
    pause = _pause_s(exchange)
    headers = {**exchange.headers, **({"retry-after": str(pause)} if pause is not None else {})}
    code = int(status) if status is not None and abs(status) < 1e6 else None
    refuse(replace(exchange, headers=headers), Refusal(_problem(error) or "unnamed error", code))


def _raise_problem(exchange: Exchange, body: object = None) -> None:
    """Raise what an RFC 9457 problem says, under its own status or inside HTTP 200; other bodies are left alone."""
    if exchange.status != 200:
        try:
            body = decode(exchange.request.endpoint, exchange.body)
        except MalformedPayload:
            return
    if not isinstance(body, dict) or not isinstance(body.get("title"), str) or "data" in body:
        return
    inner = as_number(body.get("status"))
    status = (
        exchange.status if exchange.status != 200 else int(inner) if inner is not None and abs(inner) < 1e6 else 400
    )
    first = body["errors"][0] if isinstance(body.get("errors"), list) and body["errors"] else None
    words = f"HTTP {status}: {_problem(body)}" + (f" ({_problem(first)})" if _problem(first) else "")
    if status == 429:
        raise RateLimited(exchange.request.endpoint, words, _pause_s(exchange))
    if status >= 500 or status in {408, 425}:
        raise UpstreamUnavailable(exchange.request.endpoint, words)
    if 400 <= status < 500:
        raise UpstreamRejected(exchange.request.endpoint, words)


def _pause_s(exchange: Exchange) -> float | None:
    """Seconds to wait: Retry-After, else until ``x-rate-limit-reset``."""
    asked = retry_after_s(exchange)
    reset = as_number(exchange.headers.get("x-rate-limit-reset"))
    if asked is not None or reset is None or abs(reset) > 1e12:
        return asked
    return max(reset - exchange.fetched_at / 1_000, 0.0)


ENDPOINTS: Final[tuple[Endpoint, ...]] = (RecentSearch(),)

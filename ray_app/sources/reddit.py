"""Reddit: listings of posts, and a second look at posts that are stored (oauth.reddit.com).

Formats: https://www.reddit.com/dev/api and upstreams.md §5. What trips people up:

* A listing mixes kinds: posts (``t3``), comments (``t1``), subreddits (``t5``). Posts become rows; the others are read
  as what they are and yield none, and no issue.
* Without ``raw_json=1`` texts come with ``&amp;``, ``&lt;`` and ``&gt;``.
* ``created_utc`` is UTC in seconds, a float; ``created`` is another clock. ``edited`` is false or a time.
* Deleted posts stay, with ``[deleted]`` or ``[removed]`` for what they said; ``removed_by_category`` says by whom.
* About 1,000 items deep a listing ends: there is no history to ask for.
* Errors are ``{"message", "error": 429}``, a private or banned subreddit also has ``reason``; 5xx are HTML. When a
  limit ends, ``x-ratelimit-reset`` says in seconds.

**Deletions are honoured.** A post seen deleted or removed has ``deleted_at`` and no author, title, text or URL (the URL
holds the title). Posts marked ``over_18`` yield no row of a listing; one that is deleted yields the row that withdraws
it. A second look asks for what is stored: a post that was marked since is withdrawn, as if it were deleted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final
from urllib.parse import quote

from ray_app.errors import MalformedPayload, UpstreamRejected
from ray_app.sources.addressing import path_values
from ray_app.sources.base import Endpoint, Exchange, Parsed, Request, Row
from ray_app.sources.posts import RATIO, SCORE, Posts, post_row, said
from ray_app.sources.reading import (
    COUNT,
    Findings,
    absent,
    decode,
    epoch_time,
    expect_object,
    integer,
    not_ahead,
    number,
    readable,
    requested,
    shown,
    text,
)
from ray_app.sources.refusals import read_answer

ACCOUNT: Final = "reddit"
SITE: Final = "https://www.reddit.com"
PAGE: Final = 100
_NAME: Final = re.compile(r"t3_[0-9a-z]{1,13}")
_CURSOR: Final = re.compile(r"t[1-6]_[0-9a-z]{1,13}")
_KIND: Final = re.compile(r"t[1-6]|more|LiveUpdate\w*|modaction|wikipage")
_PERMALINK: Final = re.compile(r"/[^\s\x00-\x1f\x7f]{1,1000}")
_GONE: Final = frozenset({"[deleted]", "[removed]", "[deleted by user]", "[ removed by reddit ]"})


class _Posts(Endpoint):
    """What reading a listing is, whatever it was asked for."""

    account: ClassVar[str] = ACCOUNT
    #: whether the posts asked for are stored, so that leaving one out would leave its old row as it is
    of_stored: ClassVar[bool] = False

    def _read(self, exchange: Exchange) -> tuple[list[Any], object]:
        """The listing's children, and its ``after``."""
        body = expect_object(self.name, _answer(exchange), "a Listing")
        data = body.get("data")
        if body.get("kind") != "Listing" or not isinstance(data, dict) or not isinstance(data.get("children"), list):
            raise MalformedPayload(self.name, f"no Listing with children, but kind {shown(body.get('kind'))}")
        return data["children"], data.get("after")

    def _rows(
        self, exchange: Exchange, found: Findings, children: Sequence[Any], community: str | None = None
    ) -> tuple[Posts, set[str], list[int]]:
        """The posts of a listing; the names of all that were in it; and when its items were made (ms).

        ``community``: the subreddit asked for; posts of another one are not what was asked for, and left out.
        """
        posts, names, moments = Posts(found), set[str](), list[int]()
        read = 0
        for position, child in enumerate(children):
            kind = child.get("kind") if isinstance(child, dict) else None
            data = child.get("data") if isinstance(child, dict) else None
            if not isinstance(kind, str) or not isinstance(data, dict) or not _KIND.fullmatch(kind):
                found.add("wrong_type", f"item {position}", "kind", f"expected a thing of Reddit, got {shown(child)!r}")
                continue
            if kind != "t3":
                read += 1
                self._moment(data, exchange.fetched_at, moments)
                continue
            name = data.get("name")
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                found.add("wrong_type", f"item {position}", "name", f"expected t3_…, got {shown(name)!r}")
                continue
            subreddit = text(found, name, "subreddit", data.get("subreddit"), longest=100)
            if community is not None and subreddit is not None and subreddit.casefold() != community.casefold():
                found.add("inconsistent", name, "subreddit", f"asked for {shown(community)}, is of {shown(subreddit)}")
                continue
            read += 1
            names.add(name)
            self._moment(data, exchange.fetched_at, moments)
            row = self._row(exchange, found, name, subreddit, data)
            if row is not None:
                posts.add(name, row)
        readable(self.name, children, read, "a post, comment or subreddit" + (f" of {community}" if community else ""))
        return posts, names, moments

    @staticmethod
    def _moment(data: Mapping[str, Any], fetched_at: int, moments: list[int]) -> None:
        """Note when an item was made; one that is pinned stands out of its order."""
        unread = Findings()
        made = epoch_time(unread, "", "", data.get("created_utc"), 1_000)
        if not_ahead(unread, "", "", made, fetched_at) and not data.get("stickied") and not data.get("pinned"):
            moments.append(made or 0)

    def _row(
        self, exchange: Exchange, found: Findings, name: str, subreddit: str | None, data: Mapping[str, Any]
    ) -> Row | None:
        fetched_at = exchange.fetched_at
        if data.get("created_utc") is None:
            found.add("wrong_type", name, "created_utc", "a post needs the time it was made")
        made = epoch_time(found, name, "created_utc", data.get("created_utc"), 1_000)
        published_at = not_ahead(found, name, "created_utc", made, fetched_at)
        adult, removed = data.get("over_18"), data.get("removed_by_category")
        for field, value, kinds in (("over_18", adult, bool), ("removed_by_category", removed, str)):
            if value is not None and not isinstance(value, kinds):
                found.add("wrong_type", name, field, f"got {shown(value)!r}: whether to keep the post is not clear")
                return None
        if published_at is None:
            return None
        gone = removed is not None or any(_is_gone(data.get(field)) for field in ("author", "selftext", "title"))
        if adult and not gone:
            if not self.of_stored:
                return None
            gone = True
        values: dict[str, Any] = {
            "community": subreddit,
            "score": integer(found, name, "score", data.get("score"), SCORE),
            "upvote_ratio": number(found, name, "upvote_ratio", data.get("upvote_ratio"), RATIO),
            "comments": integer(found, name, "num_comments", data.get("num_comments"), COUNT),
            "deleted_at": fetched_at if gone else None,
        }
        if not gone:
            escaped = exchange.request.params.get("raw_json") != "1"
            values |= {
                "author": text(found, name, "author", data.get("author"), longest=100),
                "title": said(found, name, "title", data.get("title"), escaped=escaped),
                "text": said(found, name, "selftext", data.get("selftext"), escaped=escaped),
                "url": _address(found, name, data.get("permalink")),
            }
        return post_row("reddit", name, self.name, published_at, fetched_at, values)


class Listing(_Posts):
    """A page of a listing, newest first: ``/r/{subreddit}/new``; also those of a domain, a user or a multi."""

    name: ClassVar[str] = "reddit.listing"
    paths: ClassVar[tuple[str, ...]] = (
        "/r/{subreddit}/new",
        "/domain/{domain}/new",
        "/user/{username}/m/{multi}/new",
        "/user/{username}/overview",
        "/user/{username}",
        "/subreddits/new",
    )
    query: ClassVar[frozenset[str]] = frozenset(
        {"limit", "after", "before", "count", "raw_json", "sort", "t", "show", "sr_detail", "type", "context"}
    )

    def request(self, subreddit: str) -> Request:
        """The newest 100 posts of a subreddit."""
        return Request(self.name, f"/r/{quote(subreddit, safe='')}/new", {"limit": str(PAGE), "raw_json": "1"})

    def parse(self, exchange: Exchange) -> Parsed:
        """social_posts rows of the page's posts; ``next``: the page before it in time; ``oldest``: of all its items."""
        found = Findings()
        asked = path_values(self, exchange.request.path).get("subreddit")
        one = asked if asked is not None and asked.lower() not in {"all", "popular"} and "+" not in asked else None
        children, after = self._read(exchange)
        posts, _, moments = self._rows(exchange, found, children, one)
        following = self._next(exchange.request, found, after, len(children))
        return Parsed(posts.rows(), found.all(), next=following, oldest=min(moments, default=None))

    def _next(self, request: Request, found: Findings, after: object, items: int) -> Request | None:
        """The next page; None at the listing's end."""
        if after is None or items == 0:
            return None
        if not isinstance(after, str) or not _CURSOR.fullmatch(after) or after == request.params.get("after"):
            found.add("wrong_type", "listing", "after", f"{shown(after)!r} leads to no next page")
            return None
        seen = request.params.get("count", "0")
        count = items + (int(seen) if seen.isascii() and seen.isdigit() and len(seen) < 8 else 0)
        params = {name: value for name, value in request.params.items() if name != "before"}
        return replace(request, params={**params, "after": after, "count": str(count)})


class ById(_Posts):
    """Posts by their names: a second look at what is stored, whether it was deleted since."""

    name: ClassVar[str] = "reddit.by_id"
    parser_version: ClassVar[int] = 2  # 2: a post marked over_18 since is withdrawn
    of_stored: ClassVar[bool] = True
    paths: ClassVar[tuple[str, ...]] = ("/api/info", "/by_id/{names}")
    query: ClassVar[frozenset[str]] = frozenset({"id", "raw_json", "limit", "sr_detail", "sr_name"})

    def request(self, names: Sequence[str]) -> Request:
        """``names``: ``t3_…``, 1 to 100."""
        if not 0 < len(names) <= PAGE or not all(_NAME.fullmatch(name) for name in names):
            raise ValueError(f"{self.name}: 1 to {PAGE} names of posts (t3_…) are needed")
        return Request(self.name, "/api/info", {"id": ",".join(names), "raw_json": "1"})

    def parse(self, exchange: Exchange) -> Parsed:
        """social_posts rows as they are now; ``missing``: names asked for that the answer does not hold at all.

        Reddit leaves deleted posts in. A missing one yields no row: that it was deleted would be a guess.
        """
        found = Findings()
        path = path_values(self, exchange.request.path)
        asked = requested(exchange.request.params.get("id") or path.get("names"))
        children, _ = self._read(exchange)
        posts, names, _ = self._rows(exchange, found, children)
        rows = posts.rows()
        if asked:
            for name in sorted(names - set(asked)):
                found.add("unknown_id", name, "name", "nobody asked for it")
            rows = tuple(row for row in rows if str(row.key["content_id"]).partition(":")[2] in asked)
        return Parsed(rows, found.all(), missing=absent(asked, names))


def _answer(exchange: Exchange) -> Any:
    """As ``read_answer``; a refusal also says the ``reason`` (private, banned, quarantined)."""
    if 400 <= exchange.status < 500 and exchange.status not in {408, 425, 429}:
        try:
            body = decode(exchange.request.endpoint, exchange.body)
        except MalformedPayload:
            body = None
        if isinstance(body, dict) and isinstance(body.get("reason"), str):
            said_so = f"HTTP {exchange.status}: {shown(body.get('message'))} ({shown(body['reason'])})"
            raise UpstreamRejected(exchange.request.endpoint, said_so)
    reset = exchange.headers.get("x-ratelimit-reset")  # seconds from now
    if reset is not None and "retry-after" not in exchange.headers:
        exchange = replace(exchange, headers={**exchange.headers, "retry-after": reset})
    return read_answer(exchange)


def _is_gone(value: object) -> bool:
    return isinstance(value, str) and value.strip().lower() in _GONE


def _address(found: Findings, name: str, permalink: object) -> str | None:
    if permalink is None:
        return None
    if not isinstance(permalink, str) or not _PERMALINK.fullmatch(permalink) or not permalink.isprintable():
        found.add("wrong_type", name, "permalink", f"expected a path, got {shown(permalink)!r}")
        return None
    return SITE + permalink


ENDPOINTS: Final[tuple[Endpoint, ...]] = (Listing(), ById())

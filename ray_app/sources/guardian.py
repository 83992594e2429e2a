"""The Guardian's Content API (content.guardianapis.com): headlines, trail texts and addresses; never an article's body.

Formats: https://open-platform.theguardian.com/documentation/ and upstreams.md §4. What trips people up:

* Everything lies in ``response``, whose ``status`` is the API's own; errors are ``{"response":{"status":"error"}}``
  with 400 (a page beyond the last) or ``{"message":…}`` (401, 429).
* ``from-date`` and ``to-date`` are days, both included: neighbouring requests overlap.
* Its terms let texts be kept 24 hours: ``body`` is never asked for, and never stored where an answer holds it.
* Addresses of old articles are http; they are stored as https.

Which market an article is news of is this node's own statement: the request's context says it (``market``), else the
section or tag asked for; what names neither is ``stock``: general news.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Final, Literal
from urllib.parse import quote, urlsplit

from ray_app.clock import from_ms
from ray_app.errors import MalformedPayload
from ray_app.sources.base import Endpoint, Exchange, Parsed, Request, Row
from ray_app.sources.reading import (
    COUNT,
    Findings,
    expect_object,
    identifier,
    integer,
    iso_time,
    members,
    not_ahead,
    readable,
    shown,
)
from ray_app.sources.refusals import read_answer
from ray_app.sources.texts import canonical_url, code_word, news_row, plain_text

ACCOUNT: Final = "guardian"
FIELDS: Final = "headline,trailText,byline,lastModified"
PAGE_SIZE: Final = 200
_TABLES: Final = {"crypto": "crypto_news", "stock": "stock_news"}
#: paths of the API that are no article's id
_OTHERS: Final = frozenset({"search", "tags", "sections", "editions", "removed"})
_CRYPTO: Final = ("crypto", "bitcoin", "ethereum", "blockchain", "stablecoin")


def _table(request: Request) -> str:
    """Where its articles belong; MalformedPayload if the context names a market that is none."""
    market = request.context.get("market")
    if market is None:
        asked = " ".join(request.params.get(name, "") for name in ("q", "tag")).lower()
        market = "crypto" if any(word in asked for word in _CRYPTO) else "stock"
    if market not in _TABLES:
        raise MalformedPayload(
            request.endpoint, f"the request's market {shown(market)!r} is none of {', '.join(_TABLES)}"
        )
    return _TABLES[market]


def _response(exchange: Exchange) -> dict[str, Any]:
    name = exchange.request.endpoint
    body = expect_object(name, read_answer(exchange), "response")
    response = body.get("response")
    if not isinstance(response, dict) or response.get("status") != "ok":
        raise MalformedPayload(name, f"no object 'response' of status ok, but {members(body)}")
    return response


def _article(found: Findings, table: str, item: Mapping[str, Any], exchange: Exchange) -> Row | None:
    """A row; None without an issue for what is expired or gone, which its terms take away."""
    subject = identifier(item.get("id"))
    if subject is None:
        return None
    if any(
        item.get(flag) in {True, "true"} for flag in ("isExpired", "isGone") if isinstance(item.get(flag), str | bool)
    ):
        return None
    said = item.get("webUrl")
    url = canonical_url(said) if isinstance(said, str) else None
    if url is None:
        found.add("wrong_type", subject, "webUrl", f"expected an address, got {shown(said)!r}")
        return None
    fields = item.get("fields")
    fields = fields if isinstance(fields, dict) else {}
    title = plain_text(fields.get("headline")) or plain_text(item.get("webTitle"))
    if title is None:
        found.add("missing_id", subject, "webTitle", "an article without a title")
        return None
    published = iso_time(found, subject, "webPublicationDate", item.get("webPublicationDate"))
    return news_row(
        table,
        source=exchange.request.endpoint,
        feed=code_word(item.get("sectionId"), 64) or "guardian",
        url=url,
        title=title,
        summary=plain_text(fields.get("trailText")),
        fetched_at=exchange.fetched_at,
        published_at=not_ahead(found, subject, "webPublicationDate", published, exchange.fetched_at),
        author=plain_text(fields.get("byline"), longest=200),
        category=plain_text(item.get("sectionName"), longest=100),
        language=code_word(fields.get("lang"), 16),
    )


def _articles(found: Findings, table: str, items: list[Any], exchange: Exchange) -> tuple[Row, ...]:
    """A row per article of a list."""
    rows: dict[str, Row] = {}
    contradicted: set[str] = set()
    read = 0
    for position, item in enumerate(items):
        if not isinstance(item, dict) or identifier(item.get("id")) is None:
            found.add("wrong_type", f"item {position}", "id", f"expected an article, got {shown(item)!r}")
            continue
        read += 1
        row = _article(found, table, item, exchange)
        if row is not None and rows.setdefault(str(row.key["content_id"]), row) != row:
            contradicted.add(str(row.key["content_id"]))
    for identity in contradicted:
        url = str(rows.pop(identity).values["url"])
        found.add("duplicate", url, "webUrl", "one article, stated twice differently")
    readable(exchange.request.endpoint, items, read, "an article with an id")
    return tuple(rows.values())


class Search(Endpoint):
    """``/search``: articles of a section, a tag or a query, newest first."""

    name: ClassVar[str] = "guardian.search"
    account: ClassVar[str] = ACCOUNT
    paths: ClassVar[tuple[str, ...]] = ("/search",)
    #: 2: without a page in the request, any page is the answer; 3: "<" before what is no element is text; story ids
    parser_version: ClassVar[int] = 3
    query: ClassVar[frozenset[str]] = frozenset(
        {"q", "query-fields", "section", "tag", "from-date", "to-date", "use-date", "order-by", "page", "page-size"}
        | {"show-fields", "show-tags", "show-elements", "show-references", "show-rights", "show-blocks"}
        | {"show-refinements", "order-date", "production-office", "lang", "ids", "reference", "format", "star-rating"}
    )

    def request(
        self,
        market: Literal["crypto", "stock"],
        since_ms: int,
        *,
        section: str | None = None,
        tag: str | None = None,
        q: str | None = None,
    ) -> Request:
        """Articles published on the day of ``since_ms`` (UTC) or later, newest first."""
        asked = {"section": section, "tag": tag, "q": q}
        params = {name: value for name, value in asked.items() if value is not None} | {
            "from-date": from_ms(since_ms).date().isoformat(),
            "use-date": "published",
            "order-by": "newest",
            "page": "1",
            "page-size": str(PAGE_SIZE),
            "show-fields": FIELDS,
        }
        return Request(self.name, "/search", params, {"market": market})

    def parse(self, exchange: Exchange) -> Parsed:
        """A row per article; ``next`` while there are more pages."""
        response, table = _response(exchange), _table(exchange.request)
        items = response.get("results")
        if not isinstance(items, list):
            raise MalformedPayload(self.name, f"no array 'results', but {members(response)}")
        found = Findings()
        page = integer(found, "response", "currentPage", response.get("currentPage"), COUNT)
        pages = integer(found, "response", "pages", response.get("pages"), COUNT)
        asked = exchange.request.params.get("page", "")
        if page is not None and asked.isascii() and asked.isdigit() and int(asked) != page:
            raise MalformedPayload(self.name, f"asked for page {shown(asked)}, the answer is page {page}")
        rows = _articles(found, table, items, exchange)
        dated = [moment for row in rows if isinstance(moment := row.values["published_at"], int)]
        return Parsed(
            rows,
            found.all(),
            next=self._next(exchange.request, page, pages) if items else None,
            oldest=min(dated, default=None),
        )

    def _next(self, request: Request, page: int | None, pages: int | None) -> Request | None:
        if page is None or pages is None or page < 1 or page >= pages:
            return None
        return replace(request, params={**request.params, "page": str(page + 1)})


class Item(Endpoint):
    """``/{id}``: one article by its id. Not polled: it reads what others recorded.

    The id of a tag or a section answers its newest articles. ``/removed`` answers a list of ids of what was taken
    down; it says neither where nor when, and is refused.
    """

    name: ClassVar[str] = "guardian.item"
    account: ClassVar[str] = ACCOUNT
    paths: ClassVar[tuple[str, ...]] = ("/{id}",)
    parser_version: ClassVar[int] = 3  # 2: a tag's or a section's page is read; 3: as Search
    query: ClassVar[frozenset[str]] = frozenset(
        {"show-fields", "show-tags", "show-elements", "show-blocks", "show-references", "show-related"}
        | {"show-story-package"}
    )

    def request(self, item: str, market: Literal["crypto", "stock"] = "stock") -> Request:
        """The article with this id (its slashes are part of it)."""
        return Request(self.name, f"/{quote(item, safe='')}", {"show-fields": FIELDS}, {"market": market})

    def path_of(self, url: str) -> str | None:
        """An id has slashes: everything below the host is one."""
        try:
            parts = urlsplit(url)
        except ValueError:
            return None
        path = parts.path.strip("/")
        if parts.hostname != "content.guardianapis.com" or not path:
            return None
        return f"/{quote(path, safe='')}" if path not in _OTHERS else ""

    def parse(self, exchange: Exchange) -> Parsed:
        """The article's row; none if it is expired or gone. A tag's or a section's page: a row per article on it."""
        response = _response(exchange)
        items = response.get("results")
        if isinstance(items, list) and any(isinstance(response.get(kind), dict) for kind in ("tag", "section")):
            found = Findings()
            return Parsed(_articles(found, _table(exchange.request), items, exchange), found.all())
        if isinstance(items, list):
            raise MalformedPayload(self.name, "a list of ids without articles (content that was removed): no article")
        item = response.get("content")
        if not isinstance(item, dict) or identifier(item.get("id")) is None:
            raise MalformedPayload(self.name, f"no object 'content' with an id, but {members(response)}")
        found = Findings()
        row = _article(found, _table(exchange.request), item, exchange)
        return Parsed((row,) if row is not None else (), found.all())


ENDPOINTS: Final[tuple[Endpoint, ...]] = (Search(), Item())

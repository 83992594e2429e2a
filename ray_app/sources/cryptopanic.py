"""CryptoPanic: news of many publishers, by coin. Optional; its free tier ended or shrank in 2025 [unverified].

Formats: https://cryptopanic.com/developers/api/ and upstreams.md §15. What trips people up:

* ``next`` and ``previous`` hold the key (``auth_token``): the next page is asked for by its number, never by the link.
* v1 (``/v1/posts/``) and the developer v2 differ: v2 adds ``description``, and may leave out address, source,
  currencies and votes, as the plan has it. A post without any address has CryptoPanic's front page as its ``url``.
* ``url`` is CryptoPanic's own page; ``original_url``, where there is one, is the publisher's.
* A used-up month is 403 or 429 with the word "quota", no error in the request.

Votes change by the minute and are not stored: the tables hold what was published, and a count without its moment
would be read as known from the beginning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Final

from ray_app.errors import MalformedPayload, RateLimited
from ray_app.sources.base import Endpoint, Exchange, Parsed, Request, Row
from ray_app.sources.reading import Findings, expect_object, iso_time, members, not_ahead, readable, shown
from ray_app.sources.refusals import read_answer, retry_after_s
from ray_app.sources.texts import canonical_url, code_word, news_row, plain_text

ACCOUNT: Final = "cryptopanic"
HOME: Final = "https://cryptopanic.com"
V1: Final = "/v1/posts/"
V2: Final = "/developer/v2/posts/"
_QUOTA: Final = re.compile(rb"quota|limit exceeded", re.IGNORECASE)
#: no page beyond this one is asked for, whatever an answer says
_LAST_PAGE: Final = 100


class Posts(Endpoint):
    """The latest posts, newest first, 20 a page."""

    name: ClassVar[str] = "cryptopanic.posts"
    account: ClassVar[str] = ACCOUNT
    parser_version: ClassVar[int] = 2  # 2: "<" before what is no element is text; story ids
    #: a recorded URL's path comes without its slash
    paths: ClassVar[tuple[str, ...]] = (V2, V2[:-1], V1, V1[:-1], "/free/v1/posts/", "/free/v1/posts")
    query: ClassVar[frozenset[str]] = frozenset(
        {"public", "filter", "currencies", "regions", "kind", "page", "following", "metadata", "approved", "search"}
        | {"panic_score", "panic_period", "panic_sort", "size", "with_content", "last_pull"}
    )

    def request(self, page: int = 1, currencies: str | None = None) -> Request:
        """News in English, all coins or the tickers of ``currencies`` (comma-separated)."""
        params = {"public": "true", "kind": "news", "regions": "en", "page": str(page)}
        return Request(self.name, V2, params | ({"currencies": currencies} if currencies is not None else {}))

    def parse(self, exchange: Exchange) -> Parsed:
        """crypto_news rows: ``feed`` the publisher's domain, ``category`` the tickers CryptoPanic names."""
        if exchange.status in {403, 429} and _QUOTA.search(exchange.body[:2_000]):
            raise RateLimited(self.name, f"HTTP {exchange.status}: the quota is used up", retry_after_s(exchange))
        body = expect_object(self.name, read_answer(exchange), "results")
        items = body.get("results")
        if not isinstance(items, list):
            raise MalformedPayload(self.name, f"no array 'results', but {members(body)}")
        found = Findings()
        rows: dict[str, Row] = {}
        contradicted: set[str] = set()
        for position, item in enumerate(items):
            row = self._row(found, f"item {position}", item, exchange)
            if row is not None and rows.setdefault(str(row.key["content_id"]), row) != row:
                contradicted.add(str(row.key["content_id"]))
        readable(self.name, items, len(rows), "a post with a title")
        for identity in contradicted:
            url = str(rows.pop(identity).values["url"])
            found.add("duplicate", url, "url", "one post, stated twice differently")
        dated = [moment for row in rows.values() if isinstance(moment := row.values["published_at"], int)]
        return Parsed(
            tuple(rows.values()),
            found.all(),
            next=self._next(exchange.request) if items and isinstance(body.get("next"), str) else None,
            oldest=min(dated, default=None),
        )

    def _next(self, request: Request) -> Request | None:
        said = request.params.get("page", "1")
        page = int(said) if said.isascii() and said.isdigit() and len(said) < 6 else 0
        if not 1 <= page < _LAST_PAGE:
            return None
        return replace(request, params={**request.params, "page": str(page + 1)})

    def _row(self, found: Findings, where: str, item: object, exchange: Exchange) -> Row | None:
        if not isinstance(item, dict):
            found.add("wrong_type", where, "post", f"expected a post, got {shown(item)!r}")
            return None
        title = plain_text(item.get("title"), longest=1_000)
        if title is None:
            found.add("missing_id", where, "title", "a post without a title")
            return None
        said = item.get("id")
        number = said if isinstance(said, int) and not isinstance(said, bool) and 0 < said < 2**53 else None
        subject = str(number) if number is not None else title
        url, address = self._address(item, number, title)
        published = iso_time(found, subject, "published_at", item.get("published_at"))
        return news_row(
            "crypto_news",
            source=self.name,
            feed=_publisher(item),
            url=url,
            address=address,
            title=title,
            summary=plain_text(item.get("description")),
            fetched_at=exchange.fetched_at,
            published_at=not_ahead(found, subject, "published_at", published, exchange.fetched_at),
            category=_tickers(item),
            language=_region(item),
        )

    def _address(self, item: Mapping[str, Any], number: int | None, title: str) -> tuple[str, str | None]:
        """Its canonical address, and what identifies it where that is not one."""
        for member in ("original_url", "url"):
            said = item.get(member)
            url = canonical_url(said) if isinstance(said, str) else None
            if url is not None:
                return url, None
        published = item.get("published_at")
        return HOME, f"cryptopanic:{number if number is not None else f'{published}:{title}'}"


def _publisher(item: Mapping[str, Any]) -> str:
    source = item.get("source")
    domain = source.get("domain") if isinstance(source, dict) else item.get("domain")
    return code_word(domain, 64) or "cryptopanic"


def _region(item: Mapping[str, Any]) -> str | None:
    source = item.get("source")
    return code_word(source.get("region"), 16) if isinstance(source, dict) else None


def _tickers(item: Mapping[str, Any]) -> str | None:
    """``BTC,ETH``: v1 calls them currencies, v2 instruments; None where there are none."""
    named = item.get("instruments") if isinstance(item.get("instruments"), list) else item.get("currencies")
    listed = named if isinstance(named, list) else []
    codes = [plain_text(one.get("code"), longest=20) for one in listed if isinstance(one, dict)]
    return ",".join(code for code in codes if code is not None)[:100] or None


ENDPOINTS: Final[tuple[Endpoint, ...]] = (Posts(),)

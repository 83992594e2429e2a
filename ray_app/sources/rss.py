"""RSS 2.0, RSS 1.0 (RDF) and Atom: the feeds of publishers, read with feedparser.

Formats: https://www.rssboard.org/rss-specification, RFC 4287, https://web.resource.org/rss/1.0/spec; upstreams.md §16.
What trips people up:

* A feed shows its last 10 to 50 items: what a node misses for longer than that is lost.
* A ``guid`` is an address only if it is not marked ``isPermaLink="false"``; an Atom ``id`` never is one.
* Dates are whatever the publisher's software writes. One without a zone, or without a time, is no moment: it is left
  out, not guessed. A publisher may date an article ahead.
* The same article comes from several feeds and with other tracking parameters: rows are by canonical address, and
  ``story_id`` holds reprints together.
* Titles and summaries are HTML, sometimes escaped twice. They are stored as plain text; the full text that some feeds
  carry (``content:encoded``) is not, where they have a summary.

feedparser would read a URL or a file if it were given a string: it is given a stream of bytes that
ray_app/sources/feed_xml.py has found harmless. It never falls back to its lenient parser: what that makes of a
broken feed can join one article's title with another's address.
"""

from __future__ import annotations

import io
import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar, Final
from urllib.parse import urljoin

import feedparser

from ray_app.clock import DAY_MS, to_ms
from ray_app.errors import MalformedPayload
from ray_app.sources.addressing import path_values
from ray_app.sources.base import Endpoint, Exchange, Parsed, Request, Row
from ray_app.sources.feed_xml import MOST_ITEMS, feed_body
from ray_app.sources.reading import Findings, epoch_time, iso_time, not_ahead, readable, shown
from ray_app.sources.refusals import heed_words, require_ok
from ray_app.sources.rss_feeds import FEEDS, NAME_OF, SITES, Site, place_of
from ray_app.sources.texts import canonical_url, code_word, depth_of, news_row, plain_text

#: whole address by path, e.g. "/coindesk"
URLS: Final[dict[str, str]] = {f"/{site.name}": site.url for site in SITES}
_TABLES: Final = {"crypto": "crypto_news", "stock": "stock_news"}
_LONGEST_TITLE: Final = 1_000
#: the prefix of Media RSS in this feed, and the tags of its descriptions: feedparser takes them for the item's own
_MEDIA: Final = re.compile(rb"""\bxmlns:([\w.-]{1,40})\s*=\s*["']https?://search\.yahoo\.com/mrss/?["']""")
_MEDIA_TEXT: Final = "mediasays"
#: zones that publishers name and Python does not know. BST is Britain's summer, and Bangladesh: it stays unknown
_ZONES: Final = {"CET": "+0100", "CEST": "+0200"}
_ZONE: Final = re.compile(r"(?<=\s)(?:(CEST|CET)|(?:GMT|UTC)?([+-]\d{2}):?(\d{2}))$", re.ASCII)
_SEPTEMBER: Final = re.compile(r"\bSept\b", re.IGNORECASE)
#: the end of a day, and a leap second, which Python does not know
_MIDNIGHT: Final = re.compile(r"(?<=\s)24:00(?=:00\b|\s)", re.ASCII)
_LEAP: Final = re.compile(r"(?<=\d\d:\d\d):60\b", re.ASCII)
#: what stands before or instead of the offset of an ISO time
_ISO_ZONE: Final = re.compile(r"\s*(?:UTC|GMT)$|\s+(?=[+-]\d\d:?\d\d$)", re.ASCII)


class Feed(Endpoint):
    """One feed, by its name in :data:`ray_app.sources.rss_feeds.FEEDS`.

    Rows of crypto_news or stock_news (the feed's market): ``feed`` the name, ``url`` canonical, ``title``,
    ``summary`` plain text, ``author``, ``category`` (of the article; else of the feed), ``language`` the feed's,
    ``published_at`` ms. An item whose only identity is a guid has the feed's site as ``url`` and an id by the guid.
    """

    name: ClassVar[str] = "rss.feed"
    account: ClassVar[str] = "rss"
    paths: ClassVar[tuple[str, ...]] = ("/{feed}",)
    conditional: ClassVar[bool] = True
    #: 2: Media RSS describes no article, a guid is no relative link, HTML's entities under a DOCTYPE, more zones,
    #: items of one page by their guids; 3: "<" before what is no element is text, story ids, more forms of dates,
    #: the first 2,000 items alone
    parser_version: ClassVar[int] = 3

    def request(self, feed: str) -> Request:
        """The feed called ``feed``."""
        if feed not in FEEDS:
            raise ValueError(f"{self.name}: no feed is called {feed!r}; {_known()}")
        return Request(self.name, f"/{feed}")

    def path_of(self, url: str) -> str | None:
        """``/name`` of a known feed's address; a slash at its end, or a query it has not, do not matter."""
        try:
            name = NAME_OF.get(place_of(url)) or NAME_OF.get(place_of(url.partition("?")[0]))
        except ValueError:
            return None
        return f"/{name}" if name is not None else None

    def parse(self, exchange: Exchange) -> Parsed:
        """A row per article with a title; articles without one, and contradictions, are issues."""
        require_ok(exchange)
        name = path_values(self, exchange.request.path)["feed"]
        site = FEEDS.get(name)
        if site is None:
            raise MalformedPayload(
                self.name, f"no feed is called {shown(name)!r}: whose news it is, is not known; {_known()}"
            )
        try:
            body, left_out = feed_body(exchange)
        except MalformedPayload:
            heed_words(exchange)
            raise
        feed, entries = self._read(body)
        found = Findings()
        if left_out:
            found.add("out_of_range", site.name, "items", f"{left_out} items after the first {MOST_ITEMS} are not read")
        home = canonical_url(str(dict.get(feed, "link") or "")) or canonical_url(site.url) or site.url
        language = code_word(dict.get(feed, "language"), 16)
        alike: dict[str, list[tuple[Row, dict[str, Any]]]] = {}
        read = 0
        for entry in entries:
            row = self._row(found, site, entry, exchange, home, language)
            if row is None:
                continue
            read += 1
            alike.setdefault(str(row.key["content_id"]), []).append((row, entry))
        rows: dict[str, Row] = {}
        for identity, stated in alike.items():
            row = stated[0][0]
            if all(other == row for other, _ in stated):
                rows[identity] = row
            elif _parts_of_one_page([entry for _, entry in stated]):
                for _, entry in stated:
                    part = self._row(Findings(), site, entry, exchange, home, language, by_guid=True)
                    if part is not None:
                        rows[str(part.key["content_id"])] = part
            else:
                found.add("duplicate", str(row.values["url"]), "url", "one article, stated twice differently")
        readable(
            self.name, [dict.get(entry, "link") or "an item" for entry in entries], read, "an article with a title"
        )
        dated = [row.values["published_at"] for row in rows.values()]
        return Parsed(tuple(rows.values()), found.all(), oldest=depth_of([d for d in dated if isinstance(d, int)]))

    def _read(self, body: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        try:
            answer = feedparser.parse(
                io.BytesIO(_without_media(body)),
                sanitize_html=False,
                resolve_relative_uris=False,
                response_headers={"content-type": "application/xml; charset=utf-8"},
            )
        except Exception as error:  # a stranger's XML: whatever it stumbles over
            raise MalformedPayload(self.name, f"feedparser failed: {shown(repr(error))}") from error
        if dict.get(answer, "bozo"):
            raise MalformedPayload(self.name, f"not readable: {shown(repr(dict.get(answer, 'bozo_exception')))}")
        return answer.feed, answer.entries

    def _row(
        self,
        found: Findings,
        site: Site,
        entry: dict[str, Any],
        exchange: Exchange,
        home: str,
        language: str | None,
        *,
        by_guid: bool = False,
    ) -> Row | None:
        guid = _guid(entry)
        said = dict.get(entry, "link")
        if said == dict.get(entry, "id") and not str(said).startswith(("http://", "https://")):
            said = None  # feedparser takes a guid for the link unless isPermaLink="false", which few remember
        url = _absolute(home, said) if isinstance(said, str) and said.strip() else None
        if url is None and guid is not None and guid.startswith(("http://", "https://")):
            url = canonical_url(guid)
        subject = url or guid or "an item"
        title = plain_text(dict.get(entry, "title"), longest=_LONGEST_TITLE)
        if title is None:
            found.add("missing_id", subject, "title", "an article without a title")
            return None
        if url is None and guid is None:
            found.add("missing_id", title, "link", f"neither an address nor a guid: {shown(said)!r}")
            return None
        return news_row(
            _TABLES[site.market],
            source=self.name,
            feed=site.name,
            url=url or home,
            address=f"rss:{site.name}:{guid}" if url is None or by_guid else None,
            title=title,
            summary=_summary(entry),
            fetched_at=exchange.fetched_at,
            published_at=_moment(found, subject, entry, exchange.fetched_at),
            author=plain_text(dict.get(entry, "author"), longest=200),
            category=_category(entry) or site.category,
            language=language,
        )


def _known() -> str:
    return f"known are {', '.join(sorted(FEEDS))}"


def _without_media(body: bytes) -> bytes:
    """The checked body with Media RSS's descriptions (of a picture) under a name that is nobody's summary."""
    for prefix in {re.escape(match[1]) for match in _MEDIA.finditer(body)}:
        tag = rb"<(" + prefix + rb":)description(?:\s+[\w:.-]+\s*=\s*(?:\"[^\"]*\"|'[^']*'))*\s*(/?)>"
        body = re.sub(tag, rb"<\1" + _MEDIA_TEXT.encode() + rb"\2>", body)
        body = re.sub(rb"</(" + prefix + rb":)description\s*>", rb"</\1" + _MEDIA_TEXT.encode() + rb">", body)
    return body


def _guid(entry: dict[str, Any]) -> str | None:
    return plain_text(dict.get(entry, "id"), longest=500)


def _parts_of_one_page(entries: list[dict[str, Any]]) -> bool:
    """Whether each has a place of its own on one page (``#part``), and a guid of its own."""
    links, guids = [dict.get(entry, "link") for entry in entries], {_guid(entry) for entry in entries}
    own = {str(link).strip() for link in links}
    pages = {link.partition("#")[0] for link in own}
    return len(guids) == len(own) == len(entries) and None not in guids and len(pages) == 1


def _absolute(home: str, link: str) -> str | None:
    try:
        return canonical_url(urljoin(home, link.strip()))
    except ValueError:
        return None


def _summary(entry: dict[str, Any]) -> str | None:
    """The summary; of an item without one, its content; of one without either, what its media say."""
    summary = plain_text(dict.get(entry, "summary"))
    content = dict.get(entry, "content")
    if summary is None and isinstance(content, list) and content and isinstance(content[0], dict):
        summary = plain_text(dict.get(content[0], "value"))
    return summary if summary is not None else plain_text(dict.get(entry, f"media_{_MEDIA_TEXT}"))


def _category(entry: dict[str, Any]) -> str | None:
    tags = dict.get(entry, "tags")
    terms = [plain_text(dict.get(tag, "term"), longest=100) for tag in tags] if isinstance(tags, list) else []
    return next((term for term in terms if term is not None), None)


def _moment(found: Findings, subject: str, entry: dict[str, Any], fetched_at: int) -> int | None:
    """Milliseconds of an article's date; None and an issue where what is said is none.

    RSS 1.0 has dc:date, Atom must have "updated" only, and what cannot be read may have either beside it.
    """
    for name in ("published", "updated"):
        said = dict.get(entry, name)
        if isinstance(said, str) and said.strip():
            ms = _milliseconds(found, subject, said.strip()[:80])
            if ms is not None:
                return not_ahead(found, subject, "published", ms, fetched_at)
    return None


def _milliseconds(found: Findings, subject: str, text: str) -> int | None:
    """Milliseconds of a date as RSS (RFC 822) or Atom (RFC 3339) writes it; None and an issue where it is none."""
    moment = _rfc822(text)
    if moment is not None:
        return epoch_time(found, subject, "published", moment, 1)
    if len(text) < 12:  # a date without a time, which fromisoformat takes for midnight
        found.add("wrong_type", subject, "published", f"{shown(text)!r} is no moment: it has no time")
        return None
    return iso_time(found, subject, "published", _ISO_ZONE.sub(lambda match: "Z" if match[0].strip() else "", text))


def _rfc822(text: str) -> int | None:
    """Milliseconds of ``Sat, 15 Aug 2026 16:00:00 +0000``; None: another form, or no zone that says its offset."""
    text = _ZONE.sub(lambda match: _ZONES[match[1]] if match[1] else f"{match[2]}{match[3]}", text)
    text, midnights = _MIDNIGHT.subn("00:00", _SEPTEMBER.sub("Sep", text))
    text, leaps = _LEAP.subn(":59", text)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    if text.endswith("-0000"):  # UTC, of a place that is not told (RFC 5322): Python takes it for no zone
        moment = moment.replace(tzinfo=UTC)
    if moment.tzinfo is None or not any(c.isalpha() for c in text[:12]):
        return None
    try:
        return to_ms(moment.astimezone(UTC)) + midnights * DAY_MS + leaps * 1_000
    except (OverflowError, ValueError):
        return None


ENDPOINTS: Final[tuple[Endpoint, ...]] = (Feed(),)

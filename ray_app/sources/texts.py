"""What articles of every feed have in common: one address, plain text, and a name for the story they tell.

Pure functions of what a feed says. Which assets a text mentions is found where the registry is known
(ray_app/mentions.py), not here.
"""

from __future__ import annotations

import hashlib
import html
import re
import unicodedata
from html.parser import HTMLParser
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from ray_app.sources.base import Row

#: parameters that say where a reader came from, not what he reads
_TRACKING: Final = re.compile(
    r"(?:utm_\w+|fbclid|gclid|dclid|msclkid|mc_[ce]id|igshid|ref|ref_src|cmp|cmpid|ncid|src|taid|guccounter|_ga|yclid)",
    re.IGNORECASE,
)
_SPACE: Final = re.compile(r"\s+")
#: the longest text kept of one article, characters
LONGEST: Final = 20_000
#: what feeds append to a title: "… - CoinDesk", "… | Reuters"
_APPENDED: Final = re.compile(r"\s+[|–—-]\s+[^|–—-]{2,30}$")
_NOT_WORD: Final = re.compile(r"[^\w]+")


def canonical_url(url: str) -> str | None:
    """The address without what does not name the article; None: not an http(s) URL.

    Lower-case scheme and host, no default port, no user, no fragment, no tracking parameters, the others sorted, no
    trailing slash; http counts as https.
    """
    text = url.strip()
    if len(text) > 2_000 or any(c in text for c in "\r\n\t\x00"):
        return None
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    host = parts.hostname
    if parts.scheme.lower() not in {"http", "https"} or not host:
        return None
    kept = sorted((k, v) for k, v in parse_qsl(parts.query, keep_blank_values=True) if not _TRACKING.fullmatch(k))
    at = f"{host}:{port}" if port not in {None, 80, 443} else host
    path = quote(parts.path, safe="/%:@!$&'()*+,;=~-._").rstrip("/")
    return urlunsplit(("https", at, path, urlencode(kept), ""))


def content_id(address: str) -> str:
    """The id of what has this canonical address (SHA-256, hex)."""
    return hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest()


class _Text(HTMLParser):
    """Collects text; skips what is not read (script, style)."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._skipped = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - the base's
        self._skipped += tag in {"script", "style"}
        if tag in {"p", "br", "div", "li", "h1", "h2", "h3", "tr"}:
            self.parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        self._skipped -= tag in {"script", "style"} and self._skipped > 0

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self.parts.append(data)


def plain_text(markup: object, *, longest: int = LONGEST) -> str | None:
    """Readable text of HTML or plain text, one line, at most ``longest`` characters; None where nothing is left.

    Control characters, lone surrogates and NULs are left out: no database takes them.
    """
    if not isinstance(markup, str):
        return None
    reader = _Text()
    try:
        reader.feed(markup[: longest * 20])
        reader.close()
    except (ValueError, AssertionError):  # html.parser on what is no markup at all
        reader.parts = [re.sub(r"<[^>]*>", " ", html.unescape(markup[: longest * 20]))]
    text = "".join(c for c in "".join(reader.parts) if not unicodedata.category(c).startswith("C") or c in "\n\t\r ")
    return _SPACE.sub(" ", text).strip()[:longest].strip() or None


def story_id(title: str) -> str:
    """The same for titles that differ in case, punctuation, order of nothing, and an appended publisher.

    Reprints of one story share it, so that a story that forty sites copy counts once.
    """
    bare = _APPENDED.sub("", unicodedata.normalize("NFKC", title))
    words = _NOT_WORD.sub(" ", bare.casefold()).split()
    return hashlib.sha256(" ".join(words).encode("utf-8", "surrogatepass")).hexdigest()


def news_row(
    table: str,
    *,
    source: str,
    feed: str,
    url: str,
    title: str,
    summary: str | None,
    fetched_at: int,
    published_at: int | None,
    updated_at: int | None = None,
    author: str | None = None,
    category: str | None = None,
    language: str | None = None,
    address: str | None = None,
) -> Row:
    """A row of crypto_news or stock_news. ``url`` is canonical; ``address``: what identifies it, where that is not the
    URL. Known from its first fetch: a feed's own date is what it says, not when this node could know it.
    """  # noqa: D205 - one sentence after the other
    said = updated_at if updated_at is not None else published_at
    return Row(
        table,
        {"content_id": content_id(address or url)},
        {
            "source": source,
            "feed": feed,
            "url": url,
            "title": title,
            "summary": summary,
            "author": author[:200] if author is not None else None,
            "category": category[:100] if category is not None else None,
            "language": language,
            "story_id": story_id(title),
            "published_at": published_at,
            "known_at": fetched_at,
            "deleted_at": None,
        },
        min(said, fetched_at) if said is not None else fetched_at,
    )

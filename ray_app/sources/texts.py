"""What articles of every feed have in common: one address, plain text, and a name for the story they tell.

Pure functions of what a feed says. Which assets a text mentions is found where the registry is known
(ray_app/mentions.py), not here.
"""

from __future__ import annotations

import hashlib
import html
import re
import unicodedata
from collections.abc import Iterator
from decimal import Decimal
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from ray_app.sources.base import Row

#: parameters that say where a reader came from, not what he reads
_TRACKING: Final = re.compile(
    r"(?:(?:utm|mtm|pk|piwik|hsa|at|oly|vero)_\w+|fbclid|gclid|dclid|msclkid|mc_[ce]id|igshid|ref|ref_src|referrer|cmp"
    r"|cmpid|ncid|src|\.?tsrc|taid|guccounter|guce_referrer\w*|_ga|yclid|mod|smid|xtor|__twitter_impression)",
    re.IGNORECASE,
)
_SPACE: Final = re.compile(r"\s+")
#: the longest text kept of one article, characters
LONGEST: Final = 20_000
#: longest address, characters
_LONGEST_URL: Final = 2_000
_PERCENT: Final = re.compile(r"%[0-9a-fA-F]{2}")


def canonical_url(url: str) -> str | None:
    """The address without what does not name the article; None: not an http(s) URL.

    Lower-case scheme and host, no default port, no user, no fragment, no tracking parameters, the others sorted, no
    trailing slash; http counts as https.
    """
    text = url.strip()
    if len(text) > _LONGEST_URL or any(unicodedata.category(c) in {"Cc", "Cs"} for c in text):
        return None
    try:
        parts = urlsplit(text)
        port = parts.port
        host = (parts.hostname or "").rstrip(".")
        if parts.scheme.lower() not in {"http", "https"} or not host or any(c.isspace() for c in host):
            return None
        kept = sorted((k, v) for k, v in parse_qsl(parts.query, keep_blank_values=True) if not _TRACKING.fullmatch(k))
        path = quote(parts.path, safe="/%:@!$&'()*+,;=~-._").rstrip("/")
        query = urlencode(kept)
    except ValueError:
        return None
    host = f"[{host}]" if ":" in host else host
    at = f"{host}:{port}" if port not in {None, 80, 443} else host
    return urlunsplit(("https", at, _PERCENT.sub(lambda match: match[0].upper(), path), query, ""))


def content_id(address: str) -> str:
    """The id of what has this canonical address (SHA-256, hex)."""
    return hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest()


#: elements that stand apart from the text around them
_BLOCKS: Final = frozenset(("p", "br", "div", "li", "ul", "ol", "tr", "td", "th", "blockquote", "figcaption", "hr"))
_HEADING: Final = re.compile(r"h[1-6]")
_NAME: Final = re.compile(r"/?([a-zA-Z][a-zA-Z0-9]{0,20})(?![a-zA-Z0-9])")
#: the elements of HTML, of former versions too: "<" before any other word is what was written
_ELEMENTS: Final = frozenset(
    re.findall(
        r"\w+",
        "a abbr acronym address applet area article aside audio b base basefont bdi bdo big blink blockquote body br "
        "button canvas caption center cite code col colgroup content data datalist dd del details dfn dialog dir div "
        "dl dt em embed fieldset figcaption figure font footer form frame frameset h1 h2 h3 h4 h5 h6 head header "
        "hgroup hr html i iframe image img input ins kbd keygen label legend li link main map mark marquee math menu "
        "meta meter nav nobr noembed noframes noscript object ol optgroup option output p param path picture plaintext "
        "pre progress q rb rp rt rtc ruby s samp script search section select slot small source span strike strong "
        "style sub summary sup svg table tbody td template textarea tfoot th thead time title tr track tt u ul use "
        "var video wbr xmp",
    )
)
#: what is certainly a tag, whatever its name: one with a prefix or hyphen (Word's <o:p>), or with attributes
_SURE_TAG: Final = re.compile(
    r"/?[a-zA-Z][\w.]{0,30}(?:(?:[:-][\w.-]{1,40})?\s{1,9}[\w:.-]{1,40}\s{0,9}=\s{0,9}[\"']|[:-][\w.-]{1,40}\s{0,9}/?>)"
)
#: elements whose content is not read, and where it ends
_UNREAD: Final = {name: re.compile(f"</{name}", re.IGNORECASE) for name in ("script", "style")}


def _pieces(markup: str) -> Iterator[str]:
    """The text between the tags. One pass: html.parser takes quadratic time for markup that is made to."""
    at, last = 0, markup.rfind(">")
    while (opens := markup.find("<", at)) >= 0:
        yield markup[at:opens]
        if markup.startswith("<!--", opens):
            closes, length = markup.find("-->", opens), 3
        elif markup.startswith("<![CDATA[", opens):
            closes, length = markup.find("]]>", opens), 3
            yield markup[opens + 9 : closes] if closes >= 0 else markup[opens + 9 :]
        elif _is_tag(markup, opens + 1, whole=opens < last):
            closes, length = markup.find(">", opens), 1
        else:
            yield "<"
            at = opens + 1
            continue
        if closes < 0:  # a tag that was cut off, by whoever shortened the text
            return
        at = closes + length
        tag = _NAME.match(markup, opens + 1)
        name = tag[1].lower() if tag is not None else ""
        if name in _BLOCKS or _HEADING.fullmatch(name):
            yield " "
        elif name in _UNREAD and markup[opens + 1] != "/":
            end = _UNREAD[name].search(markup, at)
            if end is None:
                return
            at = end.start()
    yield markup[at:]


def _is_tag(markup: str, at: int, *, whole: bool) -> bool:
    """Whether what follows a "<" is a tag. ``whole``: there is a ">" after it; without, only attributes make it one."""
    if markup[at : at + 1] in {"!", "?"} or _SURE_TAG.match(markup, at) is not None:
        return True
    name = _NAME.match(markup, at)
    return whole and name is not None and name[1].lower() in _ELEMENTS


def _unescaped(text: str) -> str:
    try:
        return html.unescape(text)
    except ValueError:  # a character reference of thousands of digits
        return text


def plain_text(markup: object, *, longest: int = LONGEST) -> str | None:
    """Readable text of HTML or plain text, one line, at most ``longest`` characters; None where nothing is left.

    Control characters, lone surrogates and NULs are left out: no database takes them.
    """
    if not isinstance(markup, str):
        return None
    joined = "".join(_unescaped(piece) for piece in _pieces(markup[: longest * 20]))
    text = "".join(c for c in joined if c in "\n\t\r " or not unicodedata.category(c).startswith("C"))
    return _SPACE.sub(" ", text).strip()[:longest].strip() or None


def code_word(markup: object, longest: int) -> str | None:
    """Plain text that is ASCII, as the tables' codes are; None for anything else."""
    text = plain_text(markup, longest=longest)
    return text if text is not None and text.isascii() else None


#: words without which a title tells the same story
_STOP: Final = frozenset(
    re.findall(
        r"\w+",
        "a an the of in on at to for from by with as and or is are was were be been has have had it its this that "
        "says said say after amid",
    )
)
#: what editors set before a title
_LABEL: Final = re.compile(
    r"^\s*(?:\[?(?:breaking|just in|update|updated|exclusive|watch|live|video|opinion|analysis|press release"
    r"|sponsored)\]?\s*[:|–—-]+|\[[^\]]{2,20}\])\s*",
    re.IGNORECASE,
)
#: a word of a name: "… - bad crypto news" is the story
_CAPITALISED: Final = r"(?-i:[^\Wa-zß-öø-ÿ])\w*"
#: what feeds append to it: "… - CoinDesk", "… | Reuters", "… (example.com)"; not "… – up 5%", which is the story
_APPENDED: Final = re.compile(
    r"\s+(?:[|–—-]\s+|\()(?:by\s+)?(?:the\s+)?(?:"
    r"[\w-]{2,30}\.(?:com|net|org|io|co|news)|coin ?desk|coin ?telegraph|crypto ?slate|decrypt|bitcoin magazine"
    r"|coin ?journal|news ?btc|be ?in ?crypto|block|bitcoinist|amb ?crypto|crypto ?(?:news|potato|briefing)"
    r"|crypto ?(?:daily|globe|news flash)|coin ?speaker"
    r"|reuters|bloomberg|cnbc|market ?watch|yahoo(?: finance)?|nasdaq|guardian|forbes|fortune"
    rf"|investing|(?:{_CAPITALISED} ){{1,3}}(?:news|times|journal|magazine|post|herald|insider|tribune))\)?\s*$",
    re.IGNORECASE,
)
_UPDATED: Final = re.compile(r"\s*[(\[]updated?[)\]]\s*$", re.IGNORECASE)
#: U.S. and U.S, which is US
_INITIALS: Final = re.compile(r"\b(?:[^\W\d_]\.)+[^\W\d_]\b\.?")
_PERCENT_WORD: Final = re.compile(r"\bper ?cent\b", re.IGNORECASE)
#: a number as titles write it, the sign of one (no hyphen between words), or a word
_TOKEN: Final = re.compile(
    r"(?<!\w)[+-](?=[$€£¥]?\d)|(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)(?:\s?(k|m|b|bn|million|billion|thousand)\b)?|\w+|%"
)
_SCALE: Final = {"k": 3, "thousand": 3, "m": 6, "million": 6, "b": 9, "bn": 9, "billion": 9}


def story_id(title: str) -> str:
    """The same for titles that differ in case, punctuation, quotes, articles and prepositions, how a number is written,
    and an editor's label or publisher's name around it.

    Reprints of one story share it, so that a story that forty sites copy counts once. Numbers count, and so does the
    order of words: it says who did what to whom. A title that says the same in other words is another story to it.
    """  # noqa: D205 - one sentence after the other
    written = unicodedata.normalize("NFKC", title[:1_000]).replace("’", "'").replace("−", "-")
    told = _UPDATED.sub("", _APPENDED.sub("", _UPDATED.sub("", _LABEL.sub("", written))))
    said = _INITIALS.sub(lambda match: match[0].replace(".", ""), _PERCENT_WORD.sub("%", told))
    bare = said.casefold().replace("'s ", " ")
    words = [_token(match) for match in _TOKEN.finditer(bare)]
    kept = [word for word in words if word not in _STOP] or words or [written.casefold().strip()]
    return hashlib.sha256(" ".join(kept).encode("utf-8", "surrogatepass")).hexdigest()


def _token(match: re.Match[str]) -> str:
    """``$77K``, ``77,000`` and ``77 thousand`` are one number; ``%`` is a word."""
    number, scale = match.groups()
    if number is None:
        return "percent" if match[0] == "%" else match[0]
    value = Decimal(number.replace(",", "")[:40]).scaleb(_SCALE.get(scale or "", 0)).normalize()
    return f"{value:f}"


def depth_of(moments: list[int]) -> int | None:
    """How far back a feed's items reach, ms; None: none has a date.

    Of ten and more the oldest tenth is left out: a pinned article, or one with a wrong date, is no proof that
    everything since is there.
    """
    ordered = sorted(moments)
    return ordered[len(ordered) // 10] if ordered else None


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
    author: str | None = None,
    category: str | None = None,
    language: str | None = None,
    address: str | None = None,
) -> Row:
    """A row of crypto_news or stock_news. ``url`` is canonical; ``address``: what identifies it, where that is not the
    URL. Known from its first fetch: a feed's own date is what it says, not when this node could know it.
    """  # noqa: D205 - one sentence after the other
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
        fetched_at,  # what a feed says last stands; its own dates come and go
    )

"""The XML of a feed, before anything reads it: of bounded size, in one encoding, whole, and without declarations.

Feeds are the one place where what strangers write is parsed as XML. What is dangerous in XML (entities that grow,
entities that fetch) is declared in a document type's internal subset, and no feed needs one: a body that declares
anything is refused. What publishers get wrong (bare ampersands, HTML's entities, control characters) is mended.
"""

from __future__ import annotations

import codecs
import re
from html.entities import html5
from typing import Final
from xml.parsers import expat

from ray_app.errors import MalformedPayload
from ray_app.sources.base import Exchange
from ray_app.sources.reading import shown

#: Feeds show tens of items; the longest with full texts are below 2 MB.
LARGEST: Final = 5_000_000
DEEPEST: Final = 100
#: The longest archives that are feeds have hundreds of items, of tens of elements each. What reads them takes seconds
#: for a hundred thousand: the items after the first ones, which are the newest, are cut off.
MOST_ITEMS: Final = 2_000
MOST_ELEMENTS: Final = 100_000
_ROOTS: Final = frozenset({"rss", "feed", "RDF"})
_ITEMS: Final = frozenset({"item", "entry"})
_ITEM_ENDS: Final = re.compile(rb"</(?:[^\s<>:]+:)?(?:item|entry)\s*>")
_BOMS: Final = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
#: the only encodings that are read; Python knows others that are none of text
_ENCODING: Final = re.compile(
    r"utf-?8|utf-?16(?:-?[lb]e)?|us-ascii|ascii|iso-?8859-\d{1,2}|latin-?1|(?:windows-|cp)12\d\d|koi8-[ru]|gb2312|gbk"
    r"|gb18030|big5|shift[_-]jis|euc-(?:jp|kr)",
    re.IGNORECASE,
)
_CHARSET: Final = re.compile(r"charset\s*=\s*[\"']?([\w.:-]{1,40})", re.IGNORECASE)
_DECLARATION: Final = re.compile(r"\s*<\?xml\b[^>]{0,200}?\?>")
_DECLARED: Final = re.compile(rb"<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([\w.:-]{1,40})[\"']")
#: a document type without a subset of its own, after at most comments and instructions
_DOCTYPE: Final = re.compile(
    r"((?:\s|<!--.*?-->|<\?.*?\?>)*+)<!DOCTYPE\s(?:\"[^\"]*\"|'[^']*'|[^\[\"'<>])*+>", re.DOTALL
)
_NOT_XML: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_AMPERSAND: Final = re.compile(r"&(?:#(\d{1,7});|#[xX]([0-9a-fA-F]{1,6});|(\w{1,32});)?")
_XML_NAMES: Final = frozenset({"amp", "lt", "gt", "quot", "apos"})


class _Refused(Exception):
    """Well-formed or not, this is not to be read."""


def feed_body(exchange: Exchange) -> tuple[bytes, int]:
    """The body as well-formed UTF-8 without declaration, whose root is that of a feed; and how many items it lost.

    Those are what it had after the first :data:`MOST_ITEMS`.

    MalformedPayload: too long, undecodable, not XML, cut off, not RSS, Atom or RDF, or it declares entities.
    """
    endpoint = exchange.request.endpoint
    text = _decoded(endpoint, exchange)
    if not text.strip():
        raise MalformedPayload(endpoint, "the body is empty; expected RSS or Atom")
    if not text.lstrip().startswith("<"):
        raise MalformedPayload(endpoint, f"the body is not XML; it begins {shown(text.strip()[:80])!r}")
    text = _NOT_XML.sub("", _DECLARATION.sub("", text, count=1)).lstrip()
    # under a document type expat leaves out what it may define elsewhere, such as RSS 0.91's &eacute;
    typed = _DOCTYPE.match(text)
    body = (_mended(typed[1] + text[typed.end() :]) if typed else text).encode()
    try:
        try:
            return _checked(body)
        except expat.ExpatError:
            if typed:
                raise
            return _checked(_mended(text).encode())
    except expat.ExpatError as error:
        cut = "cut off" if error.code in _CUT_OFF else "broken"
        where = f"line {error.lineno}: {expat.errors.messages[error.code]}"
        raise MalformedPayload(endpoint, f"the XML is {cut} at {where}; it begins {shown(text[:60])!r}") from None
    except _Refused as refused:
        raise MalformedPayload(endpoint, str(refused)) from None


_CUT_OFF: Final = frozenset(
    expat.errors.codes[message]
    for message in (
        expat.errors.XML_ERROR_NO_ELEMENTS,
        expat.errors.XML_ERROR_UNCLOSED_TOKEN,
        expat.errors.XML_ERROR_UNCLOSED_CDATA_SECTION,
    )
)


def _decoded(endpoint: str, exchange: Exchange) -> str:
    """The text by its byte order mark, else by the header's charset, else by its own declaration, else as UTF-8."""
    body = exchange.body
    if len(body) > LARGEST:
        raise MalformedPayload(endpoint, f"the body has {len(body)} bytes; a feed has at most {LARGEST}")
    if body.startswith(b"\x1f\x8b"):
        raise MalformedPayload(endpoint, "the body is still gzip-compressed; expected RSS or Atom")
    header = _CHARSET.search(exchange.headers.get("content-type", ""))
    declared = _DECLARED.search(body[:400])
    bom = next((name for mark, name in _BOMS if body.startswith(mark)), None)
    names = (bom, header[1] if header else None, declared[1].decode() if declared else None, "utf-8")
    # a server's charset is often its default and not the feed's: the next name is tried where one does not fit
    named = dict.fromkeys(name.lower() for name in names if name is not None)
    tried = [name for name in named if _ENCODING.fullmatch(name)]
    for name in tried[:1] if bom is not None else tried:
        try:
            return body.decode(name).removeprefix("\ufeff")
        except (UnicodeError, LookupError):
            continue
    raise MalformedPayload(endpoint, f"the body is not text in {', '.join(tried)}; expected RSS or Atom")


class _Items:
    """Which items a body has beyond those that are read: where the first of them begins, and the last one ends."""

    def __init__(self) -> None:
        self.count = 0
        self.begin = self.end = -1
        self._level = 0

    def start(self, name: str, level: int, at: int) -> None:
        if name in _ITEMS and level == (self._level or level):
            self._level = level
            self.count += 1
            if self.count == MOST_ITEMS + 1:
                self.begin = at

    def stop(self, name: str, level: int, at: int) -> None:
        if name in _ITEMS and level == self._level and self.begin >= 0:
            self.end = at

    def cut(self, body: bytes) -> tuple[bytes, int]:
        """The body without them, and how many they are."""
        if self.begin < 0:
            return body, 0
        closing = _ITEM_ENDS.match(body, self.end)  # of <item/> expat tells where it is over
        return body[: self.begin] + body[closing.end() if closing else self.end :], self.count - MOST_ITEMS


def _checked(body: bytes) -> tuple[bytes, int]:
    """The body, cut; ExpatError where it is not well-formed, _Refused where it is not a feed or declares anything."""
    parser = expat.ParserCreate("utf-8", namespace_separator=" ")
    depth = elements = 0
    items = _Items()

    def start(name: str, _: object) -> None:
        nonlocal depth, elements
        depth += 1
        elements += items.begin < 0
        local = name.rpartition(" ")[2]
        if depth == 1 and local not in _ROOTS:
            what = "an HTML page" if local.lower() == "html" else f"<{shown(local)}>"
            raise _Refused(f"the body is {what}, not RSS or Atom")
        if depth > DEEPEST:
            raise _Refused(f"elements are nested deeper than {DEEPEST}")
        if elements > MOST_ELEMENTS:
            raise _Refused(f"there are more than {MOST_ELEMENTS} elements, which no feed has")
        items.start(local, depth, parser.CurrentByteIndex)

    def end(name: str) -> None:
        nonlocal depth
        items.stop(name.rpartition(" ")[2], depth, parser.CurrentByteIndex)
        depth -= 1

    def doctype(name: str, system: str | None, public: str | None, subset: int) -> None:  # noqa: ARG001 - expat's
        if subset:
            raise _Refused("the body declares things of its own (a DTD's internal subset), which no feed needs")

    def entity(*_: object) -> None:
        raise _Refused("the body declares entities, which no feed needs")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler, parser.EntityDeclHandler = doctype, entity
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    parser.Parse(body, True)
    return items.cut(body)


def _mended(text: str) -> str:
    """Bare ampersands escaped and HTML's entities replaced by what they stand for, outside of CDATA."""
    parts = text.split("<![CDATA[")
    mended = [_AMPERSAND.sub(_reference, parts[0])]
    for part in parts[1:]:
        inside, closed, outside = part.partition("]]>")
        mended.append(inside + closed + _AMPERSAND.sub(_reference, outside))
    return "<![CDATA[".join(mended)


def _reference(match: re.Match[str]) -> str:
    digits, hexadecimal, name = match.groups()
    if digits is not None or hexadecimal is not None:
        code = int(digits) if digits is not None else int(hexadecimal, 16)
        legal = code in {9, 10, 13} or 0x20 <= code < 0xD800 or 0xE000 <= code < 0xFFFE or 0x10000 <= code < 0x110000
        return match[0] if legal else ""
    if name is None:
        return "&amp;"
    if name in _XML_NAMES:
        return match[0]
    meant = html5.get(f"{name};")
    return "".join(f"&#{ord(c)};" for c in meant) if meant is not None else f"&amp;{name};"

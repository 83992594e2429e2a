"""What a text says of each asset that it names: the words to score for each, instead of the whole text.

"Bitcoin surges while XRP plunges" is good news and bad news. The text is cut into sentences, and a sentence that names
several assets into clauses; an asset's **window** is what names it, in order. A clause that names several belongs to
each. A sentence that names none belongs to the asset before it where it points back ("It fell 5%") to only one.

A text that names one asset, or none, is scored whole: nothing of it is left out. Pure; takes the places of names from
``mentions.Matcher.places``.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from operator import itemgetter
from typing import Final, NamedTuple

_SENTENCE_ENDS: Final = re.compile(r"[.!?…]['’”\")\]]{0,3}\s+(?=[^a-z\s])|\n\s*")
#: what ends in a full stop and no sentence
_ABBREVIATED: Final = re.compile(
    r"(?:^|[\s(])(?:[A-Z]|[A-Z]\.[A-Z]|Mr|Mrs|Ms|Dr|St|vs|v|Inc|Corp|Co|Ltd|No|approx|e\.g|i\.e|Jan|Feb|Mar|Apr|Jun|Jul"
    r"|Aug|Sept?|Oct|Nov|Dec|Sen|Rep|Gov|Prof)\.$"
)
#: clauses on both sides whatever they hold
_CONTRAST: Final = re.compile(r"[;—–]| --? |,? \b(?:while|whereas|but|although|though|yet|however)\b,?", re.IGNORECASE)
#: clauses on both sides if each says something beside a name
_JOIN: Final = re.compile(r", ?(?:and |as |with )?| (?:and|as) ", re.IGNORECASE)
_WORD: Final = re.compile(r"[^\W_]+")
_POINTS_BACK: Final = re.compile(
    r"(?:its?|this|that|these|they|their|which|the (?:token|coin|cryptocurrency|asset|altcoin|memecoin|crypto|price"
    r"|network|protocol|project))\b",
    re.IGNORECASE,
)
_AROUND: Final = frozenset(" ,;\t\n")
_BESIDE: Final = 2  # words beside the names that make a clause

Place = tuple[int, int, int]  # asset_id, start, end


Span = tuple[int, int]  # start, end


class Window(NamedTuple):
    """The part of a text that is about one asset; ``spans``: where its words stand in the text, None: all of it."""

    asset_id: int
    text: str
    spans: tuple[Span, ...] | None = None


class _Piece(NamedTuple):
    start: int
    end: int
    assets: tuple[int, ...]  # ascending


def parts(text: str, places: Sequence[Place]) -> list[Window]:
    """What is scored of a text: the whole of it under asset 0, and the window of each asset named."""
    return [Window(0, text.strip()), *windows(text, places)]


def windows(text: str, places: Sequence[Place]) -> list[Window]:
    """The window of each asset named, by asset id.

    ``places``: where assets are named in ``text``, ascending by start. An asset's window may be another's, too.
    """
    named = sorted({asset_id for asset_id, _, _ in places})
    if len(named) < 2:
        return [Window(asset_id, text.strip()) for asset_id in named]
    spans: dict[int, list[Span]] = {asset_id: [] for asset_id in named}
    before: tuple[int, ...] = ()  # whom "it" would be
    for start, end in _sentences(text):
        pieces = _clauses(text, _piece(places, start, end), places)
        if not pieces[0].assets:
            pieces = [pieces[0]._replace(assets=before if _points_back(text, start, before) else ())]
        for piece in pieces:
            for asset_id in piece.assets:
                spans[asset_id].append(_bare(text, piece.start, piece.end))
        before = pieces[-1].assets if len({piece.assets for piece in pieces}) == 1 else ()
    return [Window(asset_id, words(text, tuple(spans[asset_id])), tuple(spans[asset_id])) for asset_id in named]


def words(text: str, spans: Sequence[Span] | None) -> str:
    """What stands in the spans of the text, one below the other; without spans all of it."""
    return text.strip() if spans is None else "\n".join(text[start:end] for start, end in spans)


def written(spans: Sequence[Span] | None) -> str | None:
    """Spans as ``text_parts`` has them: ``0:45 80:120``."""
    return None if spans is None else " ".join(f"{start}:{end}" for start, end in spans)


def read(spans: str | None) -> tuple[Span, ...] | None:
    """The spans as :func:`written` wrote them."""
    if spans is None:
        return None
    edges = (span.partition(":") for span in spans.split())
    return tuple((int(start), int(end)) for start, _, end in edges)


def _bare(text: str, start: int, end: int) -> Span:
    """Without the white space and commas around it."""
    while start < end and text[start] in _AROUND:
        start += 1
    while start < end and text[end - 1] in _AROUND:
        end -= 1
    return start, end


def _points_back(text: str, start: int, before: tuple[int, ...]) -> bool:
    return len(before) == 1 and _POINTS_BACK.match(text, start) is not None


def _sentences(text: str) -> list[tuple[int, int]]:
    """Start and end of each sentence that holds a word."""
    found: list[tuple[int, int]] = []
    start = 0
    for match in _SENTENCE_ENDS.finditer(text):
        if "\n" not in match[0] and _ABBREVIATED.search(text, max(start, match.start() - 8), match.start() + 1):
            continue
        found.append((start, match.end()))
        start = match.end()
    return [span for span in (*found, (start, len(text))) if _WORD.search(text, *span)]


def _piece(places: Sequence[Place], start: int, end: int) -> _Piece:
    """The stretch, and the assets that are named within it."""
    inside = _within(places, start, end)
    return _Piece(start, end, tuple(sorted({place[0] for place in inside})))


def _within(places: Sequence[Place], start: int, end: int) -> Sequence[Place]:
    first = bisect_left(places, start, key=itemgetter(1))
    return places[first : bisect_left(places, end, lo=first, key=itemgetter(1))]


def _clauses(text: str, sentence: _Piece, places: Sequence[Place]) -> list[_Piece]:
    """The sentence cut where its parts name different assets; itself where they do not."""
    if len(sentence.assets) < 2:
        return [sentence]
    pieces = _cut(text, sentence, places, _CONTRAST)
    return [
        clause
        for piece in pieces
        for clause in (_says_something(text, _cut(text, piece, places, _JOIN), places) or [piece])
    ]


def _cut(text: str, whole: _Piece, places: Sequence[Place], separator: re.Pattern[str]) -> list[_Piece]:
    """Cut at the separators; what names nobody stays with what stands before it, at the beginning with what follows."""
    if len(whole.assets) < 2:
        return [whole]
    edges = [(m.start(), m.end()) for m in separator.finditer(text, whole.start, whole.end)]
    starts, ends = [whole.start, *(end for _, end in edges)], [*(start for start, _ in edges), whole.end]
    pieces: list[_Piece] = []
    for start, end in zip(starts, ends, strict=True):
        piece = _piece(places, start, end)
        if pieces and (not piece.assets or not pieces[-1].assets):
            piece = _piece(places, pieces.pop().start, end)
        pieces.append(piece)
    return pieces


def _says_something(text: str, pieces: list[_Piece], places: Sequence[Place]) -> list[_Piece]:
    """The pieces if each holds words beside its names; nothing if one is but a part of a list of names."""
    for piece in pieces:
        inside = _within(places, piece.start, piece.end)
        names = sum(len(_WORD.findall(text, start, end)) for _, start, end in inside)
        if len(_WORD.findall(text, piece.start, piece.end)) - names < _BESIDE:
            return []
    return pieces

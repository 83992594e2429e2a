"""Our lexicon of finance and crypto: what a text says by words that mean something to a market.

``lexicon.csv`` holds the words, one meaning a row: ``kind, weight, forms``. A text is read in one pass over its words;
never a part of a word, of a URL, of a $TICKER or an @account. What counts:

* **term**: evidence of its weight, at most 1; **move**: a direction, whose weight a percentage beside it replaces
  ("falls 3 percent": 0.3, from 10 percent on 1); a signed percentage alone counts, too ("+8%"), a level does not
  ("5% of supply", "fell to 5%").
* **negate** within the three words before turns the sign and halves ("not bullish", "no longer bullish");
* **scale** within the two words before multiplies ("very", "slightly"), to 1.5 at most;
* **invert**: things of which more is bad turn a move that stands by them ("inflation rises", "rising fees");
* **mute**: phrases in which a listed word means nothing ("crash course", "fear and greed").

Punctuation and "but" end what a word reaches.

From the sums P and N of positive and negative evidence: ``p = (N, U, P) / (N + U + P)`` with U = 0.5, the mean of a
Dirichlet distribution whose prior is that much neutral evidence; the score is ``p_positive - p_negative``. Unlike the
earlier system's it does not fall with the length of the text. A text without any evidence has no score.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib import resources
from typing import Final, NamedTuple

from ray_app.sentiment.vocabulary import TextScore

#: raise it when the rules below change what any text scores; the data's hash tells of changes of the data
RULES: Final = 2
#: characters that are read; of a longer text, the beginning
LONGEST: Final = 60_000
NO_EVIDENCE: Final = "no word of the lexicon"
EMPTY: Final = "empty text"

_NEUTRAL: Final = 0.5  # U
_REACH: Final = 3  # words before, for negation and inversion; words between a move and its percentage
_SCALE_REACH: Final = 2
_AFTER: Final = 2  # words after, for inversion
_NEGATED: Final = -0.5
_FULL_MOVE: Final = 10.0  # percent

_KINDS: Final = frozenset(("term", "move", "negate", "scale", "invert", "mute"))
_DIRECTIONS: Final = frozenset(("move", "signed"))
_EVIDENCE: Final = _DIRECTIONS | {"term"}
_TOKEN: Final = re.compile(
    r"(?:https?://|www\.)\S+|[@$][a-z_]\w*"
    r"|(?:(?<![\w.])[+-])?\d++(?:[.,]\d++){0,6}+\s?(?:%|percent\b|per cent\b|pct\b)"  # a table of numbers is no number
    r"|[^\W_]+(?:'[^\W_]+)*"
    r"|[.!?;:,\n]"
    r"|[\u2600-\u27BF\U0001F300-\U0001FAFF]"
)
_PERCENT: Final = re.compile(r"([+-]?)(\d+(?:[.,]\d+)*)\s?(?:%|percent|per cent|pct)")
_NUMBERS: Final = frozenset("0123456789+-")
_STOPS: Final = frozenset((*".!?;:,\n", "but", "however", "although", "though", "while", "whereas"))
_EUROPEAN: Final = re.compile(r"\d{1,3}(?:\.\d{3})+,\d+")
_THOUSANDS: Final = re.compile(r",(?=\d{3}(?:\D|$))")


class _Entry(NamedTuple):
    kind: str
    weight: float
    inverts: bool


class _Found(NamedTuple):
    first: int
    last: int
    entry: _Entry


class Lexicon:
    """The model ``lexicon``. Holds its words only; a text costs time in proportion to its length."""

    name: Final = "lexicon"

    def __init__(self, data: bytes) -> None:
        """``data``: the CSV. ValueError names the row that cannot be read."""
        self.revision = f"{RULES}-{hashlib.sha256(data).hexdigest()[:12]}"
        self.entries = _entries(data)
        self._heads: dict[str, list[tuple[tuple[str, ...], _Entry]]] = {}
        for words, entry in self.entries.items():
            self._heads.setdefault(words[0], []).append((words[1:], entry))
        for phrases in self._heads.values():
            phrases.sort(key=lambda phrase: -len(phrase[0]))

    def scores(self, texts: Iterable[str]) -> Iterator[TextScore]:
        """The score of each text, one at a time: any number of them in constant memory."""
        return map(self.score, texts)

    def score(self, text: str) -> TextScore:
        """The score of one text."""
        if not text or text.isspace():
            return TextScore(None, None, EMPTY)
        evidence = self.evidence(text)
        positive = sum(value for _, value in evidence if value > 0)
        negative = -sum(value for _, value in evidence if value < 0)
        if positive + negative == 0.0:
            return TextScore(None, None, NO_EVIDENCE)
        total = positive + negative + _NEUTRAL
        shares = (negative / total, _NEUTRAL / total, positive / total)
        return TextScore(shares[2] - shares[0], shares)

    def evidence(self, text: str) -> list[tuple[str, float]]:
        """Each word or phrase that counts, and for how much: what explains the score."""
        tokens = _TOKEN.findall(text[:LONGEST].lower().replace("’", "'").replace("−", "-"))
        heads = self._heads
        hits = [i for i, token in enumerate(tokens) if token in heads or token[0] in _NUMBERS]
        found = self._found(tokens, hits) if hits else []
        counted = [
            (" ".join(tokens[one.first : one.last + 1]), _value(tokens, found, place))
            for place, one in enumerate(found)
            if one.entry.kind in _EVIDENCE
        ]
        return [(words, value) for words, value in counted if value]

    def _found(self, tokens: list[str], hits: list[int]) -> list[_Found]:
        """The entries that stand in the text, the longest at each place, none within another."""
        found: list[_Found] = []
        after, percents = 0, False
        for i in hits:
            if i < after:
                continue
            token = tokens[i]
            for rest, entry in self._heads.get(token, ()):
                if not rest or tuple(tokens[i + 1 : i + 1 + len(rest)]) == rest:
                    found.append(_Found(i, i + len(rest), entry))
                    after = i + len(rest) + 1
                    break
            else:
                percent = _PERCENT.fullmatch(token) if token[0] in _NUMBERS else None
                size = _size(percent) if percent is not None else None
                if size is not None:
                    percents = True
                    found.append(_Found(i, i, _Entry("percent", size, inverts=False)))
        if percents:
            _pair(tokens, found)
        return found


def _size(percent: re.Match[str]) -> float | None:
    """The percentage, negative if a minus says so; None: 1.2.3 % is none."""
    number = percent[2].replace(".", "") if _EUROPEAN.fullmatch(percent[2]) else _THOUSANDS.sub("", percent[2])
    number = number.replace(",", ".")
    if number.count(".") > 1:
        return None
    size = float(number)
    return -size if percent[1] == "-" else size


def _pair(tokens: list[str], found: list[_Found]) -> None:
    """Give each move the percentage that stands nearest to it; a signed one that belongs to no move is one itself."""
    taken: set[int] = set()
    for place, one in enumerate(found):
        if one.entry.kind != "percent":
            continue
        level = one.first > 0 and tokens[one.first - 1] == "to"
        near = [] if level else [k for k in _moves_by(tokens, found, place) if k not in taken]
        size = _strength(one.entry.weight)
        if near:
            k = min(near, key=lambda k: abs(found[k].first - one.first))
            taken.add(k)
            entry = found[k].entry
            found[k] = found[k]._replace(entry=entry._replace(weight=size if entry.weight > 0 else -size))
        elif tokens[one.first][0] in "+-" and not level:
            size = -size if one.entry.weight < 0 else size
            found[place] = one._replace(entry=_Entry("signed", size, inverts=False))


def _moves_by(tokens: list[str], found: list[_Found], place: int) -> list[int]:
    """The places in ``found`` of the moves near the percentage at ``place``, in its clause."""
    one, near = found[place], []
    for k in range(place - 1, -1, -1):
        if not _joined(tokens, found[k].last, one.first, _REACH):
            break
        if found[k].entry.kind == "move":
            near.append(k)
    for k in range(place + 1, len(found)):
        if not _joined(tokens, one.first, found[k].first, _AFTER):
            break
        if found[k].entry.kind == "move":
            near.append(k)
    return near


def _strength(percent: float) -> float:
    return min(1.0, max(0.05, abs(percent) / _FULL_MOVE))


def _joined(tokens: list[str], first: int, last: int, reach: int) -> bool:
    """Whether at most ``reach`` words, and nothing that ends a clause, stand between the two."""
    return last - first - 1 <= reach and _STOPS.isdisjoint(tokens[first + 1 : last])


def _value(tokens: list[str], found: list[_Found], place: int) -> float:
    """What the evidence at ``place`` counts, after what stands around it."""
    one = found[place]
    value = one.entry.weight
    scale, turned = 1.0, False
    for k in range(place - 1, -1, -1):
        other = found[k]
        if not _joined(tokens, other.last, one.first, _REACH):
            break
        if other.entry.kind == "negate":
            value *= _NEGATED
        elif other.entry.kind == "scale" and one.first - other.last <= _SCALE_REACH:
            scale *= other.entry.weight
        turned = turned or other.entry.inverts
    if one.entry.kind in _DIRECTIONS:
        if not turned and place + 1 < len(found):
            other = found[place + 1]
            turned = other.entry.inverts and _joined(tokens, one.last, other.first, _AFTER)
        if turned:
            value = -value
    return value * min(scale, 1.5)


def _entries(data: bytes) -> dict[tuple[str, ...], _Entry]:
    """The words of each form, and what it is; a form that is listed as ``invert``, too, is both."""
    found: dict[tuple[str, ...], _Entry] = {}
    for number, row in enumerate(csv.DictReader(io.StringIO(data.decode("utf-8"))), start=2):
        try:
            kind, weight, forms = row["kind"], float(row["weight"]), row["forms"].split("|")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"lexicon, line {number}: {error}") from None
        if kind not in _KINDS or not -1.5 <= weight <= 1.5:
            raise ValueError(f"lexicon, line {number}: kind {kind!r} of weight {weight}")
        for form in forms:
            words = tuple(_TOKEN.findall(form))
            if not words or " ".join(words) != form:
                raise ValueError(f"lexicon, line {number}: {form!r} is not written as texts are read")
            held = found.get(words)
            if held is None:
                found[words] = _Entry(kind, weight, inverts=kind == "invert")
            elif kind == "invert" and held.kind == "term":
                found[words] = held._replace(inverts=True)
            else:
                raise ValueError(f"lexicon, line {number}: {form!r} is listed twice")
    return found


@lru_cache(maxsize=1)
def builtin() -> Lexicon:
    """The lexicon that comes with the node."""
    return Lexicon(resources.files("ray_app.sentiment").joinpath("lexicon.csv").read_bytes())

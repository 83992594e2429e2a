"""The models that need no weights: ``vader``, ``textblob`` and our own ``lexicon``, behind one shape.

Each says what the program of that name says, nothing else:

* ``vader`` (C. Hutto, E. Gilbert, ICWSM 2014; package vaderSentiment): its shares ``neg, neu, pos`` as probabilities
  (rounded by the package to three decimals; divided by their sum) and its ``compound`` as the score. The shares say how
  much of a text is loaded, hence mostly neutral: its label is by the compound (``vocabulary.SCORE_BOUNDS``).
* ``textblob`` (package textblob, the analyser of the pattern library): its ``polarity`` as the score. It has no
  probabilities, and gets none: they are None. No corpus is downloaded or needed.
* ``lexicon``: ``sentiment/lexicon.py``.

A ``revision`` changes with the package's version, with its data (a hash of them) and with our rules around them.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Protocol

from ray_app.errors import ModelUnavailable
from ray_app.sentiment import lexicon
from ray_app.sentiment.vocabulary import TextScore

#: characters that are read of a text, to the end of a word: VADER takes time in the square of it
LONGEST: Final = 5_000
NO_WORDS: Final = "no words"
#: raise it when what is done around the packages changes what any text scores
_RULES: Final = 2
_WORD: Final = re.compile(r"\w")


class LexiconModel(Protocol):
    """A model that scores texts in this process, one at a time."""

    @property
    def name(self) -> str:
        """As in ``vocabulary.LEXICONS``."""

    @property
    def revision(self) -> str:
        """What its scores depend on; at most 64 ASCII characters."""

    def scores(self, texts: Iterable[str]) -> Iterator[TextScore]:
        """The score of each text, in order, as they are asked for: any number in constant memory."""


class Vader:
    """VADER as its package has it. ModelUnavailable where that is not installed."""

    name: Final = "vader"

    def __init__(self) -> None:
        module = _package(self.name, "vaderSentiment.vaderSentiment", "vaderSentiment")
        analyzer = module.SentimentIntensityAnalyzer()
        self._analyze: Callable[[str], dict[str, float]] = analyzer.polarity_scores
        self._emojis: dict[str, str] = analyzer.emojis
        data = repr((sorted(analyzer.lexicon.items()), sorted(analyzer.emojis.items())))
        self.revision = _revision("vaderSentiment", data.encode())

    def scores(self, texts: Iterable[str]) -> Iterator[TextScore]:
        """The score of each text."""
        return map(self.score, texts)

    def score(self, text: str) -> TextScore:
        """Compound and shares of one text."""
        said = self._analyze(self._begin(_readable(text)))
        shares = (said["neg"], said["neu"], said["pos"])
        total = math.fsum(shares)
        if total == 0.0:  # what it says of a text without words
            return TextScore(None, None, NO_WORDS)
        return TextScore(said["compound"], (shares[0] / total, shares[1] / total, shares[2] / total))

    def _begin(self, text: str) -> str:
        """As much as has LONGEST characters when each emoji is put into words, as VADER does before it reads."""
        length = 0
        for place, character in enumerate(text):
            length += len(self._emojis.get(character, "")) + 1
            if length > LONGEST:
                return text[:place]
        return text


class TextBlobPolarity:
    """TextBlob's polarity. ModelUnavailable where it is not installed or its word list is not there."""

    name: Final = "textblob"

    def __init__(self) -> None:
        analyzer = _package(self.name, "textblob.en", "textblob").sentiment
        try:
            words = Path(analyzer.path).read_bytes()
        except OSError as error:
            raise ModelUnavailable(
                self.name, f"its word list cannot be read ({error}): install textblob again"
            ) from None
        self._analyze: Callable[[str], tuple[float, float]] = analyzer
        self.revision = _revision("textblob", words)

    def scores(self, texts: Iterable[str]) -> Iterator[TextScore]:
        """The score of each text."""
        return map(self.score, texts)

    def score(self, text: str) -> TextScore:
        """Polarity of one text; no probabilities."""
        if _WORD.search(text) is None:
            return TextScore(None, None, NO_WORDS)
        return TextScore(self._analyze(_readable(text))[0])


def load(name: str) -> LexiconModel:
    """The model of this name. ModelUnavailable, with the reason, where it cannot be had; KeyError: no such model."""
    return _LOADERS[name]()


_LOADERS: Final[dict[str, Callable[[], LexiconModel]]] = {
    "vader": Vader,
    "textblob": TextBlobPolarity,
    "lexicon": lexicon.builtin,
}


def _readable(text: str) -> str:
    text = text.strip()
    if len(text) <= LONGEST:
        return text
    cut = text[:LONGEST]
    return cut if text[LONGEST].isspace() else cut.rsplit(None, 1)[0]


def _package(model: str, module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ModelUnavailable(model, f"the package cannot be imported ({error}): pip install {package}") from None


def _revision(package: str, data: bytes) -> str:
    try:
        number = version(package)
    except PackageNotFoundError:
        number = "unknown"
    return f"{number}-{_RULES}-{hashlib.sha256(data).hexdigest()[:12]}"

"""Texts to token ids, once, in bounded time.

The tokenizer is used below transformers' wrapper: its Rust part encodes a whole chunk of texts in one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

#: An English word piece is 4 to 5 characters, one of other scripts 1 to 3: a text cut to this many characters a token
#: nearly always has more tokens than a model takes, and is read exactly as the whole text would be.
CHARACTERS_PER_TOKEN: Final = 16
#: Where it has fewer (long blanks, words of thousands of letters, which are one unknown piece each), the cut is doubled
#: up to this; what lies beyond is not read. 64 × 512 tokens are 32,768 characters, a hundredth of a second.
MOST_CHARACTERS_PER_TOKEN: Final = 64
#: a cut falls on white space if there is some this near: no word is cut that need not be
WORD_BOUNDARY_WITHIN: Final = 200

EMPTY: Final = "empty"
UNREADABLE: Final = "unreadable: the tokenizer knows no part of this text"


class Encoded(NamedTuple):
    """One text. ``ids`` with the special tokens; None: nothing to score, and ``reason`` says why."""

    ids: list[int] | None
    truncated: bool = False
    reason: str | None = None


class Tokens:
    """A model's tokenizer with its limit. ``tokenizer``: a ``tokenizers.Tokenizer``, whose settings become ours.

    A published ``tokenizer.json`` may bring the padding and the limit of its training (``finbert-mini``: 96 tokens).
    """

    def __init__(self, tokenizer: Any, max_tokens: int, unknown_id: int | None) -> None:
        self._tokenizer = tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self._unknown_id = unknown_id
        self.max_tokens = max_tokens

    def encode(self, texts: Sequence[str | None]) -> list[Encoded]:
        """In the order of ``texts``; None and white space are ``empty``."""
        found: list[Encoded] = [Encoded(None, reason=EMPTY)] * len(texts)
        waiting = {n: text for n, text in enumerate(texts) if text and not text.isspace()}
        budget = CHARACTERS_PER_TOKEN * self.max_tokens
        last = MOST_CHARACTERS_PER_TOKEN * self.max_tokens
        while waiting:
            cuts = [cut(text, budget) for text in waiting.values()]
            encodings = self._tokenizer.encode_batch(cuts)
            again = {}
            for (n, text), encoding in zip(waiting.items(), encodings, strict=True):
                full = bool(encoding.overflowing)
                if not full and len(text) > budget < last:
                    again[n] = text
                    continue
                found[n] = self._judged(encoding, truncated=full or len(text) > budget)
            waiting, budget = again, min(2 * budget, last)
        return found

    def _judged(self, encoding: Any, *, truncated: bool) -> Encoded:
        ids: list[int] = encoding.ids
        special = encoding.special_tokens_mask
        content = [token for token, marked in zip(ids, special, strict=True) if not marked]
        if not content:
            return Encoded(None, truncated, EMPTY)
        if all(token == self._unknown_id for token in content):
            return Encoded(None, truncated, UNREADABLE)
        return Encoded(ids, truncated)


def cut(text: str, characters: int) -> str:
    """At most so many characters, whole words where possible; surrogates that stand alone become U+FFFD.

    (A lone half of an emoji comes out of cut JSON; Rust's strings refuse it.)
    """
    if len(text) > characters:
        near = text[characters - WORD_BOUNDARY_WITHIN : characters].rstrip()
        words = near.rsplit(maxsplit=1)
        kept = len(words[0]) if len(words) == 2 else WORD_BOUNDARY_WITHIN
        text = text[: characters - WORD_BOUNDARY_WITHIN + kept]
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text

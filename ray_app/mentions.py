"""Which assets a text mentions: by name ("Shiba Inu"), by ticker ($SHIB, "SHIB price", BTC/USD), never by substring.

Many names and tickers are ordinary words (Maker, Flow, Gas; LINK, ONE, NOT). They count only with evidence: each word
has a tier, which says how much. One pass over the words of a text; every look around is bounded, so that time is linear
in its length. Pure: a matcher is a function of the registry, whose order by market cap decides between assets that
share a ticker.

Renamed and merged coins count as what they became: an article about MATIC is one about POL.

What it is not: it does not know companies from their coins (an article about Ripple counts as one about XRP), and what
a text means without naming ("the largest cryptocurrency") it does not see.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from typing import Final, NamedTuple

from ray_app.assets import Asset, AssetRegistry
from ray_app.errors import UnknownSymbol
from ray_app.mention_words import (
    AFTER_COMMON,
    AFTER_NAME,
    AFTER_TICKER,
    ALIASES,
    ANY_CASE,
    COIN,
    COINED_NAMES,
    COMMON_NAMES,
    COMMON_TICKERS,
    CRYPTO,
    FUNDS,
    MIXED_TICKERS,
    MONEY,
    NEVER_TICKERS,
    NO_PRICE,
    NOT_NAMES,
    QUOTES,
    RARE_NAMES,
    RARE_PHRASES,
    RARE_TICKERS,
    SHARES,
    SURE_TICKERS,
)


class Tier(IntEnum):
    """How much evidence a name or ticker needs."""

    SURE = 0  # none: nothing else is called that
    PLAIN = 1  # a word about crypto anywhere in the text
    COMMON = 2  # evidence right there: a list of coins, "token", a word about crypto near
    RARE = 3  # $TICKER, TICKER/USD, "X token", Name (TICKER), a list of tickers
    NEVER = 4  # $TICKER and TICKER/USD only: it is an abbreviation of something else (NFT, ATH)


_NEAR: Final = 6  # words
_LONGEST: Final = 60_000  # characters that are looked at

_WORD: Final = re.compile(r"[^\W_]+")
_GAP: Final = re.compile(r"[ .:’'-]|: | & |\. ?(?=[a-z])")
_LIST_GAP: Final = re.compile(r"\s?[,/&+|]\s?|,? (?:and|or|vs\.?|&|versus) |, ")
_ENDS_SENTENCE: Final = re.compile(r"[.!?:…]['’”\")]*\s|\n")


@dataclass(frozen=True, slots=True)
class _Name:
    words: tuple[str, ...]  # lower case
    written: tuple[str, ...]  # as the registry writes it
    asset_id: int  # 0: not a name, after all
    tier: Tier


@dataclass(slots=True)
class _Text:
    """A text's words, and what is known about each."""

    text: str
    words: list[str] = field(default_factory=list)
    lowers: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    anchors: list[int] = field(default_factory=list)  # words that are about crypto, ascending
    shouted: bool = False  # most words are in capitals
    titled: tuple[bool, bool] = (False, False)  # most words of the title, of the rest, begin with one
    title_words: int = 0

    def gap(self, i: int) -> str:
        """What stands between word ``i`` and the next; at most 10 characters of it."""
        if i + 1 >= len(self.words):
            return "\n"
        return self.text[self.ends[i] : min(self.starts[i + 1], self.ends[i] + 10)]

    def before(self, i: int) -> str:
        """The character before word ``i``."""
        return self.text[self.starts[i] - 1] if self.starts[i] > 0 else "\n"

    def opens_sentence(self, i: int) -> bool:
        """Whether word ``i`` is the first of a sentence."""
        return i == 0 or _ENDS_SENTENCE.search(self.gap(i - 1)) is not None

    def in_titled(self, i: int) -> bool:
        """Whether a capital at word ``i`` says nothing."""
        return self.titled[0] if i < self.title_words else self.titled[1]

    def anchored(self, first: int, last: int) -> bool:
        """Whether a word about crypto stands near the words ``first`` to ``last``, and is not among them."""
        at = bisect_left(self.anchors, first - _NEAR)
        return any(not first <= self.anchors[k] <= last for k in range(at, bisect_left(self.anchors, last + _NEAR + 1)))


class Named(NamedTuple):
    """What a text names."""

    #: (asset_id, term) of each asset, in the order of the text; the term as the text writes it
    mentions: list[tuple[int, str]]
    #: (asset_id, start, end) of every place, ascending, in ``f"{title}\n{summary}"``. The assets are the same: a name
    #: that counts at one place counts at all where the same words stand.
    places: list[tuple[int, int, int]]


class Matcher:
    """Finds the assets of one registry in texts. Built once; holds nothing of what it reads."""

    def __init__(self, registry: AssetRegistry) -> None:
        self._tickers = dict(_tickers_of(registry))
        self._names: dict[str, list[_Name]] = {}
        for name in _names_of(registry):
            self._names.setdefault(name.words[0], []).append(name)
        for names in self._names.values():
            names.sort(key=lambda name: -len(name.words))
        self._first = {asset.asset_id: _WORD.findall(asset.name.lower())[:1] for asset in registry}

    def find(self, title: str, summary: str | None = None) -> list[tuple[int, str]]:
        """``(asset_id, term)`` of each asset mentioned, in the order of the text; the term as the text writes it."""
        return self.read(title, summary).mentions

    def places(self, title: str, summary: str | None = None) -> list[tuple[int, int, int]]:
        """Where the assets are named: ``places`` of :meth:`read`."""
        return self.read(title, summary).places

    def read(self, title: str, summary: str | None = None) -> Named:
        """Which assets a text names, and where; one look for both."""
        text, candidates, counted = self._look(title, summary)
        mentions: dict[int, str] = {}
        for first, asset_id, length in sorted(counted):
            mentions.setdefault(asset_id, text.text[text.starts[first] : text.ends[first + length - 1]][:100])
        forms = {(asset_id, *text.lowers[first : first + length]) for first, asset_id, length in counted}
        places = [
            (asset_id, text.starts[first], text.ends[first + length - 1])
            for first, asset_id, length in sorted(set(candidates))
            if (asset_id, *text.lowers[first : first + length]) in forms
        ]
        return Named(list(mentions.items()), places)

    def _look(
        self, title: str, summary: str | None
    ) -> tuple[_Text, list[tuple[int, int, int]], list[tuple[int, int, int]]]:
        """The text, every place where a name or ticker stands, and those that count: first word, asset, words."""
        text = _read(title[:_LONGEST], (summary or "")[:_LONGEST], self._tickers)
        named = self._named(text)
        longer = [(first, name) for first, name in named if len(name.words) > 1]  # of one word: perhaps a ticker, too
        taken = {i for first, name in longer for i in range(first, first + len(name.words))}
        tickers = [
            (i, *self._tickers[word])
            for i, word in enumerate(text.words)
            if word in self._tickers and (i not in taken or text.before(i) == "$")
        ]
        text.anchors = sorted(
            {i for i, word in enumerate(text.lowers) if word in CRYPTO}
            | {first for first, name in named if name.tier == Tier.SURE and name.asset_id}
            | {i for i, _, tier in tickers if tier == Tier.SURE}
            | {i - 1 for i, word in enumerate(text.lowers) if word in COIN and i and text.lowers[i - 1] == "meme"}
        )
        proven = _proven(text, named, tickers)
        listed = {i for i, _, _ in tickers} | {i for first, name in named for i in (first, first + len(name.words) - 1)}
        counted = [
            (first, name.asset_id, len(name.words))
            for first, name in named
            if name.asset_id
            and ((name.asset_id in proven and name.tier <= Tier.COMMON) or self._name_counts(text, first, name, listed))
        ]
        counted += [
            (i, asset_id, 1)
            for i, asset_id, tier in tickers
            if (asset_id in proven and tier <= Tier.COMMON) or self._ticker_counts(text, i, asset_id, tier, listed)
        ]
        candidates = [(first, name.asset_id, len(name.words)) for first, name in named if name.asset_id]
        return text, [*candidates, *((i, asset_id, 1) for i, asset_id, _ in tickers)], counted

    def _named(self, text: _Text) -> list[tuple[int, _Name]]:
        """Every place where a name stands, the longest that fits, in the way it is written."""
        found: list[tuple[int, _Name]] = []
        after = 0  # the last name
        for i in [i for i, word in enumerate(text.lowers) if word in self._names]:
            if i < after:
                continue
            name = next((n for n in self._names[text.lowers[i]] if _fits(text, i, n)), None)
            if name is not None:
                found.append((i, name))
                after = i + len(name.words)
        return found

    def _name_counts(self, text: _Text, first: int, name: _Name, listed: set[int]) -> bool:
        last = first + len(name.words) - 1
        if name.tier <= Tier.SURE:
            return True
        follows = text.lowers[last + 1] if last + 1 < len(text.words) and text.gap(last) == " " else ""
        opens = text.opens_sentence(first)
        if follows in AFTER_NAME:
            return name.tier == Tier.COMMON or not opens
        if name.tier != Tier.COMMON:
            return len(name.words) > 1 and bool(text.anchors) and _in_list(text, first, last, listed)
        if name.words[0] in COINED_NAMES and text.anchored(first, last):
            return True
        if follows in AFTER_COMMON and text.anchors:
            return True
        if _in_list(text, first, last, listed):
            return bool(text.anchors)
        return not opens and not text.in_titled(first) and text.anchored(first, last)

    def _ticker_counts(self, text: _Text, i: int, asset_id: int, tier: Tier, listed: set[int]) -> bool:
        word = text.words[i]
        if text.before(i) == "$":
            return len(word) > 2 or bool(text.anchors)
        if len(word) > 1 and text.gap(i) in {"/", "-"} and text.words[i + 1] in QUOTES:
            return True
        if tier == Tier.NEVER:
            return False
        if word in MONEY and text.before(i) in {"/", "-"} and i - 1 in listed:
            return False  # what another asset is priced in
        if tier == Tier.SURE:
            return True
        if text.before(i) == "(" and text.gap(i)[:1] == ")":
            before = text.lowers[max(0, i - 5) : i]
            named = self._first.get(asset_id, [""])[0] in before
            return named or (tier == Tier.PLAIN and bool(text.anchors))
        if text.shouted:
            return False
        follows = text.lowers[i + 1] if i + 1 < len(text.words) and text.gap(i) == " " else ""
        if follows in (AFTER_NAME if tier == Tier.RARE or word in NO_PRICE else AFTER_TICKER):
            return True
        if follows in {"etf", "etfs"} and word in FUNDS:
            return True
        if _in_list(text, i, i, listed) and (text.anchors or tier <= Tier.COMMON):
            return True
        return bool(text.anchors) if tier == Tier.PLAIN else tier == Tier.COMMON and text.anchored(i, i)


@lru_cache(maxsize=4)
def matcher_of(registry: AssetRegistry) -> Matcher:
    """The matcher of a registry, built once for each."""
    return Matcher(registry)


def _read(title: str, summary: str, tickers: Container[str]) -> _Text:
    text = _Text(f"{title}\n{summary}")
    spans = [match.span() for match in _WORD.finditer(text.text)]
    text.starts, text.ends = [start for start, _ in spans], [end for _, end in spans]
    text.words = [text.text[start:end] for start, end in spans]
    text.lowers = [word.lower() for word in text.words]
    text.title_words = bisect_left(text.starts, len(title))
    letters = [word for word in text.words if len(word) > 1 and word.isalpha() and word not in tickers]
    text.shouted = len(letters) > 2 and sum(word.isupper() for word in letters) > 0.7 * len(letters)
    text.titled = (_titled(text.words[: text.title_words]), _titled(text.words[text.title_words :]))
    return text


def _titled(words: Sequence[str]) -> bool:
    long = [word for word in words if len(word) > 3 and word.isalpha()]
    return sum(word[0].isupper() for word in long) > 0.6 * len(long)


def _fits(text: _Text, i: int, name: _Name) -> bool:
    """Whether the name stands at word ``i``, with the capitals it has."""
    length = len(name.words)
    if i + length > len(text.words):
        return False
    for k in range(length):
        word = text.words[i + k]
        if text.lowers[i + k] != name.words[k]:
            return False
        if k and _GAP.fullmatch(text.gap(i + k - 1)) is None:
            return False
        if name.tier == Tier.RARE and length == 1:
            if word not in {name.written[k], word.upper() if name.written[k].isupper() else name.written[k]}:
                return False
        elif name.written[k][0].isupper() and word[0].islower() and name.words[k] not in ANY_CASE:
            return False
    return True


def _proven(
    text: _Text, named: Sequence[tuple[int, _Name]], tickers: Sequence[tuple[int, int, Tier]]
) -> frozenset[int]:
    """Assets that the text calls by two different words: by name and ticker, or by the tickers of then and now."""
    if text.shouted:
        return frozenset()
    called: dict[int, set[str]] = {}
    for i, asset_id, tier in tickers:
        if tier <= Tier.COMMON and text.words[i] not in SHARES:
            called.setdefault(asset_id, set()).add(text.lowers[i])
    ticked = frozenset(called)
    for _, name in named:
        if name.asset_id in ticked and name.tier <= Tier.COMMON:
            called[name.asset_id].add(" ".join(name.words))
    return frozenset(asset_id for asset_id, words in called.items() if len(words) > 1)


def _in_list(text: _Text, first: int, last: int, listed: set[int]) -> bool:
    """Whether the words stand in a list with another asset: ``Solana, Avalanche and Polygon``, ``BTC/ETH/ONE``."""
    if first > 0 and first - 1 in listed and _LIST_GAP.fullmatch(text.gap(first - 1)):
        return True
    if last + 1 < len(text.words) and last + 1 in listed and _LIST_GAP.fullmatch(text.gap(last)):
        return True
    and_before = first > 1 and first - 2 in listed and text.lowers[first - 1] in {"and", "or", "vs", "versus"}
    return and_before or (
        last + 2 < len(text.words)
        and last + 2 in listed
        and text.lowers[last + 1] in {"and", "or", "vs", "versus"}
        and text.gap(last) in {" ", ", "}
    )


# --- what a registry's assets are called ----------------------------------------------------------------------


def _now(registry: AssetRegistry, asset: Asset) -> int:
    """The id of what an asset is today: itself, or what it became."""
    try:
        return registry.resolve(asset.coin_id).asset.asset_id
    except UnknownSymbol:
        return asset.asset_id


def _tickers_of(registry: AssetRegistry) -> Iterable[tuple[str, tuple[int, Tier]]]:
    symbols = {asset.symbol.upper() for asset in registry} | {former.symbol.upper() for former in registry.former}
    mixed = {written.upper(): written for written in MIXED_TICKERS}
    for symbol in sorted(symbols):
        if _WORD.fullmatch(symbol) is None:
            continue
        try:
            asset_id = registry.resolve(symbol).asset.asset_id
        except UnknownSymbol:
            continue
        yield symbol, (asset_id, _ticker_tier(symbol))
        if symbol in mixed:
            yield mixed[symbol], (asset_id, Tier.SURE)


def _ticker_tier(symbol: str) -> Tier:
    if symbol in NEVER_TICKERS or len(symbol) == 1:
        return Tier.NEVER
    if symbol in SURE_TICKERS:
        return Tier.SURE
    if symbol in RARE_TICKERS or len(symbol) == 2:
        return Tier.RARE
    return Tier.COMMON if symbol in COMMON_TICKERS else Tier.PLAIN


def _names_of(registry: AssetRegistry) -> Iterable[_Name]:
    seen: set[tuple[str, ...]] = set()
    for phrase in NOT_NAMES:
        words = tuple(_WORD.findall(phrase))
        yield _Name(words, words, 0, Tier.SURE)
    for asset in sorted(registry, key=lambda one: (not one.alive(), one.by_rank)):
        bare = re.sub(r"\s*\(.*\)", "", asset.name)
        for name in (bare, *ALIASES.get(asset.coin_id, ())):
            written = tuple(_WORD.findall(name))
            words = tuple(word.lower() for word in written)
            if not words or words in seen or (len(words) == 1 and written[0] in SURE_TICKERS):
                continue
            seen.add(words)
            yield _Name(words, written, _now(registry, asset), _name_tier(words, asset))


def _name_tier(words: tuple[str, ...], asset: Asset) -> Tier:
    if len(words) > 1:
        return Tier.RARE if " ".join(words) in RARE_PHRASES else Tier.SURE
    (word,) = words
    if word in RARE_NAMES or len(word) < 3:
        return Tier.RARE
    if word in COMMON_NAMES or (word == asset.symbol.lower() and word.upper() not in SURE_TICKERS):
        return Tier.COMMON
    return Tier.SURE

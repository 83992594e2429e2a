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
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from typing import Final

from ray_app.assets import Asset, AssetRegistry
from ray_app.errors import UnknownSymbol


class Tier(IntEnum):
    """How much evidence a name or ticker needs."""

    SURE = 0  # none: nothing else is called that
    PLAIN = 1  # a word about crypto anywhere in the text
    COMMON = 2  # evidence right there: a list of coins, "token", a word about crypto near
    RARE = 3  # $TICKER, TICKER/USD, "X token", Name (TICKER), a list of tickers
    NEVER = 4  # $TICKER and TICKER/USD only: it is an abbreviation of something else (NFT, ATH)


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


#: tickers that nothing else is called
_SURE_TICKERS: Final = _set(
    "BTC ETH XRP BNB USDT USDC DOGE SHIB LTC BCH XLM XMR TRX AVAX MATIC WBTC STETH XTZ LUNC USTC FTT ADA SOL ETC"
    " HBAR ALGO AAVE XEM QTUM KSM BSV BUSD PYUSD TUSD FDUSD STX FTM EOS"
)
#: tickers that are words, and are written in capitals for coins mostly
_COMMON_TICKERS: Final = _set(
    "LINK SAND MASK APE MANA ATOM FLOW RUNE BAND COMP MAGIC DASH WAVES ROSE CAKE SUSHI SNX UNI DOT TON ICP OKB NEO LEO"
    " HYPE BONK PEPE TRUMP CRO GALA VET FIL APT ARB ENA INJ JUP PUMP SKY RAY BAT REP ANT REN HIVE CORE NEAR MEME ORCA"
    " UST DRIFT BLAST BLUR AUDIO STORJ FARM SPELL BADGER SUI SEI KAVA DAI MINA CELO OMG IMX ENS FET GRT LDO CRV"
)
#: tickers that people write in capitals for other reasons, or that are other abbreviations
_RARE_TICKERS: Final = _set(
    "ONE GAS FUN NOT ACT TIME SUPER HIGH HOT WIN SUN SAFE WELL MOVE PRIME RED RARE PRO IDEX INDEX INV CVC REQ EDU ALT"
    " ALPHA PORTAL PIXEL MOBILE MATH HONEY MUSE PROMPT DEEP GRASS GOAT DEGEN VIRTUAL TURBO LIT AMP AUCTION ARK ALICE"
    " AURORA CYBER DENT DOGS ELF FORTH FOX GODS GIGA GMT ICX ID KEY MEW MOG POND POWR RAD REEF SAGA SPA SYN USUAL VARA"
    " WOO XAI ZEN BANANA BAL BICO TRU TRAC SPX PERP CAT TAO SAFE IOTA STEEM ORDI SATS WAL STRK SCR TIA ATA COW JOE UMA"
)
_NEVER_TICKERS: Final = _set("NFT ATH IP ME AI A S W T G IO ID AR GT SD BB")
#: names that are words or other things, and coins mostly when written with a capital in a text about crypto
_COMMON_NAMES: Final = _set(
    "tether stellar avalanche polygon mantle render optimism stacks immutable compound wormhole maker harmony helium"
    " aurora cosmos terra dash golem hive waves nano ontology icon sushi balancer oasis ronin flare gala neo iota pepe"
    " bonk floki morpho conflux sonic jupiter lido ripple curve arkham ondo sui sei dai kusama fantom verge serum"
    " olympus augur aragon scroll celestia moonbeam moonriver injective theta ankr amp blur uma dia turbo brett maple"
    " venus orca osmosis goldfinch pangolin synapse stargate across saga manta kaia nexo mantra flow"
)
#: names that are too common: only with a ticker, or with "token", "protocol" and the like
_RARE_NAMES: Final = _set(
    "gas near just core time status request civic treasure badger enzyme bounce spell blast degen drift safe tensor"
    " marinade stella linear reef dent cyber portal pixels movement usual grass walrus wonderland dogs memecoin band"
    " sky story gate quant threshold huobi ftx kucoin gravity highstreet mobile prime a s w math ren holo hydro nem me"
    " gmt red peanut metis velo propy popcat toshi ark ordi meme snek wayfinder orion woo mx kava astar frax joe lfj"
    " xai b3 lcx serum ids space layer3 parcl forta audius celo mog"
)
_RARE_PHRASES: Final = frozenset(
    ("big time", "open campus", "baby doge", "the graph", "the sandbox", "adventure gold", "space id", "binance usd")
)
#: written in lower case, too
_ANY_CASE: Final = _set(
    "bitcoin ethereum ether solana cardano dogecoin litecoin polkadot chainlink monero zcash filecoin toncoin worldcoin"
    " uniswap stablecoin tezos kaspa apecoin pancakeswap arbitrum ethena"
)
#: other names of a coin, by coin id
_ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "ethereum": ("Ether",),
    "ripple": ("Ripple",),
    "binancecoin": ("Binance Coin", "BNB Chain", "BNB Smart Chain"),
    "cosmos": ("Cosmos", "Cosmos Hub"),
    "lido-dao": ("Lido", "Lido Finance", "Lido DAO"),
    "curve-dao-token": ("Curve Finance", "Curve DAO"),
    "matic-network": ("Polygon",),
    "polygon-ecosystem-token": ("Polygon",),
    "the-open-network": ("The Open Network",),
    "terra-luna": ("Terra Classic", "Luna Classic", "Terra Luna Classic"),
    "terrausd": ("TerraUSD", "TerraClassicUSD"),
    "the-sandbox": ("The Sandbox",),
    "hedera-hashgraph": ("Hedera", "Hedera Hashgraph"),
    "basic-attention-token": ("Basic Attention Token",),
    "axie-infinity": ("Axie Infinity",),
    "render-token": ("Render Network",),
    "maker": ("MakerDAO",),
    "shiba-inu": ("Shiba Inu",),
    "flow": ("Flow Blockchain",),
    "yearn-finance": ("Yearn Finance", "yearn.finance"),
    "binance-usd": ("Binance USD",),
    "theta-token": ("Theta Network",),
}
#: what begins like a name and is something else
_NOT_NAMES: Final = (
    "bitcoin magazine",
    "bitcoin.com",
    "crypto.com arena",
    "polygon.com",
    "terra nova",
    "near miss",
    "compound interest",
)
#: words that make a text one about crypto
_CRYPTO: Final = _set(
    "crypto cryptocurrency cryptocurrencies altcoin altcoins blockchain defi stablecoin stablecoins token tokens web3"
    " onchain dex staking airdrop memecoin memecoins mainnet testnet nft nfts tvl validators rollup rollups coinbase"
    " binance kraken hodl satoshi l2 cryptos altseason metaverse dapp dapps"
)
_AFTER_NAME: Final = _set(
    "token tokens coin coins protocol blockchain mainnet testnet cryptocurrency altcoin stablecoin memecoin dao"
)
_AFTER_COMMON: Final = _set("network ecosystem foundation labs chain holders stakers validators devs") | _AFTER_NAME
_AFTER_TICKER: Final = _set("price prices rally holders bulls bears futures options staking whales perps") | _AFTER_NAME
#: a word and "price" that are something else
_NO_PRICE: Final = _set("GAS TIME FUN ONE SUN ICON")
_QUOTES: Final = _set("USD USDT USDC EUR GBP JPY KRW BTC ETH TRY BUSD DAI FDUSD PERP")
_MONEY: Final = _set("USDT USDC BUSD DAI FDUSD")
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
        text, _, counted = self._look(title, summary)
        mentions: dict[int, str] = {}
        for first, asset_id, length in sorted(counted):
            mentions.setdefault(asset_id, text.text[text.starts[first] : text.ends[first + length - 1]][:100])
        return list(mentions.items())

    def places(self, title: str, summary: str | None = None) -> list[tuple[int, int, int]]:
        r"""``(asset_id, start, end)`` of every place, ascending, in ``f"{title}\n{summary}"`` that names an asset.

        The assets are those of :meth:`find`. A name that counts at one place counts at all where the same words stand.
        """
        text, candidates, counted = self._look(title, summary)
        forms = {(asset_id, *text.lowers[first : first + length]) for first, asset_id, length in counted}
        return [
            (asset_id, text.starts[first], text.ends[first + length - 1])
            for first, asset_id, length in sorted(set(candidates))
            if (asset_id, *text.lowers[first : first + length]) in forms
        ]

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
            {i for i, word in enumerate(text.lowers) if word in _CRYPTO}
            | {first for first, name in named if name.tier == Tier.SURE and name.asset_id}
            | {i for i, _, tier in tickers if tier == Tier.SURE}
        )
        listed = {i for i, _, _ in tickers} | {i for first, name in named for i in (first, first + len(name.words) - 1)}
        counted = [
            (first, name.asset_id, len(name.words))
            for first, name in named
            if name.asset_id and self._name_counts(text, first, name, listed)
        ]
        counted += [
            (i, asset_id, 1) for i, asset_id, tier in tickers if self._ticker_counts(text, i, asset_id, tier, listed)
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
        if follows in _AFTER_NAME:
            return name.tier == Tier.COMMON or not opens
        if name.tier != Tier.COMMON:
            return False
        if follows in _AFTER_COMMON and text.anchors:
            return True
        if _in_list(text, first, last, listed):
            return bool(text.anchors)
        return not opens and not text.in_titled(first) and text.anchored(first, last)

    def _ticker_counts(self, text: _Text, i: int, asset_id: int, tier: Tier, listed: set[int]) -> bool:
        word = text.words[i]
        if text.before(i) == "$":
            return len(word) > 2 or bool(text.anchors)
        if len(word) > 1 and text.gap(i) in {"/", "-"} and text.words[i + 1] in _QUOTES:
            return True
        if tier == Tier.NEVER:
            return False
        if word in _MONEY and text.before(i) in {"/", "-"} and i - 1 in listed:
            return False  # what another asset is priced in
        if tier == Tier.SURE:
            return True
        if text.before(i) == "(" and text.gap(i)[:1] == ")":
            before = text.lowers[max(0, i - 5) : i]
            return tier == Tier.PLAIN or self._first.get(asset_id, [""])[0] in before
        if text.shouted:
            return False
        follows = text.lowers[i + 1] if i + 1 < len(text.words) and text.gap(i) == " " else ""
        if follows in (_AFTER_NAME if tier == Tier.RARE or word in _NO_PRICE else _AFTER_TICKER):
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
        elif name.written[k][0].isupper() and word[0].islower() and name.words[k] not in _ANY_CASE:
            return False
    return True


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
    for symbol in sorted(symbols):
        if _WORD.fullmatch(symbol) is None:
            continue
        try:
            asset_id = registry.resolve(symbol).asset.asset_id
        except UnknownSymbol:
            continue
        yield symbol, (asset_id, _ticker_tier(symbol))


def _ticker_tier(symbol: str) -> Tier:
    if symbol in _NEVER_TICKERS or len(symbol) == 1:
        return Tier.NEVER
    if symbol in _SURE_TICKERS:
        return Tier.SURE
    if symbol in _RARE_TICKERS or len(symbol) == 2:
        return Tier.RARE
    return Tier.COMMON if symbol in _COMMON_TICKERS else Tier.PLAIN


def _names_of(registry: AssetRegistry) -> Iterable[_Name]:
    seen: set[tuple[str, ...]] = set()
    for phrase in _NOT_NAMES:
        words = tuple(_WORD.findall(phrase))
        yield _Name(words, words, 0, Tier.SURE)
    for asset in sorted(registry, key=lambda one: (not one.alive(), one.by_rank)):
        bare = re.sub(r"\s*\(.*\)", "", asset.name)
        for name in (bare, *_ALIASES.get(asset.coin_id, ())):
            written = tuple(_WORD.findall(name))
            words = tuple(word.lower() for word in written)
            if not words or words in seen or (len(words) == 1 and written[0] in _SURE_TICKERS):
                continue
            seen.add(words)
            yield _Name(words, written, _now(registry, asset), _name_tier(words, asset))


def _name_tier(words: tuple[str, ...], asset: Asset) -> Tier:
    if len(words) > 1:
        return Tier.RARE if " ".join(words) in _RARE_PHRASES else Tier.SURE
    (word,) = words
    if word in _RARE_NAMES or len(word) < 3:
        return Tier.RARE
    if word in _COMMON_NAMES or (word == asset.symbol.lower() and word.upper() not in _SURE_TICKERS):
        return Tier.COMMON
    return Tier.SURE

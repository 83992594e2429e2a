"""The asset registry: which assets there are, what each upstream calls them, and what a user means by a name.

Pure: the packaged list (``data/assets.csv``) is the seed, ``storage/registry.py`` keeps the registry in the database,
and ``reconcile.py`` keeps it true against the upstreams' own lists.

Tickers are not unique and do not last. A ``coin_id`` (CoinGecko's) is unique; a renamed or merged coin keeps its row,
with ``valid_to``, its successor and how many units of that one unit became.
"""

from __future__ import annotations

import csv
import difflib
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Final, TypeVar

from ray_app.clock import from_ms, to_ms
from ray_app.errors import UnknownSymbol

K = TypeVar("K")

ACTIVE: Final = "active"
RENAMED: Final = "renamed"
MERGED: Final = "merged"
INACTIVE: Final = "inactive"
#: Ids from here on belong to tickers of a replayed market file that the registry does not know.
REPLAY_IDS_FROM: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Asset:
    """One asset; the fields are the columns of ``crypto_assets``. Times ms, None as documented there."""

    asset_id: int
    symbol: str
    coin_id: str
    name: str
    coinbase_product: str | None = None
    market_cap_rank: int | None = None
    status: str = ACTIVE
    valid_from: int | None = None
    valid_to: int | None = None
    successor_coin_id: str | None = None
    successor_ratio: float | None = None

    def alive(self, at_ms: int | None = None) -> bool:
        """Whether it exists at a moment; None asks for today as far as the registry knows."""
        if at_ms is None:
            return self.status == ACTIVE
        return (self.valid_from is None or self.valid_from <= at_ms) and (
            at_ms < self.valid_to if self.valid_to is not None else self.status == ACTIVE
        )

    @property
    def by_rank(self) -> tuple[float, int]:
        """Sort key: highest market cap first, unranked last."""
        return (self.market_cap_rank if self.market_cap_rank is not None else float("inf"), self.asset_id)


@dataclass(frozen=True, slots=True)
class FormerTicker:
    """A ticker an asset had until ``until`` (ms) and no longer has, under the same coin id."""

    symbol: str
    coin_id: str
    until: int


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a user's word means. ``note``: what they should know about the choice, None if there is nothing."""

    asset: Asset
    note: str | None = None


class AssetRegistry:
    """Assets by every name they go by. Immutable: a change makes another registry."""

    def __init__(self, assets: Iterable[Asset], former: Sequence[FormerTicker] = ()) -> None:
        self.assets: tuple[Asset, ...] = tuple(sorted(assets, key=lambda asset: asset.asset_id))
        self.former: tuple[FormerTicker, ...] = tuple(former)
        self._by_id = _unique((asset.asset_id, asset) for asset in self.assets)
        self._by_coin_id = _unique((asset.coin_id, asset) for asset in self.assets)
        self._by_product = _unique((a.coinbase_product, a) for a in self.assets if a.coinbase_product is not None)
        self._by_symbol: dict[str, list[Asset]] = {}
        for asset in sorted(self.assets, key=lambda asset: asset.by_rank):
            self._by_symbol.setdefault(asset.symbol.upper(), []).append(asset)

    def __iter__(self) -> Iterator[Asset]:
        return iter(self.assets)

    def __len__(self) -> int:
        return len(self.assets)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AssetRegistry) and (self.assets, self.former) == (other.assets, other.former)

    def __hash__(self) -> int:
        return hash(self.assets)

    @classmethod
    def seed(cls) -> AssetRegistry:
        """The packaged registry."""
        return _seed()

    @classmethod
    def for_replay(cls, symbols: Iterable[str]) -> AssetRegistry:
        """The registry of a replayed market: exactly these tickers, all alive, each with the product ``<SYM>-USD``.

        A renamed ticker lives under its own name: the file is of a time when it did. A ticker the seed does not know
        (EUR, GBP) becomes an asset ``replay-<sym>`` whose id depends on the ticker alone.
        """
        seed = cls.seed()
        chosen: list[Asset] = []
        for symbol in sorted({symbol.upper() for symbol in symbols}):
            known = sorted(seed.by_symbol(symbol), key=lambda asset: (not asset.alive(), asset.by_rank))
            asset = known[0] if known else Asset(_replay_id(symbol), symbol, f"replay-{symbol.lower()}", symbol)
            chosen.append(
                replace(
                    asset,
                    coinbase_product=f"{symbol}-USD",
                    status=ACTIVE,
                    valid_from=None,
                    valid_to=None,
                    successor_coin_id=None,
                    successor_ratio=None,
                )
            )
        return cls(chosen)

    def by_id(self, asset_id: int) -> Asset | None:
        """The asset with this id, or None."""
        return self._by_id.get(asset_id)

    def by_coin_id(self, coin_id: str) -> Asset | None:
        """The asset CoinGecko calls ``coin_id``, or None."""
        return self._by_coin_id.get(coin_id)

    def by_product(self, product: str) -> Asset | None:
        """The asset of a Coinbase product such as BTC-USD, or None."""
        return self._by_product.get(product)

    def by_symbol(self, symbol: str) -> tuple[Asset, ...]:
        """Every asset with this ticker now, dead ones included, highest market cap first."""
        return tuple(self._by_symbol.get(symbol.upper(), ()))

    def active(self, at_ms: int | None = None) -> tuple[Asset, ...]:
        """The assets alive at a moment (None: now), highest market cap first."""
        return tuple(sorted((asset for asset in self.assets if asset.alive(at_ms)), key=lambda a: a.by_rank))

    def replaced(self, changed: Iterable[Asset]) -> AssetRegistry:
        """A registry with these assets in place of (or beside) the ones with their ids."""
        return AssetRegistry((self._by_id | {asset.asset_id: asset for asset in changed}).values(), self.former)

    def resolve(self, typed: str, at_ms: int | None = None) -> Resolution:
        """The asset a user means by a ticker, coin id or Coinbase product, in any case.

        Of several alive the highest market cap is meant, and the note says so. A renamed or merged coin resolves to
        its successor with a note saying when; with ``at_ms`` to the asset of that time. UnknownSymbol carries near
        matches.
        """
        word = typed.strip()
        named = self._named(word)
        alive = sorted((a for a in named if a.alive(at_ms) and not self._not_yet_called(word, a, at_ms)), key=_rank)
        then = [a for a in self._formerly(word, at_ms) if a.alive(at_ms)]
        if at_ms is not None and then:
            return Resolution(then[0], f"{then[0].symbol} was called {word.upper()} then")
        if alive:
            return Resolution(alive[0], _ambiguity(word, alive))
        renamed = [self._by_coin_id[f.coin_id] for f in self.former if f.symbol == word.upper() and self._knows(f)]
        if renamed:
            until = next(f.until for f in self.former if f.symbol == word.upper() and self._knows(f))
            return self._current(renamed[0], at_ms, f"{word.upper()} is called {renamed[0].symbol} since {_day(until)}")
        if named:
            return self._current(min(named, key=_rank), at_ms, None)
        raise UnknownSymbol(typed, self.near(word))

    def near(self, typed: str, count: int = 3) -> tuple[str, ...]:
        """Tickers close to what was typed, by ticker, coin id and name; best first."""
        names: dict[str, str] = {}
        for asset in sorted(self.assets, key=lambda a: (not a.alive(), a.by_rank)):
            for name in (asset.symbol, asset.coin_id, asset.name):
                names.setdefault(name.lower(), asset.symbol)
        word = typed.strip().lower()[:60]
        close = set(difflib.get_close_matches(word, names, n=max(len(names), 1), cutoff=0.6))
        ranked = [name for name in names if name in close]
        ranked.sort(key=lambda name: -difflib.SequenceMatcher(None, name, word).ratio())  # equally near: as ranked
        return tuple(dict.fromkeys(names[name] for name in ranked))[:count]

    def _named(self, word: str) -> list[Asset]:
        found = list(self.by_symbol(word))
        for asset in (self._by_coin_id.get(word.lower()), self._by_product.get(word.upper())):
            if asset is not None and asset not in found:
                found.append(asset)
        return found

    def _knows(self, former: FormerTicker) -> bool:
        return former.coin_id in self._by_coin_id

    def _formerly(self, word: str, at_ms: int | None) -> list[Asset]:
        """Assets that had this ticker at ``at_ms`` and have another now."""
        if at_ms is None:
            return []
        return [
            self._by_coin_id[f.coin_id]
            for f in self.former
            if f.symbol == word.upper() and at_ms < f.until and self._knows(f)
        ]

    def _not_yet_called(self, word: str, asset: Asset, at_ms: int | None) -> bool:
        """Whether a ticker was not yet this asset's at ``at_ms`` (its coin id always is)."""
        if at_ms is None or word.upper() != asset.symbol.upper() or word.lower() == asset.coin_id:
            return False
        return any(f.coin_id == asset.coin_id and at_ms < f.until for f in self.former) and len(self._named(word)) > 1

    def _current(self, asset: Asset, at_ms: int | None, note: str | None) -> Resolution:
        """What became of an asset: its successor alive at ``at_ms``, its predecessor before it was born, or itself."""
        notes = [note] if note else []
        seen = {asset.coin_id}
        while not asset.alive(at_ms):
            before = at_ms is not None and asset.valid_from is not None and at_ms < asset.valid_from
            other = self._predecessor(asset) if before else self._by_coin_id.get(asset.successor_coin_id or "")
            if other is None or other.coin_id in seen:
                notes.append(_epitaph(asset, before=before))
                break
            notes.append(_succession(other, asset) if before else _succession(asset, other))
            seen.add(other.coin_id)
            asset = other
        return Resolution(asset, "; ".join(notes) or None)

    def _predecessor(self, asset: Asset) -> Asset | None:
        return min((a for a in self.assets if a.successor_coin_id == asset.coin_id), key=_rank, default=None)


def _rank(asset: Asset) -> tuple[float, int]:
    return asset.by_rank


def _unique(pairs: Iterable[tuple[K, Asset]]) -> dict[K, Asset]:
    found: dict[K, Asset] = {}
    for key, asset in pairs:
        if found.setdefault(key, asset) is not asset:
            raise ValueError(f"{key!r} stands for {found[key].coin_id} and for {asset.coin_id}")
    return found


def _ambiguity(word: str, alive: Sequence[Asset]) -> str | None:
    if len(alive) < 2:
        return None
    others = ", ".join(f"{asset.coin_id} ({asset.name})" for asset in alive[1:])
    return f"{word} stands for {len(alive)} assets; {alive[0].coin_id} has the highest market cap, others: {others}"


def _succession(old: Asset, new: Asset) -> str:
    what = {RENAMED: "was renamed to", MERGED: "was merged into"}.get(old.status, "was succeeded by")
    when = f" on {_day(old.valid_to)}" if old.valid_to is not None else ""
    ratio = old.successor_ratio
    terms = f" (1 {old.symbol} = {ratio:g} {new.symbol})" if ratio is not None else ""
    return f"{old.symbol} {what} {new.symbol}{when}{terms}"


def _epitaph(asset: Asset, *, before: bool) -> str:
    if before and asset.valid_from is not None:
        return f"{asset.symbol} begins on {_day(asset.valid_from)}"
    when = f" since {_day(asset.valid_to)}" if asset.valid_to is not None else ""
    return f"{asset.symbol} is inactive{when} and has no successor"


def _day(ms: int) -> str:
    return from_ms(ms).date().isoformat()


def _replay_id(symbol: str) -> int:
    return REPLAY_IDS_FROM + zlib.crc32(symbol.encode()) % 1_000_000_000


# --- the packaged seed --------------------------------------------------------------------------------------


@cache
def _seed() -> AssetRegistry:
    assets = [_asset(record) for record in _records("assets.csv")]
    former = [
        FormerTicker(r["symbol"], r["coin_id"], _midnight(r["until"]) or 0) for r in _records("former_tickers.csv")
    ]
    return AssetRegistry(assets, former)


def _records(name: str) -> list[dict[str, str]]:
    content = files("ray_app").joinpath("data", name).read_text(encoding="utf-8")
    return list(csv.DictReader(content.splitlines()))


def _asset(record: Mapping[str, str]) -> Asset:
    return Asset(
        asset_id=int(record["asset_id"]),
        symbol=record["symbol"],
        coin_id=record["coin_id"],
        name=record["name"],
        coinbase_product=record["coinbase_product"] or None,
        market_cap_rank=int(record["market_cap_rank"]) if record["market_cap_rank"] else None,
        status=record["status"],
        valid_from=_midnight(record["valid_from"]),
        valid_to=_midnight(record["valid_to"]),
        successor_coin_id=record["successor_coin_id"] or None,
        successor_ratio=float(record["successor_ratio"]) if record["successor_ratio"] else None,
    )


def _midnight(day: str) -> int | None:
    """Milliseconds of a day's midnight, UTC; None of an empty field."""
    return to_ms(datetime.fromisoformat(day).replace(tzinfo=UTC)) if day else None

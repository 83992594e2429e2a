"""Keeping the asset registry true against CoinGecko's ``/coins/list`` and Coinbase's ``/products``. Pure.

The lists are believed in what they say about single assets, and not where they would take a large part of the
registry away at once: a cut-off or half-empty list looks exactly like a mass delisting, and the second is rarer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from ray_app.assets import ACTIVE, INACTIVE, REPLAY_IDS_FROM, Asset, AssetRegistry
from ray_app.sources.base import Row

#: A list may take away this share of what it confirmed before (and always a few); beyond, it is refused.
COINS_AT_ONCE: Final = 0.10
PRODUCTS_AT_ONCE: Final = 0.30
ALWAYS_ALLOWED: Final = 3

Kind = Literal["vanished", "returned", "symbol", "name", "venue_gained", "venue_lost", "added", "unresolved", "refused"]


@dataclass(frozen=True, slots=True)
class Change:
    """One thing a refresh found. ``subject``: coin id, product, or the list that was refused."""

    kind: Kind
    subject: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind} {self.subject}: {self.detail}"


def reconcile(
    registry: AssetRegistry,
    coins_list_rows: Sequence[Row] | None,
    product_rows: Sequence[Row] | None,
    now_ms: int,
) -> tuple[AssetRegistry, tuple[Change, ...]]:
    """The registry as the two lists say it is now, and what changed, in a fixed order.

    ``coins_list_rows``, ``product_rows``: what ``coingecko.coins_list`` and ``coinbase.products`` parsed to; None:
    not fetched, that side stays as it is. Rules:

    * An active asset whose coin is no longer listed becomes inactive, valid to ``now_ms``; if it comes back, it is
      active again (never one that the packaged list declares renamed, merged or wound down).
    * Ticker and name follow CoinGecko for active assets.
    * An asset whose product is not among those that trade in USD has no venue; a product finds its asset by the
      packaged list, else by a ticker that exactly one coin of the whole list has. Such a coin, if new, is added.
    * A list that would take away more than 10 % of the active coins, or 30 % of the venues, is refused as a whole.
    """
    changes: list[Change] = []
    coins = _by_identity(coins_list_rows, "coin_id")
    products = _by_identity(product_rows, "coinbase_product")
    if coins is not None and (reason := _coins_refused(registry, coins)):
        changes.append(Change("refused", "coingecko.coins_list", reason))
        coins = None
    if products is not None and (reason := _products_refused(registry, products)):
        changes.append(Change("refused", "coinbase.products", reason))
        products = None
    if coins is not None:
        registry = _with_coins(registry, coins, now_ms, changes)
    if products is not None:
        registry = _with_products(registry, products, coins, changes)
    return registry, tuple(changes)


def _by_identity(rows: Sequence[Row] | None, identity: str) -> dict[str, Mapping[str, object]] | None:
    return None if rows is None else {str(row.key[identity]): row.values for row in rows if identity in row.key}


def _coins_refused(registry: AssetRegistry, coins: Mapping[str, object]) -> str | None:
    known = [asset for asset in registry if asset.status == ACTIVE]
    gone = [asset.symbol for asset in known if asset.coin_id not in coins]
    return _too_many(gone, len(known), COINS_AT_ONCE, len(coins), "active assets")


def _products_refused(registry: AssetRegistry, products: Mapping[str, object]) -> str | None:
    known = [asset for asset in registry if asset.status == ACTIVE and asset.coinbase_product is not None]
    gone = [asset.symbol for asset in known if asset.coinbase_product not in products]
    return _too_many(gone, len(known), PRODUCTS_AT_ONCE, len(products), "venues")


def _too_many(gone: Sequence[str], known: int, share: float, listed: int, what: str) -> str | None:
    if listed and len(gone) <= max(ALWAYS_ALLOWED, share * known):
        return None
    names = f" ({', '.join(gone[:5])}, …)" if gone else ""
    return f"{listed} entries lack {len(gone)} of {known} {what}{names}: taken for a broken list, nothing is changed"


def _with_coins(
    registry: AssetRegistry, coins: Mapping[str, Mapping[str, object]], now_ms: int, changes: list[Change]
) -> AssetRegistry:
    ended = {asset.coin_id for asset in AssetRegistry.seed() if asset.status != ACTIVE}
    changed: list[Asset] = []
    for asset in registry:
        said = coins.get(asset.coin_id)
        now = asset
        if asset.status == ACTIVE and said is None:
            now = replace(asset, status=INACTIVE, valid_to=now_ms, coinbase_product=None)
            changes.append(Change("vanished", asset.coin_id, f"{asset.symbol} is no longer listed by CoinGecko"))
        elif asset.status == INACTIVE and said is not None and asset.coin_id not in ended:
            now = replace(asset, status=ACTIVE, valid_to=None)
            changes.append(Change("returned", asset.coin_id, f"{asset.symbol} is listed by CoinGecko again"))
        if said is not None and now.status == ACTIVE:
            now = _renamed(now, said, changes)
        if now is not asset:
            changed.append(now)
    return registry.replaced(changed) if changed else registry


def _renamed(asset: Asset, said: Mapping[str, object], changes: list[Change]) -> Asset:
    symbol, name = said.get("symbol"), said.get("name")
    if isinstance(symbol, str) and symbol != asset.symbol:
        changes.append(Change("symbol", asset.coin_id, f"{asset.symbol} is now {symbol}"))
        asset = replace(asset, symbol=symbol)
    if isinstance(name, str) and name != asset.name:
        changes.append(Change("name", asset.coin_id, f"{asset.name} is now {name}"))
        asset = replace(asset, name=name)
    return asset


def _with_products(
    registry: AssetRegistry,
    products: Mapping[str, Mapping[str, object]],
    coins: Mapping[str, Mapping[str, object]] | None,
    changes: list[Change],
) -> AssetRegistry:
    lost = []
    for asset in registry:
        if asset.coinbase_product is not None and asset.coinbase_product not in products:
            lost.append(replace(asset, coinbase_product=None))
            changes.append(Change("venue_lost", asset.coin_id, f"{asset.coinbase_product} no longer trades in USD"))
    registry = registry.replaced(lost) if lost else registry
    coins_of = _coins_by_ticker(coins or {})
    for product in sorted(products):
        if registry.by_product(product) is None:
            registry = _placed(registry, product, str(products[product].get("symbol")), coins_of, changes)
    return registry


def _placed(
    registry: AssetRegistry,
    product: str,
    ticker: str,
    coins_of: Mapping[str, Sequence[tuple[str, Mapping[str, object]]]],
    changes: list[Change],
) -> AssetRegistry:
    """The registry with ``product`` at the asset it belongs to, where that is beyond doubt."""
    seeded = AssetRegistry.seed().by_product(product)
    named = coins_of.get(ticker, ())
    coin_id = seeded.coin_id if seeded is not None else named[0][0] if len(named) == 1 else None
    if coin_id is None:
        why = f"{len(named)} coins have the ticker {ticker}" if named else f"no listed coin has the ticker {ticker}"
        changes.append(Change("unresolved", product, why))
        return registry
    asset = registry.by_coin_id(coin_id)
    if asset is None and len(named) == 1:
        asset_id = 1 + max((a.asset_id for a in registry if a.asset_id < REPLAY_IDS_FROM), default=0)
        name = named[0][1].get("name")
        asset = Asset(asset_id, ticker, coin_id, str(name if name is not None else ticker), product)
        changes.append(Change("added", coin_id, f"{ticker}, as asset {asset_id}, for the new product {product}"))
    elif asset is not None and asset.status == ACTIVE and asset.coinbase_product is None:
        asset = replace(asset, coinbase_product=product)
        changes.append(Change("venue_gained", coin_id, f"{product} trades in USD"))
    else:
        standing = "unknown here" if asset is None else f"{asset.status}, product {asset.coinbase_product}"
        changes.append(Change("unresolved", product, f"its coin {coin_id} is {standing}"))
        return registry
    return registry.replaced([asset])


def _coins_by_ticker(
    coins: Mapping[str, Mapping[str, object]],
) -> dict[str, list[tuple[str, Mapping[str, object]]]]:
    found: dict[str, list[tuple[str, Mapping[str, object]]]] = {}
    for coin_id, said in coins.items():
        symbol = said.get("symbol")
        if isinstance(symbol, str):
            found.setdefault(symbol, []).append((coin_id, said))
    return found


def with_ranks(registry: AssetRegistry, ranks: Mapping[str, int | None]) -> AssetRegistry:
    """The registry with market-cap ranks by coin id as ``coingecko.markets`` states them; None leaves a rank alone."""
    changed = [
        replace(asset, market_cap_rank=rank)
        for asset in registry
        if (rank := ranks.get(asset.coin_id)) is not None and rank != asset.market_cap_rank
    ]
    return registry.replaced(changed) if changed else registry

"""What does not change about a simulated asset: its level, supplies, volatility and how it follows the market.

Everything derives from the seed and the asset's CoinGecko id and rank, never from what else is in the registry: another
asset moves no price. The well-known assets have recognisable price levels; no figure here claims to be a real quote.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ray_app.assets import Asset
from ray_app.sandbox.rng import key_of, unit_of

SECTORS = 8

#: coin id → (price level USD, maximal supply)
_KNOWN: dict[str, tuple[float, float | None]] = {
    "bitcoin": (64_000.0, 21e6),
    "ethereum": (3_200.0, None),
    "binancecoin": (580.0, 200e6),
    "solana": (150.0, None),
    "ripple": (0.62, 100e9),
    "dogecoin": (0.13, None),
    "cardano": (0.48, 45e9),
    "tron": (0.125, None),
    "avalanche-2": (31.0, 720e6),
    "shiba-inu": (0.0000182, None),
    "polkadot": (6.4, None),
    "chainlink": (14.0, 1e9),
    "bitcoin-cash": (430.0, 21e6),
    "litecoin": (78.0, 84e6),
    "uniswap": (8.6, 1e9),
    "pepe": (0.0000102, 420.69e12),
    "stellar": (0.105, 50.002e9),
    "monero": (158.0, None),
    "aave": (105.0, 16e6),
    "maker": (2_400.0, 1.005e6),
    "zcash": (33.0, 21e6),
    "yearn-finance": (5_900.0, 36_666.0),
}
#: coin id → the level it is pinned to, USD
_PINNED: dict[str, float] = {
    **dict.fromkeys(
        (
            *("tether", "usd-coin", "dai", "true-usd", "binance-usd", "paypal-usd", "first-digital-usd", "frax"),
            *("usdd", "ethena-usde", "gemini-dollar", "paxos-standard", "liquity-usd", "usds", "ripple-usd", "nusd"),
            *("terrausd", "crvusd", "gho", "usual-usd", "global-dollar", "usdb", "mountain-protocol-usdm"),
        ),
        1.0,
    ),
    "euro-coin": 1.09,
    "stasis-eurs": 1.09,
    "tether-eurt": 1.09,
}
_GOLD = {"pax-gold": 2_400.0, "tether-gold": 2_400.0}
#: wrapped and staked forms walk exactly as what they stand for: coin id → (followed coin id, ratio)
_FOLLOWS: dict[str, tuple[str, float]] = {
    "wrapped-bitcoin": ("bitcoin", 1.0),
    "coinbase-wrapped-btc": ("bitcoin", 1.0),
    "tbtc": ("bitcoin", 1.0),
    "weth": ("ethereum", 1.0),
    "staked-ether": ("ethereum", 1.0),
    "wrapped-steth": ("ethereum", 1.17),
    "rocket-pool-eth": ("ethereum", 1.11),
    "coinbase-wrapped-staked-eth": ("ethereum", 1.08),
}


@dataclass(frozen=True, slots=True)
class Profile:
    """The constants of one asset; volatilities are per day, in log price."""

    key: int  # seeds its volumes and quotes
    walk_key: int  # seeds its price path; a wrapped asset shares that of what it wraps
    level: float  # USD
    decimals: int  # of its prices
    sector: int
    market_beta: float
    sector_beta: float
    own_volatility: float
    reversion: float  # share of the distance to its level that a day takes back
    pinned: bool
    circulating: float
    total: float | None
    maximum: float | None
    has_roi: bool
    turnover: float  # share of its market value traded a day, all venues
    venue_share: float  # of that, on the simulated exchange
    quiet: float  # probability that five minutes see no trade there
    unit_exponent: int  # volumes are multiples of 2**this


def decimals_of(level: float) -> int:
    """Decimals an exchange would quote at a price level: about six significant digits, at least cents."""
    return min(max(5 - math.floor(math.log10(level)), 2), 14)


def target_value(rank: int) -> float:
    """A plausible market value (USD) for a rank."""
    return float(1.3e12 * rank**-1.45)


def profile_of(asset: Asset, rank: int, seed: int, level: float | None = None) -> Profile:
    """The profile of ``asset``; ``level`` overrides the price level (a replayed market knows its own)."""
    coin = asset.coin_id
    followed, ratio = _FOLLOWS.get(coin, (coin, 1.0))
    known, maximum = _KNOWN.get(followed, (None, None))
    pinned = coin in _PINNED
    if level is None:
        level = ratio * (
            _PINNED.get(coin) or _GOLD.get(coin) or known or 10 ** (unit_of(seed, followed, "level") * 4.5 - 3)
        )
    calm = pinned or coin in _GOLD
    circulating = float(round(target_value(rank) / level))
    if maximum is not None and coin == followed:
        circulating = min(circulating, round(maximum * 0.94))
    elif unit_of(seed, coin, "max") < 0.55 and not calm:
        maximum = float(round(circulating * (1.1 + unit_of(seed, coin, "cap"))))
    else:
        maximum = None
    total: float | None = float(round(circulating * (1.0 + 0.04 * unit_of(seed, coin, "total"))))
    if maximum is None and unit_of(seed, coin, "no-total") < 0.08:
        total = None
    turnover = (0.5 if pinned else 0.04) * 10 ** (unit_of(seed, coin, "turnover") - 0.5)
    venue_share = 0.02 + 0.10 * unit_of(seed, coin, "venue")
    daily_units = target_value(rank) * turnover * venue_share / level
    return Profile(
        key=key_of(seed, "volume", coin),
        walk_key=key_of(seed, "walk", followed),
        level=level,
        decimals=decimals_of(level),
        sector=key_of(seed, "sector", followed) % SECTORS,
        market_beta=0.0 if calm else 1.0 if followed == "bitcoin" else 0.7 + 0.8 * unit_of(seed, followed, "beta"),
        sector_beta=0.0 if calm or followed == "bitcoin" else 0.4 + 0.6 * unit_of(seed, followed, "sector-beta"),
        own_volatility=_own_volatility(followed, rank, seed, pinned=pinned),
        reversion=0.4 if pinned else 0.006,
        pinned=pinned,
        circulating=circulating,
        total=total,
        maximum=maximum,
        has_roi=unit_of(seed, coin, "roi") < 0.08,
        turnover=turnover,
        venue_share=venue_share,
        quiet=0.0 if rank <= 120 or pinned else min((rank - 120) / 1_000, 0.3),
        unit_exponent=-min(8, math.floor(44 - math.log2(max(daily_units, 1.0)))),
    )


def _own_volatility(coin: str, rank: int, seed: int, *, pinned: bool) -> float:
    if pinned:
        return 0.0004
    if coin in _GOLD:
        return 0.008
    if coin == "bitcoin":
        return 0.006
    return 0.012 + 0.008 * math.log10(rank) * (0.6 + 0.8 * unit_of(seed, coin, "volatility"))

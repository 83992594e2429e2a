"""The feeds of the dataset ``derivatives``: twelve coins at four venues.

Requests a day against what the accounts allow (accounts.py):

=======  ==============================================================  ======  ================================
account  asked                                                           a day   allowed
=======  ==============================================================  ======  ================================
binance  all marks 288; 12 coins: funding 36, interest 288, ratio 288       900  300 a minute (all marks weigh 10
                                                                                 of 2,400 a minute, the others 1)
bybit    all tickers 288; 12 coins: funding 36, open interest 288           612  50 in 5 s
okx      marks, funding, interest of all 864; 12 coins: funding 36          900  9 in 2 s
deribit  2 currencies: DVOL 48, funding 48, options 96                      192  5 a second
=======  ==============================================================  ======  ================================

The first polls add their pages: some 150 requests in all. CoinGecko's list is 24 credits a day, which a free plan's
month has no room for; with a paid one it stands in where a venue refuses this region.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from ray_app.assets import AssetRegistry
from ray_app.collection.feeds import Ask, Feed
from ray_app.settings import Settings
from ray_app.sources import Request, endpoint
from ray_app.sources.derivatives_coins import COINS

DATASET: Final = "derivatives"
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3_600, 86_400
#: base coins with a series of their own at each venue
BASES: Final = ("BTC", "ETH", "SOL", "XRP", "BNB", "DOGE", "ADA", "AVAX", "LINK", "LTC", "BCH", "DOT")
#: coins whose options Deribit trades in quantity
OPTIONS: Final = ("BTC", "ETH")
#: the venues whose contracts CoinGecko's list is read for
LISTED_VENUES: Final = ("binance_futures", "bybit_futures", "okx_futures", "deribit")
#: how far back the first request goes: funding and DVOL; OKX keeps three months, Binance's statistics a month
_FUNDING_BACK_S: Final = 90 * _DAY_S
_SERIES_BACK_S: Final = 29 * _DAY_S
#: plans whose month holds an hourly call
_PAID: Final = frozenset({"analyst", "lite", "pro", "enterprise"})


def derivatives_feeds(settings: Settings, registry: AssetRegistry) -> list[Feed]:
    """Every feed of the dataset, by what the settings allow and of the coins that the registry knows."""
    bases = [base for base in BASES if registry.by_coin_id(COINS[base]) is not None]
    feeds = [*_snapshots(), *_deribit(base for base in OPTIONS if base in bases)]
    for base in bases:
        feeds += _of_coin(base)
    if settings.coingecko_plan in _PAID:
        listed = _constant(endpoint("coingecko.derivatives").request(LISTED_VENUES))
        feeds.append(Feed("coingecko/derivatives", "coingecko", _HOUR_S, "snapshot", listed))
    return feeds


def _constant(request: Request) -> Callable[[Ask], Request]:
    return lambda _: request


def _ranged(name: str, instrument: str) -> Callable[[Ask], Request]:
    """Asks for [since, now] of one instrument; what has to be settled by ``now`` is."""
    one: Any = endpoint(name)
    return lambda ask: one.request(instrument, ask.since, ask.now)


def _snapshots() -> list[Feed]:
    """What is the case now, of all contracts in one call each."""
    coins = [COINS[base] for base in BASES]
    named = {
        "binance/marks": "binance.premium_index",
        "bybit/tickers": "bybit.tickers",
        "okx/marks": "okx.mark_price",
        "okx/funding": "okx.funding_rate",
        "okx/open-interest": "okx.open_interest",
    }
    return [
        Feed(subject, name.split(".")[0], 5 * _MINUTE_S, "snapshot", _constant(endpoint(name).request(coins=coins)))
        for subject, name in named.items()
    ]


def _of_coin(base: str) -> list[Feed]:
    """The series of one coin at the three large venues. A settlement is asked for two minutes after it, a statement
    of the hour a quarter after (it comes minutes late).
    """  # noqa: D205 - one sentence after the other
    symbol, swap = f"{base}USDT", f"{base}-USDT-SWAP"

    def funding(venue: str, instrument: str, ask: Callable[[Ask], Request], pages: int) -> Feed:
        return Feed(
            f"{venue}/funding/{instrument}",
            venue,
            8 * _HOUR_S,
            "history",
            ask,
            history_s=_FUNDING_BACK_S,
            overlap_s=8 * _HOUR_S,
            pages=pages,
            grace_s=2 * _MINUTE_S,
        )

    def hourly(subject: str, name: str, pages: int) -> Feed:
        return Feed(
            f"{subject}/{symbol}",
            name.split(".", maxsplit=1)[0],
            _HOUR_S,
            "history",
            _ranged(name, symbol),
            history_s=_SERIES_BACK_S,
            overlap_s=2 * _HOUR_S,
            pages=pages,
            grace_s=15 * _MINUTE_S,
        )

    okx: Any = endpoint("okx.funding_rate_history")
    return [
        funding("binance", symbol, _ranged("binance.funding_rate", symbol), 4),  # 990 hours a page
        funding("bybit", symbol, _ranged("bybit.funding_history", symbol), 11),  # 200 settlements, one an hour at most
        funding("okx", swap, lambda ask: okx.request(swap, ask.since), 22),  # 100 settlements
        hourly("binance/open-interest", "binance.open_interest_hist", 2),  # 490 hours
        hourly("binance/long-short", "binance.long_short", 2),
        hourly("bybit/open-interest", "bybit.open_interest", 5),  # 200 hours
    ]


def _deribit(currencies: Iterable[str]) -> list[Feed]:
    """DVOL and funding by the hour, the ratio of puts to calls twice an hour."""
    feeds: list[Feed] = []
    for currency in currencies:
        perpetual, options = f"{currency}-PERPETUAL", _constant(endpoint("deribit.book_summary").request(currency))
        for subject, ask in (
            (f"deribit/dvol/{currency}", _ranged("deribit.volatility_index", currency)),
            (f"deribit/funding/{perpetual}", _ranged("deribit.funding_history", perpetual)),
        ):
            back, again = _FUNDING_BACK_S, 2 * _HOUR_S
            feeds.append(Feed(subject, "deribit", _HOUR_S, "history", ask, back, again, pages=5, grace_s=2 * _MINUTE_S))
        feeds.append(Feed(f"deribit/options/{currency}", "deribit", 30 * _MINUTE_S, "snapshot", options))
    return feeds

"""What is asked about networks, and about fear and greed.

Requests a day, against the accounts' limits (accounts.py; a poll of one page each, but for the first):

=====================  =================================================  =======  ===========================
account                feeds                                              a day    limit
=====================  =================================================  =======  ===========================
coinmetrics            1 × 4 (the first: 37 pages)                              4  8 per 6 s
blockchain_com         11 charts × 4, statistics × 24                          68  5 a minute (7,200 a day)
mempool                fees, mempool × 96; retarget × 24; hash rate × 1       217  20 a minute
etherscan              gas × 96, price × 96, supply × 24                      216  2 a second, 100,000 a day
blockchair             7 chains × 24                                          168  1,200 a day
defillama              chains × 24, 22 histories × 1, the total × 1            47  30 a minute
stablecoins            1                                                        1  10 a minute
alternative_me         4                                                        4  30 a minute
=====================  =================================================  =======  ===========================
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from ray_app.assets import AssetRegistry
from ray_app.clock import DAY_MS
from ray_app.collection.feeds import Ask, Feed, Reach
from ray_app.settings import Settings
from ray_app.sources import Endpoint, Request, endpoint
from ray_app.sources import blockchair as _blockchair
from ray_app.sources.coinmetrics import ASSETS, COMPLETION, NAMES
from ray_app.sources.defillama import CHAINS
from ray_app.sources.mempool import SPANS

ONCHAIN: Final = "onchain"
FEAR_GREED: Final = "fear-greed"
_QUARTER: Final = 900
_HOUR: Final = 3_600
_DAY: Final = 86_400
_HISTORY_S: Final = 730 * _DAY
#: Coin Metrics corrects the last days
_OVERLAP_S: Final = 5 * _DAY
#: 20 assets × 730 days are 37 pages of 400 items
_PAGES: Final = 40
#: the charts of Blockchain.com that are asked for; whether mvrv and nvt are served is not verified
_CHARTS: Final = (
    *("n-unique-addresses", "n-transactions", "estimated-transaction-volume-usd", "hash-rate", "difficulty"),
    *(
        "miners-revenue",
        "transaction-fees-usd",
        "market-cap",
        "median-confirmation-time",
        "market-price",
        "total-bitcoins",
    ),
)
#: fear and greed: all there is, from 2018-02-01 on
_ALL_OF_IT_S: Final = 10 * 365 * _DAY


def onchain_feeds(settings: Settings, registry: AssetRegistry) -> list[Feed]:  # noqa: ARG001 - as its siblings
    """The feeds of the dataset ``onchain``. Coins that the registry has not are not asked for."""
    return [
        *_coinmetrics(registry),
        *_bitcoin(),
        *_ether(registry),
        *_blockchair_chains(registry),
        *_defillama(registry),
    ]


def fear_greed_feeds(settings: Settings, registry: AssetRegistry) -> list[Feed]:  # noqa: ARG001 - as its siblings
    """The feeds of the dataset ``fear-greed``."""
    source = endpoint("alternative_me.fng")

    def ask(what: Ask) -> Request:
        days = (what.now - what.since) // DAY_MS + 2
        return source.request(0 if days > 1_000 else days)

    return [
        Feed("alternative_me.fng", source.account, 6 * _HOUR, "history", ask, _ALL_OF_IT_S, 2 * _DAY, grace_s=1_200.0)
    ]


def _coinmetrics(registry: AssetRegistry) -> list[Feed]:
    source = endpoint("coinmetrics.asset_metrics")
    assets = [ticker for ticker, coin in ASSETS.items() if registry.by_coin_id(coin) is not None]
    metrics = [*NAMES, COMPLETION]

    def ask(what: Ask) -> Request:
        return source.request(assets, metrics, what.since)

    return (
        [Feed(source.name, source.account, 6 * _HOUR, "history", ask, _HISTORY_S, _OVERLAP_S, _PAGES)] if assets else []
    )


def _bitcoin() -> list[Feed]:
    chart, hashrate = endpoint("blockchain_com.chart"), endpoint("mempool.hashrate")
    charts = [
        Feed(
            f"{chart.name}/{name}",
            chart.account,
            6 * _HOUR,
            "history",
            partial(_chart, chart, name),
            _HISTORY_S,
            3 * _DAY,
        )
        for name in _CHARTS
    ]

    def rates(what: Ask) -> Request:
        days = (what.now - what.since) // DAY_MS + 1
        return hashrate.request(next((span for span, holds in SPANS.items() if holds >= days), "3y"))

    return [
        *charts,
        _now("blockchain_com.stats", _HOUR),
        _now("mempool.fees", _QUARTER),
        _now("mempool.mempool", _QUARTER),
        _now("mempool.difficulty_adjustment", _HOUR),
        # the day before is indexed within the first hours
        Feed(hashrate.name, hashrate.account, _DAY, "history", rates, _HISTORY_S, 3 * _DAY, grace_s=3.0 * _HOUR),
    ]


def _ether(registry: AssetRegistry) -> list[Feed]:
    if registry.by_coin_id("ethereum") is None:
        return []
    return [
        _now("etherscan.gas_oracle", _QUARTER),
        _now("etherscan.eth_price", _QUARTER),
        _now("etherscan.eth_supply", _HOUR),
    ]


def _blockchair_chains(registry: AssetRegistry) -> list[Feed]:
    return [
        _now("blockchair.stats", _HOUR, chain)
        for chain, (coin, _) in _blockchair.CHAINS.items()
        if registry.by_coin_id(coin) is not None
    ]


def _defillama(registry: AssetRegistry) -> list[Feed]:
    known = {chain: coin for chain, coin in CHAINS.items() if registry.by_coin_id(coin) is not None}
    chains, history = endpoint("defillama.chains"), endpoint("defillama.chain_tvl")
    feeds: list[Feed] = []
    if known:
        coins = tuple(known.values())
        feeds.append(Feed(chains.name, chains.account, _HOUR, "snapshot", lambda _: chains.request(coins)))
    feeds += [_now(history.name, _DAY, chain, reach="history", grace_s=3.0 * _HOUR) for chain in known]
    # of yesterday: the point is stamped at a day's start and read once it is 26 hours old
    feeds += [
        _now(name, _DAY, reach="history", grace_s=3.0 * _HOUR)
        for name in ("defillama.total_tvl", "defillama.stablecoins")
    ]
    return feeds


def _now(name: str, interval_s: int, *of: str, reach: Reach = "snapshot", grace_s: float = 0.0) -> Feed:
    """A feed whose request is always the same: of what is now, or of the whole history."""
    source = endpoint(name)
    whole = _HISTORY_S if reach == "history" else 0
    ask: Callable[[Ask], Request] = partial(_same, source, of)
    return Feed("/".join((name, *of)), source.account, interval_s, reach, ask, whole, grace_s=grace_s)


def _same(source: Endpoint, of: tuple[Any, ...], _: Ask) -> Request:
    return source.request(*of)


def _chart(source: Endpoint, name: str, what: Ask) -> Request:
    return source.request(name, what.since, what.now)

"""DeFiLlama: value locked per chain and in all, and the supply of stablecoins.

Format: https://defillama.com/docs/api (OpenAPI). What trips people up:

* A point of a history is stamped at the **start** of its UTC day and made from the first figures stored in that day;
  the newest one may still move. Histories are revised as a whole when adapters are added.
* ``date`` is a number in one answer and text in another, always seconds.
* Several chains may name one coin (``gecko_id``): CHAINS says which of them is meant.
* Errors are plain text.

``known_at`` of a history: 26 hours after the stamp, when whatever the day's figure is made from is over and computed.
Points younger than that are not read: what they will be is not known. Attribution is asked for.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final
from urllib.parse import quote

from ray_app.clock import DAY_MS, HOUR_MS
from ray_app.errors import MalformedPayload
from ray_app.sources.addressing import path_values
from ray_app.sources.base import Endpoint, Exchange, Parsed, Request, Row
from ray_app.sources.onchain import Statements
from ray_app.sources.reading import (
    USD_AMOUNT,
    Findings,
    epoch_time,
    expect_list,
    identifier,
    number,
    readable,
    requested,
    shown,
)
from ray_app.sources.refusals import read_answer
from ray_app.sources.statements import known_from, version_of

API: Final = "defillama"
STABLECOINS: Final = "stablecoins"
LAG_MS: Final = DAY_MS + 2 * HOUR_MS
#: DeFiLlama's name of a chain → the coin whose value locked it is
CHAINS: Final[Mapping[str, str]] = {
    "Ethereum": "ethereum",
    "Solana": "solana",
    "BSC": "binancecoin",
    "Tron": "tron",
    "Bitcoin": "bitcoin",
    "Avalanche": "avalanche-2",
    "Sui": "sui",
    "Aptos": "aptos",
    "Arbitrum": "arbitrum",
    "OP Mainnet": "optimism",
    "Polygon": "polygon-ecosystem-token",
    "Cardano": "cardano",
    "Near": "near",
    "TON": "the-open-network",
    "Cronos": "crypto-com-chain",
    "Hyperliquid L1": "hyperliquid",
    "Mantle": "mantle",
    "Sei": "sei-network",
    "Algorand": "algorand",
    "Stellar": "stellar",
    "Hedera": "hedera-hashgraph",
    "XRPL": "ripple",
}
#: what DeFiLlama called chains before, in answers of these times
_FORMERLY: Final[Mapping[str, str]] = {"Optimism": "OP Mainnet", "Binance": "BSC"}
_NAMED: Final = frozenset(CHAINS.values())


class Chains(Endpoint):
    """``/v2/chains``: the value locked on every chain now. ``/chains`` was its name before."""

    name: ClassVar[str] = "defillama.chains"
    parser_version: ClassVar[int] = 2  # 2: former names of chains
    account: ClassVar[str] = API
    paths: ClassVar[tuple[str, ...]] = ("/v2/chains", "/chains")

    def request(self, coins: Sequence[str] = ()) -> Request:
        """``coins``: CoinGecko's ids wanted of the answer, which has hundreds; default: all."""
        return Request(self.name, "/v2/chains", {}, {"coins": ",".join(coins)} if coins else {})

    def parse(self, exchange: Exchange) -> Parsed:
        """onchain_data rows, ``total_value_locked`` at the moment of the fetch. Chains without a coin yield none."""
        items = expect_list(self.name, read_answer(exchange), "chains")
        wanted = frozenset(requested(exchange.request.context.get("coins")))
        found = Findings()
        rows = Statements(self.name, exchange.fetched_at, found)
        named = 0
        for position, item in enumerate(items):
            chain = item.get("name") if isinstance(item, dict) else None
            if not isinstance(item, dict) or not isinstance(chain, str) or "tvl" not in item:
                found.add(
                    "wrong_type", f"item {position}", "name", f"expected a chain with name and tvl: {shown(item)}"
                )
                continue
            named += 1
            coin_id = CHAINS.get(_FORMERLY.get(chain, chain))
            if coin_id is None:
                coin_id = identifier(item.get("gecko_id"))
                if coin_id is None or coin_id in _NAMED:
                    continue
            if not wanted or coin_id in wanted:
                rows.add(coin_id, "total_value_locked", exchange.fetched_at, item["tvl"], None, field="tvl")
        readable(self.name, items, named, "a chain with name and tvl")
        return Parsed(rows.rows(), found.all())


class History(Endpoint):
    """What the histories have in common: a list of days, oldest first."""

    account: ClassVar[str] = API

    def points(self, exchange: Exchange, found: Findings, subject: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """The moment (ms, midnight) and the object of every point whose day is over and settled."""
        items = expect_list(self.name, read_answer(exchange), "{date, …}")
        timed = 0
        for position, item in enumerate(items):
            if not isinstance(item, dict):
                found.add("wrong_type", subject, f"point#{position}", f"expected an object, got {shown(item)}")
                continue
            if item.get("date") is None:
                found.add("wrong_type", subject, f"date#{position}", "a point without its date")
                continue
            at = epoch_time(found, subject, f"date#{position}", item["date"], 1_000)
            if at is None:
                continue
            timed += 1
            if at + LAG_MS > exchange.fetched_at:
                continue
            if at % DAY_MS:
                found.add("inconsistent", subject, f"date#{position}", f"{shown(item['date'])} is no midnight")
                continue
            yield at, item
        readable(self.name, items, timed, "an object with date in seconds")


def _locked(item: Mapping[str, Any]) -> object:
    """``tvl``; ``totalLiquidityUSD`` in answers of ``/charts``."""
    return item.get("tvl", item.get("totalLiquidityUSD"))


class ChainTvl(History):
    """``/v2/historicalChainTvl/{chain}``: the value locked on a chain, a point a day. Before: ``/charts/{chain}``."""

    name: ClassVar[str] = "defillama.chain_tvl"
    parser_version: ClassVar[int] = 3  # 3: former names of chains
    paths: ClassVar[tuple[str, ...]] = ("/v2/historicalChainTvl/{chain}", "/charts/{chain}")

    def request(self, chain: str) -> Request:
        """The whole history of ``chain`` (CHAINS)."""
        if chain not in CHAINS:
            raise ValueError(f"{self.name}: {chain} is none of {', '.join(CHAINS)}")
        return Request(self.name, f"/v2/historicalChainTvl/{quote(chain, safe='')}")

    def parse(self, exchange: Exchange) -> Parsed:
        """onchain_data rows of the chain's coin."""
        chain = path_values(self, exchange.request.path)["chain"]
        chain = _FORMERLY.get(chain, chain)
        if chain not in CHAINS:
            raise MalformedPayload(self.name, f"{shown(chain)} is no chain this node reads")
        found = Findings()
        rows = Statements(self.name, exchange.fetched_at, found)
        oldest: int | None = None
        for at, item in self.points(exchange, found, chain):
            oldest = at if oldest is None else min(at, oldest)
            rows.add(CHAINS[chain], "total_value_locked", at, _locked(item), LAG_MS, field="tvl")
        return Parsed(rows.rows(), found.all(), oldest=oldest)


class Total(History):
    """What the histories of one number for all of crypto have in common."""

    indicator: ClassVar[str]

    def request(self) -> Request:
        """The whole history."""
        return Request(self.name, self.paths[0])

    @abstractmethod
    def value(self, item: Mapping[str, Any]) -> object:
        """The point's number, as the body states it."""

    def parse(self, exchange: Exchange) -> Parsed:
        """macro_indicators rows in ``usd``; a revision is another ``vintage``."""
        found = Findings()
        rows: dict[int, Row] = {}
        contradicted: set[int] = set()
        for at, item in self.points(exchange, found, self.indicator):
            read = number(found, self.indicator, "value", self.value(item), USD_AMOUNT, where=str(at))
            if read is None:
                continue
            row = self._row(at, read, exchange.fetched_at)
            if rows.setdefault(at, row) != row:
                contradicted.add(at)
                found.add("duplicate", self.indicator, f"date@{at}", "stated twice with different values")
        kept = tuple(row for at, row in rows.items() if at not in contradicted)
        return Parsed(kept, found.all(), oldest=min(rows, default=None))

    def _row(self, at: int, value: float, fetched_at: int) -> Row:
        return Row(
            "macro_indicators",
            {
                "indicator_name": self.indicator,
                "source": self.name,
                "indicator_date": at,
                "vintage": version_of(value),
            },
            {
                "value": value,
                "unit": "usd",
                "known_at": known_from(at, fetched_at, LAG_MS),
                "first_seen_at": fetched_at,
            },
            at,
        )


class TotalTvl(Total):
    """``/v2/historicalChainTvl``: the value locked on all chains. ``/charts`` was its name until 2023."""

    name: ClassVar[str] = "defillama.total_tvl"
    paths: ClassVar[tuple[str, ...]] = ("/v2/historicalChainTvl", "/charts")
    indicator: ClassVar[str] = "TVL_TOTAL_USD"

    def value(self, item: Mapping[str, Any]) -> object:
        """The value locked."""
        return _locked(item)


class Stablecoins(Total):
    """``/stablecoincharts/all``: stablecoins in circulation that are pegged to the dollar, at their price."""

    name: ClassVar[str] = "defillama.stablecoins"
    parser_version: ClassVar[int] = 2
    account: ClassVar[str] = STABLECOINS
    paths: ClassVar[tuple[str, ...]] = ("/stablecoincharts/all",)
    query: ClassVar[frozenset[str]] = frozenset({"stablecoin"})
    indicator: ClassVar[str] = "STABLECOIN_SUPPLY_USD"

    def parse(self, exchange: Exchange) -> Parsed:
        """As every total; refused where the request was for one coin's supply, which is another number."""
        if exchange.request.params.get("stablecoin"):
            raise MalformedPayload(self.name, "the answer is about one stablecoin, not all of them")
        return super().parse(exchange)

    def value(self, item: Mapping[str, Any]) -> object:
        """``totalCirculatingUSD.peggedUSD``; coins pegged to other money are left out."""
        total = item.get("totalCirculatingUSD")
        return total.get("peggedUSD") if isinstance(total, dict) else total


ENDPOINTS: Final[tuple[Endpoint, ...]] = (Chains(), ChainTvl(), TotalTvl(), Stablecoins())

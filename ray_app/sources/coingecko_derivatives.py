"""CoinGecko's ``/derivatives``: the contracts of all venues in one answer. The fallback where venues refuse us.

Formats: https://docs.coingecko.com/reference/derivatives-tickers and upstreams.md §1. What trips people up:

* ``price`` is a string, with thousands separators at times; the other numbers are numbers.
* ``funding_rate`` is in **percent** (CoinGecko's own adapters multiply a venue's fraction by 100); here it is divided
  by 100 again. It is a venue's current one, so it is stored as predicted_funding_rate.
* ``last_traded_at`` is in seconds, per contract: the moment of its figures. Expired contracts stay in the list.
* ``basis`` is not read (which way it is counted is documented nowhere): basis_pct is computed from price and index.
* The list is tens of thousands long. Context ``venues`` (codes) keeps the rows of those alone.

``venue`` is the market's name as a code ("Binance (Futures)": binance_futures), never that of a venue asked directly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from ray_app.sources.base import Endpoint, Exchange, Parsed, Request
from ray_app.sources.derivatives import Book, Contract, contract_of
from ray_app.sources.reading import (
    PRICE,
    Bounds,
    decimal,
    epoch_time,
    expect_list,
    identifier,
    number,
    readable,
    requested,
    shown,
)
from ray_app.sources.refusals import read_answer

_PERCENT: Final = Bounds("a funding rate in percent", -100.0, 100.0)
#: a symbol of a contract of many coins
_OF_MANY: Final = re.compile(r"1000|1M[A-Z]")
_NOT_CODE: Final = re.compile(r"[^a-z0-9]+")
_WITH_COMMAS: Final = re.compile(r"\$?\d{1,3}(,\d{3})+(\.\d+)?", re.ASCII)


def venue_code(market: object) -> str | None:
    """The market's name as a code (``binance_futures``); None where nothing of it is ASCII, or it is too long."""
    if not isinstance(market, str) or len(market) > 100:
        return None
    code = _NOT_CODE.sub("_", market.lower()).strip("_")
    return code if 0 < len(code) <= 32 else None


class Derivatives(Endpoint):
    """``/derivatives``: tickers of contracts."""

    name: ClassVar[str] = "coingecko.derivatives"
    parser_version: ClassVar[int] = 2  # 2: more coins
    account: ClassVar[str] = "coingecko"
    paths: ClassVar[tuple[str, ...]] = ("/derivatives",)
    query: ClassVar[frozenset[str]] = frozenset({"include_tickers"})

    def request(self, venues: Sequence[str] = ()) -> Request:
        """All contracts; ``venues``: of these venues, by their codes, rows are made (default: of all)."""
        return Request(self.name, self.paths[0], {}, {"venues": ",".join(venues)} if venues else {})

    def parse(self, exchange: Exchange) -> Parsed:
        """predicted_funding_rate, open_interest_usd, volume_24h_usd, index_price and basis_pct of known coins."""
        items = expect_list(self.name, read_answer(exchange), "contracts")
        wanted = frozenset(requested(exchange.request.context.get("venues")))
        book = Book("", self.name, exchange.fetched_at)
        read = 0
        for position, item in enumerate(items):
            venue = venue_code(item.get("market")) if isinstance(item, dict) else None
            symbol = identifier(item.get("symbol")) if isinstance(item, dict) else None
            if venue is None or symbol is None or len(symbol) > 64:
                book.found.add("wrong_type", f"item {position}", "symbol", f"no market and symbol: {shown(item)}")
                continue
            read += 1
            base = item.get("index_id")
            contract = contract_of(symbol, base) if isinstance(base, str) else None
            if contract is not None and (not wanted or venue in wanted):
                self._state(book, venue, Contract(symbol, contract.coin_id), item, exchange.fetched_at)
        readable(self.name, items, read, "a contract with market and symbol")
        return Parsed(book.rows(), book.found.all())

    def _state(self, book: Book, venue: str, contract: Contract, item: Mapping[str, Any], fetched_at: int) -> None:
        where = f"{venue}:{contract.symbol}"
        ends = epoch_time(book.found, where, "expired_at", item.get("expired_at"), 1_000)
        if ends is not None and ends <= fetched_at:
            return
        moment = book.time(where, "last_traded_at", item.get("last_traded_at"), 1_000)
        if moment is None:
            return

        def state(metric: str, value: float | None) -> None:
            book.state(contract, metric, moment, value, None, venue=venue)

        if item.get("contract_type") == "perpetual":
            percent = number(book.found, where, "funding_rate", item.get("funding_rate"), _PERCENT)
            state("predicted_funding_rate", float(decimal(percent) / 100) if percent is not None else None)
        book.state(contract, "open_interest_usd", moment, item.get("open_interest"), None, venue=venue)
        book.state(contract, "volume_24h_usd", moment, item.get("volume_24h"), None, venue=venue)
        price = number(book.found, where, "price", _plain(item.get("price")), PRICE)
        index = number(book.found, where, "index", item.get("index"), PRICE)
        if (
            index is not None and not _OF_MANY.search(contract.symbol) and item["index_id"].isalpha()
        ):  # of one coin, surely
            state("index_price", index)
        if index is not None and price is not None:
            state("basis_pct", float((decimal(price) / decimal(index) - 1) * 100))


def _plain(price: object) -> object:
    """A price as text without "$" and thousands separators; anything else as it is."""
    if isinstance(price, str) and _WITH_COMMAS.fullmatch(price.strip()):
        return price.strip().lstrip("$").replace(",", "")
    return price


ENDPOINTS: Final[tuple[Endpoint, ...]] = (Derivatives(),)

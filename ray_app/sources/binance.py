"""Binance USDⓈ-M futures (fapi.binance.com): marks, funding, open interest and the ratio of accounts.

Formats: https://developers.binance.com/docs/derivatives/usds-margined-futures and upstreams.md §14. What trips people
up:

* Numbers are strings, times milliseconds; "" means nothing. ``premiumIndex`` answers one symbol as an object, all as
  an array, dated contracts (BTCUSDT_260626) among them.
* ``lastFundingRate`` of ``premiumIndex`` is the running estimate of the settlement to come (predicted_funding_rate);
  what was settled is in ``fundingRate`` alone.
* Series keep 30 days and refuse a ``startTime`` before; a range with more items than ``limit`` is cut at its newer
  end, so requests here ask for windows that cannot hold more, the newest first.
* A 429 that is ignored becomes a 418: a ban, with Retry-After. 451: the address is in a country it does not serve.

``open_interest`` is in coins (a contract is one coin, but for 1000PEPEUSDT and its like, which are scaled).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from ray_app.clock import DAY_MS, HOUR_MS
from ray_app.errors import MalformedPayload
from ray_app.sources.base import Endpoint, Exchange, Parsed, Request
from ray_app.sources.derivatives import (
    FUNDING_LAG_MS,
    SERIES_LAG_MS,
    Book,
    Codes,
    Contract,
    asked,
    coins_context,
    earlier,
    in_range,
    read_venue,
    usdt_perpetual,
    wanted,
)
from ray_app.sources.reading import absent, expect_list, expect_object, members, readable, requested, shown

VENUE: Final = "binance"
_CODES: Final = Codes(
    slow_down=frozenset({-1_003, -1_015}),
    transient=frozenset({-1_000, -1_001, -1_006, -1_007, -1_008, -1_016}),
)
_BOUNDS: Final = ("startTime", "endTime")
#: what series keep; a little less, for the minutes a request waits
KEPT_MS: Final = 30 * DAY_MS - HOUR_MS


def _items(exchange: Exchange, what: str) -> list[Any]:
    """The items of an answer about one symbol: an array; MalformedPayload where one is about another symbol."""
    name = exchange.request.endpoint
    items = expect_list(name, read_venue(exchange, _CODES), what)
    for item in items:
        if isinstance(item, dict):
            asked(name, exchange.request, "symbol", item, "symbol")
    readable(name, items, sum(isinstance(item, dict) and isinstance(item.get("symbol"), str) for item in items), what)
    return items


class PremiumIndex(Endpoint):
    """``/fapi/v1/premiumIndex``: mark, index and the funding rate to come, of all contracts in one call."""

    name: ClassVar[str] = "binance.premium_index"
    parser_version: ClassVar[int] = 2  # 2: more coins
    account: ClassVar[str] = VENUE
    paths: ClassVar[tuple[str, ...]] = ("/fapi/v1/premiumIndex",)
    query: ClassVar[frozenset[str]] = frozenset({"symbol"})

    def request(self, symbol: str | None = None, coins: Sequence[str] = ()) -> Request:
        """One symbol, or all; of all, rows are made of ``coins`` (ids; default: of every known one)."""
        return Request(self.name, self.paths[0], {"symbol": symbol} if symbol else {}, coins_context(coins))

    def parse(self, exchange: Exchange) -> Parsed:
        """mark_price, index_price, predicted_funding_rate of the known perpetual contracts, as of ``time``."""
        body = read_venue(exchange, _CODES)
        if isinstance(body, dict):
            if "symbol" not in body or "markPrice" not in body:
                raise MalformedPayload(self.name, f"expected a contract with symbol and markPrice, got {members(body)}")
            body = [body]
        items = expect_list(self.name, body, "contracts")
        book, chosen = Book(VENUE, self.name, exchange.fetched_at), wanted(exchange.request)
        seen: set[str] = set()
        for position, item in enumerate(items):
            if not isinstance(item, dict) or not isinstance(item.get("symbol"), str):
                book.found.add("wrong_type", f"item {position}", "symbol", f"expected a contract, got {shown(item)}")
                continue
            asked(self.name, exchange.request, "symbol", item, "symbol")
            seen.add(item["symbol"])
            contract = usdt_perpetual(item["symbol"])
            if contract is None and len(items) == 1:  # nobody asked for all of them
                book.found.add("unknown_id", item["symbol"], "symbol", "no perpetual contract of a known coin in USDT")
            if chosen(contract):
                self._state(book, contract, item)
        readable(self.name, items, len(seen), "a contract with a symbol")
        missing = absent(requested(exchange.request.params.get("symbol")), seen)
        return Parsed(book.rows(), book.found.all(), missing)

    def _state(self, book: Book, contract: Contract, item: Mapping[str, Any]) -> None:
        moment = book.time(contract.symbol, "time", item.get("time"))
        if moment is not None:
            book.state(contract, "mark_price", moment, item.get("markPrice"), None)
            book.state(contract, "index_price", moment, item.get("indexPrice"), None)
            book.state(contract, "predicted_funding_rate", moment, item.get("lastFundingRate"), None)


class OpenInterest(Endpoint):
    """``/fapi/v1/openInterest``: open interest of one symbol now."""

    name: ClassVar[str] = "binance.open_interest"
    parser_version: ClassVar[int] = 2  # 2: more coins
    account: ClassVar[str] = VENUE
    paths: ClassVar[tuple[str, ...]] = ("/fapi/v1/openInterest",)
    query: ClassVar[frozenset[str]] = frozenset({"symbol"})

    def request(self, symbol: str) -> Request:
        """One symbol."""
        return Request(self.name, self.paths[0], {"symbol": symbol})

    def parse(self, exchange: Exchange) -> Parsed:
        """open_interest (coins) as of ``time``."""
        item = expect_object(self.name, read_venue(exchange, _CODES), "openInterest, symbol, time")
        if not isinstance(item.get("symbol"), str) or "openInterest" not in item:
            raise MalformedPayload(self.name, f"expected openInterest, symbol and time, got {members(item)}")
        asked(self.name, exchange.request, "symbol", item, "symbol")
        book = Book(VENUE, self.name, exchange.fetched_at)
        contract = usdt_perpetual(item["symbol"])
        if contract is None:
            book.found.add("unknown_id", item["symbol"], "symbol", "no perpetual contract of a known coin in USDT")
            return Parsed((), book.found.all())
        moment = book.time(contract.symbol, "time", item.get("time"))
        if moment is not None:
            book.state(contract, "open_interest", moment, item["openInterest"], None)
        return Parsed(book.rows(), book.found.all())


class _Series(Endpoint):
    """A series of one symbol by time. ``members``: metric by member of an item; ``stamp``: the member of its time."""

    account: ClassVar[str] = VENUE
    stamp: ClassVar[str]
    stated: ClassVar[Mapping[str, str]]
    lag_ms: ClassVar[int]
    longest_ms: ClassVar[int]

    def parse(self, exchange: Exchange) -> Parsed:
        """A row per item and metric; ``next`` asks for the window before."""
        book = Book(VENUE, self.name, exchange.fetched_at)
        for position, item in enumerate(_items(exchange, f"items with symbol and {self.stamp}")):
            symbol = item.get("symbol") if isinstance(item, dict) else None
            if not isinstance(symbol, str):
                book.found.add("wrong_type", f"item {position}", "symbol", f"expected an item, got {shown(item)}")
                continue
            contract = usdt_perpetual(symbol)
            if contract is None:
                book.found.add("unknown_id", symbol, "symbol", "no perpetual contract of a known coin in USDT")
                continue
            moment = book.time(symbol, f"{self.stamp}#{position}", item.get(self.stamp))
            for member, metric in self.stated.items():
                if moment is not None:
                    book.state(contract, metric, moment, item.get(member), self.lag_ms)
        following = earlier(exchange.request, self.longest_ms, _BOUNDS)
        return Parsed(book.rows(), book.found.all(), next=following, oldest=book.oldest)


class FundingRate(_Series):
    """``/fapi/v1/fundingRate``: what was settled, every 8, 4 or 1 hours."""

    name: ClassVar[str] = "binance.funding_rate"
    parser_version: ClassVar[int] = 2  # 2: more coins
    paths: ClassVar[tuple[str, ...]] = ("/fapi/v1/fundingRate",)
    query: ClassVar[frozenset[str]] = frozenset({"symbol", "startTime", "endTime", "limit"})
    stamp: ClassVar[str] = "fundingTime"
    stated: ClassVar[Mapping[str, str]] = {"fundingRate": "funding_rate"}
    lag_ms: ClassVar[int] = FUNDING_LAG_MS
    longest_ms: ClassVar[int] = 990 * HOUR_MS  # a settlement an hour at most, 1,000 an answer

    def request(self, symbol: str, since: int, now: int) -> Request:
        """Settlements of ``symbol`` in [since, now] (ms)."""
        bare = Request(self.name, self.paths[0], {"symbol": symbol, "limit": "1000"})
        return in_range(bare, since, now, self.longest_ms, _BOUNDS)


class _Statistics(_Series):
    """``/futures/data``: series of 500 items at most, in steps of ``period``, kept for 30 days."""

    query: ClassVar[frozenset[str]] = frozenset({"symbol", "period", "startTime", "endTime", "limit"})
    stamp: ClassVar[str] = "timestamp"
    lag_ms: ClassVar[int] = SERIES_LAG_MS
    longest_ms: ClassVar[int] = 490 * HOUR_MS

    def request(self, symbol: str, since: int, now: int) -> Request:
        """Hourly statements of ``symbol`` in [since, now] (ms); what is older than 30 days is not asked for."""
        bare = Request(self.name, self.paths[0], {"symbol": symbol, "period": "1h", "limit": "500"})
        return in_range(bare, max(since, now - KEPT_MS), now, self.longest_ms, _BOUNDS)


class OpenInterestHist(_Statistics):
    """``/futures/data/openInterestHist``: open interest in coins and in USDT."""

    name: ClassVar[str] = "binance.open_interest_hist"
    parser_version: ClassVar[int] = 2  # 2: more coins
    paths: ClassVar[tuple[str, ...]] = ("/futures/data/openInterestHist",)
    stated: ClassVar[Mapping[str, str]] = {
        "sumOpenInterest": "open_interest",
        "sumOpenInterestValue": "open_interest_usd",
    }


class LongShort(_Statistics):
    """``/futures/data/globalLongShortAccountRatio``: accounts that are long / accounts that are short."""

    name: ClassVar[str] = "binance.long_short"
    parser_version: ClassVar[int] = 2  # 2: more coins
    paths: ClassVar[tuple[str, ...]] = ("/futures/data/globalLongShortAccountRatio",)
    stated: ClassVar[Mapping[str, str]] = {"longShortRatio": "long_short_ratio"}


ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    PremiumIndex(),
    FundingRate(),
    OpenInterest(),
    OpenInterestHist(),
    LongShort(),
)

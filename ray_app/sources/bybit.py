"""Bybit v5 (api.bybit.com): tickers, settled funding and open interest of linear contracts in USDT.

Formats: https://bybit-exchange.github.io/docs/v5 and upstreams.md §14. What trips people up:

* An error is HTTP 200 with ``retCode`` other than 0; 10006 means "slower". Too many requests of an address are a 403
  with "access too frequent" for ten minutes; a 403 page of CloudFront means a country it does not serve.
* Numbers and times in items are strings ("" is nothing), the answer's own ``time`` is a number.
* Funding history is newest first and refuses ``startTime`` alone; the next page ends before the oldest item.
* ``fundingRate`` of a ticker is the estimate for the settlement to come.

``open_interest`` is in coins (linear contracts are counted in the base coin); contracts of 1000 coins are scaled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final

from ray_app.errors import MalformedPayload, RateLimited
from ray_app.sources.base import Endpoint, Exchange, Parsed, Request
from ray_app.sources.derivatives import (
    FUNDING_LAG_MS,
    SERIES_LAG_MS,
    Book,
    Codes,
    asked,
    coins_context,
    read_venue,
    usdt_perpetual,
    wanted,
)
from ray_app.sources.reading import absent, as_number, expect_object, identifier, members, readable, requested, shown
from ray_app.sources.refusals import retry_after_s

VENUE: Final = "bybit"
LINEAR: Final = "linear"
#: how long an address is refused that asked too much, where the answer does not say
_PAUSE_S: Final = 600.0
_CODES: Final = Codes(
    slow_down=frozenset({10_006, 10_018}),
    transient=frozenset({10_000, 10_016}),
    banned=frozenset({10_009}),
    ban_s=_PAUSE_S,
)
_PAGE: Final = 200


def _answer(exchange: Exchange) -> dict[str, Any]:
    """The body of an answer about linear contracts, its ``result.list`` an array of objects or of anything."""
    name = exchange.request.endpoint
    if exchange.status == 403 and b"too frequent" in exchange.body[:4_000]:
        raise RateLimited(name, "HTTP 403: access too frequent", retry_after_s(exchange) or _PAUSE_S)
    body = expect_object(name, read_venue(exchange, _CODES), "retCode, result")
    result = body.get("result")
    if as_number(body.get("retCode")) != 0 or not isinstance(result, dict):
        raise MalformedPayload(name, f"expected retCode 0 and an object 'result', got {members(body)}")
    if not isinstance(result.get("list"), list):
        raise MalformedPayload(name, f"expected an array result.list, got {shown(result.get('list'))}")
    asked_for = exchange.request.params.get("category") or LINEAR
    if asked_for != LINEAR:
        raise MalformedPayload(name, f"the request is about {shown(asked_for)}, not linear contracts")
    if result.get("category", LINEAR) != LINEAR:
        raise MalformedPayload(name, f"the answer is about {shown(result.get('category'))}, not linear contracts")
    return body


class Tickers(Endpoint):
    """``/v5/market/tickers``: all linear contracts in one call."""

    name: ClassVar[str] = "bybit.tickers"
    account: ClassVar[str] = VENUE
    paths: ClassVar[tuple[str, ...]] = ("/v5/market/tickers",)
    parser_version: ClassVar[int] = 3  # 2: another category is no answer about linear contracts; 3: more coins
    query: ClassVar[frozenset[str]] = frozenset({"category", "symbol", "baseCoin", "expDate"})
    #: metric by member
    stated: ClassVar[Mapping[str, str]] = {
        "markPrice": "mark_price",
        "indexPrice": "index_price",
        "fundingRate": "predicted_funding_rate",
        "openInterest": "open_interest",
        "openInterestValue": "open_interest_usd",
        "turnover24h": "volume_24h_usd",
    }

    def request(self, symbol: str | None = None, coins: Sequence[str] = ()) -> Request:
        """One symbol, or all; of all, rows are made of ``coins`` (ids; default: of every known one)."""
        params = {"category": LINEAR} | ({"symbol": symbol} if symbol else {})
        return Request(self.name, self.paths[0], params, coins_context(coins))

    def parse(self, exchange: Exchange) -> Parsed:
        """Six metrics of each known perpetual contract in USDT, as of the answer's ``time``."""
        body, chosen = _answer(exchange), wanted(exchange.request)
        book = Book(VENUE, self.name, exchange.fetched_at)
        moment = book.time("tickers", "time", body.get("time"))
        if moment is None:
            raise MalformedPayload(self.name, f"the answer has no readable time, but {shown(body.get('time'))}")
        items, seen = body["result"]["list"], set()
        for position, item in enumerate(items):
            if not isinstance(item, dict) or not isinstance(item.get("symbol"), str):
                book.found.add("wrong_type", f"item {position}", "symbol", f"expected a ticker, got {shown(item)}")
                continue
            asked(self.name, exchange.request, "symbol", item, "symbol")
            seen.add(item["symbol"])
            contract = usdt_perpetual(item["symbol"])
            if contract is None and len(items) == 1:  # nobody asked for all of them
                book.found.add("unknown_id", item["symbol"], "symbol", "no perpetual contract of a known coin in USDT")
            if chosen(contract):
                for member, metric in self.stated.items():
                    book.state(contract, metric, moment, item.get(member), None)
        readable(self.name, items, len(seen), "a ticker with a symbol")
        missing = absent(requested(exchange.request.params.get("symbol")), seen)
        return Parsed(book.rows(), book.found.all(), missing)


class FundingHistory(Endpoint):
    """``/v5/market/funding/history``: what was settled, newest first."""

    name: ClassVar[str] = "bybit.funding_history"
    account: ClassVar[str] = VENUE
    paths: ClassVar[tuple[str, ...]] = ("/v5/market/funding/history",)
    parser_version: ClassVar[int] = 3  # 2: another category is no answer about linear contracts; 3: more coins
    query: ClassVar[frozenset[str]] = frozenset({"category", "symbol", "startTime", "endTime", "limit"})

    def request(self, symbol: str, since: int, now: int) -> Request:
        """Settlements of ``symbol`` in [since, now] (ms)."""
        params = {"category": LINEAR, "symbol": symbol, "startTime": str(since), "endTime": str(now)}
        return Request(self.name, self.paths[0], {**params, "limit": str(_PAGE)})

    def parse(self, exchange: Exchange) -> Parsed:
        """funding_rate rows; a full page is followed by the one before its oldest item."""
        items = _answer(exchange)["result"]["list"]
        book = Book(VENUE, self.name, exchange.fetched_at)
        read = 0
        for position, item in enumerate(items):
            symbol = item.get("symbol") if isinstance(item, dict) else None
            if not isinstance(symbol, str):
                book.found.add("wrong_type", f"item {position}", "symbol", f"expected a settlement, got {shown(item)}")
                continue
            read += 1
            asked(self.name, exchange.request, "symbol", item, "symbol")
            contract = usdt_perpetual(symbol)
            if contract is None:
                book.found.add("unknown_id", symbol, "symbol", "no perpetual contract of a known coin in USDT")
                continue
            moment = book.time(symbol, f"fundingRateTimestamp#{position}", item.get("fundingRateTimestamp"))
            if moment is not None:
                book.state(contract, "funding_rate", moment, item.get("fundingRate"), FUNDING_LAG_MS)
        readable(self.name, items, read, "a settlement with a symbol")
        rows = book.rows()
        return Parsed(rows, book.found.all(), next=self._next(exchange.request, len(items), book), oldest=book.oldest)

    def _next(self, request: Request, count: int, book: Book) -> Request | None:
        limit, start = as_number(request.params.get("limit", "200")), as_number(request.params.get("startTime", "0"))
        if book.oldest is None or limit is None or count < limit or start is None or book.oldest <= start:
            return None
        return replace(request, params={**request.params, "endTime": str(book.oldest - 1)})


class OpenInterest(Endpoint):
    """``/v5/market/open-interest``: open interest by the hour, newest first; the body names the symbol."""

    name: ClassVar[str] = "bybit.open_interest"
    account: ClassVar[str] = VENUE
    paths: ClassVar[tuple[str, ...]] = ("/v5/market/open-interest",)
    parser_version: ClassVar[int] = 3  # 2: another category is no answer about linear contracts; 3: more coins
    query: ClassVar[frozenset[str]] = frozenset(
        {"category", "symbol", "intervalTime", "startTime", "endTime", "limit", "cursor"}
    )

    def request(self, symbol: str, since: int, now: int) -> Request:
        """Hourly statements of ``symbol`` in [since, now] (ms)."""
        params = {"category": LINEAR, "symbol": symbol, "intervalTime": "1h"}
        bounds = {"startTime": str(since), "endTime": str(now), "limit": str(_PAGE)}
        return Request(self.name, self.paths[0], {**params, **bounds})

    def parse(self, exchange: Exchange) -> Parsed:
        """open_interest rows (coins); ``nextPageCursor`` leads to the page before."""
        result = _answer(exchange)["result"]
        asked(self.name, exchange.request, "symbol", result, "symbol")
        symbol = result.get("symbol", exchange.request.params.get("symbol"))
        if not isinstance(symbol, str):
            raise MalformedPayload(self.name, f"the answer names no symbol, but {shown(symbol)}")
        book = Book(VENUE, self.name, exchange.fetched_at)
        contract = usdt_perpetual(symbol)
        if contract is None:
            book.found.add("unknown_id", symbol, "symbol", "no perpetual contract of a known coin in USDT")
            return Parsed((), book.found.all())
        for position, item in enumerate(result["list"]):
            if not isinstance(item, dict):
                book.found.add("wrong_type", symbol, f"item {position}", f"expected an object, got {shown(item)}")
                continue
            moment = book.time(symbol, f"timestamp#{position}", item.get("timestamp"))
            if moment is not None:
                book.state(contract, "open_interest", moment, item.get("openInterest"), SERIES_LAG_MS)
        readable(self.name, result["list"], book.oldest is not None, "a statement with a timestamp")
        cursor, request = result.get("nextPageCursor"), exchange.request
        following = None
        if result["list"] and identifier(cursor) and cursor != request.params.get("cursor"):
            following = replace(request, params={**request.params, "cursor": str(cursor)})
        return Parsed(book.rows(), book.found.all(), next=following, oldest=book.oldest)


ENDPOINTS: Final[tuple[Endpoint, ...]] = (Tickers(), FundingHistory(), OpenInterest())

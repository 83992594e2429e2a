"""Deribit (www.deribit.com/api/v2/public): the volatility index DVOL, all options at once, settled funding.

Formats: https://docs.deribit.com and upstreams.md §14. What trips people up:

* Bodies are JSON-RPC: ``result``, or ``error`` with a code (10028: too many requests) under status 400, or 200.
* A candle of DVOL is ``[ms, open, high, low, close]`` and ``ms`` is its **start**; the newest may still be open.
  ``continuation`` is the ``end_timestamp`` of the page before. No body says which currency it is about.
* Funding is continuous. Each hour states ``interest_1h`` (what it came to) and ``interest_8h`` (of the last eight
  hours, what other venues settle): funding_rate_1h and funding_rate, both fractions. Adding up the second counts
  every hour eight times.
* Options in coins (``BTC-26JUN26-90000-C``) are counted in coins; those in USDC are under another currency.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, ClassVar, Final

from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS
from ray_app.errors import MalformedPayload
from ray_app.sources.base import Endpoint, Exchange, Parsed, Request
from ray_app.sources.derivatives import (
    FUNDING_LAG_MS,
    Book,
    Codes,
    Contract,
    earlier,
    in_range,
    instrument_of,
    read_venue,
)
from ray_app.sources.derivatives_coins import COINS
from ray_app.sources.reading import (
    Bounds,
    as_number,
    expect_list,
    expect_object,
    members,
    number,
    readable,
    shown,
)

VENUE: Final = "deribit"
_CODES: Final = Codes(
    slow_down=frozenset({10_028, 10_047, 10_066}),
    transient=frozenset({10_040, 10_041, 11_051, 11_094, 13_028, 13_503, 13_888}),
)
_BOUNDS: Final = ("start_timestamp", "end_timestamp")
#: lengths of DVOL's candles by what a request calls them
RESOLUTIONS: Final = {"1": 1_000, "60": MINUTE_MS, "3600": HOUR_MS, "43200": 12 * HOUR_MS, "1D": DAY_MS}
_CANDLE_LAG_MS: Final = MINUTE_MS
_OPEN: Final = Bounds("open interest in coins", 0.0, 1e12)
_LEVEL: Final = Bounds("a volatility in percent", 1.0, 1e3)


def _result(exchange: Exchange) -> Any:
    body = expect_object(exchange.request.endpoint, read_venue(exchange, _CODES), "result")
    if "result" not in body:
        raise MalformedPayload(exchange.request.endpoint, f"expected a member 'result', got {members(body)}")
    return body["result"]


def _coin(endpoint: str, request: Request) -> tuple[str, str]:
    """Currency and coin id of a request about one currency."""
    currency = instrument_of(endpoint, request, "currency").upper()
    if currency not in COINS:
        raise MalformedPayload(endpoint, f"the request's currency {shown(currency)} is no coin of the table")
    return currency, COINS[currency]


class VolatilityIndex(Endpoint):
    """``/public/get_volatility_index_data``: DVOL as candles."""

    name: ClassVar[str] = "deribit.volatility_index"
    account: ClassVar[str] = VENUE
    paths: ClassVar[tuple[str, ...]] = ("/public/get_volatility_index_data",)
    query: ClassVar[frozenset[str]] = frozenset({"currency", "start_timestamp", "end_timestamp", "resolution"})

    def request(self, currency: str, since: int, now: int) -> Request:
        """Hourly candles of ``currency`` (BTC, ETH) in [since, now] (ms)."""
        bounds = {"start_timestamp": str(since), "end_timestamp": str(now)}
        return Request(self.name, self.paths[0], {"currency": currency, "resolution": "3600", **bounds})

    def parse(self, exchange: Exchange) -> Parsed:
        """Dvol rows: the close of each closed candle, as of its end."""
        currency, coin_id = _coin(self.name, exchange.request)
        step = RESOLUTIONS.get(exchange.request.params.get("resolution", ""))
        if step is None:
            raise MalformedPayload(self.name, f"the request's resolution is none of {', '.join(RESOLUTIONS)}")
        result = expect_object(self.name, _result(exchange), "data, continuation")
        items = expect_list(self.name, result.get("data"), "[ms, open, high, low, close]")
        book = Book(VENUE, self.name, exchange.fetched_at)
        contract = Contract(f"{currency}DVOL", coin_id)
        timed = 0
        for position, item in enumerate(items):
            if not isinstance(item, list) or len(item) != 5:
                book.found.add("wrong_type", contract.symbol, f"candle#{position}", f"not five numbers: {shown(item)}")
                continue
            start = book.time(contract.symbol, f"candle#{position}", item[0])
            timed += start is not None
            if start is not None and start + step <= exchange.fetched_at and self._consistent(book, contract, item):
                book.state(contract, "dvol", start + step, item[4], _CANDLE_LAG_MS)
        readable(self.name, items, timed, "an array of 5 numbers that begins with epoch milliseconds")
        following = self._next(exchange.request, result.get("continuation"))
        return Parsed(book.rows(), book.found.all(), next=following, oldest=book.oldest)

    def _consistent(self, book: Book, contract: Contract, item: list[Any]) -> bool:
        """Whether open and close lie within low and high; an issue if not, or where one cannot be read."""
        where = str(item[0])[:20]
        read = [
            number(book.found, contract.symbol, f, v, _LEVEL, where=where)
            for f, v in zip("ohlc", item[1:], strict=True)
        ]
        opened, high, low, close = (value if value is not None else -1.0 for value in read)
        if -1.0 in (opened, high, low, close):
            return False
        if not low <= min(opened, close) <= max(opened, close) <= high:
            book.found.add("inconsistent", contract.symbol, f"candle@{where}", "open or close outside low and high")
            return False
        return True

    def _next(self, request: Request, continuation: object) -> Request | None:
        until, end = as_number(continuation), as_number(request.params.get("end_timestamp"))
        start = as_number(request.params.get("start_timestamp"))
        if until is None or end is None or start is None or not start < until < end:
            return None
        return replace(request, params={**request.params, "end_timestamp": str(int(until))})


class BookSummary(Endpoint):
    """``/public/get_book_summary_by_currency`` with ``kind=option``: every open option of a currency."""

    name: ClassVar[str] = "deribit.book_summary"
    parser_version: ClassVar[int] = 2  # 2: futures and such among the options are left alone
    account: ClassVar[str] = VENUE
    paths: ClassVar[tuple[str, ...]] = ("/public/get_book_summary_by_currency",)
    query: ClassVar[frozenset[str]] = frozenset({"currency", "kind"})

    def request(self, currency: str) -> Request:
        """All options of ``currency`` (BTC, ETH)."""
        return Request(self.name, self.paths[0], {"currency": currency, "kind": "option"})

    def parse(self, exchange: Exchange) -> Parsed:
        """put_call_ratio and options_open_interest, instrument ``<currency>-OPTIONS``, as of the latest summary.

        A sum that lacks a part is wrong: one option whose open interest cannot be read, or that is stated twice
        differently, costs both rows (an issue says which). Without open calls there is no ratio.
        """
        currency, coin_id = _coin(self.name, exchange.request)
        items = expect_list(self.name, _result(exchange), "summaries of options")
        book = Book(VENUE, self.name, exchange.fetched_at)
        expiry = rf"{currency}-\d{{1,2}}[A-Z]{{3}}\d{{2}}"
        pattern = re.compile(rf"{expiry}-[0-9d]+-([CP])", re.ASCII)
        other = re.compile(rf"{expiry}|{currency}-PERPETUAL|{currency}-[A-Z]{{2,5}}-[0-9A-Zd_-]+|{currency}_[A-Z]+")
        opened: dict[str, tuple[str, float]] = {}
        moments: list[int] = []
        whole = True
        for position, item in enumerate(items):
            name = item.get("instrument_name") if isinstance(item, dict) else None
            if isinstance(name, str) and other.fullmatch(name):
                continue  # without a kind, the answer is about futures, combinations and spot, too
            match = pattern.fullmatch(name) if isinstance(name, str) else None
            if match is None or not isinstance(item, dict):
                whole = False
                book.found.add("wrong_type", f"item {position}", "instrument_name", f"no option: {shown(item)}")
                continue
            read = number(book.found, match[0], "open_interest", item.get("open_interest"), _OPEN)
            moment = book.time(match[0], "creation_timestamp", item.get("creation_timestamp"))
            if read is None or opened.setdefault(match[0], (match[1], read)) != (match[1], read):
                whole = False
                book.found.add("inconsistent", match[0], "open_interest", "not stated, or stated twice: no sums")
            moments += [moment] if moment is not None else []
        readable(self.name, items, len(opened), f"an option of {currency} with its open interest")
        latest = max(moments, default=None)
        if whole and opened and latest is not None:
            sums = {side: sum(value for kind, value in opened.values() if kind == side) for side in "CP"}
            contract = Contract(f"{currency}-OPTIONS", coin_id)
            book.state(contract, "options_open_interest", latest, sums["C"] + sums["P"], None)
            if sums["C"] > 0:
                book.state(contract, "put_call_ratio", latest, sums["P"] / sums["C"], None)
        return Parsed(book.rows(), book.found.all())


class FundingHistory(Endpoint):
    """``/public/get_funding_rate_history``: an hourly statement of a perpetual contract's funding."""

    name: ClassVar[str] = "deribit.funding_history"
    account: ClassVar[str] = VENUE
    paths: ClassVar[tuple[str, ...]] = ("/public/get_funding_rate_history",)
    query: ClassVar[frozenset[str]] = frozenset({"instrument_name", "start_timestamp", "end_timestamp"})
    #: one answer holds 720 hours at most, the newest of its range (ccxt/ccxt#25040)
    longest_ms: ClassVar[int] = 29 * DAY_MS

    def request(self, instrument: str, since: int, now: int) -> Request:
        """Hours of ``instrument`` (BTC-PERPETUAL) in [since, now] (ms), 29 days a page.

        The venue does not count ``start_timestamp`` in (ccxt/ccxt#20876), so it is sent a millisecond early.
        """
        bare = Request(self.name, self.paths[0], {"instrument_name": instrument})
        return in_range(bare, since - 1, now, self.longest_ms, _BOUNDS)

    def parse(self, exchange: Exchange) -> Parsed:
        """funding_rate, funding_rate_1h and index_price of each hour, as of its end."""
        instrument = instrument_of(self.name, exchange.request, "instrument_name")
        coin_id = COINS.get(instrument.removesuffix("-PERPETUAL"))
        if coin_id is None or not instrument.endswith("-PERPETUAL"):
            raise MalformedPayload(self.name, f"{shown(instrument)} is no perpetual contract such as BTC-PERPETUAL")
        items = expect_list(self.name, _result(exchange), "hours of funding")
        book = Book(VENUE, self.name, exchange.fetched_at)
        contract = Contract(instrument, coin_id)
        for position, item in enumerate(items):
            if not isinstance(item, dict):
                book.found.add("wrong_type", instrument, f"item {position}", f"expected an object, got {shown(item)}")
                continue
            moment = book.time(instrument, f"timestamp#{position}", item.get("timestamp"))
            if moment is not None:
                book.state(contract, "funding_rate", moment, item.get("interest_8h"), FUNDING_LAG_MS)
                book.state(contract, "funding_rate_1h", moment, item.get("interest_1h"), FUNDING_LAG_MS)
                book.state(contract, "index_price", moment, item.get("index_price"), FUNDING_LAG_MS)
        readable(self.name, items, book.oldest is not None, "an hour with a timestamp")
        following = earlier(exchange.request, self.longest_ms, _BOUNDS)
        return Parsed(book.rows(), book.found.all(), next=following, oldest=book.oldest)


ENDPOINTS: Final[tuple[Endpoint, ...]] = (VolatilityIndex(), BookSummary(), FundingHistory())

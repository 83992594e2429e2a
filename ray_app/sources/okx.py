"""OKX (www.okx.com/api/v5/public): funding, open interest and marks of perpetual swaps in USDT.

Formats: https://www.okx.com/docs-v5 and upstreams.md §14. What trips people up:

* ``code`` is a string, "0" where all is well; "50011" means "slower". All in ``data`` is strings; "" is nothing.
* ``fundingTime`` of ``/funding-rate`` lies ahead: its rate is an estimate. In the history ``fundingRate`` is what was
  predicted and ``realizedRate`` what was paid; older answers lack the second, and there the first is taken.
* ``oi`` counts contracts (0.01 BTC each, other coins differ): ``oiCcy`` is in coins, ``oiUsd`` in dollars.
* The history is newest first and keeps three months; ``after`` asks for what is **older** than a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final

from ray_app.errors import MalformedPayload
from ray_app.sources.base import Endpoint, Exchange, Parsed, Request
from ray_app.sources.derivatives import (
    FUNDING_LAG_MS,
    Book,
    Codes,
    asked,
    coins_context,
    present,
    read_venue,
    usdt_swap,
    wanted,
)
from ray_app.sources.reading import absent, as_number, expect_object, members, readable, requested, shown

VENUE: Final = "okx"
_CODES: Final = Codes(
    slow_down=frozenset({50_011, 50_061}),
    transient=frozenset({50_001, 50_004, 50_005, 50_013, 50_026}),
)
_PAGE: Final = 100


def _data(exchange: Exchange) -> list[Any]:
    """``data`` of a good answer, an array about what was asked for."""
    name = exchange.request.endpoint
    body = expect_object(name, read_venue(exchange, _CODES), "code, data")
    data = body.get("data")
    if body.get("code") not in ("0", 0) or not isinstance(data, list):
        raise MalformedPayload(name, f"expected code \"0\" and an array 'data', got {members(body)}")
    named = [item for item in data if isinstance(item, dict) and isinstance(item.get("instId"), str)]
    readable(name, data, len(named), "a statement with an instId")
    if exchange.request.params.get("instId") != "ANY":
        for item in named:
            asked(name, exchange.request, "instId", item, "instId")
    return data


class _Snapshot(Endpoint):
    """What is the case now, of one swap or all. ``stated``: metric by member."""

    account: ClassVar[str] = VENUE
    stated: ClassVar[Mapping[str, str]]

    def parse(self, exchange: Exchange) -> Parsed:
        """Rows of the known swaps as of ``ts``; an item without it (older answers) as of the fetch."""
        book, chosen = Book(VENUE, self.name, exchange.fetched_at), wanted(exchange.request)
        seen: set[str] = set()
        items = _data(exchange)
        for position, item in enumerate(items):
            if not isinstance(item, dict) or not isinstance(item.get("instId"), str):
                book.found.add("wrong_type", f"item {position}", "instId", f"expected a statement, got {shown(item)}")
                continue
            seen.add(item["instId"])
            contract = usdt_swap(item["instId"])
            if contract is None and len(items) == 1:  # nobody asked for all of them
                book.found.add("unknown_id", item["instId"], "instId", "no swap of a known coin in USDT")
            if not chosen(contract):
                continue
            dated = present(item.get("ts")) is not None
            moment = book.time(contract.symbol, "ts", item["ts"]) if dated else exchange.fetched_at
            for member, metric in self.stated.items():
                if moment is not None:
                    book.state(contract, metric, moment, item.get(member), None)
        named = [one for one in requested(exchange.request.params.get("instId")) if one != "ANY"]
        return Parsed(book.rows(), book.found.all(), absent(named, seen))


class FundingRate(_Snapshot):
    """``/public/funding-rate``: the estimate for the settlement to come."""

    name: ClassVar[str] = "okx.funding_rate"
    parser_version: ClassVar[int] = 2  # 2: more coins
    paths: ClassVar[tuple[str, ...]] = ("/api/v5/public/funding-rate",)
    query: ClassVar[frozenset[str]] = frozenset({"instId"})
    stated: ClassVar[Mapping[str, str]] = {"fundingRate": "predicted_funding_rate"}

    def request(self, inst_id: str = "ANY", coins: Sequence[str] = ()) -> Request:
        """One swap, or all; of all, rows are made of ``coins`` (ids; default: of every known one)."""
        return Request(self.name, self.paths[0], {"instId": inst_id}, coins_context(coins))


class OpenInterest(_Snapshot):
    """``/public/open-interest``: of one swap, or all in one call."""

    name: ClassVar[str] = "okx.open_interest"
    parser_version: ClassVar[int] = 2  # 2: more coins
    paths: ClassVar[tuple[str, ...]] = ("/api/v5/public/open-interest",)
    query: ClassVar[frozenset[str]] = frozenset({"instType", "instId", "uly", "instFamily"})
    stated: ClassVar[Mapping[str, str]] = {
        "oi": "open_interest_contracts",
        "oiCcy": "open_interest",
        "oiUsd": "open_interest_usd",
    }

    def request(self, inst_id: str | None = None, coins: Sequence[str] = ()) -> Request:
        """One swap, or all; of all, rows are made of ``coins`` (ids; default: of every known one)."""
        params = {"instType": "SWAP"} | ({"instId": inst_id} if inst_id else {})
        return Request(self.name, self.paths[0], params, coins_context(coins))


class MarkPrice(_Snapshot):
    """``/public/mark-price``: of one swap, or all in one call."""

    name: ClassVar[str] = "okx.mark_price"
    parser_version: ClassVar[int] = 2  # 2: more coins
    paths: ClassVar[tuple[str, ...]] = ("/api/v5/public/mark-price",)
    query: ClassVar[frozenset[str]] = frozenset({"instType", "instId", "uly", "instFamily"})
    stated: ClassVar[Mapping[str, str]] = {"markPx": "mark_price"}

    def request(self, inst_id: str | None = None, coins: Sequence[str] = ()) -> Request:
        """One swap, or all; of all, rows are made of ``coins`` (ids; default: of every known one)."""
        params = {"instType": "SWAP"} | ({"instId": inst_id} if inst_id else {})
        return Request(self.name, self.paths[0], params, coins_context(coins))


class FundingRateHistory(Endpoint):
    """``/public/funding-rate-history``: what was settled, newest first, three months back."""

    name: ClassVar[str] = "okx.funding_rate_history"
    parser_version: ClassVar[int] = 2  # 2: more coins
    account: ClassVar[str] = VENUE
    paths: ClassVar[tuple[str, ...]] = ("/api/v5/public/funding-rate-history",)
    query: ClassVar[frozenset[str]] = frozenset({"instId", "before", "after", "limit"})

    def request(self, inst_id: str, since: int) -> Request:
        """The newest settlements of ``inst_id``, and page by page what is older, until ``since`` (ms)."""
        params = {"instId": inst_id, "limit": str(_PAGE)}
        return Request(self.name, self.paths[0], params, {"since": str(since)})

    def parse(self, exchange: Exchange) -> Parsed:
        """funding_rate rows: ``realizedRate`` where it is stated, else ``fundingRate``."""
        items = _data(exchange)
        book = Book(VENUE, self.name, exchange.fetched_at)
        for position, item in enumerate(items):
            symbol = item.get("instId") if isinstance(item, dict) else None
            if not isinstance(symbol, str):
                book.found.add("wrong_type", f"item {position}", "instId", f"expected a settlement, got {shown(item)}")
                continue
            contract = usdt_swap(symbol)
            if contract is None:
                book.found.add("unknown_id", symbol, "instId", "no swap of a known coin in USDT")
                continue
            moment = book.time(symbol, f"fundingTime#{position}", item.get("fundingTime"))
            paid = present(item.get("realizedRate"))
            if moment is not None:
                rate = item.get("fundingRate") if paid is None else paid
                book.state(contract, "funding_rate", moment, rate, FUNDING_LAG_MS)
        rows = book.rows()
        return Parsed(rows, book.found.all(), next=self._next(exchange.request, len(items), book), oldest=book.oldest)

    def _next(self, request: Request, count: int, book: Book) -> Request | None:
        since, limit = as_number(request.context.get("since")), as_number(request.params.get("limit", str(_PAGE)))
        before, oldest = as_number(request.params.get("after")), book.oldest
        if since is None or limit is None or count < limit or oldest is None or oldest <= since:
            return None
        if before is not None and oldest >= before:
            return None  # the venue did not go back: asking again would not end
        return replace(request, params={**request.params, "after": str(oldest)})


ENDPOINTS: Final[tuple[Endpoint, ...]] = (FundingRate(), FundingRateHistory(), OpenInterest(), MarkPrice())

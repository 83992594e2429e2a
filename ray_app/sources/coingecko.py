"""CoinGecko (api.coingecko.com/api/v3): prices in bulk, the list of coins, the whole market.

The time series of one coin are in ``coingecko_charts.py``.

Formats: https://docs.coingecko.com/reference and upstreams.md §1. What trips people up:

* Ids asked for and unknown are silently absent from the answer: ``Parsed.missing``.
* ``price_change_24h`` is in USD, ``price_change_percentage_24h`` in percent.

``known_at``: see ray_app/sources/rows.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from ray_app.errors import MalformedPayload
from ray_app.sources.base import Endpoint, Exchange, JsonScalar, Parsed, Request, Row
from ray_app.sources.coingecko_base import MAX_IDS, CoinGeckoEndpoint
from ray_app.sources.coingecko_charts import MarketChart, Ohlc
from ray_app.sources.context import slot_context, slot_of
from ray_app.sources.reading import (
    COUNT,
    PERCENT_CHANGE,
    PERCENT_SHARE,
    PRICE,
    RANK,
    SUPPLY,
    USD_AMOUNT,
    USD_CHANGE,
    Bounds,
    Findings,
    absent,
    decimal,
    epoch_time,
    expect_list,
    expect_object,
    identifier,
    integer,
    iso_time,
    not_ahead,
    number,
    readable,
    requested,
    shown,
    text,
)
from ray_app.sources.refusals import read_answer
from ray_app.sources.rows import Slot, price_row


class Markets(CoinGeckoEndpoint):
    """``/coins/markets``: the current price and 24 h figures of up to 250 coins in one call."""

    name: ClassVar[str] = "coingecko.markets"
    parser_version: ClassVar[int] = 2  # 2: open_24h is the difference of the decimals as stated
    paths: ClassVar[tuple[str, ...]] = ("/coins/markets",)
    query: ClassVar[frozenset[str]] = frozenset(
        {"vs_currency", "ids", "names", "symbols", "include_tokens", "category", "order", "per_page", "page"}
        | {"sparkline", "price_change_percentage", "locale", "precision", "include_rehypothecated"}
    )

    def request(self, coin_ids: Sequence[str], slot: int | None = None, interval_s: int = 300) -> Request:
        """Prices of ``coin_ids`` (at most 250) for the slot that starts at ``slot`` (ms)."""
        if not 1 <= len(coin_ids) <= MAX_IDS:
            raise ValueError(f"{self.name} takes 1 to {MAX_IDS} ids, not {len(coin_ids)}")
        params = {
            "vs_currency": "usd",
            "ids": ",".join(coin_ids),
            "per_page": str(MAX_IDS),
            "page": "1",
            "sparkline": "false",
            "precision": "full",
        }
        return Request(self.name, "/coins/markets", params, slot_context(slot, interval_s))

    def parse(self, exchange: Exchange) -> Parsed:
        """One price_data_real row per coin that has a price and a time; the rest are issues."""
        self.in_usd(exchange)
        items = expect_list(self.name, read_answer(exchange), "coins")
        found, slot = Findings(), slot_of(exchange)
        answered: set[str] = set()
        rows: dict[str, Row] = {}
        for position, item in enumerate(items):
            coin_id = identifier(item.get("id")) if isinstance(item, dict) else None
            if coin_id is None:
                found.add("wrong_type", f"item {position}", "id", f"expected a coin, got {shown(item)!r}")
                continue
            answered.add(coin_id)
            row = self._row(found, coin_id, item, slot, exchange.fetched_at)
            if row is not None:
                _keep_latest(found, rows, coin_id, row)
        readable(self.name, items, len(answered), "a coin with an id")
        asked = requested(exchange.request.params.get("ids"))
        return Parsed(tuple(r for r in rows.values() if r.values), found.all(), absent(asked, answered))

    def _row(self, found: Findings, coin_id: str, item: Mapping[str, Any], slot: Slot, fetched_at: int) -> Row | None:
        def usd(field: str, bounds: Bounds = PRICE) -> float | None:
            return number(found, coin_id, field, item.get(field), bounds)

        price = number(found, coin_id, "current_price", item.get("current_price"), PRICE)
        event_time = iso_time(found, coin_id, "last_updated", item.get("last_updated"))
        event_time = not_ahead(found, coin_id, "last_updated", event_time, fetched_at)
        if price is not None and item.get("last_updated") is None:
            found.add("inconsistent", coin_id, "last_updated", "a price without its time")
        change = usd("price_change_24h", USD_CHANGE)
        high, low = usd("high_24h"), usd("low_24h")
        if high is not None and low is not None and high < low:
            found.add("inconsistent", coin_id, "high_24h", f"high {high:g} is below low {low:g}")
            high = low = None
        values: dict[str, JsonScalar] = {
            "price_change_24h": change,
            "price_change_percentage_24h": usd("price_change_percentage_24h", PERCENT_CHANGE),
            "market_cap": usd("market_cap", USD_AMOUNT),
            "market_cap_rank": integer(found, coin_id, "market_cap_rank", item.get("market_cap_rank"), RANK),
            "fully_diluted_valuation": usd("fully_diluted_valuation", USD_AMOUNT),
            "volume_usd_24h": number(found, coin_id, "total_volume", item.get("total_volume"), USD_AMOUNT),
            "high_24h": high,
            "low_24h": low,
            "open_24h": _open_24h(found, coin_id, price, change),
            "circulating_supply": usd("circulating_supply", SUPPLY),
            "total_supply": usd("total_supply", SUPPLY),
            "max_supply": usd("max_supply", SUPPLY),
            "ath": usd("ath"),
            "ath_date": iso_time(found, coin_id, "ath_date", item.get("ath_date")),
            "atl": usd("atl"),
            "atl_date": iso_time(found, coin_id, "atl_date", item.get("atl_date")),
        }
        if price is None or event_time is None:
            return None
        return price_row(
            ("coin_id", coin_id),
            slot,
            self.name,
            event_time=event_time,
            known_at=fetched_at,
            current_price=price,
            **values,
        )


def _open_24h(found: Findings, coin_id: str, price: float | None, change: float | None) -> float | None:
    """Computed: the price 24 h ago, ``current_price - price_change_24h`` (USD); None if either is missing."""
    if price is None or change is None:
        return None
    opened = float(decimal(price) - decimal(change))
    if opened <= 0:
        found.add("inconsistent", coin_id, "price_change_24h", f"{change:g} USD leaves no price 24 h ago")
        return None
    return opened


def _keep_latest(found: Findings, rows: dict[str, Row], coin_id: str, row: Row) -> None:
    """Of a coin stated twice in one body the later statement counts; two of one moment that differ leave no row."""
    before = rows.setdefault(coin_id, row)
    if before == row:
        return
    if before.event_version == row.event_version:
        found.add("duplicate", coin_id, "current_price", "stated twice for one moment with different values")
        rows[coin_id] = Row(row.table, row.key, {}, row.event_version)  # holds the place: no values, no row
    else:
        found.add("duplicate", coin_id, "last_updated", "stated twice; the later statement counts")
        rows[coin_id] = max(before, row, key=lambda r: r.event_version)


class SimplePrice(CoinGeckoEndpoint):
    """``/simple/price``: price, market cap, 24 h volume and change in percent. No highs, lows or ranks.

    The body is an object by coin id. Without ``include_last_updated_at`` it has no time: then the price is of the
    fetch, as far as anyone can say, and ``event_time`` is ``fetched_at``.
    """

    name: ClassVar[str] = "coingecko.simple_price"
    keyed: ClassVar[frozenset[str]] = frozenset({""})
    paths: ClassVar[tuple[str, ...]] = ("/simple/price",)
    query: ClassVar[frozenset[str]] = frozenset(
        {"vs_currencies", "ids", "names", "symbols", "include_tokens", "include_market_cap", "include_24hr_vol"}
        | {"include_24hr_change", "include_last_updated_at", "precision"}
    )

    def request(self, coin_ids: Sequence[str], slot: int | None = None, interval_s: int = 300) -> Request:
        """Prices of ``coin_ids`` (at most 250) for the slot that starts at ``slot`` (ms)."""
        if not 1 <= len(coin_ids) <= MAX_IDS:
            raise ValueError(f"{self.name} takes 1 to {MAX_IDS} ids, not {len(coin_ids)}")
        extras = ("include_market_cap", "include_24hr_vol", "include_24hr_change", "include_last_updated_at")
        params = {"vs_currencies": "usd", "ids": ",".join(coin_ids), "precision": "full"} | dict.fromkeys(
            extras, "true"
        )
        return Request(self.name, "/simple/price", params, slot_context(slot, interval_s))

    def parse(self, exchange: Exchange) -> Parsed:
        """One price_data_real row per coin with a price."""
        self.in_usd(exchange, "vs_currencies")
        body = expect_object(self.name, read_answer(exchange), "prices by coin id")
        found, slot = Findings(), slot_of(exchange)
        rows: list[Row] = []
        entries = 0
        for coin_id, item in body.items():
            if identifier(coin_id) is None or not isinstance(item, dict):
                found.add("wrong_type", coin_id, "usd", f"expected an object of prices, got {shown(item)!r}")
                continue
            entries += 1
            row = self._row(found, coin_id, item, slot, exchange.fetched_at)
            if row is not None:
                rows.append(row)
        readable(self.name, list(body.items()), entries, "an object of prices")
        asked = requested(exchange.request.params.get("ids"))
        return Parsed(tuple(rows), found.all(), absent(asked, body))

    def _row(self, found: Findings, coin_id: str, item: Mapping[str, Any], slot: Slot, fetched_at: int) -> Row | None:
        price = number(found, coin_id, "usd", item.get("usd"), PRICE)
        market_cap = number(found, coin_id, "usd_market_cap", item.get("usd_market_cap"), USD_AMOUNT)
        volume = number(found, coin_id, "usd_24h_vol", item.get("usd_24h_vol"), USD_AMOUNT)
        change = number(found, coin_id, "usd_24h_change", item.get("usd_24h_change"), PERCENT_CHANGE)
        event_time: int | None = fetched_at
        if "last_updated_at" in item:
            event_time = epoch_time(found, coin_id, "last_updated_at", item["last_updated_at"], 1_000)
            event_time = not_ahead(found, coin_id, "last_updated_at", event_time, fetched_at)
            if price is not None and item["last_updated_at"] is None:
                found.add("inconsistent", coin_id, "last_updated_at", "a price without its time")
        if price is None or event_time is None:
            return None
        return price_row(
            ("coin_id", coin_id),
            slot,
            self.name,
            event_time=event_time,
            known_at=fetched_at,
            current_price=price,
            market_cap=market_cap,
            volume_usd_24h=volume,
            price_change_percentage_24h=change,
        )


class CoinsList(CoinGeckoEndpoint):
    """``/coins/list``: every coin's id, ticker and name. Tickers are not unique."""

    name: ClassVar[str] = "coingecko.coins_list"
    paths: ClassVar[tuple[str, ...]] = ("/coins/list",)
    query: ClassVar[frozenset[str]] = frozenset({"include_platform", "status"})

    def request(self) -> Request:
        """All active coins."""
        return Request(self.name, "/coins/list", {"include_platform": "false", "status": "active"})

    def parse(self, exchange: Exchange) -> Parsed:
        """crypto_assets rows keyed by coin id: symbol (upper case) and name. The list has no time: it is of the fetch.

        A coin whose ticker or name cannot be read keeps its row with None there: it is listed, and must not look
        as if it had vanished.
        """
        items = expect_list(self.name, read_answer(exchange), "coins")
        found = Findings()
        rows: dict[str, Row] = {}
        for position, item in enumerate(items):
            coin_id = identifier(item.get("id")) if isinstance(item, dict) else None
            if coin_id is None:
                found.add("wrong_type", f"item {position}", "id", f"expected a coin, got {shown(item)!r}")
                continue
            symbol = text(found, coin_id, "symbol", item.get("symbol"), longest=32)
            name = text(found, coin_id, "name", item.get("name"), longest=300)
            ticker = symbol.upper() if symbol is not None else None
            row = Row("crypto_assets", {"coin_id": coin_id}, {"symbol": ticker, "name": name}, exchange.fetched_at)
            if rows.setdefault(coin_id, row) != row:
                found.add("duplicate", coin_id, "symbol", "listed twice differently; the first counts")
        readable(self.name, items, len(rows), "a coin with an id")
        return Parsed(tuple(rows.values()), found.all())


class Global(CoinGeckoEndpoint):
    """``/global``: the whole market in one object, with its own time."""

    name: ClassVar[str] = "coingecko.global"
    paths: ClassVar[tuple[str, ...]] = ("/global",)

    def request(self) -> Request:
        """The whole market now."""
        return Request(self.name, "/global")

    def parse(self, exchange: Exchange) -> Parsed:
        """One market_data row."""
        body = expect_object(self.name, read_answer(exchange), "data")
        data = body.get("data")
        if not isinstance(data, dict):
            raise MalformedPayload(self.name, f"no object 'data' in the body, but {shown(data)}")
        found = Findings()
        event_time = epoch_time(found, "global", "updated_at", data.get("updated_at"), 1_000)
        event_time = not_ahead(found, "global", "updated_at", event_time, exchange.fetched_at)
        if event_time is None:
            raise MalformedPayload(self.name, f"updated_at is {shown(data.get('updated_at'))}: figures without a time")

        def member(field: str, key: str, bounds: Bounds) -> float | None:
            values = data.get(field)
            if values is not None and not isinstance(values, dict):
                found.add("wrong_type", "global", field, f"expected an object, got {shown(values)!r}")
                return None
            return number(found, "global", f"{field}.{key}", (values or {}).get(key), bounds)

        values: dict[str, JsonScalar] = {
            "known_at": exchange.fetched_at,
            "total_market_cap_usd": member("total_market_cap", "usd", USD_AMOUNT),
            "total_volume_usd": member("total_volume", "usd", USD_AMOUNT),
            "btc_dominance_pct": member("market_cap_percentage", "btc", PERCENT_SHARE),
            "eth_dominance_pct": member("market_cap_percentage", "eth", PERCENT_SHARE),
            "market_cap_change_percentage_24h": number(
                found,
                "global",
                "market_cap_change_percentage_24h_usd",
                data.get("market_cap_change_percentage_24h_usd"),
                PERCENT_CHANGE,
            ),
            "active_cryptocurrencies": integer(
                found, "global", "active_cryptocurrencies", data.get("active_cryptocurrencies"), COUNT
            ),
            "markets": integer(found, "global", "markets", data.get("markets"), COUNT),
        }
        if all(value is None for name, value in values.items() if name != "known_at"):
            raise MalformedPayload(self.name, "none of the documented figures is in 'data'")
        row = Row("market_data", {"source": self.name, "event_time": event_time}, values, event_time)
        return Parsed((row,), found.all())


class Key(CoinGeckoEndpoint):
    """``/key`` (paid plans): what the key may spend, and what has been spent with it this month, by whomever.

    An account has limits, and each of its keys may have its own: the one of which less is left counts.
    """

    name: ClassVar[str] = "coingecko.key"
    paths: ClassVar[tuple[str, ...]] = ("/key",)

    def request(self) -> Request:
        """The key that the request is sent with."""
        return Request(self.name, "/key")

    def parse(self, exchange: Exchange) -> Parsed:
        """One account_plans row; its ``key_usage`` is JSON: plan, calls, credits, per_minute."""
        body = expect_object(self.name, read_answer(exchange), "the key's usage")
        found = Findings()

        def count(field: str) -> int | None:
            return integer(found, "key", field, body.get(field), COUNT)

        calls, credits_ = count("current_total_monthly_calls"), count("monthly_call_credit")
        own_calls, own_credits = count("api_key_current_total_monthly_calls"), count("api_key_monthly_call_credit")
        if calls is None:
            raise MalformedPayload(self.name, "no number 'current_total_monthly_calls' in the body")
        if own_calls is not None and own_credits:
            left = credits_ - calls if credits_ else own_credits
            if own_credits - own_calls <= left:
                calls, credits_ = own_calls, own_credits
        rates = [count("rate_limit_request_per_minute"), count("api_key_rate_limit_request_per_minute")]
        usage = {
            "plan": text(found, "key", "plan", body.get("plan"), longest=64),
            "calls": calls,
            "credits": credits_ or None,
            "per_minute": min((rate for rate in rates if rate), default=None),
        }
        values: dict[str, JsonScalar] = {"key_usage": json.dumps(usage), "updated_at": exchange.fetched_at}
        row = Row("account_plans", {"account": self.account}, values, exchange.fetched_at)
        return Parsed((row,), found.all())


ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    Markets(),
    SimplePrice(),
    MarketChart(),
    Ohlc(),
    CoinsList(),
    Global(),
    Key(),
)

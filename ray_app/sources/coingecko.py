"""CoinGecko (api.coingecko.com/api/v3): prices in bulk, price history, candles, the list of coins, the whole market.

Formats: https://docs.coingecko.com/reference and upstreams.md §1. What trips people up:

* Ids asked for and unknown are silently absent from the answer: ``Parsed.missing``.
* ``price_change_24h`` is in USD, ``price_change_percentage_24h`` in percent.
* The time stamp of ``/ohlc`` is the candle's **close**, and the candle's length follows from ``days``.
* ``total_volumes`` of ``/market_chart`` is a rolling 24 h figure, not the volume of a bar.

``known_at``: see ray_app/sources/rows.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Final
from urllib.parse import quote

from ray_app.clock import DAY_MS, MINUTE_MS
from ray_app.errors import MalformedPayload
from ray_app.sources.addressing import path_values
from ray_app.sources.base import Endpoint, Exchange, JsonScalar, Parsed, Request, Row
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
    Findings,
    absent,
    epoch_time,
    expect_list,
    expect_object,
    identifier,
    integer,
    iso_time,
    members,
    not_ahead,
    number,
    readable,
    requested,
    shown,
    text,
)
from ray_app.sources.refusals import read_answer
from ray_app.sources.rows import Candle, Slot, candle_row, consistent, price_row, settle, slot_at

ACCOUNT: Final = "coingecko"
MAX_IDS: Final = 250
#: /ohlc is cached 15 minutes; the last UTC day is ready at 00:35 UTC (CoinGecko's documentation of the endpoint).
OHLC_LAG_MS: Final = 15 * MINUTE_MS
OHLC_DAILY_LAG_MS: Final = 35 * MINUTE_MS
#: /market_chart is cached up to 5 minutes.
CHART_LAG_MS: Final = 5 * MINUTE_MS
_NAMED_INTERVALS: Final = {"5m": 300, "hourly": 3_600, "daily": 86_400}


class CoinGeckoEndpoint(Endpoint):
    """What the endpoints of this upstream have in common."""

    account: ClassVar[str] = ACCOUNT

    def _in_usd(self, exchange: Exchange, parameter: str = "vs_currency") -> None:
        """The body does not say its currency; the request must have asked for USD (every request of ours does)."""
        asked = requested(exchange.request.params.get(parameter, "usd").lower())
        if "usd" not in asked:
            raise MalformedPayload(self.name, f"asked in {', '.join(asked)}; this table is in USD: ask {parameter}=usd")

    def _coin_id(self, exchange: Exchange) -> str:
        return path_values(self, exchange.request.path)["id"]


class Markets(CoinGeckoEndpoint):
    """``/coins/markets``: the current price and 24 h figures of up to 250 coins in one call."""

    name: ClassVar[str] = "coingecko.markets"
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
        self._in_usd(exchange)
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
        def usd(field: str, bounds: Any = PRICE) -> float | None:
            return number(found, coin_id, field, item.get(field), bounds)

        price = _price(found, coin_id, "current_price", item.get("current_price"))
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


def _price(found: Findings, subject: str, field: str, value: object, where: str | None = None) -> float | None:
    """A price: a number above 0 in sane bounds; null stays None without an issue."""
    return number(found, subject, field, value, PRICE, where=where)


def _open_24h(found: Findings, coin_id: str, price: float | None, change: float | None) -> float | None:
    """Computed: the price 24 h ago, ``current_price - price_change_24h`` (USD); None if either is missing."""
    if price is None or change is None:
        return None
    opened = price - change
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
        self._in_usd(exchange, "vs_currencies")
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
        price = _price(found, coin_id, "usd", item.get("usd"))
        market_cap = number(found, coin_id, "usd_market_cap", item.get("usd_market_cap"), USD_AMOUNT)
        volume = number(found, coin_id, "usd_24h_vol", item.get("usd_24h_vol"), USD_AMOUNT)
        change = number(found, coin_id, "usd_24h_change", item.get("usd_24h_change"), PERCENT_CHANGE)
        event_time: int | None = fetched_at
        if "last_updated_at" in item:
            event_time = epoch_time(found, coin_id, "last_updated_at", item["last_updated_at"], 1_000)
            event_time = not_ahead(found, coin_id, "last_updated_at", event_time, fetched_at)
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


class MarketChart(CoinGeckoEndpoint):
    """``/coins/{id}/market_chart`` and ``…/range``: past prices of one coin, for slots that were missed.

    The three arrays are joined by time stamp. A slot takes the last price in it; slots without one stay owed.
    """

    name: ClassVar[str] = "coingecko.market_chart"
    paths: ClassVar[tuple[str, ...]] = ("/coins/{id}/market_chart/range", "/coins/{id}/market_chart")
    query: ClassVar[frozenset[str]] = frozenset({"vs_currency", "days", "from", "to", "interval", "precision"})

    def request(self, coin_id: str, start_ms: int, end_ms: int, interval_s: int = 300) -> Request:
        """Prices in ``[start_ms, end_ms)``, to fill slots of ``interval_s`` seconds.

        Without a paid plan CoinGecko chooses the spacing: 5 min up to a day, hourly up to 90 days, else daily.
        """
        params = {
            "vs_currency": "usd",
            "from": str(start_ms // 1_000),
            "to": str(max(end_ms - 1, start_ms) // 1_000),
            "precision": "full",
        }
        path = f"/coins/{quote(coin_id, safe='')}/market_chart/range"
        return Request(self.name, path, params, {"interval_s": str(interval_s)})

    def parse(self, exchange: Exchange) -> Parsed:
        """price_data_real rows with price, market cap and rolling 24 h volume, ascending."""
        self._in_usd(exchange)
        coin_id = self._coin_id(exchange)
        body = expect_object(self.name, read_answer(exchange), "prices, market_caps, total_volumes")
        if body.get("prices") is None:
            raise MalformedPayload(self.name, f"no prices in the object ({members(body)})")
        found = Findings()
        prices = self._series(found, coin_id, body, "prices", PRICE)
        caps = self._series(found, coin_id, body, "market_caps", USD_AMOUNT)
        volumes = self._series(found, coin_id, body, "total_volumes", USD_AMOUNT)
        rows: dict[int, Row] = {}
        interval_s = self._interval_s(exchange.request, sorted(prices)) if prices else 0
        for moment in sorted(prices):
            if not_ahead(found, coin_id, f"prices@{moment}", moment, exchange.fetched_at) is None:
                continue
            slot = Slot(slot_at(moment, interval_s), interval_s)
            rows[slot.start] = price_row(
                ("coin_id", coin_id),
                slot,
                self.name,
                event_time=moment,
                known_at=min(exchange.fetched_at, moment + CHART_LAG_MS),
                current_price=prices[moment],
                market_cap=caps.get(moment),
                volume_usd_24h=volumes.get(moment),
            )
        return Parsed(tuple(rows.values()), found.all())

    def _series(
        self, found: Findings, coin_id: str, body: Mapping[str, Any], field: str, bounds: Any
    ) -> dict[int, float]:
        """One array as value by time stamp (ms); a moment stated twice with different values is left out."""
        said = body.get(field)
        points = expect_list(self.name, [] if said is None else said, f"[ms, value] in {field}")
        series: dict[int, float] = {}
        contradicted: set[int] = set()
        pairs = 0
        for position, point in enumerate(points):
            if not isinstance(point, list) or len(point) != 2:
                found.add("wrong_type", coin_id, f"{field}#{position}", f"expected [ms, value], got {shown(point)}")
                continue
            pairs += 1
            moment = epoch_time(found, coin_id, f"{field}#{position}", point[0], 1)
            value = number(found, coin_id, field, point[1], bounds, where=str(moment))
            if moment is not None and value is not None and series.setdefault(moment, value) != value:
                contradicted.add(moment)
                found.add("duplicate", coin_id, f"{field}@{moment}", "stated twice with different values")
        readable(self.name, points, pairs, "a pair [ms, value]")
        return {moment: value for moment, value in series.items() if moment not in contradicted}

    def _interval_s(self, request: Request, moments: Sequence[int]) -> int:
        """Length of the slots: the node's note, the interval asked for, what days or range imply, or the spacing."""
        if "interval_s" in request.context:
            return int(request.context["interval_s"])
        named = _NAMED_INTERVALS.get(request.params.get("interval", ""))
        if named is not None:
            return named
        if len(moments) > 1:
            gaps = sorted(b - a for a, b in pairwise(moments))
            typical_s = gaps[len(gaps) // 2] / 1_000
            return min(_NAMED_INTERVALS.values(), key=lambda s: abs(s - typical_s))
        days = _days(request.params)
        if days is None:
            raise MalformedPayload(self.name, "one price and no days, range or interval: its slot cannot be told")
        return 300 if days <= 1 else 3_600 if days <= 90 else 86_400


def _days(params: Mapping[str, str]) -> float | None:
    """Days a chart request spans; None if it does not say or says it unreadably."""
    try:
        if "days" in params:
            return float("inf") if params["days"] == "max" else float(params["days"])
        return (float(params["to"]) - float(params["from"])) * 1_000 / DAY_MS
    except (KeyError, ValueError):
        return None


class Ohlc(CoinGeckoEndpoint):
    """``/coins/{id}/ohlc`` and ``…/range``: candles without volume, each stamped with its **close**.

    Length of a candle: ``interval`` if asked for (hourly, daily), else by ``days``: 1–2 → 30 minutes, 3–30 → 4 hours,
    31 and more → 4 **days**. A body whose spacing is another is refused as a whole: intervals are never mixed.
    """

    name: ClassVar[str] = "coingecko.ohlc"
    paths: ClassVar[tuple[str, ...]] = ("/coins/{id}/ohlc/range", "/coins/{id}/ohlc")
    query: ClassVar[frozenset[str]] = frozenset({"vs_currency", "days", "from", "to", "interval", "precision"})

    def request(self, coin_id: str, days: int | str = 1, interval: str | None = None) -> Request:
        """Candles of the last ``days`` (1, 7, 14, 30, 90, 180, 365 or max); ``interval``: hourly, daily (paid)."""
        params = {"vs_currency": "usd", "days": str(days), "precision": "full"}
        if interval is not None:
            params["interval"] = interval
        return Request(self.name, f"/coins/{quote(coin_id, safe='')}/ohlc", params)

    def parse(self, exchange: Exchange) -> Parsed:
        """ohlc_data rows of venue ``coingecko``, ascending; only candles that had closed when fetched."""
        self._in_usd(exchange)
        coin_id = self._coin_id(exchange)
        interval_s = self._interval_s(exchange.request)
        items = expect_list(self.name, read_answer(exchange), "[ms, open, high, low, close]")
        found = Findings()
        candles: list[Candle] = []
        shaped = 0
        for position, item in enumerate(items):
            if not isinstance(item, list) or len(item) != 5:
                found.add("wrong_type", coin_id, f"candle#{position}", f"expected 5 numbers, got {shown(item)}")
                continue
            shaped += 1
            candle = self._candle(found, coin_id, position, item, interval_s)
            if candle is not None:
                candles.append(candle)
        readable(self.name, items, shaped, "an array of 5 numbers")
        candles = self._one_interval(found, coin_id, settle(found, coin_id, candles), interval_s)
        lag_ms = OHLC_DAILY_LAG_MS if interval_s >= 86_400 else OHLC_LAG_MS
        rows = [
            candle_row(("coin_id", coin_id), "coingecko", candle, exchange.fetched_at, lag_ms)
            for candle in candles
            if candle.close_time <= exchange.fetched_at and consistent(found, coin_id, candle)
        ]
        return Parsed(tuple(rows), found.all())

    def _candle(self, found: Findings, coin_id: str, position: int, item: list[Any], interval_s: int) -> Candle | None:
        closed = epoch_time(found, coin_id, f"candle#{position}", item[0], 1)
        where = str(closed)
        fields = ("open", "high", "low", "close")
        prices = [_price(found, coin_id, f, v, where) for f, v in zip(fields, item[1:], strict=True)]
        if closed is None or None in prices:
            return None
        opened, high, low, close = (p for p in prices if p is not None)
        return Candle(closed - interval_s * 1_000, interval_s, opened, high, low, close, None)

    def _one_interval(self, found: Findings, coin_id: str, candles: list[Candle], interval_s: int) -> list[Candle]:
        """The candles on the grid of the interval; MalformedPayload if the body's own spacing is another one.

        4-day candles may start on any day, at midnight UTC: there only whole days and the spacing can be checked.
        """
        grid_ms = min(interval_s, 86_400) * 1_000
        aligned = [candle for candle in candles if candle.open_time % grid_ms == 0]
        if candles and 2 * len(aligned) <= len(candles):
            raise MalformedPayload(self.name, f"most time stamps are not on the grid of {interval_s} s candles")
        gaps = [b.open_time - a.open_time for a, b in pairwise(aligned)]
        if gaps:
            typical = Counter(gaps).most_common(1)[0][0]
            if typical != interval_s * 1_000:
                raise MalformedPayload(
                    self.name, f"candles are {typical // 1_000} s apart; the request implies {interval_s} s"
                )
        for candle in candles:
            if candle.open_time % grid_ms:
                found.add("inconsistent", coin_id, f"close_time@{candle.close_time}", f"not on the {interval_s} s grid")
        kept: list[Candle] = []
        for candle in aligned:
            if kept and (candle.open_time - kept[-1].open_time) % (interval_s * 1_000):
                found.add(
                    "inconsistent", coin_id, f"close_time@{candle.close_time}", f"not {interval_s} s after the last"
                )
            else:
                kept.append(candle)
        return kept

    def _interval_s(self, request: Request) -> int:
        asked = request.params.get("interval")
        if asked is not None:
            if asked not in {"hourly", "daily"}:
                raise MalformedPayload(self.name, f"interval {asked!r} is not hourly or daily")
            return _NAMED_INTERVALS[asked]
        days = _days(request.params)
        if days is None or not days >= 0:
            raise MalformedPayload(self.name, "the length of the candles needs the request's days or interval")
        return 1_800 if days <= 2 else 14_400 if days <= 30 else 345_600


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

        def member(field: str, key: str, bounds: Any) -> float | None:
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


ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    Markets(),
    SimplePrice(),
    MarketChart(),
    Ohlc(),
    CoinsList(),
    Global(),
)

"""Coinbase: products and candles of the Exchange (api.exchange.coinbase.com), exchange rates of api.coinbase.com/v2.

Formats: https://docs.cdp.coinbase.com/exchange and upstreams.md §15. What trips people up:

* A candle is ``[time, low, high, open, close, volume]``, in that order, ``time`` in seconds and the bar's **open**.
* Candles come newest first, at most 300; bars without a trade are absent; the newest may still be open.
* Rates are strings and say how many units one ``currency`` buys: a price in USD is a reciprocal or ``rates.USD``.

``known_at``: see ray_app/sources/rows.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final
from urllib.parse import quote

from ray_app.clock import MINUTE_MS, iso, to_ms
from ray_app.errors import MalformedPayload
from ray_app.sources.addressing import path_values
from ray_app.sources.base import Endpoint, Exchange, Parsed, Request, Row
from ray_app.sources.context import slot_context, slot_of
from ray_app.sources.reading import (
    PRICE,
    RATE,
    VOLUME,
    Findings,
    absent,
    decimal,
    epoch_time,
    expect_list,
    expect_object,
    identifier,
    number,
    readable,
    requested,
    shown,
)
from ray_app.sources.refusals import read_answer
from ray_app.sources.rows import Candle, Slot, candle_row, consistent, price_row, settle

EXCHANGE: Final = "coinbase"
API_V2: Final = "coinbase-v2"
#: Lengths of candles the Exchange offers, seconds.
GRANULARITIES: Final = (60, 300, 900, 3_600, 21_600, 86_400)
MAX_CANDLES: Final = 300
#: A bar is public seconds after its close; a minute is assumed until the node's own measurement replaces it.
CANDLE_LAG_MS: Final = MINUTE_MS
#: Currency codes of /exchange-rates that are money of states, precious metals or units of account: no crypto assets.
FIAT: Final = frozenset(
    """AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BYR BZD CAD CDF
    CHF CLF CLP CNH CNY COP CRC CUC CUP CVE CZK DJF DKK DOP DZD EEK EGP ERN ETB EUR FJD FKP GBP GEL GGP GHS GIP GMD GNF
    GTQ GYD HKD HNL HRK HTG HUF IDR ILS IMP INR IQD IRR ISK JEP JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP
    LKR LRD LSL LTL LVL LYD MAD MDL MGA MKD MMK MNT MOP MRO MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD
    OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SKK SLE SLL SOS SRD SSP STD STN SVC
    SYP SZL THB TJS TMM TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VEF VES VND VUV WST XAF XAG XAU XCD XCG XDR XOF
    XPD XPF XPT XTS YER ZAR ZMK ZMW ZWD ZWL""".split()  # noqa: SIM905 - a list of 190 quoted strings reads worse
)


class Products(Endpoint):
    """``/products``: what the Exchange lists. The true answer to "has this asset a venue?"."""

    name: ClassVar[str] = "coinbase.products"
    account: ClassVar[str] = EXCHANGE
    paths: ClassVar[tuple[str, ...]] = ("/products",)
    query: ClassVar[frozenset[str]] = frozenset({"type"})

    def request(self) -> Request:
        """All products."""
        return Request(self.name, "/products")

    def parse(self, exchange: Exchange) -> Parsed:
        """crypto_assets rows keyed by product, symbol = base currency: products in USD that trade now.

        Products in other currencies, delisted ones and ones with trading disabled yield no row: the tables are in
        USD, and an asset whose product is not among the rows has no venue. A product without a readable state is
        an issue and yields no row.
        """
        items = expect_list(self.name, read_answer(exchange), "products")
        found = Findings()
        rows: dict[str, Row] = {}
        listed: set[str] = set()
        for position, item in enumerate(items):
            product = identifier(item.get("id")) if isinstance(item, dict) else None
            if product is None:
                found.add("wrong_type", f"item {position}", "id", f"expected a product, got {shown(item)!r}")
                continue
            row = self._row(found, product, item, exchange.fetched_at)
            if row is not None and product not in listed:
                rows[product] = row
            elif product in listed and rows.get(product) != row:
                found.add("duplicate", product, "id", "listed twice differently; the first counts")
            listed.add(product)
        readable(self.name, items, len(listed), "a product with an id")
        return Parsed(tuple(rows.values()), found.all())

    def _row(self, found: Findings, product: str, item: Mapping[str, Any], fetched_at: int) -> Row | None:
        base, quoted = identifier(item.get("base_currency")), identifier(item.get("quote_currency"))
        if base is None or quoted is None:
            found.add("wrong_type", product, "base_currency", "a product needs a base and a quote currency")
            return None
        if quoted != "USD":
            return None
        status, disabled = item.get("status"), item.get("trading_disabled", False)
        if not isinstance(status, str) or not isinstance(disabled, bool):
            found.add("wrong_type", product, "status", f"{shown(status)!r}, trading_disabled {shown(disabled)!r}")
            return None
        if status != "online" or disabled:
            return None
        return Row("crypto_assets", {"coinbase_product": product}, {"symbol": base.upper()}, fetched_at)


class CandlesBase(Endpoint):
    """What reading ``/products/{product_id}/candles`` is, whatever the candles are for."""

    account: ClassVar[str] = EXCHANGE
    paths: ClassVar[tuple[str, ...]] = ("/products/{product_id}/candles",)
    query: ClassVar[frozenset[str]] = frozenset({"granularity", "start", "end"})
    aliases: ClassVar[Mapping[str, str]] = {"id": "product_id"}

    def request(self, product: str, interval_s: int, start_ms: int, end_ms: int) -> Request:
        """Candles of ``product`` that open in ``[start_ms, end_ms)``: at most 300 of ``interval_s`` seconds.

        ``end`` is sent one second short of ``end_ms``: whether the venue counts its end in or not, the last bar
        asked for is in and the next one is not.
        """
        if interval_s not in GRANULARITIES:
            raise ValueError(f"{self.name}: {interval_s} s is none of {GRANULARITIES}")
        if not 0 < end_ms - start_ms <= MAX_CANDLES * interval_s * 1_000:
            raise ValueError(f"{self.name}: [{start_ms}, {end_ms}) is not 1 to {MAX_CANDLES} candles")
        params = {"granularity": str(interval_s), "start": iso(start_ms), "end": iso(end_ms - 1_000)}
        return Request(self.name, f"/products/{quote(product, safe='')}/candles", params)

    def product(self, exchange: Exchange) -> str:
        """The product asked for; MalformedPayload if it is not quoted in USD (the tables are)."""
        product = path_values(self, exchange.request.path)["product_id"]
        if identifier(product) is None or not product.endswith("-USD"):
            raise MalformedPayload(self.name, f"{shown(product)} is not a product in USD, such as BTC-USD")
        return product

    def candles(self, exchange: Exchange, found: Findings) -> list[Candle]:
        """Closed candles of the range asked for, ascending, each once.

        What cannot be read or contradicts itself is an issue. Candles from outside the range are left alone: the
        exchange may send some before ``start``, and wrong times must not overwrite hours that nobody asked about.
        """
        product, interval_s = self.product(exchange), self._interval_s(exchange.request)
        first, last = (self._bound(exchange.request, name) for name in ("start", "end"))
        items = expect_list(self.name, read_answer(exchange), "[time, low, high, open, close, volume]")
        candles: list[Candle] = []
        timed = 0
        for position, item in enumerate(items):
            if not isinstance(item, list) or len(item) != 6:
                found.add("wrong_type", product, f"candle#{position}", f"expected 6 numbers, got {shown(item)}")
                continue
            opens_at = epoch_time(found, product, f"candle#{position}", item[0], 1_000)
            if opens_at is None:
                continue
            timed += 1
            candle = self._candle(found, product, opens_at, item, interval_s)
            if candle is not None:
                candles.append(candle)
        readable(self.name, items, timed, "an array of 6 numbers that begins with epoch seconds")
        on_grid = self._on_grid(found, product, settle(found, product, candles), interval_s)
        return [
            candle
            for candle in on_grid
            if (first is None or first <= candle.open_time)
            and (last is None or candle.open_time <= last)
            and candle.close_time <= exchange.fetched_at
            and consistent(found, product, candle)
        ]

    def _bound(self, request: Request, name: str) -> int | None:
        """A bound of the range asked for, ms; None where the request has none."""
        said = request.params.get(name)
        if said is None:
            return None
        try:
            return int(said) * 1_000 if said.isascii() and said.isdigit() else to_ms(datetime.fromisoformat(said))
        except (ValueError, OverflowError):
            raise MalformedPayload(self.name, f"the request's {name} {shown(said)} is no time") from None

    def _candle(self, found: Findings, product: str, opens_at: int, item: list[Any], interval_s: int) -> Candle | None:
        where = str(opens_at)
        fields = ("low", "high", "open", "close")
        prices = [number(found, product, f, v, PRICE, where=where) for f, v in zip(fields, item[1:5], strict=True)]
        volume = number(found, product, "volume", item[5], VOLUME, where=where)
        if None in prices:
            return None
        low, high, opened, close = (p for p in prices if p is not None)
        return Candle(opens_at, interval_s, opened, high, low, close, volume)

    def _on_grid(self, found: Findings, product: str, candles: list[Candle], interval_s: int) -> list[Candle]:
        """Candles that open on the interval's grid; MalformedPayload if half or more do not: then it is another's."""
        aligned = [candle for candle in candles if candle.open_time % (interval_s * 1_000) == 0]
        if candles and 2 * len(aligned) <= len(candles):
            raise MalformedPayload(self.name, f"most time stamps are not on the grid of {interval_s} s candles")
        for candle in candles:
            if candle.open_time % (interval_s * 1_000):
                found.add("inconsistent", product, f"open_time@{candle.open_time}", f"not on the {interval_s} s grid")
        return aligned

    def _interval_s(self, request: Request) -> int:
        said = request.params.get("granularity", "")
        if not said.isascii() or not said.isdigit() or int(said) not in GRANULARITIES:
            raise MalformedPayload(self.name, f"the request's granularity {said!r} is none of {GRANULARITIES}")
        return int(said)


class Candles(CandlesBase):
    """``/products/{product_id}/candles`` as candles."""

    name: ClassVar[str] = "coinbase.candles"
    parser_version: ClassVar[int] = 2  # 2: candles outside of the range asked for are left alone

    def parse(self, exchange: Exchange) -> Parsed:
        """ohlc_data rows of venue ``coinbase``, ascending."""
        found = Findings()
        candles, product = self.candles(exchange, found), self.product(exchange)
        asset = ("coinbase_product", product)
        rows = [candle_row(asset, "coinbase", candle, exchange.fetched_at, CANDLE_LAG_MS) for candle in candles]
        return Parsed(tuple(rows), found.all())


class PriceCandles(CandlesBase):
    """``/products/{product_id}/candles`` as prices, for slots whose poll was missed.

    A slot takes the close of its bar. That is the price at the **end** of the slot (``event_time`` is the bar's
    close), where a poll would have given one from within it.
    """

    name: ClassVar[str] = "coinbase.price_candles"
    parser_version: ClassVar[int] = 2  # 2: as Candles

    def parse(self, exchange: Exchange) -> Parsed:
        """price_data_real rows of source ``coinbase.candles``; every other column is NULL."""
        found = Findings()
        candles, product = self.candles(exchange, found), self.product(exchange)
        rows = [
            price_row(
                ("coinbase_product", product),
                Slot(candle.open_time, candle.interval_s),
                Candles.name,
                event_time=candle.close_time,
                known_at=min(exchange.fetched_at, candle.close_time + CANDLE_LAG_MS),
                current_price=candle.close,
            )
            for candle in candles
        ]
        return Parsed(tuple(rows), found.all())


class ExchangeRates(Endpoint):
    """``/exchange-rates``: the price fallback. It has no time of its own: ``event_time`` is ``fetched_at``.

    ``currency=USD`` answers every asset at once as units per dollar, and the price is computed: 1 / rate.
    ``currency=BTC`` answers one asset, and the price is ``rates.USD``. Rows are keyed by the product the currency
    code would have (``BTC-USD``): Coinbase's codes are those of its products.
    """

    name: ClassVar[str] = "coinbase.exchange_rates"
    keyed: ClassVar[frozenset[str]] = frozenset({"data.rates"})
    parser_version: ClassVar[int] = 2  # 2: the reciprocal is of the decimal as stated
    account: ClassVar[str] = API_V2
    paths: ClassVar[tuple[str, ...]] = ("/exchange-rates",)
    query: ClassVar[frozenset[str]] = frozenset({"currency"})

    def request(
        self, currency: str = "USD", products: Sequence[str] = (), slot: int | None = None, interval_s: int = 300
    ) -> Request:
        """Rates of ``currency``. ``products``: with USD, the ones wanted (default: all but money of states)."""
        context = slot_context(slot, interval_s) | ({"products": ",".join(products)} if products else {})
        return Request(self.name, "/exchange-rates", {"currency": currency}, context)

    def parse(self, exchange: Exchange) -> Parsed:
        """One price_data_real row per asset with a readable rate."""
        body = expect_object(self.name, read_answer(exchange), "data")
        data = body.get("data")
        if not isinstance(data, dict) or not isinstance(data.get("rates"), dict):
            raise MalformedPayload(self.name, f"no object 'data' with 'rates', but {shown(data)}")
        currency, asked = data.get("currency"), exchange.request.params.get("currency", "")
        if not isinstance(currency, str) or currency.upper() != (asked or currency).upper():
            raise MalformedPayload(self.name, f"asked for {shown(asked)}, the answer is about {shown(currency)}")
        found = Findings()
        read = self._all if currency.upper() == "USD" else self._one
        prices, missing = read(
            found, currency.upper(), data["rates"], requested(exchange.request.context.get("products"))
        )
        slot = slot_of(exchange)
        rows = [
            price_row(
                ("coinbase_product", product),
                slot,
                self.name,
                event_time=exchange.fetched_at,
                known_at=exchange.fetched_at,
                current_price=price,
            )
            for product, price in prices.items()
        ]
        return Parsed(tuple(rows), found.all(), missing)

    def _all(
        self, found: Findings, _: str, rates: Mapping[str, Any], wanted: tuple[str, ...]
    ) -> tuple[dict[str, float], tuple[str, ...]]:
        by_product = {f"{code.upper()}-USD": rate for code, rate in rates.items()}
        missing = absent(wanted, by_product)
        chosen = wanted or tuple(f"{code.upper()}-USD" for code in rates if code.upper() not in FIAT)
        prices: dict[str, float] = {}
        for product in chosen:
            rate = number(found, product, "rate", by_product.get(product), RATE)
            if rate is not None and identifier(product) is not None:
                prices[product] = float(1 / decimal(rate))
        return prices, missing

    def _one(
        self, found: Findings, currency: str, rates: Mapping[str, Any], _: tuple[str, ...]
    ) -> tuple[dict[str, float], tuple[str, ...]]:
        product = f"{currency}-USD"
        if rates.get("USD") is None:
            return {}, (product,)
        price = number(found, product, "rates.USD", rates["USD"], PRICE)
        return ({product: price} if price is not None else {}), ()


ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    Products(),
    Candles(),
    PriceCandles(),
    ExchangeRates(),
)

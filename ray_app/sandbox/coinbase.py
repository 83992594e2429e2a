"""Coinbase Exchange (api.exchange.coinbase.com) and api.coinbase.com/v2: shared/upstreams.md §15."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any, ClassVar

import numpy as np
import orjson

from ray_app.assets import Asset
from ray_app.clock import MINUTE_MS, SECOND_MS, to_ms
from ray_app.sandbox.answers import (
    Answer,
    Question,
    Rejection,
    SimulatedEndpoint,
    World,
    decimal_text,
    digits,
    json_answer,
    tagged,
)
from ray_app.sandbox.market import Market, Series

GRANULARITIES = (60, 300, 900, 3_600, 21_600, 86_400)
MAX_ROWS = 300


def _refuse(status: int, message: str) -> Rejection:
    return Rejection(json_answer({"message": message}, status))


class Products(SimulatedEndpoint):
    """GET /products: every product in US dollars; those of coins no longer listed stay, delisted."""

    source: ClassVar[str] = "coinbase"
    name = "products"
    pattern = re.compile(r"/products")

    def answer(self, question: Question, world: World) -> Answer:
        online = {asset.asset_id for asset in world.listed(question.now_ms)}
        rows = [
            product_row(asset, world.market, online=asset.asset_id in online)
            for asset in world.market.assets
            if asset.coinbase_product is not None
        ]
        return tagged(json_answer(rows), question.if_none_match)


def product_row(asset: Asset, market: Market, *, online: bool) -> dict[str, Any]:
    """One product as the exchange describes it; amounts are strings."""
    row = market.row_of[asset.asset_id]
    base, _, quote = str(asset.coinbase_product).rpartition("-")
    size = 1 / market.profiles[row].level
    return {
        "id": asset.coinbase_product,
        "base_currency": base,
        "quote_currency": quote,
        "base_min_size": decimal_text(size, 2),
        "base_max_size": decimal_text(size * 15e6, 2),
        "quote_increment": decimal_text(10.0 ** -int(market.decimals[row]), 1),
        "base_increment": decimal_text(10.0 ** -min(8, max(0, math.ceil(-math.log10(size)) + 4)), 1),
        "display_name": f"{base}/{quote}",
        "min_market_funds": "1",
        "max_market_funds": "15000000",
        "margin_enabled": False,
        "fx_stablecoin": False,
        "max_slippage_percentage": "0.02000000",
        "post_only": False,
        "limit_only": False,
        "cancel_only": False,
        "trading_disabled": not online,
        "status": "online" if online else "delisted",
        "status_message": "",
        "auction_mode": False,
    }


class Candles(SimulatedEndpoint):
    """GET /products/{id}/candles: [[time s, low, high, open, close, volume]], newest first, at most 300.

    Bars without trades are absent. The bar that is still open is in the answer, with what it has seen so far.
    """

    source: ClassVar[str] = "coinbase"
    name = "candles"
    pattern = re.compile(r"/products/([^/]+)/candles")

    def answer(self, question: Question, world: World) -> Answer:
        asset = _asset_of(question.subject, world.market)
        granularity = question.params.get("granularity", "60")
        if not digits(granularity) or int(granularity) not in GRANULARITIES:
            raise _refuse(400, "Unsupported granularity")
        step = int(granularity) * SECOND_MS
        start, end = _window(question, step)
        now = question.now_ms
        opened = now // step * step
        series = world.market.candles(asset.asset_id, step // SECOND_MS, start, min(end + 1, opened))
        rows = _rows(series)[::-1]
        if start <= opened <= end:
            rows = _rows(world.market.candle_so_far(asset.asset_id, step // SECOND_MS, now)) + rows
        return Answer(200, orjson.dumps(rows))


def _asset_of(product: str, market: Market) -> Asset:
    if product not in market.by_product:
        raise _refuse(404, "NotFound")
    return market.by_product[product]


def _window(question: Question, step: int) -> tuple[int, int]:
    """First and last open time asked for, both inclusive; the last 300 bars when nothing is asked."""
    given = {name: _instant(question.params[name], name) for name in ("start", "end") if question.params.get(name)}
    end = given.get("end", question.now_ms)
    start = given.get("start", end // step * step - (MAX_ROWS - 1) * step)
    if start > end:
        raise _refuse(400, "start must be before end")
    if end - start > MAX_ROWS * step:
        raise _refuse(
            400,
            "granularity too small for the requested time range. Count of aggregations requested exceeds 300",
        )
    # A span of exactly 300 steps may touch 301 bars; the exchange gives the 300 newest.
    newest = min(end, question.now_ms) // step
    first = max(-(-start // step), newest - MAX_ROWS + 1)
    return first * step, end


def _instant(text: str, name: str) -> int:
    """ISO 8601 (without a zone: UTC) or unix seconds, as milliseconds."""
    try:
        if digits(text.replace(".", "", 1)):
            return int(float(text) * SECOND_MS)
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise _refuse(400, f"invalid {name}") from None
    return to_ms(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))


def _rows(series: Series) -> list[list[Any]]:
    bars = series.bars
    columns = np.stack([bars.low, bars.high, bars.open, bars.close, bars.volume], axis=-1).tolist()
    seconds = (series.times // SECOND_MS).tolist()
    return [[time, *_short(values)] for time, values in zip(seconds, columns, strict=True)]


def _short(values: list[float]) -> list[float | int]:
    """Whole numbers without ".0", as the exchange writes them; equal as JSON numbers."""
    return [int(v) if v.is_integer() and abs(v) < 2**53 else v for v in values]


class ExchangeRates(SimulatedEndpoint):
    """GET /v2/exchange-rates?currency=: what one unit is worth in every currency, as decimal strings."""

    source: ClassVar[str] = "coinbase-v2"
    name = "exchange_rates"
    pattern = re.compile(r"/exchange-rates")

    def answer(self, question: Question, world: World) -> Answer:
        currency = question.params.get("currency", "USD").upper()
        worth = {"USD": 1.0}  # USD for one unit
        prices = world.market.snapshot(question.now_ms // MINUTE_MS * MINUTE_MS).price
        for asset in world.listed(question.now_ms):
            price = float(prices[world.market.row_of[asset.asset_id]])
            if asset.coinbase_product is not None and price > 0:
                worth.setdefault(asset.symbol, price)
        if currency not in worth:
            error = {"id": "invalid_request", "message": "Currency is invalid"}
            raise Rejection(json_answer({"errors": [error]}, 400))
        # 17 significant digits: dividing back gives the price again.
        rates = {code: decimal_text(worth[currency] / value, 17) for code, value in sorted(worth.items())}
        return json_answer({"data": {"currency": currency, "rates": rates}})


ENDPOINTS: tuple[SimulatedEndpoint, ...] = (Products(), Candles(), ExchangeRates())

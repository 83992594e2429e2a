"""One good answer per endpoint, small and written by hand after the documented formats; and ways to break it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS
from ray_app.sources import ENDPOINTS, Exchange, Request
from tests.sources import (
    samples_derivatives,
    samples_macro,
    samples_news,
    samples_onchain,
    samples_social,
    samples_ticks,
)

#: 2026-05-18T12:00:00Z, a whole hour and a whole day's noon
NOON = 1_779_105_600_000
MIDNIGHT = NOON - 12 * HOUR_MS
FETCHED_AT = NOON + 7_300


def coin(coin_id: str = "bitcoin", **changes: Any) -> dict[str, Any]:
    """An item of /coins/markets; ``changes`` replace members, a value of ``...`` removes one."""
    item = {
        "id": coin_id,
        "symbol": coin_id[:3],
        "name": coin_id.title(),
        "current_price": 77_671,
        "market_cap": 1_555_886_872_303,
        "market_cap_rank": 1,
        "fully_diluted_valuation": 1_555_914_058_873,
        "total_volume": 33_235_034_316,
        "high_24h": 78_419,
        "low_24h": 76_696,
        "price_change_24h": -747.25,
        "price_change_percentage_24h": -0.95302,
        "circulating_supply": 20_030_493.0,
        "total_supply": 20_030_843.0,
        "max_supply": 21_000_000.0,
        "ath": 126_080,
        "ath_date": "2025-10-06T18:57:42.558Z",
        "atl": 67.81,
        "atl_date": "2013-07-06T00:00:00.000Z",
        "roi": None,
        "last_updated": "2026-05-18T11:59:58.123Z",
    } | changes
    return {name: value for name, value in item.items() if value is not ...}


def bar(
    opens_at: int, low: float = 99.5, high: float = 102.0, opened: float = 100.0, close: float = 101.25
) -> list[Any]:
    """A Coinbase candle."""
    return [opens_at // 1_000, low, high, opened, close, 12.5]


BODIES: Mapping[str, Any] = {
    "coingecko.key": {
        "plan": "Analyst",
        "rate_limit_request_per_minute": 500,
        "monthly_call_credit": 500_000,
        "current_total_monthly_calls": 12_345,
        "current_remaining_monthly_calls": 487_655,
        "api_key_rate_limit_request_per_minute": 250,
        "api_key_monthly_call_credit": 100_000,
        "api_key_current_total_monthly_calls": 345,
    },
    "coingecko.markets": [coin("bitcoin"), coin("ethereum", current_price=2_150.5, market_cap_rank=2)],
    "coingecko.simple_price": {
        "bitcoin": {
            "usd": 77_671.3,
            "usd_market_cap": 1.5e12,
            "usd_24h_vol": 3.3e10,
            "usd_24h_change": -0.95,
            "last_updated_at": NOON // 1_000 - 20,
        }
    },
    "coingecko.market_chart": {
        "prices": [[NOON - 2 * HOUR_MS + 1_041, 77_953.8], [NOON - HOUR_MS + 661, 78_052.8]],
        "market_caps": [[NOON - 2 * HOUR_MS + 1_041, 1.56e12], [NOON - HOUR_MS + 661, 1.57e12]],
        "total_volumes": [[NOON - 2 * HOUR_MS + 1_041, 1.8e10], [NOON - HOUR_MS + 661, 1.9e10]],
    },
    "coingecko.ohlc": [
        [NOON - 60 * MINUTE_MS, 100.0, 102.0, 99.5, 101.25],
        [NOON - 30 * MINUTE_MS, 101.25, 103.0, 101.0, 102.5],
    ],
    "coingecko.coins_list": [
        {"id": "bitcoin", "symbol": "btc", "name": "Bitcoin"},
        {"id": "velo", "symbol": "velo", "name": "Velo"},
        {"id": "velodrome-finance", "symbol": "velo", "name": "Velodrome Finance"},
    ],
    "coingecko.global": {
        "data": {
            "active_cryptocurrencies": 17_340,
            "markets": 1_447,
            "total_market_cap": {"btc": 3.4e7, "usd": 2.65e12},
            "total_volume": {"btc": 1.4e6, "usd": 1.1e11},
            "market_cap_percentage": {"btc": 58.6, "eth": 10.4},
            "market_cap_change_percentage_24h_usd": -1.25,
            "updated_at": NOON // 1_000 - 90,
        }
    },
    "coinbase.products": [
        {
            "id": "BTC-USD",
            "base_currency": "BTC",
            "quote_currency": "USD",
            "status": "online",
            "trading_disabled": False,
        },
        {
            "id": "BTC-EUR",
            "base_currency": "BTC",
            "quote_currency": "EUR",
            "status": "online",
            "trading_disabled": False,
        },
        {
            "id": "OLD-USD",
            "base_currency": "OLD",
            "quote_currency": "USD",
            "status": "delisted",
            "trading_disabled": True,
        },
    ],
    "coinbase.candles": [bar(NOON - HOUR_MS), bar(NOON - 2 * HOUR_MS)],
    "coinbase.price_candles": [bar(NOON - 5 * MINUTE_MS), bar(NOON - 10 * MINUTE_MS)],
    "coinbase.exchange_rates": {
        "data": {"currency": "USD", "rates": {"BTC": "0.0000128748", "EUR": "0.861", "ETH": "0.000465"}}
    },
}


#: endpoints of this file; every other upstream's samples stand in a file of their own (samples_<group>.py)
GROUPS = (samples_macro, samples_news, samples_social, samples_onchain, samples_derivatives, samples_ticks)
BODIES = {**BODIES, **{name: body for group in GROUPS for name, body in group.BODIES.items()}}


def _of_all_time(request: Request) -> Request:
    """The request without its range, so that tests may answer with any moment."""
    bounds = ("from", "to", "start", "end")
    return replace(request, params={name: text for name, text in request.params.items() if name not in bounds})


REQUESTS: Mapping[str, Callable[[], Request]] = {
    "coingecko.markets": lambda: ENDPOINTS["coingecko.markets"].request(["bitcoin", "ethereum"], slot=NOON),
    "coingecko.simple_price": lambda: ENDPOINTS["coingecko.simple_price"].request(["bitcoin"], slot=NOON),
    "coingecko.market_chart": lambda: _of_all_time(
        ENDPOINTS["coingecko.market_chart"].request("bitcoin", NOON - 3 * HOUR_MS, NOON, interval_s=3_600)
    ),
    "coingecko.ohlc": lambda: ENDPOINTS["coingecko.ohlc"].request("bitcoin", days=1),
    "coingecko.coins_list": ENDPOINTS["coingecko.coins_list"].request,
    "coingecko.global": ENDPOINTS["coingecko.global"].request,
    "coingecko.key": ENDPOINTS["coingecko.key"].request,
    "coinbase.products": ENDPOINTS["coinbase.products"].request,
    "coinbase.candles": lambda: _of_all_time(
        ENDPOINTS["coinbase.candles"].request("BTC-USD", 3_600, NOON - 2 * HOUR_MS, NOON)
    ),
    "coinbase.price_candles": lambda: _of_all_time(
        ENDPOINTS["coinbase.price_candles"].request("BTC-USD", 300, NOON - 10 * MINUTE_MS, NOON)
    ),
    "coinbase.exchange_rates": lambda: ENDPOINTS["coinbase.exchange_rates"].request("USD", slot=NOON),
}


REQUESTS = {**REQUESTS, **{name: ask for group in GROUPS for name, ask in group.REQUESTS.items()}}


def raw(name: str) -> bytes:
    """The good body of ``name`` as bytes."""
    return BODIES[name] if isinstance(BODIES[name], bytes) else json.dumps(BODIES[name]).encode()


def answer(
    name: str,
    body: Any = ...,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    fetched_at: int = FETCHED_AT,
    request: Request | None = None,
    params: Mapping[str, str] | None = None,
) -> Exchange:
    """An exchange with the sample body of ``name``, or with ``body`` (bytes, or anything JSON can say)."""
    body = BODIES[name] if body is ... else body
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = request or REQUESTS[name]()
    if params is not None:
        request = replace(request, params=params)
    return Exchange(request, status, headers or {}, sent, fetched_at)


__all__ = ["BODIES", "DAY_MS", "FETCHED_AT", "MIDNIGHT", "NOON", "REQUESTS", "answer", "bar", "coin", "raw"]

"""Good answers of the sources of derivatives, written by hand after the documented formats (see samples.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray_app.clock import DAY_MS, HOUR_MS
from ray_app.sources import ENDPOINTS, Request

#: as in samples.py, which imports this file
NOON = 1_779_105_600_000
#: a settlement of every venue: 08:00
SETTLED = NOON - 4 * HOUR_MS


def bybit(result: Any, **more: Any) -> dict[str, Any]:
    """A good answer of Bybit."""
    return {"retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": NOON + 7_012} | more


def okx(*items: dict[str, str]) -> dict[str, Any]:
    """A good answer of OKX."""
    return {"code": "0", "data": list(items), "msg": ""}


def rpc(result: Any) -> dict[str, Any]:
    """A good answer of Deribit."""
    return {"jsonrpc": "2.0", "result": result, "usIn": 1, "usOut": 2, "usDiff": 1, "testnet": False}


def option(name: str, opened: float | None, **more: Any) -> dict[str, Any]:
    """A summary of an option."""
    return {
        "instrument_name": name,
        "open_interest": opened,
        "volume": 1.5,
        "mark_iv": 51.2,
        "bid_price": None,
        "underlying_price": 77_700.5,
        "creation_timestamp": NOON + 6_900,
    } | more


def ticker(**changes: Any) -> dict[str, Any]:
    """A contract of CoinGecko's list."""
    return {
        "market": "Binance (Futures)",
        "symbol": "BTCUSDT",
        "index_id": "BTC",
        "price": "77,680.5",
        "price_percentage_change_24h": -0.9,
        "contract_type": "perpetual",
        "index": 77_700.0,
        "basis": 0.025,
        "spread": 0.01,
        "funding_rate": 0.0075,
        "open_interest": 8.5e9,
        "volume_24h": 1.25e10,
        "last_traded_at": NOON // 1_000 - 12,
        "expired_at": None,
    } | changes


PREMIUM = {
    "symbol": "BTCUSDT",
    "markPrice": "77680.10000000",
    "indexPrice": "77700.25000000",
    "estimatedSettlePrice": "77690.00000000",
    "lastFundingRate": "-0.00003810",
    "interestRate": "0.00010000",
    "nextFundingTime": NOON + 4 * HOUR_MS,
    "time": NOON + 7_000,
}

BODIES: Mapping[str, Any] = {
    "binance.premium_index": [
        PREMIUM,
        PREMIUM | {"symbol": "1000PEPEUSDT", "markPrice": "0.01250000", "indexPrice": "0.01251000"},
        PREMIUM | {"symbol": "BTCUSDT_260626", "lastFundingRate": "", "nextFundingTime": 0},
        PREMIUM | {"symbol": "NOBODYUSDT"},
    ],
    "binance.funding_rate": [
        {"symbol": "BTCUSDT", "fundingRate": "0.00010000", "fundingTime": SETTLED - 8 * HOUR_MS, "markPrice": ""},
        {"symbol": "BTCUSDT", "fundingRate": "-0.00002500", "fundingTime": SETTLED + 1, "markPrice": "77000.1"},
    ],
    "binance.open_interest": {"symbol": "BTCUSDT", "openInterest": "91234.567", "time": NOON + 5_500},
    "binance.open_interest_hist": [
        {
            "symbol": "BTCUSDT",
            "sumOpenInterest": "91000.10000000",
            "sumOpenInterestValue": "7068000000.50000000",
            "CMCCirculatingSupply": "20030493.0",
            "timestamp": NOON - HOUR_MS,
        },
        {
            "symbol": "BTCUSDT",
            "sumOpenInterest": "91234.5",
            "sumOpenInterestValue": "7086000000.0",
            "timestamp": NOON,
        },
    ],
    "binance.long_short": [
        {
            "symbol": "BTCUSDT",
            "longAccount": "0.6000",
            "longShortRatio": "1.5000",
            "shortAccount": "0.4000",
            "timestamp": NOON,
        }
    ],
    "bybit.tickers": bybit(
        {
            "category": "linear",
            "list": [
                {
                    "symbol": "BTCUSDT",
                    "lastPrice": "77681.10",
                    "indexPrice": "77702.31",
                    "markPrice": "77682.00",
                    "openInterest": "51234.123",
                    "openInterestValue": "3980000000.77",
                    "turnover24h": "5100000000.4",
                    "volume24h": "65432.1",
                    "fundingRate": "0.0000731",
                    "nextFundingTime": str(NOON + 4 * HOUR_MS),
                    "deliveryTime": "0",
                    "basisRate": "",
                },
                {"symbol": "BTC-26JUN26", "markPrice": "78000", "fundingRate": ""},
            ],
        }
    ),
    "bybit.funding_history": bybit(
        {
            "category": "linear",
            "list": [
                {"symbol": "BTCUSDT", "fundingRate": "0.0001", "fundingRateTimestamp": str(SETTLED)},
                {"symbol": "BTCUSDT", "fundingRate": "-0.00015", "fundingRateTimestamp": str(SETTLED - 8 * HOUR_MS)},
            ],
        }
    ),
    "bybit.open_interest": bybit(
        {
            "symbol": "BTCUSDT",
            "category": "linear",
            "list": [
                {"openInterest": "51234.12", "timestamp": str(NOON)},
                {"openInterest": "51000.00", "timestamp": str(NOON - HOUR_MS)},
            ],
            "nextPageCursor": "lastId%3D1234%26lastTs%3D5678",
        }
    ),
    "okx.funding_rate": okx(
        {
            "instType": "SWAP",
            "instId": "BTC-USDT-SWAP",
            "method": "current_period",
            "fundingRate": "0.0000647375951599",
            "nextFundingRate": "",
            "fundingTime": str(NOON + 4 * HOUR_MS),
            "nextFundingTime": str(NOON + 12 * HOUR_MS),
            "settState": "settled",
            "settFundingRate": "0.0000765914290582",
            "ts": str(NOON + 6_500),
        }
    ),
    "okx.funding_rate_history": okx(
        {
            "instType": "SWAP",
            "instId": "BTC-USDT-SWAP",
            "fundingRate": "0.0001515032",
            "realizedRate": "0.00015",
            "fundingTime": str(SETTLED),
        },
        {"instId": "BTC-USDT-SWAP", "fundingRate": "-0.0000236017", "fundingTime": str(SETTLED - 8 * HOUR_MS)},
    ),
    "okx.open_interest": okx(
        {
            "instType": "SWAP",
            "instId": "BTC-USDT-SWAP",
            "oi": "3384273.06",
            "oiCcy": "33842.7306",
            "oiUsd": "2628600000.5",
            "ts": str(NOON + 6_600),
        },
        {"instType": "SWAP", "instId": "BTC-USD-SWAP", "oi": "1", "oiCcy": "1", "oiUsd": "1", "ts": str(NOON)},
    ),
    "okx.mark_price": okx(
        {"instType": "SWAP", "instId": "BTC-USDT-SWAP", "markPx": "77683.4", "ts": str(NOON + 6_700)}
    ),
    "deribit.volatility_index": rpc(
        {
            "data": [
                [NOON - 2 * HOUR_MS, 48.1, 48.9, 47.8, 48.5],
                [NOON - HOUR_MS, 48.5, 49.0, 48.2, 48.75],
                [NOON, 48.75, 48.8, 48.7, 48.7],
            ],
            "continuation": None,
        }
    ),
    "deribit.book_summary": rpc(
        [
            option("BTC-26JUN26-80000-C", 1_000.0),
            option("BTC-26JUN26-80000-P", 500.5),
            option("BTC-5JUN26-70000-P", 99.5, creation_timestamp=NOON + 6_800),
            option("BTC-5JUN26-90000-C", 200.0),
        ]
    ),
    "deribit.funding_history": rpc(
        [
            {
                "timestamp": NOON - HOUR_MS,
                "index_price": 77_600.5,
                "prev_index_price": 77_500.0,
                "interest_8h": 5.91821175553615e-06,
                "interest_1h": 1.257606590607552e-06,
            },
            {"timestamp": NOON, "index_price": 77_700.0, "interest_8h": -1.5e-06, "interest_1h": 0},
        ]
    ),
    "coingecko.derivatives": [
        ticker(),
        ticker(market="Deribit", symbol="BTC-26JUN26", contract_type="futures", funding_rate=0, price="78120"),
        ticker(symbol="BTC-OLD", contract_type="futures", expired_at=NOON // 1_000 - 86_400),
        ticker(symbol="NOBODYUSDT", index_id="NOBODY"),
    ],
}


def _all_time(name: str, *args: Any) -> Callable[[], Request]:
    """The request with a range that leaves no page before it."""
    return lambda: ENDPOINTS[name].request(*args, NOON - 3 * DAY_MS, NOON + 60_000)


REQUESTS: Mapping[str, Callable[[], Request]] = {
    "binance.premium_index": ENDPOINTS["binance.premium_index"].request,
    "binance.funding_rate": _all_time("binance.funding_rate", "BTCUSDT"),
    "binance.open_interest": lambda: ENDPOINTS["binance.open_interest"].request("BTCUSDT"),
    "binance.open_interest_hist": _all_time("binance.open_interest_hist", "BTCUSDT"),
    "binance.long_short": _all_time("binance.long_short", "BTCUSDT"),
    "bybit.tickers": ENDPOINTS["bybit.tickers"].request,
    "bybit.funding_history": _all_time("bybit.funding_history", "BTCUSDT"),
    "bybit.open_interest": _all_time("bybit.open_interest", "BTCUSDT"),
    "okx.funding_rate": lambda: ENDPOINTS["okx.funding_rate"].request("BTC-USDT-SWAP"),
    "okx.funding_rate_history": lambda: ENDPOINTS["okx.funding_rate_history"].request("BTC-USDT-SWAP", NOON - DAY_MS),
    "okx.open_interest": ENDPOINTS["okx.open_interest"].request,
    "okx.mark_price": ENDPOINTS["okx.mark_price"].request,
    "deribit.volatility_index": _all_time("deribit.volatility_index", "BTC"),
    "deribit.book_summary": lambda: ENDPOINTS["deribit.book_summary"].request("BTC"),
    "deribit.funding_history": _all_time("deribit.funding_history", "BTC-PERPETUAL"),
    "coingecko.derivatives": ENDPOINTS["coingecko.derivatives"].request,
}

"""CoinGecko's API v3 in US dollars: shared/upstreams.md §1 and docs.coingecko.com.

The keyless plan, and ``/key`` for any paid key: of the Analyst plan, with the calls that really came.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import orjson

from ray_app.assets import Asset
from ray_app.clock import HOUR_MS, SECOND_MS
from ray_app.sandbox.answers import (
    Answer,
    Question,
    SimulatedEndpoint,
    World,
    digits,
    iso_millis,
    json_answer,
    number,
    tagged,
)
from ray_app.sandbox.coingecko_base import (
    CoinGeckoEndpoint,
    beyond_the_plan,
    in_usd,
    percent,
    precision_of,
    priced,
    refuse,
    truth_of,
    whole,
)
from ray_app.sandbox.coingecko_charts import MarketChart, MarketChartRange, Ohlc
from ray_app.sandbox.market import Lru, Market, Snapshot

_CHANGES = {"1h": 3_600, "24h": 86_400, "7d": 604_800, "14d": 1_209_600, "30d": 2_592_000, "200d": 17_280_000}
_CHANGES["1y"] = 31_536_000
#: unknown to the registry, and sharing a ticker with a large coin: on the real list symbols are not unique either
_NAMESAKES = (
    {"id": "batcat", "symbol": "btc", "name": "batcat"},
    {"id": "bridged-wrapped-ether-starkgate", "symbol": "eth", "name": "Bridged Ether (StarkGate)"},
    {"id": "wrapped-solana-namesake", "symbol": "sol", "name": "Solana Namesake"},
)


def _listed(value: str) -> list[str]:
    return [item.strip() for item in value.split(",") if item.strip()]


class Ping(CoinGeckoEndpoint):
    """GET /ping."""

    name = "ping"
    pattern = re.compile(r"/ping")

    def answer(self, question: Question, world: World) -> Answer:  # noqa: ARG002
        return json_answer({"gecko_says": "(V3) To the Moon!"})


class Markets(CoinGeckoEndpoint):
    """GET /coins/markets: up to 250 coins a page; ids that it does not know are silently absent."""

    name = "markets"
    pattern = re.compile(r"/coins/markets")

    def __init__(self) -> None:
        # An answer changes once a minute: a client that pages or repeats costs nothing.
        self._rows: Lru[tuple[int, int, str], dict[int, bytes]] = Lru(4)

    def answer(self, question: Question, world: World) -> Answer:
        params = question.params
        in_usd(params)
        precision = precision_of(params)
        per_page, page = _positive(params, "per_page", 100), _positive(params, "page", 1)
        per_page = min(per_page, 250)
        snapshot = world.market.snapshot(question.now_ms)
        ranked = by_market_cap(world, snapshot, question.now_ms)
        chosen = _ordered(_chosen(ranked, params), params.get("order", "market_cap_desc"), snapshot, world.market)
        chosen = chosen[(page - 1) * per_page : page * per_page]
        ranks = {asset.asset_id: rank for rank, asset in enumerate(ranked, 1)}
        shape = f"{precision} {params.get('price_change_percentage', '')} {truth_of(params, 'sparkline')}"
        rows = self._rows.get((id(world), snapshot.at_ms, shape), dict)
        for asset in chosen:
            if asset.asset_id not in rows:
                row = _market_row(asset, ranks[asset.asset_id], snapshot, world.market, precision)
                row |= _optional_columns(asset, params, snapshot, world.market)
                rows[asset.asset_id] = orjson.dumps(row)
        return Answer(200, b"[" + b",".join(rows[asset.asset_id] for asset in chosen) + b"]")


def by_market_cap(world: World, snapshot: Snapshot, now_ms: int) -> list[Asset]:
    """The listed assets, largest first; those without a price last."""
    caps = np.nan_to_num(snapshot.market_cap, nan=-1.0)
    return sorted(world.listed(now_ms), key=lambda asset: -caps[world.market.row_of[asset.asset_id]])


def _chosen(ranked: list[Asset], params: Mapping[str, str]) -> list[Asset]:
    for name, column in (("ids", "coin_id"), ("names", "name"), ("symbols", "symbol")):
        if params.get(name):
            wanted = {item.lower() for item in _listed(params[name])}
            return [asset for asset in ranked if getattr(asset, column).lower() in wanted]
    return ranked


def _ordered(assets: list[Asset], order: str, snapshot: Snapshot, market: Market) -> list[Asset]:
    what, _, direction = order.rpartition("_")
    if direction not in {"asc", "desc"} or what not in {"market_cap", "volume", "id"}:
        return assets  # the real API falls back to its default
    if what == "market_cap":
        return assets if direction == "desc" else assets[::-1]
    if what == "id":
        return sorted(assets, key=lambda asset: asset.coin_id, reverse=direction == "desc")
    volume = snapshot.volume
    return sorted(assets, key=lambda a: float(volume[market.row_of[a.asset_id]]), reverse=direction == "desc")


def _positive(params: Mapping[str, str], name: str, default: int) -> int:
    value = params.get(name, "")
    return int(value) if digits(value) and int(value) > 0 else default


def _image(asset: Asset) -> str:
    return f"https://coin-images.coingecko.com/coins/images/{asset.asset_id}/large/{asset.coin_id}.png?1696501400"


def _market_row(asset: Asset, rank: int, snapshot: Snapshot, market: Market, precision: str | None) -> dict[str, Any]:
    row = market.row_of[asset.asset_id]
    profile = market.profiles[row]
    price, before = float(snapshot.price[row]), float(snapshot.price_24h[row])
    supply = float(snapshot.circulating[row])
    cap, cap_before = price * supply, before * supply
    ath, atl = float(snapshot.ath[row]), float(snapshot.atl[row])
    dilution = profile.maximum or profile.total
    return {
        "id": asset.coin_id,
        "symbol": asset.symbol.lower(),
        "name": asset.name,
        "image": _image(asset),
        "current_price": priced(price, precision),
        "market_cap": whole(cap),
        "market_cap_rank": None if math.isnan(price) else rank,
        "fully_diluted_valuation": None if dilution is None else whole(price * dilution),
        "total_volume": whole(float(snapshot.volume[row])),
        "high_24h": priced(float(snapshot.high[row]), precision),
        "low_24h": priced(float(snapshot.low[row]), precision),
        "price_change_24h": number(price - before),
        "price_change_percentage_24h": percent(price, before),
        "market_cap_change_24h": number(cap - cap_before),
        "market_cap_change_percentage_24h": percent(cap, cap_before),
        "circulating_supply": supply,
        "total_supply": profile.total,
        "max_supply": profile.maximum,
        "ath": priced(ath, precision),
        "ath_change_percentage": percent(price, ath),
        "ath_date": None if math.isnan(ath) else iso_millis(int(snapshot.ath_ms[row])),
        "atl": priced(atl, precision),
        "atl_change_percentage": percent(price, atl),
        "atl_date": None if math.isnan(atl) else iso_millis(int(snapshot.atl_ms[row])),
        "roi": _roi(price, profile.level) if profile.has_roi else None,
        "last_updated": None if math.isnan(price) else iso_millis(int(snapshot.traded_at[row])),
    }


def _roi(price: float, level: float) -> dict[str, Any] | None:
    if math.isnan(price):
        return None
    times = price / (0.2 * level) - 1
    return {"times": times, "currency": "usd", "percentage": times * 100}


def _optional_columns(asset: Asset, params: Mapping[str, str], snapshot: Snapshot, market: Market) -> dict[str, Any]:
    row, columns = market.row_of[asset.asset_id], {}
    price = float(snapshot.price[row])
    for span in _listed(params.get("price_change_percentage", "")):
        if span in _CHANGES:
            before, _ = market.price(asset.asset_id, snapshot.at_ms - _CHANGES[span] * SECOND_MS)
            columns[f"price_change_percentage_{span}_in_currency"] = percent(price, before, 14)
    if truth_of(params, "sparkline"):
        hour = snapshot.at_ms // HOUR_MS * HOUR_MS
        closes = market.candles(asset.asset_id, 3_600, hour - 168 * HOUR_MS, hour).bars.close
        columns["sparkline_in_7d"] = {"price": [float(close) for close in closes]}  # type: ignore[assignment]
    return columns


class SimplePrice(CoinGeckoEndpoint):
    """GET /simple/price: unknown ids are absent."""

    name = "simple_price"
    pattern = re.compile(r"/simple/price")

    def answer(self, question: Question, world: World) -> Answer:
        params = question.params
        in_usd(params, "vs_currencies")
        precision = precision_of(params)
        if not any(params.get(name) for name in ("ids", "names", "symbols")):
            raise refuse(422, "Missing parameter ids")
        snapshot = world.market.snapshot(question.now_ms)
        result: dict[str, Any] = {}
        for asset in _chosen(list(world.listed(question.now_ms)), params):
            row = world.market.row_of[asset.asset_id]
            price = float(snapshot.price[row])
            entry: dict[str, Any] = {"usd": priced(price, precision)}
            if truth_of(params, "include_market_cap"):
                entry["usd_market_cap"] = number(price * float(snapshot.circulating[row]))
            if truth_of(params, "include_24hr_vol"):
                entry["usd_24h_vol"] = number(float(snapshot.volume[row]))
            if truth_of(params, "include_24hr_change"):
                entry["usd_24h_change"] = percent(price, float(snapshot.price_24h[row]), 14)
            if truth_of(params, "include_last_updated_at"):
                entry["last_updated_at"] = None if math.isnan(price) else int(snapshot.traded_at[row]) // SECOND_MS
            result[asset.coin_id] = entry
        return json_answer(result)


class CoinsList(CoinGeckoEndpoint):
    """GET /coins/list: every listed coin; symbols are not unique."""

    name = "coins_list"
    pattern = re.compile(r"/coins/list")

    def answer(self, question: Question, world: World) -> Answer:
        listed = world.listed(question.now_ms)
        if question.params.get("status") == "inactive":
            active = {asset.asset_id for asset in listed}
            rows = [_entry(asset) for asset in world.market.assets if asset.asset_id not in active]
        else:
            rows = [*(_entry(asset) for asset in listed), *map(dict, _NAMESAKES)]
        if truth_of(question.params, "include_platform"):
            for row in rows:
                row["platforms"] = {}
        rows.sort(key=lambda row: str(row["id"]))
        return tagged(json_answer(rows), question.if_none_match)


def _entry(asset: Asset) -> dict[str, Any]:
    return {"id": asset.coin_id, "symbol": asset.symbol.lower(), "name": asset.name}


class Global(CoinGeckoEndpoint):
    """GET /global: totals over all listed coins."""

    name = "global"
    pattern = re.compile(r"/global")

    def answer(self, question: Question, world: World) -> Answer:
        snapshot = world.market.snapshot(question.now_ms)
        ranked = by_market_cap(world, snapshot, question.now_ms)
        rows = [world.market.row_of[asset.asset_id] for asset in ranked]
        caps = np.nan_to_num(snapshot.market_cap[rows])
        total, volume = float(caps.sum()), float(snapshot.volume[rows].sum())
        before = float(np.nansum(snapshot.price_24h[rows] * snapshot.circulating[rows]))
        rates = _rates(ranked, snapshot, world.market)
        return json_answer(
            {
                "data": {
                    "active_cryptocurrencies": len(ranked),
                    "upcoming_icos": 0,
                    "ongoing_icos": 49,
                    "ended_icos": 3376,
                    "markets": 1,
                    "total_market_cap": {currency: total / rate for currency, rate in rates.items()},
                    "total_volume": {currency: volume / rate for currency, rate in rates.items()},
                    "market_cap_percentage": {
                        asset.symbol.lower(): float(cap) / total * 100
                        for asset, cap in list(zip(ranked, caps, strict=True))[:10]
                    },
                    "market_cap_change_percentage_24h_usd": percent(total, before, 14),
                    "volume_change_percentage_24h_usd": percent(volume, float(snapshot.volume_24h[rows].sum()), 14),
                    "updated_at": snapshot.at_ms // SECOND_MS,
                }
            }
        )


def _rates(ranked: Iterable[Asset], snapshot: Snapshot, market: Market) -> dict[str, float]:
    rates = {"usd": 1.0}
    for asset in ranked:
        price = float(snapshot.price[market.row_of[asset.asset_id]])
        if asset.coin_id in {"bitcoin", "ethereum", "litecoin", "ripple", "binancecoin"} and price > 0:
            rates[asset.symbol.lower()] = price
    return rates


#: the Analyst plan: requests a minute, credits a month
_PER_MINUTE, _CREDITS = 500, 500_000


class Key(CoinGeckoEndpoint):
    """GET /key: what the key may spend and has spent."""

    name = "key"
    pattern = re.compile(r"/key")

    def answer(self, question: Question, world: World) -> Answer:  # noqa: ARG002
        if question.calls is None:
            raise beyond_the_plan(question.now_ms, 10002, "API Key Missing")
        return json_answer(
            {
                "plan": "Analyst",
                "rate_limit_request_per_minute": _PER_MINUTE,
                "monthly_call_credit": _CREDITS,
                "current_total_monthly_calls": question.calls,
                "current_remaining_monthly_calls": max(_CREDITS - question.calls, 0),
                "api_key_rate_limit_request_per_minute": _PER_MINUTE,
                "api_key_monthly_call_credit": _CREDITS,
                "api_key_current_total_monthly_calls": question.calls,
            }
        )


ENDPOINTS: tuple[SimulatedEndpoint, ...] = (
    Ping(),
    SimplePrice(),
    Markets(),
    CoinsList(),
    MarketChartRange(),
    MarketChart(),
    Ohlc(),
    Global(),
    Key(),
)

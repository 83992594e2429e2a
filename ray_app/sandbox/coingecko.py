"""CoinGecko's public API v3, keyless plan, in US dollars: shared/upstreams.md §1 and docs.coingecko.com."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import orjson

from ray_app.assets import Asset
from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from ray_app.sandbox.answers import (
    Answer,
    Question,
    Rejection,
    SimulatedEndpoint,
    World,
    iso_millis,
    json_answer,
    number,
    tagged,
)
from ray_app.sandbox.market import FIVE_MS, Lru, Market, Snapshot
from ray_app.sandbox.rng import unit_of

PUBLIC_HISTORY_MS = 365 * DAY_MS
_CHANGES = {"1h": 3_600, "24h": 86_400, "7d": 604_800, "14d": 1_209_600, "30d": 2_592_000, "200d": 17_280_000}
_CHANGES["1y"] = 31_536_000
#: unknown to the registry, and sharing a ticker with a large coin: on the real list symbols are not unique either
_NAMESAKES = (
    {"id": "batcat", "symbol": "btc", "name": "batcat"},
    {"id": "bridged-wrapped-ether-starkgate", "symbol": "eth", "name": "Bridged Ether (StarkGate)"},
    {"id": "wrapped-solana-namesake", "symbol": "sol", "name": "Solana Namesake"},
)


def error_status(now_ms: int, code: int, message: str) -> dict[str, Any]:
    """CoinGecko's error envelope."""
    return {"status": {"timestamp": iso_millis(now_ms), "error_code": code, "error_message": message}}


def _refuse(status: int, message: str) -> Rejection:
    return Rejection(json_answer({"error": message}, status))


def _beyond_the_plan(now_ms: int, code: int, message: str) -> Rejection:
    return Rejection(json_answer({"error": error_status(now_ms, code, message)}, 401))


def quoted(price: float) -> float | int | None:
    """A price as CoinGecko rounds it unless ``precision`` is given: whole dollars, cents, or 6 significant digits."""
    if math.isnan(price):
        return None
    if price >= 10_000:
        return round(price)
    if price >= 1:
        return round(price, 2)
    return float(f"{price:.6g}")


def _priced(price: float, precision: str | None) -> float | int | None:
    if precision is None:
        return quoted(price)
    return number(price) if precision == "full" else number(round(price, int(precision)))


def _precision(params: Mapping[str, str]) -> str | None:
    value = params.get("precision")
    if value is not None and value != "full" and not (value.isdigit() and int(value) <= 18):
        raise _refuse(400, "invalid precision")
    return value


def _whole(value: float) -> int | None:
    return None if math.isnan(value) else round(value)


def _percent(new: float, old: float, digits: int = 5) -> float | None:
    return None if math.isnan(new) or math.isnan(old) or old == 0 else round((new / old - 1) * 100, digits)


def _in_usd(params: Mapping[str, str], name: str = "vs_currency") -> None:
    if not params.get(name):
        raise _refuse(422, f"Missing parameter {name}")
    if "usd" not in params[name].lower().split(","):
        raise _refuse(400, f"invalid {name}")


def _truth_of(params: Mapping[str, str], name: str) -> bool:
    return params.get(name, "false").lower() == "true"


def _listed(value: str) -> list[str]:
    return [item.strip() for item in value.split(",") if item.strip()]


class CoinGeckoEndpoint(SimulatedEndpoint):
    """An endpoint under /coingecko/api/v3."""

    source: ClassVar[str] = "coingecko"


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
        _in_usd(params)
        precision = _precision(params)
        per_page, page = _positive(params, "per_page", 100), _positive(params, "page", 1)
        per_page = min(per_page, 250)
        snapshot = world.market.snapshot(question.now_ms)
        ranked = by_market_cap(world, snapshot, question.now_ms)
        chosen = _ordered(_chosen(ranked, params), params.get("order", "market_cap_desc"), snapshot, world.market)
        chosen = chosen[(page - 1) * per_page : page * per_page]
        ranks = {asset.asset_id: rank for rank, asset in enumerate(ranked, 1)}
        shape = f"{precision} {params.get('price_change_percentage', '')} {_truth_of(params, 'sparkline')}"
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
    return int(value) if value.isdigit() and int(value) > 0 else default


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
        "current_price": _priced(price, precision),
        "market_cap": _whole(cap),
        "market_cap_rank": None if math.isnan(price) else rank,
        "fully_diluted_valuation": None if dilution is None else _whole(price * dilution),
        "total_volume": _whole(float(snapshot.volume[row])),
        "high_24h": _priced(float(snapshot.high[row]), precision),
        "low_24h": _priced(float(snapshot.low[row]), precision),
        "price_change_24h": number(price - before),
        "price_change_percentage_24h": _percent(price, before),
        "market_cap_change_24h": number(cap - cap_before),
        "market_cap_change_percentage_24h": _percent(cap, cap_before),
        "circulating_supply": supply,
        "total_supply": profile.total,
        "max_supply": profile.maximum,
        "ath": _priced(ath, precision),
        "ath_change_percentage": _percent(price, ath),
        "ath_date": None if math.isnan(ath) else iso_millis(int(snapshot.ath_ms[row])),
        "atl": _priced(atl, precision),
        "atl_change_percentage": _percent(price, atl),
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
            columns[f"price_change_percentage_{span}_in_currency"] = _percent(price, before, 14)
    if _truth_of(params, "sparkline"):
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
        _in_usd(params, "vs_currencies")
        precision = _precision(params)
        if not any(params.get(name) for name in ("ids", "names", "symbols")):
            raise _refuse(422, "Missing parameter ids")
        snapshot = world.market.snapshot(question.now_ms)
        result: dict[str, Any] = {}
        for asset in _chosen(list(world.listed(question.now_ms)), params):
            row = world.market.row_of[asset.asset_id]
            price = float(snapshot.price[row])
            entry: dict[str, Any] = {"usd": _priced(price, precision)}
            if _truth_of(params, "include_market_cap"):
                entry["usd_market_cap"] = number(price * float(snapshot.circulating[row]))
            if _truth_of(params, "include_24hr_vol"):
                entry["usd_24h_vol"] = number(float(snapshot.volume[row]))
            if _truth_of(params, "include_24hr_change"):
                entry["usd_24h_change"] = _percent(price, float(snapshot.price_24h[row]), 14)
            if _truth_of(params, "include_last_updated_at"):
                entry["last_updated_at"] = None if math.isnan(price) else int(snapshot.traded_at[row]) // SECOND_MS
            result[asset.coin_id] = entry
        return json_answer(result)


class CoinEndpoint(CoinGeckoEndpoint):
    """An endpoint about one coin: 404 for an id that is not listed."""

    def answer(self, question: Question, world: World) -> Answer:
        for asset in world.listed(question.now_ms):
            if asset.coin_id == question.subject:
                _in_usd(question.params)
                return self.about(asset, question, world)
        raise _refuse(404, "coin not found")

    @abstractmethod
    def about(self, asset: Asset, question: Question, world: World) -> Answer:
        """The answer for a coin that exists."""


class MarketChart(CoinEndpoint):
    """GET /coins/{id}/market_chart?days=: price, market value and volume up to now."""

    name = "market_chart"
    pattern = re.compile(r"/coins/([^/]+)/market_chart")

    def about(self, asset: Asset, question: Question, world: World) -> Answer:
        days = question.params.get("days", "")
        if not days:
            raise _refuse(422, "Missing parameter days")
        if days != "max" and not (days.replace(".", "", 1).isdigit() and float(days) > 0):
            raise _refuse(400, "invalid days")
        span = math.inf if days == "max" else float(days) * DAY_MS
        if span > PUBLIC_HISTORY_MS:
            raise _too_old(question.now_ms)
        start = question.now_ms - int(span)
        return _chart(asset, question, world.market, start, question.now_ms)


class MarketChartRange(CoinEndpoint):
    """GET /coins/{id}/market_chart/range?from=&to= (unix seconds)."""

    name = "market_chart"
    pattern = re.compile(r"/coins/([^/]+)/market_chart/range")

    def about(self, asset: Asset, question: Question, world: World) -> Answer:
        bounds = []
        for name in ("from", "to"):
            if not question.params.get(name):
                raise _refuse(422, f"Missing parameter {name}")
            try:
                bounds.append(int(float(question.params[name]) * SECOND_MS))
            except ValueError:
                raise _refuse(400, f"invalid {name}") from None
        start, end = bounds
        # A minute of grace: a client asks for exactly a year and its request takes a moment.
        if start < question.now_ms - PUBLIC_HISTORY_MS - MINUTE_MS:
            raise _too_old(question.now_ms)
        return _chart(asset, question, world.market, start, min(end, question.now_ms))


def _too_old(now_ms: int) -> Rejection:
    return _beyond_the_plan(
        now_ms,
        10012,
        "Your request exceeds the allowed time range. Public API users are limited to querying historical data within "
        "the past 365 days. Upgrade to a paid plan to enjoy full historical data access: "
        "https://www.coingecko.com/en/api/pricing. ",
    )


def _chart(asset: Asset, question: Question, market: Market, start: int, end: int) -> Answer:
    step = _chart_step(question, start, end)
    first, last = -(-start // step), end // step
    slots = np.arange(first, last + 1, dtype=np.int64) * step
    if step == DAY_MS:
        stamps = slots.copy()
    else:
        # Upstream samples a little after each mark, never at the same moment twice.
        jitter = np.array([int(unit_of("chart", asset.coin_id, int(slot)) * 55 * SECOND_MS) for slot in slots])
        stamps = slots + jitter.astype(np.int64)
    keep = (stamps >= start) & (stamps <= end)
    slots, stamps = slots[keep], stamps[keep]
    nothing = np.empty(0)
    series = market.chart(asset.asset_id, slots) if len(slots) else (nothing, nothing, nothing)
    points = [
        [[int(t), float(v)] for t, v in zip(stamps, values, strict=True) if not math.isnan(v)] for values in series
    ]
    if end >= question.now_ms:  # the present, as the last point
        snapshot = market.snapshot(question.now_ms)
        row = market.row_of[asset.asset_id]
        if not math.isnan(price := float(snapshot.price[row])):
            present = (price, price * float(snapshot.circulating[row]), float(snapshot.volume[row]))
            for values, value in zip(points, present, strict=True):
                if not values or values[-1][0] < question.now_ms:
                    values.append([question.now_ms, value])
    return json_answer(dict(zip(("prices", "market_caps", "total_volumes"), points, strict=True)))


def _chart_step(question: Question, start: int, end: int) -> int:
    interval = question.params.get("interval")
    if interval == "daily":
        return DAY_MS
    if interval in {"5m", "hourly"}:
        raise _beyond_the_plan(
            question.now_ms,
            10005,
            f"interval={interval} is exclusive to paid plans; leave it empty for automatic granularity.",
        )
    if interval:
        raise _refuse(400, "invalid interval")
    if end - start > 90 * DAY_MS:
        return DAY_MS
    # "1 day from current time" is 5-minutely; a day further back is hourly (docs.coingecko.com).
    recent = start >= question.now_ms - DAY_MS - MINUTE_MS
    return FIVE_MS if recent else HOUR_MS


class Ohlc(CoinEndpoint):
    """GET /coins/{id}/ohlc?days=: [[close time ms, open, high, low, close]], granularity by days, no volume."""

    name = "ohlc"
    pattern = re.compile(r"/coins/([^/]+)/ohlc")
    _DAYS = ("1", "7", "14", "30", "90", "180", "365")

    def about(self, asset: Asset, question: Question, world: World) -> Answer:
        days = question.params.get("days", "")
        if not days:
            raise _refuse(422, "Missing parameter days")
        if days == "max":
            raise _too_old(question.now_ms)
        if days not in self._DAYS:
            raise _refuse(400, "Invalid days parameter")
        if question.params.get("interval"):
            raise _beyond_the_plan(question.now_ms, 10005, "The interval parameter is exclusive to paid plans.")
        precision = _precision(question.params)
        count = int(days)
        interval = 1_800 if count <= 2 else 14_400 if count <= 30 else 4 * 86_400
        step = interval * SECOND_MS
        end = question.now_ms // step * step
        start = -(-(question.now_ms - count * DAY_MS) // step) * step
        closed = world.market.candles(asset.asset_id, interval, start, end)
        bars = closed.bars
        columns = zip(closed.times, bars.open, bars.high, bars.low, bars.close, strict=True)
        return json_answer([[int(t) + step, *(_priced(float(p), precision) for p in prices)] for t, *prices in columns])


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
        if _truth_of(question.params, "include_platform"):
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
                    "market_cap_change_percentage_24h_usd": _percent(total, before, 14),
                    "volume_change_percentage_24h_usd": _percent(volume, float(snapshot.volume_24h[rows].sum()), 14),
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


ENDPOINTS: tuple[SimulatedEndpoint, ...] = (
    Ping(),
    SimplePrice(),
    Markets(),
    CoinsList(),
    MarketChartRange(),
    MarketChart(),
    Ohlc(),
    Global(),
)

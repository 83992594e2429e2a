"""Coin Metrics' community API, simulated: shared/upstreams.md §7.

A day appears some hours into the next one, each asset at its own time; addresses, transfers and flows of every second
day are corrected a day after that.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any, ClassVar, Final

import numpy as np

from ray_app.clock import DAY_MS, HOUR_MS, from_ms, to_ms
from ray_app.sandbox.answers import Answer, Question, Rejection, SimulatedEndpoint, World, digits, json_answer
from ray_app.sandbox.onchain_series import FIRST_DAY, day_prices, level_of, supplies, text, wave
from ray_app.sandbox.rng import FloatArray, IntArray, unit_of

_COINS: Final[Mapping[str, str]] = {
    "aave": "aave",
    "ada": "cardano",
    "algo": "algorand",
    "bch": "bitcoin-cash",
    "btc": "bitcoin",
    "dash": "dash",
    "doge": "dogecoin",
    "dot": "polkadot",
    "etc": "ethereum-classic",
    "eth": "ethereum",
    "icp": "internet-computer",
    "link": "chainlink",
    "ltc": "litecoin",
    "sol": "solana",
    "uni": "uniswap",
    "xlm": "stellar",
    "xmr": "monero",
    "xrp": "ripple",
    "xtz": "tezos",
    "zec": "zcash",
}
_FREE: Final = (
    *("AdrActCnt", "TxCnt", "TxTfrCnt", "HashRate", "SplyCur", "CapMrktCurUSD", "CapMVRVCur", "IssTotUSD"),
    *("FlowInExUSD", "FlowOutExUSD", "PriceUSD", "AssetEODCompletionTime"),
)
_PAID: Final = frozenset({"NVTAdj", "CapRealUSD", "FeeTotUSD", "DiffMean", "RevUSD"})
_MINED: Final = frozenset({"btc", "bch", "ltc", "doge", "dash", "etc", "zec", "xmr"})
_FLOWS: Final = frozenset({"btc", "eth"})
_REVISED: Final = frozenset({"AdrActCnt", "TxTfrCnt", "FlowInExUSD", "FlowOutExUSD"})
_PRICED: Final = frozenset({"CapMrktCurUSD", "IssTotUSD", "PriceUSD"})


def _refuse(status: int, kind: str, message: str) -> Rejection:
    return Rejection(json_answer({"error": {"type": kind, "message": message}}, status))


def _bad(name: str, what: str) -> Rejection:
    return _refuse(400, "bad_parameter", f"Bad parameter '{name}'. {what}")


def published_at(seed: int, asset: str, day: int) -> int:
    """When the figures of ``day`` are complete, ms: 3 to 8 hours into the next one."""
    return (day + 1) * DAY_MS + int((3 + 5 * unit_of(seed, "coinmetrics", asset, day)) * HOUR_MS) // 1_000 * 1_000


class AssetMetrics(SimulatedEndpoint):
    """GET /timeseries/asset-metrics: daily figures in pages."""

    source: ClassVar[str] = "coinmetrics"
    name = "asset_metrics"
    pattern = re.compile(r"/timeseries/asset-metrics")

    def answer(self, question: Question, world: World) -> Answer:
        params = question.params
        assets = self._assets(params)
        metrics = self._metrics(params)
        if params.get("frequency", "1d") != "1d":
            raise _bad("frequency", f"Value '{params['frequency']}' is not supported.")
        size = params.get("page_size", "100")
        if not digits(size) or not 1 <= int(size) <= 10_000:
            raise _bad("page_size", f"Value '{size}' is not an integer from 1 to 10000.")
        backwards = params.get("paging_from", "end") == "end"
        keys = self._keys(question, world, assets, backwards=backwards)
        page = list(islice(keys, int(size) + 1))
        more = len(page) > int(size)
        page = page[: int(size)]
        body: dict[str, Any] = {}
        if more:
            token = _token(page[-1])
            body = {"next_page_token": token, "next_page_url": self._url(params, token)}
        if backwards:
            page.reverse()
        return json_answer({"data": _items(world, question.now_ms, page, metrics), **body})

    def _assets(self, params: Mapping[str, str]) -> list[str]:
        asked = [part for part in params.get("assets", "").split(",") if part]
        if not asked:
            raise _bad("assets", "Missing required parameter.")
        unknown = [asset for asset in asked if asset not in _COINS]
        if unknown and params.get("ignore_unsupported_errors") != "true":
            raise _bad("assets", f"Value '{unknown[0]}' is not supported.")
        return sorted({asset for asset in asked if asset in _COINS})

    def _metrics(self, params: Mapping[str, str]) -> list[str]:
        asked = [part for part in params.get("metrics", "").split(",") if part]
        if not asked:
            raise _bad("metrics", "Missing required parameter.")
        paid = [metric for metric in asked if metric in _PAID]
        if paid and params.get("ignore_forbidden_errors") != "true":
            what = f"Requested metric '{paid[0]}' with frequency '1d' is not available with supplied credentials."
            raise _refuse(403, "forbidden", what)
        unknown = [metric for metric in asked if metric not in _FREE and metric not in _PAID]
        if unknown and params.get("ignore_unsupported_errors") != "true":
            raise _bad("metrics", f"Value '{unknown[0]}' is not supported.")
        return [metric for metric in _FREE if metric in asked]

    def _keys(
        self, question: Question, world: World, assets: list[str], *, backwards: bool
    ) -> Iterator[tuple[int, str]]:
        """(day, asset) of every item from the page's begin on, in the order of paging."""
        params, now = question.params, question.now_ms
        first, last = FIRST_DAY, now // DAY_MS - 1
        if params.get("start_time"):
            first = max(first, -(-_instant("start_time", params["start_time"]) // DAY_MS))
        if params.get("end_time"):
            last = min(last, _instant("end_time", params["end_time"]) // DAY_MS)
        by_asset = params.get("sort", "time") == "asset"
        after = _untoken(params["next_page_token"]) if params.get("next_page_token") else None
        if after is not None and not by_asset:
            first, last = (first, min(last, after[0])) if backwards else (max(first, after[0]), last)
        days = range(last, first - 1, -1) if backwards else range(first, last + 1)
        order = assets[::-1] if backwards else assets
        pairs = ((d, a) for a in order for d in days) if by_asset else ((d, a) for d in days for a in order)

        def place(day: int, asset: str) -> tuple[Any, ...]:
            return (asset, day) if by_asset else (day, asset)

        mark = place(*after) if after is not None else None
        for day, asset in pairs:
            if mark is not None and (place(day, asset) >= mark if backwards else place(day, asset) <= mark):
                continue
            if (day + 2) * DAY_MS > now and published_at(world.seed, asset, day) > now:
                continue
            yield day, asset

    def _url(self, params: Mapping[str, str], token: str) -> str:
        query = "&".join(f"{k}={v}" for k, v in {**params, "next_page_token": token}.items())
        return f"https://community-api.coinmetrics.io/v4/timeseries/asset-metrics?{query}"


def _items(world: World, now: int, page: list[tuple[int, str]], metrics: list[str]) -> list[dict[str, Any]]:
    by_asset: dict[str, list[int]] = {}
    for day, asset in page:
        by_asset.setdefault(asset, []).append(day)
    columns: dict[tuple[int, str], dict[str, str | None]] = {}
    for asset, days in by_asset.items():
        days.sort()
        whole = np.array(days, dtype=np.int64)
        stated = {metric: _column(world, now, asset, metric, whole) for metric in metrics if _has(asset, metric)}
        for n, day in enumerate(days):
            columns[day, asset] = {metric: values[n] for metric, values in stated.items()}
    return [
        {"asset": asset, "time": f"{from_ms(day * DAY_MS):%Y-%m-%d}T00:00:00.000000000Z", **columns[day, asset]}
        for day, asset in page
    ]


def _has(asset: str, metric: str) -> bool:
    if metric == "HashRate":
        return asset in _MINED
    return asset in _FLOWS if metric.startswith("Flow") else True


def _column(world: World, now: int, asset: str, metric: str, days: IntArray) -> list[str | None]:
    """One metric of one asset, a value a day; None: no data."""
    seed, coin = world.seed, _COINS[asset]
    listed = days.tolist()
    if metric == "AssetEODCompletionTime":
        return [str(published_at(seed, asset, day) // 1_000) for day in listed]
    ends = (days + 1) * DAY_MS
    if metric == "SplyCur":
        coins = supplies(world, coin, ends)
        return [None] * len(listed) if coins is None else [text(value, 15) for value in coins.tolist()]
    if metric in _PRICED:
        return _priced(world, coin, metric, days)
    values = _figure(seed, coin, metric, ends)
    if metric in _REVISED:
        values = values * np.array([_first_statement(seed, now, asset, metric, day) for day in listed])
    if metric in {"AdrActCnt", "TxCnt", "TxTfrCnt"}:
        return [str(round(value)) for value in values.tolist()]
    return [text(value) for value in values.tolist()]


def _priced(world: World, coin: str, metric: str, days: IntArray) -> list[str | None]:
    prices, coins = day_prices(world, coin, days), supplies(world, coin, (days + 1) * DAY_MS)
    if coins is None:
        return [None] * len(days)
    share = {"CapMrktCurUSD": 1.0, "IssTotUSD": 0.008 / 365.25}.get(metric)
    return [
        None if (price := prices.get(day)) is None else text(price if share is None else price * count * share)
        for day, count in zip(days.tolist(), coins.tolist(), strict=True)
    ]


def _figure(seed: int, coin: str, metric: str, ends: IntArray) -> FloatArray:
    if metric == "HashRate":
        return wave(seed, f"{coin} hashes", ends, level_of(seed, coin, "hashes")) / 1e12
    if metric == "CapMVRVCur":
        return wave(seed, f"{coin} mvrv", ends, 1.3 + unit_of(seed, coin, "mvrv"), swing=0.3, growth=0.0)
    if metric.startswith("Flow"):
        flow = wave(seed, f"{coin} flow", ends, 0.25 * level_of(seed, coin, "volume"), swing=0.3)
        return flow * wave(seed, f"{coin} {metric}", ends, 1.0, swing=0.04, growth=0.0)
    kind = "addresses" if metric == "AdrActCnt" else "transactions"
    figure = wave(seed, f"{coin} {kind}", ends, level_of(seed, coin, kind))
    return figure * 1.9 if metric == "TxTfrCnt" else figure


def _first_statement(seed: int, now: int, asset: str, metric: str, day: int) -> float:
    """What the first statement of a day is off by; 1 once it is corrected."""
    if day < now // DAY_MS - 3 or now >= published_at(seed, asset, day) + DAY_MS:
        return 1.0
    return 0.996 if unit_of(seed, "revised", asset, metric, day) < 0.5 else 1.0


def _instant(name: str, said: str) -> int:
    try:
        moment = datetime.fromisoformat(said)
        return to_ms(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise _bad(name, f"Value '{said}' is not a valid date.") from None


def _token(key: tuple[int, str]) -> str:
    return "0." + base64.urlsafe_b64encode(f"{key[0]}|{key[1]}".encode()).decode().rstrip("=")


def _untoken(token: str) -> tuple[int, str]:
    try:
        text_ = base64.urlsafe_b64decode(token.removeprefix("0.") + "===").decode()
        day, asset = text_.split("|")
        return int(day), asset
    except (ValueError, UnicodeDecodeError):
        raise _bad("next_page_token", "Value is malformed.") from None


ENDPOINTS: Final[tuple[SimulatedEndpoint, ...]] = (AssetMetrics(),)

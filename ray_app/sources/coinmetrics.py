"""Coin Metrics, community API v4: daily network data of many assets.

Format: https://docs.coinmetrics.io/api-reference/timeseries/timeseries-rest/asset-metrics. What trips people up:

* A day is stamped at its **start** and published the day after, usually some hours into it; the last days are
  revised. ``AssetEODCompletionTime`` (epoch seconds, as text) says when the day's figures were complete.
* Every value is a string. null: no data. A metric that an asset has not is absent from its items.
* ``HashRate`` is in TH/s.
* Metrics of the paid plan are refused as a whole (403) unless ``ignore_forbidden_errors`` is given.

``known_at``: AssetEODCompletionTime where it is given and later than the day, else a day after the day's end.
Licence: CC BY-NC 4.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final

from ray_app.clock import DAY_MS, iso
from ray_app.errors import MalformedPayload
from ray_app.sources.base import Endpoint, Exchange, Parsed, Request
from ray_app.sources.onchain import Statements
from ray_app.sources.reading import (
    Findings,
    absent,
    epoch_time,
    expect_list,
    expect_object,
    identifier,
    iso_time,
    readable,
    requested,
    shown,
)
from ray_app.sources.refusals import read_answer

#: Tickers of the community tier → CoinGecko's ids.
ASSETS: Final[Mapping[str, str]] = {
    "btc": "bitcoin",
    "eth": "ethereum",
    "xrp": "ripple",
    "doge": "dogecoin",
    "ada": "cardano",
    "bch": "bitcoin-cash",
    "ltc": "litecoin",
    "sol": "solana",
    "dot": "polkadot",
    "link": "chainlink",
    "xlm": "stellar",
    "xmr": "monero",
    "zec": "zcash",
    "dash": "dash",
    "etc": "ethereum-classic",
    "algo": "algorand",
    "aave": "aave",
    "uni": "uniswap",
    "icp": "internet-computer",
    "xtz": "tezos",
}
#: Coin Metrics' name → (ours, what one of theirs is in our unit).
NAMES: Final[Mapping[str, tuple[str, float]]] = {
    "AdrActCnt": ("active_addresses", 1.0),
    "TxCnt": ("transaction_count", 1.0),
    "TxTfrCnt": ("transfer_count", 1.0),
    "HashRate": ("hash_rate", 1e12),
    "SplyCur": ("circulating_supply", 1.0),
    "CapMrktCurUSD": ("market_cap_usd", 1.0),
    "CapMVRVCur": ("mvrv_ratio", 1.0),
    "IssTotUSD": ("supply_issued_usd", 1.0),
    "FlowInExUSD": ("exchange_inflow_usd", 1.0),
    "FlowOutExUSD": ("exchange_outflow_usd", 1.0),
    "PriceUSD": ("price_usd", 1.0),
}
COMPLETION: Final = "AssetEODCompletionTime"
#: the others' hashes are not SHA-256's or scrypt's, and the unit of their HashRate "varies by protocol"
_IN_TERAHASHES: Final = frozenset({"btc", "bch", "ltc", "doge", "dash"})
LAG_MS: Final = DAY_MS


class AssetMetrics(Endpoint):
    """``/timeseries/asset-metrics``: daily figures. Pages go from the newest to the oldest, each ascending."""

    name: ClassVar[str] = "coinmetrics.asset_metrics"
    account: ClassVar[str] = "coinmetrics"
    paths: ClassVar[tuple[str, ...]] = ("/timeseries/asset-metrics",)
    query: ClassVar[frozenset[str]] = frozenset(
        """assets metrics frequency start_time end_time start_inclusive end_inclusive timezone page_size paging_from
        sort limit_per_asset null_as_zero ignore_forbidden_errors ignore_unsupported_errors format pretty status
        next_page_token""".split()  # noqa: SIM905 - as API's docs list them
    )

    def request(
        self,
        assets: Sequence[str],
        metrics: Sequence[str],
        start_ms: int,
        end_ms: int | None = None,
        page_size: int = 400,
    ) -> Request:
        """Days from the one of ``start_ms`` on. ``assets``: tickers (ASSETS); ``metrics``: Coin Metrics' names."""
        params = {
            "assets": ",".join(assets),
            "metrics": ",".join(metrics),
            "frequency": "1d",
            "start_time": iso(start_ms)[:10],
            "page_size": str(page_size),
            "paging_from": "end",
            "sort": "time",
            "ignore_forbidden_errors": "true",
            "ignore_unsupported_errors": "true",
        }
        if end_ms is not None:
            params["end_time"] = iso(end_ms)[:10]
        return Request(self.name, "/timeseries/asset-metrics", params)

    def parse(self, exchange: Exchange) -> Parsed:
        """onchain_data rows; ``event_time`` is the end of the day. ``next``: the page of earlier days, if there is one.

        ``oldest`` is None where pages were asked for from the start: then later days follow.
        """
        request = exchange.request
        if request.params.get("frequency", "1d") != "1d":
            raise MalformedPayload(self.name, f"frequency {shown(request.params['frequency'])}: only days are read")
        body = expect_object(self.name, read_answer(exchange), "data")
        items = expect_list(self.name, body.get("data"), "one object per asset and day")
        found = Findings()
        rows = Statements(self.name, exchange.fetched_at, found)
        oldest: list[int] = []
        seen: set[str] = set()
        read = 0
        for position, item in enumerate(items):
            ticker = identifier(item.get("asset")) if isinstance(item, dict) else None
            if ticker is None:
                found.add("wrong_type", f"item {position}", "asset", f"expected an asset, got {shown(item)}")
                continue
            seen.add(ticker)
            day = iso_time(found, ticker, "time", item.get("time"))
            read += day is not None
            if day is not None and self._states(found, rows, ticker, day, item):
                oldest.append(day + DAY_MS)
        readable(self.name, items, read, "an object with asset and time")
        following = self._next(request, body)
        whole = following is None and "next_page_token" not in request.params
        missing = absent(requested(request.params.get("assets")), seen) if items and whole else ()
        backwards = request.params.get("paging_from", "end") == "end"
        return Parsed(rows.rows(), found.all(), missing, following, min(oldest, default=None) if backwards else None)

    def _states(self, found: Findings, rows: Statements, ticker: str, day: int, item: Mapping[str, Any]) -> bool:
        coin_id = ASSETS.get(ticker)
        if coin_id is None:
            found.add("unknown_id", ticker, "asset", "not an asset this node asks for")
            return False
        end = day + DAY_MS
        if day % DAY_MS or end > rows.fetched_at:
            found.add("out_of_range", ticker, f"time@{day}", "not the midnight of a day that is over")
            return False
        complete = epoch_time(found, ticker, f"{COMPLETION}@{day}", item.get(COMPLETION), 1_000)
        lag_ms = complete - end if complete is not None and complete > end else LAG_MS
        for theirs, (metric, scale) in NAMES.items():
            if theirs == "HashRate" and ticker not in _IN_TERAHASHES:
                continue
            rows.add(coin_id, metric, end, item.get(theirs), lag_ms, field=theirs, scale=scale)
        return True

    def _next(self, request: Request, body: Mapping[str, Any]) -> Request | None:
        token = body.get("next_page_token")
        if token is None or token == "":
            return None
        if not isinstance(token, str) or len(token) > 4_000 or not token.isprintable():
            raise MalformedPayload(self.name, f"next_page_token is no text, but {shown(token)}")
        if request.params.get("next_page_token") == token:
            raise MalformedPayload(self.name, "the next page is this page: next_page_token does not move on")
        return replace(request, params={**request.params, "next_page_token": token})


ENDPOINTS: Final[tuple[Endpoint, ...]] = (AssetMetrics(),)

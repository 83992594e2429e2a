"""CoinGecko's /derivatives: the contracts of all venues, one that has expired among them (shared/upstreams.md §1)."""

from __future__ import annotations

import re
from typing import Any, Final

from ray_app.clock import SECOND_MS
from ray_app.sandbox import derivatives_model as model
from ray_app.sandbox.answers import Answer, Question, SimulatedEndpoint, World, decimal_text, json_answer
from ray_app.sandbox.coingecko_base import CoinGeckoEndpoint
from ray_app.sandbox.derivatives_model import Listed

#: market name, venue, form of its symbols
_MARKETS: Final[tuple[tuple[str, str, str], ...]] = (
    ("Binance (Futures)", "binance", "{}USDT"),
    ("Bybit (Futures)", "bybit", "{}USDT"),
    ("OKX (Futures)", "okx", "{}-USDT-SWAP"),
    ("Deribit", "deribit", "{}-PERPETUAL"),
)
#: CoinGecko's cache of the list, ms
_CACHE_MS: Final = 30 * SECOND_MS
_LONG_AGO_S: Final = 1_700_000_000


class Derivatives(CoinGeckoEndpoint):
    """GET /derivatives."""

    name = "derivatives"
    pattern = re.compile(r"/derivatives")

    def answer(self, question: Question, world: World) -> Answer:
        at = question.now_ms // _CACHE_MS * _CACHE_MS
        known = model.listed(world, question.now_ms)
        items = [
            self._item(world, market, one, at)
            for market in _MARKETS
            for one in known.values()
            if market[1] != "deribit" or one.base in {"BTC", "ETH"}
        ]
        expired = {"symbol": "BTC-17NOV23", "contract_type": "futures", "funding_rate": 0}
        gone = {"last_traded_at": _LONG_AGO_S - 60, "expired_at": _LONG_AGO_S}
        items += [item | expired | gone for item in items if item["symbol"] == "BTC-PERPETUAL"]
        return json_answer(items)

    def _item(self, world: World, market: tuple[str, str, str], one: Listed, at: int) -> dict[str, Any]:
        name, venue, form = market
        mark, index = model.mark_price(world, venue, one, at), model.index_price(world, one, at)
        return {
            "market": name,
            "symbol": form.format(model.many(one) if venue in {"binance", "bybit"} else one.base),
            "index_id": one.base,
            "price": decimal_text(mark, 8),
            "price_percentage_change_24h": 0.0,
            "contract_type": "perpetual",
            "index": float(f"{index:.10g}"),
            "basis": round((index / mark - 1) * 100, 6),
            "spread": 0.01,
            "funding_rate": round(model.funding(world, venue, one.base, at) * 100, 8),
            "open_interest": round(model.open_interest(world, venue, one, at) * index, 2),
            "volume_24h": model.volume_usd(world, venue, one, at),
            "last_traded_at": at // SECOND_MS,
            "expired_at": None,
        }


ENDPOINTS: Final[tuple[SimulatedEndpoint, ...]] = (Derivatives(),)

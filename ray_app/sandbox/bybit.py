"""Bybit v5 (api.bybit.com): shared/upstreams.md §14. Refusals are HTTP 200 with a retCode."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Final

from ray_app.clock import DAY_MS, MINUTE_MS
from ray_app.sandbox import derivatives_model as model
from ray_app.sandbox.answers import Answer, Question, Rejection, SimulatedEndpoint, World, decimal_text, json_answer
from ray_app.sandbox.derivatives_model import Listed

VENUE: Final = "bybit"
_INTERVALS: Final = {"5min": 5, "15min": 15, "30min": 30, "1h": 60, "4h": 240, "1d": 1_440}


def _answer(question: Question, result: dict[str, Any], code: int = 0, message: str = "OK") -> Answer:
    return json_answer(
        {"retCode": code, "retMsg": message, "result": result, "retExtInfo": {}, "time": question.now_ms}
    )


def _refuse(question: Question, message: str) -> Rejection:
    return Rejection(_answer(question, {}, 10_001, f"params error: {message}"))


def _listed(question: Question, world: World) -> dict[str, Listed]:
    if question.params.get("category") != "linear":
        raise _refuse(question, "Category is invalid")
    return {f"{model.many(one)}USDT": one for one in model.listed(world, question.now_ms).values()}


def _contract(question: Question, world: World) -> tuple[str, Listed]:
    symbol, known = question.params.get("symbol", ""), _listed(question, world)
    if symbol not in known:
        raise _refuse(question, "Symbol Is Invalid")
    return symbol, known[symbol]


def _number(question: Question, name: str, default: int) -> int:
    value = model.whole(question.params.get(name), default)
    if value is None:
        raise _refuse(question, f"{name} is invalid")
    return value


class Tickers(SimulatedEndpoint):
    """GET /v5/market/tickers?category=linear: one contract or all, a dated one among them."""

    source: ClassVar[str] = VENUE
    name = "tickers"
    pattern = re.compile(r"/v5/market/tickers")

    def answer(self, question: Question, world: World) -> Answer:
        if question.params.get("symbol"):
            symbol, one = _contract(question, world)
            items = [self._item(world, symbol, one, question.now_ms)]
        else:
            known = _listed(question, world)
            items = [self._item(world, symbol, one, question.now_ms) for symbol, one in known.items()]
            items += [self._dated(item) for item in items if item["symbol"] == "BTCUSDT"]
        return _answer(question, {"category": "linear", "list": items})

    def _dated(self, item: dict[str, Any]) -> dict[str, Any]:
        return item | {
            "symbol": "BTC-26MAR27",
            "fundingRate": "",
            "nextFundingTime": "0",
            "deliveryTime": "1806048000000",
        }

    def _item(self, world: World, symbol: str, one: Listed, now_ms: int) -> dict[str, Any]:
        at = now_ms
        mark, index = model.mark_price(world, VENUE, one, at), model.index_price(world, one, at)
        opened, turnover = model.open_interest(world, VENUE, one, at), model.volume_usd(world, VENUE, one, at)
        return {
            "symbol": symbol,
            "lastPrice": decimal_text(mark * one.units, 8),
            "indexPrice": decimal_text(index * one.units, 10),
            "markPrice": decimal_text(mark * one.units, 10),
            "prevPrice24h": "",
            "openInterest": decimal_text(opened / one.units, 12),
            "openInterestValue": f"{opened * mark:.4f}",
            "turnover24h": f"{turnover:.4f}",
            "volume24h": decimal_text(turnover / (mark * one.units), 10),
            "fundingRate": decimal_text(model.funding(world, VENUE, one.base, at), 8),
            "nextFundingTime": str((at // model.FUNDING_MS + 1) * model.FUNDING_MS),
            "predictedDeliveryPrice": "",
            "basisRate": "",
            "deliveryFeeRate": "",
            "deliveryTime": "0",
            "basis": "",
        }


class FundingHistory(SimulatedEndpoint):
    """GET /v5/market/funding/history: settlements, newest first; ``startTime`` alone is refused."""

    source: ClassVar[str] = VENUE
    name = "funding_history"
    pattern = re.compile(r"/v5/market/funding/history")

    def answer(self, question: Question, world: World) -> Answer:
        symbol, one = _contract(question, world)
        if question.params.get("startTime") and not question.params.get("endTime"):
            raise _refuse(question, "endTime is required with startTime")
        limit = min(_number(question, "limit", 200), 200)
        until = min(_number(question, "endTime", question.now_ms), question.now_ms)
        since = _number(question, "startTime", 0)
        times = list(model.settlements(max(since, until - limit * model.FUNDING_MS), until))[::-1][:limit]
        items = [
            {
                "symbol": symbol,
                "fundingRate": decimal_text(model.funding(world, VENUE, one.base, at), 8),
                "fundingRateTimestamp": str(at),
            }
            for at in times
        ]
        return _answer(question, {"category": "linear", "list": items})


class OpenInterest(SimulatedEndpoint):
    """GET /v5/market/open-interest: newest first; the cursor names the last moment given."""

    source: ClassVar[str] = VENUE
    name = "open_interest"
    pattern = re.compile(r"/v5/market/open-interest")

    def answer(self, question: Question, world: World) -> Answer:
        symbol, one = _contract(question, world)
        if question.params.get("intervalTime") not in _INTERVALS:
            raise _refuse(question, "intervalTime is invalid")
        step = _INTERVALS[question.params["intervalTime"]] * MINUTE_MS
        limit = min(_number(question, "limit", 50), 200)
        until = min(_number(question, "endTime", question.now_ms), question.now_ms)
        since = max(_number(question, "startTime", 0), until - 1_000 * DAY_MS)
        cursor = question.params.get("cursor", "")
        if cursor:
            given = model.whole(cursor.removeprefix("lastTs%3D"), 0)
            if given is None:
                raise _refuse(question, "cursor is invalid")
            until = min(until, given - 1)
        newest = until // step * step
        times = [newest - n * step for n in range(limit) if newest - n * step >= since]
        more = bool(times) and times[-1] - step >= since
        items = [
            {
                "openInterest": decimal_text(model.open_interest(world, VENUE, one, at) / one.units, 12),
                "timestamp": str(at),
            }
            for at in times
        ]
        following = f"lastTs%3D{times[-1]}" if more else ""
        result = {"symbol": symbol, "category": "linear", "list": items, "nextPageCursor": following}
        return _answer(question, result)


ENDPOINTS: Final[tuple[SimulatedEndpoint, ...]] = (Tickers(), FundingHistory(), OpenInterest())

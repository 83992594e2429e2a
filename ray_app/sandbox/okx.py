"""OKX (www.okx.com/api/v5/public): shared/upstreams.md §14. Values are strings; refusals are HTTP 200 with a code."""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import Any, ClassVar, Final

from ray_app.clock import DAY_MS
from ray_app.sandbox import derivatives_model as model
from ray_app.sandbox.answers import Answer, Question, Rejection, SimulatedEndpoint, World, decimal_text, json_answer
from ray_app.sandbox.derivatives_model import Listed

VENUE: Final = "okx"
#: coins in one contract; of coins not named here 1
_SIZES: Final = {"BTC": 0.01, "ETH": 0.1, "XRP": 100.0, "DOGE": 1_000.0, "PEPE": 1e7, "SHIB": 1e6}


def _answer(data: list[dict[str, Any]], code: str = "0", message: str = "") -> Answer:
    return json_answer({"code": code, "data": data, "msg": message})


def _refuse(code: str, message: str) -> Rejection:
    return Rejection(_answer([], code, message))


def _swaps(question: Question, world: World) -> dict[str, Listed]:
    return {f"{base}-USDT-SWAP": one for base, one in model.listed(world, question.now_ms).items()}


def _swap(question: Question, world: World) -> tuple[str, Listed]:
    name, known = question.params.get("instId", ""), _swaps(question, world)
    if not name:
        raise _refuse("50014", "Parameter instId can not be empty")
    if name not in known:
        raise _refuse("51001", "Instrument ID, Instrument ID code, or Spread ID doesn't exist.")
    return name, known[name]


class _Snapshot(SimulatedEndpoint):
    """One swap by ``instId``, or all of ``instType=SWAP``."""

    source: ClassVar[str] = VENUE
    by_type: ClassVar[bool] = True

    def answer(self, question: Question, world: World) -> Answer:
        if self.by_type and question.params.get("instType") != "SWAP":
            raise _refuse("51000", "Parameter instType error")
        every = not question.params.get("instId") if self.by_type else question.params.get("instId") == "ANY"
        chosen = list(_swaps(question, world).items()) if every else [_swap(question, world)]
        return _answer([self.item(world, name, one, question.now_ms) for name, one in chosen])

    @abstractmethod
    def item(self, world: World, name: str, one: Listed, now_ms: int) -> dict[str, Any]:
        """One swap."""


class FundingRate(_Snapshot):
    """GET /public/funding-rate?instId= (one, or ANY)."""

    name = "funding_rate"
    pattern = re.compile(r"/api/v5/public/funding-rate")
    by_type: ClassVar[bool] = False

    def item(self, world: World, name: str, one: Listed, now_ms: int) -> dict[str, Any]:
        at = model.second(now_ms)
        due = (at // model.FUNDING_MS + 1) * model.FUNDING_MS
        return {
            "instType": "SWAP",
            "instId": name,
            "method": "current_period",
            "formulaType": "withRate",
            "fundingRate": f"{model.funding(world, VENUE, one.base, at):.16f}",
            "nextFundingRate": "",
            "fundingTime": str(due),
            "nextFundingTime": str(due + model.FUNDING_MS),
            "minFundingRate": "-0.00375",
            "maxFundingRate": "0.00375",
            "settState": "settled",
            "settFundingRate": f"{model.funding(world, VENUE, one.base, due - model.FUNDING_MS):.16f}",
            "premium": "",
            "ts": str(at),
        }


class FundingRateHistory(SimulatedEndpoint):
    """GET /public/funding-rate-history: newest first, three months; ``after``: what is older than a time."""

    source: ClassVar[str] = VENUE
    name = "funding_rate_history"
    pattern = re.compile(r"/api/v5/public/funding-rate-history")

    def answer(self, question: Question, world: World) -> Answer:
        name, one = _swap(question, world)
        found = [model.whole(question.params.get(key), value) for key, value in self._defaults(question).items()]
        limit, before, after = (value if value is not None else -1 for value in found)
        if -1 in (limit, before, after):
            raise _refuse("51000", "Parameter limit, before or after error")
        kept = question.now_ms - 92 * DAY_MS
        times = model.settlements(max(kept, before + 1), min(question.now_ms, after - 1))
        return _answer([self._item(world, name, one, at) for at in list(times)[::-1][: min(limit, 400)]])

    def _defaults(self, question: Question) -> dict[str, int]:
        return {"limit": 400, "before": 0, "after": question.now_ms + 1}

    def _item(self, world: World, name: str, one: Listed, at: int) -> dict[str, Any]:
        paid = model.funding(world, VENUE, one.base, at)
        return {
            "instType": "SWAP",
            "instId": name,
            "formulaType": "withRate",
            "fundingRate": f"{paid + 1e-9:.10f}",
            "realizedRate": f"{paid:.8f}",
            "fundingTime": str(at),
            "method": "current_period",
        }


class OpenInterest(_Snapshot):
    """GET /public/open-interest?instType=SWAP."""

    name = "open_interest"
    pattern = re.compile(r"/api/v5/public/open-interest")

    def item(self, world: World, name: str, one: Listed, now_ms: int) -> dict[str, Any]:
        at = model.second(now_ms)
        coins = model.open_interest(world, VENUE, one, at)
        return {
            "instType": "SWAP",
            "instId": name,
            "oi": decimal_text(coins / _SIZES.get(one.base, 1.0), 15),
            "oiCcy": decimal_text(coins, 15),
            "oiUsd": decimal_text(coins * model.index_price(world, one, at), 15),
            "ts": str(at),
        }


class MarkPrice(_Snapshot):
    """GET /public/mark-price?instType=SWAP."""

    name = "mark_price"
    pattern = re.compile(r"/api/v5/public/mark-price")

    def item(self, world: World, name: str, one: Listed, now_ms: int) -> dict[str, Any]:
        at = model.second(now_ms)
        mark = decimal_text(model.mark_price(world, VENUE, one, at), 10)
        return {"instType": "SWAP", "instId": name, "markPx": mark, "ts": str(at)}


ENDPOINTS: Final[tuple[SimulatedEndpoint, ...]] = (FundingRate(), FundingRateHistory(), OpenInterest(), MarkPrice())

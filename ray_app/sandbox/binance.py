"""Binance USDⓈ-M futures (fapi.binance.com): shared/upstreams.md §14."""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import Any, ClassVar, Final

from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS
from ray_app.sandbox import derivatives_model as model
from ray_app.sandbox.answers import Answer, Question, Rejection, SimulatedEndpoint, World, json_answer
from ray_app.sandbox.derivatives_model import Listed
from ray_app.sandbox.rng import unit_of

VENUE: Final = "binance"
_PERIODS: Final = {"5m": 5, "15m": 15, "30m": 30, "1h": 60, "2h": 120, "4h": 240, "6h": 360, "12h": 720, "1d": 1_440}
_KEPT_MS: Final = 30 * DAY_MS


def _refuse(code: int, message: str) -> Rejection:
    return Rejection(json_answer({"code": code, "msg": message}, 400))


def _malformed(name: str) -> Rejection:
    return _refuse(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")


def _contract(question: Question, world: World) -> Listed:
    symbol = question.params.get("symbol", "")
    if not symbol:
        raise _malformed("symbol")
    for one in model.listed(world, question.now_ms).values():
        if f"{model.many(one)}USDT" == symbol:
            return one
    raise _refuse(-1121, "Invalid symbol.")


def _number(question: Question, name: str, default: int) -> int:
    value = model.whole(question.params.get(name), default)
    if value is None:
        raise _malformed(name)
    return value


def _text(value: float) -> str:
    return f"{value:.8f}"


class _Binance(SimulatedEndpoint):
    source: ClassVar[str] = VENUE


class PremiumIndex(_Binance):
    """GET /fapi/v1/premiumIndex: one contract as an object, all as an array, a dated one among them."""

    name = "premium_index"
    pattern = re.compile(r"/fapi/v1/premiumIndex")

    def answer(self, question: Question, world: World) -> Answer:
        if question.params.get("symbol"):
            one = _contract(question, world)
            return json_answer(self._item(world, one, f"{model.many(one)}USDT", question.now_ms))
        every = model.listed(world, question.now_ms).values()
        items = [self._item(world, one, f"{model.many(one)}USDT", question.now_ms) for one in every]
        dated = [self._item(world, one, "BTCUSDT_270326", question.now_ms) for one in every if one.base == "BTC"]
        return json_answer(items + [item | {"lastFundingRate": "", "nextFundingTime": 0} for item in dated])

    def _item(self, world: World, one: Listed, symbol: str, now_ms: int) -> dict[str, Any]:
        at = model.second(now_ms)
        index = model.index_price(world, one, at) * one.units
        return {
            "symbol": symbol,
            "markPrice": _text(model.mark_price(world, VENUE, one, at) * one.units),
            "indexPrice": _text(index),
            "estimatedSettlePrice": _text(index),
            "lastFundingRate": _text(model.funding(world, VENUE, one.base, at)),
            "interestRate": "0.00010000",
            "nextFundingTime": (at // model.FUNDING_MS + 1) * model.FUNDING_MS,
            "time": at,
        }


class FundingRate(_Binance):
    """GET /fapi/v1/fundingRate: settlements ascending; of more than ``limit`` in a range the oldest."""

    name = "funding_rate"
    pattern = re.compile(r"/fapi/v1/fundingRate")

    def answer(self, question: Question, world: World) -> Answer:
        one = _contract(question, world)
        limit = min(_number(question, "limit", 100), 1_000)
        until = min(_number(question, "endTime", question.now_ms), question.now_ms)
        ranged = bool(question.params.get("startTime"))
        since = _number(question, "startTime", until - limit * model.FUNDING_MS)
        times = model.settlements(max(since, until - 1_200 * DAY_MS) - 10, until)
        stamped = [(at, at + int(10 * unit_of(world.seed, "settled", one.base, at))) for at in times]
        inside = [(at, stamp) for at, stamp in stamped if since <= stamp <= until]
        inside = inside[:limit] if ranged else inside[max(0, len(inside) - limit) :]
        prices = model.hourly_prices(world, one, [at for at, _ in inside])
        return json_answer([self._item(world, one, at, stamp, prices.get(at)) for at, stamp in inside])

    def _item(self, world: World, one: Listed, at: int, stamp: int, price: float | None) -> dict[str, Any]:
        return {
            "symbol": f"{model.many(one)}USDT",
            "fundingTime": stamp,
            "fundingRate": _text(model.funding(world, VENUE, one.base, at)),
            "markPrice": "" if price is None else _text(price * one.units),
        }


class OpenInterest(_Binance):
    """GET /fapi/v1/openInterest: open interest of one contract now."""

    name = "open_interest"
    pattern = re.compile(r"/fapi/v1/openInterest")

    def answer(self, question: Question, world: World) -> Answer:
        one, at = _contract(question, world), model.second(question.now_ms)
        opened = model.open_interest(world, VENUE, one, at) / one.units
        return json_answer({"symbol": f"{model.many(one)}USDT", "openInterest": f"{opened:.3f}", "time": at})


class _Statistics(_Binance):
    """Series under /futures/data: steps of ``period``, ascending, kept for 30 days."""

    def answer(self, question: Question, world: World) -> Answer:
        one, now = _contract(question, world), question.now_ms
        if question.params.get("period") not in _PERIODS:
            raise _malformed("period")
        step = _PERIODS[question.params["period"]] * MINUTE_MS
        limit = _number(question, "limit", 30)
        if not 1 <= limit <= 500:
            raise _refuse(-1130, "parameter 'limit' is invalid.")
        until = min(_number(question, "endTime", now), now)
        ranged = bool(question.params.get("startTime"))
        since = _number(question, "startTime", until - limit * step)
        if since < now - _KEPT_MS:
            raise _refuse(-1130, "parameter 'startTime' is invalid.")
        times = list(range(-(-since // step) * step, until + 1, step))
        times = times[:limit] if ranged else times[max(0, len(times) - limit) :]
        return json_answer(self.items(world, one, times))

    @abstractmethod
    def items(self, world: World, one: Listed, times: list[int]) -> list[dict[str, Any]]:
        """The series at these moments."""


class OpenInterestHist(_Statistics):
    """GET /futures/data/openInterestHist."""

    name = "open_interest_hist"
    pattern = re.compile(r"/futures/data/openInterestHist")

    def items(self, world: World, one: Listed, times: list[int]) -> list[dict[str, Any]]:
        hours = {at: at // HOUR_MS * HOUR_MS for at in times}
        prices = model.hourly_prices(world, one, set(hours.values()))
        found = []
        for at in times:
            coins, price = model.open_interest(world, VENUE, one, at), prices.get(hours[at], 0.0)
            found.append(
                {
                    "symbol": f"{model.many(one)}USDT",
                    "sumOpenInterest": _text(coins / one.units),
                    "sumOpenInterestValue": _text(coins * price),
                    "CMCCirculatingSupply": _text(
                        world.market.profiles[world.market.row_of[one.asset.asset_id]].circulating
                    ),
                    "timestamp": at,
                }
            )
        return found


class LongShort(_Statistics):
    """GET /futures/data/globalLongShortAccountRatio."""

    name = "long_short"
    pattern = re.compile(r"/futures/data/globalLongShortAccountRatio")

    def items(self, world: World, one: Listed, times: list[int]) -> list[dict[str, Any]]:
        shares = [(at, model.long_short(world, VENUE, one.base, at)) for at in times]
        return [
            {
                "symbol": f"{model.many(one)}USDT",
                "longAccount": f"{share:.4f}",
                "longShortRatio": f"{share / (1 - share):.4f}",
                "shortAccount": f"{1 - share:.4f}",
                "timestamp": at,
            }
            for at, share in shares
        ]


ENDPOINTS: Final[tuple[SimulatedEndpoint, ...]] = (
    PremiumIndex(),
    FundingRate(),
    OpenInterest(),
    OpenInterestHist(),
    LongShort(),
)

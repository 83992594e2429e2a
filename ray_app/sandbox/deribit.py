"""Deribit (www.deribit.com/api/v2/public): shared/upstreams.md §14. JSON-RPC over GET."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar, Final

from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS, from_ms
from ray_app.sandbox import derivatives_model as model
from ray_app.sandbox.answers import Answer, Question, Rejection, SimulatedEndpoint, World, json_answer
from ray_app.sandbox.derivatives_model import Listed
from ray_app.sandbox.rng import unit_of

VENUE: Final = "deribit"
_CURRENCIES: Final = ("BTC", "ETH")
_RESOLUTIONS: Final = {"1": 1_000, "60": MINUTE_MS, "3600": HOUR_MS, "43200": 12 * HOUR_MS, "1D": DAY_MS}
_MOST_CANDLES: Final = 1_000
_MOST_HOURS: Final = 720
_WEEKS: Final = (1, 2, 4, 8, 17, 30)
_STRIKES: Final = (0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5)


def _answer(question: Question, result: Any) -> Answer:
    clock = {"usIn": question.now_ms * 1_000, "usOut": question.now_ms * 1_000 + 250, "usDiff": 250, "testnet": False}
    return json_answer({"jsonrpc": "2.0", "result": result, **clock})


def _refuse(param: str, reason: str = "wrong format") -> Rejection:
    error = {"message": "Invalid params", "data": {"reason": reason, "param": param}, "code": -32_602}
    return Rejection(json_answer({"jsonrpc": "2.0", "error": error, "testnet": False}, 400))


def _currency(question: Question, world: World) -> Listed:
    currency = question.params.get("currency", "")
    known = model.listed(world, question.now_ms)
    if currency not in _CURRENCIES or currency not in known:
        raise _refuse("currency")
    return known[currency]


def _range(question: Question) -> tuple[int, int]:
    """[start, end] asked for, the end no later than now."""
    start, end = (model.whole(question.params.get(name), -1) for name in ("start_timestamp", "end_timestamp"))
    if start is None or start < 0:
        raise _refuse("start_timestamp")
    if end is None or end < start:
        raise _refuse("end_timestamp")
    return start, min(end, question.now_ms)


class VolatilityIndex(SimulatedEndpoint):
    """GET /public/get_volatility_index_data: candles ascending, the newest 1,000 of a range, the open one included."""

    source: ClassVar[str] = VENUE
    name = "volatility_index"
    pattern = re.compile(r"/public/get_volatility_index_data")

    def answer(self, question: Question, world: World) -> Answer:
        one, (start, end) = _currency(question, world), _range(question)
        step = _RESOLUTIONS.get(question.params.get("resolution", ""))
        if step is None:
            raise _refuse("resolution")
        newest, oldest = end // step * step, -(-start // step) * step
        first = max(oldest, newest - (_MOST_CANDLES - 1) * step)
        level = lru_cache(maxsize=4)(lambda at: round(model.volatility(world, one.base, at), 2))  # an end is a start
        candles = [self._candle(level, at, step, question.now_ms) for at in range(first, newest + 1, step)]
        return _answer(question, {"data": candles, "continuation": first - step if first > oldest else None})

    def _candle(self, level: Callable[[int], float], at: int, step: int, now_ms: int) -> list[float]:
        levels = [level(moment) for moment in (at, at + step // 2, at + step) if moment <= now_ms]
        return [at, levels[0], max(levels), min(levels), levels[-1]]


class BookSummary(SimulatedEndpoint):
    """GET /public/get_book_summary_by_currency?kind=option: the chain of six expiries and seven strikes."""

    source: ClassVar[str] = VENUE
    name = "book_summary"
    pattern = re.compile(r"/public/get_book_summary_by_currency")

    def answer(self, question: Question, world: World) -> Answer:
        one = _currency(question, world)
        if question.params.get("kind", "option") != "option":
            return _answer(question, [])
        at = model.second(question.now_ms)
        index = model.index_price(world, one, at)
        items = []
        for expiry in self._expiries(at):
            spot = model.hourly_prices(world, one, [expiry - 30 * 7 * DAY_MS]).get(expiry - 30 * 7 * DAY_MS, index)
            for moneyness in _STRIKES:
                strike = float(f"{spot * moneyness:.2g}")
                items += [self._option(world, one, (expiry, strike, side), at, index) for side in "CP"]
        return _answer(question, list({item["instrument_name"]: item for item in items}.values()))

    def _expiries(self, at: int) -> list[int]:
        """Fridays at 08:00 UTC."""
        week = 7 * DAY_MS
        friday = (at - DAY_MS - 8 * HOUR_MS) // week * week + DAY_MS + 8 * HOUR_MS  # 1970-01-02 was one
        return [friday + number * week for number in _WEEKS]

    def _option(self, world: World, one: Listed, what: tuple[int, float, str], at: int, index: float) -> dict[str, Any]:
        expiry, strike, side = what
        day = from_ms(expiry)
        name = f"{one.base}-{day.day}{day.strftime('%b%y').upper()}-{strike:.0f}-{side}"
        lean = 0.55 + 0.3 * model.smooth(at, 5 * DAY_MS, world.seed, "puts", one.base)  # puts for each call
        size = 200 + 1_800 * unit_of(world.seed, one.base, expiry, str(strike))
        opened = size * (lean if side == "P" else 1.0)
        quoted = unit_of(world.seed, name, "bid") > 0.2
        return {
            "instrument_name": name,
            "base_currency": one.base,
            "quote_currency": one.base,
            "open_interest": round(opened, 1),
            "volume": round(opened / 20, 1),
            "volume_usd": round(opened / 20 * index * 0.02, 2),
            "mark_iv": round(model.volatility(world, one.base, at), 2),
            "mark_price": 0.02,
            "bid_price": 0.0195 if quoted else None,
            "ask_price": 0.0205 if quoted else None,
            "underlying_price": round(index, 2),
            "underlying_index": f"{one.base}-{day.day}{day.strftime('%b%y').upper()}",
            "creation_timestamp": at,
        }


class FundingHistory(SimulatedEndpoint):
    """GET /public/get_funding_rate_history: an item an hour, ascending, the newest 720 of (start, end]."""

    source: ClassVar[str] = VENUE
    name = "funding_history"
    pattern = re.compile(r"/public/get_funding_rate_history")

    def answer(self, question: Question, world: World) -> Answer:
        base, _, kind = question.params.get("instrument_name", "").partition("-")
        known = model.listed(world, question.now_ms)
        if base not in _CURRENCIES or base not in known or kind != "PERPETUAL":
            raise _refuse("instrument_name", "instrument not found")
        start, end = _range(question)
        newest = end // HOUR_MS * HOUR_MS
        first = max((start // HOUR_MS + 1) * HOUR_MS, newest - (_MOST_HOURS - 1) * HOUR_MS)
        hours = range(first, newest + 1, HOUR_MS)
        prices = model.hourly_prices(world, known[base], {*hours, *(hour - HOUR_MS for hour in hours)})
        paid = lru_cache(maxsize=16)(lambda hour: model.funding(world, VENUE, base, hour) / 8)
        return _answer(question, [self._hour(paid, hour, prices) for hour in hours if hour in prices])

    def _hour(self, paid: Callable[[int], float], hour: int, prices: dict[int, float]) -> dict[str, Any]:
        rates = [paid(hour - n * HOUR_MS) for n in range(8)]
        return {
            "timestamp": hour,
            "index_price": round(prices[hour], 2),
            "prev_index_price": round(prices.get(hour - HOUR_MS, prices[hour]), 2),
            "interest_1h": rates[0],
            "interest_8h": sum(rates),
        }


ENDPOINTS: Final[tuple[SimulatedEndpoint, ...]] = (VolatilityIndex(), BookSummary(), FundingHistory())

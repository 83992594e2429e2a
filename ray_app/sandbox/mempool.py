"""mempool.space, simulated: shared/upstreams.md §9."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import numpy as np

from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS
from ray_app.sandbox.answers import Answer, Question, SimulatedEndpoint, World, json_answer
from ray_app.sandbox.onchain_series import FIRST_DAY, at, height, level_of, wave
from ray_app.sandbox.rng import FloatArray, IntArray, unit_of

_SPANS: Final[Mapping[str, int]] = {
    "24h": 1,
    "3d": 3,
    "1w": 7,
    "1m": 30,
    "3m": 90,
    "6m": 180,
    "1y": 365,
    "2y": 730,
    "3y": 1_095,
}
_PERIOD_MS: Final = 14 * DAY_MS


def _hashes(seed: int, times: IntArray) -> FloatArray:
    return wave(seed, "bitcoin hashes", times, level_of(seed, "bitcoin", "hashes"))


def _difficulty(seed: int, times: IntArray) -> FloatArray:
    return _hashes(seed, times // _PERIOD_MS * _PERIOD_MS) * 600 / 2**32


class MempoolEndpoint(SimulatedEndpoint):
    """An endpoint under /mempool."""

    source: ClassVar[str] = "mempool"


class Hashrate(MempoolEndpoint):
    """GET /v1/mining/hashrate/{span}: each day at its end, minutes after it; an unknown span is all there is."""

    name = "hashrate"
    pattern = re.compile(r"/v1/mining/hashrate/([^/]+)")

    def answer(self, question: Question, world: World) -> Answer:
        seed, now = world.seed, question.now_ms
        today = now // DAY_MS
        indexed = today * DAY_MS + int((10 + 50 * unit_of(seed, "mempool indexed", today)) * MINUTE_MS)
        last = today if now >= indexed else today - 1
        first = max(FIRST_DAY, now // DAY_MS - _SPANS.get(question.subject, last) + 1)
        ends = np.arange(first, last + 1, dtype=np.int64) * DAY_MS
        periods = np.arange(-(-first * DAY_MS // _PERIOD_MS), now // _PERIOD_MS + 1, dtype=np.int64) * _PERIOD_MS
        levels, before = _difficulty(seed, periods), _difficulty(seed, periods - _PERIOD_MS)
        retargets = zip(periods.tolist(), levels.tolist(), (levels / before).round(6).tolist(), strict=True)
        one = np.array([now], dtype=np.int64)
        body: dict[str, Any] = {
            "hashrates": [
                {"timestamp": end // 1_000, "avgHashrate": rate}
                for end, rate in zip(ends.tolist(), (0.99 * _hashes(seed, ends)).tolist(), strict=True)
            ],
            "difficulty": [
                {"time": begin // 1_000, "height": height(begin), "difficulty": value, "adjustment": change}
                for begin, value, change in retargets
            ],
            "currentHashrate": float(_hashes(seed, one)[0]),
            "currentDifficulty": float(_difficulty(seed, one)[0]),
        }
        return json_answer(body)


class Fees(MempoolEndpoint):
    """GET /v1/fees/recommended: whole sat/vB."""

    name = "fees"
    pattern = re.compile(r"/v1/fees/recommended")

    def answer(self, question: Question, world: World) -> Answer:
        now = question.now_ms // MINUTE_MS * MINUTE_MS
        fastest = at(world.seed, "bitcoin fees", now, 4.0, swing=0.8, noise=0.3, growth=0.0)
        rates = {"fastestFee": 1.0, "halfHourFee": 0.8, "hourFee": 0.6, "economyFee": 0.3, "minimumFee": 0.1}
        return json_answer({name: max(1, round(fastest * share)) for name, share in rates.items()})


class Mempool(MempoolEndpoint):
    """GET /mempool."""

    name = "mempool"
    pattern = re.compile(r"/mempool")

    def answer(self, question: Question, world: World) -> Answer:
        now = np.array([question.now_ms // MINUTE_MS * MINUTE_MS], dtype=np.int64)
        shape: dict[str, Any] = {"swing": 0.4, "noise": 0.2, "knot_ms": HOUR_MS, "growth": 0.0}
        count = round(float(wave(world.seed, "bitcoin mempool", now, 35_000.0, **shape)[0]))
        vsize = count * 620
        histogram = [[round(8.0 / n, 2), vsize // 6] for n in range(1, 7)]
        return json_answer({"count": count, "vsize": vsize, "total_fee": vsize * 2, "fee_histogram": histogram})


class DifficultyAdjustment(MempoolEndpoint):
    """GET /v1/difficulty-adjustment."""

    name = "difficulty_adjustment"
    pattern = re.compile(r"/v1/difficulty-adjustment")

    def answer(self, question: Question, world: World) -> Answer:
        now = question.now_ms // MINUTE_MS * MINUTE_MS
        begin = now // _PERIOD_MS * _PERIOD_MS
        levels = _difficulty(world.seed, np.array([begin - _PERIOD_MS, begin, begin + _PERIOD_MS], dtype=np.int64))
        expected = float(levels[2] / levels[1] - 1) * 100
        mean = round(600_000 / (1 + expected / 100))
        left = begin + _PERIOD_MS - now
        return json_answer(
            {
                "progressPercent": (now - begin) / _PERIOD_MS * 100,
                "difficultyChange": expected,
                "estimatedRetargetDate": begin + _PERIOD_MS,
                "remainingBlocks": left // 600_000,
                "remainingTime": left,
                "previousRetarget": float(levels[1] / levels[0] - 1) * 100,
                "previousTime": begin // 1_000,
                "nextRetargetHeight": height(begin + _PERIOD_MS),
                "timeAvg": mean,
                "adjustedTimeAvg": mean,
                "timeOffset": 0,
                "expectedBlocks": (now - begin) / 600_000,
            }
        )


ENDPOINTS: Final[tuple[SimulatedEndpoint, ...]] = (Hashrate(), Fees(), Mempool(), DifficultyAdjustment())

"""Alternative.me's fear and greed index, simulated: shared/upstreams.md §12.

With a folder of real series (``--replay-macro``) the index is its file's, holes included: moved by whole weeks so that
the file ends about where the node first starts; after its end the file starts over. Without one it is generated.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Final

import numpy as np

from ray_app.clock import DAY_MS, MINUTE_MS, from_ms, to_ms
from ray_app.sandbox.answers import Answer, Question, SimulatedEndpoint, World, digits, json_answer
from ray_app.sandbox.onchain_series import wave
from ray_app.sandbox.rng import unit_of

#: 2018-02-01 UTC
_FIRST: Final = 17_563
_CLASSES: Final = ((25, "Extreme Fear"), (46, "Fear"), (54, "Neutral"), (75, "Greed"), (100, "Extreme Greed"))
_DATES: Final[Mapping[str, str]] = {"us": "%m-%d-%Y", "cn": "%Y/%m/%d", "kr": "%Y.%m.%d", "world": "%d-%m-%Y"}


class FearGreed(SimulatedEndpoint):
    """GET /fng/?limit=&date_format=: newest first, published minutes after midnight."""

    source: ClassVar[str] = "alternative_me"
    name = "fng"
    pattern = re.compile(r"/fng")

    def answer(self, question: Question, world: World) -> Answer:
        said = question.params.get("limit", "1")
        if not digits(said):
            return _answered([], "limit must be a number")
        today = question.now_ms // DAY_MS
        if question.now_ms < today * DAY_MS + int(12 * MINUTE_MS * unit_of(world.seed, "fng", today)):
            today -= 1
        values = _values(world, today)
        newest = [day for day in range(today, _FIRST - 1, -1) if day in values][: int(said) or None]
        style = _DATES.get(question.params.get("date_format", ""))
        data = []
        for day in newest:
            stamp = str(day * DAY_MS // 1_000) if style is None else from_ms(day * DAY_MS).strftime(style)
            data.append({"value": str(values[day]), "value_classification": _class(values[day]), "timestamp": stamp})
        if data:
            data[0]["time_until_update"] = str(((today + 1) * DAY_MS - question.now_ms) // 1_000)
        return _answered(data, None)


def _answered(data: list[dict[str, str]], error: str | None) -> Answer:
    return json_answer({"name": "Fear and Greed Index", "data": data, "metadata": {"error": error}})


def _class(value: int) -> str:
    return next(name for highest, name in _CLASSES if value <= highest)


def _values(world: World, today: int) -> Mapping[int, int]:
    """The index by day, up to ``today``."""
    replayed = _replayed(world.replay_macro) if world.replay_macro is not None else {}
    if not replayed:
        return _generated(world.seed, today)
    first, last = min(replayed), max(replayed)
    moved = (world.first_node_ms // DAY_MS - last) // 7 * 7 if world.first_node_ms is not None else 0
    found: dict[int, int] = {}
    for day in range(first, today - moved + 1):
        value = replayed.get(first + (day - first) % (last - first + 1))
        if value is not None:
            found[day + moved] = value
    return found


@lru_cache(maxsize=4)
def _generated(seed: int, today: int) -> Mapping[int, int]:
    days = np.arange(_FIRST, today + 1, dtype=np.int64)
    index = wave(seed, "fear and greed", days * DAY_MS, 46.0, swing=0.9, noise=0.1, growth=0.0)
    return dict(zip(days.tolist(), np.clip(index.round(), 5, 95).astype(int).tolist(), strict=True))


@lru_cache(maxsize=4)
def _replayed(folder: Path) -> Mapping[int, int]:
    """The days of the folder's file ``fear_greed*.csv`` (date, value); {} where it has none."""
    found: dict[int, int] = {}
    for path in sorted(folder.glob("fear_greed*.csv")):
        with path.open(newline="") as file:
            for record in csv.DictReader(file):
                found[_day(record["date"])] = round(float(record["value"]))
    return found


def _day(text: str) -> int:
    return to_ms(datetime.fromisoformat(text).replace(tzinfo=UTC)) // DAY_MS


ENDPOINTS: Final[tuple[SimulatedEndpoint, ...]] = (FearGreed(),)

"""mempool.space: Bitcoin's hash rate, difficulty, fees and mempool.

Format: https://mempool.space/docs/api/rest and the project's own backend (AGPL). What trips people up:

* A point of ``hashrates`` is stamped at the midnight that **ends** its day, in seconds; it is made once, soon after.
* ``difficulty[]`` has ``time`` (seconds, of the block), where other endpoints say ``timestamp``.
* In ``difficulty-adjustment`` lengths of time are in milliseconds, ``previousTime`` is in seconds.
* Fee rates are sat/vB; the rest of the answers states the moment of the fetch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from ray_app.clock import HOUR_MS
from ray_app.errors import MalformedPayload
from ray_app.sources.addressing import path_values
from ray_app.sources.base import Endpoint, Exchange, Parsed, Request
from ray_app.sources.onchain import Statements
from ray_app.sources.reading import (
    Findings,
    epoch_time,
    expect_list,
    expect_object,
    not_ahead,
    readable,
    shown,
)
from ray_app.sources.refusals import read_answer

COIN: Final = "bitcoin"
#: spans the service offers, and how many days each holds
SPANS: Final[Mapping[str, int]] = {
    "3d": 3,
    "1w": 7,
    "1m": 30,
    "3m": 90,
    "6m": 180,
    "1y": 365,
    "2y": 730,
    "3y": 1_095,
}
#: indexed "once a day around midnight"; three hours are assumed until measured
LAG_MS: Final = 3 * HOUR_MS


class Hashrate(Endpoint):
    """``/v1/mining/hashrate/{span}``: daily hash rates, and the difficulty of each retarget. No span: all of them.

    ``currentHashrate`` and ``currentDifficulty`` are other estimates (of now) and left alone.
    """

    name: ClassVar[str] = "mempool.hashrate"
    parser_version: ClassVar[int] = 2  # 2: null for no retargets
    account: ClassVar[str] = "mempool"
    paths: ClassVar[tuple[str, ...]] = ("/v1/mining/hashrate/{span}", "/v1/mining/hashrate")
    aliases: ClassVar[Mapping[str, str]] = {"timePeriod": "span", "interval": "span"}

    def request(self, span: str = "1m") -> Request:
        """The last ``span`` (SPANS)."""
        if span not in SPANS:
            raise ValueError(f"{self.name}: {span} is none of {', '.join(SPANS)}")
        return Request(self.name, f"/v1/mining/hashrate/{span}")

    def parse(self, exchange: Exchange) -> Parsed:
        """onchain_data rows: ``hash_rate`` (H/s) at days' ends, ``difficulty`` from each retarget's block on."""
        path_values(self, exchange.request.path)
        body = expect_object(self.name, read_answer(exchange), "hashrates")
        hashrates = expect_list(self.name, body.get("hashrates"), "{timestamp, avgHashrate}")
        stated = body.get("difficulty")
        retargets = expect_list(self.name, stated, "{time, difficulty}") if stated is not None else []
        found = Findings()
        rows = Statements(self.name, exchange.fetched_at, found)
        days = [at for item in hashrates if (at := self._state(rows, item, "timestamp", "hash_rate", "avgHashrate"))]
        for item in retargets:
            self._state(rows, item, "time", "difficulty", "difficulty")
        readable(self.name, hashrates, len(days), "an object with timestamp and avgHashrate")
        return Parsed(rows.rows(), found.all(), oldest=min(days, default=None))

    def _state(self, rows: Statements, item: object, time: str, metric: str, field: str) -> int | None:
        """The moment of the item, ms; None where it cannot be read."""
        if not isinstance(item, dict):
            rows.found.add("wrong_type", COIN, field, f"expected an object, got {shown(item)}")
            return None
        said = item.get(time)
        if said is None:
            said = item.get("timestamp")
        if said is None:
            rows.found.add("wrong_type", COIN, time, f"no time in {shown(item)}")
            return None
        at = epoch_time(rows.found, COIN, f"{time} of {field}", said, 1_000)
        at = not_ahead(rows.found, COIN, f"{time} of {field}", at, rows.fetched_at)
        if at is not None:
            rows.add(COIN, metric, min(at, rows.fetched_at), item.get(field), LAG_MS, field=field)
        return at


class Snapshot(Endpoint):
    """What the endpoints that state the moment of the fetch have in common: a table of members."""

    account: ClassVar[str] = "mempool"
    members: ClassVar[Mapping[str, tuple[str, float]]]

    def request(self) -> Request:
        """The state as it is now."""
        return Request(self.name, self.paths[0])

    def parse(self, exchange: Exchange) -> Parsed:
        """onchain_data rows of bitcoin at the moment of the fetch."""
        body: Mapping[str, Any] = expect_object(self.name, read_answer(exchange), ", ".join(self.members))
        found = Findings()
        rows = Statements(self.name, exchange.fetched_at, found)
        for theirs, (metric, scale) in self.members.items():
            rows.add(COIN, metric, exchange.fetched_at, body.get(theirs), None, field=theirs, scale=scale)
        if not rows.seen:
            raise MalformedPayload(self.name, f"none of {', '.join(self.members)} in {shown(body)}")
        return Parsed(rows.rows(), found.all())


class Fees(Snapshot):
    """``/v1/fees/recommended``: fee rates, sat/vB."""

    name: ClassVar[str] = "mempool.fees"
    paths: ClassVar[tuple[str, ...]] = ("/v1/fees/recommended",)
    members: ClassVar[Mapping[str, tuple[str, float]]] = {
        "fastestFee": ("fee_fastest_sat_vb", 1.0),
        "halfHourFee": ("fee_half_hour_sat_vb", 1.0),
        "hourFee": ("fee_hour_sat_vb", 1.0),
        "economyFee": ("fee_economy_sat_vb", 1.0),
        "minimumFee": ("fee_minimum_sat_vb", 1.0),
    }


class Mempool(Snapshot):
    """``/mempool``: what waits. ``fee_histogram`` is left alone."""

    name: ClassVar[str] = "mempool.mempool"
    paths: ClassVar[tuple[str, ...]] = ("/mempool",)
    members: ClassVar[Mapping[str, tuple[str, float]]] = {
        "count": ("mempool_transactions", 1.0),
        "vsize": ("mempool_vsize", 1.0),
    }


class DifficultyAdjustment(Snapshot):
    """``/v1/difficulty-adjustment``: how the current difficulty period goes."""

    name: ClassVar[str] = "mempool.difficulty_adjustment"
    paths: ClassVar[tuple[str, ...]] = ("/v1/difficulty-adjustment",)
    members: ClassVar[Mapping[str, tuple[str, float]]] = {
        "difficultyChange": ("difficulty_change_expected_percent", 1.0),
        "previousRetarget": ("difficulty_change_last_percent", 1.0),
        "progressPercent": ("retarget_progress_percent", 1.0),
        "remainingBlocks": ("blocks_to_retarget", 1.0),
        "timeAvg": ("block_interval_s", 1e-3),
    }


ENDPOINTS: Final[tuple[Endpoint, ...]] = (Hashrate(), Fees(), Mempool(), DifficultyAdjustment())

"""What is collected when, as data: versioned schedules in ``collection_schedules``.

A dataset's schedule has one or more **tiers**: an interval and the assets polled at it. A change (another interval,
other assets in the fast tier) never edits a version, it ends it and begins the next, so what was expected of any past
slot can always be said. Everything here is pure but :func:`load` and :func:`declare`, which read and write the table.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

from sqlalchemy import Connection

from ray_app.assets import Asset
from ray_app.clock import DAY_MS, HOUR_MS
from ray_app.collection.expectation import Expected, Lifetime, expected
from ray_app.collection.planner import next_boundary
from ray_app.collection.schedule import Schedule, ScheduleVersion
from ray_app.settings import Settings
from ray_app.storage import records
from ray_app.storage.ledger import VENUE

PRICES = "prices"
#: candle datasets by interval, seconds
CANDLES: dict[int, str] = {300: "candles-300", 3_600: "candles-3600", 86_400: "candles-86400"}
#: datasets with a row per asset and slot
ASSET_DATASETS: tuple[str, ...] = (PRICES, *CANDLES.values())
#: datasets of feeds (collection/feeds.py): a slot is stored when an answer covers it
FEED_DATASETS: tuple[str, ...] = (
    *("macro-fred", "macro-market", "crypto-news", "stock-news", "social-reddit", "social-x"),
    *("onchain", "derivatives", "fear-greed", "ohlc-coingecko", "ticks"),
)
DATASETS: tuple[str, ...] = (*ASSET_DATASETS, *FEED_DATASETS)

#: how many intervals back a live poll of candles asks: what one answer of the venue can hold
LIVE_INTERVALS = 300
#: (grace, jitter) in node seconds: how long after a bar's close the venue is asked for it
_CANDLE_DELAY: dict[int, tuple[float, float]] = {300: (20.0, 20.0), 3_600: (30.0, 30.0), 86_400: (60.0, 60.0)}
_PRICE_JITTER_S = 15.0
_SLOW_S = 3_600


def interval_of(dataset: str) -> int:
    """Seconds of a candle dataset's interval; ValueError for any other name."""
    for interval_s, name in CANDLES.items():
        if name == dataset:
            return interval_s
    raise ValueError(f"{dataset!r} is not a candle dataset; there are {', '.join(CANDLES.values())}")


class Member(Protocol):
    """Whatever owes slots: an asset, or the subject of a feed."""

    @property
    def asset_id(self) -> int:
        """Its number: in the registry, or of a subject's name."""

    @property
    def symbol(self) -> str:
        """What it is called."""

    @property
    def status(self) -> str:
        """``active``, or why it is not."""

    @property
    def valid_from(self) -> int | None:
        """ms; None: for ever."""

    @property
    def valid_to(self) -> int | None:
        """ms; None: still."""

    @property
    def coinbase_product(self) -> str | None:
        """Its venue's product."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a feed is about, as a member of its dataset."""

    asset_id: int
    symbol: str
    status: str = "active"
    valid_from: int | None = None
    valid_to: int | None = None
    coinbase_product: str | None = None


@dataclass(frozen=True, slots=True)
class Tier:
    """Assets polled at one schedule, from slot ``valid_from`` (ms) on. ``assets`` None: each that the venue lists.

    ``subjects``: in a dataset of feeds the names of the numbers in ``assets``.
    """

    schedule: Schedule
    valid_from: int
    assets: frozenset[int] | None = None
    subjects: tuple[Subject, ...] = ()

    def holds(self, asset: Member) -> bool:
        """Whether the asset is polled in this tier."""
        return asset.coinbase_product is not None if self.assets is None else asset.asset_id in self.assets


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a dataset's schedule: slots in ``[valid_from, valid_to)``; None: in force."""

    number: int
    valid_from: int
    valid_to: int | None
    tiers: tuple[Tier, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Every version of a dataset's schedule, oldest first."""

    dataset: str
    versions: tuple[Version, ...]

    @property
    def horizon(self) -> int | None:
        """The first slot ever expected, ms; None: nothing is."""
        return min((tier.valid_from for version in self.versions for tier in version.tiers), default=None)

    @property
    def intervals(self) -> tuple[int, ...]:
        """Every interval of any tier, seconds, ascending."""
        return tuple(sorted({t.schedule.interval_s for version in self.versions for t in version.tiers}))

    def tiers_at(self, ms: int) -> tuple[Tier, ...]:
        """The tiers of the version in force at ``ms``."""
        for version in reversed(self.versions):
            if version.valid_from <= ms:
                return version.tiers
        return ()

    def next_due(self, now: int) -> int | None:
        """The next moment (ms) at which a slot of any tier becomes due."""
        return min((tier.schedule.next_due(now) for tier in self.tiers_at(now)), default=None)

    def subjects(self) -> list[Subject]:
        """Every subject that was ever declared, by name."""
        found = {s.asset_id: s for version in self.versions for tier in version.tiers for s in tier.subjects}
        return sorted(found.values(), key=lambda s: s.symbol)

    def expected(self, asset: Member, since: int, now: int) -> list[Expected]:
        """The asset's slots from ``since`` that should be stored by ``now``, per interval in force."""
        found: list[Expected] = []
        lifetime = lifetime_of(asset)
        if lifetime is None:
            return found
        for version in self.versions:
            if version.valid_from > now or (version.valid_to is not None and version.valid_to <= since):
                continue  # a year of daily changes is hundreds of versions
            for tier in version.tiers:
                if tier.holds(asset):
                    valid_from = max(version.valid_from, tier.valid_from)
                    in_force = ScheduleVersion(tier.schedule, valid_from, version.valid_to)
                    found += expected((in_force,), lifetime, since, now)
        return found


def lifetime_of(asset: Member) -> Lifetime | None:
    """When the asset can have data; None: never (inactive since nobody knows when)."""
    if asset.status != "active" and asset.valid_to is None:
        return None
    return Lifetime(asset.valid_from or 0, asset.valid_to)


# --- definitions as JSON --------------------------------------------------------------------------------------


def to_json(tiers: Sequence[Tier]) -> str:
    """The definition as stored; equal tiers give equal text."""
    return json.dumps(
        {
            "tiers": [
                {
                    "interval_s": tier.schedule.interval_s,
                    "grace_s": tier.schedule.grace_s,
                    "jitter_s": tier.schedule.jitter_s,
                    "valid_from": tier.valid_from,
                    "assets": sorted(tier.assets) if tier.assets is not None else f"venue:{VENUE}",
                    **({"subjects": {s.asset_id: s.symbol for s in tier.subjects}} if tier.subjects else {}),
                }
                for tier in tiers
            ]
        },
        separators=(",", ":"),
    )


@lru_cache(maxsize=64)
def from_json(dataset: str, definition: str) -> tuple[Tier, ...]:
    """The tiers of a stored definition; every look at the ledger reads the same few again."""
    return tuple(
        Tier(
            Schedule(dataset, int(tier["interval_s"]), float(tier["grace_s"]), float(tier["jitter_s"])),
            int(tier["valid_from"]),
            frozenset(tier["assets"]) if isinstance(tier["assets"], list) else None,
            tuple(Subject(int(number), name) for number, name in tier.get("subjects", {}).items()),
        )
        for tier in json.loads(definition)["tiers"]
    )


def _same(left: Iterable[Tier], right: Iterable[Tier]) -> bool:
    """Whether both ask for the same, whenever they began."""
    return [(t.schedule, t.assets) for t in left] == [(t.schedule, t.assets) for t in right]


def load(conn: Connection, dataset: str, *, lock: bool = False) -> Plan:
    """The dataset's plan. ``lock`` (in a write transaction): nobody else touches the dataset's ledger meanwhile."""
    rows = records.schedule_versions(conn, dataset, lock=lock)
    return Plan(dataset, tuple(_version(dataset, row) for row in rows))


def _version(dataset: str, row: dict[str, Any]) -> Version:
    return Version(row["version"], row["valid_from"], row["valid_to"], from_json(dataset, row["definition"]))


def declare(conn: Connection, dataset: str, tiers: Sequence[Tier], now: int) -> Plan:
    """Make ``tiers`` the schedule in force, if it is not already.

    The first version begins where its tiers say. A later one begins at the next boundary of every interval of both
    versions, so that no slot belongs to two; history that the first version expects stays expected.
    """
    plan = load(conn, dataset, lock=True)
    if not plan.versions and not tiers:
        return plan
    if not plan.versions:
        records.add_schedule_version(conn, dataset, 1, to_json(tiers), min(t.valid_from for t in tiers))
        return load(conn, dataset)
    last = plan.versions[-1]
    if _same(last.tiers, tiers):
        return plan
    intervals = [tier.schedule.interval_s for tier in (*last.tiers, *tiers)]
    begins = next_boundary(intervals, max(now, last.valid_from + 1))
    later = [replace(t, valid_from=begins) for t in tiers]
    records.add_schedule_version(conn, dataset, last.number + 1, to_json(later), begins)
    return load(conn, dataset)


# --- the node's own schedules ---------------------------------------------------------------------------------


def wanted_price_intervals(settings: Settings) -> tuple[int, int]:
    """Seconds between two prices of the first ranks, and of the others; alike where the first is an hour or more."""
    return settings.price_interval_s, max(settings.price_interval_s, _SLOW_S)


def price_tiers(
    assets: Sequence[Asset], settings: Settings, now: int, every: tuple[int, int] | None = None
) -> list[Tier]:
    """The first ``price_fast_ranks`` assets by rank, and the rest.

    ``assets`` are ordered by rank. ``every``: seconds between two prices of either; default: as wanted (every
    ``price_interval_s``, the rest hourly). The first slot expected of each tier is the one ``now`` lies in.
    """
    wanted = wanted_price_intervals(settings)
    fast = frozenset(asset.asset_id for asset in assets[: settings.price_fast_ranks])
    slow = frozenset(asset.asset_id for asset in assets[settings.price_fast_ranks :])
    if wanted[0] == wanted[1]:
        fast, slow = fast | slow, frozenset()
    return [
        Tier(schedule, schedule.slot_of(now), members)
        for members, interval_s in zip((fast, slow), every or wanted, strict=True)
        if members
        for schedule in (Schedule(PRICES, interval_s, jitter_s=min(_PRICE_JITTER_S, interval_s / 4)),)
    ]


def candle_tiers(interval_s: int, settings: Settings, now: int) -> list[Tier]:
    """One tier of every asset the venue lists; its horizon is the history the node owes from its first start on.

    Five-minute bars have no history to fill: they begin where one answer of the venue does.
    """
    grace_s, jitter_s = _CANDLE_DELAY[interval_s]
    schedule = Schedule(CANDLES[interval_s], interval_s, grace_s, jitter_s)
    days = {3_600: settings.history_hourly_days, 86_400: settings.history_daily_days}.get(interval_s, 0)
    back_ms = days * DAY_MS if interval_s > 300 else LIVE_INTERVALS * schedule.interval_ms - HOUR_MS
    return [Tier(schedule, schedule.slot_of(now - back_ms), None)]

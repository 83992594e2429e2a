"""The evidence, from the database and the disk: schedules against what is stored, never what a process believes."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from ray_app.assets import AssetRegistry
from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS, Clock, to_ms
from ray_app.collection import budget_rules, datasets, spending
from ray_app.collection.budget_ledger import DatabaseLedger
from ray_app.collection.collectors import COLLECTORS
from ray_app.collection.datasets import Member, Plan
from ray_app.collection.expectation import SlotRange, count, difference, intersect, union
from ray_app.collection.gaps import AssetSurvey, survey
from ray_app.collection.upstreams import build_upstreams
from ray_app.errors import StorageError
from ray_app.health.evidence import (
    NOT_PROBED,
    AccountEvidence,
    ArchiveEvidence,
    CollectorEvidence,
    DatasetEvidence,
    Evidence,
    Probe,
    Slots,
)
from ray_app.settings import Settings
from ray_app.storage import health_queries, queries, registry
from ray_app.storage.engine import Database
from ray_app.storage.health_queries import LeaseState

#: how long after it is due a slot may take to be stored before it counts as missing (node time): a pass over all
#: assets, within the upstream's rate, with retries
GRACE_MS: dict[str, int] = {
    "prices": 2 * MINUTE_MS,
    "candles-300": 4 * MINUTE_MS,
    "candles-3600": 10 * MINUTE_MS,
    "candles-86400": 30 * MINUTE_MS,
}
#: feeds share their accounts' budgets, and pause as they are told
FEED_GRACE_MS = 20 * MINUTE_MS
#: the newest value of an asset is stale when it is older than this many of its intervals
STALE_INTERVALS = 3
#: how late a pass may be before the loop counts as dead, at least
PATIENCE_MS = 10 * MINUTE_MS

_CIRCUIT = re.compile(r"(?P<endpoint>[a-z0-9_]+\.[a-z0-9_]+): circuit open until (?P<until>[0-9TZ:.-]+):")


def collect_evidence(
    db: Database,
    clock: Clock,
    settings: Settings,
    *,
    up_since: int,
    event_bus: Probe = NOT_PROBED,
    streams: Probe = NOT_PROBED,
    redis: Probe = NOT_PROBED,
    breakers: Mapping[str, int] | None = None,
) -> Evidence:
    """Everything there is to see now (blocking; reads a day of slots: about 0.5 s for 400 assets).

    ``breakers``: open circuits by account → until (ms), from somebody who can see them; those that a collector wrote
    down as its last error are found in any case. A database that cannot be read is evidence, not an error.
    """
    outside = unreadable_evidence(clock, settings, up_since=up_since, event_bus=event_bus, streams=streams, redis=redis)
    now = outside.now
    try:
        with db.read() as conn:
            known, plans = _registry(conn), {name: datasets.load(conn, name) for name in datasets.DATASETS}
            collectors = tuple(collector_evidence(conn, known, plans, settings, now))
            letters = health_queries.dead_letters_since(conn, now - DAY_MS)
            doubts = health_queries.quality_events_since(conn, now - DAY_MS)
        accounts = tuple(_accounts(db, settings, collectors, known, breakers or {}, now))
    except (StorageError, SQLAlchemyError):
        return outside
    return replace(
        outside,
        readable=True,
        collectors=collectors,
        accounts=accounts,
        dead_letters=letters,
        quality_events=doubts,
    )


def unreadable_evidence(
    clock: Clock,
    settings: Settings,
    *,
    up_since: int,
    event_bus: Probe = NOT_PROBED,
    streams: Probe = NOT_PROBED,
    redis: Probe = NOT_PROBED,
    breakers: Mapping[str, int] | None = None,  # noqa: ARG001 - same arguments as collect_evidence
) -> Evidence:
    """What can be seen without the database."""
    if settings.resolved_redis_url is None:
        redis = Probe("off", "no Redis is configured (REDIS_URL)")
    return Evidence(
        now=clock.now_ms(),
        up_since=up_since,
        readable=False,
        collectors=(),
        accounts=(),
        archive=archive_evidence(settings.archive_dir),
        event_bus=event_bus,
        streams=streams,
        redis=redis,
    )


def _registry(conn: Connection) -> AssetRegistry:
    known = registry.load(conn)
    return known if len(known) else AssetRegistry.seed()


# --- collectors ------------------------------------------------------------------------------------------------


def collector_evidence(
    conn: Connection, known: AssetRegistry, plans: Mapping[str, Plan], settings: Settings, now: int
) -> Iterable[CollectorEvidence]:
    """One for each collector the node has, whether it ever ran or not. ``off``: why some are switched off, by name."""
    runs = {row["collector"]: row for row in queries.collector_runs(conn)}
    held = health_queries.leases(conn)
    upstreams = build_upstreams(settings)
    for name, kind in COLLECTORS.items():
        run = runs.get(name, {})
        sets = tuple(dataset_evidence(conn, known, plans[dataset], now) for dataset in kind.datasets)
        yield CollectorEvidence(
            name=name,
            datasets=sets,
            leased=_is_held(held.get(name)),
            started_at=run.get("started_at"),
            succeeded_at=run.get("succeeded_at"),
            next_run_at=run.get("next_run_at"),
            overdue_ms=_overdue(run, now),
            patience_ms=_patience([plans[dataset] for dataset in kind.datasets]),
            last_error=run.get("last_error"),
            last_error_at=run.get("last_error_at"),
            off=kind.off(settings, upstreams),
        )


def _is_held(lease: LeaseState | None) -> bool:
    return lease is not None and not lease.released and lease.left_ms > 0


def _overdue(run: Mapping[str, Any], now: int) -> int:
    """How late the next pass is; where none is announced, how long the last one is ago."""
    marks = [run.get(name) for name in ("next_run_at", "started_at", "succeeded_at")]
    newest = max((mark for mark in marks if mark is not None), default=now)
    return max(now - newest, 0)


def _patience(plans: Sequence[Plan]) -> int:
    """Two passes, at least ten minutes; an hour where nothing is scheduled by slots."""
    shortest = min((interval for plan in plans for interval in plan.intervals), default=0)
    return max(2 * shortest * 1_000, PATIENCE_MS) if shortest else HOUR_MS


# --- datasets --------------------------------------------------------------------------------------------------


def dataset_evidence(conn: Connection, known: AssetRegistry, plan: Plan, now: int) -> DatasetEvidence:
    """Slots and staleness of a dataset as of ``now``, asset by asset."""
    grace = GRACE_MS.get(plan.dataset, FEED_GRACE_MS)
    as_of = now - grace
    longest = max(plan.intervals, default=0) * 1_000
    since = as_of - max(DAY_MS + longest, (STALE_INTERVALS + 1) * longest)
    members: Sequence[Member] = plan.subjects() if plan.dataset in datasets.FEED_DATASETS else known.assets
    parts = survey(conn, plan, members, since, as_of).parts
    events = _event_times(conn, plan.dataset, parts)
    stale, stale_since = _stale(plan.dataset, parts, events, now)
    owed = [r.start for part in parts for r in _within(plan.dataset, part.owed, part.interval_s, as_of, DAY_MS)]
    return DatasetEvidence(
        dataset=plan.dataset,
        hour=_slots(plan.dataset, parts, as_of, HOUR_MS),
        day=_slots(plan.dataset, parts, as_of, DAY_MS),
        assets=len({part.asset.asset_id for part in parts}),
        stale=stale,
        stale_since=stale_since,
        newest_event=max(events.values(), default=None),
        oldest_owed=min(owed, default=None),
        first_due=_first_due(plan, grace),
    )


def _first_due(plan: Plan, grace: int) -> int | None:
    if plan.horizon is None:
        return None
    return plan.horizon + _lag_ms(plan.dataset, min(plan.intervals)) + grace


def _lag_ms(dataset: str, interval_s: int) -> int:
    """How long after its start a slot can be had: a price at once, a candle when it has closed."""
    return interval_s * 1_000 if dataset in datasets.CANDLES.values() else 0


def _within(dataset: str, ranges: Sequence[SlotRange], interval_s: int, as_of: int, window_ms: int) -> list[SlotRange]:
    """The ranges' slots that became due in the window (candles: that closed in it)."""
    return intersect(ranges, [SlotRange(as_of - window_ms - _lag_ms(dataset, interval_s), as_of)])


def _slots(dataset: str, parts: Sequence[AssetSurvey[Any]], as_of: int, window_ms: int) -> Slots:
    """Summed over the assets. Most have the same ranges, so each distinct set of ranges is counted once."""
    alike = Counter((p.interval_s, tuple(p.expected), tuple(p.stored), tuple(p.settled)) for p in parts)
    expected = received = settled = 0
    for (interval_s, *lists), assets in alike.items():
        due, stored, facts = (_within(dataset, ranges, interval_s, as_of, window_ms) for ranges in lists)
        expected += assets * count(due, interval_s)
        received += assets * count(stored, interval_s)
        settled += assets * count(difference(facts, stored), interval_s)
    return Slots(expected, received, settled)


def _event_times(conn: Connection, dataset: str, parts: Sequence[AssetSurvey[Any]]) -> dict[int, int]:
    """Per asset, the event time of its newest value: the upstream's own for prices, the close for candles."""
    if dataset == datasets.PRICES:
        return health_queries.price_event_times(conn)
    newest: dict[int, int] = {}
    for part in parts:
        if part.stored:
            newest[part.asset.asset_id] = max(newest.get(part.asset.asset_id, 0), part.stored[-1].end)
    return newest


def _stale(
    dataset: str, parts: Sequence[AssetSurvey[Any]], events: Mapping[int, int], now: int
) -> tuple[int, int | None]:
    """How many assets' newest value is too old, and since when the first of them is.

    A bar that the venue is known not to have (no trade) is as good as one that is stored.
    """
    intervals: dict[int, int] = {}
    covered: dict[int, int] = {}
    for part in parts:
        asset_id = part.asset.asset_id
        intervals[asset_id] = max(intervals.get(asset_id, 0), part.interval_s)
        if dataset != datasets.PRICES and (known := union(part.stored, part.settled)):
            covered[asset_id] = max(covered.get(asset_id, 0), known[-1].end)
    count_stale, since = 0, None
    for asset_id, interval_s in intervals.items():
        cap = STALE_INTERVALS * interval_s * 1_000 + GRACE_MS.get(dataset, FEED_GRACE_MS)
        newest = max((m for m in (events.get(asset_id), covered.get(asset_id)) if m is not None), default=None)
        if newest is None:
            count_stale += 1
        elif newest < now - cap:
            count_stale += 1
            since = newest + cap if since is None else min(since, newest + cap)
    return count_stale, since


# --- upstreams -------------------------------------------------------------------------------------------------


def _accounts(
    db: Database,
    settings: Settings,
    collectors: Sequence[CollectorEvidence],
    known: AssetRegistry,
    breakers: Mapping[str, int],
    now: int,
) -> Iterable[AccountEvidence]:
    ledger, month = DatabaseLedger(db), budget_rules.month_of(now)
    written = _written_circuits(collectors)
    for name, upstream in build_upstreams(settings).items():
        account = ledger.peek(name, upstream.limits, month)
        with db.read() as conn:
            seen = spending.outlook(conn, name, known, settings, upstream.limits, account.spent, now)
        until, since = written.get(name, (0, None))
        until = max(until, breakers.get(name, 0))
        yield AccountEvidence(
            account=name,
            spent=account.spent,
            monthly=seen.forecast.limit,
            projected=seen.forecast.projected,
            runs_out_at=seen.forecast.runs_out_at,
            paused_until=account.paused_until,
            circuit_until=until or None,
            circuit_since=since,
            thinned=seen.thinned,
            advice=seen.advice,
            remarks=seen.remarks,
        )


def _written_circuits(collectors: Sequence[CollectorEvidence]) -> dict[str, tuple[int, int | None]]:
    """Open circuits that collectors wrote down as their last error: account → (until, since)."""
    found: dict[str, tuple[int, int | None]] = {}
    for collector in collectors:
        if collector.failing_since is None or collector.last_error is None:
            continue
        for match in _CIRCUIT.finditer(collector.last_error):
            account = _account_of(match["endpoint"])
            until = to_ms(datetime.fromisoformat(match["until"]))
            if until > found.get(account, (0, None))[0]:
                found[account] = (until, collector.failing_since)
    return found


def _account_of(endpoint: str) -> str:
    """The account that an endpoint's calls are made with."""
    source, _, call = endpoint.partition(".")
    return "coinbase-v2" if (source, call) == ("coinbase", "exchange_rates") else source


# --- disk ------------------------------------------------------------------------------------------------------


def archive_evidence(folder: Path) -> ArchiveEvidence:
    """Whether the archive's folder (or where it is to be made) can be written, and what room there is."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK) and _takes_a_file(existing, folder)
    with suppress(OSError):
        usage = shutil.disk_usage(existing)
        return ArchiveEvidence(writable, usage.free, usage.total)
    return ArchiveEvidence(writable, None, None)


def _takes_a_file(existing: Path, folder: Path) -> bool:
    """Permissions lie where a disk is full of inodes or mounted read-only: try it, once the folder is there."""
    if existing != folder:
        return True
    trial = existing / f".health-{os.getpid()}"
    try:
        trial.write_bytes(b"\0")
        trial.unlink()
    except OSError:
        return False
    return True

"""What the node says about its own collecting: gaps, completeness per collector, history still to fill.

All of it is computed from schedules, what is stored and the ledger, so it is right even when nothing runs. Times ms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from ray_app.assets import Asset, AssetRegistry
from ray_app.clock import HOUR_MS
from ray_app.collection import datasets
from ray_app.collection.datasets import Member, Plan
from ray_app.collection.expectation import SlotRange, count
from ray_app.collection.gaps import OWED, survey
from ray_app.storage import ledger, queries


def gap_summary(conn: Connection) -> list[dict[str, Any]]:
    """Per dataset and state: ``ranges`` and ``hours`` covered (asset-hours: the assets' ranges added up)."""
    return [
        {"dataset": dataset, "state": state, "ranges": ranges, "hours": round(ms / HOUR_MS, 2)}
        for dataset, state, ranges, ms in ledger.totals(conn)
    ]


def gap_report(
    conn: Connection,
    registry: AssetRegistry,
    *,
    dataset: str | None = None,
    states: Sequence[str] = (),
    asset_ids: Sequence[int] | None = None,
    limit: int = 1_000,
) -> list[dict[str, Any]]:
    """Ledger rows, newest gap first.

    Each: dataset, symbol (in a dataset of feeds the feed's subject), coin_id, asset_id, start, end (ms), slots, state,
    reason, detected_at, updated_at. ``slots`` counts those of the interval the asset is polled at; None if it is polled
    no more.
    """
    found: list[dict[str, Any]] = []
    for name in [dataset] if dataset is not None else datasets.DATASETS:
        plan = datasets.load(conn, name)
        members = _members(registry, plan)
        for entry in ledger.entries(conn, name, asset_ids=asset_ids, states=list(states) or None):
            asset = members.get(entry.asset_id)
            interval_s = _interval_at(plan, asset, entry.start)
            found.append(
                {
                    "dataset": name,
                    "symbol": asset.symbol if asset is not None else None,
                    "coin_id": asset.coin_id if isinstance(asset, Asset) else None,
                    "asset_id": entry.asset_id,
                    "start": entry.start,
                    "end": entry.end,
                    "slots": None if interval_s is None else count([SlotRange(entry.start, entry.end)], interval_s),
                    "state": entry.state,
                    "reason": entry.reason,
                    "detected_at": entry.detected_at,
                    "updated_at": entry.updated_at,
                }
            )
    found.sort(key=lambda row: (-row["end"], row["dataset"], row["asset_id"]))
    return found[:limit]


def _members(registry: AssetRegistry, plan: Plan) -> Mapping[int, Member]:
    """By number: the registry's assets, or the subjects of a dataset of feeds."""
    found: Sequence[Member] = plan.subjects() if plan.dataset in datasets.FEED_DATASETS else registry.assets
    return {member.asset_id: member for member in found}


def _interval_at(plan: Plan, asset: Member | None, ms: int) -> int | None:
    if asset is None:
        return None
    tiers = (tier for tier in plan.tiers_at(ms) if tier.holds(asset))
    return next((tier.schedule.interval_s for tier in tiers), None)


def dataset_report(
    conn: Connection, registry: AssetRegistry, dataset: str, now: int, window_ms: int | None = 24 * HOUR_MS
) -> dict[str, Any]:
    """Slots of a dataset in the last ``window_ms`` (None: all its history), from schedules and what is stored.

    ``expected`` = ``received`` + ``settled`` (known to be empty or beyond repair) + ``missing``. Evidence, not memory:
    right even when no collector runs.
    """
    plan = datasets.load(conn, dataset)
    since = plan.horizon if plan.horizon is not None else now
    if window_ms is not None:
        since = max(since, now - window_ms)
    seen = survey(conn, plan, _members(registry, plan).values(), since, now)
    wanted, stored, settled, missing = seen.counts()
    assets = [part.asset for part in seen.owed]
    return {
        "dataset": dataset,
        "since": since,
        "expected": wanted,
        "received": stored,
        "settled": settled,
        "missing": missing,
        "assets_with_missing": len(assets),
        "without_venue": sum(1 for asset in registry.active() if asset.coinbase_product is None)
        if dataset in datasets.CANDLES.values()
        else 0,
    }


def collector_report(
    conn: Connection,
    registry: AssetRegistry,
    collectors: Mapping[str, Sequence[str]],
    now: int,
    window_ms: int = 24 * HOUR_MS,
) -> list[dict[str, Any]]:
    """Per collector (name → its datasets): expected, received, missing in the window, last run, error, next run.

    Times ms; None: never, or not known. The account's quota is the budget's to say.
    """
    runs = {row["collector"]: row for row in queries.collector_runs(conn)}
    report = []
    for name, names in collectors.items():
        sets = [dataset_report(conn, registry, dataset, now, window_ms) for dataset in names]
        run = runs.get(name, {})
        report.append(
            {
                "collector": name,
                "expected": sum(part["expected"] for part in sets),
                "received": sum(part["received"] for part in sets),
                "settled": sum(part["settled"] for part in sets),
                "missing": sum(part["missing"] for part in sets),
                "datasets": sets,
                "last_event_time": run.get("last_event_time"),
                "last_started_at": run.get("started_at"),
                "last_success_at": run.get("succeeded_at"),
                "last_error": run.get("last_error"),
                "last_error_at": run.get("last_error_at"),
                "next_run_at": run.get("next_run_at"),
                "runs": run.get("runs", 0),
                "failures": run.get("failures", 0),
            }
        )
    return report


def backfill_report(conn: Connection, registry: AssetRegistry) -> list[dict[str, Any]]:
    """What of each candle dataset's history is still owed, in slots and requests; from the ledger alone, so cheap."""
    report = []
    for dataset in datasets.CANDLES.values():
        plan = datasets.load(conn, dataset)
        if plan.horizon is None:
            continue
        interval_s = datasets.interval_of(dataset)
        owing = [
            entry
            for entry in ledger.entries(conn, dataset, states=(OWED,))
            if registry.by_id(entry.asset_id) is not None
        ]
        step = interval_s * 1_000
        slots = sum((entry.end - entry.start) // step for entry in owing)
        requests = sum(-(-(entry.end - entry.start) // (step * datasets.LIVE_INTERVALS)) for entry in owing)
        report.append({"dataset": dataset, "horizon": plan.horizon, "owed": slots, "requests_left": requests})
    return report

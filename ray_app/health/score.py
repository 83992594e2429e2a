"""From evidence to a score, purely: 100 minus what each finding costs, and every finding is named.

Each component has a weight; a component's findings take parts of it, at most all of it. A dead component has lost
all of its weight and stays in the list. What is switched off (Redis without an address) is listed as ``off``, with
the reason, and neither counts for nor against. Where an essential component is dead the rest cannot make up for it: a
finding of its own takes the score below the critical line.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ray_app.clock import DAY_MS, MINUTE_MS
from ray_app.health.evidence import (
    AccountEvidence,
    ArchiveEvidence,
    CollectorEvidence,
    DatasetEvidence,
    Evidence,
    Probe,
)

Status = Literal["starting", "healthy", "degraded", "critical"]
ComponentState = Literal["ok", "degraded", "dead", "off", "starting"]

HEALTHY, DEGRADED = 80.0, 60.0

#: what each component is worth, before what is off leaves; the sum is 100
WEIGHTS: dict[str, float] = {
    "database": 20.0,
    "collector:crypto-prices": 25.0,
    "collector:unified-ohlc": 15.0,
    "collector:asset-registry": 5.0,
    "upstreams": 10.0,
    "event_bus": 5.0,
    "streams": 5.0,
    "archive": 15.0,
}
#: what the node is whole without, and the weight of any other collector
OPTIONAL = {"collector:crypto-ticks": 2.0}
OTHER_COLLECTOR = 5.0
REDIS = 2.0
#: without these the node does not do what it is for
ESSENTIAL = ("database", "collector:crypto-prices", "archive")
#: what is left when an essential component is dead
CEILING = 50.0

#: a collector that has not finished its first pass is starting for so long (node time), and no longer
START_MS = 10 * MINUTE_MS

#: a pass that takes longer (node time) is not slow, it hangs
HUNG_MS = 60 * MINUTE_MS

FREE_SHARE, FREE_BYTES, FULL_BYTES = 0.05, 2 * 1024**3, 256 * 1024**2


@dataclass(frozen=True, slots=True)
class Loss:
    """What cost points. ``points`` of the overall 100; ``since`` ms, None where no beginning is known."""

    component: str
    points: float
    reason: str
    since: int | None = None


@dataclass(frozen=True, slots=True)
class Component:
    """A component's verdict. ``score`` 0 to 100 of itself; None: off. ``reason``: why it is off or starting."""

    name: str
    state: ComponentState
    score: float | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """The verdict: ``score`` = 100 - the sum of ``losses`` (rounded down to a tenth), never 100 while there are any."""

    score: float
    status: Status
    components: tuple[Component, ...]
    losses: tuple[Loss, ...]
    as_of: int


@dataclass(frozen=True, slots=True)
class _Finding:
    """A part (0 to 1) of a component's weight that is lost."""

    share: float
    reason: str
    since: int | None = None


@dataclass(frozen=True, slots=True)
class _Judged:
    name: str
    weight: float
    findings: tuple[_Finding, ...] = ()
    off: str | None = None
    starting: str | None = None  # what it waits for


def score(evidence: Evidence) -> Health:
    """The health that the evidence supports."""
    judged = _judge(evidence)
    total = sum(item.weight for item in judged if item.off is None)
    losses: list[Loss] = []
    components: list[Component] = []
    for item in judged:
        found = _bounded(item.findings)
        losses += [Loss(item.name, 100 * item.weight / total * f.share, f.reason, f.since) for f in found]
        components.append(_component(item, found))
    losses += _ceiling(components, losses)
    exact = 100.0 - math.fsum(loss.points for loss in losses)
    value = max(math.floor(exact * 10 + 1e-9) / 10, 0.0)
    if losses:
        value = min(value, 99.9)
    starting = any(component.state == "starting" for component in components)
    return Health(value, _status(value, starting=starting), tuple(components), tuple(losses), evidence.now)


def _judge(evidence: Evidence) -> list[_Judged]:
    if not evidence.readable:
        unknown = (_Finding(1.0, "unknown while the database cannot be read"),)
        names = [name for name in WEIGHTS if name.startswith("collector:") or name == "upstreams"]
        judged = [_Judged("database", WEIGHTS["database"], (_Finding(1.0, "it cannot be read"),))]
        judged += [_Judged(name, WEIGHTS[name], unknown) for name in names]
    else:
        judged = [_Judged("database", WEIGHTS["database"], _database(evidence))]
        judged += [_collector(collector, evidence) for collector in evidence.collectors]
        judged += [
            _Judged(name, weight, (_Finding(1.0, "there is no trace of it"),))
            for name, weight in WEIGHTS.items()
            if name.startswith("collector:") and name not in {item.name for item in judged}
        ]
        judged.append(_Judged("upstreams", WEIGHTS["upstreams"], tuple(_accounts(evidence))))
    judged.append(_Judged("archive", WEIGHTS["archive"], tuple(_archive(evidence.archive))))
    judged.append(_probe("event_bus", WEIGHTS["event_bus"], evidence.event_bus))
    judged.append(_probe("streams", WEIGHTS["streams"], evidence.streams))
    judged.append(_probe("redis", REDIS, evidence.redis))
    return judged


def _bounded(findings: Iterable[_Finding]) -> list[_Finding]:
    """The findings, gravest first, cut alike where together they would take more than the whole: all stay named."""
    real = sorted((finding for finding in findings if finding.share > 0), key=lambda finding: -finding.share)
    excess = max(math.fsum(finding.share for finding in real), 1.0)
    return [_Finding(finding.share / excess, finding.reason, finding.since) for finding in real]


def _component(item: _Judged, found: list[_Finding]) -> Component:
    if item.off is not None:
        return Component(item.name, "off", None, item.off)
    left = 100.0 * max(1.0 - math.fsum(f.share for f in found), 0.0)
    value = math.floor(left * 10 + 1e-9) / 10
    if left < 1e-6:
        return Component(item.name, "dead", 0.0)
    if item.starting is not None:
        return Component(item.name, "starting", value, item.starting)
    return Component(item.name, "degraded" if found else "ok", min(value, 99.9) if found else value)


def _ceiling(components: list[Component], losses: list[Loss]) -> list[Loss]:
    dead = [c.name for c in components if c.state == "dead" and c.name in ESSENTIAL]
    left = 100.0 - math.fsum(loss.points for loss in losses)
    if not dead or left <= CEILING:
        return []
    return [Loss(dead[0], left - CEILING, "the node does not do its work without it")]


def _status(value: float, *, starting: bool) -> Status:
    if value < DEGRADED:
        return "critical"
    if starting:
        return "starting"
    return "healthy" if value >= HEALTHY else "degraded"


# --- components ------------------------------------------------------------------------------------------------


def _database(evidence: Evidence) -> tuple[_Finding, ...]:
    bad = sum(evidence.dead_letters.values())
    if not bad:
        return ()
    return (_Finding(min(0.05 + bad / 200, 0.5), f"{bad} answers of the last day could not be read (dead letters)"),)


def _collector(collector: CollectorEvidence, evidence: Evidence) -> _Judged:
    name = f"collector:{collector.name}"
    weight = (WEIGHTS | OPTIONAL).get(name, OTHER_COLLECTOR)
    if collector.off is not None:
        return _Judged(name, weight, off=collector.off)
    findings = list(_loop(collector))
    part = 1 / len(collector.datasets) if collector.datasets else 0.0
    beginning = collector.succeeded_at is None and evidence.now - evidence.up_since < START_MS
    young = [beginning or _is_young(dataset, evidence.now) for dataset in collector.datasets]
    for dataset, is_young in zip(collector.datasets, young, strict=True):
        if not is_young:
            findings += _dataset(dataset, part)
    starting = _waits_for(collector) if (all(young) if young else beginning) else None
    if starting is not None and collector.failing_since is None:
        findings = []
    return _Judged(name, weight, tuple(findings), starting=starting)


def _waits_for(collector: CollectorEvidence) -> str:
    """What a starting collector has not done yet."""
    if collector.succeeded_at is not None:
        return "its first slots are not due yet"
    if collector.failing_since is not None:
        return "its first pass failed; it tries again"
    return "its first pass has not begun" if collector.started_at is None else "its first pass is running"


def _is_young(dataset: DatasetEvidence, now: int) -> bool:
    """Whether its first slots are not due yet."""
    return dataset.first_due is not None and now < dataset.first_due


def _loop(collector: CollectorEvidence) -> Iterable[_Finding]:
    if collector.started_at is None:
        yield _Finding(1.0, "it has never run")
        return
    late = collector.overdue_ms // MINUTE_MS
    if collector.leased and collector.running_since is not None and late < HUNG_MS // MINUTE_MS:
        if collector.overdue_ms > collector.patience_ms:
            yield _Finding(0.5, f"its pass has been running for {late} min", collector.running_since)
    elif collector.overdue_ms > collector.patience_ms:
        yield _Finding(1.0, f"its loop does not act: the next pass is {late} min overdue", collector.next_run_at)
        return
    if not collector.leased:
        yield _Finding(0.5, "no process holds its lease")
    if collector.failing_since is not None:
        yield _Finding(0.25, "its last pass failed", collector.failing_since)


def _dataset(dataset: DatasetEvidence, part: float) -> Iterable[_Finding]:
    """What a dataset costs its collector; ``part`` is the dataset's share of it."""
    name = dataset.dataset
    if dataset.assets == 0 or dataset.first_due is None:
        yield _Finding(part, f"{name}: nothing is scheduled")
        return
    for window, slots, worth in (("hour", dataset.hour, 0.5), ("day", dataset.day, 0.5)):
        if slots.missing:
            share = part * worth * max(slots.missing_share, 0.01)
            reason = f"{name}: {slots.missing} of {slots.expected} slots of the last {window} are missing"
            yield _Finding(share, reason, dataset.oldest_owed)
    if dataset.stale:
        share = part * max(dataset.stale / dataset.assets, 0.01)
        reason = f"{name}: the newest value of {dataset.stale} of {dataset.assets} assets is too old (by event time)"
        yield _Finding(share, reason, dataset.stale_since)


def _accounts(evidence: Evidence) -> Iterable[_Finding]:
    part = 1 / max(len(evidence.accounts), 1)
    for account in evidence.accounts:
        yield from _account(account, part, evidence.now)


def _account(account: AccountEvidence, part: float, now: int) -> Iterable[_Finding]:
    name = account.account
    if account.monthly is not None and account.spent >= account.monthly:
        yield _Finding(part, f"{name}: this month's {account.monthly} credits are spent")
    elif account.runs_out_at is not None and account.monthly is not None:
        days = max(account.runs_out_at - now, 0) // DAY_MS
        advice = f"; longer lasts {account.advice}" if account.advice else ""
        yield _Finding(
            part * 0.2,
            f"{name}: this month's {account.monthly} credits last {days} more days, the first ranks longest{advice}",
        )
    if account.thinned:
        what = "; ".join(account.thinned)
        reason = f"{name}: {account.monthly} credits a month do not carry all that is wanted: {what}"
        yield _Finding(part * 0.1, f"{reason}. More takes {account.advice}" if account.advice else reason)
    for remark in account.remarks:
        yield _Finding(part * 0.05, f"{name}: {remark}")
    if account.circuit_until is not None and account.circuit_until > now:
        reason = f"{name}: too many requests failed, none is made for now (circuit open)"
        yield _Finding(part, reason, account.circuit_since)
    if account.paused_until > now:
        yield _Finding(part * 0.3, f"{name}: the upstream asked for a pause")


def _archive(archive: ArchiveEvidence) -> Iterable[_Finding]:
    if not archive.writable:
        yield _Finding(1.0, "it cannot be written")
        return
    if archive.free_bytes is None:
        return
    free = f"{archive.free_bytes / 1024**3:.1f} GiB of disk are free"
    if archive.free_bytes < FULL_BYTES:
        yield _Finding(1.0, f"only {free}")
    elif archive.free_bytes < FREE_BYTES or (
        archive.total_bytes and archive.free_bytes < FREE_SHARE * archive.total_bytes
    ):
        yield _Finding(0.3, f"only {free}")


def _probe(name: str, weight: float, probe: Probe) -> _Judged:
    if probe.state == "off":
        return _Judged(name, weight, off=probe.reason or "switched off")
    if probe.state == "ok":
        return _Judged(name, weight)
    share = 1.0 if probe.state == "dead" else 0.4
    return _Judged(name, weight, (_Finding(share, probe.reason or f"it is {probe.state}", probe.since),))

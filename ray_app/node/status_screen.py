"""A node's status as one screen: the verdict first, then what is wrong, then what is. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS, to_ms
from ray_app.node.record import NodeRecord
from ray_app.node.status import Backfill, NodeStatus

#: losses and notes shown; the rest is counted (--json has all)
SHOWN = 8


def render(status: NodeStatus) -> list[str]:
    """The lines of the screen."""
    if status.node is None:
        start = shlex.join(["crypto-data", "up", "--data-dir", status.data_dir])
        return [f"NOT RUNNING  {status.why}: {status.data_dir}", _line("start it", start)]
    return [
        *_head(status, status.node),
        *_health(status),
        *_collectors(status),
        *_quota(status),
        *_backfill(status),
        *_gaps(status),
        *_jobs(status),
        *_memory(status),
        *(_line("note", note) for note in status.notes[:SHOWN]),
    ]


def _head(status: NodeStatus, node: NodeRecord) -> Iterator[str]:
    simulated = "SANDBOX: every price is simulated" if node.origin == "sandbox" else "live"
    yield f"{status.state.upper()}  {status.why}   {simulated} ({node.reason})"
    up = span(ms_of(status.wall_time) - node.started_ms)
    yield _line("API", f"{node.url}   up {up}, process {node.launcher.pid}")
    scale = (
        "" if node.time_scale == 1 else f", {node.time_scale:g} times as fast as the wall clock ({status.wall_time})"
    )
    yield _line("node time", f"{status.node_time}{scale}")
    yield _line("dashboard", f"{node.dashboard_url}   token in {status.data_dir}/run/ray_token")
    yield _line("database", node.database)
    yield _line(
        "data", f"{status.data_dir}/{node.origin}   logs {node.temp_dir}/session_latest/logs, {status.data_dir}/run"
    )


def _health(status: NodeStatus) -> Iterator[str]:
    if status.health is None:
        return
    losses = status.health["losses"]
    off = [f"{name}: {part['reason']}" for name, part in status.health["components"].items() if part["status"] == "off"]
    starting = [name for name, part in status.health["components"].items() if part["status"] == "starting"]
    if not losses:
        yield _line("losses", "none")
    for position, loss in enumerate(losses[:SHOWN]):
        since = f", for {span(ms_of(status.node_time) - ms_of(loss['since']))}" if loss["since"] else ""
        yield _line(
            "" if position else "losses", f"{-loss['points']:6.2f}  {loss['component']}: {loss['reason']}{since}"
        )
    if len(losses) > SHOWN:
        yield _line("", f"and {len(losses) - SHOWN} smaller ones")
    if starting:
        yield _line("starting", ", ".join(starting))
    if off:
        yield _line("off", "; ".join(off))


def _collectors(status: NodeStatus) -> Iterator[str]:
    if status.collectors is None:
        yield _line("collectors", "not known")
        return
    yield _line(
        "collectors",
        f"{'slots of the last day':<22} {'expected':>8} {'received':>8} {'empty':>6} {'missing':>7}  "
        f"{'last success':>12}  {'next run':>10}",
    )
    now = ms_of(status.node_time)
    for row in status.collectors:
        if row["state"] != "active":
            continue
        yield _line(
            "",
            f"{row['collector']:<22} {row['expected']:>8} {row['received']:>8} {row['settled']:>6} {row['missing']:>7}"
            f"  {_ago(now, row['last_success_at']):>12}  {_ahead(now, row['next_run_at']):>10}",
        )
        if row["last_error"] is not None:
            yield _line("", f"  last error {_ago(now, row['last_error_at'])}: {row['last_error'][:200]}")
    if off := [row["collector"] for row in status.collectors if row["state"] != "active"]:
        yield _line("", f"off: {', '.join(off)}")


def _quota(status: NodeStatus) -> Iterator[str]:
    # twenty accounts count no month: those that do, and those that have something to say
    accounts = {
        quota["account"]: quota
        for row in status.collectors or ()
        for quota in row["quota"]
        if quota["limit"] is not None or quota["remarks"] or quota["thinned"]
    }
    for position, quota in enumerate(accounts.values()):
        yield _line("" if position else "quota", _account(quota))
        for text in (*quota["thinned"], *quota["remarks"]):
            yield _line("", f"  {text}")
        if quota["advice"] is not None:
            yield _line("", f"  more takes {quota['advice']}")


def _account(quota: dict[str, Any]) -> str:
    name, spent, month = quota["account"], quota["spent"], quota["month"]
    if quota["limit"] is None:
        return f"{name}: {spent} in {month}, no monthly limit"
    text = f"{name}: {spent} of {quota['limit']} in {month}"
    if quota["projected"] is not None:
        text += f", {quota['projected']:.0f} at its end as scheduled"
    if quota["runs_out_at"] is not None:
        text += f": RUNS OUT {quota['runs_out_at']}"
    return text


def _backfill(status: NodeStatus) -> Iterator[str]:
    for position, item in enumerate(status.backfill or ()):
        yield _line("" if position else "history", progress(item))


def progress(item: Backfill) -> str:
    """How far it is; never 100 % while something is owed."""
    if not item.owed:
        return f"{item.dataset}: complete ({item.expected} slots)"
    share = min(99.9, 100 * (item.expected - item.owed) / item.expected) if item.expected else 0.0
    return f"{item.dataset}: {share:.1f} %, {item.owed} of {item.expected} slots owed, {item.requests} requests to go"


def _gaps(status: NodeStatus) -> Iterator[str]:
    if status.gaps is None:
        return
    by_dataset: dict[str, list[str]] = {}
    for row in status.gaps:
        by_dataset.setdefault(row["dataset"], []).append(f"{row['ranges']} {row['state'].replace('_', ' ')}")
    if not by_dataset:
        yield _line("gaps", "none known")
    for position, (dataset, states) in enumerate(by_dataset.items()):
        yield _line("" if position else "gaps", f"{dataset}: {', '.join(states)} (ranges)")


def _jobs(status: NodeStatus) -> Iterator[str]:
    if status.jobs is None:
        return
    if not status.jobs:
        yield _line("jobs", "none running")
    now = ms_of(status.wall_time)
    for position, job in enumerate(status.jobs):
        since = f" for {span(now - ms_of(job.started_at))}" if job.started_at is not None else ""
        yield _line("" if position else "jobs", f"{job.job_id}: {job.status.lower()}{since}   {job.says}".rstrip())


def _memory(status: NodeStatus) -> Iterator[str]:
    if status.memory:
        parts = ", ".join(f"{name} {weight / 1024**2:.0f}" for name, weight in status.memory.items())
        yield _line("memory", f"{sum(status.memory.values()) / 1024**2:.0f} MiB (PSS): {parts}")


def _line(name: str, text: str) -> str:
    return f"{name:<11} {text}"


# --- times -----------------------------------------------------------------------------------------------------


def ms_of(moment: str) -> int:
    """Milliseconds of an RFC 3339 time."""
    return to_ms(datetime.fromisoformat(moment))


def span(ms: int) -> str:
    """A length of time as a person says it: 45 s, 12 min, 5.3 h, 3 d."""
    ms = max(ms, 0)
    if ms < 2 * MINUTE_MS:
        return f"{ms // 1_000} s"
    if ms < 2 * HOUR_MS:
        return f"{ms // MINUTE_MS} min"
    return f"{ms / HOUR_MS:.1f} h" if ms < 2 * DAY_MS else f"{ms // DAY_MS} d"


def _ago(now: int, moment: str | None) -> str:
    return "never" if moment is None else f"{span(now - ms_of(moment))} ago"


def _ahead(now: int, moment: str | None) -> str:
    if moment is None:
        return "-"
    left = ms_of(moment) - now
    return f"in {span(left)}" if left >= 0 else f"{span(-left)} late"

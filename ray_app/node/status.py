"""What can be seen of a node from outside: its record, its API, its database, its processes.

Each source may fail alone; what it would have said is None then, and ``notes`` says why. Nothing here waits long: a
node in trouble is the reason to ask.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import httpx
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from ray_app.assets import AssetRegistry
from ray_app.clock import Clock, WallClock, iso, open_clock
from ray_app.errors import CryptoDataError
from ray_app.node import processes, record
from ray_app.node.processes import Process
from ray_app.node.readiness import probe_key
from ray_app.node.record import NodeRecord
from ray_app.settings import Settings

State = Literal["healthy", "starting", "not ready", "degraded", "critical", "not running"]

#: wall seconds the API may take: /health waits 8 for a database that does not answer
PATIENCE_S = 12.0


@dataclass(frozen=True, slots=True)
class Backfill:
    """How far a dataset's history is. ``owed`` of ``expected`` slots; ``requests`` still to make, at least."""

    dataset: str
    expected: int
    owed: int
    requests: int


@dataclass(frozen=True, slots=True)
class Job:
    """A Ray job that has not ended. ``started_at`` is wall time; ``says`` is the last line of its log."""

    job_id: str
    status: str
    started_at: str | None
    says: str


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One look at a node. ``node`` is its record (None: none runs); times are RFC 3339, node time unless said.

    ``health``, ``collectors`` and ``gaps`` are as GET /health, /api/v1/stats/collectors and /stats/gaps (its summary)
    show them; ``collectors_from`` says whether the API told them, or its database. ``memory`` is PSS in bytes.
    """

    state: State
    why: str
    data_dir: str
    wall_time: str
    node_time: str
    node: NodeRecord | None = None
    health: dict[str, Any] | None = None
    collectors: list[dict[str, Any]] | None = None
    collectors_from: Literal["API", "database"] | None = None
    gaps: list[dict[str, Any]] | None = None
    backfill: list[Backfill] | None = None
    jobs: list[Job] | None = None
    memory: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The same as JSON carries it."""
        return asdict(self)


def look(settings: Settings, node: NodeRecord | None, database_problem: str | None = None) -> NodeStatus:
    """Look at ``node``, whose ``settings`` these are; ``database_problem``: why they do not name its database."""
    clock = open_clock(settings.epoch_file)
    data_dir, wall, now = str(settings.data_dir.absolute()), iso(WallClock().now_ms()), iso(clock.now_ms())
    if node is None:
        return NodeStatus("not running", _why_none_runs(settings), data_dir, wall, now)
    notes: list[str] = [] if database_problem is None else [database_problem]
    ready, health, collectors, gaps = _ask_api(node, probe_key(settings), notes)
    stored: dict[str, Any] = {}
    if database_problem is None:
        stored = _ask_database(settings, clock, notes, collectors=collectors is None, gaps=gaps is None)
    state, why = judge(node, ready=ready, health=health)
    return NodeStatus(
        state,
        why,
        data_dir,
        wall,
        now,
        node=node,
        health=health,
        collectors=collectors if collectors is not None else stored.get("collectors"),
        collectors_from="API" if collectors is not None else "database" if "collectors" in stored else None,
        gaps=gaps if gaps is not None else stored.get("gaps"),
        backfill=stored.get("backfill"),
        jobs=_ask_jobs(settings, node, notes),
        memory=memory_of(node),
        notes=notes,
    )


def _why_none_runs(settings: Settings) -> str:
    old = record.load(settings.data_dir)
    if old is None:
        return "no node runs here"
    left = record.leftovers(old)
    return f"the node was killed; {len(left)} of its processes still run, the next start ends them"


def judge(node: NodeRecord, *, ready: bool, health: dict[str, Any] | None) -> tuple[State, str]:
    """The state, and what it rests on in a few words."""
    if not ready:
        return "not ready", "the API does not answer" if health is None else "its database does not answer"
    if health is None:
        return "not ready", "the API answers, but not /health"
    if not node.ready:
        return "not ready", "no price is served yet"
    found: State = (
        health["status"] if health["status"] in {"starting", "healthy", "degraded", "critical"} else "critical"
    )
    return found, f"health {health['score']:g} of 100"


# --- the API ---------------------------------------------------------------------------------------------------


def _ask_api(
    node: NodeRecord, key: str | None, notes: list[str]
) -> tuple[bool, dict[str, Any] | None, list[dict[str, Any]] | None, list[dict[str, Any]] | None]:
    """What /ready, /health, /stats/collectors and the summary of /stats/gaps say."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    if key is None:
        notes.append("no API key in keys.json or API_KEY_MASTER: collectors and gaps are read from the database")
    with httpx.Client(base_url=node.url, headers=headers, timeout=PATIENCE_S, trust_env=False) as http:
        ready = _get(http, "/ready", notes) is not None
        health = _get(http, "/health", notes)
        if key is None or health is None:
            return ready, health, None, None
        collectors = _get(http, "/api/v1/stats/collectors", notes)
        gaps = _get(http, "/api/v1/stats/gaps?limit=1", notes)
    return (
        ready,
        health,
        collectors["data"] if collectors is not None else None,
        gaps["summary"] if gaps is not None else None,
    )


def _get(http: httpx.Client, path: str, notes: list[str]) -> dict[str, Any] | None:
    try:
        answer = http.get(path)
        if answer.status_code == 200:
            body: dict[str, Any] = answer.json()
            return body
        notes.append(f"GET {path}: {answer.status_code} {' '.join(answer.text.split())[:120]}")
    except (httpx.HTTPError, ValueError) as error:
        notes.append(f"GET {path}: {type(error).__name__}")
    return None


# --- the database ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _StoredRegistry:
    """The registry as the gateway's parts want it."""

    current: AssetRegistry
    as_of: int | None = None


def _ask_database(
    settings: Settings, clock: Clock, notes: list[str], *, collectors: bool, gaps: bool
) -> dict[str, Any]:
    """``backfill``, and ``collectors`` and ``gaps`` where the API did not tell them."""
    from ray_app.serving.stats import StoredStats
    from ray_app.storage import gateway_queries, queries, registry
    from ray_app.storage.engine import Database

    found: dict[str, Any] = {}
    try:
        db = Database(settings.resolved_database_url, pool_size=1)
        try:
            with db.read() as conn:
                gateway_queries.reachable(conn)
                assets = registry.load(conn)
                found["backfill"] = list(backfill_of(conn, assets, clock.now_ms()))
                if gaps:
                    counts = queries.gap_counts(conn)
                    found["gaps"] = [r | {"oldest": iso(r["oldest"]), "newest": iso(r["newest"])} for r in counts]
            if collectors:
                found["collectors"] = StoredStats(db, clock, _StoredRegistry(assets), settings).collectors()
        finally:
            db.dispose()
    except (CryptoDataError, SQLAlchemyError) as error:
        notes.append(f"database: {error}".splitlines()[0])
    return found


def backfill_of(conn: Connection, assets: AssetRegistry, now: int) -> Iterator[Backfill]:
    """The datasets with a history: what the schedules expect of it, minus what is stored or known to be empty."""
    from ray_app.collection import datasets, gaps
    from ray_app.collection.backfill import PER_REQUEST
    from ray_app.collection.history import DATASETS

    for dataset in DATASETS:
        plan = datasets.load(conn, dataset)
        if plan.horizon is None:
            continue
        seen = gaps.survey(conn, plan, assets.assets, plan.horizon, now)
        expected, _, _, owed = seen.counts()
        most = PER_REQUEST * datasets.interval_of(dataset) * 1_000
        requests = sum(-(-(gap.end - gap.start) // most) for part in seen.owed for gap in part.owed)
        yield Backfill(dataset, expected, owed, requests)


# --- Ray -------------------------------------------------------------------------------------------------------


def _ask_jobs(settings: Settings, node: NodeRecord, notes: list[str]) -> list[Job] | None:
    from ray_app.collection.jobs import JobError, JobsClient

    try:
        token = (settings.data_dir / "run" / "ray_token").read_text().strip()
    except OSError as error:
        notes.append(f"the dashboard's token cannot be read ({error.strerror}): jobs are not known")
        return None

    async def ask() -> list[Job]:
        client = JobsClient(node.dashboard_url, token)
        try:
            running = [job for job in await client.list() if not job.ended]
            return [
                Job(
                    job.job_id,
                    job.status,
                    iso(job.started_ms) if job.started_ms is not None else None,
                    last_line(await client.logs(job.job_id)),
                )
                for job in running
            ]
        finally:
            await client.aclose()

    try:
        return asyncio.run(ask())
    except JobError as error:
        notes.append(str(error))
        return None


def last_line(text: str) -> str:
    """The last line with something in it, cut to what a screen holds."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:120] if lines else ""


# --- memory ----------------------------------------------------------------------------------------------------

#: what a process of the node is, by its command line; the first that fits
GROUPS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("API", re.compile(r"^ray::ServeReplica:gateway")),
    ("streams", re.compile(r"^ray::ServeReplica:streams")),
    ("sentiment", re.compile(r"^ray::ServeReplica:sentiment")),
    (
        "collectors",
        re.compile(r"^ray::(ServeReplica:collection|(?!IDLE|Serve|Proxy|HAProxy|Job|Dashboard|RuntimeEnv)[A-Z])"),
    ),
    ("jobs", re.compile(r"^ray::JobSupervisor|/jobs/\w+\.py")),
    ("Serve, HAProxy", re.compile(r"^ray::(Serve|ProxyActor|HAProxy)|haproxy")),
    ("sandbox", re.compile(r"main\(\) sandbox ")),
    ("launcher", re.compile(r"crypto-data up|main\(\) up")),
    ("Ray", re.compile(r"")),
)


def memory_of(node: NodeRecord) -> dict[str, int]:
    """PSS bytes of the node's processes by what they are, the largest first."""
    running = processes.descendants([node.launcher.pid]) | {p.pid for p in node.others if p.alive}
    return grouped((Process(pid, 0).command, processes.pss_bytes([pid])) for pid in running)


def grouped(weights: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The (command line, bytes) summed up by group, the largest first."""
    found: dict[str, int] = {}
    for command, weight in weights:
        group = group_of(command)
        found[group] = found.get(group, 0) + weight
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def group_of(command: str) -> str:
    """What the process with this command line is."""
    return next(group for group, pattern in GROUPS if pattern.search(command))

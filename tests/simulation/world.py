"""One seed, one life of a node: two clusters with their supervisors, collectors, an event bus and readers, and faults.

The processes run the node's own code (runner, collectors, ingestion, lease, budget, transport, feed, event ring) on a
virtual clock; the model supplies what is outside of it: database, archive, upstreams, and what befalls all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import httpx

from ray_app.assets import Asset, AssetRegistry
from ray_app.clock import Clock
from ray_app.collection import budget_rules, datasets
from ray_app.collection import store as store_module
from ray_app.collection.budget import TERM_S, BudgetAuthority
from ray_app.collection.budget_rules import Limits
from ray_app.collection.collectors import CandleCollector, PriceCollector, candles
from ray_app.collection.digest import digest
from ray_app.collection.event_bus import EventRing
from ray_app.collection.ingest import Ingestor
from ray_app.collection.runner import CollectorRunner
from ray_app.collection.runtime import Runtime
from ray_app.collection.supervision import Watch
from ray_app.collection.transport import Transport
from ray_app.collection.upstreams import Upstream as Account
from ray_app.collection.upstreams import build_upstreams, limits_of
from ray_app.errors import StorageError
from ray_app.settings import Settings
from ray_app.sources.base import Exchange, Request
from ray_app.storage import records
from tests.simulation import checks
from tests.simulation.loop import PROCESS, Process, VirtualLoop
from tests.simulation.statements import plain_statements
from tests.simulation.store import Archive, Database, Leases, Ledger, Store, filing, offering
from tests.simulation.upstream import MISDEEDS, Market, Misdeed, Upstream

#: 2026-11-30T20:00:00Z: a month ends during most runs
START_MS = 1_796_068_800_000
SLOT_MS = 300_000
#: BTC and ETH trade at the venue, TRX does not
ASSETS = (
    Asset(1, "BTC", "bitcoin", "Bitcoin", "BTC-USD", 1),
    Asset(2, "ETH", "ethereum", "Ethereum", "ETH-USD", 2),
    Asset(3, "TRX", "tron", "TRON", None, 3),
)
CLUSTERS = ("a", "b")
#: the accounts its collectors ask
ASKED = ("coingecko", "coinbase", "coinbase-v2")
LOOK_EVERY_S, ANSWER_S = 1.0, 3.0


class Violation(AssertionError):
    """An invariant does not hold. ``invariant`` is its name."""

    def __init__(self, invariant: str, detail: str, seed: int, profile: str) -> None:
        kind = "" if profile == DENSE.name else f" --profile {profile}"
        super().__init__(f"{invariant}: {detail} [replay: python -m tests.simulation {seed} --steps{kind}]")
        self.invariant = invariant


_PRICES, _CANDLES = (PriceCollector.name,), (CandleCollector.name,)


@dataclass(frozen=True, slots=True)
class Profile:
    """What kind of life. ``troubled_h`` node hours with ``faults`` faults; then none, and at most ``settle_h``.

    ``outages``: the share of lives in which every upstream is down for an hour afterwards. ``page``: bars in one
    answer of the venue.
    """

    name: str
    scales: tuple[float, ...]
    troubled_h: float
    settle_h: float
    faults: tuple[int, int]
    outages: float = 0.3
    page: int = 300
    monthly: tuple[int, ...] = (30, 60, 10_000)  # credits
    start_ms: int = START_MS
    settings: tuple[tuple[str, Any], ...] = ()
    #: which collectors run: one of these
    collectors: tuple[tuple[str, ...], ...] = (_PRICES, _PRICES, _CANDLES, _PRICES + _CANDLES)


#: short and crowded: what most lives are, for they find most in a second of ours
DENSE = Profile(
    "dense",
    (60.0, 120.0, 240.0),
    0.5,
    12.0,
    (5, 12),
    outages=0.1,
    page=24,
    monthly=(6, 15, 10_000),
    start_ms=START_MS + 195 * 60_000,  # a month ends during half of them
    collectors=(*[_PRICES] * 3, *[_CANDLES] * 2, _PRICES + _CANDLES),
)
HOURS = Profile("hours", (150.0, 300.0), 2.0, 12.0, (3, 9))
YEAR = Profile(
    "year",
    (20_000.0,),
    365 * 24.0,
    10 * 24.0,
    (60, 90),
    settings=(("price_interval_s", 86_400),),
    collectors=(_PRICES,),
)
PROFILES = {profile.name: profile for profile in (DENSE, HOURS, YEAR)}


@cache
def _settings(values: tuple[tuple[str, Any], ...]) -> Settings:
    fixed = {"data_dir": Path("/nonexistent"), "origin": "sandbox", "database_url": "sqlite:////nonexistent/x.db"}
    urls = {
        "coingecko_base_url": "http://sim/coingecko",
        "coinbase_exchange_base_url": "http://sim/exchange",
        "coinbase_api_base_url": "http://sim/v2",
    }
    # as if every slot could be had: the invariants count on one schedule, also where the month runs dry
    small = {
        "budget_planner": False,
        "price_fast_ranks": 3,
        "history_hourly_days": 1,
        "history_daily_days": 3,
        "api_timeout_s": 5.0,
    }
    return Settings(_env_file=None, **{**fixed, **urls, **small, **dict(values)})


class NodeClock(Clock):
    """Node time as a process reads it: the machine's, and a few ms besides."""

    def __init__(self, world: World, skew_ms: int) -> None:
        self.scale, self._world, self._skew_ms = world.scale, world, skew_ms

    def now_ms(self) -> int:
        return self._world.node_ms() + self._skew_ms

    async def sleep(self, node_seconds: float) -> None:
        await asyncio.sleep(node_seconds / self.scale)


@dataclass(eq=False)
class NodeProcess(Process):
    """A process with what the checks need to know of it."""

    tokens: set[int] = field(default_factory=set)  # of the leases it was given
    kind: str = "collector"
    lease: str = ""
    holder: str = ""
    acquired_s: float = 0.0  # when it was last given a lease
    runner: CollectorRunner | None = None


#: where every request seems to go: to build an address takes as long as to answer
_URL = httpx.URL("http://sim/")


class SimTransport(Transport):
    """The node's transport with the wire cut: what httpx would do, the model does."""

    world: World

    def _url(self, request: Request, upstream: Account) -> httpx.URL:
        return _URL

    async def _exchange(
        self, request: Request, upstream: Account, url: httpx.URL, token: object
    ) -> tuple[Exchange, httpx.URL | None]:
        status, headers, body = await self.world.sent(request, upstream.account)
        return Exchange(request, status, headers, body, self._clock.now_ms()), None


class World:
    """A run. ``trace``: told of each event, one line each."""

    def __init__(
        self, seed: int, profile: Profile = DENSE, trace: Callable[[str], None] | None = None, *, plain: bool = True
    ) -> None:
        self.seed, self.profile, self._trace, self._plain = seed, profile, trace, plain
        self.rng = random.Random(seed)
        self.scale = self.rng.choice(profile.scales)
        self.violation: Violation | None = None
        self.loop = VirtualLoop(self._strike, self._thread)
        self.start_ms = profile.start_ms + self.rng.randrange(12) * SLOT_MS + self.rng.randrange(SLOT_MS)
        self.set_ms = 0  # by how much the machine's clock was set
        self.set_back_ms = 0  # by how much, in all
        self.troubled = True
        self.well_since_ms = 0  # by the machine's clock
        self.acting: dict[str, tuple[NodeProcess, int]] = {}
        self.troubled_s = profile.troubled_h * 3_600 / self.scale
        self.away: list[tuple[float, float, float]] = []  # database: from, until, share of transactions
        self.full: list[tuple[float, float]] = []  # disk
        self.slow: list[tuple[float, float]] = []  # threads
        plan = (self.rng.choice(profile.monthly), self.rng.choice((1, 2, 10)))
        names = ("coingecko_monthly_limit", "coingecko_requests_per_minute")
        self.settings = _settings((*profile.settings, *zip(names, plan, strict=True)))
        known = build_upstreams(self.settings)
        self.accounts = {name: known[name] for name in ASKED}  # a fault of an account nobody asks is none
        if self.rng.random() < 0.5:  # a venue that allows little
            tight = Limits(2, 30.0, lanes=self.rng.choice((1, 2)), pause_s=5.0)
            self.accounts["coinbase"] = replace(self.accounts["coinbase"], limits=tight)
        market = Market(seed)
        self.upstream = Upstream(
            market, list(ASSETS), self.loop, self.rng, self.node_ms, limits_of(self.accounts), self.broken
        )
        self.store = Store(ASSETS, self.loop.time, self._database_fault, self.broken, self.node_ms, plain=plain)
        self.ledger = Ledger(self._database_fault, self._paused)
        self.pauses: dict[str, list[tuple[float, int]]] = {}
        self.ring: EventRing | None = None
        self.bus: NodeProcess | None = None
        self.processes: list[NodeProcess] = []
        self.asked = checks.Asked(self)
        self.schedules = checks.Schedules(self)
        self.readers = [checks.Reader(self, number) for number in range(2)]
        mix = profile.collectors
        self.collectors = mix[0] if len(mix) == 1 else self.rng.choice(mix)
        self.registry = AssetRegistry(ASSETS)
        self._outside = contextvars.Context()
        self._stopped_at: dict[Process, float] = {}
        self._born: list[NodeProcess] = []
        self.over = False
        self.lived_h = 0.0  # node hours
        self.at_end: Callable[[], None] = lambda: None  # a look at the store before it goes

    # --- what everything may ask ---

    def node_ms(self) -> int:
        """The machine's clock."""
        return self.start_ms + round(self.loop.time() * 1_000 * self.scale) + self.set_ms

    def say(self, text: str) -> None:
        if self._trace is not None:
            process = PROCESS.get()
            self._trace(f"{self.loop.time():10.3f} s {self.node_ms()} {process.name if process else '-':<28} {text}")

    def broken(self, invariant: str, detail: str) -> None:
        """An invariant does not hold: the run ends here."""
        if self.violation is None and not self.over:
            self.violation = Violation(invariant, detail, self.seed, self.profile.name)
            self.loop.halt()
            self.say(f"VIOLATION {invariant}: {detail}")

    # --- processes ---

    def spawn(self, name: str, kind: str, main: Callable[[NodeProcess], Any], lease: str = "") -> NodeProcess:
        """Start a process."""
        process = NodeProcess(f"{name}#{len(self._born)}", kind=kind, lease=lease)
        self.processes = [p for p in self.processes if p.alive] + [process]
        self._born.append(process)
        context = self._outside.copy()
        context.run(PROCESS.set, process)
        context.run(self.loop.create_task, main(process), name=name)
        self.say(f"starts {process.name}")
        return process

    def kill(self, process: Process) -> None:
        """kill -9."""
        if process.alive:
            process.alive = False
            self.say(f"kills {process.name}")

    def _kill_soon(self, process: Process) -> None:
        """What a supervisor asks for: it may take a while, and the successor may be quicker."""
        if self.troubled and self.rng.random() < 0.3:
            self.outside(self.rng.random() * 4.0, lambda: self.kill(process))
        else:
            self.kill(process)

    def stop(self, process: Process, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        if process.alive and not process.stopped:
            process.stopped = True
            self._stopped_at[process] = self.loop.time()
            self.say(f"stops {process.name} for {seconds:.1f} s")
            self.outside(seconds, lambda: self.loop.go_on(process) if process.alive else None)

    def outside(self, seconds: float, call: Callable[[], None]) -> None:
        """Let something happen that no process does."""
        if not self.over:
            self.loop.call_later(seconds, call, context=self._outside)

    def _strike(self, process: Process) -> None:
        """The callback the scheduler has been counting down to."""
        if self.rng.random() < 0.6:
            self.kill(process)
        else:
            self.stop(process, self.rng.choice((0.5, 3.0, 12.0, 30.0)))

    def _thread(self, future: Any, work: Callable[[], Any]) -> None:
        """asyncio.to_thread: some time passes, the work happens at once, some time passes."""
        now, rng = self.loop.time(), self.rng
        slow = any(start <= now < end for start, end in self.slow)
        process = PROCESS.get()

        def happen() -> None:
            if future.cancelled():
                return  # the executor drops what has not begun
            result: Any = None
            error: BaseException | None = None
            try:
                result = work()
            except Exception as problem:
                error = problem
            if self.troubled and process is not None and rng.random() < 0.0015:
                self.kill(process)  # what was committed is committed, and nobody knows
            self.loop.call_later(rng.random() * (2.0 if slow else 0.004), done, result, error)

        def done(result: Any, error: BaseException | None) -> None:
            if not future.done():
                future.set_exception(error) if error is not None else future.set_result(result)

        self.loop.call_later(rng.random() * (2.0 if slow else 0.004), happen)

    # --- the node's processes ---

    def start(self) -> None:
        """Everything."""
        for cluster in CLUSTERS:
            self._supervise(cluster)
        self._start_bus()
        for reader in self.readers:
            self.spawn(f"reader{reader.number}", "reader", reader.run)

    def _start_bus(self) -> None:
        async def idle(_: NodeProcess) -> None:
            await asyncio.Event().wait()

        self.ring = EventRing()
        self.bus = self.spawn("bus", "bus", idle)

    def _supervise(self, cluster: str) -> None:
        self.spawn(f"{cluster}/supervisor", "supervisor", lambda process: self._supervisor(process, cluster))

    async def _supervisor(self, me: NodeProcess, cluster: str) -> None:
        """As supervisor.py does with Ray actors: its children die with it, whoever is dead or hung is replaced."""
        watches = {name: Watch() for name in self.collectors}
        children: dict[str, NodeProcess] = {}
        orphans = [p for p in self.processes if p.kind == "collector" and p.name.startswith(f"{cluster}/")]
        for orphan in orphans:
            self._kill_soon(orphan)
        while True:
            for name, watch in watches.items():
                child, now = children.get(name), self.loop.time()
                if child is None:
                    if watch.may_start(now):
                        children[name] = self._collect(cluster, name)
                        watch.started(now)
                elif not child.alive:
                    watch.ended(now, "died")
                    del children[name]
                elif child.stopped:
                    if watch.silent():
                        watch.ended(now, "hung")
                        self._kill_soon(children.pop(name))
                else:
                    watch.answered(now)
            await asyncio.sleep(LOOK_EVERY_S if not any(w.unanswered for w in watches.values()) else ANSWER_S)

    def _collect(self, cluster: str, name: str) -> NodeProcess:
        skew = 3 if cluster == "b" else 0

        async def main(process: NodeProcess) -> None:
            runner = CollectorRunner(
                self.settings,
                name,
                holder=f"{cluster}/{name}",
                open_runtime=lambda: self._runtime(process, name, NodeClock(self, skew)),
            )
            process.runner, process.holder = runner, f"{cluster}/{name}"
            try:
                await runner.run()
            finally:
                process.alive = self.over  # then its other tasks are still to end

        return self.spawn(f"{cluster}/{name}", "collector", main, name)

    async def _runtime(self, process: NodeProcess, name: str, clock: Clock) -> Runtime:
        """As Runtime.open, with the model in the place of what lies outside."""
        db: Any = Database(self.store, fenced=name)
        writer = f"{name}.{process.name.replace('/', '-').replace('#', '-')}"
        archive: Any = Archive(self.store.disk, writer, self._full, self.asked.archived)

        def ready() -> tuple[AssetRegistry, tuple[int, int]]:
            with db.read() as conn:
                return self.registry, records.registry_generation(conn)

        assets, generation = await asyncio.to_thread(ready)
        budgets = BudgetAuthority(
            self.ledger, clock, limits_of(self.accounts), request_timeout_s=self.settings.api_timeout_s
        )
        leases = Leases(self.store)
        ingestor = Ingestor(db, archive, leases, clock, name, lambda: assets, self)

        async def keep(attempt: Any) -> None:
            try:
                await ingestor.archived(attempt.exchange)
            except BaseException:
                self.asked.failed(attempt.exchange.request)  # cancelled before it was archived: the answer is lost
                raise

        transport = SimTransport(self.accounts, clock, budgets, self.settings, on_attempt=keep, draw=self.rng.random)
        transport.world = self
        return Runtime(
            self.settings,
            name,
            clock,
            db,
            leases,
            archive,
            self.accounts,
            budgets,
            transport,
            ingestor,
            assets,
            generation,
        )

    # --- event bus: notifier and hotline ---

    async def publish(self, channel: str, events: Any) -> None:
        """Writers tell the bus; calls may be lost, late or doubled."""
        ring, rng = self.ring, self.rng
        if self.troubled and rng.random() < 0.1:
            return
        late = rng.random() * (8.0 if self.troubled and rng.random() < 0.1 else 0.005)
        for _ in range(2 if self.troubled and rng.random() < 0.1 else 1):
            self.outside(late, lambda: self._deliver(ring, channel, events))

    def _deliver(self, ring: EventRing | None, channel: str, events: Any) -> None:
        if ring is not None and ring is self.ring and self.bus is not None and self.bus.alive:
            self._outside.copy().run(self.loop.create_task, ring.publish(channel, events))

    async def wait(self, channel: str, after_seq: int, timeout_s: float) -> Any:
        """Readers ask the bus."""
        if self.bus is None or not self.bus.alive or self.ring is None:
            raise ConnectionError("the event bus is gone")
        return await self.ring.wait(channel, after_seq, timeout_s)

    # --- upstream ---

    async def sent(self, request: Request, account: str) -> tuple[int, dict[str, str], bytes]:
        """A request leaves the process now; it is counted when it arrives, unless its sender hung up before."""
        process = PROCESS.get()
        if self.over:
            raise httpx.ConnectError("the run is over")
        rng, loop = self.rng, self.loop
        self.say(f"asks {request.endpoint} {dict(request.params)} {dict(request.context)}")
        self._check_pause(account)
        self.schedules.sent(request, process)
        self.asked.sent(request, process)
        month = budget_rules.month_of(self.node_ms())
        back = loop.create_future()

        def arrive() -> None:
            if back.done():
                return
            self.upstream.count(account, month, self.scale)
            answer = self.upstream.answer(request, self.upstream.misdeed(account))
            if answer is not None:
                self.outside(
                    rng.random() * (0.02 if not self.troubled or rng.random() < 0.8 else 1.0), lambda: come(answer)
                )

        def come(answer: Any) -> None:
            if back.done() or (process is not None and not process.alive):
                return
            if isinstance(answer, Exception):
                back.set_exception(answer)
            else:
                back.set_result(answer)

        self.outside(rng.random() * (0.02 if not self.troubled or rng.random() < 0.8 else 1.5), arrive)
        answer = None
        try:
            answer = await back
        finally:
            if answer is None:
                self.asked.failed(request)
        self.say(f"gets {answer[0]} {answer[2][:60]!r}")
        if answer[0] != 200:  # a refusal holds no slots, whatever becomes of it
            self.asked.failed(request)
        if answer[0] == 429 and not self.away and not self.slow:
            until = self.node_ms() + 1_000 * int(answer[1]["retry-after"])
            lease = process.acquired_s  # type: ignore[union-attr]
            self.outside(1.0, lambda: self._told(process, lease, account, until))
        return answer

    def _told(self, process: Any, lease: float, account: str, until: int) -> None:
        """A second after a 429 the whole installation knows of it, if its reader was left alone meanwhile."""
        if process.alive and not process.stopped and process.acquired_s == lease and not self.was_stopped(process):
            self.pauses.setdefault(account, []).append((self.loop.time(), until))

    def was_stopped(self, process: Process) -> bool:
        """Whether it may have been stopped within the last seconds."""
        return self.loop.time() - self._stopped_at.get(process, -1e9) < 40.0

    def _paused(self, account: str, until_ms: int) -> None:
        self.say(f"all pause {account} until {until_ms}")
        self.pauses.setdefault(account, []).append((self.loop.time(), until_ms))

    def _check_pause(self, account: str) -> None:
        now = self.node_ms()
        for said_at, until in self.pauses.get(account, ()):
            if now + 10 < until and self.loop.time() - said_at > TERM_S[1] + 0.1:
                self.broken("budget", f"{account} is paused until {until} and was asked at {now}")

    # --- faults ---

    def _database_fault(self) -> str:
        if self.over:
            return "before"
        now = self.loop.time()
        if self.troubled and self.rng.random() < 0.01:
            return self.rng.choice(("before", "instead", "after"))
        if any(start <= now < end and self.rng.random() < share for start, end, share in self.away):
            return self.rng.choice(("before", "instead", "after"))
        return ""

    def _full(self) -> bool:
        now = self.loop.time()
        return any(start <= now < end for start, end in self.full)

    def _victim(self) -> NodeProcess | None:
        alive = [p for p in self.processes if p.alive]
        return self.rng.choice(alive) if alive else None

    def schedule_faults(self) -> None:
        """Draw what will happen, and when."""
        rng = self.rng
        for _ in range(rng.randint(*self.profile.faults)):
            at = rng.random() * self.troubled_s
            length = rng.choice((0.3, 2.0, 8.0, 20.0))  # wall seconds; a lease lasts ten
            kind = rng.choice(
                (
                    "strike",
                    "strike",
                    "kill",
                    "stop",
                    "database",
                    "upstream",
                    "upstream",
                    "upstream",
                    "disk",
                    "slow",
                    "clock",
                    "sleep",
                    "again",
                    "again",
                )
            )
            if kind == "upstream":
                account, what = rng.choice(list(self.accounts)), rng.choice(MISDEEDS)
                at = at if rng.random() < 0.7 else 0.0  # a first start asks for most
                self.upstream.misdeeds.append(Misdeed(what, account, at, at + length, rng.choice((0.3, 1.0))))
            elif kind == "database":
                self.away.append((at, at + length, rng.choice((0.2, 1.0))))
            elif kind == "disk":
                self.full.append((at, at + length))
            elif kind == "slow":
                self.slow.append((at, at + length))
            else:
                self.outside(at, lambda kind=kind, length=length: self._befall(kind, length))
            if self._trace is not None:
                self._trace(f"fault {kind} at {at:.1f} s for {length:.1f} s")

    def _befall(self, kind: str, length: float) -> None:
        victim = self._victim()
        if kind == "clock":
            by = self.rng.choice((-600_000, -2_000, 1_500, 400_000))
            self.set_ms += by
            self.set_back_ms += max(-by, 0)
            self.asked.clock_was_set()
            if by > 0:
                self.upstream.forget_windows()
            self.say(f"sets the clock by {by} ms")
        elif kind == "sleep":
            for process in self.processes:
                self.stop(process, length)
        elif kind == "again":
            self._deliver_again()
        elif victim is None:
            return
        elif kind == "strike":
            victim.steps_left = self.rng.randrange(400)
        elif kind == "kill":
            self.kill(victim)
        else:
            self.stop(victim, length)

    def _deliver_again(self) -> None:
        """Old answers come once more, in any order, as of ``crypto-data reprocess`` or of another process."""
        kept = [pair for segment in self.store.disk.records.values() for pair in segment]
        together = self.rng.random() < 0.5
        items = []
        for at, exchange in self.rng.sample(kept, min(len(kept), 20)):
            if self.rng.random() < 0.5:  # the same answer, fetched a second before or after
                fetched_at = exchange.fetched_at + self.rng.choice((-1_000, 1_000))
                other = replace(at, fetch_id=fetched_at << 20)
                items.append(self._item(other, replace(exchange, fetched_at=fetched_at)))
                if not together:
                    continue
            items.append(self._item(at, exchange))
        for some in [items] if together else [[item] for item in items]:
            with contextlib.suppress(StorageError):
                self.store.run(lambda conn, some=some: store_module.write_values(conn, some), fenced=None)

    def _item(self, at: Any, exchange: Exchange) -> store_module.Item:
        return store_module.Item(at, "reprocess", exchange, digest(exchange, at, self.registry))

    def _look_after(self) -> None:
        """What nobody inside restarts: Serve replaces supervisors, the supervisor the bus, consumers themselves."""
        alive = {p.name.split("#")[0] for p in self.processes if p.alive}
        for cluster in CLUSTERS:
            if f"{cluster}/supervisor" not in alive:
                self._supervise(cluster)
        if "bus" not in alive:
            self._start_bus()
        for reader in self.readers:
            if f"reader{reader.number}" not in alive:
                self.spawn(f"reader{reader.number}", "reader", reader.run)
        self.outside(2.5, self._look_after)

    def heal(self) -> None:
        """From now on nothing goes wrong any more."""
        self.troubled = False
        now = self.loop.time()
        for process in self.processes:
            process.steps_left = None
            if process.stopped and process.alive:
                self.loop.go_on(process)
        self.away.clear()
        self.full.clear()
        self.slow.clear()
        self.upstream.misdeeds.clear()
        self.say(f"faults are over at {now:.1f} s")

    # --- the run ---

    def run(self) -> World:
        """Live it. Raises Violation."""
        statements = plain_statements(self.store.raw) if self._plain else nullcontext()
        with _quiet(), statements, _noted(self.store), _paged(self.profile.page):
            try:
                self.start()
                self.schedule_faults()
                self.outside(2.5, self._look_after)
                self._until(self.troubled_s)
                self.heal()
                if self.rng.random() < self.profile.outages:
                    self._outage()
                self._settle()
            finally:
                self.over = True
                self.lived_h = self.loop.time() * self.scale / 3_600
                self.loop.end(self._born)
                self.store.close()
        return self

    def _until(self, seconds: float) -> None:
        self.loop.run(seconds)
        if self.violation is not None:
            raise self.violation

    def _outage(self) -> None:
        """The node is well and every upstream is down for an hour of node time: each gap is seen in time."""
        self._until(self.loop.time() + 2.5)  # what was slow before has ended
        end = self.loop.time() + 3_600 / self.scale
        self.say("every upstream goes down for an hour")
        for account in self.accounts:
            self.upstream.misdeeds.append(Misdeed("503", account, self.loop.time(), end, 1.0))
        while self.loop.time() < end:
            self._until(min(self.loop.time() + SLOT_MS / 2_000 / self.scale, end))
            checks.look_for_unseen(self)

    def _settle(self) -> None:
        self.well_since_ms = self.node_ms()
        end = self.loop.time() + self.profile.settle_h * 3_600 / self.scale
        problem: str | None = "nothing was checked"
        step = max(SLOT_MS / 1_000 / self.scale, 2.0)
        while problem is not None and self.loop.time() < end:
            self._until(min(self.loop.time() + step, end))
            checks.look_for_unseen(self)
            problem = checks.unsettled(self)
        if problem is not None:
            self.broken(*problem.split(": ", 1))
        checks.final(self)
        self.at_end()
        if self.violation is not None:
            raise self.violation


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _paged(bars: int) -> Iterator[None]:
    """A venue whose answers hold so many bars."""
    before = datasets.LIVE_INTERVALS
    datasets.LIVE_INTERVALS = candles.LIVE_INTERVALS = bars
    try:
        yield
    finally:
        datasets.LIVE_INTERVALS = candles.LIVE_INTERVALS = before


@contextmanager
def _noted(store: Store) -> Iterator[None]:
    before = store_module.guarded_upsert, records.add_fetches
    store_module.guarded_upsert = offering(store)  # type: ignore[assignment]
    records.add_fetches = filing(store, records.add_fetches)
    try:
        yield
    finally:
        store_module.guarded_upsert, records.add_fetches = before


def simulate(
    seed: int, profile: Profile = DENSE, trace: Callable[[str], None] | None = None, *, plain: bool = True
) -> World:
    """One life of the node; raises Violation with the line that replays it. ``plain``: see statements.py."""
    return World(seed, profile, trace, plain=plain).run()


def problem_of(task: tuple[int, str]) -> str | None:
    """What a (seed, profile) finds; None: nothing. Here and not in ``__main__``: worker processes import it."""
    seed, profile = task
    try:
        simulate(seed, PROFILES[profile])
    except Violation as violation:
        return f"seed {seed}: {violation}"
    return None


__all__ = ["DENSE", "HOURS", "PROFILES", "YEAR", "Profile", "Violation", "World", "problem_of", "simulate"]

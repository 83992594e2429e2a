"""The invariants that concern more than one commit: what was asked, when it was due, what readers saw, what is left.

Everything here is worked out from the script of the run (market, clock, faults), not with the code under test.
"""

from __future__ import annotations

import contextvars
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from ray_app.collection import datasets
from ray_app.collection.collectors.base import TOLERANCE_MS
from ray_app.collection.collectors.prices import EVENTS_KEPT_MS
from ray_app.collection.datasets import CANDLES, PRICES
from ray_app.serving.feed import Gap, OutboxFeed
from ray_app.sources.base import Exchange, Request
from tests.simulation.loop import PROCESS, Process
from tests.simulation.store import Database

if TYPE_CHECKING:
    from tests.simulation.world import NodeProcess, World

DAY_MS = 86_400_000
#: how late (node ms) the look that finds a gap may be: a pass takes its time when the upstream does not answer
LOOK_SLACK_MS = 240_000
Key = tuple[str, int, int]  # endpoint, asset, slot


# --- 4: nothing is asked for twice ---


@dataclass(eq=False)
class _Ask:
    process: Process | None
    archived: bool = False
    archived_s: float = 0.0
    failed: bool = False


class Asked:
    """Every slot ever asked for, and what became of it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._last: dict[Key, _Ask] = {}
        self._open: dict[int, list[tuple[Key, _Ask]]] = {}
        self.slots = 0

    def sent(self, request: Request, process: Process | None) -> int:
        """A request leaves: none of its slots may have been answered well, or be on the way for this process."""
        asks = []
        for key in self._keys(request):
            before = self._last.get(key)
            if before is not None and not before.failed:
                self._again(key, before, process)
            ask = self._last[key] = _Ask(process)
            asks.append((key, ask))
        self.slots += len(asks)
        ticket = len(self._open)
        self._open[id(request)] = asks
        return ticket

    def _again(self, key: Key, before: _Ask, process: Process | None) -> None:
        if before.process is process:
            state = "has the answer" if before.archived else "is waiting for the answer"
            self._world.broken("once", f"{key} is asked for again by {process and process.name}, which {state}")
        elif before.archived and self._newest(process):
            who: Any = process
            if self._stored(key):
                self._world.broken("once", f"{key} is stored, and the holder {who.name} asks for it again")
            elif before.archived_s < who.acquired_s:
                self._world.broken("once", f"{key} was archived before {who.name} took over, which asks for it again")

    def _newest(self, process: Any) -> bool:
        row = self._world.store.raw.execute(
            "SELECT token FROM collector_leases WHERE name = ?", (process.lease,)
        ).fetchone()
        return row is not None and row[0] in process.tokens

    def _stored(self, key: Key) -> bool:
        endpoint, asset_id, slot = key
        if endpoint.startswith("coinbase.candles/"):
            sql = "SELECT 1 FROM ohlc_data WHERE asset_id = ? AND open_time = ? AND interval_s = ?"
            values: tuple[Any, ...] = (asset_id, slot, int(endpoint.split("/")[1]))
        else:
            sql, values = "SELECT 1 FROM price_data_real WHERE asset_id = ? AND slot = ?", (asset_id, slot)
        return self._world.store.raw.execute(sql, values).fetchone() is not None

    def failed(self, request: Request) -> None:
        """No answer came of it."""
        for _, ask in self._open.pop(id(request), ()):
            ask.failed = True

    def archived(self, exchange: Exchange, safe: bool) -> None:
        """The answer is safe (or not: the disk is full); the slots it lacks may be asked for again."""
        there = self._answered(exchange) if safe else set()
        for key, ask in self._open.pop(id(exchange.request), ()):
            ask.failed = ask.failed or key not in there
            ask.archived, ask.archived_s = not ask.failed, self._world.loop.time()

    def clock_was_set(self) -> None:
        """What is on the way now may be dropped as lying ahead of its time."""
        for asks in self._open.values():
            for _, ask in asks:
                ask.failed = True

    def _keys(self, request: Request) -> list[Key]:
        endpoint, params, context = request.endpoint, request.params, request.context
        upstream = self._world.upstream
        if endpoint == "coingecko.markets":
            return [
                (endpoint, upstream.by_coin[coin].asset_id, int(context["slot"])) for coin in params["ids"].split(",")
            ]
        if endpoint == "coinbase.exchange_rates":
            wanted = context["products"].split(",")
            return [(endpoint, upstream.by_product[p].asset_id, int(context["slot"])) for p in wanted]
        start, end, step, asset_id = upstream.range_of(request)
        return [(_name(request), asset_id, slot) for slot in range(start, end, step)]

    def _answered(self, exchange: Exchange) -> set[Key]:
        request, upstream = exchange.request, self._world.upstream
        if exchange.status != 200 or not exchange.body.startswith((b"[", b"{")):
            return set()
        body = orjson.loads(exchange.body)
        if request.endpoint == "coingecko.markets":
            slot = int(request.context["slot"])
            return {(request.endpoint, upstream.by_coin[item["id"]].asset_id, slot) for item in body}
        if request.endpoint == "coinbase.exchange_rates":
            return set(self._keys(request))
        _, _, step, asset_id = upstream.range_of(request)
        if request.endpoint == "coingecko.market_chart":
            return {(_name(request), asset_id, at - at % step) for at, _ in body["prices"]}
        return {(_name(request), asset_id, bar[0] * 1_000) for bar in body}


def _name(request: Request) -> str:
    return (
        f"{request.endpoint}/{request.params['granularity']}" if "granularity" in request.params else request.endpoint
    )


# --- 7: schedules ---


class Schedules:
    """Due moments are the same in every process, and nothing is asked for before its own."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._tier = datasets.price_tiers(world.upstream.assets, world.settings, world.start_ms)[0]
        self._candles = {
            step: datasets.candle_tiers(step, world.settings, world.start_ms)[0].schedule for step in CANDLES
        }

    def sent(self, request: Request, process: Process | None) -> None:
        """Look at a request as it leaves."""
        if "slot" in request.context:
            schedule, slot = self._tier.schedule, int(request.context["slot"])
        elif request.endpoint == "coinbase.candles":
            _, end, step, _ = self._world.upstream.range_of(request)
            schedule, slot = self._candles[step // 1_000], end - step
        else:
            return
        due = {p.name: self._in(p, schedule.due_at, slot) for p in self._world.processes if p.kind == "collector"}
        if len(set(due.values())) > 1:
            self._world.broken("schedule", f"slot {slot} of {schedule.dataset} is due at different times: {due}")
        # 5 ms: clocks of processes differ; a poll that began in time may be overtaken by a clock set back
        earliest = min(due.values(), default=0) - 5 - self._world.set_back_ms
        if self._world.node_ms() < earliest:
            self._world.broken(
                "schedule", f"slot {slot} of {schedule.dataset} is asked for at {self._world.node_ms()}, due {due}"
            )

    @staticmethod
    def _in(process: Process, call: Any, *args: Any) -> Any:
        context = contextvars.Context()
        context.run(PROCESS.set, process)
        return context.run(call, *args)


# --- 5: readers ---


class Reader:
    """A consumer that remembers, durably, up to where it has worked; killed and resumed at any point."""

    def __init__(self, world: World, number: int) -> None:
        self.number = number
        self.done = 0  # durable
        self._world = world

    async def run(self, process: NodeProcess) -> None:
        import asyncio

        store: Any = Database(self._world.store)
        feed = OutboxFeed(store, PRICES, self._world, after_seq=self.done)
        position = self.done
        while True:
            try:
                events = await anext(feed)
            except Gap as gap:
                position = self.done = self._behind(gap)
                feed.seek(position)
                continue
            for seq, body in events:
                if seq != position + 1:
                    self._world.broken("outbox", f"reader {self.number} at {position} is given {seq}")
                if seq > len(self._world.store.events) or body != self._world.store.events[seq - 1]:
                    self._world.broken(
                        "outbox", f"reader {self.number} is given another event {seq} than was committed"
                    )
                position = seq
            await asyncio.sleep(0.001)  # killed here, it sees them again
            self.done = position

    def _behind(self, gap: Gap) -> int:
        """Events are gone: only such as nobody can expect any more. Gives where to go on."""
        store, now = self._world.store, self._world.node_ms()
        youngest = store.committed_at[gap.first_available - 2]
        if now - youngest < EVENTS_KEPT_MS - self._world.set_back_ms:
            self._world.broken("outbox", f"reader {self.number}: {gap}; the youngest was {now - youngest} ms old")
        return gap.first_available - 1


# --- 6: gaps and repair ---


def unsettled(world: World) -> str | None:
    """What is still to be repaired or read; None: nothing."""
    for reader in world.readers:
        if reader.done < len(world.store.events):
            return f"outbox: reader {reader.number} stands at {reader.done} of {len(world.store.events)}"
    for dataset in _datasets(world):
        problem = _unsettled(world, dataset)
        if problem is not None:
            return problem
    return None


def _datasets(world: World) -> list[tuple[str, int]]:
    found = []
    if "crypto-prices" in world.collectors:
        found.append((PRICES, world.settings.price_interval_s))
    if "unified-ohlc" in world.collectors:
        found += [(name, step) for step, name in CANDLES.items()]
    return found


def _plan_start(world: World, dataset: str) -> int | None:
    row = world.store.raw.execute(
        "SELECT definition FROM collection_schedules WHERE dataset = ? AND version = 1", (dataset,)
    ).fetchone()
    return None if row is None else min(tier["valid_from"] for tier in orjson.loads(row[0])["tiers"])


def _stored(world: World, dataset: str, step_s: int) -> set[tuple[int, int]]:
    if dataset == PRICES:
        return set(world.store.raw.execute("SELECT asset_id, slot FROM price_data_real"))
    return set(world.store.raw.execute("SELECT asset_id, open_time FROM ohlc_data WHERE interval_s = ?", (step_s,)))


def _ledger(world: World, dataset: str, step_ms: int) -> dict[tuple[int, int], tuple[str, str | None]]:
    rows = world.store.raw.execute(
        'SELECT asset_id, start, "end", state, reason FROM collection_gaps WHERE dataset = ?', (dataset,)
    )
    return {(a, slot): (state, why) for a, start, end, state, why in rows for slot in range(start, end, step_ms)}


def _owing(world: World, dataset: str, asset: Any) -> bool:
    return dataset == PRICES or asset.coinbase_product is not None


def _unsettled(world: World, dataset_step: tuple[str, int]) -> str | None:
    dataset, step_s = dataset_step
    start, step_ms, now = _plan_start(world, dataset), step_s * 1_000, world.node_ms()
    if start is None:
        return f"gaps: no schedule of {dataset} was ever declared"
    stored, ledger = _stored(world, dataset, step_s), _ledger(world, dataset, step_ms)
    for key, (state, _) in ledger.items():
        if state == "owed" and key in stored:
            return f"gaps: {key} of {dataset} is stored, and the ledger calls it owed"
    lag = 0 if dataset == PRICES else step_ms
    # whatever was due while there were faults, and what is due long since
    last = max(now - TOLERANCE_MS - 2 * step_ms - LOOK_SLACK_MS, world.well_since_ms - lag - TOLERANCE_MS)
    first = start if dataset == PRICES else max(start, now - datasets.LIVE_INTERVALS * step_ms)
    for asset in world.upstream.assets:
        if not _owing(world, dataset, asset):
            continue
        for slot in range(-(-first // step_ms) * step_ms, last, step_ms):
            if (asset.asset_id, slot) in stored:
                continue
            state, reason = ledger.get((asset.asset_id, slot), ("unknown", None))
            what = f"{asset.symbol} {slot} of {dataset} is {state} ({reason})"
            if state in {"owed", "unknown"}:
                if state == "owed" and not _repairable(world, dataset, asset, slot):
                    continue
                return f"{'repair' if state == 'owed' else 'gaps'}: {what}"
            if not _justified(world, dataset, asset, slot, step_ms, state, reason):
                world.broken("repair", f"{what}; the script says otherwise")
    return None


def _repairable(world: World, dataset: str, asset: Any, slot: int) -> bool:
    """A coin without a venue is repaired from its chart, as far as the month's credits allow."""
    short = (world.accounts["coingecko"].limits.monthly or 0) < 10_000
    return not (dataset == PRICES and asset.coinbase_product is None and short)


def _justified(world: World, dataset: str, asset: Any, slot: int, step_ms: int, state: str, reason: str | None) -> bool:
    step = 300_000 if dataset == PRICES else step_ms
    # a bar that two answers in a row have lacked is believed to be missing: a venue that lies twice is believed
    lied = world.upstream.omitted.get((asset.asset_id, step, slot), 0) >= 2
    traded = world.upstream.market.traded(asset.asset_id, slot, step) and not lied
    if state == "confirmed_empty":
        return dataset != PRICES and not traded
    if state != "unrepairable" or not reason:
        return False
    if "no further back" in reason:
        return asset.coinbase_product is None and world.node_ms() - slot > DAY_MS - 2 * step_ms
    return not traded


def unseen(world: World, dataset_step: tuple[str, int], acting_since: int) -> str | None:
    """A slot that is missing, and that the ledger of a collector acting since then does not know of in time."""
    dataset, step_s = dataset_step
    start, step_ms, now = _plan_start(world, dataset), step_s * 1_000, world.node_ms()
    if start is None:
        return None
    stored, ledger = _stored(world, dataset, step_s), _ledger(world, dataset, step_ms)
    lag = 0 if dataset == PRICES else step_ms
    last = now - lag - TOLERANCE_MS - 120_000 - min(step_ms, 300_000) - LOOK_SLACK_MS
    if now - acting_since < TOLERANCE_MS + LOOK_SLACK_MS + 120_000:
        return None
    for asset in world.upstream.assets:
        if not _owing(world, dataset, asset):
            continue
        for slot in range(-(-start // step_ms) * step_ms, last, step_ms):
            if (asset.asset_id, slot) not in stored and ledger.get((asset.asset_id, slot), ("repaired",))[
                0
            ] == "repaired":
                return f"{asset.symbol} {slot} of {dataset} is missing at {now}, and the ledger does not know"
    return None


def look_for_unseen(world: World) -> None:
    """The sixth invariant while the node is left alone: whatever the upstream does, a gap is seen within an interval."""
    for name in world.collectors:
        acting = [
            p
            for p in world.processes
            if p.alive and not p.stopped and p.lease == name and p.runner is not None and p.runner._state.lease_held
        ]
        if len(acting) != 1:
            world.acting.pop(name, None)
            continue
        who, since = world.acting.setdefault(name, (acting[0], world.node_ms()))
        if who is not acting[0]:
            world.acting[name] = acting[0], world.node_ms()
            continue
        for dataset in _datasets(world):
            if (dataset[0] == PRICES) == (name == "crypto-prices"):
                problem = unseen(world, dataset, since)
                if problem is not None:
                    world.broken("gaps", problem)


def final(world: World) -> None:
    """Every stored value is the upstream's true one."""
    market = world.upstream.market
    rows = world.store.raw.execute(
        "SELECT asset_id, slot, source, event_time, payload_hash, current_price FROM price_data_real"
    )
    for asset_id, slot, source, event_time, payload, price in rows.fetchall():
        if source == "coinbase.candles":
            true = market.price(asset_id, slot + 299_999)
        elif source == "coinbase.exchange_rates":
            true = market.price(asset_id, world.upstream.said_at[payload])
        else:
            true = market.price(asset_id, event_time)
        if abs(price - true) > 1e-9 * true:
            world.broken("repair", f"{asset_id} {slot} {source} holds {price}, true is {true}")
    bars = world.store.raw.execute("SELECT asset_id, interval_s, open_time, open_price, close_price FROM ohlc_data")
    for asset_id, step_s, at, opened, close in bars.fetchall():
        bar = market.bar(asset_id, at, step_s * 1_000)
        if (bar[3], bar[4]) != (opened, close):
            world.broken("repair", f"bar {asset_id} {step_s} {at} holds {opened}, {close}; true is {bar}")

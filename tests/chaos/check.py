"""Is what the node has after a run what it must have? Worked out from the sandbox's side alone.

Reads the database, the archive, the sandbox's request log, its fault script and what ``crypto-data sandbox truth`` says
of the market. It shares no code with the node. Times are ms of node time, unless they are called wall.
"""

from __future__ import annotations

import csv
import json
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from io import StringIO
from itertools import pairwise
from typing import Any

from tests.e2e.checker import HOUR, MINUTE, SLOT, Candle, Node, moment

Key = tuple[str, int]  # symbol, time
Entry = dict[str, Any]  # a line of the request log

#: most requests in any window of node time, ms, and in a month: what docs/sources.md says of the plans in use
BUDGETS = {"coingecko": (10, 60_000, 10_000), "coinbase": (8, 1_000, None), "coinbase-v2": (2, 1_000, None)}
#: wall s until every process knows of a Retry-After (docs/reliability.md)
PAUSE_KNOWN_S = 3.0
#: faults after which an answer holds all it was asked for
HARMLESS = frozenset({None, "revise", "duplicate_page", "slow"})
#: faults after which an answer's values are not the market's
LIES = frozenset({"revise", "clock_skew", "wrong_types"})
#: faults after which an answer may lack a bar that there is: it has another time, or no number
OMISSIONS = frozenset({"clock_skew", "wrong_types"})
#: wall s a request can take until its answer is archived: time-out, retry of the commit, and to spare
IN_FLIGHT_S = 20.0
#: node ms between what an answer says and its being complete, at most (a slow body, a stopped process)
ANSWER_MAX = 15 * MINUTE
#: wall ms in which a sandbox that goes on has worked off what it was sent while it stood still
BACKLOG_MS = 2_000
#: deeds after which a request may have to be asked again: its process is gone or could not keep the answer
HAND_OVER_KINDS = frozenset({"database", "disk full", "read-only", "job", "crash"})
HAND_OVER_TARGETS = frozenset({"prices", "candles", "slow feeds", "supervisor", "sandbox", "worker"})


@dataclass(frozen=True, slots=True)
class Done:
    """A deed of the journal, between two wall ms. ``struck``: how many it found."""

    kind: str
    target: str
    start: int
    end: int
    struck: int = 1

    @property
    def hands_over(self) -> bool:
        """Whether it can cost a collector's answers."""
        return self.struck > 0 and (self.kind in HAND_OVER_KINDS or self.target in HAND_OVER_TARGETS)


@dataclass
class Findings:
    """What the checks counted, and what is wrong."""

    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def of(self, name: str, problems: Iterable[str], shown: int = 8) -> None:
        """Take in what a check found: the first few, and how many."""
        found = list(problems)
        self.problems += [f"{name}: {problem}" for problem in found[:shown]]
        if len(found) > shown:
            self.problems.append(f"{name}: and {len(found) - shown} more")


class Truth:
    """The market as the sandbox's own tool prints it. ``command``: runs ``crypto-data`` with arguments."""

    def __init__(self, command: Callable[..., subprocess.CompletedProcess[str]], options: Sequence[str]) -> None:
        self._command, self._options = command, options

    def _rows(self, kind: str, step_s: int, start: int, end: int) -> Iterator[dict[str, str]]:
        span = ("--from", _iso(start), "--to", _iso(end), "--interval", str(step_s))
        done = self._command("sandbox", "truth", "--kind", kind, *span, *self._options)
        assert done.returncode == 0, done.stderr[-2000:]
        yield from csv.DictReader(StringIO(done.stdout))

    def bars(self, step_s: int, start: int, end: int) -> dict[Key, Candle]:
        """Open, high, low, close, volume of each bar that was traded."""
        names = ("open", "high", "low", "close", "volume")
        return {
            (row["symbol"], int(row["open_time_ms"])): tuple(float(row[name]) for name in names)  # type: ignore[misc]
            for row in self._rows("candles", step_s, start, end)
        }

    def prices(self, start: int, end: int) -> dict[Key, tuple[float, int]]:
        """The price as of each minute, and the minute it was traded in."""
        rows = self._rows("prices", 60, start, end)
        return {(row["symbol"], int(row["at_ms"])): (float(row["price"]), int(row["traded_at_ms"])) for row in rows}


@dataclass
class Run:
    """A finished run: what the node left, what was true, and what had been done to it, in ``[start, end)``."""

    node: Node
    truth: Truth
    script: Mapping[str, Any]
    first: int  # node time of the first start
    start: int
    end: int
    scale: float
    done: Sequence[Done]
    findings: Findings = field(default_factory=Findings)

    @cached_property
    def log(self) -> list[Entry]:
        """Every request."""
        return self.node.log()

    @cached_property
    def bars(self) -> dict[Key, Candle]:
        """The true five-minute bars."""
        return self.truth.bars(300, self.start - 20 * HOUR, self.end)

    @cached_property
    def _answers(self) -> dict[tuple[str, str], list[Entry]]:
        found: dict[tuple[str, str], list[Entry]] = defaultdict(list)
        for entry in self.log:
            if entry["status"] == 200:
                found[entry["path"], json.dumps(entry["params"], sort_keys=True)].append(entry)
        return found

    def fault_of(self, fetch: Mapping[str, Any]) -> str | None:
        """What befell the answer that a row of ``fetches`` is about; "unlogged" if the sandbox died over it."""
        request = json.loads(fetch["request"])
        entries = self._answers.get((request["path"], json.dumps(request["params"], sort_keys=True)), [])
        before = [entry for entry in entries if entry["at"] <= fetch["fetched_at"]]
        return before[-1]["fault"] if before else "unlogged"

    @cached_property
    def slots(self) -> dict[int, int]:
        """Which slot a request for prices was for: id of its line of the log → slot.

        A retry can come after its slot has ended, and the log does not know for which slot it is; the archive does.
        """
        found = {}
        for fetch in self.node.query("SELECT * FROM fetches WHERE source = 'coingecko.markets' AND status = 200"):
            request = json.loads(fetch["request"])
            entries = self._answers.get((request["path"], json.dumps(request["params"], sort_keys=True)), [])
            before = [entry for entry in entries if entry["at"] <= fetch["fetched_at"]]
            if before:
                found[id(before[-1])] = int(request["context"]["slot"])
        return found

    @cached_property
    def faults(self) -> dict[str, set[str | None]]:
        """Payload hash → what befell the answers that had this body."""
        found: dict[str, set[str | None]] = defaultdict(set)
        for fetch in self.node.query("SELECT payload_hash, request, fetched_at, status FROM fetches"):
            if fetch["status"] == 200:
                found[fetch["payload_hash"]].add(self.fault_of(fetch))
        return found

    def lied(self, payload_hash: str) -> bool:
        """Whether the sandbox was told to lie in this body."""
        return bool(self.faults[payload_hash] & {*LIES, "unlogged"})

    def count(self, name: str, number: int) -> None:
        """Note a number for the report."""
        self.findings.counts[name] = number


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1_000, UTC).isoformat()


def check(run: Run) -> Findings:
    """Everything."""
    for name, look in CHECKS.items():
        run.findings.of(name, look(run))
    return run.findings


# --- values ---


def prices_are_true(run: Run) -> Iterator[str]:
    """Each stored price is the market's, or what the sandbox was told to say; none is missing that could be had."""
    truth = run.truth.prices(run.start - HOUR, run.end + HOUR)
    rows = run.node.query(
        "SELECT * FROM price_data_real WHERE slot >= ? AND slot < ? AND source <> 'coinbase.ticker'",
        (run.start, run.end),
    )
    seen: Counter[tuple[str, int, str]] = Counter()
    lies = 0
    for row in rows:
        symbol = run.node.symbol_of[row["asset_id"]]
        seen[symbol, row["slot"], row["source"]] += 1
        if not _price_is_true(run, truth, symbol, row):
            if run.lied(row["payload_hash"]):
                lies += 1
            else:
                yield f"{symbol} at slot {row['slot']} from {row['source']} is {row['current_price']}"
        if not row["event_time"] <= row["known_at"] or not row["event_time"] - 5 * MINUTE <= row["fetched_at"]:
            yield f"{symbol} at slot {row['slot']}: event {row['event_time']}, known {row['known_at']}"
    yield from (f"twice: {key}" for key, times in seen.items() if times > 1)
    sources = Counter(source for _, _, source in seen)
    for source, number in sources.items():
        run.count(f"prices from {source}", number)
    run.count("prices as a fault script falsified them", lies)


def _price_is_true(run: Run, truth: Mapping[Key, tuple[float, int]], symbol: str, row: Mapping[str, Any]) -> bool:
    price, event, slot = row["current_price"], row["event_time"], row["slot"]
    if row["source"] == "coinbase.candles":
        bar = run.bars.get((symbol, slot))
        return bar is not None and price == bar[3]
    if row["source"] == "coinbase.exchange_rates":  # 1 / rate, and read a moment before it was complete
        minute = event - event % MINUTE
        known = [truth[symbol, at][0] for at in (minute, minute - MINUTE) if (symbol, at) in truth]
        return any(abs(price / value - 1) < 1e-6 for value in known)
    if row["source"] == "coingecko.markets":  # it was said in one of the minutes before it was complete
        read = row["fetched_at"] - row["fetched_at"] % MINUTE
        return any(truth.get((symbol, at)) == (price, event) for at in range(read - ANSWER_MAX, read + MINUTE, MINUTE))
    return any(truth.get((symbol, at), (None,))[0] == price for at in range(slot, slot + SLOT, MINUTE))


def no_slot_is_missing(run: Run) -> Iterator[str]:
    """A slot without a price is one in which nothing was traded, or of which the script spoilt every answer."""
    stored = {
        (run.node.symbol_of[row["asset_id"]], row["slot"])
        for row in run.node.query(
            "SELECT asset_id, slot FROM price_data_real WHERE slot >= ? AND source <> 'coinbase.ticker'", (run.start,)
        )
    }
    traded = {symbol for symbol, _ in run.bars} & run.node.listed.keys()
    said = run.node.settled("prices", "unrepairable") | run.node.settled("prices", "confirmed_empty")
    wanted = {(symbol, slot) for symbol in traded for slot in range(run.start, run.end, SLOT)}
    run.count("price slots", len(wanted))
    run.count("price slots beyond repair, and rightly", len(wanted - stored))
    for key in sorted(wanted - stored):
        if key not in said:
            yield f"{key} is missing and nobody says why"
        elif key in run.bars and not _spoilt_twice(run, key[0], 300, key[1]):
            yield f"{key} is called beyond repair, and its candle could be had"


def _candles_are_true(run: Run, step_s: int, start: int) -> Iterator[str]:
    truth = run.bars if step_s == 300 else run.truth.bars(step_s, start, run.end)
    dataset, end = f"candles-{step_s}", run.end - run.end % (step_s * 1_000)
    wanted = {key for key in truth if start <= key[1] < end and key[0] in run.node.product_of}
    rows = run.node.query(
        "SELECT * FROM ohlc_data WHERE interval_s = ? AND open_time >= ? AND open_time < ?", (step_s, start, end)
    )
    stored: set[Key] = set()
    believed: Counter[Key] = Counter()  # versions that the venue did say; a revision is another row
    lies = 0
    for row in rows:
        key = (run.node.symbol_of[row["asset_id"]], row["open_time"])
        stored.add(key)
        believed[key] += not run.lied(row["payload_hash"])
        values = tuple(row[name] for name in ("open_price", "high_price", "low_price", "close_price", "volume"))
        if values != truth.get(key):
            if run.lied(row["payload_hash"]):
                lies += 1
            else:
                yield f"{key} of {dataset} is {values}, true is {truth.get(key)}"
    yield from (f"twice: {key} of {dataset}" for key, times in believed.items() if times > 1)
    empty = run.node.settled(dataset, "confirmed_empty") | run.node.settled(dataset, "unrepairable")
    for key in sorted(wanted - stored):
        if key not in empty or not _spoilt_twice(run, key[0], step_s, key[1]):
            yield f"{key} of {dataset} is missing ({'said to be empty' if key in empty else 'nobody says why'})"
    run.count(f"candles of {step_s} s", len(stored))
    run.count(f"candles of {step_s} s as a fault script falsified them", lies)
    run.count(f"candles of {step_s} s that the script cut out twice", len(wanted - stored))


def five_minute_candles_are_true(run: Run) -> Iterator[str]:
    """As the market was, bar by bar."""
    return _candles_are_true(run, 300, run.start - 19 * HOUR)


def hourly_candles_are_true(run: Run) -> Iterator[str]:
    """As the market was, over the whole history."""
    return _candles_are_true(run, 3_600, run.start - run.start % HOUR - 118 * 24 * HOUR)


def _covering(run: Run, symbol: str, step_s: int, at: int) -> list[Entry]:
    """Answered requests for one bar, made once it was closed."""
    return [entry for entry in run.log if (symbol, step_s, at) in _bars_asked(run, entry)]


def _spoilt_twice(run: Run, symbol: str, step_s: int, at: int) -> bool:
    """Whether two answers about this bar were made to lack it."""
    return sum(entry["fault"] in OMISSIONS for entry in _covering(run, symbol, step_s, at)) >= 2


def _bars_asked(run: Run, entry: Entry) -> list[tuple[str, int, int]]:
    """The closed bars (symbol, interval in s, open time) that a request asked for."""
    if entry["endpoint"] != "candles" or entry["status"] != 200:
        return []
    symbol_of = {product: symbol for symbol, product in run.node.product_of.items()}
    step = int(entry["params"]["granularity"]) * 1_000
    first = -(-moment(entry["params"]["start"]) // step) * step
    last = min(moment(entry["params"]["end"]), entry["at"] - step)
    return [(symbol_of[entry["path"].split("/")[2]], step // 1_000, at) for at in range(first, last + 1, step)]


def nothing_older_stands(run: Run) -> Iterator[str]:
    """No archived answer of CoinGecko says anything newer of a slot than what is stored."""
    symbol_of = {coin: symbol for symbol, coin in run.node.listed.items()}
    rows = run.node.query("SELECT * FROM price_data_real WHERE source = 'coingecko.markets'")
    stored = {(run.node.symbol_of[row["asset_id"]], row["slot"]): row["event_time"] for row in rows}
    answers = run.node.query("SELECT * FROM fetches WHERE source = 'coingecko.markets' AND outcome = 'ok'")
    for fetch in answers:
        slot = int(json.loads(fetch["request"])["context"]["slot"])
        for item in run.node.payload(fetch["payload_hash"]):
            key = (symbol_of.get(item["id"], ""), slot)
            said = item.get("last_updated")
            if key in stored and isinstance(said, str) and stored[key] < moment(said) <= fetch["fetched_at"]:
                yield f"{key}: stored is an event of {stored[key]}, {said} was archived"
    run.count("answers with prices", len(answers))


# --- requests ---


def nothing_is_asked_twice(run: Run) -> Iterator[str]:
    """A slot is asked for again only where the answer before was spoilt, or a deed struck while it was in flight."""
    asks: dict[tuple[Any, ...], list[Entry]] = defaultdict(list)
    for entry in run.log:
        if entry["status"] == 200 and entry["fault"] in HARMLESS:
            for key in (*_bars_asked(run, entry), *_prices_asked(run, entry)):
                asks[key].append(entry)
    repaired = run.node.query("SELECT asset_id, slot FROM price_data_real WHERE source = 'coinbase.candles'")
    once_more = {(run.node.symbol_of[row["asset_id"]], 300, row["slot"]) for row in repaired}
    stored = {
        (run.node.symbol_of[row["asset_id"]], row["interval_s"], row["open_time"])
        for row in run.node.query("SELECT asset_id, interval_s, open_time FROM ohlc_data")
    }
    again = 0
    for key, entries in asks.items():
        if len(key) == 3 and key not in stored:
            continue  # a second look makes sure that a bar does not exist
        extra = len(entries) - 1 - (key in once_more)
        if extra > 0:
            again += extra
            if sum(_interrupted(run, before, after) for before, after in pairwise(entries)) < extra:
                yield f"{key} at {[entry['at'] for entry in entries]}"
    run.count("slots asked for", len(asks))
    run.count("slots asked for again, in flight at a deed", again)


def _prices_asked(run: Run, entry: Entry) -> list[tuple[str, int]]:
    if entry["endpoint"] != "markets":
        return []
    slot = run.slots.get(id(entry), entry["at"] - entry["at"] % SLOT)
    return [(coin, slot) for coin in entry["params"]["ids"].split(",")]


def _interrupted(run: Run, before: Entry, after: Entry) -> bool:
    """Whether a deed struck between a request and what could be its answer's commit.

    A sandbox that was stopped finds what was sent to it meanwhile, and answers nobody: whoever asked has given up.
    """
    start, end = before["wall"], min(after["wall"], before["wall"] + round(IN_FLIGHT_S * 1_000))
    return any(
        one.hands_over and one.start <= end and one.end + (BACKLOG_MS if one.target == "sandbox" else 0) >= start
        for one in run.done
    )


def budgets_are_kept(run: Run) -> Iterator[str]:
    """In no window of node time did more requests arrive than the plan allows."""
    for source, (allowed, window, monthly) in BUDGETS.items():
        times = [entry["at"] for entry in run.log if entry["source"] == source]
        most = 0
        first = 0
        for last, at in enumerate(times):
            while at - times[first] >= window:
                first += 1
            most = max(most, last - first + 1)
            if last - first + 1 > allowed:
                yield f"{last - first + 1} requests reached {source} in {window} ms up to {at}"
        if monthly is not None and len(times) > monthly:
            yield f"{len(times)} requests reached {source}, {monthly} a month are allowed"
        run.count(f"most requests to {source} in {window // 1_000} s, of {allowed}", most)


def pauses_are_kept(run: Run) -> Iterator[str]:
    """After a Retry-After nobody asks, but for the moment in which not every process knows of it."""
    orders = 0
    for place, entry in enumerate(run.log):
        seconds = _retry_after(run, entry)
        if seconds is None:
            continue
        orders += 1
        known = entry["at"] + entry["ms"] * run.scale + PAUSE_KNOWN_S * 1_000 * run.scale
        late = [
            other["at"]
            for other in run.log[place + 1 :]
            if other["source"] == entry["source"] and known < other["at"] < entry["at"] + seconds * 1_000 - MINUTE
        ]
        if late:
            yield f"{entry['source']} at {entry['at']} ordered {seconds} s; {len(late)} requests at {late[:3]}"
    run.count("orders to pause", orders)


def _retry_after(run: Run, entry: Entry) -> float | None:
    """The seconds that an answer 429 ordered, by the fault script."""
    if entry["status"] != 429:
        return None
    for fault in run.script["faults"]:
        start, end = (run.first + int(fault[name].strip("+s")) * 1_000 for name in ("from", "to"))
        if (
            fault["kind"] == "rate_limit"
            and fault["source"] == entry["source"]
            and fault["endpoint"] in {"*", entry["endpoint"]}
            and start <= entry["at"] < end
        ):
            return float(fault["retry_after"])
    return None


# --- events ---


def events_are_dense(run: Run) -> Iterator[str]:
    """Every number once, without a hole."""
    numbers = [row["seq"] for row in run.node.query("SELECT seq FROM outbox WHERE channel = 'prices' ORDER BY seq")]
    yield from (f"{after} follows {before}" for before, after in pairwise(numbers) if after != before + 1)
    run.count("events", len(numbers))


CHECKS: dict[str, Callable[[Run], Iterator[str]]] = {
    "prices": prices_are_true,
    "missing prices": no_slot_is_missing,
    "five-minute candles": five_minute_candles_are_true,
    "hourly candles": hourly_candles_are_true,
    "older over newer": nothing_older_stands,
    "asked twice": nothing_is_asked_twice,
    "budget": budgets_are_kept,
    "pause": pauses_are_kept,
    "events": events_are_dense,
}

"""Live through a day of faults with a whole node, and check every row and request afterwards.

    python -m tests.chaos --database sqlite --hours 24 --scale 30 --seed 1

Kills and stops processes, takes the database away, fills the disk, crashes the whole node, while the upstreams do
everything a fault script can say, and are gone for an hour. The same seed draws the same plan. Status 1 if anything
is wrong. Root may mount file systems; others leave the full disk and the read-only directory out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.chaos import check, plan
from tests.chaos.check import Done, Findings, Run, Truth
from tests.chaos.deeds import World, small_disk
from tests.chaos.listener import Listener
from tests.e2e.checker import MINUTE, SLOT, MysqlTables, SqliteTables, Tables, moment
from tests.e2e.checker import Node as Left
from tests.e2e.played import now, own_file, wait_repaired
from tests.nodes import Node, started_node
from tests.servers import MariaDB, mariadb, wait_until

#: what a slot of the fastest schedule is allowed until it counts as missing, and the look that sees it, ms
SEEN_WITHIN = SLOT + 5 * MINUTE
#: node hours after the last fault in which everything must have been repaired
REPAIR_H = 12.0


class Chaos:
    """One run in ``directory``."""

    def __init__(self, directory: Path, drawn: plan.Plan, server: MariaDB | None, mounted: bool) -> None:
        self._directory, self._data, self._plan, self._server = directory, directory / "data", drawn, server
        self._file = own_file(directory / "own.parquet")
        drawn.write_script(directory / "faults.yaml")
        self._script = directory / "faults.yaml"
        self._journal = (directory / "journal.jsonl").open("a")
        self._began = 0.0
        self._queue = [d for d in drawn.deeds if mounted or d.kind not in {"disk full", "read-only"}]
        self.done: list[Done] = []
        self.node: Node | None = None
        self.problems: list[str] = []
        self._watched = False  # the hour without upstreams

    def _options(self) -> list[str]:
        options = ["--replay", str(self._file), "--faults", str(self._script), "--time-scale", f"{self._plan.scale:g}"]
        return options if self._server is None else [*options, "--database-url", self._url()]

    def _url(self) -> str:
        assert self._server is not None
        return f"mysql+pymysql://node:node@127.0.0.1:{self._server.port}/chaos"

    def _environment(self) -> dict[str, str]:
        return {"API_TIMEOUT": "5", **({} if self._server is None else {"DATABASE_URL": self._url()})}

    @contextmanager
    def _started(self) -> Iterator[Node]:
        with started_node(self._data, *self._options(), environment=self._environment()) as node:
            self.node = node
            node.wait_ready()
            say(f"READY at {now(node)}")
            yield node

    def run(self) -> Findings:
        """All of it."""
        listener = Listener(lambda: self.node)  # type: ignore[arg-type,return-value] # started after the first READY
        crashed = True
        while crashed:
            with self._started() as node:
                if not self._began:
                    self._began = time.monotonic()
                    start = -(-now(node) // SLOT) * SLOT
                    listener.start()
                crashed = self._do_deeds(World(node, self._server))
                if not crashed:
                    findings = self._finish(node, start, listener)
        return findings

    # --- deeds ---

    def _do_deeds(self, world: World) -> bool:
        """Do what is due until a deed ends the node (True) or the time is over."""
        while self._queue:
            due = self._queue[0].at_s
            if self._outage_is_next(due):
                self._watch_outage(world.node)
            self._sleep_until(due)
            deed = self._queue.pop(0)
            start = time.time()
            struck = world.does()[deed.kind](deed.target, deed.seconds)
            self._note(Done(deed.kind, deed.target, round(start * 1_000), round(time.time() * 1_000), struck))
            if deed.kind == "crash":
                return True
        self._sleep_until(self._plan.hours * 3_600 / self._plan.scale)
        return False

    def _sleep_until(self, at_s: float) -> None:
        time.sleep(max(self._began + at_s - time.monotonic(), 0))

    def _note(self, done: Done) -> None:
        self.done.append(done)
        self._journal.write(json.dumps(asdict(done)) + "\n")
        self._journal.flush()
        say(f"{len(self.done):4} {done.kind} {done.target}: {done.struck} for {(done.end - done.start) / 1_000:.1f} s")

    # --- the hour without upstreams ---

    def _outage_at(self, node: Node) -> tuple[int, int] | None:
        if self._plan.outage is None:
            return None
        first = first_start(node)
        return tuple(first + round(minutes * MINUTE) for minutes in self._plan.outage)  # type: ignore[return-value]

    def _outage_is_next(self, due_s: float) -> bool:
        """Whether the next deed comes after the hour, and the hour has not been watched."""
        if self._plan.outage is None or self._watched:
            return False
        return due_s > (self._plan.outage[1] - plan.CALM_MIN) * 60 / self._plan.scale - 60

    def _watch_outage(self, node: Node) -> None:
        """Every slot of the hour is in the ledger in time, and health says what is wrong."""
        self._watched = True
        span = self._outage_at(node)
        assert span is not None
        wait_until(lambda: now(node) >= span[0], 3_600, "the hour without upstreams")
        say("every upstream is down for an hour")
        seen: dict[int, int] = {}  # slot → when the API first showed it as owed
        said: Counter[str] = Counter()
        while now(node) < span[1] + 2 * MINUTE:
            for slot in _owed_slots(node):
                seen.setdefault(slot, now(node))
            health = node.get("/health").json()
            said[f"{health['status']}: {health['losses'][0]['reason'] if health['losses'] else ''}"[:110]] += 1
            time.sleep(1)
        # A slot whose poll began before the hour, or whose tolerance reaches beyond it, proves nothing.
        wanted = range(-(-span[0] // SLOT) * SLOT, span[1] - 2 * SLOT - SEEN_WITHIN, SLOT)
        late = {slot: seen.get(slot) for slot in wanted if seen.get(slot, 2**62) > slot + SLOT + SEEN_WITHIN}
        if late:
            self.problems.append(f"outage: not seen within one interval: {late}")
        if not any(text.startswith(("degraded", "critical")) for text in said):
            self.problems.append(f"outage: health never said so: {said}")
        worst = max((seen[slot] - slot - SLOT for slot in wanted if slot in seen), default=0)
        say(
            f"outage: {len(wanted)} slots, the last one seen {worst / MINUTE:.1f} node minutes after its end; health: {said}"
        )

    # --- the end ---

    def _finish(self, node: Node, start: int, listener: Listener) -> Findings:
        end = now(node) // SLOT * SLOT
        wall_h = REPAIR_H * 3_600 / self._plan.scale
        say("faults are over")
        wait_until(lambda: now(node) > end + 20 * MINUTE, 600, "the last slots being due")
        try:
            wait_repaired(node, end, wall_h)
        except AssertionError as error:
            self.problems.append(f"gaps: {error}")
        health = node.get("/health").json()
        if health["status"] != "healthy":
            self.problems.append(f"health: {health['status']} at the end: {health['losses'][:3]}")
        time.sleep(20)  # a heartbeat at least
        listener.stop()
        if node.stop() != 0:
            self.problems.append(f"stop: {node.printed[-500:]}")
        lived = {"first": first_start(node), "start": start, "end": end, "scale": self._plan.scale}
        (self._directory / "run.json").write_text(json.dumps(lived))
        left = Left(node.state_dir, self._tables(node))
        findings = judge(self._directory, left, node.cli)
        findings.problems = [*self.problems, *listener.problems[:8], *findings.problems]
        self._consumer(findings, left, listener)
        self._verify(findings, node)
        left.close()
        return findings

    def _tables(self, node: Node) -> Tables:
        if self._server is None:
            return SqliteTables(node.state_dir / "node.db")
        return MysqlTables(self._server.port, "chaos", "node", "node")

    def _consumer(self, findings: Findings, left: Left, listener: Listener) -> None:
        findings.counts["events heard by one consumer"] = listener.heard
        findings.counts["its connections"] = listener.connections
        [row] = left.query("SELECT seq FROM outbox_heads WHERE channel = 'prices'")
        # What is committed while the node ends is heard by nobody.
        if listener.position is None or row["seq"] - listener.position > 50:
            findings.problems.append(f"listener: stands at {listener.position} of {row['seq']}")

    def _verify(self, findings: Findings, node: Node) -> None:
        environment = {} if self._server is None else {"DATABASE_URL": self._url()}
        proof = node.cli("verify", timeout_s=1_200, environment=environment)
        if proof.returncode != 0:
            findings.problems.append(f"verify: {proof.stdout[-500:]} {proof.stderr[-1500:]}")


def judge(directory: Path, left: Left, command: Callable[..., subprocess.CompletedProcess[str]]) -> Findings:
    """Check what a run has left in ``directory``. ``command``: runs crypto-data."""
    lived = json.loads((directory / "run.json").read_text())
    script: dict[str, Any] = yaml.safe_load((directory / "faults.yaml").read_text())
    done = [Done(**json.loads(line)) for line in (directory / "journal.jsonl").read_text().splitlines()]
    epoch = ("--replay", str(directory / "own.parquet"), "--epoch-file", str(left.state_dir / "epoch.json"))
    return check.check(Run(left, Truth(command, epoch), script, done=done, **lived))


def first_start(node: Node) -> int:
    """Node ms of the node's first start."""
    return int(json.loads((node.state_dir / "epoch.json").read_text())["first_node_ms"])


def _owed_slots(node: Node) -> set[int]:
    """The price slots that the API says are owed."""
    try:
        answer = node.get("/api/v1/stats/gaps", dataset="prices", state="owed", limit=1_000).json()["data"]
    except httpx.HTTPError:
        return set()
    return {slot for row in answer for slot in range(moment(row["start"]), moment(row["end"]), SLOT)}


def say(text: str) -> None:
    """A line of the report."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _live(given: argparse.Namespace, directory: Path) -> int:
    drawn = plan.draw(given.seed, given.hours, given.scale, given.database)
    say(f"seed {given.seed}: {len(drawn.deeds)} deeds, {len(drawn.windows)} upstream faults, {given.database}")
    with mariadb(directory) if given.database == "mariadb" else nullcontext() as server:
        if server is not None:
            server.run("CREATE DATABASE chaos CHARACTER SET utf8mb4")
        with small_disk(directory / "data" / "sandbox") as mounted:
            if not mounted:
                say("not root: no full disk, no read-only directory")
            chaos = Chaos(directory, drawn, server, mounted)
            findings = chaos.run()
    for name, number in findings.counts.items():
        print(f"{number:>9,}  {name}")
    deeds = Counter(f"{one.kind} {one.target}".strip() for one in chaos.done if one.struck)
    print(f"{sum(deeds.values()):>9,}  deeds: " + ", ".join(f"{name} {times}" for name, times in deeds.most_common()))
    for problem in findings.problems:
        print(f"WRONG {problem}")
    print("nothing is wrong" if not findings.problems else f"{len(findings.problems)} problems")
    return 1 if findings.problems else 0


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.split("\n")[0])
    parser.add_argument("--database", choices=("sqlite", "mariadb"), default="sqlite")
    parser.add_argument("--hours", type=float, default=24.0, help="node hours of faults")
    parser.add_argument("--scale", type=float, default=30.0, help="node seconds per wall second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, help="where to leave everything (a new one under /tmp if not given)")
    given = parser.parse_args()
    directory = given.directory or Path(tempfile.mkdtemp(prefix="chaos-"))
    directory.mkdir(parents=True, exist_ok=True)
    say(f"all of it is in {directory}")
    return _live(given, directory)


if __name__ == "__main__":
    sys.exit(main())

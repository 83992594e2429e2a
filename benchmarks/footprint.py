"""What a whole node costs: time to READY, memory, processor, on a sandbox node started as its user starts it.

    python benchmarks/footprint.py [--minutes 5] [--models FOLDER] [--json FILE]

Starts ``crypto-data up --upstream sandbox`` on a data directory that does not exist yet, so that the first start's
backfill runs, and looks at every process of it every two seconds:

* seconds from the start of the command to its READY line;
* PSS (shared pages divided among those who share them, /proc/PID/smaps_rollup) of each process at READY and after
  ``--minutes``, and the highest sum in between, with what ran then;
* how many backfill jobs and job drivers ran at once;
* processor seconds per second over the last minute, and whether a backfill still ran then;
* assets with a served price.

``--models``: with the text models ``finbert-mini`` and ``cryptobert-mini`` of that folder, by which a job has texts
scored three minutes after the start; how many scores each gave is printed.

The bars: READY within 60 s, never 3.5 GiB (with models 5), 300 assets. What other programs took of the machine
meanwhile is printed with the result: on a busy machine the seconds say little, the bytes still hold.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ray_app.node import processes  # noqa: E402
from ray_app.node.processes import Process  # noqa: E402
from ray_app.node.status import grouped  # noqa: E402

READY_BAR_S, MEMORY_BAR, MODELS_MEMORY_BAR, ASSETS_BAR = 60.0, 3.5 * 1024**3, 5 * 1024**3, 300
START_S, EVERY_S, STEADY_S = 300.0, 2.0, 60.0
TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1024**2


@dataclass(frozen=True, slots=True)
class Look:
    """The node at one moment: PSS bytes and processor seconds by "pid command"; ``busy``: the whole machine's."""

    at: float
    pss: dict[str, int]
    cpu: dict[str, float]
    busy: float

    @property
    def total(self) -> int:
        return sum(self.pss.values())

    def running(self, pattern: str) -> int:
        """Processes whose command fits."""
        return sum(1 for name in self.pss if re.search(pattern, name.split(" ", 1)[1]))


@dataclass(frozen=True, slots=True)
class Result:
    ready_s: float
    at_ready: Look
    at_end: Look
    peak: Look
    assets_at_ready: int
    assets_at_end: int
    most_jobs: int
    most_backfills: int
    steady_cpu: float
    steady_backfill: bool
    others_cpu: float
    scores: dict[str, int]


def look(launcher: int) -> Look:
    pss, cpu = {}, {}
    for pid in processes.descendants([launcher]):
        name = f"{pid} {Process(pid, 0).command}"
        pss[name] = processes.pss_bytes([pid])
        cpu[name] = _cpu_of(pid)
    fields = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return Look(time.monotonic(), pss, cpu, (sum(fields) - fields[3] - fields[4]) / TICKS)


def _cpu_of(pid: int) -> float:
    """Its own processor seconds, children it has waited for included (a job's, a shell's)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    fields = text[text.rindex(")") + 2 :].split()
    return sum(int(value) for value in fields[11:15]) / TICKS


class Watcher(threading.Thread):
    """Looks at the node until told to stop."""

    def __init__(self, launcher: int) -> None:
        super().__init__(daemon=True)
        self.looks: list[Look] = []
        self._launcher = launcher
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(EVERY_S):
            self.looks.append(look(self._launcher))

    def stop(self) -> None:
        self._end.set()
        self.join()


@contextmanager
def node(data_dir: Path, port: int, dashboard_port: int, *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", "from ray_app.cli import main; main()", "up", "--upstream", "sandbox"]
    command += ["--data-dir", str(data_dir), "--port", str(port), "--dashboard-port", str(dashboard_port), *options]
    foreign = ("RAY_", "COINGECKO_", "COINBASE_", "MYSQL_", "REDIS_", "DATABASE_", "DATA_", "API_KEY_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    process = subprocess.Popen(
        command, env=environment, cwd=data_dir.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()


def wait_ready(process: subprocess.Popen[str]) -> None:
    """Until the READY line; the rest of the output is read on, so that the node never waits for us."""
    assert process.stdout is not None
    watchdog = threading.Timer(START_S, process.terminate)
    watchdog.start()
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("READY "):
            watchdog.cancel()
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return
    raise SystemExit(f"the node did not become ready:\n{''.join(said)}")


def scored(data_dir: Path) -> dict[str, int]:
    """How many stored scores each text model gave."""
    with closing(sqlite3.connect(data_dir / "sandbox" / "node.db")) as database:
        return dict(database.execute("SELECT model, count(*) FROM text_scores GROUP BY model ORDER BY model"))


def priced(url: str, key: str) -> int:
    """Assets whose current price the API serves."""
    found, cursor = 0, None
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=20, trust_env=False) as http:
        while True:
            params = {"limit": 250} | ({"cursor": cursor} if cursor else {})
            body = http.get("/api/v1/prices/current", params=params).raise_for_status().json()
            found += sum(1 for row in body["data"] if row["current_price"] is not None)
            cursor = body["next_cursor"]
            if cursor is None:
                return found


def run(minutes: float) -> Result:
    with tempfile.TemporaryDirectory(prefix="footprint-") as directory, free_ports() as (port, dashboard_port):
        data_dir = Path(directory) / "data"
        started, url = time.monotonic(), f"http://127.0.0.1:{port}"
        with node(data_dir, port, dashboard_port) as process:
            watcher = Watcher(process.pid)
            watcher.start()
            wait_ready(process)
            ready_s = time.monotonic() - started
            at_ready = look(process.pid)
            key = json.loads((data_dir / "keys.json").read_text())["master"]
            assets_at_ready = priced(url, key)
            print(f"READY after {ready_s:.1f} s; watching for {minutes:g} minutes", file=sys.stderr)
            time.sleep(60 * minutes)
            watcher.stop()
            looks = [*watcher.looks, look(process.pid)]
            assets_at_end = priced(url, key)
            scores = scored(data_dir)
    before = max((one for one in looks if one.at <= looks[-1].at - STEADY_S), key=lambda one: one.at, default=looks[0])
    return Result(
        ready_s=ready_s,
        at_ready=at_ready,
        at_end=looks[-1],
        peak=max([at_ready, *looks], key=lambda one: one.total),
        assets_at_ready=assets_at_ready,
        assets_at_end=assets_at_end,
        most_jobs=max(one.running(r"^ray::JobSupervisor") for one in looks),
        most_backfills=max(one.running(r"^\S*python\S* \S*jobs/backfill\.py") for one in looks),
        steady_cpu=_rate(before, looks[-1]),
        steady_backfill=looks[-1].running(r"jobs/backfill\.py") > 0,
        scores=scores,
        others_cpu=(looks[-1].busy - looks[0].busy) / (looks[-1].at - looks[0].at) - _rate(looks[0], looks[-1]),
    )


def _rate(first: Look, last: Look) -> float:
    """Processor seconds per second of the processes that ran at both ends."""
    return sum(last.cpu[name] - first.cpu[name] for name in last.cpu.keys() & first.cpu.keys()) / (last.at - first.at)


@contextmanager
def free_ports() -> Iterator[tuple[int, int]]:
    """Two loopback ports that were free a moment ago."""
    with socket.socket() as one, socket.socket() as two:
        for server in (one, two):
            server.bind(("127.0.0.1", 0))
        numbers = one.getsockname()[1], two.getsockname()[1]
    yield numbers


def report(result: Result, memory_bar: float) -> list[str]:
    lines = [f"{'PSS, MiB':<52} {'READY':>7} {'peak':>7} {'end':>7}"]
    totals = [grouped((name.split(" ", 1)[1], size) for name, size in one.pss.items()) for one in _three(result)]
    lines += [
        f"{group:<52} " + " ".join(f"{total.get(group, 0) / MIB:7.0f}" for total in totals)
        for group in sorted(set().union(*totals), key=lambda name: -totals[1].get(name, 0))
    ]
    lines.append(f"{'all of it':<52} " + " ".join(f"{one.total / MIB:7.0f}" for one in _three(result)))
    lines += ["", f"{'the largest processes at the peak':<52} {'MiB':>7}"]
    largest = sorted(result.peak.pss.items(), key=lambda item: -item[1])[:12]
    lines += [f"{_short(name):<52} {size / MIB:7.0f}" for name, size in largest]
    lines += [
        "",
        f"processes at READY, peak, end    {', '.join(str(len(one.pss)) for one in _three(result))}",
        f"jobs at once                     {result.most_jobs} ({result.most_backfills} of them backfills)",
        f"processor, last minute           {result.steady_cpu:.2f} of {os.cpu_count()} CPUs"
        + (" (a backfill was running)" if result.steady_backfill else ""),
        f"scores of texts                  {', '.join(f'{n} {name}' for name, n in result.scores.items()) or 'none'}",
        f"processor, other programs        {max(result.others_cpu, 0):.2f} of {os.cpu_count()} CPUs all the while",
        "",
        _bar("READY", f"{result.ready_s:.1f} s", result.ready_s <= READY_BAR_S, f"{READY_BAR_S:g} s"),
        _bar(
            "memory",
            f"{result.peak.total / 1024**3:.2f} GiB",
            result.peak.total < memory_bar,
            f"{memory_bar / 1024**3:g} GiB",
        ),
        _bar(
            "assets priced",
            f"{result.assets_at_ready} at READY, {result.assets_at_end} at the end",
            result.assets_at_end >= ASSETS_BAR,
            str(ASSETS_BAR),
        ),
    ]
    return lines


def _three(result: Result) -> tuple[Look, Look, Look]:
    return result.at_ready, result.peak, result.at_end


def _short(name: str) -> str:
    words = name.split(" ", 1)[1].split()
    return " ".join([Path(words[0]).name, *words[1:]])[:52] if words else name


def _bar(name: str, value: str, held: bool, bar: str) -> str:
    return f"{name:<16} {value:<34} {'holds' if held else 'DOES NOT HOLD'} (bar: {bar})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long to watch after READY")
    parser.add_argument("--models", type=Path, help="where the folders finbert-mini and cryptobert-mini are")
    parser.add_argument("--json", type=Path, help="write every number there as well")
    options = parser.parse_args()
    if options.models is not None:
        folder = options.models.resolve(strict=True)
        os.environ |= {f"{name.upper()}_MODEL": str(folder / f"{name}-mini") for name in ("finbert", "cryptobert")}
        os.environ["SCORING_INTERVAL"] = "180"
    result = run(options.minutes)
    print("\n".join(report(result, MEMORY_BAR if options.models is None else MODELS_MEMORY_BAR)))
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(result), indent=1) + "\n")


if __name__ == "__main__":
    main()

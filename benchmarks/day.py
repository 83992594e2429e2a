"""A simulated day with every collector on: what is complete at its end, and what it takes.

    python benchmarks/day.py [--hours 24] [--time-scale 60] [--json FILE] [--keep DIR]

Starts ``crypto-data up --upstream sandbox`` on a data directory that does not exist yet, lets it live through the hours
of node time and a minute more, and prints of each collector what ``/api/v1/stats/collectors`` would say of the moment
at which the hours were over: slots expected, received, settled (empty at the venue, or beyond repair) and missing in
the 24 hours before it; what the gap ledger holds for beyond repair; the highest PSS of the whole node; and what
``crypto-data verify`` says of all that was stored. The minute is for what was just due then. The bars: nothing missing,
nothing beyond repair, never 3.5 GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from footprint import MEMORY_BAR, Watcher, free_ports, node, wait_ready

from ray_app.clock import open_clock
from ray_app.collection.collectors import COLLECTORS
from ray_app.collection.reports import collector_report
from ray_app.storage import registry
from ray_app.storage.engine import Database

#: wall seconds in which the slots that were due at the end may be answered before they count as missing
GRACE_S = 60.0
DATASETS_OF = {name: kind.datasets for name, kind in COLLECTORS.items()}


def asked(url: str, key: str, path: str, **params: Any) -> list[dict[str, Any]]:
    """``data`` of the answer."""
    headers = {"Authorization": f"Bearer {key}"}
    answer = httpx.get(url + path, headers=headers, params=params, timeout=60, trust_env=False)
    found: list[dict[str, Any]] = answer.raise_for_status().json()["data"]
    return found


def collectors(url: str, key: str) -> list[dict[str, Any]]:
    return asked(url, key, "/api/v1/stats/collectors")


def missing(rows: list[dict[str, Any]]) -> int:
    return sum(row["missing"] for row in rows if row["state"] == "active")


def completeness(state_dir: Path, now: int) -> dict[str, dict[str, Any]]:
    """The report of each collector as of ``now`` (ms of node time), from what is stored; the node may have ended."""
    db = Database(f"sqlite:///{state_dir}/node.db")
    try:
        with db.read() as conn:
            found = collector_report(conn, registry.load(conn), DATASETS_OF, now)
    finally:
        db.dispose()
    return {row["collector"]: row for row in found}


def run(hours: float, scale: float, keep: Path | None = None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="day-") as directory, free_ports() as (port, dashboard_port):
        data_dir, url = Path(directory) / "data", f"http://127.0.0.1:{port}"
        with node(data_dir, port, dashboard_port, "--time-scale", str(scale)) as process:
            watcher = Watcher(process.pid)
            watcher.start()
            started = time.monotonic()
            wait_ready(process)
            ready_s = time.monotonic() - started
            print(f"READY after {ready_s:.1f} s; {hours:g} hours at scale {scale:g}", file=sys.stderr)
            time.sleep(hours * 3_600 / scale)
            over = open_clock(data_dir / "sandbox" / "epoch.json").now_ms()
            time.sleep(GRACE_S)
            key = json.loads((data_dir / "keys.json").read_text())["master"]
            rows = collectors(url, key)
            lost = asked(url, key, "/api/v1/stats/gaps", state="unrepairable", limit=250)
            watcher.stop()
        seen = completeness(data_dir / "sandbox", over)
        rows = [row | {name: seen[row["collector"]][name] for name in _COLUMNS} for row in rows]
        proof = subprocess.run(
            [sys.executable, "-c", "from ray_app.cli import main; main()", "verify"],
            env={**os.environ, "DATA_DIR": str(data_dir), "DATA_ORIGIN": "sandbox"},
            capture_output=True,
            text=True,
            check=False,
        )
        if keep is not None:
            shutil.copytree(data_dir, keep, ignore=shutil.ignore_patterns("*.sock"))
    peak = max(watcher.looks, key=lambda one: one.total)
    return {
        "ready_s": ready_s,
        "collectors": rows,
        "beyond_repair": lost,
        "peak_bytes": peak.total,
        "processes": len(peak.pss),
        "verify": proof.returncode,
        "verify_said": (proof.stdout + proof.stderr).strip().splitlines()[-6:],
    }


def report(result: dict[str, Any]) -> list[str]:
    lines = [f"{'slots of the last 24 h':<20} {'expected':>9} {'received':>9} {'settled':>8} {'missing':>8}"]
    for row in result["collectors"]:
        counts = " ".join(f"{row[name]:>{width}}" for name, width in _COLUMNS.items())
        lines.append(f"{row['collector']:<20} {counts}" + ("" if row["state"] == "active" else f"  {row['state']}"))
        if row["last_error"]:
            lines.append(f"  last error: {row['last_error'][:160]}")
    gib = f"{result['peak_bytes'] / 1024**3:.2f}"
    held = "holds" if result["peak_bytes"] < MEMORY_BAR else "DOES NOT HOLD"
    complete = "holds" if not missing(result["collectors"]) else "DOES NOT HOLD"
    lost = result["beyond_repair"]
    return [
        *lines,
        "",
        f"nothing missing      {complete}",
        f"nothing beyond repair {'holds' if not lost else f'DOES NOT HOLD: {len(lost)} ranges'}",
        *(f"  {one['dataset']} {one['symbol']} {one['start']}..{one['end']}: {one['reason']}" for one in lost[:40]),
        f"memory at the peak   {gib} GiB in {result['processes']} processes {held} (bar: {MEMORY_BAR / 1024**3:g})",
        f"verify               {'nothing differs' if result['verify'] == 0 else 'DIFFERENCES'}",
        *(f"  {line}" for line in result["verify_said"]),
    ]


_COLUMNS = {"expected": 9, "received": 9, "settled": 8, "missing": 8}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=24.0, help="node time to live through after READY")
    parser.add_argument("--time-scale", type=float, default=60.0)
    parser.add_argument("--json", type=Path, help="write every number there as well")
    parser.add_argument("--keep", type=Path, help="copy the node's data directory there, to look into what is missing")
    options = parser.parse_args()
    result = run(options.hours, options.time_scale, options.keep)
    print("\n".join(report(result)))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

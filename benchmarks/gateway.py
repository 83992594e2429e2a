"""GET /api/v1/prices/current/BTC under 16 and 256 keep-alive connections, against its peers in one run.

    python benchmarks/gateway.py [--rounds 5] [--seconds 5] [--json FILE]

It prints a table and a verdict for each bar; exit status 1 if one is missed.

Peers, each answering the same bytes, on the same machine at the same time:

* ``uvicorn``   a FastAPI route on bare uvicorn (uvloop, httptools): the ceiling of one Python process
* ``null``      the same route as a Ray Serve application behind the same HAProxy
* ``gateway``   ours there: keys, limits, entity tags, the price board, a real SQLite
* ``proxy``     ours behind Ray Serve's default proxy

Rounds are interleaved and the medians shown, so that whatever else runs on the machine hits all alike; a ratio is the
median of the rounds' ratios. wrk does not see a request that is still unanswered when a run ends, so a run must be a
good deal longer than the second that no request may take. Needs ``wrk`` (apt-get install wrk). Starts two Ray heads
with the environment of ``crypto-data up``, on ports of their own, and ends everything it started.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ray_app.assets import AssetRegistry  # noqa: E402
from ray_app.clock import WallClock  # noqa: E402
from ray_app.node import processes  # noqa: E402
from ray_app.node.dashboard import Dashboard  # noqa: E402
from ray_app.node.head import Head  # noqa: E402
from ray_app.node.ports import choose_ports  # noqa: E402
from ray_app.storage import registry  # noqa: E402
from ray_app.storage.engine import Database  # noqa: E402
from ray_app.storage.migrate import upgrade  # noqa: E402
from ray_app.storage.tables import price_data_real  # noqa: E402
from ray_app.storage.upsert import guarded_upsert  # noqa: E402

PATH = "/api/v1/prices/current/BTC"
CONNECTIONS = (16, 256)
PEERS = ("uvicorn", "null", "gateway", "proxy")
#: at every number of connections, the gateway makes at least so many times the requests of
BARS = {"null": 0.8, "proxy": 4.0}
#: and none of its requests takes longer
SLOWEST_MS = 1_000.0
START_S = 90.0

#: prints what wrk knows as one JSON line. Its histogram is corrected for coordinated omission.
LUA = """
done = function(summary, latency, requests)
  local slow = 0
  for i = 1, #latency do
    local value, count = latency(i)
    if value > 1000000 then slow = slow + count end
  end
  local e = summary.errors
  io.write(string.format(
    'JSON {"requests":%d,"seconds":%f,"p50_ms":%f,"p99_ms":%f,"max_ms":%f,"over_1s":%d,"errors":%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    latency.max / 1e3, slow, e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class Round:
    """One run of wrk against one peer."""

    peer: str
    connections: int
    rps: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    over_1s: int
    errors: int


# --- the peers -----------------------------------------------------------------------------------------------


def prepare(directory: Path) -> dict[str, str]:
    """A database with prices of every asset, and the environment that serves it; the body all peers answer."""
    key = f"benchmark-{secrets.token_hex(24)}"
    environment = {
        "DATA_DIR": str(directory),
        "API_KEY_READONLY": key,
        "RATE_LIMIT_REQUESTS": "1000000000",
        "ACCESS_LOG": "0",
        "BENCHMARK_BODY": str(directory / "body.json"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")]),
    }
    db = Database(f"sqlite:///{directory / 'live' / 'node.db'}")
    upgrade(db)
    now_ms = WallClock().now_ms()
    slot = now_ms // 300_000 * 300_000
    assets = AssetRegistry.seed()
    db.run(lambda conn: registry.save(conn, assets, now_ms))
    rows = [_price(asset.asset_id, slot, now_ms) for asset in assets]
    db.run(lambda conn: guarded_upsert(conn, price_data_real, rows))
    db.dispose()
    return environment


def _price(asset_id: int, slot: int, now_ms: int) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(str(column.name) for column in price_data_real.c)
    return row | {
        "asset_id": asset_id,
        "slot": slot,
        "source": "coingecko.markets",
        "interval_s": 300,
        "event_time": now_ms - 3_000,
        "known_at": now_ms,
        "current_price": 91_234.56,
        "price_change_24h": -512.25,
        "price_change_percentage_24h": -0.55839,
        "market_cap": 1_820_333_444_555.0,
        "market_cap_rank": asset_id,
        "volume_usd_24h": 35_111_222_333.0,
        "high_24h": 92_011.0,
        "low_24h": 90_321.0,
        "open_24h": 91_746.81,
        "event_version": now_ms - 3_000,
        "fetched_at": now_ms,
        "parser_version": 1,
        "payload_hash": "0" * 64,
    }


@contextmanager
def started(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own for the block; it and its descendants are gone afterwards."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        yield process
    finally:
        family = {one for pid in processes.descendants([process.pid]) if (one := processes.Process.of(pid)) is not None}
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        processes.end(family, 5)


@contextmanager
def ray_head(
    directory: Path, environment: Mapping[str, str], applications: list[dict[str, Any]], *, haproxy: bool
) -> Iterator[str]:
    """A Ray head with Serve as `crypto-data up` starts it; yields the base URL once the applications run."""
    api, dashboard_port = _free_ports(2)
    head = Head(directory, choose_ports(directory, "127.0.0.1", api, dashboard_port))
    token = head.prepare()
    if haproxy:
        _limit_the_null_handler_too(head.run_dir / "haproxy")
    full = head.environment(os.environ) | dict(environment)
    if not haproxy:
        full["RAY_SERVE_ENABLE_HA_PROXY"] = "0"
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, head.private_dir, ignore_errors=True)
        stack.enter_context(started(head.command(), full, directory / "ray.log"))
        dashboard = Dashboard(head.dashboard_url, token)
        try:
            _until(dashboard.answers, "the Ray dashboard", directory / "ray.log")
            dashboard.deploy(
                {
                    "proxy_location": "EveryNode",
                    "http_options": {"host": "127.0.0.1", "port": api, "request_timeout_s": None},
                    "grpc_options": {"port": head.ports.serve_grpc, "grpc_servicer_functions": []},
                    "logging_config": {"enable_access_log": False},
                    "applications": applications,
                }
            )
            names = {application["name"] for application in applications}

            def running() -> bool:
                states = {name: app.status for name, app in dashboard.applications().items()}
                return all(states.get(name) == "RUNNING" for name in names)

            _until(running, "the applications", directory / "ray.log")
            yield f"http://127.0.0.1:{api}"
            dashboard.shut_down_serve(30)
        finally:
            dashboard.close()


def _limit_the_null_handler_too(script: Path) -> None:
    """The node's wrapper limits connections to the gateway's replicas; its peer must have the same mode."""
    binary = re.search(r"(\S+) \"\$@\"", script.read_text())
    assert binary is not None
    program = (
        "import re, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from ray_app.node import haproxy\n"
        "haproxy.LIMITED_BACKEND = re.compile(r'(?:http-)?(?:gateway|null)')\n"
        f"haproxy.become_haproxy({binary.group(1)!r}, sys.argv[1:])\n"
    )
    code = script.with_name("haproxy_wrapper.py")
    code.write_text(program)
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -I {code} "$@"\n')


def _application(name: str, route: str) -> dict[str, Any]:
    deployment = {
        "name": name.capitalize(),
        "num_replicas": 1,
        "max_ongoing_requests": 512,
        "ray_actor_options": {"num_cpus": 0},
    }
    return {
        "name": name,
        "route_prefix": route,
        "import_path": f"gateway_apps:{name}",
        "deployments": [deployment],
    }


def _free_ports(count: int) -> list[int]:
    import socket

    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _until(condition: Any, what: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            if condition():
                return
        except httpx.HTTPError:
            pass
        if time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-3_000:] if log.exists() else ""
            raise SystemExit(f"{what} did not come up within {START_S:g} s:\n{tail}")
        time.sleep(0.25)


# --- measuring -----------------------------------------------------------------------------------------------


def measure(wrk: str, script: Path, peer: str, url: str, key: str, connections: int, seconds: float) -> Round:
    """One run of wrk."""
    done = subprocess.run(
        [
            *(wrk, "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "20s"),
            *("-s", str(script), "-H", f"Authorization: Bearer {key}", url),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(next(line[5:] for line in done.stdout.splitlines() if line.startswith("JSON ")))
    return Round(
        peer,
        connections,
        found["requests"] / found["seconds"],
        *(found[name] for name in ("p50_ms", "p99_ms", "max_ms", "over_1s", "errors")),
    )


def check_same_bytes(urls: Mapping[str, str], key: str) -> None:
    """Every peer must answer the same body, or the numbers compare nothing."""
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(headers=headers, trust_env=False) as client:
        bodies = {peer: client.get(url) for peer, url in urls.items()}
    for peer, answer in bodies.items():
        assert answer.status_code == 200, f"{peer}: {answer.status_code} {answer.text}"
        assert answer.content == bodies["gateway"].content, f"{peer} answers other bytes"


def ratio(rounds: list[Round], peer: str, other: str, connections: int) -> float:
    """How many times the requests of ``other`` ``peer`` makes: the median over the rounds."""
    mine, others = ([r.rps for r in rounds if (r.peer, r.connections) == (name, connections)] for name in (peer, other))
    return statistics.median(a / b for a, b in zip(mine, others, strict=True))


def table(rounds: list[Round]) -> str:
    """Medians over the rounds; of max the worst, of the counts the sum."""
    lines = [
        (
            f"{'connections':>11}  {'peer':<8} {'req/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>9} {'>1 s':>5} "
            f"{'errors':>6}  {'/uvicorn':>8} {'/null':>6} {'/proxy':>6}"
        )
    ]
    for connections in CONNECTIONS:
        for peer in PEERS:
            mine = [r for r in rounds if (r.peer, r.connections) == (peer, connections)]
            rps, p50, p99 = (statistics.median(getattr(r, name) for r in mine) for name in ("rps", "p50_ms", "p99_ms"))
            slow, errors = (sum(getattr(r, name) for r in mine) for name in ("over_1s", "errors"))
            against = [ratio(rounds, peer, other, connections) for other in ("uvicorn", "null", "proxy")]
            lines.append(
                f"{connections:>11}  {peer:<8} {rps:>8.0f} {p50:>8.2f} {p99:>8.2f} {max(r.max_ms for r in mine):>9.2f} "
                f"{slow:>5} {errors:>6}  {against[0]:>8.2f} {against[1]:>6.2f} {against[2]:>6.2f}"
            )
    return "\n".join(lines)


def verdicts(rounds: list[Round]) -> list[tuple[bool, str]]:
    """Each bar: whether it is met, and in words."""
    found = []
    for connections in CONNECTIONS:
        for other, bar in BARS.items():
            value = ratio(rounds, "gateway", other, connections)
            what = f"{connections} connections: {value:.2f} times the requests of {other} (bar: {bar:g})"
            found.append((value >= bar, what))
    mine = [r for r in rounds if r.peer == "gateway"]
    slowest = max(r.max_ms for r in mine if r.connections == max(CONNECTIONS))
    what = f"{max(CONNECTIONS)} connections: the slowest request took {slowest:.0f} ms (bar: {SLOWEST_MS:g})"
    found.append((slowest <= SLOWEST_MS, what))
    errors = sum(r.errors for r in mine)
    found.append((errors == 0, f"{errors} requests failed (bar: 0)"))
    return found


def run(rounds: int, seconds: float) -> list[Round]:
    """Start everything, measure, end everything."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise SystemExit("wrk is not installed: apt-get install wrk")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gw-")))
        environment = prepare(directory)
        key = environment["API_KEY_READONLY"]
        script = directory / "report.lua"
        script.write_text(LUA)
        both = [_application("gateway", "/"), _application("null", "/null")]
        body = Path(environment["BENCHMARK_BODY"])
        body.write_bytes(_body(environment))
        print("starting Ray Serve behind HAProxy", file=sys.stderr)
        fast = stack.enter_context(ray_head(directory / "a", environment, both, haproxy=True))
        print("starting Ray Serve with its default proxy", file=sys.stderr)
        slow = stack.enter_context(ray_head(directory / "b", environment, both[:1], haproxy=False))
        (port,) = _free_ports(1)
        command = [sys.executable, "-m", "uvicorn", "--factory", "gateway_apps:null_app", "--port", str(port)]
        options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
        log = directory / "uvicorn.log"
        stack.enter_context(started([*command, *options], os.environ | environment, log))
        urls = {
            "uvicorn": f"http://127.0.0.1:{port}{PATH}",
            "null": f"{fast}/null{PATH}",
            "gateway": f"{fast}{PATH}",
            "proxy": f"{slow}{PATH}",
        }
        _until(lambda: httpx.get(urls["uvicorn"], trust_env=False).status_code == 200, "uvicorn", log)
        check_same_bytes(urls, key)
        for peer, url in urls.items():  # warm up
            measure(wrk, script, peer, url, key, CONNECTIONS[0], 1)
        found = []
        for number in range(rounds):
            for connections in CONNECTIONS:
                for peer, url in urls.items():
                    found.append(measure(wrk, script, peer, url, key, connections, seconds))
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
        return found


def _body(environment: Mapping[str, str]) -> bytes:
    """What the gateway answers, from a process that serves nothing."""
    program = (
        "import sys; from ray_app.serving.deps import open_gateway; from ray_app.settings import load_settings;"
        "deps = open_gateway(load_settings()); sys.stdout.buffer.write(deps.board.view('BTC').entry().body)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | environment, capture_output=True, check=True
    )
    return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="per peer, connections and round")
    parser.add_argument("--json", type=Path, help="write every round there as well")
    options = parser.parse_args()
    rounds = run(options.rounds, options.seconds)
    print(table(rounds))
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(one) for one in rounds], indent=2) + "\n")
    judged = verdicts(rounds)
    for met, what in judged:
        print(f"{'met   ' if met else 'MISSED'}  {what}")
    return 0 if all(met for met, _ in judged) else 1


if __name__ == "__main__":
    sys.exit(main())

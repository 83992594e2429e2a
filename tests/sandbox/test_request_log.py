"""The request log tells the truth, and the audit counts it right."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_app.assets import AssetRegistry
from ray_app.clock import ManualClock
from ray_app.errors import ConfigError
from ray_app.sandbox.app import SandboxConfig, create_app
from ray_app.sandbox.request_log import Logged, RequestLog, audit, peak, read_log
from ray_app.sandbox.server import running
from tests.sandbox.conftest import COINBASE, COINBASE_V2, COINGECKO, NOW, Sandbox, epoch

Make = Callable[..., Sandbox]


def entry(at: int, source: str = "coinbase", status: int = 200, fault: str | None = None) -> Logged:
    return Logged(at, at, source, "candles", "/x", {}, status, fault, 10, 0.1)


async def test_each_request_is_one_line_with_what_happened(sandbox: Make, tmp_path: Path) -> None:
    log = tmp_path / "deep" / "log.jsonl"
    world = sandbox(request_log=log)
    await world.get(f"{COINGECKO}/ping")
    world.clock.advance(5)
    candles = await world.get(f"{COINBASE}/products/BTC-USD/candles", granularity=3600)
    await world.get(f"{COINBASE}/products/NO-USD/candles")
    await world.get(f"{COINBASE_V2}/nothing")
    await world.get("/sandbox/state")  # no upstream's: not in the log
    ping, first, missing, unknown = read_log(log)
    assert (ping.at, ping.source, ping.endpoint, ping.path, ping.status, ping.bytes) == (
        NOW, "coingecko", "ping", "/ping", 200, 34,
    )  # fmt: skip
    assert (first.at, first.endpoint, first.params, first.fault) == (
        NOW + 5_000,
        "candles",
        {"granularity": "3600"},
        None,
    )
    assert first.path == "/products/BTC-USD/candles"
    assert first.bytes == int(candles.headers["content-length"])
    assert (missing.status, missing.endpoint) == (404, "candles")
    assert (unknown.status, unknown.endpoint, unknown.source) == (404, "unknown", "coinbase-v2")
    assert set(json.loads(log.read_bytes().splitlines()[0])) == {
        "at", "wall", "source", "endpoint", "path", "params", "status", "fault", "bytes", "ms",
            "caller",
    }  # fmt: skip


async def test_keys_in_parameters_are_masked(sandbox: Make, tmp_path: Path) -> None:
    world = sandbox(request_log=tmp_path / "log.jsonl")
    names = ("x_cg_demo_api_key", "X_CG_PRO_API_KEY", "api-key", "apikey", "key", "auth_token", "token")
    await world.get(f"{COINGECKO}/ping", page="1", **dict.fromkeys(names, "CG-very-secret"))
    assert b"very-secret" not in (tmp_path / "log.jsonl").read_bytes()
    assert read_log(tmp_path / "log.jsonl")[0].params == {"page": "1"} | dict.fromkeys(names, "***")


@pytest.mark.integration
def test_concurrent_requests_are_each_logged_once_before_they_are_answered(
    registry: AssetRegistry, tmp_path: Path
) -> None:
    log = tmp_path / "log.jsonl"
    app = create_app(SandboxConfig(epoch(), 7, request_log=log, registry=registry, clock=ManualClock(NOW)))
    with running(app) as url, httpx.Client(base_url=url) as client, ThreadPoolExecutor(8) as pool:
        paths = [f"{COINBASE}/products/S{6 + n % 30}-USD/candles?granularity=300&mark={n}" for n in range(200)]
        answers = list(pool.map(client.get, paths))
        entries = read_log(log)  # while the server still runs
    assert sorted(int(e.params["mark"]) for e in entries) == list(range(200))
    sent = {int(e.params["mark"]): (e.status, e.bytes) for e in entries}
    for mark, answer in enumerate(answers):
        assert sent[mark] == (answer.status_code, int(answer.headers["content-length"]))


async def test_bodies_travel_compressed_where_the_client_can(sandbox: Make, tmp_path: Path) -> None:
    world = sandbox(request_log=tmp_path / "log.jsonl")
    url = f"{COINBASE}/products/BTC-USD/candles"
    packed = await world.get(url, granularity=300)
    plain = await world.get(url, headers={"accept-encoding": "identity"}, granularity=300)
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.json() == plain.json()
    small, large = (e.bytes for e in read_log(tmp_path / "log.jsonl"))
    assert small < large == len(plain.content)
    assert len(gzip.compress(plain.content)) < large


async def test_date_and_state_are_in_node_time(sandbox: Make) -> None:
    world = sandbox()
    assert (await world.get(f"{COINGECKO}/ping")).headers["date"] == "Tue, 24 Nov 2026 08:37:25 GMT"
    world.clock.advance(3_600)
    state = (await world.get("/sandbox/state")).json()
    assert state["now"] == NOW + 3_600_000
    assert state["now_iso"] == "2026-11-24T09:37:25.500Z"
    assert (state["market"], state["seed"], state["time_shift_ms"], state["requests"]) == ("generated", 7, 0, 1)
    assert state["symbols"][:2] == ["BTC", "ETH"]
    assert state["epoch"]["first_node_ms"] == NOW


async def test_state_of_a_replay_tells_its_shift(sandbox: Make, replay_file: Path) -> None:
    state = (await sandbox(replay=replay_file).get("/sandbox/state")).json()
    assert (state["market"], state["replay"], state["seed"]) == ("replay", str(replay_file), None)
    assert state["time_shift_ms"] % (7 * 86_400_000) == 0
    assert state["symbols"] == ["BTC", "ETH", "EUR"]


async def test_other_paths_and_methods_are_refused(sandbox: Make) -> None:
    world = sandbox()
    assert (await world.get("/elsewhere")).status_code == 404
    transport = httpx.ASGITransport(world.app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://sandbox") as client:
        assert (await client.post(f"{COINGECKO}/ping")).status_code == 405
        head = await client.head(f"{COINGECKO}/ping")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "34")


@given(st.lists(st.integers(0, 5_000), max_size=60), st.integers(1, 2_000))
def test_the_peak_is_that_of_the_busiest_window(times: list[int], window: int) -> None:
    naive = max((sum(start <= t < start + window for t in times) for start in times), default=0)
    assert peak(times, window) == naive


def test_the_audit_counts_per_source() -> None:
    entries = [entry(1_000), entry(1_999), entry(2_000, status=429, fault="rate_limit"), entry(70_000)]
    entries += [entry(1_500, "coingecko")]
    coinbase, coingecko = audit(entries)
    assert (coinbase.source, coinbase.requests, coinbase.peak_1s, coinbase.peak_60s) == ("coinbase", 4, 2, 3)
    assert coinbase.by_status == {200: 3, 429: 1}
    assert coinbase.by_fault == {"rate_limit": 1}
    assert coinbase.by_endpoint == {"candles": 4}
    assert (coingecko.source, coingecko.requests) == ("coingecko", 1)


def test_a_torn_last_line_is_left_out_and_a_broken_one_is_named(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_bytes(entry(1).line() + entry(2).line() + entry(3).line()[:20])
    assert [e.at for e in read_log(log)] == [1, 2]
    log.write_bytes(entry(1).line() + b"oops\n")
    with pytest.raises(ConfigError, match="line 2: not a line of a request log"):
        read_log(log)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_log(tmp_path / "absent.jsonl")


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        RequestLog(tmp_path)

"""``crypto-data sandbox`` as a user runs it: a process of its own."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import polars as pl
import pytest
from click.testing import CliRunner

from ray_app.cli.sandbox import command
from ray_app.clock import DAY_MS, HOUR_MS, Epoch, iso
from ray_app.errors import ConfigError, UnknownSymbol
from ray_app.sandbox.replay import ReplayFile, replay_shift
from tests.sandbox.conftest import COINBASE, COINGECKO, NOW

CLI = [sys.executable, "-c", "from ray_app.cli import main; main()", "sandbox"]


@contextmanager
def started(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A sandbox process and its URL."""
    process = subprocess.Popen(
        [*CLI, "--port", "0", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("SANDBOX READY http://127.0.0.1:"), line + process.stderr.read()
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()
        process.stderr.close()


def shift_of(replay_file: Path) -> int:
    file = ReplayFile(replay_file)
    return replay_shift(file.start_ms, file.end_ms, NOW)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: str) -> str:
    """What the command says when it will not."""
    with pytest.raises((ConfigError, UnknownSymbol)) as caught:
        CliRunner().invoke(command, arguments, catch_exceptions=False)
    return str(caught.value)


@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_starts_answers_and_ends_at_once_even_while_a_fault_holds_an_answer(tmp_path: Path, number: int) -> None:
    faults = tmp_path / "faults.yaml"
    faults.write_text("faults:\n- {endpoint: markets, kind: timeout}\n")
    log = tmp_path / "log.jsonl"
    with started("--faults", str(faults), "--request-log", str(log)) as (process, url):
        with httpx.Client(base_url=url) as client:  # an idle keep-alive connection stays open, too
            assert client.get(f"{COINGECKO}/ping").json() == {"gecko_says": "(V3) To the Moon!"}
            held = threading.Thread(target=_ask_in_vain, args=(f"{url}{COINGECKO}/coins/markets",))
            held.start()
            while client.get("/sandbox/state").json()["requests"] < 2:
                time.sleep(0.02)
            process.send_signal(number)
            _, errors = process.communicate(timeout=10)
            held.join(10)
        assert process.returncode == 0
        assert errors == ""
    # The answer that never came is in the log as well.
    assert [json.loads(line)["status"] for line in log.read_text().splitlines()] == [200, 0]


def _ask_in_vain(url: str) -> None:
    try:
        httpx.get(url, timeout=20)
    except httpx.TransportError:
        return
    raise AssertionError("the held answer came")


@pytest.mark.integration
def test_restarts_share_the_epoch_and_the_market(tmp_path: Path) -> None:
    epoch_file = tmp_path / "state" / "epoch.json"
    options = ("--seed", "3", "--epoch-file", str(epoch_file), "--time-scale", "60")
    query = {"granularity": 3600, "start": iso(NOW - 5 * DAY_MS), "end": iso(NOW - DAY_MS)}
    answers, states = [], []
    for _ in range(2):
        with started(*options) as (_, url):
            answers.append(httpx.get(f"{url}{COINBASE}/products/ETH-USD/candles", params=query).json())
            states.append(httpx.get(f"{url}/sandbox/state").json())
    assert len(answers[0]) == 96
    assert answers[0] == answers[1]
    assert states[0]["epoch"] == states[1]["epoch"]
    assert states[0]["epoch"]["scale"] == 60
    assert states[1]["now"] > states[0]["now"]


@pytest.mark.integration
def test_a_new_scale_goes_on_from_the_time_reached(tmp_path: Path) -> None:
    epoch_file = tmp_path / "epoch.json"
    wall = time.time_ns() // 1_000_000
    Epoch(wall - 60_000, NOW, 60.0, NOW).save(epoch_file)  # an hour of node time has passed
    with started("--epoch-file", str(epoch_file), "--time-scale", "1") as (_, url):
        state = httpx.get(f"{url}/sandbox/state").json()
    assert NOW + HOUR_MS <= state["now"] < NOW + 2 * HOUR_MS
    assert (state["epoch"]["first_node_ms"], state["epoch"]["scale"]) == (NOW, 1.0)


@pytest.mark.integration
def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run([*CLI, "--port", str(port)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"crypto-data: cannot listen on 127.0.0.1:{port}")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "example.com", "::"])
def test_it_listens_on_loopback_only(host: str) -> None:
    assert "loopback only" in refused("--host", host)


def test_wrong_files_and_scales_are_refused_at_start(tmp_path: Path) -> None:
    assert "no such file" in refused("--replay", str(tmp_path / "absent.parquet"))
    (tmp_path / "faults.yaml").write_text("faults: [{kind: nonsense}]")
    assert "fault 1: kind 'nonsense'" in refused("--faults", str(tmp_path / "faults.yaml"))
    assert "--time-scale 0" in refused("--time-scale", "0")


def test_help_shows_examples() -> None:
    text = run("--help")
    for word in ("--replay", "crypto-data sandbox --seed 7", "/coingecko/api/v3", "sandbox audit", "sandbox truth"):
        assert word in text
    assert "--epoch-file data/sandbox/epoch.json" in run("truth", "--help")


def truth(*options: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(run("truth", *options))))


@pytest.mark.integration
def test_truth_of_a_seed_is_what_the_server_says() -> None:
    start, end = NOW // HOUR_MS * HOUR_MS - 20 * HOUR_MS, NOW // HOUR_MS * HOUR_MS
    with started("--seed", "9") as (_, url):
        query = {"granularity": 3600, "start": iso(start), "end": iso(end - HOUR_MS)}
        served = httpx.get(f"{url}{COINBASE}/products/SOL-USD/candles", params=query).json()[::-1]
    rows = truth("--seed", "9", "--symbol", "sol", "--from", iso(start), "--to", iso(end))
    assert [int(row["open_time_ms"]) // 1_000 for row in rows] == [row[0] for row in served]
    for row, (_, low, high, opened, close, volume) in zip(rows, served, strict=True):
        numbers = [float(row[name]) for name in ("low", "high", "open", "close", "volume")]
        assert numbers == [low, high, opened, close, volume]
    assert rows[0]["open_time"] == iso(start)


def test_truth_of_a_replay_is_the_file_shifted(replay_file: Path, tmp_path: Path) -> None:
    epoch_file = tmp_path / "epoch.json"
    Epoch.begin(NOW, 60.0).save(epoch_file)
    options = (
        "--replay",
        str(replay_file),
        "--epoch-file",
        str(epoch_file),
        "--from",
        "2026-07-01",
        "--to",
        "2027-03-01",
    )
    rows = truth(*options, "--symbol", "*")
    frame = pl.read_parquet(replay_file).with_columns(pl.col("timestamp").dt.epoch("ms"))
    shift = shift_of(replay_file)
    names = ("open", "high", "low", "close", "volume")
    got = sorted((row["symbol"], int(row["open_time_ms"]), *(float(row[n]) for n in names)) for row in rows)
    wanted = frame.with_columns(pl.col("timestamp") + shift).select("symbol", "timestamp", *names).rows()
    assert got == sorted(wanted)


def test_truth_of_prices(replay_file: Path, tmp_path: Path) -> None:
    epoch_file = tmp_path / "epoch.json"
    Epoch.begin(NOW, 60.0).save(epoch_file)
    options = (
        "--kind",
        "prices",
        "--interval",
        "3600",
        "--symbol",
        "BTC",
        "--from",
        iso(NOW),
        "--to",
        iso(NOW + DAY_MS),
    )
    rows = truth(*options, "--replay", str(replay_file), "--epoch-file", str(epoch_file))
    assert len(rows) == 24
    frame = (
        pl.read_parquet(replay_file).filter(pl.col("symbol") == "BTC").with_columns(pl.col("timestamp").dt.epoch("ms"))
    )
    opens = dict(frame.select("timestamp", "open").rows())
    shift = shift_of(replay_file)
    for row in rows:
        at = int(row["at_ms"])
        assert float(row["price"]) == opens[at - shift]  # the first trade of the hour that begins
        assert int(row["traded_at_ms"]) == at


def test_truth_takes_times_in_every_form_other_commands_take() -> None:
    said = {
        CliRunner().invoke(command, ["truth", "--symbol", "BTC", "--from", start, "--to", end]).output
        for start, end in (
            ("2026-11-23T00:00:00Z", "2026-11-23 02:00"),
            ("1795392000", "1795399200"),
            ("1795392000000", "1795399200000"),
        )
    }
    assert len(said) == 1
    assert said.pop().count("\n") == 3


def test_truth_refuses_what_it_cannot_know(replay_file: Path, tmp_path: Path) -> None:
    window = ("--from", "2026-11-01", "--to", "2026-11-02")
    assert "give --epoch-file" in refused("truth", *window, "--replay", str(replay_file))
    assert "no epoch record" in refused("truth", *window, "--epoch-file", str(tmp_path / "absent.json"))
    assert "NOSUCH" in refused("truth", *window, "--symbol", "NOSUCH")
    assert "interval 61 s is none of" in refused("truth", *window, "--interval", "61")
    assert CliRunner().invoke(command, ["truth", "--from", "soon", "--to", "2026-11-02"]).exit_code == 2


def test_audit_prints_peaks_and_totals(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    line = {
        "wall": 0,
        "source": "coinbase",
        "endpoint": "candles",
        "path": "/",
        "params": {},
        "status": 200,
        "fault": None,
    }
    log.write_text(
        "".join(json.dumps({**line, "at": at, "bytes": 1, "ms": 0.1}) + "\n" for at in (0, 500, 1_000, 61_000))
    )
    assert run("audit", str(log)) == (
        "coinbase: 4 requests, at most 2 in 1 s, 3 in 60 s\n  endpoints: candles 4\n  statuses: 200 4\n"
    )
    assert json.loads(run("audit", "--json", str(log)))["peak_60s"] == 3


@pytest.mark.integration
def test_a_client_that_leaves_does_not_disturb_the_server(tmp_path: Path) -> None:
    with started() as (process, url):
        port = int(url.rsplit(":", 1)[1])
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(
                    f"GET {COINGECKO}/coins/markets?vs_currency=usd HTTP/1.1\r\nHost: x\r\n\r\n".encode()
                )
        assert httpx.get(f"{url}{COINGECKO}/ping", timeout=60).status_code == 200
        os.kill(process.pid, signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert errors == ""

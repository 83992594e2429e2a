"""What ``crypto-data up`` cannot do it says in one line, before anything is started."""

from __future__ import annotations

import os

import polars as pl
import pymysql
import pytest

from tests.servers import free_port


def only_line(refusal):
    """The one line of the refusal, its status checked."""
    assert refusal.status == 1
    assert "Traceback" not in refusal.error + refusal.output
    (line,) = refusal.error.splitlines()
    return line


def test_live_upstreams_cannot_be_replayed_spoilt_or_hurried(refused, tmp_path):
    replay, faults = tmp_path / "market.parquet", tmp_path / "faults.yaml"
    line = only_line(
        refused("--replay", str(replay), "--faults", str(faults), "--time-scale", "60", upstream="live"),
    )
    assert line.endswith("--replay, --faults, --time-scale works with the sandbox only: use --upstream sandbox")


@pytest.mark.parametrize("scale", ["0", "-1", "nan", "inf", "10001"])
def test_time_must_go_forward_and_not_too_fast(refused, scale):
    assert f"--time-scale {scale} is not above 0 and at most 10,000" in only_line(refused("--time-scale", scale))


@pytest.mark.parametrize("flag", ["--replay", "--faults"])
def test_a_file_that_is_not_there_is_named_with_its_flag(refused, tmp_path, flag):
    missing = tmp_path / "nothing.here"
    assert f"{flag} {missing}: there is no such file" in only_line(refused(flag, str(missing)))


@pytest.mark.parametrize("flag", ["--port", "--dashboard-port"])
def test_a_taken_port_is_named_with_who_has_it_and_the_flag_that_moves_it(refused, listener, flag):
    line = only_line(refused(flag, str(listener)))
    assert f"port {listener} is taken by process {os.getpid()} (" in line
    assert line.endswith(f"stop that, or choose another with {flag}")


def test_the_api_and_the_dashboard_cannot_share_a_port(refused):
    port = str(free_port())
    line = only_line(refused("--port", port, "--dashboard-port", port))
    assert f"--port and --dashboard-port are both {port}" in line


def test_a_host_that_is_not_this_machine_is_named(refused):
    line = only_line(refused("--host", "192.0.2.1"))
    assert "--host 192.0.2.1: this machine cannot listen there" in line


def test_a_replay_that_is_no_parquet_file_is_refused_and_claims_nothing(refused, tmp_path):
    wrong = tmp_path / "market.parquet"
    wrong.write_text("timestamp,open\n")
    assert f"replay file {wrong}: not a readable Parquet file" in only_line(refused("--replay", str(wrong)))
    assert not (tmp_path / "data" / "sandbox" / "market.json").exists()


def test_a_replay_without_the_columns_says_which(refused, tmp_path):
    wrong = tmp_path / "market.parquet"
    pl.DataFrame({"timestamp": [0], "symbol": ["BTC"], "close": [1.0]}).write_parquet(wrong)
    assert f"replay file {wrong}: no column open, high, low, volume" in only_line(refused("--replay", str(wrong)))


def test_a_fault_script_that_cannot_be_read_names_its_line(refused, tmp_path):
    wrong = tmp_path / "faults.yaml"
    wrong.write_text("faults:\n  - kind: earthquake\n")
    line = only_line(refused("--faults", str(wrong)))
    assert f"{wrong}, line 2: fault 1: kind 'earthquake' is unknown" in line


def test_a_data_directory_that_cannot_be_made_is_named(refused, tmp_path):
    (tmp_path / "file").touch()
    line = only_line(refused(data_dir=tmp_path / "file" / "data"))
    assert f"{tmp_path / 'file' / 'data'} cannot be used as data directory" in line
    assert line.endswith("choose another: --data-dir")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_data_directory_that_cannot_be_written_is_named(refused, tmp_path):
    (tmp_path / "data").mkdir(mode=0o500)
    assert "cannot be used as data directory" in only_line(refused())


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense", "DATABASE_URL: not a URL such as mysql+pymysql://"),
        ("postgresql://node:hush-hush@127.0.0.1/db", "DATABASE_URL: not a URL such as mysql+pymysql://"),
        ("sqlite://", "an in-memory SQLite database cannot be shared between processes"),
    ],
)
def test_a_database_url_that_names_no_database_of_ours_is_refused(refused, url, says):
    line = only_line(refused("--database-url", url))
    assert says in line
    assert "hush-hush" not in line


def test_a_mysql_that_does_not_answer_is_named_without_its_password(refused):
    port = free_port()
    refusal = refused("--database-url", f"mysql+pymysql://node:hush-hush@127.0.0.1:{port}/prices")
    line = only_line(refusal)
    assert f"mysql+pymysql://node:***@127.0.0.1:{port}/prices" in line
    assert "is the server running" in line
    assert "hush-hush" not in refusal.error + refusal.output


@pytest.mark.integration
def test_a_mysql_that_refuses_the_password_is_named_without_it(refused, mariadb_port):
    with pymysql.connect(host="127.0.0.1", port=mariadb_port, user="node", password="node") as admin:
        assert admin.open
    refusal = refused("--database-url", f"mysql+pymysql://node:hush-hush@127.0.0.1:{mariadb_port}/prices")
    assert "check MYSQL_USER, MYSQL_PASSWORD and MYSQL_DATABASE" in only_line(refusal)
    assert "hush-hush" not in refusal.error + refusal.output


def test_a_wrong_setting_is_named(refused, monkeypatch):
    monkeypatch.setenv("RATE_LIMIT_REQUESTS", "many")
    assert "RATE_LIMIT_REQUESTS: 'many': " in only_line(refused())


def test_settings_that_mean_nothing_any_more_are_reported_with_the_reason(refused, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKERS", "8")
    wrong = tmp_path / "market.parquet"
    wrong.touch()
    output = refused("--replay", str(wrong)).output
    assert "ignored     WORKERS: replicas are set in serve_config.yaml" in output.splitlines()


def test_a_directory_of_simulated_data_belongs_to_one_market(refused, tmp_path):
    state = tmp_path / "data" / "sandbox"
    state.mkdir(parents=True)
    (state / "market.json").write_text('{"market": "replay", "file": "other.parquet", "sha256": "0"}\n')
    line = only_line(refused())
    assert f"{state} holds the replay of other.parquet" in line
    assert "use another --data-dir" in line


def test_damaged_keys_are_named_and_left_alone(refused, tmp_path):
    keys = tmp_path / "data" / "keys.json"
    keys.parent.mkdir()
    keys.write_text('{"master": 1')
    assert str(keys) in only_line(refused())
    assert keys.read_text() == '{"master": 1'

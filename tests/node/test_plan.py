"""Everything decided before a process is started."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from ray_app.node.haproxy import LISTEN_HOST
from ray_app.node.plan import Options, Plan, settings_of
from ray_app.settings import Settings
from tests.servers import free_port

REAL_DATABASE = "mysql+pymysql://node:pass-word@db.example/prices"


def plan_of(tmp_path, probe=lambda _: "no network here", **options):
    given = Options(**{"data_dir": tmp_path, "port": free_port(), "dashboard_port": free_port(), **options})
    return Plan.make(given, settings_of(given), probe)


def test_simulated_data_nobody_asked_for_never_reach_the_configured_database(tmp_path):
    plan = plan_of(tmp_path, database_url=REAL_DATABASE)
    assert plan.choice.fallback
    assert plan.environment["DATABASE_URL"] == f"sqlite:///{tmp_path}/sandbox/node.db"


def test_a_fallback_ignores_the_mysql_of_the_environment_too(tmp_path, monkeypatch):
    monkeypatch.setenv("MYSQL_HOST", "db.example")
    assert plan_of(tmp_path).environment["DATABASE_URL"] == f"sqlite:///{tmp_path}/sandbox/node.db"


def test_who_asks_for_the_sandbox_may_name_its_database(tmp_path):
    plan = plan_of(tmp_path, upstream="sandbox", database_url=REAL_DATABASE)
    assert plan.environment["DATABASE_URL"] == REAL_DATABASE


def test_a_sandbox_node_asks_no_real_upstream_and_shows_it_no_key(tmp_path, monkeypatch):
    monkeypatch.setenv("COINGECKO_API_KEY", "CG-real")
    plan = plan_of(tmp_path, upstream="sandbox")
    sandbox = f"http://127.0.0.1:{plan.head.ports.sandbox}/"
    for name in ("COINGECKO_BASE_URL", "COINBASE_EXCHANGE_BASE_URL", "COINBASE_API_BASE_URL"):
        assert plan.environment[name].startswith(sandbox)
    assert plan.environment["COINBASE_WS_URL"] == f"ws://127.0.0.1:{plan.head.ports.sandbox}/coinbase-ws"
    assert plan.environment["COINGECKO_API_KEY"] == ""
    assert plan.settings.coingecko_api_key is None


def test_a_live_node_keeps_its_key_and_its_database(tmp_path, monkeypatch):
    monkeypatch.setenv("COINGECKO_API_KEY", "CG-real")
    monkeypatch.setenv("DATABASE_URL", REAL_DATABASE)
    plan = plan_of(tmp_path, upstream="live")
    assert plan.environment["COINGECKO_API_KEY"] == "CG-real"
    assert plan.environment["DATABASE_URL"] == REAL_DATABASE
    assert plan.environment["DATA_ORIGIN"] == "live"
    assert "COINGECKO_BASE_URL" not in plan.environment


def test_live_and_sandbox_keep_their_files_apart(tmp_path):
    live = plan_of(tmp_path, upstream="live").settings
    sandbox = plan_of(tmp_path, upstream="sandbox").settings
    assert (live.state_dir, sandbox.state_dir) == (tmp_path / "live", tmp_path / "sandbox")
    assert live.epoch_file is None


def test_the_command_line_beats_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("REDIS_URL", "redis://env.example/0")
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "env"))
    plan = plan_of(tmp_path / "flag", redis_url="redis://flag.example/1")
    assert plan.environment["REDIS_URL"] == "redis://flag.example/1"
    assert plan.environment["DATA_DIR"] == str(tmp_path / "flag")


def test_a_file_of_settings_reaches_the_processes(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("MAX_STREAMS=7\nLOG_LEVEL=DEBUG\n")
    monkeypatch.setenv("LOG_LEVEL", "WARNING")
    environment = plan_of(tmp_path / "data").environment
    assert (environment["MAX_STREAMS"], environment["LOG_LEVEL"]) == ("7", "WARNING")


def test_programs_are_told_the_files_by_absolute_paths(tmp_path):
    (tmp_path / "market.parquet").touch()
    (tmp_path / "faults.yaml").touch()
    relative = {"replay": tmp_path.joinpath("market.parquet").relative_to(tmp_path)}
    plan = plan_of(tmp_path / "data", **relative, faults=tmp_path / "faults.yaml", time_scale=60.0)
    for command in (plan.sandbox_command(), plan.prepare_command()):
        assert command[command.index("--replay") + 1] == str(tmp_path / "market.parquet")
        assert command[command.index("--faults") + 1] == str(tmp_path / "faults.yaml")
    assert plan.prepare_command()[plan.prepare_command().index("--time-scale") + 1] == "60.0"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://127.0.0.1:8000"),
        ("::1", "http://[::1]:8000"),
        ("10.1.2.3", "http://10.1.2.3:8000"),
    ],
)
def test_the_url_is_one_that_this_machine_can_open(host, url):
    assert Options(host=host).url == url


def test_haproxy_is_told_where_the_api_listens(tmp_path):
    assert plan_of(tmp_path, host="0.0.0.0").environment[LISTEN_HOST] == "0.0.0.0"


def test_no_password_is_in_a_command_line(tmp_path):
    """Everybody on the machine can read those."""
    plan = plan_of(tmp_path, upstream="sandbox", database_url=REAL_DATABASE, redis_url="redis://:hush@127.0.0.1/0")
    for command in (plan.sandbox_command(), plan.prepare_command(), plan.head.command()):
        assert "pass-word" not in " ".join(command)
        assert "hush" not in " ".join(command)


def test_secrets_of_the_settings_do_not_print():
    assert "pass-word" not in repr(Settings(database_url=SecretStr(REAL_DATABASE)))

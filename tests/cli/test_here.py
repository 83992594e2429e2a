"""Commands beside a node mean that node: its origin, its database, its simulated upstreams."""

from __future__ import annotations

import os

import pytest

from ray_app.cli.here import node_settings
from ray_app.collection.upstreams import build_upstreams
from ray_app.errors import NodeError
from ray_app.node import record
from ray_app.node.processes import Process
from ray_app.node.record import NodeRecord


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("DATA_", "DATABASE_", "MYSQL_", "DB_", "COINGECKO_", "COINBASE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def run_a_node(data_dir, *, origin="sandbox", database=None, launcher=None, sandbox_port=20_017):
    """Leave the record of a node whose launcher is this process."""
    record.run_dir(data_dir).mkdir(parents=True)
    record.save(
        data_dir,
        NodeRecord(
            launcher=launcher or Process.of(os.getpid()),
            started_ms=0,
            url="http://127.0.0.1:8000",
            dashboard_url="http://127.0.0.1:8265",
            origin=origin,
            reason="asked for",
            database=database or f"sqlite:///{data_dir / origin / 'node.db'}",
            time_scale=1.0,
            temp_dir="/nowhere",
            sandbox_port=sandbox_port if origin == "sandbox" else None,
        ),
    )


def test_without_a_node_the_environment_decides(data_dir):
    assert node_settings().origin == "live"


def test_the_data_directory_can_be_named(data_dir, tmp_path):
    run_a_node(tmp_path / "other")
    assert node_settings(tmp_path / "other").resolved_database_url.endswith("/other/sandbox/node.db")


def test_a_running_sandbox_node_is_asked_for_its_database_and_its_upstreams(data_dir, monkeypatch):
    run_a_node(data_dir)
    monkeypatch.setenv("COINGECKO_API_KEY", "a-real-key")
    settings = node_settings()
    assert settings.resolved_database_url == f"sqlite:///{data_dir / 'sandbox' / 'node.db'}"
    assert settings.coingecko_base_url == "http://127.0.0.1:20017/coingecko/api/v3"
    assert settings.coinbase_exchange_base_url == "http://127.0.0.1:20017/coinbase-exchange"
    assert settings.coinbase_api_base_url == "http://127.0.0.1:20017/coinbase-api/v2"
    assert settings.coingecko_api_key is None


def test_beside_a_sandbox_node_every_upstream_is_the_sandbox_and_no_real_key_is_sent(data_dir, monkeypatch):
    run_a_node(data_dir)
    monkeypatch.setenv("FRED_API_KEY", "a-real-key")
    monkeypatch.setenv("UPSTREAM_URLS", "mempool=http://10.0.0.5/api")
    upstreams = build_upstreams(node_settings())
    for name in ("fred", "mempool", "reddit", "binance"):
        assert (upstreams[name].base_url, upstreams[name].disabled) == (f"http://127.0.0.1:20017/{name}", None)
    assert upstreams["fred"].query == {"api_key": "sandbox"}


def test_the_record_of_a_node_that_was_killed_decides_nothing(data_dir):
    run_a_node(data_dir, launcher=Process(os.getpid(), 1))
    assert node_settings().origin == "live"


def test_after_a_sandbox_node_its_data_are_meant(data_dir):
    (data_dir / "sandbox").mkdir(parents=True)
    assert node_settings().origin == "sandbox"
    (data_dir / "live").mkdir()
    assert node_settings().origin == "live"


def test_an_origin_asked_for_by_name_is_the_one_meant(data_dir, monkeypatch):
    run_a_node(data_dir)
    monkeypatch.setenv("DATA_ORIGIN", "live")
    assert node_settings().resolved_database_url.endswith("/data/live/node.db")


def test_a_sandbox_nobody_asked_for_never_meets_the_database_for_real_data(data_dir, monkeypatch):
    monkeypatch.setenv("MYSQL_HOST", "db.example")  # `crypto-data up` fell back to the sandbox, and to SQLite
    run_a_node(data_dir)
    assert node_settings().resolved_database_url == f"sqlite:///{data_dir / 'sandbox' / 'node.db'}"


def test_a_database_given_on_the_nodes_command_line_is_asked_for_without_its_password(data_dir, monkeypatch):
    run_a_node(data_dir, database="mysql+pymysql://node:***@127.0.0.1:3307/prices?charset=utf8mb4")
    with pytest.raises(NodeError, match=r"prices.*set DATABASE_URL"):
        node_settings()
    url = "mysql+pymysql://node:secret@127.0.0.1:3307/prices?charset=utf8mb4"
    monkeypatch.setenv("DATABASE_URL", url)
    assert node_settings().resolved_database_url == url

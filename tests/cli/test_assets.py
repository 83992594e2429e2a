from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from ray_app.assets import AssetRegistry
from ray_app.cli import cli
from ray_app.errors import UnknownSymbol
from ray_app.storage import registry
from ray_app.storage.engine import Database
from ray_app.storage.migrate import upgrade


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/node.db")

    def run(*arguments):
        return CliRunner().invoke(cli, ["assets", *arguments], standalone_mode=False)

    return run


def test_list_is_by_market_cap(run):
    lines = run().stdout.splitlines()
    assert lines[0].split()[:3] == ["asset_id", "symbol", "coin_id"]
    assert lines[1].split()[:3] == ["1", "BTC", "bitcoin"]
    assert len(lines) == len(AssetRegistry.seed()) + 1
    assert {line.split()[1] for line in lines[-8:]} == {"MATIC", "FTM", "EOS", "AGIX", "OCEAN", "BIT", "ORN", "BUSD"}


def test_symbol_is_resolved_and_the_note_goes_to_stderr(run):
    result = run("matic", "--json")
    assert json.loads(result.stdout)["coin_id"] == "polygon-ecosystem-token"
    assert "2024-09-04" in result.stderr
    assert json.loads(run("matic", "--json", "--at", "2023-01-01").stdout)["coin_id"] == "matic-network"
    assert "polygon-ecosystem-token" in run("POL").stdout


def test_unknown_symbol_is_an_error_with_near_matches(run):
    assert isinstance(run("bitcion").exception, UnknownSymbol)
    assert "BTC" in str(run("bitcion").exception)


def test_assets_of_a_past_day(run):
    symbols = {json.loads(line)["symbol"] for line in run("--at", "2023-01-01", "--json").stdout.splitlines()}
    assert "MATIC" in symbols
    assert "A" not in symbols


def test_registry_of_the_nodes_database_is_shown_once_there_is_one(run, tmp_path):
    assert "bitcoin" in run("btc").stdout
    assert not (tmp_path / "node.db").exists()  # looking creates nothing
    database = Database(f"sqlite:///{tmp_path}/node.db")
    upgrade(database)
    assert "Bitcoin" in run("btc").stdout  # still empty: the packaged list
    seed = AssetRegistry.seed()
    mine = seed.replaced([replace(seed.by_coin_id("bitcoin"), name="My Bitcoin")])
    database.run(lambda conn: registry.save(conn, mine, 1))
    database.dispose()
    assert "My Bitcoin" in run("btc").stdout
    assert "My Bitcoin" not in run("btc", "--packaged").stdout

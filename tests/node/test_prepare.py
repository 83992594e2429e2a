"""Database, keys, market and time are brought up to date before a process of the node starts."""

from __future__ import annotations

import stat

import polars as pl
import pytest

from ray_app.clock import Epoch
from ray_app.errors import ConfigError, NodeError, StorageError
from ray_app.node.prepare import PROBES, prepare
from ray_app.serving.keys import PREFIX
from ray_app.settings import Settings
from tests.servers import free_port

HOUR_MS = 3_600_000


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(data_dir=tmp_path, origin="sandbox")


@pytest.fixture
def replay(tmp_path):
    """Three hours of two assets."""
    rows = [(hour * HOUR_MS, symbol, 1.0, 1.0, 1.0, 1.0, 1.0) for symbol in ("BTC", "ETH") for hour in range(3)]
    columns = ("timestamp", "symbol", "open", "high", "low", "close", "volume")
    path = tmp_path / "market.parquet"
    pl.DataFrame(rows, schema=columns, orient="row").write_parquet(path)
    return path


def test_the_first_start_makes_everything_and_the_second_nothing_new(settings):
    first = prepare(settings)
    assert sorted(first.new_keys) == ["master", "readonly", "trading"]
    assert all(key.startswith(f"{PREFIX}_") for key in first.new_keys.values())
    assert stat.S_IMODE(settings.keys_file.stat().st_mode) == 0o600
    assert first.assets >= 320
    assert len(first.probes) == PROBES
    second = prepare(settings)
    assert second.new_keys == {}
    assert (second.revision, second.where, second.assets, second.probes) == (
        first.revision,
        first.where,
        first.assets,
        first.probes,
    )


def test_a_replay_narrows_the_registry_to_its_symbols(settings, replay):
    prepared = prepare(settings, replay=replay)
    assert (prepared.assets, sorted(prepared.probes)) == (2, ["BTC", "ETH"])
    with pytest.raises(NodeError, match=r"holds the replay of market\.parquet"):
        prepare(settings)


def test_node_time_begins_with_the_first_start_at_the_pace_asked_for(settings):
    prepare(settings, time_scale=60.0)
    begun = Epoch.load(settings.epoch_file)
    assert begun is not None
    assert begun.scale == 60.0
    prepare(settings, time_scale=60.0)
    assert Epoch.load(settings.epoch_file) == begun


def test_a_live_node_has_neither_a_market_nor_a_time_of_its_own(tmp_path):
    settings = Settings(data_dir=tmp_path)
    prepare(settings)
    assert {path.name for path in settings.state_dir.iterdir()} & {"market.json", "epoch.json"} == set()


def test_live_and_sandbox_share_the_keys(tmp_path, settings):
    assert prepare(settings).new_keys
    assert prepare(Settings(data_dir=tmp_path)).new_keys == {}


def test_a_database_that_cannot_be_reached_leaves_the_directory_to_any_market(tmp_path, settings, replay):
    nowhere = f"mysql+pymysql://node:hush@127.0.0.1:{free_port()}/db"
    with pytest.raises(StorageError) as refused:
        prepare(
            settings.model_copy(update={"database_url": Settings(database_url=nowhere).database_url}), replay=replay
        )
    assert "hush" not in str(refused.value)
    prepare(settings)


def test_a_wrong_fault_script_stops_everything(settings, tmp_path):
    faults = tmp_path / "faults.yaml"
    faults.write_text("faults: 7\n")
    with pytest.raises(ConfigError, match="a mapping with a list 'faults'"):
        prepare(settings, faults=faults)
    assert not settings.state_dir.exists()

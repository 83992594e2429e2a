"""Live or sandbox, and what a sandbox directory belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_app.clock import Epoch
from ray_app.errors import ConfigError, NodeError
from ray_app.node.origin import Choice, begin_epoch, check_market, choose, claim_market, probe_live
from ray_app.settings import Settings
from tests.servers import free_port


def chosen(upstream="auto", *, replay=None, replay_macro=None, faults=None, time_scale=1.0, probe=lambda: None):
    files = {"--replay": replay, "--replay-macro": replay_macro, "--faults": faults}
    return choose(upstream, files=files, time_scale=time_scale, probe=probe)


def unasked():
    raise AssertionError("the live upstreams were asked")


def test_auto_takes_live_upstreams_that_answer():
    assert chosen() == Choice("live", "they answer")


def test_auto_falls_back_to_the_sandbox_and_says_why():
    choice = chosen(probe=lambda: "CoinGecko does not answer (ConnectError)")
    assert choice == Choice("sandbox", "CoinGecko does not answer (ConnectError)", fallback=True)


@pytest.mark.parametrize("upstream", ["live", "sandbox"])
def test_what_was_asked_for_is_not_probed(upstream):
    assert chosen(upstream, probe=unasked) == Choice(upstream, "asked for")


def test_what_only_the_sandbox_can_do_means_the_sandbox(tmp_path):
    file = tmp_path / "faults.yaml"
    file.touch()
    assert chosen(faults=file, probe=unasked) == Choice("sandbox", "--faults")
    assert chosen(time_scale=60, probe=unasked) == Choice("sandbox", "--time-scale")


def test_an_upstream_that_does_not_answer_is_named():
    nobody = f"http://127.0.0.1:{free_port()}"
    settings = Settings(coingecko_base_url=nobody, coinbase_exchange_base_url=nobody)
    assert probe_live(settings) == "CoinGecko does not answer (ConnectError)"


def test_node_time_goes_on_where_it_was_at_the_new_pace(tmp_path):
    file = tmp_path / "epoch.json"
    first = begin_epoch(file, 1_000, 60.0)
    assert first.node_ms(2_000) == 61_000
    assert begin_epoch(file, 9_000, 60.0) == first, "the same pace: nothing changes"
    second = begin_epoch(file, 2_000, 1.0)
    assert second.node_ms(2_000) == 61_000
    assert second.node_ms(3_000) == 62_000
    assert second.first_node_ms == 1_000, "a replay hangs on it"
    assert Epoch.load(file) == second


def test_a_sandbox_directory_holds_one_market_for_good(tmp_path):
    one, other = tmp_path / "one.parquet", tmp_path / "other.parquet"
    one.write_bytes(b"1")
    other.write_bytes(b"2")
    claim_market(tmp_path, one)
    claim_market(tmp_path, one)
    for market in (None, other):
        with pytest.raises(NodeError, match=r"holds the replay of one\.parquet"):
            claim_market(tmp_path, market)


def test_a_replay_is_known_by_what_is_in_it(tmp_path):
    file = tmp_path / "market.parquet"
    file.write_bytes(b"1")
    claim_market(tmp_path, file)
    file.write_bytes(b"2")
    with pytest.raises(NodeError, match="another --data-dir"):
        check_market(tmp_path, file)


def test_looking_at_the_market_claims_nothing(tmp_path):
    check_market(tmp_path, None)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_market_file_is_named(tmp_path: Path):
    (tmp_path / "market.json").write_text("{")
    with pytest.raises(ConfigError, match=r"market\.json cannot be read"):
        check_market(tmp_path, None)

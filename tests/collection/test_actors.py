"""Which process hosts which collector."""

from __future__ import annotations

from collections import Counter

import pytest

from ray_app.collection.actors import COLLECTOR_ACTORS, EventBus, actor_of
from ray_app.collection.collectors import COLLECTORS
from ray_app.collection.supervisor import EVENT_BUS, children_of
from ray_app.errors import CryptoDataError
from ray_app.node.status import group_of
from ray_app.settings import Settings


def test_every_collector_has_one_actor():
    hosted = Counter(name for kind in COLLECTOR_ACTORS for name in kind.collectors)
    assert hosted == dict.fromkeys(COLLECTORS, 1)


def test_an_actor_is_found_by_its_collector():
    assert actor_of("crypto-prices") == "crypto-prices"
    assert actor_of("macro-fred") == actor_of("fear-greed") == "slow-feeds"
    with pytest.raises(CryptoDataError, match="moon-phase"):
        actor_of("moon-phase")


def test_what_has_nobody_to_ask_runs_nowhere(tmp_path):
    settings = Settings(data_dir=tmp_path, collectors_off="onchain,macro-market,fear-greed", fred_api_key=None)
    hosted = {child.name.split(":")[1]: child.arguments for child in children_of(settings) if child.name != EVENT_BUS}
    assert "onchain" not in hosted
    (slow,) = hosted["slow-feeds"]
    assert "asset-registry" in slow
    assert not {"macro-market", "fear-greed", "macro-fred"} & set(slow)


@pytest.mark.parametrize("kind", [*COLLECTOR_ACTORS, EventBus], ids=lambda kind: kind.__name__)
def test_status_counts_it_among_the_collectors(kind):
    assert group_of(f"ray::{kind.__name__}") == "collectors"
    assert group_of(f"ray::{kind.__name__}.wait") == "collectors"

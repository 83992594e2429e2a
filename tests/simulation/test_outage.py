"""An hour without any upstream: each gap is seen in time, health says what is wrong, and all of it mends by itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from ray_app.collection.collectors import CandleCollector, PriceCollector
from ray_app.collection.gaps import OWED
from ray_app.health.collect import GRACE_MS, collect_evidence
from ray_app.health.score import Health, score
from ray_app.storage import ledger
from tests.simulation import checks
from tests.simulation.store import Database
from tests.simulation.upstream import Misdeed
from tests.simulation.world import HOURS, SLOT_MS, NodeClock, World

#: nothing goes wrong but what the test does
CALM = replace(
    HOURS,
    scales=(150.0,),
    troubled_h=1.5,
    faults=(0, 0),
    outages=0.0,
    collectors=((PriceCollector.name, CandleCollector.name),),
)


#: of which the month's credits do not run out
SEEDS = (4, 5, 28)


class Watched(World):
    """A calm life with an hour in which every upstream answers 503; health is looked at every two and a half minutes."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, CALM)
        self.well: Health | None = None
        self.mended: Health | None = None
        self.down: list[tuple[int, Health]] = []  # ms since the hour began, what health says
        self.owed = Counter[str]()

    def _settle(self) -> None:
        self.well = self.health()
        began, end = self.node_ms(), self.loop.time() + 3_600 / self.scale
        for account in self.accounts:
            self.upstream.misdeeds.append(Misdeed("503", account, self.loop.time(), end, 1.0))
        while self.loop.time() < end:
            self._until(min(self.loop.time() + SLOT_MS / 2_000 / self.scale, end))
            checks.look_for_unseen(self)  # raises where a slot that is due is not in the ledger
            self.down.append((self.node_ms() - began, self.health()))
        with self.store.read() as conn:
            self.owed.update(entry.dataset for entry in ledger.entries(conn, "prices", states=(OWED,)))
        super()._settle()  # raises where anything is left to repair
        self._until(self.loop.time() + 1_800 / self.scale)
        self.mended = self.health()

    def health(self) -> Health:
        """The node's own verdict, from the simulated database."""
        db: Any = Database(self.store)
        return score(collect_evidence(db, NodeClock(self, 0), self.settings, up_since=self.start_ms))


@pytest.mark.parametrize("seed", SEEDS)
def test_an_hour_without_upstreams_is_seen_said_and_mended(seed: int):
    world = Watched(seed)
    world.run()

    assert world.well is not None
    assert world.mended is not None
    before = parts(world.well)
    assert before["collector:crypto-prices"] == "ok", world.well.losses
    late = [(at, health) for at, health in world.down if at > 2 * SLOT_MS + GRACE_MS["prices"]]
    assert late
    for at, health in late:
        assert health.status in {"degraded", "critical"}, (at, health.status)
        assert parts(health)["collector:crypto-prices"] != "ok"
        assert any(
            "503" in loss.reason or "missing" in loss.reason or "too old" in loss.reason for loss in health.losses
        )
    assert world.owed["prices"] >= 1
    assert parts(world.mended)["collector:crypto-prices"] == "ok", world.mended.losses
    assert world.mended.score > late[-1][1].score


def parts(health: Health) -> dict[str, str]:
    """Component → status."""
    return {component.name: component.state for component in health.components}

"""A seed draws the same day again, with every kind of fault in it, and a script that the sandbox takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_app.sandbox.faults import KINDS, load_faults
from tests.chaos import plan


@pytest.mark.parametrize("database", ["sqlite", "mariadb"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_day_has_a_hundred_deeds_and_every_fault_of_the_sandbox(seed: int, database: str, tmp_path: Path):
    drawn = plan.draw(seed, 24, 30, database)
    assert len(drawn.deeds) >= 100
    assert {deed.kind for deed in drawn.deeds} == {*plan.KINDS, "crash"}
    assert {deed.target for deed in drawn.deeds if deed.kind == "crash"} == set(plan.CRASHES)
    drawn.write_script(tmp_path / "faults.yaml")
    script = load_faults(tmp_path / "faults.yaml", 0)
    assert {fault.kind for fault in script.faults} == set(KINDS)
    assert max(fault.end_ms for fault in script.faults) <= drawn.end_min * 60_000


def test_a_seed_draws_the_same_plan_again_and_another_seed_another():
    assert plan.draw(7, 24, 30, "sqlite") == plan.draw(7, 24, 30, "sqlite")
    assert plan.draw(7, 24, 30, "sqlite") != plan.draw(8, 24, 30, "sqlite")


def test_nothing_befalls_the_node_in_the_hour_without_upstreams():
    drawn = plan.draw(1, 24, 30, "sqlite")
    assert drawn.outage is not None
    start, end = ((minutes - plan.CALM_MIN) * 2 for minutes in drawn.outage)  # a node minute is two wall seconds
    assert not [deed for deed in drawn.deeds if start - 20 < deed.at_s < end]

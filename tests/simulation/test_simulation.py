"""Thousands of lives of the node's core, each with its own faults; see docs/reliability.md for what they prove."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.simulation.world import DENSE, HOURS, PROFILES, YEAR, World, problem_of, simulate

#: 2,000 lives in blocks small enough to be spread evenly; `python -m tests.simulation --seeds N` lives more
BLOCKS, SEEDS_PER_BLOCK = 200, 10


def kept_seeds() -> list[tuple[int, str]]:
    """What seeds.txt lists."""
    found = []
    for line in Path(__file__).with_name("seeds.txt").read_text().splitlines():
        words = line.split("#")[0].split()
        if words:
            named = words[1] if len(words) > 1 and words[1] in PROFILES else DENSE.name
            found.append((int(words[0]), named))
    return found


@pytest.mark.parametrize("block", range(BLOCKS))
def test_every_invariant_holds_whatever_happens(block: int):
    for seed in range(block * SEEDS_PER_BLOCK, (block + 1) * SEEDS_PER_BLOCK):
        simulate(seed)


@pytest.mark.parametrize("seed", range(12))
def test_every_invariant_holds_in_longer_lives(seed: int):
    """Hours, and a venue whose answers hold a day: what a short life does not reach."""
    simulate(seed, HOURS)


@pytest.mark.parametrize(("seed", "profile"), kept_seeds())
def test_seeds_that_once_failed_hold(seed: int, profile: str):
    simulate(seed, PROFILES[profile])


def test_a_year_of_node_time_passes_in_seconds():
    world = simulate(1, YEAR)
    assert world.lived_h > 365 * 24
    assert len(world.store.events) > 900, "three assets a day"


def test_a_seed_is_lived_the_same_way_every_time():
    assert story(7) == story(7)


@pytest.mark.parametrize("seed", range(12))
def test_the_plain_statements_tell_the_same_story(seed: int):
    """The simulation's plain SQL and the node's own statements lead through the same steps to the same rows."""
    plain, own = story(seed), story(seed, plain=False)
    assert plain == own


def test_lives_are_eventful():
    """A simulation in which nothing happens proves nothing: this is what fifty lives contain."""
    told: list[str] = []
    for seed in range(50):
        World(seed, trace=told.append).run()
    text = "\n".join(told)
    for event in (
        "kills",
        "stops",
        "sets the clock",
        "all pause",
        "gets 503",
        "every upstream goes down",
        "market_chart",
    ):
        assert text.count(event) >= 3, event


def test_a_failing_seed_says_how_to_replay_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ray_app.collection.lease.LeaseKeeper.assert_held", lambda *_: None)
    failed = next(problem for seed in range(200) if (problem := problem_of((seed, DENSE.name))) is not None)
    assert re.fullmatch(r"seed \d+: fence: .* \[replay: python -m tests.simulation \d+ --steps\]", failed)


def story(seed: int, *, plain: bool = True) -> list[str]:
    """Every step of a life, and the rows it ends with."""
    told: list[str] = []
    world = World(seed, trace=told.append, plain=plain)
    rows: list[str] = []
    world.at_end = lambda: rows.extend(
        repr(row)
        for table in ("price_data_real", "ohlc_data", "collection_gaps", "outbox", "fetches", "collector_runs")
        for row in world.store.raw.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3, 4").fetchall()
    )
    world.run()
    assert rows
    return told + rows

"""Aggregates follow the hours: each once, from the first score on, with what was known at its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_app.clock import ManualClock
from ray_app.scoring import hours
from ray_app.scoring.hours import aggregate_hours, hours_due
from ray_app.scoring.run import Wanted, score_texts
from ray_app.storage import sentiment_queries as queries
from ray_app.storage.engine import Database
from ray_app.storage.migrate import upgrade
from tests.scoring.world import NOW, REGISTRY, in_process, put, settings_of
from tests.storage.source_samples import HOUR

BITCOIN = REGISTRY.resolve("BTC").asset.asset_id
MINUTE = HOUR // 60


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'node.db'}")
    upgrade(database)
    yield database
    database.dispose()


def score(db: Database, tmp_path: Path, at: int) -> None:
    score_texts(settings_of(tmp_path), db, Wanted(("lexicon", "vader")), in_process(db, ManualClock(at)))


def stored(db: Database, scope: str, asset_id: int, model: str = "lexicon", window_s: int = 3_600) -> list[Any]:
    with db.read() as conn:
        rows = queries.aggregates(conn, scope, asset_id, model, "all", window_s, start=0, end=NOW + 999 * HOUR)
    return [(row["window_end"], row["sentiment_volume"]) for row in rows]


def test_nothing_is_due_before_the_first_score(db: Database) -> None:
    assert hours_due(db, NOW) == []
    assert aggregate_hours(db, NOW) == 0


def test_each_hour_from_the_first_score_on_is_stored_and_the_last_one_again(db: Database, tmp_path: Path) -> None:
    put(db, "Bitcoin surges", known_at=NOW - 90 * MINUTE)
    put(db, "profits surge", stocks=True, known_at=NOW - 90 * MINUTE)
    score(db, tmp_path, NOW - 80 * MINUTE)
    assert hours_due(db, NOW + HOUR) == [NOW - HOUR, NOW, NOW + HOUR]
    assert aggregate_hours(db, NOW - 1) == 1
    assert aggregate_hours(db, NOW + HOUR) == 3
    assert stored(db, "crypto", 0) == [(NOW - HOUR, 1), (NOW, 0), (NOW + HOUR, 0)]
    assert stored(db, "stock", 0, "ensemble", 86_400) == [(NOW + n * HOUR, 1) for n in (-1, 0, 1)]
    assert stored(db, "asset", BITCOIN) == [(NOW - HOUR, 1)]  # of an hour without texts an asset has no row
    assert stored(db, "asset", BITCOIN, window_s=86_400) == [(NOW + n * HOUR, 1) for n in (-1, 0, 1)]
    assert stored(db, "crypto", 0, "cryptobert") == [(NOW + n * HOUR, 0) for n in (-1, 0, 1)]


def test_a_score_of_the_last_hour_that_came_after_it_was_aggregated_is_in_it(db: Database, tmp_path: Path) -> None:
    put(db, "Bitcoin surges", known_at=NOW - 30 * MINUTE)
    score(db, tmp_path, NOW - 20 * MINUTE)
    aggregate_hours(db, NOW)
    put(db, "Ethereum plunges", known_at=NOW - 30 * MINUTE)
    score(db, tmp_path, NOW - 1)  # committed late
    aggregate_hours(db, NOW + MINUTE)
    assert stored(db, "crypto", 0) == [(NOW, 2)]


def test_many_hours_are_the_same_in_pieces(db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hours, "_HOURS", 2)
    monkeypatch.setattr(hours, "_ROWS", 1)
    put(db, "Bitcoin surges", "Bitcoin plunges", known_at=NOW - 30 * MINUTE)
    score(db, tmp_path, NOW - 20 * MINUTE)
    assert aggregate_hours(db, NOW + 4 * HOUR) == 5
    assert stored(db, "crypto", 0, window_s=4 * 3_600) == [(NOW + n * HOUR, 2 if n < 4 else 0) for n in range(5)]

"""What the API reads of stored sentiment is read by an index, and costs the same however long the history is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ray_app.storage import sentiment_reads as reads
from ray_app.storage.engine import Database
from tests.storage.samples import T0
from tests.storage.source_samples import HOUR
from tests.storage.test_explain import full_scans, plan, rows_read
from tests.storage.test_sentiment_queries import END, history
from tests.storage.test_source_queries import filled

ASKED = ("asset", 1, ("lexicon", "ensemble"), ("all", "news"), 3_600)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("mariadb", marks=pytest.mark.integration)])
def full(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    yield from filled(request, tmp_path_factory, "sentiment_reads", lambda db: history(db, range(600)))


def test_reads_use_an_index(full: Database) -> None:
    asked = {
        "ends": reads.ends_query("crypto", "ensemble", 3_600, as_of=T0, limit=24),
        "windows": reads.windows_query(*ASKED, first=END - 24 * HOUR, last=END, as_of=END),
        "scores": reads.scores_query(["a", "b"], 1, T0),
    }
    for name, query in asked.items():
        with full.read() as conn:
            lines = plan(conn, query)
        assert full_scans(lines) == [], (name, lines)


def test_their_cost_does_not_grow_with_history(full: Database) -> None:
    def read(conn: Any) -> None:
        assert len(reads.windows(conn, *ASKED, first=END - 23 * HOUR, last=END, as_of=END)) == 24

    before = rows_read(full, read)
    history(full, range(600, 1_200))
    assert rows_read(full, read) <= before * 1.3 + 5

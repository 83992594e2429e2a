"""Answers that come late, again or in another order: the rows are a function of the set of answers, and none is early."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import Any

import orjson
import pytest
from sqlalchemy import Table, select

from ray_app.assets import AssetRegistry
from ray_app.clock import from_ms
from ray_app.collection import reparse, reprocess
from ray_app.collection.archive import Archive, ArchivedAt
from ray_app.collection.digest import digest
from ray_app.collection.store import Item, write_values
from ray_app.sources import ENDPOINTS
from ray_app.sources.base import Exchange
from ray_app.storage import source_queries
from ray_app.storage.engine import Database
from ray_app.storage.migrate import upgrade
from ray_app.storage.source_queries import MACRO
from ray_app.storage.tables import macro_indicators, social_posts, text_mentions, text_parts
from tests.collection.world import DAY, HOUR, MINUTE, START, small_registry
from tests.sources.samples_social import listing, post

NAME = "t3_1abcde"
SP500 = ("SP500", "fred.observations")
TEXTS = (social_posts, text_mentions, text_parts)


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    upgrade(database)
    yield database
    database.dispose()


@pytest.fixture(scope="module")
def registry() -> AssetRegistry:
    return small_registry()


def levels(fetched_at: int, value: str, date: str = "2026-11-20") -> Exchange:
    """FRED's answer to the plain question, as of the day of the fetch."""
    day = from_ms(fetched_at).date().isoformat()
    seen = {"realtime_start": day, "realtime_end": day}
    body = {**seen, "observations": [{**seen, "date": date, "value": value}]}
    request = ENDPOINTS["fred.observations"].request("SP500", START - 30 * DAY, vintages=False)
    return Exchange(request, 200, {}, orjson.dumps(body), fetched_at)


def posts(fetched_at: int, endpoint: str = "reddit.listing", **changes: Any) -> Exchange:
    """A listing of one post about Bitcoin, or the second look at it."""
    asked = ENDPOINTS[endpoint].request("Bitcoin" if endpoint == "reddit.listing" else [NAME])
    said = post(NAME, **{"title": "Bitcoin is up", "created_utc": START / 1_000} | changes)
    return Exchange(asked, 200, {}, orjson.dumps(listing(said, after=None)), fetched_at)


def take_in(db: Database, registry: AssetRegistry, answers: Sequence[Exchange]) -> None:
    """Each in a transaction of its own, as a node takes them in that asks one after the other."""
    for exchange in answers:
        at = ArchivedAt(exchange.fetched_at << 20, "s", 0, f"{exchange.fetched_at:064d}", len(exchange.body))
        item = Item(at, "c", exchange, digest(exchange, at, registry))
        assert item.found.outcome == "ok"
        db.run(lambda conn, item=item: write_values(conn, [item]))


def stored(db: Database, tables: Sequence[Table]) -> list[tuple]:
    with db.read() as conn:
        return [tuple(row) for t in tables for row in conn.execute(select(t).order_by(*t.primary_key.columns))]


def in_every_order(
    db: Database, registry: AssetRegistry, answers: Sequence[Exchange], tables: Sequence[Table]
) -> list[tuple]:
    """The rows that are the same whatever the order of the answers."""
    found = []
    for order in permutations(answers):
        for table in tables:
            db.run(lambda conn, table=table: conn.execute(table.delete()) and None)
        take_in(db, registry, order)
        found.append(stored(db, tables))
        assert found[-1] == found[0], [answer.fetched_at for answer in order]
    return found[0]


def level(db: Database, as_of: int | None = None) -> list[tuple]:
    with db.read() as conn:
        rows = source_queries.history(conn, MACRO, SP500, start=None, end=None, as_of=as_of)
    return [(row["value"], row["known_at"]) for row in rows]


def test_a_value_changed_twice_on_a_day_is_never_known_before_the_fetch_that_said_it(db, registry):
    told = [(START, "6900.5"), (START + HOUR, "6900.5"), (START + 2 * HOUR, "6900.6"), (START + 5 * HOUR, "6900.7")]
    rows = in_every_order(db, registry, [levels(*one) for one in told], [macro_indicators])
    assert len(rows) == 3, "the same value again is no version more"
    assert level(db) == [(6900.7, START + 5 * HOUR)]
    assert level(db, START + 5 * HOUR - 1) == [(6900.6, START + 2 * HOUR)]
    assert level(db, START + 2 * HOUR - 1) == [(6900.5, START)]
    assert level(db, START - 1) == []


def test_the_same_value_on_many_days_is_one_row_known_from_the_first(db, registry):
    rows = in_every_order(db, registry, [levels(START + n * DAY, "6900.5") for n in range(4)], [macro_indicators])
    assert len(rows) == 1
    assert level(db) == level(db, START) == [(6900.5, START)]


REMOVED = {"removed_by_category": "moderator"}
STORIES = {
    "deleted": ([posts(START + HOUR), posts(START + 2 * HOUR, "reddit.by_id", author="[deleted]")], set()),
    "deleted, and an older answer in between": (
        [posts(START + HOUR), posts(START + 2 * HOUR), posts(START + 3 * HOUR, "reddit.by_id", author="[deleted]")],
        set(),
    ),
    "removed and restored with another title": (
        [posts(START + HOUR), posts(START + 2 * HOUR, **REMOVED), posts(START + 3 * HOUR, title="Solana is up")],
        {"Solana"},
    ),
    "marked for adults": ([posts(START + HOUR), posts(START + 2 * HOUR, "reddit.by_id", over_18=True)], set()),
    "marked and unmarked": (
        [
            posts(START + HOUR),
            posts(START + 2 * HOUR, "reddit.by_id", over_18=True),
            posts(START + 3 * HOUR, over_18=True),
            posts(START + 4 * HOUR),
        ],
        {"Bitcoin"},
    ),
    "edited": ([posts(START + HOUR), posts(START + 2 * HOUR, title="Solana is up")], {"Solana"}),
    "read twice": ([posts(START + HOUR), posts(START + 2 * HOUR)], {"Bitcoin"}),
}


@pytest.mark.parametrize("story", STORIES)
def test_what_is_noted_of_a_post_is_of_the_row_that_stands(db, registry, story):
    answers, terms = STORIES[story]
    rows = in_every_order(db, registry, answers, TEXTS)
    assert {row[3] for row in rows if len(row) == len(text_mentions.columns)} == terms


@pytest.mark.integration
def test_an_archive_that_holds_a_deletion_is_rebuilt_to_what_the_node_had(db, registry, tmp_path, monkeypatch):
    monkeypatch.setattr(reparse, "WORTH", 2)  # few answers are worth other processes
    monkeypatch.setattr(reparse, "BATCH_ANSWERS", 2)
    answers = [
        posts(START + HOUR),
        levels(START + 2 * HOUR, "6900.5"),
        posts(START + 3 * HOUR, "reddit.by_id", author="[deleted]"),
        levels(START + 4 * HOUR, "6900.6"),
        posts(START + 3 * HOUR - MINUTE),  # asked before the second look, and written after it
    ]
    copies = []
    with Archive(tmp_path / "archive", "w1") as archive:
        for answer in answers:
            archive.append(answer, "c")
    for processes in (1, 2):
        copy = Database(f"sqlite:///{tmp_path / f'copy{processes}.db'}")
        upgrade(copy)
        with Archive(tmp_path / "archive") as archive:
            reprocess.reprocess(archive, copy, first_registry=registry, first_registry_at=START, processes=processes)
            reprocess.reprocess(archive, copy, tables={"text_mentions"})  # of a deleted post there is nothing to note
        copies.append(copy)
    tables = (*TEXTS, macro_indicators)
    assert reprocess.differences(*copies, tables) == []
    assert [len(stored(copies[0], [table])) for table in tables] == [1, 0, 2, 2]
    take_in(db, registry, answers)
    but_for_payload_hash = slice(-1)
    assert [row[but_for_payload_hash] for row in stored(db, tables)] == [
        row[but_for_payload_hash] for row in stored(copies[0], tables)
    ]
    for copy in copies:
        copy.dispose()

"""Where FRED and Yahoo state one indicator differently."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from sqlalchemy import insert, select

from ray_app.clock import DAY_MS
from ray_app.collection.disagreement import PAIRS, PRIMARY, SECONDARY, disagreements, recent
from ray_app.storage import migrate
from ray_app.storage.engine import Database
from ray_app.storage.tables import data_quality_events, macro_indicators

TODAY = 1_795_478_400_000  # 2026-11-24
DAY = TODAY - 4 * DAY_MS


def row(name: str, value: float | None, day: int = DAY, vintage: int | None = None, **more: Any) -> dict[str, Any]:
    source = SECONDARY if name in {pair.secondary for pair in PAIRS} else PRIMARY
    vintage = day + DAY_MS if vintage is None else vintage
    found = {
        "indicator_name": name,
        "source": source,
        "indicator_date": day,
        "vintage": vintage,
        "value": value,
        "unit": "index",
        "known_at": vintage,
        "first_seen_at": vintage,
        "event_version": vintage,
        "fetched_at": vintage + 1,
        "parser_version": 1,
        "payload_hash": hashlib.sha256(repr((name, value, day, vintage)).encode()).hexdigest(),
    }
    return found | more


@pytest.fixture
def db(sqlite_url: str):
    database = Database(sqlite_url)
    migrate.upgrade(database)
    yield database
    database.dispose()


def stored(db: Database, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    db.run_chunked(macro_indicators, list(rows))
    with db.read() as conn:
        return recent(conn, TODAY)


@pytest.mark.parametrize(
    ("secondary", "primary", "said", "same", "other"),
    [
        ("VIX", "VIXCLS", 20.0, 20.09, 20.2),
        ("SPX", "SP500", 6_000.0, 6_005.0, 6_007.0),
        ("TNX", "DGS10", 4.0, 4.14, 4.16),
        ("OIL", "DCOILWTICO", 70.0, 74.0, 75.0),
        ("OIL", "DCOILWTICO", -37.63, -38.6, 37.63),
        ("EURUSD", "DEXUSEU", 1.1, 1.12, 1.13),
        ("USDJPY", "DEXJPUS", 150.0, 153.0, 154.0),
        ("USDCNY", "DEXCHUS", 7.0, 7.1, 7.2),
    ],
)
def test_values_further_apart_than_their_hours_explain_disagree(secondary, primary, said, same, other):
    assert disagreements([row(primary, said), row(secondary, same)]) == []
    assert disagreements([row(primary, said), row(secondary, 2 * said - same)]) == []
    (event,) = disagreements([row(primary, said), row(secondary, other)])
    assert event["subject"] == f"{secondary}~{primary}"


def test_event_names_the_secondary_s_answer_and_both_values():
    theirs = row("VIX", 25.0)
    (event,) = disagreements([row("VIXCLS", 20.0), theirs])
    assert event == {
        "payload_hash": theirs["payload_hash"],
        "kind": "disagreement",
        "subject": "VIX~VIXCLS",
        "field": "value@2026-11-20",
        "source": "yahoo.chart",
        "fetched_at": theirs["fetched_at"],
        "detail": "2026-11-20: VIX is 25 by yahoo.chart, VIXCLS 20 by fred.observations: 5 apart, 0.1 are allowed",
    }
    assert set(event) == {column.name for column in data_quality_events.columns}


@pytest.mark.parametrize(
    "others",
    [
        [],
        [row("VIXCLS", None)],
        [row("VIXCLS", 20.0, DAY - DAY_MS)],
        [row("VIXCLS", 20.0, source="other")],
        [row("VIX", 20.0)],
    ],
)
def test_what_only_one_source_states_is_no_disagreement(others):
    assert disagreements([row("VIX", 25.0), *others]) == []
    assert disagreements([row("VIX", None), row("VIXCLS", 20.0)]) == []


def test_last_vintage_of_each_counts_whatever_the_order_of_the_rows():
    first, revised = row("DCOILWTICO", 50.0), row("DCOILWTICO", 70.0, vintage=DAY + 3 * DAY_MS)
    theirs = row("OIL", 70.5)
    for rows in ([first, revised, theirs], [theirs, revised, first]):
        assert disagreements(rows) == []
    late = row("OIL", 90.0, vintage=1, event_version=theirs["event_version"], fetched_at=theirs["fetched_at"] + 1)
    for rows in ([late, revised, theirs], [theirs, revised, late]):
        assert [event["payload_hash"] for event in disagreements(rows)] == [late["payload_hash"]]


def test_stored_series_are_compared_over_the_last_days(db):
    long_ago = TODAY - 40 * DAY_MS
    events = stored(
        db,
        *(row(name, value, day) for day in (DAY, long_ago) for name, value in (("VIX", 25.0), ("VIXCLS", 20.0))),
        row("TNX", 4.1),
        row("DGS10", 4.0),
        row("GOLD", 3_000.0, source=SECONDARY),
    )
    assert [(event["subject"], event["field"]) for event in events] == [("VIX~VIXCLS", "value@2026-11-20")]


def test_what_was_reported_is_not_reported_again_until_it_changes(db):
    events = stored(db, row("VIX", 25.0), row("VIXCLS", 20.0))
    db.run(lambda conn: conn.execute(insert(data_quality_events), events))
    repeated = row("VIX", 25.0, fetched_at=TODAY - DAY_MS, payload_hash="f" * 64)
    assert stored(db, repeated) == []
    changed = row("VIX", 26.0, vintage=7, event_version=TODAY - DAY_MS, fetched_at=TODAY)
    (event,) = stored(db, changed)
    db.run(lambda conn: conn.execute(insert(data_quality_events), [event]))
    with db.read() as conn:
        assert len(conn.execute(select(data_quality_events)).all()) == 2
        assert recent(conn, TODAY) == []

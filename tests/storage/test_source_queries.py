"""Numbers about moments: the version shown is the last in order of those known by then; reads keep to an index."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from ray_app.sources.statements import version_of
from ray_app.storage import migrate, source_queries
from ray_app.storage.engine import Database
from ray_app.storage.source_queries import DERIVATIVES, FEAR_GREED, MACRO, ONCHAIN, Series
from ray_app.storage.tables import ORDER_COLUMNS
from ray_app.storage.upsert import guarded_upsert
from tests.storage.samples import T0
from tests.storage.source_samples import DAY, HOUR, derivative, feeling, macro, onchain
from tests.storage.test_explain import full_scans, plan, rows_read

GROUP = (1, "active_addresses", "coinmetrics.asset_metrics")


def put(db: Database, series: Series, *rows: dict) -> None:
    db.run(lambda conn: guarded_upsert(conn, series.table, rows))


def shown(db: Database, series: Series, prefix: tuple, **asked) -> list[tuple]:
    asked = {"start": None, "end": None} | asked
    with db.read() as conn:
        rows = source_queries.history(conn, series, prefix, **asked)
    return [(row[series.moment], row["value"], row["known_at"]) for row in rows]


def test_a_revision_is_shown_and_known_only_from_its_own_fetch(sqlite_db: Database) -> None:
    put(sqlite_db, ONCHAIN, onchain(T0, 1.0), onchain(T0, 2.0, T0 + 5 * HOUR), onchain(T0 + DAY, 7.0, T0 + 9 * DAY))
    late = (T0 + DAY, 7.0, T0 + DAY + HOUR)  # fetched days later, public an hour after its moment
    assert shown(sqlite_db, ONCHAIN, GROUP) == [(T0, 2.0, T0 + 5 * HOUR), late]
    assert shown(sqlite_db, ONCHAIN, GROUP, as_of=T0 + 5 * HOUR) == [(T0, 2.0, T0 + 5 * HOUR)]
    assert shown(sqlite_db, ONCHAIN, GROUP, as_of=T0 + 5 * HOUR - 1) == [(T0, 1.0, T0 + HOUR)]
    assert shown(sqlite_db, ONCHAIN, GROUP, as_of=T0 + HOUR - 1) == []
    assert shown(sqlite_db, ONCHAIN, GROUP, as_of=T0 + DAY + HOUR)[1] == late


def test_of_vintages_the_newest_that_was_public_counts(db: Database) -> None:
    may = T0 - T0 % DAY
    june, july = may + 31 * DAY, may + 61 * DAY
    put(
        db,
        MACRO,
        macro(may, 4.1, june),
        macro(may, 4.2, july),
        macro(june, 4.4, july),
        # fetched long after: when it was written is no matter between vintages
        macro(may, 9.9, may + DAY, fetched_at=july + 99 * DAY),
    )
    group = ("UNRATE", "fred.observations")
    assert shown(db, MACRO, group) == [(may, 4.2, july + 6 * HOUR), (june, 4.4, july + 6 * HOUR)]
    assert shown(db, MACRO, group, as_of=july + 6 * HOUR - 1) == [(may, 4.1, june + 6 * HOUR)]
    assert shown(db, MACRO, group, as_of=june) == [(may, 9.9, may + DAY + 6 * HOUR)]
    assert shown(db, MACRO, group, as_of=may) == []


@pytest.mark.parametrize("series", [MACRO, ONCHAIN, DERIVATIVES])
def test_a_correction_is_shown_until_what_it_corrected_comes_back(db: Database, series: Series) -> None:
    made = {MACRO: plain, ONCHAIN: onchain, DERIVATIVES: derivative}[series]
    answers = [made(T0, value, T0 + hours * HOUR) for value, hours in ((1.0, 2), (2.0, 5), (2.0, 7), (1.0, 30))]
    random.Random(3).shuffle(answers)
    for answer in answers:  # each in a transaction of its own, in any order
        put(db, series, answer)
    group = tuple(answers[0][name] for name in series.group)
    began = T0 + (2 if series is MACRO else 1) * HOUR  # FRED alone has no lag after which a value counts as public
    for hours, expected in (
        (2, (1.0, began)),
        (5, (2.0, T0 + 5 * HOUR)),
        (29, (2.0, T0 + 5 * HOUR)),
        (30, (1.0, began)),
    ):
        assert shown(db, series, group, as_of=T0 + hours * HOUR) == [(T0, *expected)], hours
    assert shown(db, series, group) == [(T0, 1.0, began)]
    assert shown(db, series, group, as_of=began - 1) == []


def plain(date: int, value: float, fetched_at: int) -> dict:
    """A row of FRED's without vintages, of the day of its answer."""
    row = macro(date, value, fetched_at - fetched_at % DAY, known_at=fetched_at, first_seen_at=fetched_at)
    return row | {"vintage": version_of(value), "fetched_at": fetched_at}


def test_of_a_release_and_a_plain_answer_the_later_day_counts(db: Database) -> None:
    may = T0 - T0 % DAY
    put(db, MACRO, plain(may, 1.0, may + 3 * DAY + HOUR), macro(may, 2.0, may + 2 * DAY))
    group = ("UNRATE", "fred.observations")
    assert [value for _, value, _ in shown(db, MACRO, group)] == [1.0]
    put(db, MACRO, macro(may, 3.0, may + 4 * DAY))
    assert [value for _, value, _ in shown(db, MACRO, group)] == [3.0]
    assert [value for _, value, _ in shown(db, MACRO, group, as_of=may + 4 * DAY)] == [1.0]
    assert [value for _, value, _ in shown(db, MACRO, group, as_of=may + 3 * DAY)] == [2.0]


def test_a_source_without_vintages_is_ordered_as_written(sqlite_db: Database) -> None:
    bar = {"indicator_name": "VIX", "source": "yahoo.chart", "unit": "index"}
    first = macro(T0, 20.0, 77, known_at=T0 + HOUR, first_seen_at=T0 + 2 * HOUR, **bar)
    revised = macro(T0, 21.0, 5, known_at=T0 + HOUR, first_seen_at=T0 + 9 * HOUR, **bar)
    put(sqlite_db, MACRO, first | {"event_version": 1}, revised | {"event_version": 2})
    assert shown(sqlite_db, MACRO, ("VIX", "yahoo.chart")) == [(T0, 21.0, T0 + 9 * HOUR)]
    assert shown(sqlite_db, MACRO, ("VIX", "yahoo.chart"), as_of=T0 + 9 * HOUR - 1) == [(T0, 20.0, T0 + HOUR)]


def test_the_version_shown_is_the_one_worked_out_by_hand(db: Database) -> None:
    rng = random.Random(5)
    rows: dict[tuple, dict] = {}
    for _ in range(150):
        at, value, seen = T0 + rng.randrange(12) * HOUR, float(rng.randrange(4)), T0 + rng.randrange(60) * HOUR
        row = onchain(at, value, seen, event_version=rng.randrange(3))
        row["known_at"] = min(row["known_at"], seen)
        row["fetched_at"] += rng.randrange(2) * rng.randrange(30) * HOUR  # seen again
        rows.setdefault((at, row["version"]), row)
    put(db, ONCHAIN, *rows.values())
    for as_of in (None, *(T0 + hours * HOUR for hours in (0, 3, 7, 20, 40, 60))):
        assert shown(db, ONCHAIN, GROUP, as_of=as_of) == by_hand(list(rows.values()), as_of), as_of


def by_hand(rows: list[dict], as_of: int | None) -> list[tuple]:
    found = []
    for at in sorted({row["event_time"] for row in rows}):
        versions = [row for row in rows if row["event_time"] == at]
        first = min(row["first_seen_at"] for row in versions)
        known = [(row["known_at"] if row["first_seen_at"] == first else row["first_seen_at"], row) for row in versions]
        known = [pair for pair in known if as_of is None or pair[0] <= as_of]
        if known:
            when, best = max(known, key=lambda pair: place(pair[1], as_of))
            found.append((at, best["value"], when))
    return found


def place(row: dict, as_of: int | None) -> tuple:
    seen = row["fetched_at"] if as_of is None or row["fetched_at"] <= as_of else row["first_seen_at"]
    return (*((row | {"fetched_at": seen})[name] for name in ORDER_COLUMNS), row["version"])


def test_series_come_in_key_order_and_pages_join(db: Database) -> None:
    instruments = [("binance", "BTCUSDT"), ("binance", "BTCUSDC"), ("okx", "BTC-USDT-SWAP")]
    rows = [
        derivative(T0 + n * HOUR, float(n), metric=metric, venue=venue, instrument=instrument)
        for metric in ("open_interest_usd", "funding_rate")
        for venue, instrument in instruments
        for n in range(4)
    ]
    put(db, DERIVATIVES, *rows, derivative(T0, 1.0, asset_id=2))
    with db.read() as conn:
        every = list(source_queries.groups(conn, DERIVATIVES, (1,)))
        assert every == sorted({(1, m, v, i) for m in ("funding_rate", "open_interest_usd") for v, i in instruments})
        for n, group in enumerate(every):
            assert list(source_queries.groups(conn, DERIVATIVES, (1,), group)) == every[n + 1 :]
        assert list(source_queries.groups(conn, DERIVATIVES, (1, "funding_rate", "okx"))) == [
            (1, "funding_rate", "okx", "BTC-USDT-SWAP")
        ]
        assert source_queries.names(conn, DERIVATIVES) == [1, 2]
        whole = source_queries.history(conn, DERIVATIVES, (1, "funding_rate"), start=T0 + HOUR, end=None)
        pages, after = [], None
        while rows := source_queries.history(
            conn, DERIVATIVES, (1, "funding_rate"), start=T0 + HOUR, end=None, after=after, limit=2
        ):
            pages += rows
            after = (tuple(rows[-1][name] for name in DERIVATIVES.group), rows[-1]["event_time"])
        assert pages == whole
        assert len(whole) == 9


def test_the_latest_is_the_newest_that_has_a_value(sqlite_db: Database) -> None:
    put(sqlite_db, MACRO, macro(T0, 4.0, T0), macro(T0 + DAY, 5.0, T0 + DAY), macro(T0 + 2 * DAY, None, T0 + 2 * DAY))
    put(sqlite_db, FEAR_GREED, feeling(T0, 40.0), feeling(T0 + DAY, 50.0))
    with sqlite_db.read() as conn:
        rows = source_queries.latest(conn, MACRO, ("UNRATE", "fred.observations"), 2)
        assert [(row["indicator_date"], row["value"]) for row in rows] == [(T0 + DAY, 5.0), (T0, 4.0)]
        assert source_queries.latest(conn, FEAR_GREED, ("alternative_me.fng",))[0]["value"] == 50.0


# --- cost ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["sqlite", pytest.param("mariadb", marks=pytest.mark.integration)])
def full(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Numbers of a few series, hourly."""
    yield from filled(request, tmp_path_factory, "series_plans", history)


def filled(request, tmp_path_factory, name, fill) -> Iterator[Database]:
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path_factory.mktemp(name) / 'node.db'}")
    else:
        port = request.getfixturevalue("mariadb_port")
        server = Database(f"mysql+pymysql://node:node@127.0.0.1:{port}/mysql")
        server.run(lambda conn: conn.execute(text(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")))
        server.dispose()
        database = Database(f"mysql+pymysql://node:node@127.0.0.1:{port}/{name}")
    migrate.upgrade(database)
    fill(database)
    yield database
    if database.dialect == "mysql":
        database.run(lambda conn: conn.execute(text(f"DROP DATABASE {name}")))
    database.dispose()


def history(db: Database, hours: range = range(150)) -> None:
    times = [T0 + n * HOUR for n in hours]
    names = [(asset, metric) for asset in (1, 2, 3) for metric in ("a", "b", "c")]
    db.run_chunked(ONCHAIN.table, [onchain(at, 1.0, asset_id=a, metric=m) for a, m in names for at in times])
    venues = [(m, v) for m in ("funding_rate", "oi") for v in ("binance", "okx")]
    db.run_chunked(DERIVATIVES.table, [derivative(at, 1.0, metric=m, venue=v) for m, v in venues for at in times])
    db.run_chunked(FEAR_GREED.table, [feeling(at, 1.0) for at in times])
    indicators = [(n, s) for n in ("DGS10", "UNRATE", "VIX") for s in ("fred.observations", "yahoo.chart")]
    db.run_chunked(MACRO.table, [macro(at, 1.0, at, indicator_name=n, source=s) for n, s in indicators for at in times])


GROUPS = {
    "onchain": (ONCHAIN, (1, "b", "coinmetrics.asset_metrics")),
    "derivatives": (DERIVATIVES, (1, "oi", "binance", "BTCUSDT")),
    "fear and greed": (FEAR_GREED, ("alternative_me.fng",)),
    "macro of FRED": (MACRO, ("UNRATE", "fred.observations")),
    "macro": (MACRO, ("VIX", "yahoo.chart")),
}


def test_reads_use_an_index(full: Database) -> None:
    for name, (series, group) in GROUPS.items():
        queries = {
            "latest": source_queries.latest_query(series, group),
            "history": source_queries.series_query(series, group, start=T0, end=T0 + DAY),
            "as of": source_queries.series_query(series, group, start=T0, end=T0 + DAY, as_of=T0 + DAY),
            "first name": source_queries.next_value_query(series, (), group[0]),
            "last name": source_queries.next_value_query(series, group[:-1], None),
        }
        for what, query in queries.items():
            with full.read() as conn:
                lines = plan(conn, query)
            assert full_scans(lines) == [], (name, what, lines)


def test_their_cost_does_not_grow_with_history(full: Database) -> None:
    reads = {}
    for name, (series, group) in GROUPS.items():
        reads[name] = lambda conn, series=series, group=group: [
            source_queries.latest(conn, series, group),
            list(source_queries.groups(conn, series)),
            source_queries.history(conn, series, group, start=T0 + DAY, end=T0 + 2 * DAY, as_of=T0 + 9 * DAY),
        ]
    before = {name: rows_read(full, read) for name, read in reads.items()}
    history(full, range(150, 450))
    for name, read in reads.items():
        assert rows_read(full, read) <= before[name] * 1.3 + 5, name

"""The ledger of gaps: pure transitions against a naive model, and the database's view of what is stored."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_app.assets import Asset
from ray_app.collection import datasets, gaps
from ray_app.collection.collectors.base import Absences
from ray_app.collection.datasets import PRICES, Tier
from ray_app.collection.expectation import SlotRange, each_slot, from_slots
from ray_app.collection.schedule import Schedule
from ray_app.storage import ledger
from ray_app.storage.engine import Database
from ray_app.storage.ledger import LedgerEntry
from ray_app.storage.migrate import upgrade
from ray_app.storage.tables import ohlc_data, price_data_real
from ray_app.storage.upsert import guarded_upsert
from tests.collection.world import HOUR, MINUTE, START

STEP = 5 * MINUTE
ORDER = {"event_version": 1, "fetched_at": 1, "parser_version": 1, "payload_hash": "0" * 64}


@pytest.fixture
def db(database_url):
    database = Database(database_url)
    upgrade(database)
    yield database
    database.dispose()


def price(asset_id, slot, source="coingecko.markets"):
    return {
        "asset_id": asset_id,
        "slot": slot,
        "source": source,
        "interval_s": 300,
        "event_time": slot,
        "known_at": slot,
        "current_price": 1.0,
        **ORDER,
    }


def candle(asset_id, open_time, interval_s=3_600, version=1):
    return {
        "asset_id": asset_id,
        "venue": "coinbase",
        "interval_s": interval_s,
        "open_time": open_time,
        "version": version,
        "known_at": open_time,
        "first_seen_at": open_time,
        "open_price": 1.0,
        "high_price": 1.0,
        "low_price": 1.0,
        "close_price": 1.0,
        "volume": None,
        **ORDER,
    }


def slots(entries, state):
    ranges = [SlotRange(e.start, e.end) for e in entries if e.state == state]
    return set(each_slot(ranges, 300))


some_slots = st.sets(st.integers(0, 24)).map(lambda numbers: {n * STEP for n in numbers})


@given(
    looks=st.lists(st.tuples(some_slots, some_slots), min_size=1, max_size=6),
    facts=st.lists(st.tuples(some_slots, st.sampled_from(gaps.SETTLED)), max_size=3),
)
def test_ledger_agrees_with_a_dictionary_of_slots(looks, facts):
    entries: list[LedgerEntry] = []
    model: dict[int, str] = {}
    window = SlotRange(0, 25 * STEP)
    for number, (known, state) in enumerate(facts):
        entries = gaps.overlay(entries, PRICES, 1, from_slots(sorted(known), 300), state, "why", number)
        model |= dict.fromkeys(known, state)
    for number, (owing, stored) in enumerate(looks):
        settled = {slot for slot, state in model.items() if state in gaps.SETTLED}
        owes = owing - stored - settled
        entries = gaps.settle(
            entries, PRICES, 1, window, from_slots(sorted(owes), 300), from_slots(sorted(stored), 300), 100 + number
        )
        for slot, state in list(model.items()):
            if state != gaps.REPAIRED and slot in stored:
                model[slot] = gaps.REPAIRED
            elif state == gaps.OWED and slot not in owes:
                del model[slot]
        model |= dict.fromkeys(owes, gaps.OWED)
        for state in gaps.STATES:
            assert slots(entries, state) == {slot for slot, s in model.items() if s == state}
        bounds = [(e.start, e.end) for e in entries]
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(bounds)), "ranges overlap"
        assert all(
            (a.end, a.state, a.reason) != (b.start, b.state, b.reason) for a, b in itertools.pairwise(entries)
        ), "neighbours of one state are not merged"


def test_gap_keeps_the_time_it_was_first_seen_while_it_grows_and_ends():
    entries: list[LedgerEntry] = []
    for number in range(1, 4):
        owing = [SlotRange(0, number * STEP)]
        entries = gaps.settle(entries, PRICES, 1, SlotRange(0, number * STEP), owing, [], now=number)
    assert [(e.start, e.end, e.state, e.detected_at) for e in entries] == [(0, 3 * STEP, "owed", 1)]
    entries = gaps.settle(
        entries, PRICES, 1, SlotRange(0, 3 * STEP), [SlotRange(0, STEP)], [SlotRange(STEP, 3 * STEP)], 9
    )
    assert [(e.start, e.state, e.detected_at, e.updated_at) for e in entries] == [
        (0, "owed", 1, 3),
        (STEP, "repaired", 1, 9),
    ]


def test_what_lies_outside_the_window_is_left_alone():
    entry = LedgerEntry(PRICES, 1, 0, 10 * STEP, "owed", None, 1, 1)
    after = gaps.settle([entry], PRICES, 1, SlotRange(8 * STEP, 12 * STEP), [], [SlotRange(8 * STEP, 10 * STEP)], 5)
    assert [(e.start, e.end, e.state) for e in after] == [(0, 8 * STEP, "owed"), (8 * STEP, 10 * STEP, "repaired")]


@given(stored=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 40), st.integers(0, 2)), max_size=80))
def test_stored_ranges_are_those_of_the_slots(tmp_path_factory, stored):
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('ranges')}/node.db")
    try:
        price_data_real.create(database._writing)
        sources = ("coingecko.markets", "coinbase.candles", "coinbase.exchange_rates")
        database.run(
            lambda c: guarded_upsert(c, price_data_real, [price(a, n * STEP, sources[s]) for a, n, s in stored])
        )
        for interval_s in (300, 3_600):
            with database.read() as conn:
                found = ledger.stored_ranges(conn, PRICES, [1, 2, 3], interval_s, 2 * STEP, 36 * STEP)
            for asset_id in (1, 2, 3):
                mine = {n * STEP for a, n, _ in stored if a == asset_id and 2 <= n < 36 and n * 300 % interval_s == 0}
                assert [SlotRange(*r) for r in found.get(asset_id, [])] == from_slots(sorted(mine), interval_s)
    finally:
        database.dispose()


def test_stored_ranges_on_both_databases(db):
    rows = [price(1, START + n * STEP) for n in (0, 1, 2, 5, 6)] + [price(1, START + STEP, "coinbase.candles")]
    bars = [candle(1, START + n * HOUR) for n in (0, 1, 3)] + [candle(1, START + HOUR, version=2)]
    other = [candle(1, START + 2 * HOUR, 300)]

    def store(conn):
        guarded_upsert(conn, price_data_real, rows)
        guarded_upsert(conn, ohlc_data, bars + other)

    db.run(store)
    with db.read() as conn:
        prices = ledger.stored_ranges(conn, PRICES, [1, 2], 300, START, START + HOUR)
        hours = ledger.stored_ranges(conn, "candles-3600", [1], 3_600, START, START + 10 * HOUR)
    assert prices == {1: [(START, START + 3 * STEP), (START + 5 * STEP, START + 7 * STEP)]}
    assert hours == {1: [(START, START + 2 * HOUR), (START + 3 * HOUR, START + 4 * HOUR)]}


def declare(db, tiers, now, dataset=PRICES):
    return db.run(lambda conn: datasets.declare(conn, dataset, tiers, now))


def fast(*ids, start=START):
    return Tier(Schedule(PRICES, 300), start, frozenset(ids))


def slow(*ids, start=START):
    return Tier(Schedule(PRICES, 3_600), start, frozenset(ids))


def test_changed_tiers_make_a_new_version_and_the_past_stays_expected(db):
    first = declare(db, [fast(1), slow(2)], START)
    assert declare(db, [fast(1, start=START + HOUR), slow(2)], START + HOUR) == first, "the same again is no change"
    plan = declare(db, [fast(1, 2)], START + HOUR + 1)
    assert [(v.number, v.valid_from, v.valid_to) for v in plan.versions] == [
        (1, START, START + 2 * HOUR),
        (2, START + 2 * HOUR, None),
    ]
    two = Asset(2, "TWO", "two", "Two")
    wanted = plan.expected(two, 0, START + 3 * HOUR)
    assert [(part.interval_s, part.range) for part in wanted] == [
        (3_600, SlotRange(START, START + 2 * HOUR)),
        (300, SlotRange(START + 2 * HOUR, START + 3 * HOUR + STEP)),
    ]
    assert plan.next_due(START + HOUR) == START + HOUR + STEP


def revisit(db, plan, assets, before, now):
    with db.read() as conn:
        looks = gaps.look_back(conn, plan, assets, before, now)
    return sum(db.run(lambda c, look=look: gaps.amend(c, plan, look, now)) for look in looks)


def test_survey_counts_and_the_ledger_follow_what_is_stored(db):
    one, two = Asset(1, "ONE", "one", "One"), Asset(2, "TWO", "two", "Two")
    plan = declare(db, [fast(1, 2)], START)
    now = START + 10 * STEP
    db.run(
        lambda c: guarded_upsert(c, price_data_real, [price(1, START + n * STEP) for n in range(11) if n not in (3, 4)])
    )
    db.run(lambda c: gaps.mark(c, PRICES, 2, [SlotRange(START, START + 2 * STEP)], "unrepairable", "why", now))

    def look(conn):
        datasets.load(conn, PRICES, lock=True)
        seen = gaps.survey(conn, plan, [one, two], START, now)
        gaps.record(conn, seen, now)
        return seen

    seen = db.run(look)
    assert seen.counts() == (22, 9, 2, 2 + 9)
    with db.read() as conn:
        rows = [(e.asset_id, e.start, e.end, e.state) for e in ledger.entries(conn, PRICES)]
    assert rows == [
        (1, START + 3 * STEP, START + 5 * STEP, "owed"),
        (2, START, START + 2 * STEP, "unrepairable"),
        (2, START + 2 * STEP, START + 11 * STEP, "owed"),
    ]
    db.run(lambda c: guarded_upsert(c, price_data_real, [price(1, START + 3 * STEP)]))
    db.run(look)
    with db.read() as conn:
        mine = [(e.start, e.end, e.state) for e in ledger.entries(conn, PRICES, asset_ids=[1])]
    assert mine == [
        (START + 3 * STEP, START + 4 * STEP, "repaired"),
        (START + 4 * STEP, START + 5 * STEP, "owed"),
    ]


@pytest.mark.parametrize("dataset", [PRICES, "candles-3600"])
def test_a_range_filled_long_after_it_was_seen_is_repaired_though_no_look_reaches_back_to_it(db, dataset):
    """Looks cover a day; an outage of a week, or daily bars, are filled beyond that."""
    step, of = (STEP, price) if dataset == PRICES else (HOUR, candle)
    table = price_data_real if dataset == PRICES else ohlc_data
    one, two = (Asset(n, f"A{n}", f"a{n}", f"A{n}", f"A{n}-USD") for n in (1, 2))
    tier = Tier(Schedule(dataset, step // 1_000), START, frozenset({1, 2}) if dataset == PRICES else None)
    plan = db.run(lambda c: datasets.declare(c, dataset, [tier], START))
    now = START + 100 * step
    lost = SlotRange(START, START + 10 * step)
    db.run(lambda c: gaps.mark(c, dataset, 1, [lost], "owed", None, now))
    db.run(lambda c: gaps.mark(c, dataset, 2, [lost], "unrepairable", "why", now))
    assert revisit(db, plan, [one, two], now, now) == 0, "nothing has come"
    rows = [of(asset_id, START + n * step) for asset_id in (1, 2) for n in range(10) if n != 4]
    db.run(lambda c: guarded_upsert(c, table, rows))
    assert revisit(db, plan, [one, two], START, now) == 0, "the look of the day sees to these"
    assert revisit(db, plan, [one, two], now, now) > 0
    with db.read() as conn:
        entries = ledger.entries(conn, dataset)
    assert [(e.asset_id, e.state, (e.end - e.start) // step) for e in entries] == [
        (1, "repaired", 4),
        (1, "owed", 1),
        (1, "repaired", 5),
        (2, "repaired", 4),
        (2, "unrepairable", 1),
        (2, "repaired", 5),
    ]
    assert revisit(db, plan, [one, two], now, now) == 0


def test_assets_that_ended_owe_nothing_after_their_end(db):
    plan = declare(db, [fast(1)], START)
    ended = Asset(1, "ONE", "one", "One", status="merged", valid_to=START + 3 * STEP + 1)
    gone = Asset(1, "ONE", "one", "One", status="inactive")
    with db.read() as conn:
        assert gaps.survey(conn, plan, [ended], START, START + HOUR).counts()[0] == 3
        assert gaps.survey(conn, plan, [gone], START, START + HOUR).counts()[0] == 0


def test_missing_bar_is_believed_when_bars_surround_it_or_it_is_missing_twice():
    absences, late = Absences(), 100 * STEP
    asked = SlotRange(0, 6 * STEP)
    first = absences.judge("d", 1, asked, STEP, present=[2 * STEP, 4 * STEP], doubtful=[], now=late)
    assert first == [SlotRange(3 * STEP, 4 * STEP)], "the edges may be a page cut short"
    second = absences.judge("d", 1, SlotRange(0, 2 * STEP), STEP, present=[], doubtful=[STEP], now=late)
    assert second == [SlotRange(0, STEP)], "a bar that contradicts itself is not missing"
    assert absences.judge("d", 2, SlotRange(0, STEP), STEP, present=[], doubtful=[], now=late) == []


def test_missing_bar_is_not_believed_before_a_whole_interval_has_passed_since_it_closed():
    absences = Absences()
    for _ in range(3):
        assert absences.judge("d", 1, SlotRange(0, STEP), STEP, present=[], doubtful=[], now=2 * STEP - 1) == []
    assert absences.judge("d", 1, SlotRange(0, STEP), STEP, present=[], doubtful=[], now=2 * STEP) == [
        SlotRange(0, STEP)
    ]

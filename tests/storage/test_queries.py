"""Named reads: what they answer, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import insert, text

from ray_app.errors import StorageError
from ray_app.storage import ledger, queries
from ray_app.storage.engine import Database
from ray_app.storage.tables import (
    VIEWS,
    collection_gaps,
    collector_runs,
    crypto_assets,
    fetches,
    market_data,
    ohlc_data,
    price_data_real,
)
from ray_app.storage.upsert import guarded_upsert
from tests.storage.samples import MINUTE, T0, Record, asset, candle, digest, price

SLOT = 5 * MINUTE
HOUR = 60 * MINUTE


def fill(db: Database, **tables: list[Record]) -> None:
    by_name = {"assets": crypto_assets, "gaps": collection_gaps, "fetches": fetches, "runs": collector_runs}
    guarded = {"prices": price_data_real, "candles": ohlc_data, "market": market_data}
    for name, rows in tables.items():
        if name in guarded:
            db.run(lambda conn, name=name, rows=rows: guarded_upsert(conn, guarded[name], rows))
        else:
            db.run(lambda conn, name=name, rows=rows: conn.execute(insert(by_name[name]), rows))


def ask(db: Database, query: Any, *arguments: Any, **options: Any) -> Any:
    with db.read() as conn:
        return query(conn, *arguments, **options)


# --- prices ---------------------------------------------------------------------------------------------------


def test_live_ticks_are_no_observations(db: Database) -> None:
    ticks = [price(1, T0 + slot * SLOT, source=queries.TICKS, current_price=9.0, market_cap=None) for slot in range(4)]
    fill(db, assets=[asset(1), asset(2)], prices=[price(1, T0, current_price=1.0), *ticks])
    fill(db, prices=[price(2, T0, source=queries.TICKS, current_price=7.0)])
    assert [(row["slot"], row["current_price"]) for row in ask(db, queries.current_prices)] == [(T0, 1.0)]
    assert ask(db, queries.newest_slots, "prices") == {1: T0}
    assert ask(db, queries.stored_slots, "prices", [1, 2], T0, T0 + 9 * SLOT) == {1: [T0], 2: []}
    assert [row["slot"] for row in ask(db, queries.price_history, 1, T0, T0 + 9 * SLOT)] == [T0]
    ranges = ask(db, ledger.stored_ranges, "prices", [1, 2], 300, T0, T0 + 9 * SLOT)
    assert ranges == {1: [(T0, T0 + SLOT)]}
    assert len(ask(db, queries.venue_prices, 1, T0)) == 2, "who asks for every venue gets them"


def test_the_views_of_prices_leave_live_ticks_out(db: Database) -> None:
    fill(
        db,
        assets=[asset(1)],
        prices=[price(1, T0, current_price=1.0), price(1, T0 + SLOT, source=queries.TICKS, current_price=9.0)],
    )
    for view in ("price_current", "crypto_prices_view"):
        found = ask(db, lambda conn, view=view: conn.execute(text(f"SELECT slot, current_price FROM {view}")).all())
        assert [tuple(row) for row in found] == [(T0, 1.0)], view


def test_the_current_price_is_the_newest_slot_from_the_best_source(db: Database) -> None:
    fill(
        db,
        assets=[asset(1), asset(2), asset(3), asset(4)],
        prices=[
            price(1, T0, current_price=1.0),
            price(1, T0 + SLOT, source="coinbase.exchange_rates", current_price=2.0),
            price(1, T0 + SLOT, source="coinbase.candles", current_price=3.0),
            price(1, T0 + SLOT, source="coingecko.market_chart", current_price=4.0),
            price(2, T0, source="coinbase.candles", current_price=5.0),
            price(2, T0, source="coingecko.markets", current_price=6.0, market_cap=None),
            price(3, T0, source="zzz.unranked", current_price=7.0),
            price(3, T0, source="aaa.unranked", current_price=8.0),
        ],
    )
    found = ask(db, queries.current_prices)
    assert [(row["symbol"], row["slot"], row["current_price"]) for row in found] == [
        ("S1", T0 + SLOT, 3.0),
        ("S2", T0, 6.0),
        ("S3", T0, 8.0),
    ]
    assert found[1]["market_cap"] is None
    assert ask(db, queries.current_price, 1) == found[0]
    assert ask(db, queries.current_price, 4) is None
    assert [row["current_price"] for row in ask(db, queries.venue_prices, 1, T0 + SLOT)] == [3.0, 4.0, 2.0]


def test_price_history_has_one_row_per_slot_and_pages(db: Database) -> None:
    rows = [price(1, T0 + i * SLOT, current_price=float(i)) for i in range(6)]
    fill(db, prices=[*rows, price(1, T0, source="coinbase.candles", current_price=99.0), price(2, T0)])
    found = ask(db, queries.price_history, 1, T0, T0 + 5 * SLOT)
    assert [row["current_price"] for row in found] == [0.0, 1.0, 2.0, 3.0, 4.0]
    first = ask(db, queries.price_history, 1, T0, T0 + 5 * SLOT, limit=3)
    rest = ask(db, queries.price_history, 1, first[-1]["slot"] + 1, T0 + 5 * SLOT, limit=3)
    assert first + rest == found


# --- candles --------------------------------------------------------------------------------------------------


def test_candles_are_the_versions_that_stand_last_in_the_order(db: Database) -> None:
    plain, original = candle(1, T0), candle(1, T0 + HOUR, 5.0)
    revised = candle(1, T0 + HOUR, 6.0, fetched_at=T0 + 9 * HOUR, first_seen_at=T0 + 9 * HOUR)
    back_again = original | {"fetched_at": T0 + 20 * HOUR, "first_seen_at": T0 + 20 * HOUR}
    others = [candle(1, T0, venue="coingecko"), candle(1, T0, interval_s=300), candle(2, T0)]
    fill(db, candles=[revised, plain, original, *others])

    def closes() -> list[tuple[float, int]]:
        found = ask(db, queries.candles, 1, "coinbase", 3_600, T0, T0 + 2 * HOUR)
        return [(row["close_price"], row["known_at"]) for row in found]

    # a correction could be known only from when it was seen, not from when the bar closed
    assert closes() == [(2.0, plain["known_at"]), (6.0, T0 + 9 * HOUR)]
    fill(db, candles=[back_again])
    assert closes() == [(2.0, plain["known_at"]), (5.0, original["known_at"])]
    assert ask(db, queries.candles, 1, "coinbase", 3_600, T0, T0 + HOUR, limit=5)[0]["open_time"] == T0
    assert len(ask(db, queries.candles, 1, "coinbase", 3_600, T0, T0 + 2 * HOUR, limit=1)) == 1


# --- stored and owed ------------------------------------------------------------------------------------------


def test_stored_and_newest_slots_of_each_dataset(db: Database) -> None:
    fill(
        db,
        assets=[asset(1), asset(2)],
        prices=[price(1, T0), price(1, T0, source="coinbase.candles"), price(1, T0 + SLOT), price(1, T0 + 2 * SLOT)],
        candles=[candle(1, T0), candle(1, T0, 9.0), candle(1, T0 + HOUR), candle(1, T0, venue="coingecko")],
    )
    assert ask(db, queries.stored_slots, "prices", [1, 2], T0, T0 + 2 * SLOT) == {1: [T0, T0 + SLOT], 2: []}
    assert ask(db, queries.stored_slots, "candles-3600", [1], 0, T0 + 9 * HOUR) == {1: [T0, T0 + HOUR]}
    assert ask(db, queries.stored_slots, "candles-300", [1], 0, T0 + 9 * HOUR) == {1: []}
    assert ask(db, queries.newest_slots, "prices") == {1: T0 + 2 * SLOT}
    assert ask(db, queries.newest_slots, "candles-3600") == {1: T0 + HOUR}
    assert ask(db, queries.newest_slots, "candles-86400") == {}
    with pytest.raises(StorageError, match="no dataset is called 'candles-7'"):
        ask(db, queries.stored_slots, "candles-7", [1], 0, 1)


def test_the_gap_ledger_is_read_in_pages_and_counted(db: Database) -> None:
    def gap(asset_id: int, start: int, state: str, dataset: str = "prices") -> Record:
        times = {"detected_at": T0, "updated_at": T0}
        return {"dataset": dataset, "asset_id": asset_id, "start": start, "end": start + SLOT, "state": state} | times

    rows = [gap(1, T0, "owed"), gap(1, T0 + HOUR, "repaired"), gap(2, T0, "owed"), gap(2, T0 + HOUR, "owed")]
    fill(db, gaps=[*rows, gap(1, T0, "owed", "candles-300")])
    found = ask(db, queries.gaps, "prices")
    assert [(row["asset_id"], row["start"]) for row in found] == [(1, T0), (1, T0 + HOUR), (2, T0), (2, T0 + HOUR)]
    assert [row["asset_id"] for row in ask(db, queries.gaps, "prices", states=["owed"], limit=2)] == [1, 2]
    assert ask(db, queries.gaps, "prices", states=["owed"], after=(2, T0)) == [found[3]]
    assert ask(db, queries.gaps, "prices", asset_id=1) == found[:2]
    assert ask(db, queries.gap_counts) == [
        {"dataset": "candles-300", "state": "owed", "ranges": 1, "oldest": T0, "newest": T0 + SLOT},
        {"dataset": "prices", "state": "owed", "ranges": 3, "oldest": T0, "newest": T0 + HOUR + SLOT},
        {"dataset": "prices", "state": "repaired", "ranges": 1, "oldest": T0 + HOUR, "newest": T0 + HOUR + SLOT},
    ]


def test_fields_that_repairs_could_not_give_are_counted_over_repaired_slots_alone(db: Database) -> None:
    gap = {"dataset": "prices", "asset_id": 1, "start": T0, "end": T0 + 3 * SLOT, "state": "repaired"}
    polled = price(1, T0 + SLOT, market_cap=5.0, volume_usd_24h=6.0)
    repaired = [price(1, T0 + n * SLOT, source="coinbase.candles", market_cap=None) for n in range(3)]
    charted = price(1, T0 + 2 * SLOT, source="coingecko.market_chart", market_cap=7.0, volume_usd_24h=None)
    fill(
        db,
        assets=[asset(1), asset(2)],
        prices=[polled, *repaired, charted, price(1, T0 + 3 * SLOT), price(2, T0)],
        gaps=[gap | {"detected_at": T0, "updated_at": T0}],
    )
    slots, null = ask(db, queries.repaired_fields)
    assert slots == 3
    assert (null["market_cap"], null["volume_usd_24h"], null["ath"]) == (1, 2, 3)
    assert "current_price" not in null


# --- fetches, collectors, the market --------------------------------------------------------------------------


def fetch(fetch_id: int, **more: Any) -> Record:
    row = {"fetch_id": fetch_id, "source": "coingecko.markets", "collector": "crypto-prices", "request": "{}"}
    row |= {"status": 200, "fetched_at": T0 + fetch_id, "payload_hash": digest(fetch_id), "payload_bytes": 10}
    return row | {"segment": "s", "position": 0, "outcome": "ok", "row_count": 3} | more


def test_fetches_are_counted_paged_and_found_by_payload(db: Database) -> None:
    late = fetch(4, outcome="malformed", row_count=0, payload_hash=digest(2))
    fill(db, fetches=[fetch(1), fetch(2), fetch(3), late])
    common = {"collector": "crypto-prices", "source": "coingecko.markets"}
    assert ask(db, queries.fetch_stats, T0 + 2) == [
        common | {"outcome": "malformed", "fetches": 1, "row_count": 0, "payload_bytes": 10, "last_fetched_at": T0 + 4},
        common | {"outcome": "ok", "fetches": 2, "row_count": 6, "payload_bytes": 20, "last_fetched_at": T0 + 3},
    ]
    assert [row["fetch_id"] for row in ask(db, queries.fetches_page, after=1, limit=2)] == [2, 3]
    assert [row["fetch_id"] for row in ask(db, queries.fetches_of_payload, digest(2))] == [2, 4]


def test_collector_runs_and_the_market_now(db: Database) -> None:
    order = {"event_version": 1, "fetched_at": 1, "parser_version": 1, "payload_hash": digest(1)}
    rows = [
        {"source": "coingecko.global", "event_time": T0 + i, "known_at": T0 + i, "markets": i} | order
        for i in (2, 7, 5)
    ]
    assert ask(db, queries.market_now) is None
    fill(db, market=rows, runs=[{"collector": name, "runs": 1, "failures": 0} for name in ("b", "a")])
    assert ask(db, queries.market_now)["markets"] == 7
    assert [row["collector"] for row in ask(db, queries.collector_runs)] == ["a", "b"]


# --- views for consumers of SQL -------------------------------------------------------------------------------


def test_views_show_the_current_facts_with_symbols_and_utc_times(db: Database) -> None:
    moment = int(datetime(2026, 3, 29, 1, 30, 0, 250_000, UTC).timestamp() * 1_000)  # no such local time in Berlin
    fill(
        db,
        assets=[asset(1), asset(2)],
        prices=[
            price(1, T0),
            price(1, T0 + SLOT, event_time=moment, current_price=2.5, volume_usd_24h=9.0),
            price(1, T0 + SLOT, source="coinbase.candles"),
            price(2, T0, current_price=1e-9),
        ],
        candles=[candle(1, moment, 5.0), candle(1, moment, 6.0, fetched_at=T0 * 2, first_seen_at=T0 * 2)],
    )
    as_stored: Any = "2026-03-29T01:30:00.250Z" if db.dialect == "sqlite" else datetime(2026, 3, 29, 1, 30, 0, 250_000)

    def view(name: str) -> list[Record]:
        with db.read() as conn:
            if db.dialect == "mysql":
                conn.execute(text("SET time_zone = '+05:00'"))  # a consumer's session is not ours
            return [
                dict(row._mapping)
                for row in conn.execute(text(f"SELECT * FROM {name} ORDER BY asset_id, timestamp_iso"))
            ]

    history, current, (bar,) = view("crypto_prices_view"), view("price_current"), view("ohlc_current")
    assert [(row["symbol"], row["slot"]) for row in history] == [("S1", T0), ("S1", T0 + SLOT), ("S2", T0)]
    assert current == [history[1], history[2]]
    assert tuple(current[0]) == VIEWS["price_current"]
    first = current[0]
    assert (first["timestamp"], first["timestamp_iso"], first["data_source"]) == (
        moment,
        as_stored,
        "coingecko.markets",
    )
    assert (first["current_price"], first["volume_usd_24h"], first["market_cap"]) == (2.5, 9.0, None)
    assert current[1]["current_price"] == 1e-9
    assert tuple(bar) == VIEWS["ohlc_current"]
    assert (bar["close_price"], bar["known_at"], bar["timestamp_iso"]) == (6.0, T0 * 2, as_stored)

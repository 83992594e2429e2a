"""What is done now and then: sources compared, lags measured, one failing step holding up no other."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from ray_app.assets import AssetRegistry
from ray_app.clock import DAY_MS, HOUR_MS
from ray_app.collection import availability, housekeeping, retention
from ray_app.errors import ArchiveError
from ray_app.settings import Settings
from ray_app.storage import registry
from ray_app.storage.engine import Database
from ray_app.storage.migrate import upgrade
from ray_app.storage.tables import (
    data_quality_events,
    derivatives_data,
    fear_greed,
    macro_indicators,
    onchain_data,
    source_availability,
)
from ray_app.storage.upsert import guarded_upsert

NOW = 1_795_507_200_000
DAY = NOW - NOW % DAY_MS
BTC = AssetRegistry.seed().by_symbol("BTC")[0].asset_id


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    found = Database(f"sqlite:///{tmp_path}/node.db")
    upgrade(found)
    yield found
    found.dispose()


def order(fetched_at: int, digest: str = "a") -> dict[str, object]:
    return {"event_version": fetched_at, "fetched_at": fetched_at, "parser_version": 1, "payload_hash": digest * 64}


def close(name: str, source: str, value: float) -> dict[str, object]:
    return {
        "indicator_name": name,
        "source": source,
        "indicator_date": DAY - DAY_MS,
        "vintage": DAY - DAY_MS,
        "value": value,
        "unit": "index",
        "known_at": NOW - HOUR_MS,
        "first_seen_at": NOW - HOUR_MS,
        **order(NOW - HOUR_MS, "b" if source == "yahoo.chart" else "a"),
    }


def index_of(day: int, lag_ms: int) -> dict[str, object]:
    seen = day + lag_ms
    return {
        "source": "alternative_me.fng",
        "event_time": day,
        "version": 1,
        "value": 40.0,
        "known_at": seen,
        "first_seen_at": seen,
        **order(seen),
    }


def test_two_sources_that_contradict_each_other_are_told_once(db: Database) -> None:
    rows = [close("VIXCLS", "fred.observations", 17.0), close("VIX", "yahoo.chart", 21.0)]
    db.run(lambda conn: guarded_upsert(conn, macro_indicators, rows))
    assert housekeeping.compare(db, NOW) == 1
    assert housekeeping.compare(db, NOW + HOUR_MS) == 0
    with db.read() as conn:
        (event,) = conn.execute(select(data_quality_events)).all()
    assert (event.kind, event.payload_hash) == ("disagreement", "b" * 64)


def figure(source: str, value: float, version: int = 1) -> dict[str, object]:
    stamps = {"event_time": DAY, "version": version, "known_at": NOW, "first_seen_at": NOW}
    said = {"asset_id": BTC, "metric": "hash_rate", "source": source, "value": value}
    return {**said, **stamps, **order(NOW + version, source[0])}


def mark(venue: str, value: float, at: int = NOW) -> dict[str, object]:
    stamps = {"event_time": at, "version": 1, "known_at": at, "first_seen_at": at}
    said = {"asset_id": BTC, "metric": "mark_price", "venue": venue, "instrument": "BTCUSDT", "value": value}
    return {**said, **stamps, "source": f"{venue}.marks", **order(at, venue[0])}


def test_a_source_far_from_the_middle_of_all_is_named_by_its_standing_value(db: Database) -> None:
    rows = [
        figure("coinmetrics.asset_metrics", 9e20, version=1),
        figure("coinmetrics.asset_metrics", 6.1e20, version=2),  # it has revised itself
        figure("blockchain_com.chart", 6.0e20),
        figure("mempool.hashrate", 9.5e20),
    ]
    db.run(lambda conn: registry.save(conn, AssetRegistry.seed(), DAY))
    db.run(lambda conn: guarded_upsert(conn, onchain_data, rows))
    assert housekeeping.compare(db, NOW) == 1
    assert housekeeping.compare(db, NOW + HOUR_MS) == 0
    with db.read() as conn:
        (event,) = conn.execute(select(data_quality_events)).all()
    assert (event.subject, event.source) == ("bitcoin", "mempool.hashrate")
    assert "9.5e+20 by mempool.hashrate" in event.detail


@pytest.mark.parametrize(
    ("other", "at", "events"), [(100.9, NOW, 0), (101.2, NOW, 1), (101.2, NOW - 601_000, 0), (98.7, NOW - 599_000, 1)]
)
def test_two_venues_are_held_against_each_other_at_about_the_same_time(db, other: float, at: int, events: int) -> None:
    db.run(lambda conn: registry.save(conn, AssetRegistry.seed(), DAY))
    db.run(lambda conn: guarded_upsert(conn, derivatives_data, [mark("binance", 100.0), mark("bybit", other, at)]))
    assert housekeeping.compare(db, NOW) == events


def test_lags_are_measured_once_a_day_by_nearest_rank(db: Database) -> None:
    lags = [(n + 1) * 60_000 for n in range(20)]
    rows = [index_of(DAY - n * DAY_MS, lag) for n, lag in enumerate(lags, 1)]
    db.run(lambda conn: guarded_upsert(conn, fear_greed, rows))
    assert availability.store_day(db, NOW) == 1
    assert availability.store_day(db, NOW + HOUR_MS) == 0
    assert availability.store_day(db, NOW + DAY_MS) == 1
    with db.read() as conn:
        first = conn.execute(select(source_availability).order_by(source_availability.c.day)).first()
    assert (first.source, first.day, first.samples) == ("alternative_me.fng", DAY, 20)
    assert (first.p50_ms, first.p99_ms) == (10 * 60_000, 20 * 60_000)


def test_a_step_that_fails_holds_up_no_other(db: Database, tmp_path: Path, monkeypatch, caplog) -> None:
    def broken(*_: object) -> None:
        raise ArchiveError("the disk is gone")

    monkeypatch.setattr(retention, "purge", broken)
    db.run(lambda conn: guarded_upsert(conn, fear_greed, [index_of(DAY, 60_000)]))
    with caplog.at_level(logging.WARNING):
        housekeeping.one_round(Settings(_env_file=None, data_dir=tmp_path), db, NOW)
    assert "retention failed, the next round tries again: the disk is gone" in caplog.text
    with db.read() as conn:
        assert conn.execute(select(source_availability)).all()

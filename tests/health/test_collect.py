"""Evidence comes from schedules against what is stored, on a real database."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, update

from ray_app.assets import AssetRegistry
from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS, ManualClock
from ray_app.collection import datasets
from ray_app.collection.collectors.everything import FEED_COLLECTORS
from ray_app.collection.lease import LeaseKeeper
from ray_app.collection.schedule import Schedule
from ray_app.errors import CircuitOpen, StorageError
from ray_app.health.collect import GRACE_MS, archive_evidence, collect_evidence
from ray_app.health.evidence import CollectorEvidence, DatasetEvidence, Evidence, Probe, Slots
from ray_app.health.report import HealthReporter, health_details, health_summary
from ray_app.health.score import score
from ray_app.settings import Settings
from ray_app.storage import health_queries, ledger, records, registry
from ray_app.storage.engine import Database
from ray_app.storage.ledger import LedgerEntry
from ray_app.storage.tables import collector_runs, dead_letters, ohlc_data, price_data_real, quota_ledger
from ray_app.storage.upsert import guarded_upsert

NOW = 1_700_000_000_000 // HOUR_MS * HOUR_MS + 20 * MINUTE_MS
SLOT = 300_000
OK = Probe("ok")
ASSETS = [asset for asset in AssetRegistry.seed().active(NOW) if asset.coinbase_product is not None][:3]
IDS = [asset.asset_id for asset in ASSETS]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    # the collectors of feeds have evidence of the same kind, and tests of their own
    found = Settings(_env_file=None, DATA_DIR=tmp_path, collectors_off=tuple(kind.name for kind in FEED_COLLECTORS))
    found.archive_dir.mkdir(parents=True)
    return found


class Node:
    """A database in which three assets are collected: by default without any fault."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self.db, self.settings, self.clock = db, settings, ManualClock(NOW)
        db.run(lambda conn: registry.save(conn, AssetRegistry(ASSETS), NOW))
        self.schedule("prices", 300, NOW - DAY_MS // SLOT * SLOT - 2 * DAY_MS, frozenset(IDS))
        for interval_s, name in datasets.CANDLES.items():
            self.schedule(name, interval_s, (NOW - 10 * DAY_MS) // (interval_s * 1_000) * interval_s * 1_000, None)

    def schedule(self, name: str, interval_s: int, since: int, members: frozenset[int] | None) -> None:
        since = since // (interval_s * 1_000) * interval_s * 1_000
        tier = datasets.Tier(Schedule(name, interval_s), since, members)
        self.db.run(lambda conn: datasets.declare(conn, name, [tier], NOW))

    def price(self, asset_id: int, slot: int, **values: Any) -> dict[str, Any]:
        return {
            "asset_id": asset_id, "slot": slot, "source": "coingecko.markets", "interval_s": 300, "event_time": slot + 1,
            "known_at": slot + 2, "current_price": 1.0, **order(slot),
        } | values  # fmt: skip

    def prices(self, slots: Iterable[int], ids: Iterable[int] = IDS, **values: Any) -> None:
        rows = [self.price(asset_id, slot, **values) for asset_id in ids for slot in slots]
        self.db.run(lambda conn: guarded_upsert(conn, price_data_real, rows))

    def candles(self, interval_s: int, since: int, ids: Iterable[int] = IDS, until: int = NOW) -> None:
        step = interval_s * 1_000
        rows = [
            {
                "asset_id": asset_id, "venue": "coinbase", "interval_s": interval_s, "open_time": at, "version": 1,
                "known_at": at + step, "first_seen_at": at + step, "open_price": 1.0, "high_price": 1.0, "low_price": 1.0, "close_price": 1.0,
                **order(at),
            }
            for asset_id in ids
            for at in range(since // step * step, until - step + 1, step)
        ]  # fmt: skip
        self.db.run(lambda conn: guarded_upsert(conn, ohlc_data, rows))

    def runs(self, name: str, **values: Any) -> None:
        row = {
            "collector": name, "started_at": NOW - 60_000, "succeeded_at": NOW - 50_000, "next_run_at": NOW + 60_000,
            "runs": 5, "failures": 0,
        } | values  # fmt: skip
        self.db.run(lambda conn: conn.execute(insert(collector_runs).values(row)))

    def everything(self) -> Node:
        """All that is expected of the last three days, and collectors that run."""
        self.prices(range((NOW - 2 * DAY_MS) // SLOT * SLOT, NOW, SLOT))
        for interval_s in datasets.CANDLES:
            self.candles(interval_s, NOW - (6 * DAY_MS if interval_s == 86_400 else 2 * DAY_MS))
        for name in ("crypto-prices", "unified-ohlc", "asset-registry", "crypto-ticks"):
            self.runs(name)
            assert LeaseKeeper(self.db).acquire(name, "me", 60)
        return self

    def look(self, **values: Any) -> Evidence:
        probes = {"event_bus": OK, "streams": OK} | values
        return collect_evidence(self.db, self.clock, self.settings, up_since=NOW - DAY_MS, **probes)


def order(at: int) -> dict[str, Any]:
    return {"event_version": at, "fetched_at": at, "parser_version": 1, "payload_hash": "0" * 64}


def collector(evidence: Evidence, name: str) -> CollectorEvidence:
    return next(found for found in evidence.collectors if found.name == name)


def dataset(evidence: Evidence, name: str) -> DatasetEvidence:
    return next(d for c in evidence.collectors for d in c.datasets if d.dataset == name)


async def test_a_node_without_fault_scores_100(db: Database, settings: Settings) -> None:
    evidence = Node(db, settings).everything().look()
    health = score(evidence)
    assert health.losses == ()
    assert (health.score, health.status) == (100.0, "healthy")
    prices = dataset(evidence, "prices")
    assert prices.hour == Slots(36, 36)
    assert prices.day == Slots(3 * 288, 3 * 288)
    assert dataset(evidence, "candles-3600").day == Slots(3 * 24, 3 * 24)
    assert dataset(evidence, "candles-86400").day == Slots(3, 3)
    assert (evidence.redis.state, evidence.redis.reason) == ("off", "no Redis is configured (REDIS_URL)")


async def test_a_hole_of_one_asset_is_seen_and_placed(db: Database, settings: Settings) -> None:
    node = Node(db, settings).everything()
    hole = (NOW - 5 * HOUR_MS) // SLOT * SLOT
    db.run(lambda conn: conn.execute(price_data_real.delete().where(
        price_data_real.c.asset_id == IDS[1], price_data_real.c.slot == hole)))  # fmt: skip
    found = dataset(node.look(), "prices")
    assert found.day == Slots(864, 863)
    assert found.hour == Slots(36, 36)
    assert found.oldest_owed == hole
    health = score(node.look())
    assert health.score < 100
    assert [loss.since for loss in health.losses] == [hole]


async def test_a_slot_that_is_only_just_due_is_not_missing_yet(sqlite_db: Database, settings: Settings) -> None:
    node = Node(sqlite_db, settings).everything()
    node.clock = ManualClock(NOW + 1_000)  # a slot has begun, and nothing has come of it yet
    assert dataset(node.look(), "prices").day.missing == 0
    node.clock.advance(GRACE_MS["prices"] / 1_000)
    assert dataset(node.look(), "prices").day.missing == 3


async def test_prices_written_now_of_an_old_event_are_stale(db: Database, settings: Settings) -> None:
    """The upstream repeats a frozen price: every slot is filled, and nothing is new."""
    node = Node(db, settings).everything()
    frozen = NOW - 6 * HOUR_MS
    newest = NOW // SLOT * SLOT - SLOT
    rows = [node.price(IDS[0], slot, event_time=frozen, event_version=slot + 10)
            for slot in range(newest - 12 * SLOT, newest + SLOT + 1, SLOT)]  # fmt: skip
    db.run(lambda conn: guarded_upsert(conn, price_data_real, rows))
    found = dataset(node.look(), "prices")
    assert found.day.missing == 0
    assert found.stale == 1
    assert found.stale_since is not None
    assert frozen < found.stale_since < NOW
    assert any("by event time" in loss.reason for loss in score(node.look()).losses)


async def test_hours_without_trades_are_neither_missing_nor_stale(db: Database, settings: Settings) -> None:
    node = Node(db, settings).everything()
    since = (NOW - 6 * HOUR_MS) // HOUR_MS * HOUR_MS
    for interval_s in (300, 3_600):
        db.run(lambda conn, s=interval_s: conn.execute(ohlc_data.delete().where(
            ohlc_data.c.asset_id == IDS[2], ohlc_data.c.interval_s == s, ohlc_data.c.open_time >= since)))  # fmt: skip
    before = node.look()
    assert dataset(before, "candles-3600").day.missing == 6
    assert dataset(before, "candles-3600").stale == 1
    entries = [LedgerEntry(f"candles-{s}", IDS[2], since, NOW // (s * 1_000) * s * 1_000, "confirmed_empty", None, NOW, NOW)
               for s in (300, 3_600)]  # fmt: skip
    db.run(lambda conn: ledger.replace(conn, [], entries))
    after = node.look()
    assert dataset(after, "candles-3600").day == Slots(72, 66, settled=6)
    assert score(after).losses == ()


async def test_a_stopped_collector_is_dead_however_fresh_its_rows(db: Database, settings: Settings) -> None:
    node = Node(db, settings).everything()
    db.run(lambda conn: conn.execute(update(collector_runs).where(collector_runs.c.collector == "crypto-prices").values(
        next_run_at=NOW - 30 * MINUTE_MS, started_at=NOW - 40 * MINUTE_MS, succeeded_at=NOW - 39 * MINUTE_MS)))  # fmt: skip
    found = collector(node.look(), "crypto-prices")
    assert found.overdue_ms > found.patience_ms
    health = score(node.look())
    assert health.status == "critical"
    assert any("does not act" in loss.reason for loss in health.losses)


async def test_leases_are_judged_by_the_databases_clock(db: Database, settings: Settings) -> None:
    node = Node(db, settings).everything()
    keeper = LeaseKeeper(db)
    short = keeper.acquire("short", "me", 0.01)
    held = keeper.acquire("held", "me", 60)
    gone = keeper.acquire("gone", "me", 60)
    assert short
    assert held
    assert gone
    keeper.release(gone)
    await asyncio.sleep(0.03)
    with db.read() as conn:
        leases = health_queries.leases(conn)
    assert 50_000 < leases["held"].left_ms <= 60_001
    assert leases["short"].left_ms <= 0
    assert leases["gone"].released
    assert collector(node.look(), "unified-ohlc").leased
    db.run(lambda conn: conn.execute(health_queries.collector_leases.delete()))
    assert not collector(node.look(), "unified-ohlc").leased
    assert "no process holds its lease" in {loss.reason for loss in score(node.look()).losses}


async def test_an_open_circuit_is_found_in_what_the_collector_wrote_down(db: Database, settings: Settings) -> None:
    node = Node(db, settings).everything()
    error = str(CircuitOpen("coinbase.exchange_rates", NOW + 30_000))
    db.run(lambda conn: records.run_failed(conn, "crypto-prices", NOW, f"poll failed: {error}", NOW + 60_000))
    accounts = {account.account: account for account in node.look().accounts}
    assert accounts["coinbase-v2"].circuit_until == NOW + 30_000
    assert accounts["coinbase-v2"].circuit_since == NOW
    assert accounts["coinbase"].circuit_until is None
    assert any("circuit open" in loss.reason for loss in score(node.look()).losses)
    node.clock.advance(31)
    assert not any("circuit open" in loss.reason for loss in score(node.look()).losses)


async def test_an_open_circuit_said_by_who_can_see_it_counts_too(sqlite_db: Database, settings: Settings) -> None:
    health = score(Node(sqlite_db, settings).everything().look(breakers={"coingecko": NOW + 1}))
    assert [loss.component for loss in health.losses] == ["upstreams"]


async def test_spent_credits_are_seen(db: Database, settings: Settings) -> None:
    node = Node(db, settings).everything()
    month = 202311
    db.run(lambda conn: conn.execute(insert(quota_ledger).values(account="coingecko", month=month, spent=10_000)))
    limits = {a.account: a.monthly for a in node.look().accounts}
    assert limits["coingecko"] == 10_000
    db.run(lambda conn: conn.execute(health_queries.text(
        "INSERT INTO provider_budgets (account, theoretical_arrival, paused_until) VALUES ('coingecko', 0, 0)")))  # fmt: skip
    reasons = [loss.reason for loss in score(node.look()).losses]
    assert "coingecko: this month's 10000 credits are spent" in reasons


async def test_dead_letters_of_the_last_day_cost_points(db: Database, settings: Settings) -> None:
    node = Node(db, settings).everything()
    letter = {"payload_hash": "a" * 64, "source": "coingecko.markets", "parser_version": 1, "error": "x"}
    db.run(lambda conn: conn.execute(insert(dead_letters), [letter | {"fetched_at": NOW - 2 * DAY_MS}]))
    assert score(node.look()).losses == ()
    db.run(lambda conn: conn.execute(insert(dead_letters), [letter | {"payload_hash": "b" * 64, "fetched_at": NOW}]))
    assert node.look().dead_letters == {"coingecko.markets": 1}
    assert score(node.look()).score < 100


async def test_an_empty_database_is_evidence_of_nothing_running(db: Database, settings: Settings) -> None:
    evidence = collect_evidence(db, ManualClock(NOW), settings, up_since=NOW - DAY_MS)
    health = score(evidence)
    assert health.status == "critical"
    assert {c.name for c in health.components if c.state == "dead"} >= {
        "collector:crypto-prices",
        "event_bus",
        "streams",
    }
    young = collect_evidence(db, ManualClock(NOW), settings, up_since=NOW, event_bus=OK, streams=OK)
    assert score(young).status == "starting"


async def test_a_database_without_tables_is_unreadable_not_an_error(sqlite_url: str, settings: Settings) -> None:
    database = Database(sqlite_url)
    evidence = collect_evidence(database, ManualClock(NOW), settings, up_since=NOW)
    assert not evidence.readable
    database.dispose()


def test_the_archive_is_tried_not_asked(tmp_path: Path) -> None:
    assert archive_evidence(tmp_path).writable
    assert archive_evidence(tmp_path / "not" / "yet" / "made").writable
    (tmp_path / "file").write_text("")
    assert not archive_evidence(tmp_path / "file").writable
    assert list(tmp_path.iterdir()) == [tmp_path / "file"], "the trial leaves nothing behind"
    free = archive_evidence(tmp_path).free_bytes
    assert free is not None
    assert free > 0


# --- the report ----------------------------------------------------------------------------------------------


async def test_the_open_summary_shows_no_error_text_host_or_path(db: Database, settings: Settings) -> None:
    """The earlier gateway showed exception texts in unauthenticated /health bodies."""
    node = Node(db, settings).everything()
    secret = "OperationalError (pymysql) Can't connect to 10.0.0.7 as root with hunter2 at /srv/secret"
    db.run(lambda conn: records.run_failed(conn, "crypto-prices", NOW, secret, NOW + 60_000))
    evidence = node.look()
    health = score(evidence)
    shown = json.dumps(health_summary(health))
    for part in ("Operational", "10.0.0.7", "hunter2", "/srv", str(settings.data_dir)):
        assert part not in shown
    assert "its last pass failed" in shown
    assert "hunter2" in json.dumps(health_details(health, evidence)), "the master key sees the error"


async def test_the_summary_says_score_states_and_what_cost_what(sqlite_db: Database, settings: Settings) -> None:
    node = Node(sqlite_db, settings).everything()
    body = health_summary(score(node.look(event_bus=Probe("dead", "it does not answer", since=NOW))))
    assert (body["status"], body["score"]) == ("healthy", 95.0)
    assert body["components"]["event_bus"] == {"status": "dead", "score": 0.0}
    assert body["components"]["redis"] == {
        "status": "off",
        "score": None,
        "reason": "no Redis is configured (REDIS_URL)",
    }
    assert body["losses"] == [
        {"component": "event_bus", "points": 4.9, "reason": "it does not answer", "since": "2023-11-14T22:20:00Z"}
    ]


def reporter(node: Node, **values: Any) -> HealthReporter:
    async def ok() -> Probe:
        return OK

    made = HealthReporter(
        node.db, node.clock, node.settings, **{"probes": {"event_bus": ok, "streams": ok}, "keep_s": 0.0} | values
    )
    made._up_since = NOW - DAY_MS
    return made


async def test_the_reporter_looks_and_judges(sqlite_db: Database, settings: Settings) -> None:
    made = reporter(Node(sqlite_db, settings).everything())
    assert (await made.summary())["score"] == 100.0
    assert (await made.details())["evidence"]["readable"] is True


async def test_one_look_serves_many(sqlite_db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray_app.health import report

    looks, original = 0, report.collect_evidence

    def counting(*args: Any, **kwargs: Any) -> Evidence:
        nonlocal looks
        looks += 1
        return original(*args, **kwargs)

    monkeypatch.setattr(report, "collect_evidence", counting)
    made = reporter(Node(sqlite_db, settings).everything(), keep_s=60.0)
    await asyncio.gather(*(made.summary() for _ in range(20)))
    assert looks == 1


async def test_a_probe_that_fails_or_hangs_is_a_finding(
    sqlite_db: Database, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> Probe:
        raise RuntimeError("ray says no")

    async def hung() -> Probe:
        await asyncio.Event().wait()
        return OK

    node = Node(sqlite_db, settings).everything()
    with caplog.at_level(logging.WARNING):
        health, _ = await reporter(node, probes={"event_bus": broken, "streams": hung}, patience_s=0.5).look()
    states = {component.name: component.state for component in health.components}
    assert (states["event_bus"], states["streams"]) == ("dead", "dead")
    assert "ray says no" in caplog.text
    assert "ray says no" not in json.dumps(health_summary(health))


async def test_a_database_that_hangs_is_unreadable_in_time(
    sqlite_db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    from ray_app.health import report

    release = threading.Event()
    monkeypatch.setattr(report, "collect_evidence", lambda *_, **__: release.wait(20))
    health, evidence = await reporter(Node(sqlite_db, settings), patience_s=0.05).look()
    release.set()
    assert not evidence.readable
    assert health.status == "critical"


async def test_a_database_error_is_evidence(
    sqlite_db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(sqlite_db, settings).everything()

    def refuse(*_: object) -> None:
        raise StorageError("mysql://root:hunter2@host: gone")

    monkeypatch.setattr(health_queries, "leases", refuse)
    body = await reporter(node).summary()
    assert body["status"] == "critical"
    assert "hunter2" not in json.dumps(body)


async def test_a_tick_stream_that_is_switched_off_costs_nothing(sqlite_db: Database, settings: Settings) -> None:
    node = Node(sqlite_db, settings).everything()
    node.db.run(lambda conn: conn.execute(collector_runs.delete().where(collector_runs.c.collector == "crypto-ticks")))
    node.settings = node.settings.model_copy(update={"tick_stream": False})
    health = score(node.look())
    assert (health.score, health.losses) == (100.0, ())
    off = next(one for one in health.components if one.name == "collector:crypto-ticks")
    assert (off.state, "TICK_STREAM" in str(off.reason)) == ("off", True)


async def test_a_tick_stream_that_cannot_be_had_leaves_the_node_healthy(
    sqlite_db: Database, settings: Settings
) -> None:
    node = Node(sqlite_db, settings).everything()
    node.db.run(lambda conn: conn.execute(collector_runs.delete().where(collector_runs.c.collector == "crypto-ticks")))
    assert score(node.look()).score >= 98

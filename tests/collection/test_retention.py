"""Segments go when their time is over, and verify, recovery and a killed purge know them for what they are."""

from __future__ import annotations

import logging
from pathlib import Path

import orjson
import pytest
from sqlalchemy import insert, select, update

from ray_app.clock import DAY_MS, HOUR_MS, iso
from ray_app.collection import manifest, recovery, retention, verify
from ray_app.collection.accounts import ACCOUNTS
from ray_app.collection.archive import Archive
from ray_app.collection.digest import DERIVED_TABLES, VALUE_TABLES, digest, fetch_row
from ray_app.collection.reprocess import first_registry
from ray_app.collection.retention import RETENTION, Purged, expired, purge
from ray_app.sources.base import Exchange, Request
from ray_app.sources.coingecko import Markets
from ray_app.storage import registry
from ray_app.storage.engine import Database
from ray_app.storage.migrate import upgrade
from ray_app.storage.tables import archive_tombstones, fetches, price_data_real
from ray_app.storage.upsert import guarded_upsert
from tests.collection.world import START, small_registry
from tests.sources.samples_social import listing, post

DAY = START - START % DAY_MS
#: two days later, at noon: what is 24 hours old and more has expired
LATER = DAY + 2 * DAY_MS + 12 * HOUR_MS
#: CoinGecko's answers become rows already; what is kept of whose answers is a table
RULES = {"coingecko": 24.0, "reddit": 48.0}


def price(at_ms: int, value: float) -> Exchange:
    coin = {
        "id": "bitcoin",
        "symbol": "btc",
        "name": "Bitcoin",
        "current_price": value,
        "last_updated": iso(at_ms - 5_000),
    }
    request = Markets().request(["bitcoin"], at_ms - at_ms % 300_000)
    return Exchange(request, 200, {}, orjson.dumps([coin]), at_ms)


def reddit(at_ms: int) -> Exchange:
    return Exchange(Request("reddit.listing", "/r/Bitcoin/new"), 200, {}, orjson.dumps(listing(post())), at_ms)


class Node:
    """An archive and a database that holds what was committed of it."""

    def __init__(self, root: Path, url: str) -> None:
        self.root = root
        self.db = Database(url)
        upgrade(self.db)
        self.db.run(lambda conn: registry.save(conn, small_registry(), DAY - DAY_MS))

    def add(self, *exchanges: Exchange, commit: bool = True) -> None:
        assets, _ = first_registry(self.db)
        with Archive(self.root, "prices.host-1") as archive:
            for exchange in exchanges:
                at = archive.append(exchange, "prices")
                found = digest(exchange, at, assets)
                row = fetch_row(exchange, at, "prices", found)
                if commit:
                    self.db.run(lambda conn, row=row: conn.execute(insert(fetches), [row]))
                    for table, rows in found.rows.items():
                        stored = (VALUE_TABLES | DERIVED_TABLES)[table]
                        self.db.run(lambda conn, t=stored, r=rows: guarded_upsert(conn, t, r))

    def purge(self, now_ms: int = LATER) -> Purged:
        return purge(self.root, self.db, now_ms, RULES)

    def verify(self, now_ms: int = LATER) -> verify.Verified:
        return verify.verify(Archive(self.root), self.db, now_ms=now_ms)

    def stones(self) -> list[dict[str, object]]:
        with self.db.read() as conn:
            return [dict(row._mapping) for row in conn.execute(select(archive_tombstones))]

    def files(self) -> list[str]:
        return sorted(path.name for path in self.root.glob("*/*"))


@pytest.fixture
def node(tmp_path, sqlite_url):
    made = Node(tmp_path / "archive", sqlite_url)
    yield made
    made.db.dispose()


def filled(node: Node) -> None:
    node.add(*(price(DAY + n * HOUR_MS, 90_000.0 + n) for n in (1, 2, 3)))
    node.add(price(LATER - 2 * HOUR_MS, 91_000.0))


@pytest.mark.parametrize(
    ("source", "hours", "is_expired"),
    [
        ("reddit.listing", 48, False),
        ("reddit.listing", 49, True),
        ("reddit", 49, True),
        ("x.recent_search", 24, False),
        ("x.recent_search", 25, True),
        ("guardian.search", 25, True),
        ("coingecko.markets", 1e5, False),
        ("xyz.other", 1e5, False),
        ("reddit.listing", 0, False),
        ("reddit.listing", -5, False),
    ],
)
def test_rule(source, hours, is_expired):
    assert expired(source, "20261124T08", START - START % HOUR_MS + round(hours * HOUR_MS)) is is_expired


def test_the_current_hour_never_expires():
    assert not expired("x.a", "20261124T08", START, {"x": 0.0})
    assert expired("x.a", "20261124T07", START - START % HOUR_MS, {"x": 0.0})
    assert set(RETENTION) <= {account.name for account in ACCOUNTS}


@pytest.mark.integration
def test_what_is_expired_goes_and_verify_still_finds_everything_in_order(tmp_path, database_url):
    node = Node(tmp_path / "archive", database_url)
    filled(node)
    assert node.verify().ok
    gone = node.purge()
    assert (gone.segments, gone.answers, dict(gone.kept)) == (3, 3, {})
    assert gone.payload_bytes == sum(stone["payload_bytes"] for stone in node.stones()) > 0
    assert node.files() == ["20261126T10.prices.host-1.idx", "20261126T10.prices.host-1.zst"]
    assert [(s["source"], s["answers"], s["committed"], s["reason"]) for s in node.stones()] == [
        ("coingecko.markets", 1, 1, "kept for 24 h")
    ] * 3
    seen = node.verify(LATER + DAY_MS)
    assert (seen.ok, seen.answers, seen.purged) == (True, 1, 3), seen.problems
    assert [(day.day, day.recorded == day.found) for day in seen.days if day.recorded] == [(20261124, True)]
    assert seen.stored["price_data_real"] == seen.found["price_data_real"] == 1, "nothing to compare the others with"
    assert "3 deleted after their retention" in str(seen)
    assert node.purge() == Purged(), "nothing is left to do"
    node.db.dispose()


def test_what_was_lost_is_still_missing_and_a_changed_index_is_not_as_recorded(node):
    filled(node)
    assert node.purge().segments == 3
    victim = node.stones()[0]["segment"]
    node.db.run(lambda c: c.execute(update(fetches).where(fetches.c.segment == victim).values(payload_hash="0" * 64)))
    seen = node.verify()
    assert any("manifest of 2026-11-24, coingecko.markets" in problem for problem in seen.problems)
    (node.root / "coingecko.markets" / "20261126T10.prices.host-1.zst").unlink()
    assert any("missing: fetch" in problem for problem in node.verify().problems)


def test_a_row_whose_payload_is_gone_says_when_and_why(node):
    filled(node)
    key = {"asset_id": 1, "slot": DAY + HOUR_MS}
    (before,) = verify.prove_rows(Archive(node.root), node.db, price_data_real, key)
    assert before.problem is None
    node.purge()
    (after,) = verify.prove_rows(Archive(node.root), node.db, price_data_real, key)
    assert "deleted 2026-11-26T12:00:00Z (kept for 24 h)" in after.problem


def test_uncommitted_answers_wait_for_recovery_for_a_week(node):
    node.add(price(DAY + HOUR_MS, 1.5), price(DAY + 2 * HOUR_MS, 2.5))
    node.add(price(DAY + 2 * HOUR_MS + 1, 3.5), commit=False)
    gone = node.purge()
    assert (gone.segments, list(gone.kept.values())) == (1, ["1 of its answers are not committed yet"])
    assert len(recovery.lost(node.db, Archive(node.root), "prices", 0)) == 1
    week = DAY + 3 * HOUR_MS + retention.UNCOMMITTED_MS
    assert node.purge(week - 1).segments == 0
    assert node.purge(week).answers == 2
    assert node.stones()[-1]["reason"] == "kept for 24 h, 1 answers were never committed"
    assert (node.stones()[-1]["answers"], node.stones()[-1]["committed"]) == (2, 1)
    seen = node.verify(week)
    assert (seen.ok, seen.purged) == (True, 2), seen.problems
    assert recovery.lost(node.db, Archive(node.root), "prices", 0) == []


def test_a_segment_that_is_open_stays(node):
    filled(node)
    with Archive(node.root, "prices.host-1") as archive:
        archive.append(price(DAY + HOUR_MS + 1, 9.0), "prices")
        assert list(node.purge().kept.values()) == ["a process has it open"]
    assert len(node.stones()) == 2


def test_accounts_without_a_rule_and_younger_answers_stay(node):
    node.add(reddit(DAY + HOUR_MS), reddit(LATER - 48 * HOUR_MS))
    assert node.purge().segments == 1
    assert node.files()[0].startswith("20261124T12")
    assert purge(node.root, node.db, LATER + 1_000 * DAY_MS, {"x": 1.0}) == Purged()
    assert purge(node.root, node.db, LATER + DAY_MS).segments == 1, "by the rules that hold"


def test_days_get_their_manifest_before_anything_of_them_goes(node, monkeypatch):
    filled(node)
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "record_settled", lambda *_: [])
        assert set(node.purge().kept.values()) == {"its day has no manifest yet"}
    assert node.purge().segments == 3
    with node.db.read() as conn:
        assert manifest.recorded(conn, 20261124)["coingecko.markets"].answers == 3


@pytest.mark.parametrize("after", ["the row", "the index file", "the segment"])
def test_a_purge_that_was_killed_is_finished_by_the_next(node, monkeypatch, after):
    filled(node)
    unlink, left = Path.unlink, {"the row": 0, "the index file": 1, "the segment": 2}

    class Killed(BaseException):
        pass

    def dying(path, *args, **kwargs):
        if not left[after]:
            raise Killed
        left[after] -= 1
        unlink(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", dying)
        with pytest.raises(Killed):
            node.purge()
    assert len(node.stones()) == (2 if after == "the segment" else 1)
    seen = node.verify()
    assert seen.ok, seen.problems
    node.purge()
    assert len(node.stones()) == 3
    assert len(node.files()) == 2
    seen = node.verify()
    assert (seen.ok, seen.purged) == (True, 3), seen.problems


def test_a_segment_that_goes_while_the_archive_is_read_is_no_crash(node, caplog):
    filled(node)
    archive = Archive(node.root)
    reading = archive.scan()
    next(reading)
    node.purge()
    with caplog.at_level(logging.WARNING):
        assert len(list(reading)) == 1
    assert "gone since it was listed" in caplog.text

"""``crypto-data verify`` finds what no payload says, and what the archive no longer has, by segment and position."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import delete, select, update

from ray_app.assets import AssetRegistry
from ray_app.cli import cli, main
from ray_app.collection import archive_record, manifest, reprocess, verify
from ray_app.collection.archive import Archive
from ray_app.storage.engine import Database
from ray_app.storage.migrate import upgrade
from ray_app.storage.tables import fetches, market_data, ohlc_data, price_data_real
from tests.collection.test_runner import environment
from tests.collection.world import DAY, MINUTE, START, JumpingClock, World, world

pytestmark = pytest.mark.integration
#: the day of START and the moment at which it is settled
MIDNIGHT = START - START % DAY
SETTLED = MIDNIGHT + DAY + manifest.SETTLING_MS
PRICE = "asset=BTC,slot=2026-11-24T08:00:00Z,source=coingecko.markets"


@dataclass
class Node:
    """A stopped node that has collected once."""

    used: World
    db: Database
    archive: Archive

    def verify(self, **options: Any) -> verify.Verified:
        return verify.verify(self.archive, self.db, **{"now_ms": SETTLED, **options})

    def set(self, table: Any, asset_id: int, **values: Any) -> None:
        self.db.run(lambda conn: conn.execute(update(table).where(table.c.asset_id == asset_id).values(**values)))

    def places(self, source: str) -> list[tuple[int, str, int]]:
        query = select(fetches.c.fetch_id, fetches.c.segment, fetches.c.position).where(fetches.c.source == source)
        with self.db.read() as conn:
            return [tuple(row) for row in conn.execute(query.order_by(fetches.c.fetch_id))]


@pytest.fixture
def node(tmp_path, sqlite_url, monkeypatch) -> Iterator[Node]:
    registry = AssetRegistry.for_replay(["BTC", "ETH", "SOL"])
    clock = JumpingClock(START + MINUTE)
    with world(tmp_path, sqlite_url, start=START + MINUTE, clock=clock, registry=registry) as used:
        for name, value in environment(used).items():
            monkeypatch.setenv(name, value)
        for name in ("asset-registry", "crypto-prices", "unified-ohlc"):
            assert CliRunner().invoke(cli, ["collect", name, "--once"]).exit_code == 0
        db = used.db()
        with Archive(used.settings.archive_dir) as archive:
            yield Node(used, db, archive)
        db.dispose()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["verify", *arguments])


def test_what_a_node_collected_is_identical_and_its_day_is_as_recorded(node: Node):
    seen = node.verify()
    assert seen.ok, seen.problems
    assert seen.found == seen.stored
    assert min(seen.stored["price_data_real"], seen.stored["ohlc_data"]) > 0
    assert "not recorded yet" in str(seen.days[0])
    assert manifest.record_settled(node.archive, node.db, SETTLED) == [20261124]
    seen = node.verify(start=MIDNIGHT, end=MIDNIGHT + DAY)
    assert seen.ok, seen.problems
    assert [str(day).split("  ")[-1] for day in seen.days] == ["as recorded"]
    assert run().output.splitlines()[-1] == "identical"
    assert run("--day", "2026-11-24").exit_code == 0


def test_values_that_no_payload_says_are_named(node: Node):
    node.set(price_data_real, 1, ath=1.5)
    node.set(price_data_real, 2, payload_hash="0" * 64)
    node.db.run(lambda conn: conn.execute(delete(ohlc_data).where(ohlc_data.c.asset_id == 1)))
    seen = node.verify(limit=10_000)
    assert not seen.ok
    said = "\n".join(seen.problems)
    assert "ath is 1.5, payload" in said
    assert "price_data_real: no archived payload for (2, " in said
    assert "ohlc_data (1, 'coinbase', " in said
    assert "not stored, though payload" in said
    assert len(seen.problems) == seen.problem_count


def test_an_older_statement_over_a_newer_one_is_found(node: Node):
    _, segment, position = node.places("coingecko.markets")[0]
    at, exchange = node.archive.record(segment, position)
    older = replace(exchange, fetched_at=exchange.fetched_at - 15 * MINUTE)
    with Archive(node.archive.root, "older") as writer:
        before = writer.append(older, "crypto-prices")
    reprocess.reprocess(node.archive, node.db)
    assert node.verify().ok, "the guard keeps the newer"
    node.set(price_data_real, 1, fetched_at=older.fetched_at, known_at=older.fetched_at)
    said = "\n".join(node.verify().problems)
    assert "stands over the later payload" in said
    assert before.payload_hash == at.payload_hash


def test_what_the_archive_lost_gained_or_changed_is_named_by_place(node: Node):
    manifest.record_settled(node.archive, node.db, SETTLED)
    first, second, third = node.places("coinbase.candles")[:3]
    path = node.archive.root / first[1]
    content = bytearray(path.read_bytes())
    content[first[2] + archive_record.HEADER.size + 5] ^= 1  # a flipped bit: the record can no longer be read
    path.write_bytes(content)
    _forge(node, second)
    node.db.run(lambda conn: conn.execute(delete(fetches).where(fetches.c.fetch_id == third[0])))
    said = "\n".join(node.verify(limit=10_000).problems)
    assert f"{first[1]} at offset {first[2]}: missing: fetch {first[0]} (coinbase.candles" in said
    assert "checksum differs" in said
    assert f": changed: fetch {second[0]} has payload" in said
    assert f": extra: fetch {third[0]} is archived and not in fetches" in said
    assert "manifest of 2026-11-24, coinbase.candles:" in said
    assert "manifest of 2026-11-24, coingecko.markets" not in said
    assert run("--day", "2026-11-24").exit_code == 1


def _forge(node: Node, place: tuple[int, str, int]) -> None:
    """Put another body under the fetch id, checksums and all, into a segment of its own; the index knows no more."""
    fetch_id, segment, position = place
    _, exchange = node.archive.record(segment, position)
    forged = archive_record.encode(replace(exchange, body=b"[]"), "forger", fetch_id, 3)
    path = node.archive.root / segment
    content = path.read_bytes()
    end = next(entry.end for entry in node.archive.index(segment) if entry.position == position)
    path.write_bytes(content[:position] + b"\x00" * (end - position) + content[end:])
    (path.parent / path.name.replace(".unified", ".forged")).write_bytes(forged)


def test_an_answer_of_today_that_waits_for_its_commit_is_no_problem(node: Node):
    last = node.places("coinbase.candles")[-1]
    node.db.run(lambda conn: conn.execute(delete(fetches).where(fetches.c.fetch_id == last[0])))
    assert node.verify(now_ms=START + 2 * MINUTE).ok
    assert not node.verify().ok


def test_one_row_is_shown_with_its_payload_and_what_that_says(node: Node):
    shown = run("--table", "price_data_real", "--key", PRICE)
    assert shown.exit_code == 0, shown.output
    stored, payload, derived, verdict = shown.output.splitlines()
    assert verdict == "identical"
    assert json.loads(stored.removeprefix("stored")) == json.loads(derived.removeprefix("derived"))
    assert "/coins/markets" in payload
    assert ".zst at offset " in payload
    node.set(price_data_real, json.loads(stored.removeprefix("stored"))["asset_id"], high_24h=1.0)
    changed = run("--table", "price_data_real", "--key", PRICE)
    assert changed.exit_code == 1
    assert "high_24h is 1.0, payload" in changed.output
    bars = run("--table", "ohlc_data", "--key", "asset=bitcoin,venue=coinbase,interval=86400")
    assert (bars.exit_code, bars.output.splitlines()[-1]) == (0, "identical"), bars.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--table", "price_data_real", "--key", "coin=BTC"), "NAME is one of asset, slot, source"),
        (("--table", "price_data_real", "--key", "asset=BTCC"), "BTCC"),
        (("--table", "price_data_real", "--key", "slot=soon"), "is not a time such as"),
        (("--table", "ohlc_data", "--key", "interval=1h"), "expected a whole number"),
        (("--table", "market_data", "--key", "source=nobody"), "market_data: no row has source nobody"),
        (("--key", PRICE), "name it with --table"),
        (("--day", "2026-11-24", "--table", "ohlc_data"), "leave out --table"),
        (("--table", "ohlc_data", "--key", "asset=BTC", "--from", "0"), "give one of them"),
    ],
)
def test_what_cannot_be_verified_is_one_clear_line(node: Node, capsys, arguments, says):
    with pytest.raises(SystemExit) as ended:
        main(["verify", *arguments])
    assert ended.value.code != 0
    said = capsys.readouterr().err
    assert says in said
    assert "Traceback" not in said


def test_a_data_set_has_the_same_hash_on_every_database_and_after_a_rebuild(node: Node, tmp_path, mariadb_url):
    first, at = reprocess.first_registry(node.db)
    copies = [Database(f"sqlite:///{tmp_path / 'copy.db'}"), Database(mariadb_url)]
    for copy in copies:
        upgrade(copy)
        reprocess.reprocess(node.archive, copy, first_registry=first, first_registry_at=at)
    for table in (price_data_real, ohlc_data, market_data):
        rows, found = verify.dataset_hash(node.db, table)
        assert rows > 0
        assert [verify.dataset_hash(copy, table) for copy in copies] == [(rows, found)] * 2
    part = verify.dataset_hash(node.db, ohlc_data, START - DAY, START)
    assert 0 < part[0] < verify.dataset_hash(node.db, ohlc_data)[0]
    assert [verify.dataset_hash(copy, ohlc_data, START - DAY, START) for copy in copies] == [part] * 2
    printed = run("--table", "ohlc_data", "--from", str(START - DAY), "--to", str(START)).output
    assert printed.startswith(f"{part[1]}  ohlc_data, {part[0]} rows from 2026-11-23T08:00:00Z to 2026-11-24T08:00:00Z")
    node.set(ohlc_data, 1, volume=None)
    assert verify.dataset_hash(node.db, ohlc_data) != verify.dataset_hash(copies[0], ohlc_data)
    for copy in copies:
        copy.dispose()

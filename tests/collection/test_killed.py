"""Kill -9 at any moment of ingestion, again and again: what an independent reader finds afterwards.

The reader is SQL and zstd of its own: it shares no code with what it judges.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import signal
import sqlite3
import time
from collections import Counter

import orjson
import pymysql
import pytest
import zstandard
from sqlalchemy import make_url

from ray_app.collection import reprocess
from ray_app.collection.archive import Archive
from ray_app.storage.engine import Database
from ray_app.storage.migrate import upgrade
from tests.collection.killable import COINS, SLOTS, STEP, ingest, price
from tests.collection.test_ingest import prepare, settings_of
from tests.collection.world import START, small_registry
from tests.servers import wait_until

pytestmark = pytest.mark.integration
KILLS = 15
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.collection.killable"])


@pytest.fixture(params=[1, 2])
def dice(request):
    return random.Random(request.param)


def query(url, sql):
    """Rows by a plain driver."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        connection = sqlite3.connect(parsed.database)
    else:
        connection = pymysql.connect(
            host=parsed.host, port=parsed.port, user=parsed.username, password=parsed.password, database=parsed.database
        )
    try:
        cursor = connection.cursor()
        cursor.execute(sql)
        return list(cursor.fetchall())
    finally:
        connection.close()


def record_at(root, segment, position):
    """A record of the archive, read by zstd alone: its description and its body."""
    raw = (root / segment).read_bytes()[position + 40 :]  # behind the skippable frame
    content = zstandard.ZstdDecompressor().decompressobj().decompress(raw)
    line, _, body = content.partition(b"\n")
    return orjson.loads(line), body[:-1]


def killed_often(data_dir, url, notes, dice):
    """Start it, kill it after a random number of commits (or in its first moments), ``KILLS`` times; then let it end."""
    notes.touch()
    for _ in range(KILLS):
        victim = processes.Process(target=ingest, args=(str(data_dir), url, str(notes)))
        victim.start()
        more = dice.choice([0, 1, 5, 25])
        enough = len(notes.read_bytes().splitlines()) + more
        if more:
            wait_until(
                lambda: len(notes.read_bytes().splitlines()) >= enough or not victim.is_alive(),  # noqa: B023
                120,
                "commits",
            )
        time.sleep(dice.uniform(0, 0.02 if more else 0.3))
        os.kill(victim.pid, signal.SIGKILL)
        victim.join(30)
        assert victim.exitcode == -signal.SIGKILL, "it must not have ended by itself: raise SLOTS"
    last = processes.Process(target=ingest, args=(str(data_dir), url, str(notes)))
    last.start()
    last.join(300)
    assert last.exitcode == 0


def test_killed_at_random_moments_every_slot_is_there_once_and_follows_from_the_archive(tmp_path, database_url, dice):
    prepare(database_url)
    settings, notes = settings_of(tmp_path / "data", database_url), tmp_path / "notes"
    killed_often(settings.data_dir, database_url, notes, dice)

    prices = query(database_url, "SELECT asset_id, slot, source, current_price FROM price_data_real")
    assert Counter((asset, slot) for asset, slot, *_ in prices) == {
        (asset_id, START + number * STEP): 1 for asset_id in COINS.values() for number in range(SLOTS)
    }
    assert all(value == price(asset, (slot - START) // STEP) for asset, slot, _, value in prices)

    fetches = query(database_url, "SELECT fetch_id, segment, position, payload_hash, request FROM fetches")
    asked = Counter(orjson.loads(request)["context"]["slot"] for *_, request in fetches)
    assert asked == {str(START + number * STEP): 1 for number in range(SLOTS)}, "an archived answer is not asked again"
    for fetch_id, segment, position, payload_hash, _ in fetches:
        told, body = record_at(settings.archive_dir, segment, position)
        assert (told["fetch_id"], hashlib.sha256(body).hexdigest()) == (fetch_id, payload_hash)
    named = {row[0] for row in query(database_url, "SELECT DISTINCT payload_hash FROM price_data_real")}
    assert named <= {payload_hash for _, _, _, payload_hash, _ in fetches}

    events = query(database_url, "SELECT seq, body FROM outbox WHERE channel = 'prices' ORDER BY seq")
    assert [seq for seq, _ in events] == list(range(1, len(events) + 1))
    told = Counter((body["asset_id"], body["slot"]) for body in (orjson.loads(bytes(raw)) for _, raw in events))
    assert max(told.values()) == 1, "no price is told twice"
    assert set(map(int, notes.read_bytes().split())) <= set(range(SLOTS))

    torn: list[str] = []
    with Archive(settings.archive_dir) as archive:
        whole = [at.fetch_id for at, *_ in archive.scan(on_damage=lambda damage: torn.append(str(damage)))]
        assert sorted(whole) == sorted(fetch_id for fetch_id, *_ in fetches), "nothing archived is left out"
        assert len(torn) <= KILLS, "at most the record in the hands of each that was killed"
        copy, db = Database(f"sqlite:///{tmp_path / 'copy.db'}"), Database(database_url)
        upgrade(copy)
        reprocess.reprocess(archive, copy, first_registry=small_registry(), first_registry_at=START)
        assert reprocess.differences(db, copy) == []
        copy.dispose()
        db.dispose()

"""A rebuild by several processes: the same rows as by one, whatever dies in between."""

from __future__ import annotations

import multiprocessing
import os
import signal
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from sqlalchemy import func, select

from ray_app.clock import iso
from ray_app.collection import reparse, reprocess
from ray_app.collection.archive import Archive
from ray_app.errors import ConfigError, CryptoDataError
from ray_app.sources.base import Exchange
from ray_app.sources.coinbase import Products
from ray_app.sources.coingecko import CoinsList, Markets
from ray_app.storage.engine import Database
from ray_app.storage.migrate import upgrade
from ray_app.storage.tables import crypto_assets, data_quality_events, dead_letters, fetches, price_data_real
from tests.collection.world import MINUTE, START, small_registry
from tests.servers import wait_until

pytestmark = pytest.mark.integration
SLOTS, REFRESH, PAUSE = 320, 100, 220
COINS = ("bitcoin", "ethereum", "solana", "newcomer")
processes = multiprocessing.get_context("forkserver")


def prices(number: int) -> Exchange:
    """A slot's prices, of a coin that the registry does not know before the refresh too; some are no answers."""
    slot = START + number * 5 * MINUTE
    body = [
        {"id": coin, "current_price": 100.0 + n + number / 100, "last_updated": iso(slot + 10_000)}
        for n, coin in enumerate(COINS)
    ]
    request = Markets().request(list(COINS), slot)
    if number % 31 == 7:
        return Exchange(request, 200, {}, b"<html>%d</html>" % number, slot + 20_000)
    if number % 37 == 5:
        return Exchange(request, 429, {"retry-after": "3"}, b"{}", slot + 20_000)
    return Exchange(request, 200, {}, orjson.dumps(body), slot + 20_000)


def refresh(now: int) -> list[Exchange]:
    """Lists in which a coin is new."""
    known = [(asset.coin_id, asset.symbol, asset.name) for asset in small_registry()] + [("newcomer", "NEWC", "New")]
    coins = [{"id": coin, "symbol": symbol.lower(), "name": name} for coin, symbol, name in known]
    products = [
        {"id": f"{symbol}-USD", "base_currency": symbol, "quote_currency": "USD", "status": "online"}
        for _, symbol, _ in known
        if symbol not in {"TRX", "OKB"}
    ]
    return [
        Exchange(CoinsList().request(), 200, {}, orjson.dumps(coins), now),
        Exchange(Products().request(), 200, {}, orjson.dumps(products), now + 1_000),
    ]


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of two days, one record of it damaged."""
    root = tmp_path_factory.mktemp("archive")
    with Archive(root, writer="test") as archive:
        for number in range(SLOTS):
            archive.append(prices(number), "crypto-prices")
            if number == REFRESH:
                for one in refresh(START + number * 5 * MINUTE + 30_000):
                    archive.append(one, "asset-registry")
        entry, segment = [*archive.places()][250]
    whole = bytearray((root / segment).read_bytes())
    whole[entry.end - 5] ^= 0xFF
    (root / segment).write_bytes(whole)
    return root


@pytest.fixture(scope="module")
def rebuilt(archived: Path, tmp_path_factory: pytest.TempPathFactory):
    """What one process makes of it, and its report."""
    url = f"sqlite:///{tmp_path_factory.mktemp('one') / 'one.db'}"
    report = rebuild(str(archived), url, 1)
    db = Database(url)
    yield db, report
    db.dispose()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few answers are worth other processes, in small batches."""
    monkeypatch.setattr(reparse, "WORTH", 2)
    monkeypatch.setattr(reparse, "BATCH_ANSWERS", 7)


def rebuild(root: str, url: str, count: int, **options) -> reprocess.Rebuilt:
    """The archive into a database."""
    db = Database(url)
    try:
        upgrade(db)
        with Archive(Path(root)) as archive:
            first = {"first_registry": small_registry(), "first_registry_at": START}
            return reprocess.reprocess(archive, db, **first, processes=count, **options)
    finally:
        db.dispose()


def breaks_off(root: str, url: str, note: str) -> None:
    """Rebuilds by two others until it is in the middle, says so and stays there."""
    os.setsid()
    reparse.WORTH, reparse.BATCH_ANSWERS, reprocess._REPORT_EVERY = 2, 7, PAUSE

    def stay(_: reprocess.Rebuilt) -> None:
        Path(note).touch()
        signal.pause()

    rebuild(root, url, 2, progress=stay)


def alive_in_session(session: int) -> list[str]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = stat.read_text().rsplit(")", 1)[1].split()[:4]
        except OSError:
            continue
        if int(of) == session and state != "Z":
            found.append(stat.parent.name)
    return found


def test_several_processes_leave_the_rows_and_the_report_that_one_leaves(archived, rebuilt, at_once, database_url):
    one, report = rebuilt
    assert report.outcomes["malformed"] > 5
    assert report.outcomes["rate_limited"] > 5
    assert (report.refreshes, len(report.damaged)) == (1, 1)
    with one.read() as conn:
        newcomer = conn.scalar(select(crypto_assets.c.asset_id).where(crypto_assets.c.coin_id == "newcomer"))
        first = conn.scalar(select(func.min(price_data_real.c.slot)).where(price_data_real.c.asset_id == newcomer))
        assert first == START + (REFRESH + 1) * 5 * MINUTE, "before, nobody here knew it"
    said = rebuild(str(archived), database_url, 2)
    assert replace(said, seconds=0) == replace(report, seconds=0)
    other = Database(database_url)
    assert reprocess.differences(one, other) == []
    with Archive(archived) as archive:
        again = reprocess.reprocess(archive, other, processes=2)
        assert again.changed > 0, "in place the newcomer is known from the beginning"
        assert reprocess.reprocess(archive, other).changed == 0
    other.dispose()


def test_killed_in_the_middle_and_run_again_the_rows_are_the_same_and_nobody_is_left(
    archived, rebuilt, at_once, database_url, tmp_path
):
    victim = processes.Process(target=breaks_off, args=(str(archived), database_url, str(tmp_path / "note")))
    victim.start()
    wait_until(lambda: (tmp_path / "note").exists() or not victim.is_alive(), 120, "the middle")
    assert len(alive_in_session(victim.pid)) > 2, "others work for it"
    os.kill(victim.pid, signal.SIGKILL)
    victim.join(30)
    wait_until(lambda: not alive_in_session(victim.pid), 30, "the others to end")
    other = Database(database_url)
    with other.read() as conn:
        assert REFRESH < conn.scalar(select(func.count()).select_from(fetches)) <= PAUSE
    rebuild(str(archived), database_url, 2)
    assert reprocess.differences(rebuilt[0], other) == []
    other.dispose()


def test_one_that_parses_and_dies_is_told(archived, at_once):
    every = reparse.readings(Archive(archived), processes=2, on_damage=lambda _: None)
    with closing(every):
        next(every)
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(CryptoDataError, match="was killed"):
            list(every)


def test_one_table_alone_is_rebuilt(archived, rebuilt, tmp_path):
    url = f"sqlite:///{tmp_path / 'copy.db'}"
    rebuild(str(archived), url, 1)
    db = Database(url)
    for table in (price_data_real, fetches, data_quality_events, dead_letters):
        db.run(lambda conn, table=table: conn.execute(table.delete()) and None)
    with Archive(archived) as archive:
        until = START + 40 * 5 * MINUTE
        report = reprocess.reprocess(archive, db, tables={"price_data_real"}, end=until)
        assert (report.answers, report.changed > 100) == (40, True)
        with db.read() as conn:
            assert conn.scalar(select(func.max(price_data_real.c.slot))) < until
            for table in (fetches, data_quality_events, dead_letters):
                assert conn.scalar(select(func.count()).select_from(table)) == 0
        assert reprocess.reprocess(archive, db, tables={"ohlc_data"}).changed == 0
        with pytest.raises(ConfigError, match="crypto_assets; there are"):
            reprocess.reprocess(archive, db, tables={"crypto_assets"})
    db.dispose()
    into = f"sqlite:///{tmp_path / 'into.db'}"
    rebuild(str(archived), into, 1, tables={"price_data_real"})
    db = Database(into)
    assert reprocess.differences(rebuilt[0], db, (price_data_real, crypto_assets, fetches)) == []
    with db.read() as conn:
        assert conn.scalar(select(func.count()).select_from(data_quality_events)) == 0
    db.dispose()

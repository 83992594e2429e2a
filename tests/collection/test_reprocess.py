"""The archive is enough: the tables rebuilt from it are the tables."""

from __future__ import annotations

import asyncio

import pytest
from click.testing import CliRunner
from sqlalchemy import func, select, update

from ray_app.cli import cli
from ray_app.collection import reprocess, verify
from ray_app.collection.archive import Archive
from ray_app.storage import tables
from ray_app.storage.engine import Database
from ray_app.storage.migrate import upgrade
from ray_app.storage.tables import outbox, price_data_real
from tests.collection.test_runner import Running, environment, runner_for, until
from tests.collection.world import DAY, MINUTE, START, JumpingClock, world

pytestmark = pytest.mark.integration

FAULTS = """
seed: 3
faults:
  - {source: coingecko, endpoint: markets, from: "+4m", to: "+9m", kind: html}
  - {source: coingecko, endpoint: markets, from: "+9m", to: "+14m", kind: drop_ids, ids: [bitcoin]}
  - {source: coingecko, endpoint: markets, from: "+14m", to: "+19m", kind: wrong_types}
  - {source: coingecko, from: "+19m", to: "+24m", kind: rate_limit, retry_after: 30}
  - {source: coinbase, endpoint: candles, from: "+4m", to: "+30m", kind: status, status: 503, every: 7}
  - {source: coinbase, endpoint: candles, from: "+4m", to: "+30m", kind: revise, every: 5}
  - {source: coinbase, endpoint: candles, from: "+4m", to: "+30m", kind: html, every: 11}
"""


async def collected(used):
    """Half an hour under faults, everything there is to write."""
    names = ("asset-registry", "crypto-prices", "unified-ohlc")
    async with Running(*(runner_for(used, name) for name in names)):
        await until(lambda: used.clock.now_ms() > START + 36 * MINUTE, "36 minutes")


async def test_rebuilt_tables_are_identical_with_equal_hashes_and_every_value_is_found(tmp_path, database_url):
    with world(tmp_path, database_url, scale=100, faults=FAULTS) as used:
        await collected(used)
        db, copy = used.db(), Database(f"sqlite:///{tmp_path / 'copy.db'}")
        try:
            upgrade(copy)
            with Archive(used.settings.archive_dir) as archive:
                report = await asyncio.to_thread(
                    reprocess.reprocess, archive, copy, first_registry=used.registry, first_registry_at=START
                )
                assert reprocess.differences(db, copy) == []
                assert {"ok", "malformed", "rate_limited", "unavailable"} <= set(report.outcomes)
                assert report.damaged == []
                with copy.read() as conn:
                    assert conn.scalar(select(func.count()).select_from(outbox)) == 0, "a rebuilt row is no news"
                    assert conn.scalar(select(func.count()).select_from(tables.data_quality_events)) > 0
                seen = await asyncio.to_thread(verify.verify, archive, db, now_ms=START + 2 * DAY)
                assert seen.ok, seen.problems
                assert seen.stored["price_data_real"] > 20
                assert seen.stored["ohlc_data"] > 2_000
                for name in verify.TIME_COLUMNS:
                    table = tables.metadata.tables[name]
                    assert verify.dataset_hash(db, table) == verify.dataset_hash(copy, table), name
                again = await asyncio.to_thread(reprocess.reprocess, archive, db)
                assert (again.answers, again.changed) == (report.answers, 0), "in place, nothing changes"
                assert reprocess.differences(db, copy) == []
        finally:
            db.dispose()
            copy.dispose()


async def test_differences_are_told(tmp_path, sqlite_url):
    with world(tmp_path, sqlite_url, clock=JumpingClock(START + MINUTE)) as used:
        await runner_for(used, "crypto-prices").once()
        db, copy = used.db(), Database(f"sqlite:///{tmp_path / 'copy.db'}")
        upgrade(copy)
        with Archive(used.settings.archive_dir) as archive:
            reprocess.reprocess(archive, copy, first_registry=used.registry, first_registry_at=START)
        copy.run(lambda c: c.execute(update(price_data_real).where(price_data_real.c.asset_id == 1).values(ath=1.5)))
        (difference,) = reprocess.differences(db, copy)
        assert difference.startswith("price_data_real: (1, ")
        db.dispose()
        copy.dispose()


def test_the_command_rebuilds(tmp_path, sqlite_url, monkeypatch):
    from ray_app.assets import AssetRegistry

    with world(
        tmp_path, sqlite_url, start=START + MINUTE, registry=AssetRegistry.for_replay(["BTC", "ETH", "SOL"])
    ) as used:
        for name, value in environment(used).items():
            monkeypatch.setenv(name, value)
        runner = CliRunner()
        for name in ("asset-registry", "crypto-prices", "unified-ohlc"):
            assert runner.invoke(cli, ["collect", name, "--once"]).exit_code == 0
        into = runner.invoke(cli, ["reprocess", "--into", f"sqlite:///{tmp_path / 'copy.db'}"])
        assert (into.exit_code, into.output.splitlines()[-1]) == (0, "identical"), into.output
        in_place = runner.invoke(cli, ["reprocess"])
        assert in_place.exit_code == 0
        assert "0 changed (" in in_place.output
        assert in_place.output.endswith(" answers/s)\n")
        part = ["--table", "ohlc_data", "--processes", "1", "--since", "2026-11-24T00:00Z", "--until", "2026-11-24"]
        assert runner.invoke(cli, ["reprocess", *part]).output.startswith("0 archived answers")
        one = ["--into", f"sqlite:///{tmp_path / 'one.db'}", "--table", "ohlc_data", "--table", "price_data_real"]
        assert runner.invoke(cli, ["reprocess", *one]).output.splitlines()[-1] == "identical"
        assert runner.invoke(cli, ["reprocess", "--into", "sqlite:///x.db", "--since", "2026-11-24"]).exit_code == 2
        own = runner.invoke(cli, ["reprocess", "--into", sqlite_url])
        assert (own.exit_code, "the node's own database" in str(own.exception)) == (1, True)

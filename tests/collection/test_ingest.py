"""Ingestion: archive first, one fenced transaction, nothing lost and nothing twice."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import orjson
import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from ray_app import sources
from ray_app.clock import ManualClock
from ray_app.collection import ingest as ingest_module
from ray_app.collection import reprocess
from ray_app.collection.control import holding
from ray_app.collection.recovery import writer_name
from ray_app.collection.refresh import rank_answers, with_rank_answers
from ray_app.collection.runtime import Runtime
from ray_app.errors import LeaseLost, RateLimited, StorageError
from ray_app.settings import Settings
from ray_app.sources.base import Exchange, Request
from ray_app.sources.coinbase import PriceCandles, Products
from ray_app.sources.coingecko import CoinsList, Markets
from ray_app.storage import outbox, registry, tables
from ray_app.storage.engine import Database
from ray_app.storage.migrate import upgrade
from tests.collection.world import DAY, MINUTE, START, small_registry

NOW = START + 20_000
ROOT = Path(__file__).parents[2]


def coin(coin_id, price, **fields):
    return {
        "id": coin_id,
        "symbol": "x",
        "name": coin_id,
        "current_price": price,
        "last_updated": "2026-11-24T08:00:10Z",
    } | fields


def markets(*coins, ids=None, slot=START, fetched_at=NOW, status=200, body=None):
    request = Markets().request(ids or [c["id"] for c in coins], slot)
    return Exchange(request, status, {}, orjson.dumps(list(coins)) if body is None else body, fetched_at)


@pytest.fixture
def settings(tmp_path, database_url):
    prepare(database_url)
    return settings_of(tmp_path / "data", database_url)


def settings_of(data_dir, url):
    """A sandbox node's; nothing is ever asked here, so its upstreams need not be there."""
    nowhere = dict.fromkeys(
        ("coingecko_base_url", "coinbase_exchange_base_url", "coinbase_api_base_url"), "http://127.0.0.1:1"
    )
    return Settings(_env_file=None, data_dir=data_dir, origin="sandbox", database_url=url, **nowhere)


def prepare(url):
    db = Database(url)
    upgrade(db)
    db.run(lambda conn: registry.save(conn, small_registry(), START))
    db.dispose()


@pytest.fixture
async def runtime(settings):
    async with await Runtime.open(settings, "crypto-prices", clock=ManualClock(NOW)) as opened:
        yield opened


def rows(db, table, *order):
    with db.read() as conn:
        return [row._mapping for row in conn.execute(select(table).order_by(*order))]


def events(db):
    with db.read() as conn:
        return [(seq, orjson.loads(body)) for seq, body in outbox.read(conn, "prices", 0, 1_000)]


async def test_an_answer_becomes_index_values_and_events_in_one_transaction(runtime):
    async with holding(runtime, "crypto-prices", "me"):
        receipt = await runtime.ingestor.ingest(markets(coin("bitcoin", 90_000.5), coin("ethereum", 3_000)))
    assert (receipt.outcome, len(receipt.parsed.rows), receipt.again) == ("ok", 2, False)
    (fetch,) = rows(runtime.db, tables.fetches)
    assert (fetch["collector"], fetch["outcome"], fetch["row_count"]) == ("crypto-prices", "ok", 2)
    assert orjson.loads(fetch["request"])["context"] == {"interval_s": "300", "slot": str(START)}
    stored = rows(runtime.db, tables.price_data_real, "asset_id")
    assert [(r["asset_id"], r["slot"], r["current_price"]) for r in stored] == [
        (1, START, 90_000.5),
        (2, START, 3_000.0),
    ]
    assert {r["payload_hash"] for r in stored} == {fetch["payload_hash"]}
    assert runtime.archive.read(fetch["segment"], fetch["position"]).fetched_at == NOW
    assert [(seq, body["symbol"], body["slot"], body["current_price"]) for seq, body in events(runtime.db)] == [
        (1, "BTC", START, 90_000.5),
        (2, "ETH", START, 3_000.0),
    ]
    (_, body), *_ = events(runtime.db)
    assert body["coin_id"] == "bitcoin"
    assert body["market_cap"] is None
    assert body["source"] == "coingecko.markets"


async def test_every_complete_answer_is_archived_and_indexed_also_refusals(runtime):
    answers = [
        markets(coin("bitcoin", 1.0), status=429, body=b'{"status":{"error_code":429,"error_message":"slow down"}}'),
        markets(coin("bitcoin", 1.0), status=503, body=b"down"),
        markets(coin("bitcoin", 1.0), status=404, body=b'{"error":"coin not found"}'),
        markets(coin("bitcoin", 1.0), body=b"<html>hello</html>"),
        markets(coin("bitcoin", 1.0), status=304, body=b""),
    ]
    async with holding(runtime, "crypto-prices", "me"):
        receipts = [await runtime.ingestor.ingest(answer) for answer in answers]
    outcomes = ["rate_limited", "unavailable", "rejected", "malformed", "not_modified"]
    assert [receipt.outcome for receipt in receipts] == outcomes
    assert isinstance(receipts[0].error, RateLimited)
    assert sorted(row["outcome"] for row in rows(runtime.db, tables.fetches)) == sorted(outcomes)
    (dead,) = rows(runtime.db, tables.dead_letters)
    assert (dead["source"], dead["payload_hash"]) == ("coingecko.markets", receipts[3].payload_hash)
    assert len(list(runtime.archive.scan())) == 5
    assert rows(runtime.db, tables.price_data_real) == []


async def test_unknown_and_missing_ids_become_quality_events(runtime):
    async with holding(runtime, "crypto-prices", "me"):
        answer = markets(coin("bitcoin", 1.0), coin("nobody-knows-it", 2.0), ids=["bitcoin", "ethereum"])
        receipt = await runtime.ingestor.ingest(answer)
    assert receipt.unknown == ("nobody-knows-it",)
    found = rows(runtime.db, tables.data_quality_events, "kind")
    assert [(e["kind"], e["subject"]) for e in found] == [("missing_id", "ethereum"), ("unknown_id", "nobody-knows-it")]
    assert [row["asset_id"] for row in rows(runtime.db, tables.price_data_real)] == [1]


async def test_the_attempt_hook_and_ingest_are_one_archive_record(runtime):
    answer = markets(coin("bitcoin", 1.0))
    async with holding(runtime, "crypto-prices", "me"):
        await runtime.ingestor.archived(answer)
        receipt = await runtime.ingestor.ingest(answer)
    assert [at.fetch_id for at, _, _ in runtime.archive.scan()] == [receipt.fetch_id]
    assert len(rows(runtime.db, tables.fetches)) == 1


async def test_many_answers_at_once_are_all_committed_in_order(runtime):
    answers = [
        markets(coin("bitcoin", float(n + 1)), slot=START + n * 5 * MINUTE, fetched_at=NOW + n) for n in range(150)
    ]
    async with holding(runtime, "crypto-prices", "me"):
        receipts = await asyncio.gather(*(runtime.ingestor.ingest(answer) for answer in answers))
    assert len({receipt.fetch_id for receipt in receipts}) == 150
    assert len(rows(runtime.db, tables.price_data_real)) == 150
    assert runtime.ingestor.state.waiting == 0


async def test_repaired_slots_of_the_past_make_no_event(runtime):
    past = START - 10 * 5 * MINUTE
    request = PriceCandles().request("BTC-USD", 300, past, START + 5 * MINUTE)
    body = [[(past + n * 5 * MINUTE) // 1_000, 1, 2, 1, 1.5, 3] for n in range(10)]
    later = START + 6 * MINUTE
    async with holding(runtime, "crypto-prices", "me"):
        await runtime.ingestor.ingest(markets(coin("bitcoin", 2.0)))
        await runtime.ingestor.ingest(Exchange(request, 200, {}, orjson.dumps(body), later))
        next_slot = PriceCandles().request("BTC-USD", 300, START + 5 * MINUTE, START + 10 * MINUTE)
        body = [[START // 1_000 + 300, 1, 2, 1, 1.75, 3]]
        await runtime.ingestor.ingest(Exchange(next_slot, 200, {}, orjson.dumps(body), later + 5 * MINUTE))
    assert len(rows(runtime.db, tables.price_data_real)) == 12
    assert [(body["slot"], body["source"]) for _, body in events(runtime.db)] == [
        (START, "coingecko.markets"),
        (START + 5 * MINUTE, "coinbase.candles"),
    ]


async def test_a_fallback_price_does_not_outshine_the_better_source_of_its_slot(runtime):
    rates = Request(
        "coinbase.exchange_rates",
        "/exchange-rates",
        {"currency": "USD"},
        {"interval_s": "300", "slot": str(START), "products": "BTC-USD"},
    )
    body = orjson.dumps({"data": {"currency": "USD", "rates": {"BTC": "0.00001"}}})
    async with holding(runtime, "crypto-prices", "me"):
        await runtime.ingestor.ingest(markets(coin("bitcoin", 2.0)))
        await runtime.ingestor.ingest(Exchange(rates, 200, {}, body, NOW + 5))
    assert len(rows(runtime.db, tables.price_data_real)) == 2
    assert [body["source"] for _, body in events(runtime.db)] == ["coingecko.markets"]


async def test_a_fenced_zombie_writes_nothing_and_its_successor_loses_nothing(runtime, settings):
    async with await Runtime.open(
        settings, "crypto-prices", clock=ManualClock(NOW), writer="crypto-prices.other-1"
    ) as other:
        runtime.ingestor.lease = await asyncio.to_thread(runtime.leases.acquire, "crypto-prices", "one", 0.01)
        await asyncio.sleep(0.05)
        async with holding(other, "crypto-prices", "two"):
            with pytest.raises(LeaseLost, match="two"):
                await runtime.ingestor.ingest(markets(coin("bitcoin", 1.0)))
            assert runtime.ingestor.lease is None
            assert rows(runtime.db, tables.fetches) == rows(runtime.db, tables.price_data_real) == []
            assert await other.ingestor.recover() == 1
    assert [row["current_price"] for row in rows(runtime.db, tables.price_data_real)] == [1.0]
    assert len(events(runtime.db)) == 1


async def test_an_answer_whose_writing_has_begun_is_committed_although_its_asker_is_cancelled(runtime, monkeypatch):
    begun, go_on, append = threading.Event(), threading.Event(), runtime.archive.append

    def slow(exchange, collector):
        begun.set()
        go_on.wait(10)
        return append(exchange, collector)

    monkeypatch.setattr(runtime.archive, "append", slow)
    async with holding(runtime, "crypto-prices", "me"):
        asking = asyncio.create_task(runtime.ingestor.ingest(markets(coin("bitcoin", 90_000.5))))
        assert await asyncio.to_thread(begun.wait, 10)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        go_on.set()
    assert [row["current_price"] for row in rows(runtime.db, tables.price_data_real)] == [90_000.5]


async def test_a_holder_that_comes_back_commits_what_stands_in_its_line_before_it_asks_again(runtime, monkeypatch):
    """A short absence of the database costs the lease; the answer in line is no row yet, and the archive has it."""
    commits, here = runtime.db.run, asyncio.Event()

    def away(work):
        if not here.is_set():
            raise StorageError("away") from OperationalError("away", None, Exception())
        return commits(work)

    lease = await asyncio.to_thread(runtime.leases.acquire, "crypto-prices", "me", 10.0)
    runtime.ingestor.lease = lease
    monkeypatch.setattr(runtime.db, "run", away)
    await runtime.ingestor.archived(markets(coin("bitcoin", 1.0)))
    async with asyncio.timeout(10):
        while runtime.ingestor.state.stalled_by is None:
            await asyncio.sleep(0.01)
    runtime.ingestor.lease = None
    here.set()
    runtime.ingestor.lease = await asyncio.to_thread(runtime.leases.acquire, "crypto-prices", "me", 10.0)
    await runtime.ingestor.recover()
    assert [row["current_price"] for row in rows(runtime.db, tables.price_data_real)] == [1.0]


async def test_a_commit_that_fails_for_the_old_token_is_tried_again_under_the_new_one(runtime, monkeypatch):
    began, go_on, commit = threading.Event(), threading.Event(), runtime.ingestor._commit
    tokens = []

    def late(batch, lease):
        tokens.append(lease.token)
        if len(tokens) == 1:
            began.set()
            assert go_on.wait(10)
        return commit(batch, lease)

    monkeypatch.setattr(runtime.ingestor, "_commit", late)
    runtime.ingestor.lease = await asyncio.to_thread(runtime.leases.acquire, "crypto-prices", "me", 10.0)
    await runtime.ingestor.archived(markets(coin("bitcoin", 1.0)))
    assert await asyncio.to_thread(began.wait, 10)
    runtime.ingestor.lease = None
    runtime.ingestor.lease = await asyncio.to_thread(runtime.leases.acquire, "crypto-prices", "me", 10.0)
    recovering = asyncio.create_task(runtime.ingestor.recover())
    await asyncio.sleep(0.1)
    go_on.set()
    await recovering
    assert [row["current_price"] for row in rows(runtime.db, tables.price_data_real)] == [1.0]
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 2


async def test_recovering_again_changes_nothing(runtime):
    async with holding(runtime, "crypto-prices", "me"):
        await runtime.ingestor.ingest(markets(coin("bitcoin", 1.0)))
        assert await runtime.ingestor.recover(0) == 0
    assert len(events(runtime.db)) == 1


async def test_answers_wait_for_the_database_and_are_not_asked_again(runtime, monkeypatch, caplog):
    away = asyncio.Event()
    real = runtime.db.run

    def run(work):
        if away.is_set():
            raise StorageError("gone") from OperationalError("COMMIT", {}, Exception("gone"))
        return real(work)

    async with holding(runtime, "crypto-prices", "me"):
        monkeypatch.setattr(runtime.db, "run", run)
        away.set()
        waiting = asyncio.create_task(runtime.ingestor.ingest(markets(coin("bitcoin", 1.0))))
        while runtime.ingestor.state.stalled_by is None:
            await asyncio.sleep(0.01)
        assert not waiting.done()
        assert runtime.ingestor.state.waiting == 1
        away.clear()
        assert (await waiting).outcome == "ok"
    assert runtime.ingestor.state.stalled_by is None
    assert len(rows(runtime.db, tables.price_data_real)) == 1


async def test_more_than_memory_should_hold_waits_in_the_archive(runtime, monkeypatch):
    monkeypatch.setattr(ingest_module, "MAX_PENDING_BYTES", 10)
    with pytest.raises(StorageError, match="archived"):
        await runtime.ingestor.ingest(markets(coin("bitcoin", 1.0)))
    assert runtime.ingestor.behind
    monkeypatch.setattr(ingest_module, "MAX_PENDING_BYTES", 10_000)
    async with holding(runtime, "crypto-prices", "me"):
        assert await runtime.ingestor.recover() == 1
    assert not runtime.ingestor.behind
    assert len(rows(runtime.db, tables.price_data_real)) == 1


async def test_what_was_left_to_the_archive_is_found_hours_of_newer_commits_later(runtime, monkeypatch):
    async with holding(runtime, "crypto-prices", "me"):
        with monkeypatch.context() as patch:
            patch.setattr(ingest_module, "MAX_PENDING_BYTES", 10)
            with pytest.raises(StorageError, match="archived"):
                await runtime.ingestor.ingest(markets(coin("bitcoin", 1.0)))
        late = NOW + 3 * 60 * MINUTE
        await runtime.ingestor.ingest(markets(coin("bitcoin", 2.0), slot=START + 3 * 60 * MINUTE, fetched_at=late))
        assert runtime.ingestor.behind
        assert await runtime.ingestor.recover() == 1
    assert [row["current_price"] for row in rows(runtime.db, tables.price_data_real, "slot")] == [1.0, 2.0]


async def test_the_payload_is_on_the_disk_before_the_rows_are_committed(runtime, monkeypatch):
    order = []
    fdatasync, run = os.fdatasync, runtime.db.run
    async with holding(runtime, "crypto-prices", "me"):
        monkeypatch.setattr(os, "fdatasync", lambda fd: (order.append("disk"), fdatasync(fd)))
        monkeypatch.setattr(runtime.db, "run", lambda work: (order.append("commit"), run(work))[1])
        await runtime.ingestor.ingest(markets(coin("bitcoin", 1.0)))
        await runtime.ingestor.ingest(markets(coin("bitcoin", 2.0), fetched_at=NOW + 1))
    assert [step for step in order if step == "disk"] == ["disk", "disk"]
    assert order[:2] == ["disk", "commit"]


async def test_nothing_is_committed_while_the_disk_refuses_and_all_of_it_afterwards(runtime, monkeypatch, caplog):
    def refuse(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with holding(runtime, "crypto-prices", "me"):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", refuse)
            waiting = asyncio.create_task(runtime.ingestor.ingest(markets(coin("bitcoin", 1.0))))
            while runtime.ingestor.state.stalled_by is None:
                await asyncio.sleep(0.01)
            assert rows(runtime.db, tables.fetches) == []
        assert (await waiting).ok
    assert "disk" in caplog.text


@pytest.mark.integration
async def test_a_value_the_database_would_never_take_does_not_hold_up_the_others(tmp_path, mariadb_url, monkeypatch):
    """MariaDB says it with the same kind of error as that it is away."""
    real = ingest_module.digest

    def spoilt(exchange, at, assets):
        found = real(exchange, at, assets)
        for event in found.quality:
            event["kind"] = "longer than the twenty-four characters of the column"
        return found

    prepare(mariadb_url)
    monkeypatch.setattr(ingest_module, "digest", spoilt)
    answers = [markets(coin("bitcoin", 1.0)), markets(coin("bitcoin", 2.0), ids=["bitcoin", "ethereum"])]
    settings = settings_of(tmp_path / "data", mariadb_url)
    async with await Runtime.open(settings, "crypto-prices", clock=ManualClock(NOW)) as runtime:
        async with holding(runtime, "crypto-prices", "me"):
            async with asyncio.timeout(30):
                done = await asyncio.gather(*map(runtime.ingestor.ingest, answers), return_exceptions=True)
        assert [type(each).__name__ for each in done] == ["Receipt", "StorageError"]
        assert runtime.ingestor.state.waiting == 0


def test_the_longest_segment_name_fits_its_column_and_pods_stay_apart():
    pods = [f"crypto-data-collection-raycluster-abcde-small-group-worker-{n}xyz" for n in range(2)]
    names = [writer_name("asset-registry", pod, 4_194_304) for pod in pods]
    assert names[0] != names[1]
    longest = max(sources.ENDPOINTS, key=len)
    assert len(f"{longest}/20261124T08.{names[0]}.zst") <= tables.fetches.c.segment.type.length


async def test_one_answer_that_cannot_be_stored_does_not_hold_up_the_others(runtime, monkeypatch, caplog):
    real = ingest_module.digest

    def spoilt(exchange, at, assets):
        found = real(exchange, at, assets)
        for row in found.rows.get("price_data_real", ()):
            if row["current_price"] == 666.0:
                row["current_price"] = float("nan")
        return found

    monkeypatch.setattr(ingest_module, "digest", spoilt)
    answers = [markets(coin("bitcoin", price), fetched_at=NOW + n) for n, price in enumerate((1.0, 666.0, 2.0))]
    async with holding(runtime, "crypto-prices", "me"):
        done = await asyncio.gather(*(runtime.ingestor.ingest(a) for a in answers), return_exceptions=True)
    assert [type(each).__name__ for each in done] == ["Receipt", "StorageError", "Receipt"]
    assert "cannot be stored" in caplog.text
    assert [row["current_price"] for row in rows(runtime.db, tables.price_data_real)] == [2.0]


class Broken:
    async def publish(self, channel, events):
        raise RuntimeError("no bus")


class Listening:
    def __init__(self):
        self.heard = []

    async def publish(self, channel, events):
        self.heard += [(channel, *event) for event in events]


async def test_a_failing_event_bus_never_fails_ingestion(settings):
    clock = ManualClock(NOW)
    async with await Runtime.open(settings, "crypto-prices", clock=clock, notifier=Broken()) as runtime:
        async with holding(runtime, "crypto-prices", "me"):
            assert (await runtime.ingestor.ingest(markets(coin("bitcoin", 1.0)))).ok
        assert "no bus" in runtime.ingestor.state.notifier_error


async def test_the_event_bus_hears_what_the_outbox_holds(settings):
    bus = Listening()
    async with await Runtime.open(settings, "crypto-prices", clock=ManualClock(NOW), notifier=bus) as runtime:
        async with holding(runtime, "crypto-prices", "me"):
            await runtime.ingestor.ingest(markets(coin("bitcoin", 1.0), coin("solana", 2.0)))
        with runtime.db.read() as conn:
            assert bus.heard == [("prices", *event) for event in outbox.read(conn, "prices", 0, 10)]


async def test_products_reconcile_the_registry_against_the_list_before(runtime):
    listed = [{"id": a.coin_id, "symbol": a.symbol.lower(), "name": a.name} for a in runtime.registry]
    listed[1]["name"] = "Ether renamed"
    products = [
        {"id": a.coinbase_product, "base_currency": a.symbol, "quote_currency": "USD", "status": "online"}
        for a in runtime.registry
        if a.coinbase_product is not None and a.symbol != "UNI"
    ]
    async with holding(runtime, "asset-registry", "me"):
        await runtime.ingestor.ingest(Exchange(CoinsList().request(), 200, {}, orjson.dumps(listed), NOW))
        assert runtime.registry.by_id(2).name == "Ethereum", "one list alone changes nothing"
        await runtime.ingestor.ingest(Exchange(Products().request(), 200, {}, orjson.dumps(products), NOW + 1_000))
    assert runtime.registry.by_id(2).name == "Ether renamed"
    assert runtime.registry.by_symbol("UNI")[0].coinbase_product is None
    with runtime.db.read() as conn:
        assert registry.load(conn) == runtime.registry
        assert conn.scalar(select(func.max(tables.crypto_assets.c.updated_at))) == NOW + 1_000


async def test_products_that_have_not_changed_still_reconcile_a_list_that_has(runtime):
    def listed(**renamed):
        coins = [{"id": a.coin_id, "symbol": a.symbol, "name": a.name} for a in runtime.registry]
        return orjson.dumps([coin | {"name": renamed.get(coin["id"], coin["name"])} for coin in coins])

    products = [
        {"id": a.coinbase_product, "base_currency": a.symbol, "quote_currency": "USD", "status": "online"}
        for a in runtime.registry
        if a.coinbase_product is not None
    ]
    answers = [
        Exchange(CoinsList().request(), 200, {}, listed(), NOW),
        Exchange(Products().request(), 200, {}, orjson.dumps(products), NOW + 1_000),
        Exchange(CoinsList().request(), 200, {}, listed(bitcoin="Bitcoin, renamed"), NOW + DAY),
        Exchange(Products().request(), 304, {}, b"", NOW + DAY + 1_000),
    ]
    async with holding(runtime, "asset-registry", "me"):
        for answer in answers:
            assert (await runtime.ingestor.ingest(answer)).ok
    assert runtime.registry.by_id(1).name == "Bitcoin, renamed"


async def test_ranks_follow_the_price_answers_that_the_request_for_products_names(runtime):
    """In the archive stands which answers they were, so a rebuild takes the same ones over."""
    products = orjson.dumps(
        [
            {"id": a.coinbase_product, "base_currency": a.symbol, "quote_currency": "USD", "status": "online"}
            for a in runtime.registry
            if a.coinbase_product is not None
        ]
    )
    coins = orjson.dumps([{"id": a.coin_id, "symbol": a.symbol, "name": a.name} for a in runtime.registry])
    polls = [
        markets(coin("chainlink", 9.0, market_cap_rank=2), fetched_at=NOW),
        markets(coin("bitcoin", 1.0, market_cap_rank=7), coin("ethereum", 2.0, market_cap_rank=8), fetched_at=NOW + 1),
        markets(coin("bitcoin", 1.0, market_cap_rank=3), coin("ethereum", 2.0), fetched_at=NOW + 2),
    ]
    async with holding(runtime, "asset-registry", "me"):
        receipts = [await runtime.ingestor.ingest(poll) for poll in polls]
        with runtime.db.read() as conn:
            chosen = rank_answers(conn, NOW + 5)
        assert chosen == [receipts[0].fetch_id, receipts[2].fetch_id], "the newest of each coin"
        await runtime.ingestor.ingest(Exchange(CoinsList().request(), 200, {}, coins, NOW + 3))
        request = with_rank_answers(Products().request(), chosen)
        await runtime.ingestor.ingest(markets(coin("bitcoin", 1.0, market_cap_rank=99), fetched_at=NOW + 4))
        await runtime.ingestor.ingest(Exchange(request, 200, {}, products, NOW + 5))
    ranks = {asset.symbol: asset.market_cap_rank for asset in runtime.registry}
    assert (ranks["LINK"], ranks["BTC"]) == (2, 3)
    assert ranks["ETH"] == small_registry().by_id(2).market_cap_rank, "an answer without a rank changes none"
    copy = Database(f"sqlite:///{runtime.settings.data_dir / 'copy.db'}")
    upgrade(copy)
    reprocess.reprocess(runtime.archive, copy, first_registry=small_registry(), first_registry_at=START)
    assert reprocess.differences(runtime.db, copy) == []
    copy.dispose()


KILLED = """
import asyncio, os, signal, sys
from ray_app.clock import ManualClock
from ray_app.collection.runtime import Runtime
from tests.collection.test_ingest import NOW, coin, markets, settings_of

async def main():
    settings = settings_of(sys.argv[1], sys.argv[2])
    runtime = await Runtime.open(settings, "crypto-prices", clock=ManualClock(NOW))
    await runtime.ingestor.archived(markets(coin("bitcoin", 123.0)))   # no lease yet: archived, not committed
    await runtime.ingestor.archived(markets(coin("ethereum", 45.0), status=503, body=b"down"))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_killed_between_archive_and_commit_loses_nothing(settings):
    arguments = [sys.executable, "-c", KILLED, str(settings.data_dir), settings.resolved_database_url]
    killed = await asyncio.to_thread(subprocess.run, arguments, cwd=ROOT, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    async with await Runtime.open(settings, "crypto-prices", clock=ManualClock(NOW + 48 * 60 * MINUTE)) as runtime:
        assert rows(runtime.db, tables.fetches) == []
        async with holding(runtime, "crypto-prices", "me"):
            assert await runtime.ingestor.recover() == 2
        assert sorted(row["outcome"] for row in rows(runtime.db, tables.fetches)) == ["ok", "unavailable"]
        assert [row["current_price"] for row in rows(runtime.db, tables.price_data_real)] == [123.0]
        assert len(events(runtime.db)) == 1


async def test_reprocessing_beside_a_node_leaves_it_the_answers_that_are_about_to_be_committed(runtime):
    """Their events come with their commit: who took them away would take the events too."""
    async with holding(runtime, "crypto-prices", "me"):
        await runtime.ingestor.ingest(markets(coin("bitcoin", 1.0)))
    await runtime.ingestor.archived(markets(coin("bitcoin", 2.0), slot=START + 5 * MINUTE, fetched_at=NOW + 5 * MINUTE))
    await asyncio.to_thread(reprocess.reprocess, runtime.archive, runtime.db)
    assert len(rows(runtime.db, tables.fetches)) == 1
    async with holding(runtime, "crypto-prices", "me"):
        assert await runtime.ingestor.drain(30)
    assert [body["current_price"] for _, body in events(runtime.db)] == [1.0, 2.0]


async def test_one_collector_does_not_recover_what_another_is_about_to_commit(settings, runtime):
    await runtime.ingestor.archived(markets(coin("bitcoin", 1.0)))
    async with (
        await Runtime.open(settings, "backfill", clock=ManualClock(NOW)) as other,
        holding(other, "backfill:x", "me"),
    ):
        assert await other.ingestor.recover() == 0

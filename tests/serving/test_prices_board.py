"""The board shows what the database's current view shows, whatever order the news comes in."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_app.assets import AssetRegistry
from ray_app.errors import StorageError, UnknownSymbol
from ray_app.serving import price_keepers, prices_board
from ray_app.serving.deps import StoredRegistry
from ray_app.serving.feed import Gap, OutboxFeed
from ray_app.serving.price_keepers import BoardKeeper, TickKeeper
from ray_app.serving.prices_board import PriceBoard
from ray_app.storage import outbox, queries, registry
from ray_app.storage.tables import price_data_real
from ray_app.storage.upsert import guarded_upsert
from tests.serving.gateway_world import BTC, ETH, MARKET, NOW, TWIN_SMALL, UNPRICED, price_event, price_row

SLOT = NOW - 300_000
SOURCES = ("coingecko.markets", "coinbase.candles", "coingecko.market_chart", "coinbase.exchange_rates")


class FixedRegistry:
    as_of = None

    def __init__(self, assets: AssetRegistry = MARKET) -> None:
        self.current = assets


@pytest.fixture
def board():
    return PriceBoard(FixedRegistry())


def shown(board: PriceBoard, typed: str = "BTC") -> dict:
    entry = board.view(typed).entry()
    return orjson.loads(entry.body) if entry is not None else None


def events(*rows, first=1, asset=BTC):
    return [(first + place, price_event(row, asset)) for place, row in enumerate(rows)]


def test_nothing_is_shown_of_an_asset_without_a_price(board):
    board.load([], 0)
    assert board.view("UNP").entry() is None
    assert board.loaded


def test_ticker_and_coin_id_in_any_case_show_the_same_bytes(board):
    board.load([price_row(BTC, SLOT, 1.0)], 0)
    bodies = {board.view(typed).entry().body for typed in ("BTC", "btc", "Btc", "bitcoin", "BITCOIN")}
    assert len(bodies) == 1


def test_an_unknown_symbol_has_near_matches(board):
    with pytest.raises(UnknownSymbol) as caught:
        board.view("bitcion")
    assert "BTC" in caught.value.near


def test_a_shared_ticker_says_what_was_assumed_and_the_coin_id_does_not(board):
    board.load([price_row(TWIN_SMALL, SLOT, 0.5)], 0)
    assert board.view("TWN").asset.coin_id == "twin-big"
    assert "twin-small" in board.view("TWN").note
    assert "note" not in shown(board, "twin-small")


def test_what_the_upstream_did_not_say_is_null(board):
    board.load([price_row(BTC, SLOT, 2.5)], 0)
    body = shown(board)
    assert body["current_price"] == 2.5
    for field in ("price_change_24h", "price_change_percentage_24h", "market_cap", "volume_24h", "high_24h", "low_24h"):
        assert body[field] is None
    assert (body["open_24h"], body["consensus_price"], body["venues"]) == (None, None, None)


def test_times_source_and_quality_are_in_the_body(board):
    board.load([price_row(BTC, SLOT, 2.5, event_time=SLOT + 1_500, known_at=SLOT + 9_000)], 0)
    body = shown(board)
    assert (body["timestamp"], body["as_of"]) == ("2026-11-24T07:55:01.500Z", "2026-11-24T07:55:09Z")
    assert (body["source"], body["quality"]) == ("coingecko.markets", "observed")


@pytest.mark.parametrize(
    ("source", "quality"),
    [
        ("coinbase.candles", "reconstructed"),
        ("coingecko.market_chart", "reconstructed"),
        ("coinbase.exchange_rates", "fallback"),
    ],
)
def test_a_repaired_or_fallback_price_says_so(board, source, quality):
    board.load([price_row(BTC, SLOT, 2.5, source)], 0)
    assert shown(board)["quality"] == quality


def test_an_event_replaces_the_bytes_and_the_tag(board):
    board.load([price_row(BTC, SLOT, 1.0)], 7)
    before = board.view("BTC").entry()
    assert board.view("BTC").entry() is before  # encoded once
    assert board.apply(events(price_row(BTC, SLOT + 300_000, 2.0), first=8)) == 1
    after = board.view("BTC").entry()
    assert shown(board)["current_price"] == 2.0
    assert after.etag != before.etag
    assert board.position == 8


def test_an_event_the_snapshot_already_holds_changes_nothing(board):
    row = price_row(BTC, SLOT, 1.0, event_version=None)
    board.load([row], 0)
    entry, version = board.view("BTC").entry(), board.version
    assert board.apply(events(row, row)) == 0
    assert board.view("BTC").entry() is entry
    assert board.version == version


def test_an_older_slot_never_replaces_a_newer_one(board):
    board.load([price_row(BTC, SLOT, 1.0)], 0)
    assert board.apply(events(price_row(BTC, SLOT - 300_000, 9.0))) == 0
    assert shown(board)["current_price"] == 1.0


def test_within_a_slot_the_best_source_is_shown_and_all_are_the_consensus(board):
    board.load([price_row(BTC, SLOT, 104.0, "coinbase.exchange_rates")], 0)
    assert shown(board)["consensus_price"] is None
    board.apply(events(price_row(BTC, SLOT, 100.0), price_row(BTC, SLOT, 101.0, "coinbase.candles")))
    body = shown(board)
    assert body["current_price"] == 100.0
    assert body["consensus_price"] == 101.0
    assert [venue["source"] for venue in body["venues"]] == [
        "coingecko.markets",
        "coinbase.candles",
        "coinbase.exchange_rates",
    ]
    board.apply(events(price_row(BTC, SLOT + 300_000, 105.0), first=3))
    assert shown(board)["consensus_price"] is None


# --- live ticks ---


def tick(price, at, asset=BTC, **values):
    return price_row(asset, at - at % 300_000, price, "coinbase.ticker", event_time=at, known_at=at + 800, **values)


def ticked(board, *rows, first=1, asset=BTC):
    return board.apply([(first + n, price_event(row, asset)) for n, row in enumerate(rows)], "ticks")


def test_a_newer_tick_is_the_price_and_hides_nothing_that_was_observed(board):
    board.load([price_row(BTC, SLOT, 100.0, market_cap=5e9, high_24h=110.0, price_change_24h=-1.0)], 7)
    assert ticked(board, tick(101.0, SLOT + 200_000, high_24h=999.0, volume_qty_24h=3.0)) == 1
    body = shown(board)
    assert (body["current_price"], body["source"], body["quality"]) == (101.0, "coinbase.ticker", "live")
    assert (body["timestamp"], body["as_of"]) == ("2026-11-24T07:58:20Z", "2026-11-24T07:58:20.800Z")
    assert (body["market_cap"], body["high_24h"], body["price_change_24h"]) == (5e9, 110.0, -1.0)
    assert body["market"] == {"source": "coingecko.markets", "timestamp": "2026-11-24T07:55:03Z"}
    assert board.position == 7, "the ticks have numbers of their own"


def test_an_older_tick_is_a_venue_and_not_the_price(board):
    board.load([price_row(BTC, SLOT, 100.0)], 0)
    ticked(board, tick(99.0, SLOT - 60_000))
    body = shown(board)
    assert (body["current_price"], body["source"], body["consensus_price"]) == (100.0, "coingecko.markets", 99.5)
    assert "market" not in body
    ticked(board, tick(101.0, SLOT + 4_000))
    board.apply(events(price_row(BTC, SLOT + 300_000, 105.0)))
    assert shown(board)["current_price"] == 105.0


def test_a_tick_of_hours_ago_is_not_shown_at_all(board):
    board.load([price_row(BTC, SLOT, 100.0), tick(1.0, SLOT - 2 * 3_600_000)], 0)
    body = shown(board)
    assert (body["current_price"], body["venues"], body["consensus_price"]) == (100.0, None, None)


def test_an_asset_with_nothing_but_ticks_is_priced(board):
    board.load([], 0)
    ticked(board, tick(3.0, SLOT), tick(2.0, SLOT - 1_000, high_24h=9.0))
    body = shown(board)
    assert (body["current_price"], body["market_cap"], body["venues"]) == (3.0, None, None)
    assert "market" not in body


def test_ticks_in_any_order_end_at_the_newest_and_a_repetition_changes_nothing(board):
    rows = [tick(float(n), SLOT + 1_000 * n) for n in range(1, 6)]
    for order in (rows, rows[::-1], rows[2:] + rows[:2]):
        board.load([], 0)
        ticked(board, *order)
        assert shown(board)["current_price"] == 5.0
        version = board.version
        assert ticked(board, *order) == 0
        assert board.version == version


def test_a_stale_and_an_outlying_venue_are_flagged_and_not_counted(board):
    board.load(
        [
            price_row(BTC, SLOT, 100.0),
            price_row(BTC, SLOT, 101.0, "coinbase.candles"),
            price_row(BTC, SLOT, 150.0, "coinbase.exchange_rates"),
        ],
        0,
    )
    ticked(board, tick(102.0, SLOT + 10_000))
    body = shown(board)
    assert body["consensus_price"] == 101.0
    flags = {venue["source"]: venue.get("flag") for venue in body["venues"]}
    assert flags == {
        "coingecko.markets": None,
        "coinbase.candles": None,
        "coinbase.exchange_rates": "outlying",
        "coinbase.ticker": None,
    }
    ticked(board, tick(103.0, SLOT + 400_000))
    body = shown(board)
    assert body["consensus_price"] == 103.0
    assert [venue.get("flag") for venue in body["venues"]] == ["stale", "stale", "stale", None]


def test_a_reload_keeps_a_tick_that_came_while_it_read(board):
    board.load([price_row(BTC, SLOT, 1.0)], 0)
    ticked(board, tick(2.0, SLOT + 60_000))
    board.load([price_row(BTC, SLOT, 1.0), tick(1.5, SLOT + 30_000)], 0)
    assert shown(board)["current_price"] == 2.0
    board.load([price_row(BTC, SLOT, 1.0), tick(2.5, SLOT + 90_000)], 0)
    assert shown(board)["current_price"] == 2.5


def test_a_body_that_is_no_price_is_reported_and_passed_over(board, caplog):
    board.load([], 0)
    good = price_event(price_row(BTC, SLOT, 3.0), BTC)
    assert board.apply([(1, b"{"), (2, b"[]"), (3, b"{}"), (4, good)]) == 1
    assert shown(board)["current_price"] == 3.0
    assert board.position == 4
    assert caplog.text.count("is not a price") == 3


def test_a_renamed_asset_is_shown_under_its_new_name_at_once():
    provider = FixedRegistry()
    board = PriceBoard(provider)
    board.load([price_row(BTC, SLOT, 1.0)], 0)
    assert shown(board)["name"] == "Bitcoin"
    provider.current = MARKET.replaced([replace(BTC, name="Bitcoin (new)", symbol="XBT")])
    assert shown(board, "XBT")["name"] == "Bitcoin (new)"
    assert board.seen("BTC") is None  # what was looked up before is not trusted


def test_pages_are_kept_until_something_changes(board):
    board.load([price_row(BTC, SLOT, 1.0)], 0)
    board.pages()["x"] = 1
    board.apply(events(price_row(BTC, SLOT, 1.0)))
    assert board.pages() == {"x": 1}
    board.apply(events(price_row(BTC, SLOT + 300_000, 2.0)))
    assert board.pages() == {}


def test_remembered_spellings_are_bounded(board, monkeypatch):
    monkeypatch.setattr(prices_board, "_MAX_VIEWS", 10)
    for length in range(60):
        with pytest.raises(UnknownSymbol):
            board.view("nosuchcoin" + "!" * length)
        board.view("btc" + " " * length)
    assert len(board._views) <= 10


# --- against the database ------------------------------------------------------------------------------------

rows_of_a_market = st.lists(
    st.builds(
        lambda asset, slot, source, price, event, known: price_row(
            asset,
            NOW + slot * 300_000,
            price,
            source,
            event_time=NOW + slot * 300_000 + event,
            known_at=NOW + slot * 300_000 + known,
        ),
        st.sampled_from([BTC, ETH]),
        st.integers(0, 3),
        st.sampled_from(SOURCES),
        st.floats(0.001, 1e6, allow_nan=False),
        st.integers(0, 3),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(rows=rows_of_a_market, cut=st.integers(0, 25), data=st.data())
def test_any_split_into_snapshot_and_events_in_any_order_shows_the_databases_current_view(
    tmp_path_factory, rows, cut, data
):
    from ray_app.storage.engine import Database
    from ray_app.storage.tables import metadata

    # two statements of the same order about the same key would be one statement: make orders unique
    for number, row in enumerate(rows):
        row["known_at"] = row["fetched_at"] = row["known_at"] + 10 * number
    db = Database(f"sqlite:///{tmp_path_factory.mktemp('board') / 'x.db'}")
    try:
        db.run(metadata.create_all)
        db.run(lambda conn: registry.save(conn, MARKET, NOW))
        board = PriceBoard(FixedRegistry())
        db.run(lambda conn: guarded_upsert(conn, price_data_real, rows[:cut]))
        keeper = BoardKeeper(board, db, lambda _after: None)
        keeper.reload_now()
        db.run(lambda conn: guarded_upsert(conn, price_data_real, rows[cut:]))
        late = data.draw(st.permutations(rows))  # the snapshot's own among them
        for row in late:
            board.apply([(1, price_event(row, BTC))])
        with db.read() as conn:
            for expected in queries.current_prices(conn):
                body = shown(board, expected["coin_id"])
                assert body["current_price"] == expected["current_price"]
                assert body["source"] == expected["source"]
    finally:
        db.dispose()


# --- the keeper ----------------------------------------------------------------------------------------------


@pytest.fixture
def stored(db):
    db.run(lambda conn: registry.save(conn, MARKET, NOW))
    provider = StoredRegistry(db)
    provider.refresh()
    return PriceBoard(provider)


def store(db, row, asset=BTC):
    """A price and its event in one transaction, as the collectors write them."""

    def work(conn):
        guarded_upsert(conn, price_data_real, [row])
        outbox.append(conn, "prices", [price_event(row, asset)], NOW)

    db.run(work)


async def until(condition, timeout_s=10.0):
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


class Running:
    """A keeper at work for the length of a block."""

    def __init__(self, keeper):
        self.keeper = keeper

    async def __aenter__(self):
        self.task = asyncio.create_task(self.keeper.run())
        return self.keeper

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.wait({self.task})
        assert self.task.cancelled()


async def test_the_board_starts_from_the_snapshot_and_follows_the_outbox(db, stored):
    store(db, price_row(BTC, SLOT, 1.0))
    keeper = BoardKeeper(stored, db, lambda after: OutboxFeed(db, "prices", after_seq=after, poll_s=0.02))
    async with Running(keeper):
        await until(lambda: stored.loaded)
        assert shown(stored)["current_price"] == 1.0
        store(db, price_row(BTC, SLOT + 300_000, 2.0))
        await until(lambda: shown(stored)["current_price"] == 2.0)
        assert keeper.state == "following"


async def test_what_is_stored_between_reading_head_and_snapshot_is_not_lost(db, stored, monkeypatch):
    """The head is read first: an event that comes in between is in the snapshot, in the feed, or in both."""
    real = outbox.head
    seen = []

    def head_then_write(conn, channel):
        head = real(conn, channel)
        if not seen:
            seen.append(head)
            store(db, price_row(BTC, SLOT, 5.0))
        return head

    monkeypatch.setattr(price_keepers.outbox, "head", head_then_write)
    keeper = BoardKeeper(stored, db, lambda after: OutboxFeed(db, "prices", after_seq=after, poll_s=0.02))
    async with Running(keeper):
        await until(lambda: stored.loaded and shown(stored) is not None)
        assert seen == [0]
        assert shown(stored)["current_price"] == 5.0


class BrokenFeed:
    """Fails as soon as it is asked."""

    closed = 0

    def __init__(self, error):
        self.error = error

    def __aiter__(self):
        return self

    async def __anext__(self):
        raise self.error

    async def aclose(self):
        type(self).closed += 1


@pytest.mark.parametrize(
    "error", [RuntimeError("bus gone"), Gap("prices", 3, 9), StorageError("away"), ValueError("x")]
)
async def test_while_the_feed_fails_prices_come_from_the_database_at_a_bounded_pace(db, stored, error, caplog):
    reads = []
    keeper = BoardKeeper(stored, db, lambda _after: BrokenFeed(error), refresh_s=0.05)
    real = keeper._read
    keeper._read = lambda: reads.append(1) or real()
    async with Running(keeper):
        await until(lambda: stored.loaded)
        store(db, price_row(BTC, SLOT, 4.0))
        await until(lambda: shown(stored) is not None)
        assert keeper.state == "refreshing"
    assert caplog.text.count("are read from the database every") == 1
    assert BrokenFeed.closed > 0


async def test_a_database_that_is_away_leaves_the_last_prices_standing_and_is_asked_again(db, stored, monkeypatch):
    store(db, price_row(BTC, SLOT, 1.0))
    keeper = BoardKeeper(
        stored, db, lambda after: OutboxFeed(db, "prices", after_seq=after, poll_s=0.02), refresh_s=0.02
    )
    keeper.reload_now()
    real, failures = keeper._read, []

    def away():
        failures.append(1)
        if len(failures) < 4:
            raise StorageError("the database is away")
        return real()

    monkeypatch.setattr(keeper, "_read", away)
    async with Running(keeper):
        assert shown(stored)["current_price"] == 1.0
        store(db, price_row(BTC, SLOT + 300_000, 2.0))
        await until(lambda: shown(stored)["current_price"] == 2.0)
    assert len(failures) == 4


async def test_a_second_source_without_an_event_of_its_own_is_found_by_comparison(db, stored, monkeypatch):
    monkeypatch.setattr(price_keepers, "RECONCILE_S", 0.02)
    store(db, price_row(BTC, SLOT, 1.0))
    keeper = BoardKeeper(stored, db, lambda _after: None)
    keeper.reload_now()
    task = asyncio.create_task(keeper.reconcile())
    try:
        row = price_row(BTC, SLOT, 3.0, "coinbase.candles")
        db.run(lambda conn: guarded_upsert(conn, price_data_real, [row]))
        await until(lambda: shown(stored)["consensus_price"] == 2.0)
    finally:
        task.cancel()
        await asyncio.wait({task})


def test_the_board_reads_only_assets_it_was_asked_for(db, stored):
    from ray_app.storage import gateway_queries

    store(db, price_row(BTC, SLOT, 1.0))
    store(db, price_row(ETH, SLOT, 2.0), ETH)
    with db.read() as conn:
        assert [row["asset_id"] for row in gateway_queries.board_prices(conn, ETH.asset_id)] == [ETH.asset_id]
        assert gateway_queries.board_prices(conn, UNPRICED.asset_id) == []


async def test_stored_ticks_are_loaded_and_new_ones_followed(stored, db):
    def work(conn):
        guarded_upsert(conn, price_data_real, [price_row(BTC, SLOT, 1.0), tick(2.0, SLOT + 301_000)])
        guarded_upsert(conn, price_data_real, [price_row(ETH, SLOT, 5.0), tick(4.0, SLOT - 301_000, ETH)])
        outbox.append(conn, "ticks", [price_event(tick(9.0, SLOT), BTC)], NOW)

    db.run(work)
    BoardKeeper(stored, db, lambda _after: None).reload_now()
    assert (shown(stored)["current_price"], shown(stored, "ETH")["current_price"]) == (2.0, 5.0)
    keeper = TickKeeper(stored, db, lambda after: OutboxFeed(db, "ticks", after_seq=after, poll_s=0.02))
    task = asyncio.create_task(keeper.run())
    try:
        await asyncio.sleep(0.1)
        news = [price_event(tick(3.0, SLOT + 305_000), BTC), price_event(tick(6.0, SLOT + 305_000, ETH), ETH)]
        db.run(lambda conn: outbox.append(conn, "ticks", news, NOW))
        await until(lambda: shown(stored, "ETH")["current_price"] == 6.0)
        assert shown(stored)["current_price"] == 3.0
    finally:
        task.cancel()
        await asyncio.wait({task})

"""Historical bars: really resampled, closed, ascending, gaps reported; on SQLite and MariaDB."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS, iso, to_ms
from ray_app.collection.expectation import SlotRange
from ray_app.collection.gaps import mark
from ray_app.serving.routes.history import EARLIEST_MS, moment, resample
from tests.serving.gateway_world import BTC, ETH, NOVENUE, NOW, candle_row, market, price_event, price_row
from tests.serving.test_api import problem

URL = "/api/v1/prices/historical/BTC"


@pytest.fixture
def world(db):
    return market(db)


def hours(*back: int, asset=BTC, **values):
    """Hourly candles that began so many hours ago."""
    return [candle_row(asset, 3_600, NOW - n * HOUR_MS, **values) for n in back]


async def get(world, url=URL, **params):
    async with world.client() as client:
        response = await client.get(url, params=params)
    assert response.status_code == 200, response.text
    return response.json()


# --- bars ----------------------------------------------------------------------------------------------------


async def test_stored_bars_come_back_ascending_and_to_the_last_digit(world):
    odd = {"open_price": 0.1 + 0.2, "volume": 1e-17}
    world.store_candles(*hours(3, 2, 1), candle_row(BTC, 3_600, NOW - 4 * HOUR_MS, **odd))
    body = await get(world, start=iso(NOW - 4 * HOUR_MS), end=iso(NOW))
    assert [bar["timestamp"] for bar in body["data"]] == [iso(NOW - n * HOUR_MS) for n in (4, 3, 2, 1)]
    assert (body["data"][0]["open"], body["data"][0]["volume"]) == (0.1 + 0.2, 1e-17)
    assert all(bar["is_final"] for bar in body["data"])
    assert (body["gaps"], body["quality"], body["count"], body["next_cursor"]) == ([], "complete", 4, None)
    assert (body["venue"], body["source"], body["resampled_from"], body["interval"]) == (
        "coinbase",
        "coinbase.candles",
        "1h",
        "1h",
    )
    assert (body["symbol"], body["coin_id"], body["vs_currency"]) == ("BTC", "bitcoin", "usd")
    assert body["as_of"] == iso(NOW + 20_000)


async def test_the_open_bar_of_the_live_ticks_stands_beside_the_closed_ones(world):
    world.store_candles(*hours(2, 1))
    board = world.deps.board
    assert "open_bar" not in await get(world, start=iso(NOW - 2 * HOUR_MS))
    for price, at in ((10.0, NOW), (12.0, NOW), (11.0, NOW)):
        row = price_row(BTC, NOW, price, "coinbase.ticker", event_time=at, known_at=at)
        board.apply([(1, price_event(row, BTC))], "ticks")
    body = await get(world, start=iso(NOW - 2 * HOUR_MS))
    bar = body["open_bar"]
    assert (bar["timestamp"], bar["is_final"], bar["source"]) == (iso(NOW), False, "coinbase.ticker")
    assert (bar["high"], bar["low"], bar["close"]) == (12.0, 10.0, 11.0)
    assert body["count"] == 2
    assert "open_bar" not in await get(world, start=iso(NOW - 2 * HOUR_MS), end=iso(NOW - HOUR_MS))
    assert "open_bar" not in await get(world, interval="4h")


async def test_four_hours_are_made_of_four_hourly_bars(world):
    """08:00 UTC is a boundary: the four bars before make one."""
    world.store_candles(
        candle_row(BTC, 3_600, NOW - 4 * HOUR_MS, open_price=10, high_price=12, low_price=9, close_price=11, volume=1),
        candle_row(BTC, 3_600, NOW - 3 * HOUR_MS, open_price=11, high_price=20, low_price=10, close_price=12, volume=2),
        candle_row(BTC, 3_600, NOW - 2 * HOUR_MS, open_price=12, high_price=13, low_price=2, close_price=3, volume=4),
        candle_row(BTC, 3_600, NOW - 1 * HOUR_MS, open_price=3, high_price=8, low_price=3, close_price=7, volume=8),
    )
    body = await get(world, start=iso(NOW - 4 * HOUR_MS), interval="4h")
    assert body["data"] == [
        {
            "timestamp": iso(NOW - 4 * HOUR_MS),
            "open": 10,
            "high": 20,
            "low": 2,
            "close": 7,
            "volume": 15,
            "is_final": True,
        }
    ]
    assert body["resampled_from"] == "1h"


async def test_quarter_hours_are_made_of_five_minute_bars(world):
    rows = [
        candle_row(
            BTC, 300, NOW - n * 5 * MINUTE_MS, open_price=n, high_price=n + 1, low_price=n - 1, close_price=n - 0.5
        )
        for n in (6, 5, 4, 3, 2, 1)
    ]
    world.store_candles(*rows)
    body = await get(world, start=iso(NOW - 30 * MINUTE_MS), interval="15m")
    assert body["resampled_from"] == "5m"
    assert [(bar["open"], bar["high"], bar["low"], bar["close"], bar["volume"]) for bar in body["data"]] == [
        (6, 7, 3, 3.5, 4.5),
        (3, 4, 0, 0.5, 4.5),
    ]


async def test_the_interval_makes_a_difference(world):
    """The earlier gateway ignored it."""
    world.store_candles(*hours(*range(1, 49)))
    counts = {i: (await get(world, days="1", interval=i))["count"] for i in ("1h", "4h", "1d")}
    assert counts == {"1h": 24, "4h": 6, "1d": 1}


async def test_the_open_bar_is_left_out(world):
    world.clock.advance(30 * 60)
    world.store_candles(*hours(2, 1), *[candle_row(BTC, 300, NOW + n * 5 * MINUTE_MS) for n in range(6)])
    body = await get(world, start=iso(NOW - 2 * HOUR_MS))
    assert [bar["timestamp"] for bar in body["data"]] == [iso(NOW - 2 * HOUR_MS), iso(NOW - HOUR_MS)]


async def test_a_volume_nobody_knows_is_null_and_makes_the_whole_bar_unknown(world):
    world.store_candles(*hours(8, 7, 6, 5), *hours(4, 2, 1), *hours(3, volume=None))
    body = await get(world, start=iso(NOW - 8 * HOUR_MS), interval="4h")
    assert [bar["volume"] for bar in body["data"]] == [6.0, None]
    hourly = await get(world, start=iso(NOW - 4 * HOUR_MS))
    assert [bar["volume"] for bar in hourly["data"]] == [1.5, None, 1.5, 1.5]


async def test_a_revised_candle_is_shown_in_its_current_version(world):
    first = candle_row(BTC, 3_600, NOW - HOUR_MS, version=1, close_price=5.0)
    revised = {**first, "version": 2, "close_price": 6.0, "fetched_at": first["fetched_at"] + 60_000}
    world.store_candles(revised, first)
    assert [bar["close"] for bar in (await get(world, days="1"))["data"]] == [6.0]


async def test_the_venues_own_bars_beat_sums_of_finer_ones(world):
    world.store_candles(
        *hours(2, 1, close_price=777.0),
        *[candle_row(BTC, 300, NOW - n * 5 * MINUTE_MS, close_price=1.0) for n in range(1, 25)],
    )
    body = await get(world, start=iso(NOW - 2 * HOUR_MS))
    assert body["resampled_from"] == "1h"
    assert {bar["close"] for bar in body["data"]} == {777.0}


async def test_where_finer_bars_reach_further_they_are_used(world):
    world.store_candles(*hours(12, 11, 10), *[candle_row(BTC, 300, NOW - n * 5 * MINUTE_MS) for n in range(1, 145)])
    body = await get(world, start=iso(NOW - 12 * HOUR_MS))
    assert body["resampled_from"] == "5m"
    assert body["count"] == 12


async def test_another_asset_without_a_venue_says_so(world):
    world.store_candles(*hours(1))
    async with world.client() as client:
        body = problem(await client.get(f"/api/v1/prices/historical/{NOVENUE.symbol}"), 404, "DATA_NOT_AVAILABLE")
        assert "no venue" in body["detail"]
        body = problem(await client.get("/api/v1/prices/historical/ETH"), 404, "DATA_NOT_AVAILABLE")
        assert "no candles of ETH" in body["detail"]


async def test_a_range_too_short_for_any_bar_is_explained(world):
    world.store_candles(*hours(1))
    async with world.client() as client:
        params = {"start": iso(NOW - 30 * MINUTE_MS), "end": iso(NOW), "interval": "1h"}
        body = problem(await client.get(URL, params=params), 404, "DATA_NOT_AVAILABLE")
    assert "no 1h bar" in body["detail"]


# --- gaps ----------------------------------------------------------------------------------------------------


async def test_missing_bars_are_reported_never_filled(world):
    world.store_candles(*hours(6, 5, 2, 1))
    body = await get(world, start=iso(NOW - 6 * HOUR_MS))
    assert body["count"] == 4
    assert body["quality"] == "gaps"
    assert body["gaps"] == [
        {"start": iso(NOW - 4 * HOUR_MS), "end": iso(NOW - 2 * HOUR_MS), "state": "not_collected", "reason": None}
    ]


async def test_what_the_ledger_knows_of_a_gap_is_in_the_answer(world):
    world.store_candles(*hours(8, 5, 1))
    world.db.run(
        lambda conn: (
            mark(conn, "candles-3600", BTC.asset_id, [_range(7, 6)], "confirmed_empty", None, NOW),
            mark(conn, "candles-3600", BTC.asset_id, [_range(4, 3)], "owed", None, NOW),
            mark(conn, "candles-3600", BTC.asset_id, [_range(3, 2)], "unrepairable", "delisted that day", NOW),
            mark(conn, "candles-3600", ETH.asset_id, [_range(8, 1)], "unrepairable", "another asset", NOW),
            mark(conn, "candles-300", BTC.asset_id, [_range(8, 1)], "unrepairable", "another dataset", NOW),
        )
    )
    body = await get(world, start=iso(NOW - 8 * HOUR_MS))
    assert [(gap["start"], gap["end"], gap["state"], gap["reason"]) for gap in body["gaps"]] == [
        (iso(NOW - 7 * HOUR_MS), iso(NOW - 6 * HOUR_MS), "confirmed_empty", None),
        (iso(NOW - 6 * HOUR_MS), iso(NOW - 5 * HOUR_MS), "not_collected", None),
        (iso(NOW - 4 * HOUR_MS), iso(NOW - 3 * HOUR_MS), "owed", None),
        (iso(NOW - 3 * HOUR_MS), iso(NOW - 2 * HOUR_MS), "unrepairable", "delisted that day"),
        (iso(NOW - 2 * HOUR_MS), iso(NOW - 1 * HOUR_MS), "not_collected", None),
    ]


def _range(first: int, last: int) -> SlotRange:
    return SlotRange(NOW - first * HOUR_MS, NOW - last * HOUR_MS)


async def test_a_bar_is_final_only_if_nothing_of_it_is_owed(world):
    world.store_candles(*hours(12, 11, 10, 9), *hours(8, 7, 5), *hours(4, 2, 1))
    world.db.run(lambda conn: mark(conn, "candles-3600", BTC.asset_id, [_range(6, 5)], "confirmed_empty", None, NOW))
    body = await get(world, start=iso(NOW - 12 * HOUR_MS), interval="4h")
    assert [bar["is_final"] for bar in body["data"]] == [True, True, False]


async def test_a_candle_that_closed_a_moment_ago_is_on_its_way_not_missing(world):
    world.store_candles(*hours(3, 2))
    world.clock.advance(60)  # 08:01: the candle of 07:00 is being fetched
    body = await get(world, start=iso(NOW - 3 * HOUR_MS))
    assert (body["count"], body["gaps"], body["quality"]) == (2, [], "complete")
    world.clock.advance(600)
    body = await get(world, start=iso(NOW - 3 * HOUR_MS))
    assert [gap["start"] for gap in body["gaps"]] == [iso(NOW - HOUR_MS)]


async def test_what_lies_before_the_first_candle_is_a_gap_of_the_range_asked_for(world):
    world.store_candles(*hours(2, 1))
    body = await get(world, start=iso(NOW - 48 * HOUR_MS))
    assert body["gaps"] == [
        {"start": iso(NOW - 48 * HOUR_MS), "end": iso(NOW - 2 * HOUR_MS), "state": "not_collected", "reason": None}
    ]


# --- pages ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interval", ["1h", "4h"])
async def test_pages_together_are_the_whole(world, interval):
    world.store_candles(*hours(*[n for n in range(1, 100) if n not in {13, 14, 15, 16, 17, 18, 19, 40, 41}]))
    start = iso(NOW - 99 * HOUR_MS)
    whole = await get(world, start=start, interval=interval, limit="1000")
    bars, gaps, cursor = [], [], None
    while True:
        extra = {"cursor": cursor} if cursor else {}
        page = await get(world, start=start, interval=interval, limit="7", **extra)
        assert 0 < page["count"] <= 7
        bars += page["data"]
        gaps += page["gaps"]
        if (cursor := page["next_cursor"]) is None:
            break
    assert bars == whole["data"]
    assert _merged(gaps) == _merged(whole["gaps"])


def _merged(gaps):
    merged = []
    for gap in gaps:
        if merged and merged[-1]["end"] == gap["start"] and merged[-1]["state"] == gap["state"]:
            merged[-1] = {**merged[-1], "end": gap["end"]}
        else:
            merged.append(dict(gap))
    return merged


async def test_a_page_never_reads_more_than_its_bound(world, monkeypatch):
    from ray_app.serving.routes import history

    monkeypatch.setattr(history, "MAX_ROWS", 60)
    world.store_candles(*[candle_row(BTC, 300, NOW - n * 5 * MINUTE_MS) for n in range(1, 289)])
    page = await get(world, days="1", interval="1h", limit="1000")
    assert page["count"] == 5
    assert page["next_cursor"] is not None


async def test_a_cursor_belongs_to_its_request(world):
    world.store_candles(*hours(*range(1, 30)))
    cursor = (await get(world, days="1", limit="2", interval="1h"))["next_cursor"]
    async with world.client() as client:
        response = await client.get(URL, params={"interval": "15m", "cursor": cursor})
        problem(response, 422, "VALIDATION_ERROR")


# --- parameters ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "start=2026-11-24T08:00:00Z&end=2026-11-24T08:00:00Z",
        "start=2026-11-25T08:00:00Z&end=2026-11-24T08:00:00Z",
        "start=2027-01-01",
        "start=yesterday",
        "start=",
        "start=0001-01-01T00:00:00Z",
        "start=1999-01-01T00:00:00Z",
        "end=9999-12-31T23:59:59Z",
        "end=9999-12-31T23:59:59-14:00",
        "start=2026-13-01",
        "start=1795507200",
        "days=0",
        "days=-1",
        "days=3651",
        "days=1e3",
        "days=7&start=2026-11-20T00:00:00Z",
        "interval=1m",
        "interval=2h",
        "interval=",
        "interval=1H",
        "vs_currency=eur",
        "vs_currency=",
        "limit=0",
        "limit=-5",
        "limit=1001",
        "limit=none",
        "cursor=abc",
        "cursor=eyJhdCI6MX0",
        "end=2009-01-03T00:00:00Z",
    ],
)
async def test_parameters_that_make_no_sense_are_refused(world, query):
    world.store_candles(*hours(1))
    async with world.client() as client:
        problem(await client.get(f"{URL}?{query}"), 422, "VALIDATION_ERROR")


async def test_a_forged_cursor_is_refused(world):
    from ray_app.serving.routes.answers import encode_cursor

    good = {"at": NOW - DAY_MS, "end": NOW, "venue": "coinbase", "interval_s": 3_600}
    world.store_candles(*hours(1))
    async with world.client() as client:
        assert (await client.get(URL, params={"cursor": encode_cursor(good)})).status_code == 200
        for change in (
            {"venue": "elsewhere"},
            {"interval_s": 7},
            {"interval_s": 0},
            {"at": NOW},
            {"at": 0},
            {"end": 10**15},
            {"at": True},
            {"at": 1.5},
            {"extra": 1},
        ):
            token = encode_cursor(good | change)
            problem(await client.get(URL, params={"cursor": token}), 422, "VALIDATION_ERROR")


@pytest.mark.parametrize(
    "start",
    [
        "2026-11-24T04:00:00Z",
        "2026-11-24T04:00:00",
        "2026-11-24T04:00:00.000Z",
        "2026-11-24T05:00:00+01:00",
        "2026-11-24T05:00:00 01:00",  # an unencoded plus
        "2026-11-24 04:00:00",
        "2026-11-23T23:00:00-05:00",
        "20261124T040000Z",
    ],
)
async def test_one_moment_may_be_spelled_in_several_ways(world, start):
    world.store_candles(*hours(*range(1, 10)))
    body = await get(world, start=start)
    assert body["data"][0]["timestamp"] == "2026-11-24T04:00:00Z"


def test_a_date_is_its_midnight():
    assert moment("start", "2026-11-24") == to_ms(datetime(2026, 11, 24, tzinfo=UTC))


async def test_without_a_range_the_answer_is_a_week(world):
    world.store_candles(*hours(*range(1, 200)))
    assert (await get(world))["count"] == 168
    assert (await get(world, end=iso(NOW - DAY_MS), days="2"))["data"][0]["timestamp"] == iso(NOW - 3 * DAY_MS)


async def test_a_range_may_begin_long_before_there_was_anything(world):
    world.store_candles(*hours(1))
    body = await get(world, start=iso(EARLIEST_MS), interval="1h")
    assert body["count"] == 1


async def test_an_answer_can_be_revalidated_and_carries_its_age(world):
    world.store_candles(*hours(*range(1, 40)))
    world.clock.advance(80)
    async with world.client() as client:
        params = {"start": iso(NOW - DAY_MS), "end": iso(NOW)}
        first = await client.get(URL, params=params)
        assert first.headers["age"] == "60"
        assert first.headers["content-encoding"] == "gzip"
        again = await client.get(URL, params=params, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


# --- resampling, alone ---------------------------------------------------------------------------------------

prices = st.floats(1e-12, 1e12, allow_nan=False)


@given(
    slots=st.sets(st.integers(0, 60), max_size=40),
    interval_s=st.sampled_from([300, 900, 3_600, 14_400, 86_400]),
    data=st.data(),
)
def test_resampling_equals_the_plain_definition(slots, interval_s, data):
    rows = []
    for slot in sorted(slots):
        low, high = sorted((data.draw(prices), data.draw(prices)))
        rows.append(
            candle_row(BTC, 300, NOW + slot * 300_000, open_price=low, high_price=high, low_price=low, close_price=high)
            | {"volume": data.draw(st.none() | st.integers(0, 9).map(float))}
        )
    expected = {}
    for row in rows:
        expected.setdefault(row["open_time"] // (interval_s * 1_000) * interval_s * 1_000, []).append(row)
    found = resample(rows, interval_s).to_dicts()
    assert [bar["open_time"] for bar in found] == sorted(expected)
    for bar in found:
        parts = expected[bar["open_time"]]
        volumes = [part["volume"] for part in parts]
        assert (bar["open"], bar["close"]) == (parts[0]["open_price"], parts[-1]["close_price"])
        assert bar["high"] == max(part["high_price"] for part in parts)
        assert bar["low"] == min(part["low_price"] for part in parts)
        assert bar["volume"] == (None if None in volumes else sum(volumes))

"""Macro, on-chain, derivatives, fear and greed: latest, history, as known then, and who may see what."""

from __future__ import annotations

import pytest

from ray_app.clock import DAY_MS, HOUR_MS, iso
from ray_app.serving.keys import Level
from tests.serving.gateway_world import NOW, market
from tests.serving.source_world import TODAY, day, get, pages, put, sources
from tests.serving.test_api import problem
from tests.storage.source_samples import macro

MACRO, UNRATE = "/api/v1/macro", "/macro/UNRATE"


@pytest.fixture
def world(sqlite_db):
    return sources(sqlite_db)


async def refused(world, path, status, code, level=Level.readonly, **params):
    async with world.client(level) as client:
        return problem(await client.get(f"/api/v1{path}", params=params or None), status, code)


# --- macro ---------------------------------------------------------------------------------------------------


async def test_the_latest_of_every_indicator(world):
    body = await get(world, "/macro", Level.trading)
    assert [(row["indicator"], row["source"], row["value"]) for row in body["data"]] == [
        ("SP500", "fred.observations", 6_700.5),
        ("UNRATE", "fred.observations", 4.1),
        ("VIX", "yahoo.chart", 21.0),
    ]
    assert body["data"][1] == {
        "indicator": "UNRATE",
        "source": "fred.observations",
        "date": "2026-10-01",
        "value": 4.1,
        "unit": "percent",
        "open": None,
        "high": None,
        "low": None,
        "volume": None,
        "vintage": "2026-11-06",
        "known_at": "2026-11-06T06:00:00Z",
        "stale": False,
        "stale_after": "2026-12-15T00:00:00Z",  # two months and half of one from the first of October
    }
    assert (body["data"][2]["high"], body["data"][2]["vintage"]) == (21.5, None)
    assert body["quality"] == "current"
    assert body["source"] == "fred.observations,yahoo.chart"
    assert [row["indicator"] for row in await pages(world, "/macro", limit=1)] == ["SP500", "UNRATE", "VIX"]
    assert [row["indicator"] for row in (await get(world, "/macro", source="yahoo.chart"))["data"]] == ["VIX"]


async def test_an_indicator_that_nobody_has_heard_of_for_long_is_stale(world):
    put(world, "macro_indicators", *[macro(TODAY - n * DAY_MS, 1.0, TODAY, indicator_name="DGS10") for n in (9, 8)])
    row = next(row for row in (await get(world, "/macro"))["data"] if row["indicator"] == "DGS10")
    assert (row["stale"], row["stale_after"]) == (True, iso(TODAY - DAY_MS))
    alone = next(row for row in (await get(world, "/macro", Level.trading))["data"] if row["indicator"] == "SP500")
    assert (alone["stale"], alone["stale_after"]) == (None, None)


async def test_history_is_as_known_now_or_then(world):
    body = await get(world, UNRATE, start="2026-09-01")
    assert [(row["date"], row["value"], row["vintage"]) for row in body["data"]] == [
        ("2026-09-01", 4.2, "2026-11-06"),
        ("2026-10-01", 4.1, "2026-11-06"),
    ]
    assert (body["unit"], body["sources"], body["as_known_at"]) == ("percent", ["fred.observations"], None)
    then = await get(world, "/macro/unrate", start="2026-09-01", as_of="2026-11-06T05:59:59Z")
    assert [(row["date"], row["value"]) for row in then["data"]] == [("2026-09-01", 4.0)]
    assert (then["quality"], then["as_known_at"], then["end"]) == (
        "point_in_time",
        "2026-11-06T05:59:59Z",
        "2026-11-06T05:59:59Z",
    )
    assert await pages(world, UNRATE, limit=1) == (await get(world, UNRATE))["data"]
    await refused(world, UNRATE, 404, "DATA_NOT_AVAILABLE", as_of="2026-01-01")
    await refused(world, UNRATE, 422, "VALIDATION_ERROR", start="2026-11-01", end="2026-10-01")


async def test_old_dates_can_be_asked_for(world):
    put(world, "macro_indicators", macro(day("1919-01-01"), 7.0, day("2026-11-06"), indicator_name="INDPRO"))
    body = await get(world, "/macro/industrial_production", start="1900-01-01")
    assert [row["date"] for row in body["data"]] == ["1919-01-01"]


async def test_indicators_answer_to_what_people_call_them(world):
    assert (await get(world, "/macro/vix", Level.trading))["indicator"] == "VIX"
    assert (await get(world, "/macro/unemployment"))["indicator"] == "UNRATE"
    assert (await get(world, "/macro/S%26P500", Level.trading))["indicator"] == "SP500"
    body = await refused(world, "/macro/UNRAT", 404, "NOT_FOUND")
    assert body["near"][0] == "UNRATE"
    assert "has not been collected" in (await refused(world, "/macro/cpi", 404, "DATA_NOT_AVAILABLE"))["detail"]
    await refused(world, UNRATE, 404, "DATA_NOT_AVAILABLE", source="yahoo.chart")


# --- what may be passed on -----------------------------------------------------------------------------------


async def test_a_readonly_key_gets_no_values_that_must_not_be_passed_on(world):
    body = await get(world, "/macro")
    spx, unrate, vix = body["data"]
    assert vix == {
        "indicator": "VIX",
        "source": "yahoo.chart",
        "date": iso(TODAY - 2 * DAY_MS)[:10],
        "unit": "index",
        "vintage": None,
        "known_at": vix["known_at"],
        "stale": False,
        "stale_after": vix["stale_after"],
        "withheld": "yahoo.chart: Yahoo terms of service: personal use, no redistribution",
    }
    assert "S&P Dow Jones" in spx["withheld"]  # FRED's own, but not this series of it
    assert "value" not in spx
    assert (unrate["value"], "withheld" in unrate) == (4.1, False)
    assert body["quality"] == "partial"
    for path in ("/macro/VIX", "/macro/SP500"):
        body = await refused(world, path, 403, "FORBIDDEN")
        assert "level trading" in body["detail"]
        for level in (Level.trading, Level.master):
            assert (await get(world, path, level))["data"]


async def test_of_two_sources_the_one_the_key_may_see_answers(world):
    put(
        world, "macro_indicators", macro(TODAY - DAY_MS, 20.9, TODAY, indicator_name="GOLD", source="fred.observations")
    )
    put(world, "macro_indicators", macro(TODAY - DAY_MS, 21.9, 4, indicator_name="GOLD", source="yahoo.chart"))
    assert (await get(world, "/macro/gold"))["source"] == "fred.observations"
    assert (await get(world, "/macro/gold", Level.trading, source="yahoo.chart"))["data"][0]["value"] == 21.9
    await refused(world, "/macro/gold", 403, "FORBIDDEN", source="yahoo.chart")


async def test_bodies_of_different_levels_have_different_tags(world):
    tags = []
    for level in (Level.readonly, Level.trading):
        async with world.client(level) as client:
            response = await client.get(MACRO)
            tags.append(response.headers["etag"])
            again = await client.get(MACRO, headers={"if-none-match": response.headers["etag"]})
            assert again.status_code == 304
            assert response.headers["cache-control"].startswith("private")
    assert len(set(tags)) == 2


# --- on-chain, derivatives, fear and greed -------------------------------------------------------------------


async def test_on_chain_latest_and_history(world):
    body = await get(world, "/onchain/bitcoin")
    assert [(row["metric"], row["source"], row["value"]) for row in body["data"]] == [
        ("active_addresses", "coinmetrics.asset_metrics", 812_400.0),
        ("hash_rate", "mempool.hashrate", 6.4e20),
    ]
    assert (body["symbol"], body["as_of"]) == ("BTC", iso(NOW - HOUR_MS // 2))
    assert "CC BY-NC 4.0" in "".join(body["attribution"])
    assert await pages(world, "/onchain/BTC", limit=1) == body["data"]
    history = await get(world, "/onchain/BTC", metric="active_addresses")
    assert [(row["timestamp"], row["value"]) for row in history["data"]] == [
        (iso(TODAY - DAY_MS), 801_000.0),
        (iso(TODAY), 812_400.0),
    ]
    then = await get(world, "/onchain/BTC", metric="active_addresses", as_of=iso(NOW - HOUR_MS))
    assert then["data"][-1]["value"] == 812_345.0
    chosen = await get(world, "/onchain/BTC", source="mempool.hashrate")
    assert [row["metric"] for row in chosen["data"]] == ["hash_rate"]
    assert await pages(world, "/onchain/BTC", metric="active_addresses", limit=1) == history["data"]


async def test_derivatives_latest_and_history(world):
    body = await get(world, "/derivatives/BTC")
    assert [(row["metric"], row["venue"], row["instrument"], row["value"]) for row in body["data"]] == [
        ("funding_rate", "binance", "BTCUSDT", 0.0001),
        ("funding_rate", "okx", "BTC-USDT-SWAP", 0.0002),
        ("open_interest_usd", "binance", "BTCUSDT", 8.1e9),
    ]
    assert [row["venue"] for row in (await get(world, "/derivatives/BTC", venue="okx"))["data"]] == ["okx"]
    history = await get(world, "/derivatives/BTC", metric="funding_rate")
    assert [(row["venue"], row["timestamp"]) for row in history["data"]] == [
        *[("binance", iso(TODAY - n * 8 * HOUR_MS)) for n in (2, 1, 0)],
        ("okx", iso(TODAY)),
    ]
    assert await pages(world, "/derivatives/BTC", metric="funding_rate", limit=1) == history["data"]
    assert await pages(world, "/derivatives/BTC", metric="funding_rate", limit=2) == history["data"]
    one = await get(world, "/derivatives/BTC", metric="funding_rate", venue="binance", instrument="BTCUSDT", limit=2)
    assert one["count"] == 2
    await refused(
        world,
        "/derivatives/BTC",
        422,
        "VALIDATION_ERROR",
        metric="funding_rate",
        venue="okx",
        cursor=one["next_cursor"],
    )


async def test_fear_and_greed_latest_and_history(world):
    body = await get(world, "/fear-greed")
    assert [(row["timestamp"], row["value"], row["classification"]) for row in body["data"]] == [
        (iso(TODAY), 47.0, "Neutral")
    ]
    assert "Alternative.me" in body["attribution"][0]
    history = await pages(world, "/fear-greed", start=iso(TODAY - 3 * DAY_MS), limit=2)
    assert [row["value"] for row in history] == [44.0, 45.0, 46.0, 47.0]
    then = await get(world, "/fear-greed", as_of=iso(TODAY - 2 * DAY_MS + HOUR_MS))
    assert then["data"][-1]["timestamp"] == iso(TODAY - 2 * DAY_MS)


@pytest.mark.parametrize(
    "query",
    [
        "onchain/BTC?start=2026-11-01",
        "onchain/BTC?as_of=2026-11-01",
        "onchain/BTC?metric=a&cursor=x",
        "onchain/BTC?metric=a&start=yesterday",
        "onchain/BTC?metric=",
        "derivatives/BTC?instrument=BTCUSDT",
        "derivatives/BTC?venue=okx&instrument=BTC-USDT-SWAP",
        "derivatives/BTC?metric=a&instrument=BTCUSDT",
        "fear-greed?limit=0",
        "macro?cursor=e30",
    ],
)
async def test_what_makes_no_sense_is_refused(world, query):
    await refused(world, f"/{query}", 422, "VALIDATION_ERROR")


async def test_an_empty_database_has_no_data_and_no_failure(sqlite_db):
    world = market(sqlite_db)
    for path in ("/macro", "/macro/UNRATE", "/macro/nope", "/onchain/BTC", "/derivatives/BTC", "/fear-greed"):
        await refused(world, path, 404, "DATA_NOT_AVAILABLE")
    await refused(world, "/onchain/nosuchthing", 404, "INVALID_SYMBOL")


EVERY = (
    *("/macro", "/macro/UNRATE?as_of=2026-11-20", "/macro/VIX", "/onchain/BTC", "/onchain/BTC?metric=hash_rate"),
    *(
        "/derivatives/BTC",
        "/derivatives/BTC?metric=funding_rate&as_of=2026-11-24T02:00:00Z",
        "/fear-greed?start=2026-11-20",
    ),
    *("/news/crypto/latest?symbol=BTC", "/news/stock/latest", "/news/search?q=etf", "/stats/quality", "/sources"),
    *("/stats/lineage?table=macro_indicators&key=indicator_name=UNRATE", "/stats/lineage?table=crypto_news&key={}"),
)


async def test_both_databases_answer(db):
    """What they answer is tested on SQLite above, and the queries behind it on both."""
    world = sources(db)
    some = (await get(world, "/news/crypto/latest"))["data"][0]["id"]
    async with world.client(Level.trading) as client:
        for path in EVERY:
            response = await client.get(f"/api/v1{path.format(f'content_id={some}')}")
            assert response.status_code == 200, (path, response.text)

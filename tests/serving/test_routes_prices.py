"""Current prices, one, several and all; on SQLite and MariaDB."""

from __future__ import annotations

import gzip

import pytest

from ray_app.clock import DAY_MS, HOUR_MS
from tests.serving.gateway_world import BTC, ETH, NOW, UNPRICED, World, market, price_event, price_row, renamed
from tests.serving.test_api import problem

CURRENT = "/api/v1/prices/current"


@pytest.fixture
def world(db):
    return market(db)


async def test_a_price_has_every_promised_field_and_null_where_nothing_was_said(world):
    async with world.client() as client:
        body = (await client.get(f"{CURRENT}/BTC")).json()
        assert body == {
            "symbol": "BTC",
            "coin_id": "bitcoin",
            "name": "Bitcoin",
            "current_price": 91_234.0,
            "price_change_24h": -512.25,
            "price_change_percentage_24h": -0.5,
            "market_cap": 1.8e12,
            "market_cap_rank": 1,
            "volume_24h": 3.5e10,
            "high_24h": 92_000.0,
            "low_24h": 90_000.0,
            "open_24h": 91_746.25,
            "consensus_price": None,
            "venues": None,
            "timestamp": "2026-11-24T07:55:03Z",
            "as_of": "2026-11-24T07:55:07.250Z",
            "source": "coingecko.markets",
            "quality": "observed",
        }
        eth = (await client.get(f"{CURRENT}/ETH")).json()
        assert eth["current_price"] == 3_000.5
        assert [name for name, value in eth.items() if value is None] == [
            "price_change_24h",
            "price_change_percentage_24h",
            "market_cap",
            "market_cap_rank",
            "volume_24h",
            "high_24h",
            "low_24h",
            "open_24h",
            "consensus_price",
            "venues",
        ]


@pytest.mark.parametrize("typed", ["BTC", "btc", "Btc", "bitcoin", "Bitcoin", "BITCOIN", "BTC-USD", "%20btc%20"])
async def test_ticker_coin_id_and_product_in_any_case(world, typed):
    async with world.client() as client:
        assert (await client.get(f"{CURRENT}/{typed}")).json()["coin_id"] == "bitcoin"


async def test_an_unknown_symbol_is_404_with_near_matches(world):
    async with world.client() as client:
        body = problem(await client.get(f"{CURRENT}/bitcion"), 404, "INVALID_SYMBOL")
        assert body["near"][0] == "BTC"
        assert problem(await client.get(f"{CURRENT}/qqqqqqqqq"), 404, "INVALID_SYMBOL")["near"] == []
        problem(await client.get(f"{CURRENT}/{'x' * 151}"), 422, "VALIDATION_ERROR")


async def test_an_ambiguous_ticker_resolves_to_the_highest_market_cap_and_says_so(world):
    async with world.client() as client:
        body = (await client.get(f"{CURRENT}/TWN")).json()
        assert body["coin_id"] == "twin-big"
        assert "twin-small" in body["note"]
        assert "note" not in (await client.get(f"{CURRENT}/twin-small")).json()


async def test_a_merged_coin_answers_as_its_successor_and_says_since_when(world):
    renamed(world, ETH, status="merged", valid_to=NOW - HOUR_MS, successor_coin_id="bitcoin", successor_ratio=0.03)
    async with world.client() as client:
        body = (await client.get(f"{CURRENT}/ETH")).json()
    assert body["coin_id"] == "bitcoin"
    assert "merged into BTC" in body["note"]


async def test_an_asset_that_never_had_a_price_is_data_not_available(world):
    async with world.client() as client:
        problem(await client.get(f"{CURRENT}/UNP"), 404, "DATA_NOT_AVAILABLE")


async def test_an_asset_that_is_traded_no_more_says_so_and_since_when(world):
    renamed(world, UNPRICED, status="inactive", valid_to=NOW - DAY_MS)
    async with world.client() as client:
        answer = await client.get("/api/v1/prices/current/unpriced")
        listed = await client.get("/api/v1/prices/historical/unpriced")
    said = problem(answer, 404, "DATA_NOT_AVAILABLE")["detail"]
    assert said == "UNP (unpriced) has been inactive since 2026-11-23: there is no current price of it"
    assert problem(listed, 404, "DATA_NOT_AVAILABLE")["detail"].startswith("UNP has no venue")


async def test_until_the_board_is_loaded_the_database_answers_with_the_same_bytes(db):
    world = market(db)
    async with world.client() as client:
        loaded = await client.get(f"{CURRENT}/BTC")
        world.deps.board.loaded = False
        world.deps.board._states = {}
        read = await client.get(f"{CURRENT}/BTC")
        assert read.content == loaded.content
        assert read.headers["etag"] == loaded.headers["etag"]
        problem(await client.get(CURRENT), 503, "SERVICE_UNAVAILABLE")


async def test_several_sources_of_one_slot_make_a_consensus(world):
    slot = NOW - 300_000
    world.store_prices(price_row(BTC, slot, 91_000.0, "coinbase.candles"))
    async with world.client() as client:
        body = (await client.get(f"{CURRENT}/BTC")).json()
    assert body["current_price"] == 91_234.0
    assert body["consensus_price"] == 91_117.0
    assert body["venues"] == [
        {"source": "coingecko.markets", "price": 91_234.0, "timestamp": "2026-11-24T07:55:03Z"},
        {"source": "coinbase.candles", "price": 91_000.0, "timestamp": "2026-11-24T07:55:03Z"},
    ]


# --- several -------------------------------------------------------------------------------------------------


async def test_several_symbols_come_in_the_order_asked_for_and_nothing_is_left_out_silently(world):
    async with world.client() as client:
        body = (await client.get(CURRENT, params={"symbols": "ETH, btc,UNP,bitcion,bitcoin"})).json()
    assert [row["symbol"] for row in body["data"]] == ["ETH", "BTC"]
    assert body["count"] == 2
    unpriced, unknown = body["missing"]
    assert unpriced == {"symbol": "UNP", "code": "DATA_NOT_AVAILABLE", "near": []}
    assert (unknown["symbol"], unknown["code"], unknown["near"][0]) == ("bitcion", "INVALID_SYMBOL", "BTC")
    assert (body["as_of"], body["source"], body["quality"]) == (
        "2026-11-24T07:55:07.250Z",
        "coingecko.markets",
        "observed",
    )


async def test_if_none_of_them_has_a_price_the_answer_is_404(world):
    async with world.client() as client:
        unknown = problem(await client.get(CURRENT, params={"symbols": "qqqq,wwww"}), 404, "INVALID_SYMBOL")
        assert [entry["symbol"] for entry in unknown["missing"]] == ["qqqq", "wwww"]
        problem(await client.get(CURRENT, params={"symbols": "UNP,qqqq"}), 404, "DATA_NOT_AVAILABLE")


@pytest.mark.parametrize(
    "query",
    [
        "symbols=",
        "symbols=,,",
        f"symbols={','.join(f's{n}' for n in range(1_001))}",
        "limit=0",
        "limit=-1",
        "limit=1001",
        "limit=x",
        "limit=1.5",
        "limit=99999999999999999999999",
        "cursor=",
        "cursor=x",
        "cursor=eyJyYW5rIjoxfQ",
        "cursor=eyJyYW5rIjoiMSIsImFzc2V0IjoxfQ",
        "cursor=eyJyYW5rIjp0cnVlLCJhc3NldCI6MX0",
        f"cursor={'a' * 513}",
    ],
)
async def test_parameters_that_make_no_sense_are_refused(world, query):
    async with world.client() as client:
        problem(await client.get(f"{CURRENT}?{query}"), 422, "VALIDATION_ERROR")


async def test_every_wrong_parameter_is_named(world):
    async with world.client() as client:
        body = problem(await client.get(f"{CURRENT}?limit=0"), 422, "VALIDATION_ERROR")
    assert body["errors"] == [{"in": "query", "name": "limit", "problem": "Input should be greater than or equal to 1"}]


async def test_all_prices_come_by_rank_in_pages_that_neither_skip_nor_repeat(world):
    async with world.client() as client:
        seen, cursor, pages = [], None, 0
        while True:
            params = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
            body = (await client.get(CURRENT, params=params)).json()
            assert body["count"] == len(body["data"]) <= 2
            seen += [row["coin_id"] for row in body["data"]]
            cursor, pages = body["next_cursor"], pages + 1
            if cursor is None:
                break
        assert seen == ["bitcoin", "ethereum", "novenue", "twin-big", "twin-small", "unranked"]
        assert pages == 3
        whole = (await client.get(CURRENT)).json()
        assert [row["coin_id"] for row in whole["data"]] == seen
        assert whole["next_cursor"] is None


async def test_a_page_is_encoded_once_and_anew_after_a_change(world):
    async with world.client() as client:
        first = await client.get(CURRENT)
        kept = dict(world.deps.board.pages())
        await client.get(CURRENT)
        assert dict(world.deps.board.pages()) == kept
        again = await client.get(CURRENT, headers={"If-None-Match": first.headers["etag"]})
        assert again.status_code == 304
        world.deps.board.apply([(1, price_event(price_row(BTC, NOW, 1.0), BTC))])
        changed = await client.get(CURRENT, headers={"If-None-Match": first.headers["etag"]})
        assert changed.status_code == 200
        assert changed.json()["data"][0]["current_price"] == 1.0


async def test_large_answers_are_compressed_for_those_who_take_it_and_small_ones_never(world):
    async with world.client() as client:
        plain = await client.get(CURRENT, headers={"Accept-Encoding": "identity"})
        small = await client.get(f"{CURRENT}/BTC", headers={"Accept-Encoding": "gzip"})
        assert "content-encoding" not in plain.headers
        assert "content-encoding" not in small.headers
        assert len(plain.content) > 1_400
        packed = await client.get(CURRENT, headers={"Accept-Encoding": "br, gzip;q=0.5"})
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.content == plain.content  # httpx unpacks
        assert int(packed.headers["content-length"]) < len(plain.content) / 2
        assert plain.headers["vary"] == packed.headers["vary"] == "Accept-Encoding"
        assert plain.headers["etag"] != packed.headers["etag"]
        for etag in (plain.headers["etag"], packed.headers["etag"]):
            response = await client.get(CURRENT, headers={"If-None-Match": etag, "Accept-Encoding": "gzip"})
            assert (response.status_code, response.content) == (304, b"")
            assert "content-encoding" not in response.headers
        refused = await client.get(CURRENT, headers={"Accept-Encoding": "gzip;q=0, identity"})
        assert "content-encoding" not in refused.headers


def test_the_compressed_form_is_made_once_and_always_the_same():
    from ray_app.serving.routes.answers import Prepared

    one, other = Prepared(b"x" * 5_000, None), Prepared(b"x" * 5_000, None)
    assert one.gzipped is one.gzipped
    assert one.gzipped == other.gzipped
    assert gzip.decompress(one.gzipped) == one.body


async def test_prices_read_from_the_tables_reach_the_answer_to_the_last_digit(db):
    world = World(db)
    prices = [1.2345678901234567e-9, 123456.78901234567, 5e-324, 1.7976931348623157e308]
    for number, price in enumerate(prices):
        world.store_prices(price_row(BTC, NOW + number * 300_000, price))
        async with world.client() as client:
            assert (await client.get(f"{CURRENT}/BTC")).json()["current_price"] == price

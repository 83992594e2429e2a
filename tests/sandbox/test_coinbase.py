"""Coinbase's wire formats: candles, products, exchange rates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_app.clock import DAY_MS, HOUR_MS, iso
from ray_app.sources import endpoint
from ray_app.sources.base import Exchange
from tests.sandbox.conftest import COINBASE, COINBASE_V2, HOUR, NOW, Sandbox
from tests.sandbox.test_generated import rows

Make = Callable[..., Sandbox]
CANDLES = f"{COINBASE}/products/BTC-USD/candles"
TOO_MANY = {
    "message": "granularity too small for the requested time range. Count of aggregations requested exceeds 300"
}


@pytest.mark.parametrize("granularity", [60, 300, 900, 3_600, 21_600, 86_400])
async def test_candles_are_the_market_s_newest_first(sandbox: Make, granularity: int) -> None:
    world = sandbox()
    answer = await world.get(CANDLES, granularity=granularity)
    got = answer.json()
    assert len(got) == 300
    step = granularity * 1_000
    opened = NOW // step * step
    assert [row[0] * 1_000 for row in got] == [opened - n * step for n in range(300)]
    wanted = rows(world.app.world.market.candles(1, granularity, opened - 299 * step, opened))[::-1]
    assert [(t * 1_000, o, h, low, c, v) for t, low, h, o, c, v in got[1:]] == wanted


async def test_the_open_candle_is_in_the_answer_with_what_it_has_seen(sandbox: Make) -> None:
    world = sandbox()
    before = (await world.get(CANDLES, granularity=3600)).json()[0]
    world.clock.advance(600)
    after = (await world.get(CANDLES, granularity=3600)).json()[0]
    assert before[0] == after[0] == HOUR // 1_000
    assert after[5] > before[5]
    world.clock.advance(3_600)
    closed = (await world.get(CANDLES, granularity=3600)).json()[1]
    assert closed[0] == HOUR // 1_000
    assert closed[5] > after[5]
    assert closed[3] == before[3]


@pytest.mark.parametrize("form", ["iso", "unix"])
async def test_start_and_end_are_inclusive_in_either_form(sandbox: Make, form: str) -> None:
    start, end = HOUR - 5 * HOUR_MS, HOUR - 2 * HOUR_MS
    bounds = {"start": iso(start), "end": iso(end)} if form == "iso" else {"start": start // 1_000, "end": end // 1_000}
    got = (await sandbox().get(CANDLES, granularity=3600, **bounds)).json()
    assert [row[0] * 1_000 for row in got] == [end, end - HOUR_MS, end - 2 * HOUR_MS, start]


async def test_300_intervals_are_answered_and_more_are_refused(sandbox: Make) -> None:
    world = sandbox()
    at_most = await world.get(CANDLES, granularity=3600, start=iso(HOUR - 300 * HOUR_MS), end=iso(HOUR))
    assert len(at_most.json()) == 300
    over = await world.get(CANDLES, granularity=3600, start=iso(HOUR - 301 * HOUR_MS), end=iso(HOUR))
    assert (over.status_code, over.json()) == (400, TOO_MANY)


@pytest.mark.parametrize(
    ("path", "params", "status", "message"),
    [
        ("/products/NO-USD/candles", {"granularity": "3600"}, 404, "NotFound"),
        ("/products/BTC-USD/candles", {"granularity": "61"}, 400, "Unsupported granularity"),
        ("/products/BTC-USD/candles", {"granularity": "²"}, 400, "Unsupported granularity"),
        ("/products/BTC-USD/candles", {"granularity": "3600", "start": "²"}, 400, "invalid start"),
        ("/products/BTC-USD/candles", {"granularity": "3600", "start": "soon"}, 400, "invalid start"),
        ("/products/BTC-USD/candles", {"granularity": "3600", "start": "1795509445", "end": "1795500000"}, 400, "start must be before end"),
        ("/nothing", {}, 404, "NotFound"),
    ],
)  # fmt: skip
async def test_refusals(sandbox: Make, path: str, params: dict[str, str], status: int, message: str) -> None:
    answer = await sandbox().get(COINBASE + path, **params)
    assert (answer.status_code, answer.json()) == (status, {"message": message})


async def test_candles_without_trades_are_absent(sandbox: Make) -> None:
    got = (await sandbox().get(f"{COINBASE}/products/THIN1-USD/candles", granularity=300)).json()
    assert 100 < len(got) < 290
    assert all(row[5] > 0 for row in got)


async def test_future_candles_are_never_given(sandbox: Make) -> None:
    got = (await sandbox().get(CANDLES, granularity=3600, start=iso(HOUR), end=iso(HOUR + 100 * HOUR_MS))).json()
    assert [row[0] * 1_000 for row in got] == [HOUR]
    later = await sandbox().get(CANDLES, granularity=3600, start=iso(HOUR + HOUR_MS), end=iso(HOUR + 2 * HOUR_MS))
    assert later.json() == []


async def test_products_have_the_recorded_shape(sandbox: Make, shared_data: Path) -> None:
    recorded = json.loads((shared_data / "recorded" / "coinbase" / "products.json").read_text())[0]
    got = (await sandbox().get(f"{COINBASE}/products")).json()
    for row in got:
        assert {key: type(value) for key, value in row.items()} == {key: type(value) for key, value in recorded.items()}
    by_id = {row["id"]: row for row in got}
    assert by_id["BTC-USD"]["status"] == "online"
    assert by_id["BTC-USD"]["quote_increment"] == "0.01"
    assert by_id["OLD-USD"]["status"] == "delisted"
    assert by_id["OLD-USD"]["trading_disabled"] is True


async def test_exchange_rates_invert_to_the_price(sandbox: Make) -> None:
    world = sandbox()
    rates = (await world.get(f"{COINBASE_V2}/exchange-rates")).json()["data"]["rates"]
    price = world.app.world.market.price(1, NOW)[0]
    assert 1 / float(rates["BTC"]) == pytest.approx(price, rel=1e-15)
    assert rates["USD"] == "1"
    assert all(isinstance(rate, str) and "e" not in rate for rate in rates.values())
    one = (await world.get(f"{COINBASE_V2}/exchange-rates", currency="BTC")).json()["data"]
    assert one["currency"] == "BTC"
    assert float(one["rates"]["USD"]) == price


async def test_an_unknown_currency_is_refused(sandbox: Make) -> None:
    answer = await sandbox().get(f"{COINBASE_V2}/exchange-rates", currency="NOPE")
    assert answer.status_code == 400
    assert answer.json() == {"errors": [{"id": "invalid_request", "message": "Currency is invalid"}]}


async def test_our_parsers_read_every_answer_without_an_issue(sandbox: Make) -> None:
    world = sandbox()
    requests = [
        (COINBASE, endpoint("coinbase.candles").request("BTC-USD", 3_600, HOUR - 20 * HOUR_MS, HOUR + HOUR_MS)),
        (COINBASE, endpoint("coinbase.price_candles").request("BTC-USD", 300, HOUR - HOUR_MS, HOUR)),
        (COINBASE, endpoint("coinbase.products").request()),
        (COINBASE_V2, endpoint("coinbase.exchange_rates").request()),
    ]
    for base, request in requests:
        answer = await world.get(base + request.path, **dict(request.params))
        exchange = Exchange(request, answer.status_code, dict(answer.headers), answer.content, NOW)
        parsed = endpoint(request.endpoint).parse(exchange)
        assert parsed.rows, request.endpoint
        assert parsed.issues == (), request.endpoint


async def test_rows_of_our_parser_are_the_market_s_closed_candles(sandbox: Make) -> None:
    world = sandbox()
    request = endpoint("coinbase.candles").request("BTC-USD", 3_600, HOUR - 2 * DAY_MS, HOUR + HOUR_MS)
    answer = await world.get(COINBASE + request.path, **dict(request.params))
    parsed = endpoint("coinbase.candles").parse(Exchange(request, 200, {}, answer.content, NOW))
    names = ("open_price", "high_price", "low_price", "close_price", "volume")
    got = [(row.key["open_time"], *(row.values[name] for name in names)) for row in parsed.rows]
    assert got == rows(world.app.world.market.candles(1, 3_600, HOUR - 2 * DAY_MS, HOUR))

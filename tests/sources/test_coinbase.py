from __future__ import annotations

import pytest

from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS
from ray_app.errors import MalformedPayload
from ray_app.sources import ENDPOINTS, Request
from tests.sources.samples import FETCHED_AT, NOON, answer, bar

products, candles = ENDPOINTS["coinbase.products"], ENDPOINTS["coinbase.candles"]
price_candles, rates = ENDPOINTS["coinbase.price_candles"], ENDPOINTS["coinbase.exchange_rates"]


def kinds(parsed):
    return [(issue.kind, issue.field) for issue in parsed.issues]


# --- candles ---


def test_candle_columns_are_read_in_coinbase_order_and_rows_ascend():
    parsed = candles.parse(answer("coinbase.candles", [bar(NOON - HOUR_MS, close=102.0), bar(NOON - 2 * HOUR_MS)]))
    first, second = parsed.rows
    assert {k: v for k, v in first.key.items() if k != "version"} == {
        "coinbase_product": "BTC-USD",
        "venue": "coinbase",
        "interval_s": 3_600,
        "open_time": NOON - 2 * HOUR_MS,
    }
    assert first.values == {
        "known_at": NOON - HOUR_MS + MINUTE_MS,
        "first_seen_at": FETCHED_AT,
        "open_price": 100.0,
        "high_price": 102.0,
        "low_price": 99.5,
        "close_price": 101.25,
        "volume": 12.5,
    }
    assert first.event_version == NOON - HOUR_MS
    assert (second.values["close_price"], second.values["known_at"]) == (102.0, FETCHED_AT)


def test_candle_still_open_at_the_fetch_yields_no_row():
    body = [bar(NOON), bar(NOON - HOUR_MS)]
    for fetched_at, closed in ((NOON - 1, 0), (NOON, 1), (NOON + HOUR_MS - 1, 1), (NOON + HOUR_MS, 2)):
        parsed = candles.parse(answer("coinbase.candles", body, fetched_at=fetched_at))
        assert len(parsed.rows) == closed
        assert parsed.issues == ()


def test_backfilled_candle_is_known_from_its_close_and_a_revision_has_a_version_of_its_own():
    opens_at = NOON - 100 * DAY_MS
    first = candles.parse(answer("coinbase.candles", [bar(opens_at)])).rows[0]
    again = candles.parse(answer("coinbase.candles", [bar(opens_at)], fetched_at=FETCHED_AT + DAY_MS)).rows[0]
    revised = candles.parse(
        answer("coinbase.candles", [bar(opens_at, close=101.0)], fetched_at=FETCHED_AT + DAY_MS)
    ).rows[0]
    assert first.values["known_at"] == again.values["known_at"] == opens_at + HOUR_MS + MINUTE_MS
    assert first.key == again.key
    assert revised.key["version"] != first.key["version"]
    assert (first.values["first_seen_at"], revised.values["first_seen_at"]) == (FETCHED_AT, FETCHED_AT + DAY_MS)


def test_page_served_twice_is_read_once_and_contradictions_are_left_out():
    one, two = bar(NOON - HOUR_MS), bar(NOON - 2 * HOUR_MS)
    parsed = candles.parse(answer("coinbase.candles", [one, two, one, two]))
    assert len(parsed.rows) == 2
    assert parsed.issues == ()
    parsed = candles.parse(answer("coinbase.candles", [one, two, bar(NOON - HOUR_MS, close=100.5), one]))
    assert [row.key["open_time"] for row in parsed.rows] == [NOON - 2 * HOUR_MS]
    assert kinds(parsed) == [("duplicate", f"open_time@{NOON - HOUR_MS}")]


@pytest.mark.parametrize(
    "bad",
    [
        bar(NOON - HOUR_MS, low=100.5),
        bar(NOON - HOUR_MS, high=101.0),
        bar(NOON - HOUR_MS, opened=99.0),
        bar(NOON - HOUR_MS, low=0),
        bar(NOON - HOUR_MS, close=-1),
        [NOON // 1_000 - 3_600, 1, 2, 1.5, 1.5],
        [None, 1, 2, 1.5, 1.5, 1],
        [NOON // 1_000 - 3_600, 1, 2, 1.5, None, 1],
        "candle",
        bar(NOON - HOUR_MS - 60_000),
        bar(NOON - HOUR_MS + 300_000),
    ],
)
def test_bad_candle_costs_only_its_row(bad):
    parsed = candles.parse(answer("coinbase.candles", [bar(NOON - 3 * HOUR_MS), bad, bar(NOON - 2 * HOUR_MS)]))
    assert [row.key["open_time"] for row in parsed.rows] == [NOON - 3 * HOUR_MS, NOON - 2 * HOUR_MS]
    assert len(parsed.issues) == (0 if bad[:1] == [None] or bad[4:5] == [None] else 1)


def test_bad_volume_costs_only_the_volume():
    for volume, issues in ((-1, 1), ("x", 1), (None, 0)):
        parsed = candles.parse(answer("coinbase.candles", [[*bar(NOON - HOUR_MS)[:5], volume]]))
        assert parsed.rows[0].values["volume"] is None
        assert len(parsed.issues) == issues
    assert candles.parse(answer("coinbase.candles", [[*bar(NOON - HOUR_MS)[:5], 0]])).rows[0].values["volume"] == 0.0


def test_candles_of_another_interval_are_refused_as_a_whole():
    body = [bar(NOON - i * 5 * MINUTE_MS) for i in range(1, 13)]
    with pytest.raises(MalformedPayload, match="3600 s"):
        candles.parse(answer("coinbase.candles", body))


@pytest.mark.parametrize("moment", [NOON - HOUR_MS, "2026-05-18T11:00:00Z", None])
def test_candles_in_another_unit_of_time_are_refused_as_a_whole(moment):
    with pytest.raises(MalformedPayload, match="epoch seconds"):
        candles.parse(answer("coinbase.candles", [[moment, 1, 2, 1.5, 1.5, 1]]))


def test_hours_without_trades_are_just_absent():
    parsed = candles.parse(answer("coinbase.candles", [bar(NOON - HOUR_MS), bar(NOON - 30 * HOUR_MS)]))
    assert len(parsed.rows) == 2
    assert candles.parse(answer("coinbase.candles", [])).rows == ()


def test_candles_outside_of_the_range_asked_for_are_left_alone():
    asked = candles.request("BTC-USD", 3_600, NOON - 4 * HOUR_MS, NOON - 2 * HOUR_MS)
    body = [bar(NOON - n * HOUR_MS) for n in range(1, 7)]
    parsed = candles.parse(answer("coinbase.candles", body, request=asked))
    assert [row.key["open_time"] for row in parsed.rows] == [NOON - 4 * HOUR_MS, NOON - 3 * HOUR_MS]
    assert parsed.issues == ()
    seconds = {"granularity": "3600", "start": str(NOON // 1_000 - 7_200), "end": str(NOON // 1_000 - 3_600)}
    in_seconds = Request("coinbase.candles", "/products/BTC-USD/candles", seconds)
    assert len(candles.parse(answer("coinbase.candles", body, request=in_seconds)).rows) == 2
    unreadable = Request("coinbase.candles", "/products/BTC-USD/candles", {**seconds, "start": "yesterday"})
    with pytest.raises(MalformedPayload, match="start"):
        candles.parse(answer("coinbase.candles", body, request=unreadable))


def test_request_covers_exactly_the_slots_asked_for():
    request = candles.request("BTC-USD", 300, NOON - 300 * 5 * MINUTE_MS, NOON)
    assert request.path == "/products/BTC-USD/candles"
    assert request.params == {"granularity": "300", "start": "2026-05-17T11:00:00Z", "end": "2026-05-18T11:59:59Z"}
    for interval_s, start, end in ((300, NOON - 301 * 300_000, NOON), (300, NOON, NOON), (7, NOON - 7_000, NOON)):
        with pytest.raises(ValueError, match=r"candles|none of"):
            candles.request("BTC-USD", interval_s, start, end)


@pytest.mark.parametrize("product", ["ETH-USDT", "BTC-EUR", "BTC", "USD"])
def test_product_not_quoted_in_usd_is_refused(product):
    request = Request("coinbase.candles", f"/products/{product}/candles", {"granularity": "3600"})
    with pytest.raises(MalformedPayload, match="USD"):
        candles.parse(answer("coinbase.candles", request=request))


@pytest.mark.parametrize("granularity", [None, "", "7", "3600.0", "hour", "-300", "٣٠٠"])
def test_length_that_the_exchange_does_not_offer_is_refused(granularity):
    params = {"granularity": granularity} if granularity is not None else {}
    with pytest.raises(MalformedPayload, match="granularity"):
        candles.parse(answer("coinbase.candles", params=params))


# --- candles as prices ---


def test_missed_price_is_the_close_of_its_candle():
    parsed = price_candles.parse(answer("coinbase.price_candles"))
    row = parsed.rows[0]
    assert row.key == {"coinbase_product": "BTC-USD", "slot": NOON - 10 * MINUTE_MS, "source": "coinbase.candles"}
    assert {name: value for name, value in row.values.items() if value is not None} == {
        "interval_s": 300,
        "event_time": NOON - 5 * MINUTE_MS,
        "known_at": NOON - 4 * MINUTE_MS,
        "current_price": 101.25,
    }
    assert row.event_version == NOON - 5 * MINUTE_MS
    assert parsed.rows[1].values["known_at"] == FETCHED_AT


# --- products ---


def test_only_products_that_trade_in_usd_now_are_venues():
    def product(base, **changes):
        return {
            "id": f"{base}-USD",
            "base_currency": base,
            "quote_currency": "USD",
            "status": "online",
            "trading_disabled": False,
        } | changes

    body = [
        product("BTC"),
        product("ETH", trading_disabled=True),
        product("OLD", status="delisted"),
        product("SOL", quote_currency="EUR", id="SOL-EUR"),
        product("LIM", limit_only=True, post_only=True),
    ]
    parsed = products.parse(answer("coinbase.products", body))
    assert [(row.key["coinbase_product"], row.values["symbol"]) for row in parsed.rows] == [
        ("BTC-USD", "BTC"),
        ("LIM-USD", "LIM"),
    ]
    assert parsed.issues == ()


def test_product_without_a_readable_state_is_an_issue_and_no_venue():
    body = [
        *answer_body(),
        {"id": "A-USD", "base_currency": "A", "quote_currency": "USD"},
        {"id": "B-USD", "quote_currency": "USD"},
        "C-USD",
    ]
    parsed = products.parse(answer("coinbase.products", body))
    assert [row.key["coinbase_product"] for row in parsed.rows] == ["BTC-USD"]
    assert kinds(parsed) == [("wrong_type", "status"), ("wrong_type", "base_currency"), ("wrong_type", "id")]


def test_product_listed_twice():
    first = answer_body()[0]
    assert products.parse(answer("coinbase.products", [first, first])).issues == ()
    for twice in ([first, first | {"trading_disabled": True}], [first | {"trading_disabled": True}, first]):
        parsed = products.parse(answer("coinbase.products", twice))
        assert len(parsed.rows) == (twice[0] == first)
        assert kinds(parsed) == [("duplicate", "id")]


def answer_body():
    return [
        {
            "id": "BTC-USD",
            "base_currency": "BTC",
            "quote_currency": "USD",
            "status": "online",
            "trading_disabled": False,
        }
    ]


# --- exchange rates ---


def test_rates_of_a_dollar_are_prices_by_reciprocal_without_the_money_of_states():
    parsed = rates.parse(answer("coinbase.exchange_rates"))
    assert {row.key["coinbase_product"]: row.values["current_price"] for row in parsed.rows} == {
        "BTC-USD": 1 / 0.0000128748,
        "ETH-USD": 1 / 0.000465,
    }
    row = parsed.rows[0]
    assert (row.key["slot"], row.key["source"]) == (NOON, "coinbase.exchange_rates")
    assert row.values["event_time"] == row.values["known_at"] == row.event_version == FETCHED_AT


@pytest.mark.parametrize(("rate", "price"), [("0.00002", 50_000.0), ("0.0000128748", 77_671.10945412744), (3, 1 / 3)])
def test_reciprocal_is_of_the_stated_decimal_without_float_drift(rate, price):
    body = {"data": {"currency": "USD", "rates": {"BTC": rate}}}
    (row,) = rates.parse(answer("coinbase.exchange_rates", body)).rows
    assert row.values["current_price"] == price


def test_only_products_asked_for_are_read_and_absent_ones_are_missing():
    request = rates.request("USD", ["ETH-USD", "EUR-USD", "XXX-USD"], slot=NOON)
    parsed = rates.parse(answer("coinbase.exchange_rates", request=request))
    assert [row.key["coinbase_product"] for row in parsed.rows] == ["ETH-USD", "EUR-USD"]
    assert parsed.missing == ("XXX-USD",)


def test_rate_of_one_asset_is_its_price():
    request = rates.request("BTC", slot=NOON)
    body = {"data": {"currency": "BTC", "rates": {"USD": "67000.12", "EUR": "61000"}}}
    (row,) = rates.parse(answer("coinbase.exchange_rates", body, request=request)).rows
    assert (row.key["coinbase_product"], row.values["current_price"]) == ("BTC-USD", 67_000.12)
    body["data"]["rates"].pop("USD")
    parsed = rates.parse(answer("coinbase.exchange_rates", body, request=request))
    assert (parsed.rows, parsed.missing) == ((), ("BTC-USD",))


@pytest.mark.parametrize("rate", ["0", "-1", "abc", True, {}, "1e-30"])
def test_rate_that_is_none_costs_only_its_price(rate):
    body = {"data": {"currency": "USD", "rates": {"BTC": rate, "ETH": "0.0005"}}}
    parsed = rates.parse(answer("coinbase.exchange_rates", body))
    assert [row.key["coinbase_product"] for row in parsed.rows] == ["ETH-USD"]
    assert len(parsed.issues) == 1


def test_answer_about_another_currency_is_refused():
    with pytest.raises(MalformedPayload, match="BTC"):
        rates.parse(answer("coinbase.exchange_rates", request=rates.request("BTC")))
    for data in ({}, {"currency": "USD"}, {"currency": 7, "rates": {}}, {"currency": "USD", "rates": []}):
        with pytest.raises(MalformedPayload):
            rates.parse(answer("coinbase.exchange_rates", {"data": data}))

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS
from ray_app.errors import MalformedPayload
from ray_app.sources import ENDPOINTS, Request
from ray_app.sources.rows import Candle
from tests.sources.samples import FETCHED_AT, MIDNIGHT, NOON, REQUESTS, answer, coin

markets, simple_price = ENDPOINTS["coingecko.markets"], ENDPOINTS["coingecko.simple_price"]
market_chart, ohlc = ENDPOINTS["coingecko.market_chart"], ENDPOINTS["coingecko.ohlc"]
coins_list, global_ = ENDPOINTS["coingecko.coins_list"], ENDPOINTS["coingecko.global"]


def kinds(parsed):
    return [(issue.kind, issue.subject, issue.field) for issue in parsed.issues]


# --- markets ---


def test_markets_row_holds_every_figure_in_its_unit():
    parsed = markets.parse(answer("coingecko.markets", [coin()]))
    (row,) = parsed.rows
    assert row.key == {"coin_id": "bitcoin", "slot": NOON, "source": "coingecko.markets"}
    assert row.event_version == NOON - 1_877
    assert row.values == {
        "interval_s": 300,
        "event_time": NOON - 1_877,
        "known_at": FETCHED_AT,
        "current_price": 77_671.0,
        "price_change_24h": -747.25,
        "price_change_percentage_24h": -0.95302,
        "market_cap": 1_555_886_872_303.0,
        "market_cap_rank": 1,
        "fully_diluted_valuation": 1_555_914_058_873.0,
        "volume_usd_24h": 33_235_034_316.0,
        "high_24h": 78_419.0,
        "low_24h": 76_696.0,
        "open_24h": 77_671.0 + 747.25,
        "circulating_supply": 20_030_493.0,
        "total_supply": 20_030_843.0,
        "max_supply": 21_000_000.0,
        "ath": 126_080.0,
        "ath_date": 1_759_777_062_558,
        "atl": 67.81,
        "atl_date": 1_373_068_800_000,
        **dict.fromkeys(("bid_price", "ask_price", "volume_qty_24h")),
    }


def test_markets_asks_for_at_most_250_ids_in_full_precision():
    request = markets.request(["bitcoin", "ethereum"], slot=NOON, interval_s=3_600)
    assert request.params["ids"] == "bitcoin,ethereum"
    assert request.params["precision"] == "full"
    assert request.context == {"slot": str(NOON), "interval_s": "3600"}
    assert "slot" not in request.params
    for count in (0, 251):
        with pytest.raises(ValueError, match=str(count)):
            markets.request([f"c{i}" for i in range(count)])


def test_slot_of_a_poll_without_one_is_the_one_that_holds_the_fetch():
    exchange = answer("coingecko.markets", [coin()], request=Request("coingecko.markets", "/coins/markets"))
    assert markets.parse(exchange).rows[0].key["slot"] == NOON


@pytest.mark.parametrize(
    "note", [{"slot": "x"}, {"interval_s": "0"}, {"interval_s": "-5"}, {"slot": ""}, {"slot": "9" * 30}]
)
def test_note_that_cannot_be_read_is_refused(note):
    for name in ("coingecko.markets", "coingecko.simple_price", "coinbase.exchange_rates"):
        request = replace(REQUESTS[name](), context=note)
        with pytest.raises(MalformedPayload, match="note"):
            ENDPOINTS[name].parse(answer(name, request=request))


def test_ids_left_out_of_the_answer_are_missing():
    request = markets.request(["bitcoin", "nonesuch", "ethereum"])
    parsed = markets.parse(answer("coingecko.markets", [coin("ethereum")], request=request))
    assert parsed.missing == ("bitcoin", "nonesuch")
    assert len(parsed.rows) == 1
    assert markets.parse(answer("coingecko.markets", [], request=request)).missing == (
        "bitcoin",
        "nonesuch",
        "ethereum",
    )


def test_coin_without_a_price_is_answered_but_has_no_row():
    parsed = markets.parse(answer("coingecko.markets", [coin(current_price=None), coin("ethereum")]))
    assert [row.key["coin_id"] for row in parsed.rows] == ["ethereum"]
    assert parsed.missing == ()
    assert parsed.issues == ()


@pytest.mark.parametrize("price", [0, -5, "0", "cheap", True, 1e30, [], float("nan")])
def test_price_that_is_none_costs_only_its_row(price):
    parsed = markets.parse(answer("coingecko.markets", [coin(current_price=price), coin("ethereum")]))
    assert [row.key["coin_id"] for row in parsed.rows] == ["ethereum"]
    assert [(subject, field) for _, subject, field in kinds(parsed)] == [("bitcoin", "current_price")]


@pytest.mark.parametrize(
    "member", ["market_cap", "total_volume", "high_24h", "price_change_24h", "max_supply", "ath_date"]
)
def test_other_value_that_is_wrong_costs_only_itself(member):
    column = {"total_volume": "volume_usd_24h"}.get(member, member)
    parsed = markets.parse(answer("coingecko.markets", [coin(**{member: "n/a"}), coin("ethereum")]))
    assert parsed.rows[0].values[column] is None
    assert kinds(parsed) == [("wrong_type", "bitcoin", member)]
    for absent in (None, ...):
        parsed = markets.parse(answer("coingecko.markets", [coin(**{member: absent}), coin("ethereum")]))
        assert parsed.rows[0].values[column] is None
        assert parsed.issues == ()


def test_open_24h_is_null_where_an_input_is():
    for change in (None, "?"):
        (row,) = markets.parse(answer("coingecko.markets", [coin(price_change_24h=change)])).rows
        assert row.values["open_24h"] is None
    parsed = markets.parse(answer("coingecko.markets", [coin(price_change_24h=80_000)]))
    assert parsed.rows[0].values["open_24h"] is None
    assert kinds(parsed) == [("inconsistent", "bitcoin", "price_change_24h")]


def test_open_24h_is_the_difference_of_the_stated_decimals_without_float_drift():
    (row,) = markets.parse(answer("coingecko.markets", [coin(current_price=0.3, price_change_24h="0.1")])).rows
    assert row.values["open_24h"] == 0.2


def test_high_below_low_makes_both_unknown():
    parsed = markets.parse(answer("coingecko.markets", [coin(high_24h=1, low_24h=2)]))
    assert (parsed.rows[0].values["high_24h"], parsed.rows[0].values["low_24h"]) == (None, None)
    assert kinds(parsed) == [("inconsistent", "bitcoin", "high_24h")]


@pytest.mark.parametrize("moment", [None, ..., "soon", "2026-05-18T13:00:00Z", "2026-05-18T11:59:58"])
def test_price_without_a_time_that_can_be_true_has_no_row(moment):
    parsed = markets.parse(answer("coingecko.markets", [coin(last_updated=moment)]))
    assert parsed.rows == ()
    assert [field for _, _, field in kinds(parsed)] == ["last_updated"]


def test_stale_price_keeps_its_own_time():
    (row,) = markets.parse(answer("coingecko.markets", [coin(last_updated="2026-01-01T00:00:00Z")])).rows
    assert row.values["event_time"] < NOON - 100 * DAY_MS
    assert row.values["known_at"] == FETCHED_AT


def test_coin_stated_twice():
    later = coin(current_price=78_000, last_updated="2026-05-18T12:00:01Z")
    same_moment = coin(current_price=78_000)
    assert markets.parse(answer("coingecko.markets", [coin(), coin()])).issues == ()
    assert len(markets.parse(answer("coingecko.markets", [coin(), coin()])).rows) == 1
    for order in ([coin(), later], [later, coin()]):
        parsed = markets.parse(answer("coingecko.markets", order))
        assert [row.values["current_price"] for row in parsed.rows] == [78_000]
        assert kinds(parsed) == [("duplicate", "bitcoin", "last_updated")]
    parsed = markets.parse(answer("coingecko.markets", [coin(), same_moment]))
    assert parsed.rows == ()
    assert kinds(parsed) == [("duplicate", "bitcoin", "current_price")]


def test_coin_stated_twice_and_contradicted_is_mended_only_by_a_later_statement():
    later = coin(current_price=78_000, last_updated="2026-05-18T12:00:01Z")
    parsed = markets.parse(answer("coingecko.markets", [coin(), coin(current_price=1), coin(), later]))
    assert [row.values["current_price"] for row in parsed.rows] == [78_000]


def test_answer_in_another_currency_is_refused():
    request = Request("coingecko.markets", "/coins/markets", {"vs_currency": "eur"})
    with pytest.raises(MalformedPayload, match="eur"):
        markets.parse(answer("coingecko.markets", request=request))


# --- simple/price ---


def test_simple_price_reads_percent_and_seconds_and_missing():
    request = simple_price.request(["bitcoin", "algorand"], slot=NOON)
    parsed = simple_price.parse(answer("coingecko.simple_price", request=request))
    (row,) = parsed.rows
    assert row.values["event_time"] == NOON - 20_000
    assert row.values["price_change_percentage_24h"] == -0.95
    assert row.values["price_change_24h"] is None
    assert row.values["open_24h"] is None
    assert parsed.missing == ("algorand",)


def test_simple_price_without_a_time_is_of_the_fetch():
    (row,) = simple_price.parse(answer("coingecko.simple_price", {"bitcoin": {"usd": 1}})).rows
    assert (row.values["event_time"], row.event_version) == (FETCHED_AT, FETCHED_AT)


def test_simple_price_whose_time_is_null_has_no_row_and_an_issue_says_so():
    body = {"bitcoin": {"usd": 1, "last_updated_at": None}, "algorand": {"usd": None, "last_updated_at": None}}
    parsed = simple_price.parse(answer("coingecko.simple_price", body))
    assert parsed.rows == ()
    assert kinds(parsed) == [("inconsistent", "bitcoin", "last_updated_at")]


def test_simple_price_of_nothing_known_is_all_missing():
    parsed = simple_price.parse(answer("coingecko.simple_price", {}))
    assert (parsed.rows, parsed.missing) == ((), ("bitcoin",))


# --- market_chart ---


def chart(*points, caps=(), volumes=()):
    return {"prices": list(points), "market_caps": list(caps), "total_volumes": list(volumes)}


def test_arrays_of_different_length_are_joined_by_time():
    first, second = NOON - 2 * HOUR_MS, NOON - HOUR_MS
    parsed = market_chart.parse(
        answer(
            "coingecko.market_chart",
            chart([first, 1.0], [second, 2.0], caps=[[second, 20]], volumes=[[first, 5], [second + 1, 6]]),
        )
    )
    assert [
        (row.key["slot"], row.values["current_price"], row.values["market_cap"], row.values["volume_usd_24h"])
        for row in parsed.rows
    ] == [(first, 1.0, None, 5.0), (second, 2.0, 20.0, None)]


def test_slot_takes_the_last_price_in_it():
    slot = NOON - HOUR_MS
    parsed = market_chart.parse(
        answer("coingecko.market_chart", chart([slot + 5, 1.0], [slot + 900_000, 2.0], [slot - 1, 3.0]))
    )
    assert [(row.key["slot"], row.values["current_price"]) for row in parsed.rows] == [
        (slot - HOUR_MS, 3.0),
        (slot, 2.0),
    ]


def test_points_outside_of_the_range_asked_for_make_no_price():
    asked = market_chart.request("bitcoin", NOON - 2 * HOUR_MS, NOON - HOUR_MS)
    points = [[NOON - n * HOUR_MS, float(n)] for n in range(1, 5)]
    parsed = market_chart.parse(answer("coingecko.market_chart", chart(*points), request=asked))
    assert [row.values["current_price"] for row in parsed.rows] == [2.0]


def test_chart_prices_are_known_from_their_own_time_however_late_they_are_fetched():
    moment = NOON - 90 * DAY_MS
    (row,) = market_chart.parse(answer("coingecko.market_chart", chart([moment, 1.0]))).rows
    assert row.values["known_at"] == moment + 5 * MINUTE_MS
    (row,) = market_chart.parse(answer("coingecko.market_chart", chart([FETCHED_AT - 1_000, 1.0]))).rows
    assert row.values["known_at"] == FETCHED_AT


@pytest.mark.parametrize(
    ("params", "spacing", "interval_s"),
    [
        ({"days": "1"}, 300_000, 300),
        ({"days": "1"}, None, 300),
        ({"days": "30"}, None, 3_600),
        ({"days": "max"}, None, 86_400),
        ({"from": str(NOON // 1_000 - 80_000), "to": str(NOON // 1_000)}, None, 300),
        ({"from": str(NOON // 1_000 - 9_000_000), "to": str(NOON // 1_000)}, None, 86_400),
        ({"days": "30", "interval": "daily"}, 3_600_000, 86_400),
        ({}, 301_200, 300),
        ({}, 3_590_000, 3_600),
    ],
)
def test_slot_length_without_a_note_follows_interval_spacing_or_days(params, spacing, interval_s):
    points = (
        [[NOON - 3 * (spacing or 0), 1.0], [NOON - 2 * spacing, 2.0], [NOON - spacing, 3.0]]
        if spacing
        else [[NOON, 1.0]]
    )
    request = Request("coingecko.market_chart", "/coins/bitcoin/market_chart", params)
    parsed = market_chart.parse(answer("coingecko.market_chart", chart(*points), request=request))
    assert {row.values["interval_s"] for row in parsed.rows} == {interval_s}


def test_one_price_of_an_unknown_slot_is_refused():
    request = Request("coingecko.market_chart", "/coins/bitcoin/market_chart")
    with pytest.raises(MalformedPayload, match="slot"):
        market_chart.parse(answer("coingecko.market_chart", chart([NOON, 1.0]), request=request))


def test_bad_points_cost_only_themselves():
    good = [NOON - 3 * HOUR_MS, 1.0]
    points = [good, [NOON - 2 * HOUR_MS, 0], [NOON - HOUR_MS, None], ["x", 2.0], 7, [NOON + HOUR_MS, 3.0]]
    parsed = market_chart.parse(answer("coingecko.market_chart", chart(*points)))
    assert [row.values["current_price"] for row in parsed.rows] == [1.0]
    assert [kind for kind, _, _ in kinds(parsed)] == ["out_of_range", "wrong_type", "wrong_type", "out_of_range"]


def test_point_ahead_of_the_fetch_does_not_decide_the_slots_length():
    points = [[NOON - 5 * MINUTE_MS, 1.0], [NOON + 2 * HOUR_MS, 2.0]]
    request = Request("coingecko.market_chart", "/coins/bitcoin/market_chart", {"days": "1"})
    (row,) = market_chart.parse(answer("coingecko.market_chart", chart(*points), request=request)).rows
    assert (row.key["slot"], row.values["interval_s"]) == (NOON - 5 * MINUTE_MS, 300)


@pytest.mark.parametrize("moment", [NOON // 1_000, "2026-05-18T12:00:00Z", None])
def test_chart_or_candles_in_another_unit_of_time_are_refused_as_a_whole(moment):
    with pytest.raises(MalformedPayload, match="epoch milliseconds"):
        market_chart.parse(answer("coingecko.market_chart", chart([moment, 1.0], [moment, 2.0])))
    with pytest.raises(MalformedPayload, match="epoch milliseconds"):
        ohlc.parse(answer("coingecko.ohlc", [[moment, 1.0, 1.0, 1.0, 1.0]]))


def test_price_stated_twice_differently_for_one_moment_is_left_out():
    moment = NOON - HOUR_MS
    assert market_chart.parse(answer("coingecko.market_chart", chart([moment, 1.0], [moment, 2.0]))).rows == ()
    assert len(market_chart.parse(answer("coingecko.market_chart", chart([moment, 1.0], [moment, 1.0]))).rows) == 1


def test_empty_chart_is_an_answer():
    assert market_chart.parse(answer("coingecko.market_chart", chart())).rows == ()


def test_missing_arrays_of_a_chart_are_unknown_values_and_missing_prices_are_malformed():
    parsed = market_chart.parse(
        answer("coingecko.market_chart", {"prices": [[NOON - HOUR_MS, 1.0]], "market_caps": None})
    )
    assert parsed.rows[0].values["market_cap"] is None
    for body in ({"market_caps": [[NOON, 1]]}, {"prices": None}, {"prices": {}}):
        with pytest.raises(MalformedPayload):
            market_chart.parse(answer("coingecko.market_chart", body))


def test_coin_ids_survive_the_path():
    for coin_id in ("bitcoin", "a.b-c_d", "weird/id", "é"):
        request = market_chart.request(coin_id, NOON - HOUR_MS, NOON)
        parsed = market_chart.parse(answer("coingecko.market_chart", chart([NOON - HOUR_MS, 1.0]), request=request))
        assert parsed.rows[0].key["coin_id"] == coin_id


# --- ohlc ---


def candles(step_ms, count=6, last=NOON):
    return [[last - step_ms * (count - 1 - i), 10.0 + i, 12.0 + i, 9.0 + i, 11.0 + i] for i in range(count)]


def asked(days=None, interval=None):
    params = (
        {"vs_currency": "usd"}
        | ({"days": str(days)} if days is not None else {})
        | ({"interval": interval} if interval else {})
    )
    return Request("coingecko.ohlc", "/coins/bitcoin/ohlc", params)


@pytest.mark.parametrize(
    ("request_", "step_ms"),
    [
        (asked(1), 30 * MINUTE_MS),
        (asked(2), 30 * MINUTE_MS),
        (asked(3), 4 * HOUR_MS),
        (asked(30), 4 * HOUR_MS),
        (asked(31), 4 * DAY_MS),
        (asked(365), 4 * DAY_MS),
        (asked("max"), 4 * DAY_MS),
        (asked(90, "hourly"), HOUR_MS),
        (asked(180, "daily"), DAY_MS),
    ],
)
def test_time_stamp_is_the_close_and_length_follows_the_request(request_, step_ms):
    parsed = ohlc.parse(answer("coingecko.ohlc", candles(step_ms, last=MIDNIGHT), request=request_))
    assert len(parsed.rows) == 6
    assert parsed.issues == ()
    last = parsed.rows[-1]
    assert last.key["open_time"] == MIDNIGHT - step_ms
    assert last.key["interval_s"] == step_ms // 1_000
    assert last.key["venue"] == "coingecko"
    assert last.values["volume"] is None
    assert last.event_version == MIDNIGHT
    assert [row.key["open_time"] for row in parsed.rows] == sorted(row.key["open_time"] for row in parsed.rows)


@pytest.mark.parametrize(
    ("request_", "step_ms"),
    [
        (asked(1), HOUR_MS),
        (asked(1), 4 * HOUR_MS),
        (asked(7), 30 * MINUTE_MS),
        (asked(365), DAY_MS),
        (asked(30), DAY_MS),
        (asked(7, "hourly"), 4 * HOUR_MS),
    ],
)
def test_body_of_another_interval_is_refused_as_a_whole(request_, step_ms):
    with pytest.raises(MalformedPayload, match=r"apart|grid"):
        ohlc.parse(answer("coingecko.ohlc", candles(step_ms, last=MIDNIGHT), request=request_))


def test_length_cannot_be_told_without_days():
    for request_ in (asked(), asked("often"), asked("-1"), asked(1, "minutely")):
        with pytest.raises(MalformedPayload, match=r"days|interval"):
            ohlc.parse(answer("coingecko.ohlc", request=request_))


def test_stray_candle_costs_only_itself():
    body = candles(30 * MINUTE_MS)
    body.insert(3, [body[2][0] + 60_000, 1.0, 1.0, 1.0, 1.0])
    parsed = ohlc.parse(answer("coingecko.ohlc", body))
    assert len(parsed.rows) == 6
    assert [kind for kind, _, _ in kinds(parsed)] == ["inconsistent"]


def test_four_day_candle_off_the_spacing_costs_only_itself():
    body = candles(4 * DAY_MS, last=MIDNIGHT)
    body.insert(4, [body[3][0] + DAY_MS, 1.0, 1.0, 1.0, 1.0])
    parsed = ohlc.parse(answer("coingecko.ohlc", body, request=asked(365)))
    assert len(parsed.rows) == 6
    assert [kind for kind, _, _ in kinds(parsed)] == ["inconsistent"]


def test_candle_that_has_not_closed_yields_no_row_and_no_issue():
    parsed = ohlc.parse(answer("coingecko.ohlc", candles(30 * MINUTE_MS, last=NOON + 30 * MINUTE_MS)))
    assert [row.event_version for row in parsed.rows][-1] == NOON
    assert parsed.issues == ()


@pytest.mark.parametrize(
    "bad", [[11, 10, 9, 10], [10, 12, 11, 11], [10, 12, 9, 13], [0, 12, 0, 11], [10, 12, 9, None], [10, 12, 9, "x"]]
)
def test_candle_that_contradicts_itself_costs_only_itself(bad):
    body = candles(30 * MINUTE_MS)
    body[2] = [body[2][0], *bad]
    parsed = ohlc.parse(answer("coingecko.ohlc", body))
    assert len(parsed.rows) == 5
    assert body[2][0] not in {row.event_version for row in parsed.rows}


def test_candle_is_known_from_its_close_plus_the_documented_lag_however_late_it_is_fetched():
    (old,) = ohlc.parse(answer("coingecko.ohlc", candles(30 * MINUTE_MS, 1, NOON - DAY_MS))).rows
    assert old.values["known_at"] == NOON - DAY_MS + 15 * MINUTE_MS
    assert old.values["first_seen_at"] == FETCHED_AT
    (fresh,) = ohlc.parse(answer("coingecko.ohlc", candles(30 * MINUTE_MS, 1, NOON))).rows
    assert fresh.values["known_at"] == FETCHED_AT
    (daily,) = ohlc.parse(answer("coingecko.ohlc", candles(DAY_MS, 1, MIDNIGHT), request=asked(7, "daily"))).rows
    assert daily.values["known_at"] == MIDNIGHT + 35 * MINUTE_MS


def test_version_is_a_hash_of_the_five_values_and_of_nothing_else():
    candle = Candle(NOON, 3_600, 1.0, 2.0, 0.5, 1.5, 10.0)
    assert (
        candle.version == Candle(NOON + 3_600_000, 300, 1.0, 2.0, 0.5, 1.5, 10.0).version == 3_990_619_300_531_568_454
    )
    others = [
        Candle(NOON, 3_600, *v)
        for v in ((1.1, 2.0, 0.5, 1.5, 10.0), (1.0, 2.0, 0.5, 1.5, 0.0), (1.0, 2.0, 0.5, 1.5, None))
    ]
    assert len({candle.version, *(other.version for other in others)}) == 4
    assert all(0 <= other.version < 2**63 for other in others)


# --- coins/list, global ---


def test_coins_list_gives_upper_case_tickers_that_may_repeat():
    parsed = coins_list.parse(answer("coingecko.coins_list"))
    assert [(row.key["coin_id"], row.values["symbol"]) for row in parsed.rows] == [
        ("bitcoin", "BTC"),
        ("velo", "VELO"),
        ("velodrome-finance", "VELO"),
    ]


def test_coin_with_an_unreadable_ticker_is_still_listed():
    body = [
        {"id": "bitcoin", "symbol": 7, "name": "Bitcoin"},
        {"id": "x", "symbol": "x"},
        {"symbol": "noid", "name": "?"},
    ]
    parsed = coins_list.parse(answer("coingecko.coins_list", body))
    assert [(row.key["coin_id"], row.values) for row in parsed.rows] == [
        ("bitcoin", {"symbol": None, "name": "Bitcoin"}),
        ("x", {"symbol": "X", "name": None}),
    ]
    assert [kind for kind, _, _ in kinds(parsed)] == ["wrong_type", "wrong_type"]


def test_global_figures_and_their_own_time():
    (row,) = global_.parse(answer("coingecko.global")).rows
    assert row.key == {"source": "coingecko.global", "event_time": NOON - 90_000}
    assert row.values == {
        "known_at": FETCHED_AT,
        "total_market_cap_usd": 2.65e12,
        "total_volume_usd": 1.1e11,
        "btc_dominance_pct": 58.6,
        "eth_dominance_pct": 10.4,
        "market_cap_change_percentage_24h": -1.25,
        "active_cryptocurrencies": 17_340,
        "markets": 1_447,
    }


def test_global_with_a_bad_figure_keeps_the_others_and_without_a_time_is_refused():
    body = {
        "data": {
            "updated_at": NOON // 1_000,
            "total_market_cap": "much",
            "markets": 5.5,
            "market_cap_percentage": {"btc": 158, "eth": 10},
        }
    }
    parsed = global_.parse(answer("coingecko.global", body))
    assert [name for name, value in parsed.rows[0].values.items() if value is not None] == [
        "known_at",
        "eth_dominance_pct",
    ]
    assert [field for _, _, field in kinds(parsed)] == ["total_market_cap", "market_cap_percentage.btc", "markets"]
    for updated_at in (None, "x", NOON, NOON // 1_000 + 3_600):
        body["data"]["updated_at"] = updated_at
        with pytest.raises(MalformedPayload, match="time"):
            global_.parse(answer("coingecko.global", body))

"""What the venues of derivatives share, and what is each one's own: every field, refusals, pages, odd values."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest

from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS
from ray_app.errors import MalformedPayload, RateLimited, RegionBlocked, UpstreamRejected, UpstreamUnavailable
from ray_app.sources import ENDPOINTS, Exchange, Request
from ray_app.sources.coingecko_derivatives import venue_code
from ray_app.sources.derivatives import DISAGREEMENTS, METRICS, Contract, contract_of, usdt_perpetual, usdt_swap
from ray_app.sources.derivatives_coins import COINS
from tests.sources.samples import BODIES, FETCHED_AT, NOON, REQUESTS, answer
from tests.sources.samples_derivatives import PREMIUM, SETTLED, bybit, okx, option, rpc, ticker

VENUES = ("binance", "bybit", "okx", "deribit", "coingecko_derivatives")
NAMES = [name for name in BODIES if name.split(".")[0] in VENUES[:4] or name == "coingecko.derivatives"]


def read(name, body=..., **options):
    return ENDPOINTS[name].parse(answer(name, body, **options))


def stated(parsed):
    """{(venue, instrument, metric, event_time): value}"""
    return {
        (row.key["venue"], row.key["instrument"], row.key["metric"], row.key["event_time"]): row.values["value"]
        for row in parsed.rows
    }


def test_every_metric_of_every_row_is_in_the_table_with_its_unit():
    seen = set()
    for name in NAMES:
        for row in read(name).rows:
            seen.add(row.key["metric"])
            assert row.key["metric"] in METRICS
            assert row.values["source"] == name
            assert row.table == "derivatives_data"
            assert len(row.key["venue"]) <= 32
    assert seen == set(METRICS), "a metric that nothing states"
    assert all(metric.unit and metric.description for metric in METRICS.values())
    assert all(len(name) <= 48 for name in METRICS)


def test_every_coin_is_in_the_registry():
    from ray_app.assets import AssetRegistry

    known = {asset.coin_id for asset in AssetRegistry.seed()}
    assert set(COINS.values()) <= known


def test_disagreements_compare_what_two_venues_state():
    assert {pair.metric for pair in DISAGREEMENTS} == {"mark_price", "index_price"}
    states = {(row.key["venue"], row.key["metric"]) for name in NAMES for row in read(name).rows}
    for pair in DISAGREEMENTS:
        assert {(venue, pair.metric) for venue in pair.venues} <= states


@pytest.mark.parametrize(
    ("symbol", "contract"),
    [
        ("BTCUSDT", Contract("BTCUSDT", "bitcoin")),
        ("1000PEPEUSDT", Contract("1000PEPEUSDT", "pepe", 1_000)),
        ("SHIB1000USDT", Contract("SHIB1000USDT", "shiba-inu", 1_000)),
        ("1000000MOGUSDT", Contract("1000000MOGUSDT", "mog-coin", 1_000_000)),
        ("1MBABYDOGEUSDT", Contract("1MBABYDOGEUSDT", "baby-doge-coin", 1_000_000)),
        ("TAOUSDT", Contract("TAOUSDT", "bittensor")),
        ("MATICUSDT", Contract("MATICUSDT", "matic-network")),
        ("1MUSDT", None),
        ("BTC1MUSDT", None),
        ("BTCUSDT_260626", None),
        ("BTCUSDC", None),
        ("USDT", None),
        ("1000USDT", None),
        ("NOBODYUSDT", None),
        (7, None),
    ],
)
def test_symbols_of_binance_and_bybit(symbol, contract):
    assert usdt_perpetual(symbol) == contract


def test_swaps_of_okx():
    assert usdt_swap("ETH-USDT-SWAP") == Contract("ETH-USDT-SWAP", "ethereum")
    assert usdt_swap("ETH-USD-SWAP") is None
    assert contract_of("X", "BTC1000") == Contract("X", "bitcoin", 1_000)


# --- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_refused_region_is_an_error_of_its_own(name):
    words = "Service unavailable from a restricted location according to 'b. Eligibility' in the terms."
    with pytest.raises(RegionBlocked, match=r"refuses requests from this region \(HTTP 451\): Service unavailable"):
        read(name, {"code": 0, "msg": words}, status=451)
    page = (
        b"<!DOCTYPE HTML><HTML><HEAD><TITLE>ERROR: The request could not be satisfied</TITLE></HEAD><BODY>"
        b"The Amazon CloudFront distribution is configured to block access from your country.</BODY></HTML>"
    )
    with pytest.raises(RegionBlocked, match=r"this region \(HTTP 403\)"):
        read(name, page, status=403)
    law = "not available to you due to regulatory restrictions"
    if name.startswith("bybit"):
        with pytest.raises(RegionBlocked, match=r"this region \(code 10024\)"):
            read(name, {"retCode": 10024, "retMsg": law, "result": {}, "time": NOON})
    with pytest.raises(UpstreamRejected) as caught:
        read(name, b"<html><title>Forbidden</title></html>", status=403)
    assert not isinstance(caught.value, RegionBlocked)


@pytest.mark.parametrize("name", NAMES)
def test_a_ban_is_a_rate_limit_with_its_end(name):
    with pytest.raises(RateLimited) as caught:
        read(name, {"code": -1003, "msg": "Way too many requests"}, status=418, headers={"retry-after": "120"})
    assert caught.value.retry_after_s == 120


@pytest.mark.parametrize(
    ("prefix", "body", "status", "error"),
    [
        ("binance", {"code": -1121, "msg": "Invalid symbol."}, 400, UpstreamRejected),
        ("binance", {"code": -1003, "msg": "Internal words"}, 400, RateLimited),
        ("bybit", {"retCode": 10001, "retMsg": "params error: x", "result": {}, "time": 1}, 200, UpstreamRejected),
        ("bybit", {"retCode": 10006, "retMsg": "Too many visits!", "result": {}, "time": 1}, 200, RateLimited),
        ("okx", {"code": "51001", "data": [], "msg": "Instrument ID doesn't exist"}, 200, UpstreamRejected),
        ("okx", {"code": "50011", "data": [], "msg": "Slower"}, 200, RateLimited),
        ("okx", {"code": "50011", "data": [], "msg": "Slower"}, 400, RateLimited),
        ("deribit", {"jsonrpc": "2.0", "error": {"message": "Invalid params", "code": -32602}}, 400, UpstreamRejected),
        ("deribit", {"jsonrpc": "2.0", "error": {"message": "slower", "code": 10028}}, 400, RateLimited),
        ("deribit", {"jsonrpc": "2.0", "error": {"message": "too_many_requests", "code": 10028}}, 200, RateLimited),
        ("deribit", {"jsonrpc": "2.0", "error": {"message": "slower", "code": 10066}}, 400, RateLimited),
        ("binance", {"code": -1001, "msg": "Disconnected."}, 400, UpstreamUnavailable),
        ("binance", {"code": -1008, "msg": "Overloaded."}, 200, UpstreamUnavailable),
        ("bybit", {"retCode": 10000, "retMsg": "late", "result": {}, "time": 1}, 200, UpstreamUnavailable),
        ("bybit", {"retCode": 10016, "retMsg": "Oops.", "result": {}, "time": 1}, 200, UpstreamUnavailable),
        ("bybit", {"retCode": 10009, "retMsg": "IP has been banned", "result": {}, "time": 1}, 200, RateLimited),
        ("okx", {"code": "50001", "data": [], "msg": "Upgrading"}, 200, UpstreamUnavailable),
        ("okx", {"code": "50013", "data": [], "msg": "Busy"}, 400, UpstreamUnavailable),
        ("deribit", {"jsonrpc": "2.0", "error": {"message": "later", "code": 13028}}, 200, UpstreamUnavailable),
        ("deribit", {"jsonrpc": "2.0", "error": {"message": "later", "code": 11051}}, 400, UpstreamUnavailable),
    ],
)
def test_refusals_of_each_venue(prefix, body, status, error):
    for name in (one for one in NAMES if one.startswith(prefix)):
        with pytest.raises(error) as caught:
            read(name, body, status=status)
        assert isinstance(caught.value, RateLimited) == (error is RateLimited)


def test_bybit_s_403_of_too_many_requests_waits_ten_minutes():
    with pytest.raises(RateLimited) as caught:
        read("bybit.tickers", b"403, access too frequent", status=403)
    assert caught.value.retry_after_s == 600
    with pytest.raises(RateLimited, match="code 10009") as caught:
        read("bybit.tickers", {"retCode": 10009, "retMsg": "IP has been banned.", "result": {}, "time": 1})
    assert caught.value.retry_after_s == 600


def test_a_long_message_does_not_hide_its_code():
    with pytest.raises(RateLimited):
        read("binance.premium_index", {"code": -1003, "msg": "x" * 5_000}, status=400)
    with pytest.raises(UpstreamRejected):
        read("binance.premium_index", {"code": -1003, "msg": "x" * 100_000}, status=400)


@pytest.mark.parametrize("name", [name for name in NAMES if "symbol" in REQUESTS[name]().params])
def test_an_answer_about_another_instrument_is_refused(name):
    request = REQUESTS[name]()
    request = replace(request, params={**request.params, "symbol": "ETHUSDT"})
    with pytest.raises(MalformedPayload, match="asked for ETHUSDT"):
        read(name, request=request)


# --- Binance --------------------------------------------------------------------------------------------------


def test_premium_index_states_marks_and_the_rate_to_come_at_the_time_given():
    parsed = read("binance.premium_index")
    at = NOON + 7_000
    assert stated(parsed) == {
        ("binance", "BTCUSDT", "mark_price", at): 77_680.1,
        ("binance", "BTCUSDT", "index_price", at): 77_700.25,
        ("binance", "BTCUSDT", "predicted_funding_rate", at): -0.0000381,
        ("binance", "1000PEPEUSDT", "mark_price", at): 0.0000125,
        ("binance", "1000PEPEUSDT", "index_price", at): 0.00001251,
        ("binance", "1000PEPEUSDT", "predicted_funding_rate", at): -0.0000381,
    }
    assert {row.values["known_at"] for row in parsed.rows} == {FETCHED_AT}
    assert parsed.rows[-1].key["coin_id"] == "pepe"


def test_premium_index_of_one_symbol_is_an_object_and_an_absent_symbol_is_missing():
    one = ENDPOINTS["binance.premium_index"].request("BTCUSDT")
    assert len(read("binance.premium_index", PREMIUM, request=one).rows) == 3
    assert read("binance.premium_index", [], request=one).missing == ("BTCUSDT",)


def test_a_context_of_coins_keeps_the_rows_of_those():
    for name in ("binance.premium_index", "bybit.tickers", "okx.mark_price", "okx.open_interest"):
        request = ENDPOINTS[name].request(coins=["bitcoin", "solana"])
        assert {row.key["coin_id"] for row in read(name, request=request).rows} == {"bitcoin"}
        assert read(name, request=ENDPOINTS[name].request(coins=["solana"])).rows == ()


def test_one_bad_value_costs_itself_and_an_empty_one_is_nothing():
    body = [PREMIUM | {"markPrice": "n/a", "indexPrice": ""}]
    parsed = read("binance.premium_index", body)
    assert set(stated(parsed)) == {("binance", "BTCUSDT", "predicted_funding_rate", NOON + 7_000)}
    assert [(issue.kind, issue.field) for issue in parsed.issues] == [("wrong_type", f"mark_price@{NOON + 7_000}")]


def test_a_time_of_the_future_or_none_costs_the_statement():
    ahead = read("binance.premium_index", [PREMIUM | {"time": NOON + DAY_MS}])
    assert (ahead.rows, [issue.kind for issue in ahead.issues]) == ((), ["out_of_range"])
    untimed = read("binance.premium_index", [PREMIUM | {"time": None}])
    assert (untimed.rows, [issue.field for issue in untimed.issues]) == ((), ["time"])


def test_settled_funding_is_known_a_minute_after_it_was_due():
    parsed = read("binance.funding_rate")
    assert stated(parsed) == {
        ("binance", "BTCUSDT", "funding_rate", SETTLED - 8 * HOUR_MS): 0.0001,
        ("binance", "BTCUSDT", "funding_rate", SETTLED + 1): -0.000025,
    }
    assert [row.values["known_at"] for row in parsed.rows] == [
        SETTLED - 8 * HOUR_MS + MINUTE_MS,
        SETTLED + 1 + MINUTE_MS,
    ]
    assert {row.values["first_seen_at"] for row in parsed.rows} == {FETCHED_AT}
    assert parsed.oldest == SETTLED - 8 * HOUR_MS
    assert parsed.next is None


def test_a_moment_stated_twice_is_one_row_or_none():
    item = BODIES["binance.funding_rate"][0]
    assert len(read("binance.funding_rate", [item, item]).rows) == 1
    parsed = read("binance.funding_rate", [item, item | {"fundingRate": "0.0002"}])
    assert (parsed.rows, [issue.kind for issue in parsed.issues]) == ((), ["duplicate"])


@pytest.mark.parametrize(("name", "window"), [("binance.funding_rate", 990), ("binance.open_interest_hist", 490)])
def test_windows_go_back_to_the_beginning_without_a_hole(name, window):
    since, now = NOON - 28 * DAY_MS, NOON
    request, pages = ENDPOINTS[name].request("BTCUSDT", since, now), []
    while request is not None:
        pages.append((int(request.params["startTime"]), int(request.params["endTime"])))
        request = ENDPOINTS[name].parse(Exchange(request, 200, {}, b"[]", FETCHED_AT)).next
    assert len(pages) == -(-28 * 24 // window)
    assert pages[0][1] == now
    assert pages[-1][0] == since
    assert all(newer[0] == older[1] for newer, older in itertools.pairwise(pages))
    assert all(end - start <= window * HOUR_MS for start, end in pages)


def test_statistics_are_not_asked_for_beyond_the_month_they_are_kept():
    request = ENDPOINTS["binance.long_short"].request("BTCUSDT", NOON - 90 * DAY_MS, NOON)
    assert int(request.context["since"]) > NOON - 30 * DAY_MS


def test_open_interest_now_and_by_the_hour():
    assert stated(read("binance.open_interest")) == {("binance", "BTCUSDT", "open_interest", NOON + 5_500): 91_234.567}
    assert stated(read("binance.open_interest_hist")) == {
        ("binance", "BTCUSDT", "open_interest", NOON - HOUR_MS): 91_000.1,
        ("binance", "BTCUSDT", "open_interest_usd", NOON - HOUR_MS): 7_068_000_000.5,
        ("binance", "BTCUSDT", "open_interest", NOON): 91_234.5,
        ("binance", "BTCUSDT", "open_interest_usd", NOON): 7_086_000_000.0,
    }
    assert stated(read("binance.long_short")) == {("binance", "BTCUSDT", "long_short_ratio", NOON): 1.5}
    many = {"symbol": "1000PEPEUSDT", "openInterest": "2.5", "time": NOON}
    request = ENDPOINTS["binance.open_interest"].request("1000PEPEUSDT")
    assert read("binance.open_interest", many, request=request).rows[0].values["value"] == 2_500.0


# --- Bybit ----------------------------------------------------------------------------------------------------


def test_tickers_are_as_of_the_answer_s_time():
    assert stated(read("bybit.tickers")) == {
        ("bybit", "BTCUSDT", metric, NOON + 7_012): value
        for metric, value in {
            "mark_price": 77_682.0,
            "index_price": 77_702.31,
            "predicted_funding_rate": 0.0000731,
            "open_interest": 51_234.123,
            "open_interest_usd": 3_980_000_000.77,
            "volume_24h_usd": 5_100_000_000.4,
        }.items()
    }
    with pytest.raises(MalformedPayload, match="no readable time"):
        read("bybit.tickers", BODIES["bybit.tickers"] | {"time": None})
    with pytest.raises(MalformedPayload, match="not linear"):
        read("bybit.tickers", bybit({"category": "inverse", "list": []}))


def test_a_full_page_of_funding_is_followed_by_the_one_before_its_oldest():
    request = ENDPOINTS["bybit.funding_history"].request("BTCUSDT", NOON - 90 * DAY_MS, NOON)
    items = [
        {"symbol": "BTCUSDT", "fundingRate": "0.0001", "fundingRateTimestamp": str(SETTLED - n * 8 * HOUR_MS)}
        for n in range(200)
    ]
    parsed = read("bybit.funding_history", bybit({"category": "linear", "list": items}), request=request)
    oldest = SETTLED - 199 * 8 * HOUR_MS
    assert parsed.oldest == oldest
    assert parsed.next == replace(request, params={**request.params, "endTime": str(oldest - 1)})
    short = read("bybit.funding_history", bybit({"category": "linear", "list": items[:199]}), request=request)
    assert short.next is None
    assert stated(read("bybit.funding_history")) == {
        ("bybit", "BTCUSDT", "funding_rate", SETTLED): 0.0001,
        ("bybit", "BTCUSDT", "funding_rate", SETTLED - 8 * HOUR_MS): -0.00015,
    }


def test_the_cursor_leads_on_and_never_in_a_circle():
    parsed = read("bybit.open_interest")
    assert stated(parsed) == {
        ("bybit", "BTCUSDT", "open_interest", NOON): 51_234.12,
        ("bybit", "BTCUSDT", "open_interest", NOON - HOUR_MS): 51_000.0,
    }
    assert parsed.next.params["cursor"] == "lastId%3D1234%26lastTs%3D5678"
    assert read("bybit.open_interest", request=parsed.next).next is None
    last = bybit(BODIES["bybit.open_interest"]["result"] | {"nextPageCursor": ""})
    assert read("bybit.open_interest", last).next is None


# --- OKX ------------------------------------------------------------------------------------------------------


def test_okx_states_an_estimate_as_of_its_time_never_of_the_settlement():
    assert stated(read("okx.funding_rate")) == {
        ("okx", "BTC-USDT-SWAP", "predicted_funding_rate", NOON + 6_500): 0.0000647375951599
    }


def test_okx_paid_rate_counts_and_where_it_is_absent_the_predicted_one():
    assert stated(read("okx.funding_rate_history")) == {
        ("okx", "BTC-USDT-SWAP", "funding_rate", SETTLED): 0.00015,
        ("okx", "BTC-USDT-SWAP", "funding_rate", SETTLED - 8 * HOUR_MS): -0.0000236017,
    }


def test_okx_pages_go_back_until_since_and_end_where_the_venue_does_not_go_back():
    def page(newest):
        return okx(
            *(
                {"instId": "BTC-USDT-SWAP", "fundingRate": "0.0001", "fundingTime": str(newest - n * 8 * HOUR_MS)}
                for n in range(100)
            )
        )

    request = ENDPOINTS["okx.funding_rate_history"].request("BTC-USDT-SWAP", NOON - 90 * DAY_MS)
    first = read("okx.funding_rate_history", page(SETTLED), request=request)
    oldest = SETTLED - 99 * 8 * HOUR_MS
    assert first.next == Request(
        request.endpoint, request.path, {**request.params, "after": str(oldest)}, request.context
    )
    assert read("okx.funding_rate_history", page(SETTLED), request=first.next).next is None
    recent = ENDPOINTS["okx.funding_rate_history"].request("BTC-USDT-SWAP", NOON - DAY_MS)
    assert read("okx.funding_rate_history", page(SETTLED), request=recent).next is None


def test_okx_open_interest_in_coins_in_dollars_and_in_contracts():
    assert stated(read("okx.open_interest")) == {
        ("okx", "BTC-USDT-SWAP", "open_interest_contracts", NOON + 6_600): 3_384_273.06,
        ("okx", "BTC-USDT-SWAP", "open_interest", NOON + 6_600): 33_842.7306,
        ("okx", "BTC-USDT-SWAP", "open_interest_usd", NOON + 6_600): 2_628_600_000.5,
    }
    assert stated(read("okx.mark_price")) == {("okx", "BTC-USDT-SWAP", "mark_price", NOON + 6_700): 77_683.4}


# --- Deribit --------------------------------------------------------------------------------------------------


def test_dvol_is_the_close_of_closed_candles_as_of_their_end():
    parsed = read("deribit.volatility_index")
    assert stated(parsed) == {
        ("deribit", "BTCDVOL", "dvol", NOON - HOUR_MS): 48.5,
        ("deribit", "BTCDVOL", "dvol", NOON): 48.75,
    }
    assert [row.values["known_at"] for row in parsed.rows] == [NOON - HOUR_MS + MINUTE_MS, FETCHED_AT]
    assert parsed.oldest == NOON - 2 * HOUR_MS
    assert parsed.next is None


def test_dvol_in_fractions_or_out_of_its_range_is_an_issue():
    body = rpc({"data": [[NOON - HOUR_MS, 0.48, 0.49, 0.47, 0.48]], "continuation": None})
    assert read("deribit.volatility_index", body).rows == ()
    body = rpc({"data": [[NOON - HOUR_MS, 48, 49, 47, 52]], "continuation": None})
    assert [issue.kind for issue in read("deribit.volatility_index", body).issues] == ["inconsistent"]


def test_a_continuation_is_the_end_of_the_page_before_unless_it_leads_nowhere():
    request = REQUESTS["deribit.volatility_index"]()
    until = NOON - 10 * HOUR_MS

    def following(continuation):
        body = rpc({"data": [[NOON - HOUR_MS, 48, 49, 47, 48]], "continuation": continuation})
        return read("deribit.volatility_index", body).next

    assert following(until) == replace(request, params={**request.params, "end_timestamp": str(until)})
    assert following(NOON + DAY_MS) is None
    assert following(1_000) is None
    assert following("soon") is None


def test_puts_and_calls_are_summed_over_all_options():
    parsed = read("deribit.book_summary")
    assert stated(parsed) == {
        ("deribit", "BTC-OPTIONS", "options_open_interest", NOON + 6_900): 1_800.0,
        ("deribit", "BTC-OPTIONS", "put_call_ratio", NOON + 6_900): 0.5,
    }


@pytest.mark.parametrize(
    "spoilt",
    [option("BTC-26JUN26-80000-P", None), option("BTC-26JUN26-80000-P", "n/a"), option("BTC-26JUN26-80000-P", -1)],
)
def test_a_sum_that_lacks_a_part_is_no_sum(spoilt):
    parsed = read("deribit.book_summary", rpc([option("BTC-26JUN26-80000-C", 10), spoilt]))
    assert parsed.rows == ()
    assert parsed.issues


def test_without_calls_there_is_no_ratio_and_twice_the_same_option_counts_once():
    put, call = option("BTC-26JUN26-80000-P", 5), option("BTC-26JUN26-80000-C", 0)
    assert [row.key["metric"] for row in read("deribit.book_summary", rpc([put, call])).rows] == [
        "options_open_interest"
    ]
    twice = read("deribit.book_summary", rpc([put, put, option("BTC-26JUN26-80000-C", 10)]))
    assert sorted(row.values["value"] for row in twice.rows) == [0.5, 15.0]
    assert read("deribit.book_summary", rpc([put, put | {"open_interest": 6}, call])).rows == ()
    with pytest.raises(MalformedPayload, match="option of BTC"):
        read("deribit.book_summary", rpc([option("ETH-26JUN26-80000-P", 5)]))


def test_without_a_kind_futures_among_the_options_are_left_alone():
    options = [option("BTC-26JUN26-80000-P", 5), option("BTC-26JUN26-80000-C", 10)]
    others = [
        option(name, None) for name in ("BTC-PERPETUAL", "BTC-25SEP26", "BTC-FS-25SEP26_PERP", "BTC_USDC", "BTC-4JUL26")
    ]
    request = Request("deribit.book_summary", REQUESTS["deribit.book_summary"]().path, {"currency": "BTC"})
    parsed = read("deribit.book_summary", rpc([*others, *options]), request=request)
    assert stated(parsed) == {
        ("deribit", "BTC-OPTIONS", "options_open_interest", NOON + 6_900): 15.0,
        ("deribit", "BTC-OPTIONS", "put_call_ratio", NOON + 6_900): 0.5,
    }
    assert parsed.issues == ()
    for odd in ("ETH-PERPETUAL", "BTC-26JUN26-80000", "BTC-26JUN26-80000-X", None):
        spoilt = read("deribit.book_summary", rpc([*options, option(odd, 1)]), request=request)
        assert (spoilt.rows, [issue.kind for issue in spoilt.issues]) == ((), ["wrong_type"])
    with pytest.raises(MalformedPayload, match="option of BTC"):
        read("deribit.book_summary", rpc(others), request=request)


def test_coingecko_s_index_of_a_million_coins_is_not_that_of_one():
    for symbol in ("1MBABYDOGEUSDT", "1000000MOGUSDT"):
        item = ticker(symbol=symbol, index_id="BABYDOGE")
        metrics = {row.key["metric"] for row in read("coingecko.derivatives", [item]).rows}
        assert "open_interest_usd" in metrics
        assert "index_price" not in metrics


def test_deribit_states_an_hour_and_eight_hours_apart():
    assert stated(read("deribit.funding_history")) == {
        ("deribit", "BTC-PERPETUAL", "funding_rate", NOON - HOUR_MS): 5.91821175553615e-06,
        ("deribit", "BTC-PERPETUAL", "funding_rate_1h", NOON - HOUR_MS): 1.257606590607552e-06,
        ("deribit", "BTC-PERPETUAL", "index_price", NOON - HOUR_MS): 77_600.5,
        ("deribit", "BTC-PERPETUAL", "funding_rate", NOON): -1.5e-06,
        ("deribit", "BTC-PERPETUAL", "funding_rate_1h", NOON): 0.0,
        ("deribit", "BTC-PERPETUAL", "index_price", NOON): 77_700.0,
    }


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("deribit")])
def test_a_body_of_deribit_needs_its_request(name):
    with pytest.raises(MalformedPayload):
        read(name, params={"resolution": "3600"})
    with pytest.raises(MalformedPayload):
        read(name, params={"currency": "NOBODY", "instrument_name": "BTC-26JUN26", "resolution": "3600"})


# --- CoinGecko ------------------------------------------------------------------------------------------------


def test_coingecko_s_percent_become_fractions_and_expired_contracts_are_left_alone():
    at = NOON - 12_000
    parsed = read("coingecko.derivatives")
    values = stated(parsed)
    basis = values.pop(("binance_futures", "BTCUSDT", "basis_pct", at))
    assert basis == pytest.approx((77_680.5 / 77_700 - 1) * 100, abs=1e-12)
    assert values.pop(("deribit", "BTC-26JUN26", "basis_pct", at)) == pytest.approx(0.5405405405)
    assert values == {
        ("binance_futures", "BTCUSDT", "predicted_funding_rate", at): 0.000075,
        ("binance_futures", "BTCUSDT", "open_interest_usd", at): 8.5e9,
        ("binance_futures", "BTCUSDT", "volume_24h_usd", at): 1.25e10,
        ("binance_futures", "BTCUSDT", "index_price", at): 77_700.0,
        ("deribit", "BTC-26JUN26", "open_interest_usd", at): 8.5e9,
        ("deribit", "BTC-26JUN26", "volume_24h_usd", at): 1.25e10,
        ("deribit", "BTC-26JUN26", "index_price", at): 77_700.0,
    }


def test_coingecko_s_list_is_cut_to_the_venues_wanted():
    body = [ticker(), ticker(market="Nobody's Exchange (Derivatives)"), ticker(market="Deribit", symbol="BTC-PERP")]
    request = ENDPOINTS["coingecko.derivatives"].request(["deribit", "binance_futures"])
    assert {row.key["venue"] for row in read("coingecko.derivatives", body, request=request).rows} == {
        "deribit",
        "binance_futures",
    }
    assert len({row.key["venue"] for row in read("coingecko.derivatives", body).rows}) == 3


@pytest.mark.parametrize(
    ("price", "ok"), [("77,680.5", True), ("$1,077,680.5", True), (77_680.5, True), ("7,76,80", False), ("", False)]
)
def test_prices_as_text(price, ok):
    parsed = read("coingecko.derivatives", [ticker(price=price, index=77_000)])
    assert ("basis_pct" in {row.key["metric"] for row in parsed.rows}) == ok
    assert bool(parsed.issues) == (not ok)


def test_market_names_as_codes():
    assert venue_code("Binance (Futures)") == "binance_futures"
    assert venue_code("Crypto.com Exchange (Futures)") == "crypto_com_exchange_futures"
    assert venue_code("交易所") is None
    assert venue_code("x" * 33) is None
    assert venue_code(None) is None


# --- recorded answers -----------------------------------------------------------------------------------------


def recorded(shared_data, file, name, params, fetched_at):
    body = (shared_data / "recorded" / "exchanges" / file).read_bytes()
    parsed = ENDPOINTS[name].parse(Exchange(Request(name, ENDPOINTS[name].paths[0], params), 200, {}, body, fetched_at))
    assert parsed.issues == ()
    return parsed, json.loads(body)


@pytest.mark.shared_data
def test_recorded_open_interest_of_binance(shared_data):
    parsed, raw = recorded(
        shared_data,
        "exchange_binance_open_interest.json",
        "binance.open_interest_hist",
        {"symbol": "BTCUSDT", "period": "1h"},
        1_786_820_500_000,
    )
    assert stated(parsed) == {
        ("binance", "BTCUSDT", metric, item["timestamp"]): float(item[member])
        for item in raw
        for metric, member in (("open_interest", "sumOpenInterest"), ("open_interest_usd", "sumOpenInterestValue"))
    }
    assert len(parsed.rows) == 4
    assert parsed.rows[-1].values["known_at"] == 1_786_820_500_000


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("file", "member"),
    [
        ("exchange_okx_funding.json", "fundingRate"),
        ("nautilus_okx_http_get_funding_rate_history.json", "realizedRate"),
    ],
)
def test_recorded_funding_of_okx(shared_data, file, member):
    parsed, raw = recorded(
        shared_data, file, "okx.funding_rate_history", {"instId": "BTC-USDT-SWAP"}, 1_790_000_000_000
    )
    assert stated(parsed) == {
        ("okx", "BTC-USDT-SWAP", "funding_rate", int(item["fundingTime"])): float(item[member]) for item in raw["data"]
    }
    assert len(parsed.rows) == 2


@pytest.mark.shared_data
def test_recorded_open_interest_of_okx_counts_contracts_alone(shared_data):
    parsed, raw = recorded(
        shared_data, "exchange_okx_open_interest.json", "okx.open_interest", {"instType": "SWAP"}, 1_786_820_651_500
    )
    (item,) = raw["data"]
    assert stated(parsed) == {
        ("okx", "BTC-USDT-SWAP", "open_interest_contracts", int(item["ts"])): float(item["oi"]),
    }


@pytest.mark.shared_data
def test_recorded_funding_of_bybit(shared_data):
    parsed, raw = recorded(
        shared_data,
        "nautilus_bybit_http_get_funding_history.json",
        "bybit.funding_history",
        {"category": "linear", "symbol": "BTCUSDT"},
        1_709_891_679_100,
    )
    assert stated(parsed) == {
        ("bybit", "BTCUSDT", "funding_rate", int(item["fundingRateTimestamp"])): float(item["fundingRate"])
        for item in raw["result"]["list"]
    }
    assert len(parsed.rows) == 2


@pytest.mark.parametrize(
    ("name", "body", "subject"),
    [
        ("okx.open_interest", {"code": "0", "msg": "", "data": [{"instId": "BTC-USD-SWAP", "oi": "1", "ts": str(NOON)}]}, "BTC-USD-SWAP"),
        ("binance.premium_index", {"symbol": "BTCUSDC", "markPrice": "1", "time": NOON}, "BTCUSDC"),
        ("bybit.tickers", {"retCode": 0, "retMsg": "OK", "result": {"category": "linear", "list": [{"symbol": "BTCPERP", "lastPrice": "1"}]}, "time": NOON}, "BTCPERP"),
    ],
)  # fmt: skip
def test_an_answer_about_one_contract_that_nobody_knows_says_so(name, body, subject):
    params = {k: v for k, v in REQUESTS[name]().params.items() if k not in {"instId", "symbol"}}
    parsed = ENDPOINTS[name].parse(answer(name, body, params=params))
    assert parsed.rows == ()
    assert [(issue.kind, issue.subject) for issue in parsed.issues] == [("unknown_id", subject)]

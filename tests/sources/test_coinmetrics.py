"""Coin Metrics: days stamped at their start, strings, pages, and what is published when."""

from __future__ import annotations

import pytest

from ray_app.clock import DAY_MS, HOUR_MS
from ray_app.errors import MalformedPayload, RateLimited, UpstreamRejected
from ray_app.sources import ENDPOINTS
from tests.sources.samples import FETCHED_AT, MIDNIGHT, answer
from tests.sources.samples_onchain import BODIES, REQUESTS, asset_day

NAME = "coinmetrics.asset_metrics"
ENDPOINT = ENDPOINTS[NAME]


def parsed(*items, **changes):
    return ENDPOINT.parse(answer(NAME, {"data": list(items), **changes}))


def values(result):
    return {(r.key["coin_id"], r.key["metric"], r.key["event_time"]): r.values["value"] for r in result.rows}


def test_every_metric_of_a_day_in_our_units():
    all_of_it = {"TxTfrCnt": "700001", "IssTotUSD": "3.5e7", "FlowInExUSD": "1500000000.5", "FlowOutExUSD": "0"}
    found = values(parsed(asset_day("btc", "2026-05-17", **all_of_it)))
    assert {metric: value for (_, metric, _), value in found.items()} == {
        "active_addresses": 812_345.0,
        "transaction_count": 401_234.0,
        "transfer_count": 700_001.0,
        "hash_rate": 912345678.5e12,
        "circulating_supply": 19_950_123.5,
        "market_cap_usd": 1_549_887_234_111.25,
        "mvrv_ratio": 1.834,
        "supply_issued_usd": 3.5e7,
        "exchange_inflow_usd": 1_500_000_000.5,
        "exchange_outflow_usd": 0.0,
        "price_usd": 77_688.25,
    }
    assert {(coin, at) for coin, _, at in found} == {("bitcoin", MIDNIGHT)}


def test_a_day_is_known_when_it_says_that_it_was_complete_and_else_a_day_after_its_end():
    early, late = (
        parsed(
            asset_day("btc", "2026-05-15", AssetEODCompletionTime=str((MIDNIGHT - 2 * DAY_MS + 5 * HOUR_MS) // 1_000)),
            asset_day("eth", "2026-05-15", AssetEODCompletionTime=None),
        ),
        parsed(asset_day("btc", "2026-05-17", AssetEODCompletionTime=None)),
    )
    known = {row.key["coin_id"]: row.values["known_at"] for row in early.rows}
    assert known == {"bitcoin": MIDNIGHT - 2 * DAY_MS + 5 * HOUR_MS, "ethereum": MIDNIGHT - DAY_MS}
    assert {row.values["known_at"] for row in late.rows} == {FETCHED_AT}  # its day after is not over
    assert {row.values["first_seen_at"] for row in late.rows} == {FETCHED_AT}


def test_a_completion_before_the_day_s_end_cannot_be_and_does_not_count():
    result = parsed(asset_day("btc", "2026-05-15", AssetEODCompletionTime=str((MIDNIGHT - 3 * DAY_MS) // 1_000)))
    assert {row.values["known_at"] for row in result.rows} == {MIDNIGHT - DAY_MS}


def test_null_and_absent_are_no_rows_and_no_issues():
    result = parsed({"asset": "btc", "time": "2026-05-16T00:00:00.000000000Z", "TxCnt": None, "PriceUSD": "1.5"})
    assert [row.key["metric"] for row in result.rows] == ["price_usd"]
    assert result.issues == ()


def test_a_revised_day_is_another_version():
    first, second = (parsed(asset_day("btc", "2026-05-16", AdrActCnt=n)).rows[0] for n in ("812345", "812399"))
    assert first.key["event_time"] == second.key["event_time"]
    assert first.key["version"] != second.key["version"]


def test_hash_rates_of_other_algorithms_are_left_alone():
    result = parsed(asset_day("zec", "2026-05-16"))
    assert "hash_rate" not in {row.key["metric"] for row in result.rows}
    assert result.rows


def test_the_next_page_repeats_the_request_with_the_token():
    result = ENDPOINT.parse(answer(NAME))
    request = REQUESTS[NAME]()
    assert result.next is not None
    assert result.next.params == {**request.params, "next_page_token": BODIES[NAME]["next_page_token"]}
    assert result.next.path == request.path
    assert result.oldest == MIDNIGHT - DAY_MS  # the end of the oldest day
    assert parsed(asset_day("btc", "2026-05-16"), asset_day("eth", "2026-05-16")).next is None
    for token in (7, ["x"], "a\nb"):
        with pytest.raises(MalformedPayload, match="next_page_token"):
            parsed(asset_day("btc", "2026-05-16"), next_page_token=token)


def test_pages_from_the_start_have_no_oldest_item_to_stop_at():
    exchange = answer(NAME)
    request = REQUESTS[NAME]()
    changed = type(request)(NAME, request.path, {**request.params, "paging_from": "start"})
    object.__setattr__(exchange, "request", changed)
    assert ENDPOINT.parse(exchange).oldest is None


def test_a_page_that_points_to_itself_is_refused():
    result = ENDPOINT.parse(answer(NAME))
    again = answer(NAME)
    object.__setattr__(again, "request", result.next)
    with pytest.raises(MalformedPayload, match="does not move on"):
        ENDPOINT.parse(again)


def test_assets_left_out_are_missing_only_where_the_answer_is_whole():
    assert parsed(asset_day("btc", "2026-05-16")).missing == ("eth",)
    assert parsed(asset_day("btc", "2026-05-16"), next_page_token="0.abc").missing == ()
    assert parsed().missing == ()
    assert parsed().rows == ()


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        (asset_day("nope", "2026-05-16"), "unknown_id"),
        (asset_day("btc", "2026-05-18"), "out_of_range"),  # not over
        (asset_day("btc", "2026-05-16", time="2026-05-16T01:00:00Z"), "out_of_range"),
        (asset_day("btc", "2026-05-16", TxCnt="many"), "wrong_type"),
        (asset_day("btc", "2026-05-16", SplyCur="-5"), "out_of_range"),
    ],
)
def test_what_cannot_be_costs_itself_only(item, kind):
    result = parsed(item, asset_day("eth", "2026-05-16"))
    assert [issue.kind for issue in result.issues] == [kind]
    assert {row.key["coin_id"] for row in result.rows} >= {"ethereum"}


def test_a_day_stated_twice_differently_is_left_out():
    result = parsed(asset_day("btc", "2026-05-16"), asset_day("btc", "2026-05-16", TxCnt="1"))
    assert {issue.kind for issue in result.issues} == {"duplicate"}
    assert "transaction_count" not in {row.key["metric"] for row in result.rows}
    assert "active_addresses" in {row.key["metric"] for row in result.rows}


def test_refusals_repeat_the_reason():
    body = {"error": {"type": "forbidden", "message": "Requested metric 'CapRealUSD' is not available."}}
    with pytest.raises(UpstreamRejected, match="CapRealUSD"):
        ENDPOINT.parse(answer(NAME, body, status=403))
    with pytest.raises(UpstreamRejected, match="CapRealUSD"):
        ENDPOINT.parse(answer(NAME, body))
    with pytest.raises(RateLimited):
        ENDPOINT.parse(answer(NAME, {"error": {"type": "too_many_requests", "message": "slow"}}, status=429))


def test_other_frequencies_are_refused():
    exchange = answer(NAME)
    request = REQUESTS[NAME]()
    object.__setattr__(exchange, "request", type(request)(NAME, request.path, {**request.params, "frequency": "1b"}))
    with pytest.raises(MalformedPayload, match="frequency"):
        ENDPOINT.parse(exchange)

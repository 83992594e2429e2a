"""Etherscan: one path for all, errors inside HTTP 200."""

from __future__ import annotations

import json

import pytest

from ray_app.clock import to_ms
from ray_app.errors import MalformedPayload, RateLimited, UpstreamRejected, UpstreamUnavailable
from ray_app.sources import ENDPOINTS, Exchange, endpoint_for_url
from ray_app.sources.addressing import request_of_params, request_of_url
from tests.sources.samples import FETCHED_AT, NOON, answer
from tests.sources.samples_onchain import BODIES

GAS, SUPPLY, PRICE = (ENDPOINTS[f"etherscan.{name}"] for name in ("gas_oracle", "eth_supply", "eth_price"))


def result_of(endpoint, result):
    return endpoint.parse(answer(endpoint.name, {"status": "1", "message": "OK", "result": result}))


def test_the_action_says_which_endpoint_a_url_is_of():
    base = "https://api.etherscan.io/v2/api?chainid=1&apikey=SECRET"
    assert endpoint_for_url(f"{base}&module=gastracker&action=gasoracle") is GAS
    assert endpoint_for_url(f"{base}&module=stats&action=ethprice") is PRICE
    assert endpoint_for_url(f"http://127.0.0.1:9000/etherscan/api?action=ethsupply2&module=stats") is SUPPLY  # noqa: F541
    assert endpoint_for_url(f"{base}&module=stats&action=dailytx") is None
    assert endpoint_for_url("https://api.etherscan.io/v2/api") is None
    request = request_of_url(GAS, f"{base}&module=gastracker&action=gasoracle")
    assert request.params == {"chainid": "1", "module": "gastracker", "action": "gasoracle"}


def test_parameters_need_not_repeat_what_the_endpoint_fixes():
    assert request_of_params(PRICE, {}).params == {"module": "stats", "action": "ethprice"}


def test_gas_prices_with_and_without_decimals():
    rows = GAS.parse(answer(GAS.name)).rows
    assert {row.key["metric"]: row.values["value"] for row in rows} == {
        "gas_price_safe_gwei": 0.496839934,
        "gas_price_propose_gwei": 0.496839935,
        "gas_price_fast_gwei": 0.55411917,
        "base_fee_gwei": 0.496839934,
        "block_height": 23_467_872.0,
    }
    assert {(row.key["coin_id"], row.key["event_time"]) for row in rows} == {("ethereum", FETCHED_AT)}


def test_the_supply_is_minted_and_staked_less_burnt():
    (row,) = SUPPLY.parse(answer(SUPPLY.name)).rows
    assert row.values["value"] == 120_428_889.81646028  # 122373866.2178 + 1157529.105115885 − 3102505.506455601519…
    for name in ("EthSupply", "Eth2Staking", "BurntFees"):
        assert result_of(SUPPLY, {**BODIES[SUPPLY.name]["result"], name: None}).rows == ()
    with pytest.raises(MalformedPayload):
        SUPPLY.parse(answer(SUPPLY.name, {"status": "1", "message": "OK", "result": "122373866217800000000000000"}))


def test_the_price_has_its_own_time():
    (row,) = PRICE.parse(answer(PRICE.name)).rows
    assert (row.key["event_time"], row.values["value"], row.values["known_at"]) == (NOON - 18_000, 2150.55, FETCHED_AT)
    for stamp in (None, "0", "later", str(NOON)):
        result = result_of(PRICE, {"ethusd": "2150.55", "ethusd_timestamp": stamp})
        assert result.rows == ()
        assert len(result.issues) == 1


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("Max rate limit reached", RateLimited),
        ("Max calls per sec rate limit reached (3/sec)", RateLimited),
        ("Max daily rate limit reached", RateLimited),
        ("timeout occurred or server too busy. Please try again later", UpstreamUnavailable),
        ("Query Timeout occured. Please select a smaller result dataset", UpstreamUnavailable),
        ("Invalid API Key (#err2)|", UpstreamRejected),
        ("Missing/Invalid API Key", UpstreamRejected),
        ("Missing or unsupported chainid parameter (required for v2 api)", UpstreamRejected),
    ],
)
def test_errors_inside_http_200(said, error):
    for one in (GAS, SUPPLY, PRICE):
        with pytest.raises(error) as caught:
            one.parse(
                answer(one.name, {"status": "0", "message": "NOTOK", "result": said}, headers={"retry-after": "9"})
            )
        assert said.split("(")[0] in str(caught.value)


def test_a_status_0_without_a_reason_in_its_result_says_its_message():
    with pytest.raises(UpstreamRejected, match="NOTOK"):
        GAS.parse(answer(GAS.name, {"status": "0", "message": "NOTOK", "result": None}))


@pytest.mark.parametrize("status", ["1", 1])
def test_the_status_may_be_a_number(status):
    body = {**BODIES[GAS.name], "status": status}
    assert GAS.parse(answer(GAS.name, body)).rows == GAS.parse(answer(GAS.name)).rows
    for refused in (0, "0", 2, None, [1]):
        with pytest.raises(UpstreamRejected):
            GAS.parse(answer(GAS.name, {"status": refused, "message": "NOTOK", "result": "Missing/Invalid API Key"}))


def test_another_chain_is_refused():
    exchange = answer(GAS.name)
    object.__setattr__(exchange, "request", request_of_params(GAS, {"chainid": "137"}))
    with pytest.raises(MalformedPayload, match="chainid"):
        GAS.parse(exchange)


@pytest.mark.shared_data
@pytest.mark.parametrize(("one", "file"), [(GAS, "get_gas_oracle"), (PRICE, "get_eth_last_price")])
def test_recorded_answers_of_v1_are_read(shared_data, one, file):
    result = json.loads((shared_data / "recorded" / "etherscan" / f"{file}.json").read_text())["res"]
    from datetime import UTC, datetime

    at = to_ms(datetime(2020, 10, 28, 12, 35, 11, tzinfo=UTC))
    body = json.dumps({"status": "1", "message": "OK", "result": result}).encode()
    parsed = one.parse(Exchange(one.request(), 200, {}, body, at))
    assert parsed.issues == ()
    rows = {row.key["metric"]: (row.values["value"], row.key["event_time"]) for row in parsed.rows}
    if one is GAS:
        assert {metric: value for metric, (value, _) in rows.items()} == {
            "gas_price_safe_gwei": 62.0,
            "gas_price_propose_gwei": 82.0,
            "gas_price_fast_gwei": 89.0,
            "block_height": 11_145_141.0,
        }
    else:
        assert rows == {"price_usd": (389.56, 1_603_888_384_000)}

"""DeFiLlama: chains that share a coin, days that are not settled, and revisions."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ray_app.clock import DAY_MS, HOUR_MS, to_ms
from ray_app.errors import MalformedPayload, UpstreamRejected
from ray_app.sources import ENDPOINTS, Exchange, Request
from ray_app.sources.addressing import request_of_params, request_of_url
from tests.sources.samples import FETCHED_AT, MIDNIGHT, answer
from tests.sources.samples_onchain import BODIES

CHAINS, CHAIN, TOTAL, STABLE = (
    ENDPOINTS[f"defillama.{name}"] for name in ("chains", "chain_tvl", "total_tvl", "stablecoins")
)


def chain(name, gecko_id, tvl):
    return {"gecko_id": gecko_id, "tvl": tvl, "tokenSymbol": None, "cmcId": None, "name": name, "chainId": None}


def locked(*items, coins=()):
    body = json.dumps(list(items)).encode()
    return CHAINS.parse(Exchange(CHAINS.request(coins), 200, {}, body, FETCHED_AT))


def test_chains_by_their_coin():
    result = CHAINS.parse(answer(CHAINS.name))
    assert [(r.key["coin_id"], r.key["metric"], r.key["event_time"], r.values["value"]) for r in result.rows] == [
        ("ethereum", "total_value_locked", FETCHED_AT, 5.1e10),
        ("osmosis", "total_value_locked", FETCHED_AT, 2.1e7),
    ]


def test_of_the_chains_of_one_coin_the_named_one_counts():
    result = locked(
        chain("Polygon zkEVM", "polygon-ecosystem-token", 5),
        chain("Polygon", "matic-network", 7),
        chain("Cronos", None, 3),
    )
    assert {row.key["coin_id"]: row.values["value"] for row in result.rows} == {
        "polygon-ecosystem-token": 7.0,
        "crypto-com-chain": 3.0,
    }
    assert result.issues == ()


def test_chains_by_their_former_names():
    result = locked(chain("Optimism", "optimism", 5), chain("Binance", "binancecoin", 7))
    assert {row.key["coin_id"]: row.values["value"] for row in result.rows} == {"optimism": 5.0, "binancecoin": 7.0}
    old = request_of_params(CHAIN, {"chain": "Optimism"})
    assert CHAIN.parse(answer(CHAIN.name, request=old)).rows == CHAIN.parse(answer(CHAIN.name)).rows


def test_two_chains_of_a_coin_that_names_none_are_left_out():
    result = locked(chain("Terra", "luna", 5), chain("Terra2", "luna", 7), chain("Osmosis", "osmosis", 1))
    assert [row.key["coin_id"] for row in result.rows] == ["osmosis"]
    assert [issue.kind for issue in result.issues] == ["duplicate"]


def test_only_the_coins_wanted():
    items = [chain("Ethereum", "ethereum", 5), chain("Osmosis", "osmosis", 1)]
    assert [row.key["coin_id"] for row in locked(*items, coins=("ethereum", "bitcoin")).rows] == ["ethereum"]


def test_a_history_is_of_the_chain_s_coin_and_known_when_its_day_is_over():
    result = CHAIN.parse(answer(CHAIN.name))
    assert [(r.key["coin_id"], r.key["event_time"], r.values["value"], r.values["known_at"]) for r in result.rows] == [
        ("optimism", MIDNIGHT - 2 * DAY_MS, 50_123_456_789.0, MIDNIGHT - DAY_MS + 2 * HOUR_MS),
        ("optimism", MIDNIGHT - DAY_MS, 50_987_654_321.0, MIDNIGHT + 2 * HOUR_MS),
    ]
    assert result.oldest == MIDNIGHT - 2 * DAY_MS


@pytest.mark.parametrize("one", [CHAIN, TOTAL])
def test_the_day_that_runs_is_not_read_and_a_stamp_within_a_day_is_an_issue(one):
    today = [*BODIES[one.name], {"date": MIDNIGHT // 1_000, "tvl": 1}, {"date": FETCHED_AT // 1_000, "tvl": 2}]
    result = one.parse(answer(one.name, today))
    assert len(result.rows) == 2
    assert result.issues == ()
    odd = one.parse(answer(one.name, [*BODIES[one.name], {"date": MIDNIGHT // 1_000 - 3 * 86_400 + 5, "tvl": 2}]))
    assert [issue.kind for issue in odd.issues] == ["inconsistent"]
    assert len(odd.rows) == 2


def test_totals_are_indicators_with_a_vintage_a_value():
    result = TOTAL.parse(answer(TOTAL.name))
    row = result.rows[-1]
    assert (row.table, row.key["indicator_name"], row.key["source"]) == (
        "macro_indicators",
        "TVL_TOTAL_USD",
        "defillama.total_tvl",
    )
    assert row.key["indicator_date"] == MIDNIGHT - DAY_MS
    assert (row.values["value"], row.values["unit"]) == (101_987_654_321.0, "usd")
    revised = TOTAL.parse(answer(TOTAL.name, [{**BODIES[TOTAL.name][-1], "tvl": 101_987_654_322}])).rows[0]
    assert revised.key["indicator_date"] == row.key["indicator_date"]
    assert revised.key["vintage"] != row.key["vintage"]


def test_stablecoins_are_those_pegged_to_the_dollar():
    (row,) = STABLE.parse(answer(STABLE.name)).rows
    assert (row.key["indicator_name"], row.values["value"], row.values["unit"]) == (
        "STABLECOIN_SUPPLY_USD",
        2.449e11,
        "usd",
    )
    none = STABLE.parse(answer(STABLE.name, [*BODIES[STABLE.name], {"date": str(MIDNIGHT // 1_000 - 3 * 86_400)}]))
    assert len(none.rows) == 1
    assert none.issues == ()


def test_the_old_history_of_a_chain_has_the_old_name_of_its_value():
    name = "defillama.chain_tvl"
    old = request_of_url(ENDPOINTS[name], "https://api.llama.fi/charts/Ethereum")
    body = json.dumps([{"date": str((MIDNIGHT - DAY_MS) // 1_000), "totalLiquidityUSD": 5.5e10}]).encode()
    (row,) = ENDPOINTS[name].parse(replace(answer(name), request=old, body=body)).rows
    assert (row.key["coin_id"], row.key["metric"], row.values["value"]) == ("ethereum", "total_value_locked", 5.5e10)


def test_one_stablecoin_s_supply_is_not_read_as_that_of_all():
    name = "defillama.stablecoins"
    url = "https://stablecoins.llama.fi/stablecoincharts/all"
    one = request_of_url(ENDPOINTS[name], f"{url}?stablecoin=1")
    with pytest.raises(MalformedPayload, match="one stablecoin, not all of them"):
        ENDPOINTS[name].parse(replace(answer(name), request=one))
    assert ENDPOINTS[name].parse(replace(answer(name), request=request_of_url(ENDPOINTS[name], url))).rows


def test_a_day_stated_twice_differently_is_left_out():
    for one in (CHAIN, TOTAL):
        last = BODIES[one.name][-1]
        result = one.parse(answer(one.name, [*BODIES[one.name], last, {**last, "tvl": 1}]))
        assert len(result.rows) == 1
        assert [issue.kind for issue in result.issues] == ["duplicate"]


def test_refusals():
    with pytest.raises(UpstreamRejected, match="not found"):
        CHAIN.parse(answer(CHAIN.name, b"Chain not found", status=400))
    with pytest.raises(MalformedPayload, match="Atlantis"):
        CHAIN.parse(Exchange(Request(CHAIN.name, "/v2/historicalChainTvl/Atlantis"), 200, {}, b"[]", FETCHED_AT))


@pytest.mark.shared_data
def test_the_recorded_history_is_read_whole(shared_data):
    from email.utils import parsedate_to_datetime

    body = (shared_data / "recorded" / "defillama" / "charts.json").read_bytes()
    fetched_at = to_ms(parsedate_to_datetime("Sat, 29 Jan 2022 11:32:42 GMT"))
    result = TOTAL.parse(Exchange(Request(TOTAL.name, "/charts"), 200, {}, body, fetched_at))
    raw = json.loads(body)
    assert result.issues == ()
    # the last is of the day of the fetch
    assert [(row.key["indicator_date"], row.values["value"]) for row in result.rows] == [
        (int(point["date"]) * 1_000, point["totalLiquidityUSD"]) for point in raw[:-1]
    ]

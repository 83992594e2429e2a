"""Blockchair: errors in the context, amounts in the smallest unit, 0 for what is not known."""

from __future__ import annotations

import json

import pytest

from ray_app.errors import MalformedPayload, RateLimited, UpstreamRejected, UpstreamUnavailable
from ray_app.sources import ENDPOINTS, Exchange
from ray_app.sources.blockchair import CHAINS
from tests.sources.samples import FETCHED_AT, NOON, answer
from tests.sources.samples_onchain import BODIES

NAME = "blockchair.stats"
STATS = ENDPOINTS[NAME]
BODY = BODIES[NAME]


def of_chain(chain, **data):
    body = {**BODY, "data": {**BODY["data"], **data}}
    return STATS.parse(Exchange(STATS.request(chain), 200, {}, json.dumps(body).encode(), FETCHED_AT))


def test_every_figure_as_of_the_moment_it_was_made():
    result = STATS.parse(answer(NAME))
    assert {row.key["metric"]: row.values["value"] for row in result.rows} == {
        "block_height": 950_123.0,
        "blocks_24h": 145.0,
        "transaction_count": 412_345.0,
        "mempool_transactions": 34_567.0,
        "mempool_bytes": 21_345_678.0,
        "average_transaction_fee_usd": 0.75,
        "median_transaction_fee_usd": 0.31,
        "price_usd": 77_650.0,
        "market_cap_usd": 1_549_127_090_000.0,
        "difficulty": 1.27e14,
        "hash_rate": 9.25e20,
        "nodes": 23_456.0,
        "holding_addresses": 57_123_456.0,
        "circulating_supply": 19_950_123.5,
    }
    assert {row.key["event_time"] for row in result.rows} == {NOON - 71_000}  # 11:58:49
    assert {row.values["known_at"] for row in result.rows} == {FETCHED_AT}


def test_each_chain_has_its_coin_and_ether_is_not_mined():
    for chain, (coin, _) in CHAINS.items():
        assert {row.key["coin_id"] for row in of_chain(chain).rows} == {coin}
    result = of_chain("ethereum", circulation_approximate="120700000000000000000000000", hashrate_24h="0")
    rows = {row.key["metric"]: row.values["value"] for row in result.rows}
    assert rows["circulating_supply"] == 120_700_000.0
    assert not {"hash_rate", "difficulty", "nodes"} & set(rows)


def test_0_is_not_known_where_it_cannot_be():
    result = of_chain("bitcoin", market_price_usd=0, market_cap_usd=0, nodes=0, hodling_addresses="0", blocks_24h=0)
    metrics = {row.key["metric"] for row in result.rows}
    assert not {"price_usd", "market_cap_usd", "nodes", "holding_addresses"} & metrics
    assert "blocks_24h" in metrics
    assert result.issues == ()


@pytest.mark.parametrize("since", [None, "yesterday", "2026-05-18 13:00:00", "1970-01-01 00:00:00", 7])
def test_without_a_readable_time_it_is_of_the_fetch(since):
    body = {**BODY, "context": {"code": 200, "cache": {"since": since}}}
    result = STATS.parse(answer(NAME, body))
    assert {row.key["event_time"] for row in result.rows} == {FETCHED_AT}
    assert len(result.issues) == (since is not None)


@pytest.mark.parametrize("status", [200, 402, 430, 500])
@pytest.mark.parametrize(
    ("code", "error"),
    [
        *((code, RateLimited) for code in (402, 429, 435, 436, 437)),
        *((code, UpstreamUnavailable) for code in (430, 434, 503)),
    ],
)
def test_the_context_s_code_counts_whatever_the_status(status, code, error):
    body = {"data": None, "context": {"code": code, "error": "see the docs"}}
    with pytest.raises(error, match="see the docs") as caught:
        STATS.parse(answer(NAME, body, status=status))
    assert ("blocked" in str(caught.value)) == (error is UpstreamUnavailable)


def test_other_codes_are_refusals():
    with pytest.raises(UpstreamRejected, match="Invalid chain"):
        STATS.parse(answer(NAME, {"data": None, "context": {"code": 404, "error": "Invalid chain"}}))
    with pytest.raises(UpstreamRejected, match=r"HTTP 404: Invalid chain$"):
        STATS.parse(answer(NAME, {"data": None, "context": {"code": 404, "error": "Invalid chain"}}, status=404))


def test_a_chain_nobody_reads_is_refused():
    exchange = answer(NAME)
    object.__setattr__(exchange, "request", type(exchange.request)(NAME, "/monero/stats"))
    with pytest.raises(MalformedPayload, match="monero"):
        STATS.parse(exchange)

"""Real answers of the upstreams, as other people's client libraries recorded them."""

from __future__ import annotations

import json

import pytest

from ray_app.clock import to_ms
from ray_app.errors import MalformedPayload
from ray_app.sources import ENDPOINTS, Exchange, endpoint_for_url
from ray_app.sources.addressing import request_of_url
from tests.sources.test_fuzz import check

pytestmark = pytest.mark.shared_data


@pytest.fixture
def recorded(shared_data):
    """Each recorded answer that one of our sources reads, with its raw items."""
    from email.utils import parsedate_to_datetime

    found = []
    for line in (shared_data / "recorded" / "MANIFEST.jsonl").read_text().splitlines():
        entry = json.loads(line)
        endpoint = endpoint_for_url(entry["url"])
        if endpoint is None or "{" in entry["url"] or "date" not in entry["headers"]:
            continue
        body = (shared_data / "recorded" / entry["file"]).read_bytes()
        moment = to_ms(parsedate_to_datetime(entry["headers"]["date"]))
        found.append(Exchange(request_of_url(endpoint, entry["url"]), entry["status"], entry["headers"], body, moment))
    assert len(found) >= 9
    return found


def test_every_recorded_answer_is_read_without_an_issue(recorded):
    for exchange in recorded:
        if exchange.request.params.get("interval") == "1h":  # hours are no daily indicator
            with pytest.raises(MalformedPayload, match="only interval=1d is read"):
                ENDPOINTS[exchange.request.endpoint].parse(exchange)
            continue
        parsed = ENDPOINTS[exchange.request.endpoint].parse(exchange)
        check(parsed)
        assert parsed.issues == ()
        assert parsed.missing == ()


def test_recorded_markets_keep_every_value(recorded):
    seen = 0
    for exchange in recorded:
        if exchange.request.endpoint != "coingecko.markets":
            continue
        raw = {item["id"]: item for item in json.loads(exchange.body)}
        rows = ENDPOINTS["coingecko.markets"].parse(exchange).rows
        assert {row.key["coin_id"] for row in rows} == set(raw)
        for row in rows:
            item = raw[row.key["coin_id"]]
            for column, member in {"volume_usd_24h": "total_volume"}.items():
                assert row.values[column] == item[member]
            for same in (
                "current_price",
                "market_cap",
                "market_cap_rank",
                "high_24h",
                "low_24h",
                "price_change_24h",
                "ath",
                "atl",
                "max_supply",
            ):
                assert row.values[same] == item[same]
            assert row.values["event_time"] <= exchange.fetched_at
            seen += 1
    assert seen >= 600


def test_recorded_products_agree_with_the_exchange(recorded):
    (exchange,) = [e for e in recorded if e.request.endpoint == "coinbase.products"]
    trading = {
        item["id"]
        for item in json.loads(exchange.body)
        if item["quote_currency"] == "USD" and item["status"] == "online" and not item["trading_disabled"]
    }
    rows = ENDPOINTS["coinbase.products"].parse(exchange).rows
    assert {row.key["coinbase_product"] for row in rows} == trading
    assert "BTC-USD" in trading


def test_documentation_sample_of_a_chart_is_read(shared_data):
    body = (shared_data / "recorded" / "coingecko_oas_examples" / "coins_id_market_chart__200.json").read_bytes()
    endpoint = ENDPOINTS["coingecko.market_chart"]
    request = request_of_url(
        endpoint, "https://api.coingecko.com/api/v3/coins/bitcoin/market_chart?vs_currency=usd&days=1"
    )
    parsed = endpoint.parse(Exchange(request, 200, {}, body, 1_780_000_000_000))
    assert [row.values["interval_s"] for row in parsed.rows] == [300, 300]
    assert parsed.rows[0].values["current_price"] == json.loads(body)["prices"][0][1]

"""Blockchain.com: charts whose day is stamped at its start, units in words, and the statistics."""

from __future__ import annotations

import json

import pytest

from ray_app.clock import DAY_MS, MINUTE_MS, to_ms
from ray_app.errors import MalformedPayload, RateLimited, UpstreamRejected
from ray_app.sources import ENDPOINTS, Exchange, Request
from tests.sources.samples import FETCHED_AT, MIDNIGHT, NOON, answer
from tests.sources.samples_onchain import BODIES

CHART, STATS = ENDPOINTS["blockchain_com.chart"], ENDPOINTS["blockchain_com.stats"]


def chart(name, values, params=None, fetched_at=FETCHED_AT, **changes):
    body = {"status": "ok", "name": "x", "unit": "USD", "period": "day", "values": values} | changes
    request = Request(CHART.name, f"/charts/{name}", params or {})
    return CHART.parse(Exchange(request, 200, {}, json.dumps(body).encode(), fetched_at))


def point(days_ago, y):
    return {"x": (MIDNIGHT - days_ago * DAY_MS) // 1_000, "y": y}


def test_a_day_is_stated_at_its_end_and_known_a_day_later():
    rows = chart("n-transactions", [point(3, 401_234), point(1, 3.9e5)]).rows
    assert [(r.key["metric"], r.key["event_time"], r.values["value"], r.values["known_at"]) for r in rows] == [
        ("transaction_count", MIDNIGHT - 2 * DAY_MS, 401_234.0, MIDNIGHT - DAY_MS),
        ("transaction_count", MIDNIGHT, 3.9e5, FETCHED_AT),
    ]


def test_a_day_that_still_runs_is_no_row_and_no_issue():
    result = chart("n-transactions", [point(1, 5), point(0, 3)])
    assert [row.key["event_time"] for row in result.rows] == [MIDNIGHT]
    assert result.issues == ()
    ahead = chart("n-transactions", [point(1, 5), point(-1, 3)])
    assert [issue.kind for issue in ahead.issues] == ["out_of_range"]


@pytest.mark.parametrize(
    ("unit", "scale"),
    [("Hash Rate TH/s", 1e12), ("TH/s", 1e12), (None, 1e12), ("GH/s", 1e9), ("EH/s", 1e18), ("H/s", 1.0)],
)
def test_the_hash_rate_is_in_hashes_a_second_whatever_the_unit(unit, scale):
    (row,) = chart("hash-rate", [point(1, 1_000_000)], unit=unit).rows
    assert row.key["metric"] == "hash_rate"
    assert row.values["value"] == 1_000_000 * scale


@pytest.mark.parametrize("unit", ["USD", "", 7, ["TH/s"], "TX/s"])
def test_a_hash_rate_in_no_hash_unit_is_another_chart(unit):
    with pytest.raises(MalformedPayload, match="unit"):
        chart("hash-rate", [point(1, 5)], unit=unit)


def test_moments_are_stated_at_their_time():
    rows = chart("mempool-count", [{"x": (NOON - 15 * MINUTE_MS) // 1_000, "y": 34_567}]).rows
    assert [(r.key["metric"], r.key["event_time"]) for r in rows] == [("mempool_transactions", NOON - 15 * MINUTE_MS)]


def test_what_is_not_the_plain_chart_is_refused():
    with pytest.raises(MalformedPayload, match="no chart"):
        chart("blocks-size", [])
    with pytest.raises(MalformedPayload, match="rollingAverage"):
        chart("n-transactions", [], {"rollingAverage": "7days"})
    with pytest.raises(UpstreamRejected, match="not-found"):
        chart("n-transactions", [], status="not-found")
    with pytest.raises(MalformedPayload, match="none of"):
        chart("n-transactions", [{"x": MIDNIGHT, "y": 1}])  # milliseconds


def test_error_answers():
    with pytest.raises(UpstreamRejected, match="404"):
        CHART.parse(answer(CHART.name, {"status": "not-found"}, status=404))
    with pytest.raises(RateLimited):
        CHART.parse(answer(CHART.name, b"Too many requests", status=429))


def test_a_status_alone_is_said_in_words():
    with pytest.raises(UpstreamRejected, match=r"HTTP 404: not-found$"):
        ENDPOINTS["blockchain_com.stats"].parse(answer("blockchain_com.stats", {"status": "not-found"}, status=404))


def test_the_statistics_in_our_units():
    result = STATS.parse(answer(STATS.name))
    assert {row.key["metric"]: row.values["value"] for row in result.rows} == {
        "price_usd": 77_671.3,
        "hash_rate": 9.2e20,
        "transaction_count": 412_345.0,
        "blocks_24h": 144.0,
        "block_count": 950_123.0,
        "block_interval_s": 594.0,
        "circulating_supply": 19_950_123.5,
        "difficulty": 1.27e14,
        "transaction_volume_usd": 8.1e9,
        "miners_revenue_usd": 3.6e7,
    }
    assert {(row.key["event_time"], row.values["known_at"]) for row in result.rows} == {(NOON - MINUTE_MS, FETCHED_AT)}


def test_the_statistics_hash_rate_is_what_their_difficulty_and_blocks_make():
    """GH/s is not documented; expected = difficulty × 2³² / 600 s × blocks / 144."""
    body = {
        **BODIES[STATS.name],
        "difficulty": 6_702_169_884_349,
        "n_blocks_mined": 135,
        "hash_rate": 44977500727.36728,
    }
    rows = {row.key["metric"]: row.values["value"] for row in STATS.parse(answer(STATS.name, body)).rows}
    assert rows["hash_rate"] == pytest.approx(6_702_169_884_349 * 2**32 / 600 * 135 / 144, rel=1e-3)


@pytest.mark.parametrize("timestamp", [None, "soon", NOON // 1_000, NOON + 3_600_000])
def test_statistics_without_their_time_are_no_rows(timestamp):
    with pytest.raises(MalformedPayload, match="timestamp"):
        STATS.parse(answer(STATS.name, {**BODIES[STATS.name], "timestamp": timestamp}))


@pytest.mark.shared_data
def test_the_recorded_chart_is_read_whole(shared_data):
    from email.utils import parsedate_to_datetime

    (path,) = (shared_data / "recorded" / "blockchain_com").glob("charts_total-bitcoins*")
    fetched_at = to_ms(parsedate_to_datetime("Thu, 20 Jan 2022 19:18:38 GMT"))
    params = {"timespan": "all", "sampled": "true", "metadata": "false", "cors": "true", "format": "json"}
    exchange = Exchange(Request(CHART.name, "/charts/total-bitcoins", params), 200, {}, path.read_bytes(), fetched_at)
    result = CHART.parse(exchange)
    raw = json.loads(path.read_bytes())["values"]
    assert result.issues == ()
    assert [(row.key["event_time"], row.values["value"]) for row in result.rows] == [
        (v["x"] * 1_000, v["y"]) for v in raw
    ]
    assert {(row.key["coin_id"], row.key["metric"]) for row in result.rows} == {("bitcoin", "circulating_supply")}
    assert len(result.rows) == 1_502

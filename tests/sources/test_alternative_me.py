"""Fear and greed: strings, one value a day, stamped when it is published."""

from __future__ import annotations

import json

import pytest

from ray_app.clock import DAY_MS, MINUTE_MS
from ray_app.errors import MalformedPayload, RateLimited, UpstreamRejected
from ray_app.sources import ENDPOINTS, Exchange, Request, endpoint_for_url
from tests.sources.samples import FETCHED_AT, MIDNIGHT, answer
from tests.sources.samples_onchain import BODIES

NAME = "alternative_me.fng"
FNG = ENDPOINTS[NAME]


def day(value="50", named="Neutral", at=MIDNIGHT):
    return {"value": value, "value_classification": named, "timestamp": str(at // 1_000)}


def parsed(*items):
    return FNG.parse(answer(NAME, {"name": "x", "data": list(items), "metadata": {"error": None}}))


@pytest.mark.parametrize("url", ["https://api.alternative.me/fng/?limit=3", "https://api.alternative.me/fng"])
def test_either_form_of_the_path_is_its(url):
    assert endpoint_for_url(url) is FNG


def test_a_value_is_of_its_stamp_and_known_minutes_after():
    first, second = FNG.parse(answer(NAME)).rows
    assert (first.table, dict(first.key)["source"], first.key["event_time"]) == ("fear_greed", NAME, MIDNIGHT)
    assert (first.values["value"], first.values["classification"]) == (62.0, "Greed")
    assert first.values["known_at"] == MIDNIGHT + 15 * MINUTE_MS
    assert (second.key["event_time"], second.values["classification"]) == (MIDNIGHT - DAY_MS, "Extreme Fear")
    assert FNG.parse(answer(NAME)).oldest == MIDNIGHT - DAY_MS


@pytest.mark.parametrize("value", ["101", "-1", "high", None, True])
def test_a_value_that_is_no_index_costs_its_day(value):
    result = parsed(day(value), day(at=MIDNIGHT - DAY_MS))
    assert [row.key["event_time"] for row in result.rows] == [MIDNIGHT - DAY_MS]
    assert len(result.issues) == (value is not None)


def test_0_is_a_value_and_a_class_that_cannot_be_read_is_null():
    (row,) = parsed(day("0", 7)).rows
    assert (row.values["value"], row.values["classification"]) == (0.0, None)


def test_a_day_twice_alike_is_one_and_twice_differently_none():
    assert len(parsed(day(), day()).rows) == 1
    result = parsed(day("50"), day("51"), day(at=MIDNIGHT - DAY_MS))
    assert [row.key["event_time"] for row in result.rows] == [MIDNIGHT - DAY_MS]
    assert [issue.kind for issue in result.issues] == ["duplicate"]


def test_days_ahead_are_left_out():
    result = parsed(day(), day(at=MIDNIGHT + DAY_MS))
    assert len(result.rows) == 1
    assert [issue.kind for issue in result.issues] == ["out_of_range"]


def test_dates_instead_of_epoch_times_are_refused():
    dates = {"value": "50", "value_classification": "Neutral", "timestamp": "05-18-2026"}
    with pytest.raises(MalformedPayload):
        parsed(dates)
    request = Request(NAME, "/fng/", {"limit": "2", "date_format": "us"})
    with pytest.raises(MalformedPayload, match="date_format"):
        FNG.parse(Exchange(request, 200, {}, json.dumps(BODIES[NAME]).encode(), FETCHED_AT))


def test_errors_are_in_the_metadata():
    with pytest.raises(UpstreamRejected, match="bad limit"):
        FNG.parse(answer(NAME, {"name": "x", "data": [], "metadata": {"error": "bad limit"}}))
    with pytest.raises(RateLimited):
        FNG.parse(answer(NAME, {"name": "x", "data": [], "metadata": {"error": "Too many requests"}}))


@pytest.mark.shared_data
def test_the_recorded_answer(shared_data):
    body = (shared_data / "recorded" / "alternative_me" / "fng_limit3_2026-08-31.json").read_bytes()
    fetched_at = (1_788_134_400 + 86_400 - 77_614) * 1_000
    result = FNG.parse(Exchange(FNG.request(3), 200, {}, body, fetched_at))
    assert result.issues == ()
    assert [(row.key["event_time"], row.values["value"], row.values["classification"]) for row in result.rows] == [
        (1_788_134_400_000, 62.0, "Greed"),
        (1_788_048_000_000, 69.0, "Greed"),
        (1_787_961_600_000, 68.0, "Greed"),
    ]

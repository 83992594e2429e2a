from __future__ import annotations

import pytest

from ray_app.errors import RateLimited, UpstreamRejected, UpstreamUnavailable
from ray_app.sources import ENDPOINTS
from ray_app.sources.refusals import Refusal, read_answer, refusal_in, retry_after_s
from tests.sources.samples import FETCHED_AT, NOON, answer


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "30"}, 30.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Mon, 18 May 2026 12:01:07 GMT", "date": "Mon, 18 May 2026 12:00:07 GMT"}, 60.0),
        ({"retry-after": "Mon, 18 May 2026 12:01:07 GMT"}, 59.7),  # against fetched_at
        ({"retry-after": "Mon, 18 May 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "Mon, 99 May 2026 11:00:00 GMT"}, None),
    ],
)
def test_retry_after_in_seconds_or_as_a_date(headers, expected):
    assert FETCHED_AT == NOON + 7_300
    assert retry_after_s(answer("coingecko.global", headers=headers)) == expected


def test_envelope_code_decides_inside_http_200():
    for code, error in (
        (429, RateLimited),
        (503, UpstreamUnavailable),
        (10011, UpstreamRejected),
        (None, UpstreamRejected),
    ):
        body = {"status": {"error_code": code, "error_message": "why"}}
        with pytest.raises(error, match="why"):
            read_answer(answer("coingecko.markets", body))


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("timeout occurred or server too busy. Please try again later", UpstreamUnavailable),
        ("Query Timeout occured", UpstreamUnavailable),
        ("timed_out", UpstreamUnavailable),
        ("Service temporarily unavailable", UpstreamUnavailable),
        ("Internal error; unable to process your request.", UpstreamUnavailable),
        ("Internal Server Error", UpstreamUnavailable),
        ("Too many requests, try again later", RateLimited),
        ("Invalid symbol", UpstreamRejected),
        ("no such time outside of the range", UpstreamRejected),
    ],
)
def test_trouble_that_passes_is_no_refusal(words, error):
    with pytest.raises(error):
        read_answer(answer("coingecko.markets", {"error": words}))


def test_cloudflare_in_front_of_an_upstream_is_understood():
    body = {"title": "Error 1015: You are being rate limited", "status": 429, "error_code": 1015}
    with pytest.raises(RateLimited, match="being rate limited"):
        read_answer(answer("coingecko.markets", body))
    with pytest.raises(UpstreamRejected, match="Access denied"):
        read_answer(answer("coingecko.markets", {"title": "Access denied", "error_code": "1020"}))


@pytest.mark.parametrize(
    "body",
    [
        {"error_code": {"usd": 0.02}},
        {"status": {"usd": 0.02}},  # the coin called status
        {"error": {"usd": 1.0}, "message": {"usd": 2.0}},
        {"data": {"error": "inside"}},
        {"errors": []},
        {"status": "ok"},
        {"status": "ok", "info": "all of it"},
        {"status": "Incomplete"},
        {"info": "of the coin"},
        [{"error": "x"}],
        "error",
    ],
)
def test_data_that_looks_like_an_envelope_is_data(body):
    assert refusal_in(body) is None


def test_coins_called_like_envelope_members_have_prices():
    body = {"status": {"usd": 0.02}, "error": {"usd": 1.5}}
    request = ENDPOINTS["coingecko.simple_price"].request(["status", "error"])
    parsed = ENDPOINTS["coingecko.simple_price"].parse(answer("coingecko.simple_price", body, request=request))
    assert {row.key["coin_id"]: row.values["current_price"] for row in parsed.rows} == {"status": 0.02, "error": 1.5}


def test_first_of_several_errors_is_told():
    body = {"errors": [{"id": "invalid_request", "message": "Currency is invalid"}, {"id": "other"}]}
    assert refusal_in(body) == Refusal("invalid_request: Currency is invalid")
    assert refusal_in({"errors": ["plain"]}) == Refusal("plain")
    assert refusal_in({"errors": [None]}) == Refusal("unnamed error")


def test_html_error_page_is_told_by_its_title_in_one_short_line():
    page = b"<html><head>\n<title>api.coingecko.com |\n 502: Bad gateway</title></head>" + b"<p>x</p>" * 500
    with pytest.raises(UpstreamUnavailable) as caught:
        read_answer(answer("coingecko.markets", page, status=502))
    assert str(caught.value) == "coingecko.markets: HTTP 502: api.coingecko.com | 502: Bad gateway"


def test_a_status_in_words_is_told_by_its_info():
    with pytest.raises(UpstreamRejected, match=r"HTTP 403: Token not found$"):
        read_answer(answer("cryptopanic.posts", {"status": "Incomplete", "info": "Token not found"}, status=403))


def test_empty_error_body_is_told_by_the_status():
    with pytest.raises(UpstreamRejected, match="HTTP 403: Forbidden"):
        read_answer(answer("coingecko.markets", b"", status=403))
    with pytest.raises(UpstreamUnavailable, match="HTTP 599: no body"):
        read_answer(answer("coingecko.markets", b"", status=599))


def test_long_and_multiline_reasons_become_one_line():
    with pytest.raises(UpstreamRejected) as caught:
        read_answer(answer("coingecko.markets", {"error": "a\nb\x1b[31m " + "x" * 1_000}, status=400))
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 250

"""What every endpoint of every upstream must do: know one, know all."""

from __future__ import annotations

import json
import math
import re

import pytest

from ray_app.collection.accounts import ACCOUNTS
from ray_app.errors import MalformedPayload, RateLimited, UpstreamError, UpstreamRejected, UpstreamUnavailable
from ray_app.sources import ENDPOINTS, MODULES, endpoint, endpoint_for_url, rss
from ray_app.sources.addressing import path_values
from ray_app.storage.tables import ORDER_COLUMNS, metadata
from tests.sources.samples import BODIES, FETCHED_AT, REQUESTS, answer, raw

pytestmark = pytest.mark.parametrize("name", sorted(ENDPOINTS))

#: columns of a row's key that name the asset as the upstream does; storage puts asset_id in their place
IDENTITIES = {"coin_id", "coinbase_product"}
BASE_URLS = {
    "coingecko": "https://api.coingecko.com/api/v3",
    "coinbase": "https://api.exchange.coinbase.com",
    "coinbase-v2": "https://api.coinbase.com/v2",
    **{account.name: account.url for account in ACCOUNTS},
}
#: tables whose rows are about one asset
OF_ASSETS = {"crypto_assets", "price_data_real", "ohlc_data", "onchain_data", "derivatives_data"}
REFUSALS = {
    "code and message": {
        "status": {"timestamp": "2026-05-18T12:00:00Z", "error_code": 10005, "error_message": "not in your plan"}
    },
    "a word": {"error": "coin not found"},
    "nested": {"error": {"status": {"error_code": 10002, "error_message": "API Key Missing"}}},
    "a list": {"errors": [{"id": "invalid_request", "message": "Currency is invalid"}]},
    "a message": {"message": "NotFound"},
}


def test_is_declared_once_with_all_a_caller_needs(name):
    one = ENDPOINTS[name]
    assert one.name == name
    assert re.fullmatch(r"[a-z][a-z0-9_]*\.[a-z0-9_]+", name)
    assert one.account in BASE_URLS
    assert one.parser_version >= 1
    assert one.cost >= 1
    assert endpoint(name) is one
    assert sum(one in module.ENDPOINTS for module in MODULES) == 1


def test_request_matches_its_own_path_and_parameters_and_holds_no_secret(name):
    request = REQUESTS[name]()
    assert request.endpoint == name
    path_values(ENDPOINTS[name], request.path)
    assert set(request.params) <= ENDPOINTS[name].query
    assert not re.search(
        r"api.?key|token|secret|auth(?!or)", json.dumps([request.path, dict(request.params)]), re.IGNORECASE
    )
    assert all(isinstance(v, str) for v in (*request.params.values(), *request.context.values()))


def test_recorded_url_leads_back_to_the_endpoint(name):
    path = REQUESTS[name]().path
    url = rss.URLS.get(path) or BASE_URLS[ENDPOINTS[name].account] + path
    if ENDPOINTS[name].account != "coingecko" and ENDPOINTS[name].account != "coinbase":
        query = "&".join(f"{k}={v}" for k, v in REQUESTS[name]().params.items())
        found = endpoint_for_url(f"{url}?{query}" if query else url)
        assert found is not None
        assert found.name == name
        return
    found = endpoint_for_url(f"{url}?x_cg_demo_api_key=CG-secret&vs_currency=usd")
    assert found is not None
    assert found.name == name.replace("price_candles", "candles")


def test_good_answer_yields_rows_of_declared_tables_and_columns(name):
    parsed = ENDPOINTS[name].parse(answer(name))
    assert parsed.rows
    assert parsed.issues == ()
    assert parsed.missing == ()
    for row in parsed.rows:
        table = metadata.tables[row.table]
        named = set(row.key) | set(row.values)
        assert named - IDENTITIES <= set(table.columns.keys())
        assert not set(row.key) & set(row.values)
        assert not named & set(ORDER_COLUMNS)
        assert len(set(row.key) & IDENTITIES) == (row.table in OF_ASSETS)
        if row.table not in {"crypto_assets", "account_plans"}:
            resolved = set(row.key) - IDENTITIES | ({"asset_id"} if IDENTITIES & set(row.key) else set())
            assert resolved == {column.name for column in table.primary_key}
            required = {column.name for column in table.columns if not column.nullable}
            assert required <= named | {"asset_id"} | set(ORDER_COLUMNS)
            assert all(row.values.get(column) is not None for column in required & set(row.values))
            assert row.values["known_at"] <= FETCHED_AT
        assert 0 < row.event_version <= FETCHED_AT


def test_parse_is_a_function_of_the_exchange(name):
    exchange = answer(name)
    assert ENDPOINTS[name].parse(exchange) == ENDPOINTS[name].parse(exchange) == type(ENDPOINTS[name])().parse(exchange)


@pytest.mark.parametrize("shape", sorted(REFUSALS))
@pytest.mark.parametrize("status", [200, 400, 401, 403, 404])
def test_refusal_of_every_documented_shape_is_an_error_that_repeats_its_reason(name, shape, status):
    known = UpstreamRejected if name.startswith(("coingecko", "coinbase")) or status >= 400 else UpstreamError
    with pytest.raises(known) as caught:
        ENDPOINTS[name].parse(answer(name, REFUSALS[shape], status=status))
    assert caught.value.endpoint == name
    if known is UpstreamError:
        return  # an upstream with refusals of its own shape, which its own tests know
    assert re.search("not in your plan|coin not found|API Key Missing|Currency is invalid|NotFound", str(caught.value))


@pytest.mark.parametrize(
    "body",
    [
        {"status": {"error_code": 429, "error_message": "You've exceeded the Rate Limit"}},
        {"error": {"status": {"error_code": 429, "error_message": "slow down"}}},
        {"message": "Public rate limit exceeded"},
        b"Throttled",
        b"error code: 1015",
    ],
)
@pytest.mark.parametrize("status", [200, 429])
def test_rate_limit_is_seen_whatever_the_status(name, body, status):
    if status == 200 and not name.startswith(("coingecko", "coinbase")):
        with pytest.raises(UpstreamError):
            ENDPOINTS[name].parse(answer(name, body))
        return
    with pytest.raises(RateLimited) as caught:
        ENDPOINTS[name].parse(answer(name, body, status=status, headers={"retry-after": "17"}))
    assert caught.value.retry_after_s == 17.0


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504, 520, 599])
def test_upstream_trouble_is_worth_another_try(name, status):
    with pytest.raises(UpstreamUnavailable):
        ENDPOINTS[name].parse(answer(name, b"<html><title>Bad gateway</title></html>", status=status))


@pytest.mark.parametrize("status", [204, 206, 301, 304])
def test_other_statuses_are_no_answers(name, status):
    with pytest.raises(MalformedPayload, match=str(status)):
        ENDPOINTS[name].parse(answer(name, status=status))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  \n ",
        b"<!DOCTYPE html><html><head><title>Just a moment...</title></head></html>",
        b"\xef\xbb\xbf<html></html>",
        b"Service temporarily unavailable",
        b"\xff\xfe\x00garbage",
        b"null",
        b"true",
        b"42",
        b'"text"',
        b"[[[[",
        b'{"a": 1} {"b": 2}',
        b"[" * 100_000,
        b"[" + b"9" * 5_000 + b"]",
        b"[null, null]",
        b'["bitcoin"]',
        b'{"unexpected": [1, 2, 3]}',
    ],
    ids=lambda body: repr(body[:20]),
)
def test_body_of_another_kind_yields_nothing(name, body):
    with pytest.raises(UpstreamError) as caught:
        ENDPOINTS[name].parse(answer(name, body))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_body_cut_off_anywhere_yields_nothing(name):
    whole = raw(name)
    for length in range(1, len(whole), 1 + len(whole) // 2_000):
        with pytest.raises(UpstreamError):
            ENDPOINTS[name].parse(answer(name, whole[:length]))


def test_json_of_the_other_kind_is_refused(name):
    other: object = [1, 2] if isinstance(BODIES[name], dict) else {"unexpected": 1}
    with pytest.raises(UpstreamError):
        ENDPOINTS[name].parse(answer(name, other))


def test_values_of_every_wrong_kind_cost_values_or_rows_but_never_invent_any(name):
    """Each leaf of the good body in turn becomes something else: what is still yielded was in the good answer."""
    good = {json.dumps([row.table, dict(row.key)]): row for row in ENDPOINTS[name].parse(answer(name)).rows}
    for path in leaves(BODIES[name]):
        for wrong in (None, True, "n/a", "", [], {}, -1, -1e300, 1e300, float("nan"), float("inf"), 10**400, "\ud800"):
            try:
                rows = ENDPOINTS[name].parse(answer(name, replaced(BODIES[name], path, wrong))).rows
            except UpstreamError:
                continue
            for row in rows:
                for value in row.values.values():
                    assert not isinstance(value, float) or math.isfinite(value)
                before = good.get(json.dumps([row.table, dict(row.key)]))
                if before is not None and row.table == "price_data_real":
                    assert row.values["current_price"] == before.values["current_price"]


def leaves(value, path=()):
    if isinstance(value, bytes):
        return  # not JSON: its own tests break it
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from leaves(inner, (*path, position))
    else:
        yield path


def replaced(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy

"""Whatever a client sends, the answer is a documented one and never a 500."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_app.serving.keys import Level
from ray_app.serving.problems import CODES, MEDIA_TYPE
from tests.serving.gateway_world import BTC, NOW, candle_row
from tests.serving.source_world import sources

HOUR_MS = 3_600_000
#: values that have broken parsers before, beside anything hypothesis thinks of
NASTY = st.sampled_from(
    [
        *("", "0", "-0", "-1", "1", "1000", "1001", "1e308", "NaN", "Infinity", "9" * 40, "0x10", "٣", "1_000", " 5 "),
        *("BTC", "btc ", "bitcoin", "TWN", "UNP", "NOV", "' OR 1=1 --", "../../etc/passwd", "%00", "\x00", "\ud7ff"),
        *("2026-11-24", "2026-11-24T08:00:00Z", "2026-02-30", "9999-12-31T23:59:59Z", "0001-01-01", "2026-W48-2"),
        *("2026-11-24T08:00:00+23:59", "2026-11-24T08:00:00-14:00", "2026-11-24T24:00:00Z", "2026-11-24T07:59:60Z"),
        *("5m", "15m", "1h", "4h", "1d", "usd", "eur", "prices", "candles-3600", "owed", "active"),
        *("UNRATE", "vix", "macro_indicators", "ohlc_data", "asset=BTC", "indicator_name=UNRATE,source=fred", "{}"),
        *("market", "news,reddit", "24h"),
        *("funding_rate", "binance", "1776-07-04", "1000-01-01", "crypto", "a%_|b", '{"asset_id": 1e400}'),
        # positions: of a macro history, of an on-chain list, of news, of findings
        "eyJnMCI6ImZyZWQub2JzZXJ2YXRpb25zIiwiYXQiOjEsInN0YXJ0IjowLCJlbmQiOjJ9",
        "eyJnMCI6ImEiLCJnMSI6ImIifQ",
        "eyJhdCI6LTEsImlkIjoiYSIsInNpbmNlIjotOTAwMDAwMDAwMDAwMDAwMH0",
        "eyJhdCI6MSwicGF5bG9hZCI6ImEiLCJraW5kIjoiYiIsInN1YmplY3QiOiJjIiwiZmllbGQiOiJkIn0",
        *("e30", "eyJhdCI6MX0", "bnVsbA", "W10", "MQ", "=", "====", "eyJyYW5rIjoxLCJhc3NldCI6MX0"),
    ]
)
VALUES = NASTY | st.text(max_size=40)
NAMES = st.sampled_from(
    [
        "symbols",
        "limit",
        "cursor",
        "start",
        "end",
        "days",
        "interval",
        "vs_currency",
        "dataset",
        "symbol",
        "state",
        "status",
        "as_of",
        "source",
        "metric",
        "venue",
        "instrument",
        "since",
        "q",
        "market",
        "kind",
        "table",
        "key",
        "account",
        "timeframe",
        "sources",
    ]
)
PATHS = st.sampled_from(
    [
        "/api/v1/prices/current",
        "/api/v1/prices/current/{}",
        "/api/v1/prices/historical/{}",
        "/api/v1/assets",
        "/api/v1/assets/{}",
        "/api/v1/stats/gaps",
        "/api/v1/stats/collectors",
        "/api/v1/macro",
        "/api/v1/macro/{}",
        "/api/v1/onchain/{}",
        "/api/v1/derivatives/{}",
        "/api/v1/fear-greed",
        "/api/v1/news/crypto/latest",
        "/api/v1/news/stock/latest",
        "/api/v1/news/search",
        "/api/v1/sentiment/crypto/{}",
        "/api/v1/sentiment/stock/{}",
        "/api/v1/stats/quality",
        "/api/v1/stats/lineage",
        "/api/v1/sources",
        "/api/v1/admin/jobs/{}",
        "/api/v1/{}",
        "/{}",
    ]
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    from ray_app.storage.engine import Database
    from ray_app.storage.tables import metadata

    db = Database(f"sqlite:///{tmp_path_factory.mktemp('fuzz') / 'node.db'}")
    db.run(metadata.create_all)
    world = sources(db, rate_limit_requests=10_000_000)
    world.store_candles(*[candle_row(BTC, 3_600, NOW - n * HOUR_MS) for n in range(1, 60)])
    world.store_candles(*[candle_row(BTC, 300, NOW - n * 300_000) for n in range(1, 100)])
    yield world
    db.dispose()


def quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text.encode("utf-8", "surrogatepass"), safe="")


def documented(response) -> None:
    assert response.status_code != 500, response.text
    if response.status_code >= 400:
        assert response.headers["content-type"] == MEDIA_TYPE
        body = response.json()
        assert CODES[body["code"]][0] == response.status_code
        assert not re.search(r"Traceback|SELECT |sqlite|pymysql|File \"", response.text)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(path=PATHS, segment=VALUES, query=st.lists(st.tuples(NAMES, VALUES), max_size=4))
async def test_no_query_is_a_500(world, path, segment, query):
    url = path.format(quoted(segment))
    url += "?" + "&".join(f"{name}={quoted(value)}" for name, value in query) if query else ""
    async with world.client(Level.master) as client:
        documented(await client.get(url))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)
orders = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("dataset", "symbols", "start", "end", "name", "level", "expires_at"), json_values),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(path=st.sampled_from(["backfill", "keys", "collect/crypto-prices"]), body=orders | json_values)
async def test_no_body_is_a_500(world, path, body):
    import json

    content = json.dumps(body).encode()
    async with world.client(Level.master) as client:
        headers = {"content-type": "application/json"}
        documented(await client.post(f"/api/v1/admin/{path}", content=content, headers=headers))


texts = st.lists(VALUES, max_size=3)
asked = st.fixed_dictionaries(
    {}, optional={"texts": texts | json_values, "text": VALUES, "domain": VALUES, "symbol": VALUES}
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(path=st.sampled_from(["/api/v1/sentiment/analyze", "/analyze-sentiment", "/batch-analyze"]), body=asked)
async def test_no_text_is_a_500(world, path, body):
    import json

    async with world.client() as client:
        headers = {"content-type": "application/json"}
        documented(await client.post(path, content=json.dumps(body).encode(), headers=headers))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    headers=st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "authorization",
                    "x-api-key",
                    "if-none-match",
                    "accept-encoding",
                    "origin",
                    "x-request-id",
                    "content-length",
                ]
            ),
            st.binary(max_size=40).map(lambda raw: bytes(b for b in raw if b >= 32 and b != 127)),
        ),
        max_size=5,
    ),
    method=st.sampled_from(["GET", "HEAD", "OPTIONS", "PUT", "TRACE", "X"]),
)
async def test_no_header_is_a_500(world, headers, method):
    """Straight to the app: no client library in between that would tidy the headers up."""
    secret = f"Bearer {world.keys[Level.readonly].secret}".encode()
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    for extra in ([], [(b"authorization", secret)]):
        sent.clear()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "path": "/api/v1/prices/current/BTC",
            "raw_path": b"/api/v1/prices/current/BTC",
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [*extra, *((name.encode(), value) for name, value in headers)],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        await world.api(scope, receive, send)
        assert sent[0]["status"] < 500
        assert sent[-1].get("more_body", False) is False

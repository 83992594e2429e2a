"""Findings, NULL rates, lineage and sources: evidence without secrets or absolute paths."""

from __future__ import annotations

import pytest
from sqlalchemy import insert

from ray_app.clock import DAY_MS, HOUR_MS, iso
from ray_app.collection.availability import Lag, quantiles
from ray_app.collection.retention import RETENTION
from ray_app.serving import lineage as lineages
from ray_app.serving.keys import Level
from ray_app.sources import ENDPOINTS
from ray_app.sources.terms import TERMS
from ray_app.storage.tables import (
    archive_tombstones,
    data_quality_events,
    endpoint_shapes,
    fetches,
    macro_indicators,
)
from tests.serving.gateway_world import BTC, NOW, market, price_row
from tests.serving.source_world import archived, get, pages, put
from tests.serving.test_api import problem
from tests.storage.source_samples import article, macro

QUALITY, LINEAGE = "/api/v1/stats/quality", "/api/v1/stats/lineage"
SLOT = NOW - 300_000


@pytest.fixture
def world(sqlite_db, tmp_path):
    return market(sqlite_db, data_dir=tmp_path)


def finding(n: int, **more):
    row = {"payload_hash": f"{n:064x}", "kind": "wrong_type", "subject": "bitcoin", "field": "ath"}
    return row | {"source": "coingecko.markets", "fetched_at": NOW - n * HOUR_MS, "detail": "text"} | more


async def test_findings_are_listed_counted_and_paged(world):
    rows = [finding(n) for n in range(5)] + [finding(9, kind="duplicate", source="rss.feed"), finding(40)]
    world.db.run(lambda conn: conn.execute(insert(data_quality_events), rows))
    body = await get(world, "/stats/quality")
    assert [row["fetched_at"] for row in body["data"]] == [iso(NOW - n * HOUR_MS) for n in (0, 1, 2, 3, 4, 9)]
    assert body["counts"][0] == {
        "source": "coingecko.markets",
        "kind": "wrong_type",
        "field": "ath",
        "events": 5,
        "subjects": 1,
        "newest": iso(NOW),
    }
    assert await pages(world, "/stats/quality", limit=2) == body["data"]
    assert (await get(world, "/stats/quality", source="rss.feed"))["count"] == 1
    assert (await get(world, "/stats/quality", kind="duplicate"))["count"] == 1
    assert (await get(world, "/stats/quality", since=iso(NOW - 2 * DAY_MS)))["count"] == 7
    shares = {(row["table"], row["column"]): row for row in body["null_rates"]}
    assert shares["price_data_real", "market_cap"] == {
        "table": "price_data_real",
        "column": "market_cap",
        "rows": 7,
        "nulls": 6,
        "null_rate": 0.857143,
    }
    async with world.client() as client:
        for query in ("since=2026-01-01", "since=x", "limit=0", "cursor=e30", "kind="):
            problem(await client.get(f"{QUALITY}?{query}"), 422, "VALIDATION_ERROR")


async def test_a_row_leads_to_the_answer_it_was_read_from(world, tmp_path):
    at, provenance = archived(world, SLOT + 7_250, vs_currency="usd")
    world.store_prices(price_row(BTC, SLOT, 90_001.0, event_version=NOW, **provenance))
    async with world.client() as client:
        response = await client.get(LINEAGE, params={"table": "price_data_real", "key": f"asset=BTC,slot={iso(SLOT)}"})
    assert response.status_code == 200, response.text
    assert str(tmp_path) not in response.text
    body = response.json()
    (one,) = body["data"]
    assert one["row"]["current_price"] == 90_001.0
    assert one["order"] == {"event_version": NOW, "parser_version": 1, **provenance}
    assert one["fetch"] == {
        "fetch_id": str(at.fetch_id),
        "source": "coingecko.markets",
        "collector": "collector",
        "request": {"context": {"slot": "1"}, "params": {"vs_currency": "usd"}, "path": "/coins/markets"},
        "status": 200,
        "fetched_at": iso(SLOT + 7_250),
        "payload_bytes": 2,
        "segment": at.segment,
        "position": at.position,
        "outcome": "ok",
    }
    assert one["archive"] == {"has_it": True, "why": None}
    assert one["parser"] == {"then": 1, "now": ENDPOINTS["coingecko.markets"].parser_version}
    assert one["verify"] == (
        f"crypto-data verify --table price_data_real --key 'asset_id=1,slot={iso(SLOT)},source=coingecko.markets'"
    )
    again = await get(
        world,
        "/stats/lineage",
        table="price_data_real",
        key=f'{{"asset_id": 1, "slot": {SLOT}, "source": "coingecko.markets"}}',
    )
    assert again == body


async def test_lineage_says_why_the_archive_has_it_no_more(world):
    at, provenance = archived(world, SLOT + 7_250)
    world.store_prices(price_row(BTC, SLOT, 90_001.0, event_version=NOW, **provenance))
    asked = {"table": "price_data_real", "key": f"asset=BTC,slot={SLOT}"}
    segment = world.deps.settings.archive_dir / at.segment
    segment.write_bytes(segment.read_bytes()[:-3])
    assert (await get(world, "/stats/lineage", **asked))["data"][0]["archive"]["why"].startswith(at.segment)
    segment.unlink()
    found = (await get(world, "/stats/lineage", **asked))["data"][0]["archive"]
    assert found["has_it"] is False
    assert str(world.deps.settings.archive_dir) not in found["why"]
    other = await get(world, "/stats/lineage", table="price_data_real", key="asset=ETH")
    assert other["data"][0]["fetch"] is None
    assert other["data"][0]["archive"]["has_it"] is False


async def test_lineage_tells_what_was_deleted_on_purpose_from_what_was_lost(world):
    at, provenance = archived(world, SLOT + 7_250)
    world.store_prices(price_row(BTC, SLOT, 90_001.0, event_version=NOW, **provenance))
    stone = {"segment": at.segment, "source": "coingecko.markets", "answers": 1, "committed": 1, "payload_bytes": 2}
    stone |= {"purged_at": NOW, "reason": "the terms allow 48 hours"}
    world.db.run(lambda conn: conn.execute(insert(archive_tombstones), [stone]))
    found = await get(world, "/stats/lineage", table="price_data_real", key=f"asset=BTC,slot={SLOT}")
    assert found["data"][0]["archive"] == {"has_it": False, "why": f"deleted {iso(NOW)}: the terms allow 48 hours"}


def test_lineage_names_a_command_that_takes_its_key(world):
    from ray_app.cli.verify import _TABLES, parse_key

    row = macro(-DAY_MS, 4.1, -HOUR_MS)
    with world.db.read() as conn:
        key = lineages.lineage(conn, world.deps.settings.archive_dir, macro_indicators, row)["verify"]
    table, said = key.removeprefix("crypto-data verify --table ").split(" --key ")
    assert table in _TABLES
    found = parse_key(macro_indicators, said.strip("'"), world.deps.registry.current)
    assert found == {name: row[name] for name in ("indicator_name", "source", "indicator_date", "vintage")}


async def test_an_archive_elsewhere_is_not_said_to_have_lost_it(world):
    _, provenance = archived(world, SLOT + 7_250)
    world.store_prices(price_row(BTC, SLOT, 90_001.0, event_version=NOW, **provenance))
    world.deps.settings.archive_dir.rename(world.deps.settings.archive_dir.with_name("away"))
    found = await get(world, "/stats/lineage", table="price_data_real", key=f"asset=BTC,slot={SLOT}")
    assert found["data"][0]["archive"]["has_it"] is None


async def test_lineage_shows_no_values_that_must_not_be_passed_on(world):
    put(world, "macro_indicators", macro(NOW, 20.0, 7, indicator_name="VIX", source="yahoo.chart"))
    put(world, "macro_indicators", macro(NOW, 4.1, NOW))
    asked = {"table": "macro_indicators", "key": "indicator_name=VIX"}
    async with world.client() as client:
        assert "20.0" not in problem(await client.get(LINEAGE, params=asked), 403, "FORBIDDEN")["detail"]
    assert (await get(world, "/stats/lineage", Level.trading, **asked))["data"][0]["row"]["value"] == 20.0
    assert (await get(world, "/stats/lineage", table="macro_indicators", key="indicator_name=UNRATE"))["count"] == 1


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("api_keys", "key_id=a"),
        ("price_data_real", ""),
        ("price_data_real", "slot=2026-11-24"),
        ("price_data_real", "asset=BTC,source=a"),
        ("price_data_real", "asset=BTC,current_price=3"),
        ("price_data_real", "asset=BTC,slot=yesterday"),
        ("price_data_real", '{"asset": '),
        ("price_data_real", "[1]"),
        ("ohlc_data", "asset=BTC,venue=coinbase,interval=1h"),
        ("onchain_data", "asset=BTC,metric=a,source=b,event_time=2026-11-24,version=99999999999999999999"),
    ],
)
async def test_a_key_that_is_none_is_refused(world, table, key):
    async with world.client() as client:
        problem(await client.get(LINEAGE, params={"table": table, "key": key}), 422, "VALIDATION_ERROR")


async def test_a_key_of_nothing_finds_nothing(world):
    async with world.client() as client:
        asked = {"table": "ohlc_data", "key": "asset=BTC,venue=coinbase,interval=3600,open_time=2026-11-24"}
        problem(await client.get(LINEAGE, params=asked), 404, "DATA_NOT_AVAILABLE")
        asked = {"table": "ohlc_data", "key": "asset=nosuchthing"}
        problem(await client.get(LINEAGE, params=asked), 404, "INVALID_SYMBOL")


# --- sources -------------------------------------------------------------------------------------------------


async def test_every_source_says_its_state_terms_and_lag(world):
    archived(world, SLOT + 7_250)
    shape = {"source": "coingecko.markets", "shape": "{}", "updated_at": NOW - DAY_MS}
    world.db.run(lambda conn: conn.execute(insert(endpoint_shapes), [shape]))
    body = await get(world, "/sources")
    found = {row["source"]: row for row in body["data"]}
    assert found.keys() == ENDPOINTS.keys()
    row = found["coingecko.markets"]
    assert (row["state"], row["last_outcome"]) == ("active", "ok")
    assert (row["redistribution"], row["terms_verified"]) == ("attribution", True)
    assert row["availability"] == {"p50_lag_s": 4.25, "p99_lag_s": 4.25, "sample": 7}
    assert row["schema"] == {"fingerprint": "44136fa355b3678a", "changed_at": iso(NOW - DAY_MS)}
    assert found["coinbase.candles"]["state"] == "idle"
    assert found["coinbase.candles"]["availability"] is None
    only = await get(world, "/sources", account="coinbase")
    assert {row["account"] for row in only["data"]} == {"coinbase"}
    async with world.client() as client:
        problem(await client.get("/api/v1/sources?account=nobody"), 404, "NOT_FOUND")


async def test_a_source_that_shuts_the_node_out_is_blocked_and_one_without_a_key_disabled(world):
    archived(world, SLOT + 7_250)
    world.db.run(lambda conn: conn.execute(fetches.update().values(status=451, outcome="rejected")))
    found = {row["source"]: row for row in (await get(world, "/sources"))["data"]}
    assert found["coingecko.markets"]["state"] == "blocked: HTTP 451"

    (row,) = (await get(world, "/sources", account="fred"))["data"]
    assert row["state"] == "disabled: set FRED_API_KEY"


def test_every_account_has_terms_and_the_archive_keeps_to_them():
    from ray_app.collection.upstreams import build_upstreams
    from ray_app.settings import Settings

    # the tick stream has no budget, and so is no account of the upstreams'
    assert build_upstreams(Settings(_env_file=None)).keys() | {"coinbase-ws"} == TERMS.keys()
    assert all(endpoint.account in TERMS for endpoint in ENDPOINTS.values())
    assert {name: terms.retention_h for name, terms in TERMS.items() if terms.retention_h is not None} == RETENTION


async def test_what_a_finding_quotes_must_not_be_passed_on_either(world):
    row = finding(1, source="reddit.new", subject="reddit:t3_1", detail="'somebody said' is no number")
    world.db.run(lambda conn: conn.execute(insert(data_quality_events), [row]))
    (shown,) = (await get(world, "/stats/quality"))["data"]
    assert "detail" not in shown
    assert shown["withheld"].startswith("reddit.new: Reddit Data API terms")
    assert (await get(world, "/stats/quality", Level.trading))["data"][0]["detail"] == row["detail"]


def test_lags_are_nearest_ranks():
    assert quantiles([5]) == Lag(5, 5, 1)
    assert quantiles(list(range(1, 201))) == Lag(100, 198, 200)


async def test_measurements_are_kept_for_a_while(world):
    before = await get(world, "/stats/quality")
    put(world, "crypto_news", article("a", NOW))
    assert (await get(world, "/stats/quality"))["null_rates"] == before["null_rates"]

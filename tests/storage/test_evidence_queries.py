"""Evidence: findings counted and paged, NULLs and lags of the newest rows, a row's fetch; reads keep to an index."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import insert

from ray_app.storage import evidence_queries
from ray_app.storage.engine import Database
from ray_app.storage.tables import (
    crypto_assets,
    crypto_news,
    data_quality_events,
    derivatives_data,
    fear_greed,
    fetches,
    macro_indicators,
    ohlc_data,
    onchain_data,
    price_data_real,
)
from ray_app.storage.upsert import guarded_upsert
from tests.storage.samples import T0, asset, candle, digest, price
from tests.storage.source_samples import DAY, HOUR, article, derivative, feeling, macro, onchain
from tests.storage.test_explain import full_scans, plan, rows_read
from tests.storage.test_queries import fetch
from tests.storage.test_source_queries import filled


def event(n: int, **more) -> dict:
    row = {"payload_hash": digest(n), "kind": "wrong_type", "subject": f"coin-{n % 3}", "field": "ath"}
    return row | {"source": "coingecko.markets", "fetched_at": T0 + n // 4 * HOUR, "detail": "text"} | more


def put(db: Database, table, *rows: dict) -> None:
    db.run(lambda conn: guarded_upsert(conn, table, rows))


def test_findings_are_counted_and_paged_newest_first(db: Database) -> None:
    events = [event(n) for n in range(10)] + [event(1, kind="out_of_range", field="x"), event(2, source="rss.feed")]
    events[-1]["kind"] = "duplicate"
    db.run(lambda conn: conn.execute(insert(data_quality_events), events))
    with db.read() as conn:
        counts = evidence_queries.quality_counts(conn, T0, None, None, 10)
        assert counts[0] == {
            "source": "coingecko.markets",
            "kind": "wrong_type",
            "field": "ath",
            "events": 10,
            "subjects": 3,
            "newest": T0 + 2 * HOUR,
        }
        assert [row["events"] for row in counts] == [10, 1, 1]
        assert len(evidence_queries.quality_counts(conn, T0, "rss.feed", None, 10)) == 1
        assert evidence_queries.quality_counts(conn, T0 + 9 * HOUR, None, None, 10) == []
        found, before = [], None
        while rows := evidence_queries.quality_events(conn, T0, None, None, before, 3):
            found += rows
            last = rows[-1]
            before = tuple(last[name] for name in ("fetched_at", "payload_hash", "kind", "subject", "field"))
        whole = evidence_queries.quality_events(conn, T0, None, None, None, 100)
    assert found == whole
    assert len(whole) == 12
    assert [row["fetched_at"] for row in whole] == sorted((row["fetched_at"] for row in whole), reverse=True)


def test_nulls_are_shares_of_what_was_fetched_since(sqlite_db: Database) -> None:
    put(sqlite_db, price_data_real, price(1, T0, ath=1.0), price(2, T0), price(3, T0 - 2 * DAY))
    put(sqlite_db, macro_indicators, macro(T0, None, T0), macro(T0 + DAY, 1.0, T0 + DAY))
    put(sqlite_db, crypto_news, article("a", T0, summary="said"), article("b", T0))
    with sqlite_db.read() as conn:
        found = {(row["table"], row["column"]): row for row in evidence_queries.null_shares(conn, T0)}
    assert found["price_data_real", "ath"] == {"table": "price_data_real", "column": "ath", "rows": 2, "nulls": 1}
    assert found["macro_indicators", "value"]["nulls"] == 1
    assert found["crypto_news", "summary"]["nulls"] == 1
    assert found["crypto_news", "author"]["nulls"] == 2
    assert ("price_data_real", "current_price") not in found  # it cannot be NULL
    assert not any(table == "ohlc_data" for table, _ in found)  # nothing of it was fetched


def test_a_lag_is_from_the_moment_to_having_it(db: Database) -> None:
    db.run(lambda conn: conn.execute(insert(crypto_assets), [asset(1, market_cap_rank=1)]))
    put(db, price_data_real, price(1, T0, event_time=T0, fetched_at=T0 + 4_000))
    put(db, ohlc_data, candle(1, T0))
    put(db, onchain_data, onchain(T0, 1.0, T0 + DAY))
    put(db, derivatives_data, derivative(T0, 1.0, T0 + 5))
    put(db, fear_greed, feeling(T0, 1.0, T0 + 6))
    put(db, macro_indicators, macro(T0, 1.0, T0 + DAY))
    put(db, crypto_news, article("a", T0), article("b", T0, published_at=None))
    with db.read() as conn:
        assert evidence_queries.lags(conn, T0 - DAY) == {
            "coingecko.markets": [4_000],
            "coinbase.candles": [60_000],
            "coinmetrics.asset_metrics": [DAY],
            "binance.funding_rate": [5],
            "alternative_me.fng": [6],
            "fred.observations": [DAY + 6 * HOUR],
            "rss.feed": [300_000],
        }
        assert evidence_queries.lags(conn, T0 + 2 * DAY) == {}


def test_a_row_is_found_by_its_key_and_its_fetch_by_payload_and_time(sqlite_db: Database) -> None:
    put(sqlite_db, onchain_data, onchain(T0, 1.0), onchain(T0, 2.0, T0 + DAY), onchain(T0 + DAY, 3.0))
    sqlite_db.run(lambda conn: conn.execute(insert(fetches), [fetch(1), fetch(2)]))
    key = {"asset_id": 1, "metric": "active_addresses", "source": "coinmetrics.asset_metrics", "event_time": T0}
    with sqlite_db.read() as conn:
        assert {row["value"] for row in evidence_queries.rows_of_key(conn, onchain_data, key, 20)} == {1.0, 2.0}
        assert len(evidence_queries.rows_of_key(conn, onchain_data, {"asset_id": 1}, 2)) == 2
        stored = fetch(2)
        found = evidence_queries.fetch_of(conn, stored["payload_hash"], stored["fetched_at"])
        assert found is not None
        assert found["fetch_id"] == 2
        assert evidence_queries.fetch_of(conn, stored["payload_hash"], 5) is None
        assert evidence_queries.last_fetch(conn, stored["source"])["fetched_at"] == stored["fetched_at"]
        assert evidence_queries.last_fetch(conn, "nobody.asked") is None


# --- cost ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["sqlite", pytest.param("mariadb", marks=pytest.mark.integration)])
def full(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    yield from filled(request, tmp_path_factory, "evidence_plans", begin)


def begin(db: Database) -> None:
    db.run(lambda conn: conn.execute(insert(crypto_assets), [asset(n, market_cap_rank=n) for n in range(1, 41)]))
    db.run(lambda conn: conn.execute(insert(fetches), [fetch(n) for n in range(1, 2_000)]))
    history(db, range(160))


def history(db: Database, hours: range) -> None:
    """Older and older."""
    times = [T0 - n * HOUR for n in hours]
    db.run_chunked(price_data_real, [price(a, at) for a in range(4) for at in times])
    db.run_chunked(ohlc_data, [candle(a, at) for a in (1, 2, 30) for at in times])
    db.run_chunked(onchain_data, [onchain(at, 1.0, metric=m) for m in "abc" for at in times])
    db.run_chunked(macro_indicators, [macro(at, 1.0, at, indicator_name=n) for n in ("A", "B") for at in times])
    db.run_chunked(crypto_news, [article("x", at) for at in times])
    events = [event(n, payload_hash=digest(n, hours.start), fetched_at=at) for n, at in enumerate(times)]
    db.run(lambda conn: conn.execute(insert(data_quality_events), events))


def test_reads_use_an_index(full: Database) -> None:
    since = T0 - 10 * HOUR
    before = (T0, "a", "b", "c", "d")
    queries = {
        "counts": evidence_queries.quality_counts_query(since),
        "counts of a source": evidence_queries.quality_counts_query(since, "rss.feed", "duplicate"),
        "events": evidence_queries.quality_events_query(since).limit(50),
        "a page of events": evidence_queries.quality_events_query(since, before=before).limit(50),
        "prices": evidence_queries.newest_query(price_data_real, since),
        "news": evidence_queries.newest_query(crypto_news, since),
        "candles": evidence_queries.newest_candles_query(1, since),
        "a metric": evidence_queries.newest_of_metric_query(onchain_data, "b", since),
        "metrics": evidence_queries.next_metric_query(onchain_data, "a"),
        "a source": evidence_queries.newest_of_source_query(fear_greed, "alternative_me.fng", since),
        "sources": evidence_queries.next_source_query(fear_greed, ""),
        "an indicator": evidence_queries.newest_of_indicator_query("A", since),
        "a row": evidence_queries.rows_of_key_query(price_data_real, {"asset_id": 1, "slot": T0}),
        "last fetch": evidence_queries.last_fetch_query("coingecko.markets"),
    }
    for name, query in queries.items():
        with full.read() as conn:
            lines = plan(conn, query)
        assert full_scans(lines) == [], (name, lines)


def test_their_cost_does_not_grow_with_history(full: Database) -> None:
    since = T0 - 24 * HOUR
    reads = {
        "nulls": lambda conn: evidence_queries.null_shares(conn, since),
        "lags": lambda conn: evidence_queries.lags(conn, since),
        "findings": lambda conn: evidence_queries.quality_counts(conn, since, None, None, 100),
        "last fetch": lambda conn: evidence_queries.last_fetch(conn, "coingecko.markets"),
    }
    before = {name: rows_read(full, read) for name, read in reads.items()}
    history(full, range(160, 480))
    for name, read in reads.items():
        assert rows_read(full, read) <= before[name] * 1.3 + 5, name

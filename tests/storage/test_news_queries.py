"""News: newest first, a story once, deleted texts gone; reads keep to an index."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ray_app.storage import news_queries
from ray_app.storage.engine import Database
from ray_app.storage.news_queries import REPRINT_MS
from ray_app.storage.tables import crypto_news, text_mentions
from ray_app.storage.upsert import guarded_upsert
from tests.storage.samples import T0, digest
from tests.storage.source_samples import DAY, HOUR, article, mention
from tests.storage.test_explain import full_scans, plan, rows_read
from tests.storage.test_source_queries import filled


def put(db: Database, *rows: dict, mentions: tuple = ()) -> None:
    db.run(lambda conn: guarded_upsert(conn, crypto_news, rows))
    db.run(lambda conn: guarded_upsert(conn, text_mentions, mentions))


def titles(db: Database, **asked) -> list[str]:
    with db.read() as conn:
        return [row["title"] for row in news_queries.articles(conn, "crypto", **{"since": 0, "limit": 100} | asked)]


def test_a_story_is_told_once_by_who_was_first(db: Database) -> None:
    first = article("Bitcoin rises", T0, "coindesk")
    put(
        db,
        first,
        article("Bitcoin Rises!", T0 + HOUR, "decrypt"),
        article("Bitcoin rises - Decrypt", T0 + 20 * HOUR, "newsbtc"),  # less than REPRINT_MS after the one before
        article("Bitcoin rises", T0 + 90 * HOUR, "coindesk"),  # another story of the same name
        article("Ether falls", T0 + 2 * HOUR, "decrypt"),
    )
    with db.read() as conn:
        rows = news_queries.articles(conn, "crypto", since=0, limit=10)
        told = news_queries.reprints(conn, "crypto", rows)
    assert [(row["title"], row["known_at"] - T0) for row in rows] == [
        ("Bitcoin rises", 90 * HOUR),
        ("Ether falls", 2 * HOUR),
        ("Bitcoin rises", 0),
    ]
    assert told[first["content_id"]] == (2, ["coindesk", "decrypt", "newsbtc"])
    assert told[rows[0]["content_id"]] == (0, ["coindesk"])


def test_of_what_is_just_stored_the_known_the_reprints_and_the_rows(db: Database) -> None:
    first, again = article("Bitcoin rises", T0, "coindesk"), article("Bitcoin Rises!", T0 + HOUR, "decrypt")
    gone = article("Ether falls", T0, "decrypt", deleted_at=T0 + HOUR, summary=None)
    put(db, first, again, gone)
    ids = [one["content_id"] for one in (first, again, gone)]
    with db.read() as conn:
        assert news_queries.known(conn, "crypto", [*ids, "0" * 64]) == set(ids)
        assert news_queries.retold(conn, "crypto", ids) == {again["content_id"]}
        assert {row["content_id"] for row in news_queries.rows_of(conn, "crypto", ids)} == set(ids[:2])


def test_a_deleted_article_is_gone_and_stands_for_none(sqlite_db: Database) -> None:
    put(
        sqlite_db,
        article("Bitcoin rises", T0, "coindesk", deleted_at=T0 + DAY, summary=None),
        article("Bitcoin rises", T0 + HOUR, "decrypt"),
    )
    with sqlite_db.read() as conn:
        rows = news_queries.articles(conn, "crypto", since=0, limit=10)
        told = news_queries.reprints(conn, "crypto", rows)
    assert [row["feed"] for row in rows] == ["decrypt"]
    assert told == {rows[0]["content_id"]: (0, ["decrypt"])}


def test_two_first_seen_together_are_one_story(sqlite_db: Database) -> None:
    put(sqlite_db, article("Bitcoin rises", T0, "coindesk"), article("Bitcoin rises", T0, "decrypt"))
    assert titles(sqlite_db) == ["Bitcoin rises"]


def test_pages_join_though_many_are_seen_in_one_moment(sqlite_db: Database) -> None:
    put(sqlite_db, *[article(f"Story {n}", T0 + n // 4 * HOUR, f"f{n}") for n in range(20)])
    whole, found, before = titles(sqlite_db), [], None
    with sqlite_db.read() as conn:
        while rows := news_queries.articles(conn, "crypto", since=0, before=before, limit=3):
            found += [row["title"] for row in rows]
            before = (rows[-1]["known_at"], rows[-1]["content_id"])
    assert found == whole
    assert len(set(whole)) == 20
    assert titles(sqlite_db, since=T0 + 4 * HOUR) == whole[:4]


def test_only_what_mentions_an_asset_or_has_the_words(db: Database) -> None:
    one, other = article("Bitcoin ETF: 100% inflow", T0), article("Ether", T0 + HOUR, summary="An ETF_for ether")
    put(db, one, other, mentions=(mention(one, 1, "Bitcoin"), mention(other, 2, "Ether"), mention(other, 1, "x")))
    assert titles(db, asset_id=2) == ["Ether"]
    assert titles(db, asset_id=1) == ["Ether", "Bitcoin ETF: 100% inflow"]
    assert titles(db, words=["etf"]) == ["Ether", "Bitcoin ETF: 100% inflow"]
    assert titles(db, words=["etf", "bitcoin"]) == ["Bitcoin ETF: 100% inflow"]
    assert titles(db, words=["100%"]) == ["Bitcoin ETF: 100% inflow"]
    assert titles(db, words=["etf_f"]) == ["Ether"]
    assert titles(db, words=["e%f"]) == titles(db, words=["|"]) == []
    with db.read() as conn:
        named = news_queries.mentions(conn, [one["content_id"], other["content_id"]])
    assert named[other["content_id"]] == [{"asset_id": 1, "term": "x"}, {"asset_id": 2, "term": "Ether"}]


# --- cost ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["sqlite", pytest.param("mariadb", marks=pytest.mark.integration)])
def full(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    yield from filled(request, tmp_path_factory, "news_plans", lambda db: history(db, range(600)))


def history(db: Database, numbers: range) -> None:
    """Newest last; every tenth article is a reprint, every third mentions asset 1."""
    rows = [article(f"Story {n - (n % 10 == 9)}", T0 - n * HOUR // 4, f"f{n}") for n in numbers]
    db.run_chunked(crypto_news, rows)
    db.run_chunked(text_mentions, [mention(row, 1, "Bitcoin") for row in rows[::3]])


def test_reads_use_an_index(full: Database) -> None:
    since = T0 - DAY
    queries = {
        "latest": news_queries.articles_query("crypto", since=since).limit(50),
        "a page": news_queries.articles_query("crypto", since=since, before=(T0, digest("a"))).limit(50),
        "of an asset": news_queries.articles_query("crypto", since=since, asset_id=1).limit(50),
        "by words": news_queries.articles_query("crypto", since=since, words=["story"]).limit(50),
        "reprints": news_queries.reprints_query("crypto", [digest("a"), digest("b")], since),
        "mentions": news_queries.mentions_query([digest("a"), digest("b")]),
    }
    for name, query in queries.items():
        with full.read() as conn:
            lines = plan(conn, query)
        assert full_scans(lines) == [], (name, lines)


def test_their_cost_does_not_grow_with_history(full: Database) -> None:
    since = T0 - 2 * DAY

    def read(conn):
        rows = news_queries.articles(conn, "crypto", since=since, asset_id=1, limit=20)
        assert len(rows) == 20
        return [
            news_queries.reprints(conn, "crypto", rows),
            news_queries.mentions(conn, [row["content_id"] for row in rows]),
            news_queries.articles(conn, "crypto", since=since, words=["story"], limit=20),
        ]

    before = rows_read(full, read)
    history(full, range(600, 1_800))
    assert rows_read(full, read) <= before * 1.3 + 5


def test_the_gap_between_reprints_is_shorter_than_a_day() -> None:
    assert HOUR < REPRINT_MS < 22 * HOUR  # a daily column is another story each day, though an hour or two early

"""Scores: once for the same words, the first stands, pages go on where they ended; reads keep to an index."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest
from sqlalchemy import select

from ray_app.editions import edition_of, text_hash
from ray_app.errors import StorageError
from ray_app.sentiment.aggregate import COLUMNS, KEY, VALUES, aggregate, stored_rows
from ray_app.storage import sentiment_queries as queries
from ray_app.storage.engine import Database
from ray_app.storage.tables import crypto_news, sentiment_aggregation, social_posts, text_parts, text_scores
from ray_app.storage.upsert import guarded_upsert
from tests.storage.samples import T0, digest
from tests.storage.source_samples import DAY, HOUR, article
from tests.storage.test_explain import full_scans, plan, rows_read
from tests.storage.test_source_queries import filled

END = T0 - T0 % HOUR + 10 * HOUR
MODEL = ("lexicon", "1-abc")


def part(of: dict[str, Any], asset_id: int = 0, words: str | None = None, **more: Any) -> dict[str, Any]:
    """A part of what the text says now; of ``words``, if given, which are taken for a window of it."""
    edition = edition_of(of["title"], of.get("summary", of.get("text")))
    row = {
        "content_id": of["content_id"],
        "edition": edition,
        "asset_id": asset_id,
        "text_hash": edition if words is None else text_hash(words),
        "spans": None if words is None else "0:9",
        "kind": "social_posts" if "platform" in of else "crypto_news",
        "known_at": of["known_at"],
        "event_version": of["known_at"],
        "fetched_at": of["known_at"],
        "parser_version": 1,
        "payload_hash": digest(of["content_id"]),
    }
    return row | more


def scored(of: dict[str, Any], score: float | None = 0.5, known_at: int | None = None, **more: Any) -> dict[str, Any]:
    row = {
        "text_hash": of["text_hash"],
        "model": MODEL[0],
        "revision": MODEL[1],
        "score": score,
        "known_at": of["known_at"] + 60_000 if known_at is None else known_at,
        "run_id": "run-1",
    }
    if score is not None:
        row |= {"p_negative": max(-score, 0.0), "p_neutral": 1 - abs(score), "p_positive": max(score, 0.0)}
    return row | more


def post(number: int, known_at: int = T0, **more: Any) -> dict[str, Any]:
    row = {
        "content_id": f"reddit:t3_{number:04}",
        "source": "reddit.listing",
        "platform": "reddit",
        "community": "CryptoCurrency",
        "author": f"a{number}",
        "title": f"Post {number}",
        "text": "to the moon",
        "published_at": known_at - 60_000,
        "known_at": known_at,
        "score": 7,
        "comments": 3,
        "event_version": known_at,
        "fetched_at": known_at,
        "parser_version": 1,
        "payload_hash": digest(number, known_at),
    }
    return row | more


def put(db: Database, *news: dict, posts: tuple = (), parts: tuple = (), scores: tuple = ()) -> None:
    def work(conn: Any) -> None:
        guarded_upsert(conn, crypto_news, news)
        guarded_upsert(conn, social_posts, posts)
        guarded_upsert(conn, text_parts, parts)
        queries.add_scores(conn, scores)

    db.run(work)


def stored(db: Database, table: Any = text_scores) -> list[tuple]:
    with db.read() as conn:
        return sorted(tuple(row) for row in conn.execute(select(table)))


# --- writes ---------------------------------------------------------------------------------------------------


def test_the_first_score_of_a_revision_stands_whoever_writes_in_whatever_order(db: Database) -> None:
    one = part(article("Bitcoin rises"))
    writes = [
        scored(one, 0.5, T0 + 5),
        scored(one, 0.4, T0 + 5, run_id="run-0"),  # the same moment: the run decides
        scored(one, 0.3, T0 + 9),
        scored(one, -0.2, T0 + 1, revision="2-def"),  # another revision is another row
        scored(one, None, T0 + 7, reason="empty text"),
    ]
    ends = []
    for seed in range(4):
        db.run(lambda conn: conn.execute(text_scores.delete()))
        order = random.Random(seed).sample(writes, len(writes))
        put(db, scores=tuple(order[:2]))
        for write in order[2:]:
            put(db, scores=(write,))
        put(db, scores=tuple(writes))
        ends.append(stored(db))
    assert ends == [ends[0]] * 4
    assert [(row[2], row[3], row[-1]) for row in ends[0]] == [("1-abc", 0.4, "run-0"), ("2-def", -0.2, "run-1")]


def test_a_score_without_probabilities_and_a_text_without_a_score_are_stored_as_null(db: Database) -> None:
    one, other = part(article("Bitcoin rises")), part(article("…"))
    polarity = scored(one, 0.3, model="textblob") | dict.fromkeys(("p_negative", "p_neutral", "p_positive"))
    put(db, scores=(polarity, scored(other, None, reason="no words")))
    with db.read() as conn:
        found = queries.scores_of(
            conn, [(one["text_hash"], "textblob", MODEL[1]), (other["text_hash"], *MODEL), ("0" * 64, *MODEL)]
        )
    assert {(row["score"], row["p_neutral"], row["reason"]) for row in found.values()} == {
        (0.3, None, None),
        (None, None, "no words"),
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_no_score(sqlite_db: Database, value: float) -> None:
    with pytest.raises(StorageError, match="not a finite number"):
        put(sqlite_db, scores=(scored(part(article("x")), 0.1) | {"score": value},))
    assert stored(sqlite_db) == []


def test_aggregates_of_newer_rules_and_of_later_computation_win_and_are_known_from_the_first(db: Database) -> None:
    def row(rules: int, at: int, mean: float | None) -> dict[str, Any]:
        key = {
            "asset_id": 1,
            "scope": "asset",
            "model": "finbert",
            "source": "all",
            "window_s": 3_600,
            "window_end": END,
        }
        order = {"rules_version": rules, "computed_at": at, "values_hash": digest(mean)}
        return key | {"sentiment_volume": 2, "avg_sentiment": mean, "known_at": at} | order

    writes = [row(1, END + 5, 0.1), row(1, END + 9, 0.2), row(2, END + 7, 0.3)]
    for seed in range(3):
        db.run(lambda conn: conn.execute(sentiment_aggregation.delete()))
        for write in random.Random(seed).sample(writes, 3):
            db.run(lambda conn, write=write: queries.add_aggregates(conn, [write]))
        with db.read() as conn:
            (found,) = queries.aggregates(conn, "asset", 1, "finbert", "all", 3_600, start=END, end=END + 1)
            assert (found["avg_sentiment"], found["known_at"]) == (0.3, END + 5)
            assert queries.last_window(conn, 3_600) == END
            assert queries.last_window(conn, 86_400) is None


def test_the_columns_are_those_that_are_computed(sqlite_db: Database) -> None:
    names = {column.name for column in sentiment_aggregation.columns}
    assert names == {*KEY, *VALUES, "known_at", "rules_version", "computed_at", "values_hash"}
    with sqlite_db.read() as conn:
        for kind in queries.KINDS:
            found = conn.execute(queries.window_query(kind, ["finbert"], since=0, until=END))
            assert set(found.keys()) == set(COLUMNS), kind


# --- what is to be scored -------------------------------------------------------------------------------------


def todo(conn: Any, revision: str | None = MODEL[1], model: str = MODEL[0], **more: Any) -> list[dict[str, Any]]:
    """The texts of a page of articles."""
    return queries.texts_of_parts(
        conn, "crypto_news", queries.unscored(conn, "crypto_news", model, revision, **{"limit": 99} | more)
    )


def test_a_post_has_its_text_for_a_body(sqlite_db: Database) -> None:
    put(sqlite_db, posts=(post(1),), parts=(part(post(1)),))
    with sqlite_db.read() as conn:
        rows = queries.unscored(conn, "social_posts", *MODEL)
        (found,) = queries.texts_of_parts(conn, "social_posts", rows)
    assert (found["title"], found["body"], found["spans"]) == ("Post 1", "to the moon", None)


def test_what_a_revision_has_not_scored_comes_in_pages_that_join(db: Database) -> None:
    news = [article(f"Story {n}", T0 + n // 4 * HOUR, f"f{n}") for n in range(10)]
    parts = [part(one) for one in news] + [part(one, 7, f"part of {n}") for n, one in enumerate(news[:5])]
    put(db, *news, parts=tuple(parts), scores=tuple(scored(one) for one in parts[::2]))
    with db.read() as conn:
        for page_size in (1, 3, 50):
            found: list[str] = []
            after = None
            while rows := queries.unscored(conn, "crypto_news", *MODEL, after=after, limit=page_size):
                until = queries.place_of(rows[-1])
                assert queries.unscored(conn, "crypto_news", *MODEL, after=after, until=until) == rows
                found += [row.text_hash for row in rows]
                after = until
            assert sorted(found) == sorted(one["text_hash"] for one in parts[1::2])
        assert len(queries.unscored(conn, "crypto_news", "vader", "2-def")) == 15
        assert queries.unscored(conn, "stock_news", *MODEL) == []
        assert len(queries.unscored(conn, "crypto_news", "vader", "r", since=T0 + HOUR)) == 7


def test_without_a_revision_what_any_has_scored_is_scored(db: Database) -> None:
    news = [article(f"Story {n}", T0, f"f{n}") for n in range(3)]
    put(db, *news, parts=tuple(map(part, news)), scores=(scored(part(news[0]), revision="0-old"),))
    with db.read() as conn:
        assert {row["title"] for row in todo(conn, None)} == {"Story 1", "Story 2"}
        assert len(todo(conn)) == 3


def test_the_same_words_are_asked_for_once_and_not_again_once_scored(db: Database) -> None:
    news = [article("Bitcoin rises", T0 + n, f"f{n}") for n in range(4)]
    put(db, *news, parts=(*map(part, news), part(news[0], 1)))
    with db.read() as conn:
        assert [row["title"] for row in todo(conn)] == ["Bitcoin rises"]
    put(db, scores=(scored(part(news[2]), None, reason="no words"),))  # not to be scored is known, too
    with db.read() as conn:
        assert todo(conn) == []


def test_an_edition_whose_words_are_gone_is_not_asked_for(db: Database) -> None:
    before = article("Bitcoin rises")
    after = before | {"title": "Bitcoin falls"}
    put(db, after, parts=(part(before), part(before, 1, "Bitcoin"), part(after, known_at=T0 + 1)))
    with db.read() as conn:
        (one,) = todo(conn)
    assert (one["title"], one["text_hash"]) == ("Bitcoin falls", part(after)["text_hash"])


def test_a_deleted_text_is_not_asked_for_though_a_copy_of_it_is(sqlite_db: Database) -> None:
    gone, copy = article("Bitcoin rises", T0, "a", deleted_at=T0 + 1), article("Bitcoin rises", T0 + 5, "b")
    put(sqlite_db, gone, parts=(part(gone),))
    with sqlite_db.read() as conn:
        assert todo(conn) == []
    put(sqlite_db, copy, parts=(part(copy),))
    with sqlite_db.read() as conn:
        assert len(todo(conn)) == 1


# --- what aggregates read -------------------------------------------------------------------------------------


def rows(db: Database, kind: str, until: int = END) -> list[dict[str, Any]]:
    with db.read() as conn:
        return list(queries.window_rows(conn, kind, ["lexicon"], since=0, until=until))


def test_of_window_rows_known_at_is_the_later_of_text_and_score(db: Database) -> None:
    one, other = article("Bitcoin rises", T0), article("Ether falls", T0 + HOUR, published_at=None)
    late = article("XRP", T0 + 2 * HOUR, published_at=T0 + 9 * HOUR)  # a date in the future
    parts = (part(one), part(one, 5), part(other), part(late))
    put(
        db,
        one,
        other,
        late,
        parts=parts,
        scores=(scored(parts[0], 0.5, T0 + 7), scored(parts[2], 0.1, T0), scored(parts[3])),
    )
    found = {(row["content_id"], row["asset_id"]): row for row in rows(db, "crypto_news")}
    assert found[one["content_id"], 0]["known_at"] == found[one["content_id"], 5]["known_at"] == T0 + 7
    assert (found[one["content_id"], 0]["scope"], found[one["content_id"], 5]["scope"]) == ("crypto", "asset")
    assert found[one["content_id"], 0]["published_at"] == one["published_at"]
    assert found[other["content_id"], 0]["known_at"] == found[other["content_id"], 0]["published_at"] == T0 + HOUR
    assert found[late["content_id"], 0]["published_at"] == T0 + 2 * HOUR
    assert {row["source"] for row in found.values()} == {"news"}
    assert {row["story_id"] for row in found.values()} == {text["story_id"] for text in (one, other, late)}


def test_of_window_rows_an_edition_is_replaced_when_the_next_was_first_seen(db: Database) -> None:
    before = article("Bitcoin rises", T0)
    after = before | {"title": "Ether falls"}
    parts = (part(before), part(before, 1), part(after, known_at=T0 + 9), part(after, 2, known_at=T0 + 9))
    put(db, after, parts=parts, scores=(scored(parts[0]), scored(parts[2])))
    found = {(row["asset_id"], row["edition"]): row["replaced_at"] for row in rows(db, "crypto_news")}
    assert found == {
        (0, parts[0]["edition"]): T0 + 9,
        (1, parts[0]["edition"]): T0 + 9,
        (0, parts[2]["edition"]): None,
        (2, parts[2]["edition"]): None,
    }


def test_of_window_rows_what_is_known_later_or_unscored_is_left_out(db: Database) -> None:
    texts = [article(f"Story {n}", T0, f"f{n}") for n in range(3)]
    parts = [part(text) for text in texts]
    scores = (scored(parts[0], 0.5, T0 + 9), scored(parts[1], None, reason="no words"))
    put(db, *texts, parts=tuple(parts), scores=scores)
    assert [row["content_id"] for row in rows(db, "crypto_news", T0 + 9)] == [texts[0]["content_id"]]
    assert rows(db, "crypto_news", T0 + 8) == []


def test_of_window_rows_a_deleted_text_says_since_when_it_is_gone(sqlite_db: Database) -> None:
    before = post(1)
    put(sqlite_db, posts=(before | {"title": None, "text": None, "author": None, "deleted_at": T0 + 5},))
    put(sqlite_db, parts=(part(before),), scores=(scored(part(before)),))
    (found,) = rows(sqlite_db, "social_posts")
    assert (found["score"], found["deleted_at"], found["author"]) == (0.5, T0 + 5, None)


def test_posts_come_with_their_engagement_and_authors(db: Database) -> None:
    posts = (
        post(1, author_verified=1),
        post(2, score=-5, comments=None),
        post(3, score=None, comments=None),
        post(4, score=2, comments=None, reposts=4, author=None),
    )
    parts = tuple(part(one, words=str(n)) for n, one in enumerate(posts))
    put(db, posts=posts, parts=parts, scores=tuple(map(scored, parts)))
    found = sorted(rows(db, "social_posts"), key=lambda row: row["content_id"])
    assert [row["engagement"] for row in found] == [10, 0, None, 6]
    assert [row["author"] for row in found] == ["a1", "a2", "a3", None]
    assert found[0]["author_verified"] == 1
    assert {(row["source"], row["engagement_at"], row["story_id"]) for row in found} == {("reddit", T0, None)}


def test_from_texts_to_stored_aggregates(db: Database) -> None:
    news = [article("Bitcoin rises", END - 50 * 60_000, "a"), article("Bitcoin rises", END - 40 * 60_000, "b")]
    posts = (post(1, END - 30 * 60_000),)
    parts = (*(part(one, asset) for one in news for asset in (0, 1)), part(posts[0], 1, "moon"))
    put(db, *news, posts=posts, parts=parts, scores=(scored(parts[0], 0.5), scored(parts[-1], -0.1)))
    scores = pl.DataFrame([*rows(db, "crypto_news"), *rows(db, "social_posts")], schema=COLUMNS)
    found = aggregate(scores, [END], [("asset", 1), ("crypto", 0), ("stock", 0)], ["lexicon"], [3_600])
    db.run(lambda conn: queries.add_aggregates(conn, list(stored_rows(found, END + 5))))
    assert db.run(lambda conn: queries.add_aggregates(conn, list(stored_rows(found, END + 5)))) == 0  # a repetition
    with db.read() as conn:
        asked = {"start": END, "end": END + 1}
        (asset,) = queries.aggregates(conn, "asset", 1, "lexicon", "all", 3_600, **asked)
        (market,) = queries.aggregates(conn, "crypto", 0, "lexicon", "all", 3_600, **asked)
        (stocks,) = queries.aggregates(conn, "stock", 0, "lexicon", "all", 3_600, **asked)
    assert (asset["sentiment_volume"], asset["avg_sentiment"]) == (2, pytest.approx(0.2))  # the reprint counts once
    assert (market["sentiment_volume"], market["avg_sentiment"]) == (1, 0.5)
    assert (stocks["sentiment_volume"], stocks["avg_sentiment"]) == (0, None)


# --- cost ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["sqlite", pytest.param("mariadb", marks=pytest.mark.integration)])
def full(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    yield from filled(request, tmp_path_factory, "sentiment_plans", lambda db: history(db, range(600)))


def history(db: Database, numbers: range) -> None:
    """Newest last by number; the words of every second are scored."""
    news = [article(f"Story {n}", T0 - n * HOUR // 4, f"f{n}") for n in numbers]
    posts = [post(n, T0 - n * HOUR // 4) for n in numbers]
    parts = [part(one, asset, f"{asset}: {one['title']}") for one in news for asset in (0, 1)]
    parts += [part(one, words=one["title"]) for one in posts]
    put(db, *news, posts=tuple(posts), parts=tuple(parts), scores=tuple(scored(one) for one in parts[::2]))
    key = {"asset_id": 1, "scope": "asset", "model": "lexicon", "source": "all", "window_s": 3_600}
    order = {"known_at": T0, "rules_version": 1, "computed_at": T0, "values_hash": digest("x")}
    ends = [END - n * HOUR for n in numbers]
    aggregated = [key | {"window_end": end, "sentiment_volume": 0} | order for end in ends]
    db.run(lambda conn: queries.add_aggregates(conn, aggregated))


def test_reads_use_an_index(full: Database) -> None:
    since = T0 - DAY
    asked = {
        "unscored": queries.unscored_query("crypto_news", *MODEL, since=since).limit(50),
        "by any revision": queries.unscored_query("crypto_news", MODEL[0], None, since=since).limit(50),
        "a page of them": queries.unscored_query("crypto_news", *MODEL, after=(since, "a", 1, "b")).limit(50),
        "a range of them": queries.unscored_query(
            "crypto_news", *MODEL, after=(since, "a", 1, "b"), until=(T0, "a", 1, "b")
        ),
        **{
            f"scores of {kind}": queries.window_query(kind, ["lexicon", "vader"], since=since, until=END)
            for kind in queries.KINDS
        },
        "aggregates": queries.aggregates_query("asset", 1, "lexicon", "all", 3_600, start=END - DAY, end=END),
    }
    for name, query in asked.items():
        with full.read() as conn:
            lines = plan(conn, query)
        assert full_scans(lines) == [], (name, lines)


def test_their_cost_does_not_grow_with_history(full: Database) -> None:
    since = T0 - 2 * DAY

    def read(conn: Any) -> None:
        page = queries.unscored(conn, "crypto_news", *MODEL, since=since, limit=40)
        assert len(queries.texts_of_parts(conn, "crypto_news", page)) == 40
        assert queries.unscored(conn, "crypto_news", *MODEL, after=queries.place_of(page[-1]), limit=40)
        assert len(list(queries.window_rows(conn, "crypto_news", ["lexicon"], since=since, until=END))) > 100
        assert len(list(queries.window_rows(conn, "social_posts", ["lexicon"], since=since, until=END))) > 50
        assert len(queries.aggregates(conn, "asset", 1, "lexicon", "all", 3_600, start=END - DAY, end=END)) == 24

    before = rows_read(full, read)
    history(full, range(600, 1_800))
    assert rows_read(full, read) <= before * 1.3 + 5

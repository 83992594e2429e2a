"""A run scores what has no score, once; what cannot be had is named; nothing is lost or replaced, whatever ends it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from ray_app.cli import score
from ray_app.clock import ManualClock
from ray_app.collection.lease import LeaseKeeper
from ray_app.editions import text_hash
from ray_app.errors import ModelOutOfMemory
from ray_app.scoring import pages as paging
from ray_app.scoring import plans
from ray_app.scoring.pages import Page, PageScorer, pages
from ray_app.scoring.plans import plan
from ray_app.scoring.run import InProcess, Progress, Wanted, score_texts
from ray_app.sentiment.models import LocalModel
from ray_app.sentiment.vocabulary import TextScore
from ray_app.storage.engine import Database
from ray_app.storage.migrate import upgrade
from ray_app.storage.tables import crypto_news
from tests.scoring.world import NOW, in_process, put, scores, settings_of
from tests.sentiment import tiny

LOCAL = LocalModel("any", Path("fetched"), "r1", (0, 1, 2), safetensors=True)
BOTH = "Bitcoin surges while Ethereum plunges"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'node.db'}")
    upgrade(database)
    yield database
    database.dispose()


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "LEXICON_PARTS", 3)


def run(db: Database, tmp_path: Path, *models: str, pool: Any = None, **more: Any) -> dict[str, Progress]:
    return score_texts(settings_of(tmp_path), db, Wanted(models, **more), pool or in_process(db))


def test_a_text_is_scored_in_whole_and_for_each_asset_it_names(db: Database, tmp_path: Path) -> None:
    put(db, BOTH)
    done = run(db, tmp_path, "lexicon")["lexicon"]
    assert (done.parts, done.total, done.scored, done.unavailable) == (3, 3, 3, None)
    found = {row["text_hash"]: row["score"] for row in scores(db)}
    assert set(found) == {text_hash(words) for words in (BOTH, "Bitcoin surges", "Ethereum plunges")}
    assert found[text_hash("Bitcoin surges")] > 0 > found[text_hash("Ethereum plunges")]
    assert {row["known_at"] for row in scores(db)} == {NOW}


def test_the_same_words_are_scored_once_on_whatever_pages_they_stand(
    db: Database, tmp_path: Path, small_pages: None
) -> None:
    asked: list[str] = []

    def opened(_plan: object) -> Any:
        def score(texts: Any) -> list[TextScore]:
            asked.extend(texts)
            return [TextScore(0.5)] * len(texts)

        return score

    put(db, *["Bitcoin rises"] * 7, *[f"Story {n}" for n in range(5)])
    listed = list(pages(db, plan(settings_of(tmp_path), "lexicon")))
    assert len(listed) > 2
    done = run(db, tmp_path, "lexicon", pool=in_process(db, opened=opened))["lexicon"]
    assert sorted(asked) == sorted(["Bitcoin rises", *(f"Story {n}" for n in range(5))])
    assert (done.scored, done.percent) == (6, 100.0)
    assert run(db, tmp_path, "lexicon")["lexicon"].total == 0  # and never again


def test_a_run_that_was_killed_goes_on_where_it_was(db: Database, tmp_path: Path, small_pages: None) -> None:
    put(db, *[f"Bitcoin rises {n} percent" for n in range(20)])

    class Killed(BaseException):
        pass

    def dying(model: Any, run_id: str) -> Any:
        work, todo = PageScorer(model, db, ManualClock(NOW), run_id), [0]

        def page(one: Page) -> Any:
            todo[0] += 1
            if todo[0] > 3:
                raise Killed
            return work(one)

        return page

    with pytest.raises(Killed):
        run(db, tmp_path, "lexicon", pool=InProcess(dying))
    before = scores(db)
    assert 3 < len(before) < 10  # three pages
    assert run(db, tmp_path, "lexicon")["lexicon"].scored == 20 - len(before)
    assert [row for row in scores(db) if row["run_id"] == before[0]["run_id"]] == before
    assert len(scores(db)) == 20


def test_a_page_done_twice_is_stored_once(db: Database, tmp_path: Path) -> None:
    put(db, "Bitcoin rises", "Ethereum falls")
    lexicon = plan(settings_of(tmp_path), "lexicon")
    (page,) = pages(db, lexicon)
    first, second = (PageScorer(lexicon, db, ManualClock(NOW + n), f"run-{n}") for n in (0, 1))
    assert (first(page).scored, second(page).scored) == (2, 0)
    assert {row["run_id"] for row in scores(db)} == {"run-0"}


def test_the_newest_texts_come_first(db: Database, tmp_path: Path, small_pages: None) -> None:
    for n in range(6):
        put(db, f"Story {n} of gains", known_at=NOW - 10_000 + n)
    run(
        db, tmp_path, "lexicon", pool=lambda model, listed, run_id: map(in_process(db)._make(model, run_id), listed[:1])
    )
    assert {row["text_hash"] for row in scores(db)} == {text_hash(f"Story {n} of gains") for n in (3, 4, 5)}


def test_since_and_limit(db: Database, tmp_path: Path) -> None:
    put(db, "An old story", known_at=NOW - 50_000)
    put(db, "Story one", "Story two")
    assert run(db, tmp_path, "lexicon", since=NOW - 40_000_000, limit=2)["lexicon"].scored == 2
    assert run(db, tmp_path, "vader", since=NOW)["vader"].total == 0


def test_what_another_revision_scored_is_scored_again_only_when_asked(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(db, "Bitcoin rises")
    assert run(db, tmp_path, "lexicon")["lexicon"].scored == 1
    old = scores(db)
    monkeypatch.setattr(plans.lexicons.lexicon.builtin(), "revision", "2-newer")
    assert run(db, tmp_path, "lexicon")["lexicon"].total == 0
    later = in_process(db, ManualClock(NOW + 5))
    assert run(db, tmp_path, "lexicon", rescore=True, pool=later)["lexicon"].scored == 1
    assert [(row["revision"], row["known_at"]) for row in scores(db)] == [
        (old[0]["revision"], NOW),
        ("2-newer", NOW + 5),
    ]


def test_a_transformer_scores_the_texts_of_its_domain(db: Database, tmp_path: Path) -> None:
    tiny.bert(tmp_path / "finbert")
    put(db, "the market crashed")
    put(db, "the profit is strong", "the loss is very weak", stocks=True)
    done = run(db, tmp_path, "finbert", "cryptobert")
    assert (done["finbert"].scored, done["finbert"].unavailable) == (2, None)
    found = scores(db)
    assert {row["text_hash"] for row in found} == {
        text_hash("the profit is strong"),
        text_hash("the loss is very weak"),
    }
    for row in found:
        assert row["p_negative"] + row["p_neutral"] + row["p_positive"] == pytest.approx(1)
        assert row["score"] == pytest.approx(row["p_positive"] - row["p_negative"])
        assert row["revision"] == done["finbert"].revision
    # the other is not here: it says so, and its texts have no score
    assert done["cryptobert"].unavailable == f"{tmp_path / 'cryptobert'}: there is no such folder"
    assert done["cryptobert"].total == 0


def test_a_model_that_cannot_go_on_leaves_its_texts_unscored(db: Database, tmp_path: Path, small_pages: None) -> None:
    def out_of_memory(_plan: object) -> Any:
        def score(_texts: Any) -> list[TextScore]:
            raise ModelOutOfMemory("lexicon", "one text of 512 tokens does not fit")

        return score

    put(db, *[f"Story {n}" for n in range(8)])
    done = run(db, tmp_path, "lexicon", pool=in_process(db, opened=out_of_memory))["lexicon"]
    assert (done.scored, done.parts, done.unavailable) == (0, 0, "one text of 512 tokens does not fit")
    assert scores(db) == []


def test_what_has_nothing_to_score_is_stored_with_its_reason(db: Database, tmp_path: Path) -> None:
    put(db, "A plain story")
    done = run(db, tmp_path, "lexicon")["lexicon"]
    assert (done.scored, done.without) == (1, 1)
    assert [(row["score"], row["reason"]) for row in scores(db)] == [(None, "no word of the lexicon")]


def test_a_model_that_fails_leaves_the_others_their_turn(db: Database, tmp_path: Path) -> None:
    put(db, "Bitcoin rises")
    able = in_process(db)

    def pool(model: Any, listed: Any, run_id: str) -> Any:
        if model.name == "vader":
            raise RuntimeError("CUDA error: device-side assert triggered")
        return able(model, listed, run_id)

    done = run(db, tmp_path, "vader", "lexicon", pool=pool)
    assert (done["lexicon"].scored, done["vader"].unavailable) == (1, "it failed; the log says how")


def test_lexicons_come_before_weights() -> None:
    parts = score._quick_and_slow(Wanted(("cryptobert", "vader", "finbert", "lexicon"), since=5))
    assert [list(part.models) for part in parts] == [["vader", "lexicon"], ["cryptobert", "finbert"]]
    assert [part.since for part in parts] == [5, 5]
    assert len(score._quick_and_slow(Wanted(("vader",)))) == 1


def test_what_is_here_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(tmp_path)
    fetched: list[str] = []
    monkeypatch.setattr(plans.models, "fetch", lambda spec, _cache: fetched.append(spec.name) or LOCAL)
    tiny.bert(tmp_path / "finbert")
    assert plan(settings, "finbert", fetch=True).local is not LOCAL
    assert fetched == []
    (tmp_path / "finbert" / "config.json").write_text("{")  # half a file
    assert plan(settings, "finbert", fetch=True).local is LOCAL
    assert plan(settings, "cryptobert", fetch=True).local is LOCAL  # not here at all
    assert fetched == ["finbert", "cryptobert"]


def test_parts_whose_words_are_gone_hide_nobody_s(db: Database, tmp_path: Path, small_pages: None) -> None:
    put(db, "Gains one", "Bitcoin rises", "Gains two", "Gains three", "Gains four", known_at=NOW - 50_000)
    db.run(lambda conn: conn.execute(update(crypto_news).values(deleted_at=NOW)))
    put(db, "Bitcoin rises", known_at=NOW - 10)  # a reprint that is still there
    done = run(db, tmp_path, "lexicon", limit=1)["lexicon"]
    assert (done.total, done.scored) == (1, 1)
    assert run(db, tmp_path, "lexicon")["lexicon"].total == 0  # nothing that could be done is left


def test_two_runs_are_not_at_one_model(db: Database, tmp_path: Path) -> None:
    keeper = LeaseKeeper(db)
    lease = keeper.acquire("score:lexicon", "another", 60)
    assert lease is not None
    put(db, "Bitcoin rises")
    done = run(db, tmp_path, "lexicon", "vader")
    assert (done["lexicon"].scored, done["vader"].scored) == (0, 1)
    assert "another run is at it" in (done["lexicon"].unavailable or "")
    keeper.release(lease)
    assert run(db, tmp_path, "lexicon")["lexicon"].scored == 1
    assert keeper.acquire("score:lexicon", "another", 60) is not None  # given back

"""Aggregates of windows: by hand, against a plain reference, and free of look-ahead whatever is known later."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from ray_app.sentiment.aggregate import ALL, COLUMNS, GRACE_MS, HOUR_MS, KEY, REPRINT_MS, VALUES, WINDOWS, aggregate
from ray_app.storage import news_queries

H = HOUR_MS
T = 480_000 * H
BTC = ("asset", 1)
MINUTE = 60_000


def row(
    content_id: str = "a", known_at: int = T - 30 * MINUTE, score: float | None = 0.5, **more: Any
) -> dict[str, Any]:
    p = (None, None, None) if score is None else (max(-score, 0), 1 - abs(score), max(score, 0))
    return {
        "scope": "asset",
        "asset_id": 1,
        "content_id": content_id,
        "edition": "e1",
        "replaced_at": None,
        "deleted_at": None,
        "story_id": None,
        "source": "news",
        "model": "finbert",
        "revision": "r1",
        "published_at": known_at - 10 * MINUTE,
        "known_at": known_at,
        "score": score,
        **dict(zip(("p_negative", "p_neutral", "p_positive"), p, strict=True)),
        "engagement": None,
        "engagement_at": None,
        "author": None,
        "author_verified": None,
    } | more


def frame(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=COLUMNS)


def said(*rows: dict[str, Any], end: int = T, window: int = 3_600, source: str = ALL, **asked: Any) -> dict[str, Any]:
    found = aggregate(frame(*rows), [end], [asked.get("thing", BTC)], [asked.get("model", "finbert")], [window]).filter(
        pl.col("source") == source
    )
    return found.row(0, named=True)


def volumes(*rows: dict[str, Any], ends: range, window: int = 3_600) -> list[int]:
    found = aggregate(frame(*rows), [T + n * H for n in ends], [BTC], ["finbert"], [window])
    return found.filter(pl.col("source") == ALL)["sentiment_volume"].to_list()


def test_a_window_by_hand() -> None:
    one = said(
        row("a", score=0.8, source="reddit", engagement=99, author="x", author_verified=1),
        row("b", score=-0.6, source="reddit", engagement=0, author="x", author_verified=0),
        row("c", score=0.1),
    )
    assert one["sentiment_volume"] == 3
    assert one["avg_sentiment"] == pytest.approx(0.1)
    assert one["weighted_sentiment"] == pytest.approx((0.8 * 0.8 - 0.6 * 0.6 + 0.1 * 0.9) / 2.3)
    assert one["engagement_weighted_sentiment"] == pytest.approx(0.8)  # log(1 + 0) is no weight
    assert one["verified_user_sentiment"] == pytest.approx(0.8)
    assert [one[f"sentiment_{label}"] for label in ("positive", "neutral", "negative")] == [pytest.approx(1 / 3)] * 3
    assert one["avg_confidence"] == pytest.approx(2.3 / 3)
    assert one["sentiment_dispersion"] == pytest.approx(statistics.stdev([0.8, -0.6, 0.1]))
    assert one["total_engagement"] == 99
    assert one["unique_authors"] == 1


def test_an_empty_window_is_null_with_a_volume_of_zero() -> None:
    one = said(row(known_at=T - 5 * H))
    assert one["sentiment_volume"] == 0
    assert {name for name in VALUES if one[name] is not None} == {"sentiment_volume"}


def test_every_thing_and_model_asked_for_has_a_row_though_nothing_is_known() -> None:
    found = aggregate(frame(), [T, T + H], [BTC, ("crypto", 0)], ["finbert", "vader"])
    assert found.height == 2 * 2 * 2 * len(WINDOWS)
    assert found["sentiment_volume"].to_list() == [0] * found.height
    assert found.columns == [*KEY, *VALUES]
    assert aggregate(frame(row()), [], [BTC], ["finbert"]).height == 0
    assert aggregate(frame(row()), [T], [], ["finbert"]).height == 0


def test_one_text_has_no_dispersion_and_nothing_before_it_no_momentum() -> None:
    one = said(row())
    assert one["sentiment_dispersion"] is one["sentiment_momentum"] is None
    assert one["total_engagement"] is one["unique_authors"] is one["engagement_weighted_sentiment"] is None


def test_momentum_is_against_the_window_before() -> None:
    rows = [row("a", T - 30 * MINUTE, 0.5), row("b", T - 90 * MINUTE, -0.25)]
    assert said(*rows)["sentiment_momentum"] == pytest.approx(0.75)
    assert said(*rows, window=4 * 3_600)["sentiment_momentum"] is None
    assert said(*rows, source="news")["sentiment_momentum"] == pytest.approx(0.75)


def test_by_source_and_all_together() -> None:
    rows = [row("a", score=0.5), row("b", score=-0.5, source="reddit"), row("c", score=-0.1, source="reddit")]
    assert said(*rows, source="news")["sentiment_volume"] == 1
    assert said(*rows, source="reddit")["avg_sentiment"] == pytest.approx(-0.3)
    assert said(*rows)["sentiment_volume"] == 3
    with pytest.raises(ValueError, match="of no source"):
        said(row(source=ALL))


def test_models_scopes_and_assets_are_apart() -> None:
    rows = [
        row("a", score=0.5),
        row("a", score=-0.5, model="vader"),
        row("a", score=0.1, scope="crypto", asset_id=0),
        row("a", score=0.9, asset_id=2),
    ]
    assert said(*rows)["avg_sentiment"] == 0.5
    assert said(*rows, model="vader")["avg_sentiment"] == -0.5
    assert said(*rows, thing=("crypto", 0))["avg_sentiment"] == pytest.approx(0.1)
    assert said(*rows, thing=("asset", 2))["avg_sentiment"] == 0.9


@pytest.mark.parametrize(
    ("model", "score", "label"),
    [
        ("vader", 0.05, "positive"),
        ("vader", 0.04, "neutral"),
        ("textblob", -0.1, "negative"),
        ("textblob", 0.09, "neutral"),
    ],
)
def test_what_has_no_probabilities_of_its_opinion_is_labelled_by_its_score(
    model: str, score: float, label: str
) -> None:
    shares = {"p_negative": None, "p_neutral": None, "p_positive": None} if model == "textblob" else {"p_neutral": 0.99}
    one = said(row(score=score, model=model, **shares), model=model)
    assert one[f"sentiment_{label}"] == 1.0
    assert (one["weighted_sentiment"] is None) == (model == "textblob")


def test_a_tie_is_neutral() -> None:
    assert said(row(score=0.0, p_negative=0.4, p_neutral=0.2, p_positive=0.4))["sentiment_neutral"] == 1.0


# --- time -----------------------------------------------------------------------------------------------------


def test_a_window_holds_what_counts_after_its_beginning_until_its_end() -> None:
    assert volumes(row(known_at=T), ends=range(-1, 3)) == [0, 1, 0, 0]
    assert volumes(row(known_at=T + 1), ends=range(-1, 3)) == [0, 0, 1, 0]


def test_a_text_published_before_the_hour_and_scored_after_it_is_in_the_next() -> None:
    late = row(known_at=T + 5 * MINUTE, published_at=T - 10 * MINUTE)
    assert volumes(late, ends=range(3)) == [0, 1, 0]


def test_a_text_that_waited_long_counts_where_it_belongs_once_it_is_known() -> None:
    late = row(known_at=T + 10 * H, published_at=T)
    assert volumes(late, ends=range(30), window=24 * 3_600) == [0] * 10 + [1] * 16 + [0] * 4  # to 24 h + GRACE_MS
    assert volumes(late, ends=range(30)) == [0] * 30


def test_an_old_text_is_no_news_of_today() -> None:
    old = row(known_at=T - 5 * MINUTE, published_at=T - 400 * 24 * H)
    for window in WINDOWS:
        assert said(old, window=window)["sentiment_volume"] == 0
    assert said(row(published_at=None))["sentiment_volume"] == 1  # no date: of when it was first seen


def test_a_rescore_replaces_from_when_it_is_known_and_counts_no_second_time() -> None:
    rows = [row("a", T - 30 * MINUTE, 0.5), row("a", T + 90 * MINUTE, -0.5, revision="r2")]
    day = aggregate(frame(*rows), [T + n * H for n in range(4)], [BTC], ["finbert"], [24 * 3_600])
    day = day.filter(pl.col("source") == ALL)
    assert day["avg_sentiment"].to_list() == [0.5, 0.5, -0.5, -0.5]
    assert day["sentiment_volume"].to_list() == [1, 1, 1, 1]
    assert volumes(*rows, ends=range(4)) == [1, 0, 0, 0]


def test_of_an_edited_text_the_edition_known_at_the_end_counts_and_none_until_it_is_scored() -> None:
    before = row("a", T - 30 * MINUTE, 0.5, replaced_at=T + 30 * MINUTE)
    after = row("a", T + 90 * MINUTE, -0.5, edition="e2")
    asked = {"window": 24 * 3_600}
    assert said(before, after, end=T, **asked)["avg_sentiment"] == 0.5
    assert said(before, after, end=T + H, **asked)["sentiment_volume"] == 0  # what it says now has no score yet
    assert said(before, after, end=T + 2 * H, **asked)["avg_sentiment"] == -0.5
    late = before | {"known_at": T + 100 * MINUTE}  # scored after it was replaced: it never stood
    assert said(late, after, end=T + 2 * H, **asked)["avg_sentiment"] == -0.5
    assert said(before, end=T + 2 * H, **asked)["sentiment_volume"] == 0  # the new edition names the asset no more


def test_a_deleted_text_counts_until_it_is_known_to_be_deleted() -> None:
    gone = row("a", T - 30 * MINUTE, 0.5, deleted_at=T + 30 * MINUTE)
    assert said(gone, end=T)["sentiment_volume"] == 1
    assert said(gone, end=T + H, window=24 * 3_600)["sentiment_volume"] == 0


def test_a_date_that_is_corrected_later_moves_no_text_out_of_its_hour() -> None:
    corrected = row("a", T + 90 * MINUTE, 0.5, revision="r2", published_at=T - 5 * H)
    assert volumes(row("a", T - 30 * MINUTE), corrected, ends=range(3)) == [1, 0, 0]


def test_engagement_that_was_measured_later_is_not_known_yet() -> None:
    grown = row("a", T - 30 * MINUTE, engagement=900, engagement_at=T + 30 * MINUTE)
    assert said(grown)["total_engagement"] is None
    assert said(grown, window=4 * 3_600, end=T + H)["total_engagement"] == 900


# --- reprints -------------------------------------------------------------------------------------------------


def test_of_reprints_the_first_known_stands() -> None:
    told = [
        row("b", T - 20 * MINUTE, -0.5, story_id="s"),
        row("a", T - 30 * MINUTE, 0.5, story_id="s"),
        row("c", T - H // 2, 0.1),
    ]
    one = said(*told)
    assert one["sentiment_volume"] == 2
    assert one["avg_sentiment"] == pytest.approx(0.3)


def test_a_reprint_of_an_earlier_window_is_no_news_either() -> None:
    chain = [row(str(n), T + n * 10 * H, story_id="s") for n in range(4)]  # each 10 h after the one before
    assert volumes(*chain, ends=range(31)) == [1] + [0] * 30
    assert REPRINT_MS > 10 * H


def test_a_title_that_comes_back_a_day_later_is_another_story() -> None:
    assert volumes(row("a", T, story_id="s"), row("b", T + REPRINT_MS, story_id="s"), ends=range(21))[20] == 1
    assert volumes(row("a", T, story_id="s"), row("b", T + REPRINT_MS - 1, story_id="s"), ends=range(21))[20] == 0


def test_reprints_are_what_the_news_api_calls_so() -> None:
    assert REPRINT_MS == news_queries.REPRINT_MS


def test_the_same_story_about_another_asset_or_by_another_model_is_counted_there() -> None:
    rows = [row("a", story_id="s"), row("b", story_id="s", asset_id=2), row("b", story_id="s", model="vader")]
    assert said(*rows)["sentiment_volume"] == 1
    assert said(*rows, thing=("asset", 2))["sentiment_volume"] == 1
    assert said(*rows, model="vader")["sentiment_volume"] == 1


@pytest.mark.parametrize(("ends", "windows"), [([T + 1], [3_600]), ([T], [1_800]), ([T], [0])])
def test_parts_of_hours_are_refused(ends: list[int], windows: list[int]) -> None:
    with pytest.raises(ValueError, match="full hours"):
        aggregate(frame(), ends, [BTC], ["finbert"], windows)


def test_columns_that_are_missing_are_named() -> None:
    with pytest.raises(ValueError, match="no column story_id, model"):
        aggregate(frame().drop("story_id", "model"), [T], [BTC], ["finbert"])


# --- properties -----------------------------------------------------------------------------------------------

TIMES = st.integers(-30 * 4, 30 * 4).map(lambda quarter: T + quarter * 15 * MINUTE)
#: of a text, whatever is scored of it
STORIES = dict(zip("abcdefgh", ["s", "s", "s", "t", "t", None, None, None], strict=True))
ROWS = st.lists(
    st.builds(
        lambda content, known, score, age, **more: row(
            content, known, score, published_at=known - age, story_id=STORIES[content], **more
        ),
        st.sampled_from("abcdefgh"),
        TIMES,
        st.one_of(st.none(), st.sampled_from([-0.9, -0.4, 0.0, 0.3, 0.8])),
        st.sampled_from([0, 5 * MINUTE, 3 * H, 30 * H]),
        source=st.sampled_from(["news", "reddit"]),
        revision=st.sampled_from(["r1", "r2"]),
        engagement=st.sampled_from([None, 0, 7]),
        engagement_at=st.one_of(st.none(), TIMES),
        author=st.sampled_from([None, "x", "y"]),
        author_verified=st.sampled_from([None, 0, 1]),
        asset_id=st.sampled_from([1, 2]),
        replaced_at=st.one_of(st.none(), TIMES),
        deleted_at=st.one_of(st.none(), TIMES),
    ),
    max_size=25,
    unique_by=lambda r: (r["asset_id"], r["content_id"], r["known_at"], r["revision"]),
)
ENDS = [T + n * H for n in (-12, -3, 0, 1, 4, 25)]
THINGS = [("asset", 1), ("asset", 2)]


def same(one: pl.DataFrame, other: pl.DataFrame) -> None:
    assert_frame_equal(one, other, rel_tol=1e-12, abs_tol=1e-12)


@settings(max_examples=12)
@given(ROWS, st.sampled_from(ENDS))
def test_what_is_known_later_changes_no_earlier_window(rows: list[dict[str, Any]], cut: int) -> None:
    ends = [end for end in ENDS if end <= cut]
    known = [
        r
        | ({"engagement": None, "engagement_at": None} if (r["engagement_at"] or 0) > cut else {})
        | {name: None for name in ("replaced_at", "deleted_at") if (r[name] or 0) > cut}
        for r in rows
        if r["known_at"] <= cut
    ]
    asked = (ends, THINGS, ["finbert"], WINDOWS)
    same(aggregate(frame(*rows), *asked), aggregate(frame(*known), *asked))


@settings(max_examples=12)
@given(ROWS)
def test_one_end_at_a_time_is_all_at_once(rows: list[dict[str, Any]]) -> None:
    whole = aggregate(frame(*rows), ENDS, THINGS, ["finbert"], WINDOWS[:3])
    parts = [aggregate(frame(*reversed(rows)), [end], THINGS, ["finbert"], WINDOWS[:3]) for end in ENDS]
    same(whole, pl.concat(parts).sort(KEY))


def over(one: dict[str, Any]) -> float:
    """When it says that no more."""
    return min((one[name] for name in ("replaced_at", "deleted_at") if one[name] is not None), default=math.inf)


def reference(rows: list[dict[str, Any]], asset_id: int, window_s: int, end: int) -> list[dict[str, Any]]:
    """The rows that stand in a window, by the words of the module's docstring, one after the other."""
    texts = defaultdict(list)
    for r in rows:
        if r["score"] is not None and r["asset_id"] == asset_id and r["known_at"] <= end and r["known_at"] < over(r):
            texts[r["content_id"]].append(r)
    ordered = {c: sorted(found, key=lambda r: (r["known_at"], r["revision"])) for c, found in texts.items()}
    stories: dict[str, int] = {}
    standing = []
    for _, found in sorted(ordered.items(), key=lambda item: (item[1][0]["known_at"], item[0])):
        first = found[0]
        before = stories.get(first["story_id"])
        if first["story_id"] is not None:
            stories[first["story_id"]] = first["known_at"]
        if before is not None and first["known_at"] - before < REPRINT_MS:
            continue
        moment = min(first["known_at"], first["published_at"] + GRACE_MS)
        if end - window_s * 1_000 < moment <= end < over(found[-1]):
            standing.append(found[-1])
    return standing


@settings(max_examples=12)
@given(ROWS)
def test_it_agrees_with_a_plain_reference(rows: list[dict[str, Any]]) -> None:
    found = aggregate(frame(*rows), ENDS, THINGS, ["finbert"]).filter(pl.col("source") == ALL)
    for one in found.rows(named=True):
        held = reference(rows, one["asset_id"], one["window_s"], one["window_end"])
        before = reference(rows, one["asset_id"], one["window_s"], one["window_end"] - one["window_s"] * 1_000)
        scores = [r["score"] for r in held]
        known = [r for r in held if r["engagement"] is not None and (r["engagement_at"] or 0) <= one["window_end"]]
        weight = sum(math.log1p(r["engagement"]) for r in known)
        assert one["sentiment_volume"] == len(held)
        assert one["avg_sentiment"] == (pytest.approx(statistics.fmean(scores)) if held else None)
        assert one["sentiment_dispersion"] == (pytest.approx(statistics.stdev(scores)) if len(held) > 1 else None)
        assert one["total_engagement"] == (sum(r["engagement"] for r in known) if known else None)
        assert one["engagement_weighted_sentiment"] == (
            pytest.approx(sum(math.log1p(r["engagement"]) * r["score"] for r in known) / weight) if weight else None
        )
        shift = statistics.fmean(scores) - statistics.fmean(r["score"] for r in before) if held and before else None
        assert one["sentiment_momentum"] == (None if shift is None else pytest.approx(shift, abs=1e-12))

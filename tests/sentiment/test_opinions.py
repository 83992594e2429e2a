"""The ensemble over tables is the ensemble over texts, as it was known at each moment."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_app.sentiment.aggregate import ALL, COLUMNS, HOUR_MS, aggregate
from ray_app.sentiment.ensemble import WEIGHTS, Ensemble
from ray_app.sentiment.opinions import opinions
from ray_app.sentiment.vocabulary import TextScore
from tests.sentiment.test_aggregate import BTC, MINUTE, T, frame, row

CRYPTO = Ensemble("crypto", {"cryptobert": 2.0, "vader": 5.0})


def only_score(**more: Any) -> dict[str, Any]:
    return row(model="textblob", **more) | dict.fromkeys(("p_negative", "p_neutral", "p_positive"))


def test_each_moment_has_the_opinion_of_the_members_known_by_then() -> None:
    one = row("a", T, 0.6, model="lexicon")
    late = row("a", T + 90 * MINUTE, -0.9, model="cryptobert")
    found = opinions(frame(one, late, row("a", T, 0.9, model="finbert")), CRYPTO).sort("known_at")
    assert found["known_at"].to_list() == [T, T + 90 * MINUTE]
    assert found["members"].to_list() == ["lexicon", "cryptobert lexicon"]
    assert found["score"][0] > 0 > found["score"][1]
    assert set(found["model"]) == {"ensemble"}
    assert set(found["revision"]) == {CRYPTO.revision}
    day = aggregate(found, [T, T + HOUR_MS, T + 2 * HOUR_MS], [BTC], ["ensemble"], [86_400])
    day = day.filter(pl.col("source") == ALL)
    assert day["sentiment_volume"].to_list() == [1, 1, 1]
    assert day["avg_sentiment"].to_list() == [*[found["score"][0]] * 2, found["score"][1]]


def test_without_members_there_is_no_row() -> None:
    lost = row("c", model="lexicon") | dict.fromkeys(("p_negative", "p_neutral", "p_positive"))
    found = opinions(frame(row("a", model="finbert"), row("b", score=None, model="lexicon"), lost), CRYPTO)
    assert found.height == 0
    assert set(found.columns) == {*COLUMNS, "members"}
    assert opinions(frame(), CRYPTO).height == 0


ROWS = st.lists(
    st.builds(
        lambda content, at, score, model, revision, asset: (
            only_score(content_id=content, known_at=T + at, score=score, revision=revision, asset_id=asset)
            if model == "textblob"
            else row(content, T + at, score, model=model, revision=revision, asset_id=asset)
        ),
        st.sampled_from("abc"),
        st.integers(0, 4),
        st.sampled_from([-0.9, -0.2, 0.0, 0.4, 0.8]),
        st.sampled_from([*WEIGHTS["crypto"], "finbert"]),
        st.sampled_from(["r1", "r2"]),
        st.sampled_from([1, 2]),
    ),
    max_size=20,
    unique_by=lambda r: (r["asset_id"], r["content_id"], r["model"], r["known_at"], r["revision"]),
)


@settings(max_examples=30)
@given(ROWS)
def test_it_is_what_combine_says_of_each_text_at_each_moment(rows: list[dict[str, Any]]) -> None:
    found = opinions(frame(*rows), CRYPTO)
    members = [r for r in rows if r["model"] in WEIGHTS["crypto"]]
    assert found.height == len({(r["asset_id"], r["content_id"], r["known_at"]) for r in members})
    for one in found.rows(named=True):
        known = [
            r
            for r in sorted(members, key=lambda r: (r["known_at"], r["revision"]))
            if (r["asset_id"], r["content_id"]) == (one["asset_id"], one["content_id"])
            and r["known_at"] <= one["known_at"]
        ]
        said = CRYPTO.combine(
            {
                r["model"]: TextScore(
                    r["score"], None if r["p_neutral"] is None else (r["p_negative"], r["p_neutral"], r["p_positive"])
                )
                for r in known
            }
        )
        assert (one["p_negative"], one["p_neutral"], one["p_positive"]) == pytest.approx(said.probabilities)
        assert one["score"] == pytest.approx(said.score, abs=1e-12)
        assert one["members"].split() == [model for model in WEIGHTS["crypto"] if model in said.members]

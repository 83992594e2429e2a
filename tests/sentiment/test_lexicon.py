"""The words of the trade: negation, intensifiers, percent moves, emoji; whole words only; nothing without evidence."""

from __future__ import annotations

import csv
import io
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_app.sentiment.lexicon import EMPTY, NO_EVIDENCE, Lexicon, builtin

HEADER = "kind,weight,forms\n"


def score(text: str) -> float:
    found = builtin().score(text).score
    assert found is not None, text
    return found


def evidence(text: str) -> list[tuple[str, float]]:
    return [(words, round(value, 3)) for words, value in builtin().evidence(text)]


@pytest.mark.parametrize(
    ("more", "less"),
    [
        ("BTC is very bullish", "BTC is bullish"),
        ("BTC is bullish", "BTC is slightly bullish"),
        ("BTC is slightly bullish", "BTC is not bullish"),
        ("BTC is not bearish", "BTC is bearish"),
        ("BTC surges 9%", "BTC surges 2%"),
        ("BTC falls 2%", "BTC falls 9%"),
        ("unemployment falls", "unemployment rises"),
        ("Bitcoin recovers losses", "Bitcoin widens losses"),
        ("ETH averts a crash", "ETH sees a crash"),
    ],
)
def test_one_text_is_better_than_another(more: str, less: str) -> None:
    assert score(more) > score(less)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("not bullish", [("bullish", -0.4)]),
        ("no longer bullish", [("bullish", -0.4)]),
        ("isn’t bullish", [("bullish", -0.4)]),
        ("No. Bullish!", [("bullish", 0.8)]),  # the negation ended with its sentence
        ("not now, but bullish", [("bullish", 0.8)]),
        ("not only bullish", [("bullish", 0.8)]),
        ("very bullish", [("bullish", 1.04)]),
        ("extremely very bullish", [("bullish", 1.2)]),  # at most half as much again
        ("slightly bullish", [("bullish", 0.4)]),
        ("down 12 %", [("down", -1.0)]),
        ("falls 3 percent", [("falls", -0.3)]),
        ("fell by more than 2.5%", [("fell", -0.25)]),
        ("surges 1,200%", [("surges", 1.0)]),
        ("rises 0,5%", [("rises", 0.05)]),
        ("rises 1.234,56%", [("rises", 1.0)]),
        ("rises 1,2,3%", [("rises", 0.6)]),
        ("a 4% drop", [("drop", -0.4)]),
        ("up 3% and 5% down", [("up", 0.3), ("down", -0.5)]),
        ("+8% today", [("+8%", 0.8)]),
        ("−4.2% today", [("-4.2%", -0.42)]),
        ("down -5%", [("down", -0.5)]),
        ("rates fell to 5%", [("fell", 0.6)]),  # a level; and falling rates are good
        ("inflation rises 5%", [("rises", -0.5)]),
        ("rising fees", [("rising", -0.6)]),
        ("🚀 then 📉", [("🚀", 0.8), ("📉", -0.8)]),
        ("an all-time high", [("all time high", 0.7)]),
        ("dead cat bounce", [("dead cat bounce", -0.6)]),  # the longest phrase, not the bounce
    ],
)
def test_what_counts_and_for_how_much(text: str, expected: list[tuple[str, float]]) -> None:
    assert evidence(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "hackathon",  # never by substring
        "the bearer of these shares",
        "https://example.com/rug-pull?x=crash",
        "$PUMP and $DUMP by @crash_bot",
        "a crash course in short term trading",
        "the fear and greed index",
        "5% of the supply, 3-5% a year",
        "1.2.3% unreadable",
        "1,2,3% and 1.5,3 percent",
        "比特币",
    ],
)
def test_nothing_counts_that_only_looks_like_a_word_of_ours(text: str) -> None:
    scored = builtin().score(text)
    assert scored == (None, None, NO_EVIDENCE)


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_empty_text_says_so(text: str) -> None:
    assert builtin().score(text) == (None, None, EMPTY)


def test_evidence_on_both_sides_that_cancels_is_a_real_zero() -> None:
    scored = builtin().score("bullish and bearish")
    assert scored.score == 0.0
    assert scored.probabilities is not None
    assert scored.probabilities[0] == scored.probabilities[2] == pytest.approx(0.8 / 2.1)


@given(
    st.lists(st.sampled_from(["bullish", "not", "very", "crash", "12%", "+3%", ".", "but", "up", "🚀", "fees", "x"]))
)
def test_the_probabilities_are_some_and_the_score_is_their_difference(words: list[str]) -> None:
    scored = builtin().score(" ".join(words))
    if scored.score is None:
        assert scored.probabilities is None
        assert scored.reason
        return
    negative, neutral, positive = scored.probabilities or (0, 0, 0)
    assert negative + neutral + positive == pytest.approx(1)
    assert min(negative, neutral, positive) >= 0
    assert scored.score == positive - negative
    assert scored.confidence == max(negative, neutral, positive)


@given(st.text())
def test_any_text_at_all_is_read(text: str) -> None:
    builtin().score(text)


def test_a_text_of_a_megabyte_is_read_as_far_as_it_says() -> None:
    assert builtin().score("bitcoin crash, not up 5% " * 40_000) == builtin().score("bitcoin crash, not up 5% " * 2_400)


def test_the_revision_is_of_the_data() -> None:
    one, other = (Lexicon((HEADER + f"term,{weight},bullish\n").encode()) for weight in (0.8, 0.7))
    assert one.revision != other.revision
    assert one.revision == Lexicon((HEADER + "term,0.8,bullish\n").encode()).revision


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("term,x,up", "line 2: could not convert"),
        ("verb,1,up", "line 2: kind 'verb'"),
        ("term,3,up", "weight 3.0"),
        ("term,1,sell-off", "not written as texts are read"),
        ("term,1,up|up", "listed twice"),
        ("move,1,up\ninvert,0,up", "line 3: 'up' is listed twice"),
        ("term", "line 2"),
    ],
)
def test_data_that_cannot_be_meant_are_refused(row: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Lexicon((HEADER + row + "\n").encode())


def test_the_data_hold_several_hundred_terms_on_either_side() -> None:
    text = resources.files("ray_app.sentiment").joinpath("lexicon.csv").read_text("utf-8")
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["kind"] in ("term", "move")]
    for sign in (1, -1):
        assert sum(row["forms"].count("|") + 1 for row in rows if float(row["weight"]) * sign > 0) > 300

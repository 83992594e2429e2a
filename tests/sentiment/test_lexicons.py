"""Each model says what the program of its name says; a million texts cost no memory; what cannot be had says why."""

from __future__ import annotations

import csv
import sys
import tracemalloc
from importlib.util import find_spec
from pathlib import Path

import pytest

from ray_app.errors import ModelUnavailable
from ray_app.sentiment import lexicons
from ray_app.sentiment.vocabulary import LEXICONS

needs = {name: pytest.mark.skipif(find_spec(name) is None, reason=name) for name in ("vaderSentiment", "textblob")}
ALL = [
    pytest.param("vader", marks=needs["vaderSentiment"]),
    pytest.param("textblob", marks=needs["textblob"]),
    "lexicon",
]
TEXTS = [
    "Bitcoin is great, awesome!",
    "This is a horrible scam :(",
    "The market opened",
    "not good",
    "🚀 to the moon 😀",
]


@needs["vaderSentiment"]
def test_vader_is_the_package_word_for_word() -> None:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    published = SentimentIntensityAnalyzer()
    for text, ours in zip(TEXTS, lexicons.load("vader").scores(TEXTS), strict=True):
        said = published.polarity_scores(text)
        assert ours.score == said["compound"]
        assert ours.probabilities == pytest.approx((said["neg"], said["neu"], said["pos"]), abs=1e-3)
        assert sum(ours.probabilities or ()) == pytest.approx(1, abs=1e-12)


@needs["vaderSentiment"]
def test_emoji_count_as_the_words_that_vader_makes_of_them() -> None:
    """It takes time in the square of those: seconds for five thousand."""
    vader = lexicons.load("vader")
    read = lexicons.LONGEST // (len("rocket") + 1)
    assert vader._begin("🚀" * 5_000) == "🚀" * read
    assert list(vader.scores(["🚀" * 5_000])) == list(vader.scores(["🚀" * read]))


@pytest.mark.parametrize("name", ALL)
def test_a_text_may_begin_with_a_page_of_blanks(name: str) -> None:
    model = lexicons.load(name)
    assert list(model.scores([" " * lexicons.LONGEST + "a great gain"])) == list(model.scores(["a great gain"]))


@needs["textblob"]
def test_textblob_is_its_polarity_and_has_no_probabilities() -> None:
    from textblob import TextBlob

    for text, ours in zip(TEXTS, lexicons.load("textblob").scores(TEXTS), strict=True):
        assert ours == (TextBlob(text).sentiment.polarity, None, None)
        assert ours.confidence is None


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("text", ["", "  \n ", "…!?"])
def test_a_text_without_words_is_null_with_a_reason(name: str, text: str) -> None:
    scored = lexicons.load(name).scores([text])
    (one,) = scored
    if name == "vader" and text == "…!?":  # the package takes punctuation for a word, and that for neutral
        assert one.score == 0.0
        return
    assert one.score is one.probabilities is None
    assert one.reason


@pytest.mark.parametrize("name", ALL)
def test_a_long_text_is_cut_after_a_word(name: str) -> None:
    model = lexicons.load(name)
    many = "good news today " * 100_000
    assert next(iter(model.scores([many]))).score is not None
    if name != "lexicon":
        cut = many[: lexicons.LONGEST].rsplit(None, 1)[0]
        assert list(model.scores([many])) == list(model.scores([cut]))


@pytest.mark.parametrize("name", ALL)
def test_texts_are_scored_as_they_are_asked_for_and_leave_nothing_behind(name: str) -> None:
    """The first thousands fill what the packages keep; after that memory does not grow with texts, all distinct."""
    model = lexicons.load(name)
    stream = model.scores(f"Bitcoin {n} is bullish, up {n % 30}% and not a scam{n}" for n in range(10**9))
    for _ in range(500):
        next(stream)
    tracemalloc.start()
    for _ in range(1_500):  # Python keeps the memory of some hundred tuples for the next ones
        next(stream)
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(1_500):
        next(stream)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 20_000  # bytes: a score a text would be 200 kB


def test_there_is_a_model_for_each_name_and_no_other() -> None:
    assert set(lexicons._LOADERS) == set(LEXICONS)
    with pytest.raises(KeyError):
        lexicons.load("financial_patterns")


@pytest.mark.parametrize("name", ALL)
def test_the_revision_fits_its_column(name: str) -> None:
    model = lexicons.load(name)
    assert model.name == name
    assert model.revision.isascii()
    assert 0 < len(model.revision) <= 64
    assert model.revision == lexicons.load(name).revision


@pytest.mark.parametrize(("name", "package"), [("vader", "vaderSentiment"), ("textblob", "textblob")])
def test_a_package_that_is_not_there_makes_the_model_unavailable(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    for module in [m for m in sys.modules if m == package or m.startswith(f"{package}.")] + [package]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModelUnavailable, match=f"model unavailable: {name}: .*pip install {package}"):
        lexicons.load(name)


@needs["textblob"]
def test_textblob_without_its_words_is_unavailable_not_neutral(monkeypatch: pytest.MonkeyPatch) -> None:
    import textblob.en

    monkeypatch.setattr(textblob.en.sentiment, "_path", "/nowhere/en-sentiment.xml")
    with pytest.raises(ModelUnavailable, match="word list cannot be read"):
        lexicons.load("textblob")


@pytest.mark.shared_data
def test_on_labelled_posts_the_lexicon_is_right_more_often_than_not(shared_data: Path) -> None:
    with (shared_data / "text" / "reddit_crypto_labelled.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    scored = [
        (s.score, row["label"])
        for s, row in zip(lexicons.load("lexicon").scores(r["text"] for r in rows), rows, strict=True)
    ]
    decided = [(score > 0) == (label == "Positive") for score, label in scored if score]
    assert len(decided) > 0.7 * len(rows)
    assert sum(decided) > 0.75 * len(decided)

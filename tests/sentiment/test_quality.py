from __future__ import annotations

import pytest

from ray_app.errors import ConfigError
from ray_app.sentiment.quality import Judged, Labelled, calibration_error, macro_f1, read_labelled, scorecard

NEG, NEU, POS = (0.8, 0.1, 0.1), (0.1, 0.7, 0.2), (0.0, 0.4, 0.6)


def test_labels_of_any_case_and_either_vocabulary(tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text(
        'LABEL,url,Text\nPositive,u,"up, ""up"""\nbearish,u,down\nNEUTRAL,u,"two\nlines"\n', encoding="utf-8-sig"
    )
    assert list(read_labelled(path)) == [
        Labelled('up, "up"', "positive", "texts.csv"),
        Labelled("down", "negative", "texts.csv"),
        Labelled("two\nlines", "neutral", "texts.csv"),
    ]


def test_a_column_source_is_taken(tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text("text,label,source\nup,positive,reddit\ndown,negative,\n")
    assert [row.source for row in read_labelled(path)] == ["reddit", "texts.csv"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "names no columns"),
        ("title,label\nup,positive\n", "names no columns"),
        ("text,label\nup,positive\ndown,LABEL_0\n", "line 3: the label is 'LABEL_0'"),
        ("text,label\nup\n", "line 2: 1 fields"),
    ],
)
def test_a_file_we_cannot_read_is_named_with_its_line(tmp_path, content, message):
    path = tmp_path / "texts.csv"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        list(read_labelled(path))


def test_the_counts_by_hand():
    said = [Judged.of(p) for p in (NEG, NEG, POS, NEU, None)]
    card = scorecard(["negative", "positive", "positive", "neutral", "neutral"], said)
    assert (card.texts, card.scored, card.accuracy) == (5, 4, 0.75)
    assert card.macro_f1 == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert card.two_class_accuracy is None


def test_neutral_is_an_error_where_no_text_is_neutral_and_the_leaning_is_told_apart():
    leaning = Judged.of((0.1, 0.6, 0.3))
    card = scorecard(["positive", "negative"], [leaning, Judged.of(NEG)])
    assert card.accuracy == 0.5
    assert card.macro_f1 == pytest.approx((0 + 1) / 2)
    assert card.two_class_accuracy == 1.0


def test_a_score_of_nothing_leans_nowhere():
    assert scorecard(["positive", "negative"], [Judged("neutral", 0.0)] * 2).two_class_accuracy == 0.0


def test_macro_f1_against_a_textbook_case():
    truth = ["a"] * 6 + ["b"] * 3 + ["c"]
    said = ["a", "a", "a", "a", "b", "c", "b", "b", "a", "c"]
    assert macro_f1(truth, said) == pytest.approx((8 / 11 + 4 / 6 + 2 / 3) / 3)


def test_calibration_error_is_the_gap_between_sure_and_right():
    assert calibration_error([0.8] * 10, [True] * 8 + [False] * 2) == pytest.approx(0)
    assert calibration_error([0.9] * 10, [True] * 5 + [False] * 5) == pytest.approx(0.4)
    assert calibration_error([1.0, 0.5], [True, False]) == pytest.approx(0.25)


def test_over_and_under_confidence_in_different_bins_do_not_cancel():
    assert calibration_error([0.9, 0.5], [False, True]) == pytest.approx((0.9 + 0.5) / 2)


def test_without_probabilities_no_calibration():
    card = scorecard(["positive"], [Judged("positive", 0.4)])
    assert (card.accuracy, card.calibration_error, card.two_class_accuracy) == (1.0, None, 1.0)


def test_nothing_scored_is_nothing_counted():
    assert scorecard(["positive"], [Judged(None)])[1:] == (0, None, None, None, None)

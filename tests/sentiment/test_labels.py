from __future__ import annotations

import itertools

import pytest

from ray_app.errors import ModelUnsuitable
from ray_app.sentiment.labels import class_columns
from ray_app.sentiment.vocabulary import CLASSES


@pytest.mark.parametrize("order", list(itertools.permutations(CLASSES)))
def test_any_order_of_labels_is_read_by_meaning(order):
    columns = class_columns("m", {"id2label": {str(n): label for n, label in enumerate(order)}})
    assert tuple(order[column] for column in columns) == CLASSES


def test_the_published_orders():
    assert class_columns("finbert", {"id2label": {"0": "positive", "1": "negative", "2": "neutral"}}) == (1, 2, 0)
    assert class_columns("cryptobert", {"id2label": {"0": "Bearish", "1": "Neutral", "2": "Bullish"}}) == (0, 1, 2)


def test_case_and_the_kind_of_key_do_not_matter():
    assert class_columns("m", {"id2label": {2: " NEGATIVE", 0: "neutral", 1: "bullish "}}) == (2, 0, 1)


@pytest.mark.parametrize(
    "labels",
    [
        {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"},
        {"0": "negative", "1": "positive"},
        {"0": "1 star", "1": "2 stars", "2": "3 stars", "3": "4 stars", "4": "5 stars"},
        {"0": "negative", "1": "bearish", "2": "positive"},
        {"0": "negative", "1": "neutral", "2": "positive", "3": "Bullish"},
        {"0": "negative", "1": "neutral", "2": "positive", "3": "mixed"},
        {"0": "negative", "1": "neutral", "3": "positive"},
    ],
)
def test_other_labels_are_refused_and_named(labels):
    with pytest.raises(ModelUnsuitable) as caught:
        class_columns("m", {"id2label": labels})
    for label in labels.values():
        assert repr(label) in str(caught.value)


@pytest.mark.parametrize("config", [{}, {"id2label": None}, {"id2label": {}}, {"id2label": ["negative"]}])
def test_a_config_without_labels_is_refused(config):
    with pytest.raises(ModelUnsuitable, match="id2label"):
        class_columns("m", config)

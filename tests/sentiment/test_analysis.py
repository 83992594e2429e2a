"""What a score is called."""

from __future__ import annotations

import pytest

from ray_app.sentiment.analysis import label


@pytest.mark.parametrize(
    ("score", "shares", "model", "wanted"),
    [
        (0.5, (0.125, 0.25, 0.625), "lexicon", "positive"),
        (-0.5, (0.625, 0.25, 0.125), "finbert", "negative"),
        (0.1, (0.2, 0.5, 0.3), "", "neutral"),
        (0.0, (0.5, 0.0, 0.5), "", "neutral"),  # neither is likelier than the other
        (0.6, (0.0, 0.9, 0.1), "vader", "positive"),  # its shares say how much of a text is loaded
        (0.04, (0.0, 0.9, 0.1), "vader", "neutral"),
        (-0.1, None, "textblob", "negative"),
        (0.0, None, "textblob", "neutral"),
        (0.5, None, "lexicon", None),
        (None, None, "vader", None),
    ],
)
def test_the_label_is_the_likeliest_class_or_by_the_models_own_bounds(score, shares, model, wanted):
    assert label(score, shares, model) == wanted

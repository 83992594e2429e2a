"""From a model's own label names to ours, by meaning and never by position.

ProsusAI/finbert is (positive, negative, neutral), ElKulako/cryptobert (Bearish, Neutral, Bullish); the next fine-tuned
revision may have any order. A model whose names do not say what they mean (``LABEL_0``), or that has other classes
(five stars, two classes), is refused: guessing turned such a model's "three stars" into "positive" in the system this
node replaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ray_app.errors import ModelUnsuitable
from ray_app.sentiment.vocabulary import CLASSES

#: What a label name, case-folded, means.
MEANINGS: Final[Mapping[str, str]] = {
    "negative": "negative",
    "neutral": "neutral",
    "positive": "positive",
    "bearish": "negative",
    "bullish": "positive",
}


def meaning(label: str) -> str | None:
    """The class a label name stands for, in whatever case; None: none of ours."""
    return MEANINGS.get(label.strip().casefold())


def class_columns(model: str, config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Which output of the model is negative, which neutral, which positive, read from its config's ``id2label``.

    Raises ModelUnsuitable with what was found where the labels are not exactly these three meanings at outputs 0 to 2.
    """
    id2label = config.get("id2label")
    if not isinstance(id2label, Mapping) or not id2label:
        raise ModelUnsuitable(model, f"its config.json names no labels (id2label); {_WANTED}")
    found = {str(index): str(label) for index, label in id2label.items()}
    columns = {meaning(label): index for index, label in found.items()}
    if set(columns) != set(CLASSES) or set(found) != {"0", "1", "2"}:
        named = ", ".join(f"{index}: {label!r}" for index, label in found.items())
        raise ModelUnsuitable(model, f"its labels are {{{named}}}; {_WANTED}")
    negative, neutral, positive = (int(columns[name]) for name in CLASSES)
    return negative, neutral, positive


_WANTED: Final = (
    "wanted are three that mean negative, neutral and positive (or Bearish, Neutral, Bullish), in any order and case: "
    "choose another model, or name its classes in config.json if you know them"
)

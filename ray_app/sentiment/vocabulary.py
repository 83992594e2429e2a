"""What every part of sentiment calls things.

A model gives a text three **probabilities** in the order of :data:`CLASSES`, which sum to 1, and a **score** from -1 to
1: ``p_positive - p_negative``, or what the model itself publishes as its score (VADER's compound, TextBlob's polarity).
A text that a model cannot score has neither, and a reason.
"""

from __future__ import annotations

from typing import Final, NamedTuple

CLASSES: Final = ("negative", "neutral", "positive")

#: models that read words by a list, in this process
LEXICONS: Final = ("vader", "textblob", "lexicon")
#: every model whose scores are stored, in the order in which they are shown
MODELS: Final = ("cryptobert", "finbert", *LEXICONS)
#: models of which only the score says what they think of a text: its label is by these bounds (negative, positive).
#: VADER's are its authors'; TextBlob has none of its own, these are the earlier system's.
SCORE_BOUNDS: Final[dict[str, tuple[float, float]]] = {"vader": (-0.05, 0.05), "textblob": (-0.1, 0.1)}


class TextScore(NamedTuple):
    """What one model says of one text."""

    score: float | None
    #: (negative, neutral, positive); None with a score: the model has no probabilities
    probabilities: tuple[float, float, float] | None = None
    #: why there is no score
    reason: str | None = None

    @property
    def confidence(self) -> float | None:
        """The largest probability; None where there are none."""
        return None if self.probabilities is None else max(self.probabilities)

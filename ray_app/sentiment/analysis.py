"""What every model of a domain, and their ensemble, say of texts that somebody asks about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from ray_app.sentiment.ensemble import Opinion
from ray_app.sentiment.vocabulary import CLASSES, SCORE_BOUNDS, TextScore

#: texts of one request, and characters of one text; models read the first 512 tokens or so of a text
MAX_TEXTS: Final = 100
MAX_CHARACTERS: Final = 20_000

#: what the reason begins with where a model could not be asked
UNAVAILABLE: Final = "model unavailable: "
#: why one cannot be asked that soon will be
LOADING: Final = "it is being fetched or loaded"


class Said(NamedTuple):
    """Of one text: what each model of the domain says, by its name, and the ensemble."""

    scores: Mapping[str, TextScore]
    opinion: Opinion


class Analysis(NamedTuple):
    """``texts``: in their order; ``revisions``: of the models that could be asked."""

    texts: list[Said]
    revisions: Mapping[str, str]


class Scores(NamedTuple):
    """What one model says of texts, in their order. ``revision`` None: it could not be asked when they came."""

    revision: str | None
    scores: list[TextScore]

    @property
    def unavailable(self) -> str | None:
        """Why the model said nothing of any text; None: it was asked."""
        reason = self.scores[0].reason if self.scores else None
        return reason.removeprefix(UNAVAILABLE) if reason is not None and reason.startswith(UNAVAILABLE) else None


class Busy(NamedTuple):
    """Instead of an answer: too much is waiting; try again in so many seconds."""

    retry_after_s: int


def label(score: float | None, probabilities: tuple[float, float, float] | None, model: str = "") -> str | None:
    """One of CLASSES: the likeliest, or by the bounds of a model of which only the score says it; None: unknown."""
    if score is None:
        return None
    if model in SCORE_BOUNDS:
        low, high = SCORE_BOUNDS[model]
        return CLASSES[0] if score <= low else CLASSES[2] if score >= high else CLASSES[1]
    if probabilities is None:
        return None
    negative, neutral, positive = probabilities
    if positive > max(negative, neutral):
        return CLASSES[2]
    return CLASSES[0] if negative > max(positive, neutral) else CLASSES[1]

"""One opinion of several models: calibrated probabilities, averaged by weights that are written down here.

**Members.** Of crypto texts CryptoBERT leads, of stock texts FinBERT; each is a member only where it was trained
(on crypto posts FinBERT is barely better than chance). The lexicon carries what the earlier system split into keywords
and financial patterns. The weights are its weights, those of one model more where it had two; change them by what
``benchmarks/sentiment_quality.py`` measures.

**Calibration.** Temperature scaling (Guo et al., ICML 2017): ``p ∝ p^(1/T)``, one T a model, fitted on labelled texts
by :func:`fit_temperature`; 1 leaves a model as it is. The order of its classes never changes.

**VADER and TextBlob** enter by their score s, as the probabilities that lie least on the poles and differ by it:
``(max(-s, 0), 1 - |s|, max(s, 0))``. TextBlob has no others, and VADER's shares say how much of a text is loaded, not
how likely it is positive.

Where no word speaks for a class, the three that read words say 0, which is no impossibility: 0.05 of each class is
mixed into what they say. Without it one wrong label would decide their temperature.

**Missing members** give their weight to those that are there, and are named with their reasons. Without any there is no
opinion: NULL, and why.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ray_app.sentiment.vocabulary import CLASSES, LEXICONS, SCORE_BOUNDS, TextScore

NAME: Final = "ensemble"
#: by domain: model → share of the opinion; each sums to 1
WEIGHTS: Final[Mapping[str, Mapping[str, float]]] = {
    "crypto": {"cryptobert": 0.40, "lexicon": 0.35, "vader": 0.15, "textblob": 0.10},
    "stock": {"finbert": 0.40, "lexicon": 0.35, "vader": 0.15, "textblob": 0.10},
}
#: what a temperature may be; beyond, labelled texts are too few or all alike to say it
COLDEST, HOTTEST = 0.05, 20.0
NOT_SCORED: Final = "not scored yet"

_FLOOR: Final = 0.05
_LEAST: Final = 1e-12  # a probability of 0 in a logarithm


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the ensemble says of one text."""

    #: (negative, neutral, positive), and p_positive - p_negative; None: no member has an opinion
    probabilities: tuple[float, float, float] | None
    score: float | None
    #: the members it was made of, with their shares of it; they sum to 1
    members: Mapping[str, float]
    #: the members it lacks, with the reason of each
    missing: Mapping[str, str]
    #: why there is no score
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Ensemble:
    """The members of a domain with their temperatures. KeyError: no such domain; ValueError: no such temperature."""

    domain: str
    temperatures: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for model, temperature in self.temperatures.items():
            if not COLDEST <= temperature <= HOTTEST:
                raise ValueError(f"temperature of {model}: {temperature} is not from {COLDEST} to {HOTTEST}")
        WEIGHTS[self.domain]  # KeyError now, not at the first text

    @property
    def revision(self) -> str:
        """Of weights and temperatures; 16 ASCII characters. The members' revisions are their own."""
        said = json.dumps(
            [WEIGHTS[self.domain], {k: v for k, v in self.temperatures.items() if v != 1}], sort_keys=True
        )
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    def combine(self, scores: Mapping[str, TextScore]) -> Opinion:
        """The opinion of a text, from what each model says of it; what others than the members say is left out."""
        found: dict[str, NDArray[np.float64]] = {}
        missing: dict[str, str] = {}
        for model in WEIGHTS[self.domain]:
            said = scores.get(model)
            shares = None if said is None else member_probabilities(model, said)
            if shares is None:
                missing[model] = (said.reason if said is not None else None) or NOT_SCORED
            else:
                found[model] = scaled(shares, self.temperatures.get(model, 1.0))
        if not found:
            why = "; ".join(f"{model}: {reason}" for model, reason in missing.items())
            return Opinion(None, None, {}, missing, f"no member has a score ({why})")
        total = sum(WEIGHTS[self.domain][model] for model in found)
        members = {model: WEIGHTS[self.domain][model] / total for model in found}
        mixed: NDArray[np.float64] = np.sum([members[model] * found[model] for model in found], axis=0)
        negative, neutral, positive = (float(p) for p in mixed / mixed.sum())
        return Opinion((negative, neutral, positive), positive - negative, members, missing)


def member_probabilities(model: str, said: TextScore) -> NDArray[np.float64] | None:
    """(3,): as what the model enters the ensemble, before its temperature; None: it has no opinion."""
    if said.score is None:
        return None
    if model in SCORE_BOUNDS:
        score = max(-1.0, min(1.0, said.score))
        shares = np.array((max(-score, 0.0), 1.0 - abs(score), max(score, 0.0)))
    elif said.probabilities is not None:
        shares = np.asarray(said.probabilities, dtype=np.float64)
    else:
        return None
    return shares * (1 - len(CLASSES) * _FLOOR) + _FLOOR if model in LEXICONS else shares


def scaled(probabilities: Any, temperature: float) -> NDArray[np.float64]:
    """(…, 3) probabilities at a temperature: below 1 surer, above less sure; what is 0 stays 0."""
    given = np.asarray(probabilities, dtype=np.float64)
    if temperature == 1.0:
        return given
    with np.errstate(divide="ignore"):
        logs = np.log(given) / temperature
    powers = np.exp(logs - logs.max(axis=-1, keepdims=True))
    result: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return result


def fit_temperature(probabilities: Any, labels: Sequence[int] | NDArray[np.integer[Any]]) -> float:
    """The temperature under which labelled texts are the likeliest, from COLDEST to HOTTEST.

    ``probabilities``: (n, 3), rows sum to 1, as :func:`member_probabilities` gives them; ``labels``: (n,) indices into
    CLASSES. The mean negative log-likelihood is convex in 1/T: bisection on its derivative. ValueError for no texts,
    other shapes, or what are no probabilities.
    """
    given, classes = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if given.ndim != 2 or given.shape[1] != len(CLASSES) or classes.shape != given.shape[:1] or not len(classes):
        raise ValueError(
            f"probabilities {given.shape} and labels {classes.shape}: (n, 3) and (n,), n > 0, are expected"
        )
    if not (np.isfinite(given).all() and (given >= 0).all() and np.allclose(given.sum(axis=1), 1, atol=1e-3)):
        raise ValueError("rows of probabilities are from 0 to 1 and sum to 1; leave unscored texts out")
    if not np.isin(classes, range(len(CLASSES))).all():
        raise ValueError(f"labels are indices into {CLASSES}")
    logs = np.log(np.maximum(given, _LEAST))
    true = logs[np.arange(len(classes)), classes]

    def slope(inverse: float) -> float:
        powers = np.exp(inverse * (logs - logs.max(axis=1, keepdims=True)))
        expected = (powers * logs).sum(axis=1) / powers.sum(axis=1)
        return float(np.mean(expected - true))

    low, high = 1 / HOTTEST, 1 / COLDEST
    if slope(low) >= 0:
        return HOTTEST
    if slope(high) <= 0:
        return COLDEST
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2 / (low + high)

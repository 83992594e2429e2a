"""How good a model's labels and probabilities are, on texts somebody labelled.

* **accuracy**: the share of the scored texts with the right label.
* **macro-F1**: the mean over the classes *that occur in the file* of F1 = 2TP / (2TP + FP + FN).
* **calibration error**: over 15 equal bins of confidence, the mean of |accuracy - confidence| weighted by the texts in
  a bin (expected calibration error; Guo et al. 2017, arXiv:1706.04599). 0: of the texts a model is 80% sure of, 80%
  are right. None where a model gives no probabilities.
* **two-class accuracy**, only where a file has no neutral texts: which of positive and negative the model leans to (the
  sign of its score; a score of 0 is wrong). In such a file every "neutral" is an error to the other three, for the file
  says that none is; this one says how well the model tells the two apart.

A text the model could not score counts in none of them: ``scored`` says how many it could.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from ray_app.errors import ConfigError
from ray_app.sentiment.labels import meaning
from ray_app.sentiment.vocabulary import CLASSES

BINS: Final = 15
#: a reddit post may be 40,000 characters, csv's own limit is 131,072
LONGEST_FIELD: Final = 10_000_000


class Labelled(NamedTuple):
    """One row of a labelled file; ``source`` is its column of that name, else the file's name."""

    text: str
    label: str
    source: str


class Judged(NamedTuple):
    """What a model says of one text. ``label`` None: it could not score it."""

    label: str | None
    score: float | None = None
    confidence: float | None = None

    @classmethod
    def of(cls, probabilities: Sequence[float] | None) -> Judged:
        """From (negative, neutral, positive)."""
        if probabilities is None:
            return cls(None)
        confidence = max(probabilities)
        return cls(
            CLASSES[list(probabilities).index(confidence)], float(probabilities[2] - probabilities[0]), confidence
        )


class Scorecard(NamedTuple):
    """See the module's docstring; shares from 0 to 1, None where there is nothing to count."""

    texts: int
    scored: int
    accuracy: float | None
    macro_f1: float | None
    calibration_error: float | None
    two_class_accuracy: float | None


def read_labelled(path: Path) -> Iterator[Labelled]:
    """The rows of a UTF-8 CSV file with columns ``text`` and ``label`` (any case, any order, others beside them).

    Labels: negative, neutral, positive, bearish, bullish in any case. Raises ConfigError that names the line and what
    it found.
    """
    try:
        yield from _labelled(path)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: it is not UTF-8 ({error.reason}, byte {error.start}); save it as UTF-8") from error


def _labelled(path: Path) -> Iterator[Labelled]:
    csv.field_size_limit(LONGEST_FIELD)
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        header = [name.strip().casefold() for name in next(rows, [])]
        if "text" not in header or "label" not in header:
            raise ConfigError(f"{path}: its first line names no columns text and label, but {header}")
        text, label = header.index("text"), header.index("label")
        source = header.index("source") if "source" in header else None
        for row in rows:
            if not row:
                continue
            if len(row) <= max(text, label):
                raise ConfigError(f"{path}, line {rows.line_num}: {len(row)} fields where the header has {len(header)}")
            found = meaning(row[label])
            if found is None:
                wanted = "negative, neutral, positive, bearish or bullish"
                raise ConfigError(f"{path}, line {rows.line_num}: the label is {row[label]!r}, not {wanted}")
            named = row[source] if source is not None and len(row) > source else ""
            yield Labelled(row[text], found, named or path.name)


def scorecard(truth: Sequence[str], said: Sequence[Judged]) -> Scorecard:
    """One model on one set of texts."""
    pairs = [(label, judged) for label, judged in zip(truth, said, strict=True) if judged.label is not None]
    right = [label == judged.label for label, judged in pairs]
    confidences = [judged.confidence for _, judged in pairs]
    known = [confidence for confidence in confidences if confidence is not None]
    return Scorecard(
        texts=len(truth),
        scored=len(pairs),
        accuracy=sum(right) / len(right) if right else None,
        macro_f1=macro_f1([label for label, _ in pairs], [judged.label for _, judged in pairs]),
        calibration_error=calibration_error(known, right) if pairs and len(known) == len(pairs) else None,
        two_class_accuracy=_two_class([(label, judged.score) for label, judged in pairs]),
    )


def macro_f1(truth: Sequence[str], said: Sequence[str | None]) -> float | None:
    """Over the classes in ``truth``; None: there are none."""
    present = sorted(set(truth))
    if not present:
        return None
    counted = list(zip(truth, said, strict=True))
    total = 0.0
    for name in present:
        both = sum(label == name == given for label, given in counted)
        either = sum(label == name for label, _ in counted) + sum(given == name for _, given in counted)
        total += 2 * both / either
    return total / len(present)


def calibration_error(confidences: Sequence[float], right: Sequence[bool]) -> float:
    """Of at least one text; ``confidences`` from 0 to 1."""
    bins: Mapping[int, list[float]] = {n: [] for n in range(BINS)}
    for confidence, correct in zip(confidences, right, strict=True):
        bins[min(int(confidence * BINS), BINS - 1)].append(correct - confidence)
    return sum(abs(sum(gaps)) for gaps in bins.values()) / len(confidences)


def _two_class(pairs: Sequence[tuple[str, float | None]]) -> float | None:
    if not pairs or any(label == "neutral" or score is None for label, score in pairs):
        return None
    right = sum((score or 0.0) > 0 if label == "positive" else (score or 0.0) < 0 for label, score in pairs)
    return right / len(pairs)

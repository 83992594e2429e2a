"""The scorecard: how good each model is on labelled texts of yours.

    python benchmarks/sentiment_quality.py FILE… [--model NAME=SOURCE]… [--lexicon NAME]… [--precision fp32]

FILE: CSV with columns ``text,label`` (labels negative/neutral/positive or bearish/neutral/bullish, in any case); a
column ``source`` splits a file. SOURCE: hub id (fetched first), folder or object-store URL; default: finbert and
cryptobert from the hub. A model that cannot be had is named with its reason and left out.
What the columns mean, and what becomes of files without neutral texts: ray_app/sentiment/quality.py.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ray_app.errors import ConfigError, ModelUnavailable
from ray_app.sentiment.models import DEFAULTS, ModelSpec, fetch
from ray_app.sentiment.quality import Judged, Labelled, read_labelled, scorecard

CACHE = Path(os.environ.get("HF_HUB_CACHE", "~/.cache/huggingface/hub")).expanduser()
Model = Callable[[Sequence[str]], list[Judged]]


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=SOURCE")
    parser.add_argument("--lexicon", action="append", default=[], metavar="NAME", help="vader, textblob or lexicon")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16", "int8"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args(given)


def transformer(spec: ModelSpec, options: argparse.Namespace) -> Model:
    from ray_app.sentiment.scorer import Scorer, ScorerOptions

    scorer = Scorer.load(fetch(spec, CACHE), ScorerOptions(options.device, options.precision, options.threads))
    return lambda texts: [Judged.of(reading.probabilities) for reading in scorer.stream(texts)]


def lexicon(name: str) -> Model:
    """Its label is by the bounds of its score where it has some; it is then sure of nothing."""
    from ray_app.sentiment import lexicons, vocabulary

    model = lexicons.load(name)
    bounds = vocabulary.SCORE_BOUNDS.get(name)

    def judge(texts: Sequence[str]) -> list[Judged]:
        found = []
        for said in model.scores(texts):
            if bounds is None or said.score is None:
                found.append(Judged.of(said.probabilities))
            else:
                low, high = bounds
                label = "negative" if said.score <= low else "positive" if said.score >= high else "neutral"
                found.append(Judged(label, said.score))
        return found

    return judge


def models(options: argparse.Namespace) -> dict[str, Model]:
    found: dict[str, Model] = {}
    given = [ModelSpec(name, source) for name, _, source in (model.partition("=") for model in options.model)]
    specs = given or ([] if options.lexicon else list(DEFAULTS))
    for name, load in [(s.name, lambda s=s: transformer(s, options)) for s in specs] + [
        (name, lambda name=name: lexicon(name)) for name in options.lexicon
    ]:
        try:
            found[name] = load()
        except ModelUnavailable as error:
            print(error, file=sys.stderr)
    return found


def by_source(files: Sequence[Path]) -> dict[str, list[Labelled]]:
    """Rows by file and, where it has several, source."""
    found: dict[str, list[Labelled]] = {}
    for path in files:
        for row in read_labelled(path):
            name = path.name if row.source == path.name else f"{path.name}: {row.source}"
            found.setdefault(name, []).append(row)
    return found


def shown(share: float | None) -> str:
    return "–" if share is None else f"{share:.4f}"


def main(given: Sequence[str] | None = None) -> int:
    options = arguments(given)
    if not options.files:
        print("no labelled files given: nothing to judge (see --help)")
        return 0
    try:
        sources = by_source(options.files)
    except (ConfigError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    judges = models(options)
    print(f"{'model':<12} {'texts':>6} {'scored':>6} {'accuracy':>8} {'macro-F1':>8} {'ECE':>8} {'2-class':>8}  source")
    for name, judge in judges.items():
        for source, rows in sources.items():
            card = scorecard([row.label for row in rows], judge([row.text for row in rows]))
            shares = " ".join(f"{shown(share):>8}" for share in card[2:])
            print(f"{name:<12} {card.texts:>6} {card.scored:>6} {shares}  {source}", flush=True)
    return 0 if judges else 1


if __name__ == "__main__":
    sys.exit(main())

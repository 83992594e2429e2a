"""Texts a second of our scorer against ``transformers.pipeline``, in one run, on texts of mixed length.

    python benchmarks/sentiment_speed.py [--texts FILE…] [--labelled FILE] [--model NAME=FOLDER]… [--count 400]
        [--base-count 100] [--rounds 3] [--threads 2] [--precision fp32 bf16 int8] [--device cpu]

FILE: CSV with a column ``text`` (and ``title``, put before it); default: ../shared/data/text. Models: those given, or
../shared/data/models, and a BERT-base with random weights (``--base-count 0``: without). Each round runs, one after the
other: the pipeline as it comes (one text at a time), the pipeline with ``batch_size=32``, and the scorer in each
precision; tokenising included, nothing cached, no text left out as a repetition. The pipelines run in fp32 with
``truncation=True``, without which they fail on a text longer than the model; one that is much slower is not repeated.

``x``: median over the rounds of the scorer's rate by that of the better pipeline of the same round. ``x cpu``: the same
in processor seconds, which other work on the machine distorts less. ``off``: the largest difference of a probability
from the pipeline's. ``F1``: macro-F1 on the labelled file (see sentiment_quality.py). ``ceiling``: multiplications of
the model's linear layers a second by those of one large matrix product in that precision, measured in this run (above 1
is possible: the scorer leaves out products that the classifier does not look at).
"""

from __future__ import annotations

import argparse
import csv
import gc
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from ray_app.sentiment.labels import meaning
from ray_app.sentiment.models import LocalModel, inspect
from ray_app.sentiment.quality import Judged, read_labelled, scorecard
from ray_app.sentiment.scorer import Reading, Scorer, ScorerOptions
from ray_app.sentiment.vocabulary import CLASSES

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
#: a pipeline that takes this many times the other's time has lost; its rounds are not repeated
HOPELESS = 2.0
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Run(NamedTuple):
    wall_s: float
    cpu_s: float
    result: Any


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", nargs="+", type=Path, default=sorted((SHARED / "text").glob("*.csv")))
    parser.add_argument("--labelled", type=Path, default=None)
    parser.add_argument("--model", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--base-count", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16", "int8"])
    parser.add_argument("--tokens", type=int, default=None, help="a batch; default: the scorer's own")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(given)


def read_texts(files: Sequence[Path]) -> list[str]:
    """As many of each file as the smallest has, shuffled."""
    csv.field_size_limit(10_000_000)
    found = []
    for path in files:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [f"{row.get('title') or ''}\n{row['text'] or ''}".strip() for row in csv.DictReader(file)]
        found.append([row for row in rows if row])
    share = min(map(len, found), default=0)
    texts = [text for rows in found for text in random.Random(0).sample(rows, share)]
    random.Random(1).shuffle(texts)
    return texts


def bert_base(folder: Path, tokenizer_of: Path) -> Path:
    """BERT-base (110 million weights, random) with the tokenizer of a small model."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(id2label=dict(enumerate(CLASSES)), label2id={name: n for n, name in enumerate(CLASSES)})
    BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer_of).save_pretrained(folder)
    return folder


def timed(work: Callable[[], Any], device: str) -> Run:
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return Run(time.perf_counter() - wall, time.process_time() - cpu, result)


def pipelines(local: LocalModel, device: str) -> dict[str, Callable[[list[str]], Any]]:
    from transformers import pipeline
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    pipe = pipeline("text-classification", model=str(local.path), dtype=torch.float32, device=device, top_k=None)
    pipe(["warm", "up"])
    return {
        "pipeline": lambda texts: pipe(texts, truncation=True),
        "pipeline, 32": lambda texts: pipe(texts, truncation=True, batch_size=32),
    }


def of_pipeline(answers: list[list[dict[str, Any]]]) -> np.ndarray:
    return np.array(
        [[next(a["score"] for a in answer if meaning(a["label"]) == name) for name in CLASSES] for answer in answers]
    )


def off(readings: list[Reading], expected: np.ndarray) -> float:
    pairs = [
        np.abs(np.array(r.probabilities) - row).max()
        for r, row in zip(readings, expected, strict=True)
        if r.probabilities
    ]
    return float(max(pairs))


def ceiling(precision: str, device: str) -> float:
    """Multiply-adds a second of one large product."""
    size, rows = (8_192, 8_192) if device.startswith("cuda") else (1_024, 1_024)
    if precision == "int8":
        from ray_app.sentiment.int8 import Int8Linear

        layer: Any = Int8Linear(torch.nn.Linear(size, size))
        inputs = torch.randn(rows, size)
    else:
        layer = torch.nn.Linear(size, size, device=device, dtype=DTYPES[precision])
        inputs = torch.randn(rows, size, device=device, dtype=DTYPES[precision])
    with torch.inference_mode():
        layer(inputs)
        runs = [timed(lambda: layer(inputs), device).wall_s for _ in range(7)]
    return rows * size * size / min(runs)


def multiplications(local: LocalModel, lengths: Sequence[int]) -> int:
    """Of the linear layers of a plain forward over texts of so many tokens: 12 hidden² a token and layer (4 × wide)."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(local.path)
    each = 4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size
    return config.num_hidden_layers * each * sum(lengths)


def compare(local: LocalModel, texts: list[str], options: argparse.Namespace) -> None:
    works = pipelines(local, options.device)
    scorers = {
        precision: Scorer.load(local, ScorerOptions(options.device, precision, options.threads, options.tokens))
        for precision in options.precision
    }
    lengths = [len(item.ids or ()) for item in next(iter(scorers.values())).tokens.encode(texts)]
    print(f"\n{local.name}: {len(texts)} texts, {sum(lengths)} tokens, the longest {max(lengths)}")
    runs: dict[str, list[Run]] = {name: [] for name in (*works, *scorers)}
    dropped: set[str] = set()
    for _ in range(options.rounds):
        for name, work in works.items():
            if name not in dropped:
                runs[name].append(timed(lambda work=work: work(texts), options.device))
        slowest, fastest = sorted(works, key=lambda name: -runs[name][-1].wall_s)
        if runs[slowest][-1].wall_s > HOPELESS * runs[fastest][-1].wall_s:
            dropped.add(slowest)
        for name, scorer in scorers.items():
            runs[name].append(timed(lambda scorer=scorer: list(scorer.stream(texts)), options.device))
    best = {
        kind: [
            min(getattr(runs[name][min(n, len(runs[name]) - 1)], kind) for name in works) for n in range(options.rounds)
        ]
        for kind in ("wall_s", "cpu_s")
    }
    expected = of_pipeline(runs["pipeline"][0].result)
    print(f"{'':<14} {'texts/s':>9} {'tokens/s':>9} {'x':>6} {'x cpu':>6} {'off':>9} {'ceiling':>8} {'F1':>7}")
    for name, done in runs.items():
        seconds = statistics.median(run.wall_s for run in done)
        line = f"{name:<14} {len(texts) / seconds:>9.1f} {sum(lengths) / seconds:>9.0f}"
        if name in scorers:
            wall, cpu = (
                statistics.median(b / getattr(run, kind) for b, run in zip(best[kind], done, strict=True))
                for kind in best
            )
            share = multiplications(local, lengths) / seconds / ceiling(name, options.device)
            line += f" {wall:>6.2f} {cpu:>6.2f} {off(done[0].result, expected):>9.1e} {share:>8.2f}"
            line += f" {f1(scorers[name], options):>7}"
        print(line, flush=True)


def f1(scorer: Scorer, options: argparse.Namespace) -> str:
    if options.labelled is None or scorer.name == "bert-base":
        return "–"
    rows = list(read_labelled(options.labelled))
    said = [Judged.of(reading.probabilities) for reading in scorer.stream(row.text for row in rows)]
    return f"{100 * (scorecard([row.label for row in rows], said).macro_f1 or 0):.2f}"


def main(given: Sequence[str] | None = None) -> int:
    options = arguments(given)
    torch.set_num_threads(options.threads)
    folders = [(name, Path(path)) for name, _, path in (model.partition("=") for model in options.model)]
    folders = folders or [(path.name, path) for path in sorted((SHARED / "models").glob("*")) if path.is_dir()]
    texts = read_texts(options.texts)
    if not texts or not folders:
        print("no texts or no models here: name some (--texts, --model)")
        return 0
    on = torch.cuda.get_device_name() if options.device.startswith("cuda") else torch.cpu.get_capabilities()["cpu_name"]
    print(f"torch {torch.__version__} on {on}, {options.threads} threads")
    for name, folder in folders:
        compare(inspect(name, folder), texts[: options.count], options)
    if options.base_count:
        with tempfile.TemporaryDirectory() as there:
            base = inspect("bert-base", bert_base(Path(there), folders[0][1]))
            compare(base, texts[: options.base_count], options)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Whether memory stays flat over many texts: its slope while one process scores them.

    python benchmarks/sentiment_memory.py [--model FOLDER] [--texts FILE…] [--count 20000] [--precision fp32]
        [--lexicon NAME]… [--lexicon-count 1000000] [--threads 2]

FILE: as in sentiment_speed.py. The texts are distinct: sentences of the files, drawn and joined anew for each (1 to 12
for a model, 1 for a lexicon), made as they are asked for. The resident size is read 50 times on the way; what is shown
is the straight line through the second half of the readings (the first fills buffers that are kept), as MiB for each
10,000 texts, and the sizes at the start, at half time and at the end. ``--count 0``: lexicons only.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from sentiment_speed import SHARED, read_texts

READINGS = 50
MIB = 1 << 20
PAGE = os.sysconf("SC_PAGE_SIZE")


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=SHARED / "models" / "finbert-mini")
    parser.add_argument("--texts", nargs="+", type=Path, default=sorted((SHARED / "text").glob("*.csv")))
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--lexicon", action="append", default=[], metavar="NAME", help="vader, textblob or lexicon")
    parser.add_argument("--lexicon-count", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args(given)


def distinct(sentences: Sequence[str], count: int, most: int) -> Iterator[str]:
    """``count`` texts of 1 to ``most`` sentences, each with its own number, so that no two are the same."""
    rng = random.Random(0)
    for n in range(count):
        yield f"{' '.join(rng.choices(sentences, k=rng.randint(1, most)))} {n}"


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def watch(name: str, results: Iterable[object], count: int) -> None:
    """Run through ``results``, which are ``count``, and print the line of the second half."""
    every = max(1, count // READINGS)
    sizes = [resident()]
    began = time.perf_counter()
    for n, _ in enumerate(results, 1):
        if n % every == 0:
            sizes.append(resident())
    seconds = time.perf_counter() - began
    later = sizes[len(sizes) // 2 :]
    slope = np.polyfit(np.arange(len(later)) * every, later, 1)[0] * 10_000 / MIB
    start, half, end = (size / MIB for size in (sizes[0], later[0], later[-1]))
    print(
        f"{name:<24} {count:>9,} texts {count / seconds:>9,.0f}/s  {start:>7.1f} {half:>7.1f} {end:>7.1f} MiB"
        f"  {slope:+.3f} MiB per 10,000 texts",
        flush=True,
    )


def model_results(options: argparse.Namespace) -> Callable[[Iterable[str]], Iterable[object]]:
    from ray_app.sentiment.models import inspect
    from ray_app.sentiment.scorer import Scorer, ScorerOptions

    local = inspect(options.model.name, options.model)
    return Scorer.load(local, ScorerOptions(precision=options.precision, threads=options.threads)).stream


def main(given: Sequence[str] | None = None) -> int:
    options = arguments(given)
    sentences = [part for text in read_texts(options.texts) for part in re.split(r"(?<=[.!?])\s+", text) if part]
    if not sentences:
        print("no texts here: name some (--texts)")
        return 0
    if options.count:
        work = model_results(options)
        name = f"{options.model.name}, {options.precision}"
        watch(name, work(distinct(sentences, options.count, most=12)), options.count)
    for name in options.lexicon:
        from ray_app.sentiment import lexicons

        results = lexicons.load(name).scores(distinct(sentences, options.lexicon_count, most=1))
        watch(name, results, options.lexicon_count)
    return 0


if __name__ == "__main__":
    sys.exit(main())

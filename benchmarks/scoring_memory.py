"""Does memory stay flat while texts are scored? The batch job on as many distinct texts as you say.

    python benchmarks/scoring_memory.py [--texts 1000000] [--models lexicon] [--finbert FOLDER] [--actors 1]

Fills a fresh SQLite database with news made of words (never the node's), runs ``jobs/score_texts.py`` on it and looks
at its processes every second. Prints texts/s, the highest PSS of all its processes together, and the slope of the
PSS over the second half of the run, in MB per 100,000 texts (least squares; the first half fills caches).
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ray_app.editions import edition_of
from ray_app.node.processes import descendants, pss_bytes
from ray_app.storage.engine import Database
from ray_app.storage.migrate import upgrade
from ray_app.storage.tables import stock_news, text_parts
from ray_app.storage.upsert import guarded_upsert

ROOT = Path(__file__).resolve().parents[1]
START = 1_795_507_200_000
SENTENCES = (
    "shares fell rose profit loss strong weak the a of market quarter analysts expect growth decline very not record"
    " bank revenue guidance raised cut beats misses outlook cautious investors rally after before report"
)
WORDS = SENTENCES.split()
DONE = re.compile(r"\((\d+) of \d+ parts")


def texts(count: int) -> Iterator[tuple[dict[str, object], dict[str, object]]]:
    """Rows of ``stock_news`` and of ``text_parts``: titles of 6 to 20 words, a summary of up to 120."""
    rng = random.Random(1)
    for n in range(count):
        title = f"{n} {' '.join(rng.choices(WORDS, k=rng.randint(5, 19)))}"
        summary = " ".join(rng.choices(WORDS, k=rng.randint(0, 120)))
        order = {"event_version": START, "fetched_at": START + n, "parser_version": 1, "payload_hash": "0" * 64}
        edition, place = edition_of(title, summary), {"content_id": f"{n:064d}", "known_at": START + n}
        named = {"source": "made", "feed": "made", "url": f"https://made.example/{n}", "story_id": edition}
        yield (
            {**place, **named, **order, "title": title, "summary": summary, "published_at": START + n},
            {**place, **order, "edition": edition, "asset_id": 0, "text_hash": edition, "kind": "stock_news"},
        )


def fill(url: str, count: int) -> None:
    db = Database(url)
    upgrade(db)
    batch: list[tuple[dict[str, object], dict[str, object]]] = []
    for n, pair in enumerate(texts(count), start=1):
        batch.append(pair)
        if len(batch) == 5_000 or n == count:
            for table, rows in ((stock_news, [one for one, _ in batch]), (text_parts, [two for _, two in batch])):
                db.run(lambda conn, table=table, rows=rows: guarded_upsert(conn, table, rows))
            batch = []
    db.dispose()


def watch(job: subprocess.Popen[str], log: Path) -> list[tuple[int, int]]:
    """(texts done, bytes) each second until the job ends."""
    seen = []
    while job.poll() is None:
        told = DONE.findall(log.read_text())
        seen.append((int(told[-1]) if told else 0, pss_bytes(descendants([job.pid]))))
        time.sleep(1)
    return seen


def slope_mb(seen: list[tuple[int, int]], count: int) -> float:
    """MB per 100,000 texts over the second half."""
    half = [(done, size) for done, size in seen if done >= count / 2]
    if len({done for done, _ in half}) < 3:
        return float("nan")
    done, size = np.array(half, dtype=float).T
    return float(np.polyfit(done, size, 1)[0]) * 1e5 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--models", default="lexicon", help="comma-separated, each run after the other")
    parser.add_argument("--finbert", default="ProsusAI/finbert", help="folder of the model finbert")
    parser.add_argument("--actors", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scoring-") as directory:
        url = f"sqlite:///{directory}/node.db"
        started = time.monotonic()
        fill(url, asked.texts)
        print(f"{asked.texts} texts made in {time.monotonic() - started:.0f} s", file=sys.stderr)
        environment = os.environ | {
            "DATA_DIR": directory,
            "DATABASE_URL": url,
            "FINBERT_MODEL": asked.finbert,
            "SENTIMENT_ACTORS": str(asked.actors),
            "RAY_TMPDIR": directory,
            "RAY_AUTH_MODE": "disabled",
            "PYTHONPATH": str(ROOT),
        }
        for model in asked.models.split(","):
            log = Path(directory) / f"{model}.log"
            command = [sys.executable, str(ROOT / "jobs/score_texts.py"), "--models", model, "--no-aggregate"]
            started = time.monotonic()
            with log.open("w") as file:
                job = subprocess.Popen(command, env=environment, stdout=file, stderr=file, text=True)
                seen = watch(job, log)
            took = time.monotonic() - started
            if job.returncode:
                raise SystemExit(log.read_text()[-2_000:])
            peak = max(size for _, size in seen) / 1e6
            rate, slope = asked.texts / took, slope_mb(seen, asked.texts)
            print(f"{model}: {rate:.0f} texts/s, peak {peak:.0f} MB, slope {slope:+.1f} MB per 100,000 texts")


if __name__ == "__main__":
    main()

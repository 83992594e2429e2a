"""64 clients of the application ``sentiment``, each with one text at a time, against the same models in large batches.

    python benchmarks/sentiment_online.py [--model finbert=FOLDER] [--clients 64] [--rounds 3] [--count 512]
        [--threads 2] [--precision fp32] [--texts FILE…]

Each round scores the same distinct texts twice, one after the other, in the same replica with the same models: in
requests of 100 (``batch``: no round trip is waited for), and one text a request by so many clients at once, each of
which asks again when it has its answer (``online``). Asked is ``analyze``: the transformer, the lexicons and the
ensemble. The bar: online reaches 0.7 of batch in the median of the rounds; exit status 1 otherwise.

Starts a Ray and a Serve of its own, and ends them. Default model: ../shared/data/models/finbert-mini.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import ray  # noqa: E402
import yaml  # noqa: E402
from ray import serve  # noqa: E402

from benchmarks.sentiment_speed import SHARED, read_texts  # noqa: E402
from ray_app.node.plan import SERVE_CONFIG  # noqa: E402
from ray_app.sentiment.analysis import MAX_TEXTS, UNAVAILABLE, Analysis  # noqa: E402

#: online reaches at least so much of batch
BAR = 0.7
DOMAINS = {"finbert": "stock", "cryptobert": "crypto"}


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=f"finbert={SHARED / 'models' / 'finbert-mini'}", metavar="NAME=FOLDER")
    parser.add_argument("--texts", nargs="+", type=Path, default=sorted((SHARED / "text").glob("*.csv")))
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="fp32")
    return parser.parse_args(given)


def deploy(name: str, folder: str, threads: int, precision: str, directory: str) -> None:
    """The application as serve_config.yaml has it, with one replica from the start."""
    from ray_app.scoring.serve_app import deployment

    os.environ |= {
        "DATA_DIR": directory,
        "SENTIMENT_MODELS": f"{name},vader,textblob,lexicon",
        f"{name.upper()}_MODEL": folder,
        "SENTIMENT_THREADS": str(threads),
        "SENTIMENT_PRECISION": precision,
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "disabled",
    }
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
    serve.start(http_options={"location": "NoServer"})
    applications = yaml.safe_load(SERVE_CONFIG.read_text())["applications"]
    (options,) = next(one["deployments"] for one in applications if one["name"] == "sentiment")
    options["autoscaling_config"] |= {"min_replicas": 1}
    serve.run(deployment.options(**options).bind(), name="sentiment", route_prefix=None)


async def opened(handle: serve.handle.DeploymentHandle, name: str) -> None:
    while not (said := (await handle.models.remote())[name]).startswith("revision "):
        if "loaded" not in said.partition(";")[0]:
            raise SystemExit(f"{name}: {said}")
        await asyncio.sleep(0.2)


async def ask(handle: serve.handle.DeploymentHandle, texts: list[str], domain: str) -> float:
    """Seconds until every text has its score."""
    started = time.perf_counter()
    found = await handle.analyze.remote(texts, domain)
    assert isinstance(found, Analysis), found
    assert not any(why.startswith(UNAVAILABLE) for said in found.texts for why in said.opinion.missing.values())
    return time.perf_counter() - started


async def batch(handle: serve.handle.DeploymentHandle, texts: list[str], domain: str) -> float:
    """Texts a second in requests of MAX_TEXTS, several at once so that none is waited for."""
    chunks = [texts[start : start + MAX_TEXTS] for start in range(0, len(texts), MAX_TEXTS)]
    started = time.perf_counter()
    await asyncio.gather(*(ask(handle, chunk, domain) for chunk in chunks))
    return len(texts) / (time.perf_counter() - started)


async def online(
    handle: serve.handle.DeploymentHandle, texts: list[str], domain: str, clients: int
) -> tuple[float, list[float]]:
    """Texts a second, and the seconds of each request."""
    waiting = iter(texts)
    took: list[float] = []

    async def client() -> None:
        for text in waiting:
            took.append(await ask(handle, [text], domain))  # noqa: PERF401 - a comprehension would not share the iterator fairly

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return len(texts) / (time.perf_counter() - started), took


async def compare(given: argparse.Namespace, name: str, texts: list[str]) -> float:
    """The median of the rounds' ratios; a line for each round."""
    handle = serve.get_deployment_handle("Sentiment", app_name="sentiment")
    domain = DOMAINS[name]
    await opened(handle, name)
    await batch(handle, texts[: given.clients], domain)
    ratios = []
    for number in range(given.rounds):
        together = await batch(handle, texts, domain)
        alone, took = await online(handle, texts, domain, given.clients)
        ratios.append(alone / together)
        p50, p99 = (1_000 * statistics.quantiles(took, n=100)[n] for n in (49, 98))
        print(
            f"round {number + 1}: batch {together:.0f} texts/s, online {alone:.0f} texts/s ({alone / together:.2f}), "
            f"p50 {p50:.0f} ms, p99 {p99:.0f} ms",
            flush=True,
        )
    return statistics.median(ratios)


def main() -> int:
    given = arguments(None)
    name, _, folder = given.model.partition("=")
    texts = list(dict.fromkeys(text for text in read_texts(given.texts) if text.strip()))[: given.count]
    with tempfile.TemporaryDirectory() as directory:
        deploy(name, str(Path(folder).resolve()), given.threads, given.precision, directory)
        print(f"{name} ({given.precision}), {given.threads} threads, {len(texts)} texts, {given.clients} clients")
        ratio = asyncio.run(compare(given, name, texts))
        ray.shutdown()
    print(f"online / batch: {ratio:.2f}, the bar is {BAR}: {'reached' if ratio >= BAR else 'MISSED'}")
    return 0 if ratio >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())

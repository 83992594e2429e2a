"""Answers a second of a rebuild, by how many processes parse, in one run on one generated archive.

    python benchmarks/reprocess.py [--answers 1000] [--rounds 3] [--processes 1 2]

The archive: three Coinbase candle answers (300 bars) to one CoinGecko price answer (250 coins), in the wire formats of
ray_app/sandbox. Each round rebuilds it into new SQLite files, once for each number, in turn first. ``read and parse``:
what processes share (decompress, check, parse) without anybody who writes; ``rebuild``: as ``crypto-data reprocess``
does it, one process writing. Medians of the rounds, start of the processes included; ``x``: against 1, the median of
the rounds' own ratios. ``cpu``: processor seconds of the process that writes, and of those that parse, which other work
on the machine distorts less: with a processor for each it takes as long as the busiest of them. At the end all files
have the same rows.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import orjson

from ray_app.assets import AssetRegistry
from ray_app.clock import iso
from ray_app.collection import reparse
from ray_app.collection.archive import Archive
from ray_app.collection.digest import says
from ray_app.collection.reprocess import differences, reprocess
from ray_app.sources.base import Exchange
from ray_app.sources.coinbase import Candles
from ray_app.sources.coingecko import Markets
from ray_app.storage import migrate
from ray_app.storage.engine import Database

#: 2026-11-24T00:00:00Z
NOW = 1_795_478_400_000
HOUR_MS = 3_600_000


def candle_answer(number: int, product: str) -> Exchange:
    rng = random.Random(number)
    now = NOW + number * 1_000
    opened = now - now % HOUR_MS - HOUR_MS * (1 + number // 1_000)
    body = []
    for n in range(300):
        a, b, c, d = sorted(round(rng.lognormvariate(4, 0.01), 2) for _ in range(4))
        body.append([(opened - n * HOUR_MS) // 1_000, a, d, b, c, round(rng.expovariate(0.001), 8)])
    request = Candles().request(product, 3_600, opened - 299 * HOUR_MS, opened)
    return Exchange(request, 200, {}, orjson.dumps(body), now)


def price_answer(number: int, coins: list[str]) -> Exchange:
    rng = random.Random(number)
    now = NOW + number * 1_000
    body = [
        {"id": coin, "symbol": coin[:4], "name": coin.title(), "image": f"https://example.com/{coin}.png"}
        | {"current_price": rng.lognormvariate(2, 3), "market_cap": rng.randrange(10**6, 10**12), "market_cap_rank": n}
        | {"total_volume": rng.randrange(10**5, 10**10), "high_24h": rng.random() + 2, "low_24h": rng.random() + 1}
        | {"price_change_24h": rng.gauss(0, 0.1), "price_change_percentage_24h": rng.gauss(0, 3), "roi": None}
        | {"circulating_supply": rng.random() * 1e9, "total_supply": 1e9, "max_supply": None, "ath": 1e4, "atl": 0.1}
        | {"ath_date": iso(NOW - 10**10), "atl_date": iso(NOW - 2 * 10**10), "last_updated": iso(now - 9_000)}
        for n, coin in enumerate(coins, 1)
    ]
    return Exchange(Markets().request(coins, now - now % 300_000), 200, {}, orjson.dumps(body), now)


def generated(root: Path, answers: int) -> AssetRegistry:
    registry = AssetRegistry.seed()
    coins = [asset.coin_id for asset in registry.active()][:250]
    products = [asset.coinbase_product for asset in registry.active() if asset.coinbase_product]
    with Archive(root, writer="benchmark") as archive:
        for number in range(answers):
            prices = number % 4 == 3
            one = price_answer(number, coins) if prices else candle_answer(number, products[number % len(products)])
            archive.append(one, "benchmark")
    return registry


def parse_all(archive: Archive, processes: int) -> None:
    damaged: list[object] = []
    with closing(reparse.readings(archive, processes=processes, on_damage=damaged.append)) as every:
        for one in every:
            assert (one.said or says(one.exchange)) is not None
    assert not damaged


def timed(work: Callable[[], object]) -> tuple[float, float, float]:
    """Wall seconds; processor seconds of this process, and of the others it started."""
    begin = (time.perf_counter(), time.process_time(), _others())
    work()
    return time.perf_counter() - begin[0], time.process_time() - begin[1], _others() - begin[2]


def _others() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--answers", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    reparse.WORTH = 1  # however few
    took: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder, Archive(Path(folder) / "archive") as archive:
        registry = generated(archive.root, given.answers)
        print(f"{given.answers:,} answers, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
        first = None
        for turn in range(given.rounds):
            for count in (
                given.processes[turn % len(given.processes) :] + given.processes[: turn % len(given.processes)]
            ):
                db = Database(f"sqlite:///{folder}/{turn}-{count}.db")
                migrate.upgrade(db)
                rebuild = timed(
                    lambda db=db, count=count: reprocess(archive, db, first_registry=registry, processes=count)
                )
                parse = timed(lambda count=count: parse_all(archive, count))
                took.setdefault(("read and parse", count), []).append(parse)
                took.setdefault(("rebuild", count), []).append(rebuild)
                if first is None:
                    first = db
                    continue
                assert differences(first, db) == [], "other rows"
                db.dispose()
        assert first is not None
        first.dispose()
    for what in ("read and parse", "rebuild"):
        for count in given.processes:
            times = took[what, count]
            ratios = [base[0] / mine[0] for base, mine in zip(took[what, given.processes[0]], times, strict=True)]
            wall, own, others = (statistics.median(column) for column in zip(*times, strict=True))
            rate, factor = given.answers / wall, statistics.median(ratios)
            print(
                f"  {what:<15} {count} processes  {rate:>7,.0f} answers/s  x{factor:.2f}"
                f"   cpu {own:.1f} s, others {others:.1f} s"
            )
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()

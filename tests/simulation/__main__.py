"""Replay a seed (``python -m tests.simulation SEED --steps``) or live many (``python -m tests.simulation --seeds N``)."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterable

from tests.simulation.world import DENSE, PROFILES, Profile, Violation, problem_of, simulate


def _replay(seed: int, profile: Profile, steps: bool) -> int:
    try:
        world = simulate(seed, profile, print if steps else None)
    except Violation as violation:
        print(violation)
        return 1
    print(
        f"seed {seed}: every invariant held for {world.lived_h:.1f} node hours, {world.loop.steps} steps, "
        f"{world.store.commits} commits, {world.upstream.requests} requests, {len(world.store.events)} events"
    )
    return 0


def _many(seeds: Iterable[int], profile: Profile, processes: int) -> int:
    began, done, failed = time.monotonic(), 0, 0
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=2_000) as pool:
        for problem in pool.imap_unordered(problem_of, ((seed, profile.name) for seed in seeds), chunksize=20):
            done += 1
            if problem is not None:
                failed += 1
                print(problem, flush=True)
    seconds = time.monotonic() - began
    print(f"{done} seeds, {failed} failed, {seconds:.0f} s, {done / seconds:.1f} seeds/s on {processes} processes")
    return 1 if failed else 0


def main() -> int:
    """The exit status: 1 where an invariant did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", help="replay this one")
    parser.add_argument("--steps", action="store_true", help="print everything that happens")
    parser.add_argument("--seeds", type=int, metavar="N", help="live N seeds")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first of them")
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--profile", choices=sorted(PROFILES), default=DENSE.name)
    given = parser.parse_args()
    profile = PROFILES[given.profile]
    if given.seeds is not None:
        return _many(range(given.first, given.first + given.seeds), profile, given.processes)
    if given.seed is None:
        parser.error("name a seed, or how many with --seeds")
    return _replay(given.seed, profile, given.steps)


if __name__ == "__main__":
    sys.exit(main())

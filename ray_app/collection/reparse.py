"""The archive read again: every answer parsed, in the archive's order, by this process or by several.

To parse is a function of the exchange alone, so it may happen anywhere. What depends on the order (which asset an
identity is, after which refresh of the registry) is left to whoever takes the readings one after the other.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from ray_app.collection.archive import Archive, ArchivedAt, Entry
from ray_app.collection.digest import says
from ray_app.errors import ArchiveError, CryptoDataError, UpstreamError
from ray_app.sources.base import Exchange, Parsed

#: from so many answers on other processes are worth their start (a second each)
WORTH = 2_000
#: the most answers and (compressed) bytes that go to another process at once, and how many such batches each has ahead
BATCH_ANSWERS, BATCH_BYTES, AHEAD = 50, 1 << 18, 2


@dataclass(frozen=True, slots=True)
class Reading:
    """An archived answer. ``said`` is for :func:`~ray_app.collection.digest.digest`; None: nobody has parsed it yet.

    ``exchange``: without its body where another process has.
    """

    at: ArchivedAt
    collector: str
    exchange: Exchange
    said: Parsed | UpstreamError | None = None


def readings(
    archive: Archive,
    *,
    start: int | None = None,
    end: int | None = None,
    processes: int = 1,
    on_damage: Callable[[ArchiveError], None],
) -> Generator[Reading]:
    """Every answer fetched in ``[start, end)`` ms by rising fetch id. Close it: other processes may be at work for it.

    ``processes``: how many parse; with 1, and with few answers, nobody does before the reading is taken. Memory is
    bounded by ``AHEAD`` batches for each. CryptoDataError where one of them dies.
    """
    places = archive.places(start=start, end=end, on_damage=on_damage)
    first = list(islice(places, WORTH)) if processes > 1 else []
    every = chain(first, places)
    if processes > 1 and len(first) >= WORTH:
        yield from _by_others(archive, every, processes, on_damage)
        return
    for entry, segment in every:
        try:
            yield Reading(*archive.stored(segment, entry.position))
        except ArchiveError as damage:
            on_damage(damage)


def _by_others(
    archive: Archive, places: Iterable[tuple[Entry, str]], processes: int, on_damage: Callable[[ArchiveError], None]
) -> Iterator[Reading]:
    # spawned, not forked: threads and connections of this process stay its own
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_begin)
    waiting: deque[Future[list[Reading | ArchiveError]]] = deque()
    batches = _batches(places)
    try:
        while True:
            for batch in islice(batches, processes * (1 + AHEAD) - len(waiting)):
                waiting.append(pool.submit(_parsed, str(archive.root), batch))
            if not waiting:
                return
            for one in waiting.popleft().result():
                if isinstance(one, ArchiveError):
                    on_damage(one)
                else:
                    yield one
    except BrokenProcessPool:
        raise CryptoDataError(
            "a process that parses was killed (is there enough memory?); what is written so far stays: run it again, "
            "with --processes 1 if it happens again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _batches(places: Iterable[tuple[Entry, str]]) -> Iterator[list[tuple[str, int]]]:
    batch: list[tuple[str, int]] = []
    size = 0
    for entry, segment in places:
        if batch and (len(batch) >= BATCH_ANSWERS or size + entry.length > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append((segment, entry.position))
        size += entry.length
    if batch:
        yield batch


# --- in the other processes -----------------------------------------------------------------------------------


def _begin() -> None:
    """They end with the process they work for, however it ends, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _parsed(root: str, places: Sequence[tuple[str, int]]) -> list[Reading | ArchiveError]:
    found: list[Reading | ArchiveError] = []
    with Archive(Path(root)) as archive:
        for segment, position in places:
            try:
                at, collector, exchange = archive.stored(segment, position)
            except ArchiveError as damage:
                found.append(damage)
                continue
            found.append(Reading(at, collector, replace(exchange, body=b""), says(exchange)))
    return found

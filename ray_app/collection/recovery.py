"""What a collector's processes archived and never committed: found in the archive, by the names of their segments."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import NamedTuple

from ray_app.clock import HOUR_MS, from_ms
from ray_app.collection.archive import Archive, ArchivedAt
from ray_app.errors import ArchiveError
from ray_app.sources.base import Exchange
from ray_app.storage import records
from ray_app.storage.engine import Database

log = logging.getLogger(__name__)


class Place(NamedTuple):
    """Where an answer is; places sort by the time it was fetched."""

    fetch_id: int
    segment: str
    position: int


def writer_name(collector: str, host: str, pid: int) -> str:
    """The archive writer of a process; recovery tells by it whose segments are whose.

    Of a long host name the end is kept: names of pods differ there. ``fetches.segment`` holds 120 characters.
    """
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in host)[-40:]
    return f"{collector}.{safe}-{pid}"


def lost(
    db: Database, archive: Archive, collector: str, since_ms: int | None = None, left_since: int | None = None
) -> list[Place]:
    """Archived answers of the collector from ``since_ms`` on that are not indexed in ``fetches``, oldest first.

    ``since_ms`` default: an hour before its last commit, or ``left_since`` if that is earlier.
    """
    segments = [(_hour_and_collector(name), name) for name in archive.segments()]
    own = [(hour, name) for (hour, writer), name in segments if writer == collector]
    if not own:
        return []
    found: list[Place] = []
    with db.read() as conn:
        if since_ms is None:
            last = records.last_fetch(conn, collector)
            since_ms = 0 if last is None else last - HOUR_MS
            since_ms = since_ms if left_since is None else min(since_ms, left_since)
        first = from_ms(max(since_ms, 0)).strftime("%Y%m%dT%H")
        for hour, segment in own:
            if hour < first:
                continue
            index = archive.index(segment)
            known = records.known_fetches(conn, [entry.fetch_id for entry in index])
            found += [
                Place(entry.fetch_id, segment, entry.position)
                for entry in index
                if entry.fetch_id not in known and entry.fetch_id >> 20 >= since_ms
            ]
    return sorted(found)


def read(archive: Archive, places: Iterable[Place]) -> list[tuple[ArchivedAt, Exchange]]:
    """The answers at these places. One that cannot be read is logged: it must not stop the others."""
    found = []
    for place in places:
        try:
            found.append(archive.record(place.segment, place.position))
        except ArchiveError as error:
            log.warning("not recovered: %s", error)
    return found


def _hour_and_collector(segment: str) -> tuple[str, str]:
    hour, collector, *_ = segment.rsplit("/", 1)[1].split(".")
    return hour, collector

"""How long the archive keeps what the terms of a source do not let it keep for ever.

:data:`RETENTION` is the table, :func:`expired` the rule, :func:`purge` deletes whole segments by it. What ``fetches``
has of an answer (when, what was asked, the body's length and hash) stays, and so do the manifests of its days:
``verify`` can still prove which answers there were, and tells what was deleted on purpose from what was lost.

A purge may be killed anywhere: the tombstone is committed before a file is touched, and the next purge deletes the
files of every tombstone it still finds. An answer that nobody committed is left to recovery for a week.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from ray_app.clock import DAY_MS, HOUR_MS, to_ms
from ray_app.collection import manifest
from ray_app.collection.archive import Archive
from ray_app.errors import ArchiveError
from ray_app.storage.engine import Database
from ray_app.storage.tables import archive_tombstones, fetches

log = logging.getLogger(__name__)

#: hours of an account's answers that the archive keeps; accounts that are not named here: for ever
RETENTION: Final[Mapping[str, float]] = {
    "reddit": 48.0,  # Data API terms: what its author deletes must go; deleted posts are looked for within two days
    "x": 24.0,  # developer agreement: deleted or changed posts are to be gone within 24 hours
    "guardian": 24.0,  # open platform terms: text may be cached for 24 hours
}
#: answers that nobody committed are kept for recovery this long
UNCOMMITTED_MS: Final = 7 * DAY_MS
_SEGMENT = re.compile(r"([a-z0-9_-]+)\.[^/]*/(\d{8}T\d{2})\.[^/]+\.zst")


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge deleted. ``kept``: expired segments that are still there, with the reason."""

    segments: int = 0
    answers: int = 0
    payload_bytes: int = 0
    kept: Mapping[str, str] = field(default_factory=dict)


def expired(source: str, hour: str, now_ms: int, rules: Mapping[str, float] = RETENTION) -> bool:
    """Whether answers of ``source`` (account or endpoint) from the UTC ``hour`` (``20261124T08``) are past retention.

    Counted from the end of the hour, so that every answer in it is; the current hour never is.
    """
    hours = rules.get(source.partition(".")[0])
    end = _start_of(hour) + HOUR_MS
    return hours is not None and end + round(max(hours, 0.0) * HOUR_MS) <= now_ms and end <= now_ms


def purge(archive_root: Path, db: Database, now_ms: int, rules: Mapping[str, float] = RETENTION) -> Purged:
    """Delete every expired segment whose answers are committed and whose day has its manifest.

    Never one that a process has open. Idempotent; safe beside collectors and another purge.
    """
    archive = Archive(archive_root)
    due = [
        name for name in archive.segments() if (m := _SEGMENT.fullmatch(name)) and expired(m[1], m[2], now_ms, rules)
    ]
    if not due:
        return Purged()
    manifest.record_settled(archive, db, now_ms)  # afterwards nobody could
    with db.read() as conn:
        days = manifest.recorded_days(conn)
    deleted, answers, size, kept = 0, 0, 0, dict[str, str]()
    for segment in due:
        if int(segment.rsplit("/", 1)[1][:8]) not in days:
            kept[segment] = "its day has no manifest yet"
            continue
        gone = _purge(archive, db, segment, now_ms, rules)
        if isinstance(gone, str):
            kept[segment] = gone
            continue
        deleted, answers, size = deleted + 1, answers + gone[0], size + gone[1]
    for segment, why in kept.items():
        log.warning("retention: %s stays: %s", segment, why)
    if deleted:
        log.info("retention: %d segments with %d answers deleted", deleted, answers)
    return Purged(deleted, answers, size, kept)


def _purge(
    archive: Archive, db: Database, segment: str, now_ms: int, rules: Mapping[str, float]
) -> tuple[int, int] | str:
    """Delete one segment; how many answers and bytes it held, or why it stays."""
    path = archive.root / segment
    try:
        held = path.open("rb")
    except FileNotFoundError:  # another purge was quicker
        return 0, 0
    with held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "a process has it open"
        with db.read() as conn:
            known = conn.scalar(select(archive_tombstones.c.segment).where(archive_tombstones.c.segment == segment))
            stone = None if known is not None else _tombstone(conn, archive, segment, now_ms, rules)
        if isinstance(stone, str):
            return stone
        if stone is not None:
            row: dict[str, str | int] = stone
            try:
                db.run(lambda conn: conn.execute(insert(archive_tombstones), [row]))
            except IntegrityError:
                stone = None  # another purge was quicker
        for file in (path.with_suffix(".idx"), path):  # the segment last: it is what the next purge finds
            file.unlink(missing_ok=True)
        _sync_directory(path.parent)
    return (0, 0) if stone is None else (int(stone["answers"]), int(stone["payload_bytes"]))


def _tombstone(
    conn: Connection, archive: Archive, segment: str, now_ms: int, rules: Mapping[str, float]
) -> dict[str, str | int] | str:
    """The row that stands for a segment; or why the segment must stay."""
    source, name = segment.split("/")
    start = _start_of(name[:11])
    of_hour = fetches.c.fetch_id.between(start << 20, ((start + HOUR_MS) << 20) - 1)
    query = select(fetches.c.fetch_id, fetches.c.payload_bytes).where(of_hour, fetches.c.segment == segment)
    committed = {row.fetch_id: row.payload_bytes for row in conn.execute(query)}
    waiting = [entry for entry in archive.index(segment) if entry.fetch_id not in committed]
    if waiting and now_ms - start - HOUR_MS < UNCOMMITTED_MS:
        return f"{len(waiting)} of its answers are not committed yet"
    size = sum(committed.values())
    for entry in waiting:
        try:
            size += archive.record(segment, entry.position)[0].payload_bytes
        except ArchiveError as error:
            log.warning("retention: %s", error)
    never = f", {len(waiting)} answers were never committed" if waiting else ""
    return {
        "segment": segment,
        "source": source,
        "answers": len(committed) + len(waiting),
        "committed": len(committed),
        "payload_bytes": size,
        "purged_at": now_ms,
        "reason": f"kept for {rules[source.partition('.')[0]]:g} h{never}",
    }


def _start_of(hour: str) -> int:
    return to_ms(datetime.strptime(hour, "%Y%m%dT%H").replace(tzinfo=UTC))


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

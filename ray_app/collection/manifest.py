"""What the archive held on a day, in one hash per endpoint and one for the day.

**Leaves.** One per archived answer fetched on that UTC day (node time): SHA-256 of ``0x00`` and a JSON array of
``fetched_at`` (ms), the request (path, params and context, keys sorted), the HTTP status and the SHA-256 of the body:
what ``fetches`` has of it too. Headers are not part of it.

**Order.** By that array, so first by ``fetched_at``. Nothing of it depends on segments, positions, writers, fetch ids
or the order of answers that came in the same millisecond: an archive that was copied, merged or written anew with
the same answers has the same roots, and an answer that is missing, added or changed in one bit has others.

**Tree.** RFC 6962 (Certificate Transparency): node = SHA-256 of ``0x01``, left, right; an incomplete right side is
carried up as it is. The day's root is that of the tree over its endpoints by name, whose leaves are SHA-256 of ``0x00``
and the JSON array of name, number of answers and root.

A day's manifest is recorded once, when the day is *settled* (over for an hour of node time), and never replaced.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

import orjson
from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from ray_app.clock import DAY_MS, HOUR_MS, from_ms, open_clock, to_ms
from ray_app.collection.archive import Archive, ArchivedAt
from ray_app.collection.digest import asked
from ray_app.errors import CryptoDataError
from ray_app.settings import Settings
from ray_app.sources.base import Exchange
from ray_app.storage.engine import Database
from ray_app.storage.tables import archive_manifests

log = logging.getLogger(__name__)

#: the name of the day's own row
WHOLE_DAY = "*"
#: ms of node time after midnight until nothing of the day before can be on its way to the archive any more
SETTLING_MS = HOUR_MS
#: node seconds between two looks for a day to record
LOOK_EVERY_S = 3_600.0
#: wall seconds until the next look where the database or the archive was away
_SOON_S = 30.0


class Leaf(NamedTuple):
    """An answer as the manifest knows it. ``request``: canonical JSON (digest.asked)."""

    fetched_at: int
    request: str
    status: int
    payload_hash: str


@dataclass(frozen=True, slots=True)
class Root:
    """What a day held of one source (or of all): answers, bytes of their bodies, Merkle root in hex."""

    answers: int
    payload_bytes: int
    root: str


class MerkleTree:
    """A tree that grows leaf by leaf and holds the roots of its complete subtrees only: O(log n) memory."""

    def __init__(self) -> None:
        self._complete: list[tuple[int, bytes]] = []  # (height, root), heights falling

    def add(self, content: bytes) -> None:
        """Append a leaf."""
        height, node = 0, hashlib.sha256(b"\x00" + content).digest()
        while self._complete and self._complete[-1][0] == height:
            node = _parent(self._complete.pop()[1], node)
            height += 1
        self._complete.append((height, node))

    def root(self) -> str:
        """The root in hex; of no leaves SHA-256 of nothing."""
        if not self._complete:
            return hashlib.sha256().hexdigest()
        *left, (_, node) = self._complete
        for _, sibling in reversed(left):
            node = _parent(sibling, node)
        return node.hex()


def _parent(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass
class _Source:
    tree: MerkleTree = field(default_factory=MerkleTree)
    answers: int = 0
    payload_bytes: int = 0
    moment: int = 0
    same_moment: list[Leaf] = field(default_factory=list)

    def add(self, leaf: Leaf, payload_bytes: int) -> None:
        if leaf.fetched_at != self.moment:
            self.settle()
            self.moment = leaf.fetched_at
        self.same_moment.append(leaf)
        self.answers += 1
        self.payload_bytes += payload_bytes

    def settle(self) -> None:
        for leaf in sorted(self.same_moment):
            self.tree.add(orjson.dumps(list(leaf)))
        self.same_moment.clear()


class DayManifest:
    """The manifest of one day in the making. Answers are added by rising ``fetched_at``."""

    def __init__(self) -> None:
        self._sources: dict[str, _Source] = {}

    def add(self, at: ArchivedAt, exchange: Exchange) -> None:
        """Take in an answer; ``at.payload_hash`` is the hash of the body that was read."""
        leaf = Leaf(exchange.fetched_at, asked(exchange.request), exchange.status, at.payload_hash)
        self.add_leaf(exchange.request.endpoint, leaf, at.payload_bytes)

    def add_leaf(self, source: str, leaf: Leaf, payload_bytes: int) -> None:
        """Take in an answer as ``fetches`` has it: its payload was deleted (retention.py)."""
        self._sources.setdefault(source, _Source()).add(leaf, payload_bytes)

    def roots(self) -> dict[str, Root]:
        """By endpoint, and under :data:`WHOLE_DAY` of the day."""
        day, found = MerkleTree(), {}
        for name, source in sorted(self._sources.items()):
            source.settle()
            found[name] = Root(source.answers, source.payload_bytes, source.tree.root())
            day.add(orjson.dumps([name, source.answers, found[name].root]))
        total = (sum(root.answers for root in found.values()), sum(root.payload_bytes for root in found.values()))
        return {WHOLE_DAY: Root(*total, day.root()), **found}


# --- days -----------------------------------------------------------------------------------------------------


def day_of(ms: int) -> int:
    """The UTC day of a moment as yyyymmdd."""
    return int(from_ms(ms).strftime("%Y%m%d"))


def settled_before(now_ms: int) -> int:
    """The moment (ms, a midnight) before which every day is settled."""
    reached = now_ms - SETTLING_MS
    return reached - reached % DAY_MS


def manifest_of(archive: Archive, start: int) -> dict[str, Root]:
    """The roots of the day that begins at ``start`` (ms), from the bodies in the archive."""
    manifest = DayManifest()
    for at, _, exchange in archive.scan(start=start, end=start + DAY_MS):
        manifest.add(at, exchange)
    return manifest.roots()


def days_in(archive: Archive) -> list[int]:
    """Midnights (ms) of the days of which the archive has segments, ascending."""
    hours = {segment.rsplit("/", 1)[1][:8] for segment in archive.segments()}
    return [_midnight(day) for day in sorted(hours)]


def _midnight(day: str) -> int:
    return to_ms(datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC))


# --- what was recorded ----------------------------------------------------------------------------------------


def recorded(conn: Connection, day: int) -> dict[str, Root]:
    """The recorded roots of a day (yyyymmdd) by source; {} if none were."""
    columns = archive_manifests.c
    query = select(columns.source, columns.answers, columns.payload_bytes, columns.root).where(columns.day == day)
    return {source: Root(*rest) for source, *rest in conn.execute(query)}


def recorded_days(conn: Connection) -> set[int]:
    """The days (yyyymmdd) that have a manifest."""
    return set(conn.scalars(select(archive_manifests.c.day).where(archive_manifests.c.source == WHOLE_DAY)))


def record(conn: Connection, day: int, roots: dict[str, Root], now_ms: int) -> None:
    """Record a day's manifest. IntegrityError if it has one: it is never replaced."""
    conn.execute(
        insert(archive_manifests),
        [
            {
                "day": day,
                "source": source,
                "answers": root.answers,
                "payload_bytes": root.payload_bytes,
                "root": root.root,
                "recorded_at": now_ms,
            }
            for source, root in roots.items()
        ],
    )


def record_settled(archive: Archive, db: Database, now_ms: int) -> list[int]:
    """Record every settled day of the archive that has no manifest yet; the days (yyyymmdd) recorded now."""
    with db.read() as conn:
        known = recorded_days(conn)
    done = []
    for start in days_in(archive):
        day = day_of(start)
        if start >= settled_before(now_ms) or day in known:
            continue
        roots = manifest_of(archive, start)
        try:
            db.run(lambda conn, day=day, roots=roots: record(conn, day, roots, now_ms))  # type: ignore[misc]
        except IntegrityError:
            continue  # another supervisor was quicker
        done.append(day)
        log.info("archive: manifest of %d recorded, %d answers", day, roots[WHOLE_DAY].answers)
    return done


async def keep_manifests(settings: Settings) -> None:
    """Record each day once it is settled, until cancelled; survives a database and an archive that are away."""
    clock = open_clock(settings.epoch_file)
    db = Database(settings.resolved_database_url, pool_size=1)
    try:
        with Archive(settings.archive_dir) as archive:
            while True:
                try:
                    await asyncio.to_thread(record_settled, archive, db, clock.now_ms())
                except (SQLAlchemyError, CryptoDataError, OSError) as error:
                    log.warning("archive: cannot record manifests (%s); trying again", error)
                    await asyncio.sleep(_SOON_S)
                else:
                    await clock.sleep(LOOK_EVERY_S)
    finally:
        await asyncio.to_thread(db.dispose)

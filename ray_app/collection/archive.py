"""The raw archive: every upstream answer exactly as it came, in append-only compressed segments.

Layout: ``<root>/<endpoint>/<YYYYMMDDTHH>.<writer>.zst`` (UTC hour of ``fetched_at``), one file per writing process,
with an index ``….idx`` beside it that can always be rebuilt. A segment is a valid zstd file: ``zstdcat`` shows it.

What the promise is: when :meth:`Archive.append` has returned, the record survives the death of the process (it is with
the operating system); when :meth:`Archive.sync` has, that of the machine. Ingestion calls it before each commit, so no
stored value ever names a payload that a power failure could take. A killed writer leaves at most one torn record at
the end of its own segment; a torn or flipped record is reported by name and place and skipped, never silently. How a
record looks in bytes: archive_record.py.
"""

from __future__ import annotations

import fcntl
import hashlib
import heapq
import logging
import os
import random
import re
import struct
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from ray_app.clock import HOUR_MS, from_ms
from ray_app.collection import archive_record as record
from ray_app.errors import ArchiveError
from ray_app.sources.base import Exchange

log = logging.getLogger(__name__)

_ENTRY = struct.Struct("<QQI")  # fetch id, position, length of the whole record
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_SEGMENT = re.compile(r"(\d{8}T\d{2})\.([A-Za-z0-9_-][A-Za-z0-9._-]*)\.zst")
_BLOCK = 1 << 20  # bytes looked through at a time for the next record

OnDamage = Callable[[ArchiveError], None]


@dataclass(frozen=True, slots=True)
class ArchivedAt:
    """Where a record is. ``payload_hash``: SHA-256 of the body, hex; ``payload_bytes``: its length."""

    fetch_id: int
    segment: str
    position: int
    payload_hash: str
    payload_bytes: int


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One line of a segment's index."""

    fetch_id: int
    position: int
    length: int

    @property
    def end(self) -> int:
        """The byte after the record."""
        return self.position + self.length


@dataclass(slots=True)
class _Open:
    """A segment this process appends to."""

    fd: int
    index_fd: int
    size: int
    hour: str
    synced: bool = True


@dataclass
class Archive:
    """The archive under ``root``. ``writer`` names the process in its segments: unique among those running.

    Reading needs no writer. Safe to use from several threads. Close it (or use it as a context manager).
    ``level`` is zstd's.
    """

    root: Path
    writer: str | None = None
    level: int = 3
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _segments: dict[str, _Open] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.root = Path(self.root)
        if self.writer is not None and not _NAME.fullmatch(self.writer):
            raise ArchiveError(f"writer name {self.writer!r}: use letters, digits, '.', '_' and '-'")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- writing ---

    def append(self, exchange: Exchange, collector: str) -> ArchivedAt:
        """Store the exchange; the record is complete in its segment when this returns.

        ArchiveError if it cannot be written (disk full, no permission): nothing of it is left behind.
        """
        if self.writer is None:
            raise ArchiveError("this archive was opened for reading; give it a writer name to append")
        source = exchange.request.endpoint
        if not _NAME.fullmatch(source):
            raise ArchiveError(f"endpoint {source!r} cannot name a directory of the archive")
        fetch_id = (exchange.fetched_at << 20) | random.getrandbits(20)
        encoded = record.encode(exchange, collector, fetch_id, self.level)
        hour = _hour(exchange.fetched_at)
        segment = f"{source}/{hour}.{self.writer}.zst"
        with self._lock:
            try:
                self._roll_over(source, hour)
                position = self._write(segment, hour, fetch_id, encoded)
            except OSError as error:
                raise ArchiveError(_advice(self.root / segment, error)) from error
        payload_hash = hashlib.sha256(exchange.body).hexdigest()
        return ArchivedAt(fetch_id, segment, position, payload_hash, len(exchange.body))

    def _write(self, segment: str, hour: str, fetch_id: int, encoded: bytes) -> int:
        file = self._segments.get(segment) or self._open(segment, hour)
        position = file.size
        try:
            _write_all(file.fd, encoded)
        except OSError:
            self._cut(segment, position)
            raise
        file.size += len(encoded)
        file.synced = False
        try:
            _write_all(file.index_fd, _ENTRY.pack(fetch_id, position, len(encoded)))
        except OSError as error:  # the record is safe, and the index can be rebuilt from it
            log.warning("%s: index not written (%s); rebuilt when read", segment, error.strerror)
        return position

    def _cut(self, segment: str, position: int) -> None:
        """Leave no half record behind, and let go of the segment: the next append looks where it really ends."""
        file = self._segments.pop(segment)
        try:
            os.ftruncate(file.fd, position)
        except OSError as error:  # readers skip what is left of it
            log.warning("%s: half a record stays at offset %d (%s)", segment, position, error.strerror)
        finally:
            os.close(file.fd)
            os.close(file.index_fd)

    def sync(self, segments: Iterable[str]) -> None:
        """Force the segments to the disk: what anybody has appended to them so far is there when this returns.

        ArchiveError if the disk refuses.
        """
        for segment in sorted(segments):
            try:
                self._sync(segment)
            except OSError as error:
                raise ArchiveError(_advice(self.root / segment, error)) from error

    def _sync(self, segment: str) -> None:
        with self._lock:
            file = self._segments.get(segment)
            if file is not None:
                if not file.synced:
                    os.fdatasync(file.fd)
                    file.synced = True
                return
        fd = os.open(self._path(segment), os.O_RDONLY | os.O_CLOEXEC)  # a predecessor's, or rolled over already
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def _open(self, segment: str, hour: str) -> _Open:
        path = self.root / segment
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            index_fd = os.open(_index_path(path), flags, 0o644)
            size = os.fstat(fd).st_size
            if size == 0:  # a file's data is safe only where its name is
                _sync_directories(path.parent, self.root)
        except BlockingIOError:
            os.close(fd)
            raise ArchiveError(
                f"{path}: another process writes under the name {self.writer!r}; give each process its own"
            ) from None
        except OSError:
            os.close(fd)
            raise
        # A torn record that a killed predecessor left at the end stays: readers skip it, and it is evidence.
        file = self._segments[segment] = _Open(fd, index_fd, size, hour)
        return file

    def _roll_over(self, source: str, hour: str) -> None:
        """Close the source's segments of other hours than this one and the one before (answers may cross)."""
        mine = [name for name in self._segments if name.startswith(f"{source}/")]
        for segment in sorted(mine, key=lambda name: self._segments[name].hour)[:-1]:
            if self._segments[segment].hour != hour:
                self._close(segment)

    def _close(self, segment: str) -> None:
        file = self._segments.pop(segment)
        try:
            os.fdatasync(file.fd)
        finally:
            os.close(file.fd)
            os.close(file.index_fd)

    def close(self) -> None:
        """Force everything to disk and close; appending again reopens."""
        with self._lock:
            for segment in list(self._segments):
                self._close(segment)

    # --- reading ---

    def read(self, segment: str, position: int) -> Exchange:
        """The exchange at a position; ArchiveError names segment and offset if it is not whole."""
        return self.stored(segment, position)[2]

    def record(self, segment: str, position: int) -> tuple[ArchivedAt, Exchange]:
        """As :meth:`read`, with the place it has."""
        at, _, exchange = self.stored(segment, position)
        return at, exchange

    def stored(self, segment: str, position: int) -> tuple[ArchivedAt, str, Exchange]:
        """As :meth:`record`, with the collector that asked: (place, collector, exchange)."""
        try:
            with self._path(segment).open("rb") as file:
                file.seek(position)
                head = file.read(record.HEADER.size)
                entry_frame = record.parse_header(head)
                if entry_frame is None:
                    raise ArchiveError(f"{segment} at offset {position}: no record begins there")
                fetch_id, length, crc = entry_frame
                frame = file.read(length)
        except OSError as error:
            raise ArchiveError(f"{segment} at offset {position}: {error.strerror}; is the archive complete?") from error
        if len(frame) < length:
            raise ArchiveError(f"{segment} at offset {position}: torn record ({len(frame)} of {length} bytes)")
        if zlib.crc32(frame) != crc:
            raise ArchiveError(f"{segment} at offset {position}: damaged record (checksum differs)")
        exchange, collector = record.decode(frame, f"{segment} at offset {position}")
        digest = hashlib.sha256(exchange.body).hexdigest()
        return ArchivedAt(fetch_id, segment, position, digest, len(exchange.body)), collector, exchange

    def segments(self, source: str | None = None) -> list[str]:
        """Segments by hour, then name. ``source``: an endpoint (``coingecko.markets``) or all of one upstream's."""
        found = []
        for path in self.root.glob("*/*.zst"):
            match = _SEGMENT.fullmatch(path.name)
            directory = path.parent.name
            if match and (source is None or directory == source or directory.startswith(f"{source}.")):
                found.append((match[1], f"{directory}/{path.name}"))
        return [segment for _, segment in sorted(found)]

    def scan(
        self,
        source: str | None = None,
        start: int | None = None,
        end: int | None = None,
        on_damage: OnDamage | None = None,
    ) -> Iterator[tuple[ArchivedAt, str, Exchange]]:
        """(place, collector, exchange) of every record fetched in ``[start, end)`` ms, by rising fetch id.

        Damaged records are reported to ``on_damage`` (default: logged as warnings) and skipped. Memory is bounded
        by the index of one hour plus one record.
        """
        report = on_damage or _log_damage
        for entry, segment in self.places(source, start, end, report):
            try:
                found = self.stored(segment, entry.position)
            except ArchiveError as damage:
                report(damage)
                continue
            yield found

    def places(
        self,
        source: str | None = None,
        start: int | None = None,
        end: int | None = None,
        on_damage: OnDamage | None = None,
    ) -> Iterator[tuple[Entry, str]]:
        """(entry, segment) of what :meth:`scan` reads, in its order; the records themselves are not looked at."""
        report = on_damage or _log_damage
        by_hour: dict[str, list[str]] = {}
        for segment in self.segments(source):
            hour = segment.rsplit("/", 1)[1].split(".", 1)[0]
            # hours compare as text; fetch ids of different hours never interleave
            if (start is None or hour >= _hour(start)) and (end is None or hour <= _hour(end - 1)):
                by_hour.setdefault(hour, []).append(segment)
        for _, segments in sorted(by_hour.items()):
            streams = [[(e, name) for e in sorted(self.index(name, report))] for name in segments]
            for entry, segment in heapq.merge(*streams):
                fetched_at = entry.fetch_id >> 20
                if (start is None or fetched_at >= start) and (end is None or fetched_at < end):
                    yield entry, segment

    def index(self, segment: str, on_damage: OnDamage | None = None) -> list[Entry]:
        """The records of a segment, from its index where that covers the whole segment, else from the segment.

        A segment that is gone since it was listed (retention.py) is reported as damage, and has none.
        """
        report = on_damage or _log_damage
        try:
            return self._index(segment, report)
        except FileNotFoundError:
            report(ArchiveError(f"{segment}: gone since it was listed"))
            return []

    def _index(self, segment: str, report: OnDamage) -> list[Entry]:
        path = self._path(segment)
        try:
            entries = _read_index(_index_path(path))
            size = path.stat().st_size
        except FileNotFoundError:
            return self._walk(segment, report)
        ends = 0
        for entry in entries:  # a whole index leaves no byte of the segment unexplained
            if entry.position != ends:
                return self._walk(segment, report)
            ends = entry.end
        return entries if ends == size else self._walk(segment, report)

    def rebuild_index(self, segment: str, on_damage: OnDamage | None = None) -> list[Entry]:
        """Write the segment's index anew from the segment; a segment somebody writes to is left alone."""
        entries = self._walk(segment, on_damage or _log_damage)
        path = self._path(segment)
        with path.open("rb") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ArchiveError(f"{segment}: it is being written; rebuild its index when its hour is over") from None
            partial = path.with_suffix(f".{os.getpid()}.tmp")
            partial.write_bytes(b"".join(_ENTRY.pack(e.fetch_id, e.position, e.length) for e in entries))
            partial.replace(_index_path(path))
        return entries

    def _walk(self, segment: str, report: OnDamage) -> list[Entry]:
        """Check a segment record by record; where there is no whole one, find the next and report what was skipped.

        Checksums and not only lengths: a torn record with others appended behind it would swallow their beginning.
        """
        entries: list[Entry] = []
        with self._path(segment).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            position = 0
            while position < size:
                file.seek(position)
                header = record.parse_header(file.read(record.HEADER.size))
                if header is not None and zlib.crc32(file.read(header[1])) == header[2]:
                    entries.append(Entry(header[0], position, record.HEADER.size + header[1]))
                    position = entries[-1].end
                    continue
                resume = _next_record(file.fileno(), position + 1, size)
                what = "torn or damaged record" if header else "no readable record"
                cause = "damaged, or the writer was killed, or it is still writing"
                skipped = resume - position
                report(ArchiveError(f"{segment} at offset {position}: {what}; {skipped} bytes skipped ({cause})"))
                position = resume
        return entries

    def _path(self, segment: str) -> Path:
        directory, _, name = segment.partition("/")
        if not (_NAME.fullmatch(directory) and _SEGMENT.fullmatch(name)):
            raise ArchiveError(f"{segment!r} is not the name of a segment")
        return self.root / segment


def _hour(ms: int) -> str:
    return from_ms(ms - ms % HOUR_MS).strftime("%Y%m%dT%H")


def _index_path(path: Path) -> Path:
    return path.with_suffix(".idx")


def _log_damage(damage: ArchiveError) -> None:
    log.warning("archive: %s", damage)


def _sync_directories(*directories: Path) -> None:
    for directory in directories:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _advice(path: Path, error: OSError) -> str:
    return (
        f"cannot write {path} ({error.strerror}): collection stops until the archive directory is writable and has "
        "room; free space or move DATA_DIR to a larger disk, check its owner and that it is not mounted read-only"
    )


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _read_index(path: Path) -> list[Entry]:
    raw = path.read_bytes()
    whole = len(raw) - len(raw) % _ENTRY.size
    return [Entry(*fields) for fields in _ENTRY.iter_unpack(raw[:whole])]


def _next_record(fd: int, position: int, size: int) -> int:
    """The offset of the next sound header at or after ``position``; ``size`` if there is none."""
    while position < size:
        block = os.pread(fd, _BLOCK + len(record.MARK), position)
        found = block.find(record.MARK)
        if found < 0:
            position += _BLOCK
            continue
        position += found
        if record.parse_header(os.pread(fd, record.HEADER.size, position)) is not None:
            return position
        position += 1
    return size

"""Frames between two flushes, in bounded memory: at the bound, only the newest frame of each product stays."""

from __future__ import annotations

from dataclasses import dataclass, field

#: what lies here is at most so large; an archive record and the database take the same at once
MAX_BYTES = 4 * 1024 * 1024
#: frames that are about no product (errors, types nobody knows), and bytes of each: the rest is counted only
MAX_OTHERS, MAX_OTHER_BYTES = 100, 16 * 1024


@dataclass(slots=True)
class Batch:
    """What came since the last flush. ``superseded``: frames dropped for a newer one of their product."""

    frames: list[bytes] = field(default_factory=list)
    superseded: int = 0
    dropped: int = 0

    @property
    def body(self) -> bytes:
        """One frame a line, as received but for line breaks in a frame, which JSON takes for spaces."""
        return b"".join(frame.translate(_ONE_LINE) + b"\n" for frame in self.frames)


_ONE_LINE = bytes.maketrans(b"\n\r", b"  ")


class Buffer:
    """Frames in the order they came in."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._frames: list[tuple[str | None, bytes]] = []
        self._bytes = self._others = 0
        self._superseded = self._dropped = 0

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def size(self) -> int:
        """What it holds."""
        return self._bytes

    def add(self, product: str | None, frame: bytes) -> None:
        """Keep a frame of ``product`` (None: of none)."""
        if product is None:
            if self._others >= MAX_OTHERS or len(frame) > MAX_OTHER_BYTES:
                self._dropped += 1
                return
            self._others += 1
        self._frames.append((product, frame))
        self._bytes += len(frame)
        if self._bytes > self._max_bytes:
            self._thin()

    def take(self) -> Batch:
        """Everything it holds; it is empty then."""
        batch = Batch([frame for _, frame in self._frames], self._superseded, self._dropped)
        self._frames = []
        self._bytes = self._others = self._superseded = self._dropped = 0
        return batch

    def _thin(self) -> None:
        """Keep the newest frame of each product; if that is still more than half, the newest of those."""
        newest = {product: place for place, (product, _) in enumerate(self._frames) if product is not None}
        kept = [
            (product, frame)
            for place, (product, frame) in enumerate(self._frames)
            if product is None or newest[product] == place
        ]
        self._superseded += len(self._frames) - len(kept)
        self._bytes = sum(len(frame) for _, frame in kept)
        while kept and self._bytes > self._max_bytes // 2:
            product, frame = kept.pop(0)
            self._bytes -= len(frame)
            self._dropped += 1
            self._others -= product is None
        self._frames = kept

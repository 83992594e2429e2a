"""What was asked of the simulated upstreams, as they saw it: the record against which a node is checked."""

from __future__ import annotations

import builtins
import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ray_app.clock import from_ms
from ray_app.errors import ConfigError

#: query parameters that may carry a key, as any upstream of upstreams.md spells it: their values are never written
_SECRET = re.compile(r"key|token|secret|password|signature", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Logged:
    """One request. ``status`` 0: no complete answer went out. ``bytes``: body bytes sent, as compressed."""

    at: int  # node time of arrival, ms
    wall: int  # wall time of arrival, ms
    source: str
    endpoint: str  # "unknown": no such path
    path: str
    params: Mapping[str, str]
    status: int
    fault: str | None
    bytes: int
    ms: float  # wall milliseconds until the answer was sent
    caller: str | None = None  # which paid key it came with (a hash of it); None: with none

    def line(self) -> builtins.bytes:
        """The JSON line; keys in parameters are masked."""
        masked = {name: "***" if _SECRET.search(name) else text for name, text in self.params.items()}
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        return orjson.dumps({**fields, "params": masked}) + b"\n"


def caller_of(key: str | None) -> str | None:
    """What stands for a key in the log."""
    return None if key is None else hashlib.sha256(key.encode()).hexdigest()[:8]


class Calls:
    """How many requests came with each paid key in each month of node time, those in an older log included."""

    def __init__(self, log: Path | None, began_wall_ms: int) -> None:
        self._log, self._began = log, began_wall_ms
        self._counts: Counter[tuple[str, str]] = Counter()

    def came(self, caller: str | None, at: int) -> None:
        """A request has arrived."""
        if caller is not None:
            self._counts[caller, _month(at)] += 1

    def of(self, caller: str | None, at: int) -> int | None:
        """The calls of the month that ``at`` is in."""
        if caller is None:
            return None
        if self._log is not None and self._log.exists():
            for old in read_log(self._log):
                if old.wall < self._began:
                    self.came(old.caller, old.at)
        self._log = None
        return self._counts[caller, _month(at)]


def _month(ms: int) -> str:
    return f"{from_ms(ms):%Y%m}"


class RequestLog:
    """Appends to a file, one write per line: nothing is lost when the process dies. ConfigError if it cannot."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: int | None = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise ConfigError(
                f"request log {path} cannot be written ({error.strerror}); choose another path"
            ) from error

    def write(self, entry: Logged) -> None:
        """Append one request."""
        if self._file is not None:
            os.write(self._file, entry.line())

    def close(self) -> None:
        """Close the file; later entries are dropped."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def read_log(path: Path) -> list[Logged]:
    """The requests of a log, by arrival. ConfigError names a line that is not one (a torn last line is left out)."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigError(f"request log {path} cannot be read ({error.strerror})") from error
    entries = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            entries.append(Logged(**orjson.loads(line)))
        except (orjson.JSONDecodeError, TypeError) as error:
            raise ConfigError(f"{path}, line {number}: not a line of a request log ({error})") from error
    return sorted(entries, key=lambda entry: entry.at)


@dataclass(frozen=True, slots=True)
class SourceAudit:
    """How hard one source was asked. Peaks are the most requests that arrived within any window of node time."""

    source: str
    requests: int
    peak_1s: int
    peak_60s: int
    by_endpoint: Mapping[str, int]
    by_status: Mapping[int, int]
    by_fault: Mapping[str, int]


def audit(entries: Iterable[Logged]) -> list[SourceAudit]:
    """The audit of each source, by name."""
    by_source: dict[str, list[Logged]] = defaultdict(list)
    for entry in entries:
        by_source[entry.source].append(entry)
    return [
        SourceAudit(
            source,
            len(asked),
            peak([entry.at for entry in asked], 1_000),
            peak([entry.at for entry in asked], 60_000),
            dict(sorted(Counter(entry.endpoint for entry in asked).items())),
            dict(sorted(Counter(entry.status for entry in asked).items())),
            dict(sorted(Counter(entry.fault for entry in asked if entry.fault is not None).items())),
        )
        for source, asked in sorted(by_source.items())
    ]


def peak(times_ms: Iterable[int], window_ms: int) -> int:
    """The most of ``times_ms`` that lie within any half-open window [t, t + window_ms)."""
    times = sorted(times_ms)
    most = first = 0
    for last, time in enumerate(times):
        while times[first] <= time - window_ms:
            first += 1
        most = max(most, last - first + 1)
    return most

"""What health is judged by. Plain facts, no verdicts; times are ms of node time unless a name says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Slots:
    """Slots of a window. ``settled``: known to be empty at the venue, or beyond repair with a stated reason."""

    expected: int
    received: int
    settled: int = 0

    @property
    def missing(self) -> int:
        """What should be there and is not."""
        return max(self.expected - self.received - self.settled, 0)

    @property
    def missing_share(self) -> float:
        """0 to 1; 0 when nothing is expected."""
        return self.missing / self.expected if self.expected else 0.0


@dataclass(frozen=True, slots=True)
class DatasetEvidence:
    """One dataset. ``stale``: assets whose newest value is of an EVENT time older than the cap of their interval.

    ``oldest_owed``: the first slot of the last day that is owed (None: none is). ``first_due``: when the first slot
    that the node ever expected of it was due; None: nothing is scheduled yet.
    """

    dataset: str
    hour: Slots
    day: Slots
    assets: int
    stale: int
    stale_since: int | None
    newest_event: int | None
    oldest_owed: int | None
    first_due: int | None


@dataclass(frozen=True, slots=True)
class CollectorEvidence:
    """One collector. ``leased``: some process holds its lease now. ``overdue_ms``: how late its next pass is."""

    name: str
    datasets: tuple[DatasetEvidence, ...]
    leased: bool
    started_at: int | None
    succeeded_at: int | None
    next_run_at: int | None
    overdue_ms: int
    #: longest time between two passes that is in order
    patience_ms: int
    last_error: str | None = None  # text: for the master key only
    last_error_at: int | None = None
    #: why it does not run, and what to do; None: it does
    off: str | None = None

    @property
    def running_since(self) -> int | None:
        """When the pass began that has not ended yet, as far as is known; None: none is under way."""
        ended = max(self.succeeded_at or 0, self.last_error_at or 0)
        return self.started_at if self.started_at is not None and self.started_at > ended else None

    @property
    def failing_since(self) -> int | None:
        """When its last pass failed, None if it succeeded."""
        if self.last_error_at is None or (self.succeeded_at is not None and self.succeeded_at >= self.last_error_at):
            return None
        return self.last_error_at


@dataclass(frozen=True, slots=True)
class AccountEvidence:
    """One upstream account. ``circuit_until``: no request leaves before then, because too many failed.

    ``thinned``: what is asked for less often than wanted, as the month's credits do not carry it, in words; ``advice``:
    what to do about it. ``remarks``: what the upstream says of the key that is not as we assume.
    """

    account: str
    spent: int
    monthly: int | None
    projected: int
    runs_out_at: int | None
    paused_until: int
    circuit_until: int | None
    circuit_since: int | None = None
    thinned: tuple[str, ...] = ()
    advice: str | None = None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ArchiveEvidence:
    """Where raw answers are kept. ``free_bytes`` None: not measurable."""

    writable: bool
    free_bytes: int | None
    total_bytes: int | None


ProbeState = Literal["ok", "degraded", "dead", "off"]


@dataclass(frozen=True, slots=True)
class Probe:
    """What somebody who can see a component says of it. ``reason`` is shown to everybody: no hosts, paths or errors."""

    state: ProbeState
    reason: str | None = None
    since: int | None = None
    details: Mapping[str, object] = field(default_factory=dict)


#: for a component that nobody could be asked about: dead until proven otherwise
NOT_PROBED = Probe("dead", "nothing can be said of it: no probe answered")


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything at one moment. ``readable`` False: the database could not be read, and all that is in it is unknown.

    ``up_since``: when the process that looks was started.
    """

    now: int
    up_since: int
    readable: bool
    collectors: tuple[CollectorEvidence, ...]
    accounts: tuple[AccountEvidence, ...]
    archive: ArchiveEvidence
    event_bus: Probe
    streams: Probe
    redis: Probe
    dead_letters: Mapping[str, int] = field(default_factory=dict)
    quality_events: Mapping[str, int] = field(default_factory=dict)

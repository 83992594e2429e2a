"""What should be stored, and what of it is owed: algebra on ranges of slots.

A range is half open, ``[start, end)`` in ms. Lists of ranges are **normal** when they are sorted, disjoint, not
adjacent and hold no empty range; every function takes any list and returns a normal one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ray_app.collection.schedule import ScheduleVersion

Slots = Sequence[int] | npt.NDArray[np.int64]


class SlotRange(NamedTuple):
    """Slots from ``start`` up to but not including ``end`` (ms)."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Lifetime:
    """When an asset can have data: ``[start, end)`` in ms; ``end`` None: still alive. Unknown start: 0."""

    start: int = 0
    end: int | None = None


@dataclass(frozen=True, slots=True)
class Expected:
    """Slots of one interval that should be there."""

    interval_s: int
    range: SlotRange


def normal(ranges: Iterable[SlotRange]) -> list[SlotRange]:
    """The same slots as a normal list."""
    parts = [part for part in ranges if part.start < part.end]
    if len(parts) < 2:
        return parts
    parts.sort()
    merged: list[SlotRange] = []
    start, end = parts[0]
    for part in parts:
        if part.start > end:
            merged.append(SlotRange(start, end))
            start, end = part
        elif part.end > end:
            end = part.end
    merged.append(SlotRange(start, end))
    return merged


def union(*lists: Iterable[SlotRange]) -> list[SlotRange]:
    """Slots in any of the lists."""
    return normal(part for ranges in lists for part in ranges)


def intersect(left: Iterable[SlotRange], right: Iterable[SlotRange]) -> list[SlotRange]:
    """Slots in both."""
    a, b = normal(left), normal(right)
    common: list[SlotRange] = []
    i = j = 0
    while i < len(a) and j < len(b):
        start, end = max(a[i].start, b[j].start), min(a[i].end, b[j].end)
        if start < end:
            common.append(SlotRange(start, end))
        if a[i].end <= b[j].end:
            i += 1
        else:
            j += 1
    return common


def touching(ranges: Sequence[SlotRange], part: SlotRange) -> Sequence[SlotRange]:
    """Those of a normal list that have slots of ``part``; in the logarithm of its length."""
    first = bisect_right(ranges, part.start, key=lambda one: one.end)
    return ranges[first : bisect_left(ranges, part.end, lo=first, key=lambda one: one.start)]


def difference(left: Iterable[SlotRange], right: Iterable[SlotRange]) -> list[SlotRange]:
    """Slots in ``left`` that are not in ``right``."""
    rest: list[SlotRange] = []
    holes = normal(right)
    j = 0
    for part in normal(left):
        start = part.start
        while j < len(holes) and holes[j].end <= start:
            j += 1
        k = j
        while k < len(holes) and holes[k].start < part.end:
            if holes[k].start > start:
                rest.append(SlotRange(start, holes[k].start))
            start = holes[k].end
            k += 1
        if start < part.end:
            rest.append(SlotRange(start, part.end))
    return rest


def from_slots(slots: Slots, interval_s: int) -> list[SlotRange]:
    """Single slots, in any order and with repeats, as ranges. NumPy arrays of int64 are the fast way in."""
    values = np.asarray(slots, dtype=np.int64)
    if values.size == 0:
        return []
    interval = interval_s * 1_000
    steps = np.diff(values)
    if (steps < 0).any():
        values = np.sort(values)
        steps = np.diff(values)
    breaks = np.flatnonzero(steps > interval)
    starts = values[np.concatenate(([0], breaks + 1))].tolist()
    ends = (values[np.concatenate((breaks, [values.size - 1]))] + interval).tolist()
    return [SlotRange(start, end) for start, end in zip(starts, ends, strict=True)]


def aligned(part: SlotRange, interval_s: int) -> SlotRange:
    """The slots of ``interval_s`` that start inside ``part``: both ends rounded up to a slot."""
    interval = interval_s * 1_000
    return SlotRange(-(-part.start // interval) * interval, -(-part.end // interval) * interval)


def count(ranges: Iterable[SlotRange], interval_s: int) -> int:
    """How many slots of ``interval_s`` start inside the ranges."""
    slots = (aligned(part, interval_s) for part in normal(ranges))
    return sum(max(part.end - part.start, 0) for part in slots) // (interval_s * 1_000)


def newest_first(ranges: Iterable[SlotRange], interval_s: int, slots: int) -> Iterator[SlotRange]:
    """The ranges cut into pieces of at most ``slots`` slots, the newest first: how backfill works them off."""
    if slots < 1:
        raise ValueError(f"pieces of {slots} slots")
    step = slots * interval_s * 1_000
    for part in reversed(normal(ranges)):
        whole = aligned(part, interval_s)
        end = whole.end
        while end > whole.start:
            start = max(whole.start, end - step)
            yield SlotRange(start, end)
            end = start


def each_slot(ranges: Iterable[SlotRange], interval_s: int) -> Iterator[int]:
    """Every slot of the ranges, ascending."""
    for part in normal(ranges):
        whole = aligned(part, interval_s)
        yield from range(whole.start, whole.end, interval_s * 1_000)


def expected(versions: Iterable[ScheduleVersion], lifetime: Lifetime, since: int, now: int) -> list[Expected]:
    """The slots that should be stored by ``now``, per schedule version, ascending.

    A slot counts when it starts at ``since`` or later, lies wholly inside the lifetime, belongs to the version in force
    at its start, and is due at ``now``.
    """
    found: list[Expected] = []
    for version in sorted(versions, key=lambda v: v.valid_from):
        schedule = version.schedule
        start = max(since, lifetime.start, version.valid_from)
        end = schedule.newest_due(now) + schedule.interval_ms
        if version.valid_to is not None:
            end = min(end, version.valid_to)
        slots = aligned(SlotRange(start, end), schedule.interval_s)
        if lifetime.end is not None:  # the last slot must end before the asset does
            last = lifetime.end - lifetime.end % schedule.interval_ms
            slots = SlotRange(slots.start, min(slots.end, last))
        if slots.start < slots.end:
            found.append(Expected(schedule.interval_s, slots))
    return found


def owed(
    expected: Iterable[SlotRange],
    stored: Iterable[SlotRange],
    confirmed_empty: Iterable[SlotRange] = (),
    unrepairable: Iterable[SlotRange] = (),
) -> list[SlotRange]:
    """What is expected and neither stored, nor known to be empty at the venue, nor beyond repair."""
    return difference(expected, union(stored, confirmed_empty, unrepairable))

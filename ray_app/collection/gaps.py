"""What is owed, and the ledger of it.

Owed is computed, never remembered: expected slots (versioned schedules × asset lifetimes) minus what is stored, minus
what is known to be empty at the venue or beyond repair. ``collection_gaps`` keeps what cannot be computed: when a gap
was seen, how it ended, and why it cannot be filled. A range is ``owed``, then ``repaired`` (stored after all),
``confirmed_empty`` (the venue answered, and there was no trade) or ``unrepairable`` (with the reason).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy import Connection

from ray_app.collection import datasets
from ray_app.collection.datasets import Member, Plan
from ray_app.collection.expectation import Expected, SlotRange, count, difference, intersect, normal, owed, touching
from ray_app.storage import ledger
from ray_app.storage.ledger import LedgerEntry

OWED, REPAIRED = "owed", "repaired"
CONFIRMED_EMPTY, UNREPAIRABLE = "confirmed_empty", "unrepairable"
STATES = (OWED, REPAIRED, CONFIRMED_EMPTY, UNREPAIRABLE)
#: states after which a slot is not asked for again
SETTLED = (CONFIRMED_EMPTY, UNREPAIRABLE)
#: assets whose ledger one transaction brings up to date: the write lock is everybody's
_AT_ONCE = 50


M = TypeVar("M", bound=Member)


@dataclass(frozen=True, slots=True)
class AssetSurvey(Generic[M]):
    """One asset's slots of one interval: all lists are normal, ``stored`` and ``settled`` within ``expected``."""

    asset: M
    interval_s: int
    expected: list[SlotRange]
    stored: list[SlotRange]
    settled: list[SlotRange]
    owed: list[SlotRange]


@dataclass(frozen=True, slots=True)
class Survey(Generic[M]):
    """A dataset's slots in ``[since, until)`` that were due at ``now``, asset by asset."""

    dataset: str
    since: int
    until: int
    now: int
    parts: list[AssetSurvey[M]]

    @property
    def owed(self) -> list[AssetSurvey[M]]:
        """The parts that owe something."""
        return [part for part in self.parts if part.owed]

    def counts(self) -> tuple[int, int, int, int]:
        """Slots (expected, stored, settled otherwise, owed)."""
        return (
            sum(count(p.expected, p.interval_s) for p in self.parts),
            sum(count(p.stored, p.interval_s) for p in self.parts),
            sum(count(difference(p.settled, p.stored), p.interval_s) for p in self.parts),
            sum(count(p.owed, p.interval_s) for p in self.parts),
        )


def survey(
    conn: Connection, plan: Plan, assets: Iterable[M], since: int, now: int, *, until: int | None = None
) -> Survey[M]:
    """Look at slots from ``since`` (before ``until``) that are due at ``now``; reads only that window."""
    wanted = [(asset, part) for asset in assets for part in plan.expected(asset, since, now)]
    if until is not None:
        wanted = [(asset, cut) for asset, part in wanted if (cut := _until(part, until)) is not None]
    end = max((part.range.end for _, part in wanted), default=since)
    end = end if until is None else max(end, until)
    ids = sorted({asset.asset_id for asset, _ in wanted})
    stored = {
        interval_s: ledger.stored_ranges(
            conn,
            plan.dataset,
            sorted({a.asset_id for a, p in wanted if p.interval_s == interval_s}),
            interval_s,
            since,
            end,
        )
        for interval_s in sorted({part.interval_s for _, part in wanted})
    }
    settled: dict[int, list[SlotRange]] = {}
    for entry in ledger.entries(conn, plan.dataset, start=since, end=end, states=SETTLED) if ids else ():
        settled.setdefault(entry.asset_id, []).append(SlotRange(entry.start, entry.end))
    parts = []
    for (asset, interval_s), ranges in _by_asset(wanted).items():
        have = intersect((SlotRange(*r) for r in stored[interval_s].get(asset.asset_id, ())), ranges)
        facts = intersect(settled.get(asset.asset_id, ()), ranges)
        parts.append(AssetSurvey(asset, interval_s, ranges, have, facts, owed(ranges, have, facts)))
    return Survey(plan.dataset, since, end, now, parts)


def never_looked_at(conn: Connection, plan: Plan, assets: Iterable[M], now: int) -> list[M]:
    """Assets whose first expected slot is neither stored nor in the ledger: nobody has looked at their history."""
    first: dict[tuple[int, int], list[M]] = {}
    for asset in assets:
        expected = plan.expected(asset, plan.horizon or 0, now)
        if expected:
            part = min(expected, key=lambda e: e.range.start)
            first.setdefault((part.range.start, part.interval_s), []).append(asset)
    unseen: list[M] = []
    for (slot, interval_s), some in first.items():
        ids = [asset.asset_id for asset in some]
        known = set(ledger.stored_ranges(conn, plan.dataset, ids, interval_s, slot, slot + 1))
        known |= {e.asset_id for e in ledger.entries(conn, plan.dataset, start=slot, end=slot + 1, asset_ids=ids)}
        unseen += [asset for asset in some if asset.asset_id not in known]
    return unseen


def _until(part: Expected, until: int) -> Expected | None:
    end = min(part.range.end, -(-until // (part.interval_s * 1_000)) * part.interval_s * 1_000)
    return Expected(part.interval_s, SlotRange(part.range.start, end)) if part.range.start < end else None


def _by_asset(wanted: Iterable[tuple[M, Expected]]) -> dict[tuple[M, int], list[SlotRange]]:
    found: dict[tuple[M, int], list[SlotRange]] = {}
    for asset, part in wanted:
        found.setdefault((asset, part.interval_s), []).append(part.range)
    return {key: normal(ranges) for key, ranges in found.items()}


# --- the ledger's transitions: pure ---------------------------------------------------------------------------


def settle(
    entries: Sequence[LedgerEntry],
    dataset: str,
    asset_id: int,
    window: SlotRange,
    owing: Sequence[SlotRange],
    stored: Sequence[SlotRange],
    now: int,
) -> list[LedgerEntry]:
    """One asset's ledger after a look at ``window``: new gaps appear, filled ones are repaired.

    Owed slots that nobody expects any more (a shorter lifetime) leave the ledger. What lies outside the window stays.
    """
    kept: list[LedgerEntry] = []
    owing, stored = normal(owing), normal(stored)
    for entry in entries:
        whole = SlotRange(entry.start, entry.end)
        inside, outside = intersect([whole], [window]), difference([whole], [window])
        owes, has = touching(owing, whole), touching(stored, whole)
        kept += _parts(entry, outside)
        if entry.state == OWED:
            kept += _parts(entry, intersect(inside, owes))
            kept += _parts(entry._replace(state=REPAIRED, updated_at=now), intersect(inside, has))
        elif entry.state in SETTLED:
            filled = intersect(inside, has)
            kept += _parts(entry._replace(state=REPAIRED, reason=None, updated_at=now), filled)
            kept += _parts(entry, difference(inside, filled))
        else:
            kept += _parts(entry, difference(inside, owes))
    known = [SlotRange(e.start, e.end) for e in kept if e.state == OWED]
    fresh = LedgerEntry(dataset, asset_id, 0, 0, OWED, None, now, now)
    return _coalesced([*kept, *_parts(fresh, difference(owing, known))])


def overlay(
    entries: Sequence[LedgerEntry],
    dataset: str,
    asset_id: int,
    ranges: Sequence[SlotRange],
    state: str,
    reason: str | None,
    now: int,
) -> list[LedgerEntry]:
    """One asset's ledger after a fact about ``ranges`` has become known; a gap keeps the time it was first seen."""
    kept: list[LedgerEntry] = []
    marked: list[LedgerEntry] = []
    facts = normal(ranges)
    for entry in entries:
        whole = SlotRange(entry.start, entry.end)
        said = touching(facts, whole)
        kept += _parts(entry, difference([whole], said))
        marked += _parts(entry._replace(state=state, reason=reason, updated_at=now), intersect([whole], said))
    rest = difference(facts, (SlotRange(entry.start, entry.end) for entry in entries))
    fresh = LedgerEntry(dataset, asset_id, 0, 0, state, reason, now, now)
    return _coalesced([*kept, *marked, *_parts(fresh, rest)])


def _parts(entry: LedgerEntry, ranges: Iterable[SlotRange]) -> list[LedgerEntry]:
    return [entry._replace(start=part.start, end=part.end) for part in ranges]


def _coalesced(entries: Iterable[LedgerEntry]) -> list[LedgerEntry]:
    merged: list[LedgerEntry] = []
    for entry in sorted(entries, key=lambda e: e.start):
        last = merged[-1] if merged else None
        if last is not None and (last.end, last.state, last.reason) == (entry.start, entry.state, entry.reason):
            merged[-1] = last._replace(
                end=entry.end,
                detected_at=min(last.detected_at, entry.detected_at),
                updated_at=max(last.updated_at, entry.updated_at),
            )
        else:
            merged.append(entry)
    return merged


# --- the ledger in the database -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Look(Generic[M]):
    """A window in which the ledger of some assets differs from what is stored: what is to be recorded.

    ``asset_ids``: those of ``assets``, and of assets that owe nothing any more but stand in the ledger.
    """

    assets: list[M]
    asset_ids: list[int]
    since: int
    until: int
    due: int


def look(
    conn: Connection,
    plan: Plan,
    assets: Iterable[M],
    since: int,
    due: int,
    now: int,
    *,
    until: int | None = None,
    asset_ids: Sequence[int] | None = None,
) -> list[Look[M]]:
    """Survey the slots from ``since`` (before ``until``) that were due at ``due``: assets with news, some to each look.

    ``asset_ids``: those of ``assets``, if they are not all.
    """
    members = list(assets)
    seen = survey(conn, plan, members, since, due, until=until)
    before, after = (set(entries) for entries in _before_and_after(conn, seen, now, asset_ids))
    news = sorted({entry.asset_id for entry in before ^ after})
    looks = []
    for first in range(0, len(news), _AT_ONCE):
        ids = news[first : first + _AT_ONCE]
        some = [asset for asset in members if asset.asset_id in ids]
        looks.append(Look(some, ids, since, seen.until, due))
    return looks


def look_back(conn: Connection, plan: Plan, assets: Iterable[M], before: int, now: int) -> list[Look[M]]:
    """Ranges that begin before ``before`` and have been filled since: by repairs, by a poll that reaches further back.

    Nothing but those ranges is read, and not those known to be empty: of them there are thousands a day, and nobody
    asks for them again.
    """
    by_id = {asset.asset_id: asset for asset in assets}
    ranges: dict[tuple[int, int], list[M]] = {}
    for entry in ledger.filled(conn, plan.dataset, (OWED, UNREPAIRABLE), before):
        if entry.asset_id in by_id:
            ranges.setdefault((entry.start, entry.end), []).append(by_id[entry.asset_id])
    return [
        Look(some, [asset.asset_id for asset in some], start, end, now) for (start, end), some in sorted(ranges.items())
    ]


def amend(conn: Connection, plan: Plan, seen: Look[M], now: int) -> int:
    """Look again, under the lock, and bring the ledger up to date; how many rows changed."""
    datasets.load(conn, plan.dataset, lock=True)
    again = survey(conn, plan, seen.assets, seen.since, seen.due, until=seen.until)
    return record(conn, again, now, asset_ids=seen.asset_ids)


def record(conn: Connection, seen: Survey[M], now: int, *, asset_ids: Sequence[int] | None = None) -> int:
    """Bring the ledger up to date with a survey made in the same transaction; how many rows changed.

    ``asset_ids``: the assets the survey was about, if not all.

    Call :func:`ray_app.collection.datasets.load` with ``lock=True`` first in the transaction.
    """
    return ledger.replace(conn, *_before_and_after(conn, seen, now, asset_ids))


def _before_and_after(
    conn: Connection, seen: Survey[M], now: int, asset_ids: Sequence[int] | None
) -> tuple[list[LedgerEntry], list[LedgerEntry]]:
    """The ledger's rows that touch the survey's window, and those that belong in their place."""
    window = SlotRange(seen.since, seen.until)
    # one slot to either side, so that ranges that meet the window's edges are merged and not cut
    around = ledger.entries(conn, seen.dataset, start=window.start - 1, end=window.end + 1, asset_ids=asset_ids)
    before: dict[int, list[LedgerEntry]] = {}
    for entry in around:
        before.setdefault(entry.asset_id, []).append(entry)
    owing: dict[int, list[SlotRange]] = {}
    stored: dict[int, list[SlotRange]] = {}
    for part in seen.parts:
        owing.setdefault(part.asset.asset_id, []).extend(part.owed)
        stored.setdefault(part.asset.asset_id, []).extend(part.stored)
    after: list[LedgerEntry] = []
    for asset_id in sorted({*before, *owing}):
        owes, has = normal(owing.get(asset_id, ())), normal(stored.get(asset_id, ()))
        if owes or asset_id in before:
            after += settle(before.get(asset_id, ()), seen.dataset, asset_id, window, owes, has, now)
    return around, after


def mark(
    conn: Connection, dataset: str, asset_id: int, ranges: Sequence[SlotRange], state: str, reason: str | None, now: int
) -> None:
    """Write a fact about ``ranges`` of one asset into the ledger (inside a transaction that holds the dataset)."""
    whole = normal(ranges)
    if not whole:
        return
    around = ledger.entries(conn, dataset, start=whole[0].start - 1, end=whole[-1].end + 1, asset_ids=[asset_id])
    ledger.replace(conn, around, overlay(around, dataset, asset_id, whole, state, reason, now))

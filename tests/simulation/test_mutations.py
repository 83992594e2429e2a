"""Each defence taken away in turn: some seed of a small fixed set fails, and with the name of the invariant it guards."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import ANY

import pytest

from ray_app.collection import budget_rules, gaps, lease, store
from ray_app.collection.budget import BudgetAuthority
from ray_app.collection.collectors import PriceCollector
from ray_app.collection.collectors.base import Absences
from ray_app.collection.event_bus import EventRing
from ray_app.collection.expectation import SlotRange, difference, union
from ray_app.collection.ingest import Ingestor
from ray_app.collection.lease import LeaseKeeper
from ray_app.collection.schedule import Schedule
from ray_app.serving import feed
from ray_app.storage import queries, upsert
from tests.simulation.loop import PROCESS
from tests.simulation.statements import Plain
from tests.simulation.store import Archive
from tests.simulation.world import Violation, simulate

Patch = pytest.MonkeyPatch


def guard_compares_the_wrong_way_round(patch: Patch) -> None:
    real = upsert._sqlite_statement
    patch.setattr(upsert, "_sqlite_statement", lambda table: real(table).replace(") > (", ") < ("))


def guard_lets_every_write_through(patch: Patch) -> None:
    real = upsert._sqlite_statement
    patch.setattr(upsert, "_sqlite_statement", lambda table: real(table).replace(") > (", ") IS NOT ("))


def the_earliest_is_not_kept(patch: Patch) -> None:
    real = upsert._sqlite_statement
    patch.setattr(upsert, "_sqlite_statement", lambda table: re.sub(r"= min\([^,]+, ([^)]+)\)", r"= \1", real(table)))


def the_last_of_a_batch_wins(patch: Patch) -> None:
    def last(table: Any, cells: list[Any]) -> list[Any]:
        names = [column.name for column in table.columns]
        places = [names.index(name) for name in upsert.key_columns(table)]
        best = {tuple(row[place] for place in places): row for row in cells}
        return [best[key] for key in sorted(best)]

    patch.setattr(upsert, "_merged", last)


def a_lease_keeps_its_token(patch: Patch) -> None:
    """Its predecessor of the same name is not told from the newest holder."""
    real = lease.Lease
    patch.setattr(lease, "Lease", lambda name, holder, _token, until, ttl_s: real(name, holder, 1, until, ttl_s))


def fence_is_always_true(patch: Patch) -> None:
    patch.setattr(LeaseKeeper, "assert_held", lambda *_: None)


def lanes_are_booked_after_the_request(patch: Patch) -> None:
    """The loan is not written into the account: every process believes that the lane is free."""
    real = budget_rules.borrow

    def late(account: Any, limits: Any, now: int, ask: Any) -> Any:
        after, outcome = real(account, limits, now, ask)
        return replace(after, free_at=account.free_at), outcome

    patch.setattr(budget_rules, "borrow", late)


def lanes_do_not_rest(patch: Patch) -> None:
    patch.setattr(budget_rules.Lane, "answered", lambda lane, _limits, now: replace(lane, busy=False, ready_at=now))


def the_month_is_not_looked_at(patch: Patch) -> None:
    real = budget_rules.borrow
    patch.setattr(budget_rules, "borrow", lambda a, limits, now, ask: real(a, replace(limits, monthly=None), now, ask))


def pauses_are_not_ordered(patch: Patch) -> None:
    async def deaf(*_: Any) -> None:
        return None

    patch.setattr(BudgetAuthority, "pause", deaf)


def a_pause_stays_with_who_was_told(patch: Patch) -> None:
    patch.setattr(budget_rules, "pause", lambda account, _until: account)


def credits_are_given_back_twice(patch: Patch) -> None:
    real = budget_rules.settle
    patch.setattr(budget_rules, "settle", lambda a, returned, month, back: real(a, returned, month, 2 * back))


def what_is_stored_is_not_looked_at(patch: Patch) -> None:
    async def everybody(self: Any, tier: Any, _slot: int) -> Any:
        return [asset for asset in self.runtime.registry.active() if tier.holds(asset)]

    patch.setattr(PriceCollector, "_missing", everybody)


def stored_bars_are_asked_for_again(patch: Patch) -> None:
    patch.setattr(gaps, "owed", lambda expected, _stored, settled: difference(expected, settled))


def what_a_dead_process_archived_is_not_recovered(patch: Patch) -> None:
    async def nothing(*_: Any) -> int:
        return 0

    patch.setattr(Ingestor, "recover", nothing)


def commits_do_not_wait_for_the_disk(patch: Patch) -> None:
    patch.setattr(Archive, "sync", lambda *_: None)


def prices_make_no_events(patch: Patch) -> None:
    patch.setattr(store, "price_events", lambda *_: [])


def repaired_prices_are_news(patch: Patch) -> None:
    """Any price makes an event, however old its slot."""

    class Newest(dict[int, Any]):
        def get(self, *_: Any) -> Any:
            return ANY

    patch.setattr(queries, "newest_slots", lambda *_: Newest())


def bus_and_readers_look_for_no_holes(patch: Patch) -> None:
    """Either would notice; both must not look."""

    def newer(events: Any, after_seq: int) -> list[Any]:
        return [event for event in events if event[0] > after_seq]

    patch.setattr(EventRing, "_after", lambda _, state, after_seq: newer(state.events, after_seq))
    patch.setattr(feed, "_fitting", newer)


def numbers_are_given_before_the_commit(patch: Patch) -> None:
    """A counter of its own, outside of the transaction: what rolls back leaves a hole."""
    real, counter = Plain.append, [0]

    def append(self: Plain, conn: Any, channel: str, bodies: Any, now_ms: int) -> range:
        if self.head(conn, channel):
            self._all("UPDATE outbox_heads SET seq = ?", (counter[0],))
        given = real(self, conn, channel, bodies, now_ms)
        counter[0] = given[-1]
        return given

    patch.setattr(Plain, "append", append)


def an_absent_bar_is_believed_at_once(patch: Patch) -> None:
    def all_of_it(_self: Any, _d: str, _a: int, asked: SlotRange, step_ms: int, present: Any, *_: Any) -> Any:
        return difference([asked], union(SlotRange(slot, slot + step_ms) for slot in present))

    patch.setattr(Absences, "judge", all_of_it)


def new_gaps_are_not_written_down(patch: Patch) -> None:
    patch.setattr(gaps, "settle", lambda entries, *_: list(entries))


def nobody_repairs(patch: Patch) -> None:
    async def idle(*_: Any) -> None:
        return None

    patch.setattr(PriceCollector, "repair", idle)


def old_gaps_are_not_revisited(patch: Patch) -> None:
    patch.setattr(gaps, "look_back", lambda *_: [])


def every_process_has_its_own_jitter(patch: Patch) -> None:
    real = Schedule.jitter_ms

    def own(self: Schedule, slot: int) -> int:
        process = PROCESS.get()
        return real(self, slot + 7 * len(process.name) + ord(process.name[0]) if process else slot)

    patch.setattr(Schedule, "jitter_ms", own)


def jitter_is_not_waited_for(patch: Patch) -> None:
    patch.setattr(Schedule, "newest_due", lambda self, now: self.slot_of(now - self._lag_ms))


MUTATIONS: list[tuple[Callable[[Patch], None], str, bool]] = [
    (guard_compares_the_wrong_way_round, "writes", True),
    (guard_lets_every_write_through, "writes", True),
    (the_earliest_is_not_kept, "writes", True),
    (the_last_of_a_batch_wins, "writes", True),
    (fence_is_always_true, "fence", True),
    (a_lease_keeps_its_token, "fence", True),
    (lanes_are_booked_after_the_request, "budget", True),
    (lanes_do_not_rest, "budget", True),
    (the_month_is_not_looked_at, "budget", True),
    (pauses_are_not_ordered, "budget", True),
    (a_pause_stays_with_who_was_told, "budget", True),
    (credits_are_given_back_twice, "budget", True),
    (what_is_stored_is_not_looked_at, "once", True),
    (stored_bars_are_asked_for_again, "once", True),
    (what_a_dead_process_archived_is_not_recovered, "once", True),
    (commits_do_not_wait_for_the_disk, "archive", True),
    (prices_make_no_events, "outbox", True),
    (repaired_prices_are_news, "outbox", False),
    (bus_and_readers_look_for_no_holes, "outbox", True),
    (numbers_are_given_before_the_commit, "outbox", True),
    (an_absent_bar_is_believed_at_once, "repair", True),
    (new_gaps_are_not_written_down, "gaps", True),
    (nobody_repairs, "repair", True),
    (old_gaps_are_not_revisited, "gaps", True),
    (every_process_has_its_own_jitter, "schedule", True),
    (jitter_is_not_waited_for, "schedule", True),
]


#: a seed that is known to miss it, where that takes rare circumstances
FIRST = {
    a_lease_keeps_its_token: 45,
    pauses_are_not_ordered: 30,
    a_pause_stays_with_who_was_told: 30,
    credits_are_given_back_twice: 317,
    the_earliest_is_not_kept: 41,
    what_a_dead_process_archived_is_not_recovered: 5,
    numbers_are_given_before_the_commit: 11,
    an_absent_bar_is_believed_at_once: 61,
}


@pytest.mark.parametrize(
    ("mutation", "invariant", "plain"), MUTATIONS, ids=lambda value: getattr(value, "__name__", "")
)
def test_an_invariant_fails_when_its_defence_is_removed(
    mutation: Callable[[Patch], None], invariant: str, plain: bool, monkeypatch: Patch
):
    mutation(monkeypatch)
    found = set()
    for seed in (FIRST.get(mutation, 0), *range(200)):
        try:
            simulate(seed, plain=plain)
        except Violation as violation:
            found.add(violation.invariant)
            if violation.invariant == invariant:
                return
    pytest.fail(f"no seed misses it; the invariants that failed: {sorted(found) or 'none'}")

"""Which slots an answer covers, by the note on its request."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_app.clock import HOUR_MS, MINUTE_MS
from ray_app.collection.feeds import Ask, Feed, subject_id
from ray_app.collection.polls import MOST_SLOTS, Note, poll_rows
from ray_app.errors import MalformedPayload
from ray_app.sources.base import Exchange, Parsed, Request

STEP = 15 * MINUTE_MS
SLOT = 1_779_105_600_000
ASKED = Request("rss.feed", "/coindesk")


def feed(**changes):
    return replace(Feed("coindesk", "rss", 900, "window", lambda ask: ASKED), **changes)


def note(*, missed: int = 0, since: int | None = None, **changes) -> Note:
    covers = SLOT - missed * STEP
    return Note.of("crypto-news", feed(**changes), SLOT, covers, covers - STEP if since is None else since)


def more(oldest: int | None = None) -> Parsed:
    return Parsed((), next=Request("rss.feed", "/coindesk", {"page": "2"}), oldest=oldest)


def test_a_note_is_read_back_from_the_request_it_stands_on():
    written = note(missed=3, pages=5)
    assert Note.read(written.on(ASKED)) == written
    assert Note.read(ASKED) is None


@pytest.mark.parametrize("name", ["slot", "interval_s", "covers", "since", "reach", "page"])
@pytest.mark.parametrize("said", [None, "x", ""])
def test_a_note_that_cannot_be_read_is_refused(name, said):
    request = note().on(ASKED)
    context = (
        {**request.context, name: said} if said is not None else {k: v for k, v in request.context.items() if k != name}
    )
    with pytest.raises(MalformedPayload):
        Note.read(replace(request, context=context))


def test_a_snapshot_covers_its_own_slot_only():
    assert note(missed=4, reach="snapshot").slots(Parsed(())) == [SLOT]


def test_history_covers_what_was_missed_once_every_page_is_in():
    history = note(missed=2, reach="history", pages=9)
    assert history.slots(Parsed(())) == [SLOT - 2 * STEP, SLOT - STEP, SLOT]
    assert history.slots(more()) == []
    assert history.slots(more(history.since + 1)) == []
    assert history.slots(more(history.since)) == [SLOT - 2 * STEP, SLOT - STEP, SLOT], "it is back where it was"


def test_history_cut_off_by_its_most_pages_covers_as_far_as_it_came():
    last = replace(note(missed=3, reach="history", pages=2), page=2)
    assert last.slots(more(SLOT - 2 * STEP)) == [SLOT - STEP, SLOT]
    assert last.slots(more()) == [], "without times the newest part may be the one that is missing"


def test_a_window_covers_back_to_its_oldest_item():
    window = note(missed=4)
    assert window.slots(Parsed((), oldest=SLOT - 3 * STEP)) == [SLOT - 2 * STEP, SLOT - STEP, SLOT]
    assert window.slots(Parsed((), oldest=SLOT - 3 * STEP + 1)) == [SLOT - STEP, SLOT], "since the poll before it"
    assert window.slots(Parsed((), oldest=window.since)) == [SLOT - n * STEP for n in (4, 3, 2, 1, 0)]
    assert window.slots(Parsed(())) == [SLOT], "without times nothing is known of before"


def test_an_empty_last_page_does_not_forget_what_the_pages_before_it_reached():
    first = note(missed=4, pages=5)
    second = first.following(more(SLOT - 2 * STEP))
    assert (second.page, second.reached) == (2, SLOT - 2 * STEP)
    assert Note.read(second.on(ASKED)) == second
    assert second.slots(Parsed(())) == [SLOT - STEP, SLOT]


def test_unchanged_since_the_last_answer_means_nothing_was_missed():
    assert note(missed=2).slots(None) == [SLOT - 2 * STEP, SLOT - STEP, SLOT]


def test_one_answer_covers_a_bounded_number_of_slots():
    covered = Note.of("onchain", feed(reach="history"), SLOT, 0, 0).slots(Parsed(()))
    assert len(covered) == MOST_SLOTS
    assert covered[-1] == SLOT


@given(
    reach=st.sampled_from(["snapshot", "window", "history"]),
    missed=st.integers(0, 20),
    oldest=st.one_of(st.none(), st.integers(SLOT - 30 * STEP, SLOT + STEP)),
    paged=st.booleans(),
    page=st.integers(1, 4),
)
def test_whatever_is_covered_lies_between_what_was_missed_and_the_slot(reach, missed, oldest, paged, page):
    asked = replace(note(missed=missed, reach=reach, pages=3), page=page)
    covered = asked.slots(more(oldest) if paged else Parsed((), oldest=oldest))
    assert covered == sorted(set(covered))
    assert all(asked.covers <= slot <= SLOT and (slot - SLOT) % STEP == 0 for slot in covered)
    ends = asked.ends(more(oldest) if paged else Parsed(()))
    assert SLOT in covered if ends and not (reach == "history" and paged and oldest is None) else not covered


def test_rows_name_the_subject_by_its_number_and_the_answer():
    exchange = Exchange(note(missed=1, reach="history").on(ASKED), 200, {}, b"", SLOT + HOUR_MS)
    rows = list(poll_rows(exchange, Parsed(()), 77))
    assert [(row["slot"], row["fetch_id"], row["event_version"]) for row in rows] == [
        (SLOT - STEP, 77, SLOT + HOUR_MS),
        (SLOT, 77, SLOT + HOUR_MS),
    ]
    assert {row["subject_id"] for row in rows} == {subject_id("crypto-news", "coindesk")}
    assert list(poll_rows(replace(exchange, request=ASKED), Parsed(()), 77)) == []


def test_numbers_of_subjects_are_stable_and_fit_the_column():
    assert subject_id("macro-fred", "DGS10") == subject_id("macro-fred", "DGS10") != subject_id("macro-market", "DGS10")
    assert 0 <= subject_id("macro-fred", "DGS10") < 2**31
    assert feed().ask(Ask(0, SLOT)) is ASKED

"""The ring answers contiguously or not at all, within its bytes, and never keeps a reader waiting for old news."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_app.collection.event_bus import EVENT_OVERHEAD_BYTES, Event, EventRing

SOON = 0.01
LONG = 60.0


def events(first: int, last: int, size: int = 4) -> list[Event]:
    return [(seq, str(seq).encode().ljust(size, b".")) for seq in range(first, last + 1)]


async def test_a_reader_behind_gets_everything_it_has_not_seen_at_once() -> None:
    ring = EventRing()
    await ring.publish("prices", events(1, 5))
    assert await ring.wait("prices", 0, LONG) == events(1, 5)
    assert await ring.wait("prices", 3, LONG) == events(4, 5)


async def test_a_reader_at_the_end_is_woken_by_the_next_event() -> None:
    ring = EventRing()
    await ring.publish("prices", events(1, 2))
    waiting = asyncio.create_task(ring.wait("prices", 2, LONG))
    await asyncio.sleep(0)
    assert not waiting.done()
    await ring.publish("prices", events(3, 4))
    assert await waiting == events(3, 4)


async def test_every_waiting_reader_is_woken() -> None:
    ring = EventRing()
    waiting = [asyncio.create_task(ring.wait("prices", 0, LONG)) for _ in range(5)]
    await asyncio.sleep(0)
    await ring.publish("prices", events(1, 1))
    assert await asyncio.gather(*waiting) == [events(1, 1)] * 5


async def test_no_news_is_an_empty_answer_after_the_timeout() -> None:
    ring = EventRing()
    assert await ring.wait("prices", 0, SOON) == []
    await ring.publish("prices", events(1, 3))
    assert await ring.wait("prices", 3, SOON) == []
    assert await ring.wait("prices", 3, 0) == []


async def test_after_a_restart_the_ring_sends_a_reader_of_the_past_to_the_table_at_once() -> None:
    ring = EventRing()  # a new life: what was published before is gone
    assert await ring.wait("prices", 40, SOON) == []
    await ring.publish("prices", events(51, 52))
    assert await ring.wait("prices", 40, LONG) == []
    assert await ring.wait("prices", 50, LONG) == events(51, 52)


async def test_a_hole_wakes_the_waiting_reader_with_nothing_so_that_it_reads_the_table() -> None:
    ring = EventRing()
    await ring.publish("prices", events(1, 3))
    waiting = asyncio.create_task(ring.wait("prices", 3, LONG))
    await asyncio.sleep(0)
    await ring.publish("prices", events(6, 7))  # the notification of 4..5 was lost
    assert await waiting == []
    assert await ring.wait("prices", 5, LONG) == events(6, 7)


async def test_a_late_notification_behind_a_hole_changes_nothing() -> None:
    ring = EventRing()
    await ring.publish("prices", events(4, 6))
    await ring.publish("prices", events(1, 3))
    assert await ring.wait("prices", 0, LONG) == []
    assert await ring.wait("prices", 3, LONG) == events(4, 6)


async def test_a_repeated_or_overlapping_notification_adds_only_what_is_new() -> None:
    ring = EventRing()
    await ring.publish("prices", events(1, 4))
    await ring.publish("prices", events(1, 4))
    await ring.publish("prices", events(3, 6))
    assert await ring.wait("prices", 0, LONG) == events(1, 6)
    assert ring.state()["prices"].events == 6


async def test_publishing_nothing_wakes_nobody() -> None:
    ring = EventRing()
    waiting = asyncio.create_task(ring.wait("prices", 0, SOON))
    await ring.publish("prices", [])
    assert await waiting == []


@pytest.mark.parametrize("seqs", [[1, 3], [2, 1], [5, 5]])
async def test_a_batch_that_is_not_dense_is_refused(seqs: list[int]) -> None:
    ring = EventRing()
    with pytest.raises(ValueError, match="not ascending and dense"):
        await ring.publish("prices", [(seq, b"x") for seq in seqs])
    assert await ring.wait("prices", 0, 0) == []


async def test_channels_do_not_mix() -> None:
    ring = EventRing()
    await ring.publish("prices", events(1, 2))
    assert await ring.wait("news", 0, SOON) == []


async def test_the_ring_never_holds_more_than_its_bytes() -> None:
    cost = 100 + EVENT_OVERHEAD_BYTES
    ring = EventRing(max_bytes=10 * cost)
    await ring.publish("prices", events(1, 25, size=100))
    held = ring.state()["prices"]
    assert (held.first_seq, held.last_seq, held.events, held.bytes) == (16, 25, 10, 10 * cost)
    assert await ring.wait("prices", 14, LONG) == []
    assert await ring.wait("prices", 15, LONG) == events(16, 25, size=100)


async def test_a_chatty_channel_does_not_push_out_a_quiet_one() -> None:
    cost = 100 + EVENT_OVERHEAD_BYTES
    ring = EventRing(max_bytes=10 * cost)
    await ring.publish("news", events(1, 2, size=100))
    await ring.publish("prices", events(1, 100, size=100))
    assert await ring.wait("news", 0, LONG) == events(1, 2, size=100)
    assert ring.state()["prices"].events == 8


async def test_an_event_larger_than_the_ring_sends_its_reader_to_the_table() -> None:
    ring = EventRing(max_bytes=1_000)
    await ring.publish("prices", [(1, b"x" * 5_000)])
    assert await ring.wait("prices", 0, LONG) == []
    await ring.publish("prices", events(2, 2))
    assert await ring.wait("prices", 1, LONG) == events(2, 2)


async def test_a_large_answer_is_cut_but_never_to_nothing() -> None:
    ring = EventRing(max_answer_bytes=250)
    await ring.publish("prices", events(1, 5, size=100))
    assert await ring.wait("prices", 0, LONG) == events(1, 2, size=100)
    assert await ring.wait("prices", 2, LONG) == events(3, 4, size=100)
    await ring.publish("prices", events(6, 6, size=1_000))
    assert await ring.wait("prices", 5, LONG) == events(6, 6, size=1_000)


async def test_a_reader_ahead_of_the_ring_waits_for_what_is_new_to_it() -> None:
    """It read the table before the notification came."""
    ring = EventRing()
    await ring.publish("prices", events(1, 3))
    waiting = asyncio.create_task(ring.wait("prices", 5, LONG))
    await asyncio.sleep(0)
    await ring.publish("prices", events(4, 5))
    await asyncio.sleep(0)
    assert not waiting.done()
    await ring.publish("prices", events(6, 6))
    assert await waiting == events(6, 6)


async def test_a_cancelled_reader_leaves_the_ring_usable() -> None:
    ring = EventRing()
    waiting = asyncio.create_task(ring.wait("prices", 0, LONG))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await ring.publish("prices", events(1, 1))
    assert await ring.wait("prices", 0, LONG) == events(1, 1)


@pytest.mark.parametrize("sizes", [{"max_bytes": 0}, {"max_answer_bytes": 0}])
def test_a_ring_without_room_is_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="needs room"):
        EventRing(**sizes)


notification = st.tuples(st.integers(1, 60), st.integers(1, 20))


@given(st.lists(notification, max_size=30), st.lists(st.integers(0, 80), min_size=1, max_size=10))
def test_any_notifications_in_any_order_give_contiguous_true_answers(
    notifications: list[tuple[int, int]], positions: list[int]
) -> None:
    async def play() -> None:
        ring = EventRing(max_bytes=4_000, max_answer_bytes=900)
        newest = 0
        for first, length in notifications:
            await ring.publish("prices", [(seq, b"%d" % seq * 9) for seq in range(first, first + length)])
            newest = max(newest, first + length - 1)
            assert ring.state()["prices"].bytes <= 4_000
            for after in positions:
                answer = await ring.wait("prices", after, 0)
                assert answer == [(seq, b"%d" % seq * 9) for seq in range(after + 1, after + 1 + len(answer))]
                assert not answer or answer[-1][0] <= newest
                if after == newest - 1:
                    assert answer, "the newest event is always in memory"

    asyncio.run(play())

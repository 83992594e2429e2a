"""Whatever the hotline does, what a feed delivers is the table: in order, without a hole, without a repetition."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence

import pytest

from ray_app.collection.event_bus import Event, EventRing
from ray_app.errors import StorageError
from ray_app.serving import feed as feed_module
from ray_app.serving.feed import Gap, OutboxFeed
from ray_app.storage import outbox
from ray_app.storage.engine import Database

PATIENCE_S = 30.0
FAST = {"poll_s": 0.01, "quiet_s": 0.05}


def append(db: Database, count: int, channel: str = "prices", now_ms: int = 0) -> list[Event]:
    """Store events whose bodies say their number, as a writer's transaction does."""

    def work(conn):
        start = outbox.head(conn, channel) + 1
        bodies = [b'{"n":%d}' % seq for seq in range(start, start + count)]
        return list(zip(outbox.append(conn, channel, bodies, now_ms), bodies, strict=True))

    return db.run(work)


def table(db: Database, after: int = 0) -> list[Event]:
    with db.read() as conn:
        return outbox.read(conn, "prices", after, 1_000_000)


async def collect(feed: OutboxFeed, until_seq: int) -> list[Event]:
    received: list[Event] = []
    async with asyncio.timeout(PATIENCE_S):
        async for batch in feed:
            assert batch, "a batch is never empty"
            received += batch
            if received[-1][0] >= until_seq:
                break
    await feed.aclose()
    return received


class Deaf:
    """A hotline that never has news (and never answers before its time)."""

    async def wait(self, channel: str, after_seq: int, timeout_s: float) -> list[Event]:
        await asyncio.sleep(timeout_s)
        return []


class Dead:
    """A hotline whose process is gone."""

    def __init__(self) -> None:
        self.asked = 0

    async def wait(self, channel: str, after_seq: int, timeout_s: float) -> list[Event]:
        self.asked += 1
        raise ConnectionResetError("the actor died")


class Hung:
    async def wait(self, channel: str, after_seq: int, timeout_s: float) -> list[Event]:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


# --- where it starts -----------------------------------------------------------------------------------------


async def test_without_a_position_it_delivers_what_comes_after_the_first_look(db: Database) -> None:
    append(db, 3)
    ring = EventRing()
    feed = OutboxFeed(db, "prices", ring)
    first = asyncio.create_task(anext(feed))
    while feed.position is None:
        await asyncio.sleep(0.001)
    news = append(db, 2)
    await ring.publish("prices", news)
    assert await first == news
    assert feed.position == 5
    await feed.aclose()


async def test_from_a_position_it_delivers_the_table_first(db: Database) -> None:
    stored = append(db, 5)
    feed = OutboxFeed(db, "prices", EventRing(), after_seq=2)
    assert await collect(feed, 5) == stored[2:]


async def test_head_is_the_newest_event_of_the_channel(db: Database) -> None:
    feed = OutboxFeed(db, "prices")
    assert await feed.head() == 0
    append(db, 4)
    append(db, 9, channel="news")
    assert await feed.head() == 4


async def test_a_long_backlog_comes_in_bounded_batches(sqlite_db: Database) -> None:
    stored = append(sqlite_db, 2 * feed_module.BATCH + 7)
    feed = OutboxFeed(sqlite_db, "prices", Deaf(), after_seq=0)
    sizes = [len(await anext(feed)) for _ in range(3)]
    assert sizes == [feed_module.BATCH, feed_module.BATCH, 7]
    assert feed.position == len(stored)
    await feed.aclose()


# --- what may go wrong ---------------------------------------------------------------------------------------


async def test_news_arrive_from_the_hotline_without_a_look_at_the_table(
    sqlite_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = EventRing()
    feed = OutboxFeed(sqlite_db, "prices", ring, after_seq=0)
    pending = asyncio.create_task(anext(feed))
    await asyncio.sleep(0.05)  # it has had its first look and asks the hotline now
    monkeypatch.setattr(outbox, "read", lambda *_: pytest.fail("the table was read"))
    await ring.publish("prices", [(1, b"{}"), (2, b"{}")])
    assert await pending == [(1, b"{}"), (2, b"{}")]
    await feed.aclose()


async def test_a_lost_notification_costs_time_but_no_event(db: Database) -> None:
    ring = EventRing()
    feed = OutboxFeed(db, "prices", ring, after_seq=0, **FAST)
    lost = append(db, 2)
    assert await collect(feed, 2) == lost
    more = append(db, 2)  # this notification is lost too
    last = append(db, 1)
    await ring.publish("prices", last)
    assert await collect(feed, 5) == more + last


async def test_a_restarted_ring_costs_no_event(db: Database) -> None:
    class Restarting:
        ring = EventRing()

        async def wait(self, channel: str, after_seq: int, timeout_s: float) -> list[Event]:
            return await self.ring.wait(channel, after_seq, timeout_s)

    hotline = Restarting()
    feed = OutboxFeed(db, "prices", hotline, after_seq=0, **FAST)
    first = append(db, 3)
    await hotline.ring.publish("prices", first)
    assert await collect(feed, 3) == first
    second = append(db, 2)
    hotline.ring = EventRing()
    third = append(db, 2)
    await hotline.ring.publish("prices", third)
    assert await collect(feed, 7) == second + third


async def test_while_the_hotline_fails_the_table_is_polled(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    hotline = Dead()
    feed = OutboxFeed(db, "prices", hotline, after_seq=0, **FAST)
    assert feed.hotline_state == "ok"
    with caplog.at_level(logging.WARNING):
        first = append(db, 1)
        assert await collect(feed, 1) == first
        pending = asyncio.create_task(anext(feed))
        while hotline.asked < 3:
            await asyncio.sleep(0.001)
        second = append(db, 1)
        assert await pending == second
    assert feed.hotline_state == "failing"
    assert sum("hotline of channel prices fails" in message for message in caplog.messages) == 1, "said once"
    await feed.aclose()


async def test_it_asks_a_dead_hotline_once_a_poll_not_in_a_spin(sqlite_db: Database) -> None:
    hotline = Dead()
    feed = OutboxFeed(sqlite_db, "prices", hotline, after_seq=0, poll_s=0.05, quiet_s=0.05)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await anext(feed)
    assert 1 <= hotline.asked <= 11
    await feed.aclose()


async def test_a_hotline_that_always_says_nothing_at_once_does_not_make_it_spin(
    sqlite_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hasty:
        async def wait(self, channel: str, after_seq: int, timeout_s: float) -> list[Event]:
            return []

    reads = 0
    original = outbox.read

    def counting(*args):
        nonlocal reads
        reads += 1
        return original(*args)

    monkeypatch.setattr(outbox, "read", counting)
    feed = OutboxFeed(sqlite_db, "prices", Hasty(), after_seq=0, poll_s=0.05, quiet_s=0.05)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await anext(feed)
    assert 1 <= reads <= 25
    await feed.aclose()


async def test_a_hung_hotline_is_given_up_and_the_table_polled(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "GRACE_S", 0.02)
    feed = OutboxFeed(db, "prices", Hung(), after_seq=0, **FAST)
    pending = asyncio.create_task(anext(feed))
    while feed.hotline_state != "failing":
        await asyncio.sleep(0.001)
    stored = append(db, 3)
    assert await asyncio.wait_for(pending, PATIENCE_S) == stored
    await feed.aclose()


async def test_a_recovered_hotline_is_used_again_and_said_so(
    sqlite_db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    class Recovering(Dead):
        ring = EventRing()

        async def wait(self, channel: str, after_seq: int, timeout_s: float) -> list[Event]:
            if self.asked < 3:
                return await super().wait(channel, after_seq, timeout_s)
            return await self.ring.wait(channel, after_seq, timeout_s)

    hotline = Recovering()
    feed = OutboxFeed(sqlite_db, "prices", hotline, after_seq=0, **FAST)
    with caplog.at_level(logging.INFO):
        pending = asyncio.create_task(anext(feed))
        while hotline.asked < 3 or feed.hotline_state == "failing":
            await asyncio.sleep(0.001)
        stored = append(sqlite_db, 1)
        await hotline.ring.publish("prices", stored)
        assert await pending == stored
    assert "hotline of channel prices works again" in caplog.messages
    await feed.aclose()


async def test_without_a_hotline_the_table_is_polled(db: Database) -> None:
    feed = OutboxFeed(db, "prices", None, after_seq=0, **FAST)
    assert feed.hotline_state == "off"
    pending = asyncio.create_task(anext(feed))
    await asyncio.sleep(0.02)
    stored = append(db, 2)
    assert await pending == stored
    await feed.aclose()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param([(1, b"old"), (2, b"old")], id="what was delivered before"),
        pytest.param([(9, b"far"), (10, b"far")], id="what lies ahead"),
        pytest.param([(2, b"old"), (3, b'{"n":3}'), (9, b"far")], id="both, around the next one"),
    ],
)
async def test_an_answer_that_does_not_fit_never_gets_through(sqlite_db: Database, answer: list[Event]) -> None:
    class Confused:
        async def wait(self, channel: str, after_seq: int, timeout_s: float) -> list[Event]:
            return answer

    stored = append(sqlite_db, 5)
    feed = OutboxFeed(sqlite_db, "prices", Confused(), after_seq=2, **FAST)
    assert await collect(feed, 5) == stored[2:]


async def test_a_database_that_cannot_be_read_is_waited_for(
    sqlite_db: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    down = True
    original = outbox.head

    def flaky(*args):
        if down:
            raise StorageError("mysql://host: gone")
        return original(*args)

    monkeypatch.setattr(outbox, "head", flaky)
    feed = OutboxFeed(sqlite_db, "prices", EventRing(), **FAST)
    with caplog.at_level(logging.WARNING):
        pending = asyncio.create_task(anext(feed))
        while not feed.table_failing:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        assert feed.position is None
        assert not pending.done()
        down = False
        while feed.position is None:
            await asyncio.sleep(0.001)
    stored = append(sqlite_db, 1)
    assert await pending == stored
    assert not feed.table_failing
    assert len([m for m in caplog.messages if "cannot be read" in m]) == 1
    await feed.aclose()


async def test_a_cancelled_wait_loses_nothing(sqlite_db: Database) -> None:
    ring = EventRing()
    feed = OutboxFeed(sqlite_db, "prices", ring, after_seq=0, **FAST)
    received: list[Event] = []
    for _ in range(40):
        try:
            received += await asyncio.wait_for(anext(feed), random.uniform(0.0, 0.01))
        except TimeoutError:
            stored = append(sqlite_db, 2)
            await ring.publish("prices", stored)
    last = append(sqlite_db, 1)
    received += await collect(feed, last[0][0])
    assert received == table(sqlite_db)


# --- pruning -------------------------------------------------------------------------------------------------


def prune_before(db: Database, seq: int) -> None:
    """Make the events before ``seq`` old and prune them."""
    from sqlalchemy import update

    from ray_app.storage.tables import outbox as outbox_table

    db.run(lambda conn: conn.execute(update(outbox_table).values(created_at=1_000)))
    db.run(
        lambda conn: conn.execute(update(outbox_table).where(outbox_table.c.seq < seq).values(created_at=1)).rowcount
    )
    while db.run(lambda conn: outbox.prune(conn, 1_000)):
        pass


async def test_a_pruned_position_is_a_gap_with_its_bounds(db: Database) -> None:
    stored = append(db, 10)
    prune_before(db, 6)
    feed = OutboxFeed(db, "prices", EventRing(), after_seq=2, **FAST)
    for _ in range(2):  # it does not go on by itself
        with pytest.raises(Gap) as caught:
            await anext(feed)
        assert (caught.value.channel, caught.value.first_missing, caught.value.first_available) == ("prices", 3, 6)
    feed.seek(caught.value.first_available - 1)
    assert await collect(feed, 10) == stored[5:]


async def test_everything_pruned_is_a_gap_up_to_what_comes_next(db: Database) -> None:
    append(db, 10)
    prune_before(db, 11)
    feed = OutboxFeed(db, "prices", EventRing(), after_seq=2, **FAST)
    with pytest.raises(Gap) as caught:
        await anext(feed)
    assert (caught.value.first_missing, caught.value.first_available) == (3, 11)
    feed.seek(10)
    stored = append(db, 1)
    assert await collect(feed, 11) == stored


async def test_pruning_behind_the_position_is_no_gap(db: Database) -> None:
    stored = append(db, 10)
    prune_before(db, 6)
    feed = OutboxFeed(db, "prices", EventRing(), after_seq=5, **FAST)
    assert await collect(feed, 10) == stored[5:]


async def test_a_position_the_table_has_not_reached_is_another_database_and_a_gap(db: Database) -> None:
    append(db, 3)
    feed = OutboxFeed(db, "prices", EventRing(), after_seq=50, **FAST)
    with pytest.raises(Gap) as caught:
        await anext(feed)
    assert (caught.value.first_missing, caught.value.first_available) == (51, 4)


# --- chaos ---------------------------------------------------------------------------------------------------


class Chaos:
    """A ring behind a bad line: notifications get lost, late, repeated; answers are cut, stale, or exceptions."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._ring = EventRing(max_bytes=3_000)
        self._late: list[list[Event]] = []

    async def publish(self, channel: str, events: Sequence[Event]) -> None:
        fate = self._rng.random()
        if fate < 0.15:
            return
        if fate < 0.3:
            self._late.append(list(events))
            return
        if fate < 0.4:
            self._ring = EventRing(max_bytes=3_000)
        await self._ring.publish(channel, events)
        if fate > 0.9:
            await self._ring.publish(channel, events)
        if self._late and fate > 0.5:
            await self._ring.publish(channel, self._late.pop(0))

    async def wait(self, channel: str, after_seq: int, timeout_s: float) -> list[Event]:
        fate = self._rng.random()
        if fate < 0.1:
            raise ConnectionResetError("chaos")
        if fate < 0.13:
            await asyncio.sleep(timeout_s * 3)  # hangs beyond its promise
        if fate < 0.16:
            raise asyncio.CancelledError
        answer = await self._ring.wait(channel, after_seq, timeout_s)
        if fate < 0.25:
            return answer[self._rng.randrange(len(answer) + 1) :]
        if fate < 0.3:
            return [(max(after_seq - 1, 0), b"stale"), *answer]
        return answer


@pytest.mark.parametrize("seed", range(12))
async def test_under_random_faults_the_received_sequence_is_the_table(
    sqlite_db: Database, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await chaos(sqlite_db, seed, monkeypatch)


@pytest.mark.parametrize("seed", [100, 101])
async def test_under_random_faults_on_either_database(db: Database, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    await chaos(db, seed, monkeypatch)


async def chaos(db: Database, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two writers racing, a bad line, a database that fails now and then, two readers."""
    rng = random.Random(seed)
    monkeypatch.setattr(feed_module, "GRACE_S", 0.01)
    monkeypatch.setattr(feed_module, "BATCH", rng.choice([3, 10, 1_000]))
    original = outbox.read

    def flaky(*args):
        if rng.random() < 0.05:
            raise StorageError("chaos")
        return original(*args)

    monkeypatch.setattr(outbox, "read", flaky)
    hotline = Chaos(rng)
    total = 400
    feeds = [OutboxFeed(db, "prices", hotline, after_seq=0, **FAST) for _ in range(2)]
    readers = [asyncio.create_task(collect(feed, total)) for feed in feeds]

    async def write(share: int) -> None:
        left = share
        while left:
            burst = min(left, rng.choice([1, 1, 2, 5, 40]))
            stored = await asyncio.to_thread(append, db, burst)
            await hotline.publish("prices", stored)
            left -= burst
            if rng.random() < 0.3:
                await asyncio.sleep(rng.uniform(0, 0.02))

    await asyncio.gather(write(total // 2), write(total // 2))
    received = await asyncio.gather(*readers)
    monkeypatch.setattr(outbox, "read", original)
    expected = table(db)
    assert [seq for seq, _ in expected] == list(range(1, total + 1))
    assert received[0] == expected
    assert received[1] == expected

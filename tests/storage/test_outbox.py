"""The outbox: dense numbers, contiguous reads, and pruning that never tears a hole."""

from __future__ import annotations

import pytest

from ray_app.storage import outbox
from ray_app.storage.engine import Database


def test_numbers_are_dense_per_channel_and_bodies_come_back(db: Database) -> None:
    bodies = [b"{}", bytes(range(256)), "💎".encode()]
    assert db.run(lambda conn: outbox.append(conn, "prices", bodies, 1)) == range(1, 4)
    assert db.run(lambda conn: outbox.append(conn, "news", [b"n"], 1)) == range(1, 2)
    assert db.run(lambda conn: outbox.append(conn, "prices", [b"x"], 1)) == range(4, 5)
    with db.read() as conn:
        assert outbox.read(conn, "prices", 0, 10) == list(enumerate([*bodies, b"x"], 1))
        assert outbox.read(conn, "prices", 1, 2) == list(enumerate(bodies[1:], 2))
        assert outbox.read(conn, "prices", 4, 10) == []
        assert (outbox.head(conn, "prices"), outbox.head(conn, "news"), outbox.head(conn, "none")) == (4, 1, 0)


def test_nothing_to_say_takes_no_number(db: Database) -> None:
    assert db.run(lambda conn: outbox.append(conn, "prices", [], 1)) == range(1, 1)
    assert db.run(lambda conn: outbox.append(conn, "prices", [b"x"], 1)) == range(1, 2)
    assert db.run(lambda conn: outbox.append(conn, "prices", [], 1)) == range(2, 2)


def test_a_rolled_back_transaction_takes_no_number(db: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        db.run(lambda conn: (outbox.append(conn, "prices", [b"x"], 1), 1 / 0))
    assert db.run(lambda conn: outbox.append(conn, "prices", [b"y"], 1)) == range(1, 2)


def test_pruning_keeps_what_is_contiguous_though_clocks_disagree(db: Database) -> None:
    for created_at in (10, 20, 99, 15, 30):  # the process that wrote the fourth is behind
        db.run(lambda conn, at=created_at: outbox.append(conn, "prices", [b"%d" % at], at))
    db.run(lambda conn: outbox.append(conn, "news", [b"old"], 1))
    assert db.run(lambda conn: outbox.prune(conn, 50)) == 3
    with db.read() as conn:
        assert outbox.tail_start(conn, "prices") == 3
        assert [seq for seq, _ in outbox.read(conn, "prices", 0, 10)] == [3, 4, 5]
        assert (outbox.tail_start(conn, "news"), outbox.head(conn, "news")) == (2, 1)
        assert outbox.tail_start(conn, "none") == 1


def test_one_channel_is_pruned_by_itself(db: Database) -> None:
    for channel in ("prices", "ticks"):
        db.run(lambda conn, name=channel: outbox.append(conn, name, [b"x"] * 3, 1))
    assert db.run(lambda conn: outbox.prune(conn, 5, channel="ticks")) == 3
    with db.read() as conn:
        assert (outbox.tail_start(conn, "prices"), outbox.tail_start(conn, "ticks")) == (1, 4)


def test_pruning_takes_a_bounded_bite(db: Database) -> None:
    db.run(lambda conn: outbox.append(conn, "a", [b"x"] * 7, 1))
    db.run(lambda conn: outbox.append(conn, "b", [b"x"] * 7, 1))
    bites = []
    while bite := db.run(lambda conn: outbox.prune(conn, 5, limit=4)):
        bites.append(bite)
    assert sum(bites) == 14
    assert max(bites) <= 4
    assert db.run(lambda conn: outbox.append(conn, "a", [b"x"], 1)) == range(8, 9)

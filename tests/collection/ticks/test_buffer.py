"""Frames between two flushes: in order, whole, and never more than the bound."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ray_app.collection.ticks.buffer import MAX_OTHER_BYTES, MAX_OTHERS, Buffer


def test_frames_come_out_once_in_the_order_they_came_in():
    buffer = Buffer()
    for product, frame in (("A", b"a1"), ("B", b"b1"), (None, b"error"), ("A", b"a2")):
        buffer.add(product, frame)
    assert buffer.take().body == b"a1\nb1\nerror\na2\n"
    assert buffer.take().frames == []


def test_line_breaks_within_a_frame_become_spaces():
    buffer = Buffer()
    buffer.add("A", b'{\r\n "a": 1\n}')
    assert buffer.take().body == b'{   "a": 1 }\n'


def test_at_the_bound_only_the_newest_of_each_product_stays_and_the_rest_is_counted():
    buffer = Buffer(max_bytes=100)
    buffer.add(None, b"error")
    for number in range(30):
        buffer.add("A" if number % 2 else "B", b"frame%02d" % number)
    batch = buffer.take()
    assert batch.frames[0] == b"error"
    assert batch.frames[-2:] == [b"frame28", b"frame29"]
    assert len(batch.frames) + batch.superseded == 31
    assert batch.dropped == 0


def test_what_is_about_no_product_is_few_and_short():
    buffer = Buffer()
    for _ in range(MAX_OTHERS + 7):
        buffer.add(None, b"x")
    buffer.add(None, b"y" * (MAX_OTHER_BYTES + 1))
    batch = buffer.take()
    assert (len(batch.frames), batch.dropped) == (MAX_OTHERS, 8)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["A", "B", "C", None]), st.binary(min_size=1, max_size=40)), max_size=80))
def test_it_never_holds_more_than_the_bound_and_counts_what_it_drops(frames):
    buffer = Buffer(max_bytes=200)
    for product, frame in frames:
        buffer.add(product, frame)
        assert buffer.size <= 200
        assert buffer.size == sum(len(one) for _, one in buffer._frames)
    batch = buffer.take()
    assert len(batch.frames) + batch.superseded + batch.dropped == len(frames)
    newest = {product: frame for product, frame in frames if product is not None}
    if batch.dropped == 0:
        assert set(newest.values()) <= set(batch.frames)

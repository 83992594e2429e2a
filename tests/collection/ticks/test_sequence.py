"""The stream's state machine, second by second, without a socket."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_app.collection.ticks.sequence import Rules, Watch

RULES = Rules(chunk=2)


def watch(*products: str, live=(), now=0.0, rules=RULES) -> Watch:
    return Watch(products or ("BTC-USD", "ETH-USD", "SOL-USD"), live, now=now, random=lambda: 1.0, rules=rules)


def confirmed(one: Watch) -> dict:
    names = {"heartbeat": list(one.products), "ticker": sorted(one.live)}
    names["ticker_batch"] = [p for p in one.products if p not in one.live]
    return {"type": "subscriptions", "channels": [{"name": n, "product_ids": p} for n, p in names.items() if p]}


def running(one: Watch, now=0.0) -> Watch:
    one.opened(now)
    one.heard(confirmed(one), now)
    assert one.phase == "live"
    return one


def tick(product="BTC-USD", trade=10, **more):
    return {"type": "ticker", "product_id": product, "trade_id": trade, **more}


def beat(product="BTC-USD", trade=10):
    return {"type": "heartbeat", "product_id": product, "last_trade_id": trade}


# --- subscribing ---


def test_products_are_subscribed_to_in_chunks_and_live_ones_to_their_own_channel():
    one = watch("A-USD", "B-USD", "C-USD", "D-USD", live={"B-USD"})
    assert [(m["type"], m["product_ids"], m["channels"]) for m in one.opened(0.0)] == [
        ("subscribe", ["B-USD"], ["ticker", "heartbeat"]),
        ("subscribe", ["A-USD", "C-USD"], ["ticker_batch", "heartbeat"]),
        ("subscribe", ["D-USD"], ["ticker_batch", "heartbeat"]),
    ]
    assert one.phase == "subscribing"


def test_it_is_live_once_every_product_is_confirmed_on_every_channel():
    one = watch()
    one.opened(0.0)
    part = {"name": "ticker_batch", "product_ids": ["BTC-USD", "ETH-USD"]}
    one.heard({"type": "subscriptions", "channels": [part]}, 0.1)
    assert one.phase == "subscribing"
    assert one.unconfirmed() == ["BTC-USD", "ETH-USD", "SOL-USD"]
    one.heard(confirmed(one), 0.2)
    assert one.phase == "live"


def test_a_subscription_that_is_never_confirmed_ends_the_connection():
    one = watch()
    one.opened(0.0)
    for second in range(1, 11):
        one.heard(beat(), second)
        assert one.look(second) is None
    assert one.look(10.5) == "subscription not confirmed"


def test_an_unknown_product_is_left_out_and_the_others_are_asked_for_again():
    one = watch("BTC-USD", "OLD-USD")
    one.opened(0.0)
    error = {"type": "error", "message": "Failed to subscribe", "reason": "OLD-USD is not a valid product"}
    (again,) = one.heard(error, 0.1)
    assert again["product_ids"] == ["BTC-USD"]
    assert one.products == ("BTC-USD",)
    one.heard(confirmed(one), 0.2)
    assert one.phase == "live"
    one.closed(1.0, "closed 1006")
    assert one.opened(2.0)[0]["product_ids"] == ["BTC-USD"], "nor on the next connection"


def test_changed_products_are_subscribed_to_and_gone_ones_unsubscribed_from():
    one = running(watch())
    messages = one.change(["BTC-USD", "ADA-USD"], {"BTC-USD"}, 5.0)
    assert [(m["type"], m["product_ids"], m["channels"]) for m in messages] == [
        ("unsubscribe", ["BTC-USD", "ETH-USD"], ["ticker_batch", "ticker", "heartbeat"]),
        ("unsubscribe", ["SOL-USD"], ["ticker_batch", "ticker", "heartbeat"]),
        ("subscribe", ["BTC-USD"], ["ticker", "heartbeat"]),
        ("subscribe", ["ADA-USD"], ["ticker_batch", "heartbeat"]),
    ]
    assert one.change(["BTC-USD", "ADA-USD"], {"BTC-USD"}, 6.0) == []
    assert watch().change(["X-USD"], (), 1.0) == [], "without a connection there is nothing to say"


# --- stalls and pauses ---


def test_without_any_frame_it_has_stalled():
    one = running(watch())
    one.heard(beat(), 4.0)
    assert one.look(13.9) is None
    assert one.look(14.1) == "stalled"


def test_pauses_double_up_to_the_cap_and_begin_anew_after_a_steady_connection():
    one = watch()
    pauses = []
    for _ in range(9):
        one.closed(100.0, "unreachable")
        pauses.append(one.retry_at - 100.0)
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    running(one, 200.0)
    one.closed(229.0, "closed 1006")
    assert one.retry_at == 289.0, "a connection of seconds proves nothing"
    running(one, 300.0)
    one.closed(331.0, "closed 1006")
    assert one.retry_at == 331.5
    assert one.counts.ended == {"unreachable": 9, "closed 1006": 2}


def test_jitter_halves_a_pause_at_most():
    one = Watch(["BTC-USD"], now=0.0, random=lambda: 0.0, rules=RULES)
    one.closed(10.0, "unreachable")
    assert one.retry_at == 10.25


def test_a_product_whose_heartbeats_stop_is_subscribed_to_again_but_not_at_once_again():
    one = running(watch())
    for second in range(1, 40):
        one.heard(beat("BTC-USD"), second)
        one.heard(beat("ETH-USD"), second)
    (again,) = one.again(39.0)
    assert again["product_ids"] == ["SOL-USD"]
    assert one.again(40.0) == []
    assert one.counts.resubscribed == 1


# --- loss ---


def test_a_heartbeat_ahead_of_the_ticks_is_no_loss_while_the_next_batch_is_on_its_way():
    one = running(watch())
    one.heard(tick(trade=10), 1.0)
    one.heard(beat(trade=15), 2.0)
    one.heard(tick(trade=17), 6.0)
    one.heard(beat(trade=17), 20.0)
    one.look(20.0)
    assert one.counts.lost_ticks == 0


def test_a_trade_that_a_heartbeat_named_and_no_tick_reached_is_a_loss_counted_once():
    one = running(watch())
    one.heard(tick(trade=10), 1.0)
    one.heard(beat(trade=15), 2.0)
    one.heard(tick(trade=14), 3.0)
    for second in range(4, 40):
        one.heard(beat(trade=15), second)
        one.look(second)
    assert one.counts.lost_ticks == 1


def test_the_live_channel_has_less_time():
    one = running(watch(live={"BTC-USD"}))
    for product in ("BTC-USD", "ETH-USD"):
        one.heard(tick(product, trade=10), 1.0)
        one.heard(beat(product, trade=11), 2.0)
    one.look(7.5)
    assert one.counts.lost_ticks == 1


def test_skipped_sequences_and_a_product_without_a_tick_yet_are_no_loss():
    one = running(watch())
    one.heard(tick(trade=10, sequence=5), 1.0)
    one.heard(tick(trade=10, sequence=500), 2.0)
    one.heard(beat("ETH-USD", trade=99), 2.0)
    one.look(60.0)
    assert one.counts.lost_ticks == 0


def test_time_is_covered_while_frames_come_and_lost_while_none_do():
    one = watch(now=0.0)
    running(one, 4.0)  # four seconds until the first connection
    for second in range(5, 11):
        one.heard(beat(), second)
    assert (one.counts.covered_s, one.lost_s(10.0)) == (6.0, 4.0)
    one.closed(21.0, "stalled")
    assert one.lost_s(25.0) == 4.0 + 15.0, "from the last frame on, not from when it was noticed"
    running(one, 30.0)
    one.heard(beat(), 31.0)
    assert (one.counts.covered_s, one.lost_s(31.0)) == (7.0, 24.0)
    one.heard(beat(), 50.0)
    assert (one.counts.covered_s, one.lost_s(50.0)) == (7.0, 43.0)


@pytest.mark.parametrize("reason", ["ErrSlowConsume", "ErrSlowRead"])
def test_a_complaint_about_slow_reading_is_counted_by_itself(reason):
    one = running(watch())
    assert one.heard({"type": "error", "message": reason, "reason": reason}, 1.0) == []
    one.slow_close(reason)
    assert (one.counts.errors, one.counts.slow) == (1, 2)


def test_unknown_types_are_counted_by_name_in_bounded_memory():
    one = running(watch())
    for number in range(1_000):
        one.heard({"type": f"new{number}"}, 1.0)
        one.heard({"type": "new0"}, 1.0)
    assert one.counts.unknown["new0"] == 1_001
    assert len(one.counts.unknown) == 20
    one.heard(tick("EVIL-USD"), 2.0)
    assert "EVIL-USD" not in one._products


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["BTC-USD"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
names = ("type", "product_id", "trade_id", "last_trade_id", "channels", "reason", "message")
kinds = st.sampled_from(["ticker", "heartbeat", "subscriptions", "error", "status", "new"])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.dictionaries(st.sampled_from(names), anything), kinds, st.sampled_from([0.0, 1.0, 30.0])),
        max_size=12,
    )
)
def test_no_frame_whatever_is_in_it_breaks_the_watch(frames):
    one, now = running(watch()), 0.0
    for frame, kind, seconds in frames:
        now += seconds
        one.heard({**frame, "type": kind}, now)
        one.heard(frame, now)
        one.look(now)
        one.again(now)
    assert one.counts.covered_s + one.lost_s(now) <= now + 1e-9

"""Batches of the tick stream: what a frame says, which of several stands, and what is ignored and counted."""

from __future__ import annotations

import json

import pytest

from ray_app.clock import MINUTE_MS, iso
from ray_app.errors import MalformedPayload, UpstreamError
from ray_app.sources import ENDPOINTS
from tests.sources.samples import answer
from tests.sources.samples_ticks import FETCHED_AT, NOON, lines, request, tick

TICKER = ENDPOINTS["coinbase.ticker"]


def parse(*frames, noted=None, fetched_at=FETCHED_AT):
    return TICKER.parse(answer(TICKER.name, lines(*frames), request=request(noted), fetched_at=fetched_at))


def only(parsed):
    (row,) = parsed.rows
    return row


def test_every_field_of_a_tick_is_read_and_nothing_else_is_said():
    row = only(parse(tick()))
    assert (row.table, row.event_version) == ("price_data_real", NOON + 5_123)
    assert row.key == {"coinbase_product": "BTC-USD", "slot": NOON, "source": "coinbase.ticker"}
    assert {name: value for name, value in row.values.items() if value is not None} == {
        "interval_s": 300,
        "event_time": NOON + 5_123,
        "known_at": FETCHED_AT,
        "current_price": 77671.3,
        "bid_price": 77671.29,
        "ask_price": 77671.31,
        "volume_qty_24h": 6543.21098765,
        "high_24h": 78419.0,
        "low_24h": 76696.01,
        "open_24h": 78418.55,
    }


def test_the_newest_tick_of_a_product_and_slot_stands_whatever_the_order_of_the_lines():
    at = [iso(NOON - 1_000), iso(NOON + 1_000), iso(NOON + 2_000)]
    frames = [tick(price=str(n), time=time, sequence=n) for n, time in enumerate(at, start=1)]
    for order in (frames, frames[::-1], [frames[1], frames[2], frames[0]]):
        found = {row.key["slot"]: row.values["current_price"] for row in parse(*order).rows}
        assert found == {NOON - 5 * MINUTE_MS: 1.0, NOON: 3.0}


def test_of_two_trades_in_one_millisecond_the_higher_sequence_stands():
    assert only(parse(tick(sequence=7, price="2"), tick(sequence=6, price="1"))).values["current_price"] == 2.0


def test_one_tick_twice_alike_is_one_and_differently_is_none():
    assert len(parse(tick(), tick()).rows) == 1
    parsed = parse(tick(), tick(price="1"))
    assert parsed.rows == ()
    assert [(issue.kind, issue.subject) for issue in parsed.issues] == [("duplicate", "BTC-USD")]
    newer = parse(tick(), tick(price="1"), tick(sequence=96_300_123_457, price="2"))
    assert only(newer).values["current_price"] == 2.0, "what contradicts itself is superseded by what does not"


@pytest.mark.parametrize("nothing", ["0", "", None, "0.00", ...])
def test_no_orders_or_no_trades_are_no_prices(nothing):
    parsed = parse(tick(best_bid=nothing, high_24h=nothing))
    values = only(parsed).values
    assert (values["bid_price"], values["high_24h"]) == (None, None)
    assert values["ask_price"] == 77671.31
    assert parsed.issues == ()


def test_a_volume_of_nothing_is_a_volume():
    assert only(parse(tick(volume_24h="0"))).values["volume_qty_24h"] == 0.0


@pytest.mark.parametrize("bad", [{"price": "0"}, {"price": "NaN"}, {"price": ...}, {"time": "soon"}, {"time": ...}])
def test_a_tick_without_price_or_time_is_left_out_with_an_issue(bad):
    parsed = parse(tick(**bad), tick("ETH-USD"))
    assert only(parsed).key["coinbase_product"] == "ETH-USD"
    assert parsed.issues[0].subject == "BTC-USD"


def test_a_time_ahead_of_the_clock_is_not_believed():
    assert parse(tick(time=iso(FETCHED_AT + 301_000))).rows == ()
    assert len(parse(tick(time=iso(FETCHED_AT + 299_000))).rows) == 1


def test_products_in_other_money_are_left_out():
    parsed = parse(tick("BTC-EUR"), tick())
    assert only(parsed).key["coinbase_product"] == "BTC-USD"
    assert [issue.subject for issue in parsed.issues] == ["BTC-EUR"]


def test_errors_and_unknown_types_are_counted_and_ignored():
    complaint = {"type": "error", "message": "Failed to subscribe", "reason": "XX-USD is not a valid product"}
    parsed = parse(complaint, tick(), {"type": "auction"}, {"type": "auction"})
    assert len(parsed.rows) == 1
    assert [(issue.subject, issue.detail.split()[0]) for issue in parsed.issues] == [("auction", "2"), ("error", "1")]


def test_a_broken_line_costs_that_line():
    parsed = parse(b'{"type":"ticker", "pri', tick(), b"", b"[1]")
    assert len(parsed.rows) == 1
    assert {issue.field for issue in parsed.issues} == {"line@0", "line@2", "line@3"}


def test_ten_thousand_broken_lines_are_few_issues():
    assert len(parse(tick(), *[b"x"] * 10_000).issues) < 30


def test_a_body_cut_at_a_line_is_known_for_one_by_the_count():
    assert len(parse(tick(), noted=1).rows) == 1
    with pytest.raises(MalformedPayload, match="cut off"):
        parse(tick(), noted=2)
    with pytest.raises(MalformedPayload, match="cut off"):
        TICKER.parse(answer(TICKER.name, lines(tick(), tick("ETH-USD"))[:-1], request=request(2)))


@pytest.mark.parametrize("form", ["line", "lines", "indented", "array", "indented array", "array of lines"])
def test_what_somebody_else_recorded_may_end_without_a_line_break(form):
    one, two = tick(), tick("ETH-USD")
    body = {
        "line": lines(one)[:-1],
        "lines": lines(one, two)[:-1],
        "indented": json.dumps(one, indent=2).encode(),
        "array": json.dumps([one, two]).encode(),
        "indented array": json.dumps([one, two], indent=2).encode() + b"\n",
        "array of lines": b"[\n" + json.dumps(one).encode() + b",\n" + json.dumps(two).encode() + b"\n]",
    }[form]
    parsed = TICKER.parse(answer(TICKER.name, body, request=request()))
    assert len(parsed.rows) == (1 if form in {"line", "indented"} else 2)
    assert parsed.issues == ()
    assert TICKER.shape_of(body)[0]["product_id"] == "BTC-USD"
    if form != "line":
        return
    with pytest.raises(MalformedPayload, match="cut off"):
        TICKER.parse(answer(TICKER.name, body, request=request(1)))
    for cut in (lines(one, two)[:-9], body[:-9]):
        with pytest.raises(MalformedPayload, match="cut off"):
            TICKER.parse(answer(TICKER.name, cut, request=request()))


@pytest.mark.parametrize("body", [b"\n\n", b"nonsense\n", b'{"price": 1}\n', b"[]\n[]\n"])
def test_a_body_without_a_frame_is_malformed(body):
    with pytest.raises(UpstreamError):
        TICKER.parse(answer(TICKER.name, body, request=request()))


def test_a_batch_of_heartbeats_says_nothing():
    parsed = parse({"type": "heartbeat", "product_id": "BTC-USD", "sequence": 1, "last_trade_id": 2})
    assert (parsed.rows, parsed.issues) == ((), ())


def test_only_ticks_are_looked_at_for_changes_of_shape():
    body = lines({"type": "subscriptions", "channels": []}, tick(), {"type": "status"}, tick("ETH-USD"))
    assert [frame["product_id"] for frame in TICKER.shape_of(body)] == ["BTC-USD", "ETH-USD"]
    with pytest.raises(ValueError, match="no tick"):
        TICKER.shape_of(lines({"type": "subscriptions", "channels": []}))

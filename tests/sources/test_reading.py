from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_app.clock import iso
from ray_app.errors import MalformedPayload
from ray_app.sources import reading
from ray_app.sources.reading import CONFLICT, COUNT, PRICE, Bounds, Findings

ANYTHING = Bounds("a number", -1e300, 1e300)


def read(function, value, *args, **kwargs):
    found = Findings()
    return function(found, "bitcoin", "field", value, *args, **kwargs), [issue.kind for issue in found.all()]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3.0),
        (3.5, 3.5),
        ("3.5", 3.5),
        (" 12 ", 12.0),
        ("1e-8", 1e-8),
        ("-4", -4.0),
        ("+.5", 0.5),
        ("5.", 5.0),
        (0, 0.0),
    ],
)
def test_numbers_and_numeric_strings_are_read(value, expected):
    assert read(reading.number, value, ANYTHING) == (expected, [])


@pytest.mark.parametrize(
    "value", [True, False, "", "abc", "1_000", "0x10", "nan", "inf", "١٢", "1,5", "--1", "9" * 70, [], {}, [1], 10**400]
)
def test_what_is_no_number_is_none_and_an_issue(value):
    assert read(reading.number, value, ANYTHING) == (None, ["wrong_type"])


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), float("-inf"), 0, -1, "0", "-3.5", 1e30, "1e999", 1e-40, -0.0]
)
def test_what_is_no_price_is_none_and_an_issue(value):
    read_value, kinds = read(reading.number, value, PRICE)
    assert read_value is None
    assert kinds in (["out_of_range"], ["wrong_type"])


def test_null_is_none_and_nobodys_fault():
    for function, args in (
        (reading.number, (PRICE,)),
        (reading.integer, (COUNT,)),
        (reading.iso_time, ()),
        (reading.epoch_time, (1_000,)),
    ):
        assert read(function, None, *args) == (None, [])


def test_negative_zero_is_zero():
    value, _ = read(reading.number, -0.0, ANYTHING)
    assert str(value) == "0.0"


def test_whole_numbers_are_whole():
    assert read(reading.integer, 3.0, COUNT) == (3, [])
    assert read(reading.integer, "7", COUNT) == (7, [])
    assert read(reading.integer, 3.5, COUNT) == (None, ["wrong_type"])
    assert read(reading.integer, -3, COUNT) == (None, ["out_of_range"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-05-18T12:00:00Z", 1_779_105_600_000),
        ("2026-05-18T12:00:00.123Z", 1_779_105_600_123),
        ("2026-05-18T14:00:00+02:00", 1_779_105_600_000),
        (" 2026-05-18T12:00:00Z ", 1_779_105_600_000),
    ],
)
def test_iso_times_with_a_zone_are_read(value, expected):
    assert read(reading.iso_time, value) == (expected, [])


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("2026-05-18T12:00:00", "wrong_type"),
        ("yesterday", "wrong_type"),
        ("", "wrong_type"),
        (1_779_105_600, "wrong_type"),
        (True, "wrong_type"),
        ("1970-01-01T00:00:00Z", "out_of_range"),
        ("9999-12-31T23:59:59Z", "out_of_range"),
        ("0001-01-01T00:00:00+14:00", "out_of_range"),
    ],
)
def test_other_times_are_none_and_an_issue(value, kind):
    assert read(reading.iso_time, value) == (None, [kind])


def test_epoch_times_in_their_unit():
    assert read(reading.epoch_time, 1_779_105_600, 1_000) == (1_779_105_600_000, [])
    assert read(reading.epoch_time, "1779105600.5", 1_000) == (1_779_105_600_500, [])
    assert read(reading.epoch_time, 1_779_105_600_123, 1) == (1_779_105_600_123, [])
    assert read(reading.epoch_time, 1_779_105_600_123, 1_000) == (None, ["out_of_range"])  # ms taken for s
    assert read(reading.epoch_time, 1_779_105_600, 1) == (None, ["out_of_range"])  # s taken for ms
    assert read(reading.epoch_time, 1e300, 1_000) == (None, ["out_of_range"])
    assert read(reading.epoch_time, False, 1) == (None, ["wrong_type"])


def test_time_ahead_of_the_fetch_is_refused_beyond_what_clocks_differ():
    now = 1_779_105_600_000
    assert read(reading.not_ahead, now + 300_000, now) == (now + 300_000, [])
    assert read(reading.not_ahead, now + 300_001, now) == (None, ["out_of_range"])


def test_text_that_cannot_be_stored_is_refused():
    for value, kind in (
        ("\ud800", "out_of_range"),
        ("a\x00b", "out_of_range"),
        ("  ", "out_of_range"),
        ("x" * 33, "out_of_range"),
        (5, "wrong_type"),
    ):
        found = Findings()
        assert reading.text(found, "bitcoin", "symbol", value, longest=32) is None
        assert [issue.kind for issue in found.all()] == [kind]
    assert reading.text(Findings(), "bitcoin", "symbol", " btc ", longest=32) == "btc"


@pytest.mark.parametrize("value", ["", " ", "two words", "new\nline", "x" * 151, "\ud800", 7, None, True, CONFLICT])
def test_what_is_no_identifier(value):
    assert reading.identifier(value) is None


def test_key_stated_twice_alike_is_one_and_differently_is_none():
    body = reading.decode("x.y", b'{"a": 1, "a": 1, "b": 1, "b": 2}')
    assert body == {"a": 1, "b": CONFLICT}
    assert read(reading.number, body["b"], ANYTHING) == (None, ["duplicate"])
    assert "0x" not in repr(body)  # no address: issues must be the same on every run


def test_body_with_a_byte_order_mark_is_read():
    assert reading.decode("x.y", b"\xef\xbb\xbf[1]") == [1]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "empty"),
        (b"\x1c", "empty"),  # white space to str, not to bytes
        (b"<html>", "HTML"),
        (b"Throttled", "text, not JSON"),
        (b'{"a": [1, 2', "cut off"),
        (b'{"a": "b', "cut off"),
        (b'{"a": 1,, "b": 2}', "broken at character 8"),
        (b"\xff\xff", "UTF-8"),
        (gzip.compress(b"[]", mtime=0)[:-3], "gzip"),
        (b"[" * 50_000, "cannot be read"),
    ],
)
def test_malformed_body_says_what_it_is(body, says):
    with pytest.raises(MalformedPayload, match=says):
        reading.decode("x.y", body)


def test_same_issue_is_told_once_and_fits_the_table():
    found = Findings()
    found.add("wrong_type", "s" * 400, "f" * 400, "first")
    found.add("wrong_type", "s" * 400, "f" * 400, "second")
    (issue,) = found.all()
    assert (len(issue.subject), len(issue.field), issue.detail) == (150, 64, "first")


def test_issues_beyond_the_first_hundreds_are_counted_in_one():
    found = Findings()
    for number in range(reading.MOST_ISSUES):
        found.add("wrong_type", f"item {number}", "field", "why")
    assert len(found.all()) == reading.MOST_ISSUES
    for number in range(reading.MOST_ISSUES + 70):
        found.add("wrong_type", f"item {number}", "field", "why")
    *kept, last = found.all()
    assert [issue.subject for issue in kept] == [f"item {number}" for number in range(reading.MOST_ISSUES)]
    assert (last.kind, last.subject, last.field) == ("further", "answer", "issues")
    assert last.detail == f"70 more than the {reading.MOST_ISSUES} that are kept"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_number_survives_json_and_string(value):
    assert reading.as_number(json.loads(json.dumps(value))) == value
    assert reading.as_number(repr(value)) == value


@given(st.integers(reading.EARLIEST_MS, reading.LATEST_MS))
def test_every_moment_survives_iso(ms):
    assert read(reading.iso_time, iso(ms)) == (ms, [])

"""FRED: vintages, missing values, both formats, refusals of every shape, pages."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_app.clock import DAY_MS, HOUR_MS, to_ms
from ray_app.errors import MalformedPayload, RateLimited, UpstreamRejected, UpstreamUnavailable
from ray_app.sources import ENDPOINTS, Exchange, Request, endpoint_for_url
from ray_app.sources.addressing import request_of_url
from ray_app.sources.statements import version_of
from tests.sources.samples import FETCHED_AT, NOON, answer
from tests.sources.samples_macro import FRED, observation
from tests.sources.test_fuzz import check, read

fred = ENDPOINTS["fred.observations"]
MARCH, APRIL, MAY = 1_772_323_200_000, 1_775_001_600_000, 1_777_593_600_000  # the first of each, 2026
RELEASED, REVISED = 1_776_124_800_000, 1_778_544_000_000  # 2026-04-14, 2026-05-12
XML_REQUEST = Request("fred.observations", "/series/observations", {"series_id": "DGS10"})
XML = b"""<?xml version="1.0" encoding="utf-8" ?>
<observations realtime_start="2026-05-18" realtime_end="2026-05-18" observation_start="2026-05-14" observation_end="9999-12-31" units="lin" output_type="1" file_type="xml" order_by="observation_date" sort_order="asc" count="2" offset="0" limit="100000">
  <observation realtime_start="2026-05-18" realtime_end="2026-05-18" date="2026-05-14" value="4.51"/>
  <observation realtime_start="2026-05-18" realtime_end="2026-05-18" date="2026-05-15" value="."/>
</observations>



"""


def body(*observations, **changes):
    return {**FRED, "count": len(observations), "observations": list(observations), **changes}


def test_every_vintage_is_a_row_known_from_the_end_of_its_day():
    rows = fred.parse(answer("fred.observations")).rows
    assert [dict(row.key) for row in rows] == [
        {
            "indicator_name": "CPIAUCSL",
            "source": "fred.observations",
            "indicator_date": date,
            "vintage": vintage,
        }
        for date, vintage in ((MARCH, RELEASED), (MARCH, REVISED), (APRIL, REVISED), (MAY, REVISED))
    ]
    assert [row.values["value"] for row in rows] == [330.213, 330.293, 331.01, None]
    assert rows[0].values == {
        "value": 330.213,
        "unit": "index",
        "open_price": None,
        "high_price": None,
        "low_price": None,
        "volume": None,
        "known_at": RELEASED + 30 * HOUR_MS,
        "first_seen_at": FETCHED_AT,
    }
    assert [row.event_version for row in rows] == [RELEASED, REVISED, REVISED, REVISED]


def test_value_that_was_fetched_on_the_day_of_its_release_is_known_from_the_fetch():
    seen = body(observation("2026-05-15", "4.5", "2026-05-18"))
    (row,) = fred.parse(answer("fred.observations", seen)).rows
    assert row.values["known_at"] == FETCHED_AT < row.key["vintage"] + 30 * HOUR_MS


def test_answer_without_a_range_of_vintages_is_known_from_its_fetch_and_versioned_by_value():
    plain = fred.request("SP500", MARCH, vintages=False)
    assert "realtime_start" not in plain.params

    def said(value, day="2026-05-18"):
        only = body(observation("2026-03-02", value, day, day), realtime_start=day, realtime_end=day)
        (row,) = fred.parse(answer("fred.observations", only, request=plain)).rows
        return row

    row = said("6900.5")
    assert row.values["known_at"] == row.values["first_seen_at"] == FETCHED_AT
    assert (row.key["indicator_name"], row.values["unit"]) == ("SP500", "index")
    assert row.event_version == NOON - 12 * HOUR_MS
    assert said("6900.5", "2026-05-17").key == row.key, "the same value is the same version, whatever the day"
    assert len({said(value).key["vintage"] for value in ("6900.5", "6900.6", ".")}) == 3


def test_values_that_contradict_each_other_are_left_out_without_vintages_too():
    plain = fred.request("SP500", MARCH, vintages=False)
    day = "2026-05-18"
    seen = (
        observation(date, value, day, day) for date, value in (("2026-05-14", "1"), ("2026-05-14", "2"), (day, "3"))
    )
    parsed = fred.parse(answer("fred.observations", body(*seen, realtime_start=day, realtime_end=day), request=plain))
    assert [row.values["value"] for row in parsed.rows] == [3.0]
    assert [issue.kind for issue in parsed.issues] == ["duplicate"]


def test_request_asks_for_every_vintage_since_the_first_observation():
    assert fred.request("GDPC1", MARCH + 5 * HOUR_MS).params == {
        "series_id": "GDPC1",
        "file_type": "json",
        "observation_start": "2026-03-01",
        "realtime_start": "2026-03-01",
        "realtime_end": "9999-12-31",
    }


def test_unit_of_a_series_nobody_listed_is_unknown():
    request = fred.request("GDPDEF", MARCH)
    assert {r.values["unit"] for r in fred.parse(answer("fred.observations", request=request)).rows} == {"unknown"}


def test_series_older_than_any_computer_is_read():
    said = body(observation("1776-07-04", "1", "2026-05-12"), observation("1919-01-01", "-4.9", "1927-01-27"))
    rows = fred.parse(answer("fred.observations", said)).rows
    assert [row.key["indicator_date"] < 0 for row in rows] == [True, True]
    assert rows[1].values["value"] == -4.9


@pytest.mark.parametrize(
    ("bad", "kind", "field"),
    [
        (observation("2026-05-01", "n/a", "2026-05-12"), "wrong_type", "value@2026-05-01"),
        (observation("2026-05-01", "", "2026-05-12"), "wrong_type", "value@2026-05-01"),
        (observation("2026-05-01", ["1"], "2026-05-12"), "wrong_type", "value@2026-05-01"),
        (observation("2026-05-01", "1e30", "2026-05-12"), "out_of_range", "value@2026-05-01"),
        (observation("2026-05-00", "1", "2026-05-12"), "wrong_type", "date#1"),
        (observation("01/05/2026", "1", "2026-05-12"), "wrong_type", "date#1"),
        (observation("2026-05-01", "1", None), "wrong_type", "realtime_start#1"),
        (observation("2026-05-01", "1", "2026-05-20"), "out_of_range", "realtime_start#1"),
        ("2026-05-01", "wrong_type", "observation#1"),
    ],
)
def test_bad_observation_costs_only_its_row(bad, kind, field):
    good = observation("2026-04-01", "331.01", "2026-05-12")
    parsed = fred.parse(answer("fred.observations", body(good, bad)))
    assert [row.values["value"] for row in parsed.rows] == [331.01]
    assert [(issue.kind, issue.field) for issue in parsed.issues] == [(kind, field)]


def test_vintage_stated_twice_is_read_once_and_contradictions_are_left_out():
    one = observation("2026-04-01", "331.01", "2026-05-12")
    parsed = fred.parse(answer("fred.observations", body(one, one)))
    assert (len(parsed.rows), parsed.issues) == (1, ())
    parsed = fred.parse(answer("fred.observations", body(one, {**one, "value": "331.02"}, FRED["observations"][0])))
    assert [row.key["indicator_date"] for row in parsed.rows] == [MARCH]
    assert [(issue.kind, issue.field) for issue in parsed.issues] == [("duplicate", "value@2026-04-01")]


def test_pages_follow_each_other_until_the_count_is_reached():
    first = fred.parse(answer("fred.observations", {**FRED, "count": 9, "limit": 4}))
    assert first.next.params == {**answer("fred.observations").request.params, "offset": "4"}
    assert first.oldest is None  # the next page is newer: a poll must not end here
    second = fred.parse(answer("fred.observations", {**FRED, "count": 9, "offset": 4}, request=first.next))
    assert second.next.params["offset"] == "8"
    last = {**FRED, "count": 9, "offset": 8, "observations": FRED["observations"][:1]}
    assert fred.parse(answer("fred.observations", last, request=second.next)).next is None
    turned = replace(second.next, params={**second.next.params, "sort_order": "desc", "offset": "0"})
    assert fred.parse(answer("fred.observations", {**FRED, "count": 9}, request=turned)).oldest == MARCH
    assert fred.parse(answer("fred.observations", body(count=9))).next is None


def test_answer_without_observations_is_no_error():
    parsed = fred.parse(answer("fred.observations", body()))
    assert (parsed.rows, parsed.issues, parsed.next) == ((), (), None)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"series_id": "", "file_type": "json"}, "series_id"),
        ({"series_id": "a b", "file_type": "json"}, "series_id"),
        ({"series_id": "GDPC1", "file_type": "csv"}, "csv"),
        ({"series_id": "GDPC1", "file_type": "json", "units": "pc1"}, "units"),
        ({"series_id": "DGS10", "file_type": "json", "frequency": "m"}, "frequency"),
        ({"series_id": "DGS10", "file_type": "json", "output_type": "4"}, "output_type"),
    ],
)
def test_what_would_be_another_indicator_is_refused(params, match):
    with pytest.raises(MalformedPayload, match=match):
        fred.parse(answer("fred.observations", params=params))


def test_answer_in_other_units_than_asked_for_is_refused():
    with pytest.raises(MalformedPayload, match="units"):
        fred.parse(answer("fred.observations", {**FRED, "units": "pch"}))


# --- XML ---


def test_xml_says_the_same_as_json():
    items = [dict(re.findall(rb'(\w+)="([^"]*)"', line)) for line in XML.splitlines() if b"<observation " in line]
    today = {"realtime_start": "2026-05-18", "realtime_end": "2026-05-18"}
    same = body(*({k.decode(): v.decode() for k, v in item.items()} for item in items), **today)
    in_json = replace(XML_REQUEST, params={**XML_REQUEST.params, "file_type": "json"})
    got = fred.parse(answer("fred.observations", XML, request=XML_REQUEST))
    assert got.rows == fred.parse(answer("fred.observations", same, request=in_json)).rows
    assert [row.values["value"] for row in got.rows] == [4.51, None]
    assert got.issues == ()


def test_xml_that_was_saved_after_a_line_break_is_read_and_a_missing_series_named():
    said = fred.parse(answer(fred.name, XML, request=XML_REQUEST))
    assert fred.parse(answer(fred.name, b"\r\n  " + XML, request=XML_REQUEST)) == said
    with pytest.raises(MalformedPayload, match="--param series_id="):
        fred.parse(answer(fred.name, XML, request=Request(fred.name, "/series/observations")))


def test_xml_pages_follow_each_other():
    request = replace(XML_REQUEST, params={**XML_REQUEST.params, "limit": "2"})
    paged = XML.replace(b'count="2"', b'count="5"')
    assert fred.parse(answer("fred.observations", paged, request=request)).next.params["offset"] == "2"


BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE o [<!ENTITY a "aaaaaaaaaa">'
    + b"".join(b'<!ENTITY a%d "%s">' % (n, b"&a%s;" % (str(n - 1).encode() if n else b"") * 10) for n in range(9))
    + b']><observations units="&a8;"/>'
)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (BOMB, "document type"),
        (b'<!DOCTYPE o SYSTEM "file:///etc/passwd"><observations/>', "document type"),
        (XML.decode().encode("utf-16"), "broken"),
        (XML.decode().encode("utf-16-le"), "broken"),
        (b'<?xml version="1.0" encoding="utf-7"?>+ADwAIQ-DOCTYPE', "broken"),
        (b"<series/>", "observations"),
        (b"<observations><observation/></observations>", "none of the 1"),
        (b"<observations>" + b"<a>" * 50 + b"</a>" * 50 + b"</observations>", "nested"),
        (XML[:-200], "broken"),
        (b"", "broken"),
    ],
)
def test_xml_that_is_not_fred_s_yields_nothing(wrong, match):
    with pytest.raises(MalformedPayload, match=match):
        fred.parse(answer("fred.observations", wrong, request=XML_REQUEST))


def test_json_is_read_where_no_format_was_asked_for_and_refused_where_xml_was():
    request = replace(XML_REQUEST, params={"series_id": "CPIAUCSL"})
    assert fred.parse(answer("fred.observations", request=request)) == fred.parse(answer("fred.observations"))
    asked = replace(request, params={**request.params, "file_type": "xml"})
    with pytest.raises(MalformedPayload, match="asked for XML"):
        fred.parse(answer("fred.observations", request=asked))


@pytest.mark.parametrize("form", [{}, {"file_type": "json"}, {"file_type": "xml"}])
def test_byte_order_mark_says_nothing_of_the_format(form):
    request = Request("fred.observations", "/series/observations", {"series_id": "CPIAUCSL", **form})
    whole = XML if form.get("file_type") == "xml" else json.dumps(FRED).encode()
    plain, marked = (
        fred.parse(answer("fred.observations", said, request=request)).rows for said in (whole, b"\xef\xbb\xbf" + whole)
    )
    assert plain == marked
    assert plain


def test_limit_in_words_is_one_where_xml_was_asked_for():
    for said in (b"Too Many Requests", b"error code: 1015", b"<html><title>Too Many Requests</title></html>"):
        with pytest.raises(RateLimited, match=r"Too Many Requests|1015") as caught:
            fred.parse(answer("fred.observations", said, request=XML_REQUEST, headers={"retry-after": "9"}))
        assert caught.value.retry_after_s == 9.0
    with pytest.raises(MalformedPayload):
        fred.parse(answer("fred.observations", b"Bad Gateway", request=XML_REQUEST))


def test_xml_cut_off_anywhere_yields_nothing():
    for length in range(len(XML.rstrip())):
        with pytest.raises(MalformedPayload):
            fred.parse(answer("fred.observations", XML[:length], request=XML_REQUEST))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_xml_never_raises_anything_else(data):
    damaged = bytearray(XML)
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    check(read(answer("fred.observations", bytes(damaged), request=XML_REQUEST)))


# --- refusals ---

NOT_IN_ALFRED = "Bad Request.  The series does not exist in ALFRED but may exist in FRED."


@pytest.mark.parametrize("form", ["json", "xml"])
@pytest.mark.parametrize(
    ("status", "code", "message", "error"),
    [
        (400, 400, "Bad Request.  The series does not exist.", UpstreamRejected),
        (400, 400, NOT_IN_ALFRED, UpstreamRejected),
        (429, 429, "Too Many Requests.  Exceeded Rate Limit", RateLimited),
        (400, 429, "Too Many Requests.  Exceeded Rate Limit", RateLimited),
        (200, 429, "Too Many Requests.  Exceeded Rate Limit", RateLimited),
        (200, 400, "Bad Request.  The series does not exist.", UpstreamRejected),
        (500, 500, "Internal Server Error", UpstreamUnavailable),
    ],
)
def test_refusals_in_either_format_say_why(form, status, code, message, error):
    refused = {"error_code": code, "error_message": message}
    said = (
        json.dumps(refused).encode()
        if form == "json"
        else f'<?xml version="1.0"?>\n<error code="{code}" message="{message}"/>\n'.encode()
    )
    request = replace(XML_REQUEST, params={**XML_REQUEST.params, "file_type": form})
    for other in (request, XML_REQUEST):
        with pytest.raises(error, match=" ".join(message.split())[:40]) as caught:
            fred.parse(answer("fred.observations", said, status=status, headers={"retry-after": "9"}, request=other))
        if error is RateLimited:
            assert caught.value.retry_after_s == 9.0


# --- recorded ---


@pytest.mark.shared_data
def test_recorded_answers_keep_every_observation(shared_data):
    seen = set()
    for line in (shared_data / "recorded" / "MANIFEST.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["api"] != "fred":
            continue
        assert endpoint_for_url(entry["url"]) is fred
        said = (shared_data / "recorded" / entry["file"]).read_bytes()
        exchange = Exchange(request_of_url(fred, entry["url"]), 200, entry["headers"], said, FETCHED_AT)
        parsed = fred.parse(exchange)
        stated = re.findall(rb'date="([\d-]+)" value="([^"]+)"', said)
        assert [(row.key["indicator_date"], row.values["value"]) for row in parsed.rows] == [
            (_ms(date), None if value == b"." else float(value)) for date, value in stated
        ]
        assert {row.values["unit"] for row in parsed.rows} == {"percent"}
        assert all(row.event_version in {_ms(b"2022-03-21"), _ms(b"2022-03-23")} for row in parsed.rows)
        assert all(row.values["known_at"] == row.event_version + 30 * HOUR_MS for row in parsed.rows)
        assert all(row.key["vintage"] == version_of(row.values["value"]) for row in parsed.rows), "of one day each"
        assert (parsed.issues, parsed.next) == ((), None)
        seen.add(parsed.rows[0].key["indicator_name"])
    assert seen == {"DGS10", "DGS1MO", "DGS3MO", "DGS6MO", "DGS1", "DGS3"}


def _ms(date: bytes) -> int:
    from datetime import UTC, datetime

    return to_ms(datetime.fromisoformat(date.decode()).replace(tzinfo=UTC))


def test_day_constants_are_what_they_say():
    assert [ms % DAY_MS for ms in (MARCH, APRIL, MAY, RELEASED, REVISED)] == [0] * 5
    assert [_ms(d) for d in (b"2026-03-01", b"2026-04-14")] == [MARCH, RELEASED]

"""Yahoo: closed sessions only, the exchange's own days, nulls, yields that are ten times too high, refusals."""

from __future__ import annotations

import json

import pytest

from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS
from ray_app.errors import MalformedPayload, RateLimited, UpstreamRejected
from ray_app.sources import ENDPOINTS, Exchange, endpoint_for_url
from ray_app.sources.addressing import request_of_url
from ray_app.sources.statements import version_of
from tests.sources.samples import FETCHED_AT, NOON, answer
from tests.sources.samples_macro import BELLS, chart

yahoo = ENDPOINTS["yahoo.chart"]
MONDAY = NOON - 12 * HOUR_MS
FRIDAY, THURSDAY = MONDAY - 3 * DAY_MS, MONDAY - 4 * DAY_MS


def ask(symbol="^GSPC"):
    return yahoo.request(symbol, NOON - 10 * DAY_MS, NOON)


def parse(body, fetched_at=FETCHED_AT, symbol="^GSPC"):
    return yahoo.parse(answer("yahoo.chart", body, fetched_at=fetched_at, request=ask(symbol)))


def quotes(body):
    return body["chart"]["result"][0]["indicators"]["quote"][0]


def dates(parsed):
    return [row.key["indicator_date"] for row in parsed.rows]


def test_bar_is_the_close_of_the_exchange_s_day_known_half_an_hour_after_its_session():
    first, second = parse(chart()).rows
    assert first.key == {
        "indicator_name": "SPX",
        "source": "yahoo.chart",
        "indicator_date": THURSDAY,
        "vintage": version_of(7_360.5, 7_410.75, 7_340.0, 7_401.5, 3_100_000_000.0),
    }
    closes = THURSDAY + 20 * HOUR_MS  # 16:00 in New York
    assert first.values == {
        "value": 7_401.5,
        "unit": "index",
        "open_price": 7_360.5,
        "high_price": 7_410.75,
        "low_price": 7_340.0,
        "volume": 3_100_000_000.0,
        "known_at": closes + 30 * MINUTE_MS,
        "first_seen_at": FETCHED_AT,
    }
    assert first.event_version == THURSDAY
    assert second.key["indicator_date"] == FRIDAY


@pytest.mark.parametrize("stamp", [BELLS[2], BELLS[2] + 9_000])
def test_open_session_enters_half_an_hour_after_its_end_however_its_bar_is_stamped(stamp):
    body = chart(times=[*BELLS[:2], stamp])
    closes = MONDAY + 20 * HOUR_MS
    for fetched_at, bars in (
        (NOON, 2),
        (closes - 1, 2),
        (closes, 2),
        (closes + 30 * MINUTE_MS - 1, 2),
        (closes + 30 * MINUTE_MS, 3),
    ):
        parsed = parse(body, fetched_at)
        assert (len(parsed.rows), parsed.issues) == (bars, ())
    assert (parsed.rows[2].key["indicator_date"], parsed.rows[2].values["known_at"]) == (
        MONDAY,
        closes + 30 * MINUTE_MS,
    )


def test_bar_of_a_session_after_the_one_named_never_enters():
    parsed = parse(chart(times=[*BELLS[:2], BELLS[2] + DAY_MS // 1_000]), NOON + 9 * DAY_MS)
    assert dates(parsed) == [THURSDAY, FRIDAY]


def test_last_bar_stamped_with_its_last_trade_is_known_too_late_and_never_too_early():
    stamped = BELLS[1] + 23_400 + 300  # five minutes after the close
    parsed = parse(chart(times=[stamped]))
    assert (parsed.rows[0].key["indicator_date"], parsed.rows[0].values["known_at"]) == (
        FRIDAY,
        stamped * 1_000 + 7 * HOUR_MS,
    )


def half_day(symbol, opens, closes, **meta):
    """A chart of Friday's bar asked for on Monday, which is a day of early close, ``opens`` to ``closes`` in UTC."""
    regular = {"start": (MONDAY + opens) // 1_000, "end": (MONDAY + closes) // 1_000}
    return chart(symbol, [(FRIDAY + opens) // 1_000], currentTradingPeriod={"regular": regular}, **meta)


@pytest.mark.parametrize(
    ("symbol", "zone", "kind", "offset_h", "opens", "closes", "ends"),
    [
        ("^GSPC", "America/New_York", "INDEX", -4, 13.5, 17, 20),
        ("QQQ", "America/New_York", "ETF", -4, 13.5, 17, 20),
        ("^GSPC", "America/New_York", "INDEX", -4, 14.5, 18, 21),  # a bar of winter, asked for in summer
        ("^VIX", "America/Chicago", "INDEX", -5, 13.5, 17.25, 20.25),
        ("DX-Y.NYB", "America/New_York", "INDEX", -4, 4, 17, 4 + 24 - 1 / 60),
        ("GC=F", "America/New_York", "FUTURE", -4, 4, 17.5, 4 + 24 - 1 / 60),
        ("EURUSD=X", "Europe/London", "CURRENCY", 1, -1, 17, -1 + 24 - 1 / 60),
        ("^N225", "Asia/Tokyo", "INDEX", 9, 0, 2.5, 24 - 9 + 1),
        ("^GDAXI", None, None, 2, 7, 12, 24 - 2 + 1),
    ],
)
def test_half_a_day_makes_no_other_day_shorter(symbol, zone, kind, offset_h, opens, closes, ends):
    meta = {"gmtoffset": offset_h * 3_600, "exchangeTimezoneName": zone, "instrumentType": kind}
    body = half_day(symbol, round(opens * HOUR_MS), round(closes * HOUR_MS), **meta)
    (row,) = parse(body, FETCHED_AT, symbol).rows
    assert row.key["indicator_date"] == FRIDAY
    assert row.values["known_at"] == FRIDAY + round(ends * HOUR_MS) + 30 * MINUTE_MS
    assert parse(body, row.values["known_at"] - 1, symbol).rows == ()


def test_currency_s_day_of_summer_is_the_same_by_the_offset_of_winter():
    """A bar of 2026-05-15 that began at midnight in London in summer, asked for in winter."""
    began = FRIDAY - HOUR_MS
    regular = {"start": MONDAY // 1_000 + 200 * 86_400, "end": MONDAY // 1_000 + 200 * 86_400 + 86_340}
    body = chart("EURUSD=X", [began // 1_000], gmtoffset=0, currentTradingPeriod={"regular": regular})
    quotes(body).update({name: [1.16] for name in ("open", "high", "low", "close")}, volume=[0])
    (row,) = parse(body, MONDAY + 200 * DAY_MS, "EURUSD=X").rows
    assert (row.key["indicator_name"], row.key["indicator_date"]) == ("EURUSD", FRIDAY)
    assert (row.values["unit"], row.values["volume"]) == ("usd_per_eur", 0.0)
    assert row.values["known_at"] == began + 86_340_000 + 30 * MINUTE_MS


def test_nulls_are_no_rows_and_a_null_beside_a_close_is_null():
    body = chart(times=[BELLS[0] - 86_400, *BELLS[:2]])
    for column in quotes(body).values():
        column[0] = None
    quotes(body)["volume"][1] = None
    parsed = parse(body)
    assert dates(parsed) == [THURSDAY, FRIDAY]
    assert [row.values["volume"] for row in parsed.rows] == [None, 3_100_000_002.0]
    assert parsed.issues == ()


def test_no_times_are_no_rows_without_an_error():
    body = chart()
    del body["chart"]["result"][0]["timestamp"]
    body["chart"]["result"][0]["indicators"] = {"quote": [{}], "adjclose": [{}]}
    assert parse(body) == parse(chart(times=[]))
    assert (parse(body).rows, parse(body).issues, parse(body).oldest) == ((), (), None)


@pytest.mark.parametrize(("close", "rows"), [(0.31, 1), (4.31, 1), (19.9, 1), (43.1, 0), (0.043, 0), (0, 0), (-1, 0)])
def test_yield_that_cannot_be_one_is_refused_with_an_issue(close, rows):
    body = chart("^TNX", BELLS[:1])
    quotes(body).update(open=[None], high=[None], low=[None], close=[close])
    parsed = parse(body, symbol="^TNX")
    assert [(row.key["indicator_name"], row.values["value"]) for row in parsed.rows] == [("TNX", close)] * rows
    assert [(i.kind, i.subject, i.field) for i in parsed.issues] == [("out_of_range", "^TNX", "close@2026-05-14")] * (
        1 - rows
    )


def test_price_of_oil_may_be_negative_as_it_was():
    body = chart("CL=F", BELLS[:1])
    quotes(body).update(open=[17.73], high=[17.85], low=[-40.32], close=[-37.63])
    (row,) = parse(body, symbol="CL=F").rows
    assert (row.key["indicator_name"], row.values["value"], row.values["unit"]) == ("OIL", -37.63, "usd_per_barrel")


def test_extremes_that_contradict_the_close_are_left_out_and_the_close_stays():
    body = chart()
    quotes(body)["high"][1] = 7_000.0
    parsed = parse(body)
    assert [(r.values["high_price"], r.values["low_price"], r.values["value"]) for r in parsed.rows] == [
        (7_410.75, 7_340.0, 7_401.5),
        (None, None, 7_402.5),
    ]
    assert [(i.kind, i.field) for i in parsed.issues] == [("inconsistent", "high@2026-05-15")]


def test_session_stated_twice_is_read_once_and_contradictions_are_left_out():
    body = chart(times=[BELLS[0], BELLS[0] + 60, BELLS[1]])
    for column in quotes(body).values():
        column[1] = column[0]
    assert dates(parse(body)) == [THURSDAY, FRIDAY]
    assert parse(body).issues == ()
    quotes(body)["close"][1] += 1
    assert dates(parse(body)) == [FRIDAY]
    assert [(i.kind, i.field) for i in parse(body).issues] == [("duplicate", "timestamp@2026-05-14")]
    same_stamp = chart(times=[BELLS[0], BELLS[1], BELLS[1]])
    assert dates(parse(same_stamp)) == [THURSDAY]
    assert [(i.kind, i.field) for i in parse(same_stamp).issues] == [("duplicate", "timestamp@2026-05-15")]


@pytest.mark.parametrize("turned", [False, True])
def test_of_the_newest_session_stated_twice_the_later_stamp_counts(turned):
    """The day's bar, and that of its last trade at 20:00:01: the same prices, another volume."""
    traded = FRIDAY // 1_000 + 20 * 3_600 + 1
    body = chart(times=[BELLS[0], BELLS[1], traded])
    columns = quotes(body)
    for name in ("open", "high", "low", "close"):
        columns[name][2] = columns[name][1]
    if turned:
        body["chart"]["result"][0]["timestamp"].reverse()
        for column in columns.values():
            column.reverse()
    known_at = (traded + 1_800) * 1_000
    for fetched_at, days in ((known_at - 1, [THURSDAY]), (known_at, [THURSDAY, FRIDAY])):
        parsed = parse(body, fetched_at)
        assert (dates(parsed), parsed.issues) == (days, ())
    assert (parsed.rows[1].values["volume"], parsed.rows[1].values["known_at"]) == (3_100_000_002.0, known_at)


def test_last_trade_without_a_close_leaves_the_day_s_bar():
    body = chart(times=[*BELLS[:2], BELLS[1] + 23_401])
    for column in quotes(body).values():
        column[2] = None
    parsed = parse(body)
    assert ([row.values["value"] for row in parsed.rows], parsed.issues) == ([7_401.5, 7_402.5], ())


@pytest.mark.parametrize(
    ("symbol", "currency", "name", "unit"),
    [
        ("^VIX", "USD", "VIX", "index"),
        ("DX-Y.NYB", "USD", "DXY", "index"),
        ("GC=F", "USD", "GOLD", "usd_per_troy_ounce"),
        ("JPY=X", "JPY", "USDJPY", "jpy_per_usd"),
        ("arkk", "USD", "ARKK", "usd"),
        ("GOLD", "USD", "GOLD~", "usd"),
        ("CLIG.L", "GBp", "CLIG.L", "hundredth_gbp"),
        ("ÄB", None, "%C3%84B", "unknown"),
    ],
)
def test_indicators_have_one_name_and_a_unit(symbol, currency, name, unit):
    (row, _) = parse(chart(symbol, currency=currency, instrumentType="EQUITY"), symbol=symbol).rows
    assert (row.key["indicator_name"], row.values["unit"]) == (name, unit)


@pytest.mark.parametrize(
    ("symbol", "currency", "unit"), [("^IXIC", "USD", "index"), ("^N225", "JPY", "index"), ("^IRX", "USD", "percent")]
)
def test_points_of_an_index_are_no_money(symbol, currency, unit):
    body = chart(symbol, BELLS[:1], currency=currency)
    quotes(body).update(open=[4.2], high=[4.3], low=[4.1], close=[4.2])
    (row,) = parse(body, symbol=symbol).rows
    assert (row.key["indicator_name"], row.values["unit"]) == (symbol, unit)


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (chart("^IXIC"), "about ^IXIC".replace("^", r"\^")),
        (chart(dataGranularity="1h"), "only interval=1d is read"),
        (chart(dataGranularity=...), "only interval=1d is read"),
        (chart(gmtoffset=...), "gmtoffset"),
        (chart(currentTradingPeriod=...), "currentTradingPeriod"),
        (chart(currentTradingPeriod={"regular": {"start": 5, "end": 5}}), "no session"),
        (chart(times=[t * 1_000 for t in BELLS]), "epoch seconds"),
        ({"chart": {"result": None, "error": None}}, "chart.result"),
        ({"chart": {"result": [], "error": None}}, "chart.result"),
    ],
)
def test_answer_that_cannot_be_read_safely_yields_nothing(body, match):
    with pytest.raises(MalformedPayload, match=match):
        parse(body)


def test_columns_of_another_length_cannot_be_put_to_their_days():
    body = chart()
    quotes(body)["close"].pop()
    with pytest.raises(MalformedPayload, match="close"):
        parse(body)
    body = chart()
    quotes(body)["volume"].pop()
    parsed = parse(body)
    assert [row.values["volume"] for row in parsed.rows] == [None, None]
    assert [(i.kind, i.field) for i in parsed.issues] == [("wrong_type", "volume")]


def refused(code, description, name="chart"):
    return json.dumps({name: {"result": None, "error": {"code": code, "description": description}}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "error", "match"),
    [
        (
            404,
            refused("Not Found", "No data found, symbol may be delisted"),
            UpstreamRejected,
            "Not Found: No data found",
        ),
        (200, refused("Not Found", "No data found, symbol may be delisted"), UpstreamRejected, "may be delisted"),
        (422, refused("Unprocessable Entity", "Invalid input - range=7y"), UpstreamRejected, "range=7y"),
        (401, refused("Unauthorized", "Invalid Crumb", "finance"), UpstreamRejected, "Invalid Crumb"),
        (429, b"Edge: Too Many Requests", RateLimited, "Too Many Requests"),
        (429, b"Too Many Requests\r\n", RateLimited, "Too Many Requests"),
        (200, b"Edge: Too Many Requests", RateLimited, "Too Many Requests"),
    ],
)
def test_refusals_say_why(status, body, error, match):
    with pytest.raises(error, match=match):
        yahoo.parse(answer("yahoo.chart", body, status=status))


def test_request_names_its_days_in_seconds():
    request = yahoo.request("EURUSD=X", NOON - DAY_MS, NOON + 1)
    assert request.path == "/v8/finance/chart/EURUSD%3DX"
    assert request.params == {
        "interval": "1d",
        "period1": str(NOON // 1_000 - 86_400),
        "period2": str(NOON // 1_000 + 1),
        "includePrePost": "false",
    }


@pytest.mark.shared_data
def test_recorded_daily_answers_keep_every_bar(shared_data):
    from email.utils import parsedate_to_datetime

    bars = {}
    for line in (shared_data / "recorded" / "MANIFEST.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["api"] != "yahoo_chart" or "interval=1h" in entry["url"]:
            continue
        assert endpoint_for_url(entry["url"]) is yahoo
        said = (shared_data / "recorded" / entry["file"]).read_bytes()
        moment = round(parsedate_to_datetime(entry["headers"]["date"]).timestamp() * 1_000)
        rows = yahoo.parse(Exchange(request_of_url(yahoo, entry["url"]), 200, entry["headers"], said, moment)).rows
        result = json.loads(said)["chart"]["result"][0]
        columns = result["indicators"]["quote"][0]
        names = ("close", "open", "high", "low", "volume")
        assert [[r.values[c] for c in ("value", "open_price", "high_price", "low_price", "volume")] for r in rows] == [
            list(row) for row in zip(*(columns[name] for name in names), strict=True)
        ]
        for row, second in zip(rows, result["timestamp"], strict=True):
            # New York and Toronto: the session lies within the UTC day
            assert row.key["indicator_date"] == second // 86_400 * DAY_MS
            assert row.values["known_at"] <= moment
        bars[rows[0].key["indicator_name"]] = len(rows)
        assert rows[0].values["unit"] == ("index" if entry["url"].count("%5E") else result["meta"]["currency"].lower())
    assert bars == {"SPX": 22, "^IXIC": 22, "PM": 253, "SSYS": 4, "TOT.TO": 252}

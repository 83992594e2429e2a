"""Yahoo's chart, simulated: what our parser reads of it, the open session, nulls, and a past that stays."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS
from ray_app.errors import UpstreamRejected
from ray_app.sandbox import fred as fred_sandbox
from ray_app.sandbox.answers import Question, Rejection, World
from ray_app.sandbox.macro import day_of, folder_of, nth_weekday
from ray_app.sandbox.yahoo import ENDPOINTS, LISTED
from ray_app.sources import Request, endpoint
from ray_app.sources.base import Exchange
from ray_app.sources.yahoo import INDICATORS
from tests.sandbox.conftest import NOW

(chart,) = ENDPOINTS
yahoo = endpoint("yahoo.chart")
TODAY = NOW // DAY_MS * DAY_MS  # Tuesday 2026-11-24
BELL, CLOSE = TODAY + 14 * HOUR_MS + 30 * MINUTE_MS, TODAY + 21 * HOUR_MS


@pytest.fixture(scope="module")
def world(market, registry) -> World:
    return World(market, registry, 7)


def ask(world: World, symbol: str, now: int = NOW, days: int = 90, **params: str) -> Exchange:
    request = yahoo.request(symbol, now - days * DAY_MS, now)
    if params:
        request = Request(request.endpoint, request.path, params)
    try:
        answer = chart.answer(Question(now, request.path.rsplit("/", 1)[1], dict(request.params)), world)
    except Rejection as rejection:
        answer = rejection.answer
    return Exchange(request, answer.status, {}, answer.body, now)


def bars(world: World, symbol: str, now: int = NOW, days: int = 90):
    parsed = yahoo.parse(ask(world, symbol, now, days))
    assert parsed.issues == ()
    return {row.key["indicator_date"]: row for row in parsed.rows}


def test_every_symbol_of_the_sources_is_listed():
    assert set(LISTED) == set(INDICATORS)


@pytest.mark.parametrize("symbol", sorted(LISTED))
@pytest.mark.parametrize("hour", [0, 9, 16, 22])
def test_every_symbol_is_read_without_an_issue_at_any_hour_and_nothing_open_enters(world, symbol, hour):
    now = TODAY + hour * HOUR_MS
    rows = bars(world, symbol, now, 400)
    assert len(rows) > 250
    assert all(row.values["known_at"] <= now for row in rows.values())
    assert all(row.key["indicator_name"] == INDICATORS[symbol][0] for row in rows.values())
    assert {((at // DAY_MS) + 3) % 7 for at in rows} == {0, 1, 2, 3, 4}
    assert max(rows) < TODAY + DAY_MS


@pytest.mark.parametrize("symbol", ["^GSPC", "EURUSD=X", "GC=F"])
def test_the_past_stays_through_both_changes_of_the_clock(world, symbol):
    """Half a year later the offset is another one; the bars and their days are the same."""
    before, after = bars(world, symbol, NOW, 300), bars(world, symbol, NOW + 200 * DAY_MS, 500)
    common = [day for day in before if day in after]
    assert set(before) == {day for day in after if min(before) <= day <= max(before)}
    for day in common:
        assert before[day].key == after[day].key
        assert {k: v for k, v in before[day].values.items() if k not in {"first_seen_at", "known_at"}} == {
            k: v for k, v in after[day].values.items() if k not in {"first_seen_at", "known_at"}
        }
        assert abs(before[day].values["known_at"] - after[day].values["known_at"]) <= HOUR_MS


def test_the_open_session_is_in_the_answer_and_enters_when_it_has_closed(world):
    for now, last, stamp in (
        (BELL - MINUTE_MS, TODAY - DAY_MS, None),
        (BELL + 2 * HOUR_MS, TODAY - DAY_MS, BELL + 2 * HOUR_MS),
        (CLOSE + 10 * MINUTE_MS, TODAY - DAY_MS, CLOSE),
        (CLOSE + 30 * MINUTE_MS, TODAY, CLOSE),
        (CLOSE + 12 * HOUR_MS, TODAY, BELL),
    ):
        times = json.loads(ask(world, "QQQ", now).body)["chart"]["result"][0]["timestamp"]
        assert (times[-1] * 1_000 == stamp) if stamp is not None else times[-1] * 1_000 < TODAY
        assert max(bars(world, "QQQ", now)) == last


def test_partial_bar_lies_within_the_whole_one(world):
    def last(now: int) -> dict[str, float]:
        quote = json.loads(ask(world, "XLE", now).body)["chart"]["result"][0]["indicators"]["quote"][0]
        return {name: column[-1] for name, column in quote.items()}

    early, late, whole = (last(BELL + after) for after in (HOUR_MS, 5 * HOUR_MS, 8 * HOUR_MS))
    assert early["open"] == late["open"] == whole["open"]
    assert early["high"] <= late["high"] <= whole["high"]
    assert early["low"] >= late["low"] >= whole["low"]
    assert early["volume"] < late["volume"] < whole["volume"]


def test_some_days_are_nulls_and_holidays_are_absent(world):
    result = json.loads(ask(world, "^VIX", days=1_500).body)["chart"]["result"][0]
    closes = result["indicators"]["quote"][0]["close"]
    nulls = [second for second, close in zip(result["timestamp"], closes, strict=True) if close is None]
    assert 1 <= len(nulls) < len(closes) / 60
    assert len(bars(world, "^VIX", days=1_500)) == len(closes) - len(nulls)
    days = {second // 86_400 for second in result["timestamp"]}
    assert nth_weekday(2025, 11, 3, 4) not in days
    assert day_of(date(2025, 12, 25)) not in days


def test_no_session_in_the_range_is_an_answer_without_times(world):
    saturday = TODAY - 3 * DAY_MS
    exchange = ask(
        world,
        "^GSPC",
        saturday + 12 * HOUR_MS,
        0,
        interval="1d",
        period1=str(saturday // 1_000),
        period2=str(saturday // 1_000 + 60),
    )
    assert "timestamp" not in json.loads(exchange.body)["chart"]["result"][0]
    assert yahoo.parse(exchange).rows == ()


def test_pairs_are_close_to_what_fred_says(world):
    fred, (observations,) = endpoint("fred.observations"), fred_sandbox.ENDPOINTS
    for symbol, series in (("^VIX", "VIXCLS"), ("^GSPC", "SP500"), ("^TNX", "DGS10"), ("JPY=X", "DEXJPUS")):
        request = fred.request(series, NOW - 90 * DAY_MS, vintages=False)
        body = observations.answer(Question(NOW, "", {**request.params, "api_key": "k"}), world).body
        stated = {
            r.key["indicator_date"]: r.values["value"] for r in fred.parse(Exchange(request, 200, {}, body, NOW)).rows
        }
        seen = {day: row.values["value"] for day, row in bars(world, symbol).items() if stated.get(day) is not None}
        assert len(seen) > 50
        assert all(value == pytest.approx(stated[day], rel=0.02) for day, value in seen.items())


@pytest.mark.parametrize(
    ("symbol", "params", "status", "words"),
    [
        ("NOSUCH", {"interval": "1d"}, 404, "No data found, symbol may be delisted"),
        ("QQQ", {"interval": "7d"}, 422, "interval=7d"),
        ("QQQ", {"interval": "1h"}, 422, "interval=1d"),
        ("QQQ", {"range": "7y"}, 422, "range=7y"),
        ("QQQ", {"period1": "soon"}, 422, "period1"),
        ("QQQ", {"period1": "1795500000", "period2": "1795400000"}, 400, "start date cannot be after end date"),
    ],
)
def test_refusals_are_yahoo_s(world, symbol, params, status, words):
    exchange = ask(world, symbol, **params)
    assert exchange.status == status
    with pytest.raises(UpstreamRejected, match=words):
        yahoo.parse(exchange)


@pytest.mark.parametrize(
    ("span", "at_least", "at_most"), [("1d", 0, 2), ("1mo", 19, 23), ("ytd", 220, 235), ("max", 6_000, 7_100)]
)
def test_ranges_are_counted_back_from_now(world, span, at_least, at_most):
    times = json.loads(ask(world, "QQQ", interval="1d", range=span).body)["chart"]["result"][0].get("timestamp", [])
    assert at_least <= len(times) <= at_most


def test_real_bars_are_the_file_s(world, tmp_path: Path):
    days = [d for d in range(20_000, 20_340) if (d + 3) % 7 < 5]
    lines = [f"{date.fromordinal(719_163 + d)}T00:00:00Z,VIX,16,18.5,15.25,{16 + d % 2}.5," for d in days]
    (tmp_path / "vix.csv").write_text("timestamp,symbol,open,high,low,close,volume\n" + "\n".join(lines))
    folder_of.cache_clear()
    rows = bars(replace(world, replay_macro=tmp_path, first_node_ms=NOW), "^VIX")
    inside = [row.values for day, row in rows.items() if day < NOW - 8 * DAY_MS]
    assert len(inside) > 50
    assert {(v["open_price"], v["high_price"], v["low_price"]) for v in inside} == {(16.0, 18.5, 15.25)}
    assert {v["value"] for v in inside} == {16.5, 17.5}


async def test_the_sandbox_serves_it(sandbox):
    answer = await sandbox().get("/yahoo/v8/finance/chart/%5EGSPC", interval="1d", range="5d")
    assert answer.status_code == 200
    assert answer.json()["chart"]["result"][0]["meta"]["symbol"] == "^GSPC"

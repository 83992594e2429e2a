"""FRED, simulated: what our parser reads of it, vintages that grow and never change, both formats, refusals, replay."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from ray_app.clock import DAY_MS, HOUR_MS
from ray_app.errors import ConfigError, UpstreamRejected
from ray_app.sandbox.answers import Question, Rejection, World
from ray_app.sandbox.fred import ENDPOINTS
from ray_app.sandbox.macro import SERIES, day_of, folder_of, macro_shift, nth_weekday
from ray_app.sources import Parsed, Request, endpoint
from ray_app.sources.base import Exchange
from tests.sandbox.conftest import NOW

(observations,) = ENDPOINTS
fred = endpoint("fred.observations")
YEARS = 5 * 366 * DAY_MS


@pytest.fixture(scope="module")
def world(market, registry) -> World:
    return World(market, registry, 7)


def ask(world: World, request: Request, now: int = NOW) -> Exchange:
    try:
        answer = observations.answer(Question(now, "", {**request.params, "api_key": "k"}), world)
    except Rejection as rejection:
        answer = rejection.answer
    return Exchange(request, answer.status, {}, answer.body, now)


def rows(world: World, request: Request, now: int = NOW) -> dict[tuple[int, int], float | None]:
    parsed = fred.parse(ask(world, request, now))
    assert parsed.issues == ()
    return {(row.key["indicator_date"], row.key["vintage"]): row.values["value"] for row in parsed.rows}


@pytest.mark.parametrize("series", sorted(SERIES))
def test_every_series_is_read_without_an_issue_and_only_what_was_released(world, series):
    request = fred.request(series, NOW - YEARS, vintages=SERIES[series].alfred)
    parsed = fred.parse(ask(world, request))
    assert len(parsed.rows) >= 18
    assert parsed.issues == ()
    assert parsed.next is None
    assert all(row.key["indicator_date"] < row.event_version <= NOW for row in parsed.rows)
    assert {row.values["unit"] for row in parsed.rows} & {"unknown"} == set()


def test_growth_of_a_quarter_is_estimated_three_times_as_in_reality(world):
    quarter = day_of(date(2026, 4, 1)) * DAY_MS
    seen = rows(world, fred.request("GDPC1", quarter - 400 * DAY_MS))
    vintages = sorted(vintage for at, vintage in seen if at == quarter)
    assert [str(date(1970, 1, 1).fromordinal(719_163 + v // DAY_MS)) for v in vintages] == [
        "2026-07-29",
        "2026-08-27",
        "2026-09-24",
    ]
    assert len({seen[quarter, vintage] for vintage in vintages}) == 3


def test_what_was_asked_before_a_release_does_not_know_it(world):
    request = fred.request("CPIAUCSL", NOW - YEARS)
    now, later = rows(world, request), rows(world, request, NOW + 60 * DAY_MS)
    assert set(now) < set(later)
    assert all(later[key] == value for key, value in now.items())
    assert all(vintage > NOW - DAY_MS for _, vintage in set(later) - set(now))


def test_release_is_there_from_half_past_nine_in_the_evening_utc(world):
    request = fred.request("DGS10", NOW - 10 * DAY_MS)
    evening = NOW // DAY_MS * DAY_MS + 21 * HOUR_MS + 1_800_000
    before, after = rows(world, request, evening - 1), rows(world, request, evening)
    assert {vintage for _, vintage in set(after) - set(before)} == {NOW // DAY_MS * DAY_MS}


def test_days_without_a_market_are_points_or_absent(world):
    seen = rows(world, fred.request("DGS10", NOW - 700 * DAY_MS))
    days = {at // DAY_MS: value for (at, _), value in seen.items()}
    assert {(day + 3) % 7 for day in days} == {0, 1, 2, 3, 4}
    assert days[day_of(date(2025, 12, 25))] is None
    assert days[nth_weekday(2025, 11, 3, 4)] is None  # Thanksgiving
    assert sum(value is None for value in days.values()) < 15


def test_plain_request_has_the_latest_values_as_of_today_in_st_louis(world):
    plain, all_of_them = (fred.request("INDPRO", NOW - YEARS, vintages=v) for v in (False, True))
    latest = {}
    for (at, _), value in sorted(rows(world, all_of_them).items()):
        latest[at] = value
    seen = rows(world, plain)
    assert {at: value for (at, _), value in seen.items()} == latest
    midnight = NOW // DAY_MS * DAY_MS
    # two hours later it is still yesterday in St. Louis
    for now, today in ((NOW, midnight), (midnight + 2 * HOUR_MS, midnight - DAY_MS)):
        assert {row.event_version for row in fred.parse(ask(world, plain, now)).rows} == {today}


def test_vintages_are_cut_to_the_range_asked_for(world):
    since = "2026-09-01"
    request = fred.request("INDPRO", NOW - YEARS)
    cut = replace(request, params={**request.params, "realtime_start": since, "realtime_end": "2026-10-01"})
    body = json.loads(ask(world, cut).body)
    assert (body["realtime_start"], body["realtime_end"]) == (since, "2026-10-01")
    periods = {(row["realtime_start"], row["realtime_end"]) for row in body["observations"]}
    assert min(periods)[0] == since
    assert max(end for _, end in periods) == "2026-10-01"


def pages(world: World, request: Request) -> Iterator[Parsed]:
    following: Request | None = request
    while following is not None:
        parsed = fred.parse(ask(world, following))
        yield parsed
        following = parsed.next


@pytest.mark.parametrize("form", ["json", "xml"])
def test_pages_join_without_loss_in_either_format(world, form):
    request = fred.request("ICSA", NOW - 300 * DAY_MS)
    whole = fred.parse(ask(world, request)).rows
    small = replace(request, params={**request.params, "limit": "17", "file_type": form})
    joined = [row for page in pages(world, small) for row in page.rows]
    assert joined == list(whole)
    assert len(joined) > 60


def test_order_can_be_turned(world):
    request = fred.request("UNRATE", NOW - 300 * DAY_MS)
    turned = replace(request, params={**request.params, "sort_order": "desc"})
    assert list(rows(world, turned)) == list(rows(world, request))[::-1]


@pytest.mark.parametrize("form", ["json", "xml"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"series_id": "NOSUCH"}, "The series does not exist"),
        ({"series_id": ""}, "series_id is not set"),
        ({"series_id": "SP500", "realtime_start": "2026-01-01"}, "does not exist in ALFRED but may exist in FRED"),
        (
            {"series_id": "DFF", "realtime_start": "2010-01-01", "observation_start": "2010-01-01"},
            "maximum number of vintage dates",
        ),
        ({"observation_start": "yesterday"}, "not a valid date"),
        ({"realtime_start": "2026-02-30"}, "not a valid date"),
        ({"limit": "0"}, "limit"),
        ({"offset": "-1"}, "offset"),
        ({"units": "pc1"}, "units"),
    ],
)
def test_refusals_are_fred_s_in_either_format(world, form, changes, words):
    request = fred.request("CPIAUCSL", NOW - YEARS)
    wrong = replace(request, params={**request.params, **changes, "file_type": form})
    exchange = ask(world, wrong)
    assert exchange.status == 400
    readable = replace(exchange, request=replace(wrong, params={"series_id": "CPIAUCSL", "file_type": form}))
    with pytest.raises(UpstreamRejected, match=words):
        fred.parse(readable)


def test_a_key_must_be_there(world):
    with pytest.raises(Rejection) as caught:
        observations.answer(Question(NOW, "", {"series_id": "DFF"}), world)
    assert b"api_key is not set" in caught.value.answer.body


async def test_the_sandbox_serves_it(sandbox):
    answer = await sandbox().get("/fred/series/observations", series_id="DGS10", api_key="k", file_type="json")
    assert answer.status_code == 200
    assert answer.json()["file_type"] == "json"


# --- real series ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A year of two real series and bars, that end on a Friday."""
    last = day_of(date(2025, 8, 22))
    days = [d for d in range(last - 364, last + 1) if (d + 3) % 7 < 5]
    lines = ["date,series,value"]
    lines += [f"{date.fromordinal(719_163 + d)},DGS10,{4 + (d % 50) / 100:.2f}" for d in days]
    lines += [f"2025-{month:02d}-01,CPIAUCSL,{300 + month}" for month in range(1, 8)]
    (tmp_path / "fred.csv").write_text("\n".join(lines))
    (tmp_path / "vix.csv").write_text(
        "timestamp,symbol,open,high,low,close,volume\n"
        + "\n".join(f"{date.fromordinal(719_163 + d)}T00:00:00Z,VIX,16,18,15,{16 + d % 2}," for d in days)
    )
    (tmp_path / "fear_greed.csv").write_text("date,value\n2025-01-01,50")
    folder_of.cache_clear()
    return tmp_path


def test_real_series_are_moved_by_whole_weeks_to_the_first_start(world, folder):
    real = replace(world, replay_macro=folder, first_node_ms=NOW)
    shift = macro_shift(folder_of(folder).last_day, NOW)
    assert shift % 7 == 0
    assert 0 <= NOW // DAY_MS - (folder_of(folder).last_day + shift) < 7
    seen = rows(real, fred.request("DGS10", NOW - 100 * DAY_MS))
    moved = {at // DAY_MS - shift: value for (at, _), value in seen.items()}
    known = {day: value for day, value in moved.items() if day <= folder_of(folder).last_day}
    assert len(known) > 60
    assert known == {day: pytest.approx(4 + (day % 50) / 100) for day in known}


def test_months_stay_months_and_a_series_goes_on_after_its_file(world, folder):
    real = replace(world, replay_macro=folder, first_node_ms=NOW)
    later = NOW + 200 * DAY_MS
    seen = rows(real, fred.request("CPIAUCSL", NOW - 400 * DAY_MS), later)
    months = sorted({at // DAY_MS for at, _ in seen})
    assert all(date.fromordinal(719_163 + day).day == 1 for day in months)
    assert [seen[at] for at in sorted(seen)][-1] == pytest.approx(307, rel=0.05)
    assert {"2026-04-01", "2026-12-01"} <= {str(date.fromordinal(719_163 + day)) for day in months}


def test_series_the_folder_lacks_are_generated(world, folder):
    real = replace(world, replay_macro=folder, first_node_ms=NOW)
    request = fred.request("UNRATE", NOW - 300 * DAY_MS)
    assert rows(real, request) == rows(world, request)


def test_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "bad.csv").write_text("date,series,value\nyesterday,DGS10,4.1\n")
    with pytest.raises(ConfigError, match=r"bad\.csv"):
        folder_of(tmp_path)


@pytest.mark.shared_data
def test_real_folder_is_read_and_its_series_keep_their_values(world, shared_data):
    real = replace(world, replay_macro=shared_data / "market", first_node_ms=NOW)
    days, values = folder_of(shared_data / "market").series["VIXCLS"]
    shift = macro_shift(int(max(days)), NOW)
    seen = rows(real, fred.request("VIXCLS", NOW - 400 * DAY_MS))
    stated = dict(zip((days + shift).tolist(), values.tolist(), strict=True))
    common = [(value, stated[at // DAY_MS]) for (at, _), value in seen.items() if at // DAY_MS in stated]
    assert len(common) > 200
    assert all(value == said for value, said in common)

"""mempool.space: days stamped at their end, and snapshots."""

from __future__ import annotations

import re

import pytest

from ray_app.clock import DAY_MS, HOUR_MS
from ray_app.errors import MalformedPayload
from ray_app.sources import ENDPOINTS
from tests.sources.samples import FETCHED_AT, MIDNIGHT, answer
from tests.sources.samples_onchain import BODIES

HASHRATE = ENDPOINTS["mempool.hashrate"]


def stated(name, body=None):
    rows = ENDPOINTS[name].parse(answer(name, body) if body is not None else answer(name)).rows
    return {row.key["metric"]: row.values["value"] for row in rows}


def test_a_day_s_hash_rate_is_stamped_at_its_end():
    rows = HASHRATE.parse(answer(HASHRATE.name)).rows
    assert [(r.key["metric"], r.key["event_time"], r.values["value"], r.values["known_at"]) for r in rows] == [
        ("hash_rate", MIDNIGHT - DAY_MS, 9.13e20, MIDNIGHT - DAY_MS + 3 * HOUR_MS),
        ("hash_rate", MIDNIGHT, 9.31e20, MIDNIGHT + 3 * HOUR_MS),
        ("difficulty", MIDNIGHT - 3 * DAY_MS - 123_000, 1.27e14, MIDNIGHT - 3 * DAY_MS - 123_000 + 3 * HOUR_MS),
    ]


def test_difficulties_are_read_under_either_name_of_their_time():
    body = {**BODIES[HASHRATE.name], "difficulty": [{"timestamp": MIDNIGHT // 1_000, "difficulty": 1.5e14}]}
    assert ("difficulty", MIDNIGHT, 1.5e14) in [
        (r.key["metric"], r.key["event_time"], r.values["value"])
        for r in HASHRATE.parse(answer(HASHRATE.name, body)).rows
    ]


def test_null_for_no_retargets_is_none_at_all():
    parsed = HASHRATE.parse(answer(HASHRATE.name, {**BODIES[HASHRATE.name], "difficulty": None}))
    assert ([row.key["metric"] for row in parsed.rows], parsed.issues) == (["hash_rate", "hash_rate"], ())
    for odd in (0, {}, "none"):
        with pytest.raises(MalformedPayload):
            HASHRATE.parse(answer(HASHRATE.name, {**BODIES[HASHRATE.name], "difficulty": odd}))


def test_times_in_milliseconds_are_no_hash_rates():
    with pytest.raises(MalformedPayload, match="none of"):
        HASHRATE.parse(answer(HASHRATE.name, {"hashrates": [{"timestamp": MIDNIGHT, "avgHashrate": 1e20}]}))


def test_a_day_ahead_costs_itself():
    body = {"hashrates": [*BODIES[HASHRATE.name]["hashrates"], {"timestamp": 1_779_200_000, "avgHashrate": 1e20}]}
    result = HASHRATE.parse(answer(HASHRATE.name, body))
    assert len(result.rows) == 2
    assert [issue.kind for issue in result.issues] == ["out_of_range"]


def test_fees():
    assert stated("mempool.fees") == {
        "fee_fastest_sat_vb": 3.0,
        "fee_half_hour_sat_vb": 2.5,
        "fee_hour_sat_vb": 2.0,
        "fee_economy_sat_vb": 1.0,
        "fee_minimum_sat_vb": 0.5,
    }
    (row, *_) = ENDPOINTS["mempool.fees"].parse(answer("mempool.fees")).rows
    assert row.key["event_time"] == row.values["known_at"] == FETCHED_AT


def test_mempool_and_retarget():
    assert stated("mempool.mempool") == {"mempool_transactions": 34_567.0, "mempool_vsize": 21_345_678.0}
    assert stated("mempool.difficulty_adjustment") == {
        "difficulty_change_expected_percent": -1.25,
        "difficulty_change_last_percent": 2.5,
        "retarget_progress_percent": 44.4,
        "blocks_to_retarget": 1_121.0,
        "block_interval_s": 594.0,
    }


def test_one_bad_value_costs_itself_and_none_at_all_the_body():
    assert stated("mempool.fees", {**BODIES["mempool.fees"], "hourFee": -1, "fastestFee": None}).keys() == {
        "fee_half_hour_sat_vb",
        "fee_economy_sat_vb",
        "fee_minimum_sat_vb",
    }
    with pytest.raises(MalformedPayload, match="none of"):
        stated("mempool.fees", {"fastestFee": None})


@pytest.mark.shared_data
def test_documented_samples_are_read(shared_data):
    """The documentation writes JavaScript objects: names without quotes."""
    folder = shared_data / "recorded" / "mempool_space_docs"
    for name, file, count in (
        ("mempool.fees", "fees__get-recommended-fees__truncated.json", 5),
        ("mempool.difficulty_adjustment", "general__get-difficulty-adjustment__truncated.json", 5),
    ):
        text = re.sub(r"^(\s*)(\w+):", r'\1"\2":', (folder / file).read_text(), flags=re.MULTILINE)
        result = ENDPOINTS[name].parse(answer(name, text.encode()))
        assert result.issues == ()
        assert len(result.rows) == count

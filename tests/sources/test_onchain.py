"""The metrics of onchain_data: declared once, and used as declared."""

from __future__ import annotations

import pytest

from ray_app.sources import ENDPOINTS, blockchain_com, blockchair, coinmetrics, defillama, etherscan, mempool
from ray_app.sources.onchain import DISAGREEMENTS, METRICS, Statements
from ray_app.sources.reading import Findings
from ray_app.storage.tables import onchain_data
from tests.sources.samples import FETCHED_AT, NOON, answer
from tests.sources.samples_onchain import REQUESTS

MODULES = (blockchain_com, blockchair, coinmetrics, defillama, etherscan, mempool)


def test_every_metric_has_a_unit_a_meaning_and_a_name_that_fits_the_table():
    for name, metric in METRICS.items():
        assert len(name) <= onchain_data.c.metric.type.length
        assert metric.unit
        assert metric.description
        assert metric.bounds.low < metric.bounds.high
        for suffix, unit in {"_usd": "USD", "_gwei": "gwei", "_sat_vb": "sat/vB", "_s": "s"}.items():
            assert not name.endswith(suffix) or metric.unit == unit
    assert METRICS["hash_rate"].unit == "H/s"
    assert METRICS["total_value_locked"].unit == "USD"


def test_sources_state_declared_metrics_only_and_each_metric_is_stated_by_one():
    tables = [
        *(metric for metric, _ in coinmetrics.NAMES.values()),
        *(metric for metric, _ in blockchain_com.CHARTS.values()),
        *(metric for metric, _ in blockchain_com.STATS.values()),
        *(metric for one in mempool.ENDPOINTS for metric, _ in getattr(one, "members", {}).values()),
        *etherscan.GasOracle.members.values(),
        *blockchair._OF_ALL.values(),
        *blockchair._OF_MINED.values(),
        "total_value_locked",
    ]
    assert set(tables) == set(METRICS)
    for name in REQUESTS:
        for row in ENDPOINTS[name].parse(answer(name)).rows:
            if row.table == "onchain_data":
                assert row.key["metric"] in METRICS
                assert row.key["source"] == name


def test_disagreements_are_about_metrics_that_those_sources_state():
    stated = {
        (row.key["metric"], name)
        for name in REQUESTS
        for row in ENDPOINTS[name].parse(answer(name)).rows
        if row.table == "onchain_data"
    }
    stated |= {(metric, "blockchain_com.chart") for metric, _ in blockchain_com.CHARTS.values()}
    for one in DISAGREEMENTS:
        assert len(one.sources) > 1
        assert 0 < one.tolerance < 1
        assert {(one.metric, source) for source in one.sources} <= stated


def test_a_moment_stated_twice_is_one_row_or_none():
    found = Findings()
    rows = Statements("x.y", FETCHED_AT, found)
    for at, value in ((NOON, 1), (NOON, "1"), (NOON - 1, 1), (NOON - 1, 2), (NOON - 1, 1)):
        rows.add("bitcoin", "nodes", at, value, 0, field="nodes")
    assert [(row.key["event_time"], row.values["value"]) for row in rows.rows()] == [(NOON, 1.0)]
    assert [(issue.kind, issue.field) for issue in found.all()] == [("duplicate", f"nodes@{NOON - 1}")]


@pytest.mark.parametrize(("value", "kind"), [(-1, "out_of_range"), ("x", "wrong_type"), (1e30, "out_of_range")])
def test_a_value_that_cannot_be_is_an_issue_and_no_row(value, kind):
    found = Findings()
    rows = Statements("x.y", FETCHED_AT, found)
    rows.add("bitcoin", "hash_rate", NOON, value, 0, field="h", scale=1e12)
    assert rows.rows() == ()
    assert [issue.kind for issue in found.all()] == [kind]


def test_units_are_converted_on_the_decimal_as_stated():
    rows = Statements("x.y", FETCHED_AT, Findings())
    rows.add("bitcoin", "hash_rate", NOON, "912345678.1", 0, field="h", scale=1e12)
    rows.add("bitcoin", "circulating_supply", NOON, 1_995_012_350_000_001, 0, field="c", scale=1e-8)
    assert [row.values["value"] for row in rows.rows()] == [912345678.1e12, 19950123.50000001]

"""A change of what an upstream's answers look like is an event, once per change, before values become NULL."""

from __future__ import annotations

import random
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import select

from ray_app.collection import drift
from ray_app.collection.control import holding
from ray_app.collection.digest import Digest
from ray_app.collection.drift import LEARNING, LEARNING_RANGES, Shape, changes, learnt, look
from ray_app.collection.runtime import Runtime
from ray_app.sources import ENDPOINTS
from ray_app.sources.base import Exchange, Request
from ray_app.storage import tables
from ray_app.storage.engine import Database
from tests.collection.test_ingest import coin, markets, runtime, settings  # noqa: F401 - fixtures
from tests.collection.test_runner import runner_for
from tests.collection.world import MINUTE, START, JumpingClock, world

OK = Digest("ok")


def body(value: Any, source: str = "coingecko.markets", at: int = START) -> drift.Body:
    seen = look(Exchange(Request(source, "/"), 200, {}, orjson.dumps(value), at), OK)
    assert seen is not None
    return seen


def taught(value: Any, times: int = LEARNING, **options: Any) -> Shape:
    shape = Shape()
    for _ in range(times):
        shape = learnt(shape, body(value, **options))
    return shape


def told(shape: Shape, value: Any, **options: Any) -> dict[str, str]:
    """What is told of a body, by field; the first word says which kind of change it is."""
    return {
        change.field: change.what.split(":")[0].split(" in ")[0] for change in changes(shape, body(value, **options))
    }


COINS = [{"id": f"c{i}", "price": 1.5 * i + 1, "rank": i, "roi": None, "last": "2026-11-24"} for i in range(40)]


@pytest.mark.parametrize(
    ("change", "event"),
    [
        ({"fresh": 1}, {"[].fresh": "new field"}),
        ({"rank": ...}, {"[].rank": "vanished"}),
        ({"price": "1.5"}, {"[].price": "retyped"}),
        ({"price": None}, {"[].price": "null"}),
        ({"last": 1_795_507_200}, {"[].last": "retyped"}),
        ({"rank": ..., "ranks": 4}, {"[].rank": "vanished", "[].ranks": "new field"}),
        ({"roi": {"times": 2.0}}, {}),
        ({"price": 7}, {}),
    ],
)
def test_each_kind_of_change_is_told_once_and_then_learnt(change: dict[str, Any], event: dict[str, str]) -> None:
    changed = [{k: v for k, v in (one | change).items() if v is not ...} for one in COINS]
    shape = taught(COINS)
    assert told(shape, COINS) == {}
    assert told(shape, changed) == event
    assert told(learnt(shape, body(changed)), changed) == {}


def test_one_bad_element_of_many_is_enough_for_a_type_and_not_for_an_absence() -> None:
    shape = taught(COINS[:20])
    assert told(shape, [*COINS[:19], COINS[19] | {"price": "N/A"}]) == {"[].price": "retyped"}
    assert told(shape, [*COINS[:19], {"id": "c19"}]) == {}


def test_a_field_that_comes_back_is_told() -> None:
    without = [{"id": one["id"]} for one in COINS]
    shape = learnt(taught(COINS), body(without))
    assert told(shape, COINS)["[].price"] == "is back"
    assert told(learnt(shape, body(COINS)), without) == {}, "it is known to come and go"


def test_nothing_is_told_while_there_is_little_to_compare_with() -> None:
    assert told(taught(COINS, LEARNING - 1), [{"other": True}]) == {}


def test_seconds_that_become_milliseconds_are_told_and_another_asset_s_price_is_not() -> None:
    bars = [[1_795_507_200 + 300 * i, 9e4, 9.2e4, 9.1e4, 9.05e4, 3.0] for i in range(30)]
    cheap = [[t, 1e-5, 1.1e-5, 1e-5, 1e-5, 8e9] for t, *_ in bars]
    shape = taught(bars, 3, source="coinbase.candles")
    shape = learnt(shape, body(cheap, "coinbase.candles"))
    for _ in range(LEARNING_RANGES):
        shape = learnt(shape, body(bars, "coinbase.candles"))
    assert told(shape, [[t, 1e-7, 1e-7, 1e-7, 1e-7, 1e3] for t, *_ in bars], source="coinbase.candles") == {}
    milliseconds = [[t * 1_000, *rest] for t, *rest in bars]
    assert told(shape, milliseconds, source="coinbase.candles") == {"[0]": "other magnitudes"}
    assert told(shape, [bar[:5] for bar in bars], source="coinbase.candles") == {"[5]": "vanished"}


def test_members_that_are_data_are_one_field() -> None:
    def rates(*codes: str, **members: Any) -> dict[str, Any]:
        return {"data": {"currency": "USD", "rates": dict.fromkeys(codes, "0.5"), **members}}

    shape = taught(rates("BTC", "ETH"), source="coinbase.exchange_rates")
    assert told(shape, rates("SOL"), source="coinbase.exchange_rates") == {}
    assert told(shape, {"data": {"currency": "USD", "rates": {"SOL": 0.5}}}, source="coinbase.exchange_rates") == {
        "data.rates.*": "retyped"
    }


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**60), 2**60)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(codec="utf-8"), max_size=9),
        lambda inner: (
            st.lists(inner, max_size=5)
            | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=9), inner, max_size=6)
        ),
        max_leaves=40,
    ),
    st.sampled_from(sorted(set(ENDPOINTS) - {"coinbase.ticker"})),  # whose body is no JSON value
)
@example({"]": None}, "coinbase.candles")
def test_any_body_can_be_looked_at_learnt_kept_and_is_then_nothing_new(value: Any, source: str) -> None:
    shape = taught(value, source=source)
    assert Shape.load(shape.dump()) == shape
    assert told(shape, value, source=source) == {}
    assert told(taught(COINS), value, source=source) is not None


def test_what_is_kept_of_a_body_is_bounded() -> None:
    rng = random.Random(3)
    shape = Shape()
    for _ in range(60):
        value = [{f"{rng.random()}" * rng.randrange(1, 9): {str(rng.random()): 1 for _ in range(90)}} for _ in range(9)]
        shape = learnt(shape, body(value))
    assert len(shape.dump()) < 65_536, "what the column holds"
    assert len(told(shape, [{"yet another": 1}])) < 60


async def test_a_change_is_one_event_and_the_values_are_stored_as_ever(runtime: Runtime) -> None:  # noqa: F811
    def answer(minute: int, **fields: Any) -> Exchange:
        prices = [coin("bitcoin", 90_000.0 + minute, **({"ath": 1e5} | fields)), coin("ethereum", 3_000.0, ath=4e3)]
        return markets(*prices, slot=START + minute * MINUTE, fetched_at=START + minute * MINUTE + 20_000)

    async with holding(runtime, "crypto-prices", "me"):
        for minute in range(4):
            assert (await runtime.ingestor.ingest(answer(minute))).ok
        assert drifts(runtime.db) == []
        for minute in range(4, 7):
            assert (await runtime.ingestor.ingest(answer(minute, ath="1e5", sentiment=0.4))).ok
    found = drifts(runtime.db)
    assert [(row["field"], row["fetched_at"], row["source"]) for row in found] == [
        ("[].ath", START + 4 * MINUTE + 20_000, "coingecko.markets"),
        ("[].sentiment", START + 4 * MINUTE + 20_000, "coingecko.markets"),
    ]
    assert found[0]["detail"] == "retyped: text such as '1e5'; was number"


async def test_another_process_tells_the_same_change_no_second_time(settings: Any) -> None:  # noqa: F811
    clock = JumpingClock(START + MINUTE)
    for turn, fields in enumerate(({}, {"ath": "1e5"})):
        for number in range(2):
            async with await Runtime.open(settings, "crypto-prices", clock=clock, writer=f"w{turn}{number}") as one:
                async with holding(one, "crypto-prices", f"holder-{turn}-{number}"):
                    for minute in range(3):
                        at = START + (10 * turn + 4 * number + minute) * MINUTE
                        prices = [coin("bitcoin", 9e4, **({"ath": 1e5} | fields))]
                        assert (await one.ingestor.ingest(markets(*prices, slot=at, fetched_at=at))).ok
                found = drifts(one.db)
    assert [row["field"] for row in found] == ["[].ath"]


@pytest.mark.integration
async def test_an_upstream_with_wrong_types_is_told_of(tmp_path: Any, sqlite_url: str) -> None:
    faults = """
seed: 5
faults:
  - {source: coingecko, endpoint: markets, from: "+20m", to: "+60m", kind: wrong_types, share: 0.2}
"""
    clock = JumpingClock(START + MINUTE)
    with world(tmp_path, sqlite_url, clock=clock, faults=faults) as used:
        for minute in (1, 6, 11, 16):
            clock.go_to(START + minute * MINUTE)
            await runner_for(used, "crypto-prices").once()
        db = used.db()
        assert drifts(db) == []
        for minute in (21, 26, 31):
            clock.go_to(START + minute * MINUTE)
            await runner_for(used, "crypto-prices").once()
        found = drifts(db)
        db.dispose()
    assert found
    assert all("retyped" in row["detail"] or "null in each" in row["detail"] for row in found), found
    assert min(row["fetched_at"] for row in found) >= START + 20 * MINUTE
    assert len({row["field"] for row in found}) == len(found), "each change once"


def drifts(db: Database) -> list[dict[str, Any]]:
    events = tables.data_quality_events
    with db.read() as conn:
        query = select(events).where(events.c.kind == drift.KIND).order_by(events.c.fetched_at, events.c.field)
        return [dict(row._mapping) for row in conn.execute(query)]

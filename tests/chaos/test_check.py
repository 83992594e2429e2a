"""The checker sees what is wrong: each check is shown a run that is in order, and the same run with one thing amiss."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.chaos import check
from tests.chaos.check import Done, Run, Truth
from tests.e2e.checker import HOUR, MINUTE, SLOT, Candle

#: a full hour, ms
START = 1_795_734_000_000
END = START + HOUR
WALL = START
BAR: Candle = (10.0, 12.0, 9.0, 11.0, 5.0)
PARAMS = {"granularity": "300", "start": "2026-11-26T23:00:00+00:00", "end": "2026-11-26T23:59:59+00:00"}
Amiss = Callable[["Left"], None]


class TrueMarket(Truth):
    """One asset that costs 11 all the time, with the same bar over and over."""

    def __init__(self) -> None:
        pass

    def bars(self, step_s: int, start: int, end: int) -> dict[check.Key, Candle]:
        return {("BTC", at): BAR for at in range(start - start % (step_s * 1_000), end, step_s * 1_000) if at >= START}

    def prices(self, start: int, end: int) -> dict[check.Key, tuple[float, int]]:
        return {("BTC", at): (11.0, at) for at in range(start, end, MINUTE)}


class Left:
    """What a node left that has done everything right in one hour. Tests spoil it."""

    product_of: Mapping[str, str] = {"BTC": "BTC-USD"}
    listed: Mapping[str, str] = {"BTC": "bitcoin"}
    symbol_of: Mapping[int, str] = {1: "BTC"}

    def __init__(self) -> None:
        slots = range(START, END, SLOT)
        self.fetch = {"fetched_at": END + SLOT, "payload_hash": "f", "status": 200, "outcome": "ok"}
        self.fetch["request"] = json.dumps({"path": "/products/BTC-USD/candles", "params": PARAMS, "context": {}})
        self.tables: dict[str, list[dict[str, Any]]] = {
            "price_data_real": [self.price(slot) for slot in slots],
            "ohlc_data": [*(self.bar(300, slot) for slot in slots), self.bar(3_600, START)],
            "fetches": [self.fetch],
            "outbox": [{"seq": seq} for seq in range(1, 13)],
        }
        self.said: dict[tuple[str, str], set[check.Key]] = {}
        self.entries = [self.poll(slot + MINUTE) for slot in slots]
        self.entries += [self.ask(END + MINUTE)]
        self.bodies = {"p": [{"id": "bitcoin", "last_updated": "2026-11-26T23:01:00+00:00"}]}

    @staticmethod
    def price(slot: int) -> dict[str, Any]:
        at = {"slot": slot, "event_time": slot + MINUTE, "fetched_at": slot + MINUTE, "known_at": slot + MINUTE}
        return {"asset_id": 1, "source": "coingecko.markets", "current_price": 11.0, "payload_hash": "p", **at}

    @staticmethod
    def bar(step_s: int, at: int) -> dict[str, Any]:
        names = ("open_price", "high_price", "low_price", "close_price", "volume")
        key = {"asset_id": 1, "interval_s": step_s, "open_time": at, "payload_hash": "f"}
        return {**key, **dict(zip(names, BAR, strict=True))}

    @staticmethod
    def poll(at: int, **other: Any) -> check.Entry:
        params = {"ids": "bitcoin"}
        entry = {
            "at": at,
            "wall": at,
            "ms": 5.0,
            "source": "coingecko",
            "endpoint": "markets",
            "path": "/coins/markets",
        }
        return {**entry, "params": params, "status": 200, "fault": None, **other}

    @staticmethod
    def ask(at: int, **other: Any) -> check.Entry:
        entry = {"at": at, "wall": at, "ms": 5.0, "source": "coinbase", "endpoint": "candles", "params": PARAMS}
        return {**entry, "path": "/products/BTC-USD/candles", "status": 200, "fault": None, **other}

    def log(self) -> list[check.Entry]:
        return sorted(self.entries, key=lambda entry: entry["at"])

    def query(self, statement: str, values: tuple[Any, ...] = ()) -> list[dict[str, Any]]:
        [table] = [name for name in self.tables if f"FROM {name}" in statement]
        rows = self.tables[table]
        if "interval_s = ?" in statement:
            rows = [row for row in rows if row["interval_s"] == values[0]]
        for source in ("coinbase.candles", "coingecko.markets"):
            if table == "price_data_real" and f"source = '{source}'" in statement:
                rows = [row for row in rows if row["source"] == source]
        if table == "fetches" and "source =" in statement:
            rows = [row for row in rows if row.get("source") == "coingecko.markets"]
        return rows

    def settled(self, dataset: str, state: str) -> set[check.Key]:
        return self.said.get((dataset, state), set())

    def payload(self, digest: str) -> Any:
        return self.bodies[digest]


def problems(amiss: Amiss | None = None, done: tuple[Done, ...] = (), script: Any = None) -> list[str]:
    left = Left()
    if amiss is not None:
        amiss(left)
    script = script or {"faults": []}
    run = Run(left, TrueMarket(), script, START, START, END, 30.0, done)  # type: ignore[arg-type]
    return [problem.split(":")[0] for problem in check.check(run).problems]


def test_a_run_in_order_passes():
    assert problems() == []


def wrong_price(left: Left) -> None:
    left.tables["price_data_real"][3]["current_price"] = 11.01


def two_prices(left: Left) -> None:
    left.tables["price_data_real"].append(left.price(START))


def known_too_early(left: Left) -> None:
    left.tables["price_data_real"][3]["known_at"] = START


def no_price(left: Left) -> None:
    del left.tables["price_data_real"][3]


def no_price_and_said_to_be_beyond_repair(left: Left) -> None:
    no_price(left)
    left.said["prices", "unrepairable"] = {("BTC", START + 3 * SLOT)}


def wrong_bar(left: Left) -> None:
    left.tables["ohlc_data"][3]["volume"] = 5.5


def invented_bar(left: Left) -> None:
    left.tables["ohlc_data"].append(left.bar(300, START - HOUR))


def no_bar(left: Left) -> None:
    del left.tables["ohlc_data"][3]


def no_hour_and_said_to_be_empty(left: Left) -> None:
    del left.tables["ohlc_data"][-1]
    left.said["candles-3600", "confirmed_empty"] = {("BTC", START)}


def older_event_stands(left: Left) -> None:
    left.tables["price_data_real"][0]["event_time"] = START  # and 23:01 was archived
    context = {"slot": str(START)}
    request = json.dumps({"path": "/coins/markets", "params": {}, "context": context})
    left.tables["fetches"].append(
        {"source": "coingecko.markets", "request": request, "fetched_at": END, "payload_hash": "p", "status": 200}
    )


def asked_twice(left: Left) -> None:
    left.entries.append(left.ask(END + 2 * MINUTE))


def polled_twice(left: Left) -> None:
    left.entries.append(left.poll(START + 2 * MINUTE))


def burst(left: Left) -> None:
    left.entries += [left.ask(END + HOUR + ms, status=503) for ms in range(9)]


def hole_in_events(left: Left) -> None:
    del left.tables["outbox"][5]


@pytest.mark.parametrize(
    ("amiss", "check_that_sees_it"),
    [
        (wrong_price, "prices"),
        (two_prices, "prices"),
        (known_too_early, "prices"),
        (no_price, "missing prices"),
        (no_price_and_said_to_be_beyond_repair, "missing prices"),
        (wrong_bar, "five-minute candles"),
        (invented_bar, "five-minute candles"),
        (no_bar, "five-minute candles"),
        (no_hour_and_said_to_be_empty, "hourly candles"),
        (older_event_stands, "older over newer"),
        (asked_twice, "asked twice"),
        (polled_twice, "asked twice"),
        (burst, "budget"),
        (hole_in_events, "events"),
    ],
)
def test_what_is_amiss_is_seen(amiss: Amiss, check_that_sees_it: str):
    assert set(problems(amiss)) == {check_that_sees_it}


def test_a_second_request_is_excused_by_a_deed_that_struck_between_and_by_no_other():
    struck = Done("kill", "candles", END + MINUTE + 1, END + MINUTE + 2)
    assert problems(asked_twice, (struck,)) == []
    before = Done("kill", "candles", END, END + 1)
    assert problems(asked_twice, (before,))
    nobody = Done("kill", "candles", END + MINUTE + 1, END + MINUTE + 2, struck=0)
    assert problems(asked_twice, (nobody,))
    elsewhere = Done("kill", "haproxy", END + MINUTE + 1, END + MINUTE + 2)
    assert problems(asked_twice, (elsewhere,))


def test_a_falsified_value_is_excused_where_the_script_falsified_that_answer():
    def revised(left: Left) -> None:
        wrong_bar(left)
        left.entries[-1]["fault"] = "revise"

    assert problems(revised) == []


@pytest.mark.parametrize(("fault", "excused"), [("clock_skew", True), ("wrong_types", True), ("revise", False)])
def test_a_bar_that_is_called_empty_is_excused_by_two_answers_that_were_made_to_lack_it(fault: str, excused: bool):
    def cut_out(left: Left) -> None:
        no_bar(left)
        left.said["candles-300", "confirmed_empty"] = {("BTC", START + 3 * SLOT)}
        left.entries = [
            *left.entries[:-1],
            left.ask(END + MINUTE, fault=fault),
            left.ask(END + 2 * MINUTE, fault=fault),
        ]

    assert ("five-minute candles" not in problems(cut_out)) is excused


def test_a_request_within_an_ordered_pause_is_seen_and_one_after_it_is_none():
    fault = {"kind": "rate_limit", "source": "coingecko", "endpoint": "*", "from": "+0s", "to": "+9999s"}
    script = {"faults": [{**fault, "retry_after": 600}]}

    def paused(left: Left) -> None:
        left.entries[0]["status"] = 429

    assert set(problems(paused, script=script)) == {"pause"}

    def paused_at_the_end(left: Left) -> None:
        left.entries[11]["status"] = 429
        left.entries.append(left.poll(END + 11 * MINUTE))

    assert problems(paused_at_the_end, script=script) == []

"""The simulated venues of derivatives, read by the node's own parsers: what they say is whole, and stays as it was."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest

from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS
from ray_app.errors import RegionBlocked, UpstreamRejected
from ray_app.sandbox import derivatives_model as model
from ray_app.sources import ENDPOINTS, Exchange, Parsed, Request
from tests.sandbox.conftest import COINGECKO, HOUR, NOW, Sandbox

Make = Callable[..., Sandbox]
SINCE = NOW - 28 * DAY_MS


async def exchange(world: Sandbox, request: Request) -> Exchange:
    account = ENDPOINTS[request.endpoint].account
    base = COINGECKO if account == "coingecko" else f"/{account}"
    response = await world.get(base + request.path, **request.params)
    return Exchange(request, response.status_code, {}, response.content, world.clock.now_ms())


async def read(world: Sandbox, request: Request) -> Parsed:
    parsed = ENDPOINTS[request.endpoint].parse(await exchange(world, request))
    assert parsed.issues == ()
    assert parsed.missing == ()
    return parsed


async def all_pages(world: Sandbox, request: Request | None) -> tuple[dict[Any, float], int]:
    """Every statement of a request and the pages after it, and how many pages."""
    found: dict[Any, float] = {}
    pages = 0
    while request is not None:
        parsed = await read(world, request)
        for row in parsed.rows:
            key = (row.key["metric"], row.key["event_time"])
            assert found.setdefault(key, row.values["value"]) == row.values["value"]  # type: ignore[arg-type]
        request, pages = parsed.next, pages + 1
        assert pages < 20
    return found, pages


def ask(name: str, *args: Any, **options: Any) -> Request:
    return ENDPOINTS[name].request(*args, **options)


SNAPSHOTS = [
    ask("binance.premium_index"),
    ask("binance.open_interest", "BTCUSDT"),
    ask("bybit.tickers"),
    ask("okx.funding_rate"),
    ask("okx.open_interest"),
    ask("okx.mark_price"),
    ask("deribit.book_summary", "BTC"),
    ask("coingecko.derivatives"),
]
#: request, metric, hours between two statements, pages
SERIES = [
    (ask("binance.funding_rate", "BTCUSDT", SINCE, NOW), "funding_rate", 8, 1),
    (ask("binance.open_interest_hist", "BTCUSDT", SINCE, NOW), "open_interest", 1, 2),
    (ask("binance.long_short", "ETHUSDT", SINCE, NOW), "long_short_ratio", 1, 2),
    (ask("bybit.funding_history", "BTCUSDT", SINCE, NOW), "funding_rate", 8, 1),
    (ask("bybit.open_interest", "1000SHIBUSDT", SINCE, NOW), "open_interest", 1, 4),
    (ask("deribit.volatility_index", "BTC", SINCE - 20 * DAY_MS, NOW), "dvol", 1, 2),
    (ask("deribit.funding_history", "ETH-PERPETUAL", SINCE - 20 * DAY_MS, NOW), "funding_rate", 1, 2),
]


@pytest.mark.parametrize("request_", SNAPSHOTS, ids=lambda one: one.endpoint)
async def test_snapshots_are_of_now_and_the_same_while_the_clock_stands(sandbox: Make, request_: Request) -> None:
    world = sandbox()
    parsed = await read(world, request_)
    assert parsed.rows
    assert all(NOW - 30_500 <= row.event_version <= NOW for row in parsed.rows)
    assert await read(sandbox(), request_) == parsed
    other = await read(sandbox(seed=8), request_)
    assert {row.values["value"] for row in other.rows} != {row.values["value"] for row in parsed.rows}


@pytest.mark.parametrize(("request_", "metric", "hours", "pages"), SERIES, ids=lambda v: getattr(v, "endpoint", ""))
async def test_series_are_whole_over_their_pages_and_their_past_is_stable(
    sandbox: Make, request_: Request, metric: str, hours: int, pages: int
) -> None:
    world = sandbox()
    found, counted = await all_pages(world, request_)
    assert counted == pages
    times = sorted(at for name, at in found if name == metric)
    steps = {(after - before) / (hours * HOUR_MS) for before, after in itertools.pairwise(times)}
    assert all(abs(step - 1) < 1e-6 for step in steps)
    since = int(request_.params.get("start_timestamp") or request_.context.get("since") or SINCE)
    assert times[0] < since + hours * HOUR_MS + HOUR_MS
    assert times[-1] > NOW - hours * HOUR_MS - HOUR_MS
    world.clock.advance(3_600 * 9)
    later, _ = await all_pages(world, request_)
    assert {key: value for key, value in later.items() if key in found} == found


async def test_okx_s_settlements_page_back_until_since(sandbox: Make) -> None:
    found, pages = await all_pages(sandbox(), ask("okx.funding_rate_history", "BTC-USDT-SWAP", NOW - 60 * DAY_MS))
    assert pages == 2
    times = sorted(at for _, at in found)
    assert times[0] <= NOW - 60 * DAY_MS
    assert {after - before for before, after in itertools.pairwise(times)} == {8 * HOUR_MS}


async def test_what_is_settled_is_what_the_estimate_came_to(sandbox: Make) -> None:
    """The estimate, asked at the settlement, is the rate of the history (to what the venue rounds)."""
    due = HOUR // model.FUNDING_MS * model.FUNDING_MS
    world = sandbox(now=due)
    for venue, now, past in (
        ("binance", ask("binance.premium_index", "BTCUSDT"), ask("binance.funding_rate", "BTCUSDT", due - 10, due + 9)),
        ("okx", ask("okx.funding_rate", "BTC-USDT-SWAP"), ask("okx.funding_rate_history", "BTC-USDT-SWAP", due)),
        ("bybit", ask("bybit.tickers", "BTCUSDT"), ask("bybit.funding_history", "BTCUSDT", due, due + 1)),
    ):
        (estimate,) = [r for r in (await read(world, now)).rows if r.key["metric"] == "predicted_funding_rate"]
        later = sandbox(now=due + MINUTE_MS)
        settled = next(r for r in (await read(later, past)).rows if r.key["event_time"] // 1_000 == due // 1_000)
        assert settled.values["value"] == pytest.approx(estimate.values["value"]), venue


async def test_venues_agree_on_marks_to_a_tenth_of_a_percent_and_scale_contracts_of_many_coins(sandbox: Make) -> None:
    world = sandbox()
    marks: dict[str, dict[str, float]] = {}
    for name in ("binance.premium_index", "bybit.tickers", "okx.mark_price"):
        for row in (await read(world, ask(name))).rows:
            if row.key["metric"] == "mark_price":
                marks.setdefault(str(row.key["coin_id"]), {})[name] = float(row.values["value"])  # type: ignore[arg-type]
    assert set(marks) == {"bitcoin", "ethereum", "shiba-inu"}
    for coin, by_venue in marks.items():
        price = world.app.world.market.price(
            next(a for a in world.app.world.registry if a.coin_id == coin).asset_id, NOW
        )
        assert len(by_venue) == 3
        assert len(set(by_venue.values())) == 3
        assert all(value == pytest.approx(price[0], rel=1e-3) for value in by_venue.values())


async def test_open_interest_by_the_hour_is_what_it_was_then(sandbox: Make) -> None:
    then = sandbox(now=HOUR)
    (now,) = (await read(then, ask("binance.open_interest", "1000SHIBUSDT"))).rows
    series, _ = await all_pages(sandbox(), ask("binance.open_interest_hist", "1000SHIBUSDT", HOUR - HOUR_MS, NOW))
    assert series["open_interest", HOUR] == pytest.approx(now.values["value"], rel=1e-6)


async def test_the_ratio_of_puts_to_calls_moves_slowly(sandbox: Make) -> None:
    world, seen = sandbox(), []
    for _ in range(3):
        rows = {row.key["metric"]: row.values["value"] for row in (await read(world, SNAPSHOTS[6])).rows}
        assert 1_000 < rows["options_open_interest"] < 1e6
        seen.append(rows["put_call_ratio"])
        world.clock.advance(1_800)
    assert 0.4 < seen[0] < 1
    assert len(set(seen)) == 3
    assert max(seen) - min(seen) < 0.01


async def test_coingecko_states_percent_and_keeps_an_expired_contract(sandbox: Make) -> None:
    world = sandbox()
    listed = (await world.get(f"{COINGECKO}/derivatives")).json()
    assert [item["symbol"] for item in listed if item["expired_at"] is not None] == ["BTC-17NOV23"]
    assert all(isinstance(item["price"], str) for item in listed)
    rows = {
        (row.key["venue"], row.key["instrument"], row.key["metric"]): row
        for row in (await read(world, SNAPSHOTS[7])).rows
    }
    rate = rows["okx_futures", "BTC-USDT-SWAP", "predicted_funding_rate"]
    at = rate.key["event_time"]
    assert isinstance(at, int)
    assert rate.values["value"] == pytest.approx(model.funding(world.app.world, "okx", "BTC", at), abs=1e-9)


@pytest.mark.parametrize(
    "request_",
    [
        ask("binance.premium_index", "NOBODYUSDT"),
        ask("binance.open_interest_hist", "NOBODYUSDT", SINCE, NOW),
        Request("binance.open_interest", "/fapi/v1/openInterest"),
        Request("binance.open_interest_hist", "/futures/data/openInterestHist", {"symbol": "BTCUSDT", "period": "7m"}),
        Request(
            "binance.long_short",
            "/futures/data/globalLongShortAccountRatio",
            {"symbol": "BTCUSDT", "period": "1h", "startTime": str(NOW - 40 * DAY_MS)},
        ),
        ask("bybit.tickers", "NOBODYUSDT"),
        Request("bybit.tickers", "/v5/market/tickers"),
        Request(
            "bybit.funding_history",
            "/v5/market/funding/history",
            {"category": "linear", "symbol": "BTCUSDT", "startTime": str(SINCE)},
        ),
        ask("okx.funding_rate", "NOBODY-USDT-SWAP"),
        ask("okx.funding_rate_history", "NOBODY-USDT-SWAP", SINCE),
        Request("okx.open_interest", "/api/v5/public/open-interest"),
        ask("deribit.funding_history", "SOL-PERPETUAL", SINCE, NOW),
        ask("deribit.volatility_index", "SOL", SINCE, NOW),
        Request("deribit.volatility_index", "/public/get_volatility_index_data", {"currency": "BTC", "resolution": "3600"}),
    ],
    ids=lambda one: one.endpoint,
)  # fmt: skip
async def test_refusals_are_read_as_refusals(sandbox: Make, request_: Request) -> None:
    with pytest.raises(UpstreamRejected) as caught:
        ENDPOINTS[request_.endpoint].parse(await exchange(sandbox(), request_))
    assert not isinstance(caught.value, RegionBlocked)


async def test_answers_are_cheap_once_the_market_is_warm(sandbox: Make) -> None:
    world = sandbox()
    for request in [*SNAPSHOTS, *(one[0] for one in SERIES)]:
        await exchange(world, request)
        took = []
        for _ in range(2):
            started = time.process_time()
            await exchange(world, request)
            took.append(time.process_time() - started)
        assert min(took) < 0.08, request.endpoint  # the longest, 1,000 candles, takes 0.02


@pytest.mark.parametrize("name", ["deribit.funding_history", "binance.open_interest_hist", "bybit.open_interest"])
async def test_no_hour_is_lost_where_pages_meet_on_one(sandbox: Make, name: str) -> None:
    world = sandbox(now=HOUR)
    instrument = "BTC-PERPETUAL" if name.startswith("deribit") else "BTCUSDT"
    found, _ = await all_pages(world, ask(name, instrument, HOUR - 29 * DAY_MS, HOUR))
    assert {at for _, at in found} == set(range(HOUR - 29 * DAY_MS, HOUR + 1, HOUR_MS))

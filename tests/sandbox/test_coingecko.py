"""CoinGecko's wire format: shapes, edge cases, refusals; and our own parsers read it without a complaint."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS, iso
from ray_app.sources import endpoint
from ray_app.sources.base import Exchange, Request
from tests.sandbox.conftest import COINGECKO, NOW, Sandbox

Make = Callable[..., Sandbox]
MARKETS = f"{COINGECKO}/coins/markets"


async def ask(sandbox: Sandbox, request: Request) -> Exchange:
    answer = await sandbox.get(COINGECKO + request.path, **dict(request.params))
    return Exchange(request, answer.status_code, dict(answer.headers), answer.content, sandbox.clock.now_ms())


async def test_markets_gives_the_shape_of_the_recorded_answers(sandbox: Make, shared_data: Path) -> None:
    recorded: dict[str, set[type]] = {}
    for path in (shared_data / "recorded" / "coingecko").glob("api_v3_coins_markets*per_page=25*"):
        for row in json.loads(path.read_text()):
            for key, value in row.items():
                recorded.setdefault(key, set()).add(type(value))
    answer = await sandbox().get(
        MARKETS, vs_currency="usd", price_change_percentage="14d,1h,1y,200d,24h,30d,7d", per_page=250
    )
    for row in answer.json():
        assert set(row) == set(recorded)
        for key, value in row.items():
            assert type(value) in recorded[key] | {type(None)} or isinstance(value, int | float), key


async def test_markets_leaves_out_unknown_ids_silently(sandbox: Make) -> None:
    answer = await sandbox().get(MARKETS, vs_currency="usd", ids="bitcoin,no-such-coin,tether")
    assert answer.status_code == 200
    assert {row["id"] for row in answer.json()} == {"bitcoin", "tether"}


async def test_markets_are_ordered_and_paged(sandbox: Make) -> None:
    world = sandbox()
    everything = (await world.get(MARKETS, vs_currency="usd", per_page=250)).json()
    caps = [row["market_cap"] for row in everything]
    assert caps == sorted(caps, reverse=True)
    assert [row["market_cap_rank"] for row in everything] == list(range(1, len(everything) + 1))
    pages = [(await world.get(MARKETS, vs_currency="usd", per_page=20, page=page)).json() for page in (1, 2, 3, 4)]
    assert [row for page in pages for row in page] == everything
    assert pages[3] == []
    by_id = (await world.get(MARKETS, vs_currency="usd", order="id_asc")).json()
    assert [row["id"] for row in by_id] == sorted(row["id"] for row in everything)
    by_volume = [
        row["total_volume"] for row in (await world.get(MARKETS, vs_currency="usd", order="volume_desc")).json()
    ]
    assert by_volume == sorted(by_volume, reverse=True)


async def test_per_page_above_250_behaves_like_250(sandbox: Make) -> None:
    from ray_app.assets import AssetRegistry

    world = sandbox(registry=AssetRegistry.seed())
    over = await world.get(MARKETS, vs_currency="usd", per_page=251)
    assert len(over.json()) == 250
    assert over.content == (await world.get(MARKETS, vs_currency="usd", per_page=250)).content


async def test_prices_are_rounded_unless_precision_is_asked_for(sandbox: Make) -> None:
    world = sandbox()
    exact = world.app.world.market.price(1, NOW)[0]
    rounded, full, two = [
        (await world.get(MARKETS, vs_currency="usd", ids="bitcoin", **extra)).json()[0]["current_price"]
        for extra in ({}, {"precision": "full"}, {"precision": "1"})
    ]
    assert (rounded, full, two) == (round(exact), exact, round(exact, 1))


async def test_change_and_high_and_low_agree_with_each_other(sandbox: Make) -> None:
    for row in (await sandbox().get(MARKETS, vs_currency="usd", precision="full")).json():
        if row["high_24h"] is None:
            continue
        assert row["low_24h"] <= row["current_price"] <= row["high_24h"]
        before = row["current_price"] - row["price_change_24h"]
        if row["price_change_24h"] is not None:
            assert row["price_change_percentage_24h"] == pytest.approx(row["price_change_24h"] / before * 100, abs=1e-5)
        assert row["market_cap"] == round(row["current_price"] * row["circulating_supply"])
        assert row["max_supply"] is None or row["circulating_supply"] <= row["max_supply"]


async def test_last_updated_moves_in_minutes_and_stays_where_nothing_trades(sandbox: Make, replay_file: Path) -> None:
    world = sandbox(replay=replay_file)
    market = world.app.world.market
    end = max(int(market.candles(a.asset_id, 3_600, NOW, NOW + 60 * DAY_MS).times[-1]) for a in market.assets) + HOUR_MS
    minute = NOW // MINUTE_MS * MINUTE_MS
    first = (await world.get(MARKETS, vs_currency="usd", ids="bitcoin")).json()[0]["last_updated"]
    assert first == "2026-11-24T08:37:00.000Z"
    world.clock.advance((minute + MINUTE_MS - NOW) / 1_000)
    assert (await world.get(MARKETS, vs_currency="usd", ids="bitcoin")).json()[0]["last_updated"] != first
    world.clock.advance((end + 3 * DAY_MS - world.clock.now_ms()) / 1_000)
    row = (await world.get(MARKETS, vs_currency="usd", ids="bitcoin")).json()[0]
    assert row["last_updated"] < iso(end)
    assert row["current_price"] is not None
    assert row["high_24h"] is None
    assert row["total_volume"] == 0


async def test_optional_columns_come_when_asked_for(sandbox: Make) -> None:
    world = sandbox()
    row = (
        await world.get(MARKETS, vs_currency="usd", ids="bitcoin", price_change_percentage="1h,7d", sparkline="true")
    ).json()[0]
    assert len(row["sparkline_in_7d"]["price"]) == 168
    market = world.app.world.market
    now, before = market.price(1, NOW)[0], market.price(1, NOW // MINUTE_MS * MINUTE_MS - 7 * DAY_MS)[0]
    assert row["price_change_percentage_7d_in_currency"] == pytest.approx((now / before - 1) * 100)
    assert "price_change_percentage_1h_in_currency" in row
    assert "price_change_percentage_1y_in_currency" not in row


@pytest.mark.parametrize(
    ("path", "params", "status", "body"),
    [
        ("/coins/markets", {}, 422, {"error": "Missing parameter vs_currency"}),
        ("/coins/markets", {"vs_currency": "xyz"}, 400, {"error": "invalid vs_currency"}),
        ("/coins/nothing/market_chart", {"vs_currency": "usd", "days": "1"}, 404, {"error": "coin not found"}),
        ("/coins/bitcoin/market_chart", {"vs_currency": "usd"}, 422, {"error": "Missing parameter days"}),
        ("/coins/bitcoin/market_chart", {"vs_currency": "usd", "days": "x"}, 400, {"error": "invalid days"}),
        (
            "/coins/bitcoin/market_chart/range",
            {"vs_currency": "usd", "from": "1"},
            422,
            {"error": "Missing parameter to"},
        ),
        ("/coins/bitcoin/market_chart", {"vs_currency": "usd", "days": "²"}, 400, {"error": "invalid days"}),
        (
            "/coins/bitcoin/market_chart/range",
            {"vs_currency": "usd", "from": "inf", "to": "1"},
            400,
            {"error": "invalid from"},
        ),
        ("/coins/markets", {"vs_currency": "usd", "precision": "²"}, 400, {"error": "invalid precision"}),
        ("/coins/markets", {"vs_currency": "usd", "per_page": "²", "ids": "none"}, 200, []),
        ("/coins/bitcoin/ohlc", {"vs_currency": "usd", "days": "2"}, 400, {"error": "Invalid days parameter"}),
        ("/simple/price", {"vs_currencies": "usd"}, 422, {"error": "Missing parameter ids"}),
        ("/no/such/path", {}, 404, {"error": "Incorrect path. Please check https://www.coingecko.com/api/"}),
    ],
)
async def test_refusals(sandbox: Make, path: str, params: dict[str, str], status: int, body: dict[str, str]) -> None:
    answer = await sandbox().get(COINGECKO + path, **params)
    assert (answer.status_code, answer.json()) == (status, body)


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"days": "max"}, 10012),
        ({"days": "366"}, 10012),
        ({"days": "7", "interval": "hourly"}, 10005),
        ({"days": "1", "interval": "5m"}, 10005),
    ],
)
async def test_what_the_keyless_plan_does_not_have_is_refused(sandbox: Make, params: dict[str, str], code: int) -> None:
    answer = await sandbox().get(f"{COINGECKO}/coins/bitcoin/market_chart", vs_currency="usd", **params)
    assert answer.status_code == 401
    assert answer.json()["error"]["status"]["error_code"] == code


@pytest.mark.parametrize(
    ("days", "spacing", "count"),
    [(1, 300, 288), (2, 3_600, 48), (90, 3_600, 2_160), (91, 86_400, 91), (365, 86_400, 365)],
)
async def test_chart_granularity_follows_the_span(sandbox: Make, days: int, spacing: int, count: int) -> None:
    body = (await sandbox().get(f"{COINGECKO}/coins/bitcoin/market_chart", vs_currency="usd", days=days)).json()
    for points in body.values():
        times = [time for time, _ in points]
        assert times == sorted(set(times))
        assert len(points) in {count, count + 1}
        slots = [time // (spacing * 1_000) for time in times[:-1]]
        assert slots == list(range(slots[0], slots[0] + len(slots)))
        assert times[-1] == NOW
    if spacing == 86_400:
        assert all(time % DAY_MS == 0 for time, _ in body["prices"][:-1])


async def test_a_day_that_is_not_the_last_one_is_hourly(sandbox: Make) -> None:
    start = (NOW - 10 * DAY_MS) // 1_000
    params = {"vs_currency": "usd", "from": start, "to": start + 86_399}
    body = (await sandbox().get(f"{COINGECKO}/coins/bitcoin/market_chart/range", **params)).json()
    assert len(body["prices"]) == 24


async def test_a_range_in_the_future_is_empty(sandbox: Make) -> None:
    params = {"vs_currency": "usd", "from": NOW // 1_000 + 60, "to": NOW // 1_000 + 3_600}
    answer = await sandbox().get(f"{COINGECKO}/coins/bitcoin/market_chart/range", **params)
    assert answer.json() == {"prices": [], "market_caps": [], "total_volumes": []}


async def test_chart_values_are_the_market_s(sandbox: Make) -> None:
    world = sandbox()
    market = world.app.world.market
    for coin in ("bitcoin", "thin-1"):
        asset = next(a for a in market.assets if a.coin_id == coin)
        body = (await world.get(f"{COINGECKO}/coins/{coin}/market_chart", vs_currency="usd", days=1)).json()
        for time, price in body["prices"][::17]:
            assert price == market.price(asset.asset_id, time // 300_000 * 300_000)[0]
        snapshot = market.snapshot(body["prices"][100][0] // 300_000 * 300_000)
        row = market.row_of[asset.asset_id]
        assert body["total_volumes"][100][1] == pytest.approx(float(snapshot.volume[row]))
        assert body["market_caps"][100][1] == pytest.approx(float(snapshot.market_cap[row]))


@pytest.mark.parametrize(("days", "step"), [(1, 1_800), (7, 14_400), (30, 14_400), (90, 345_600), (365, 345_600)])
async def test_ohlc_stamps_are_close_times_of_closed_candles(sandbox: Make, days: int, step: int) -> None:
    world = sandbox()
    rows = (await world.get(f"{COINGECKO}/coins/bitcoin/ohlc", vs_currency="usd", days=days, precision="full")).json()
    market = world.app.world.market
    assert len(rows) == pytest.approx(days * 86_400 / step, abs=1.5)
    assert rows[-1][0] <= NOW
    for close_time, *prices in rows:
        assert close_time % (step * 1_000) == 0
        bar = market.candles(1, step, close_time - step * 1_000, close_time).bars
        assert prices == [bar.open.item(), bar.high.item(), bar.low.item(), bar.close.item()]


async def test_the_interval_of_ohlc_is_for_paid_keys_and_their_spans(sandbox: Make) -> None:
    world = sandbox()
    url, paid = f"{COINGECKO}/coins/bitcoin/ohlc", {"x-cg-pro-api-key": "CG-paid"}

    async def hourly(days: int, headers: dict[str, str] | None = None, interval: str = "hourly") -> httpx.Response:
        return await world.get(url, headers, vs_currency="usd", days=days, precision="full", interval=interval)

    assert (await hourly(7)).status_code == 401
    rows = (await hourly(7, paid)).json()
    assert {later[0] - row[0] for row, later in pairwise(rows)} == {3_600_000}
    assert len(rows) == pytest.approx(7 * 24, abs=1.5)
    assert rows[-1][0] <= NOW
    assert [(await hourly(*asked)).status_code for asked in ((180, paid), (365, paid, "daily"), (1, paid, "5m"))] == [
        400
    ] * 3


async def test_the_list_follows_lives_and_has_namesakes(sandbox: Make) -> None:
    world = sandbox()
    url = f"{COINGECKO}/coins/list"
    rows = (await world.get(url)).json()
    ids = {row["id"] for row in rows}
    assert "new-coin" in ids
    assert "old-coin" not in ids
    assert sum(row["symbol"] == "btc" for row in rows) > 1
    assert set(rows[0]) == {"id", "symbol", "name"}
    assert [row["id"] for row in (await world.get(url, status="inactive")).json()] == ["old-coin"]
    assert (await world.get(url, include_platform="true")).json()[0]["platforms"] == {}
    world.clock.advance(-11 * 86_400)
    before = {row["id"] for row in (await world.get(url)).json()}
    assert "old-coin" in before
    assert "new-coin" not in before


@pytest.mark.parametrize("url", [f"{COINGECKO}/coins/list", "/coinbase-exchange/products"])
async def test_unchanged_lists_answer_304(sandbox: Make, url: str) -> None:
    world = sandbox()
    first = await world.get(url)
    tag = first.headers["etag"]
    again = await world.get(url, headers={"if-none-match": tag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert (await world.get(url, headers={"if-none-match": 'W/"other"'})).status_code == 200
    world.clock.advance(-11 * 86_400)  # another list: before the rename
    assert (await world.get(url, headers={"if-none-match": tag})).status_code == 200


async def test_global_adds_up(sandbox: Make, shared_data: Path) -> None:
    world = sandbox()
    data: dict[str, Any] = (await world.get(f"{COINGECKO}/global")).json()["data"]
    recorded = json.loads((shared_data / "recorded" / "coingecko" / "api_v3_global.json").read_text())["data"]
    assert set(recorded) <= set(data)
    rows = (await world.get(MARKETS, vs_currency="usd", per_page=250)).json()
    assert data["active_cryptocurrencies"] == len(rows)
    assert data["total_market_cap"]["usd"] == pytest.approx(sum(row["market_cap"] for row in rows))
    assert data["total_volume"]["usd"] == pytest.approx(sum(row["total_volume"] for row in rows))
    assert data["updated_at"] == NOW // MINUTE_MS * 60
    assert len(data["market_cap_percentage"]) == 10


async def test_simple_price(sandbox: Make) -> None:
    body = (
        await sandbox().get(
            f"{COINGECKO}/simple/price", vs_currencies="usd", ids="bitcoin,nothing", include_24hr_change="true",
            include_last_updated_at="true", include_market_cap="true", include_24hr_vol="true",
        )
    ).json()  # fmt: skip
    assert set(body) == {"bitcoin"}
    assert set(body["bitcoin"]) == {"usd", "usd_market_cap", "usd_24h_vol", "usd_24h_change", "last_updated_at"}
    assert body["bitcoin"]["last_updated_at"] == NOW // MINUTE_MS * 60


async def test_ping(sandbox: Make) -> None:
    assert (await sandbox().get(f"{COINGECKO}/ping")).json() == {"gecko_says": "(V3) To the Moon!"}


async def test_our_parsers_read_every_answer_without_an_issue(sandbox: Make) -> None:
    world = sandbox()
    day = NOW - DAY_MS
    requests = [
        endpoint("coingecko.markets").request(["bitcoin", "tether", "thin-1"], NOW // 300_000 * 300_000),
        endpoint("coingecko.market_chart").request("bitcoin", day, NOW),
        endpoint("coingecko.ohlc").request("bitcoin", 7),
        endpoint("coingecko.coins_list").request(),
        endpoint("coingecko.global").request(),
    ]
    for request in requests:
        parsed = endpoint(request.endpoint).parse(await ask(world, request))
        assert parsed.rows, request.endpoint
        assert parsed.issues == (), request.endpoint
        assert parsed.missing == (), request.endpoint

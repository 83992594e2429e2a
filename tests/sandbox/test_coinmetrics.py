"""Coin Metrics, simulated: published the day after, corrected once, in pages that join."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_app.clock import DAY_MS, HOUR_MS
from ray_app.collection.feeds import Feed
from ray_app.collection.polls import Note
from ray_app.sandbox.coinmetrics import published_at
from ray_app.sources import ENDPOINTS, Request, Row
from ray_app.sources.coinmetrics import COMPLETION, NAMES
from tests.sandbox.conftest import NOW
from tests.sandbox.onchain import Make, asked, by_metric, parsed

SOURCE = ENDPOINTS["coinmetrics.asset_metrics"]
TODAY = NOW // DAY_MS
ALL = (*NAMES, COMPLETION)


def request(*assets: str, back: int = 6, page_size: int = 1_000) -> Request:
    return SOURCE.request(assets or ("btc", "eth"), ALL, (TODAY - back) * DAY_MS, page_size=page_size)


async def test_our_parser_reads_every_metric_and_the_market_s_price(sandbox: Make) -> None:
    world = sandbox(now=TODAY * DAY_MS + 9 * HOUR_MS)
    found = await parsed(world, request())
    last = {
        metric: value
        for (coin, metric, at), value in by_metric(found).items()
        if coin == "bitcoin" and at == TODAY * DAY_MS
    }
    assert set(last) == {metric for metric, _ in NAMES.values()}
    close = world.app.world.market.candles(1, 86_400, (TODAY - 1) * DAY_MS, TODAY * DAY_MS).bars.close[0]
    assert last["price_usd"] == pytest.approx(close, rel=1e-9)
    assert last["market_cap_usd"] == pytest.approx(last["price_usd"] * last["circulating_supply"], rel=1e-9)
    assert 1e20 < last["hash_rate"] < 1e22
    assert {row.values["known_at"] for row in found.rows} == {
        published_at(7, asset, day) // 1_000 * 1_000 for asset in ("btc", "eth") for day in range(TODAY - 6, TODAY)
    }


@pytest.mark.parametrize("page_size", [1, 5, 7])
async def test_pages_join_without_loss(sandbox: Make, page_size: int) -> None:
    world = sandbox(now=TODAY * DAY_MS + 9 * HOUR_MS)
    whole = await parsed(world, request("btc", "eth", "doge"))
    rows: list[Row] = []
    following, pages = request("btc", "eth", "doge", page_size=page_size), 0
    while following is not None:
        page = await parsed(world, following)
        rows = [*page.rows, *rows]
        following, pages = page.next, pages + 1
    assert tuple(rows) == whole.rows
    assert pages == -(-18 // page_size)


async def test_a_poll_ends_with_the_last_page_and_covers_what_was_missed(sandbox: Make) -> None:
    world = sandbox(now=TODAY * DAY_MS + 9 * HOUR_MS)
    since, step = (TODAY - 6) * DAY_MS + 5 * HOUR_MS, 6 * HOUR_MS
    asked_for = request(back=6, page_size=5)
    feed = Feed("x", "coinmetrics", 6 * 3_600, "history", lambda _: asked_for, pages=40)
    note, following, items = Note.of("onchain", feed, TODAY * DAY_MS, TODAY * DAY_MS - step, since), asked_for, 0
    while True:
        page = await parsed(world, following)
        items += len({(row.key["coin_id"], row.key["event_time"]) for row in page.rows})
        if note.ends(page) or page.next is None:
            break
        assert note.slots(page) == []
        following = page.next
    assert page.next is None
    assert items == 2 * 6
    assert note.slots(page) == [TODAY * DAY_MS - step, TODAY * DAY_MS]


@pytest.mark.parametrize("sort", ["time", "asset"])
async def test_pages_from_the_start_hold_the_same_items(sandbox: Make, sort: str) -> None:
    world = sandbox(now=TODAY * DAY_MS + 9 * HOUR_MS)
    first = request(page_size=5)
    _, whole = await asked(world, request(), sort=sort)
    items: list[object] = []
    token = None
    while token != "":
        more = {"next_page_token": token} if token else {}
        _, body = await asked(world, first, sort=sort, paging_from="start", **more)
        items = [*items, *body["data"]]
        token = body.get("next_page_token", "")
    assert items == whole["data"]


async def test_a_day_appears_hours_into_the_next_one(sandbox: Make) -> None:
    world = sandbox(now=TODAY * DAY_MS + 2 * HOUR_MS)
    before = await parsed(world, request("btc"))
    world.clock.advance(7 * 3_600)
    after = await parsed(world, request("btc"))
    ends = [max(row.key["event_time"] for row in found.rows) for found in (before, after)]  # type: ignore[type-var]
    assert ends == [(TODAY - 1) * DAY_MS, TODAY * DAY_MS]


async def test_the_past_stays_but_for_one_correction(sandbox: Make) -> None:
    metrics = ("AdrActCnt", "TxTfrCnt", "FlowInExUSD", "FlowOutExUSD", "TxCnt", "PriceUSD", "HashRate")
    days = SOURCE.request(("btc", "eth"), metrics, (TODAY - 6) * DAY_MS, (TODAY - 1) * DAY_MS)
    states = []
    for hours in (9, 9 + 24, 9 + 48, 9 + 24 * 30):
        states.append(by_metric(await parsed(sandbox(now=TODAY * DAY_MS + hours * HOUR_MS), days)))
    changed = {key for key, value in states[0].items() if states[1][key] != value}
    assert changed
    assert {at for _, _, at in changed} <= {TODAY * DAY_MS, (TODAY - 1) * DAY_MS}
    assert {metric for _, metric, _ in changed} <= {
        "active_addresses",
        "transfer_count",
        "exchange_inflow_usd",
        "exchange_outflow_usd",
    }
    assert states[2] == states[3]


async def test_refusals(sandbox: Make) -> None:
    world, plain = sandbox(), request()
    for changes, status, kind in (
        ({"assets": "nope"}, 400, "bad_parameter"),
        ({"assets": ""}, 400, "bad_parameter"),
        ({"metrics": "Nope"}, 400, "bad_parameter"),
        ({"metrics": "CapRealUSD"}, 403, "forbidden"),
        ({"page_size": "0"}, 400, "bad_parameter"),
        ({"start_time": "soon"}, 400, "bad_parameter"),
        ({"next_page_token": "0.zzz"}, 400, "bad_parameter"),
        ({"frequency": "1b"}, 400, "bad_parameter"),
    ):
        strict = {k: v for k, v in plain.params.items() if not k.startswith("ignore")}
        got, body = await asked(world, replace(plain, params={**strict, **changes}))
        assert (got, body["error"]["type"]) == (status, kind), changes
    _, body = await asked(world, replace(plain, params={**plain.params, "metrics": "CapRealUSD,TxCnt"}))
    assert set(body["data"][0]) == {"asset", "time", "TxCnt"}


async def test_another_process_and_another_moment_say_the_same(sandbox: Make) -> None:
    first = await asked(sandbox(), request(back=40))
    again = await asked(sandbox(), request(back=40))
    assert first == again
    other = await asked(sandbox(seed=8), request(back=40))
    assert other != first

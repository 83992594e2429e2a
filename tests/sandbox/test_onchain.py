"""Blockchain.com, mempool.space, Etherscan, Blockchair, DeFiLlama and fear and greed, simulated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ray_app.assets import AssetRegistry
from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS, to_ms
from ray_app.collection.catalogue.onchain import fear_greed_feeds, onchain_feeds
from ray_app.collection.feeds import Ask
from ray_app.sandbox.answers import SimulatedEndpoint
from ray_app.sandbox.blockchain_com import CHARTS
from ray_app.sandbox.defillama import CHAINS as SIMULATED_CHAINS
from ray_app.sandbox.onchain_series import wave
from ray_app.settings import Settings
from ray_app.sources import ENDPOINTS, Exchange, Request, blockchair, defillama
from ray_app.sources.onchain import DISAGREEMENTS
from tests.sandbox.conftest import NOW
from tests.sandbox.onchain import Make, asked, by_metric, parsed

TODAY = NOW // DAY_MS
MORNING = TODAY * DAY_MS + 15 * HOUR_MS


def plain(name: str, *args: object) -> Request:
    return ENDPOINTS[name].request(*args)


SNAPSHOTS = [
    plain("blockchain_com.stats"),
    plain("mempool.fees"),
    plain("mempool.mempool"),
    plain("mempool.difficulty_adjustment"),
    plain("etherscan.gas_oracle"),
    plain("etherscan.eth_supply"),
    plain("etherscan.eth_price"),
    *(plain("blockchair.stats", chain) for chain in blockchair.CHAINS),
    plain("defillama.chains"),
]
HISTORIES = [
    plain("blockchain_com.chart", "hash-rate", MORNING - 40 * DAY_MS, MORNING),
    plain("blockchain_com.chart", "n-unique-addresses", MORNING - 40 * DAY_MS, MORNING),
    plain("blockchain_com.chart", "total-bitcoins", MORNING - 40 * DAY_MS, MORNING),
    plain("blockchain_com.chart", "market-price", MORNING - 40 * DAY_MS, MORNING),
    plain("mempool.hashrate", "1m"),
    plain("defillama.chain_tvl", "Ethereum"),
    plain("defillama.total_tvl"),
    plain("defillama.stablecoins"),
    plain("alternative_me.fng", 40),
]


async def test_our_parsers_read_every_answer_and_another_sandbox_says_the_same(sandbox: Make) -> None:
    one, same, other = sandbox(now=MORNING), sandbox(now=MORNING), sandbox(now=MORNING, seed=8)
    differ = 0
    for request in [*SNAPSHOTS, *HISTORIES]:
        found = await parsed(one, request)
        assert found.rows, request
    for request in [*HISTORIES, *SNAPSHOTS]:  # in another order
        assert await parsed(one, request) == await parsed(same, request)
        differ += await parsed(one, request) != await parsed(other, request)
    assert differ >= len(SNAPSHOTS) + len(HISTORIES) - 2  # supplies do not depend on the seed


async def test_the_past_never_changes(sandbox: Make) -> None:
    world = sandbox(now=MORNING)

    async def stated(request: Request) -> dict[str, object]:
        rows = (await parsed(world, request)).rows
        return {str({**row.key, "version": 0, "vintage": 0}): row.values["value"] for row in rows}

    before = [await stated(request) for request in HISTORIES]
    world.clock.advance(40 * 3_600)
    for request, earlier in zip(HISTORIES, before, strict=True):
        later = await stated(request)
        kept = set(earlier) & set(later)
        assert len(kept) >= len(earlier) - 3, request  # those that ask for a number of days lose the oldest
        assert {key: earlier[key] for key in kept} == {key: later[key] for key in kept}, request
        assert set(later) - set(earlier) or request.endpoint == "blockchain_com.chart"  # asked up to MORNING


async def test_snapshots_move_smoothly(sandbox: Make) -> None:
    world = sandbox(now=MORNING)
    states: list[dict[object, float]] = []
    for _ in range(3):
        moment: dict[object, float] = {}
        for request in SNAPSHOTS:
            found = by_metric(await parsed(world, request))
            moment |= {(request.endpoint, coin, metric): value for (coin, metric, _), value in found.items()}
        states.append(moment)
        world.clock.advance(900)
    for name, value in states[0].items():
        for later in states[1:]:
            assert abs(later[name] - value) <= 0.3 * abs(value) + 4, name


async def test_sources_of_one_metric_agree_within_their_tolerance(sandbox: Make) -> None:
    world = sandbox(now=MORNING)
    metrics = ("AdrActCnt", "TxCnt", "HashRate", "SplyCur", "CapMrktCurUSD")
    requests = [
        plain("coinmetrics.asset_metrics", ("btc", "eth"), metrics, (TODAY - 1) * DAY_MS),
        plain("blockchair.stats", "bitcoin"),
        plain("blockchair.stats", "ethereum"),
        plain("etherscan.eth_supply"),
        plain("defillama.chains"),
        plain("defillama.chain_tvl", "Ethereum"),
        plain("mempool.hashrate", "1m"),
    ]
    charts = ("n-unique-addresses", "n-transactions", "hash-rate", "difficulty", "total-bitcoins", "market-cap")
    requests += [plain("blockchain_com.chart", chart, (TODAY - 1) * DAY_MS, MORNING) for chart in charts]
    latest: dict[tuple[object, object], dict[str, float]] = {}
    for request in requests:
        for (coin, metric, _), value in by_metric(await parsed(world, request)).items():
            latest.setdefault((coin, metric), {})[request.endpoint] = value
    compared = 0
    for one in DISAGREEMENTS:
        for coin in ("bitcoin", "ethereum"):
            stated = latest.get((coin, one.metric), {})
            values = [stated[source] for source in one.sources if source in stated]
            if len(values) > 1:
                middle = sorted(values)[len(values) // 2]
                assert max(abs(value / middle - 1) for value in values) <= one.tolerance, (one.metric, stated)
                compared += 1
    assert compared >= 9


async def test_a_supply_beyond_64_bits_is_written_and_read(sandbox: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Koinu of Dogecoin: 1e8 to a coin, and more coins than any other chain."""
    monkeypatch.setattr("ray_app.sandbox.blockchair.supply", lambda *_: 3e11)
    world, request = sandbox(now=MORNING), plain("blockchair.stats", "dogecoin")
    answer = await world.get("/blockchair/dogecoin/stats")
    assert answer.status_code == 200
    exchange = Exchange(request, 200, {}, answer.content, world.clock.now_ms())
    coins = {row.key["metric"]: row.values["value"] for row in ENDPOINTS[request.endpoint].parse(exchange).rows}
    assert coins["circulating_supply"] == pytest.approx(3e11)


async def test_charts_are_published_late_sampled_and_refused(sandbox: Make) -> None:
    world = sandbox(now=TODAY * DAY_MS + HOUR_MS)
    _, body = await asked(world, Request("blockchain_com.chart", "/charts/n-transactions", {"timespan": "5days"}))
    assert [point["x"] * 1_000 // DAY_MS for point in body["values"]] == [TODAY - 4, TODAY - 3, TODAY - 2]
    _, body = await asked(world, Request("blockchain_com.chart", "/charts/hash-rate", {"timespan": "all"}))
    assert len(body["values"]) <= 1_500
    for chart in CHARTS:
        status, body = await asked(world, Request("blockchain_com.chart", f"/charts/{chart}", {"timespan": "1week"}))
        assert (status, body["status"]) == (200, "ok")
        assert body["values"]
    assert await asked(world, Request("blockchain_com.chart", "/charts/nothing")) == (404, {"status": "not-found"})
    status, _ = await asked(world, Request("blockchain_com.chart", "/charts/hash-rate", {"timespan": "soon"}))
    assert status == 400


async def test_the_hash_rate_of_yesterday_comes_within_the_hour(sandbox: Make) -> None:
    world = sandbox(now=TODAY * DAY_MS + 5 * MINUTE_MS)
    ends = []
    for _ in range(2):
        rows = (await parsed(world, plain("mempool.hashrate", "1w"))).rows
        ends.append(max(row.key["event_time"] for row in rows if row.key["metric"] == "hash_rate"))  # type: ignore[type-var]
        world.clock.advance(3_600)
    assert ends == [(TODAY - 1) * DAY_MS, TODAY * DAY_MS]


async def test_etherscan_refuses_inside_http_200(sandbox: Make) -> None:
    world, good = sandbox(), plain("etherscan.gas_oracle")
    for changes, words in (
        ({"chainid": "7"}, "chainid"),
        ({"apikey": ""}, "API Key"),
        ({"module": "x"}, "Module"),
        ({"action": "x"}, "Action"),
    ):
        status, body = await asked(world, good, **changes)
        assert (status, body["status"], body["message"]) == (200, "0", "NOTOK")
        assert words in body["result"]
    _, body = await asked(
        world, Request(good.endpoint, "/api", {"chainid": "1", "module": "stats", "action": "ethsupply"})
    )
    assert body["result"].isdigit()


async def test_blockchair_and_defillama_refuse_chains_they_have_not(sandbox: Make) -> None:
    status, body = await asked(sandbox(), Request("blockchair.stats", "/nothing/stats"))
    assert (status, body["context"]["code"], body["data"]) == (404, 404, None)
    status, _ = await asked(sandbox(), Request("defillama.chain_tvl", "/v2/historicalChainTvl/nothing"))
    assert status == 400


async def test_every_feed_is_answered_and_read(sandbox: Make) -> None:
    world = sandbox(now=MORNING)
    settings = Settings(_env_file=None)
    registry = AssetRegistry.seed()
    feeds = [*onchain_feeds(settings, registry), *fear_greed_feeds(settings, registry)]
    histories = [feed for feed in feeds if feed.subject.startswith("defillama.chain_tvl/")]
    for feed in [feed for feed in feeds if feed not in histories[2:]]:
        found = await parsed(world, feed.ask(Ask(MORNING - 3 * DAY_MS, MORNING)))
        assert found.rows or "market" in feed.subject, feed.subject
    assert set(defillama.CHAINS) <= {name for name, *_ in SIMULATED_CHAINS}
    assert {feed.subject.split("/", 1)[1] for feed in histories} <= set(defillama.CHAINS)
    found = by_metric(await parsed(world, plain("defillama.chains")))
    assert set(defillama.CHAINS.values()) <= {coin for coin, _, _ in found}


async def test_every_feed_is_answered_where_a_file_is_replayed(sandbox: Make, replay_file: Path) -> None:
    world = sandbox(now=MORNING, replay=replay_file)
    settings, registry = Settings(_env_file=None), AssetRegistry.seed()
    feeds = [*onchain_feeds(settings, registry), *fear_greed_feeds(settings, registry)]
    for feed in [feed for feed in feeds if not feed.subject.startswith("defillama.chain_tvl/")]:
        await parsed(world, feed.ask(Ask(MORNING - 3 * DAY_MS, MORNING)))


async def test_a_history_of_value_locked_has_every_day_up_to_today_which_moves(sandbox: Make) -> None:
    world, request = sandbox(now=MORNING), plain("defillama.chain_tvl", "Ethereum")
    _, early = await asked(world, request)
    world.clock.advance(3_600)
    _, later = await asked(world, request)
    assert [point["date"] // 86_400 for point in early] == list(range(19_723, TODAY + 1))
    assert early[:-1] == later[:-1]
    assert early[-1] != later[-1]


async def test_fear_and_greed_in_every_form(sandbox: Make) -> None:
    world = sandbox(now=MORNING)
    everything = (await parsed(world, plain("alternative_me.fng", 0))).rows
    assert everything[-1].key["event_time"] == 1_517_443_200_000  # 2018-02-01
    assert len(everything) == TODAY - 17_563 + 1
    assert {row.values["classification"] for row in everything} >= {"Fear", "Greed", "Extreme Fear"}
    _, body = await asked(world, Request("alternative_me.fng", "/fng/"))
    assert len(body["data"]) == 1
    assert 0 < int(body["data"][0]["time_until_update"]) <= 86_400
    _, body = await asked(world, Request("alternative_me.fng", "/fng/", {"date_format": "us"}))
    assert body["data"][0]["timestamp"] == "11-24-2026"
    _, body = await asked(world, Request("alternative_me.fng", "/fng/", {"limit": "x"}))
    assert body["metadata"]["error"]


async def test_a_real_fear_and_greed_keeps_its_holes_and_starts_over(sandbox: Make, tmp_path: Path) -> None:
    def day(text: str) -> int:
        from datetime import datetime

        return to_ms(datetime.fromisoformat(f"{text}T00:00:00+00:00"))

    # the node first starts at NOW, 2026-11-24, which is 19 days after the file's end: it moves by two weeks
    file = tmp_path / "fear_greed_x.csv"
    file.write_text("date,value\n2026-11-01,40.0\n2026-11-02,41.0\n2026-11-05,44.0\n")
    world = sandbox(now=day("2026-11-26") + 15 * HOUR_MS, replay_macro=tmp_path)
    rows = (await parsed(world, plain("alternative_me.fng", 0))).rows
    assert {row.key["event_time"]: row.values["value"] for row in rows} == {
        day("2026-11-15"): 40.0,
        day("2026-11-16"): 41.0,
        day("2026-11-19"): 44.0,
        day("2026-11-20"): 40.0,
        day("2026-11-21"): 41.0,
        day("2026-11-24"): 44.0,
        day("2026-11-25"): 40.0,
        day("2026-11-26"): 41.0,
    }


@pytest.mark.shared_data
async def test_the_real_file_is_replayed_with_its_hole(sandbox: Make, shared_data: Path) -> None:
    world = sandbox(now=MORNING, replay_macro=shared_data / "market")
    rows = (await parsed(world, plain("alternative_me.fng", 0))).rows
    moved = 91 * DAY_MS  # the file ends on 2026-08-22
    times = {row.key["event_time"] for row in rows}
    assert 1_722_124_800_000 + moved in times  # 2024-07-28
    assert not {1_767_484_800_000 + n * DAY_MS + moved for n in range(1, 100)} & times  # from 2026-01-05 on
    assert rows[-1].values["value"] == 63.0


def test_a_figure_is_the_same_alone_and_among_others() -> None:
    times = np.arange(20_000, 20_400, dtype=np.int64) * DAY_MS + 5 * HOUR_MS
    together = wave(7, "x", times, 100.0)
    alone = [wave(7, "x", times[n : n + 1], 100.0)[0] for n in (0, 17, 399)]
    assert alone == [together[n] for n in (0, 17, 399)]
    assert (together > 0).all()
    assert np.abs(np.diff(np.log(together))).max() < 0.15


def test_endpoints_are_named_as_ours() -> None:
    from ray_app.sandbox import alternative_me, blockchain_com, coinmetrics, mempool
    from ray_app.sandbox import blockchair as simulated_blockchair
    from ray_app.sandbox import defillama as simulated_defillama

    modules = (alternative_me, blockchain_com, coinmetrics, mempool, simulated_blockchair, simulated_defillama)
    simulated: list[SimulatedEndpoint] = [one for module in modules for one in module.ENDPOINTS]
    ours = {(one.account, name.split(".")[1]) for name, one in ENDPOINTS.items()}
    assert {(one.source, one.name) for one in simulated} <= ours

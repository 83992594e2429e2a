"""The ledger and what CoinGecko says of the key, over real HTTP against the sandbox."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict

import httpx
import pytest
from pydantic import SecretStr

from ray_app.collection import spending
from ray_app.collection.budget_rules import next_month
from ray_app.collection.collectors import collector
from ray_app.collection.control import holding
from ray_app.health.collect import collect_evidence
from ray_app.sandbox.request_log import read_log
from tests.collection.world import DAY, HOUR, MINUTE, START, JumpingClock, world

pytestmark = pytest.mark.integration
KEY = "CG-paid-0123456789"


@contextlib.asynccontextmanager
async def paying(tmp_path, at=START + MINUTE, **settings):
    """A node with a paid key, and its two collectors that ask CoinGecko."""
    values = {"coingecko_plan": "analyst", "coingecko_api_key": SecretStr(KEY), **settings}
    with world(tmp_path, f"sqlite:///{tmp_path}/node.db", clock=JumpingClock(at, 10.0), **values) as place:
        async with await place.open("asset-registry") as runtime, holding(runtime, "asset-registry", "test"):
            yield place, runtime, collector("asset-registry")(runtime)


async def others_spend(place, calls: int, key: str = KEY) -> None:
    """Another tool on the same key."""
    async with httpx.AsyncClient(headers={"x-cg-pro-api-key": key}) as http:
        for _ in range(calls):
            (await http.get(f"{place.url}/coingecko/api/v3/ping")).raise_for_status()


def seen(place, runtime) -> spending.Outlook:
    limits, now = runtime.upstreams["coingecko"].limits, place.clock.now_ms()
    spent = runtime.budgets.spent("coingecko")
    with runtime.db.read() as conn:
        return spending.outlook(conn, "coingecko", runtime.registry, place.settings, limits, spent, now)


async def test_what_others_spend_with_the_key_is_in_the_ledger_the_forecast_and_health(tmp_path):
    async with paying(tmp_path) as (place, runtime, acting):
        await acting.poll()
        first = seen(place, runtime)
        assert (first.forecast.spent, first.remarks) == (3, ()), "the key, the coins, the market"
        await others_spend(place, 40)
        place.clock.go_to(START + DAY + HOUR)
        before = seen(place, runtime)
        await acting.poll()
        after = seen(place, runtime)
        assert len(place.requests("key")) == 2
        assert after.forecast.spent >= 40 + len([r for r in place.requests() if r["endpoint"] in {"key", "coins_list"}])
        assert after.forecast.projected >= before.forecast.projected + 40
        assert after.remarks == ("others have spent 40 credits with this key since the look before",)
        evidence = collect_evidence(runtime.db, place.clock, place.settings, up_since=START)
        assert next(a for a in evidence.accounts if a.account == "coingecko").remarks == after.remarks


async def test_the_node_stops_where_the_plan_ends_whoever_spent_it(tmp_path):
    """60 credits a month, 50 of which another tool spends: the sandbox never sees more than 60 calls with the key."""
    async with paying(tmp_path, coingecko_monthly_limit=60) as (place, runtime, acting):
        await others_spend(place, 50)
        await acting.poll()
        assert runtime.budgets.spent("coingecko") >= 51
        now = place.clock.now_ms()
        for hours in range(1, 30):
            place.clock.go_to(now + hours * HOUR)
            await acting.poll()
        calls = [entry for entry in read_log(place.log_file) if entry.caller is not None]
        assert len(calls) <= 60
        assert runtime.budgets.spent("coingecko") <= 60


async def test_the_key_is_asked_for_at_the_start_daily_and_hourly_after_refusals_only(tmp_path):
    async with paying(tmp_path) as (place, runtime, acting):
        await acting.poll()
        for hours in range(1, 20):
            place.clock.go_to(START + hours * HOUR)
            await acting.poll()
        assert len(place.requests("key")) == 1
        again = collector("asset-registry")(runtime)
        await again.poll()
        assert len(place.requests("key")) == 2, "a new process asks"
        place.clock.go_to(START + 20 * HOUR)
        await again.poll()
        assert len(place.requests("key")) == 2


async def test_a_refusal_we_cannot_explain_makes_us_ask_once_an_hour(tmp_path):
    faults = 'faults: [{source: coingecko, endpoint: global, from: "+1h", kind: rate_limit, retry_after: 5}]'
    async with paying(tmp_path, faults=faults, max_retry_attempts=0) as (place, _, acting):
        await acting.poll()
        for quarter in range(4, 4 * 8):
            place.clock.go_to(START + quarter * 15 * MINUTE)
            await acting.poll()
        assert 3 <= len(place.requests("key")) <= 7


@pytest.mark.parametrize("plan", [{"coingecko_plan": "demo"}, {"coingecko_plan": None, "coingecko_api_key": None}])
async def test_without_a_paid_plan_nobody_asks(tmp_path, plan):
    async with paying(tmp_path, **plan) as (place, _, acting):
        assert (await acting.poll()).owed == 0
        assert place.requests("key") == []


async def test_at_the_turn_of_a_month_the_count_may_be_of_either_and_is_not_asked_for(tmp_path):
    turn = next_month(START)
    async with paying(tmp_path, at=turn + 5 * MINUTE) as (place, runtime, acting):
        await acting.poll()
        assert place.requests("key") == []
        place.clock.go_to(turn + HOUR)
        await acting.poll()
        assert len(place.requests("key")) == 1
        assert runtime.budgets.spent("coingecko") < 10


async def test_a_plan_that_allows_less_than_we_assume_is_kept_to_and_said(tmp_path):
    async with paying(tmp_path, coingecko_plan="pro") as (place, runtime, acting):
        await acting.poll()
        prices = collector("crypto-prices")
        with runtime.db.read() as conn:
            _, usage = spending.load(conn)
        assert (usage.plan, usage.credits, usage.per_minute) == ("Analyst", 500_000, 500)
        found = seen(place, runtime)
        assert found.forecast.limit == 500_000
        assert "the key has 500000 credits a month, not 5000000: set COINGECKO_PLAN" in found.remarks
        assert any("500 requests a minute" in remark for remark in found.remarks)
        assert prices.name == "crypto-prices"


async def test_the_key_itself_is_nowhere_in_what_is_kept(tmp_path):
    async with paying(tmp_path) as (place, runtime, acting):
        await acting.poll()
        with runtime.db.read() as conn:
            _, usage = spending.load(conn)
        assert KEY not in json.dumps(asdict(usage))
        kept = [exchange for _, _, exchange in runtime.archive.scan("coingecko.key")]
        assert len(kept) == 1, "it is archived as every answer is"
        assert KEY not in repr(kept)
        assert KEY not in place.log_file.read_text()


async def test_a_sandbox_that_starts_again_goes_on_counting(tmp_path):
    async with paying(tmp_path) as (place, _, _acting):
        await others_spend(place, 3)
    async with paying(tmp_path, at=START + HOUR) as (place, _, acting):
        await others_spend(place, 1, "CG-somebody-else")
        await acting.poll()
        (answer,) = place.requests("key")
        assert answer["status"] == 200
    async with paying(tmp_path, at=START + 2 * HOUR) as (place, _, _acting):
        async with httpx.AsyncClient(headers={"x-cg-pro-api-key": KEY}) as http:
            said = (await http.get(f"{place.url}/coingecko/api/v3/key")).json()
        mine = [entry for entry in read_log(place.log_file) if entry.caller == read_log(place.log_file)[0].caller]
        assert said["current_total_monthly_calls"] == len(mine)
        async with httpx.AsyncClient() as http:
            refused = await http.get(f"{place.url}/coingecko/api/v3/key")
        assert (refused.status_code, refused.json()["error"]["status"]["error_code"]) == (401, 10002)

from __future__ import annotations

from collections import Counter
from datetime import datetime

import pytest

from ray_app.assets import AssetRegistry
from ray_app.clock import DAY_MS, to_ms
from ray_app.collection import planner, spending
from ray_app.collection.accounts import ACCOUNTS
from ray_app.collection.budget_rules import next_month
from ray_app.collection.collectors.registry import schedules
from ray_app.collection.datasets import price_tiers
from ray_app.collection.upstreams import (
    COINBASE_EXCHANGE,
    COINGECKO_PLANS,
    build_upstreams,
    limits_of,
    refuse_live_upstreams,
)
from ray_app.errors import ConfigError
from ray_app.settings import Settings
from ray_app.sources.coingecko_base import MAX_IDS

KEY = "CG-secret-0123456789"


def settings(**overrides) -> Settings:
    return Settings(_env_file=None, **overrides)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for name in ("API_KEY", "PLAN", "REQUESTS_PER_MINUTE", "MONTHLY_LIMIT", "BASE_URL"):
        monkeypatch.delenv(f"COINGECKO_{name}", raising=False)


@pytest.mark.parametrize(
    ("plan", "key", "host", "header"),
    [
        (None, None, "https://api.coingecko.com/api/v3", None),
        (None, KEY, "https://api.coingecko.com/api/v3", "x-cg-demo-api-key"),
        ("demo", KEY, "https://api.coingecko.com/api/v3", "x-cg-demo-api-key"),
        ("keyless", KEY, "https://api.coingecko.com/api/v3", None),
        ("analyst", KEY, "https://pro-api.coingecko.com/api/v3", "x-cg-pro-api-key"),
        ("enterprise", KEY, "https://pro-api.coingecko.com/api/v3", "x-cg-pro-api-key"),
    ],
)
def test_each_plan_has_its_host_and_header(plan, key, host, header):
    coingecko = build_upstreams(settings(coingecko_plan=plan, coingecko_api_key=key))["coingecko"]
    assert coingecko.base_url == host
    assert dict(coingecko.headers) == ({header: KEY} if header else {})
    assert KEY not in repr(coingecko)


def test_no_budget_is_above_what_the_upstream_documents():
    documented = {"demo": 30, "analyst": 500, "lite": 500, "pro": 1_000, "enterprise": 1_000, "keyless": 15}
    for plan, limits in COINGECKO_PLANS.items():
        assert limits.requests / limits.per_s * 60 < documented[plan]
    assert COINBASE_EXCHANGE.requests / COINBASE_EXCHANGE.per_s < 10
    accounts = limits_of(build_upstreams(settings()))
    assert accounts["coinbase-v2"].requests / accounts["coinbase-v2"].per_s * 3_600 < 10_000
    assert set(accounts) == {"coingecko", "coinbase", "coinbase-v2", *(account.name for account in ACCOUNTS)}


def test_the_operators_numbers_win():
    limits = limits_of(build_upstreams(settings(coingecko_requests_per_minute=3, coingecko_monthly_limit=77)))[
        "coingecko"
    ]
    assert (limits.requests, limits.lanes, limits.monthly) == (3, 3, 77)


def test_base_urls_lose_their_trailing_slash():
    upstreams = build_upstreams(settings(coingecko_base_url="http://127.0.0.1:1/coingecko/api/v3/"))
    assert upstreams["coingecko"].base_url == "http://127.0.0.1:1/coingecko/api/v3"


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "clé"])
def test_a_key_that_no_header_can_carry_is_named_but_not_quoted(key):
    with pytest.raises(ConfigError, match="COINGECKO_API_KEY") as caught:
        build_upstreams(settings(coingecko_api_key=key))
    assert key not in str(caught.value)


@pytest.mark.parametrize("month", ["2027-02", "2028-02", "2026-11", "2026-12"])
def test_a_month_of_live_polling_of_the_whole_registry_fits_the_keyless_plan(month):
    """Counted slot by slot from the schedules the collectors follow, not from the formula."""
    begins = to_ms(datetime.fromisoformat(f"{month}-01T00:00:00+00:00"))
    ends = next_month(begins)
    assets = AssetRegistry.seed().active(begins)
    calls = Counter()
    for tier in price_tiers(assets, settings(), begins):
        slots = len(range(begins, ends, tier.schedule.interval_ms))
        calls["prices"] += slots * -(-len(tier.assets) // MAX_IDS)
    for source, schedule in schedules():
        if source.startswith("coingecko."):
            calls[source] += len(range(begins, ends, schedule.interval_ms))
    days = (ends - begins) // DAY_MS
    assert days in {28, 29, 30, 31}
    keyless = COINGECKO_PLANS["keyless"]
    decision = planner.decide(spending.wanted(len(assets), settings()), keyless, 0, begins)
    assert decision.thinned() == []
    assert sum(calls.values()) == decision.need(begins, ends)
    assert sum(calls.values()) < COINGECKO_PLANS["keyless"].monthly
    assert calls["coingecko.global"] == 8 * days


URLS = ("coingecko_base_url", "coinbase_exchange_base_url", "coinbase_api_base_url")


@pytest.mark.parametrize("forgotten", URLS)
def test_real_prices_never_end_among_simulated_ones(forgotten):
    local = dict.fromkeys(URLS, "http://127.0.0.1:9")
    complete = settings(origin="sandbox", **local)
    refuse_live_upstreams(complete, build_upstreams(complete))
    del local[forgotten]
    incomplete = settings(origin="sandbox", **local)
    with pytest.raises(ConfigError, match=r"is not the sandbox.*crypto-data up --upstream sandbox"):
        refuse_live_upstreams(incomplete, build_upstreams(incomplete))
    refuse_live_upstreams(settings(), build_upstreams(settings()))

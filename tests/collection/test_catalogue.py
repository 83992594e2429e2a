"""All feeds together: named once, asked of accounts that exist, and within every free plan for a month."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from ray_app.assets import AssetRegistry
from ray_app.clock import DAY_MS
from ray_app.collection import spending
from ray_app.collection.accounts import ACCOUNTS
from ray_app.collection.catalogue import CATALOGUE
from ray_app.collection.collectors.everything import FEED_COLLECTORS
from ray_app.collection.datasets import FEED_DATASETS
from ray_app.collection.feeds import Ask, subject_id
from ray_app.collection.planner import decide
from ray_app.collection.upstreams import coingecko_limits
from ray_app.settings import Settings
from ray_app.sources import ENDPOINTS

SETTINGS = Settings(_env_file=None)
FEEDS = {dataset: feeds(SETTINGS, AssetRegistry.seed()) for dataset, feeds in CATALOGUE.items()}
PAID = Settings(_env_file=None, coingecko_plan="analyst", coingecko_api_key="CG-0123456789")
#: 2026-12-01T00:00:00Z: a month of 31 days begins
MONTH = 1_796_083_200_000
#: requests that a free plan allows in 31 days, by what the upstream documents (shared/upstreams.md)
FREE = {
    "fred": 120 * 60 * 24 * 31,
    "guardian": 500 * 31,
    "reddit": 100 * 60 * 24 * 31,
    "coinmetrics": 100 * 60 * 24 * 31,
    "blockchain_com": 6 * 60 * 24 * 31,
    "etherscan": 100_000 * 31,
    "blockchair": 1_440 * 31,
    "alternative_me": 60 * 60 * 24 * 31,
}


def asked_in_a_month() -> Counter[str]:
    asked: Counter[str] = Counter()
    for feeds in FEEDS.values():
        for feed in feeds:
            asked[feed.account] += round(31 * 86_400 / feed.interval_s)
    return asked


@pytest.mark.parametrize("dataset", sorted(CATALOGUE))
def test_feeds_of_a_dataset_are_named_once_and_of_the_collector_s_accounts(dataset):
    feeds = CATALOGUE[dataset](PAID, AssetRegistry.seed())
    numbers = [subject_id(dataset, feed.subject) for feed in feeds]
    assert len(set(numbers)) == len(numbers) > 0
    (kind,) = [kind for kind in FEED_COLLECTORS if dataset in kind.datasets]
    assert {feed.account for feed in feeds} <= {*kind.accounts, "coingecko"}
    assert dataset in FEED_DATASETS


def test_a_month_of_every_account_fits_its_free_plan_with_room_for_pages_and_retries():
    asked = asked_in_a_month()
    assert set(asked) == {account.name for account in ACCOUNTS}
    for account, allowed in FREE.items():
        assert asked[account] < 0.7 * allowed, account


def test_every_account_s_own_limit_carries_its_schedule():
    asked = asked_in_a_month()
    for account in ACCOUNTS:
        assert asked[account.name] < 0.8 * account.limits.requests / account.limits.per_s * 86_400 * 31, account.name


def test_x_s_posts_fit_the_month_s_money():
    (x,) = [one for one in ENDPOINTS.values() if one.account == "x"]
    assert asked_in_a_month()["x"] * x.cost * 0.005 <= SETTINGS.x_monthly_usd


def test_coingecko_keyless_carries_320_assets_as_often_as_wanted():
    limits = coingecko_limits(SETTINGS)
    decision = decide(spending.wanted(320, SETTINGS), limits, 0, MONTH)
    assert decision.fits
    assert decision.thinned() == []
    assert decision.need(MONTH, MONTH + 31 * DAY_MS) <= limits.monthly == 10_000


def test_candles_without_a_venue_are_a_paid_plan_s_and_reach_back_to_what_is_stored():
    assert FEEDS["ohlc-coingecko"] == []
    feeds = CATALOGUE["ohlc-coingecko"](PAID, AssetRegistry.seed())
    venues = {asset.coin_id: asset.coinbase_product for asset in AssetRegistry.seed().active()}
    assert {feed.subject for feed in feeds} == {coin for coin, product in venues.items() if product is None}
    spans = {
        hours: feeds[0].ask(Ask(MONTH - hours * 3_600_000, MONTH)).params["days"] for hours in (8, 30, 2_000, 9_000)
    }
    assert spans == {8: "1", 30: "7", 2_000: "90", 9_000: "90"}
    assert len(feeds) * 4 * 31 < 0.1 * 500_000


def test_docs_say_what_is_asked():
    page = (Path(__file__).parents[2] / "docs" / "sources.md").read_text()
    asked = asked_in_a_month()
    for account in ("fred", "yahoo", "rss", "guardian", "cryptopanic", "blockchair"):
        assert f"{asked[account]:,}" in page, account
    for account in ("binance", "bybit", "okx", "deribit"):
        assert f"{asked[account]:,}" in page, account

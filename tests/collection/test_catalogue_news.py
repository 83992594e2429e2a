"""What is polled of news: known feeds, requests of their endpoints, and a load the accounts carry."""

from __future__ import annotations

import pytest

from ray_app.assets import AssetRegistry
from ray_app.clock import DAY_MS
from ray_app.collection.accounts import ACCOUNTS
from ray_app.collection.catalogue.news import crypto_news_feeds, stock_news_feeds
from ray_app.collection.feeds import Ask, subject_id
from ray_app.errors import ConfigError
from ray_app.settings import Settings
from ray_app.sources import ENDPOINTS
from ray_app.sources.addressing import path_values
from ray_app.sources.rss_feeds import SITES

NOW = 1_779_105_600_000
REGISTRY = AssetRegistry.seed()


def feeds(**settings):
    made = Settings(_env_file=None, **settings)
    return crypto_news_feeds(made, REGISTRY), stock_news_feeds(made, REGISTRY)


def test_subjects_are_unique_and_every_live_feed_is_polled_once():
    for dataset, listed in zip(("crypto-news", "stock-news"), feeds(), strict=True):
        assert len({subject_id(dataset, feed.subject) for feed in listed}) == len(listed)
    crypto, stock = feeds()
    polled = [feed.subject for feed in (*crypto, *stock) if feed.account == "rss"]
    assert sorted(polled) == sorted(f"rss/{site.name}" for site in SITES if not site.dead)
    assert len(stock) == 8 + 2


def test_requests_are_of_their_endpoints_and_their_markets():
    crypto, stock = feeds()
    for table, listed in (("crypto", crypto), ("stock", stock)):
        for feed in listed:
            request = feed.ask(Ask(NOW - 7 * DAY_MS, NOW))
            endpoint = ENDPOINTS[request.endpoint]
            assert endpoint.account == feed.account
            path_values(endpoint, request.path)
            assert set(request.params) <= endpoint.query
            assert request.context.get("market", table) == table
            assert request == feed.ask(Ask(NOW - 7 * DAY_MS, NOW))
    asked = next(feed for feed in stock if feed.account == "guardian").ask(Ask(NOW - 7 * DAY_MS, NOW))
    assert asked.params["from-date"] == "2026-05-11"


def test_load_fits_each_account():
    limits = {account.name: account.limits for account in ACCOUNTS}
    spent: dict[str, float] = {}
    for listed in feeds():
        for feed in listed:
            spent[feed.account] = spent.get(feed.account, 0.0) + 86_400 / feed.interval_s
    assert spent == {"rss": 31 * 96, "guardian": 3 * 48, "cryptopanic": 48}
    for account, requests in spent.items():
        assert requests < 0.6 * limits[account].requests * 86_400 / limits[account].per_s


def test_settings_restrict_the_feeds_and_name_dead_ones_too():
    crypto, stock = feeds(rss_feeds=("decrypt", "sec", "defi-pulse"))
    assert [feed.subject for feed in (*crypto, *stock) if feed.account == "rss"] == [
        "rss/decrypt", "rss/defi-pulse", "rss/sec",
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "hint"), [("coindex", "coindesk"), ("qqqqqq", "all of them")])
def test_unknown_feed_is_an_error_with_near_matches(name, hint):
    with pytest.raises(ConfigError, match=hint):
        feeds(rss_feeds=("decrypt", name))

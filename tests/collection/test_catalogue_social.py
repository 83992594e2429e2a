"""The feeds of Reddit and X, and that their accounts carry them."""

from __future__ import annotations

import pytest

from ray_app.assets import AssetRegistry
from ray_app.collection.accounts import ACCOUNTS, limits_of_account
from ray_app.collection.catalogue.social import SUBREDDITS, X_HOURS, hours_between, reddit_feeds, x_feeds
from ray_app.collection.feeds import Ask, subject_id
from ray_app.sandbox.reddit import SUBREDDITS as SIMULATED
from ray_app.settings import Settings
from ray_app.sources import ENDPOINTS
from ray_app.sources.addressing import path_values

NOW = 1_795_521_600_000
ACCOUNT = {account.name: account for account in ACCOUNTS}
MONTH_S = 31 * 86_400


def settings(**values):
    return Settings(_env_file=None, **values)


@pytest.mark.parametrize(("dataset", "feeds_of"), [("social-reddit", reddit_feeds), ("social-x", x_feeds)])
def test_every_feed_has_a_name_of_its_own_and_asks_what_its_endpoint_knows(dataset, feeds_of):
    feeds = feeds_of(settings(), AssetRegistry([]))
    assert feeds
    assert len({subject_id(dataset, feed.subject) for feed in feeds}) == len(feeds)
    for feed in feeds:
        request = feed.ask(Ask(NOW - 1, NOW))
        endpoint = ENDPOINTS[request.endpoint]
        assert endpoint.account == feed.account
        path_values(endpoint, request.path)
        assert set(request.params) <= endpoint.query
        assert request == feed.ask(Ask(NOW - 9_000, NOW + 5))


def test_reddit_is_asked_for_every_subreddit_within_its_limit():
    feeds = reddit_feeds(settings(), AssetRegistry([]))
    assert [feed.ask(Ask(0, NOW)).path for feed in feeds] == [f"/r/{name}/new" for name in SUBREDDITS]
    assert set(SUBREDDITS) == set(SIMULATED), "the sandbox has them all"
    limits = limits_of_account(ACCOUNT["reddit"], settings())
    allowed = limits.requests / limits.per_s
    assert sum(feed.pages / feed.interval_s for feed in feeds) < allowed / 5, "even if every poll read every page"


@pytest.mark.parametrize("usd", [3, 5, 10, 25, 50, 100, 500, 1e4, 1e6])
def test_x_spends_no_more_than_the_month_s_money_and_most_of_it(usd):
    chosen = settings(x_monthly_usd=usd)
    feeds = x_feeds(chosen, AssetRegistry([]))
    posts = limits_of_account(ACCOUNT["x"], chosen).monthly
    cost = ENDPOINTS["x.recent_search"].cost
    spent = sum(-(-MONTH_S // feed.interval_s) * feed.pages * cost for feed in feeds)
    assert 0 < spent <= posts * 0.9
    hours = feeds[0].interval_s // 3_600
    shorter = X_HOURS[max(X_HOURS.index(hours) - 1, 0)]
    assert hours == X_HOURS[0] or len(feeds) * -(-MONTH_S // (shorter * 3_600)) * cost > posts * 0.9 - cost


def test_x_by_default_and_with_too_little_money():
    assert [(feed.subject, feed.interval_s) for feed in x_feeds(settings(), AssetRegistry([]))] == [
        ("majors", 36 * 3_600),
        ("alts", 36 * 3_600),
    ]
    assert [feed.subject for feed in x_feeds(settings(x_monthly_usd=3), AssetRegistry([]))] == ["majors"]
    assert x_feeds(settings(x_monthly_usd=0.1), AssetRegistry([])) == []
    assert (hours_between(1, 0), hours_between(1, 10**9)) == (None, 1)

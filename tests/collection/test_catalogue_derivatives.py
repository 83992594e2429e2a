"""The feeds of derivatives: each asks what its endpoint documents, and all together what the accounts allow."""

from __future__ import annotations

import pytest

from ray_app.assets import AssetRegistry
from ray_app.clock import DAY_MS
from ray_app.collection.accounts import ACCOUNTS
from ray_app.collection.catalogue.derivatives import BASES, derivatives_feeds
from ray_app.collection.feeds import Ask, Feed, subject_id
from ray_app.settings import Settings
from ray_app.sources import ENDPOINTS
from ray_app.sources.addressing import path_values
from ray_app.sources.derivatives_coins import COINS

NOW = 1_779_105_600_000
LIMITS = {account.name: account.limits for account in ACCOUNTS}


@pytest.fixture(scope="module")
def feeds() -> list[Feed]:
    return derivatives_feeds(Settings(_env_file=None), AssetRegistry.seed())


def first(feed: Feed) -> Ask:
    return Ask(NOW - feed.history_s * 1_000, NOW)


def test_names_are_unique_and_say_the_account(feeds: list[Feed]) -> None:
    subjects = [feed.subject for feed in feeds]
    assert len(set(subjects)) == len(subjects) == 5 + 6 + 6 * len(BASES)
    assert len({subject_id("derivatives", subject) for subject in subjects}) == len(subjects)
    assert all(feed.subject.split("/")[0] == feed.account for feed in feeds)
    assert set(BASES) <= set(COINS)


def test_requests_are_what_their_endpoints_document(feeds: list[Feed]) -> None:
    for feed in feeds:
        request = feed.ask(first(feed))
        endpoint = ENDPOINTS[request.endpoint]
        assert endpoint.account == feed.account
        path_values(endpoint, request.path)
        assert set(request.params) <= endpoint.query
        assert feed.ask(first(feed)) == request
        assert 86_400 % feed.interval_s == 0
        assert (feed.reach == "history") == (feed.history_s > 0)
        assert feed.grace_s < feed.interval_s


def test_a_history_asks_from_where_what_is_stored_ends(feeds: list[Feed]) -> None:
    for feed in feeds:
        if feed.reach == "history":
            request = feed.ask(Ask(NOW - DAY_MS, NOW))
            said = {**request.context, **request.params}
            start = next(said[name] for name in ("startTime", "start_timestamp", "since") if name in said)
            assert NOW - DAY_MS - 1 <= int(start) <= NOW - DAY_MS


def test_a_day_fits_each_account_s_limit_with_room_for_as_much_again(feeds: list[Feed]) -> None:
    for account in {feed.account for feed in feeds}:
        daily = sum(86_400 / feed.interval_s for feed in feeds if feed.account == account)
        limits = LIMITS[account]
        assert daily * 2 < limits.requests / limits.per_s * 86_400
        # all of a full hour at once are asked within a minute
        assert sum(feed.account == account for feed in feeds) < limits.requests / limits.per_s * 60


def test_the_first_polls_reach_their_beginning_in_the_pages_they_have(feeds: list[Feed]) -> None:
    """At the widest a page of each may be, and the usual eight hours between settlements."""
    items = {"binance.funding_rate": 990 / 8, "bybit.funding_history": 200, "okx.funding_rate_history": 100}
    items |= {"binance.open_interest_hist": 490, "binance.long_short": 490, "bybit.open_interest": 200}
    items |= {"deribit.volatility_index": 1_000, "deribit.funding_history": 696}
    for feed in feeds:
        if feed.reach == "history":
            wanted = feed.history_s / feed.interval_s
            assert wanted <= items[feed.ask(first(feed)).endpoint] * feed.pages


@pytest.mark.parametrize(
    ("plan", "listed"), [(None, False), ("keyless", False), ("demo", False), ("analyst", True), ("enterprise", True)]
)
def test_coingecko_s_list_needs_a_paid_plan(plan: str | None, listed: bool) -> None:
    settings = Settings(_env_file=None, coingecko_plan=plan)
    assert any(feed.account == "coingecko" for feed in derivatives_feeds(settings, AssetRegistry.seed())) == listed

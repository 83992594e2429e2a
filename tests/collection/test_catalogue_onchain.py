"""The feeds of networks and of fear and greed: what they ask, how often, and that the accounts allow it."""

from __future__ import annotations

from collections import Counter

import pytest

from ray_app.assets import AssetRegistry
from ray_app.clock import DAY_MS
from ray_app.collection.accounts import ACCOUNTS
from ray_app.collection.catalogue.onchain import fear_greed_feeds, onchain_feeds
from ray_app.collection.feeds import Ask, Feed, subject_id
from ray_app.settings import Settings
from ray_app.sources import ENDPOINTS
from ray_app.sources.addressing import path_values
from ray_app.sources.coinmetrics import ASSETS
from ray_app.sources.defillama import CHAINS

NOW = 1_779_105_600_000
LIMITS = {account.name: account.limits for account in ACCOUNTS}


@pytest.fixture(scope="module")
def feeds() -> list[Feed]:
    settings = Settings(_env_file=None)
    registry = AssetRegistry.seed()
    return [*onchain_feeds(settings, registry), *fear_greed_feeds(settings, registry)]


def asks(feed: Feed) -> list[Ask]:
    """The very first and a usual one."""
    back = max(feed.history_s, feed.interval_s) * 1_000
    return [Ask(NOW - back, NOW), Ask(NOW - (feed.interval_s + feed.overlap_s) * 1_000, NOW)]


def test_subjects_are_unique_and_so_are_their_numbers(feeds: list[Feed]) -> None:
    assert len({feed.subject for feed in feeds}) == len(feeds)
    assert len({subject_id("onchain", feed.subject) for feed in feeds}) == len(feeds)
    assert all(len(feed.subject) < 100 for feed in feeds)


def test_every_request_is_one_of_its_endpoint_and_account(feeds: list[Feed]) -> None:
    for feed in feeds:
        for ask in asks(feed):
            request = feed.ask(ask)
            source = ENDPOINTS[request.endpoint]
            assert feed.account == source.account
            assert feed.subject.split("/")[0] == source.name
            path_values(source, request.path)
            assert set(request.params) <= source.query
            assert request == feed.ask(ask)


def test_every_endpoint_of_the_group_is_fed(feeds: list[Feed]) -> None:
    accounts = {feed.account for feed in feeds}
    fed = {feed.ask(asks(feed)[0]).endpoint for feed in feeds}
    assert fed == {name for name, one in ENDPOINTS.items() if one.account in accounts}


def test_the_load_of_a_day_and_of_the_first_hour_fits_every_account(feeds: list[Feed]) -> None:
    a_day: Counter[str] = Counter()
    at_once: Counter[str] = Counter()
    for feed in feeds:
        a_day[feed.account] += 86_400 // feed.interval_s
        at_once[feed.account] += feed.pages
    for account, requests in a_day.items():
        limits = LIMITS[account]
        assert requests <= 0.5 * limits.requests * 86_400 / limits.per_s, account
        assert at_once[account] <= max(limits.requests * 3_600 / limits.per_s, 10), account
    assert a_day == {
        "coinmetrics": 4,
        "blockchain_com": 68,
        "mempool": 217,
        "etherscan": 216,
        "blockchair": 168,
        "defillama": 24 + len(CHAINS) + 1,
        "stablecoins": 1,
        "alternative_me": 4,
    }


def test_the_first_request_of_coin_metrics_fits_its_pages(feeds: list[Feed]) -> None:
    (feed,) = [feed for feed in feeds if feed.account == "coinmetrics"]
    request = feed.ask(asks(feed)[0])
    assets = request.params["assets"].split(",")
    items = len(assets) * feed.history_s / 86_400
    assert items <= feed.pages * int(request.params["page_size"])
    assert set(assets) <= set(ASSETS)
    assert request.params["start_time"] == "2024-05-18"


def test_hash_rates_and_fear_and_greed_ask_for_no_more_than_they_need(feeds: list[Feed]) -> None:
    by_subject = {feed.subject: feed for feed in feeds}
    rates = by_subject["mempool.hashrate"]
    assert [rates.ask(ask).path.rsplit("/", 1)[1] for ask in asks(rates)] == ["3y", "1w"]
    fear = by_subject["alternative_me.fng"]
    assert [fear.ask(ask).params["limit"] for ask in asks(fear)] == ["0", "4"]
    assert fear.ask(Ask(NOW - 30 * DAY_MS, NOW)).params["limit"] == "32"


def test_coins_that_the_registry_has_not_are_not_asked_for() -> None:
    bitcoin = [asset for asset in AssetRegistry.seed() if asset.coin_id == "bitcoin"]
    feeds = onchain_feeds(Settings(_env_file=None), AssetRegistry(bitcoin))
    assert not [feed for feed in feeds if feed.account == "etherscan"]
    assert [feed.subject for feed in feeds if feed.account == "blockchair"] == ["blockchair.stats/bitcoin"]
    (metrics,) = [feed for feed in feeds if feed.account == "coinmetrics"]
    assert metrics.ask(asks(metrics)[0]).params["assets"] == "btc"

"""The macro feeds: every request is one of its endpoint's, ranges reach what they must, the accounts can bear it."""

from __future__ import annotations

import pytest

from ray_app.assets import AssetRegistry
from ray_app.clock import DAY_MS, from_ms
from ray_app.collection.accounts import ACCOUNTS
from ray_app.collection.catalogue.macro import WITHOUT_VINTAGES, fred_feeds, lacks_vintages, yahoo_feeds
from ray_app.collection.disagreement import PAIRS
from ray_app.collection.feeds import Ask
from ray_app.settings import Settings
from ray_app.sources import ENDPOINTS
from ray_app.sources.addressing import path_values
from ray_app.sources.fred import UNITS
from ray_app.sources.yahoo import INDICATORS

NOW = 1_795_509_445_500
FRED, YAHOO = (feeds(Settings(), AssetRegistry([])) for feeds in (fred_feeds, yahoo_feeds))
ASKED = """VIXCLS DGS2 DGS10 DGS30 T10Y2Y DTWEXBGS FEDFUNDS DFF UNRATE CPIAUCSL INDPRO RSAFS UMCSENT GDPC1 ICSA HOUST
    SP500 DEXUSEU DEXJPUS DEXCHUS DCOILWTICO M2SL""".split()  # noqa: SIM905 - a list of 22 quoted strings reads worse


def test_every_series_and_symbol_has_one_feed_and_a_unit():
    assert sorted(feed.subject for feed in FRED) == sorted(ASKED)
    assert sorted(feed.subject for feed in YAHOO) == sorted(INDICATORS)
    assert set(ASKED) <= set(UNITS)


@pytest.mark.parametrize("feed", [*FRED, *YAHOO], ids=lambda feed: feed.subject)
def test_request_is_one_of_its_endpoint_s_and_begins_where_it_is_told(feed):
    since = NOW - feed.history_s * 1_000
    request = feed.ask(Ask(since, NOW))
    endpoint = ENDPOINTS[request.endpoint]
    path_values(endpoint, request.path)
    assert set(request.params) <= endpoint.query
    assert feed.account == endpoint.account
    if feed.account == "fred":
        assert request.params["series_id"] == feed.subject
        assert request.params["observation_start"] == from_ms(since).strftime("%Y-%m-%d")
        asked = request.params.get("realtime_start")
        assert asked == (None if feed.subject in WITHOUT_VINTAGES else request.params["observation_start"])
    else:
        assert (int(request.params["period1"]), int(request.params["period2"])) == (since // 1_000, NOW // 1_000 + 1)


def test_no_request_asks_for_more_vintages_than_fred_gives():
    assert all(feed.history_s < 2_000 * 86_400 for feed in FRED)


def test_series_of_months_reach_over_their_revisions_and_every_feed_over_its_holidays():
    by_name = {feed.subject: feed for feed in FRED}
    for series in ("CPIAUCSL", "GDPC1", "INDPRO", "M2SL", "FEDFUNDS"):
        assert by_name[series].overlap_s >= 5 * 365 * 86_400
    assert all(feed.overlap_s * 1_000 >= 7 * DAY_MS for feed in (*FRED, *YAHOO))


@pytest.mark.parametrize("feeds", [FRED, YAHOO], ids=["fred", "yahoo"])
def test_a_slot_s_polls_are_minutes_of_what_the_account_may_do(feeds):
    (limits,) = (account.limits for account in ACCOUNTS if account.name == feeds[0].account)
    minutes = sum(feed.pages for feed in feeds) / limits.requests * limits.per_s / 60
    assert minutes < min(feed.interval_s for feed in feeds) / 60 / 10


def test_both_sides_of_every_pair_are_collected():
    names = {INDICATORS[feed.subject][0] for feed in YAHOO}
    assert all(pair.secondary in names and pair.primary in ASKED for pair in PAIRS)


@pytest.mark.parametrize(
    ("refusal", "lacks"),
    [
        ("Bad Request.  The series does not exist in ALFRED but may exist in FRED.", True),
        ("Bad Request.  No vintage dates exist for the specified real-time period: 2026-01-01", True),
        ("Bad Request.  The series does not exist.", False),
    ],
)
def test_refusal_that_a_plain_request_would_get_around_is_known(refusal, lacks):
    assert lacks_vintages(refusal) is lacks

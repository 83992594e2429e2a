"""A storm of 429 over several collectors that share an account: processes of their own, one database, one upstream.

The sandbox's request log is the measure: it shares no code with the budget.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pydantic import SecretStr

from ray_app.assets import AssetRegistry
from ray_app.clock import MINUTE_MS
from ray_app.collection.accounts import ACCOUNTS
from ray_app.collection.budget_ledger import DatabaseLedger
from ray_app.collection.budget_rules import Limits, month_of
from ray_app.collection.catalogue.derivatives import BASES
from ray_app.collection.upstreams import coingecko_limits
from tests.collection.stormy import PATIENCE_S, Crew, SharedClock, collect, processes
from tests.collection.test_budget import most_in_a_window
from tests.collection.world import START, world

pytestmark = pytest.mark.integration
#: node seconds in a wall second: a minute's window is 0.2 of them
SCALE = 300.0
#: seconds of a pause that outlasts the passes after it
LONG_S = 2_400
#: 2026-12-01T00:00:00Z, and four hours before
DECEMBER = 1_796_083_200_000
EVENING = DECEMBER - 240 * MINUTE_MS
MONTHLY = 125


@contextmanager
def crew(directory, url, names, *, start=START, **options) -> Iterator[Crew]:
    """Collectors of these names, each in its own process, that wait for their first pass."""
    clock, notes = SharedClock(start, SCALE), directory / "notes"
    turns, over = processes.Barrier(len(names) + 1), processes.Event()
    notes.touch()
    with world(directory, url, clock=clock, start=start, **options) as place:
        shared = (clock, turns, over, str(notes))
        workers = [processes.Process(target=collect, args=(place.settings, name, *shared)) for name in names]
        for worker in workers:
            worker.start()
        try:
            yield Crew(place, clock, turns, over, notes)
            over.set()
            turns.wait(PATIENCE_S)
        except BaseException:
            turns.abort()
            raise
        finally:
            for worker in workers:
                worker.join(PATIENCE_S)
        assert [worker.exitcode for worker in workers] == [0] * len(names)


def spent(place, account: str, limits: Limits, month: int) -> int:
    """Credits of the month as the ledger has them."""
    db = place.db()
    try:
        return DatabaseLedger(db).peek(account, limits, month).spent
    finally:
        db.dispose()


def test_two_collectors_of_news_keep_the_guardian_s_day_and_the_pauses_told_to_either(tmp_path, sqlite_url):
    """First half an hour of refusals that name a minute: everybody is back at once. Then every second answer is a pause."""
    faults = f"""faults:
- {{source: guardian, to: +30m, kind: rate_limit, retry_after: 60}}
- {{source: guardian, every: 2, kind: rate_limit, retry_after: {LONG_S}}}
"""
    options = {"guardian_api_key": SecretStr("sandbox"), "rss_feeds": ("coindesk",), "faults": faults}
    with crew(tmp_path, sqlite_url, ("crypto-news", "stock-news"), **options) as both:
        for minute in range(1, 31, 3):
            both.pass_at(START + minute * MINUTE_MS)
        patient_since = both.ended[-1]
        for _ in range(14):  # a term is a quarter of an hour: then every lane is lent anew
            both.pass_after(22)
        limits = next(account.limits for account in ACCOUNTS if account.name == "guardian")
        moments = both.asked("guardian")
        # three lanes of one request in ten minutes: so no day holds more than it may
        assert most_in_a_window(moments, limits.gap_ms) <= limits.lanes
        assert most_in_a_window(moments, limits.per_s * 1_000) <= limits.requests
        orders = [at for at in both.asked("guardian", status=429) if at > patient_since]
        assert orders
        assert both.within_a_pause("guardian", orders, LONG_S) == []
        assert spent(both.world, "guardian", limits, month_of(START)) >= len(moments)


def test_a_storm_over_all_who_ask_coingecko_ends_with_the_month_s_last_credit(tmp_path, sqlite_url):
    """Prices are refused throughout, the rest every third time; once, one collector is told to stay away for long.

    125 credits are left of November, and as many are December's.
    """
    storm = """faults:
- {source: coingecko, endpoint: markets, kind: rate_limit, retry_after: 5}
- {source: coingecko, every: 3, kind: rate_limit, retry_after: 5}
"""
    names = ("crypto-prices", "asset-registry", "ohlc-coingecko", "derivatives")
    assets = [asset for asset in AssetRegistry.seed().active()[:70] if asset.symbol not in BASES]
    options = {
        "coingecko_plan": "analyst",
        "coingecko_api_key": SecretStr("CG-paid-0123456789"),
        "coingecko_requests_per_minute": 10,
        "coingecko_monthly_limit": MONTHLY,
        "max_retry_attempts": 15,
        "registry": AssetRegistry(assets),
        "faults": storm,
    }
    with crew(tmp_path, sqlite_url, names, start=EVENING, **options) as four:
        four.pass_at(EVENING + MINUTE_MS)
        told = len(four.asked("coingecko", "markets"))
        four.suffers(f"faults: [{{source: coingecko, endpoint: markets, kind: rate_limit, retry_after: {LONG_S}}}]")
        four.pass_at(EVENING + 40 * MINUTE_MS)
        while not (orders := four.asked("coingecko", "markets")[told:]):  # a busy machine leaves no time to wait in
            four.pass_after(1)
            assert four.ended[-1] < EVENING + 60 * MINUTE_MS
        four.suffers(storm)
        for minutes in (61, 66):  # contracts are due on the hour, and their collector has not been told
            four.pass_at(EVENING + minutes * MINUTE_MS)
        assert orders
        assert four.within_a_pause("coingecko", orders, LONG_S) == []

        four.pass_at(orders[-1] + (LONG_S + 60) * 1_000)
        while "credits of 202611 are spent" not in four.failures():
            four.pass_after(5)
            assert len(four.asked("coingecko")) <= MONTHLY
            assert four.ended[-1] < DECEMBER, "the storm is too weak to spend the month"
        for _ in range(2):  # and nobody has a credit left in hand
            four.pass_after(5)
        four.pass_at(DECEMBER + MINUTE_MS)
        four.pass_after(5)

        limits, moments = coingecko_limits(four.world.settings), four.asked("coingecko")
        assert most_in_a_window(moments, limits.per_s * 1_000) <= limits.requests
        assert len({entry["endpoint"] for entry in four.world.requests() if entry["source"] == "coingecko"}) >= 6
        for month in (202611, 202612):
            counted = sum(month_of(at) == month for at in moments)
            assert 0 < counted <= spent(four.world, "coingecko", limits, month) <= MONTHLY

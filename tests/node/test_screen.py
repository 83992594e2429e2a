"""What ``crypto-data up`` shows: nobody can take simulated prices for real ones, and nothing secret is shown twice."""

from __future__ import annotations

import pytest

from ray_app.node.origin import Choice
from ray_app.node.plan import Options, Plan, settings_of
from ray_app.node.screen import banner, overview, switched_off
from ray_app.settings import Settings
from tests.servers import free_port

KEYS = {"master": "cdc_m", "readonly": "cdc_r", "trading": "cdc_t"}


@pytest.fixture
def plan(tmp_path):
    def make(probe=lambda _: None, **options) -> Plan:
        given = Options(**{"data_dir": tmp_path, "port": free_port(), "dashboard_port": free_port(), **options})
        return Plan.make(given, settings_of(given), probe)

    return make


def test_simulated_prices_are_announced_in_a_box_nobody_can_miss(plan, tmp_path):
    replay = tmp_path / "crypto_1h.parquet"
    replay.touch()
    lines = banner(plan(replay=replay, time_scale=60.0))
    assert {len(line) for line in lines} == {100}
    text = "\n".join(lines)
    assert "SANDBOX — EVERY PRICE ON THIS NODE IS SIMULATED" in text
    assert "a replay of crypto_1h.parquet, node time 60 times as fast" in text
    assert "why: --replay, --time-scale" in text


def test_a_fallback_says_why_and_how_to_insist(plan):
    text = "\n".join(banner(plan(lambda _: "CoinGecko does not answer (ConnectTimeout)")))
    assert "why: CoinGecko does not answer (ConnectTimeout) (--upstream live insists on live data)" in text
    assert "a generated market, node time as the wall clock" in text


def test_live_data_need_no_box(plan):
    made = plan()
    assert made.choice == Choice("live", "they answer")
    assert banner(made) == ["data        LIVE upstreams (they answer)"]


def test_the_first_start_shows_the_keys_and_the_next_only_where_they_are(plan, tmp_path):
    first = "\n".join(overview(plan(), "sqlite:///node.db", 417, KEYS))
    assert all(key in first for key in KEYS.values())
    again = "\n".join(overview(plan(), "sqlite:///node.db", 417, {}))
    assert not any(key in again for key in KEYS.values())
    assert f"keys        in {tmp_path / 'keys.json'}; more: crypto-data keys create" in again


def test_the_screen_says_where_everything_is_and_never_the_token(plan):
    made = plan()
    token = made.head.prepare()
    try:
        text = "\n".join(overview(made, "mysql+pymysql://node:***@db/prices", 417, {}))
    finally:
        made.head.clear()
    for shown in (
        f"{made.options.url}/docs",
        f"ws://127.0.0.1:{made.options.port}/ws/prices",
        made.head.dashboard_url,
        f"log in with the token in {made.head.token_file}",
        "mysql+pymysql://node:***@db/prices",
        "assets      417",
    ):
        assert shown in text
    assert token not in text


def test_what_is_off_says_what_switches_it_on():
    off = "\n".join(switched_off(Settings()))
    for name in ("REDIS_URL", "COINGECKO_API_KEY", "CORS_ORIGINS"):
        assert name in off
    assert switched_off(Settings(redis_host="h", coingecko_api_key="k", cors_origins="https://a.example")) == []
    assert "COINGECKO_API_KEY" not in "\n".join(switched_off(Settings(origin="sandbox"))), "it would be of no use"

"""Assets, the evidence, and what only a master key may do; on SQLite and MariaDB."""

from __future__ import annotations

import pytest

from ray_app.clock import DAY_MS, HOUR_MS, iso
from ray_app.collection.collectors import COLLECTORS
from ray_app.collection.datasets import declare, price_tiers
from ray_app.collection.expectation import SlotRange
from ray_app.collection.gaps import mark
from ray_app.serving.keys import Level
from ray_app.serving.stats import public_text
from ray_app.storage import records
from tests.serving.gateway_world import BTC, ETH, NOW, client_of, market, price_row, renamed
from tests.serving.test_api import problem

ADMIN = "/api/v1/admin"


@pytest.fixture
def world(db):
    return market(db)


# --- assets --------------------------------------------------------------------------------------------------


async def test_assets_come_by_rank_in_pages(world):
    async with world.client() as client:
        seen, cursor = [], None
        while True:
            params = {"limit": "3"} | ({"cursor": cursor} if cursor else {})
            body = (await client.get("/api/v1/assets", params=params)).json()
            seen += [row["coin_id"] for row in body["data"]]
            if (cursor := body["next_cursor"]) is None:
                break
        assert seen == ["bitcoin", "ethereum", "novenue", "unpriced", "twin-big", "twin-small", "unranked"]
        assert body["as_of"] == iso(NOW - HOUR_MS)
        assert body["source"] == "registry"


async def test_an_asset_shows_its_venues_and_what_became_of_it(world):
    renamed(world, ETH, status="renamed", valid_to=NOW - DAY_MS, successor_coin_id="bitcoin", successor_ratio=1.0)
    async with world.client() as client:
        btc = (await client.get("/api/v1/assets/btc")).json()
        assert (btc["venues"], btc["valid_to"], btc["note"]) == ({"coinbase": "BTC-USD"}, None, None)
        listed = (await client.get("/api/v1/assets", params={"status": "renamed"})).json()["data"]
        assert [(row["symbol"], row["valid_to"], row["successor"]) for row in listed] == [
            ("ETH", iso(NOW - DAY_MS), "bitcoin")
        ]
        problem(await client.get("/api/v1/assets/nosuchthing"), 404, "INVALID_SYMBOL")
        problem(await client.get("/api/v1/assets", params={"status": "dead"}), 422, "VALIDATION_ERROR")
        problem(await client.get("/api/v1/assets", params={"status": "inactive"}), 404, "DATA_NOT_AVAILABLE")


# --- evidence ------------------------------------------------------------------------------------------------


async def test_collectors_show_expected_received_missing_errors_quota_and_next_run(world):
    earlier = NOW - 6 * 300_000
    world.db.run(lambda conn: declare(conn, "prices", price_tiers([BTC, ETH], world.deps.settings, earlier), earlier))
    world.store_prices(*[price_row(BTC, earlier + n * 300_000, 1.0 + n) for n in range(6)])

    def runs(conn):
        records.run_started(conn, "crypto-prices", NOW - 60_000)
        records.run_failed(
            conn,
            "crypto-prices",
            NOW - 50_000,
            "coingecko.markets: 429 at https://api.example/x?key=s3cret",
            NOW + 9_000,
        )
        records.saw_event(conn, "crypto-prices", NOW - 70_000)

    world.db.run(runs)
    async with world.client() as client:
        body = (await client.get("/api/v1/stats/collectors")).json()
    prices, candles, assets = body["data"][:3]
    assert [row["collector"] for row in body["data"]] == list(COLLECTORS)
    assert prices["expected"] == 12
    assert prices["received"] == 7  # 6 of BTC, and the one of ETH that the market begins with
    assert prices["missing"] == 5
    assert prices["last_error"] == "coingecko.markets: 429 at …"
    assert (prices["last_event_time"], prices["next_run_at"]) == (iso(NOW - 70_000), iso(NOW + 9_000))
    assert (prices["runs"], prices["failures"], prices["last_success_at"]) == (1, 1, None)
    assert {quota["account"] for quota in prices["quota"]} == {"coingecko", "coinbase", "coinbase-v2"}
    assert prices["quota"][0]["month"] == "2026-11"
    assert prices["quota"][0]["limit"] == 10_000
    assert (candles["expected"], candles["last_error"], assets["next_run_at"]) == (0, None, None)


async def test_the_gap_ledger_is_listed_in_pages_with_a_summary(world):
    def gaps(conn):
        for n in range(5):
            ranges = [SlotRange(NOW - (2 * n + 2) * HOUR_MS, NOW - (2 * n + 1) * HOUR_MS)]
            mark(conn, "candles-3600", BTC.asset_id, ranges, "owed", None, NOW)
        mark(conn, "candles-3600", ETH.asset_id, [SlotRange(NOW - DAY_MS, NOW)], "unrepairable", "delisted", NOW)
        mark(conn, "prices", ETH.asset_id, [SlotRange(NOW - HOUR_MS, NOW)], "repaired", None, NOW)

    world.db.run(gaps)
    async with world.client() as client:
        seen, cursor = [], None
        while True:
            params = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
            body = (await client.get("/api/v1/stats/gaps", params=params)).json()
            seen += [(row["dataset"], row["symbol"], row["start"], row["state"]) for row in body["data"]]
            if (cursor := body["next_cursor"]) is None:
                break
        assert seen == [
            ("prices", "ETH", iso(NOW - HOUR_MS), "repaired"),
            *[("candles-3600", "BTC", iso(NOW - n * HOUR_MS), "owed") for n in (10, 8, 6, 4, 2)],
            ("candles-3600", "ETH", iso(NOW - DAY_MS), "unrepairable"),
        ]
        assert body["repaired_prices"]["slots"] == 1  # ETH has one observation in the hour that was repaired
        assert body["repaired_prices"]["null"]["ath"] == 1
        assert body["summary"] == [
            {
                "dataset": "candles-3600",
                "state": "owed",
                "ranges": 5,
                "oldest": iso(NOW - 10 * HOUR_MS),
                "newest": iso(NOW - HOUR_MS),
            },
            {
                "dataset": "candles-3600",
                "state": "unrepairable",
                "ranges": 1,
                "oldest": iso(NOW - DAY_MS),
                "newest": iso(NOW),
            },
            {
                "dataset": "prices",
                "state": "repaired",
                "ranges": 1,
                "oldest": iso(NOW - HOUR_MS),
                "newest": iso(NOW),
            },
        ]
        only = (await client.get("/api/v1/stats/gaps", params={"state": "unrepairable", "symbol": "ethereum"})).json()
        assert [(row["symbol"], row["reason"]) for row in only["data"]] == [("ETH", "delisted")]
        one = (await client.get("/api/v1/stats/gaps", params={"dataset": "prices"})).json()
        assert len(one["data"]) == 1
        for query in ("dataset=nope", "state=nope", "limit=0", "cursor=x", "symbol="):
            problem(await client.get(f"/api/v1/stats/gaps?{query}"), 422, "VALIDATION_ERROR")
        problem(await client.get("/api/v1/stats/gaps?symbol=qqqqqq"), 404, "INVALID_SYMBOL")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (None, None),
        ("coingecko.markets: time-out after 30 s", "coingecko.markets: time-out after 30 s"),
        ("x: mysql+pymysql://node:pw@db:3306/p: gone", "x: … gone"),
        ("cannot open /var/lib/node/archive.zst now", "cannot open … now"),
        ("no route to 10.0.0.7:3306 at all", "no route to … at all"),
        ("failed: SELECT a FROM b", "failed: …"),
        ("first line\nTraceback (most recent call last)", "first line"),
        ("ratio 1/2 and 3.5 %", "ratio 1/2 and 3.5 %"),
    ],
)
def test_error_texts_lose_addresses_paths_hosts_and_sql(text, shown):
    assert public_text(text) == shown


# --- admin: work ---------------------------------------------------------------------------------------------


@pytest.fixture
async def master(world):
    async with world.client(Level.master) as client:
        yield client


async def test_collect_starts_a_job_and_names_it(world, master):
    response = await master.post(f"{ADMIN}/collect/crypto-prices")
    assert response.status_code == 202
    job_id = response.json()["job_id"]
    assert response.headers["location"] == response.json()["status_url"] == f"{ADMIN}/jobs/{job_id}"
    assert world.jobs.submitted == {job_id: ("collect", "crypto-prices", "--once")}
    assert job_id == "collect-crypto-prices-20261124T080000Z"
    await master.post(f"{ADMIN}/collect/crypto-prices")  # the same second: the same job
    assert len(world.jobs.submitted) == 1
    body = problem(await master.post(f"{ADMIN}/collect/nope"), 404, "NOT_FOUND")
    assert "crypto-prices" in body["detail"]


async def test_backfill_passes_on_what_was_ordered(world, master):
    order = {
        "dataset": "candles-3600",
        "symbols": ["btc", "ethereum"],
        "start": "2026-11-01T00:00:00Z",
        "end": "2026-11-02T01:00:00+01:00",
    }
    response = await master.post(f"{ADMIN}/backfill", json=order)
    assert response.status_code == 202
    assert world.jobs.submitted[response.json()["job_id"]] == (
        *("backfill", "--dataset", "candles-3600", "--symbol", "bitcoin", "--symbol", "ethereum"),
        *("--from", "2026-11-01T00:00:00Z", "--to", "2026-11-02T00:00:00Z"),
    )


def test_the_backfill_command_takes_what_the_route_passes_on():
    from ray_app.cli.backfill import command

    options = {option for parameter in command.params for option in parameter.opts}
    assert {"--dataset", "--symbol", "--from", "--to"} <= options


@pytest.mark.parametrize(
    "order",
    [
        {},
        {"dataset": "nope"},
        {"dataset": "prices", "symbols": []},
        {"dataset": "prices", "symbols": ["x"] * 1_001},
        {"dataset": "prices", "symbols": [""]},
        {"dataset": "prices", "start": "2026-11-02T00:00:00Z", "end": "2026-11-02T00:00:00Z"},
        {"dataset": "prices", "start": "2026-11-02T00:00:00"},
        {"dataset": "prices", "start": "0001-01-01T00:00:00Z"},
        {"dataset": "prices", "end": "9999-12-31T23:59:59-14:00"},
        {"dataset": "prices", "extra": 1},
        {"dataset": "prices", "start": 1e300},
        [],
        None,
        "x",
    ],
)
async def test_an_order_that_makes_no_sense_starts_nothing(world, master, order):
    problem(await master.post(f"{ADMIN}/backfill", json=order), 422, "VALIDATION_ERROR")
    assert world.jobs.submitted == {}


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"dataset": NaN}', b"[" * 10_000])
async def test_a_body_that_is_no_json_is_refused(world, master, body):
    headers = {"content-type": "application/json"}
    problem(await master.post(f"{ADMIN}/backfill", content=body, headers=headers), 422, "VALIDATION_ERROR")


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "body: Field required"),
        (b'{"dataset": "prices"', "body: not JSON: Expecting ',' delimiter at character 20"),
        (
            b'{"dataset": "candle"}',
            "dataset: Input should be 'prices', 'candles-300', 'candles-3600' or 'candles-86400'",
        ),
        (
            b'{"dataset": "prices", "start": "2026-11-24T00:00:00Z", "end": "2026-11-23T00:00:00Z"}',
            "body: start is not before end",
        ),
    ],
)
async def test_a_refused_order_says_what_is_wrong_with_it(world, master, body, detail):
    answer = await master.post(f"{ADMIN}/backfill", content=body, headers={"content-type": "application/json"})
    assert problem(answer, 422, "VALIDATION_ERROR")["detail"] == detail


async def test_an_unknown_symbol_in_an_order_is_named(world, master):
    order = {"dataset": "prices", "symbols": ["BTC", "bitcion"]}
    problem(await master.post(f"{ADMIN}/backfill", json=order), 404, "INVALID_SYMBOL")
    assert world.jobs.submitted == {}


async def test_a_jobs_state_is_shown_without_its_log_or_command(world, master):
    job_id = (await master.post(f"{ADMIN}/collect/crypto-prices")).json()["job_id"]
    response = await master.get(f"{ADMIN}/jobs/{job_id}")
    assert response.json() == {
        "job_id": job_id,
        "status": "FAILED",
        "message": "failed with exit code 1",
        "started_at": iso(NOW),
        "ended_at": None,
    }
    problem(await master.get(f"{ADMIN}/jobs/unknown"), 404, "NOT_FOUND")
    problem(await master.get(f"{ADMIN}/jobs/a%20b"), 422, "VALIDATION_ERROR")


async def test_a_job_server_that_does_not_answer_is_503_without_its_address(world, master):
    world.jobs.down = True
    for response in (await master.post(f"{ADMIN}/collect/crypto-prices"), await master.get(f"{ADMIN}/jobs/x")):
        problem(response, 503, "SERVICE_UNAVAILABLE")
        assert "10.0.0.7" not in response.text


async def test_health_with_evidence_is_for_masters(world, master):
    details = (await master.get(f"{ADMIN}/health")).json()
    async with world.client(None) as nobody:
        summary = (await nobody.get("/health")).json()
    assert details.keys() - summary.keys() == {"evidence"}
    assert isinstance(summary["score"], float | int)
    async with world.client(Level.trading) as other:
        problem(await other.get(f"{ADMIN}/health"), 403, "FORBIDDEN")


# --- admin: keys ---------------------------------------------------------------------------------------------


async def test_a_key_is_made_works_is_listed_without_its_secret_and_is_revoked(world, master):
    made = await master.post(f"{ADMIN}/keys", json={"name": "engine", "level": "trading"})
    assert made.status_code == 201
    secret, key_id = made.json()["key"], made.json()["key_id"]
    assert made.headers["cache-control"] == "no-store"
    async with client_of(world.api, Authorization=f"Bearer {secret}") as client:
        assert (await client.get("/api/v1/assets")).status_code == 200
        listing = await master.get(f"{ADMIN}/keys")
        assert secret not in listing.text
        row = next(row for row in listing.json()["data"] if row["key_id"] == key_id)
        assert row == {
            "key_id": key_id,
            "name": "engine",
            "level": "trading",
            "created_at": iso(NOW),
            "expires_at": None,
            "revoked_at": None,
        }
        assert (await master.delete(f"{ADMIN}/keys/{key_id}")).json() == {"key_id": key_id, "revoked": True}
        problem(await client.get("/api/v1/assets"), 401, "INVALID_API_KEY")
    assert (await master.delete(f"{ADMIN}/keys/{key_id}")).status_code == 200
    problem(await master.delete(f"{ADMIN}/keys/nope"), 404, "NOT_FOUND")


async def test_a_key_may_expire(world, master):
    made = await master.post(f"{ADMIN}/keys", json={"name": "guest", "expires_at": iso(NOW + HOUR_MS)})
    assert (made.json()["level"], made.json()["expires_at"]) == ("readonly", iso(NOW + HOUR_MS))
    async with client_of(world.api, Authorization=f"Bearer {made.json()['key']}") as client:
        assert (await client.get("/api/v1/assets")).status_code == 200
        world.clock.advance(3_600)
        problem(await client.get("/api/v1/assets"), 401, "INVALID_API_KEY")


@pytest.mark.parametrize(
    "order",
    [
        {},
        {"name": ""},
        {"name": "x" * 121},
        {"name": "x", "level": "root"},
        {"name": "x", "expires_at": iso(NOW)},
        {"name": "x", "expires_at": "2026-12-01T00:00:00"},
        {"name": "x", "expires_at": "9999-12-31T23:59:59-14:00"},
        {"name": "x", "key": "mine"},
    ],
)
async def test_a_key_order_that_makes_no_sense_makes_none(world, master, order):
    before = len(world.deps.keyring.rows())
    problem(await master.post(f"{ADMIN}/keys", json=order), 422, "VALIDATION_ERROR")
    assert len(world.deps.keyring.rows()) == before

"""docs/api.md says what the API answers: every request in it is made, every answer in it compared."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert

from ray_app.clock import HOUR_MS
from ray_app.collection.collectors import COLLECTORS
from ray_app.collection.collectors.everything import FEED_COLLECTORS
from ray_app.collection.datasets import Tier, declare
from ray_app.collection.expectation import SlotRange
from ray_app.collection.gaps import mark
from ray_app.collection.jobs import JobInfo
from ray_app.collection.schedule import Schedule
from ray_app.health.evidence import Probe
from ray_app.health.report import HealthReporter
from ray_app.serving.keys import Level
from ray_app.serving.problems import CODES
from ray_app.storage import records
from ray_app.storage.engine import Database
from ray_app.storage.tables import collector_leases, data_quality_events
from tests.serving.gateway_world import BTC, ETH, NOW, RecordingJobs, World, candle_row, market
from tests.serving.sentiment_world import add_sentiment
from tests.serving.source_world import add_sources, archived, put

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text()
#: a request, then its answer: ```http … ``` and ```json [status] … ```
_EXAMPLE = re.compile(r"```http\n(\w+) (\S+)\n(.*?)```\s+```json ?(\d*)\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Example:
    method: str
    path: str
    body: str
    status: int
    answer: Any


EXAMPLES = [
    Example(method, path, body.strip(), int(status or 200), json.loads(answer))
    for method, path, body, status, answer in _EXAMPLE.findall(PAGE)
]


class SuccessfulJobs(RecordingJobs):
    """Each job has run well for a minute."""

    async def info(self, job_id: str) -> JobInfo | None:
        if job_id not in self.submitted:
            return None
        return JobInfo(job_id, "SUCCEEDED", "Job finished successfully.", "python x", NOW, NOW + 60_000)


@pytest.fixture
def world(sqlite_db: Database, tmp_path: Path) -> World:
    """The market of the page on 2026-11-24 at 08:00 UTC: an hour of Bitcoin's is owed, everything else is well."""
    off = tuple(kind.name for kind in FEED_COLLECTORS if kind.name != "macro-fred")  # which has no key
    found = add_sentiment(add_sources(market(sqlite_db, data_dir=tmp_path, collectors_off=off)))
    _, provenance = archived(found, FOLLOWED + 7_250, "coingecko.global", "/global")
    put(found, "market_data", GLOBAL | provenance)
    found.db.run(lambda conn: conn.execute(insert(data_quality_events), [FINDING]))
    found.api.deps.jobs = SuccessfulJobs()
    ok = dict.fromkeys(("event_bus", "streams"), lambda: asyncio.sleep(0, Probe("ok")))
    found.api.deps.health = HealthReporter(sqlite_db, found.clock, found.deps.settings, probes=ok, keep_s=0)
    first = NOW - 300_000
    hours = [NOW - n * HOUR_MS for n in (4, 3, 2, 1)]
    found.store_candles(*[candle_row(asset, 3_600, at) for asset in (BTC, ETH) for at in hours if (asset, at) != OWED])
    since = {
        "prices": (300, first),
        "candles-300": (300, NOW),
        "candles-3600": (3_600, hours[0]),
        "candles-86400": (86_400, NOW),
    }

    def history(conn: Connection) -> None:
        for dataset, (interval_s, moment) in since.items():
            members = frozenset({BTC.asset_id, ETH.asset_id}) if dataset == "prices" else None
            begins = moment - moment % (interval_s * 1_000)
            declare(conn, dataset, [Tier(Schedule(dataset, interval_s), begins, members)], begins)
        mark(conn, "candles-3600", BTC.asset_id, [SlotRange(OWED[1], OWED[1] + HOUR_MS)], "owed", None, NOW)
        for collector in COLLECTORS:
            records.run_started(conn, collector, NOW - 2_000)
            records.run_succeeded(conn, collector, NOW - 1_000, NOW + 299_000)
            lease = {"name": collector, "holder": "test", "token": 1, "expires_at": 1 << 52}
            conn.execute(insert(collector_leases), [lease])
        records.saw_event(conn, "crypto-prices", NOW - 297_000)

    sqlite_db.run(history)
    return found


#: the moment of the number that the page follows to its answer
FOLLOWED = NOW - 900_000
GLOBAL = {
    "source": "coingecko.global",
    "event_time": FOLLOWED,
    "known_at": FOLLOWED + 7_250,
    "total_market_cap_usd": 3.1e12,
    "btc_dominance_pct": 57.25,
    "event_version": FOLLOWED,
    "parser_version": 2,
}
FINDING = {
    "payload_hash": "0" * 64,
    "kind": "out_of_range",
    "subject": "ethereum",
    "field": "market_cap",
    "source": "coingecko.markets",
    "fetched_at": NOW - 292_750,
    "detail": "-1 is below 0",
}
OWED = (BTC, NOW - 2 * HOUR_MS)


def disagreements(documented: Any, answered: Any, where: str = "$") -> list[str]:
    """Where the answer is not what is documented. A documented list may be the beginning of a longer one."""
    if isinstance(documented, dict) and isinstance(answered, dict):
        found = (
            [f"{where}: {sorted(documented.keys() ^ answered.keys())}"] if documented.keys() ^ answered.keys() else []
        )
        for name in documented.keys() & answered.keys():
            if name not in VARYING:
                found += disagreements(documented[name], answered[name], f"{where}.{name}")
        return found
    if isinstance(documented, list) and isinstance(answered, list) and len(documented) <= len(answered):
        return [one for n, item in enumerate(documented) for one in disagreements(item, answered[n], f"{where}[{n}]")]
    return [] if documented == answered else [f"{where}: {documented!r} is documented, {answered!r} answered"]


#: differs from run to run (numbers in a compressed record are as long as they are), or is a secret
VARYING = {"request_id", "key_id", "key", "fetch_id", "disk_bytes"}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.method} {example.path}")
async def test_an_answer_is_as_documented(world: World, example: Example) -> None:
    master = example.path.startswith("/api/v1/admin")
    async with world.client(Level.master if master else Level.readonly) as client:
        if "/jobs/" in example.path:  # the page starts it two examples before
            await client.post("/api/v1/admin/collect/crypto-prices")
        headers = {"content-type": "application/json"} if example.body else {}
        response = await client.request(example.method, example.path, content=example.body or None, headers=headers)
    assert response.status_code == example.status, response.text
    assert disagreements(example.answer, response.json()) == [], response.text


def test_every_route_and_code_is_on_the_page(world: World) -> None:
    for path, operations in world.api.openapi()["paths"].items():
        for method in operations:
            assert f"{method.upper()} {path}" in PAGE, (method, path)
    for code, (status, _) in CODES.items():
        assert f"| {code} | {status} |" in PAGE, code

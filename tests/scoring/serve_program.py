"""The application ``sentiment`` on a Ray and a Serve of its own, asked through a gateway; says what happened as JSON.

    python -m tests.scoring.serve_program DIRECTORY

A program, because Ray takes the environment of the process that starts it, and that is not a test's to change.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import ray
import yaml
from ray import serve

from ray_app.node.plan import SERVE_CONFIG
from ray_app.node.processes import descendants
from ray_app.scoring.pages import TRANSFORMER_PARTS, pages
from ray_app.scoring.plans import plan
from ray_app.scoring.pool import RayDataPool
from ray_app.scoring.serve_app import deployment
from ray_app.serving.apps import Deployed
from ray_app.settings import load_settings
from ray_app.storage.engine import Database
from ray_app.storage.migrate import upgrade
from tests.scoring.world import put, scores
from tests.serving.gateway_world import World, market

ANALYZE = "/api/v1/sentiment/analyze"


def deploy(**changes: Any) -> None:
    """As serve_config.yaml says, but for the changes."""
    applications = yaml.safe_load(SERVE_CONFIG.read_text())["applications"]
    (options,) = next(one["deployments"] for one in applications if one["name"] == "sentiment")
    serve.run(deployment.options(**options | changes).bind(), name="sentiment", route_prefix=None)


async def post(client: httpx.AsyncClient, texts: list[str], domain: str = "stock") -> httpx.Response:
    return await client.post(ANALYZE, json={"texts": texts, "domain": domain})


async def until_opened(client: httpx.AsyncClient, model: str) -> dict[str, Any]:
    """The answer once the model is among those that could be asked."""
    async with asyncio.timeout(90):
        while True:
            response = await post(client, ["the market rose", "", "profit is weak"])
            assert response.status_code == 200, response.text
            body: dict[str, Any] = response.json()
            if model in body["revisions"]:
                return body
            await asyncio.sleep(0.2)


async def as_configured(world: World) -> dict[str, Any]:
    before = serve.status().applications["sentiment"]
    found: dict[str, Any] = {"status": before.status, "replicas": dict(before.deployments["Sentiment"].replica_states)}
    async with world.client() as client:
        found["opened"] = await until_opened(client, "finbert")
        found["crypto"] = (await post(client, ["bitcoin is up"], "crypto")).json()
        singles = await asyncio.gather(*(post(client, [f"the market is up {n}"]) for n in range(16)))
    found["singles"] = [one.status_code for one in singles]
    return found


async def with_a_full_queue(world: World) -> dict[str, Any]:
    async with world.client() as client:
        await until_opened(client, "textblob")
        slow = ["very strong profit and no loss " * 160 + str(n) for n in range(50)]
        answers = await asyncio.gather(*(post(client, slow) for _ in range(6)))
        after = await post(client, ["up"])
    refused = [one for one in answers if one.status_code == 503]
    return {
        "statuses": sorted(one.status_code for one in answers),
        "retry_after": [one.headers.get("retry-after") for one in refused],
        "problems": [one.json() for one in refused],
        "after": after.status_code,
    }


def by_a_job(directory: Path) -> dict[str, Any]:
    """Texts that a job has scored by the application, whose replica is killed half way."""
    settings = load_settings(database_url=f"sqlite:///{directory / 'job.db'}")
    db = Database(settings.resolved_database_url)
    upgrade(db)
    texts = [f"the market is up {n} and strong" for n in range(5 * TRANSFORMER_PARTS)]
    put(db, *texts, stocks=True)
    model = plan(settings, "finbert")
    listed = list(pages(db, model))
    outcomes = []
    for outcome in RayDataPool(settings, "auto", deployed=True)(model, listed, "run"):
        if not outcomes:
            (replica,) = [pid for pid in descendants([os.getpid()]) if b"ServeReplica:sentiment" in cmdline(pid)]
            os.kill(replica, signal.SIGKILL)
        outcomes.append(outcome)
    stored = scores(db)
    db.dispose()
    return {
        "texts": len(texts),
        "pages": len(listed),
        "scored": sum(outcome.scored for outcome in outcomes),
        "failed": [outcome.failed for outcome in outcomes if outcome.failed],
        "stored": len({row["text_hash"] for row in stored}),
        "revisions": sorted({row["revision"] for row in stored}),
        "shares": [sum(row[name] for name in ("p_negative", "p_neutral", "p_positive")) for row in stored[:5]],
    }


def cmdline(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def main(directory: Path) -> None:
    db = Database(f"sqlite:///{directory / 'gateway.db'}")
    upgrade(db)
    world = market(db)
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
    serve.start(http_options={"location": "NoServer"})
    deploy()
    world.deps.analyst = Deployed()
    found = asyncio.run(all_of_it(world, directory))
    db.dispose()
    print("FOUND", json.dumps(found), flush=True)
    ray.shutdown()


async def all_of_it(world: World, directory: Path) -> dict[str, Any]:
    """In one event loop: handles of a process belong to the loop of the first, as on a node."""
    found = {"as_configured": await as_configured(world), "job": await asyncio.to_thread(by_a_job, directory)}
    one = {"min_replicas": 1, "max_replicas": 1}
    await asyncio.to_thread(deploy, max_ongoing_requests=1, max_queued_requests=1, autoscaling_config=one)
    found["full_queue"] = await with_a_full_queue(world)
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))

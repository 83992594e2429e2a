"""Two nodes side by side, one on SQLite, one on MariaDB and Redis: each works on its own cluster, each ends alone."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pymysql
import pytest
import redis

from ray_app.node import processes
from ray_app.node.head import private_dir_of, ray_dir_of
from tests.nodes import Node, started_node
from tests.servers import wait_until

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]

DATABASE = "two_nodes"


@dataclass
class Pair:
    """The two nodes, and what the second one runs on."""

    plain: Node
    served: Node
    mariadb_port: int
    bitcoin: list[dict[str, Any]]  # what came over Redis so far

    def stored(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of the second node's MariaDB."""
        connection = pymysql.connect(
            host="127.0.0.1", port=self.mariadb_port, user="node", password="node", database=DATABASE
        )
        with connection, connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, mariadb_port: int, redis_port: int) -> Iterator[Pair]:
    directory = tmp_path_factory.mktemp("pair")
    with pymysql.connect(host="127.0.0.1", port=mariadb_port, user="node", password="node") as admin:
        admin.cursor().execute(f"CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4")
    servers = (
        *("--database-url", f"mysql+pymysql://node:node@127.0.0.1:{mariadb_port}/{DATABASE}"),
        *("--redis-url", f"redis://127.0.0.1:{redis_port}/0"),
    )
    with ExitStack() as stack:
        bitcoin = stack.enter_context(listening(redis_port, "price_update:BTC"))
        plain = stack.enter_context(started_node(directory / "plain"))
        served = stack.enter_context(started_node(directory / "served", *servers))
        plain.wait_ready()
        served.wait_ready()
        yield Pair(plain, served, mariadb_port, bitcoin)


@contextmanager
def listening(port: int, channel: str) -> Iterator[list[dict[str, Any]]]:
    """Collects what is published on ``channel`` of the Redis on ``port``."""
    messages: list[dict[str, Any]] = []
    with closing(redis.Redis(port=port)) as client, client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(**{channel: lambda message: messages.append(json.loads(message["data"]))})
        thread = pubsub.run_in_thread(sleep_time=0.1)
        try:
            yield messages
        finally:
            thread.stop()
            thread.join()


def jobs_of(node: Node) -> set[str]:
    return {job["submission_id"] for job in node.dashboard("/api/jobs/").json()}


def last_success(node: Node, collector: str) -> datetime:
    """When the node's own collector has last done its work, as its database says."""
    (row,) = [row for row in node.get("/api/v1/stats/collectors").json()["data"] if row["collector"] == collector]
    return datetime.fromisoformat(row["last_success_at"])


def driver_log(node: Node, job_id: str) -> Path:
    """Where Ray keeps what a job of this node's cluster has written."""
    return ray_dir_of(node.data_dir) / "session_latest" / "logs" / f"job-driver-{job_id}.log"


def test_both_serve_prices_of_their_own(pair):
    for node in (pair.plain, pair.served):
        assert node.get("/api/v1/prices/current/BTC").status_code == 200
    stranger = {"Authorization": f"Bearer {pair.plain.key()}"}
    answer = httpx.get(f"{pair.served.url}/api/v1/prices/current/BTC", headers=stranger, trust_env=False)
    assert answer.status_code == 401, "a key of one node opens no other"
    token = (pair.plain.data_dir / "run" / "ray_token").read_text()
    assert pair.served.dashboard("/api/jobs/", token=token).status_code == 403


def test_jobs_of_both_finish_at_once(pair):
    order = {"dataset": "candles-300", "symbols": ["BTC"]}
    started = [
        (node, node.post("/api/v1/admin/backfill", order).json()["job_id"]) for node in (pair.plain, pair.served)
    ]
    for node, job_id in started:
        job = node.wait_job(job_id)
        assert job["status"] == "SUCCEEDED", job
        assert job_id in jobs_of(node)
        assert driver_log(node, job_id).exists()


@pytest.mark.parametrize("name", ["plain", "served"])
def test_a_job_talks_to_the_actors_of_its_own_cluster(pair, name):
    """Ray's own way of finding the cluster is to look for any on this machine."""
    node = getattr(pair, name)
    asked = node.post("/api/v1/admin/collect/crypto-prices").json()
    job = node.wait_job(asked["job_id"])
    assert job["status"] == "SUCCEEDED", job
    accepted = datetime.fromisoformat(asked["accepted_at"])
    wait_until(lambda: last_success(node, "crypto-prices") >= accepted, 30, "a pass of the node's own collector")


def test_the_rows_of_a_node_with_a_server_are_on_the_server(pair):
    assert pair.stored("SELECT count(*) FROM crypto_assets")[0][0] >= 320
    assert pair.stored("SELECT count(*) FROM price_data_real")[0][0] >= 320
    assert not (pair.served.state_dir / "node.db").exists()
    assert f"database    mysql+pymysql://node:***@127.0.0.1:{pair.mariadb_port}/{DATABASE}" in pair.served.printed
    assert "off         Redis" not in pair.served.printed


def test_redis_hears_of_a_new_price(pair):
    wait_until(lambda: pair.bitcoin, 60, "a price_update:BTC in Redis")
    first = pair.bitcoin[0]
    assert (first["type"], first["symbol"], first["coin_id"]) == ("price_update", "BTC", "bitcoin")
    stored = pair.stored(f"SELECT slot FROM price_data_real WHERE current_price = {first['data']['price_usd']!r}")
    assert stored, "what was published is what is stored"


def test_the_end_of_one_leaves_the_other_serving(pair):
    known = pair.plain.processes()
    assert pair.plain.stop(signal.SIGINT) == 0
    assert [process.command for process in known if process.alive] == []
    assert not private_dir_of(pair.plain.data_dir).exists()
    assert pair.served.process.poll() is None
    assert pair.served.get("/api/v1/prices/current/BTC").status_code == 200
    job = pair.served.post("/api/v1/admin/collect/crypto-prices").json()["job_id"]
    assert pair.served.wait_job(job)["status"] == "SUCCEEDED"


def test_a_node_on_servers_ends_on_sigterm_and_leaves_them_running(pair):
    known = pair.served.processes()
    assert pair.served.stop(signal.SIGTERM) == 0
    assert [process.command for process in known if process.alive] == []
    assert processes.started_with("RAY_TMPDIR", str(ray_dir_of(pair.served.data_dir))) == set()
    assert pair.stored("SELECT count(*) FROM fetches")[0][0] > 0

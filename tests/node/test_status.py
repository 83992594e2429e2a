"""``crypto-data status`` beside a real node, and the other commands that mean that node."""

from __future__ import annotations

import json

import pytest

from ray_app.collection.collectors import COLLECTORS
from tests.nodes import started_node
from tests.servers import wait_until

pytestmark = [pytest.mark.node, pytest.mark.timeout(420)]


def test_status_reads_a_running_node_and_other_commands_find_it(tmp_path):
    with started_node(tmp_path / "my data", "--time-scale", "60") as node:
        node.wait_ready()

        def look():
            return json.loads(node.cli("status", "--json").stdout)

        wait_until(lambda: look()["state"] == "healthy", 240, "a healthy node")
        seen = look()
        assert seen["collectors_from"] == "API"
        assert {row["collector"] for row in seen["collectors"]} == set(COLLECTORS)
        assert {item["dataset"] for item in seen["backfill"]} == {"candles-86400", "candles-3600", "candles-300"}
        assert {"API", "streams", "collectors", "Ray", "Serve, HAProxy", "sandbox", "launcher"} <= set(seen["memory"])
        assert seen["notes"] == []

        shown = node.cli("status")
        assert shown.returncode == 0, shown.stdout + shown.stderr
        assert shown.stdout.startswith("HEALTHY  health ")
        assert "SANDBOX: every price is simulated" in shown.stdout
        assert node.url in shown.stdout
        assert len(shown.stdout.splitlines()) <= 45
        for key in json.loads((node.data_dir / "keys.json").read_text()).values():
            assert key not in shown.stdout

        made = node.cli("keys", "create", "somebody")  # DATA_DIR alone says which node is meant, and which origin
        assert made.returncode == 0, made.stderr
        assert "somebody" in node.cli("keys", "list").stdout
        assert "no difference" in node.cli("db", "check").stdout
        assert node.cli("gaps").returncode == 0
        busy = node.cli("collect", "crypto-prices", "--once")
        assert busy.returncode == 1
        assert "A running node collects by itself" in busy.stderr
        assert node.stop() == 0

        ended = node.cli("status")
        assert ended.returncode == 3
        assert "no node runs here" in ended.stdout
        refused = node.cli("collect", "asset-registry", "--once")
        assert refused.returncode == 1
        assert "are the sandbox's" in refused.stderr, "real data must not reach the sandbox's database"

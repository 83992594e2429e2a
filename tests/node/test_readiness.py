"""READY means that a price is served; until then the missing pieces are named in words."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from pydantic import SecretStr

from ray_app.node import readiness as readiness_module
from ray_app.node.dashboard import Application
from ray_app.node.readiness import ACTORS, Readiness, complaints, probe_key
from ray_app.settings import Settings

PRICES = "/api/v1/prices/current"
HEALTHY = {"status": "ok", "components": {"streams": {"status": "ok", "score": 100.0}}, "losses": []}


class FakeGateway:
    """Answers each path as ``answers`` says: (status, body, headers). Remembers what was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, object, dict[str, str]]] = {"/ready": (200, {"status": "ready"}, {})}
        self.asked: list[tuple[str, str | None]] = []

    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]


@contextmanager
def serving(gateway: FakeGateway) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.partition("?")[0]
            gateway.asked.append((self.path, self.headers["Authorization"]))
            status, body, headers = gateway.answers.get(path, (404, {"title": "Not found", "detail": "no route"}, {}))
            content = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class FakeDashboard:
    """A dashboard whose answers are set."""

    def __init__(self) -> None:
        self.found: dict[str, Application] | None = {
            name: Application(name, "RUNNING", "", {}) for name in ("gateway", "streams", "collection")
        }
        self.alive = list(ACTORS)

    def applications(self):
        if self.found is None:
            raise httpx.ConnectError("gone")
        return self.found

    def actors(self):
        return [{"class_name": name, "state": "ALIVE"} for name in self.alive]


@pytest.fixture
def gateway() -> FakeGateway:
    return FakeGateway()


@pytest.fixture
def dashboard() -> FakeDashboard:
    return FakeDashboard()


@pytest.fixture
def readiness(gateway, dashboard) -> Iterator[Readiness]:
    with serving(gateway) as url:
        yield Readiness(url, "the-key", ["BTC", "ETH"], dashboard)


def test_a_served_price_is_ready_and_takes_one_question_with_the_key(readiness, gateway):
    gateway.answers[PRICES] = (200, {"data": [{}]}, {})
    assert readiness.ready()
    assert gateway.paths() == ["/ready", f"{PRICES}?symbols=BTC,ETH"]
    assert gateway.asked[-1][1] == "Bearer the-key"


def test_the_keys_limit_is_not_spent_while_there_can_be_no_answer(readiness, gateway):
    gateway.answers["/ready"] = (503, {"title": "Service unavailable", "detail": "the database does not answer"}, {})
    assert not readiness.ready()
    assert gateway.paths() == ["/ready"]
    assert "gateway: /ready answers 503 (the database does not answer)" in list(readiness.missing())


def test_a_node_without_prices_is_not_ready_and_says_so(readiness, gateway):
    gateway.answers[PRICES] = (404, {"title": "x", "detail": "none of the symbols asked for has a price"}, {})
    assert not readiness.ready()
    assert f"gateway: {PRICES} answers 404 (none of the symbols asked for has a price)" in list(readiness.missing())


def test_a_limit_that_was_reached_is_waited_out(readiness, gateway, monkeypatch):
    now = 100.0
    monkeypatch.setattr(readiness_module.time, "monotonic", lambda: now)
    gateway.answers[PRICES] = (429, {"title": "Too many requests"}, {"Retry-After": "7"})
    assert not readiness.ready()
    gateway.answers[PRICES] = (200, {"data": [{}]}, {})
    now = 106.9
    assert not readiness.ready()
    assert gateway.paths().count(f"{PRICES}?symbols=BTC,ETH") == 1
    now = 107.0
    assert readiness.ready()


def test_a_revoked_key_is_not_tried_again_and_the_streams_tell_instead(readiness, gateway):
    gateway.answers[PRICES] = (401, {"title": "Unauthorized"}, {})
    gateway.answers["/health"] = (200, {"components": {"streams": {"status": "degraded"}}, "losses": []}, {})
    assert not readiness.ready()
    gateway.answers["/health"] = (200, HEALTHY, {})
    assert readiness.ready()
    assert gateway.paths().count(f"{PRICES}?symbols=BTC,ETH") == 1


def test_without_a_key_the_streams_tell(gateway, dashboard):
    gateway.answers["/health"] = (200, HEALTHY, {})
    with serving(gateway) as url:
        assert Readiness(url, None, ["BTC"], dashboard).ready()
    assert [key for _, key in gateway.asked] == [None, None]


def test_a_gateway_that_does_not_answer_yet_is_no_error(dashboard):
    with serving(FakeGateway()) as url:
        pass
    readiness = Readiness(url, "key", ["BTC"], dashboard)
    assert not readiness.ready()
    assert "gateway: /ready does not answer (ConnectError)" in list(readiness.missing())


def test_an_answer_that_is_no_json_is_shown_as_text(readiness, gateway):
    gateway.answers["/ready"] = (404, "Path '/ready' not found.", {})
    readiness.ready()
    assert "gateway: /ready answers 404 (\"Path '/ready' not found.\")" in list(readiness.missing())


def test_applications_are_announced_once(readiness, dashboard):
    dashboard.found["streams"] = Application("streams", "DEPLOYING", "", {})
    assert list(readiness.news()) == ["running     collection", "running     gateway"]
    assert list(readiness.news()) == []
    dashboard.found["streams"] = Application("streams", "RUNNING", "", {})
    assert list(readiness.news()) == ["running     streams"]
    dashboard.found = None
    assert list(readiness.news()) == []


def test_what_does_not_run_is_named_with_the_reason(readiness, dashboard):
    dashboard.found = {
        "gateway": Application("gateway", "DEPLOY_FAILED", "Traceback …\nConfigError: DATABASE_URL is wrong", {}),
        "streams": Application("streams", "DEPLOYING", "", {"Streams": "UPDATING: starting"}),
    }
    dashboard.alive = ["EventBus", "UnifiedOhlc", "SlowFeeds"]
    missing = list(readiness.missing())
    assert missing[:4] == [
        "application gateway: DEPLOY_FAILED ConfigError: DATABASE_URL is wrong",
        "application streams: DEPLOYING Streams UPDATING: starting",
        "application collection: not deployed",
        "actor CryptoPrices: does not run",
    ]
    dashboard.found = None
    assert next(readiness.missing()) == "Ray dashboard: does not answer (ConnectError)"


def test_a_collectors_error_is_shown_to_who_may_see_it(readiness, gateway):
    evidence = {"collectors": [{"name": "crypto-prices", "last_error": "x\ncoingecko.markets: 503", "last_error_at": 5,
                                "succeeded_at": None}]}  # fmt: skip
    gateway.answers["/api/v1/admin/health"] = (200, HEALTHY | {"evidence": evidence}, {})
    assert list(readiness.missing())[-1] == "collector crypto-prices: its last pass failed: coingecko.markets: 503"


def test_complaints_are_sentences_and_name_each_component_once():
    health = {
        "components": {
            "database": {"status": "ok", "score": 100.0},
            "redis": {"status": "off", "score": None, "reason": "no Redis is configured (REDIS_URL)"},
            "streams": {"status": "degraded", "score": 50.0},
            "collector:crypto-prices": {"status": "starting", "score": 100.0, "reason": "its first slots are not due"},
            "upstreams": {"status": "dead", "score": 0.0},
        },
        "losses": [
            {"component": "streams", "points": 5.0, "reason": "they have no prices to show yet", "since": None},
            {"component": "upstreams", "points": 9.0, "reason": "coingecko: none is made for now (circuit open)"},
        ],
        "evidence": {"collectors": [{"name": "fine", "last_error": "old", "last_error_at": 5, "succeeded_at": 6}]},
    }
    assert list(complaints(health)) == [
        "streams: they have no prices to show yet",
        "upstreams: coingecko: none is made for now (circuit open)",
        "collector:crypto-prices: starting, its first slots are not due",
    ]
    assert list(complaints({})) == []


def test_the_probe_uses_a_key_of_the_environment_before_the_files(tmp_path):
    (tmp_path / "keys.json").write_text('{"master": "m", "readonly": "r"}')
    assert probe_key(Settings(data_dir=tmp_path)) == "m"
    assert probe_key(Settings(data_dir=tmp_path, api_key_readonly=SecretStr("a" * 16))) == "a" * 16
    assert probe_key(Settings(data_dir=tmp_path / "none")) is None

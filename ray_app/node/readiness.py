"""Is a price really served, and if not: what is missing, in words."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx

from ray_app.node.dashboard import Dashboard
from ray_app.settings import Settings

#: what a healthy node runs: the applications of serve_config.yaml, and the actors of collection/actors.py by class
APPLICATIONS = ("gateway", "streams", "collection")
ACTORS = ("CryptoPrices", "UnifiedOhlc", "SlowFeeds", "EventBus")

JSON = Mapping[str, Any]


def probe_key(settings: Settings) -> str | None:
    """An API key for the launcher's own question; None where keys come from elsewhere."""
    for secret in (settings.api_key_master, settings.api_key_trading, settings.api_key_readonly):
        if secret is not None:
            return secret.get_secret_value()
    try:
        keys: dict[str, str] = json.loads(settings.keys_file.read_text())
    except (OSError, ValueError):
        return None
    return keys.get("master") or keys.get("readonly")  # a master key may see the evidence behind /health


class Readiness:
    """Asks the gateway for a current price, the way a consumer would."""

    def __init__(self, url: str, key: str | None, symbols: Sequence[str], dashboard: Dashboard) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._symbols = symbols
        self._dashboard = dashboard
        self._running: set[str] = set()
        self._last = "not asked yet"
        self._not_before = 0.0

    def ready(self) -> bool:
        """Whether the current price of one of the first assets is served now.

        The open /ready is asked first, so that the key's own rate limit is spent only once there may be an answer.
        Without a key that the gateway takes, the streams say whether there are prices.
        """
        answer = self._ask("/ready")
        if answer is None or answer.status_code != 200 or time.monotonic() < self._not_before:
            return False
        if self._headers:
            answer = self._ask(f"/api/v1/prices/current?symbols={','.join(self._symbols)}")
            if answer is not None and answer.status_code == 429:
                self._not_before = time.monotonic() + _seconds(answer.headers.get("Retry-After"))
            if answer is None or answer.status_code not in {401, 403}:
                return answer is not None and answer.status_code == 200
            self._headers = {}  # revoked, or a key of another database: it will not get better by asking
        return streams_have_prices(self._health())

    def _ask(self, path: str) -> httpx.Response | None:
        try:
            answer = httpx.get(self._url + path, headers=self._headers, timeout=5, trust_env=False)
        except httpx.HTTPError as error:
            self._last = f"{path.partition('?')[0]} does not answer ({type(error).__name__})"
            return None
        self._last = f"{path.partition('?')[0]} answers {answer.status_code}{_detail(answer)}"
        return answer

    def news(self) -> Iterator[str]:
        """The applications that have come up since the last call."""
        try:
            applications = self._dashboard.applications()
        except httpx.HTTPError:
            return
        for name, application in sorted(applications.items()):
            if application.status == "RUNNING" and name not in self._running:
                self._running.add(name)
                yield f"running     {name}"

    def missing(self) -> Iterator[str]:
        """What keeps prices from being served: applications, actors, and what the gateway itself says."""
        yield from self._processes()
        last = self._last
        health = self._health()
        yield f"gateway: {last}"
        yield from complaints(health)

    def _processes(self) -> Iterator[str]:
        try:
            applications = self._dashboard.applications()
            alive = {actor["class_name"] for actor in self._dashboard.actors() if actor["state"] == "ALIVE"}
        except httpx.HTTPError as error:
            yield f"Ray dashboard: does not answer ({type(error).__name__})"
            return
        for name in APPLICATIONS:
            application = applications.get(name)
            if application is None:
                yield f"application {name}: not deployed"
            elif application.status != "RUNNING":
                why = _last_line(application.message) or "; ".join(
                    f"{part} {state}" for part, state in application.deployments.items()
                )
                yield f"application {name}: {application.status} {why}".rstrip()
        for name in ACTORS:
            if name not in alive:
                yield f"actor {name}: does not run"

    def _health(self) -> JSON:
        """All of the evidence where our key may see it, else the open summary; {} where neither is to be had."""
        for path in ("/api/v1/admin/health", "/health") if self._headers else ("/health",):
            answer = self._ask(path)
            try:
                body = answer.json() if answer is not None else {}
            except ValueError:
                continue
            if isinstance(body, dict) and "components" in body:
                return body
        return {}


def streams_have_prices(health: JSON) -> bool:
    """Whether a /health body says that the streams have prices to show."""
    return bool(health.get("components", {}).get("streams", {}).get("status") == "ok")


def complaints(health: JSON) -> Iterator[str]:
    """A /health body in lines a person reads: what is lost and why, the causes (of the evidence) last."""
    for loss in health.get("losses", ()):
        yield f"{loss['component']}: {loss['reason']}"
    told = {loss["component"] for loss in health.get("losses", ())}
    for name, component in sorted(health.get("components", {}).items()):
        if component["status"] not in {"ok", "off"} and name not in told:
            yield f"{name}: {component['status']}" + (f", {component['reason']}" if component.get("reason") else "")
    for collector in health.get("evidence", {}).get("collectors", ()):
        failed, succeeded = collector.get("last_error_at"), collector.get("succeeded_at")
        if failed is not None and (succeeded is None or succeeded < failed):
            yield f"collector {collector['name']}: its last pass failed: {_last_line(collector['last_error'] or '')}"


def _seconds(retry_after: str | None) -> float:
    try:
        return min(float(retry_after or ""), 60.0)
    except ValueError:
        return 1.0


def _detail(answer: httpx.Response) -> str:
    """What a refusal says about itself (RFC 9457)."""
    if answer.status_code < 400:
        return ""
    try:
        body = answer.json()
        return f" ({body.get('detail') or body['title']})"
    except (ValueError, KeyError, AttributeError):
        return f" ({_last_line(answer.text)})" if answer.text.strip() else ""


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:500] if lines else ""

"""Is a price really served, and if not: what is missing, in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import httpx

from ray_app.node.dashboard import Dashboard
from ray_app.settings import Settings

#: what a healthy node runs beside the replicas: the class names of collection/actors.py
ACTORS = ("CryptoPrices", "UnifiedOhlc", "AssetRegistryRefresh", "EventBus")


def probe_key(settings: Settings) -> str | None:
    """An API key for the launcher's own question; None where keys come from elsewhere."""
    for secret in (settings.api_key_master, settings.api_key_trading, settings.api_key_readonly):
        if secret is not None:
            return secret.get_secret_value()
    try:
        keys: dict[str, str] = json.loads(settings.keys_file.read_text())
    except (OSError, ValueError):
        return None
    return keys.get("master") or keys.get("readonly")  # a master key has the widest limit


class Readiness:
    """Asks the gateway for a current price, the way a consumer would."""

    def __init__(self, url: str, key: str | None, symbols: Sequence[str], dashboard: Dashboard) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._symbols = symbols
        self._dashboard = dashboard
        self._running: set[str] = set()
        self._last = "no answer yet"

    def ready(self) -> bool:
        """Whether one of the first assets' current price is served now."""
        if not self._headers:  # no key of our own: the most that can be asked
            return self._ask("/ready") == 200
        return any(self._ask(f"/api/v1/prices/current/{symbol}") == 200 for symbol in self._symbols)

    def _ask(self, path: str) -> int | None:
        try:
            answer = httpx.get(self._url + path, headers=self._headers, timeout=5, trust_env=False)
        except httpx.HTTPError as error:
            self._last = f"{path}: {type(error).__name__}"
            return None
        self._last = f"{path}: {answer.status_code} {answer.text[:200]}"
        return answer.status_code

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
        try:
            applications = self._dashboard.applications()
            for name in ("gateway", "streams", "collection"):
                application = applications.get(name)
                if application is None:
                    yield f"application {name}: not deployed"
                elif application.status != "RUNNING":
                    why = _last_line(application.message) or "; ".join(
                        f"{part} {state}" for part, state in application.deployments.items()
                    )
                    yield f"application {name}: {application.status} {why}"
            alive = {actor["class_name"] for actor in self._dashboard.actors() if actor["state"] == "ALIVE"}
            for name in ACTORS:
                if name not in alive:
                    yield f"actor {name}: does not run"
        except httpx.HTTPError as error:
            yield f"Ray dashboard: does not answer ({type(error).__name__})"
        yield f"gateway: {self._last}"
        yield from self._health()

    def _health(self) -> Iterator[str]:
        try:
            body = httpx.get(f"{self._url}/health", headers=self._headers, timeout=5, trust_env=False).json()
        except (httpx.HTTPError, ValueError):
            return
        for name, component in sorted(body.get("components", {}).items()):
            if isinstance(component, dict) and component.get("state", component.get("status")) not in {"ok", "off"}:
                yield f"{name}: {json.dumps(component)[:300]}"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:500] if lines else ""

"""The dashboard's REST API as the launcher needs it: deploy, look, shut down. Synchronous and free of Ray.

https://docs.ray.io/en/latest/serve/api/index.html#serve-rest-api
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from ray_app.errors import NodeError


@dataclass(frozen=True, slots=True)
class Application:
    """One Serve application. ``message`` is why it is not RUNNING, where Serve says so."""

    name: str
    status: str
    message: str
    deployments: dict[str, str]  # name → "HEALTHY", "UPDATING: …"


class NotTaken(NodeError):
    """Serve could not take a configuration now, through no fault of it: on a busy machine its start takes long."""


class Dashboard:
    """A client of one dashboard; every method raises ``httpx.HTTPError`` where it does not answer."""

    def __init__(self, url: str, token: str) -> None:
        self._http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=5, trust_env=False
        )

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def answers(self) -> bool:
        """Whether the dashboard is up and takes our token."""
        try:
            return self._http.get("/api/version").status_code == 200
        except httpx.HTTPError:
            return False

    def deploy(self, config: dict[str, Any]) -> None:
        """Declare the applications; Serve builds them in the background. May be repeated.

        NodeError shows what Serve refuses; NotTaken where another try may succeed.
        """
        try:
            answer = self._http.put("/api/serve/applications/", json=config, timeout=60)
        except httpx.HTTPError as error:
            raise NotTaken(f"Ray's dashboard did not take serve_config.yaml ({type(error).__name__})") from error
        if answer.status_code != 200:
            kind = NotTaken if answer.status_code >= 500 else NodeError
            raise kind(f"Ray Serve refuses serve_config.yaml ({answer.status_code}): {answer.text.strip()[-2000:]}")

    def applications(self) -> dict[str, Application]:
        """Every application by name; empty while Serve starts."""
        answer = self._http.get("/api/serve/applications/")
        answer.raise_for_status()
        found = {}
        for name, details in answer.json()["applications"].items():
            deployments = {
                part: ": ".join(filter(None, (state["status"], state.get("message", ""))))
                for part, state in details.get("deployments", {}).items()
            }
            found[name] = Application(name, details["status"], details.get("message", ""), deployments)
        return found

    def shut_down_serve(self, timeout_s: float) -> None:
        """Stop every application gracefully; returns when they have stopped."""
        self._http.delete("/api/serve/applications/", timeout=timeout_s).raise_for_status()

    def actors(self) -> list[dict[str, Any]]:
        """Every actor that is not dead, as the dashboard lists it."""
        answer = self._http.get("/api/v0/actors", params={"limit": 1_000, "detail": 1})
        answer.raise_for_status()
        rows: list[dict[str, Any]] = answer.json()["data"]["result"]["result"]
        return [row for row in rows if row["state"] != "DEAD"]

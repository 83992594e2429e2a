"""Asking a sandbox through our own parsers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from ray_app.sources import ENDPOINTS, Exchange, Parsed, Request
from tests.sandbox.conftest import Sandbox

Make = Callable[..., Sandbox]
ACCOUNTS = {"etherscan": {"apikey": "sandbox"}}


async def asked(world: Sandbox, request: Request, **more: str) -> tuple[int, Any]:
    """Status and decoded body of a request, its key parameter added."""
    account = ENDPOINTS[request.endpoint].account
    params = {**request.params, **ACCOUNTS.get(account, {}), **more}
    answer = await world.get(f"/{account}{request.path}", **params)
    kind = answer.headers["content-type"]
    return answer.status_code, orjson.loads(answer.content) if kind.startswith("application/json") else answer.text


async def parsed(world: Sandbox, request: Request) -> Parsed:
    """What our parser reads from the sandbox's answer now, without an issue."""
    status, body = await asked(world, request)
    exchange = Exchange(request, status, {}, orjson.dumps(body), world.clock.now_ms())
    found = ENDPOINTS[request.endpoint].parse(exchange)
    assert found.issues == ()
    return found


def by_metric(found: Parsed) -> Mapping[tuple[Any, Any, Any], float]:
    """coin, metric and moment → value."""
    return {
        (row.key.get("coin_id"), row.key.get("metric"), row.key.get("event_time")): row.values["value"]  # type: ignore[misc]
        for row in found.rows
    }

"""The REST gateway as one ASGI app, built from its parts.

From the outside in: :class:`FastPrices` (the hot path), :class:`Edge`, :class:`Gate`, FastAPI with the routes. Nothing
here knows Ray; the Serve deployment only hands over the parts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException

import ray_app
from ray_app.serving.deps import GatewayDeps
from ray_app.serving.fast_prices import FastPrices
from ray_app.serving.middleware import (
    AccessLog,
    App,
    Cors,
    Edge,
    Gate,
    Header,
    LimitHeaders,
    Receive,
    Scope,
    Send,
    request_info,
)
from ray_app.serving.problems import CODES, MEDIA_TYPE, Problem, problem_of
from ray_app.serving.routes import (
    admin,
    analyze,
    assets,
    evidence,
    history,
    macro,
    news,
    node,
    prices,
    sentiment,
    sources,
    statements,
    stats,
)

DESCRIPTION = """
Prices, candles, macro, on-chain and derivatives numbers, news and their sentiment, and the evidence for them, as
collected by this node.

* **Keys**: `Authorization: Bearer <key>` or `X-API-Key: <key>`; levels readonly < trading < master.
* **Symbols**: ticker or coin id, any case (`BTC`, `btc`, `bitcoin`).
* **Times**: RFC 3339, UTC. **Null is null**: the upstream did not say.
* **Errors**: RFC 9457 problem documents with a stable `code` and the `request_id`.
* **Freshness**: `as_of`, `source` and `quality` in the body, seconds since `as_of` in the `Age` header.
* **As known then**: `as_of` answers with nothing that came later.
* **Terms**: `attribution` belongs beside the data; what must not be passed on is for keys of level trading and above.
* **Limits**: per key and replica, in `RateLimit` and `X-RateLimit-*`; 429 with `Retry-After` beyond them.
"""


class Gateway:
    """The ASGI app; ``start`` and ``stop`` (or the ASGI lifespan) run its background work."""

    def __init__(self, deps: GatewayDeps) -> None:
        self.deps = deps
        self.fastapi = _fastapi(deps)
        limits = LimitHeaders(deps.limiter.policy, deps.wall_s)
        log = AccessLog(deps.settings.access_log, deps.clock.now_ms)
        origin: list[Header] = [(b"x-data-origin", b"sandbox")] if deps.settings.origin == "sandbox" else []
        cors = Cors(deps.settings.cors_origins)
        gate = Gate(self.fastapi, keyring=deps.keyring, limiter=deps.limiter, now_s=deps.now_s)
        #: everything but the hot path; answers every request the hot path answers, with the same bytes
        self.general: App = Edge(
            gate,
            cors=cors,
            log=log,
            limits=limits,
            static_headers=origin,
            echo_request_id=deps.echo_request_id,
        )
        self._app: App = FastPrices(
            self.general,
            board=deps.board,
            keyring=deps.keyring,
            limiter=deps.limiter,
            limits=limits,
            log=log,
            clock=deps.clock,
            static_headers=[*origin, *cors.headers(None)],
            echo_request_id=deps.echo_request_id,
            now_s=deps.now_s,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        await self._app(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document."""
        return self.fastapi.openapi()


def build_api(deps: GatewayDeps) -> Gateway:
    """The gateway over ``deps``."""
    return Gateway(deps)


def _fastapi(deps: GatewayDeps) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await deps.start()
        yield
        await deps.stop()

    app = FastAPI(
        title="crypto-data",
        version=ray_app.__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.gateway = deps
    for module in (
        *(node, prices, history, macro, statements, news, sentiment, analyze),
        *(assets, sources, stats, evidence, admin),
    ):
        app.include_router(module.router)
    app.add_exception_handler(Problem, _answer_problem)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(Exception, _answer_failure)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # FastAPI's own way to extend the document
    return app


# --- errors --------------------------------------------------------------------------------------------------


def _response(request: Request, problem: Problem) -> Response:
    return Response(
        problem.body(request_info(request.scope).request_id),
        status_code=problem.status,
        headers={"cache-control": "no-store", **problem.headers},
        media_type=MEDIA_TYPE,
    )


async def _answer_problem(request: Request, error: Exception) -> Response:
    return _response(request, problem_of(error, request_info(request.scope).request_id))


async def _answer_failure(request: Request, error: Exception) -> Response:
    info = request_info(request.scope)
    info.reported = True  # Starlette raises it once more after this answer
    return _response(request, problem_of(error, info.request_id))


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it alone
    headers = dict(error.headers or {})
    if isinstance(error.__cause__, Problem):  # FastAPI hides what went wrong while it read the body
        problem = error.__cause__
    elif error.status_code == 404:
        problem = Problem("NOT_FOUND", "there is nothing at this path; see /docs")
    elif error.status_code == 405:
        problem = Problem("METHOD_NOT_ALLOWED", f"{request.method} is not allowed here", headers=headers)
    else:
        problem = Problem("VALIDATION_ERROR", str(error.detail), headers=headers)
    return _response(request, problem)


async def _answer_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it alone
    errors = [_fault(found) for found in error.errors()]
    detail = "; ".join(f"{fault['name'] or fault['in']}: {fault['problem']}" for fault in errors)
    return _response(request, Problem("VALIDATION_ERROR", detail, errors=errors))


def _fault(found: dict[str, Any]) -> dict[str, str]:
    """One finding of pydantic: what is wrong with ``name`` ("": with all of it) ``in`` path, query or body."""
    place, *names = map(str, found["loc"])
    if found["type"] == "json_invalid":
        return {"in": place, "name": "", "problem": f"not JSON: {found['ctx']['error']} at character {names[0]}"}
    return {"in": place, "name": ".".join(names), "problem": found["msg"].removeprefix("Value error, ")}


# --- the OpenAPI document ------------------------------------------------------------------------------------

_PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457 problem document",
    "required": ["type", "title", "status", "detail", "code", "request_id"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "enum": sorted(CODES)},
        "request_id": {"type": "string"},
        "near": {"type": "array", "items": {"type": "string"}, "description": "INVALID_SYMBOL: what was perhaps meant"},
        "errors": {"type": "array", "items": {"type": "object"}, "description": "VALIDATION_ERROR: each parameter"},
    },
}


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        components = schema.setdefault("components", {}).setdefault("schemas", {})
        components["Problem"] = _PROBLEM_SCHEMA
        components.pop("HTTPValidationError", None)
        components.pop("ValidationError", None)
        problem = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        for path in schema["paths"].values():
            for operation in path.values():
                statuses = {"422": "VALIDATION_ERROR"} if "422" in operation["responses"] else {}
                if operation.get("security"):
                    # either header will do; FastAPI lists them as if both were needed
                    operation["security"] = [{name: []} for scheme in operation["security"] for name in scheme]
                    statuses |= {"401": "INVALID_API_KEY", "429": "RATE_LIMIT_EXCEEDED", "503": "SERVICE_UNAVAILABLE"}
                for status, code in statuses.items():
                    operation["responses"][status] = {"description": code, "content": problem}
        app.openapi_schema = schema
    return app.openapi_schema

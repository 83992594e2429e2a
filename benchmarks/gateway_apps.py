"""What benchmarks/gateway.py serves: the gateway, and the least that FastAPI can do with the same bytes."""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import FastAPI, Response
from ray import serve

from ray_app.serving.api import Gateway, build_api
from ray_app.serving.deps import open_gateway
from ray_app.settings import load_settings

PATH = "/api/v1/prices/current/BTC"


def null_app() -> FastAPI:
    """One route that returns bytes it has: no key, no limit, no entity tag, no middleware."""
    app = FastAPI()
    body = Path(os.environ["BENCHMARK_BODY"]).read_bytes()

    @app.get(PATH)
    async def current() -> Response:
        return Response(body, media_type="application/json")

    return app


class GatewayApp:
    """The real one, without an event bus (the outbox is polled, as it is when the bus is away)."""

    def __serve_build_asgi_app__(self) -> Gateway:
        return build_api(open_gateway(load_settings(), None, echo_request_id=False))


class NullApp:
    """The null handler, served in the same way."""

    def __serve_build_asgi_app__(self) -> FastAPI:
        return null_app()


gateway = serve.deployment(name="Gateway")(serve.ingress()(GatewayApp)).bind()
null = serve.deployment(name="Null")(serve.ingress()(NullApp)).bind()

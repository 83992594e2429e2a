"""What needs no key: is the node alive, can it answer, how is it; and the description of the API."""

from __future__ import annotations

import asyncio
from importlib.resources import files

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from sqlalchemy.exc import SQLAlchemyError

from ray_app.errors import StorageError
from ray_app.serving.problems import Problem
from ray_app.serving.routes.answers import JSON, Gateway, dumps
from ray_app.storage import gateway_queries

router = APIRouter(tags=["node"])

#: needs nothing from another host
_DOCS_PAGE = files("ray_app.serving").joinpath("docs.html").read_text(encoding="utf-8")


@router.get("/live", summary="The process answers")
async def live() -> Response:
    """200 as long as the process can answer at all."""
    return Response(b'{"status":"alive"}', media_type=JSON, headers={"cache-control": "no-store"})


@router.get("/ready", summary="The database answers", responses={503: {"description": "SERVICE_UNAVAILABLE"}})
async def ready(deps: Gateway) -> Response:
    """200 if the database can be read: nothing else is needed to answer."""

    def look() -> None:
        with deps.db.read() as conn:
            gateway_queries.reachable(conn)

    try:
        await asyncio.to_thread(look)
    except (StorageError, SQLAlchemyError) as error:
        raise Problem("SERVICE_UNAVAILABLE", "the database does not answer", headers={"Retry-After": "5"}) from error
    return Response(b'{"status":"ready"}', media_type=JSON, headers={"cache-control": "no-store"})


@router.get("/health", summary="Score and component states")
async def health(deps: Gateway) -> Response:
    """The summary: overall score and the state of each component, without secrets, hosts or paths."""
    return Response(dumps(await deps.health.summary()), media_type=JSON, headers={"cache-control": "no-store"})


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> Response:
    """The OpenAPI document."""
    return Response(dumps(request.app.openapi()), media_type=JSON)


@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    """The API, readable in a browser."""
    return HTMLResponse(_DOCS_PAGE)

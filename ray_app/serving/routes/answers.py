"""From bytes to responses: entity tags, 304, Age, gzip where it pays; and what routes have in common."""

from __future__ import annotations

import asyncio
import base64
import binascii
import gzip
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import Depends, Query, Request, Response, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from sqlalchemy import Connection

from ray_app.serving.deps import GatewayDeps
from ray_app.serving.keys import Level, Principal
from ray_app.serving.middleware import request_info
from ray_app.serving.prices_board import etag_of
from ray_app.serving.problems import Problem

#: below this a compressed answer saves no packet
GZIP_MIN_BYTES = 1_400
#: level 6 costs three times the time of 4 and saves 4 % on price lists
GZIP_LEVEL = 4
JSON = "application/json"

Read = TypeVar("Read")

_bearer = HTTPBearer(auto_error=False, scheme_name="bearerKey", description="Authorization: Bearer cdc_…")
_header = APIKeyHeader(
    name="X-API-Key", auto_error=False, scheme_name="headerKey", description="the same key in a header of its own"
)

#: only for the OpenAPI document: the keys themselves are Gate's business
_BearerScheme = Annotated[Any, Security(_bearer)]
_HeaderScheme = Annotated[Any, Security(_header)]

Limit = Annotated[int, Query(ge=1, le=1_000, description="how many per page")]
CursorParam = Annotated[
    str | None, Query(max_length=512, description="`next_cursor` of the page before; opaque, do not build it")
]


def gateway(request: Request) -> GatewayDeps:
    """The dependencies of this gateway."""
    deps: GatewayDeps = request.app.state.gateway
    return deps


Gateway = Annotated[GatewayDeps, Depends(gateway)]


async def from_database(deps: GatewayDeps, read: Callable[[Connection], Read]) -> Read:
    """What ``read`` (blocking) finds, read in a thread within one transaction."""

    def work() -> Read:
        with deps.db.read() as conn:
            return read(conn)

    return await asyncio.to_thread(work)


def requires(level: Level) -> Callable[..., Principal]:
    """A dependency that lets only keys of ``level`` or above pass (Gate has identified them)."""

    def check(request: Request, _one: _BearerScheme, _other: _HeaderScheme) -> Principal:
        principal = request_info(request.scope).principal
        if principal is None:  # only if a route were opened by mistake
            raise Problem("INVALID_API_KEY", "this needs a key")
        if principal.level < level:
            raise Problem("FORBIDDEN", f"this needs a key of level {level.name}; this one is {principal.level.name}")
        return principal

    check.level = level  # type: ignore[attr-defined]  # read by the test that walks all routes
    return check


def matches(none_match: bytes, etag: bytes) -> bool:
    """Whether If-None-Match names ``etag`` (or its compressed form); weak comparison, as RFC 9110 wants it."""
    if none_match == etag:
        return True
    candidates = {candidate.strip().removeprefix(b"W/") for candidate in none_match.split(b",")}
    return b"*" in candidates or etag in candidates or _compressed(etag) in candidates


def _compressed(etag: bytes) -> bytes:
    return etag[:-1] + b'-gz"'


def accepts_gzip(request: Request) -> bool:
    """Whether the client takes gzip."""
    for part in request.headers.get("accept-encoding", "").lower().split(","):
        coding, _, weight = part.strip().partition(";")
        if coding in {"gzip", "*"}:
            return weight.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False


class Prepared:
    """A body with its tag, and its compressed form once somebody wanted it."""

    __slots__ = ("_gzipped", "as_of", "body", "etag")

    def __init__(self, body: bytes, as_of: int | None) -> None:
        self.body = body
        self.as_of = as_of
        self.etag = etag_of(body)
        self._gzipped: bytes | None = None

    @property
    def gzipped(self) -> bytes:
        """The body, compressed (always the same bytes)."""
        if self._gzipped is None:
            self._gzipped = gzip.compress(self.body, GZIP_LEVEL, mtime=0)
        return self._gzipped


def answer(request: Request, prepared: Prepared, now_ms: int, media_type: str = JSON) -> Response:
    """A cacheable 200, or 304 if the client has it. ``Age`` is node seconds since ``as_of``."""
    headers = {"cache-control": "private, no-cache"}
    body, etag = prepared.body, prepared.etag
    if prepared.as_of is not None:
        headers["age"] = str(max((now_ms - prepared.as_of) // 1_000, 0))
    if len(body) >= GZIP_MIN_BYTES:
        headers["vary"] = "Accept-Encoding"
        if accepts_gzip(request):
            body, etag = prepared.gzipped, _compressed(etag)
            headers["content-encoding"] = "gzip"
    headers["etag"] = etag.decode()
    none_match = request.headers.get("if-none-match")
    if none_match is not None and matches(none_match.encode("latin-1"), prepared.etag):
        headers.pop("content-encoding", None)
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=media_type)


def dumps(content: Any) -> bytes:
    """``content`` as JSON; None stays null."""
    return orjson.dumps(content)


# --- cursors -------------------------------------------------------------------------------------------------


def encode_cursor(position: dict[str, Any]) -> str:
    """An opaque token for a position in a list."""
    return base64.urlsafe_b64encode(orjson.dumps(position)).decode().rstrip("=")


def decode_cursor(token: str, **fields: type) -> dict[str, Any]:
    """The position behind ``token``; Problem VALIDATION_ERROR unless it has exactly these fields of these types."""
    try:
        position = orjson.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error):
        position = None
    if (
        not isinstance(position, dict)
        or position.keys() != fields.keys()
        or any(type(position[name]) is not kind for name, kind in fields.items())
        or any(isinstance(value, int) and abs(value) > 1 << 53 for value in position.values())
    ):
        raise Problem("VALIDATION_ERROR", "cursor: not one this API gave out; start again without it")
    return position

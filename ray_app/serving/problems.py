"""Errors as RFC 9457 ``application/problem+json`` with a stable ``code`` and the request's id.

No body ever shows SQL, a stack, a host or a path: what is not a :class:`Problem`, an unknown symbol or an unreachable
database is logged with its context and answered as INTERNAL_ERROR without a word of it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy.exc import SQLAlchemyError

from ray_app.errors import CryptoDataError, SchemaDrift, ScorerBusy, StorageError, UnknownSymbol

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

#: every code an answer may carry: its HTTP status and its title
CODES: dict[str, tuple[int, str]] = {
    "INVALID_API_KEY": (401, "A valid API key is needed"),
    "FORBIDDEN": (403, "This is not allowed"),
    "NOT_FOUND": (404, "There is nothing here"),
    "INVALID_SYMBOL": (404, "No asset answers to this symbol"),
    "DATA_NOT_AVAILABLE": (404, "There is no data for this request"),
    "METHOD_NOT_ALLOWED": (405, "The method is not allowed here"),
    "PAYLOAD_TOO_LARGE": (413, "The request's body is too large"),
    "VALIDATION_ERROR": (422, "The request is not valid"),
    "RATE_LIMIT_EXCEEDED": (429, "Too many requests"),
    "INTERNAL_ERROR": (500, "Something went wrong here"),
    "SERVICE_UNAVAILABLE": (503, "The service cannot answer now"),
}


class Problem(CryptoDataError):
    """An answer that is an error. ``extra`` goes into the body beside the standard members."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.status, self.title = CODES[code]
        self.detail = detail
        self.headers = dict(headers or {})
        if code == "INVALID_API_KEY":
            self.headers.setdefault("WWW-Authenticate", 'Bearer realm="crypto-data"')
        self.extra = extra

    def body(self, request_id: str) -> bytes:
        """The problem document."""
        return orjson.dumps(
            {
                "type": f"urn:crypto-data:problem:{self.code.lower().replace('_', '-')}",
                "title": self.title,
                "status": self.status,
                "detail": self.detail,
                "code": self.code,
                "request_id": request_id,
                **self.extra,
            }
        )


def problem_of(error: BaseException, request_id: str) -> Problem:
    """The answer to ``error``; what the client must not see goes to the log under ``request_id``."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, UnknownSymbol):
        return Problem("INVALID_SYMBOL", str(error), near=list(error.near))
    if isinstance(error, ScorerBusy):
        return Problem("SERVICE_UNAVAILABLE", str(error), headers={"Retry-After": str(error.retry_after_s)})
    if isinstance(error, SchemaDrift):
        logger.error("request %s: the database's schema is not ours: %s", request_id, error)
        return Problem("SERVICE_UNAVAILABLE", "the database is being migrated", headers={"Retry-After": "30"})
    if isinstance(error, StorageError | SQLAlchemyError):
        logger.error("request %s: the database failed: %s", request_id, error, exc_info=error)
        return Problem("SERVICE_UNAVAILABLE", "the database does not answer", headers={"Retry-After": "5"})
    logger.error("request %s failed", request_id, exc_info=error)
    return Problem("INTERNAL_ERROR", "the failure is in the log under this request id")

"""The hot path: ``GET /api/v1/prices/current/{symbol}`` from memory, in front of everything else.

It answers only what it can answer at once: a valid key with something left of its limit, a symbol seen before, a price
on the board, no cross-origin request. Everything else (and so every error) goes the general way through Edge, Gate and
FastAPI, which answers the same request with the same bytes; tests/serving/test_api_fast_path.py compares the two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from ray_app.clock import Clock
from ray_app.serving.keys import KeyRing
from ray_app.serving.limits import RateLimiter
from ray_app.serving.middleware import (
    AccessLog,
    App,
    Header,
    LimitHeaders,
    Receive,
    Scope,
    Send,
    number,
    request_id_of,
)
from ray_app.serving.prices_board import PriceBoard
from ray_app.serving.routes.answers import matches

PREFIX = "/api/v1/prices/current/"
_SKIP = len(PREFIX)


class FastPrices:
    """ASGI: current prices from the board, everything else from ``app``."""

    def __init__(
        self,
        app: App,
        *,
        board: PriceBoard,
        keyring: KeyRing,
        limiter: RateLimiter,
        limits: LimitHeaders,
        log: AccessLog,
        clock: Clock,
        static_headers: Iterable[Header],
        echo_request_id: bool,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._board = board
        self._keyring = keyring
        self._limiter = limiter
        self._limits = limits
        self._log = log
        self._clock = clock
        self._static = list(static_headers)
        self._echo = echo_request_id
        self._now_s = now_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["method"] != "GET" or scope["query_string"]:
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        view = self._board.seen(path[_SKIP:]) if path.startswith(PREFIX) else None
        entry = view.entry() if view is not None else None
        if entry is None:
            await self._app(scope, receive, send)
            return

        key = none_match = request_id = b""
        plain = True
        for name, value in scope["headers"]:
            if name == b"authorization":
                plain = plain and not key and value[:7] == b"Bearer "
                key = value[7:]
            elif name == b"x-request-id":
                request_id = value
            elif name == b"if-none-match":
                none_match = value
            elif name in {b"origin", b"x-api-key"}:
                plain = False
        principal = self._keyring.authenticate(key) if plain else None
        if principal is None:
            await self._app(scope, receive, send)
            return
        started = time.perf_counter() if self._log.enabled else 0.0
        verdict = self._limiter.take(principal.key_id, self._now_s())
        if not verdict.allowed:
            await self._app(scope, receive, send)
            return

        age = (self._clock.now_ms() - entry.as_of) // 1_000
        status, body, own = 200, entry.body, entry.headers
        if none_match and matches(none_match, entry.etag):
            status, body, own = 304, b"", entry.headers[2:]
        headers = [*own, (b"age", number(max(age, 0))), *self._static, *self._limits.of(verdict)]
        if self._echo or self._log.enabled:
            identity = request_id_of(request_id)
            if self._echo:
                headers.append((b"x-request-id", identity.encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        if self._log.enabled:
            self._log.write(scope, status, len(body), started, identity, principal)

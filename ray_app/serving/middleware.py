"""What every request passes before FastAPI sees it. Pure ASGI: BaseHTTPMiddleware halves the throughput.

:class:`Edge` (outermost): request ids, CORS by allow-list, HEAD, body size, access log, errors as problem documents,
headers that every answer carries. :class:`Gate`: keys and limits. Everything but :data:`OPEN_PATHS` needs a key, so a
route that forgets to ask for one is not open by that.
"""

from __future__ import annotations

import logging
import re
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import orjson

from ray_app.serving.keys import KeyRing, Principal
from ray_app.serving.limits import Policy, RateLimiter, Verdict
from ray_app.serving.problems import MEDIA_TYPE, Problem, problem_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

#: answered without a key
OPEN_PATHS = frozenset({"/health", "/ready", "/live", "/docs", "/openapi.json"})
#: Serve's own switches: a client must not be able to turn off our deadlines or the noticing of its disconnects
STRIPPED = frozenset({b"x-request-timeout-seconds", b"x-request-disconnect-disabled"})
MAX_BODY_BYTES = 1024 * 1024

_SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_KEY_IN_TEXT = re.compile(r"cdc_[a-z0-9]+_[a-z0-9]+", re.IGNORECASE)
_INFO = "crypto_data.request"
_NUMBERS = tuple(b"%d" % number for number in range(4_096))


class RequestInfo:
    """What the layers tell each other about one request."""

    __slots__ = ("principal", "reported", "request_id", "verdict")

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.reported = False  # a failure of this request has been logged and answered
        self.principal: Principal | None = None
        self.verdict: Verdict | None = None


def request_info(scope: Scope) -> RequestInfo:
    """The :class:`RequestInfo` of a request that came through :class:`Edge`."""
    info: RequestInfo = scope[_INFO]
    return info


def number(value: int) -> bytes:
    """``value`` as ASCII digits."""
    return _NUMBERS[value] if 0 <= value < 4_096 else b"%d" % value


def credentials(headers: Iterable[Header]) -> bytes:
    """The key a request presents: ``Authorization: Bearer``, else ``X-API-Key``; b"" if neither."""
    api_key = b""
    for name, value in headers:
        if name == b"authorization":
            if value[:7].lower() == b"bearer ":
                return value[7:].strip()
        elif name == b"x-api-key" and not api_key:
            api_key = value.strip()
    return api_key


def client_of(scope: Scope) -> str:
    """The address the connection came from (a proxy's, where one stands before us)."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


class LimitHeaders:
    """The headers that say what is left of a key's limit."""

    def __init__(self, policy: Policy, wall_s: Callable[[], float]) -> None:
        self._static: list[Header] = [
            (b"ratelimit-policy", b'"default";q=%d;w=%d' % (policy.requests, policy.window_s)),
            (b"x-ratelimit-limit", b"%d" % policy.requests),
        ]
        self._wall_s = wall_s

    def of(self, verdict: Verdict) -> list[Header]:
        """The whole limit is there again at ``X-RateLimit-Reset`` (Unix time), in ``t`` seconds of ``RateLimit``."""
        remaining = number(verdict.remaining)
        return [
            *self._static,
            (b"ratelimit", b'"default";r=%b;t=%b' % (remaining, number(verdict.reset_s))),
            (b"x-ratelimit-remaining", remaining),
            (b"x-ratelimit-reset", b"%d" % (self._wall_s() + verdict.reset_s)),
        ]


class AccessLog:
    """One JSON line per request: never a key, never a query string."""

    def __init__(self, enabled: bool, now_ms: Callable[[], int]) -> None:
        self.enabled = enabled
        self._now_ms = now_ms
        self._logger = logging.getLogger("crypto_data.access")
        if enabled and not self._logger.handlers:
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(logging.Formatter("%(message)s"))
            self._logger.addHandler(handler)
            self._logger.setLevel(logging.INFO)
            self._logger.propagate = False

    def write(
        self, scope: Scope, status: int, sent: int, started: float, request_id: str, principal: Principal | None
    ) -> None:
        """``started``: time.perf_counter() when the request arrived."""
        line = {
            "event": "request",
            "time_ms": self._now_ms(),
            "method": scope["method"],
            "path": _KEY_IN_TEXT.sub("cdc_***", scope["path"]),
            "status": status,
            "bytes": sent,
            "duration_ms": round((time.perf_counter() - started) * 1_000, 2),
            "key_id": principal.key_id if principal is not None else None,
            "client": client_of(scope),
            "request_id": request_id,
        }
        self._logger.info("%s", orjson.dumps(line, option=orjson.OPT_NON_STR_KEYS).decode())


class Cors:
    """Cross-origin reading for the origins of an allow-list. Never ``*``, never credentials: keys have a header."""

    _EXPOSED = b"ETag, Age, RateLimit, RateLimit-Policy, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, Retry-After, X-Request-ID, X-Data-Origin"  # noqa: E501 - one header value
    _PREFLIGHT: tuple[Header, ...] = (
        (b"access-control-allow-methods", b"GET, HEAD, POST, DELETE"),
        (b"access-control-allow-headers", b"authorization, x-api-key, content-type, if-none-match, x-request-id"),
        (b"access-control-max-age", b"600"),
    )

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origin.rstrip("/").encode() for origin in origins)

    def allowed(self, origin: bytes) -> bool:
        """Whether pages of ``origin`` may read our answers."""
        return origin in self._origins

    def headers(self, origin: bytes | None) -> list[Header]:
        """What an answer carries. ``Vary`` is there for every origin, so that no cache serves one the other's."""
        if not self._origins:
            return []
        found: list[Header] = [(b"vary", b"Origin")]
        if origin is not None and self.allowed(origin):
            found += [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", self._EXPOSED)]
        return found

    def preflight(self, origin: bytes) -> list[Header]:
        """What the answer to an allowed preflight carries."""
        return [(b"vary", b"Origin"), (b"access-control-allow-origin", origin), *self._PREFLIGHT]


class Edge:
    """The outermost layer.

    ``echo_request_id``: add X-Request-ID to answers (Ray Serve does it itself). A client's own id is used if it is
    sane (1–128 of ``A-Za-z0-9._:-``), otherwise one is made.
    """

    def __init__(
        self,
        app: App,
        *,
        cors: Cors,
        log: AccessLog,
        limits: LimitHeaders,
        static_headers: Iterable[Header],
        echo_request_id: bool,
    ) -> None:
        self._app = app
        self._cors = cors
        self._log = log
        self._limits = limits
        self._static = list(static_headers)
        self._echo = echo_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(self, scope, send)
        if any(name in STRIPPED for name, _ in scope["headers"]):
            scope["headers"] = [header for header in scope["headers"] if header[0] not in STRIPPED]
        try:
            if scope["method"] == "OPTIONS" and answer.preflight_for is not None:
                await self._answer_preflight(answer)
                return
            if answer.head:
                scope["method"] = "GET"
            await self._app(scope, _bounded(scope, receive), answer.send)
        except Exception as error:  # noqa: BLE001 - the last layer: every failure becomes an answer and a log line
            if not answer.info.reported:
                problem = problem_of(error, answer.info.request_id)
                if answer.status == 0:
                    await send_problem(answer.send, problem, answer.info.request_id)
        finally:
            scope["method"] = answer.method
            if self._log.enabled:
                self._log.write(
                    scope, answer.status, answer.sent, answer.started, answer.info.request_id, answer.info.principal
                )

    async def _answer_preflight(self, answer: _Answer) -> None:
        origin = answer.origin or b""
        if not self._cors.allowed(origin):
            raise Problem("FORBIDDEN", "this origin is not on the CORS allow-list (CORS_ORIGINS)")
        answer.cors = self._cors.preflight(origin)
        await answer.send({"type": "http.response.start", "status": 204, "headers": []})
        await answer.send({"type": "http.response.body", "body": b""})

    def dress(self, answer: _Answer) -> list[Header]:
        """The headers every answer carries."""
        headers = [*self._static, *answer.cors]
        if self._echo:
            headers.append((b"x-request-id", answer.info.request_id.encode()))
        if answer.info.verdict is not None:
            headers += self._limits.of(answer.info.verdict)
        return headers

    def cors_headers(self, origin: bytes | None) -> list[Header]:
        """See :meth:`Cors.headers`."""
        return self._cors.headers(origin)


class _Answer:
    """One answer on its way out through :class:`Edge`."""

    __slots__ = (
        "_edge",
        "_send",
        "cors",
        "head",
        "info",
        "method",
        "origin",
        "preflight_for",
        "sent",
        "started",
        "status",
    )

    def __init__(self, edge: Edge, scope: Scope, send: Send) -> None:
        self._edge = edge
        self._send = send
        self.started = time.perf_counter()
        self.status = 0
        self.sent = 0
        self.method: str = scope["method"]
        self.head = self.method == "HEAD"
        self.origin: bytes | None = None
        self.preflight_for: bytes | None = None
        given = b""
        for name, value in scope["headers"]:
            if name == b"origin":
                self.origin = value
            elif name == b"access-control-request-method":
                self.preflight_for = value
            elif name == b"x-request-id":
                given = value
        self.info = scope[_INFO] = RequestInfo(request_id_of(given))
        self.cors = edge.cors_headers(self.origin)

    async def send(self, message: Message) -> None:
        """Send on, dressed; a HEAD answer without its body."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *self._edge.dress(self)]}
        elif message["type"] == "http.response.body":
            if self.head:
                message = {**message, "body": b""}
            self.sent += len(message.get("body", b""))
        await self._send(message)


def request_id_of(given: bytes) -> str:
    """The client's id if it is sane, otherwise a new one."""
    return given.decode("ascii") if _SANE_REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _bounded(scope: Scope, receive: Receive) -> Receive:
    """``receive`` that refuses bodies above :data:`MAX_BODY_BYTES`."""
    if scope["method"] in {"GET", "HEAD", "DELETE", "OPTIONS"}:
        return receive
    received = 0

    async def bounded() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY_BYTES:
            raise Problem("PAYLOAD_TOO_LARGE", f"bodies may have up to {MAX_BODY_BYTES} bytes")
        return message

    return bounded


async def send_problem(send: Send, problem: Problem, request_id: str) -> None:
    """Answer with a problem document."""
    body = problem.body(request_id)
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        *((name.lower().encode(), value.encode()) for name, value in problem.headers.items()),
    ]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Gate:
    """Keys and limits for everything that is not open. Raises Problem; :class:`Edge` makes answers of them."""

    def __init__(
        self,
        app: App,
        *,
        keyring: KeyRing,
        limiter: RateLimiter,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._keyring = keyring
        self._limiter = limiter
        self._now_s = now_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            self._admit(scope)
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope) -> None:
        info, now_s = request_info(scope), self._now_s()
        info.principal = identify(scope, self._keyring)
        info.verdict = self._limiter.take(info.principal.key_id, now_s)
        if not info.verdict.allowed:
            policy = self._limiter.policy
            raise Problem(
                "RATE_LIMIT_EXCEEDED",
                f"this key may make {policy.requests} requests in {policy.window_s} s",
                headers={"Retry-After": str(info.verdict.retry_after_s)},
            )


def identify(scope: Scope, keyring: KeyRing) -> Principal:
    """Who makes the request; Problem INVALID_API_KEY or, before keys could be read, SERVICE_UNAVAILABLE.

    Nobody is shut out for wrong keys: they are 256 random bits, and behind a proxy all users share one address.
    """
    presented = credentials(scope["headers"])
    if not presented:
        raise Problem("INVALID_API_KEY", "send a key as Authorization: Bearer <key> or X-API-Key: <key>")
    if not keyring.loaded:
        raise Problem("SERVICE_UNAVAILABLE", "the keys cannot be read", headers={"Retry-After": "5"})
    principal = keyring.authenticate(presented)
    if principal is None:
        raise Problem("INVALID_API_KEY", "the key is unknown, revoked or expired")
    return principal

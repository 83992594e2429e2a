"""Access tokens of accounts that exchange a client id and secret for one (OAuth 2, client credentials).

A token is neither archived nor stored: a new process asks for its own. It is renewed before it ends, and at once after
the upstream has refused it. What comes of the exchange is an error of the endpoint that needed the token; id, secret
and token are in none of them.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import httpx

from ray_app.clock import Clock
from ray_app.collection.retry import retry_after_s
from ray_app.collection.upstreams import Upstream
from ray_app.errors import MalformedPayload, RateLimited, UpstreamRejected, UpstreamUnavailable

#: where Reddit gives tokens; a sandbox has it below its base
REDDIT_TOKENS = "https://www.reddit.com/api/v1/access_token"
#: a token is renewed this long before it ends, node ms, but never in the first nine tenths of its life
_EARLY_MS = 300_000
#: the most an answer may hold, bytes
_MAX_BODY = 64 * 1024
#: the longest an upstream's Retry-After is obeyed, node seconds
_MAX_PAUSE_S = 24 * 3_600.0
#: an OAuth error code; anything else is not repeated: it might quote what was sent
_ERROR_CODE = re.compile(r"[a-z_]{1,60}")

#: gives the permit to send one request
Permits = Callable[[], Awaitable[AbstractContextManager[Any]]]


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token and the node time (ms) until which it is used."""

    value: str = field(repr=False)
    until_ms: int


class Tokens:
    """The tokens of one process, by account. Requests at the same time share one exchange.

    ``total_s``: wall seconds an exchange may take.
    """

    def __init__(self, clock: Clock, total_s: float) -> None:
        self._clock = clock
        self._total_s = total_s
        self._held: dict[str, Token] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def drop(self, account: str, token: Token) -> None:
        """The upstream refused ``token``: the next request asks for a new one, unless somebody did already."""
        if self._held.get(account) is token:
            del self._held[account]

    async def of(self, endpoint: str, upstream: Upstream, client: httpx.AsyncClient, permits: Permits) -> Token:
        """The token for a request of ``endpoint`` to ``upstream``; asking for one takes a permit, as every request.

        UpstreamRejected if id or secret are wrong; RateLimited; UpstreamUnavailable if nobody answers;
        MalformedPayload if the answer is no token. Whatever ``permits`` raises.
        """
        async with self._locks.setdefault(upstream.account, asyncio.Lock()):
            held = self._held.get(upstream.account)
            if held is None or self._clock.now_ms() >= held.until_ms:
                with await permits():
                    held = self._held[upstream.account] = await self._exchange(endpoint, upstream, client)
            return held

    async def _exchange(self, endpoint: str, upstream: Upstream, client: httpx.AsyncClient) -> Token:
        asked_at = self._clock.now_ms()
        try:
            async with asyncio.timeout(self._total_s):
                answer, body = await _post(upstream, client)
        except TimeoutError:
            raise UpstreamUnavailable(endpoint, f"no token within {self._total_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            # `from None`: httpx keeps the request, and with it the secret, on the error
            raise UpstreamUnavailable(endpoint, f"no token: {type(error).__name__}") from None
        _require_ok(endpoint, answer, self._clock.now_ms())
        return _read(endpoint, body, asked_at)


async def _post(upstream: Upstream, client: httpx.AsyncClient) -> tuple[httpx.Response, bytes]:
    """Ask for a token; at most :data:`_MAX_BODY` bytes of the answer are read."""
    if upstream.client is None:
        raise ValueError(f"account {upstream.account} exchanges nothing for tokens")
    base = upstream.base_url
    url = REDDIT_TOKENS if base.endswith("//oauth.reddit.com") else f"{base}/api/v1/access_token"
    headers = {"User-Agent": upstream.headers["User-Agent"]} if "User-Agent" in upstream.headers else {}
    form = {"grant_type": "client_credentials"}
    body = bytearray()
    async with client.stream("POST", url, data=form, auth=upstream.client, headers=headers) as answer:
        async for chunk in answer.aiter_bytes():
            body += chunk
            if len(body) > _MAX_BODY:
                break
    return answer, bytes(body)


def _require_ok(endpoint: str, answer: httpx.Response, now_ms: int) -> None:
    status = answer.status_code
    if status == 429:
        asked = retry_after_s(answer.headers, now_ms, _MAX_PAUSE_S)
        raise RateLimited(endpoint, "no token: HTTP 429", asked)
    if status >= 500 or status in {408, 425}:
        raise UpstreamUnavailable(endpoint, f"no token: HTTP {status}")
    if status != 200:
        raise UpstreamRejected(endpoint, f"no token: HTTP {status}; check client id and secret")


def _read(endpoint: str, raw: bytes, asked_at: int) -> Token:
    """The token in an answer; HTTP 200 may hold an error, too."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise MalformedPayload(endpoint, "no token: the answer is no JSON object")
    if "error" in body:
        error = body["error"]
        code = error if isinstance(error, str) and _ERROR_CODE.fullmatch(error) else "an unnamed error"
        raise UpstreamRejected(endpoint, f"no token: {code}; check client id and secret")
    value, lasts = body.get("access_token"), body.get("expires_in")
    if not isinstance(value, str) or not value or not value.isascii() or not value.isprintable() or " " in value:
        raise MalformedPayload(endpoint, "no token: the answer's access_token is none")
    if isinstance(lasts, bool) or not isinstance(lasts, int | float) or not 0 < lasts < 1e8:
        raise MalformedPayload(endpoint, "no token: the answer's expires_in is no number of seconds")
    life_ms = round(lasts * 1_000)
    return Token(value, asked_at + life_ms - min(_EARLY_MS, life_ms // 10))

"""Access tokens of accounts that exchange a client id and secret for one (OAuth 2, client credentials).

A token is neither archived nor stored: a new process asks for its own. It is renewed before it ends, and at once after
the upstream has refused it. What comes of the exchange is an error of the endpoint that needed the token; id, secret
and token are in none of them. A client that is refused stays so until somebody sets another: it is tried once an hour,
not by each request that needs a token.
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

from ray_app.clock import HOUR_MS, Clock, iso
from ray_app.collection.accounts import variable_of_account
from ray_app.collection.retry import retry_after_s
from ray_app.collection.upstreams import Upstream
from ray_app.errors import ClientRefused, MalformedPayload, RateLimited, UpstreamRejected, UpstreamUnavailable

#: where Reddit gives tokens; a sandbox has it below its base
REDDIT_TOKENS = "https://www.reddit.com/api/v1/access_token"
#: a token is renewed this long before it ends, node ms, but never in the first nine tenths of its life
_EARLY_MS = 300_000
#: the most an answer may hold, bytes
_MAX_BODY = 64 * 1024
#: the longest an upstream's Retry-After is obeyed, node seconds
_MAX_PAUSE_S = 24 * 3_600.0
#: how long a refused client is not tried again, node ms
_REFUSED_MS = HOUR_MS
#: what is said of the client itself (RFC 6749, 5.2), and by Reddit with HTTP 200; anything else may pass
_OF_THE_CLIENT = ("invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_grant", 401)
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
        self._refused: dict[str, tuple[str, int]] = {}  # what was said, and the ms until which it is remembered
        self._locks: dict[str, asyncio.Lock] = {}

    def drop(self, account: str, token: Token) -> None:
        """The upstream refused ``token``: the next request asks for a new one, unless somebody did already."""
        if self._held.get(account) is token:
            del self._held[account]

    async def of(self, endpoint: str, upstream: Upstream, client: httpx.AsyncClient, permits: Permits) -> Token:
        """The token for a request of ``endpoint`` to ``upstream``; asking for one takes a permit, as every request.

        ClientRefused if id or secret are wrong, for an hour without asking; UpstreamRejected for other refusals;
        RateLimited; UpstreamUnavailable if nobody answers; MalformedPayload if the answer is no token. Whatever
        ``permits`` raises.
        """
        async with self._locks.setdefault(upstream.account, asyncio.Lock()):
            held = self._held.get(upstream.account)
            if held is None or self._clock.now_ms() >= held.until_ms:
                self._raise_if_refused(endpoint, upstream.account)
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
        said = _decoded(body)
        _require_willing(endpoint, answer, self._clock.now_ms())
        if (refusal := _refusal_of_client(answer.status_code, said)) is not None:
            self._refused[upstream.account] = refusal, self._clock.now_ms() + _REFUSED_MS
            self._raise_if_refused(endpoint, upstream.account)
        return _read(endpoint, answer.status_code, said, asked_at)

    def _raise_if_refused(self, endpoint: str, account: str) -> None:
        refusal, until = self._refused.get(account, ("", 0))
        if self._clock.now_ms() < until:
            what_to_do = f"check client id and secret ({variable_of_account(account)}), then start anew"
            raise ClientRefused(endpoint, f"no token: {refusal}; {what_to_do}; tried again after {iso(until)}", until)


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


def _decoded(raw: bytes) -> object:
    """The answer's JSON; None where it is none."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _refusal_of_client(status: int, said: object) -> str | None:
    """What an answer says against the client itself; None: nothing, or it may be another matter next time."""
    error = said.get("error") if isinstance(said, dict) else None
    if error not in _OF_THE_CLIENT:
        return f"HTTP {status}" if status == 401 else None
    return f"error {error}" if status == 200 else f"HTTP {status}, error {error}"


def _require_willing(endpoint: str, answer: httpx.Response, now_ms: int) -> None:
    status = answer.status_code
    if status == 429:
        asked = retry_after_s(answer.headers, now_ms, _MAX_PAUSE_S)
        raise RateLimited(endpoint, "no token: HTTP 429", asked)
    if status >= 500 or status in {408, 425}:
        raise UpstreamUnavailable(endpoint, f"no token: HTTP {status}")


def _read(endpoint: str, status: int, body: object, asked_at: int) -> Token:
    """The token in an answer; HTTP 200 may hold an error, too."""
    if status != 200:
        raise UpstreamRejected(endpoint, f"no token: HTTP {status}; check client id and secret")
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

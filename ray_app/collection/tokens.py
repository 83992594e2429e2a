"""Access tokens of accounts that exchange a client id and secret for one (OAuth 2, client credentials).

A token is neither archived nor stored: a new process asks for its own. It is renewed before it ends, and at once after
the upstream has refused it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import httpx

from ray_app.clock import Clock
from ray_app.collection.upstreams import Upstream
from ray_app.errors import MalformedPayload, UpstreamRejected, UpstreamUnavailable

#: where Reddit gives tokens; a sandbox has it below its base
REDDIT_TOKENS = "https://www.reddit.com/api/v1/access_token"
#: a token is renewed this long before it ends, node ms
_EARLY_MS = 300_000


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token and the node time (ms) until which it is used."""

    value: str = field(repr=False)
    until_ms: int


class Tokens:
    """The tokens of one process, by account. Requests at the same time share one exchange."""

    def __init__(self) -> None:
        self._held: dict[str, Token] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def drop(self, account: str) -> None:
        """The upstream refused it: the next request asks for a new one."""
        self._held.pop(account, None)

    async def header(self, client: httpx.AsyncClient, upstream: Upstream, clock: Clock) -> dict[str, str]:
        """The Authorization header of a request to ``upstream``.

        UpstreamRejected if id or secret are wrong; UpstreamUnavailable if nobody answers; MalformedPayload if the
        answer is no token.
        """
        async with self._locks.setdefault(upstream.account, asyncio.Lock()):
            held = self._held.get(upstream.account)
            if held is None or clock.now_ms() >= held.until_ms:
                held = self._held[upstream.account] = await _ask(client, upstream, clock)
            return {"Authorization": f"Bearer {held.value}"}


async def _ask(client: httpx.AsyncClient, upstream: Upstream, clock: Clock) -> Token:
    assert upstream.client is not None  # noqa: S101 - the caller looked
    url = (
        REDDIT_TOKENS
        if upstream.base_url.endswith("//oauth.reddit.com")
        else f"{upstream.base_url}/api/v1/access_token"
    )
    name = f"{upstream.account}.token"
    try:
        answer = await client.post(
            url,
            data={"grant_type": "client_credentials"},
            auth=upstream.client,
            headers={"User-Agent": upstream.headers.get("User-Agent", "")},
        )
    except httpx.HTTPError as error:
        raise UpstreamUnavailable(name, f"no token: {type(error).__name__}") from None
    if answer.status_code >= 500 or answer.status_code == 429:
        raise UpstreamUnavailable(name, f"no token: HTTP {answer.status_code}")
    if answer.status_code != 200:
        raise UpstreamRejected(name, f"no token: HTTP {answer.status_code}; check client id and secret")
    try:
        body = answer.json()
        if isinstance(body.get("error"), str):
            raise UpstreamRejected(name, f"no token: {body['error'][:80]!r}; check client id and secret")
        value, seconds = body["access_token"], float(body["expires_in"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise MalformedPayload(name, "the answer holds no access_token with expires_in") from None
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or not 0 < seconds < 1e8:
        raise MalformedPayload(name, "the answer's access_token or expires_in is not of the documented kind")
    return Token(value, clock.now_ms() + max(round(seconds * 1_000) - _EARLY_MS, 1_000))

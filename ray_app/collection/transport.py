"""The one place from which requests leave the node: within budget, with time-outs, retries and a circuit breaker.

Time-outs of sockets are wall time; backoff, pauses and breakers are node time. Authentication is added here, on the
wire only: no key is ever part of a Request, an Exchange, a log line or an error. Errors name the endpoint, not the URL.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import quote

import httpx

from ray_app import __version__
from ray_app.clock import Clock, iso
from ray_app.collection.budget import BudgetAuthority, Permit, Priority
from ray_app.collection.retry import (
    Backoff,
    Breaker,
    BreakerRules,
    abandoned,
    admit,
    failed,
    retry_after_s,
    succeeded,
)
from ray_app.collection.tokens import Token, Tokens
from ray_app.collection.upstreams import Upstream
from ray_app.errors import (
    BudgetExhausted,
    CircuitOpen,
    ConfigError,
    RateLimited,
    UpstreamError,
    UpstreamRejected,
    UpstreamUnavailable,
)
from ray_app.settings import Settings
from ray_app.sources.base import Exchange, Request

log = logging.getLogger(__name__)

USER_AGENT = f"crypto-data-collection/{__version__} (data-collection node)"
#: the most a body may hold after decompression, bytes
MAX_BODY = 64 * 1024 * 1024
#: the longest an upstream's Retry-After is obeyed, node seconds
MAX_PAUSE_S = 24 * 3_600.0
#: redirects followed per attempt, all on the same host
MAX_REDIRECTS = 3

_RETRIED = frozenset({408, 425, 500, 502, 503, 504, 520, 521, 522, 523, 524})
_KEPT_HEADERS = frozenset(
    {"content-type", "date", "etag", "last-modified", "age", "retry-after", "cf-cache-status", "expires"}
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A complete answer. ``final``: ``fetch`` returns it; otherwise it is retried or becomes an error."""

    exchange: Exchange
    final: bool


AttemptHook = Callable[[Attempt], Awaitable[None]]


class Transport:
    """Fetches requests of every upstream account. ``aclose()`` it, or use it as an asynchronous context manager.

    ``on_attempt`` is awaited with every complete answer, before ``fetch`` goes on: so that refusals are archived
    too. ``conditional`` names endpoints that are asked with ``If-None-Match``/``If-Modified-Since`` once an answer
    of theirs was :meth:`confirm`-ed. ``routes`` tells an endpoint's account and cost in credits (default: as
    ray_app.sources declares them). The authority's ``request_timeout_s`` must not be below API_TIMEOUT.
    ``max_wait_s``: node seconds to wait for budget. ``draw`` gives uniform numbers in [0, 1) for the jitter of retries.
    """

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        clock: Clock,
        budgets: BudgetAuthority,
        settings: Settings,
        *,
        routes: Callable[[str], tuple[str, int]] | None = None,
        conditional: Collection[str] = (),
        on_attempt: AttemptHook | None = None,
        draw: Callable[[], float] = random.random,
        backoff: Backoff | None = None,
        max_wait_s: float = 120.0,
        max_body: int = MAX_BODY,
    ) -> None:
        for noisy in ("httpx", "httpcore"):  # at DEBUG they log the headers we send
            logging.getLogger(noisy).setLevel(logging.WARNING)
        self._upstreams = upstreams
        self._clock = clock
        self._budgets = budgets
        self._routes = routes or _declared
        self._conditional = frozenset(conditional)
        self._on_attempt = on_attempt
        self._draw = draw
        self._backoff = backoff or Backoff(settings.max_retry_attempts)
        self._rules = BreakerRules(settings.circuit_breaker_failure_threshold, settings.circuit_breaker_timeout_s)
        self._max_wait_s = max_wait_s
        self._max_body = max_body
        self._total_s = settings.api_timeout_s
        self._breakers = {account: Breaker() for account in upstreams}
        self._validators: dict[tuple[str, str, tuple[tuple[str, str], ...]], dict[str, str]] = {}
        self._client: httpx.AsyncClient | None = None
        self._tokens = Tokens(clock, self._total_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def breaker(self, account: str) -> Breaker:
        """The state of an account's circuit breaker."""
        return self._breakers[account]

    def confirm(self, exchange: Exchange) -> None:
        """The answer is safely stored: from now on its endpoint may answer the same request with "not modified".

        Until this is called requests stay unconditional, so that an answer lost on the way is asked for again.
        """
        if exchange.request.endpoint not in self._conditional or exchange.status != 200:
            return
        validators: dict[str, str] = {}
        if etag := exchange.headers.get("etag"):
            validators["If-None-Match"] = etag
        if modified := exchange.headers.get("last-modified"):
            validators["If-Modified-Since"] = modified
        self._validators[_key(exchange.request)] = validators

    async def slow_down(self, exchange: Exchange) -> tuple[float | None, int]:
        """The answer asks for a pause, whatever its status: nobody asks its account before that is over.

        Of an account with many hosts only the asker is told: the others did not ask for it.

        Gives the seconds it named (None: none) and the ms until which all pause. ``fetch`` does this for status 429; a
        refusal inside a 200 is known to the parser only.
        """
        upstream, _ = self._route(exchange.request.endpoint)
        asked = retry_after_s(exchange.headers, exchange.fetched_at, MAX_PAUSE_S)
        until = exchange.fetched_at + round((upstream.limits.pause_s if asked is None else asked) * 1_000)
        if not upstream.many_hosts:
            await self._budgets.pause(upstream.account, until)
        return asked, until

    async def fetch(self, request: Request, priority: Priority = Priority.TOP) -> Exchange:
        """The upstream's final answer: any status that retrying cannot change, 304 included.

        Every attempt spends budget, as far as its ``priority`` has a claim on it.

        Raises RateLimited (429 to the end), UpstreamUnavailable (5xx, time-outs, broken connections or bodies to the
        end), UpstreamRejected (answers larger than ``max_body``, redirects to another host), CircuitOpen and
        BudgetExhausted; ``error.exchange`` is the last complete answer, if any.
        """
        upstream, cost = self._route(request.endpoint)
        last: UpstreamError | None = None
        # a try that costs more than a credit (posts that are paid for) is not repeated on the spot
        retries = self._backoff.retries if cost == 1 else 0
        for attempt in range(retries + 1):
            if attempt and not isinstance(last, RateLimited):  # a pause is waited out by the budget
                await self._clock.sleep(self._backoff.delay_s(attempt - 1, self._draw()))
            try:
                return await self._attempt(request, upstream, cost, priority)
            except (RateLimited, UpstreamUnavailable) as error:
                if error.exchange is None and last is not None:
                    error.exchange = last.exchange
                last = error
                log.warning("attempt %d of %d failed: %s", attempt + 1, retries + 1, error)
                if upstream.many_hosts and isinstance(error, RateLimited):
                    break  # nothing pauses the account, and this one asked for a pause
            except (CircuitOpen, BudgetExhausted) as error:
                if last is None:
                    raise
                # what the upstream did explains more than that we may not ask again
                log.warning("no further attempt: %s", error)
                raise last from None
        raise last or ConfigError("a transport must try at least once")  # retries >= 0: `last` is set

    def _route(self, endpoint: str) -> tuple[Upstream, int]:
        account, cost = self._routes(endpoint)
        try:
            return self._upstreams[account], cost
        except KeyError:
            raise ConfigError(f"no upstream account {account!r} is set up for endpoint {endpoint!r}") from None

    async def _attempt(self, request: Request, upstream: Upstream, cost: int, priority: Priority) -> Exchange:
        """One admitted, budgeted try; updates the circuit breaker by what came of it."""
        account, endpoint = upstream.account, request.endpoint
        if upstream.many_hosts:  # many that fail say nothing of the others
            return await self._judge(await self._authorised(request, upstream, cost, priority))
        self._breakers[account], wait_until = admit(self._breakers[account], self._rules, self._clock.now_ms())
        if wait_until is not None:
            raise CircuitOpen(endpoint, wait_until)
        outcome: Callable[[Breaker], Breaker] = abandoned
        try:
            exchange = await self._authorised(request, upstream, cost, priority)
            outcome = succeeded
            if exchange.status in _RETRIED:
                outcome = self._failed
            return await self._judge(exchange)
        except UpstreamUnavailable:
            outcome = self._failed
            raise
        finally:
            self._breakers[account] = outcome(self._breakers[account])

    def _failed(self, state: Breaker) -> Breaker:
        return failed(state, self._rules, self._clock.now_ms())

    async def _judge(self, exchange: Exchange) -> Exchange:
        """Hand the answer to the hook; return it if it is final, raise what it means otherwise."""
        status, endpoint = exchange.status, exchange.request.endpoint
        final = status != 429 and status not in _RETRIED
        error: UpstreamError | None = None
        if status == 429:
            asked, until = await self.slow_down(exchange)
            said = "without saying for how long" if asked is None else f"for {asked:g} s"
            error = RateLimited(endpoint, f"429 {said}; all pause until {iso(until)}", asked)
        elif not final:
            error = UpstreamUnavailable(endpoint, f"HTTP status {status}")
        if self._on_attempt is not None:
            await self._on_attempt(Attempt(exchange, final))
        if error is not None:
            error.exchange = exchange
            raise error
        return exchange

    async def _authorised(self, request: Request, upstream: Upstream, cost: int, priority: Priority) -> Exchange:
        """Send with the account's token, where it has one; a refused token is dropped and asked for again, once."""
        if upstream.client is None:
            return await self._send(request, upstream, cost, priority)
        token = await self._token(request, upstream, priority)
        exchange = await self._send(request, upstream, cost, priority, token)
        if exchange.status != 401:
            return exchange
        self._tokens.drop(upstream.account, token)
        if self._on_attempt is not None:
            await self._on_attempt(Attempt(exchange, final=False))
        log.warning("%s: the token was refused; asking for another", request.endpoint)
        try:
            token = await self._token(request, upstream, priority)
            return await self._send(request, upstream, cost, priority, token)
        except UpstreamError as error:
            if error.exchange is None:
                error.exchange = exchange
            raise

    async def _token(self, request: Request, upstream: Upstream, priority: Priority) -> Token:
        """The account's token; a limit on asking for one pauses the account."""
        try:
            return await self._tokens.of(
                request.endpoint, upstream, self._http(), lambda: self._permit(request, upstream, 1, priority)
            )
        except RateLimited as error:
            seconds = upstream.limits.pause_s if error.retry_after_s is None else error.retry_after_s
            await self._budgets.pause(upstream.account, self._clock.now_ms() + round(seconds * 1_000))
            raise

    async def _send(
        self, request: Request, upstream: Upstream, cost: int, priority: Priority, token: Token | None = None
    ) -> Exchange:
        """Send and read one answer, following redirects on the same host; each hop spends budget."""
        url = self._url(request, upstream)
        home = (url.scheme, url.host, url.port)
        for _ in range(MAX_REDIRECTS + 1):
            with await self._permit(request, upstream, cost, priority):
                answer, redirect = await self._within_time(request, upstream, url, token)
            if redirect is None:
                return answer
            url = redirect
            if (url.scheme, url.host, url.port) != home:
                raise UpstreamRejected(
                    request.endpoint, f"redirected (status {answer.status}) to another host, {url.host!r}; not followed"
                )
        raise UpstreamRejected(request.endpoint, f"more than {MAX_REDIRECTS} redirects")

    def _url(self, request: Request, upstream: Upstream) -> httpx.URL:
        whole = upstream.urls.get(request.path)
        if whole is not None:
            return httpx.URL(whole)
        params = {**request.params, **upstream.query}
        return httpx.URL(f"{upstream.base_url}/{request.path.lstrip('/')}", params=params)

    async def _permit(self, request: Request, upstream: Upstream, cost: int, priority: Priority) -> Permit:
        try:
            while True:
                permit = await self._budgets.acquire(
                    upstream.account, cost, priority=priority, max_wait_s=self._max_wait_s
                )
                if permit.valid():
                    return permit
                permit.close(sent=False)  # the process stood still in between
        except BudgetExhausted as error:
            message = str(error).removeprefix(f"{error.endpoint}: ")
            raise BudgetExhausted(request.endpoint, f"account {error.endpoint}: {message}", error.until_ms) from None

    async def _within_time(
        self, request: Request, upstream: Upstream, url: httpx.URL, token: Token | None
    ) -> tuple[Exchange, httpx.URL | None]:
        """One exchange on the wire; every way it can break becomes an UpstreamError of the endpoint."""
        endpoint = request.endpoint
        try:
            async with asyncio.timeout(self._total_s):
                return await self._exchange(request, upstream, url, token)
        except TimeoutError:
            raise UpstreamUnavailable(endpoint, f"no complete answer within {self._total_s:g} s") from None
        except httpx.TimeoutException as error:
            raise UpstreamUnavailable(endpoint, f"timed out ({type(error).__name__})") from None
        except httpx.DecodingError:
            raise UpstreamUnavailable(endpoint, "the body's compression is broken") from None
        except httpx.LocalProtocolError:  # its text may quote a header, and with it the key
            raise UpstreamRejected(endpoint, "the request cannot be sent as it is; check key and parameters") from None
        except (httpx.TransportError, ssl.SSLError) as error:
            # `from None`: httpx keeps the request, and with it the key, on the error
            raise UpstreamUnavailable(endpoint, f"{type(error).__name__}: {error}") from None

    async def _exchange(
        self, request: Request, upstream: Upstream, url: httpx.URL, token: Token | None
    ) -> tuple[Exchange, httpx.URL | None]:
        bearer = {"Authorization": f"Bearer {token.value}"} if token is not None else {}
        headers = {**self._validators.get(_key(request), {}), **upstream.headers, **bearer}
        async with self._http().stream("GET", url, headers=headers) as response:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > self._max_body:
                    message = f"the body is larger than {self._max_body} bytes; read no further"
                    raise UpstreamRejected(request.endpoint, message)
        kept = {name: value for name, value in response.headers.items() if _keep(name)}
        # an upstream may repeat the key in links to the next page; the archive must not hold it
        said = bytes(body)
        for secret in (*upstream.query.values(), *((token.value,) if token is not None else ())):
            said = said.replace(quote(secret, safe="").encode(), b"KEY").replace(secret.encode(), b"KEY")
        exchange = Exchange(request, response.status_code, kept, said, self._clock.now_ms())
        return exchange, None if response.next_request is None else response.next_request.url

    def _http(self) -> httpx.AsyncClient:
        if self._client is None:  # made in the running loop, not in a constructor
            total = self._total_s
            self._client = httpx.AsyncClient(
                timeout=httpx.Timeout(total * 2 / 3, connect=total / 3, pool=total),
                headers={"User-Agent": USER_AGENT, "Accept": "application/json", "Accept-Encoding": "gzip"},
                limits=httpx.Limits(max_connections=64, max_keepalive_connections=32, keepalive_expiry=30.0),
                follow_redirects=False,
                # HTTPS_PROXY and SSL_CERT_FILE count, but what runs on this machine is never asked through a proxy
                mounts=dict.fromkeys(("all://127.0.0.1", "all://localhost")),
            )
        return self._client


def _declared(endpoint: str) -> tuple[str, int]:
    from ray_app import sources

    found = sources.endpoint(endpoint)
    return found.account, found.cost


def _key(request: Request) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    return request.endpoint, request.path, tuple(sorted(request.params.items()))


def _keep(name: str) -> bool:
    return name in _KEPT_HEADERS or name.startswith(("x-ratelimit-", "x-rate-limit-", "ratelimit-"))

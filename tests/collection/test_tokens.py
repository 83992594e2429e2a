"""Tokens, against a real HTTP server on loopback that gives them and takes them back."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from ray_app.clock import Epoch, ManualClock, ScaledClock, WallClock
from ray_app.collection.archive import Archive
from ray_app.collection.budget import BudgetAuthority, Limits
from ray_app.collection.budget_ledger import MemoryLedger
from ray_app.collection.tokens import Token, Tokens
from ray_app.collection.transport import Attempt, Transport
from ray_app.collection.upstreams import Upstream
from ray_app.errors import (
    BudgetExhausted,
    ClientRefused,
    MalformedPayload,
    RateLimited,
    UpstreamError,
    UpstreamRejected,
    UpstreamUnavailable,
)
from ray_app.settings import Settings
from ray_app.sources.base import Request

pytestmark = pytest.mark.integration

NOW = 1_795_521_600_000
CLIENT = ("client-id-very-secret", "client-very-secret-0123")
NEW = Request("reddit.listing", "/r/Bitcoin/new", {"limit": "100"})


@dataclass
class Reddit:
    """Gives tokens t1, t2, …, each good for ``lasts`` seconds of nobody's clock: the test revokes them."""

    port: int = 0
    lasts: Any = 3_600
    given: int = 0
    revoked: set[str] = field(default_factory=set)
    #: what the next token requests get instead of a token: status line and body
    instead: list[tuple[str, bytes]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)
    slow_s: float = 0.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                lower = head.lower()
                length = int(lower.split("content-length: ")[1].split("\r")[0]) if "content-length: " in lower else 0
                body = (await reader.readexactly(length)).decode()
                status, said, extra = await self.answer(head, body)
                lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(said)}", *extra, "", ""]
                writer.write("\r\n".join(lines).encode() + said)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def answer(self, head: str, body: str) -> tuple[str, bytes, list[str]]:
        sent = next((line for line in head.split("\r\n") if line.lower().startswith("authorization:")), "")
        if head.startswith("POST /reddit/api/v1/access_token "):
            self.log.append("token")
            self.bodies.append(body)
            await asyncio.sleep(self.slow_s)
            if self.instead:
                status, said = self.instead.pop(0)
                return status, said, []
            basic = base64.b64encode(":".join(CLIENT).encode()).decode()
            if sent != f"Authorization: Basic {basic}":
                return "401 Unauthorized", b'{"message": "Unauthorized", "error": 401}', []
            self.given += 1
            token = {
                "access_token": f"t{self.given}-secret",
                "token_type": "bearer",
                "expires_in": self.lasts,
                "scope": "*",
            }
            return "200 OK", json.dumps(token).encode(), []
        token = sent.removeprefix("Authorization: Bearer ")
        self.log.append(token)
        if not token.startswith("t") or token in self.revoked or "all" in self.revoked:
            return "401 Unauthorized", b'{"message": "Unauthorized", "error": 401}', []
        return "200 OK", b'{"you": "%s"}' % token.encode(), ["X-Ratelimit-Remaining: 99.0"]


@dataclass
class Scene:
    server: Reddit
    transport: Transport
    clock: Any
    budgets: BudgetAuthority
    attempts: list[Attempt]

    async def get(self) -> int:
        return (await self.transport.fetch(NEW)).status

    async def spent(self) -> int:
        await self.budgets.aclose()
        return self.budgets.spent("reddit")


@asynccontextmanager
async def scene(
    *, client: tuple[str, str] = CLIENT, clock: Any = None, limits: Limits | None = None, **options: Any
) -> AsyncIterator[Scene]:
    server = Reddit(**options)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    clock = clock or ManualClock(NOW)
    limits = limits or Limits(1_000, 1.0, 10)
    budgets = BudgetAuthority(MemoryLedger(), clock, {"reddit": limits})
    url = f"http://127.0.0.1:{server.port}/reddit"
    upstreams = {"reddit": Upstream("reddit", url, {"User-Agent": "linux:test:1 (by /u/x)"}, limits, client=client)}
    settings = Settings(_env_file=None, api_timeout_s=2, max_retry_attempts=1)
    attempts: list[Attempt] = []

    async def note(attempt: Attempt) -> None:
        attempts.append(attempt)

    async with (
        listener,
        Transport(
            upstreams, clock, budgets, settings, routes=lambda _: ("reddit", 1), on_attempt=note, draw=lambda: 0.5
        ) as transport,
    ):
        yield Scene(server, transport, clock, budgets, attempts)
        await budgets.aclose()


async def test_a_token_is_asked_for_once_and_spends_budget():
    async with scene() as s:
        assert [await s.get() for _ in range(3)] == [200] * 3
        assert s.server.log == ["token", "t1-secret", "t1-secret", "t1-secret"]
        assert s.server.bodies == ["grant_type=client_credentials"]
        assert len(s.attempts) == 3, "the token's own answer is archived nowhere"
        assert await s.spent() == 4


async def test_many_requests_at_once_share_one_token():
    async with scene(slow_s=0.1, clock=WallClock()) as s:
        assert await asyncio.gather(*(s.get() for _ in range(20))) == [200] * 20
        assert s.server.log.count("token") == 1


@asynccontextmanager
async def bare(**options: Any) -> AsyncIterator[tuple[Reddit, ManualClock, Callable[[], Awaitable[Token]]]]:
    """Tokens alone, on a clock that nothing else moves; every permit is given."""
    server, clock = Reddit(**options), ManualClock(NOW)
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listener, httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/reddit"
        upstream = Upstream("reddit", url, {}, Limits(1, 1.0), client=CLIENT)
        tokens = Tokens(clock, 0.5)

        async def permit() -> nullcontext[None]:
            return nullcontext()

        yield server, clock, lambda: tokens.of("reddit.listing", upstream, client, permit)


@pytest.mark.parametrize(("lasts", "used_s"), [(86_400.0, 86_100), (3_600, 3_300), (60, 54), (0.5, 0.45)])
async def test_a_token_is_used_for_most_of_its_life_and_renewed_before_it_ends(lasts, used_s):
    async with bare(lasts=lasts) as (server, clock, token):
        for wait_s, given in ((0, 1), (used_s - 0.01, 1), (0.02, 2), (used_s - 0.02, 2), (0.03, 3)):
            clock.advance(wait_s)
            await token()
            assert server.given == given


async def test_a_token_lasts_in_node_time():
    wall = WallClock().now_ms()
    clock = ScaledClock(Epoch(NOW, wall, 3_600.0, wall))  # an hour a second
    async with scene(clock=clock, limits=Limits(1_000_000, 1.0, 10), lasts=3_600) as s:
        await s.get()
        await clock.sleep(3_400)
        await s.get()
        assert s.server.given == 2


async def test_a_refused_token_is_dropped_and_asked_for_again_on_the_same_request():
    async with scene() as s:
        await s.get()
        s.server.revoked.add("t1-secret")
        assert await s.get() == 200
        assert s.server.log == ["token", "t1-secret", "t1-secret", "token", "t2-secret"]
        assert [(a.exchange.status, a.final) for a in s.attempts] == [(200, True), (401, False), (200, True)]
        assert await s.spent() == 5


async def test_a_refusal_seen_by_many_requests_at_once_costs_one_new_token():
    async with scene(clock=WallClock()) as s:
        await s.get()
        s.server.revoked.add("t1-secret")
        assert await asyncio.gather(*(s.get() for _ in range(8))) == [200] * 8
        assert s.server.given == 2


async def test_tokens_refused_to_the_end_are_an_answer_and_no_endless_loop():
    async with scene() as s:
        s.server.revoked.add("all")
        assert await s.get() == 401
        assert s.server.log == ["token", "t1-secret", "token", "t2-secret"]
        assert [a.final for a in s.attempts] == [False, True]


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        ("200 OK", b'{"error": "temporarily_unavailable"}', UpstreamRejected, "temporarily_unavailable; check client"),
        ("200 OK", b'{"error": "client-very-secret-0123 is wrong"}', UpstreamRejected, "an unnamed error"),
        ("200 OK", b'{"error": ["invalid_client"]}', UpstreamRejected, "an unnamed error"),
        ("302 Found", b"", UpstreamRejected, "HTTP 302"),
        ("403 Forbidden", b"<html>", UpstreamRejected, "HTTP 403"),
        ("200 OK", b"<html>", MalformedPayload, "no JSON object"),
        ("200 OK", b"[" * 100_000, MalformedPayload, "no JSON object"),
        ("200 OK", b"{}", MalformedPayload, "access_token"),
        ("200 OK", b'{"access_token": "a b", "expires_in": 9}', MalformedPayload, "access_token"),
        ("200 OK", b'{"access_token": "a\\nb", "expires_in": 9}', MalformedPayload, "access_token"),
        ("200 OK", b'{"access_token": "a", "expires_in": NaN}', MalformedPayload, "expires_in"),
        ("200 OK", b'{"access_token": "a", "expires_in": true}', MalformedPayload, "expires_in"),
        ("200 OK", b'{"access_token": "a", "expires_in": -1}', MalformedPayload, "expires_in"),
    ],
)
async def test_no_token_says_why_of_the_endpoint_that_needed_it(status, body, error, words):
    async with bare(instead=[(status, body)]) as (server, _, token):
        with pytest.raises(error, match=rf"^reddit.listing: no token: .*{words}"):
            await token()
        assert (await token()).value == "t1-secret", "a failure is not kept"
        assert len(server.log) == 2


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        ("401 Unauthorized", b'{"message": "Unauthorized", "error": 401}', "HTTP 401, error 401"),
        ("401 Unauthorized", b"<html>client-very-secret-0123", "HTTP 401"),
        ("400 Bad Request", b'{"error": "invalid_client"}', "HTTP 400, error invalid_client"),
        ("200 OK", b'{"error": "unsupported_grant_type"}', "error unsupported_grant_type"),
        ("200 OK", b'{"message": "Unauthorized", "error": 401}', "error 401"),
    ],
)
async def test_a_refused_client_is_told_to_everybody_and_tried_once_an_hour(status, body, said):
    async with bare(instead=[(status, body)] * 2) as (server, clock, token):
        for wait_s, tried in ((0, 1), (60, 1), (3_539, 1), (1, 2), (3_599, 2)):
            clock.advance(wait_s)
            with pytest.raises(ClientRefused) as refused:
                await token()
            assert str(refused.value).startswith(
                f"reddit.listing: no token: {said}; check client id and secret "
                "(REDDIT_CLIENT_ID and REDDIT_CLIENT_SECRET), then start anew; tried again after 20"
            )
            assert refused.value.until_ms == NOW + tried * 3_600_000
            assert len(server.log) == tried
        clock.advance(1)
        assert (await token()).value == "t1-secret"


async def test_a_wrong_secret_costs_many_requests_one_exchange():
    async with scene(client=("id", "wrong")) as s:
        assert {type(said) for said in await asyncio.gather(*(s.get() for _ in range(12)), return_exceptions=True)} == {
            ClientRefused
        }
        assert s.server.log == ["token"]
        assert await s.spent() == 1


async def test_a_client_refused_while_its_token_is_renewed_keeps_the_refused_answer():
    async with scene() as s:
        await s.get()
        s.server.revoked.add("t1-secret")
        s.server.instead.append(("401 Unauthorized", b"{}"))
        with pytest.raises(ClientRefused) as refused:
            await s.get()
        assert refused.value.exchange.status == 401
        with pytest.raises(ClientRefused):
            await s.get()
        assert s.server.log == ["token", "t1-secret", "t1-secret", "token"]


async def test_trouble_at_the_token_s_host_is_worth_another_try():
    async with scene(instead=[("503 No", b"<html>")]) as s:
        assert await s.get() == 200
        assert s.server.log == ["token", "token", "t1-secret"]
        assert await s.spent() == 3
    async with scene(instead=[("500 No", b"")] * 9) as s:
        with pytest.raises(UpstreamUnavailable, match="no token: HTTP 500"):
            await s.get()
        assert s.transport.breaker("reddit").failures == 2


async def test_a_limit_at_the_token_s_host_pauses_the_account():
    async with scene(instead=[("429 Slow", b"")], limits=Limits(1_000, 1.0, 10, pause_s=30.0)) as s:
        assert await s.get() == 200
        assert NOW + 30_000 <= s.clock.now_ms() < NOW + 35_000
    async with scene(instead=[("429 Slow", b"")], limits=Limits(1_000, 1.0, 10, pause_s=3_600.0)) as s:
        with pytest.raises(RateLimited):
            await s.get()


async def test_a_silent_token_host_is_unavailable_within_the_time_out():
    async with bare(slow_s=30) as (_, _, token):
        with pytest.raises(UpstreamUnavailable, match=r"^reddit.listing: no token within 0.5 s"):
            await asyncio.wait_for(token(), 10)


async def test_a_spent_month_asks_for_no_token():
    async with scene(limits=Limits(10, 1.0, monthly=1)) as s:
        with pytest.raises(BudgetExhausted):
            await s.get()
        assert s.server.log == ["token"]


@pytest.mark.parametrize(
    "what",
    [
        {},
        {"instead": [("200 OK", b'{"error": "client-very-secret-0123"}')]},
        {"instead": [("401 No", b"client-very-secret-0123")]},
        {"instead": [("500 No", b"client-very-secret-0123")] * 2},
        {"revoked": {"all"}},
        {"client": ("wrong-very-secret", "wrong-very-secret")},
    ],
)
async def test_id_secret_and_token_are_in_no_log_error_or_archive(what, caplog, tmp_path: Path):
    caplog.set_level(logging.DEBUG)
    seen = ""
    async with scene(**what) as s:
        try:
            seen += repr(await s.transport.fetch(NEW))
        except UpstreamError as error:
            chain: BaseException | None = error
            while chain is not None:
                seen += f"{chain!r} {chain} {vars(chain)}"
                chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
        assert "token" in s.server.log
        seen += repr(s.transport._upstreams) + repr(s.transport._tokens) + repr(s.transport._tokens._held)
        with Archive(tmp_path, "w1") as archive:
            for attempt in s.attempts:
                archive.append(attempt.exchange, "c")
            seen += repr(list(archive.scan()))
    for secret in (*CLIENT, "very-secret", "-secret"):
        assert secret not in seen
        assert secret not in caplog.text

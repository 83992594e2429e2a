from __future__ import annotations

import asyncio
import gzip
import logging
import pickle
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ray_app.clock import ManualClock
from ray_app.collection.archive import Archive
from ray_app.collection.budget import BudgetAuthority, Limits
from ray_app.collection.budget_ledger import MemoryLedger
from ray_app.collection.transport import Attempt, Transport
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
from tests.servers import free_port

NOW = 1_795_521_600_000
KEY = "CG-very-secret-key-0123456789"
MARKETS = Request("coingecko.markets", "/coins/markets", {"ids": "bitcoin", "vs_currency": "usd"})
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nSet-Cookie: s=1\r\nX-RateLimit-Remaining: 9\r\n\r\n[]"


def answer(status: str = "200 OK", body: bytes = b"[]", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


Reply = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Upstreamish:
    """A real HTTP server that plays a script: the n-th request gets the n-th reply, later ones the last."""

    replies: list[Reply]
    port: int = 0
    requests: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
                reply = self.replies[min(len(self.requests), len(self.replies)) - 1]
                if isinstance(reply, bytes):
                    writer.write(reply)
                    await writer.drain()
                else:
                    await reply(writer)
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client or the test is done
        finally:
            writer.close()

    def header(self, n: int, name: str) -> str | None:
        found = re.search(rf"(?im)^{name}: (.*?)\r$", self.requests[n])
        return found[1] if found else None


class NotingClock(ManualClock):
    """Notes how long it was asked to sleep (the budget's own housekeeping sleeps too)."""

    def __init__(self, now_ms: int) -> None:
        super().__init__(now_ms)
        self.slept: list[float] = []

    async def sleep(self, node_seconds: float) -> None:
        self.slept.append(round(node_seconds, 6))
        await super().sleep(node_seconds)


@dataclass
class Scene:
    server: Upstreamish
    transport: Transport
    clock: NotingClock
    budgets: BudgetAuthority
    attempts: list[Attempt]


@asynccontextmanager
async def scene(*replies: Reply, limits: Limits | None = None, **options) -> AsyncIterator[Scene]:
    server = Upstreamish(list(replies))
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    clock = NotingClock(NOW)
    limits = limits or Limits(1_000, 1.0, 10, pause_s=60)
    budgets = BudgetAuthority(MemoryLedger(), clock, {"coingecko": limits})
    url = options.pop("base_url", f"http://127.0.0.1:{server.port}/api/v3")
    upstreams = {"coingecko": Upstream("coingecko", url, {"x-cg-demo-api-key": KEY}, limits)}
    settings = Settings(_env_file=None, api_timeout_s=options.pop("timeout_s", 5), **options.pop("settings", {}))
    attempts: list[Attempt] = []

    async def note(attempt: Attempt) -> None:
        attempts.append(attempt)

    options = {"on_attempt": note, "draw": lambda: 0.5, "routes": lambda _: ("coingecko", 1), **options}
    async with listener, Transport(upstreams, clock, budgets, settings, **options) as transport:
        yield Scene(server, transport, clock, budgets, attempts)
        await budgets.aclose()


pytestmark = pytest.mark.integration  # a real HTTP server on loopback


async def test_an_answer_comes_back_whole_with_its_useful_headers_only():
    async with scene(OK) as s:
        got = await s.transport.fetch(MARKETS)
        assert got == Exchange(
            MARKETS, 200, {"content-type": "application/json", "x-ratelimit-remaining": "9"}, b"[]", got.fetched_at
        )
        assert NOW <= got.fetched_at <= s.clock.now_ms()
        assert s.server.requests[0].startswith("GET /api/v3/coins/markets?ids=bitcoin&vs_currency=usd HTTP/1.1\r\n")
        assert s.server.header(0, "x-cg-demo-api-key") == KEY
        assert s.server.header(0, "accept-encoding") == "gzip"
        assert s.server.header(0, "user-agent").startswith("crypto-data-collection/")
        assert s.attempts == [Attempt(got, final=True)]
        assert s.budgets.spent("coingecko") >= 1


async def test_parameters_are_escaped():
    async with scene(OK) as s:
        await s.transport.fetch(Request("coingecko.markets", "/x", {"a": "b&c=d", "t": "2026-01-01T00:00:00+00:00"}))
        assert "/x?a=b%26c%3Dd&t=2026-01-01T00%3A00%3A00%2B00%3A00 " in s.server.requests[0]


async def test_gzip_is_unpacked():
    body = b'{"a": "' + b"x" * 10_000 + b'"}'
    async with scene(answer("200 OK", gzip.compress(body), "Content-Encoding: gzip")) as s:
        assert (await s.transport.fetch(MARKETS)).body == body


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "404 Not Found", "403 Forbidden"])
async def test_refusals_are_final_and_left_to_the_parser(status):
    async with scene(answer(status, b'{"error": "coin not found"}')) as s:
        got = await s.transport.fetch(MARKETS)
        assert (got.status, got.body) == (int(status[:3]), b'{"error": "coin not found"}')
        assert len(s.server.requests) == 1


@pytest.mark.parametrize("status", ["500 Oops", "502 Bad Gateway", "503 Unavailable", "520 Unknown", "408 Timeout"])
async def test_server_errors_are_retried_with_growing_waits(status):
    async with scene(answer(status, b"<html>"), answer(status), OK) as s:
        assert (await s.transport.fetch(MARKETS)).status == 200
        assert len(s.server.requests) == 3
        assert [(a.exchange.status, a.final) for a in s.attempts] == [(int(status[:3]), False)] * 2 + [(200, True)]
        # half of 1 s and of 2 s, above the floor
        assert [wait for wait in s.clock.slept if wait in {0.55, 1.05}] == [0.55, 1.05]


async def test_a_server_error_to_the_end_carries_the_last_answer_and_spends_every_attempt():
    async with scene(answer("503 No", b"down"), settings={"max_retry_attempts": 2}) as s:
        with pytest.raises(UpstreamUnavailable, match=r"^coingecko.markets: HTTP status 503$") as caught:
            await s.transport.fetch(MARKETS)
        assert caught.value.exchange.body == b"down"
        assert len(s.server.requests) == 3
        await s.budgets.aclose()
        assert s.budgets.spent("coingecko") == 3
        copy = pickle.loads(pickle.dumps(caught.value))
        assert (str(copy), copy.endpoint, copy.exchange) == (
            str(caught.value),
            "coingecko.markets",
            caught.value.exchange,
        )


async def test_a_429_with_retry_after_pauses_the_whole_account_that_long():
    async with scene(answer("429 Slow down", b"", "Retry-After: 7"), OK) as s:
        assert (await s.transport.fetch(MARKETS)).status == 200
        assert s.clock.now_ms() >= NOW + 7_000
        assert s.clock.now_ms() < NOW + 9_000


async def test_a_429_with_a_date_counts_from_the_answers_own_clock():
    late = answer(
        "429 Slow down", b"", "Date: Tue, 24 Nov 2026 09:00:00 GMT", "Retry-After: Tue, 24 Nov 2026 09:00:20 GMT"
    )
    async with scene(late, OK) as s:
        await s.transport.fetch(MARKETS)
        assert NOW + 20_000 <= s.clock.now_ms() < NOW + 22_000


async def test_a_429_that_says_nothing_pauses_as_long_as_the_account_is_set_to():
    async with scene(answer("429 Slow down", b'{"status": {"error_code": 429}}'), OK) as s:
        await s.transport.fetch(MARKETS)
        assert NOW + 60_000 <= s.clock.now_ms() < NOW + 62_000


async def test_a_pause_longer_than_we_wait_is_reported_as_what_it_is():
    async with scene(answer("429 Slow down", b"wait", "Retry-After: 3600")) as s:
        with pytest.raises(RateLimited, match=r"429 for 3600 s; all pause until 2026-11-24T13:00:0") as caught:
            await s.transport.fetch(MARKETS)
        assert caught.value.retry_after_s == 3_600
        assert caught.value.exchange.body == b"wait"
        assert len(s.server.requests) == 1
        with pytest.raises(BudgetExhausted, match=r"^coingecko.markets: account coingecko: paused") as refused:
            await s.transport.fetch(MARKETS)
        assert refused.value.until_ms == caught.value.exchange.fetched_at + 3_600_000
        assert len(s.server.requests) == 1


async def test_nothing_is_sent_with_a_permit_that_ran_out_while_the_process_stood_still():
    async with scene(OK) as s:
        acquire, stalls = s.budgets.acquire, [7_200.0]

        async def stalled(*args, **kwargs):
            permit = await acquire(*args, **kwargs)
            if stalls:
                s.clock.advance(stalls.pop())
                assert not permit.valid()
            return permit

        s.budgets.acquire = stalled
        assert (await s.transport.fetch(MARKETS)).status == 200
        assert stalls == []
        await s.budgets.aclose()
        assert s.budgets.spent("coingecko") == 1


async def test_a_spent_month_sends_nothing():
    async with scene(OK, limits=Limits(10, 1.0, monthly=1)) as s:
        await s.transport.fetch(MARKETS)
        with pytest.raises(BudgetExhausted, match="credits of 202611 are spent"):
            await s.transport.fetch(MARKETS)
        assert len(s.server.requests) == 1


# --- broken connections -----------------------------------------------------------------------------------------


async def hang(_: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


async def trickle(writer: asyncio.StreamWriter) -> None:
    """A body that keeps coming, a byte at a time, and never ends in time: no read ever times out."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(1_000):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def truncate(writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n[{"id": "bit')
    await writer.drain()


async def truncate_chunked(writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n[{"id": \r\n')
    await writer.drain()


async def reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def close_silently(_: asyncio.StreamWriter) -> None:
    return


async def no_http(writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    await writer.drain()


BROKEN_GZIP = answer("200 OK", b"this is no gzip", "Content-Encoding: gzip")


@pytest.mark.parametrize(
    "fault", [hang, trickle, truncate, truncate_chunked, reset, close_silently, no_http, BROKEN_GZIP]
)
async def test_every_way_to_break_an_answer_is_retried_and_never_taken_for_one(fault):
    async with scene(fault, OK, timeout_s=0.4) as s:
        got = await s.transport.fetch(MARKETS)
        assert got.body == b"[]"
        assert len(s.server.requests) == 2
        assert [a.final for a in s.attempts] == [True], "a broken answer is no answer: nothing to archive"


@pytest.mark.parametrize("fault", [hang, trickle, truncate, reset, no_http, BROKEN_GZIP])
async def test_a_fault_to_the_end_is_unavailable_and_names_the_endpoint_only(fault):
    async with scene(fault, timeout_s=0.3, settings={"max_retry_attempts": 1}) as s:
        with pytest.raises(UpstreamUnavailable) as caught:
            await s.transport.fetch(MARKETS)
        assert str(caught.value).startswith("coingecko.markets: ")
        assert "127.0.0.1" not in str(caught.value)
        assert caught.value.exchange is None
        assert caught.value.__cause__ is None


async def test_nobody_listening_is_unavailable():
    async with scene(OK, base_url=f"http://127.0.0.1:{free_port()}", settings={"max_retry_attempts": 0}) as s:
        with pytest.raises(UpstreamUnavailable, match="ConnectError"):
            await s.transport.fetch(MARKETS)


async def test_an_answer_after_a_broken_connection_keeps_the_earlier_complete_one():
    async with scene(answer("500 Oops", b"first"), reset, settings={"max_retry_attempts": 1}) as s:
        with pytest.raises(UpstreamUnavailable) as caught:
            await s.transport.fetch(MARKETS)
        assert caught.value.exchange.body == b"first"


@pytest.mark.parametrize("packed", [False, True])
async def test_an_oversized_body_is_refused_before_it_fills_the_memory(packed):
    body = b"0" * 3_000_000
    sent = answer("200 OK", gzip.compress(body), "Content-Encoding: gzip") if packed else answer("200 OK", body)
    async with scene(sent, max_body=1_000_000) as s:
        with pytest.raises(UpstreamRejected, match="larger than 1000000 bytes"):
            await s.transport.fetch(MARKETS)
        assert len(s.server.requests) == 1


# --- redirects, conditional requests, breaker -----------------------------------------------------------------------


async def test_redirects_on_the_same_host_are_followed_and_spend_budget():
    async with scene(answer("301 Moved", b"", "Location: /api/v3/coins/markets?new=1"), OK) as s:
        assert (await s.transport.fetch(MARKETS)).status == 200
        assert s.server.requests[1].startswith("GET /api/v3/coins/markets?new=1 ")
        await s.budgets.aclose()
        assert s.budgets.spent("coingecko") == 2


@pytest.mark.parametrize("place", ["http://127.0.0.2:{port}/x", "//evil.example/x", "https://127.0.0.1:{port}/x"])
async def test_redirects_elsewhere_are_not_followed(place):
    elsewhere = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
    async with elsewhere, scene(answer("302 Found", b"", f"Location: {place.format(port=free_port())}")) as s:
        with pytest.raises(UpstreamRejected, match="redirected"):
            await s.transport.fetch(MARKETS)
        assert len(s.server.requests) == 1


async def test_a_redirect_to_something_that_is_no_url_is_an_error_of_the_upstream():
    async with scene(answer("302 Found", b"", "Location: http://[::")) as s:
        with pytest.raises(UpstreamError, match=r"^coingecko.markets: "):
            await s.transport.fetch(MARKETS)


async def test_redirects_in_a_circle_end():
    async with scene(answer("302 Found", b"", "Location: /again")) as s:
        with pytest.raises(UpstreamRejected, match="more than 3 redirects"):
            await s.transport.fetch(MARKETS)
        assert len(s.server.requests) == 4


async def test_requests_are_conditional_only_once_the_answer_was_stored():
    first = answer("200 OK", b"[1]", 'ETag: "v1"', "Last-Modified: Tue, 24 Nov 2026 09:00:00 GMT")
    async with scene(
        first, first, b'HTTP/1.1 304 Not Modified\r\nETag: "v1"\r\n\r\n', conditional={"coingecko.markets"}
    ) as s:
        await s.transport.fetch(MARKETS)
        got = await s.transport.fetch(MARKETS)
        assert s.server.header(1, "if-none-match") is None, "the first answer may have been lost before it was stored"
        s.transport.confirm(got)
        unchanged = await s.transport.fetch(MARKETS)
        assert (unchanged.status, unchanged.body) == (304, b"")
        assert s.server.header(2, "if-none-match") == '"v1"'
        assert s.server.header(2, "if-modified-since") == "Tue, 24 Nov 2026 09:00:00 GMT"
        await s.transport.fetch(Request("coingecko.markets", "/coins/markets", {"ids": "ethereum"}))
        assert s.server.header(3, "if-none-match") is None, "another request has another answer"


async def test_endpoints_that_are_not_flagged_are_never_conditional():
    async with scene(answer("200 OK", b"[1]", 'ETag: "v1"')) as s:
        s.transport.confirm(await s.transport.fetch(MARKETS))
        await s.transport.fetch(MARKETS)
        assert s.server.header(1, "if-none-match") is None


async def test_the_circuit_opens_after_failures_in_a_row_and_probes_once():
    rules = {"max_retry_attempts": 1, "circuit_breaker_failure_threshold": 3, "circuit_breaker_timeout_s": 60}
    async with scene(*[answer("500 Oops")] * 4, OK, settings=rules) as s:
        for _ in range(2):
            with pytest.raises(UpstreamUnavailable):
                await s.transport.fetch(MARKETS)
        assert len(s.server.requests) == 3, "opened in the middle of the second fetch"
        with pytest.raises(CircuitOpen) as caught:
            await s.transport.fetch(MARKETS)
        assert len(s.server.requests) == 3
        s.clock.advance((caught.value.until_ms - s.clock.now_ms()) / 1_000)
        with pytest.raises(UpstreamUnavailable):
            await s.transport.fetch(MARKETS)
        assert len(s.server.requests) == 4, "one probe, no retry"
        s.clock.advance(60)
        assert (await s.transport.fetch(MARKETS)).status == 200
        assert s.transport.breaker("coingecko").failures == 0


async def test_a_429_is_no_failure_of_the_circuit():
    rules = {"max_retry_attempts": 0, "circuit_breaker_failure_threshold": 1}
    async with scene(answer("429 Slow", b"", "Retry-After: 1"), OK, settings=rules) as s:
        with pytest.raises(RateLimited):
            await s.transport.fetch(MARKETS)
        assert (await s.transport.fetch(MARKETS)).status == 200


async def test_a_cancelled_fetch_gives_everything_back():
    async with scene(hang, OK, limits=Limits(1, 1.0)) as s:
        task = asyncio.ensure_future(s.transport.fetch(MARKETS))
        while not s.server.requests:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await s.transport.fetch(MARKETS)).status == 200
        assert s.transport.breaker("coingecko").failures == 0


async def test_an_error_of_the_hook_stops_the_fetch():
    """What cannot be archived is not handed on."""

    async def fail(_: Attempt) -> None:
        raise OSError("disk full")

    async with scene(OK, on_attempt=fail) as s:
        with pytest.raises(OSError, match="disk full"):
            await s.transport.fetch(MARKETS)


async def test_an_endpoint_without_an_account_is_named():
    async with scene(OK, routes=lambda _: ("nobody", 1)) as s:
        with pytest.raises(
            ConfigError, match=r"no upstream account 'nobody' is set up for endpoint 'coingecko.markets'"
        ):
            await s.transport.fetch(MARKETS)


async def test_accounts_come_from_the_sources_where_nothing_else_is_said():
    async with scene(OK, routes=None) as s:
        assert (await s.transport.fetch(MARKETS)).status == 200


@pytest.mark.parametrize(
    "replies",
    [
        [OK], [answer("500 Oops")], [reset], [hang], [truncate], [BROKEN_GZIP], [answer("429 Slow", b"", "Retry-After: 9999")],
        [answer("302 Found", b"", "Location: http://evil.example/")], [answer("401 No", b'{"error": "bad key"}')],
    ],
)  # fmt: skip
async def test_the_key_is_in_no_log_error_or_archive(replies, caplog, tmp_path: Path):
    caplog.set_level(logging.DEBUG)
    archive = Archive(tmp_path, "w1")

    async def keep(attempt: Attempt) -> None:
        archive.append(attempt.exchange, "c")

    async with scene(*replies, on_attempt=keep, timeout_s=0.2, settings={"max_retry_attempts": 1}) as s:
        seen = ""
        try:
            got = await s.transport.fetch(MARKETS)
        except UpstreamError as error:
            chain: BaseException | None = error
            while chain is not None:
                seen += f"{chain!r} {chain} {vars(chain)}"
                chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
        else:
            seen = repr(got)
        assert s.server.header(0, "x-cg-demo-api-key") == KEY, "it was sent, so it could have leaked"
    archive.close()
    for _, _, exchange in archive.scan():
        seen += repr(exchange)
    seen += repr(s.transport) + repr(s.transport._upstreams)
    for secret in (KEY, "very-secret"):
        assert secret not in seen
        assert secret not in caplog.text
        assert not any(secret.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert not [r for r in caplog.records if r.name.startswith(("httpx", "httpcore"))]


async def test_a_key_no_header_can_carry_is_not_quoted_by_the_error():
    async with scene(OK) as s:
        bad = Upstream(
            "coingecko", s.transport._upstreams["coingecko"].base_url, {"x": "line\nbreak-secret"}, Limits(1, 1)
        )
        s.transport._upstreams["coingecko"] = bad
        with pytest.raises(UpstreamRejected, match="check key and parameters") as caught:
            await s.transport.fetch(MARKETS)
        assert "secret" not in repr(caught.value)

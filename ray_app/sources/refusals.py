"""How upstreams say no: HTTP statuses and the error envelopes that arrive with them, or inside an HTTP 200.

The shapes (upstreams.md §1, §15): ``{"status":{"error_code":429,"error_message":"…"}}``, ``{"error":"…"}``,
``{"error":{"status":{…}}}``, ``{"errors":[{"id":"…","message":"…"}]}``, ``{"message":"…"}``, Reddit's
``{"message":"…","error":429}``, the Guardian's ``{"response":{"status":"error","message":"…"}}``, plain text and HTML;
Cloudflare's own ``{"error_code":1015,"title":"…"}``; and those of venues, ``{"code":-1121,"msg":"…"}`` and
``{"retCode":10001,"retMsg":"…"}``, whose code is 0 where all is well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, NoReturn

from ray_app.clock import to_ms
from ray_app.errors import MalformedPayload, RateLimited, RegionBlocked, UpstreamRejected, UpstreamUnavailable
from ray_app.sources.base import Exchange
from ray_app.sources.reading import as_number, decode, printable, shown

_SLOW_DOWN = re.compile(
    r"rate limit|throttl|too[ _]many[ _](?:requests|visits)|access too frequent|error code: 1015", re.IGNORECASE
)
#: what is the upstream's own trouble, and passes
_PASSES = re.compile(
    r"time(?:d[ _])?out|too busy|systems? (?:is|are) busy|temporarily[ _]unavailable|service unavailable"
    r"|(?:internal|system|server) error|try again (?:later|soon|shortly|in a)|under maintenance",
    re.IGNORECASE,
)
#: what CloudFront and venues say to an address in the wrong country
_REGION = re.compile(r"block access from your country|from a restricted location", re.IGNORECASE)
#: Cloudflare's own number for "You are being rate limited"
_CLOUDFLARE_RATE_LIMIT = 1015


@dataclass(frozen=True, slots=True)
class Refusal:
    """What an error envelope says. ``code``: the upstream's own number, where it gives one."""

    message: str
    code: int | None = None


def read_answer(exchange: Exchange) -> Any:
    """The decoded body of a successful answer.

    Raises RateLimited (429), UpstreamUnavailable (408, 425, 5xx), UpstreamRejected (other 4xx) or MalformedPayload
    (any other status, and bodies that are not JSON); an error envelope inside HTTP 200 counts as what it says.
    """
    endpoint = exchange.request.endpoint
    require_ok(exchange)
    try:
        body = decode(endpoint, exchange.body)
    except MalformedPayload:
        heed_words(exchange)
        raise
    refusal = refusal_in(body)
    if refusal is not None:
        _raise_refusal(exchange, refusal)
    return body


def require_ok(exchange: Exchange) -> None:
    """Raise as :func:`read_answer` does for every status but 200: for bodies that are not JSON."""
    if exchange.status != HTTPStatus.OK:
        _raise_status(exchange)


def heed_words(exchange: Exchange) -> None:
    """RateLimited where a short body, which is not what was asked for, says so in words."""
    if len(exchange.body) < 500 and _SLOW_DOWN.search(exchange.body.decode("utf-8", "replace")):
        raise RateLimited(exchange.request.endpoint, _in_words(exchange), retry_after_s(exchange)) from None


def refusal_in(body: Any) -> Refusal | None:
    """The error envelope in a decoded body, or None.

    Looks at shapes, not names alone: ``status`` is also the id of a coin, whose price is no error.
    """
    if not isinstance(body, dict):
        return None
    status = body.get("status")
    if isinstance(status, dict) and ("error_code" in status or "error_message" in status):
        return Refusal(_words(status.get("error_message")), _code(status.get("error_code")))
    if isinstance(body.get("error_code"), int | str):  # Cloudflare, in front of both upstreams
        return Refusal(_words(body.get("error_message") or body.get("title")), _code(body["error_code"]))
    error = body.get("error")
    if isinstance(error, str):
        return Refusal(_words(error), _code(body.get("code")))
    if isinstance(error, dict):
        inner = refusal_in(error)
        if inner is not None:
            return inner
    errors = body.get("errors")
    if isinstance(errors, list) and errors:
        first = errors[0] if isinstance(errors[0], dict) else {"message": errors[0]}
        return Refusal(": ".join(_words(first[k]) for k in ("id", "message") if first.get(k)) or "unnamed error")
    message = body.get("message")
    if isinstance(message, str):
        return Refusal(_words(message), _code(body.get("code", body.get("error"))))
    for number, words in (("code", "msg"), ("retCode", "retMsg")):
        code = _code(body.get(number))
        if code and isinstance(body.get(words), str):
            return Refusal(_words(body[words]), code)
    if isinstance(status, str) and status.lower() != "ok" and isinstance(body.get("info"), str):  # CryptoPanic
        return Refusal(_words(body["info"]))
    response = body.get("response")
    if isinstance(response, dict) and response.get("status") == "error":  # the Guardian
        return Refusal(_words(response.get("message")))
    return None


def refuse(exchange: Exchange, refusal: Refusal) -> NoReturn:
    """Raise what an envelope of an upstream's own shape says: RateLimited, UpstreamUnavailable or UpstreamRejected."""
    _raise_refusal(exchange, refusal)


def words(value: object) -> str:
    """An upstream's message in one line; it may repeat our request, so it is cut before it gets long."""
    return _words(value)


def retry_after_s(exchange: Exchange) -> float | None:
    """Seconds the Retry-After header asks for, from a number or an HTTP date; None where it says nothing readable.

    A date is counted from the answer's own Date header (both are the upstream's clock), else from the fetch.
    """
    said = exchange.headers.get("retry-after", "").strip()
    seconds = as_number(said)
    if seconds is None and said:
        until = _http_date_ms(said)
        if until is not None:
            now = _http_date_ms(exchange.headers.get("date", "")) or exchange.fetched_at
            seconds = (until - now) / 1_000
    return max(seconds, 0.0) if seconds is not None else None


def _http_date_ms(text: str) -> int | None:
    try:
        moment = parsedate_to_datetime(text)
        return to_ms(moment) if moment.tzinfo is not None else None
    except (ValueError, TypeError, OverflowError):
        return None


def _raise_status(exchange: Exchange) -> None:
    endpoint, status = exchange.request.endpoint, exchange.status
    said = f"HTTP {status}: {_in_words(exchange)}"
    if status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.IM_A_TEAPOT}:  # 418: Binance's ban of who ignored a 429
        raise RateLimited(endpoint, said, retry_after_s(exchange))
    if status == HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS or (
        status == HTTPStatus.FORBIDDEN and _REGION.search(exchange.body[:4_000].decode("utf-8", "replace"))
    ):
        words = _in_words(exchange)
        raise RegionBlocked(endpoint, f"this venue refuses requests from this region (HTTP {status}): {words}")
    if status >= 500 or status in {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY}:
        raise UpstreamUnavailable(endpoint, said)
    if 400 <= status < 500:
        raise UpstreamRejected(endpoint, said)
    raise MalformedPayload(endpoint, f"HTTP {status} is not an answer with data; expected 200")


def _raise_refusal(exchange: Exchange, refusal: Refusal) -> NoReturn:
    endpoint = exchange.request.endpoint
    code = f" (code {refusal.code})" if refusal.code is not None else ""
    said = f"the upstream refused: {refusal.message}{code}"
    if _slow_down(refusal):
        raise RateLimited(endpoint, said, retry_after_s(exchange))
    if (refusal.code is not None and 500 <= refusal.code < 600) or _PASSES.search(refusal.message):
        raise UpstreamUnavailable(endpoint, said)
    raise UpstreamRejected(endpoint, said)


def _slow_down(refusal: Refusal) -> bool:
    """Whether it asks for fewer requests, by its code or its words."""
    codes = {HTTPStatus.TOO_MANY_REQUESTS, _CLOUDFLARE_RATE_LIMIT}
    return refusal.code in codes or _SLOW_DOWN.search(refusal.message) is not None


def _in_words(exchange: Exchange) -> str:
    """What the body of an error answer says, in one short line."""
    try:
        body = decode(exchange.request.endpoint, exchange.body)
    except MalformedPayload:
        return _plain(exchange.body) or _reason(exchange.status)
    refusal = refusal_in(body)
    context = body.get("context") if isinstance(body, dict) else None
    if refusal is None and isinstance(context, dict) and isinstance(context.get("error"), str):
        return _words(context["error"])  # Blockchair
    if refusal is None and isinstance(body, dict) and isinstance(body.get("msg"), str):
        return _words(body["msg"])  # Binance, to who may not ask: with the code 0
    if refusal is None and isinstance(body, dict) and isinstance(body.get("status"), str):
        return _words(body["status"])  # Blockchain.com: all it says
    return refusal.message if refusal is not None else shown(body)


def _plain(body: bytes) -> str:
    """The text of an HTML page or plain body: its title if it has one."""
    page = body[:4_000].decode("utf-8", "replace")
    title = re.search(r"<title>(.*?)</title>", page, re.IGNORECASE | re.DOTALL)
    return " ".join(shown(re.sub(r"<[^>]*>", " ", title.group(1) if title else page)).split())


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "no body"


def _words(value: object) -> str:
    """An upstream's message in one line; it may repeat our request, so it is cut before it gets long."""
    words = " ".join(printable(str(value or "")).split())
    return f"{words[:160]}…" if len(words) > 160 else words or "no reason given"


def _code(value: object) -> int | None:
    number = as_number(value)
    return int(number) if number is not None and abs(number) < 1e6 else None

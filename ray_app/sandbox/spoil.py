"""What faults do to an answer: pure functions from a right answer to a wrong one.

How an answer travels (slowly, cut off, not at all) is the server's part (app.py); this is about what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import orjson

from ray_app.clock import SECOND_MS, from_ms, to_ms
from ray_app.sandbox.answers import Answer, iso_millis, json_answer
from ray_app.sandbox.coingecko_base import error_status
from ray_app.sandbox.faults import Fault
from ray_app.sandbox.rng import unit_of

_PAGE = (
    b'<!DOCTYPE html>\n<html lang="en-US"><head><title>Just a moment...</title></head>'
    b"<body><h1>Checking your browser before accessing the site.</h1><p>Ray ID: 8f2b1c5d</p></body></html>\n"
)


def replacement(fault: Fault, source: str, now_ms: int) -> Answer | None:
    """The answer of a fault that needs no right answer (rate_limit, status, html); None for the other kinds."""
    if fault.kind == "rate_limit":
        after = fault.options["retry_after"]
        headers = {} if after is None else {"retry-after": f"{after:g}"}
        if source == "coingecko":
            message = (
                "You've exceeded the Rate Limit. Please visit https://www.coingecko.com/en/api/pricing to subscribe."
            )
            return json_answer(error_status(now_ms, 429, message), 429, headers)
        if source == "coinbase":
            return json_answer({"message": "Public rate limit exceeded"}, 429, headers)
        return json_answer({"errors": [{"id": "rate_limit_exceeded", "message": "Too many requests"}]}, 429, headers)
    if fault.kind == "html":
        return Answer(fault.options["status"], _PAGE, {}, "text/html; charset=UTF-8")
    if fault.kind == "status":
        status, body = fault.options["status"], fault.options["body"]
        if body == "html":
            return Answer(status, _PAGE, {}, "text/html; charset=UTF-8")
        if body == "empty":
            return Answer(status, b"")
        if source == "coingecko":
            return json_answer(error_status(now_ms, status, "Internal error"), status)
        if source == "coinbase":
            return json_answer({"message": "Internal server error"}, status)
        return json_answer({"errors": [{"id": "internal_server_error", "message": "Internal error"}]}, status)
    return None


def spoilt(answer: Answer, fault: Fault, seed: int, source: str, endpoint: str) -> Answer:
    """A right answer as a fault leaves it; answers other than 200, and kinds that only concern delivery, unchanged."""
    change = _CHANGES.get(fault.kind)
    if change is None or answer.status != 200 or "json" not in answer.content_type:
        return answer
    value = change(orjson.loads(answer.body), fault, seed, f"{source}.{endpoint}")
    headers = {name: text for name, text in answer.headers.items() if name != "etag"}
    return Answer(answer.status, orjson.dumps(value), headers, answer.content_type)


def first_page(fault: Fault, params: Mapping[str, str]) -> Mapping[str, str] | None:
    """Where duplicate_page meets a later page: the parameters of page 1, which is answered once more; else None."""
    if fault.kind == "duplicate_page" and params.get("page", "1") != "1":
        return {**params, "page": "1"}
    return None


def _leaves(value: Any, change: Callable[[str, Any], Any], path: str = "") -> Any:
    """``value`` with every number, by its path, replaced by what ``change`` gives."""
    if isinstance(value, dict):
        return {key: _leaves(item, change, f"{path}/{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_leaves(item, change, f"{path}/{place}") for place, item in enumerate(value)]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return change(path, value)
    return value


def _wrong_types(value: Any, fault: Fault, seed: int, endpoint: str) -> Any:
    forms: tuple[Callable[[Any], Any], ...] = (str, lambda _: None, lambda _: "N/A", lambda v: [v], lambda _: True)

    def change(path: str, leaf: Any) -> Any:
        if unit_of(seed, fault.number, endpoint, path, "hit") >= fault.options["share"]:
            return leaf
        return forms[int(unit_of(seed, fault.number, endpoint, path, "form") * len(forms))](leaf)

    return _leaves(value, change)


def _revise(value: Any, fault: Fault, seed: int, endpoint: str) -> Any:
    """Other values for the same instants: all prices of a bar by one factor, so that it stays a bar."""
    magnitude = fault.options["magnitude"]

    def factor(instant: Any) -> float:
        return float(1 + magnitude * (2 * unit_of(seed, fault.number, endpoint, str(instant)) - 1))

    def scaled(values: list[Any], by: float) -> list[Any]:
        return [float(f"{v * by:.12g}") if isinstance(v, int | float) else v for v in values]

    if endpoint in {"coinbase.candles", "coingecko.ohlc"}:
        return [[row[0], *scaled(row[1:], factor(row[0]))] for row in value]
    if endpoint == "coingecko.market_chart":
        return {name: [[t, *scaled([v], factor(t))] for t, v in points] for name, points in value.items()}
    if endpoint == "coingecko.markets":
        moving = ("current_price", "high_24h", "low_24h", "market_cap", "total_volume")
        for row in value:
            by = factor(f"{row['id']} {row['last_updated']}")
            row.update(zip(moving, scaled([row[name] for name in moving], by), strict=True))
        return value
    return value


def _clock_skew(value: Any, fault: Fault, seed: int, endpoint: str) -> Any:  # noqa: ARG001
    shift_ms = round(fault.options["seconds"] * SECOND_MS)
    if endpoint == "coinbase.candles":
        return [[row[0] + shift_ms // SECOND_MS, *row[1:]] for row in value]
    if endpoint == "coingecko.ohlc":
        return [[row[0] + shift_ms, *row[1:]] for row in value]
    if endpoint == "coingecko.market_chart":
        return {name: [[t + shift_ms, v] for t, v in points] for name, points in value.items()}
    if endpoint == "coingecko.markets":
        for row in value:
            if row["last_updated"] is not None:
                row["last_updated"] = _later(row["last_updated"], shift_ms)
        return value
    if endpoint == "coingecko.global":
        value["data"]["updated_at"] += shift_ms // SECOND_MS
    return value


def _later(text: str, shift_ms: int) -> str:
    moment = from_ms(0).fromisoformat(text) + timedelta(milliseconds=shift_ms)
    return iso_millis(to_ms(moment))


def _drop_ids(value: Any, fault: Fault, seed: int, endpoint: str) -> Any:
    ids, share = fault.options["ids"], fault.options["share"]

    def keep(name: Any) -> bool:
        return name not in ids if ids is not None else unit_of(seed, fault.number, endpoint, str(name)) >= share

    if isinstance(value, list):
        return [row for row in value if not isinstance(row, dict) or keep(row.get("id"))]
    return {name: item for name, item in value.items() if keep(name)} if endpoint == "coingecko.simple_price" else value


def _duplicate_page(value: Any, fault: Fault, seed: int, endpoint: str) -> Any:  # noqa: ARG001
    """Every row twice, in the order of two answers glued together; nothing for answers that are no lists."""
    return [*value, *value] if isinstance(value, list) else value


_CHANGES: dict[str, Callable[[Any, Fault, int, str], Any]] = {
    "wrong_types": _wrong_types,
    "revise": _revise,
    "clock_skew": _clock_skew,
    "drop_ids": _drop_ids,
    "duplicate_page": _duplicate_page,
}

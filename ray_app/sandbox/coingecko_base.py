"""What all CoinGecko endpoints share: refusals, parameters, and how numbers are rounded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from ray_app.sandbox.answers import Rejection, SimulatedEndpoint, digits, iso_millis, json_answer, number


class CoinGeckoEndpoint(SimulatedEndpoint):
    """An endpoint under /coingecko/api/v3."""

    source: ClassVar[str] = "coingecko"


def error_status(now_ms: int, code: int, message: str) -> dict[str, Any]:
    """CoinGecko's error envelope."""
    return {"status": {"timestamp": iso_millis(now_ms), "error_code": code, "error_message": message}}


def refuse(status: int, message: str) -> Rejection:
    """A refusal in the short form."""
    return Rejection(json_answer({"error": message}, status))


def beyond_the_plan(now_ms: int, code: int, message: str) -> Rejection:
    """A refusal of what the plan does not have."""
    return Rejection(json_answer({"error": error_status(now_ms, code, message)}, 401))


def quoted(price: float) -> float | int | None:
    """A price as CoinGecko rounds it unless ``precision`` is given: whole dollars, cents, or 6 significant digits."""
    if math.isnan(price):
        return None
    if price >= 10_000:
        return round(price)
    if price >= 1:
        return round(price, 2)
    return float(f"{price:.6g}")


def priced(price: float, precision: str | None) -> float | int | None:
    """A price at the precision asked for; None for NaN."""
    if precision is None:
        return quoted(price)
    return number(price) if precision == "full" else number(round(price, int(precision)))


def precision_of(params: Mapping[str, str]) -> str | None:
    """The ``precision`` parameter; refused unless it is full or 0 to 18."""
    value = params.get("precision")
    if value is not None and value != "full" and not (digits(value) and int(value) <= 18):
        raise refuse(400, "invalid precision")
    return value


def whole(value: float) -> int | None:
    """A rounded amount; None for NaN."""
    return None if math.isnan(value) else round(value)


def percent(new: float, old: float, decimals: int = 5) -> float | None:
    """The change from ``old`` to ``new`` in percent; None where one of them is unknown."""
    return None if math.isnan(new) or math.isnan(old) or old == 0 else round((new / old - 1) * 100, decimals)


def in_usd(params: Mapping[str, str], name: str = "vs_currency") -> None:
    """Refuse a question that is not about US dollars, the only currency here."""
    if not params.get(name):
        raise refuse(422, f"Missing parameter {name}")
    if "usd" not in params[name].lower().split(","):
        raise refuse(400, f"invalid {name}")


def truth_of(params: Mapping[str, str], name: str) -> bool:
    """A boolean parameter, false by default."""
    return params.get(name, "false").lower() == "true"

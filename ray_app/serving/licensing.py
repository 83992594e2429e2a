"""What a key may see of data that its upstream does not let be passed on.

Keys of level trading and above are the operator's own systems. A readonly key may be in anybody's hands: of what is
``forbidden`` (sources/terms.py) it gets no values. Where an answer is about such data alone that is 403; in a list the
row stays, without its values, and ``withheld`` says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fastapi import Request

from ray_app.serving.keys import Level
from ray_app.serving.middleware import request_info
from ray_app.serving.problems import Problem
from ray_app.sources.terms import terms_of


def level_of(request: Request) -> Level:
    """The level of the request's key."""
    principal = request_info(request.scope).principal
    return principal.level if principal is not None else Level.readonly


def withheld(level: Level, source: str, series: str | None = None) -> str | None:
    """Why a key of this level gets no values of what an endpoint gave; None: it gets them."""
    terms = terms_of(source, series)
    if level >= Level.trading or terms.redistribution != "forbidden":
        return None
    return f"{source}: {terms.licence}"


def require(level: Level, source: str, series: str | None = None) -> None:
    """Problem FORBIDDEN if a key of this level gets no values of it."""
    reason = withheld(level, source, series)
    if reason is not None:
        raise Problem("FORBIDDEN", f"{reason}; it is for keys of level trading, the operator's own systems")


def shown(row: dict[str, Any], values: Sequence[str], reason: str | None) -> dict[str, Any]:
    """The row; without ``values`` and with the reason where there is one."""
    if reason is None:
        return row
    return {name: value for name, value in row.items() if name not in values} | {"withheld": reason}


def attributions(sources: Iterable[tuple[str, str | None]]) -> list[str]:
    """What is to stand beside data of these (source, series)."""
    return sorted({text for source, series in sources if (text := terms_of(source, series).attribution)})

"""The node's own note on a price poll: which slot it is for. Archived with the request, never sent."""

from __future__ import annotations

from ray_app.errors import MalformedPayload
from ray_app.sources.base import Exchange, Request
from ray_app.sources.reading import shown
from ray_app.sources.rows import Slot, slot_at

DEFAULT_INTERVAL_S = 300


def slot_context(slot: int | None, interval_s: int) -> dict[str, str]:
    """The note for a request. Without a slot the parser takes the one that holds ``fetched_at``."""
    return {"interval_s": str(interval_s)} | ({"slot": str(slot)} if slot is not None else {})


def slot_of(exchange: Exchange) -> Slot:
    """The slot a poll was for; MalformedPayload if the note cannot be read."""
    interval_s = interval_of(exchange.request)
    start = _noted(exchange.request, "slot", slot_at(exchange.fetched_at, interval_s))
    return Slot(start, interval_s)


def interval_of(request: Request) -> int:
    """Length of the slot in seconds, 300 where nothing is noted."""
    return _noted(request, "interval_s", DEFAULT_INTERVAL_S)


def _noted(request: Request, name: str, otherwise: int) -> int:
    text = request.context.get(name)
    if text is None:
        return otherwise
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**53):
        raise MalformedPayload(request.endpoint, f"the request's note {name} is {shown(text)!r}, not a whole number")
    return int(text)

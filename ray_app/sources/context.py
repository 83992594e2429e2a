"""The node's own note on a price poll: which slot it is for. Archived with the request, never sent."""

from __future__ import annotations

from ray_app.sources.base import Exchange
from ray_app.sources.rows import Slot, slot_at


def slot_context(slot: int | None, interval_s: int) -> dict[str, str]:
    """The node's note on which slot a poll is for; without a slot the parser takes the one that holds fetched_at."""
    return {"interval_s": str(interval_s)} | ({"slot": str(slot)} if slot is not None else {})


def slot_of(exchange: Exchange) -> Slot:
    """The slot a poll was for."""
    context = exchange.request.context
    interval_s = int(context.get("interval_s", "300"))
    return Slot(int(context.get("slot", slot_at(exchange.fetched_at, interval_s))), interval_s)

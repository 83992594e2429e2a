"""Alternative.me: the crypto fear and greed index.

Format: https://alternative.me/crypto/fear-and-greed-index/#api. What trips people up:

* ``value`` and ``timestamp`` (seconds) are strings; with ``date_format`` the timestamp is a date, which is
  refused here.
* A value is stamped at 00:00 UTC of its day and published about then: it is of what came before.
* Newest first; ``time_until_update`` stands on the first item only; ``limit=0`` is everything since 2018-02-01.
* Errors are in ``metadata.error``. Attribution is required.
"""

from __future__ import annotations

from typing import ClassVar, Final

from ray_app.clock import MINUTE_MS
from ray_app.errors import MalformedPayload
from ray_app.sources.base import Endpoint, Exchange, Parsed, Request, Row
from ray_app.sources.reading import (
    Bounds,
    Findings,
    epoch_time,
    expect_list,
    expect_object,
    not_ahead,
    number,
    readable,
    shown,
    text,
)
from ray_app.sources.refusals import Refusal, read_answer, refuse, words
from ray_app.sources.statements import statement_row

#: assumed until the node measures its own
LAG_MS: Final = 15 * MINUTE_MS
_INDEX: Final = Bounds("an index from 0 to 100", 0, 100)


class FearGreed(Endpoint):
    """``/fng/``: one value a day, newest first."""

    name: ClassVar[str] = "alternative_me.fng"
    account: ClassVar[str] = "alternative_me"
    paths: ClassVar[tuple[str, ...]] = ("/fng/", "/fng")
    query: ClassVar[frozenset[str]] = frozenset({"limit", "format", "date_format"})

    def request(self, limit: int = 10) -> Request:
        """The last ``limit`` days; 0: all there are."""
        return Request(self.name, "/fng/", {"limit": str(limit), "format": "json"})

    def parse(self, exchange: Exchange) -> Parsed:
        """fear_greed rows: ``value`` 0 (fear) to 100 (greed) with its ``classification`` as published."""
        if exchange.request.params.get("date_format"):
            raise MalformedPayload(self.name, "asked with date_format: only epoch times are read")
        body = expect_object(self.name, read_answer(exchange), "data, metadata")
        metadata = body.get("metadata")
        error = metadata.get("error") if isinstance(metadata, dict) else None
        if error:
            refuse(exchange, Refusal(words(error)))
        items = expect_list(self.name, body.get("data"), "{value, value_classification, timestamp}")
        found = Findings()
        rows: dict[int, Row] = {}
        contradicted: set[int] = set()
        read = 0
        for position, item in enumerate(items):
            if not isinstance(item, dict) or item.get("timestamp") is None:
                found.add("wrong_type", self.name, f"data#{position}", f"expected a day's value, got {shown(item)}")
                continue
            at = epoch_time(found, self.name, f"timestamp#{position}", item["timestamp"], 1_000)
            read += at is not None
            at = not_ahead(found, self.name, f"timestamp#{position}", at, exchange.fetched_at)
            if at is None:
                continue
            at = min(at, exchange.fetched_at)
            value = number(found, self.name, "value", item.get("value"), _INDEX, where=str(at))
            named = text(found, self.name, f"class@{at}", item.get("value_classification"), longest=32)
            if value is None:
                continue
            key = {"source": self.name}
            row = statement_row("fear_greed", {**key}, at, value, exchange.fetched_at, LAG_MS, classification=named)
            if rows.setdefault(at, row) != row:
                contradicted.add(at)
                found.add("duplicate", self.name, f"timestamp@{at}", "stated twice with different values")
        readable(self.name, items, read, "an object with a timestamp in epoch seconds")
        kept = tuple(row for at, row in rows.items() if at not in contradicted)
        return Parsed(kept, found.all(), oldest=min(rows, default=None))


ENDPOINTS: Final[tuple[Endpoint, ...]] = (FearGreed(),)

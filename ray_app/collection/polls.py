"""Which slots of a feed an answer covers: a function of the archived exchange alone.

The collector notes on each request what it is for; the note is archived with it. When the answer is taken in, the slots
it covers are written in the same transaction (``collection_polls``), so that a crash anywhere asks for nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from ray_app.collection.feeds import Feed, Reach, subject_id
from ray_app.errors import MalformedPayload
from ray_app.sources.base import Exchange, Parsed, Request

#: the most slots one answer is written down to cover
MOST_SLOTS = 3_000


@dataclass(frozen=True, slots=True)
class Note:
    """What a request is for: the slot ``slot`` of a subject, and the missed ones from ``covers`` on (ms).

    ``since``: what is stored ends there. ``page`` of ``pages``: counted from 1. ``reached``: ms of the oldest item of
    the pages before this one.
    """

    dataset: str
    subject: str
    slot: int
    interval_s: int
    covers: int
    since: int
    reach: Reach
    page: int = 1
    pages: int = 1
    reached: int | None = None

    @classmethod
    def of(cls, dataset: str, feed: Feed, slot: int, covers: int, since: int) -> Note:
        """The note of a feed's request."""
        covers = max(covers, slot - (MOST_SLOTS - 1) * feed.interval_s * 1_000)
        return cls(dataset, feed.subject, slot, feed.interval_s, covers, since, feed.reach, pages=feed.pages)

    def on(self, request: Request) -> Request:
        """The request with the note."""
        said = {
            "poll": f"{self.dataset}/{self.subject}",
            "slot": str(self.slot),
            "interval_s": str(self.interval_s),
            "covers": str(self.covers),
            "since": str(self.since),
            "reach": self.reach,
            "page": f"{self.page}/{self.pages}",
            **({"reached": str(self.reached)} if self.reached is not None else {}),
        }
        return replace(request, context={**request.context, **said})

    @classmethod
    def read(cls, request: Request) -> Note | None:
        """The note on a request; None: it is no poll of a feed. MalformedPayload if it cannot be read."""
        poll = request.context.get("poll")
        if poll is None:
            return None
        try:
            dataset, _, subject = poll.partition("/")
            reach = request.context["reach"]
            page, _, pages = request.context["page"].partition("/")
            numbers = [int(request.context[name]) for name in ("slot", "interval_s", "covers", "since")]
            if reach not in ("snapshot", "window", "history") or not subject or numbers[1] < 1:
                raise ValueError(reach)
            slot, interval_s, covers, since = numbers
            reached = request.context.get("reached")
            return cls(
                *(dataset, subject, slot, interval_s, covers, since, reach, int(page), int(pages)),  # type: ignore[arg-type]
                int(reached) if reached is not None else None,
            )
        except (KeyError, ValueError):
            raise MalformedPayload(request.endpoint, "the request's note on its poll cannot be read") from None

    @property
    def step(self) -> int:
        """Length of a slot, ms."""
        return self.interval_s * 1_000

    def ends(self, parsed: Parsed) -> bool:
        """Whether the poll ends with this page: the last one there is, the last one allowed, or back where we were."""
        return parsed.next is None or self.page >= self.pages or self._met(parsed)

    def following(self, parsed: Parsed) -> Note:
        """The note of the page after this one."""
        return replace(self, page=self.page + 1, reached=self._oldest(parsed))

    def _oldest(self, parsed: Parsed) -> int | None:
        """The oldest item of this page and those before it."""
        return min((ms for ms in (parsed.oldest, self.reached) if ms is not None), default=None)

    def _met(self, parsed: Parsed) -> bool:
        oldest = self._oldest(parsed)
        return oldest is not None and oldest <= self.since

    def slots(self, parsed: Parsed | None) -> list[int]:
        """The slots that are covered when this answer is in; none before the last page. ``parsed`` None: unchanged."""
        if parsed is not None and not self.ends(parsed):
            return []
        earlier = range(self.covers + (self.slot - self.covers) % self.step, self.slot, self.step)
        if self.reach == "snapshot":
            return [self.slot]
        if parsed is None or self._met(parsed) or (self.reach == "history" and parsed.next is None):
            return [*earlier, self.slot]
        oldest = self._oldest(parsed)
        if oldest is None:
            # a window without anything in it, or without times, tells of nothing before; pages that were cut off and
            # have no times may lack the newest part
            return [] if self.reach == "history" else [self.slot]
        # a slot is made good if everything is there since the poll before it
        return [*(slot for slot in earlier if oldest <= slot - self.step), self.slot]


def poll_rows(exchange: Exchange, parsed: Parsed | None, fetch_id: int) -> Iterable[dict[str, Any]]:
    """Rows of ``collection_polls`` that the answer stands for, without the columns of its provenance."""
    note = Note.read(exchange.request)
    if note is None:
        return
    number = subject_id(note.dataset, note.subject)
    for slot in note.slots(parsed):
        yield {
            "dataset": note.dataset,
            "subject_id": number,
            "slot": slot,
            "fetch_id": fetch_id,
            "event_version": exchange.fetched_at,
        }

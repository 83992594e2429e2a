"""What streams: the channels of the outbox as clients see them, each with its events, its state and its messages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from sqlalchemy import Connection

from ray_app.collection.news_events import NEWS_CHANNEL
from ray_app.collection.price_events import ALL_FIELDS, CurrentPrices, PriceEvent, TickEvent
from ray_app.collection.store import PRICE_CHANNEL, TICK_CHANNEL
from ray_app.serving.keys import Level
from ray_app.serving.news_stream import MARKETS, LatestNews, NewsEvent
from ray_app.storage import gateway_queries, outbox, queries


class StreamEvent(Protocol):
    """What every event has: its place in the outbox."""

    @property
    def seq(self) -> int:
        """Its number, per channel."""


E = TypeVar("E", bound=StreamEvent)


class State(Protocol[E]):
    """What holds as of one event: what a client that comes is shown first."""

    def apply(self, event: E) -> None:
        """Take an event in."""

    def of(self, assets: Collection[int]) -> Iterable[E]:
        """What it has of these assets."""

    def all(self) -> Iterable[E]:
        """All it has."""


@dataclass(frozen=True, slots=True)
class View:
    """How a client sees a channel: what it chose with ``channels``, and the level of its key."""

    channels: tuple[str, ...]
    level: Level = Level.readonly


class Channel(ABC, Generic[E]):
    """One channel of the outbox."""

    #: of the outbox, and in messages
    name: ClassVar[str]
    #: what a client may name in ``channels``, in order; it gets all where it names none
    choices: ClassVar[tuple[str, ...]]
    #: whether the choice decides which events are sent, not which fields of them
    choice_of_events: ClassVar[bool] = False
    #: what a snapshot calls its list
    listed: ClassVar[str]

    @abstractmethod
    def parse(self, seq: int, body: bytes) -> E:
        """From the body of an outbox event; UnreadableEvent if it is none."""

    @abstractmethod
    def load(self, conn: Connection, seq: int) -> State[E]:
        """The state as of event ``seq``, the newest one in the transaction's snapshot."""

    @abstractmethod
    def assets(self, event: E) -> tuple[int, ...]:
        """The assets it is about; none: it is about no asset in particular."""

    @abstractmethod
    def row(self, event: E, view: View) -> dict[str, Any]:
        """The event as snapshots list it."""

    @abstractmethod
    def text(self, event: E, view: View) -> str:
        """The event's message; the same object for all clients with this view."""

    def chosen(self, event: E, view: View) -> bool:  # noqa: ARG002 - most choices are about fields
        """Whether a client with this view is sent it at all."""
        return True

    def is_repair(self, event: E) -> bool:  # noqa: ARG002 - most tell of the present
        """Whether it tells of what was missed and filled afterwards."""
        return False


class Prices(Channel[PriceEvent]):
    """Every price that the node takes in; the state is the current price of every asset."""

    name = PRICE_CHANNEL
    choices = ALL_FIELDS
    listed = "prices"

    def parse(self, seq: int, body: bytes) -> PriceEvent:
        """See the class."""
        return PriceEvent.parse(seq, body)

    def load(self, conn: Connection, seq: int) -> CurrentPrices:  # noqa: ARG002 - as of the snapshot
        """See the class."""
        return CurrentPrices(PriceEvent.of(row) for row in queries.current_prices(conn))

    def assets(self, event: PriceEvent) -> tuple[int, ...]:
        """Its one asset."""
        return (event.asset_id,)

    def row(self, event: PriceEvent, view: View) -> dict[str, Any]:
        """The fields chosen."""
        return event.row(view.channels)

    def text(self, event: PriceEvent, view: View) -> str:
        """The fields chosen."""
        return event.text(view.channels)

    def is_repair(self, event: PriceEvent) -> bool:
        """By its source."""
        return event.is_repair


class Ticks(Prices):
    """Live ticks of one venue."""

    name = TICK_CHANNEL

    def parse(self, seq: int, body: bytes) -> PriceEvent:
        """See the class."""
        return TickEvent.parse(seq, body)

    def load(self, conn: Connection, seq: int) -> CurrentPrices:  # noqa: ARG002 - as of the snapshot
        """The current tick of every product."""
        return CurrentPrices(TickEvent.of(row) for row in gateway_queries.current_ticks(conn))


class News(Channel[NewsEvent]):
    """Articles as the node first sees them; the state is the newest of them."""

    name = NEWS_CHANNEL
    choices = MARKETS
    choice_of_events = True
    listed = "articles"

    def parse(self, seq: int, body: bytes) -> NewsEvent:
        """See the class."""
        return NewsEvent.parse(seq, body)

    def load(self, conn: Connection, seq: int) -> LatestNews:
        """From the outbox itself: it keeps them for a day."""
        return LatestNews.read(outbox.read(conn, self.name, max(seq - LatestNews.KEPT, 0), LatestNews.KEPT))

    def assets(self, event: NewsEvent) -> tuple[int, ...]:
        """Those it mentions."""
        return event.assets

    def row(self, event: NewsEvent, view: View) -> dict[str, Any]:
        """Without its texts where terms withhold them from the key."""
        return event.row(view.level)

    def text(self, event: NewsEvent, view: View) -> str:
        """As :meth:`row`."""
        return event.text(view.level)

    def chosen(self, event: NewsEvent, view: View) -> bool:
        """By its market."""
        return event.market in view.channels


PRICES, TICKS, NEWS = Prices(), Ticks(), News()
CHANNELS: tuple[Channel[Any], ...] = (PRICES, TICKS, NEWS)

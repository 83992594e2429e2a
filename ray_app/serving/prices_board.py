"""Current prices in memory, encoded once per change.

The board reads the newest slot of every asset from the database and then follows the outbox. What it shows is what the
database's current view shows: per asset the newest slot, of that slot the best source, of that source the highest
write in order. Applying an event twice, or one that the snapshot already holds, changes nothing.

Beside that it holds the newest live tick of each asset (one venue's price, no market cap). The newer of both is the
current price; ``source``, ``timestamp`` and ``as_of`` are of that one, and what a tick does not know stays of the
observation, which ``market`` then names.

Where several sources report the *same* slot, or a tick besides, ``venues`` lists them all and ``consensus_price`` is
the median of those that are fresh and not outlying; otherwise both are null: one price is not a consensus.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, Protocol

import orjson

from ray_app.assets import Asset, AssetRegistry
from ray_app.clock import iso
from ray_app.collection.event_bus import Event
from ray_app.collection.store import PRICE_CHANNEL, TICK_CHANNEL
from ray_app.serving.open_bars import OpenBars
from ray_app.storage.queries import SOURCE_PRIORITY, TICKS

logger = logging.getLogger(__name__)

#: ms: a venue whose price is this much older than the newest of them is stale, and a tick so much older is not shown
STALE_MS, TICK_SHOWN_MS = 300_000, 3_600_000
#: of three or more fresh prices, one this far (ratio) from their median is outlying; two cannot tell which is wrong
OUTLYING = 0.05
#: spellings of symbols that are remembered; more than all tickers, ids and cases in use
_MAX_VIEWS = 8_192
#: pages of the whole list that are kept encoded (and compressed) until a price changes
_MAX_PAGES = 32

#: how good a price of each source is
QUALITY = {
    "coingecko.markets": "observed",
    "coinbase.candles": "reconstructed",
    "coingecko.market_chart": "reconstructed",
    "coinbase.exchange_rates": "fallback",
    "coinbase.ticker": "live",
}

#: field of the answer → column of price_data_real
FIELDS = {
    "current_price": "current_price",
    "price_change_24h": "price_change_24h",
    "price_change_percentage_24h": "price_change_percentage_24h",
    "market_cap": "market_cap",
    "market_cap_rank": "market_cap_rank",
    "volume_24h": "volume_usd_24h",
    "high_24h": "high_24h",
    "low_24h": "low_24h",
    "open_24h": "open_24h",
}

Row = Mapping[str, Any]


class RegistryProvider(Protocol):
    """Whoever knows the asset registry in force; a changed registry is another object."""

    @property
    def current(self) -> AssetRegistry:
        """The registry as last read."""

    @property
    def as_of(self) -> int | None:
        """When an asset of it was last changed, ms of node time; None: it is the packaged one."""


class Entry:
    """What is sent for one asset: ``body`` and its strong ``etag``; ``as_of`` in ms of node time."""

    __slots__ = ("as_of", "body", "etag", "headers", "quality", "source")

    def __init__(self, body: bytes, as_of: int, source: str, quality: str) -> None:
        self.source = source
        self.quality = quality
        self.body = body
        self.as_of = as_of
        self.etag = etag_of(body)
        self.headers: tuple[tuple[bytes, bytes], ...] = (
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"etag", self.etag),
            (b"cache-control", b"private, no-cache"),
        )


class _State:
    """An asset's newest observed slot (-1: none), one row per source that has it, and its newest tick.

    Never changed, only replaced.
    """

    __slots__ = ("entry", "rows", "slot", "tick")

    def __init__(self, slot: int, rows: dict[str, Row], tick: Row | None = None) -> None:
        self.slot = slot
        self.rows = rows
        self.tick = tick
        self.entry: Entry | None = None


class View:
    """One asset as somebody asked for it (``note``: what was assumed to find it)."""

    __slots__ = ("_board", "_entry", "_state", "asset", "note")

    def __init__(self, board: PriceBoard, asset: Asset, note: str | None) -> None:
        self._board = board
        self._state: _State | None = None
        self._entry: Entry | None = None
        self.asset = asset
        self.note = note

    def entry(self) -> Entry | None:
        """The asset's current price, encoded; None: it has none."""
        state = self._board.state(self.asset.asset_id)
        if state is None:
            return None
        if state is not self._state:
            self._entry = self._board.encode(self.asset, state, self.note)
            self._state = state
        return self._entry


class PriceBoard:
    """The current price of every asset. Not for several threads: loading and applying happen in the event loop."""

    def __init__(self, registry: RegistryProvider) -> None:
        self._registry = registry
        self._known: AssetRegistry | None = None
        self._states: dict[int, _State] = {}
        self._views: dict[str, View] = {}
        self._ranked: tuple[Asset, ...] = ()
        self._pages: dict[Any, Any] = {}
        self._pages_version = -1
        self.open_bars = OpenBars()
        self.loaded = False
        self.version = 0  # rises with every visible change
        self.position = 0  # the last outbox event seen

    # --- reading ---

    def view(self, typed: str) -> View:
        """The asset called ``typed`` (ticker or coin id, any case); raises UnknownSymbol with near matches."""
        registry = self._look_at_registry()
        view = self._views.get(typed)
        if view is None:
            resolution = registry.resolve(typed)
            if len(self._views) >= _MAX_VIEWS:
                self._views.clear()
            view = self._views[typed] = View(self, resolution.asset, resolution.note)
        return view

    def seen(self, typed: str) -> View | None:
        """The view of a symbol that has been asked for before under the registry in force; never resolves anything."""
        return self._views.get(typed) if self._registry.current is self._known else None

    def state(self, asset_id: int) -> _State | None:
        """The newest slot of an asset."""
        return self._states.get(asset_id)

    def ranked(self) -> tuple[Asset, ...]:
        """The assets alive now, highest market cap first."""
        self._look_at_registry()
        return self._ranked

    def pages(self) -> dict[Any, Any]:
        """A place for what was made of the whole board; empty again after every visible change."""
        self._look_at_registry()
        if self._pages_version != self.version or len(self._pages) > _MAX_PAGES:
            self._pages, self._pages_version = {}, self.version
        return self._pages

    def _look_at_registry(self) -> AssetRegistry:
        registry = self._registry.current
        if registry is not self._known:
            self._known = registry
            self._ranked = registry.active()
            self._views.clear()
            for state in self._states.values():
                state.entry = None  # a name or a ticker may have changed
            self.version += 1
        return registry

    def entry(self, asset: Asset) -> Entry | None:
        """An asset's current price, encoded; None: it has none."""
        state = self._states.get(asset.asset_id)
        return self.encode(asset, state, None) if state is not None else None

    def encode(self, asset: Asset, state: _State, note: str | None) -> Entry:
        """``state`` as it is sent; the form without a note is kept."""
        if note is not None:
            return _encode(asset, state, note)
        if state.entry is None:
            state.entry = _encode(asset, state, None)
        return state.entry

    # --- writing ---

    def merge(self, rows: Iterable[Row]) -> int:
        """Take in rows of price_data_real read at any time; the number that changed what is shown."""
        changed = sum(_merge(self._states, row) for row in rows)
        self.version += bool(changed)
        return changed

    def load(self, rows: Iterable[Row], position: int) -> None:
        """Take over a snapshot (rows of price_data_real) that holds everything up to event ``position``."""
        states: dict[int, _State] = {}
        for row in rows:
            _merge(states, row)
        for asset_id, state in states.items():
            held = self._states.get(asset_id)
            if held is None:
                continue
            if held.tick is not None and (state.tick is None or _order(held.tick) > _order(state.tick)):
                state.tick = held.tick  # heard of while the snapshot was read
            if held.slot == state.slot and held.rows == state.rows and held.tick == state.tick:
                states[asset_id] = held
        self._states = states
        self.position = position
        self.loaded = True
        self.version += 1

    def apply(self, events: Sequence[Event], channel: str = PRICE_CHANNEL) -> int:
        """Take in outbox events of a channel, ascending; the number that changed what is shown."""
        changed = 0
        for seq, body in events:
            try:
                row = orjson.loads(body)
                changed += _merge(self._states, row)
                if channel == TICK_CHANNEL:
                    self.open_bars.add(row["asset_id"], row["current_price"], row["event_time"])
            except (ValueError, KeyError, TypeError) as error:
                logger.error("outbox event %d of channel %s is not a price: %r", seq, channel, error)  # noqa: TRY400
            if channel == PRICE_CHANNEL:
                self.position = seq
        if changed:
            self.version += 1
        return changed


def rows_as_entry(asset: Asset, rows: Iterable[Row], note: str | None) -> Entry | None:
    """The answer for one asset from rows read just now: what a board would show. None without rows."""
    states: dict[int, _State] = {}
    for row in rows:
        _merge(states, row)
    state = states.get(asset.asset_id)
    return _encode(asset, state, note) if state is not None else None


def etag_of(body: bytes) -> bytes:
    """A strong entity tag for these bytes."""
    return b'"%s"' % hashlib.blake2b(body, digest_size=10).hexdigest().encode()


def _order(row: Row) -> tuple[int, int]:
    version = row.get("event_version")
    return (row["event_time"] if version is None else version, row["known_at"])


def _merge(states: dict[int, _State], row: Row) -> bool:
    """Put ``row`` where it belongs; whether that changed anything."""
    asset_id, slot, source = row["asset_id"], row["slot"], row["source"]
    order = _order(row)
    state = states.get(asset_id)
    if source == TICKS:
        return _merge_tick(states, asset_id, state, row)
    if state is None or slot > state.slot:
        states[asset_id] = _State(slot, {source: row}, state.tick if state is not None else None)
        return True
    if slot < state.slot:
        return False
    held = state.rows.get(source)
    if held is not None and (_order(held) > order or _shown(held) == _shown(row)):
        return False
    states[asset_id] = _State(slot, {**state.rows, source: row}, state.tick)
    return True


def _merge_tick(states: dict[int, _State], asset_id: int, state: _State | None, row: Row) -> bool:
    if state is None:
        states[asset_id] = _State(-1, {}, row)
        return True
    held = state.tick
    if held is not None and (_order(held) > _order(row) or _shown(held) == _shown(row)):
        return False
    states[asset_id] = _State(state.slot, state.rows, row)
    return True


def _shown(row: Row) -> list[Any]:
    return [row["event_time"], row["known_at"], *(row.get(column) for column in FIELDS.values())]


def _priority(source: str) -> tuple[int, str]:
    known = SOURCE_PRIORITY.index(source) if source in SOURCE_PRIORITY else len(SOURCE_PRIORITY)
    return (known, source)


def _encode(asset: Asset, state: _State, note: str | None) -> Entry:
    """The newer of observation and tick is the price; what a tick does not know is of the observation.

    ``market`` then says whose that is and of when; it is left out where there is no such difference.
    """
    rows = {source: state.rows[source] for source in sorted(state.rows, key=_priority)}
    observed = next(iter(rows.values()), None)
    tick = state.tick
    if tick is not None and (observed is None or tick["event_time"] > observed["event_time"] - TICK_SHOWN_MS):
        rows[TICKS] = tick
    newest = tick if tick is not None and (observed is None or tick["event_time"] > observed["event_time"]) else None
    shown, details = newest or observed, observed or tick
    assert shown is not None  # noqa: S101 - a state has an observation or a tick
    assert details is not None  # noqa: S101
    source = str(shown["source"])
    venues, consensus = _venues(list(rows.values())) if len(rows) > 1 else (None, None)
    body: dict[str, Any] = {
        "symbol": asset.symbol,
        "coin_id": asset.coin_id,
        "name": asset.name,
        **{field: details.get(column) for field, column in FIELDS.items()},
        "current_price": shown["current_price"],
        "consensus_price": consensus,
        "venues": venues,
        "timestamp": iso(shown["event_time"]),
        "as_of": iso(shown["known_at"]),
        "source": source,
        "quality": QUALITY.get(source, "observed"),
    }
    if details is not shown:
        body["market"] = {"source": details["source"], "timestamp": iso(details["event_time"])}
    if note is not None:
        body["note"] = note
    return Entry(orjson.dumps(body), shown["known_at"], source, body["quality"])


def _venues(rows: Sequence[Row]) -> tuple[list[dict[str, Any]], float]:
    """What each source says, best first, and the median of those that are fresh and not outlying."""
    newest = max(row["event_time"] for row in rows)
    fresh = [row["current_price"] for row in rows if newest - row["event_time"] <= STALE_MS]
    middle = median(fresh)
    venues, counted = [], []
    for row in rows:
        price, flag = row["current_price"], None
        if newest - row["event_time"] > STALE_MS:
            flag = "stale"
        elif len(fresh) > 2 and abs(price - middle) > OUTLYING * middle:
            flag = "outlying"
        else:
            counted.append(price)
        venue = {"source": row["source"], "price": price, "timestamp": iso(row["event_time"])}
        venues.append(venue | ({"flag": flag} if flag is not None else {}))
    return venues, median(counted or fresh)

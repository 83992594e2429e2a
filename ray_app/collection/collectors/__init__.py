"""The collectors by name. Each decides what to ask and when; the runner decides whether it may."""

from __future__ import annotations

from ray_app.collection.collectors.base import Collector, PollResult
from ray_app.collection.collectors.candles import CandleCollector
from ray_app.collection.collectors.everything import FEED_COLLECTORS
from ray_app.collection.collectors.prices import PriceCollector
from ray_app.collection.collectors.registry import RegistryCollector
from ray_app.collection.collectors.ticks import TickCollector
from ray_app.errors import ConfigError

#: every collector by name, in the order they are shown
_KINDS: tuple[type[Collector], ...] = (
    *(PriceCollector, CandleCollector, RegistryCollector, TickCollector),
    *FEED_COLLECTORS,
)
COLLECTORS: dict[str, type[Collector]] = {kind.name: kind for kind in _KINDS}


def collector(name: str) -> type[Collector]:
    """The collector called ``name``; ConfigError if there is none."""
    try:
        return COLLECTORS[name]
    except KeyError:
        raise ConfigError(f"no collector is called {name!r}; there are {', '.join(COLLECTORS)}") from None


__all__ = ["COLLECTORS", "Collector", "PollResult", "collector"]

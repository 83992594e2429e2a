"""How the gateway asks the components the database knows nothing of: the bus through its own feed, the streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_app.health.evidence import Probe
from ray_app.serving.feed import OutboxFeed


def bus_probe(feed: OutboxFeed | None) -> Probe:
    """The event bus as a reader sees it. Without it nothing is lost; news is up to a second late."""
    if feed is None:
        return Probe("degraded", "its reader has not started yet")
    details = {"position": feed.position}
    match feed.hotline_state:
        case "off":
            return Probe("off", "no event bus: the outbox is polled", details=details)
        case "failing":
            return Probe("dead", "it does not answer; the outbox is polled instead", details=details)
    if feed.table_failing:
        return Probe("degraded", "the outbox cannot be read", details=details)
    return Probe("ok", details=details)


def redis_probe(bridge: Mapping[str, Any] | None) -> Probe:
    """The Redis bridge as the event bus reports it. None: the bus runs without one."""
    if bridge is None:
        return Probe("off", "no Redis is configured (REDIS_URL)")
    if bridge["state"] == "failing":
        return Probe("dead", "it takes no price updates; they are tried again", details=bridge)
    return Probe("ok", details=bridge)


def streams_probe(status: Mapping[str, Any]) -> Probe:
    """The streams' own status (``status_document``) as a finding."""
    if not status["ready"]:
        return Probe("degraded", "they have no prices to show yet", details=status)
    if not status["reading"]:
        return Probe("dead", "they do not follow the prices", details=status)
    if status["open"] >= status["max_open"]:
        return Probe("degraded", f"all {status['max_open']} streams are taken", details=status)
    return Probe("ok", details=status)

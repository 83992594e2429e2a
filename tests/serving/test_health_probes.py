"""What the gateway says of the bus and the streams."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ray_app.collection.event_bus import EventRing
from ray_app.serving.feed import OutboxFeed
from ray_app.serving.health_probes import bus_probe, streams_probe
from ray_app.serving.streams import StreamsStatus, status_document
from ray_app.storage.engine import Database


def status(**values: Any) -> dict[str, Any]:
    perfect = {
        "ready": True,
        "reading": True,
        "hotline": "ok",
        "seq": 7,
        "open": 1,
        "max_open": 10,
        "accepted": 1,
        "refused": 0,
        "slow": 0,
        "unreadable_events": 0,
    }
    return status_document(StreamsStatus(**perfect | values))


@pytest.mark.parametrize(
    ("values", "state"),
    [({}, "ok"), ({"ready": False}, "degraded"), ({"reading": False}, "dead"), ({"open": 10}, "degraded")],
)
def test_streams_are_judged_by_their_own_status(values: dict[str, Any], state: str) -> None:
    assert streams_probe(status(**values)).state == state


def test_the_bus_is_judged_by_its_reader(sqlite_db: Database) -> None:
    assert bus_probe(None).state == "degraded"
    assert bus_probe(OutboxFeed(sqlite_db, "prices")).state == "off"
    feed = OutboxFeed(sqlite_db, "prices", EventRing(), after_seq=3)
    assert (bus_probe(feed).state, bus_probe(feed).details) == ("ok", {"position": 3})


async def test_a_bus_that_fails_is_dead(sqlite_db: Database) -> None:
    class Dead:
        async def wait(self, channel: str, after_seq: int, timeout_s: float) -> list[tuple[int, bytes]]:
            raise ConnectionResetError

    feed = OutboxFeed(sqlite_db, "prices", Dead(), after_seq=0, poll_s=0.01, quiet_s=0.01)
    pending = asyncio.create_task(anext(feed))
    while feed.hotline_state != "failing":
        await asyncio.sleep(0.001)
    assert bus_probe(feed).state == "dead"
    pending.cancel()
    await asyncio.gather(pending, return_exceptions=True)
    await feed.aclose()

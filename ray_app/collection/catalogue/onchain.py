"""Stub until merged."""

from __future__ import annotations

from ray_app.assets import AssetRegistry
from ray_app.collection.feeds import Feed
from ray_app.settings import Settings


def onchain_feeds(settings: Settings, registry: AssetRegistry) -> list[Feed]:  # noqa: ARG001
    """None yet."""
    return []


def fear_greed_feeds(settings: Settings, registry: AssetRegistry) -> list[Feed]:  # noqa: ARG001
    """None yet."""
    return []

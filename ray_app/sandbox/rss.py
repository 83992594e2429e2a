"""rss, simulated."""

from __future__ import annotations

from typing import Final

from ray_app.sandbox.answers import SimulatedEndpoint

ENDPOINTS: Final[tuple[SimulatedEndpoint, ...]] = ()

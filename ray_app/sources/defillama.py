"""DeFiLlama."""

from __future__ import annotations

from typing import Final

from ray_app.sources.base import Endpoint

ENDPOINTS: Final[tuple[Endpoint, ...]] = ()

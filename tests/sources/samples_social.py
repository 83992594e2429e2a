"""Good answers of the sources of social posts, written by hand after the documented formats (see samples.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray_app.sources import Request

BODIES: Mapping[str, Any] = {}
REQUESTS: Mapping[str, Callable[[], Request]] = {}

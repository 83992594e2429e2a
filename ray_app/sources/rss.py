"""RSS and Atom feeds."""

from __future__ import annotations

from typing import Final

from ray_app.sources.base import Endpoint

#: whole address by path, e.g. "/coindesk"
URLS: Final[dict[str, str]] = {}

ENDPOINTS: Final[tuple[Endpoint, ...]] = ()

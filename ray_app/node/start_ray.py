"""``ray start`` with more patience, and less beside it: ``python -m ray_app.node.start_ray start --head …``.

Ray gives a new raylet 30 seconds to register, a number no setting changes (ray/_private/node.py), and then gives
up. On a machine that does something else meanwhile its Python agents take longer to come up. And it starts a server for
Ray Client (``ray://``), which nothing here speaks and no option turns off: 45 MB and a second of a processor.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 150.0
LOOK_EVERY_S = 0.2


def patient(look: Callable[..., Any], patience_s: float = PATIENCE_S) -> Callable[..., Any]:
    """``look`` that is repeated while it raises RuntimeError (Ray's "not registered yet"), for ``patience_s``."""

    def looking(*arguments: Any, **options: Any) -> Any:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return look(*arguments, **options)
            except RuntimeError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(LOOK_EVERY_S)

    return looking


def main() -> None:
    """Ray's command line."""
    from ray._private import node, services
    from ray.scripts.scripts import main as ray_main

    services.get_node = patient(services.get_node)
    node.Node.start_ray_client_server = lambda _self: None
    ray_main()


if __name__ == "__main__":
    main()

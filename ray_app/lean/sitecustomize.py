"""In every process of a node: pandas is loaded when it is used, not when it is named.

Ray Serve names it in each of its processes (ray/serve/_private/utils.py), which costs each 40 MB and most of a second;
Ray Data, which does use it, comes later and only into jobs. Python runs this file at its start where its folder is on
PYTHONPATH: ray_app/node/head.py and kuberay/Dockerfile put it there.
"""

from __future__ import annotations

import importlib.util
import sys


def _when_used(name: str) -> None:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return
    spec.loader = loader = importlib.util.LazyLoader(spec.loader)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    loader.exec_module(module)


_when_used("pandas")

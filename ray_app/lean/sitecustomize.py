"""In every process of a node: Ray Serve does without pandas, which it would load into each of its processes.

It asks for it in ray/serve/_private/utils.py, in case a deployment answers HTTP with a data frame (none of ours does),
and goes on where there is none; that saves each process 40 MB and most of a second. Whoever else asks, Ray Data in the
first place, gets it. Python runs this file at its start where its folder is on PYTHONPATH: ray_app/node/head.py and
kuberay/Dockerfile put it there.
"""

from __future__ import annotations

import sys


class _NoPandasForServe:
    """A finder of modules that finds none."""

    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> None:
        if name == "pandas" and _who_imports() == "ray.serve._private.utils":
            raise ModuleNotFoundError("pandas is not for Ray Serve (ray_app/lean/sitecustomize.py)", name=name)


def _who_imports() -> str | None:
    frame = sys._getframe(2)  # noqa: SLF001 - no other way to know who imports
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("importlib"):
        frame = frame.f_back
    return frame.f_globals.get("__name__")


sys.meta_path.insert(0, _NoPandasForServe)

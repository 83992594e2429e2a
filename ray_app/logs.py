"""Structured logs: one JSON object per line on stderr, which Ray keeps per process in its session directory."""

from __future__ import annotations

import logging
import sys

from pythonjsonlogger.json import JsonFormatter


def configure(level: str) -> None:
    """Send this package's log records to stderr as JSON. Records of libraries stay as they are. Repeatable."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(
            "{asctime}{levelname}{name}{message}",
            style="{",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        )
    )
    ours = logging.getLogger("ray_app")
    ours.handlers = [handler]
    ours.setLevel(level)
    ours.propagate = False

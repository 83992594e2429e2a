"""Ray job: score the texts that have no score, and aggregate. Arguments as of ``crypto-data score``."""

from __future__ import annotations

import sys

from ray_app.cli import main

if __name__ == "__main__":
    main(["score", *sys.argv[1:]])

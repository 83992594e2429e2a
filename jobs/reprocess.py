"""Ray job: rebuild tables from the raw archive. Arguments as of ``crypto-data reprocess``."""

from __future__ import annotations

import sys

from ray_app.cli import main

if __name__ == "__main__":
    main(["reprocess", *sys.argv[1:]])

"""Ray job: fill what is owed, newest first, within the upstream budgets. Arguments as of ``crypto-data backfill``."""

from __future__ import annotations

import sys

from ray_app.cli import main

if __name__ == "__main__":
    main(["backfill", *sys.argv[1:]])

"""What a node needs before its processes start: files that can be read, its market and its time, schema, assets, keys.

A program of its own, so that the launcher, which stays as long as the node runs, never loads a database driver.

``python -m ray_app.node.prepare [--replay FILE] [--faults FILE] [--time-scale N]`` reads the settings from the
environment and prints one JSON object (:class:`Prepared`) on stdout, or one clear line on stderr and exit status 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy import Connection

from ray_app.assets import AssetRegistry
from ray_app.clock import WallClock, open_clock
from ray_app.errors import CryptoDataError, NodeError
from ray_app.node.origin import begin_epoch, check_market, claim_market
from ray_app.sandbox.faults import load_faults
from ray_app.serving.keys import ensure_local_keys, seed_keys
from ray_app.settings import Settings, load_settings
from ray_app.storage import migrate, registry
from ray_app.storage.engine import Database

#: how many of the first assets the launcher may ask prices of
PROBES = 5


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was found and made. ``new_keys`` (level → key) is empty except on the very first start."""

    revision: str
    where: str
    assets: int
    probes: list[str]
    new_keys: dict[str, str]


def prepare(
    settings: Settings, *, replay: Path | None = None, faults: Path | None = None, time_scale: float = 1.0
) -> Prepared:
    """Look at everything given, then bring directory and database up to date; idempotent.

    CryptoDataError says what is wrong; nothing has been written about the market where a file or the database is.
    """
    symbols = _symbols(replay) if replay is not None else None
    if faults is not None:
        load_faults(faults, first_node_ms=0)
    if settings.epoch_file is not None:
        check_market(settings.state_dir, replay)
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    db = Database(settings.resolved_database_url, pool_size=2)
    try:
        revision = migrate.upgrade(db)
        if drift := migrate.check(db):
            raise NodeError(f"the database at {db.where} is not what this version expects: {'; '.join(drift)}")
        if settings.epoch_file is not None:
            claim_market(settings.state_dir, replay)
            begin_epoch(settings.epoch_file, WallClock().now_ms(), time_scale)
        clock = open_clock(settings.epoch_file)
        assets = db.run(lambda conn: _seed(conn, symbols, clock.now_ms()))
        seed_keys(db, settings, clock)
        made = ensure_local_keys(db, settings.keys_file, clock)
    finally:
        db.dispose()
    active = assets.active(clock.now_ms())
    return Prepared(
        revision,
        db.where,
        len(active),
        [asset.symbol for asset in active[:PROBES]],
        {key.level.name: key.secret for key in made},
    )


def _seed(conn: Connection, symbols: Sequence[str] | None, now_ms: int) -> AssetRegistry:
    """The registry of the database; the packaged one (or that of a replay's ``symbols``) where it has none yet."""
    known = registry.load(conn)
    if known.active(now_ms):
        return known
    assets = AssetRegistry.seed() if symbols is None else AssetRegistry.for_replay(symbols)
    registry.save(conn, assets, now_ms)
    return assets


def _symbols(replay: Path) -> tuple[str, ...]:
    from ray_app.sandbox.replay import ReplayFile  # Polars: only where there is a file to read

    return ReplayFile(replay).symbols


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replay", type=Path)
    parser.add_argument("--faults", type=Path)
    parser.add_argument("--time-scale", type=float, default=1.0)
    given = vars(parser.parse_args())
    try:
        prepared = prepare(load_settings(), **given)
    except CryptoDataError as error:
        print(" ".join(str(error).split()), file=sys.stderr)  # noqa: T201 - one line, whatever a driver says
        sys.exit(1)
    print(json.dumps(asdict(prepared)))  # noqa: T201


if __name__ == "__main__":
    main()

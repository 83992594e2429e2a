"""What a node needs before its processes start: schema, assets, keys.

A program of its own, so that the launcher, which stays as long as the node runs, never loads a database driver.

``python -m ray_app.node.prepare [REPLAY_FILE]`` reads the settings from the environment and prints one JSON object
(:class:`Prepared`) on stdout, or one clear line on stderr and exit status 1.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy import Connection

from ray_app.assets import AssetRegistry
from ray_app.clock import open_clock
from ray_app.errors import CryptoDataError, NodeError
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


def prepare(settings: Settings, replay: Path | None) -> Prepared:
    """Bring the database up to date; idempotent."""
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    clock = open_clock(settings.epoch_file)
    db = Database(settings.resolved_database_url, pool_size=2)
    try:
        revision = migrate.upgrade(db)
        if drift := migrate.check(db):
            raise NodeError(f"the database at {db.where} is not what this version expects: {'; '.join(drift)}")
        assets = db.run(lambda conn: _seed(conn, replay, clock.now_ms()))
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


def _seed(conn: Connection, replay: Path | None, now_ms: int) -> AssetRegistry:
    """The registry of the database; the packaged one (or the replayed file's) where it has none yet."""
    known = registry.load(conn)
    if known.active(now_ms):
        return known
    assets = AssetRegistry.seed() if replay is None else AssetRegistry.for_replay(_symbols(replay))
    registry.save(conn, assets, now_ms)
    return assets


def _symbols(replay: Path) -> tuple[str, ...]:
    from ray_app.sandbox.replay import ReplayFile  # Polars: only where there is a file to read

    return ReplayFile(replay).symbols


def main() -> None:
    """Entry point."""
    replay = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    try:
        prepared = prepare(load_settings(), replay)
    except CryptoDataError as error:
        print(error, file=sys.stderr)  # noqa: T201
        sys.exit(1)
    print(json.dumps(asdict(prepared)))  # noqa: T201


if __name__ == "__main__":
    main()

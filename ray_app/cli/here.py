"""The settings of the node in the data directory, as that node was started: commands beside it mean the same node.

What ``crypto-data up`` was told on its command line (origin, ports, database) the environment of another shell does
not say. The node's record does, and this is where it is asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray_app.errors import NodeError
from ray_app.node import record
from ray_app.node.origin import sandbox_variables
from ray_app.node.record import NodeRecord
from ray_app.settings import Settings, load_settings


def node_settings(data_dir: Path | None = None) -> Settings:
    """The settings a command works with; ``data_dir`` beats DATA_DIR.

    Where no node runs and DATA_ORIGIN is not set, the origin is the one whose data are there. NodeError where the
    running node's database cannot be told from here.
    """
    settings, node = beside(data_dir)
    return settings if node is None or settings.origin != node.origin else with_its_database(settings, node)


def beside(data_dir: Path | None = None) -> tuple[Settings, NodeRecord | None]:
    """The settings but for the database, and the node that runs in the data directory, if any."""
    settings = load_settings()
    if data_dir is not None:
        settings = settings.model_copy(update={"data_dir": data_dir})
    node = record.load(settings.data_dir)
    if node is None or not node.launcher.alive:
        if "origin" not in settings.model_fields_set and _only_sandbox(settings.data_dir):
            settings = settings.model_copy(update={"origin": "sandbox"})
        return settings, None
    if settings.origin != node.origin:
        if "origin" in settings.model_fields_set:
            return settings, node  # the other origin's data, asked for by name
        settings = settings.model_copy(update={"origin": node.origin})
    return _with_its_upstreams(settings, node), node


def _only_sandbox(data_dir: Path) -> bool:
    return (data_dir / "sandbox").is_dir() and not (data_dir / "live").is_dir()


def _with_its_upstreams(settings: Settings, node: NodeRecord) -> Settings:
    """The node's own sandbox; never a live upstream, and never a key, beside simulated data."""
    if node.sandbox_port is None:
        return settings
    said = {name.lower(): value for name, value in sandbox_variables(node.sandbox_port).items() if value}
    wanted = load_settings(**said)
    update: dict[str, Any] = {
        name: getattr(wanted, name)
        for name in said
        # an address of one's own stands; a key of one's own is nobody's business here
        if name not in settings.model_fields_set or not name.endswith("_url")
    }
    return settings.model_copy(update={**update, "coingecko_api_key": None, "upstream_urls": {}})


def with_its_database(settings: Settings, node: NodeRecord) -> Settings:
    """The database the node uses: the one the environment names, else its own SQLite file; else NodeError."""
    from ray_app.storage.engine import Database  # slow to import, and commands that fail before do without

    own = settings.model_copy(update={"database_url": None, "mysql_host": None})
    for candidate in (settings, own):
        db = Database(candidate.resolved_database_url, pool_size=1)
        db.dispose()
        if db.where == node.database:
            return candidate
    raise NodeError(
        f"the node on {settings.data_dir} uses {node.database}, which this shell's settings do not name; "
        "set DATABASE_URL (or MYSQL_*) as it was for crypto-data up"
    )

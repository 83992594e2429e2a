"""``crypto-data up``: the whole node with one command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option(
    "--upstream",
    type=click.Choice(["auto", "live", "sandbox"]),
    default="auto",
    show_default=True,
    help="Where data comes from. auto: live upstreams if they answer, else the sandbox with a database of its own.",
)
@click.option("--replay", type=FILE, help="The sandbox plays the market of this OHLCV Parquet file.")
@click.option("--replay-text", type=FILE, help="The sandbox's news and posts are the texts of this CSV file.")
@click.option(
    "--replay-macro",
    type=click.Path(path_type=Path, file_okay=False),
    help="The sandbox's macro series are those of the CSV files in this folder.",
)
@click.option("--faults", type=FILE, help="The sandbox misbehaves as this YAML file says.")
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Where the node keeps its files.")
@click.option("--database-url", help="SQLAlchemy URL; default: SQLite in the data directory.")
@click.option("--redis-url", help="Publish to this Redis as well.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the API listens.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="The API's port.")
@click.option(
    "--dashboard-port",
    type=click.IntRange(1, 65535),
    default=8265,
    show_default=True,
    help="The Ray dashboard's port (127.0.0.1 only).",
)
@click.option("--time-scale", type=float, default=1.0, show_default=True, help="Node time per wall time; sandbox only.")
def command(**options: Any) -> int:
    """Start the node and stay until Ctrl-C.

    A line "READY URL" on stdout says that prices are served.
    """
    from ray_app.node.launcher import Launcher
    from ray_app.node.plan import Options

    return Launcher(Options(**options)).run()

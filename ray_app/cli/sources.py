"""``crypto-data sources``: the names of the upstream endpoints the node reads."""

from __future__ import annotations

import click

from ray_app.sources import ENDPOINTS


@click.command()
def command() -> None:
    """Print the names of all sources, one per line."""
    for name in ENDPOINTS:
        click.echo(name)

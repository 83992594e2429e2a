"""``crypto-data status``: how the node of a data directory fares, on one screen."""

from __future__ import annotations

import json
from pathlib import Path

import click

#: exit status by state; a supervisor or a script reads it
EXIT_STATUS: dict[str, int] = {
    "healthy": 0,
    "not running": 3,
    "not ready": 4,
    "starting": 4,
    "degraded": 5,
    "critical": 5,
}


@click.command("status")
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Whose node; default: DATA_DIR.")
@click.option("--json", "as_json", is_flag=True, help="Everything seen, as one JSON object.")
def command(data_dir: Path | None, *, as_json: bool) -> None:
    """Show the node of the data directory: what runs where, how healthy it is and why, what is owed.

    Exit status: 0 ready and healthy, 3 no node runs there, 4 not ready or still starting, 5 degraded or critical.
    """
    from ray_app.cli.here import beside, with_its_database
    from ray_app.errors import NodeError
    from ray_app.node.status import look
    from ray_app.node.status_screen import render

    settings, node = beside(data_dir)
    problem = None
    if node is not None:
        try:
            settings = with_its_database(settings, node)
        except NodeError as error:
            problem = str(error)
    status = look(settings, node, problem)
    if as_json:
        click.echo(json.dumps(status.as_json(), indent=2))
    else:
        click.echo("\n".join(render(status)))
    raise click.exceptions.Exit(EXIT_STATUS[status.state])

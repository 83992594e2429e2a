"""``crypto-data reprocess``: rebuild the tables from the archive."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import click

from ray_app.cli.verdict import verdict

if TYPE_CHECKING:
    from ray_app.collection.reprocess import Rebuilt


@click.command("reprocess")
@click.option("--into", metavar="URL", help="Rebuild into another, empty database and compare it with the node's.")
def command(into: str | None) -> None:
    """Parse the whole archive again.

    Without options: into the node's own database, where a newer parser's rows win over older ones; a running node
    may go on. With --into: into another database, from nothing. Ends with status 1 if anything differs.
    """
    from ray_app.cli.here import node_settings
    from ray_app.collection import reprocess
    from ray_app.collection.archive import Archive
    from ray_app.storage.engine import Database
    from ray_app.storage.migrate import require_current, upgrade

    settings = node_settings()
    logging.basicConfig(level="WARNING", format="%(levelname)s %(name)s: %(message)s")
    db = Database(settings.resolved_database_url)
    try:
        require_current(db)
        with Archive(settings.archive_dir) as archive:
            if into is None:
                click.echo(str(reprocess.reprocess(archive, db, progress=_show)))
            else:
                target = Database(into)
                try:
                    upgrade(target)
                    first, at = reprocess.first_registry(db)
                    report = reprocess.reprocess(
                        archive, target, first_registry=first, first_registry_at=at, progress=_show
                    )
                    click.echo(f"{report} into {target.where}")
                    verdict(reprocess.differences(db, target))
                finally:
                    target.dispose()
    finally:
        db.dispose()


def _show(report: Rebuilt) -> None:
    click.echo(str(report), err=True)

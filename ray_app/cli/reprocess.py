"""``crypto-data reprocess``: rebuild the tables from the archive."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import click

from ray_app.cli.times import MOMENT
from ray_app.cli.verdict import verdict

if TYPE_CHECKING:
    from ray_app.collection.reprocess import Rebuilt


@click.command("reprocess")
@click.option("--into", metavar="URL", help="Rebuild into another, empty database and compare it with the node's.")
@click.option("--table", "tables", metavar="TABLE", multiple=True, help="Only this one; may be given several times.")
@click.option("--since", type=MOMENT, help="Only answers fetched from then on.")
@click.option("--until", type=MOMENT, help="Only answers fetched before then.")
@click.option(
    "--processes",
    type=click.IntRange(1),
    help="How many parse beside this one, which writes; default: a processor each; 1: none.",
)
def command(
    into: str | None, tables: tuple[str, ...], since: int | None, until: int | None, processes: int | None
) -> None:
    """Parse the archive again.

    Without options all of it, into the node's own database, where a newer parser's rows win over older ones; a running
    node may go on. With --into: into another database, from nothing. Ends with status 1 if anything differs. With
    --table everything else stays as it is: index, quality events and dead letters too.
    """
    from ray_app.cli.here import node_settings
    from ray_app.collection import reprocess
    from ray_app.collection.archive import Archive
    from ray_app.errors import ConfigError
    from ray_app.storage.engine import Database
    from ray_app.storage.migrate import require_current, upgrade

    if into is not None and (since is not None or until is not None):
        raise click.UsageError("--into rebuilds from the whole archive; --since and --until are for the node's own")
    settings = node_settings()
    wanted: dict[str, Any] = {
        "tables": set(tables) or None,
        "processes": processes or max(1, len(os.sched_getaffinity(0)) - 1),
        "progress": _show,
    }
    logging.basicConfig(level="WARNING", format="%(levelname)s %(name)s: %(message)s")
    db = Database(settings.resolved_database_url)
    try:
        require_current(db)
        with Archive(settings.archive_dir) as archive:
            if into is None:
                click.echo(str(reprocess.reprocess(archive, db, start=since, end=until, **wanted)))
            else:
                target = Database(into)
                try:
                    if target.where == db.where:
                        raise ConfigError("--into names the node's own database; leave it out to parse again in place")
                    upgrade(target)
                    first, at = reprocess.first_registry(db)
                    report = reprocess.reprocess(archive, target, first_registry=first, first_registry_at=at, **wanted)
                    click.echo(f"{report} into {target.where}")
                    compared = [table for table in reprocess.REBUILT if not tables or table.name in tables]
                    verdict(reprocess.differences(db, target, compared))
                finally:
                    target.dispose()
    finally:
        db.dispose()


def _show(report: Rebuilt) -> None:
    click.echo(str(report), err=True)

"""``crypto-data db``: the schema of the node's database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from ray_app.cli.here import node_settings
from ray_app.storage import migrate
from ray_app.storage.engine import Database, sqlite_file


@click.group()
def command() -> None:
    """Build the database's schema, or say how it differs from this version's."""


@command.command()
@click.option("--database-url", help="SQLAlchemy URL; default: the node's settings (crypto-data config).")
def upgrade(database_url: str | None) -> None:
    """Run every migration that has not run yet. Safe to repeat, and from several machines at once."""
    with _opened(database_url) as db:
        click.echo(f"{db.where} is at revision {migrate.upgrade(db)}")
        migrate.require_current(db)


@command.command()
@click.option("--database-url", help="SQLAlchemy URL; default: the node's settings (crypto-data config).")
def check(database_url: str | None) -> None:
    """Compare the schema with this version's: each difference is one line; exit status 1 if there is any."""
    file = sqlite_file(_url(database_url))
    if file is not None and not file.exists():  # opening it would make one
        click.echo(f"{file}: there is no database yet: run crypto-data db upgrade")
        raise click.exceptions.Exit(1)
    with _opened(database_url) as db:
        found = migrate.check(db)
        for difference in found:
            click.echo(difference)
        if found:
            raise click.exceptions.Exit(1)
        click.echo(f"{db.where}: no difference")


def _url(given: str | None) -> str:
    return given or node_settings().resolved_database_url


@contextmanager
def _opened(url: str | None) -> Iterator[Database]:
    db = Database(_url(url), pool_size=2)
    try:
        yield db
    finally:
        db.dispose()

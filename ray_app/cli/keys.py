"""``crypto-data keys``: make, list and revoke API keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import click

from ray_app.cli.here import node_settings
from ray_app.clock import from_ms, iso, open_clock, to_ms
from ray_app.serving.keys import KeyRing, Level
from ray_app.storage.engine import Database
from ray_app.storage.migrate import require_current


@contextmanager
def _opened() -> Iterator[KeyRing]:
    settings = node_settings()
    db = Database(settings.resolved_database_url, pool_size=1)
    try:
        require_current(db)
        yield KeyRing(db, open_clock(settings.epoch_file))
    finally:
        db.dispose()


@click.group()
def command() -> None:
    """Make, list and revoke API keys. A running node knows of a change within a few seconds."""


@command.command()
@click.argument("name")
@click.option(
    "--level",
    type=click.Choice([level.name for level in Level]),
    default=Level.readonly.name,
    show_default=True,
    help="What the key may do; each level includes the ones before.",
)
@click.option("--expires-days", type=click.IntRange(1, 3_650), help="Days until it expires; default: never.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def create(name: str, level: str, expires_days: int | None, as_json: bool) -> None:
    """Make a key called NAME and print it, once: it is stored as a hash only."""
    with _opened() as ring:
        expires_at = None
        if expires_days is not None:
            expires_at = to_ms(from_ms(ring.clock.now_ms()) + timedelta(days=expires_days))
        made = ring.create(name, Level[level], expires_at)
    if as_json:
        click.echo(json.dumps({"key_id": made.key_id, "name": name, "level": level, "key": made.secret}))
    else:
        click.echo(made.secret)
        click.echo(f"{level} key {made.key_id} ({name}) is shown this once; keep it", err=True)


@command.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
def list_keys(as_json: bool) -> None:
    """Print every key ever made, without its secret."""
    with _opened() as ring:
        rows = ring.rows()
        now_ms = ring.clock.now_ms()
    shown: list[dict[str, str | None]] = []
    for row in rows:
        expired = row.expires_at is not None and row.expires_at <= now_ms
        state = "revoked" if row.revoked_at is not None else "expired" if expired else "in force"
        expires = iso(row.expires_at) if row.expires_at is not None else None
        shown.append(
            {
                "key_id": row.key_id,
                "level": row.level,
                "state": state,
                "created_at": iso(row.created_at),
                "expires_at": expires,
                "name": row.name,
            }
        )
    if as_json:
        click.echo(json.dumps(shown, indent=2))
        return
    for key in shown:
        click.echo(
            f"{key['key_id']:<16}  {key['level']:<8}  {key['state']:<8}  {key['created_at']:<24}  "
            f"{key['expires_at'] or 'never expires':<24}  {key['name']}"
        )


@command.command()
@click.argument("key_id")
def revoke(key_id: str) -> None:
    """Revoke the key KEY_ID (see: crypto-data keys list)."""
    with _opened() as ring:
        ring.revoke(key_id)
    click.echo(f"{key_id} is revoked")

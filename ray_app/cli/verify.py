"""``crypto-data verify``: prove that what is stored is what the archive says."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from ray_app.cli.times import MOMENT
from ray_app.cli.verdict import verdict

if TYPE_CHECKING:
    from sqlalchemy import Table

    from ray_app.assets import AssetRegistry
    from ray_app.collection.archive import Archive
    from ray_app.collection.verify import RowProof
    from ray_app.storage.engine import Database

_TABLES = [
    *("price_data_real", "ohlc_data", "market_data"),
    *("macro_indicators", "onchain_data", "derivatives_data", "fear_greed"),
    *("crypto_news", "stock_news", "social_posts"),
]


@click.command("verify")
@click.option("--day", metavar="DATE", type=click.DateTime(["%Y-%m-%d"]), help="Only what was fetched on this UTC day.")
@click.option("--table", "table_name", type=click.Choice(_TABLES), help="Only this table: its hash, or rows (--key).")
@click.option("--key", metavar="NAME=VALUE,…", help="Rows of --table by some or all of their key's columns.")
@click.option("--from", "start", type=MOMENT, help="With --table: hash the rows from this time on …")
@click.option("--to", "end", type=MOMENT, help="… and before this one.")
def command(day: datetime | None, table_name: str | None, key: str | None, start: int | None, end: int | None) -> None:
    """Compare what is stored with the archive, and write nothing.

    Without options: each day's manifest, the index of the archive, and every row with the payload it names. A node may
    run. With --table alone: the hash of its rows, the same wherever the same rows are. With --key: the stored rows,
    the payloads they name and the values derived from those anew, for example

        crypto-data verify --table price_data_real --key asset=BTC,slot=2026-11-24T08:00:00Z,source=coingecko.markets

    asset is a ticker, coin id or number, interval a number of seconds. Status 1 if anything differs.
    """
    from ray_app.cli.here import node_settings
    from ray_app.clock import open_clock
    from ray_app.collection.archive import Archive
    from ray_app.errors import ConfigError
    from ray_app.storage.engine import Database
    from ray_app.storage.migrate import require_current

    if day is not None and table_name is not None:
        raise ConfigError("--day verifies all tables: leave out --table")
    if table_name is None and (key, start, end) != (None, None, None):
        raise ConfigError("--key, --from and --to are about one table: name it with --table")
    if key is not None and (start, end) != (None, None):
        raise ConfigError("--key names rows, --from and --to a range: give one of them")
    settings = node_settings()
    logging.basicConfig(level="ERROR", format="%(levelname)s %(name)s: %(message)s")
    db = Database(settings.resolved_database_url)
    try:
        require_current(db)
        if table_name is not None and key is None:
            _hash(db, _table(table_name), start, end)
            return
        with Archive(settings.archive_dir) as archive:
            if table_name is not None and key is not None:
                _rows(archive, db, _table(table_name), key)
            else:
                _all(archive, db, open_clock(settings.epoch_file).now_ms(), day)
    finally:
        db.dispose()


def _table(name: str) -> Table:
    from ray_app.collection.digest import VALUE_TABLES

    return VALUE_TABLES[name]


def _all(archive: Archive, db: Database, now_ms: int, day: datetime | None) -> None:
    from ray_app.clock import DAY_MS, to_ms
    from ray_app.collection.verify import verify

    start = None if day is None else to_ms(day.replace(tzinfo=UTC))
    report = verify(archive, db, now_ms=now_ms, start=start, end=None if start is None else start + DAY_MS)
    for seen in report.days:
        click.echo(str(seen))
    click.echo(str(report))
    if report.problem_count > len(report.problems):
        report.problems.append(f"… and {report.problem_count - len(report.problems)} more")
    verdict(report.problems)


def _hash(db: Database, table: Table, start: int | None, end: int | None) -> None:
    from ray_app.clock import iso
    from ray_app.collection.verify import dataset_hash

    rows, found = dataset_hash(db, table, start, end)
    span = f" from {iso(start) if start is not None else 'the first'} to {iso(end) if end is not None else 'the last'}"
    click.echo(f"{found}  {table.name}, {rows} rows{span if (start, end) != (None, None) else ''}")


def _rows(archive: Archive, db: Database, table: Table, key: str) -> None:
    from ray_app.collection.verify import prove_rows
    from ray_app.storage import registry

    with db.read() as conn:
        assets = registry.load(conn)
    wanted = parse_key(table, key, assets)
    proofs = prove_rows(archive, db, table, wanted)
    for proof in proofs:
        _show(proof)
    if not proofs:
        verdict([f"{table.name}: no row has {', '.join(f'{name} {value}' for name, value in wanted.items())}"])
    verdict([proof.problem for proof in proofs if proof.problem is not None])


def parse_key(table: Table, text: str, assets: AssetRegistry) -> dict[str, Any]:
    """The key's columns and values from ``asset=BTC,slot=2026-11-24T08:00:00Z,…``; ConfigError says what is wrong."""
    from ray_app.errors import ConfigError

    columns = [column.name for column in table.primary_key.columns]
    friendly = {"asset_id": "asset", "interval_s": "interval"}
    offered = ", ".join(friendly.get(name, name) for name in columns)
    found: dict[str, Any] = {}
    for part in text.split(","):
        said, equals, value = (piece.strip() for piece in part.partition("="))
        name = {shown: column for column, shown in friendly.items()}.get(said, said)
        if not equals or not value or name not in columns:
            raise ConfigError(f"--key {part.strip()!r}: expected NAME=VALUE, where NAME is one of {offered}")
        found[name] = _value(table, name, value, assets)
    return found


def _value(table: Table, name: str, text: str, assets: AssetRegistry) -> Any:
    from ray_app.errors import ConfigError

    if table.columns[name].type.python_type is str:
        return text
    if name in {"slot", "open_time", "event_time", "indicator_date"}:
        return MOMENT.convert(text, None, None)
    if name == "asset_id" and not (text.isdigit() and assets.by_id(int(text)) is not None):
        return assets.resolve(text).asset.asset_id
    if not text.isascii() or not text.removeprefix("-").isdigit():
        raise ConfigError(f"--key {name}={text}: expected a whole number")
    return int(text)


def _show(proof: RowProof) -> None:
    from ray_app.clock import iso

    click.echo(f"stored   {json.dumps(proof.stored)}")
    if proof.fetch is not None:
        fetch = proof.fetch
        click.echo(
            f"payload  {fetch['payload_hash']}, {fetch['payload_bytes']} bytes, fetched {iso(fetch['fetched_at'])} by "
            f"{fetch['collector']}: {fetch['source']} {fetch['request']}, status {fetch['status']}; "
            f"{fetch['segment']} at offset {fetch['position']}"
        )
    if proof.derived is not None:
        click.echo(f"derived  {json.dumps(proof.derived)}")

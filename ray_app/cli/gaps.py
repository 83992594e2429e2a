"""``crypto-data gaps``: what is owed, and what became of gaps."""

from __future__ import annotations

import json

import click

from ray_app.clock import iso

_STATES = ["owed", "repaired", "confirmed_empty", "unrepairable"]


@click.command("gaps")
@click.option("--dataset", help="prices, candles-300, macro-fred, …; default: all.")
@click.option("--state", "states", multiple=True, type=click.Choice(_STATES))
@click.option(
    "--symbol", "symbols", multiple=True, help="Ticker or coin id; with a dataset of feeds the feed; repeatable."
)
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 100_000))
@click.option("--json", "as_json", is_flag=True, help="JSON lines, times in ms.")
def command(
    dataset: str | None, states: tuple[str, ...], symbols: tuple[str, ...], limit: int, *, as_json: bool
) -> None:
    """Show the gap ledger: a summary per dataset, fields that repairs could not give, then ranges, newest first."""
    from ray_app.cli.here import node_settings
    from ray_app.collection.datasets import DATASETS, FEED_DATASETS, PRICES
    from ray_app.collection.feeds import subject_id
    from ray_app.collection.reports import gap_report, gap_summary
    from ray_app.errors import ConfigError
    from ray_app.storage import queries, registry
    from ray_app.storage.engine import Database
    from ray_app.storage.migrate import require_current

    db = Database(node_settings().resolved_database_url)
    try:
        require_current(db)
        with db.read() as conn:
            assets = registry.load(conn)
            if dataset is not None and dataset not in DATASETS:
                raise ConfigError(f"no dataset is called {dataset!r}; there are {', '.join(DATASETS)}")
            if dataset in FEED_DATASETS:
                ids = [subject_id(dataset, symbol) for symbol in symbols] or None
            else:
                ids = [assets.resolve(symbol).asset.asset_id for symbol in symbols] or None
            summary = [row for row in gap_summary(conn) if dataset in {None, row["dataset"]}]
            repaired, without = queries.repaired_fields(conn) if dataset in {None, PRICES} else (0, {})
            rows = gap_report(conn, assets, dataset=dataset, states=states, asset_ids=ids, limit=limit)
    finally:
        db.dispose()
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        return
    for total in summary:
        click.echo(
            f"{total['dataset']:14} {total['state']:16} {total['ranges']:7} ranges {total['hours']:12.2f} asset-hours"
        )
    if without:
        absent = ", ".join(f"{field} {slots}" for field, slots in without.items())
        click.echo(f"{PRICES:14} of {repaired} repaired slots are NULL, for history does not give them: {absent}")
    if not summary:
        click.echo("no gaps are known")
    for row in rows:
        reason = f"  {row['reason']}" if row["reason"] else ""
        click.echo(
            f"{row['dataset']:14} {row['symbol'] or row['asset_id']!s:8} {iso(row['start'])} .. {iso(row['end'])} "
            f"{row['slots'] if row['slots'] is not None else '-':>6} {row['state']}{reason}"
        )

"""``crypto-data assets``: the asset registry, or what a symbol means."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
from sqlalchemy import inspect, make_url

from ray_app.assets import Asset, AssetRegistry
from ray_app.cli.here import node_settings
from ray_app.cli.times import MOMENT
from ray_app.clock import iso

_COLUMNS = ("asset_id", "symbol", "coin_id", "name", "coinbase_product", "market_cap_rank", "status")


@click.command()
@click.argument("symbol", required=False)
@click.option(
    "--at", "at_ms", type=MOMENT, metavar="TIME", help="As of then: which asset SYMBOL was, which assets there were."
)
@click.option("--packaged", is_flag=True, help="The list in the package, whatever the node's database holds.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines, times in milliseconds since 1970 UTC.")
def command(symbol: str | None, at_ms: int | None, packaged: bool, as_json: bool) -> None:
    """List the assets by market cap, or resolve SYMBOL: a ticker, coin id or Coinbase product, in any case.

    Reads the registry in the node's database, and the packaged list where there is none yet. An unknown symbol is
    an error with near matches; what is worth knowing about the choice (several assets share the ticker, the coin was
    renamed) is told on stderr.
    """
    registry = AssetRegistry.seed() if packaged else _registry()
    if symbol is not None:
        resolution = registry.resolve(symbol, at_ms)
        if resolution.note is not None:
            click.echo(resolution.note, err=True)
        _print([resolution.asset], as_json=as_json, whole=True)
    elif at_ms is not None:
        _print(registry.active(at_ms), as_json=as_json)
    else:
        _print(sorted(registry, key=lambda asset: (not asset.alive(), asset.by_rank)), as_json=as_json)


def _registry() -> AssetRegistry:
    """The node's registry; the packaged one where the node has no database yet, or none in it."""
    url = node_settings().resolved_database_url
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        return AssetRegistry.seed()
    from ray_app.storage import registry
    from ray_app.storage.engine import Database

    database = Database(url, pool_size=1)
    try:
        with database.read() as conn:
            stored = registry.load(conn) if inspect(conn).has_table("crypto_assets") else AssetRegistry(())
    finally:
        database.dispose()
    return stored if len(stored) else AssetRegistry.seed()


def _print(assets: list[Asset] | tuple[Asset, ...], *, as_json: bool, whole: bool = False) -> None:
    if as_json:
        for asset in assets:
            click.echo(json.dumps(asdict(asset), ensure_ascii=False))
    elif whole:
        for name, value in asdict(assets[0]).items():
            shown = iso(value) if name in {"valid_from", "valid_to"} and value is not None else value
            click.echo(f"{name:<18}{'-' if shown is None else shown}")
    else:
        table = [_COLUMNS, *(tuple(_cell(getattr(asset, name)) for name in _COLUMNS) for asset in assets)]
        widths = [max(len(row[i]) for row in table) for i in range(len(_COLUMNS))]
        for row in table:
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    return "-" if value is None else str(value)

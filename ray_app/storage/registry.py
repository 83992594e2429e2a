"""The asset registry in the database (``crypto_assets``): load it whole, save what differs."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, insert, select, update

from ray_app.assets import Asset, AssetRegistry
from ray_app.storage.tables import crypto_assets

_COLUMNS = tuple(field.name for field in fields(Asset))


def load(conn: Connection) -> AssetRegistry:
    """The stored registry (empty if none was saved), with the packaged list's former tickers."""
    query = select(*(crypto_assets.c[name] for name in _COLUMNS)).order_by(crypto_assets.c.asset_id)
    assets = [Asset(**row) for row in conn.execute(query).mappings()]
    return AssetRegistry(assets, AssetRegistry.seed().former)


def save(conn: Connection, registry: AssetRegistry, now_ms: int) -> int:
    """Write the assets that are new or differ from what is stored; the number written.

    Only these get ``updated_at = now_ms``. Nothing is ever deleted: values refer to asset ids forever.
    """
    stored = {asset.asset_id: asset for asset in load(conn)}
    new = [asset for asset in registry if asset.asset_id not in stored]
    changed = [asset for asset in registry if stored.get(asset.asset_id, asset) != asset]
    if changed:
        settable: dict[str, ColumnElement[Any]] = {
            name: bindparam(f"new_{name}") for name in (*_COLUMNS, "updated_at") if name != "asset_id"
        }
        conn.execute(
            update(crypto_assets).where(crypto_assets.c.asset_id == bindparam("new_asset_id")).values(settable),
            [{f"new_{name}": value for name, value in _row(asset, now_ms).items()} for asset in changed],
        )
    if new:
        conn.execute(insert(crypto_assets), [_row(asset, now_ms) for asset in new])
    return len(new) + len(changed)


def _row(asset: Asset, now_ms: int) -> dict[str, object]:
    return {**asdict(asset), "updated_at": now_ms}

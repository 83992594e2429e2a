"""The asset registry as it was at each answer."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import Connection

from ray_app.assets import AssetRegistry
from ray_app.collection.archive import Archive, ArchivedAt
from ray_app.collection.digest import Digest, digest
from ray_app.collection.refresh import PRODUCTS, refreshed
from ray_app.sources.base import Exchange


class Registries:
    """The registry as the node had it at each answer: the first one, and each archived refresh since.

    ``now`` still knows the product of an asset that has lost its venue: the payloads of before speak of it.
    """

    def __init__(self, conn: Connection, archive: Archive, first: AssetRegistry, at_ms: int, start: int | None) -> None:
        self._true = self.now = first
        if start is not None:
            for at, _, exchange in archive.scan(PRODUCTS, start=at_ms or None, end=start):
                self.after(conn, archive, at, exchange, digest(exchange, at, first))

    def after(self, conn: Connection, archive: Archive, at: ArchivedAt, exchange: Exchange, found: Digest) -> None:
        """Repeat the refresh that an answer led to, if it did."""
        if exchange.request.endpoint != PRODUCTS:
            return
        true = refreshed(conn, archive, at, exchange, found, self._true)
        if true is None:
            return
        lost = [
            replace(asset, coinbase_product=before.coinbase_product)
            for asset in true
            if asset.coinbase_product is None
            and (before := self.now.by_id(asset.asset_id)) is not None
            and before.coinbase_product is not None
            and true.by_product(before.coinbase_product) is None
        ]
        self._true, self.now = true, true.replaced(lost)

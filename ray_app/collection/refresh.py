"""Keeping the registry true, as a function of archived answers alone.

The daily refresh asks CoinGecko's ``/coins/list`` and then Coinbase's ``/products``. The registry is reconciled in the
transaction that ingests the second, against the newest coins list ingested before it: so a rebuild from the archive
goes through the same registries as the node did.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sqlalchemy import Connection

from ray_app.collection.archive import Archive
from ray_app.collection.store import Item
from ray_app.reconcile import reconcile
from ray_app.sources import endpoint
from ray_app.sources.base import Row
from ray_app.storage import records, registry

log = logging.getLogger(__name__)

COINS_LIST, PRODUCTS = "coingecko.coins_list", "coinbase.products"


def refresh_registry(conn: Connection, archive: Archive, items: Sequence[Item]) -> bool:
    """Reconcile the registry with each ``/products`` answer among the items; whether it was saved anew.

    Without a coins list so far there is nothing to compare with, and nothing happens.
    """
    refreshed = False
    for item in items:
        if item.exchange.request.endpoint != PRODUCTS or item.found.parsed is None:
            continue
        coins = _coins_before(conn, archive, item.at.fetch_id)
        if coins is None:
            log.warning("registry not refreshed: no coins list has been ingested before the products")
            continue
        before = registry.load(conn)
        after, changes = reconcile(before, coins, item.found.parsed.rows, item.exchange.fetched_at)
        for change in changes:
            log.info("registry: %s", change)
        if after != before:
            registry.save(conn, after, item.exchange.fetched_at)
            refreshed = True
    return refreshed


def _coins_before(conn: Connection, archive: Archive, fetch_id: int) -> tuple[Row, ...] | None:
    place = records.last_good_fetch(conn, COINS_LIST, before=fetch_id)
    if place is None:
        return None
    return endpoint(COINS_LIST).parse(archive.read(*place)).rows

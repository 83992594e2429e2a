"""Keeping the registry true, as a function of archived answers alone.

The daily refresh asks CoinGecko's ``/coins/list`` and then Coinbase's ``/products``. The registry is reconciled in the
transaction that ingests the second, against the newest coins list ingested before it and with the ranks of the price
answers that the request's own (archived) note names: so a rebuild from the archive goes through the same registries as
the node did, whatever else was being written at the time.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import orjson
from sqlalchemy import Connection

from ray_app.assets import AssetRegistry
from ray_app.clock import HOUR_MS
from ray_app.collection.archive import Archive, ArchivedAt
from ray_app.collection.digest import Digest
from ray_app.collection.store import Item
from ray_app.reconcile import reconcile, with_ranks
from ray_app.sources import endpoint
from ray_app.sources.base import Exchange, Request, Row
from ray_app.storage import records, registry

log = logging.getLogger(__name__)

COINS_LIST, PRODUCTS, MARKETS = "coingecko.coins_list", "coinbase.products", "coingecko.markets"
#: the note on a /products request: fetch ids of the price answers whose ranks the registry takes over
_RANKS = "ranks_of"
#: every asset is asked for once an hour at least; an answer may be missed
_RANKS_WITHIN_MS = 3 * HOUR_MS


def rank_answers(conn: Connection, now: int) -> list[int]:
    """Fetch ids, ascending, of the newest price answers that together were asked for every asset polled lately."""
    named: set[str] = set()
    chosen: list[int] = []
    for fetch_id, request in records.good_fetches(conn, MARKETS, since=now - _RANKS_WITHIN_MS):
        ids = set(orjson.loads(request)["params"]["ids"].split(","))
        if not ids <= named:
            named |= ids
            chosen.append(fetch_id)
    return sorted(chosen)


def with_rank_answers(request: Request, fetch_ids: Sequence[int]) -> Request:
    """The ``/products`` request with the note by which :func:`refresh_registry` finds the ranks."""
    if not fetch_ids:
        return request
    return replace(request, context={**request.context, _RANKS: ",".join(map(str, fetch_ids))})


def refresh_registry(conn: Connection, archive: Archive, items: Sequence[Item]) -> bool:
    """Reconcile the registry with each ``/products`` answer among the items; whether it was saved anew.

    Products that have not changed (304) are the last ones received: the coins list or the ranks may have changed.
    Without a coins list so far there is nothing to compare with, and nothing happens.
    """
    saved = False
    for item in items:
        before = registry.load(conn) if item.exchange.request.endpoint == PRODUCTS else None
        after = refreshed(conn, archive, item.at, item.exchange, item.found, before) if before is not None else None
        if after is not None and after != before:
            registry.save(conn, after, item.exchange.fetched_at)
            saved = True
    return saved


def refreshed(
    conn: Connection, archive: Archive, at: ArchivedAt, exchange: Exchange, found: Digest, before: AssetRegistry
) -> AssetRegistry | None:
    """The registry after a ``/products`` answer; None where the answer is not one, or of no use. Only reads."""
    if exchange.request.endpoint != PRODUCTS or found.error is not None:
        return None
    coins = _rows_before(conn, archive, COINS_LIST, at.fetch_id)
    products = found.parsed.rows if found.parsed is not None else _rows_before(conn, archive, PRODUCTS, at.fetch_id)
    if coins is None or products is None:
        log.warning("registry not refreshed: no %s before the products", "coins list" if coins is None else "body")
        return None
    after, changes = reconcile(before, coins, products, exchange.fetched_at)
    for change in changes:
        log.info("registry: %s", change)
    return with_ranks(after, _ranks(conn, archive, exchange.request))


def _rows_before(conn: Connection, archive: Archive, source: str, fetch_id: int) -> tuple[Row, ...] | None:
    """What the endpoint's newest usable answer before a fetch said; None: there is none."""
    place = records.last_good_fetch(conn, source, before=fetch_id)
    return None if place is None else endpoint(source).parse(archive.read(*place)).rows


def _ranks(conn: Connection, archive: Archive, request: Request) -> dict[str, int | None]:
    """Market-cap rank by coin id as the answers named in the request's note say it; the newest statement counts."""
    named = [int(fetch_id) for fetch_id in request.context.get(_RANKS, "").split(",") if fetch_id]
    said: dict[str, int | None] = {}
    for segment, position in records.fetch_places(conn, named):
        for row in endpoint(MARKETS).parse(archive.read(segment, position)).rows:
            rank = row.values["market_cap_rank"]
            if isinstance(rank, int):
                said[str(row.key["coin_id"])] = rank
    return said

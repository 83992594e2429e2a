"""A market with macro, on-chain, derivatives, fear and greed, and news, as the reads of every source need it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert

from ray_app.clock import DAY_MS, HOUR_MS, to_ms
from ray_app.collection.archive import Archive, ArchivedAt
from ray_app.collection.digest import asked as request_text
from ray_app.serving.keys import Level
from ray_app.sources.base import Exchange, Request
from ray_app.sources.statements import version_of
from ray_app.storage import tables
from ray_app.storage.engine import Database
from ray_app.storage.upsert import guarded_upsert
from tests.serving.gateway_world import NOW, World, market
from tests.storage.source_samples import article, derivative, feeling, macro, mention, onchain

TODAY = NOW - NOW % DAY_MS


def day(text: str) -> int:
    from datetime import datetime

    return to_ms(datetime.fromisoformat(f"{text}T00:00:00+00:00"))


def put(world: World, table: str, *rows: dict[str, Any]) -> None:
    world.db.run(lambda conn: guarded_upsert(conn, tables.metadata.tables[table], rows))


def archived(
    world: World, fetched_at: int, source: str = "coingecko.markets", path: str = "/coins/markets", **params: str
) -> tuple[ArchivedAt, dict[str, Any]]:
    """An answer in the archive and its index; and what rows of it carry."""
    asked = Request(source, path, params, {"slot": "1"})
    with Archive(world.deps.settings.archive_dir, writer="writer-1") as archive:
        at = archive.append(Exchange(asked, 200, {}, b"[]", fetched_at), "collector")
    fetch = {
        "fetch_id": at.fetch_id,
        "source": source,
        "collector": "collector",
        "request": request_text(asked),
        "status": 200,
        "fetched_at": fetched_at,
        "payload_hash": at.payload_hash,
        "payload_bytes": at.payload_bytes,
        "segment": at.segment,
        "position": at.position,
        "outcome": "ok",
        "row_count": 1,
    }
    world.db.run(lambda conn: conn.execute(insert(tables.fetches), [fetch]))
    return at, {"fetched_at": fetched_at, "payload_hash": at.payload_hash}


def sources(db: Database, **settings: Any) -> World:
    """A market, and what docs/api.md shows of every other source."""
    return add_sources(market(db, **settings))


def add_sources(world: World) -> World:
    """A few numbers of each kind, some of them revised, and news."""
    yahoo = {"source": "yahoo.chart", "unit": "index", "open_price": 20.0, "high_price": 21.5, "low_price": 19.5}
    put(
        world,
        "macro_indicators",
        macro(day("2026-09-01"), 4.0, day("2026-10-02")),
        macro(day("2026-10-01"), 4.1, day("2026-11-06")),
        macro(day("2026-09-01"), 4.2, day("2026-11-06")),  # revised together with the next month
        macro(TODAY - 3 * DAY_MS, 20.5, 7, indicator_name="VIX", **yahoo, **_seen(TODAY - 2 * DAY_MS)),
        macro(TODAY - 2 * DAY_MS, 21.0, 8, indicator_name="VIX", **yahoo, **_seen(TODAY - DAY_MS)),
        # asked without vintages: the value is its own version
        macro(TODAY - DAY_MS, 6_700.5, TODAY - HOUR_MS, indicator_name="SP500", unit="index")
        | {"vintage": version_of(6_700.5)},
    )
    put(
        world,
        "onchain_data",
        onchain(TODAY - DAY_MS, 801_000.0, TODAY - 18 * HOUR_MS),
        onchain(TODAY, 812_345.0, NOW - HOUR_MS),
        onchain(TODAY, 812_400.0, NOW - HOUR_MS // 2),
        onchain(TODAY, 6.4e20, NOW - HOUR_MS, metric="hash_rate", source="mempool.hashrate"),
    )
    put(
        world,
        "derivatives_data",
        *[derivative(TODAY - n * 8 * HOUR_MS, 0.0001 + n / 1e5) for n in range(3)],
        derivative(TODAY, 0.0002, venue="okx", instrument="BTC-USDT-SWAP", source="okx.funding_rate"),
        derivative(NOW - 300_000, 8.1e9, NOW - 299_000, metric="open_interest_usd", source="binance.open_interest"),
    )
    put(world, "fear_greed", *[feeling(TODAY - n * DAY_MS, 47.0 - n) for n in range(5)])
    return news(world)


def _seen(at: int) -> dict[str, int]:
    return {"known_at": at, "first_seen_at": at}


def news(world: World) -> World:
    """Three stories, one of them reprinted; one deleted."""
    etf = article("Bitcoin ETFs see record inflows", NOW - 20 * 60_000, summary="Spot funds took in more than ever.")
    again = article("Bitcoin ETFs See Record Inflows", NOW - 15 * 60_000, "decrypt")
    ether = article("Ethereum upgrade is scheduled", NOW - 3 * HOUR_MS, "theblock", published_at=None)
    gone = article("Withdrawn", NOW - HOUR_MS, deleted_at=NOW - 1_000)
    put(world, "crypto_news", etf, again, ether, gone)
    fed = article("Fed holds rates", NOW - HOUR_MS, "business", source="guardian.search")
    put(world, "stock_news", fed)
    put(world, "text_mentions", mention(etf, 1, "Bitcoin"), mention(ether, 2, "Ethereum"))
    return world


async def get(world: World, path: str, level: Level = Level.readonly, **params: Any) -> Any:
    """The body of a good answer."""
    async with world.client(level) as client:
        response = await client.get(f"/api/v1{path}", params=params)
    assert response.status_code == 200, response.text
    return response.json()


async def pages(world: World, path: str, **params: Any) -> list[dict[str, Any]]:
    """All rows, page by page."""
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        body = await get(world, path, **params, **cursor)
        found += body["data"]
        if body["next_cursor"] is None:
            return found
        cursor = {"cursor": body["next_cursor"]}

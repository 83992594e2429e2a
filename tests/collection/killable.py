"""What test_killed.py kills: a process that ingests one answer per slot, eight at a time, until none is missing."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import orjson
from sqlalchemy import select

from ray_app.clock import ManualClock, iso
from ray_app.collection.collectors.base import bounded
from ray_app.collection.control import holding
from ray_app.collection.runtime import Runtime
from ray_app.sources.base import Exchange
from ray_app.sources.coingecko import Markets
from ray_app.storage.tables import price_data_real
from tests.collection.test_ingest import settings_of
from tests.collection.world import MINUTE, START

SLOTS = 500
#: coin id to asset id
COINS = {"bitcoin": 1, "ethereum": 2, "solana": 6}
STEP = 5 * MINUTE


def price(asset_id: int, number: int) -> float:
    """USD, of an asset in a slot: every one different, and known without asking the database."""
    return 100.0 * asset_id + number / 100


def answer(number: int) -> Exchange:
    """The upstream's answer for a slot. The noise makes records of up to 60 kB that no compression shrinks."""
    slot = START + number * STEP
    noise = random.Random(number).randbytes(random.Random(-number).choice([10, 2_000, 30_000])).hex()
    body = [
        {"id": coin, "current_price": price(asset_id, number), "last_updated": iso(slot + 10_000), "image": noise}
        for coin, asset_id in COINS.items()
    ]
    return Exchange(Markets().request(list(COINS), slot), 200, {}, orjson.dumps(body), slot + 20_000)


def ingest(data_dir: str, url: str, notes: str) -> None:
    """Recover, then ingest what is not stored; note each slot once its commit is acknowledged."""
    asyncio.run(_ingest(Path(data_dir), url, Path(notes)))


async def _ingest(data_dir: Path, url: str, notes: Path) -> None:
    clock = ManualClock(START + SLOTS * STEP)
    async with (
        await Runtime.open(settings_of(data_dir, url), "crypto-prices", clock=clock) as runtime,
        holding(runtime, "crypto-prices", "whoever lives"),
    ):
        await runtime.ingestor.recover()
        stored = await runtime.read(lambda conn: set(conn.scalars(select(price_data_real.c.slot).distinct())))
        with notes.open("ab", buffering=0) as file:

            async def one(number: int) -> None:
                receipt = await runtime.ingestor.ingest(answer(number))
                assert receipt.ok, receipt
                file.write(b"%d\n" % number)

            missing = [number for number in range(SLOTS) if START + number * STEP not in stored]
            await bounded(8, [lambda number=number: one(number) for number in missing])

"""What has to be done now and then, whatever is collected: delete what terms say, compare sources, measure lags.

Each step is idempotent and safe beside another process that does the same, so it needs no lease.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from ray_app.clock import HOUR_MS, open_clock
from ray_app.collection import availability, disagreement, retention, statement_disagreement
from ray_app.collection.news_events import EVENTS_KEPT_MS, NEWS_CHANNEL
from ray_app.errors import CryptoDataError
from ray_app.settings import Settings
from ray_app.storage import outbox, records
from ray_app.storage.engine import Database

log = logging.getLogger(__name__)

#: node seconds between two rounds; wall seconds at least, for nodes whose time flies
EVERY_S, AT_LEAST_S = HOUR_MS / 1_000, 20.0


async def keep_house(settings: Settings) -> None:
    """A round every hour, until cancelled; survives everything that can go wrong in one."""
    clock = open_clock(settings.epoch_file)
    db = Database(settings.resolved_database_url, pool_size=2)
    try:
        while True:
            await asyncio.gather(clock.sleep(EVERY_S), asyncio.sleep(AT_LEAST_S))
            await asyncio.to_thread(one_round, settings, db, clock.now_ms())
    finally:
        await asyncio.to_thread(db.dispose)


def one_round(settings: Settings, db: Database, now_ms: int) -> None:
    """Every step; one that fails is logged and tried again with the next round, and holds up no other."""
    steps: dict[str, Callable[[], object]] = {
        "retention": lambda: retention.purge(settings.archive_dir, db, now_ms),
        "outbox": lambda: db.run(lambda conn: outbox.prune(conn, now_ms - EVENTS_KEPT_MS, channel=NEWS_CHANNEL)),
        "disagreement": lambda: compare(db, now_ms),
        "availability": lambda: availability.store_day(db, now_ms),
    }
    for name, step in steps.items():
        try:
            step()
        except (CryptoDataError, SQLAlchemyError, OSError) as error:
            log.warning("housekeeping: %s failed, the next round tries again: %s", name, error)


def compare(db: Database, now_ms: int) -> int:
    """Record where two sources of one value contradict each other; how many times they newly do."""
    with db.read() as conn:
        found = [*disagreement.recent(conn, now_ms), *statement_disagreement.recent(conn, now_ms)]
    if found:
        db.run(lambda conn: records.add_quality_events(conn, found))
        log.info("housekeeping: two sources disagree in %d values (stats/quality)", len(found))
    return len(found)

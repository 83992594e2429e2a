"""``asset-registry``: what exists (daily) and how the whole market stands (every three hours).

The registry itself changes in the transaction that ingests the answers (collection/refresh.py).
"""

from __future__ import annotations

from typing import ClassVar

from ray_app.clock import DAY_MS, HOUR_MS
from ray_app.collection.collectors.base import Collector, PollResult
from ray_app.collection.collectors.credits import spare_credits
from ray_app.collection.refresh import COINS_LIST, PRODUCTS, rank_answers, with_rank_answers
from ray_app.collection.schedule import Schedule
from ray_app.collection.upstreams import GLOBAL_EVERY_H
from ray_app.errors import UpstreamError
from ray_app.sources.base import Request
from ray_app.sources.coinbase import Products
from ray_app.sources.coingecko import CoinsList, Global
from ray_app.storage import records

GLOBAL = Global.name
#: when each endpoint is due; they have no slots to fill, so they are not in the gap ledger
_DAILY = Schedule("registry", DAY_MS // 1_000, grace_s=2_400, jitter_s=600, anchor="start")
_MARKET = Schedule("market", GLOBAL_EVERY_H * HOUR_MS // 1_000, grace_s=30, jitter_s=60, anchor="start")
#: in this order: the registry is reconciled when the products arrive, against the coins list before them
SCHEDULES = ((COINS_LIST, _DAILY), (PRODUCTS, _DAILY), (GLOBAL, _MARKET))


class RegistryCollector(Collector):
    """Coins list, products and the global figures."""

    name: ClassVar[str] = "asset-registry"

    def next_due(self, now: int) -> int:
        """The next moment at which one of the endpoints is due."""
        return min(schedule.next_due(now) for _, schedule in SCHEDULES)

    async def poll(self) -> PollResult:
        """Ask each endpoint whose newest due moment has no answer yet (at the very first start: all)."""
        result = PollResult()
        fresh_coins = True
        for source, schedule in SCHEDULES:
            now = self.runtime.clock.now_ms()
            since = schedule.due_at(schedule.newest_due(now))
            last = await self.runtime.read(lambda conn, source=source: records.last_good_fetched_at(conn, source))  # type: ignore[misc]
            if last is not None and last >= since:
                continue
            if source == GLOBAL and await spare_credits(self.runtime) < 1:
                result.notes.append(f"{GLOBAL} skipped: the month's credits are needed for prices")
                continue
            if source == PRODUCTS and not fresh_coins:
                continue  # the registry would be compared with yesterday's list; both come with the retry
            ok = await self._ask(await self._request(source), result)
            fresh_coins = fresh_coins and (ok or source != COINS_LIST)
        return result

    async def _request(self, source: str) -> Request:
        if source == GLOBAL:
            return Global().request()
        if source == COINS_LIST:
            return CoinsList().request()
        now = self.runtime.clock.now_ms()
        answers = await self.runtime.read(lambda conn: rank_answers(conn, now))
        return with_rank_answers(Products().request(), answers)

    async def _ask(self, request: Request, result: PollResult) -> bool:
        result.requests += 1
        try:
            receipt = await self.runtime.fetch(request)
            if receipt.error is not None:
                raise receipt.error
        except UpstreamError as error:
            result.failed(error, self.runtime.clock.now_ms())
            result.owed += 1
            return False
        result.slots += 1
        return True

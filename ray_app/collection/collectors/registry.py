"""``asset-registry``: what exists (daily), how the whole market stands (every three hours), what the key has spent.

The registry itself changes in the transaction that ingests the answers (collection/refresh.py).
"""

from __future__ import annotations

import json
import logging
from typing import ClassVar

from sqlalchemy import Connection

from ray_app.clock import DAY_MS, HOUR_MS
from ray_app.collection import spending
from ray_app.collection.budget_rules import Priority, month_of, month_start
from ray_app.collection.collectors.base import Collector, PollResult
from ray_app.collection.planner import Decision
from ray_app.collection.refresh import COINS_LIST, PRODUCTS, rank_answers, with_rank_answers
from ray_app.collection.runtime import Runtime
from ray_app.collection.schedule import Schedule
from ray_app.collection.spending import KeyUsage
from ray_app.collection.upstreams import pays
from ray_app.errors import BudgetExhausted, UpstreamError
from ray_app.sources import ENDPOINTS
from ray_app.sources.base import Parsed, Request
from ray_app.sources.coinbase import Products
from ray_app.sources.coingecko import CoinsList, Global, Key
from ray_app.storage import records

log = logging.getLogger(__name__)

GLOBAL, KEY = Global.name, Key.name
#: when each endpoint is due; they have no slots to fill, so they are not in the gap ledger
_DAILY = Schedule("registry", DAY_MS // 1_000, grace_s=2_400, jitter_s=600, anchor="start")
#: looks at whether the key's usage is to be asked for. Not at the turn of a month: whose month a count is of is unsure
_KEY = Schedule("key", HOUR_MS // 1_000, grace_s=1_200, jitter_s=600, anchor="start")
_COINGECKO = [name for name, endpoint in ENDPOINTS.items() if endpoint.account == spending.ACCOUNT]


def schedules(decision: Decision | None = None) -> tuple[tuple[str, Schedule], ...]:
    """The endpoints, in this order: the registry is reconciled when the products come, against the coins before them.

    The market's figures are asked for as often as the month's credits carry.
    """
    market_s = decision.interval_of(spending.GLOBAL) if decision is not None else None
    market = Schedule("market", market_s or 3 * HOUR_MS // 1_000, grace_s=30, jitter_s=60, anchor="start")
    return (COINS_LIST, _DAILY), (PRODUCTS, _DAILY), (GLOBAL, market)


class RegistryCollector(Collector):
    """Coins list, products, the global figures, the key's usage."""

    name: ClassVar[str] = "asset-registry"
    accounts: ClassVar[tuple[str, ...]] = ("coingecko", "coinbase")

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._schedules = schedules()
        self._pays = pays(runtime.upstreams[spending.ACCOUNT])
        self._asked_for_key = False

    def next_due(self, now: int) -> int:
        """The next moment at which one of the endpoints is due."""
        moments = [schedule.next_due(now) for _, schedule in self._schedules]
        return min([*moments, _KEY.next_due(now)] if self._pays else moments)

    async def poll(self) -> PollResult:
        """Ask each endpoint whose newest due moment has no answer yet (at the very first start: all)."""
        result = PollResult()
        decision, usage = await self.runtime.read(spending.load)
        self._schedules = schedules(decision)
        if self._pays and await self._key_is_due(usage):
            await self._look_at_key(result)
        fresh_coins = True
        for source, schedule in self._schedules:
            now = self.runtime.clock.now_ms()
            since = schedule.due_at(schedule.newest_due(now))
            last = await self.runtime.read(lambda conn, source=source: records.last_good_fetched_at(conn, source))  # type: ignore[misc]
            if last is not None and last >= since:
                continue
            if source == PRODUCTS and not fresh_coins:
                continue  # the registry would be compared with yesterday's list; both come with the retry
            ok = await self._ask(await self._request(source), result) is not None
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

    async def _ask(self, request: Request, result: PollResult) -> Parsed | None:
        """What the answer holds (nothing, where it is as before); None with the reason in the result.

        The market's figures give way to prices, and without the key's usage the node goes by its own count.
        """
        result.requests += 1
        try:
            # what the key has spent is worth a credit before anything else: the ledger stands on it
            priority = Priority.TOP if request.endpoint == KEY else Priority.REGISTRY
            receipt = await self.runtime.fetch(request, priority)
            if receipt.error is not None:
                raise receipt.error
        except UpstreamError as error:
            if request.endpoint == KEY or (request.endpoint == GLOBAL and isinstance(error, BudgetExhausted)):
                log.warning("%s: skipped: %s", self.name, error)
                result.notes.append(f"{request.endpoint} skipped: {error}")
                return None
            result.failed(error, self.runtime.clock.now_ms())
        else:
            result.slots += 1
            return receipt.parsed or Parsed(())
        result.owed += 1
        return None

    # --- the key ---

    async def _key_is_due(self, usage: KeyUsage | None) -> bool:
        """At the start and then daily; hourly where CoinGecko refused a request though we kept to our limits."""
        now = self.runtime.clock.now_ms()
        if now < month_start(month_of(now)) + HOUR_MS:
            return False
        if usage is None or not self._asked_for_key or now - usage.at >= DAY_MS:
            return True
        since = usage.at
        refused = await self.runtime.read(lambda conn: records.rate_limited_since(conn, _COINGECKO, since))
        return refused and now - usage.at >= HOUR_MS

    async def _look_at_key(self, result: PollResult) -> None:
        """Ask what was spent with the key, and raise the ledger to it."""
        parsed = await self._ask(Key().request(), result)
        if parsed is None or not parsed.rows:
            return
        now, account, said_at = (
            self.runtime.clock.now_ms(),
            spending.ACCOUNT,
            int(str(parsed.rows[0].values["updated_at"])),
        )
        if said_at < month_start(month_of(now)) + HOUR_MS:
            return  # it took so long that the month may have turned: the count may be of either
        self._asked_for_key = True
        said = json.loads(str(parsed.rows[0].values["key_usage"]))
        limit = self.runtime.upstreams[account].limits.monthly
        counted = said["calls"] if limit is None else min(said["calls"], limit)
        unknown = await self.runtime.budgets.reconcile(account, counted, month_of(said_at))
        usage = KeyUsage(at=now, unknown_calls=unknown, **said)
        if unknown:
            log.warning("coingecko counts %d calls this month, %d more than this node knows of", said["calls"], unknown)

        def save(conn: Connection) -> None:
            spending.save_usage(conn, usage, now)

        await self.runtime.write(save)

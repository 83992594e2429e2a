"""``unified-ohlc``: five-minute, hourly and daily candles of every asset the venue lists.

One request per product and pass for what is owed within the last 300 intervals (a short outage repairs itself with the
next poll); one more for each stretch of it that lies beyond bars already stored, which are not asked for again. Older
history belongs to ``crypto-data backfill``.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import ClassVar

from sqlalchemy import Connection

from ray_app.assets import Asset
from ray_app.clock import MINUTE_MS
from ray_app.collection import datasets, gaps
from ray_app.collection.collectors.base import Absences, PollResult, SlotCollector, bounded, doubtful_slots
from ray_app.collection.datasets import CANDLES, LIVE_INTERVALS, Plan, Tier, interval_of
from ray_app.collection.expectation import SlotRange, count
from ray_app.collection.ingest import Receipt
from ray_app.collection.runtime import Runtime
from ray_app.errors import UpstreamError, UpstreamRejected
from ray_app.sources.coinbase import Candles
from ray_app.storage.ledger import VENUE

log = logging.getLogger(__name__)

#: requests in flight at once; the budget spreads them in time
CONCURRENCY = 8
#: ms after which bars that an answer lacked are asked for again, if their next slot is not due before
_LATE_MS = 15 * MINUTE_MS
NO_TRADE = "the venue had no trade"


class CandleCollector(SlotCollector):
    """Candles of the venue, three intervals."""

    name: ClassVar[str] = "unified-ohlc"
    accounts: ClassVar[tuple[str, ...]] = ("coinbase",)
    datasets: ClassVar[tuple[str, ...]] = tuple(CANDLES.values())

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._absences = Absences()
        self._rests: dict[str, tuple[int, int]] = {}  # newest due slot at the last pass, ms until when it rests

    def tiers(self, conn: Connection, dataset: str, now: int) -> list[Tier]:  # noqa: ARG002 - nothing to look up
        """See :func:`ray_app.collection.datasets.candle_tiers`."""
        return datasets.candle_tiers(interval_of(dataset), self.runtime.settings, now)

    async def poll(self) -> PollResult:
        """Every product's newest bars that are due and not stored, shortest interval first."""
        result = PollResult()
        for dataset, plan in self.plans.items():
            now = self.runtime.clock.now_ms()
            newest = max((tier.schedule.newest_due(now) for tier in plan.tiers_at(now)), default=0)
            slot, until = self._rests.get(dataset, (None, 0))
            if slot == newest and now < until:
                continue
            failed, left = await self._poll(dataset, plan, now, result)
            until = now if failed else now + (_LATE_MS if left else interval_of(dataset) * 1_000)
            self._rests[dataset] = newest, until
        without = sum(1 for asset in self.runtime.registry.active() if asset.coinbase_product is None)
        if without:
            result.notes.append(f"{without} assets have no venue")
        return result

    async def _poll(self, dataset: str, plan: Plan, now: int, result: PollResult) -> tuple[int, int]:
        """One pass over a dataset: requests that failed and may do better soon, and slots that are still owed."""
        interval_s = interval_of(dataset)
        since = now - (LIVE_INTERVALS + 1) * interval_s * 1_000
        assets = self.runtime.registry.active()
        seen = await self.runtime.read(lambda conn: gaps.survey(conn, plan, assets, since, now))
        most = LIVE_INTERVALS * interval_s * 1_000
        work = [
            partial(
                self._one, dataset, part.asset, interval_s, SlotRange(max(run.start, run.end - most), run.end), result
            )
            for part in seen.owed
            for run in part.owed
        ]
        answered = await bounded(CONCURRENCY, work)
        left = 0
        if work:
            after = await self.runtime.read(
                lambda conn: gaps.survey(conn, plan, [p.asset for p in seen.owed], since, now)
            )
            left = sum(count(part.owed, interval_s) for part in after.owed)
            result.slots += sum(count(part.owed, interval_s) for part in seen.owed) - left
            result.owed += left
        return answered.count(False), left

    async def _one(self, dataset: str, asset: Asset, interval_s: int, asked: SlotRange, result: PollResult) -> bool:
        """Whether the venue has said what it has to say: a refusal counts, asking it again soon changes nothing."""
        result.requests += 1
        try:
            await candles_of(self.runtime, self._absences, dataset, asset, interval_s, asked)
        except UpstreamError as error:
            result.failed(error, self.runtime.clock.now_ms())
            return isinstance(error, UpstreamRejected)
        return True


async def candles_of(
    runtime: Runtime, absences: Absences, dataset: str, asset: Asset, interval_s: int, asked: SlotRange
) -> Receipt:
    """Ask the venue for one asset's candles in ``asked`` and record which of them do not exist.

    Raises UpstreamError when the venue did not answer with candles.
    """
    product = asset.coinbase_product
    if product is None:
        raise ValueError(f"{asset.symbol} has no venue: nobody expects candles of it")
    receipt = await runtime.fetch(Candles().request(product, interval_s, asked.start, asked.end))
    if receipt.error is not None:
        raise receipt.error
    if receipt.parsed is None:
        return receipt
    now = runtime.clock.now_ms()
    present = [int(str(row.key["open_time"])) for row in receipt.parsed.rows]
    empty = absences.judge(
        dataset, asset.asset_id, asked, interval_s * 1_000, present, doubtful_slots(receipt.parsed), now
    )
    if empty:

        def mark(conn: Connection) -> None:
            datasets.load(conn, dataset, lock=True)
            gaps.mark(conn, dataset, asset.asset_id, empty, gaps.CONFIRMED_EMPTY, f"{VENUE}: {NO_TRADE}", now)

        await runtime.write(mark)
    return receipt

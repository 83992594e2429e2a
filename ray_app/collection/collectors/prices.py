"""``crypto-prices``: the price of every asset once per slot; the first ranks every five minutes, the rest hourly.

CoinGecko answers 250 assets per request. When it does not answer, Coinbase's exchange rates give the price (and only
the price) of every asset with a product, in one request. Slots that were missed altogether are repaired from the
past in the background, newest first: from five-minute venue candles, or from CoinGecko's chart of the coin as far as
the month's credits allow. Columns that history cannot give stay NULL.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from sqlalchemy import Connection

from ray_app.assets import Asset
from ray_app.clock import DAY_MS, HOUR_MS
from ray_app.collection import datasets, gaps, spending
from ray_app.collection.budget_rules import Priority, month_of
from ray_app.collection.collectors.base import (
    TOLERANCE_MS,
    Absences,
    PollResult,
    SlotCollector,
    bounded,
    doubtful_slots,
)
from ray_app.collection.datasets import PRICES, Tier
from ray_app.collection.expectation import SlotRange, each_slot, from_slots, intersect, newest_first
from ray_app.collection.ingest import Receipt
from ray_app.collection.planner import Decision
from ray_app.collection.runtime import Runtime
from ray_app.errors import BudgetExhausted, UpstreamError, UpstreamRejected
from ray_app.sources.base import Request
from ray_app.sources.coinbase import MAX_CANDLES, ExchangeRates, PriceCandles
from ray_app.sources.coingecko import Markets
from ray_app.sources.coingecko_base import MAX_IDS
from ray_app.sources.coingecko_charts import MarketChart
from ray_app.storage import ledger, outbox

log = logging.getLogger(__name__)

#: how long a consumer may stay away and still resume without a gap (docs/streams.md), ms
EVENTS_KEPT_MS = 3 * DAY_MS
#: repairs in flight at once; they share the venue's budget with the candle collector
REPAIRS = 4
#: a bar is asked for as a price this long after its close, ms
_CLOSE_LAG_MS = 60_000
#: how far back CoinGecko gives points of an interval without a paid plan, ms (API reference of market_chart/range)
_FINE_REACH_MS, _HOURLY_REACH_MS = DAY_MS, 90 * DAY_MS
#: ms between two looks at whether the month's credits still carry the schedules
_LOOK_AT_CREDITS_MS = HOUR_MS


@dataclass(frozen=True, slots=True)
class Piece:
    """One repair request: slots of one asset."""

    asset: Asset
    interval_s: int
    slots: SlotRange


class PriceCollector(SlotCollector):
    """Prices of all active assets, by tier."""

    name: ClassVar[str] = "crypto-prices"
    accounts: ClassVar[tuple[str, ...]] = ("coingecko", "coinbase", "coinbase-v2")
    datasets: ClassVar[tuple[str, ...]] = (PRICES,)

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.repairs_are = Priority.REPAIR
        self._absences = Absences()
        self._resting: dict[int, int] = {}  # asset whose repair was refused, ms until when it is not asked for again
        self._no_charts_until = 0  # ms: the month's credits are needed for other things
        self._decision: Decision | None = None
        self._looked_at_credits = 0  # ms
        self._spent = (0, 0)  # month, credits
        self._starting = True

    async def prepare(self) -> None:
        """Decide what the month's credits carry, if that is due, and declare the schedules that follow from it."""
        before, self._looked_at_credits = self._decision, self.runtime.clock.now_ms()
        self._starting = before is None
        month = month_of(self._looked_at_credits)
        self._spent = (month, await asyncio.to_thread(self.runtime.budgets.spent, spending.ACCOUNT))
        await super().prepare()
        if self._decision is not None and self._decision != before:
            _tell(self._decision)

    def tiers(self, conn: Connection, dataset: str, now: int) -> list[Tier]:  # noqa: ARG002 - one dataset
        """See :func:`ray_app.collection.datasets.price_tiers`; at the intervals that the month's credits carry."""
        active, settings = self.runtime.registry.active(), self.runtime.settings
        limits = self.runtime.upstreams[spending.ACCOUNT].limits
        month, spent = self._spent
        if month != month_of(now):  # it has turned since: what the old month spent is not the new one's
            spent = 0
        decision = spending.settle(conn, len(active), settings, limits, spent, now, starting=self._starting)
        self._decision = decision
        return datasets.price_tiers(active, settings, now, spending.price_intervals(decision))

    async def track(self) -> None:
        """The ledger; and events that no reader resumes from any more leave the outbox."""
        await super().track()
        before = self.runtime.clock.now_ms() - EVENTS_KEPT_MS
        while await self.runtime.write(lambda conn: outbox.prune(conn, before)):
            pass

    # --- the slot that is open now ---

    async def poll(self) -> PollResult:
        """Ask for the open slot of each tier, as far as it is due and not stored."""
        result = PollResult()
        now = self.runtime.clock.now_ms()
        decision = self._decision
        if decision is not None and (
            month_of(now) != decision.month or now - self._looked_at_credits >= _LOOK_AT_CREDITS_MS
        ):
            await self.prepare()
        plan = self.plans.get(PRICES)
        if plan is None:
            return result
        for place, tier in enumerate(plan.tiers_at(now)):
            slot = tier.schedule.slot_of(now)
            if slot < tier.valid_from or tier.schedule.newest_due(now) != slot:
                continue  # its jitter has not passed; an earlier slot is history, which a poll cannot give
            await self._poll(tier, slot, result, Priority.REST if place else Priority.TOP)
        if result.retry_at is not None and not result.owed:
            result.retry_at = None  # the fallback has filled the slots; CoinGecko is asked again with the next one
        return result

    async def _poll(self, tier: Tier, slot: int, result: PollResult, priority: Priority) -> None:
        interval_s = tier.schedule.interval_s
        missing = await self._missing(tier, slot)
        if not missing:
            return
        for start in range(0, len(missing), MAX_IDS):
            ids = [asset.coin_id for asset in missing[start : start + MAX_IDS]]
            await self._try(result, Markets().request(ids, slot, interval_s), priority)
        left = await self._missing(tier, slot)
        products = [asset.coinbase_product for asset in left if asset.coinbase_product is not None]
        if products:  # CoinGecko did not answer, or left them out; one request serves all of them
            fallback = ExchangeRates().request("USD", products=products, slot=slot, interval_s=interval_s)
            if await self._try(result, fallback, priority) is not None:
                result.notes.append(f"{len(products)} assets asked from {ExchangeRates.name} instead")
            left = await self._missing(tier, slot)
        result.slots += len(missing) - len(left)
        result.owed += len(left)

    async def _try(self, result: PollResult, request: Request, priority: Priority) -> Receipt | None:
        """A usable answer, or None with the reason in the result."""
        result.requests += 1
        try:
            receipt = await self.runtime.fetch(request, priority)
            if receipt.error is not None:
                raise receipt.error
        except UpstreamError as error:
            log.warning("%s: %s", self.name, error)
            result.failed(error, self.runtime.clock.now_ms())
            return None
        return receipt

    async def _missing(self, tier: Tier, slot: int) -> list[Asset]:
        """Assets of the tier without any row in the slot, by rank."""
        interval_s = tier.schedule.interval_s
        members = [asset for asset in self.runtime.registry.active() if tier.holds(asset)]
        end = slot + tier.schedule.interval_ms
        stored = await self.runtime.read(
            lambda conn: ledger.stored_ranges(conn, PRICES, [a.asset_id for a in members], interval_s, slot, end)
        )
        return [asset for asset in members if asset.asset_id not in stored]

    # --- the past ---

    async def repair(self) -> None:
        """Fill what the ledger says is owed, newest first; say of the rest why it cannot be filled."""
        plan = self.plans.get(PRICES)
        if plan is None:
            return
        now = self.runtime.clock.now_ms()
        rows = await self.runtime.read(lambda conn: ledger.entries(conn, PRICES, states=(gaps.OWED,)))
        if not rows:
            return
        since = min(row.start for row in rows)
        owing = {row.asset_id for row in rows}
        assets = [asset for asset in self.runtime.registry.assets if asset.asset_id in owing]
        seen = await self.runtime.read(lambda conn: gaps.survey(conn, plan, assets, since, now - TOLERANCE_MS))
        if await self.repair_all(seen):
            await self.track()

    async def repair_all(self, seen: gaps.Survey[Asset]) -> int:
        """Work off what a survey says is owed, newest first; how many requests that took."""
        pieces = await self._pieces(seen, self.runtime.clock.now_ms())
        if pieces:
            log.info("%s: %d repair requests for %d assets", self.name, len(pieces), len(seen.owed))
        await bounded(REPAIRS, (partial(self._repair_one, piece) for piece in pieces))
        return len(pieces)

    async def _pieces(self, seen: gaps.Survey[Asset], now: int) -> list[Piece]:
        """The requests that can repair what is owed, newest first; marks what none can."""
        pieces: list[Piece] = []
        for part in seen.owed:
            granularity_s = candle_for(part.interval_s)
            if part.asset.coinbase_product is not None and granularity_s is not None:
                # slots whose first bar has closed
                ready = intersect(part.owed, [SlotRange(0, now - granularity_s * 1_000 - _CLOSE_LAG_MS)])
                per_request = max(MAX_CANDLES * granularity_s // part.interval_s, 1)
            else:
                step = part.interval_s * 1_000
                reach = (_HOURLY_REACH_MS if part.interval_s % 3_600 == 0 else _FINE_REACH_MS) - step
                first = -(-(now - reach) // step) * step  # whole slots only: half a slot is none
                ready = intersect(part.owed, [SlotRange(first, now - step)])
                too_old = intersect(part.owed, [SlotRange(0, first)])
                await self._give_up(
                    part.asset, too_old, f"no venue, and CoinGecko gives {part.interval_s} s prices no further back"
                )
                per_request = _FINE_REACH_MS // step
            if self._resting.get(part.asset.asset_id, 0) > now:
                continue
            pieces += [
                Piece(part.asset, part.interval_s, piece) for piece in newest_first(ready, part.interval_s, per_request)
            ]
        return sorted(pieces, key=lambda piece: -piece.slots.end)

    async def _repair_one(self, piece: Piece) -> None:
        if self._resting.get(piece.asset.asset_id, 0) > self.runtime.clock.now_ms():
            return  # refused a moment ago
        try:
            if piece.asset.coinbase_product is not None and candle_for(piece.interval_s) is not None:
                await self._from_candles(piece, piece.asset.coinbase_product)
            elif self._no_charts_until <= self.runtime.clock.now_ms():
                await self._from_chart(piece)
        except UpstreamRejected as error:  # again and again it would eat the credits that other repairs need
            self._resting[piece.asset.asset_id] = self.runtime.clock.now_ms() + DAY_MS
            log.warning("%s: repair of %s waits for a day: %s", self.name, piece.asset.symbol, error)
        except UpstreamError as error:
            if isinstance(error, BudgetExhausted) and error.endpoint == MarketChart.name:
                self._no_charts_until = error.until_ms
            log.warning("%s: repair of %s waits: %s", self.name, piece.asset.symbol, error)

    async def _from_candles(self, piece: Piece, product: str) -> None:
        granularity_s = candle_for(piece.interval_s)
        assert granularity_s is not None  # noqa: S101 - the caller looked
        # the last slot needs its first bar only
        end = piece.slots.end - (piece.interval_s - granularity_s) * 1_000
        receipt = await self.runtime.fetch(PriceCandles().request(product, granularity_s, piece.slots.start, end))
        if receipt.error is not None:
            raise receipt.error
        if receipt.parsed is None:
            return
        step = granularity_s * 1_000
        present = [int(str(row.key["slot"])) for row in receipt.parsed.rows]
        doubtful = doubtful_slots(receipt.parsed)
        asked = SlotRange(piece.slots.start, end)
        empty = self._absences.judge(
            PRICES, piece.asset.asset_id, asked, step, present, doubtful, self.runtime.clock.now_ms()
        )
        slots = [slot for slot in each_slot(empty, granularity_s) if slot % (piece.interval_s * 1_000) == 0]
        await self._give_up(piece.asset, from_slots(slots, piece.interval_s), "no trade in the interval")

    async def _from_chart(self, piece: Piece) -> None:
        request = MarketChart().request(piece.asset.coin_id, piece.slots.start, piece.slots.end, piece.interval_s)
        receipt = await self.runtime.fetch(request, self.repairs_are)
        if receipt.error is not None:
            raise receipt.error
        if receipt.parsed is None:
            return
        present = [int(str(row.key["slot"])) for row in receipt.parsed.rows]
        step, now = piece.interval_s * 1_000, self.runtime.clock.now_ms()
        # a chart may be cut short as a page of candles may
        empty = self._absences.judge(PRICES, piece.asset.asset_id, piece.slots, step, present, (), now)
        # CoinGecko caches charts for minutes: what is recent may still come
        recent = now - 2 * step - _CLOSE_LAG_MS
        settled = [SlotRange(0, recent - recent % step)]
        await self._give_up(piece.asset, intersect(empty, settled), "CoinGecko has no price in the interval")

    async def _give_up(self, asset: Asset, ranges: Sequence[SlotRange], reason: str) -> None:
        if not ranges:
            return
        now = self.runtime.clock.now_ms()

        def mark(conn: Connection) -> None:
            datasets.load(conn, PRICES, lock=True)
            gaps.mark(conn, PRICES, asset.asset_id, ranges, gaps.UNREPAIRABLE, reason, now)

        await self.runtime.write(mark)
        log.info("%s: %s: %d ranges cannot be repaired: %s", self.name, asset.symbol, len(ranges), reason)


def _tell(decision: Decision) -> None:
    """Say what the month's credits carry."""
    of = "no monthly limit" if decision.limit is None else f"{decision.spent} of {decision.limit} credits spent"
    if not decision.fits:
        log.warning(
            "coingecko, %d: %s: they do not last the month; the first ranks have them longest", decision.month, of
        )
    elif thinned := decision.thinned():
        log.warning("coingecko, %d: %s: less often than wanted: %s", decision.month, of, "; ".join(thinned))
    else:
        log.info("coingecko, %d: %s: everything is asked for as often as wanted", decision.month, of)


def candle_for(interval_s: int) -> int | None:
    """The candle (seconds) whose close stands for a missed price slot: one that opens with the slot and fits in it."""
    return next((g for g in (300, 60) if interval_s % g == 0), None)

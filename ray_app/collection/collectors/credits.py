"""What of a month's CoinGecko credits is left for anything but the live prices. Prices come first, always."""

from __future__ import annotations

import asyncio
import math

from ray_app.clock import DAY_MS
from ray_app.collection.budget_rules import month_of, month_start, next_month
from ray_app.collection.runtime import Runtime
from ray_app.collection.upstreams import needed

#: "every so many hours" that stands for "never" in :func:`ray_app.collection.upstreams.needed`
_NEVER_H = 1_000_000


async def spare_credits(runtime: Runtime) -> float:
    """Credits that may be spent on repairs and side figures without taking them from this month's price polls."""
    forecast = await asyncio.to_thread(runtime.budgets.forecast, "coingecko")
    if forecast.limit is None:
        return math.inf
    now = runtime.clock.now_ms()
    days_left = (next_month(now) - now) / DAY_MS
    assets = len(runtime.registry.active())
    days = max(round((next_month(now) - month_start(month_of(now))) / DAY_MS), 1)
    a_day = needed(assets, runtime.settings, days=days, global_every_h=_NEVER_H) / days
    return forecast.limit - forecast.spent - a_day * days_left

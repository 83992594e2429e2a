"""What the CoinGecko account is to spend its month on: the wanted work, the decision in the database, the forecast.

The rules are in :mod:`ray_app.collection.planner`. The decision lies in ``account_plans``, beside what the upstream
last said of the key; the price collector makes it under its lease, and everybody reads it.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, replace

from sqlalchemy import Connection

from ray_app.assets import AssetRegistry
from ray_app.collection import planner
from ray_app.collection.budget_rules import Limits, Priority
from ray_app.collection.datasets import CANDLES, wanted_price_intervals
from ray_app.collection.planner import Decision, Forecast, Work, stretched
from ray_app.collection.upstreams import FREE_PLANS, coingecko_plan
from ray_app.settings import Settings
from ray_app.sources import ENDPOINTS
from ray_app.storage import records

ACCOUNT = "coingecko"
TOP, REST, GLOBAL = "prices of the first ranks", "prices of the other ranks", "the market's figures"
_LISTS = "the list of coins"
_HOUR_S, _DAY_S = 3_600, 86_400
#: node hours between two looks at the whole market: every two hours would take 76 credits too many in 31 days
_GLOBAL_S = (3 * _HOUR_S, 6 * _HOUR_S, 12 * _HOUR_S, _DAY_S, 7 * _DAY_S)
#: seconds after a slot's beginning by which it has been asked for: its grace and jitter (datasets.py, registry.py), and
#: a while for the asking
_PRICES_LATE_S, _LISTS_LATE_S, _GLOBAL_LATE_S = 60, _HOUR_S, 180
_PER_REQUEST = 250


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """What ``GET /key`` said at ``at`` ms: credits and rate of the plan (None: not said), credits counted this month.

    ``unknown_calls``: of these, how many the ledger did not know of.
    """

    at: int
    plan: str | None
    calls: int
    credits: int | None
    per_minute: int | None
    unknown_calls: int = 0


def wanted(assets: int, settings: Settings) -> list[Work]:
    """The work that the settings ask of CoinGecko for so many assets, by rank of priority."""
    top_s, rest_s = wanted_price_intervals(settings)
    top = assets if top_s == rest_s else min(assets, settings.price_fast_ranks)
    top_calls, rest_calls = -(-top // _PER_REQUEST), -(-(assets - top) // _PER_REQUEST)
    works = [Work(TOP, Priority.TOP, top_calls, stretched(top_s, _HOUR_S), slotted=True, late_s=_PRICES_LATE_S)]
    if rest_calls:
        rest = stretched(rest_s, _DAY_S)
        works.append(Work(REST, Priority.REST, rest_calls, rest, slotted=True, late_s=_PRICES_LATE_S))
    works.append(Work(_LISTS, Priority.REGISTRY, 1, (_DAY_S,), late_s=_LISTS_LATE_S))
    works.append(Work(GLOBAL, Priority.REGISTRY, 1, _GLOBAL_S, late_s=_GLOBAL_LATE_S))
    return works


def price_intervals(decision: Decision) -> tuple[int, int]:
    """Seconds between two prices of the first ranks, and of the others."""
    top = decision.interval_of(TOP) or _DAY_S
    return top, decision.interval_of(REST) or top


def carried_limits(limits: Limits, usage: KeyUsage | None) -> Limits:
    """The limits that plans are made for: no more than the upstream says the key has."""
    if usage is not None and usage.credits is not None:
        limits = replace(limits, monthly=min(usage.credits, limits.monthly or usage.credits))
    if usage is not None and usage.per_minute is not None and usage.per_minute * limits.per_s / 60 < limits.requests:
        limits = replace(limits, requests=max(int(usage.per_minute * limits.per_s / 60), limits.lanes))
    return limits


def load(conn: Connection, *, lock: bool = False) -> tuple[Decision | None, KeyUsage | None]:
    """The decision in force and the last reading of the key; None: there is none yet."""
    decision, usage = records.account_plan(conn, ACCOUNT, lock=lock)
    return (
        Decision.load(decision) if decision is not None else None,
        KeyUsage(**json.loads(usage)) if usage is not None else None,
    )


def _stored(conn: Connection, settings: Settings, *, lock: bool = False) -> tuple[Decision | None, KeyUsage | None]:
    """As :func:`load`, without what was said of a key that is not used any more."""
    decision, usage = load(conn, lock=lock)
    return decision, None if coingecko_plan(settings) in FREE_PLANS else usage


def settle(
    conn: Connection, assets: int, settings: Settings, limits: Limits, spent: int, now: int, *, starting: bool
) -> Decision:
    """Decide anew where that is due, in a write transaction; the decision in force."""
    before, usage = _stored(conn, settings, lock=True)
    decision = planner.reconsider(
        before,
        wanted(assets, settings),
        carried_limits(limits, usage),
        spent,
        now,
        starting=starting,
        spread=settings.budget_planner,
    )
    if decision is not before:
        records.save_account_plan(conn, ACCOUNT, now, decision=decision.dump())
    return decision


def in_force(conn: Connection, assets: int, settings: Settings, limits: Limits, spent: int, now: int) -> Decision:
    """The decision in force; where nobody has made one yet, the one that would be made now."""
    decision, usage = _stored(conn, settings)
    if decision is not None:
        return decision
    limits = carried_limits(limits, usage)
    return planner.decide(wanted(assets, settings), limits, spent, now, spread=settings.budget_planner)


def reserve(decision: Decision, limits: Limits, priority: Priority, now: int) -> int:
    """Credits that a request of this priority must leave: for what goes before it, and what the key does not have."""
    beyond = (limits.monthly or 0) - (decision.limit if decision.limit is not None else limits.monthly or 0)
    return max(beyond, 0) + planner.reserve(decision, priority, now)


def save_usage(conn: Connection, usage: KeyUsage, now: int) -> None:
    """Keep what the upstream said of the key."""
    records.account_plan(conn, ACCOUNT, lock=True)
    records.save_account_plan(conn, ACCOUNT, now, key_usage=json.dumps(asdict(usage), separators=(",", ":")))


# --- where the months are heading -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outlook:
    """An account's month. ``thinned``: what is done less often than wanted, in words; ``advice``: what to do about it.

    ``remarks``: what the upstream says of the key that is not as we assume.
    """

    forecast: Forecast
    thinned: tuple[str, ...] = ()
    advice: str | None = None
    remarks: tuple[str, ...] = ()


_ADVICE = (
    "a larger plan (COINGECKO_PLAN, COINGECKO_API_KEY), fewer PRICE_FAST_RANKS or a longer PRICE_COLLECTION_INTERVAL"
)


def outlook(
    conn: Connection, account: str, registry: AssetRegistry, settings: Settings, limits: Limits, spent: int, now: int
) -> Outlook:
    """Where the account's month is heading, from what is declared and what is spent."""
    if account != ACCOUNT:
        works = _venue(registry) if account == "coinbase" else _feeds(account, settings, registry)
        return Outlook(planner.forecast(account, limits.monthly, spent, now, planner.decide(works, limits, spent, now)))
    decision = in_force(conn, len(registry.active()), settings, limits, spent, now)
    _, usage = _stored(conn, settings)
    carried = carried_limits(limits, usage)
    seen = planner.forecast(account, carried.monthly, spent, now, decision)
    thinned = tuple(decision.thinned())
    needy = bool(thinned) or seen.runs_out_at is not None
    return Outlook(seen, thinned, _ADVICE if needy else None, tuple(_remarks(limits, usage)))


def _venue(registry: AssetRegistry) -> list[Work]:
    """What the schedules ask of the exchange: one request per product and bar, and the products once a day."""
    products = sum(1 for asset in registry.active() if asset.coinbase_product is not None)
    works = [Work(name, Priority.TOP, products, (interval_s,)) for interval_s, name in CANDLES.items()]
    return [*works, Work("products", Priority.REGISTRY, 1, (_DAY_S,))]


def _feeds(account: str, settings: Settings, registry: AssetRegistry) -> list[Work]:
    """What the feeds of the account ask for: of each dataset and interval the first page of every feed."""
    from ray_app.collection.catalogue import CATALOGUE

    asked: Counter[tuple[str, int]] = Counter()
    for dataset, feeds in CATALOGUE.items():
        asked.update((dataset, feed.interval_s) for feed in feeds(settings, registry) if feed.account == account)
    cost = max((one.cost for one in ENDPOINTS.values() if one.account == account), default=1)
    return [Work(dataset, Priority.REST, count * cost, (every,)) for (dataset, every), count in sorted(asked.items())]


def _remarks(limits: Limits, usage: KeyUsage | None) -> list[str]:
    if usage is None:
        return []
    found = []
    if usage.unknown_calls:
        found.append(f"others have spent {usage.unknown_calls} credits with this key since the look before")
    if limits.monthly is not None and limits.monthly <= usage.calls < (usage.credits or 0):
        found.append(
            f"{usage.calls} calls of the key's {usage.credits} are made, and COINGECKO_MONTHLY_LIMIT={limits.monthly} "
            "counts those of others too: raise it to go on"
        )
    if usage.credits is not None and limits.monthly is not None and usage.credits < limits.monthly:
        found.append(f"the key has {usage.credits} credits a month, not {limits.monthly}: set COINGECKO_PLAN")
    if usage.per_minute is not None and usage.per_minute < limits.requests / limits.per_s * 60:
        found.append(f"the key allows {usage.per_minute} requests a minute: set COINGECKO_REQUESTS_PER_MINUTE below it")
    return found

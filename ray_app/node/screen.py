"""What ``crypto-data up`` says: one screen, and lines as things happen."""

from __future__ import annotations

from collections.abc import Mapping

from ray_app.node.plan import Plan
from ray_app.settings import Settings

_WIDTH = 100


def banner(plan: Plan) -> list[str]:
    """The origin of the data, so that nobody can take simulated prices for real ones."""
    choice, replay, time_scale = plan.choice, plan.options.replay, plan.options.time_scale
    if choice.origin == "live":
        return [f"data        LIVE upstreams ({choice.reason})"]
    market = f"a replay of {replay.name}" if replay else "a generated market"
    lines = [
        "SANDBOX — EVERY PRICE ON THIS NODE IS SIMULATED",
        f"{market}, node time {'as the wall clock' if time_scale == 1 else f'{time_scale:g} times as fast'}",
        f"why: {choice.reason}" + (" (--upstream live insists on live data)" if choice.fallback else ""),
    ]
    bar = "█" * _WIDTH
    return [bar, *(f"██ {line:<{_WIDTH - 6}} ██" for line in lines), bar]


def overview(plan: Plan, where: str, assets: int, new_keys: Mapping[str, str]) -> list[str]:
    """What runs where, the keys on the first start, what is off and why."""
    settings, head, url = plan.settings, plan.head, plan.options.url
    lines = [
        f"API         {url}          try: curl -H 'Authorization: Bearer KEY' {url}/api/v1/prices/current/BTC",
        f"docs        {url}/docs",
        f"stream      {url.replace('http', 'ws', 1)}/ws/prices",
        f"dashboard   {head.dashboard_url}          log in with the token in {head.token_file}",
        f"data        {settings.state_dir.absolute()}",
        f"database    {where}",
        f"assets      {assets}",
        f"logs        {head.temp_dir}/session_latest/logs, {head.run_dir.absolute()}/*.log",
    ]
    if new_keys:
        lines.append(f"keys        shown this once, kept in {settings.keys_file.absolute()} (mode 0600):")
        lines += [f"              {level:<9} {key}" for level, key in sorted(new_keys.items())]
    else:
        lines.append(f"keys        in {settings.keys_file.absolute()}; more: crypto-data keys create")
    lines += [f"off         {line}" for line in switched_off(settings)]
    return lines


def switched_off(settings: Settings) -> list[str]:
    """Every optional feature that is off, and what switches it on."""
    off = []
    if settings.resolved_redis_url is None:
        off.append("Redis publishing: no REDIS_URL or REDIS_HOST (--redis-url)")
    if settings.coingecko_api_key is None and settings.origin == "live":
        off.append(
            f"CoinGecko key: keyless plan; the first {settings.price_fast_ranks} assets every "
            f"{settings.price_interval_s} s, the rest hourly, or what its credits carry (COINGECKO_API_KEY)"
        )
    if not settings.cors_origins:
        off.append("CORS: no web page of another origin may call the API (CORS_ORIGINS)")
    return off

"""The upstream accounts: where they are, how to authenticate, what they allow. Built from the settings.

How a month of keyless CoinGecko (10,000 credits) is spent, in 31 days:

===========================================================  =======
top 250 by rank, one ``/coins/markets`` call per 5 minutes     8,928
the rest of the registry, one call an hour                       744
``/coins/list`` daily, ``/global`` every 3 hours                 279
left for repairs and retries                                      49
===========================================================  =======

A registry of more than 500 active assets (two calls an hour) does not fit: what the plan cannot carry is asked for less
often (collection/planner.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from ray_app.collection.accounts import ACCOUNTS, Account, disabled, limits_of_account, secret_of, variable_of
from ray_app.collection.budget_rules import Limits
from ray_app.errors import ConfigError
from ray_app.settings import LIVE_TICKS, Settings
from ray_app.sources import rss


@dataclass(frozen=True, slots=True)
class Upstream:
    """One account. ``headers`` and ``query`` authenticate it and are secret: they never print; the transport alone
    sends them. ``client``: id and secret that are exchanged for a bearer token (OAuth). ``urls``: whole addresses of
    single paths, where they are not below ``base_url``. ``disabled``: why it cannot be asked, and what to do.
    ``many_hosts``: every path is another upstream.
    """  # noqa: D205 - one sentence after the other

    account: str
    base_url: str
    headers: Mapping[str, str] = field(repr=False)
    limits: Limits
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    client: tuple[str, str] | None = field(default=None, repr=False)
    urls: Mapping[str, str] = field(default_factory=dict)
    disabled: str | None = None
    many_hosts: bool = False


PUBLIC_COINGECKO = "https://api.coingecko.com/api/v3"
PAID_COINGECKO = "https://pro-api.coingecko.com/api/v3"
_PUBLIC_HOSTS = frozenset(
    {"api.coingecko.com", "pro-api.coingecko.com", "api.exchange.coinbase.com", "api.coinbase.com"}
    | {urlsplit(account.url).hostname for account in ACCOUNTS if account.url}
    | {urlsplit(LIVE_TICKS).hostname}
)

#: What each CoinGecko plan allows. Each rate is 90 % of the documented one or less, so that clocks that differ a
#: little and requests of other tools on the same key do no harm. Unverified figures (upstreams.md §1 confirms
#: demo 30 a minute and 10,000 a month, 500 to 1,000 a minute by paid plan, analyst 500,000 a month) are marked;
#: COINGECKO_REQUESTS_PER_MINUTE and COINGECKO_MONTHLY_LIMIT override them.
COINGECKO_PLANS: dict[str, Limits] = {
    # unverified: keyless calls share an unpublished limit per address (5 to 15 a minute) and have no month;
    # we hold ourselves to the demo plan's, so that adding a demo key changes nothing
    "keyless": Limits(10, 60.0, lanes=5, monthly=10_000),
    "demo": Limits(27, 60.0, lanes=9, monthly=10_000),
    "analyst": Limits(450, 60.0, lanes=10, monthly=500_000),
    "lite": Limits(450, 60.0, lanes=10, monthly=2_000_000),  # month unverified
    "pro": Limits(900, 60.0, lanes=20, monthly=5_000_000),  # unverified
    "enterprise": Limits(900, 60.0, lanes=20, monthly=None),  # by contract: set both variables
}

#: 10 requests a second and address [unverified]; a 429 of the exchange means seconds, not minutes
COINBASE_EXCHANGE = Limits(8, 1.0, lanes=8, pause_s=5.0)
#: 10,000 requests an hour and address [unverified] are 2.7 a second
COINBASE_V2 = Limits(2, 1.0, lanes=2, pause_s=60.0)


#: nobody can ask CoinGecko what was spent with these
FREE_PLANS = frozenset({"keyless", "demo"})


def coingecko_plan(settings: Settings) -> str:
    """The plan in use: the one set, else keyless without a key and demo with one."""
    return settings.coingecko_plan or ("demo" if settings.coingecko_api_key is not None else "keyless")


def coingecko_limits(settings: Settings) -> Limits:
    """The plan's limits with the operator's own numbers in their place."""
    limits = COINGECKO_PLANS[coingecko_plan(settings)]
    if settings.coingecko_requests_per_minute is not None:
        requests = settings.coingecko_requests_per_minute
        limits = replace(limits, requests=requests, lanes=min(limits.lanes, requests))
    if settings.coingecko_monthly_limit is not None:
        limits = replace(limits, monthly=settings.coingecko_monthly_limit)
    return limits


def build_upstreams(settings: Settings) -> dict[str, Upstream]:
    """Every account by name: ``coingecko``, ``coinbase`` (exchange), ``coinbase-v2``."""
    plan = coingecko_plan(settings)
    free = plan in FREE_PLANS
    headers: dict[str, str] = {}
    if settings.coingecko_api_key is not None and plan != "keyless":
        header = "x-cg-demo-api-key" if free else "x-cg-pro-api-key"
        headers[header] = _header_value(settings.coingecko_api_key.get_secret_value())
    coingecko_url = settings.coingecko_base_url or (PUBLIC_COINGECKO if free else PAID_COINGECKO)
    accounts = (
        Upstream("coingecko", coingecko_url, headers, coingecko_limits(settings)),
        Upstream("coinbase", settings.coinbase_exchange_base_url, {}, COINBASE_EXCHANGE),
        Upstream("coinbase-v2", settings.coinbase_api_base_url, {}, COINBASE_V2),
    )
    every = (*accounts, *(_upstream(account, settings) for account in ACCOUNTS))
    return {upstream.account: replace(upstream, base_url=upstream.base_url.rstrip("/")) for upstream in every}


def _upstream(account: Account, settings: Settings) -> Upstream:
    own = settings.upstream_urls.get(account.name)
    simulated = f"{settings.sandbox_url}/{account.name}" if settings.sandbox_url is not None else ""
    base_url = own or simulated or ("" if settings.origin == "sandbox" else account.url)
    headers, query = dict(account.headers), {}
    client: tuple[str, str] | None = None
    secret = secret_of(account, settings)
    if secret is not None:
        kind, _, name = account.key_in.partition(":")
        value = _header_value(secret, variable_of(account))
        if kind == "query":
            query[name] = value
        elif kind == "bearer":
            headers["Authorization"] = f"Bearer {value}"
        elif settings.reddit_client_secret is not None:
            client = (value, _header_value(settings.reddit_client_secret.get_secret_value(), variable_of(account)))
    if account.name == "reddit":
        headers["User-Agent"] = settings.reddit_user_agent
    # a feed is an address of its own; simulated, and at an address of the operator's, they lie below one
    urls = rss.URLS if account.name == "rss" and not base_url else {}
    reason = disabled(account, settings, base_url)
    return Upstream(
        account.name,
        base_url,
        headers,
        limits_of_account(account, settings),
        query,
        client,
        urls,
        disabled=reason,
        many_hosts=account.many_hosts,
    )


def refuse_live_upstreams(settings: Settings, upstreams: Mapping[str, Upstream]) -> None:
    """ConfigError if a sandbox's settings lead to a public upstream: its data and simulated ones must never mix."""
    if settings.origin != "sandbox":
        return
    for url in (*(upstream.base_url for upstream in upstreams.values()), settings.ticks_url or ""):
        if urlsplit(url).hostname in _PUBLIC_HOSTS:
            raise ConfigError(
                f"the data of {settings.data_dir} are the sandbox's, and {url} is not the sandbox: "
                "start the node (crypto-data up --upstream sandbox), or name a sandbox of your own in "
                "COINGECKO_BASE_URL, COINBASE_EXCHANGE_BASE_URL, COINBASE_API_BASE_URL and COINBASE_WS_URL"
            )


def pays(upstream: Upstream) -> bool:
    """Whether its requests carry a paid key of CoinGecko, which can be asked for what was spent with it."""
    return "x-cg-pro-api-key" in upstream.headers


def _header_value(key: str, variable: str = "COINGECKO_API_KEY") -> str:
    """The key as a header can carry it; the error does not quote it."""
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(f"{variable} holds a space, line break or non-ASCII character; copy it again")
    return key


def limits_of(upstreams: Mapping[str, Upstream]) -> dict[str, Limits]:
    """What :class:`~ray_app.collection.budget.BudgetAuthority` takes."""
    return {account: upstream.limits for account, upstream in upstreams.items()}

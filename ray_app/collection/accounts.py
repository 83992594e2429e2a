"""The accounts of the sources beside CoinGecko and Coinbase, as data: where, how much, and what opens them.

Every figure is below what the upstream documents or what was observed (upstreams.md); where nothing is documented it is
modest. A quota a day is a window of a day: one request each few minutes, never a burst that eats the day.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pydantic import SecretStr

from ray_app.collection.budget_rules import Limits
from ray_app.settings import Settings

_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Account:
    """One upstream account.

    ``key``: the setting that holds its key, and ``key_in`` where it is sent: ``query:NAME``, ``header:NAME``,
    ``bearer`` or ``oauth`` (client id and secret are exchanged for a token). ``optional``: it works without, too.
    """

    name: str
    url: str
    limits: Limits
    key: str | None = None
    key_in: str = ""
    optional: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    #: every path is another upstream: what one of them says (slow down, not from there) is of no other
    many_hosts: bool = False


#: what X takes for one post read [2026, unverified]
X_USD_PER_POST: Final = 0.005
#: Yahoo refuses what does not look like a browser
_BROWSER: Final = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0"}

ACCOUNTS: Final[tuple[Account, ...]] = (
    Account("fred", "https://api.stlouisfed.org/fred", Limits(60, 60.0), "fred_api_key", "query:api_key"),
    Account("yahoo", "https://query1.finance.yahoo.com", Limits(20, 60.0), headers=_BROWSER),
    # each feed is another host, asked once in a quarter of an hour: the limit only spreads them
    Account("rss", "", Limits(240, 60.0, lanes=8), many_hosts=True),
    Account(
        "guardian",
        "https://content.guardianapis.com",
        Limits(450, _DAY_S, lanes=3),
        "guardian_api_key",
        "query:api-key",
    ),
    Account(
        "cryptopanic",
        "https://cryptopanic.com/api",
        Limits(90, _DAY_S),
        "cryptopanic_api_key",
        "query:auth_token",
    ),
    Account("reddit", "https://oauth.reddit.com", Limits(60, 60.0, lanes=2), "reddit_client_id", "oauth"),
    Account("x", "https://api.x.com/2", Limits(20, 60.0), "twitter_bearer_token", "bearer"),
    Account("coinmetrics", "https://community-api.coinmetrics.io/v4", Limits(8, 6.0, lanes=2)),
    Account("blockchain_com", "https://api.blockchain.info", Limits(5, 60.0)),
    Account("mempool", "https://mempool.space/api", Limits(20, 60.0)),
    Account(
        "etherscan", "https://api.etherscan.io/v2", Limits(2, 1.0, pause_s=5.0), "etherscan_api_key", "query:apikey"
    ),
    Account(
        "blockchair",
        "https://api.blockchair.com",
        Limits(1_200, _DAY_S, lanes=2),
        "blockchair_api_key",
        "query:key",
        optional=True,
    ),
    Account("defillama", "https://api.llama.fi", Limits(30, 60.0, lanes=2)),
    Account("stablecoins", "https://stablecoins.llama.fi", Limits(10, 60.0)),
    Account("alternative_me", "https://api.alternative.me", Limits(30, 60.0)),
    Account("binance", "https://fapi.binance.com", Limits(300, 60.0, lanes=4)),
    Account("bybit", "https://api.bybit.com", Limits(50, 5.0, lanes=4)),
    Account("okx", "https://www.okx.com", Limits(9, 2.0, lanes=3)),
    Account("deribit", "https://www.deribit.com/api/v2", Limits(5, 1.0, pause_s=10.0)),
)


def limits_of_account(account: Account, settings: Settings) -> Limits:
    """Its limits; X's month is the money it may cost, counted in posts."""
    if account.name != "x":
        return account.limits
    posts = int(settings.x_monthly_usd / X_USD_PER_POST)
    return Limits(account.limits.requests, account.limits.per_s, account.limits.lanes, monthly=posts)


def secret_of(account: Account, settings: Settings) -> str | None:
    """The account's key; None: it is not set."""
    value: SecretStr | None = getattr(settings, account.key) if account.key is not None else None
    return value.get_secret_value() if value is not None else None


def variable_of(account: Account) -> str:
    """The environment variables that open it, as an operator is told."""
    names: dict[str, str] = {"reddit_client_id": "REDDIT_CLIENT_ID and REDDIT_CLIENT_SECRET"}
    return names.get(account.key or "", (account.key or "").upper())


def variable_of_account(name: str) -> str:
    """As :func:`variable_of`, by the account's name; empty where nothing opens it."""
    return next((variable_of(account) for account in ACCOUNTS if account.name == name), "")


def disabled(account: Account, settings: Settings, base_url: str) -> str | None:
    """Why the account cannot be asked, as a sentence that says what to do; None: it can."""
    if account.key is not None and not account.optional:
        short = secret_of(account, settings) is None or (
            account.key_in == "oauth" and settings.reddit_client_secret is None
        )
        if short:
            return f"disabled: set {variable_of(account)}"
    if settings.origin == "sandbox" and not base_url:
        return "disabled: the sandbox's address is not known; set SANDBOX_URL"
    return None

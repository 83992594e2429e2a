"""Every setting, its environment variable and its default: the one place.

Values come from (strongest first) explicit arguments, environment variables, a ``.env`` file in the working
directory, and the defaults below. Secrets are ``SecretStr``: they never print. Names follow what operators of the
earlier system already have in their ConfigMaps; :data:`IGNORED` lists the ones that no longer mean anything.
"""

from __future__ import annotations

import os
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit

from dotenv import dotenv_values
from pydantic import (
    AliasChoices,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ray_app.errors import ConfigError
from ray_app.sentiment.vocabulary import MODELS

#: Names the earlier system read that mean nothing here ("*": anything), and why. Whoever is set is reported, by
#: `crypto-data config` and on the node's screen.
IGNORED: dict[str, str] = {
    **dict.fromkeys(
        ("CRYPTO_PRICES_TABLE", "CLOSE_COLUMN", "HIGH_COLUMN", "LOW_COLUMN", "OPEN_COLUMN", "VOLUME_COLUMN"),
        "table and column names are fixed by the migrations (docs/architecture.md); a mapping can only be wrong",
    ),
    **dict.fromkeys(
        (
            "OPENAI_API_KEY",
            "XAI_API_KEY",
            "OLLAMA_*ENDPOINT",
            "OLLAMA_*_MODEL",
            "NEWS_SCORER_ENDPOINT",
        ),
        "this version runs no language model",
    ),
    **dict.fromkeys(
        ("NEWS_*INTERVAL", "SOCIAL_*INTERVAL", "MACRO_*INTERVAL"),
        "each source has its own schedule (docs/sources.md), which its upstream's terms and budget decide",
    ),
    "SENTIMENT_*INTERVAL": "texts are scored by a job, every SCORING_INTERVAL seconds",
    "TECHNICAL_*INTERVAL": "this version has no such collector",
    **dict.fromkeys(
        ("CORS_METHODS", "CORS_HEADERS"), "the API's methods and headers are its own; origins are CORS_ORIGINS"
    ),
    "COLLECTION_INTERVAL": "each collector has its own schedule; prices: PRICE_COLLECTION_INTERVAL",
    "BACKFILL_BATCH_SIZE": "a request asks for as much as its upstream gives",
    "COLLECTOR_BEGINNING_DATE": "the history horizon is HISTORY_HOURLY_DAYS and HISTORY_DAILY_DAYS",
    "DATA_VALIDATION_ENABLED": "every answer is checked as it is read; it cannot be switched off",
    "ERROR_THRESHOLD_PERCENT": "health is computed from evidence, not from a threshold on errors",
    "API_RATE_LIMIT": "limits are RATE_LIMIT_REQUESTS per RATE_LIMIT_WINDOW and key",
    "S3_BUCKET": "the archive is a folder in DATA_DIR",
    "BACKUP_RETENTION_DAYS": "the node makes no backups; what it archives it keeps",
    "REDIS_ENABLED": "Redis is used exactly when REDIS_URL or REDIS_HOST is set",
    "PORT": "the port is an option: crypto-data up --port",
    "WORKERS": "replicas are set in serve_config.yaml",
    "JWT_*": "keys are random and stored as hashes; there are no JWTs",
    "*_SERVICE_URL": "the earlier services are parts of one node now",
    "MOCK_OPENAI": "nothing is mocked",
}

#: Keys that stood in public documentation of the earlier system. They are refused, never accepted.
PUBLISHED_KEYS = frozenset(
    {f"{level}-crypto-data-key-2025" for level in ("master", "trading", "readonly")}
    | {f"{level}-key" for level in ("master", "trading", "readonly")}
)

Origin = Literal["live", "sandbox"]

#: Coinbase Exchange's public feed
LIVE_TICKS = "wss://ws-feed.exchange.coinbase.com"

#: Schemes that URLs of servers may have, and one to show
_SERVERS: dict[str, tuple[tuple[str, ...], str]] = {
    "database_url": (
        ("sqlite", "mysql", "mysql+pymysql", "mariadb", "mariadb+pymysql"),
        "mysql+pymysql://user:password@host/crypto_prices or sqlite:////folder/node.db",
    ),
    "redis_url": (("redis", "rediss", "unix"), "redis://:password@host:6379/0"),
}


def _names(*names: str) -> AliasChoices:
    return AliasChoices(*names)


class Settings(BaseSettings):
    """The node's settings; ``Settings()`` reads the environment."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", populate_by_name=True, frozen=True)

    # --- the node ---
    data_dir: Path = Field(
        Path("data"), validation_alias=_names("DATA_DIR"), description="where the node keeps its files"
    )
    origin: Origin = Field(
        "live",
        validation_alias=_names("DATA_ORIGIN"),
        description="live upstreams, or the sandbox (own database)",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", validation_alias=_names("LOG_LEVEL"))
    ray_namespace: str = Field("crypto-data", validation_alias=_names("RAY_NAMESPACE"))
    ray_dashboard_url: str = Field(
        "http://127.0.0.1:8265",
        validation_alias=_names("RAY_DASHBOARD_URL"),
        description="where jobs are submitted; the token is read from RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH",
    )

    # --- database ---
    database_url: SecretStr | None = Field(
        None,
        validation_alias=_names("DATABASE_URL"),
        description="SQLAlchemy URL; beats MYSQL_*; default SQLite",
    )
    mysql_host: str | None = Field(None, validation_alias=_names("MYSQL_HOST", "DB_HOST"))
    mysql_port: int = Field(3306, ge=1, le=65535, validation_alias=_names("MYSQL_PORT", "DB_PORT"))
    mysql_user: str = Field("news_collector", validation_alias=_names("MYSQL_USER", "DB_USER"))
    mysql_password: SecretStr = Field(SecretStr(""), validation_alias=_names("MYSQL_PASSWORD", "DB_PASSWORD"))
    mysql_database: str = Field("crypto_prices", validation_alias=_names("MYSQL_DATABASE", "DB_NAME"))
    db_pool_size: int = Field(15, ge=1, le=200, validation_alias=_names("DB_POOL_SIZE"))

    # --- Redis (optional; never in the path of an answer) ---
    redis_url: SecretStr | None = Field(None, validation_alias=_names("REDIS_URL"))
    redis_host: str | None = Field(None, validation_alias=_names("REDIS_HOST"))
    redis_port: int = Field(6379, ge=1, le=65535, validation_alias=_names("REDIS_PORT"))
    redis_db: int = Field(0, ge=0, validation_alias=_names("REDIS_DB"))
    redis_password: SecretStr | None = Field(None, validation_alias=_names("REDIS_PASSWORD"))

    # --- upstreams ---
    coingecko_api_key: SecretStr | None = Field(None, validation_alias=_names("COINGECKO_API_KEY"))
    coingecko_plan: Literal["keyless", "demo", "analyst", "lite", "pro", "enterprise"] | None = Field(
        None,
        validation_alias=_names("COINGECKO_PLAN"),
        description="default: keyless without a key, demo with one",
    )
    coingecko_requests_per_minute: int | None = Field(
        None,
        ge=1,
        validation_alias=_names("COINGECKO_REQUESTS_PER_MINUTE"),
        description="default: the plan's",
    )
    coingecko_monthly_limit: int | None = Field(
        None, ge=1, validation_alias=_names("COINGECKO_MONTHLY_LIMIT"), description="default: the plan's"
    )
    coingecko_base_url: str | None = Field(
        None, validation_alias=_names("COINGECKO_BASE_URL"), description="default: the plan's host"
    )
    coinbase_exchange_base_url: str = Field(
        "https://api.exchange.coinbase.com", validation_alias=_names("COINBASE_EXCHANGE_BASE_URL")
    )
    coinbase_api_base_url: str = Field("https://api.coinbase.com/v2", validation_alias=_names("COINBASE_API_BASE_URL"))
    coinbase_ws_url: str | None = Field(
        None,
        validation_alias=_names("COINBASE_WS_URL"),
        description="the tick stream; default: the exchange's own, of a sandbox node the one below SANDBOX_URL",
    )
    sandbox_url: str | None = Field(
        None,
        validation_alias=_names("SANDBOX_URL"),
        description="where every upstream without an address of its own is simulated; the node sets it itself",
    )
    upstream_urls: Annotated[dict[str, str], NoDecode] = Field(
        {},
        validation_alias=_names("UPSTREAM_URLS"),
        description="addresses of your own instead of an account's: mempool=http://10.0.0.5/api,fred=…",
    )
    fred_api_key: SecretStr | None = Field(None, validation_alias=_names("FRED_API_KEY"))
    guardian_api_key: SecretStr | None = Field(None, validation_alias=_names("GUARDIAN_API_KEY"))
    cryptopanic_api_key: SecretStr | None = Field(None, validation_alias=_names("CRYPTOPANIC_API_KEY"))
    etherscan_api_key: SecretStr | None = Field(None, validation_alias=_names("ETHERSCAN_API_KEY"))
    blockchair_api_key: SecretStr | None = Field(
        None, validation_alias=_names("BLOCKCHAIR_API_KEY"), description="optional: its free limits need no key"
    )
    reddit_client_id: SecretStr | None = Field(None, validation_alias=_names("REDDIT_CLIENT_ID"))
    reddit_client_secret: SecretStr | None = Field(None, validation_alias=_names("REDDIT_CLIENT_SECRET"))
    reddit_user_agent: str = Field(
        "linux:crypto-data-collection:1 (data node)",
        validation_alias=_names("REDDIT_USER_AGENT"),
        description="Reddit asks for <platform>:<app id>:<version> (by /u/name), and refuses generic ones",
    )
    twitter_bearer_token: SecretStr | None = Field(None, validation_alias=_names("TWITTER_BEARER_TOKEN"))
    x_monthly_usd: float = Field(
        25.0,
        gt=0,
        le=1e6,
        validation_alias=_names("X_MONTHLY_USD"),
        description="money that X's pay-per-use reads may cost in a month",
    )
    collectors_off: Annotated[tuple[str, ...], NoDecode] = Field(
        (), validation_alias=_names("COLLECTORS_OFF"), description="collectors that shall not run, comma-separated"
    )
    rss_feeds: Annotated[tuple[str, ...], NoDecode] = Field(
        (), validation_alias=_names("RSS_FEEDS"), description="feeds by name, comma-separated; default: all known ones"
    )
    api_timeout_s: float = Field(
        30.0, gt=0, le=600, validation_alias=_names("API_TIMEOUT"), description="seconds, wall"
    )
    max_retry_attempts: int = Field(3, ge=0, le=20, validation_alias=_names("MAX_RETRY_ATTEMPTS"))
    circuit_breaker_failure_threshold: int = Field(
        5, ge=1, validation_alias=_names("CIRCUIT_BREAKER_FAILURE_THRESHOLD")
    )
    circuit_breaker_timeout_s: float = Field(60.0, gt=0, validation_alias=_names("CIRCUIT_BREAKER_TIMEOUT"))

    # --- collection ---
    price_interval_s: int = Field(
        300,
        ge=60,
        le=86_400,
        validation_alias=_names("PRICE_COLLECTION_INTERVAL"),
        description="seconds per price slot",
    )
    price_fast_ranks: int = Field(
        250,
        ge=1,
        le=5_000,
        validation_alias=_names("PRICE_FAST_RANKS"),
        description="ranks polled every slot; the rest hourly",
    )
    tick_stream: bool = Field(
        True, validation_alias=_names("TICK_STREAM"), description="hold the live tick stream of the venue"
    )
    tick_live_ranks: int = Field(
        0,
        ge=0,
        le=100,
        validation_alias=_names("TICK_LIVE_RANKS"),
        description="ranks streamed trade by trade; the rest every five seconds",
    )
    budget_planner: bool = Field(
        True,
        validation_alias=_names("BUDGET_PLANNER"),
        description="poll less often what the month's credits do not carry; off: as set, until they are spent",
    )
    history_hourly_days: int = Field(120, ge=0, le=3_650, validation_alias=_names("HISTORY_HOURLY_DAYS"))
    history_daily_days: int = Field(400, ge=0, le=3_650, validation_alias=_names("HISTORY_DAILY_DAYS"))

    # --- sentiment (docs/sentiment.md) ---
    sentiment_models: Annotated[tuple[str, ...], NoDecode] = Field(
        MODELS, validation_alias=_names("SENTIMENT_MODELS"), description="the models that score texts, comma-separated"
    )
    cryptobert_model: str = Field(
        "ElKulako/cryptobert",
        validation_alias=_names("CRYPTOBERT_MODEL"),
        description="a hub id, a folder, or the URL of one in an object store",
    )
    cryptobert_revision: str | None = Field(
        None, validation_alias=_names("CRYPTOBERT_REVISION"), description="commit, branch or tag on the hub"
    )
    finbert_model: str = Field("ProsusAI/finbert", validation_alias=_names("FINBERT_MODEL"))
    finbert_revision: str | None = Field(None, validation_alias=_names("FINBERT_REVISION"))
    sentiment_model_dir: Path | None = Field(
        None,
        validation_alias=_names("SENTIMENT_MODEL_DIR"),
        description="where fetched weights are kept; default: DATA_DIR/models",
    )
    sentiment_precision: Literal["fp32", "bf16", "fp16", "int8"] | None = Field(
        None, validation_alias=_names("SENTIMENT_PRECISION"), description="default: the best the processor or GPU has"
    )
    sentiment_threads: int | None = Field(
        None, ge=1, validation_alias=_names("SENTIMENT_THREADS"), description="of a model on CPUs; default: all of them"
    )
    scoring_interval_s: int = Field(
        600,
        ge=0,
        validation_alias=_names("SCORING_INTERVAL"),
        description="seconds between two jobs that score new texts; 0: only `crypto-data score`",
    )
    sentiment_scorer: Literal["deployment", "actors"] = Field(
        "deployment",
        validation_alias=_names("SENTIMENT_SCORER"),
        description="where the batch job has weights: in the application that answers requests, or in its own actors",
    )
    sentiment_actors: int = Field(
        1, ge=1, le=1_000, validation_alias=_names("SENTIMENT_ACTORS"), description="of the batch job, at most"
    )
    sentiment_actor_cpus: float = Field(
        0.5,
        gt=0,
        validation_alias=_names("SENTIMENT_ACTOR_CPUS"),
        description="that Ray sets aside for each; all of them must never be (Ray Data would wait for ever)",
    )
    sentiment_actor_gpus: float = Field(
        0.0, ge=0, validation_alias=_names("SENTIMENT_ACTOR_GPUS"), description="for each; a share such as 0.25 will do"
    )

    # --- gateway ---
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), validation_alias=_names("CORS_ORIGINS"), description="comma-separated allow-list; '*' is refused"
    )
    rate_limit_requests: int = Field(
        100,
        ge=1,
        validation_alias=_names("RATE_LIMIT_REQUESTS"),
        description="requests per key and window, per replica",
    )
    rate_limit_window_s: int = Field(
        60, ge=1, validation_alias=_names("RATE_LIMIT_WINDOW"), description="seconds, wall"
    )
    access_log: bool = Field(
        True, validation_alias=_names("ACCESS_LOG"), description="one JSON line per request; never a key or a query"
    )
    max_streams: int = Field(
        1_000, ge=1, validation_alias=_names("MAX_STREAMS"), description="open streams per replica"
    )
    api_key_master: SecretStr | None = Field(None, validation_alias=_names("API_KEY_MASTER"))
    api_key_trading: SecretStr | None = Field(None, validation_alias=_names("API_KEY_TRADING"))
    api_key_readonly: SecretStr | None = Field(None, validation_alias=_names("API_KEY_READONLY"))

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("mysql_port", "redis_port", mode="before")
    @classmethod
    def _no_service_link(cls, value: Any) -> Any:
        if isinstance(value, str) and value.startswith("tcp://"):
            raise ValueError(
                "Kubernetes made this for a Service of that name; set enableServiceLinks: false, or the port"
            )
        return value

    @field_validator("price_interval_s")
    @classmethod
    def _divides_a_day(cls, value: int) -> int:
        if 86_400 % value:
            raise ValueError("a day is no whole number of such slots; take 60, 300, 900 or 3600")
        return value

    @field_validator("database_url", "redis_url")
    @classmethod
    def _names_a_server(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        schemes, example = _SERVERS[str(info.field_name)]
        if value is not None and not _is_url(value.get_secret_value(), schemes):
            raise ValueError(f"not a URL such as {example}")
        return value

    @field_validator(
        "coingecko_base_url", "coinbase_exchange_base_url", "coinbase_api_base_url", "ray_dashboard_url", "sandbox_url"
    )
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        if value is not None and not (_is_url(value, ("http", "https")) and urlsplit(value).hostname):
            raise ValueError("not a URL such as https://api.example.com/v3")
        return value

    @field_validator("coinbase_ws_url")
    @classmethod
    def _is_websocket(cls, value: str | None) -> str | None:
        if value is not None and not (_is_url(value, ("ws", "wss")) and urlsplit(value).hostname):
            raise ValueError("not a URL such as wss://ws-feed.exchange.coinbase.com")
        return value

    @field_validator("upstream_urls", mode="before")
    @classmethod
    def _split_urls(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        urls: dict[str, str] = {}
        for part in filter(None, (part.strip() for part in value.split(","))):
            name, _, url = part.partition("=")
            if not (_is_url(url, ("http", "https")) and urlsplit(url).hostname):
                raise ValueError(f"{without_password(part)!r} is no account=URL such as mempool=http://10.0.0.5/api")
            urls[name.strip()] = url
        return urls

    @field_validator("sentiment_models")
    @classmethod
    def _known_models(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in value if name not in MODELS]:
            raise ValueError(f"no model is called {unknown[0]!r}; there are {', '.join(MODELS)}")
        return value

    @field_validator("rss_feeds", "collectors_off", "sentiment_models", mode="before")
    @classmethod
    def _split_feeds(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = tuple(part.strip() for part in value.split(",") if part.strip())
        if "*" in value:
            raise ValueError("'*' would open the API to every web page; list the origins, comma-separated")
        for origin in value:
            if not re.fullmatch(r"https?://[^/?#\s]+", origin):
                raise ValueError(f"{without_password(origin)!r} is no origin such as https://app.example.com")
        return value

    @field_validator("api_key_master", "api_key_trading", "api_key_readonly")
    @classmethod
    def _refuse_published(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        if value.get_secret_value() in PUBLISHED_KEYS:
            raise ValueError("this key has stood in public documentation; generate a new one: crypto-data keys create")
        if len(value.get_secret_value()) < 16:
            raise ValueError("shorter than 16 characters; generate one: crypto-data keys create")
        return value

    @model_validator(mode="before")
    @classmethod
    def _empty_means_unset(cls, values: Any) -> Any:
        """An empty variable (``REDIS_HOST=``) is how ConfigMaps say "not set"."""
        return {k: v for k, v in values.items() if v != ""} if isinstance(values, dict) else values

    # --- derived, in one place ---

    @property
    def state_dir(self) -> Path:
        """What belongs to one origin: its database, archive and epoch. Live and sandbox data never mix."""
        return self.data_dir / self.origin

    @property
    def epoch_file(self) -> Path | None:
        """Where a sandbox node's epoch record is; live nodes have none."""
        return self.state_dir / "epoch.json" if self.origin == "sandbox" else None

    @property
    def ticks_url(self) -> str | None:
        """Where the tick stream is; None: nowhere (switched off, or a sandbox that is not known)."""
        if not self.tick_stream:
            return None
        if self.coinbase_ws_url is not None or self.origin == "live":
            return self.coinbase_ws_url or LIVE_TICKS
        return f"ws{self.sandbox_url.removeprefix('http').rstrip('/')}/coinbase-ws" if self.sandbox_url else None

    @property
    def archive_dir(self) -> Path:
        """Where the raw archive's segments are."""
        return self.state_dir / "archive"

    @property
    def models_dir(self) -> Path:
        """Where fetched weights are; live and sandbox nodes share them."""
        return self.sentiment_model_dir or self.data_dir / "models"

    @property
    def keys_file(self) -> Path:
        """Where the API keys generated on first start are kept (mode 0600)."""
        return self.data_dir / "keys.json"

    @property
    def resolved_database_url(self) -> str:
        """The SQLAlchemy URL in use (holds the password: never print it)."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        if self.mysql_host is not None:
            password = quote(self.mysql_password.get_secret_value(), safe="")
            return (
                f"mysql+pymysql://{quote(self.mysql_user, safe='')}:{password}"
                f"@{self.mysql_host}:{self.mysql_port}/{self.mysql_database}?charset=utf8mb4"
            )
        return f"sqlite:///{(self.state_dir / 'node.db').absolute()}"

    @property
    def resolved_redis_url(self) -> str | None:
        """The Redis URL in use, or None: no Redis (holds the password: never print it)."""
        if self.redis_url is not None:
            return self.redis_url.get_secret_value()
        if self.redis_host is None:
            return None
        password = f":{quote(self.redis_password.get_secret_value(), safe='')}@" if self.redis_password else ""
        return f"redis://{password}{self.redis_host}:{self.redis_port}/{self.redis_db}"


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment; ConfigError names each wrong variable, its problem and its meaning."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        problems = "; ".join(_explain(problem["loc"], problem["msg"], problem["input"]) for problem in error.errors())
        raise ConfigError(problems) from None


def _explain(location: tuple[int | str, ...], message: str, given: Any) -> str:
    """``NAME: 'value': what is wrong``, by the name the operator used; the value of a secret is left out."""
    name, secret = str(location[0]) if location else "settings", True
    for field_name, field in Settings.model_fields.items():
        assert isinstance(field.validation_alias, AliasChoices)  # noqa: S101 - tests/test_settings.py proves it for all
        names = [str(choice) for choice in field.validation_alias.choices]
        if name in {field_name, *names}:
            present = {one.upper() for one in _environment()}
            name = next((one for one in names if one in present), names[0])
            secret = "SecretStr" in str(field.annotation)
            break
    shown = "" if secret or not isinstance(given, str | int | float) else f"{without_password(str(given))!r}: "
    return f"{name}: {shown}{message.removeprefix('Value error, ')}"


def ignored_names() -> dict[str, str]:
    """What is set in the environment or in .env and fits a name of :data:`IGNORED`, with the reason it is ignored."""
    present = sorted({name.upper() for name in _environment()})
    reasons = {name: next((why for rule, why in IGNORED.items() if fnmatchcase(name, rule)), None) for name in present}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def without_password(url: str) -> str:
    """A URL with its password masked, a lone token before ``@`` and secrets in its query too; other text as it is."""
    masked = re.sub(r"(://[^:/?#@]*):.*@", r"\1:******@", url)
    masked = re.sub(r"(https?://)[^:/?#@]+@", r"\1******@", masked)
    return re.sub(
        r"([?&][^=&]*(?:pass|pwd|key|token|secret|auth)[^=&]*=)[^&#]*", r"\1******", masked, flags=re.IGNORECASE
    )


def _environment() -> dict[str, str | None]:
    return {**dotenv_values(".env"), **os.environ}


def _is_url(text: str, schemes: tuple[str, ...]) -> bool:
    """Whether it has one of the schemes and a readable port, if any."""
    try:
        parts = urlsplit(text)
        return parts.scheme in schemes and "://" in text and (parts.port is None or parts.port > 0)
    except ValueError:
        return False

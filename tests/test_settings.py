"""Settings: names operators know, secrets that never print, wrong values that name themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import AliasChoices

from ray_app.cli import cli, main
from ray_app.errors import ConfigError
from ray_app.settings import IGNORED, PUBLISHED_KEYS, Settings, ignored_names, load_settings, without_password


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of the machine and no .env file decides a test."""
    for field in Settings.model_fields.values():
        assert isinstance(field.validation_alias, AliasChoices)
        for name in field.validation_alias.choices:
            monkeypatch.delenv(str(name), raising=False)
    monkeypatch.chdir(tmp_path)


def test_nothing_set_means_sqlite_without_redis_or_keys():
    settings = load_settings()
    assert settings.resolved_database_url.startswith("sqlite:////")
    assert settings.resolved_database_url.endswith("/data/live/node.db")
    assert settings.resolved_redis_url is None
    assert settings.coingecko_api_key is None


def test_live_and_sandbox_never_share_a_directory():
    live, sandbox = load_settings(origin="live"), load_settings(origin="sandbox")
    assert live.archive_dir != sandbox.archive_dir
    assert live.resolved_database_url != sandbox.resolved_database_url
    assert live.epoch_file is None
    assert sandbox.epoch_file == Path("data/sandbox/epoch.json")


def test_mysql_variables_of_the_earlier_system_make_the_url(monkeypatch):
    for name, value in {
        "MYSQL_HOST": "db",
        "MYSQL_USER": "news_collector",
        "MYSQL_PASSWORD": "p@ss:w/rd",
        "MYSQL_DATABASE": "crypto_prices",
    }.items():
        monkeypatch.setenv(name, value)
    assert load_settings().resolved_database_url == (
        "mysql+pymysql://news_collector:p%40ss%3Aw%2Frd@db:3306/crypto_prices?charset=utf8mb4"
    )


def test_database_url_beats_mysql_variables(monkeypatch):
    monkeypatch.setenv("MYSQL_HOST", "db")
    monkeypatch.setenv("DATABASE_URL", "sqlite:////elsewhere/node.db")
    assert load_settings().resolved_database_url == "sqlite:////elsewhere/node.db"


def test_an_empty_variable_is_not_set(monkeypatch):
    monkeypatch.setenv("REDIS_HOST", "")
    monkeypatch.setenv("MYSQL_HOST", "")
    settings = load_settings()
    assert settings.resolved_redis_url is None
    assert settings.mysql_host is None


def test_redis_variables_make_the_url(monkeypatch):
    monkeypatch.setenv("REDIS_HOST", "cache")
    monkeypatch.setenv("REDIS_PASSWORD", "s/e")
    monkeypatch.setenv("REDIS_DB", "2")
    assert load_settings().resolved_redis_url == "redis://:s%2Fe@cache:6379/2"


@pytest.mark.parametrize("key", sorted(PUBLISHED_KEYS))
def test_a_published_key_is_refused(monkeypatch, key):
    monkeypatch.setenv("API_KEY_MASTER", key)
    with pytest.raises(ConfigError, match=r"API_KEY_MASTER: .*public documentation"):
        load_settings()


def test_a_wrong_value_names_itself_and_every_wrong_value_is_named(monkeypatch):
    monkeypatch.setenv("MYSQL_PORT", "abc")
    monkeypatch.setenv("CORS_ORIGINS", "*")
    monkeypatch.setenv("COINGECKO_PLAN", "gold")
    with pytest.raises(ConfigError) as caught:
        load_settings()
    for name in ("MYSQL_PORT", "CORS_ORIGINS", "COINGECKO_PLAN"):
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("DB_PORT", "abc", "DB_PORT: 'abc': "),
        ("API_TIMEOUT", "-1", "API_TIMEOUT: '-1': "),
        ("PRICE_COLLECTION_INTERVAL", "301", "PRICE_COLLECTION_INTERVAL: '301': a day is no whole number of"),
        ("REDIS_PORT", "tcp://10.0.0.1:6379", "enableServiceLinks: false"),
        ("COINGECKO_BASE_URL", "localhost/api", "COINGECKO_BASE_URL: 'localhost/api': not a URL such as https://"),
        ("COINBASE_API_BASE_URL", "ftp://x", "not a URL such as https://"),
        ("COINBASE_WS_URL", "https://ws.example", "not a URL such as wss://"),
        ("TICK_LIVE_RANKS", "-1", "TICK_LIVE_RANKS: '-1': "),
        ("RAY_DASHBOARD_URL", "http://u:sesame@h:x/", "RAY_DASHBOARD_URL: 'http://u:******@h:x/': not a URL"),
        ("DATABASE_URL", "sesame", "DATABASE_URL: not a URL such as mysql+pymysql://"),
        ("DATABASE_URL", "postgresql://u:sesame@h/d", "DATABASE_URL: not a URL such as mysql+pymysql://"),
        ("REDIS_URL", "redis://:sesame@h:x/0", "REDIS_URL: not a URL such as redis://"),
        ("CORS_ORIGINS", "https://a.example/path", "'https://a.example/path' is no origin such as https://"),
    ],
)
def test_a_wrong_value_shows_itself_and_the_fix_and_no_password(monkeypatch, name, value, says):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert says in str(caught.value)
    assert "sesame" not in str(caught.value)


def test_log_level_may_be_written_in_any_case(monkeypatch):
    monkeypatch.setenv("LOG_LEVEL", "debug")
    assert load_settings().log_level == "DEBUG"


def test_an_error_never_shows_a_secret(monkeypatch, capsys):
    monkeypatch.setenv("API_KEY_MASTER", "short-secret")
    with pytest.raises(SystemExit) as caught:
        main(["config"])
    captured = capsys.readouterr()
    assert caught.value.code == 1
    assert "short-secret" not in captured.err + captured.out
    assert captured.err.startswith("crypto-data: API_KEY_MASTER: shorter than 16")
    assert len(captured.err.strip().splitlines()) == 1


def test_names_that_mean_nothing_are_reported_with_the_reason(monkeypatch, tmp_path):
    monkeypatch.setenv("CLOSE_COLUMN", "close")
    (tmp_path / ".env").write_text("WORKERS=8\n")
    assert ignored_names() == {name: IGNORED[name] for name in ("CLOSE_COLUMN", "WORKERS")}
    output = CliRunner().invoke(cli, ["config"]).output
    assert "CLOSE_COLUMN is set but ignored: table and column names are fixed" in output


#: Every name of ../shared/earlier_system.md §3, as its ConfigMaps and Secrets spell it.
EARLIER = """
MYSQL_HOST MYSQL_PORT MYSQL_USER MYSQL_PASSWORD MYSQL_DATABASE REDIS_HOST REDIS_PORT REDIS_DB REDIS_ENABLED
SENTIMENT_SERVICE_URL PRICE_COLLECTION_INTERVAL NEWS_COLLECTION_INTERVAL SENTIMENT_COLLECTION_INTERVAL
TECHNICAL_COLLECTION_INTERVAL SOCIAL_COLLECTION_INTERVAL MACRO_COLLECTION_INTERVAL DATA_VALIDATION_ENABLED
MAX_RETRY_ATTEMPTS ERROR_THRESHOLD_PERCENT API_RATE_LIMIT API_TIMEOUT S3_BUCKET BACKUP_RETENTION_DAYS
PORT WORKERS CORS_ORIGINS CORS_METHODS CORS_HEADERS RATE_LIMIT_REQUESTS RATE_LIMIT_WINDOW JWT_ALGORITHM JWT_EXPIRATION
DB_POOL_SIZE COINGECKO_API_KEY FRED_API_KEY GUARDIAN_API_KEY REDDIT_CLIENT_ID REDDIT_CLIENT_SECRET
TWITTER_BEARER_TOKEN OPENAI_API_KEY XAI_API_KEY JWT_SECRET_KEY API_KEY_MASTER API_KEY_TRADING API_KEY_READONLY
CRYPTO_PRICES_TABLE CLOSE_COLUMN HIGH_COLUMN LOW_COLUMN OPEN_COLUMN VOLUME_COLUMN COINGECKO_PLAN
COINGECKO_MONTHLY_LIMIT COINGECKO_REQUESTS_PER_MINUTE CRYPTOBERT_MODEL OLLAMA_ENDPOINT OLLAMA_SENTIMENT_MODEL
OLLAMA_NARRATIVE_MODEL OLLAMA_TECHNICAL_MODEL OLLAMA_REGIME_MODEL OLLAMA_LLM_ENDPOINT NEWS_SCORER_ENDPOINT MOCK_OPENAI
COLLECTION_INTERVAL BACKFILL_BATCH_SIZE COLLECTOR_BEGINNING_DATE CIRCUIT_BREAKER_FAILURE_THRESHOLD
CIRCUIT_BREAKER_TIMEOUT
""".split()  # noqa: SIM905 - a list of 60 quoted strings reads worse


@pytest.mark.parametrize("name", EARLIER)
def test_each_name_of_the_earlier_system_works_or_is_reported_with_the_reason(monkeypatch, name):
    fields = Settings.model_fields.values()
    works = any(name in field.validation_alias.choices for field in fields if field.validation_alias is not None)
    monkeypatch.setenv(name, "1")
    reported = ignored_names()
    assert works != (name in reported)
    assert works or len(reported[name]) > 15


def test_ignored_names_count_in_any_case(monkeypatch):
    monkeypatch.setenv("close_column", "close")
    assert list(ignored_names()) == ["CLOSE_COLUMN"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:p@ss@h/0", "redis://:******@h/0"),
        ("mysql://u@h/d?password=sesame&charset=utf8", "mysql://u@h/d?password=******&charset=utf8"),
        ("https://token@h/v3?x_cg_demo_api_key=CG-1#x", "https://******@h/v3?x_cg_demo_api_key=******#x"),
        ("https://api.example.com/v3", "https://api.example.com/v3"),
        ("12:30@noon", "12:30@noon"),
    ],
)
def test_what_of_a_url_is_secret_is_masked(url, shown):
    assert without_password(url) == shown


def test_a_key_that_looks_like_a_url_is_masked_whole(monkeypatch):
    monkeypatch.setenv("API_KEY_MASTER", "open://sesame-open-sesame")
    assert "sesame" not in CliRunner().invoke(cli, ["config"]).output


def test_config_masks_passwords_inside_urls(monkeypatch):
    monkeypatch.setenv("COINGECKO_BASE_URL", "https://me:sesame@proxy.example/api/v3")
    monkeypatch.setenv("DATABASE_URL", "mysql+pymysql://node:sesame@db/crypto_prices")
    monkeypatch.setenv("REDIS_URL", "redis://:sesame@cache:6379/0")
    for arguments in (["config"], ["config", "--json"]):
        said = CliRunner().invoke(cli, arguments).output
        assert "sesame" not in said
        assert "https://me:******@proxy.example/api/v3" in said
        assert "mysql+pymysql://node:******@db/crypto_prices" in said
        assert "redis://:******@cache:6379/0" in said


def test_config_prints_sources_and_masks_secrets(monkeypatch, tmp_path):
    monkeypatch.setenv("COINGECKO_API_KEY", "CG-very-secret")
    monkeypatch.setenv("DB_HOST", "mariadb")
    (tmp_path / ".env").write_text("API_TIMEOUT=12\n")
    result = CliRunner().invoke(cli, ["config", "--json"])
    assert result.exit_code == 0, result.output
    assert "very-secret" not in result.output
    shown = {entry["name"]: entry for entry in json.loads(result.output)["settings"]}
    assert shown["COINGECKO_API_KEY"]["value"] == "******"
    assert shown["COINGECKO_API_KEY"]["source"] == "environment"
    assert shown["MYSQL_HOST"]["source"] == "environment (DB_HOST)"
    assert (shown["API_TIMEOUT"]["value"], shown["API_TIMEOUT"]["source"]) == ("12.0", ".env")
    assert shown["DB_POOL_SIZE"] == {
        "name": "DB_POOL_SIZE",
        "value": "15",
        "source": "default",
        "meaning": "",
    }
    assert len(shown) == len(Settings.model_fields)


def test_the_repr_of_settings_hides_secrets(monkeypatch):
    monkeypatch.setenv("MYSQL_PASSWORD", "hunter2hunter2")
    assert "hunter2" not in repr(load_settings())


@pytest.mark.parametrize(
    ("values", "url"),
    [
        ({}, "wss://ws-feed.exchange.coinbase.com"),
        ({"coinbase_ws_url": "ws://127.0.0.1:1/x"}, "ws://127.0.0.1:1/x"),
        ({"tick_stream": False}, None),
        ({"origin": "sandbox"}, None),
        ({"origin": "sandbox", "sandbox_url": "http://127.0.0.1:8900"}, "ws://127.0.0.1:8900/coinbase-ws"),
        ({"origin": "sandbox", "sandbox_url": "https://host/"}, "wss://host/coinbase-ws"),
        ({"origin": "sandbox", "coinbase_ws_url": "ws://127.0.0.1:1/x"}, "ws://127.0.0.1:1/x"),
    ],
)
def test_where_the_tick_stream_is(values, url):
    assert Settings(_env_file=None, **values).ticks_url == url

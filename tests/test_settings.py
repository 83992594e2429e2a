"""Settings: names operators know, secrets that never print, wrong values that name themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import AliasChoices

from ray_app.cli import cli, main
from ray_app.errors import ConfigError
from ray_app.settings import IGNORED, PUBLISHED_KEYS, Settings, ignored_names, load_settings


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

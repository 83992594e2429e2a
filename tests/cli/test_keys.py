"""``crypto-data keys``: make, list, revoke."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from ray_app.cli.keys import command
from ray_app.clock import WallClock
from ray_app.errors import SchemaDrift, StorageError
from ray_app.serving.keys import KeyRing, Level, UnknownKey
from ray_app.storage.engine import Database
from ray_app.storage.migrate import upgrade


@pytest.fixture
def ring(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    db = Database(f"sqlite:///{tmp_path / 'data' / 'live' / 'node.db'}")
    upgrade(db)
    yield KeyRing(db, WallClock())
    db.dispose()


def run(*arguments: str):
    result = CliRunner().invoke(command, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_create_prints_the_key_alone_on_stdout_and_it_works(ring):
    result = run("create", "trading engine", "--level", "trading")
    secret = result.stdout.strip()
    assert "trading key" in result.stderr
    assert secret not in result.stderr
    ring.refresh()
    holder = ring.authenticate(secret.encode())
    assert (holder.level, holder.name, holder.expires_at) == (Level.trading, "trading engine", None)


def test_a_key_may_expire(ring):
    made = json.loads(run("create", "guest", "--expires-days", "2", "--json").stdout)
    ring.refresh()
    assert 0 < ring.authenticate(made["key"].encode()).expires_at - WallClock().now_ms() <= 2 * 86_400_000


def test_list_shows_every_key_and_no_secret(ring):
    secrets = [run("create", name).stdout.strip() for name in ("one", "two")]
    ring.revoke(ring.rows()[0].key_id)
    text, listing = run("list").stdout, json.loads(run("list", "--json").stdout)
    assert [(key["name"], key["state"]) for key in listing] == [("one", "revoked"), ("two", "in force")]
    assert all(key["key_id"] in text for key in listing)
    for secret in secrets:
        assert secret.split("_")[2] not in text
        assert secret.split("_")[2] not in json.dumps(listing)


def test_revoke_ends_a_key_and_names_an_unknown_one(ring):
    secret = run("create", "one").stdout.strip()
    run("revoke", ring.rows()[0].key_id)
    ring.refresh()
    assert ring.authenticate(secret.encode()) is None
    with pytest.raises(UnknownKey, match="nope"):
        run("revoke", "nope")


def test_without_a_database_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "empty"))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with pytest.raises((SchemaDrift, StorageError), match="crypto-data db upgrade"):
        run("list")

"""Keys: random, hashed, levelled, revocable, expiring; seeds and the local file."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from dataclasses import replace

import pytest

from ray_app.clock import HOUR_MS, ManualClock
from ray_app.errors import ConfigError, StorageError
from ray_app.serving import keys as keys_module
from ray_app.serving.keys import KeyRing, Level, UnknownKey, ensure_local_keys, new_key, row_of, seed_keys
from ray_app.settings import PUBLISHED_KEYS, Settings
from ray_app.storage import api_keys
from ray_app.storage.api_keys import KeyRow
from ray_app.storage.engine import Database

NOW = 1_795_507_200_000


@pytest.fixture
def clock():
    return ManualClock(NOW)


@pytest.fixture
def ring(db, clock):
    ring = KeyRing(db, clock)
    ring.refresh()
    return ring


def settings(**values: str) -> Settings:
    return Settings(_env_file=None, **values)


def test_a_key_is_readable_random_and_has_256_bits_of_secret():
    keys = [new_key("x", Level.readonly) for _ in range(50)]
    for key in keys:
        assert re.fullmatch(r"cdc_[a-z2-7]{8}_[a-z2-7]{52}", key.secret)
        assert key.secret.startswith(f"cdc_{key.key_id}_")
        assert key.secret not in repr(key)
    assert len({key.secret for key in keys}) == 50


def test_only_the_sha256_of_a_key_is_stored(ring, db):
    made = ring.create("engine", Level.trading)
    with db.read() as conn:
        (row,) = api_keys.load(conn)
    assert row.secret_hash == hashlib.sha256(made.secret.encode()).hexdigest()
    assert made.secret not in repr(row)
    assert (row.key_id, row.name, row.level, row.created_at) == (made.key_id, "engine", "trading", NOW)


def test_a_key_works_and_anything_near_it_does_not(ring):
    made = ring.create("engine", Level.trading)
    holder = ring.authenticate(made.secret.encode())
    assert holder is not None
    assert (holder.key_id, holder.name, holder.level) == (made.key_id, "engine", Level.trading)
    other = ring.create("other", Level.readonly)
    for wrong in (
        made.secret[:-1] + ("a" if made.secret[-1] != "a" else "b"),
        made.secret[:-1],
        made.secret + "a",
        made.secret.upper(),
        f"cdc_{made.key_id}_",
        f"cdc_{made.key_id}",
        f"cdc_{other.key_id}_{made.secret.split('_')[2]}",
        made.key_id,
        "",
        "x" * 10_000,
        "\x00",
        " " + made.secret,
    ):
        assert ring.authenticate(wrong.encode()) is None


def test_comparison_is_constant_time(ring, monkeypatch):
    """The secret is compared by hmac.compare_digest and never by ==."""
    made = ring.create("engine", Level.trading)
    compared = []
    real = keys_module.hmac.compare_digest
    monkeypatch.setattr(keys_module.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    assert ring.authenticate(made.secret.encode()) is not None
    assert ring.authenticate(f"cdc_{made.key_id}_{'a' * 52}".encode()) is None
    assert len(compared) == 2
    assert all(len(a) == len(b) == 64 for a, b in compared)


def test_levels_include_the_ones_before():
    assert Level.readonly < Level.trading < Level.master


def test_revocation_elsewhere_reaches_a_running_ring_with_its_next_look(ring, db, clock):
    elsewhere = KeyRing(db, clock)
    made = elsewhere.create("engine", Level.master)
    assert ring.authenticate(made.secret.encode()) is None
    ring.refresh()
    assert ring.authenticate(made.secret.encode()) is not None
    elsewhere.revoke(made.key_id)
    ring.refresh()
    assert ring.authenticate(made.secret.encode()) is None


def test_the_time_of_a_first_revocation_stays(ring, clock):
    made = ring.create("engine", Level.master)
    ring.revoke(made.key_id)
    clock.advance(60)
    ring.revoke(made.key_id)
    assert [row.revoked_at for row in ring.rows()] == [NOW]


def test_revoking_an_unknown_key_says_so(ring):
    with pytest.raises(UnknownKey, match="nope"):
        ring.revoke("nope")


def test_a_key_stops_working_the_moment_it_expires_without_any_look_at_the_database(ring, clock):
    made = ring.create("engine", Level.readonly, expires_at=NOW + HOUR_MS)
    assert ring.authenticate(made.secret.encode()) is not None
    clock.advance(3_599)
    assert ring.authenticate(made.secret.encode()) is not None
    clock.advance(1)
    assert ring.authenticate(made.secret.encode()) is None


def test_keys_stay_in_force_while_the_database_is_away(ring, db, monkeypatch):
    made = ring.create("engine", Level.readonly)

    def away():
        raise StorageError("the database is away")

    monkeypatch.setattr(db, "read", away)
    with pytest.raises(StorageError):
        ring.refresh()
    assert ring.authenticate(made.secret.encode()) is not None


def test_a_ring_that_never_read_the_keys_says_so(db, clock):
    ring = KeyRing(db, clock)
    assert not ring.loaded
    ring.refresh()
    assert ring.loaded


@pytest.mark.parametrize("published", sorted(PUBLISHED_KEYS))
def test_a_key_that_has_stood_in_public_documentation_is_refused_even_if_stored(ring, published, caplog):
    for key_id in ("seed-master", "abcdefgh"):
        row = KeyRow(key_id, "old", "master", hashlib.sha256(published.encode()).hexdigest(), NOW)
        ring.adopt([row])
        assert ring.authenticate(published.encode()) is None
    assert "public documentation" in caplog.text


def test_a_stored_level_nobody_knows_opens_nothing(ring):
    made = new_key("x", Level.master)
    ring.adopt([replace(row_of(made, NOW), level="root")])
    assert ring.authenticate(made.secret.encode()) is None


# --- seeds ---------------------------------------------------------------------------------------------------


def test_seeds_from_the_settings_work_with_their_levels(ring, db, clock):
    wanted = {"api_key_master": "m" * 20, "api_key_trading": "t" * 20, "api_key_readonly": "some_key_with_underscores"}
    assert sorted(seed_keys(db, settings(**wanted), clock)) == ["seed-master", "seed-readonly", "seed-trading"]
    ring.refresh()
    levels = {name: ring.authenticate(value.encode()) for name, value in wanted.items()}
    assert {name: holder.level.name for name, holder in levels.items()} == {
        "api_key_master": "master",
        "api_key_trading": "trading",
        "api_key_readonly": "readonly",
    }
    assert ring.authenticate(b"m" * 19) is None


def test_a_changed_seed_replaces_the_old_one_and_a_revoked_one_stays_revoked(ring, db, clock):
    def try_keys() -> list[bool]:
        ring.refresh()
        return [ring.authenticate(key) is not None for key in (b"first-first-first", b"second-second-second")]

    seed_keys(db, settings(api_key_master="first-first-first"), clock)
    assert try_keys() == [True, False]
    seed_keys(db, settings(api_key_master="second-second-second"), clock)
    assert try_keys() == [False, True]
    ring.revoke("seed-master")
    seed_keys(db, settings(api_key_master="second-second-second"), clock)
    assert try_keys() == [False, False]
    seed_keys(db, settings(api_key_master="first-first-first"), clock)
    assert try_keys() == [True, False]


def test_one_key_for_two_levels_is_refused(db, clock):
    with pytest.raises(ConfigError, match="must be different"):
        seed_keys(db, settings(api_key_master="s" * 20, api_key_readonly="s" * 20), clock)


def test_without_seeds_nothing_is_written(db, clock):
    assert seed_keys(db, settings(), clock) == []


# --- the local file ------------------------------------------------------------------------------------------


def test_the_first_start_makes_three_keys_and_every_later_one_none(ring, db, clock, tmp_path):
    file = tmp_path / "deep" / "keys.json"
    made = ensure_local_keys(db, file, clock)
    assert [key.level for key in made] == [Level.master, Level.trading, Level.readonly]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    ring.refresh()
    assert all(ring.authenticate(key.secret.encode()).level == key.level for key in made)
    content = json.loads(file.read_text())
    assert {key.level.name: key.secret for key in made} == {name: content[name] for name in content if name != "note"}
    assert ensure_local_keys(db, file, clock) == []
    assert len(ring.rows()) == 3
    assert [path.name for path in file.parent.iterdir()] == ["keys.json"]


def test_the_keys_of_the_file_work_in_another_database_too(db, clock, tmp_path):
    file = tmp_path / "keys.json"
    made = ensure_local_keys(db, file, clock)
    other = Database(f"sqlite:///{tmp_path / 'other.db'}")
    try:
        other.run(api_keys.api_keys.metadata.create_all)
        assert ensure_local_keys(other, file, clock) == []
        ring = KeyRing(other, clock)
        ring.refresh()
        assert ring.authenticate(made[0].secret.encode()) is not None
    finally:
        other.dispose()


def test_a_revoked_local_key_stays_revoked_after_a_restart(ring, db, clock, tmp_path):
    file = tmp_path / "keys.json"
    made = ensure_local_keys(db, file, clock)
    ring.revoke(made[0].key_id)
    ensure_local_keys(db, file, clock)
    ring.refresh()
    assert ring.authenticate(made[0].secret.encode()) is None


def test_no_keys_are_made_for_a_database_whose_keys_come_from_elsewhere(ring, db, clock, tmp_path):
    seed_keys(db, settings(api_key_master="m" * 20), clock)
    file = tmp_path / "keys.json"
    assert ensure_local_keys(db, file, clock) == []
    assert not file.exists()


def test_a_file_others_can_read_is_closed_again(db, clock, tmp_path):
    file = tmp_path / "keys.json"
    ensure_local_keys(db, file, clock)
    file.chmod(0o644)
    ensure_local_keys(db, file, clock)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"root": "cdc_a_b"}',
        '{"master": 3}',
        '{"master": "word"}',
        '{"master": "a_b_c"}',
        '{"master": "master-crypto-data-key-2025"}',
    ],
)
def test_a_damaged_or_foreign_file_is_named_and_left_alone(db, clock, tmp_path, content):
    file = tmp_path / "keys.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"keys\.json"):
        ensure_local_keys(db, file, clock)
    assert file.read_text() == content


def test_of_two_first_starts_at_once_one_makes_the_keys(db, clock, tmp_path, monkeypatch):
    """The other finds the file when it wants to write its own: it uses it and shows nothing."""
    file = tmp_path / "keys.json"
    real = keys_module._write_keys_file
    winners = []

    def slower(path, keys):
        if not winners:
            winners.append([new_key("w", level) for level in Level])
            assert real(path, winners[0])
        return real(path, keys)

    monkeypatch.setattr(keys_module, "_write_keys_file", slower)
    assert ensure_local_keys(db, file, clock) == []
    ring = KeyRing(db, clock)
    ring.refresh()
    assert {row.key_id for row in ring.rows()} == {key.key_id for key in winners[0]}

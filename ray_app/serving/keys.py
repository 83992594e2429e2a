"""API keys: random, shown once, stored as hashes, compared in constant time, revocable, optionally expiring.

A key reads ``cdc_<key id>_<secret>``: the prefix lets a secret scanner find it, the id names it in logs and lists, the
secret is 256 random bits. The database holds the SHA-256 of the whole key. Keys of 256 random bits need no slow hash.

Levels include the ones before them: readonly < trading < master.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

from sqlalchemy import Connection

from ray_app.clock import Clock
from ray_app.errors import ConfigError, CryptoDataError
from ray_app.settings import PUBLISHED_KEYS, Settings
from ray_app.storage import api_keys
from ray_app.storage.api_keys import KeyRow
from ray_app.storage.engine import Database

logger = logging.getLogger(__name__)

PREFIX = "cdc"
#: wall seconds after which a revocation made elsewhere has reached every running replica
REFRESH_S = 2.0

_PUBLISHED_HASHES = frozenset(hashlib.sha256(key.encode()).hexdigest() for key in PUBLISHED_KEYS)
_MAX_KEY_BYTES = 512


class Level(IntEnum):
    """What a key may do; each level includes the ones before."""

    readonly = 1
    trading = 2
    master = 3


class UnknownKey(CryptoDataError):
    """There is no key of that id."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"no API key is called {key_id!r}; see: crypto-data keys list")
        self.key_id = key_id


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request comes from. ``expires_at`` in ms of node time; None: never."""

    key_id: str
    name: str
    level: Level
    expires_at: int | None = None


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that has just been made; the only object that ever holds ``secret`` (the whole key, as presented)."""

    key_id: str
    name: str
    level: Level
    secret: str

    def __repr__(self) -> str:
        return f"NewKey({self.key_id}, {self.level.name})"


class KeyRing:
    """The keys of the database, held in memory so that a request costs one hash and no query.

    :meth:`refresh` reads them anew; the gateway does so every :data:`REFRESH_S` seconds. While the database cannot be
    read the last known keys stay in force.
    """

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self.clock = clock
        self._by_id: dict[bytes, tuple[bytes, Principal]] = {}
        self._seeds: tuple[tuple[bytes, Principal], ...] = ()
        self.loaded = False  # False: no key is known because none could be read yet

    def refresh(self) -> None:
        """Read the keys from the database (blocking); StorageError if that fails, and the known ones stay."""
        with self._db.read() as conn:
            rows = api_keys.load(conn)
        self.adopt(rows)

    def adopt(self, rows: Iterable[KeyRow]) -> None:
        """Make ``rows`` the keys in force: without the revoked ones and without any that was ever published."""
        by_id: dict[bytes, tuple[bytes, Principal]] = {}
        seeds: list[tuple[bytes, Principal]] = []
        for row in rows:
            if row.revoked_at is not None or row.level not in Level.__members__:
                continue
            if row.secret_hash in _PUBLISHED_HASHES:
                logger.warning("API key %s stands in public documentation: refused", row.key_id)
                continue
            known = (row.secret_hash.encode(), Principal(row.key_id, row.name, Level[row.level], row.expires_at))
            if row.key_id.startswith("seed-"):
                seeds.append(known)
            else:
                by_id[row.key_id.encode()] = known
        self._by_id, self._seeds = by_id, tuple(seeds)
        self.loaded = True

    def authenticate(self, presented: bytes) -> Principal | None:
        """The holder of ``presented``; None if the key is unknown, wrong, revoked or expired."""
        if not presented or len(presented) > _MAX_KEY_BYTES:
            return None
        digest = hashlib.sha256(presented).hexdigest().encode()
        parts = presented.split(b"_", 2)
        principal = None
        if len(parts) == 3 and (known := self._by_id.get(parts[1])) is not None:
            principal = known[1] if hmac.compare_digest(digest, known[0]) else None
        if principal is None:
            for secret_hash, holder in self._seeds:  # every one is compared: time does not tell which was near
                if hmac.compare_digest(digest, secret_hash):
                    principal = holder
        if principal is None or (principal.expires_at is not None and principal.expires_at <= self.clock.now_ms()):
            return None
        return principal

    def create(self, name: str, level: Level, expires_at: int | None = None) -> NewKey:
        """Make and store a key (blocking). Its secret is in the answer and nowhere else."""
        key = new_key(name, level)
        row = replace(row_of(key, self.clock.now_ms()), expires_at=expires_at)
        self._db.run(lambda conn: api_keys.insert(conn, [row]))
        self.refresh()
        return key

    def revoke(self, key_id: str) -> None:
        """Revoke a key (blocking); UnknownKey if there is none of that id. Revoking twice is fine."""
        now_ms = self.clock.now_ms()
        if not self._db.run(lambda conn: api_keys.revoke(conn, key_id, now_ms)):
            raise UnknownKey(key_id)
        self.refresh()

    def rows(self) -> list[KeyRow]:
        """Every key of the database, oldest first, with its hash but without any secret (blocking)."""
        with self._db.read() as conn:
            return api_keys.load(conn)


def new_key(name: str, level: Level) -> NewKey:
    """A fresh random key; nothing is stored."""
    key_id = _base32(secrets.token_bytes(5))
    return NewKey(key_id, name, level, f"{PREFIX}_{key_id}_{_base32(secrets.token_bytes(32))}")


def row_of(key: NewKey, now_ms: int) -> KeyRow:
    """What the database keeps of a key."""
    return KeyRow(key.key_id, key.name, key.level.name, hash_of(key.secret), now_ms)


def hash_of(secret: str) -> str:
    """SHA-256 of a whole key, hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _base32(raw: bytes) -> str:
    return base64.b32encode(raw).decode().rstrip("=").lower()


# --- keys that exist before anybody asked for one ------------------------------------------------------------


def seed_keys(db: Database, settings: Settings, clock: Clock) -> list[str]:
    """Bring the keys of API_KEY_MASTER, API_KEY_TRADING and API_KEY_READONLY into the database; returns their ids.

    A changed value replaces the key of its level. A seed that was revoked stays revoked until its value changes.
    Taking a variable away revokes nothing: ``crypto-data keys revoke seed-master`` does.
    """
    configured = {
        Level.master: settings.api_key_master,
        Level.trading: settings.api_key_trading,
        Level.readonly: settings.api_key_readonly,
    }
    now_ms = clock.now_ms()
    rows = [
        KeyRow(
            f"seed-{level.name}",
            f"API_KEY_{level.name.upper()}",
            level.name,
            hash_of(secret.get_secret_value()),
            now_ms,
        )
        for level, secret in configured.items()
        if secret is not None
    ]
    if len({row.secret_hash for row in rows}) < len(rows):
        raise ConfigError("API_KEY_MASTER, API_KEY_TRADING and API_KEY_READONLY must be different keys")

    def work(conn: Connection) -> None:
        for row in rows:
            stored = api_keys.find(conn, row.key_id)
            if stored is None:
                api_keys.insert(conn, [row])
            elif stored.secret_hash != row.secret_hash:
                api_keys.replace_secret(conn, row)

    if rows:
        db.run(work)
    return [row.key_id for row in rows]


def ensure_local_keys(db: Database, file: Path, clock: Clock) -> list[NewKey]:
    """The keys of a local node: made on the first start, one per level, and kept in ``file`` (mode 0600).

    Returns them when they have just been made, [] ever after: they are shown once. Where the file exists its keys are
    brought into a database that does not know them (live and sandbox data have one each). A database whose keys come
    from elsewhere (a master key is in force, but no file) gets none. ConfigError if the file cannot be read.
    """
    now_ms = clock.now_ms()
    made: list[NewKey] = []
    keys = _read_keys_file(file)
    if keys is None:
        with db.read() as conn:
            if any(_is_usable_master(row, now_ms) for row in api_keys.load(conn)):
                return []
        made = [new_key(f"local {level.name}", level) for level in (Level.master, Level.trading, Level.readonly)]
        if not _write_keys_file(file, made):  # another process was first
            made = []
        keys = _read_keys_file(file)
        if keys is None:
            raise ConfigError(f"{file} vanished while it was being written")
    rows = [row_of(key, now_ms) for key in keys]
    db.run(lambda conn: api_keys.insert(conn, rows))
    return made


def _is_usable_master(row: KeyRow, now_ms: int) -> bool:
    expired = row.expires_at is not None and row.expires_at <= now_ms
    return row.level == Level.master.name and row.revoked_at is None and not expired


def _write_keys_file(file: Path, keys: Sequence[NewKey]) -> bool:
    """Create ``file`` completely or not at all; False if it is there already."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "note": "API keys of this local node. Anyone who has them can use it; revoke: crypto-data keys revoke ID",
        **{key.level.name: key.secret for key in keys},
    }
    partial = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(json.dumps(content, indent=2) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.link(partial, file)
    except FileExistsError:
        return False
    finally:
        partial.unlink()
    return True


def _read_keys_file(file: Path) -> list[NewKey] | None:
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read as API keys ({error}); move it away to get new ones") from error
    try:
        keys = [
            NewKey(secret.split("_")[1], f"local {level.name}", level, secret)
            for level in (Level.master, Level.trading, Level.readonly)
            if (secret := content.get(level.name)) is not None
        ]
    except (AttributeError, IndexError) as error:
        raise ConfigError(f"{file} is not a file of API keys ({error!r}); move it away to get new ones") from error
    if not keys:
        raise ConfigError(f"{file} holds no API key (master, trading, readonly); move it away to get new ones")
    for key in keys:
        if key.secret in PUBLISHED_KEYS or not key.secret.startswith(f"{PREFIX}_{key.key_id}_"):
            raise ConfigError(f"{file}: {key.key_id!r} is not a key this node made; move the file away to get new ones")
    if file.stat().st_mode & 0o077:
        logger.warning("%s was readable by others; its mode is 0600 again", file)
        file.chmod(0o600)
    return keys

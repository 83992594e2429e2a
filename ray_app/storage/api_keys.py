"""Named statements over ``api_keys``. The table holds hashes only; nothing here ever sees a key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, select

from ray_app.storage.tables import api_keys


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One key as stored; times in ms (node time), None: does not expire, is not revoked."""

    key_id: str
    name: str
    level: str
    secret_hash: str
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None


_COLUMNS = (
    api_keys.c.key_id,
    api_keys.c.name,
    api_keys.c.level,
    api_keys.c.secret_hash,
    api_keys.c.created_at,
    api_keys.c.expires_at,
    api_keys.c.revoked_at,
)
_ALL = select(*_COLUMNS).order_by(api_keys.c.created_at, api_keys.c.key_id)
_ONE = select(*_COLUMNS).where(api_keys.c.key_id == bindparam("wanted"))


def load(conn: Connection) -> list[KeyRow]:
    """Every key ever made, oldest first, revoked and expired ones included."""
    return [KeyRow(*row) for row in conn.execute(_ALL)]


def find(conn: Connection, key_id: str) -> KeyRow | None:
    """The key called ``key_id``, or None."""
    row = conn.execute(_ONE, {"wanted": key_id}).one_or_none()
    return KeyRow(*row) if row is not None else None


def insert(conn: Connection, rows: Sequence[KeyRow]) -> None:
    """Add keys whose ids are not there yet; a row whose id exists is left as it is."""
    for row in rows:
        if find(conn, row.key_id) is None:
            conn.execute(
                api_keys.insert().values(
                    key_id=row.key_id,
                    name=row.name,
                    level=row.level,
                    secret_hash=row.secret_hash,
                    created_at=row.created_at,
                    expires_at=row.expires_at,
                    revoked_at=row.revoked_at,
                )
            )


def replace_secret(conn: Connection, row: KeyRow) -> None:
    """Give the key ``row.key_id`` another secret; the new one is not revoked."""
    conn.execute(
        api_keys.update()
        .where(api_keys.c.key_id == row.key_id)
        .values(
            secret_hash=row.secret_hash, level=row.level, created_at=row.created_at, expires_at=None, revoked_at=None
        )
    )


def revoke(conn: Connection, key_id: str, now_ms: int) -> bool:
    """Revoke a key; the time of a first revocation stays. False if there is no such key."""
    if find(conn, key_id) is None:
        return False
    conn.execute(
        api_keys.update().where(api_keys.c.key_id == key_id, api_keys.c.revoked_at.is_(None)).values(revoked_at=now_ms)
    )
    return True

"""Events of what was stored, in the same transaction as the values: an event exists exactly when its values do.

Sequence numbers are dense per channel. The channel's row in ``outbox_heads`` stays locked from :func:`append` to
the commit, so numbers become visible in order and a reader that has seen N never finds a smaller one later. For
the same reason append last in a transaction, and to several channels always in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.dialects import mysql, sqlite

from ray_app.storage.tables import outbox, outbox_heads


def append(conn: Connection, channel: str, bodies: Sequence[bytes], now_ms: int) -> range:
    """Add events; the sequence numbers they got. ``now_ms``: node time, used only to prune by age."""
    last = _advance(conn, channel, len(bodies))
    given = range(last - len(bodies) + 1, last + 1)
    if bodies:
        conn.execute(
            insert(outbox),
            [
                {"channel": channel, "seq": seq, "created_at": now_ms, "body": body}
                for seq, body in zip(given, bodies, strict=True)
            ],
        )
    return given


def _advance(conn: Connection, channel: str, count: int) -> int:
    values = {"channel": channel, "seq": count}
    if conn.dialect.name == "sqlite":
        lite = sqlite.insert(outbox_heads).values(values)
        conn.execute(
            lite.on_conflict_do_update(index_elements=["channel"], set_={"seq": outbox_heads.c.seq + lite.excluded.seq})
        )
    else:
        # UPDATE first: INSERT … ON DUPLICATE KEY of a row that exists takes more locks than it needs.
        found = conn.execute(
            update(outbox_heads).where(outbox_heads.c.channel == channel).values(seq=outbox_heads.c.seq + count)
        )
        if found.rowcount == 0:
            theirs = mysql.insert(outbox_heads).values(values)
            conn.execute(theirs.on_duplicate_key_update(seq=outbox_heads.c.seq + theirs.inserted.seq))
    return head(conn, channel)


def read(conn: Connection, channel: str, after_seq: int, limit: int) -> list[tuple[int, bytes]]:
    """Up to ``limit`` events after ``after_seq``, ascending.

    Contiguous from ``after_seq + 1`` on, unless those were pruned meanwhile: compare with :func:`tail_start`.
    """
    found = conn.execute(
        select(outbox.c.seq, outbox.c.body)
        .where(outbox.c.channel == channel, outbox.c.seq > after_seq)
        .order_by(outbox.c.seq)
        .limit(limit)
    )
    return [(seq, bytes(body)) for seq, body in found]


def head(conn: Connection, channel: str) -> int:
    """The last sequence number given out; 0 if there never was one."""
    return conn.scalar(select(outbox_heads.c.seq).where(outbox_heads.c.channel == channel)) or 0


def tail_start(conn: Connection, channel: str) -> int:
    """The oldest event still kept; head + 1 if none is."""
    oldest = conn.scalar(select(func.min(outbox.c.seq)).where(outbox.c.channel == channel))
    return oldest if oldest is not None else head(conn, channel) + 1


def prune(conn: Connection, before_ms: int, *, channel: str | None = None, limit: int = 5_000) -> int:
    """Delete events older than ``before_ms`` from the front of ``channel`` (None: of each); how many went.

    What stays is contiguous: deletion stops at the first event young enough to keep. At most ``limit`` events go in
    one transaction, so that writers never wait long: call again until the answer is 0.
    """
    gone = 0
    every = conn.scalars(select(outbox_heads.c.channel).order_by(outbox_heads.c.channel)).all()
    for name in every if channel is None else (channel,):
        front = conn.execute(
            select(outbox.c.seq, outbox.c.created_at)
            .where(outbox.c.channel == name)
            .order_by(outbox.c.seq)
            .limit(limit - gone)
        ).all()
        end = next((seq for seq, created_at in front if created_at >= before_ms), None)
        stop = end if end is not None else (front[-1].seq + 1 if front else 0)
        if stop and (front[0].seq < stop):
            gone += conn.execute(delete(outbox).where(outbox.c.channel == name, outbox.c.seq < stop)).rowcount
        if gone >= limit:
            break
    return gone

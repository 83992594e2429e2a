"""Queries of texts: what is stored of a platform's posts, and which articles are known already."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, Table, select

from ray_app.storage.tables import social_posts

_IN_LIST = 1_000


def posts_to_look_at(conn: Connection, platform: str, since: int, limit: int) -> list[str]:
    """The platform's own ids of posts published since ``since`` (ms) that are not known to be deleted.

    Those seen longest ago come first.
    """
    columns = social_posts.c
    query = (
        select(columns.content_id)
        .where(columns.platform == platform, columns.published_at >= since, columns.deleted_at.is_(None))
        .order_by(columns.fetched_at, columns.content_id)
        .limit(limit)
    )
    return [content_id.partition(":")[2] for content_id in conn.scalars(query)]


def known_contents(conn: Connection, table: Table, content_ids: Iterable[str]) -> set[str]:
    """Which of the ids the table has."""
    ids = sorted(set(content_ids))
    found: set[str] = set()
    for start in range(0, len(ids), _IN_LIST):
        part = ids[start : start + _IN_LIST]
        found.update(conn.scalars(select(table.c.content_id).where(table.c.content_id.in_(part))))
    return found

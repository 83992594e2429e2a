"""Queries of texts: posts to look at again, editions, and what is forgotten of posts deleted or edited."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, delete, exists, or_, select

from ray_app.storage.lookup import rows_of_keys
from ray_app.storage.tables import social_posts, text_mentions, text_parts

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


def editions_known_at(conn: Connection, editions: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Of (content_id, edition): the ms of its first fetch."""
    keys = [(content_id, edition, 0, edition) for content_id, edition in sorted(set(editions))]
    found = rows_of_keys(conn, text_parts, keys, ("content_id", "edition", "known_at"))
    return {(content_id, edition): known_at for content_id, edition, known_at in found}


def forget_mentions(conn: Connection, content_ids: Iterable[str]) -> None:
    """Delete what is noted of posts that were deleted, or said it only before an edit: its terms are words of theirs.

    The stored posts decide, not those written last: so a deletion holds against an older answer that comes late, and
    what is noted depends on the set of answers alone.
    """
    noted, post = text_mentions.c, social_posts.c
    outlived = exists().where(
        post.content_id == noted.content_id, or_(post.deleted_at.is_not(None), post.fetched_at > noted.fetched_at)
    )
    ids = sorted(set(content_ids))
    for start in range(0, len(ids), _IN_LIST):
        conn.execute(delete(text_mentions).where(noted.content_id.in_(ids[start : start + _IN_LIST]), outlived))

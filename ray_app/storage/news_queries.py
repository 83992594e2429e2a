"""Reads of news, named, each with the index it uses (tests/storage/test_news_queries.py).

Newest first by ``known_at``, the first fetch: who polls for what is new misses nothing, however late a feed was.

A **reprint** is an article of the same ``story_id`` as one first seen less than :data:`REPRINT_MS` before it: of a
story that forty sites copy, the article seen first stands for all. A title that comes back every day is another story
each day. Deleted texts are no articles, and stand for none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, FromClause, Select, Table, and_, func, literal, or_, select

from ray_app.storage.tables import crypto_news, stock_news, text_mentions

Record = dict[str, Any]

MARKETS: dict[str, Table] = {"crypto": crypto_news, "stock": stock_news}
#: reprints follow within hours; daily columns of one title are 24 h apart
REPRINT_MS = 20 * 3_600_000
#: articles read to count the reprints of a page
_MOST_REPRINTS = 20_000
#: ids in one statement
_IDS = 250


def articles_query(
    market: str,
    *,
    since: int,
    before: tuple[int, str] | None = None,
    asset_id: int | None = None,
    words: Sequence[str] = (),
) -> Select[Any]:
    """Articles that are no reprints, first seen since a moment, newest first; ``before``: (known_at, content_id).

    ``words`` (lower case): only where each stands in title or summary, anywhere, ASCII letters in any case.
    """
    table = MARKETS[market]
    a, n = table.alias("a"), table.alias("n")
    same_story = _told_before(a, n)
    query = select(a).where(a.c.known_at >= since, a.c.deleted_at.is_(None))
    if before is not None:
        query = query.where(
            a.c.known_at <= before[0],
            or_(a.c.known_at < before[0], and_(a.c.known_at == before[0], a.c.content_id < before[1])),
        )
    if asset_id is not None:
        mention = select(literal(1)).where(
            text_mentions.c.content_id == a.c.content_id, text_mentions.c.asset_id == asset_id
        )
        query = query.where(mention.correlate(a).exists())
    for word in words:
        pattern = f"%{_escaped(word)}%"
        query = query.where(
            or_(func.lower(a.c.title).like(pattern, escape="|"), func.lower(a.c.summary).like(pattern, escape="|"))
        )
    return query.where(~same_story.correlate(a).exists()).order_by(a.c.known_at.desc(), a.c.content_id.desc())


def _told_before(a: FromClause, n: FromClause) -> Select[Any]:
    """Whether ``n`` has an article that told the story of the one in ``a`` before it."""
    return select(literal(1)).where(
        n.c.story_id == a.c.story_id,
        n.c.deleted_at.is_(None),
        n.c.known_at > a.c.known_at - REPRINT_MS,
        or_(n.c.known_at < a.c.known_at, and_(n.c.known_at == a.c.known_at, n.c.content_id < a.c.content_id)),
    )


def _escaped(word: str) -> str:
    return word.replace("|", "||").replace("%", "|%").replace("_", "|_")


def articles(
    conn: Connection,
    market: str,
    *,
    since: int,
    before: tuple[int, str] | None = None,
    asset_id: int | None = None,
    words: Sequence[str] = (),
    limit: int,
) -> list[Record]:
    """Up to ``limit`` articles, newest first; see :func:`articles_query`."""
    query = articles_query(market, since=since, before=before, asset_id=asset_id, words=words)
    return [dict(row) for row in conn.execute(query.limit(limit)).mappings()]


def reprints_query(market: str, story_ids: Sequence[str], since: int) -> Select[Any]:
    """Who told these stories since a moment, story by story, in order of first fetch."""
    columns = MARKETS[market].c
    return (
        select(columns.story_id, columns.content_id, columns.known_at, columns.feed)
        .where(columns.story_id.in_(story_ids), columns.known_at >= since, columns.deleted_at.is_(None))
        .order_by(columns.story_id, columns.known_at, columns.content_id)
    )


def reprints(conn: Connection, market: str, shown: Sequence[Record]) -> dict[str, tuple[int, list[str]]]:
    """Per shown article (its content_id): how many reprints it has so far, and the feeds that told it, sorted."""
    found: dict[str, tuple[int, list[str]]] = {}
    ids = {article["content_id"] for article in shown}
    stories = sorted({article["story_id"] for article in shown})
    since = min((article["known_at"] for article in shown), default=0)
    for some in _parts(stories):
        rows = conn.execute(reprints_query(market, some, since).limit(_MOST_REPRINTS)).all()
        for _, told in groupby(rows, key=lambda row: row.story_id):
            found |= _chains(list(told), ids)
    return found


def _chains(told: Sequence[Any], ids: set[str]) -> dict[str, tuple[int, list[str]]]:
    """Cut one story's articles where REPRINT_MS pass without one."""
    chains: list[list[Any]] = []
    for row in told:
        if not chains or row.known_at - chains[-1][-1].known_at >= REPRINT_MS:
            chains.append([])
        chains[-1].append(row)
    return {
        chain[0].content_id: (len(chain) - 1, sorted({row.feed for row in chain}))
        for chain in chains
        if chain[0].content_id in ids
    }


def retold(conn: Connection, market: str, content_ids: Sequence[str]) -> set[str]:
    """Those of the articles that are reprints."""
    a, n = MARKETS[market].alias("a"), MARKETS[market].alias("n")
    found: set[str] = set()
    for some in _parts(content_ids):
        query = select(a.c.content_id).where(a.c.content_id.in_(some), _told_before(a, n).correlate(a).exists())
        found.update(conn.scalars(query))
    return found


def rows_of(conn: Connection, market: str, content_ids: Sequence[str]) -> list[Record]:
    """The articles of these ids that are there and not deleted."""
    columns = MARKETS[market].c
    found: list[Record] = []
    for some in _parts(content_ids):
        query = select(MARKETS[market]).where(columns.content_id.in_(some), columns.deleted_at.is_(None))
        found += [dict(row) for row in conn.execute(query).mappings()]
    return found


def known(conn: Connection, market: str, content_ids: Sequence[str]) -> set[str]:
    """Those of the ids that have a row, deleted or not."""
    column = MARKETS[market].c.content_id
    return {id_ for some in _parts(content_ids) for id_ in conn.scalars(select(column).where(column.in_(some)))}


def mentions_query(content_ids: Sequence[str]) -> Select[Any]:
    """Which assets texts mention, by the key."""
    columns = text_mentions.c
    query = select(columns.content_id, columns.asset_id, columns.term).where(columns.content_id.in_(content_ids))
    return query.order_by(columns.content_id, columns.asset_id)


def mentions(conn: Connection, content_ids: Sequence[str]) -> dict[str, list[Record]]:
    """Per text that mentions any: asset_id and term of each."""
    found: dict[str, list[Record]] = {}
    for some in _parts(content_ids):
        for row in conn.execute(mentions_query(some)):
            found.setdefault(row.content_id, []).append({"asset_id": row.asset_id, "term": row.term})
    return found


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[i : i + _IDS] for i in range(0, len(ids), _IDS))

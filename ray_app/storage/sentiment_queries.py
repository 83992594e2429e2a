"""Scores of texts and their aggregates: named reads, each with the index it uses, and writes that converge.

A text is cut into **parts** (``text_parts``): itself, and what it says of each asset that it names. Models score words,
not texts: ``text_scores`` is by the hash of the words, so what forty sites copy is scored once. The first score of a
revision stands, whoever writes another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, Table, and_, case, delete, func, literal, null, or_, select

from ray_app.storage.lookup import rows_of_keys
from ray_app.storage.records import earliest_wins
from ray_app.storage.rows import checked
from ray_app.storage.tables import (
    crypto_news,
    sentiment_aggregation,
    social_posts,
    stock_news,
    text_parts,
    text_scores,
)
from ray_app.storage.upsert import guarded_upsert

Record = dict[str, Any]

KINDS: Final[dict[str, Table]] = {"crypto_news": crypto_news, "stock_news": stock_news, "social_posts": social_posts}
#: (known_at, content_id) of the last text seen; (known_at, content_id, asset_id) of the last part
TextCursor = tuple[int, str]
PartCursor = tuple[int, str, int]
_IDS = 250


# --- texts and their parts ------------------------------------------------------------------------------------


def texts_query(kind: str, *, since: int, after: TextCursor | None = None) -> Select[Any]:
    """Texts first seen at ``since`` (ms) or later that are not deleted, oldest first, after a cursor.

    ``body`` is the summary of an article, the text of a post. By the index on known_at.
    """
    table = KINDS[kind]
    body = table.c.text if kind == "social_posts" else table.c.summary
    query = select(
        table.c.content_id,
        table.c.title,
        body.label("body"),
        table.c.published_at,
        table.c.known_at,
        table.c.fetched_at,
    ).where(table.c.known_at >= _from(since, after), table.c.deleted_at.is_(None))
    if after is not None:
        query = query.where(
            or_(table.c.known_at > after[0], and_(table.c.known_at == after[0], table.c.content_id > after[1])),
        )
    return query.order_by(table.c.known_at, table.c.content_id)


def texts(conn: Connection, kind: str, *, since: int, after: TextCursor | None = None, limit: int) -> list[Record]:
    """A page of texts; see :func:`texts_query`. The cursor of the next is the last one's."""
    query = texts_query(kind, since=since, after=after).limit(limit)
    return [dict(row) for row in conn.execute(query).mappings()]


def texts_of(conn: Connection, kind: str, content_ids: Iterable[str]) -> dict[str, Record]:
    """Title and body of the texts of these ids that are there and not deleted."""
    table = KINDS[kind]
    body = table.c.text if kind == "social_posts" else table.c.summary
    found: dict[str, Record] = {}
    for some in _some(sorted(set(content_ids))):
        query = select(table.c.content_id, table.c.title, body.label("body")).where(
            table.c.content_id.in_(some), table.c.deleted_at.is_(None)
        )
        found |= {row["content_id"]: dict(row) for row in conn.execute(query).mappings()}
    return found


def parts_of(conn: Connection, content_ids: Iterable[str]) -> dict[str, set[tuple[int, str]]]:
    """Per text that was cut: (asset_id, text_hash) of its parts, of every version of it; asset 0 is the whole."""
    columns = text_parts.c
    found: dict[str, set[tuple[int, str]]] = {}
    for some in _some(sorted(set(content_ids))):
        query = select(columns.content_id, columns.asset_id, columns.text_hash).where(columns.content_id.in_(some))
        for row in conn.execute(query):
            found.setdefault(row.content_id, set()).add((row.asset_id, row.text_hash))
    return found


def add_parts(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Note parts; of one that is there the earliest ``known_at`` stands."""
    earliest_wins(conn, text_parts, _clean(text_parts, rows), ("known_at", "kind"))


def forget_parts(conn: Connection, content_ids: Iterable[str]) -> None:
    """Delete the parts of texts that were deleted; scores are of words, and say of no text that it had them."""
    for some in _some(sorted(set(content_ids))):
        conn.execute(delete(text_parts).where(text_parts.c.content_id.in_(some)))


# --- scores ---------------------------------------------------------------------------------------------------


def parts_query(kind: str, model: str, revision: str, *, since: int, after: PartCursor | None = None) -> Select[Any]:
    """Parts known since a moment, oldest first, after a cursor; ``scored``: whether this revision has scored them.

    By the index on (kind, known_at, content_id, asset_id), and the key of the scores.
    """
    part, score = text_parts.c, text_scores.alias("s")
    is_scored = (
        select(literal(1))
        .where(score.c.text_hash == part.text_hash, score.c.model == model, score.c.revision == revision)
        .correlate(text_parts)
        .exists()
    )
    query = select(part.content_id, part.asset_id, part.text_hash, part.known_at, is_scored.label("scored")).where(
        part.kind == kind, part.known_at >= _from(since, after)
    )
    if after is not None:
        known_at, content_id, asset_id = after
        later_part = and_(part.content_id == content_id, part.asset_id > asset_id)
        query = query.where(
            or_(
                part.known_at > known_at, and_(part.known_at == known_at, or_(part.content_id > content_id, later_part))
            ),
        )
    return query.order_by(part.known_at, part.content_id, part.asset_id)


def unscored(
    conn: Connection,
    kind: str,
    model: str,
    revision: str,
    *,
    since: int = 0,
    after: PartCursor | None = None,
    limit: int,
) -> tuple[list[Record], PartCursor | None]:
    """Of the next ``limit`` parts those that this revision has not scored, and where to go on; None: that was all.

    Each with ``title`` and ``body`` of its text; those of deleted texts are left out. Words occur once a page. Of an
    edited text there may be parts whose words are gone: their hash is of none of its parts as cut now, pass them over.
    """
    rows = conn.execute(parts_query(kind, model, revision, since=since, after=after).limit(limit)).all()
    going_on = (rows[-1].known_at, rows[-1].content_id, rows[-1].asset_id) if len(rows) == limit else None
    todo = [row for row in rows if not row.scored]
    held = texts_of(conn, kind, (row.content_id for row in todo))
    found: dict[str, Record] = {}
    for row in todo:
        if row.content_id in held:
            place = {"text_hash": row.text_hash, "asset_id": row.asset_id, "known_at": row.known_at}
            found.setdefault(row.text_hash, place | held[row.content_id])
    return list(found.values()), going_on


def scores_of(conn: Connection, keys: Iterable[tuple[str, str, str]]) -> dict[tuple[str, str, str], Record]:
    """The stored scores of these (text_hash, model, revision)."""
    names = [column.name for column in text_scores.columns]
    rows = (dict(zip(names, row, strict=True)) for row in rows_of_keys(conn, text_scores, sorted(set(keys))))
    return {(row["text_hash"], row["model"], row["revision"]): row for row in rows}


def add_scores(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store scores; of one that is there the earliest (``known_at``, ``run_id``) stands, the whole row.

    StorageError for what is no score: NaN, infinity. Nothing to store of a model that is unavailable: it has not tried.
    """
    earliest_wins(conn, text_scores, _clean(text_scores, rows), ("known_at", "run_id"))


# --- aggregates -----------------------------------------------------------------------------------------------


def window_query(kind: str, models: Sequence[str], *, since: int, until: int) -> Select[Any]:
    """Scores of the parts known in ``[since, until]`` with what aggregates ask of their texts.

    One row for each part, model and revision whose score was known by ``until``; ``scope``: asset where the part is
    about one, else the market of the text; ``known_at``: of part and score the later; ``published_at``: at the latest
    when the part was known. The columns are those of sentiment/aggregate.py. By the parts' index and the scores' key.
    """
    part, score, text = text_parts, text_scores, KINDS[kind]
    posts = kind == "social_posts"
    scope = case((part.c.asset_id > 0, "asset"), else_="stock" if kind == "stock_news" else "crypto")
    dated = text.c.published_at < part.c.known_at
    return (
        select(
            scope.label("scope"),
            part.c.asset_id,
            part.c.content_id,
            (null() if posts else text.c.story_id).label("story_id"),
            (text.c.platform if posts else literal("news")).label("source"),
            score.c.model,
            score.c.revision,
            case((dated, text.c.published_at), else_=part.c.known_at).label("published_at"),
            case((score.c.known_at > part.c.known_at, score.c.known_at), else_=part.c.known_at).label("known_at"),
            score.c.score,
            score.c.p_negative,
            score.c.p_neutral,
            score.c.p_positive,
            _engagement(text).label("engagement") if posts else null().label("engagement"),
            (text.c.fetched_at if posts else null()).label("engagement_at"),
            (text.c.author if posts else null()).label("author"),
            (text.c.author_verified if posts else null()).label("author_verified"),
        )
        .join_from(part, score, score.c.text_hash == part.c.text_hash)
        .join(text, text.c.content_id == part.c.content_id)
        .where(
            part.c.kind == kind,
            part.c.known_at >= since,
            part.c.known_at <= until,
            score.c.model.in_(models),
            score.c.known_at <= until,
            score.c.score.is_not(None),
            text.c.deleted_at.is_(None),
        )
    )


def window_rows(conn: Connection, kind: str, models: Sequence[str], *, since: int, until: int) -> Iterator[Record]:
    """The rows of :func:`window_query`, one at a time."""
    for row in conn.execute(window_query(kind, models, since=since, until=until)).mappings():
        yield dict(row)


def add_aggregates(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> int:
    """Store aggregates: those of newer rules win, of the same rules those computed last; how many rows it changed."""
    return guarded_upsert(conn, sentiment_aggregation, rows)


def aggregates_query(
    scope: str, asset_id: int, model: str, source: str, window_s: int, *, start: int, end: int
) -> Select[Any]:
    """The windows of one width that end in ``[start, end)``, ascending, by the key."""
    column = sentiment_aggregation.c
    return (
        select(sentiment_aggregation)
        .where(
            column.asset_id == asset_id,
            column.scope == scope,
            column.model == model,
            column.source == source,
            column.window_s == window_s,
            column.window_end >= start,
            column.window_end < end,
        )
        .order_by(column.window_end)
    )


def aggregates(
    conn: Connection, scope: str, asset_id: int, model: str, source: str, window_s: int, *, start: int, end: int
) -> list[Record]:
    """See :func:`aggregates_query`."""
    query = aggregates_query(scope, asset_id, model, source, window_s, start=start, end=end)
    return [dict(row) for row in conn.execute(query).mappings()]


def last_window(conn: Connection, window_s: int) -> int | None:
    """The newest end of a stored window of this width (ms); None: none is stored."""
    column = sentiment_aggregation.c
    query = select(column.window_end).where(column.window_s == window_s).order_by(column.window_end.desc()).limit(1)
    return conn.scalar(query)


def _engagement(post: Table) -> ColumnElement[int | None]:
    """Votes (below 0: none), comments and reposts together; NULL where the platform says none of them."""
    named = (post.c.score, post.c.comments, post.c.reposts)
    votes = case((post.c.score > 0, post.c.score), else_=0)
    total = votes + func.coalesce(post.c.comments, 0) + func.coalesce(post.c.reposts, 0)
    return case((or_(*(column.is_not(None) for column in named)), total), else_=None)


def _from(since: int, after: TextCursor | PartCursor | None) -> int:
    """One lower bound: of two SQLite takes the first, and walks from there."""
    return since if after is None else max(since, after[0])


def _clean(table: Table, rows: Sequence[Mapping[str, Any]]) -> list[Record]:
    """The rows with every column, checked as those of guarded upserts are."""
    names = [column.name for column in table.columns]
    return [dict(zip(names, row, strict=True)) for row in checked(table, rows)] if rows else []


def _some(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[i : i + _IDS] for i in range(0, len(ids), _IDS))

"""Scores of texts and their aggregates: named reads, each with the index it uses, and writes that converge.

Each edition of a text is cut into **parts** (``text_parts``): itself, and what it says of each asset that it names.
Models score words, not texts: ``text_scores`` is by the hash of the words, so what forty sites copy is scored once. The
first score of a revision stands, whoever writes another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, Select, Table, and_, case, func, literal, null, or_, select

from ray_app.editions import edition_of
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
#: (known_at, content_id, asset_id, text_hash) of the last part seen
PartCursor = tuple[int, str, int, str]
_IDS = 250


# --- parts of texts -------------------------------------------------------------------------------------------


def unscored_query(
    kind: str,
    model: str,
    revision: str | None,
    *,
    since: int = 0,
    after: PartCursor | None = None,
    until: PartCursor | None = None,
) -> Select[Any]:
    """Parts that this revision (None: any revision) of the model has not scored, oldest first.

    Those known since a moment, after a cursor, up to another. By the index on (kind, known_at, content_id, asset_id,
    text_hash), and the key of the scores. (MariaDB may answer NOT EXISTS by reading all scores first; this join never.)
    """
    part, score = text_parts.c, text_scores.alias("s")
    scored = and_(score.c.text_hash == part.text_hash, score.c.model == model)
    if revision is not None:
        scored &= score.c.revision == revision
    place = (part.known_at, part.content_id, part.asset_id, part.text_hash)
    query = (
        select(*place, part.edition, part.spans)
        .outerjoin_from(text_parts, score, scored)
        .where(
            part.kind == kind,
            part.known_at >= (since if after is None else max(since, after[0])),  # of two bounds SQLite takes the first
            score.c.text_hash.is_(None),
        )
    )
    if after is not None:
        query = query.where(_later(place, after))
    if until is not None:
        query = query.where(part.known_at <= until[0], ~_later(place, until))
    return query.order_by(*place)


def unscored(
    conn: Connection,
    kind: str,
    model: str,
    revision: str | None,
    *,
    since: int = 0,
    after: PartCursor | None = None,
    until: PartCursor | None = None,
    limit: int | None = None,
) -> list[Row[Any]]:
    """See :func:`unscored_query`; words may occur several times."""
    query = unscored_query(kind, model, revision, since=since, after=after, until=until).limit(limit)
    return list(conn.execute(query))


def place_of(part: Row[Any]) -> PartCursor:
    """The cursor behind which the parts after this one come."""
    return part.known_at, part.content_id, part.asset_id, part.text_hash


def texts_of_parts(conn: Connection, kind: str, parts: Iterable[Row[Any]]) -> list[Record]:
    """Of each part ``text_hash`` and ``spans``, ``title`` and ``body`` of its text; the same words once.

    Left out are those whose words are gone: of texts that were deleted or say something else now.
    """
    parts = list(parts)
    held = _texts(conn, kind, (part.content_id for part in parts))
    found: dict[str, Record] = {}
    for part in parts:
        text = held.get(part.content_id)
        if text is not None and edition_of(text["title"], text["body"]) == part.edition:
            found.setdefault(part.text_hash, {"text_hash": part.text_hash, "spans": part.spans} | text)
    return list(found.values())


def _texts(conn: Connection, kind: str, content_ids: Iterable[str]) -> dict[str, Record]:
    """Title and body (of an article the summary) of the texts that are there and not deleted."""
    table = KINDS[kind]
    body = table.c.text if kind == "social_posts" else table.c.summary
    found: dict[str, Record] = {}
    for some in _some(sorted(set(content_ids))):
        query = select(table.c.content_id, table.c.title, body.label("body")).where(
            table.c.content_id.in_(some), table.c.deleted_at.is_(None)
        )
        found |= {row.content_id: {"title": row.title, "body": row.body} for row in conn.execute(query)}
    return found


# --- scores ---------------------------------------------------------------------------------------------------


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
    about one, else the market of the text; ``known_at``: of part and score the later; ``replaced_at``: when the text
    was first seen to say something else; ``published_at``: at the latest when the part was known. The columns are those
    of sentiment/aggregate.py. By the parts' index and key, and the scores' key.
    """
    part, score, text, later = text_parts, text_scores, KINDS[kind], text_parts.alias("later")
    replaced_at = (
        select(func.min(later.c.known_at))
        .where(
            later.c.content_id == part.c.content_id,
            later.c.edition != part.c.edition,
            later.c.asset_id == 0,
            later.c.known_at > part.c.known_at,
        )
        .correlate(part)
        .scalar_subquery()
    )
    posts = kind == "social_posts"
    scope = case((part.c.asset_id > 0, "asset"), else_="stock" if kind == "stock_news" else "crypto")
    dated = text.c.published_at < part.c.known_at
    return (
        select(
            scope.label("scope"),
            part.c.asset_id,
            part.c.content_id,
            part.c.edition,
            replaced_at.label("replaced_at"),
            text.c.deleted_at,
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
        )
    )


def window_rows(conn: Connection, kind: str, models: Sequence[str], *, since: int, until: int) -> Iterator[Record]:
    """The rows of :func:`window_query`, as they come: any number in constant memory."""
    streamed = conn.execution_options(stream_results=True, yield_per=5_000)
    for row in streamed.execute(window_query(kind, models, since=since, until=until)).mappings():
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


def first_scored(conn: Connection) -> int | None:
    """When this node had its first score (ms); None: it has none. Walks the index on (model, revision, known_at)."""
    found: int | None = conn.scalar(select(func.min(text_scores.c.known_at)))
    return found


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


def _later(place: Sequence[ColumnElement[Any]], after: PartCursor) -> ColumnElement[bool]:
    """Whether the columns, compared from left to right, are past the cursor."""
    beyond: ColumnElement[bool] = place[-1] > after[-1]
    for column, value in reversed(list(zip(place[:-1], after[:-1], strict=True))):
        beyond = or_(column > value, and_(column == value, beyond))
    return beyond


def _clean(table: Table, rows: Sequence[Mapping[str, Any]]) -> list[Record]:
    """The rows with every column, checked as those of guarded upserts are."""
    names = [column.name for column in table.columns]
    return [dict(zip(names, row, strict=True)) for row in checked(table, rows)] if rows else []


def _some(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[i : i + _IDS] for i in range(0, len(ids), _IDS))

"""What the API reads of stored sentiment: named reads, each by a key (tests/storage/test_sentiment_reads.py).

A window holds what was known at its end (sentiment/aggregate.py), so what was known at a moment is the windows that had
ended and were known by then. Of an asset that no text in a window speaks of there is no row; of a market there always
is, so its rows say which hours were aggregated at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, select

from ray_app.storage.tables import sentiment_aggregation, text_parts, text_scores

Record = dict[str, Any]


def ends_query(market: str, model: str, window_s: int, *, as_of: int, limit: int) -> Select[Any]:
    """The newest windows of a market that were known at ``as_of``: window_end and known_at, newest first; by key."""
    column = sentiment_aggregation.c
    return (
        select(column.window_end, column.known_at)
        .where(
            column.asset_id == 0,
            column.scope == market,
            column.model == model,
            column.source == "all",
            column.window_s == window_s,
            column.window_end <= as_of,
            column.known_at <= as_of,
        )
        .order_by(column.window_end.desc())
        .limit(limit)
    )


def ends(conn: Connection, market: str, model: str, window_s: int, *, as_of: int, limit: int) -> list[Record]:
    """See :func:`ends_query`."""
    query = ends_query(market, model, window_s, as_of=as_of, limit=limit)
    return [dict(row) for row in conn.execute(query).mappings()]


def windows_query(
    scope: str,
    asset_id: int,
    models: Sequence[str],
    sources: Sequence[str],
    window_s: int,
    *,
    first: int,
    last: int,
    as_of: int,
) -> Select[Any]:
    """The windows that end from ``first`` to ``last``, both of them, as known at ``as_of``; by key."""
    column = sentiment_aggregation.c
    return (
        select(sentiment_aggregation)
        .where(
            column.asset_id == asset_id,
            column.scope == scope,
            column.model.in_(models),
            column.source.in_(sources),
            column.window_s == window_s,
            column.window_end >= first,
            column.window_end <= last,
            column.known_at <= as_of,
        )
        .order_by(column.model, column.source, column.window_end)
    )


def windows(
    conn: Connection,
    scope: str,
    asset_id: int,
    models: Sequence[str],
    sources: Sequence[str],
    window_s: int,
    *,
    first: int,
    last: int,
    as_of: int,
) -> list[Record]:
    """See :func:`windows_query`."""
    query = windows_query(scope, asset_id, models, sources, window_s, first=first, last=last, as_of=as_of)
    return [dict(row) for row in conn.execute(query).mappings()]


def scores_query(content_ids: Sequence[str], asset_id: int, as_of: int) -> Select[Any]:
    """What was known at ``as_of`` of what these texts say of an asset (0: the whole texts), oldest score first."""
    part, score = text_parts, text_scores
    return (
        select(
            part.c.content_id,
            part.c.edition,
            *(score.c[name] for name in ("model", "revision", "score", "p_negative", "p_neutral", "p_positive")),
            score.c.known_at,
        )
        .join_from(part, score, score.c.text_hash == part.c.text_hash)
        .where(
            part.c.content_id.in_(content_ids),
            part.c.asset_id == asset_id,
            part.c.known_at <= as_of,
            score.c.known_at <= as_of,
        )
        .order_by(part.c.content_id, score.c.known_at, score.c.revision)
    )


def scores(conn: Connection, content_ids: Sequence[str], asset_id: int, as_of: int) -> list[Record]:
    """See :func:`scores_query`."""
    if not content_ids:
        return []
    return [dict(row) for row in conn.execute(scores_query(content_ids, asset_id, as_of)).mappings()]

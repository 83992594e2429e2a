"""What texts said of an asset or a market in the hours up to a full hour. Pure Polars, free of look-ahead.

**What is read**: one row for each score of a text about an asset (``scope`` "asset", its id; its own window of the
text, see ``stance``) or about a market ("crypto": every text on crypto, whatever it names; "stock"; asset 0): COLUMNS.

**What a window holds.** At its end E a window of width W holds the texts that count from a moment in (E - W, E] and
whose score was known by E; ``known_at`` is the later of when the node had the text and when it had the score. A text
counts from when its first score was known, but at most GRACE_MS later than it was published: one that is scored in the
usual minutes is in some window of each width, an old text that comes in late in none of today. Of an edited text the
edition that was known at E counts, and none until it is scored: what it said before is no longer what it says. A text
that was known to be deleted at E counts no more; its score, which has no words, stands in the windows before. Of
several scores of it by one model the last that was known by E stands; so a rescore changes no window that ended before.

**Reprints** (texts of one ``story_id`` about the same thing, each known less than REPRINT_MS after the one before)
count once: the first known stands.

A window without texts has a volume of 0, and NULL in every other column.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from typing import Any, Final

import polars as pl

from ray_app.sentiment.vocabulary import SCORE_BOUNDS

#: raise it when what is said of the same scores changes: aggregates of newer rules replace the stored ones
RULES: Final = 1
HOUR_MS: Final = 3_600_000
#: seconds
WINDOWS: Final = (3_600, 4 * 3_600, 24 * 3_600, 7 * 24 * 3_600)
SCOPES: Final = ("asset", "crypto", "stock")
#: the source of what is said of all sources together
ALL: Final = "all"
GRACE_MS: Final = 2 * HOUR_MS
#: as in storage/news_queries.py: reprints follow within hours, daily columns of one title are 24 h apart
REPRINT_MS: Final = 20 * HOUR_MS

#: what is read; times are ms, UTC
COLUMNS: Final[dict[str, pl.DataType]] = {
    "scope": pl.String(),
    "asset_id": pl.Int64(),  # 0 but for scope "asset"
    "content_id": pl.String(),
    "edition": pl.String(),  # of the text: an edited one is another
    "replaced_at": pl.Int64(),  # when another edition was first seen; NULL: this is the last
    "deleted_at": pl.Int64(),  # when the text was seen to be gone; NULL: it is there
    "story_id": pl.String(),  # NULL: has no reprints
    "source": pl.String(),  # news, reddit, x, …
    "model": pl.String(),
    "revision": pl.String(),
    "published_at": pl.Int64(),  # NULL: unknown
    "known_at": pl.Int64(),
    "score": pl.Float64(),  # NULL: not scored; the row is left out
    "p_negative": pl.Float64(),
    "p_neutral": pl.Float64(),
    "p_positive": pl.Float64(),
    "engagement": pl.Int64(),  # NULL: the source has none
    "engagement_at": pl.Int64(),  # when it was that much; NULL: with the text
    "author": pl.String(),
    "author_verified": pl.Int64(),  # 1, 0; NULL: the platform does not say
}
KEY: Final = ("scope", "asset_id", "window_s", "window_end", "model", "source")
#: what is said of a window, in order
VALUES: Final[dict[str, pl.DataType]] = {
    "sentiment_volume": pl.Int64(),  # texts with a score; the only column that is never NULL
    "avg_sentiment": pl.Float64(),  # mean score, -1 to 1
    "weighted_sentiment": pl.Float64(),  # by confidence
    "engagement_weighted_sentiment": pl.Float64(),  # by log(1 + engagement)
    "verified_user_sentiment": pl.Float64(),  # mean of verified authors
    "sentiment_positive": pl.Float64(),  # shares of texts, 0 to 1
    "sentiment_neutral": pl.Float64(),
    "sentiment_negative": pl.Float64(),
    "avg_confidence": pl.Float64(),
    "sentiment_dispersion": pl.Float64(),  # sample standard deviation of the scores; NULL below two texts
    "sentiment_momentum": pl.Float64(),  # avg_sentiment less that of the window that ended where this one begins
    "total_engagement": pl.Int64(),
    "unique_authors": pl.Int64(),
}

_TEXT: Final = ("scope", "asset_id", "model", "content_id")
_GROUP: Final = ("scope", "asset_id", "model", "window_end")
#: hours whose members are looked at together: what bounds memory
_CHUNK: Final = 12


def aggregate(
    scores: pl.DataFrame,
    ends: Iterable[int],
    things: Sequence[tuple[str, int]],
    models: Sequence[str],
    windows: Sequence[int] = WINDOWS,
) -> pl.DataFrame:
    """One row for each of ``things`` (scope, asset id), models, windows (seconds) and ends, sorted by KEY.

    Of source "all" every one of them, also those without texts; of single sources those with texts. ``ends``: full
    hours, ms. ``scores`` must reach back twice the longest window, GRACE_MS and REPRINT_MS from the first end. Columns:
    KEY and VALUES. ValueError for columns that are missing, ends that are no full hours, windows of no full hours.
    """
    wanted = sorted(set(ends))
    if any(end % HOUR_MS for end in wanted) or any(window % 3_600 or window <= 0 for window in windows):
        raise ValueError("windows are of full hours, and end at one: ends in ms, windows in seconds")
    texts = _texts(scores).filter(pl.col("model").is_in(list(models)))
    asked = pl.DataFrame(list(things), schema={"scope": pl.String, "asset_id": pl.Int64}, orient="row").unique()
    texts = texts.join(asked, on=("scope", "asset_id"), how="semi")
    found = [
        _window(texts, window, wanted, asked.join(pl.DataFrame({"model": sorted(set(models))}), how="cross"))
        for window in windows
    ]
    empty = pl.DataFrame(schema={name: _KEY_TYPES[name] for name in KEY} | VALUES)
    return pl.concat([empty, *found]).sort(KEY)


def stored_rows(aggregates: pl.DataFrame, computed_at: int) -> Iterator[dict[str, Any]]:
    """The aggregates as rows of ``sentiment_aggregation``, computed at ``computed_at`` (ms)."""
    for row in aggregates.iter_rows(named=True):
        said = json.dumps([row[name] for name in VALUES])
        digest = hashlib.sha256(said.encode()).hexdigest()
        yield row | {
            "known_at": computed_at,
            "rules_version": RULES,
            "computed_at": computed_at,
            "values_hash": digest,
        }


_KEY_TYPES: Final[dict[str, pl.DataType]] = {
    **{name: COLUMNS[name] for name in ("scope", "asset_id", "model", "source")},
    "window_s": pl.Int64(),
    "window_end": pl.Int64(),
}


def _texts(scores: pl.DataFrame) -> pl.DataFrame:
    """The rows that count, without reprints; with ``moment`` (counts from), ``until`` (another stands), ``label``."""
    missing = [name for name in COLUMNS if name not in scores.columns]
    if missing:
        raise ValueError(f"scores have no column {', '.join(missing)}")
    if (scores["source"] == ALL).any():
        raise ValueError(f"{ALL!r} is the name of all sources together, and of no source")
    ended = pl.min_horizontal("replaced_at", "deleted_at")
    rows = scores.select(pl.col(name).cast(kind) for name, kind in COLUMNS.items()).filter(
        pl.col("score").is_not_null() & (ended.is_null() | (pl.col("known_at") < ended))
    )
    rows = rows.sort(*_TEXT, "known_at", "revision").with_columns(
        first_known=pl.col("known_at").min().over(_TEXT),
        until=pl.min_horizontal(pl.col("known_at").shift(-1).over(_TEXT), ended),
        label=_label(),
        confidence=_confidence(),
    )
    graced = pl.col("published_at").first().over(_TEXT) + GRACE_MS  # of the row known first: no later one moves it
    rows = rows.with_columns(moment=pl.min_horizontal("first_known", graced))
    return rows.join(_reprints(rows), on=_TEXT, how="anti").sort(*_TEXT, "known_at", "revision")


def _reprints(rows: pl.DataFrame) -> pl.DataFrame:
    """The texts whose story was told less than REPRINT_MS before they were known."""
    thing = ["scope", "asset_id", "model", "story_id"]
    told = rows.filter(pl.col("story_id").is_not_null()).group_by(_TEXT).agg(pl.first("story_id", "first_known"))
    told = told.sort(*thing, "first_known", "content_id")
    since = pl.col("first_known") - pl.col("first_known").shift(1).over(thing)
    return told.filter(since < REPRINT_MS)


def _label() -> pl.Expr:
    """-1, 0, 1: the likeliest class; of a model whose probabilities do not say it, by its score."""
    by_score = reduce(
        lambda rest, item: (
            pl.when(pl.col("model") == item[0])
            .then((pl.col("score") >= item[1][1]).cast(pl.Int8) - (pl.col("score") <= item[1][0]).cast(pl.Int8))
            .otherwise(rest)
        ),
        SCORE_BOUNDS.items(),
        pl.lit(None, pl.Int8),
    )
    negative, neutral, positive = (pl.col(name) for name in ("p_negative", "p_neutral", "p_positive"))
    likeliest = (positive > pl.max_horizontal(negative, neutral)).cast(pl.Int8) - (
        negative > pl.max_horizontal(positive, neutral)
    ).cast(pl.Int8)
    return pl.when(pl.col("model").is_in(list(SCORE_BOUNDS))).then(by_score).otherwise(likeliest)


def _confidence() -> pl.Expr:
    return pl.max_horizontal("p_negative", "p_neutral", "p_positive")


def _window(texts: pl.DataFrame, window_s: int, wanted: Sequence[int], grid: pl.DataFrame) -> pl.DataFrame:
    """Every row of one width."""
    width = window_s * 1_000
    needed = sorted({*wanted, *(end - width for end in wanted)})
    parts = [_said(_members(texts, width, chunk)) for chunk in _chunks(needed)]
    said = pl.concat(parts) if parts else _said(_members(texts, width, ()))
    cells = grid.join(pl.DataFrame({"window_end": wanted}, schema={"window_end": pl.Int64}), how="cross")
    rows = pl.concat(
        [
            cells.with_columns(source=pl.lit(ALL)).join(said, on=[*_GROUP, "source"], how="left"),
            said.filter(pl.col("source") != ALL).join(cells, on=list(_GROUP), how="semi"),
        ],
        how="diagonal",
    )
    before = said.select(
        "scope", "asset_id", "model", "source", pl.col("window_end") + width, avg_before=pl.col("avg_sentiment")
    )
    return (
        rows.join(before, on=[*_GROUP, "source"], how="left")
        .with_columns(
            pl.col("sentiment_volume").fill_null(0),
            sentiment_momentum=pl.col("avg_sentiment") - pl.col("avg_before"),
            window_s=pl.lit(window_s, pl.Int64),
        )
        .select(*KEY, *(pl.col(name).cast(kind) for name, kind in VALUES.items()))
    )


def _chunks(ends: Sequence[int]) -> Iterator[list[int]]:
    """Runs of ends that lie within _CHUNK hours."""
    chunk: list[int] = []
    for end in ends:
        if chunk and end - chunk[0] >= _CHUNK * HOUR_MS:
            yield chunk
            chunk = []
        chunk.append(end)
    if chunk:
        yield chunk


def _members(texts: pl.DataFrame, width: int, ends: Sequence[int]) -> pl.DataFrame:
    """A row for each end whose window holds the text: the score that stands there, engagement as known there."""
    first, last = (ends[0], ends[-1]) if ends else (0, -HOUR_MS)
    start = pl.max_horizontal(_full_hour(pl.col("known_at")), pl.lit(first))
    stop = pl.min_horizontal(  # NULL: no other row stands later
        _full_hour(pl.col("until")), _full_hour(pl.col("moment") + width), pl.lit(last + HOUR_MS)
    )
    held = texts.with_columns(start=start, stop=stop).filter(pl.col("start") < pl.col("stop"))
    held = held.with_columns(window_end=pl.int_ranges("start", "stop", HOUR_MS)).explode("window_end")
    held = held.join(
        pl.DataFrame({"window_end": list(ends)}, schema={"window_end": pl.Int64}), on="window_end", how="semi"
    )
    later = pl.col("engagement_at") > pl.col("window_end")
    return held.with_columns(engagement=pl.when(later.fill_null(value=False)).then(None).otherwise("engagement"))


def _full_hour(moment: pl.Expr) -> pl.Expr:
    """The first full hour that is not before the moment."""
    return -((-moment) // HOUR_MS) * HOUR_MS


def _said(members: pl.DataFrame) -> pl.DataFrame:
    """What each window's texts say: of each source, and of all together."""
    by_source = members.group_by(*_GROUP, "source").agg(*_statistics())
    together = members.group_by(*_GROUP).agg(*_statistics()).with_columns(source=pl.lit(ALL))
    return pl.concat([by_source, together.select(by_source.columns)])


def _statistics() -> list[pl.Expr]:
    score, weight = pl.col("score"), pl.col("engagement").clip(lower_bound=0).cast(pl.Float64).log1p()
    labels = {"sentiment_positive": 1, "sentiment_neutral": 0, "sentiment_negative": -1}
    authors = pl.col("author").drop_nulls()
    return [
        pl.len().cast(pl.Int64).alias("sentiment_volume"),
        score.mean().alias("avg_sentiment"),
        _weighted(score, pl.col("confidence")).alias("weighted_sentiment"),
        _weighted(score, weight).alias("engagement_weighted_sentiment"),
        score.filter(pl.col("author_verified") == 1).mean().alias("verified_user_sentiment"),
        *((pl.col("label") == label).mean().alias(name) for name, label in labels.items()),
        pl.col("confidence").mean().alias("avg_confidence"),
        score.std(ddof=1).alias("sentiment_dispersion"),
        pl.when(pl.col("engagement").count() > 0).then(pl.col("engagement").sum()).alias("total_engagement"),
        pl.when(authors.len() > 0).then(authors.n_unique()).cast(pl.Int64).alias("unique_authors"),
    ]


def _weighted(value: pl.Expr, weight: pl.Expr) -> pl.Expr:
    """Mean by weights, over what has one; NULL where they sum to 0."""
    total = weight.sum()
    return pl.when(total > 0).then((value * weight).sum() / total)

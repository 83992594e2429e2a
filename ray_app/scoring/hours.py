"""The hours that ended since the last ones were aggregated: ``sentiment_aggregation``, ensemble included.

No score that becomes known changes an hour that ended before (sentiment/aggregate.py), so hours are computed once, in
their order; the last one stored is computed again, for what was known in it and committed after its end.

Of an asset that no text in a window speaks of there is no row: where the market's row of that hour is there, and it
always is, the asset's volume is 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

import polars as pl

from ray_app.clock import HOUR_MS
from ray_app.scoring.plans import DOMAINS
from ray_app.sentiment import ensemble
from ray_app.sentiment.aggregate import (
    COLUMNS,
    GRACE_MS,
    REPRINT_MS,
    WINDOWS,
    aggregate,
    stored_rows,
)
from ray_app.sentiment.ensemble import Ensemble
from ray_app.sentiment.opinions import opinions
from ray_app.sentiment.vocabulary import MODELS
from ray_app.storage import sentiment_queries as queries
from ray_app.storage.engine import Database

MARKETS: Final = (("crypto", 0), ("stock", 0))
#: how far back the texts of an hour reach: the longest window, the one before it (momentum), grace and reprints
REACH_MS: Final = 2 * max(WINDOWS) * 1_000 + GRACE_MS + REPRINT_MS

#: hours aggregated and stored at a time, rows taken into a frame at a time: what bounds memory
_HOURS, _ROWS = 24, 20_000


def aggregate_hours(db: Database, now_ms: int) -> int:
    """Aggregate every full hour that is due at ``now_ms``; how many there were. A kill costs the last day of hours."""
    due = hours_due(db, now_ms)
    for start in range(0, len(due), _HOURS):
        ends = due[start : start + _HOURS]
        rows = list(stored_rows(_aggregates(db, ends), now_ms))
        db.run(lambda conn, rows=rows: queries.add_aggregates(conn, rows))  # type: ignore[misc]
    return len(due)


def hours_due(db: Database, now_ms: int) -> list[int]:
    """The ends of those hours, ms, ascending: from the last one stored, else from the first score on."""
    with db.read() as conn:
        first = queries.last_window(conn, WINDOWS[0])
        if first is None:
            first = queries.first_scored(conn)
    return [] if first is None else list(range(-(-first // HOUR_MS) * HOUR_MS, now_ms + 1, HOUR_MS))


def _aggregates(db: Database, ends: Sequence[int]) -> pl.DataFrame:
    scores = _scores(db, ends[0] - REACH_MS, ends[-1])
    things = [*scores.filter(pl.col("scope") == "asset").select("scope", "asset_id").unique().iter_rows(), *MARKETS]
    found = aggregate(scores, ends, things, [*MODELS, ensemble.NAME])
    return found.filter((pl.col("sentiment_volume") > 0) | (pl.col("scope") != "asset"))


def _scores(db: Database, since: int, until: int) -> pl.DataFrame:
    """What the models said of texts known in that time, and the ensembles'."""
    frames = []
    for domain in sorted(set(DOMAINS.values())):
        kinds = [kind for kind, of in DOMAINS.items() if of == domain]
        said = pl.concat([frame for kind in kinds for frame in _frames(db, kind, since, until)])
        frames += [said, opinions(said, Ensemble(domain)).select(said.columns)]
    return pl.concat(frames)


def _frames(db: Database, kind: str, since: int, until: int) -> Iterator[pl.DataFrame]:
    """The rows of a kind, some at a time; at least one frame."""
    yield pl.DataFrame(schema=COLUMNS)
    with db.read() as conn:
        rows = queries.window_rows(conn, kind, MODELS, since=since, until=until)
        while some := list(islice(rows, _ROWS)):
            yield pl.DataFrame(some, schema=COLUMNS)

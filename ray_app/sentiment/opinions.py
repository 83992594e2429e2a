"""The ensemble over tables of scores: its rows beside those of its members, for ``aggregate``.

A text has one opinion for each moment at which a member's score became known, made of what was known by then. So the
aggregates of an hour see the ensemble as it was, and a member that comes late changes no hour before. What members say
of different editions of a text is never mixed.
"""

from __future__ import annotations

from typing import Final

import polars as pl

from ray_app.sentiment.aggregate import COLUMNS
from ray_app.sentiment.ensemble import NAME, WEIGHTS, Ensemble, member_probabilities, scaled
from ray_app.sentiment.vocabulary import TextScore

_TEXT: Final = ("scope", "asset_id", "content_id", "edition")
_SHARES: Final = ("p_negative", "p_neutral", "p_positive")


def opinions(scores: pl.DataFrame, ensemble: Ensemble) -> pl.DataFrame:
    """Rows of model "ensemble", one for each text and moment; in: texts of the ensemble's domain, aggregate.COLUMNS.

    The same columns come back, and ``members``: the names of those that it was made of, by weight.
    """
    weights = WEIGHTS[ensemble.domain]
    rows = scores.select(pl.col(name).cast(kind) for name, kind in COLUMNS.items())
    rows = rows.filter(pl.col("model").is_in(list(weights)), pl.col("score").is_not_null())
    moments = rows.sort("known_at", "model", "revision").unique([*_TEXT, "known_at"], keep="last", maintain_order=True)
    names = []
    for model in weights:
        said = _entering(rows.filter(pl.col("model") == model), model, ensemble.temperatures.get(model, 1.0))
        moments = moments.join_asof(said, on="known_at", by=list(_TEXT), check_sortedness=False)
        names.append(pl.when(pl.col(f"{model}_p_neutral").is_not_null()).then(pl.lit(model)))
    total = pl.sum_horizontal(
        pl.when(pl.col(f"{model}_p_neutral").is_not_null()).then(weight) for model, weight in weights.items()
    )
    mixed = {
        share: pl.sum_horizontal(pl.col(f"{model}_{share}") * weight for model, weight in weights.items()) / total
        for share in _SHARES
    }
    found = moments.with_columns(**mixed, members=pl.concat_str(*names, separator=" ", ignore_nulls=True))
    return found.filter(total > 0).select(
        *(pl.col(name) for name in COLUMNS if name not in ("model", "revision", "score")),
        model=pl.lit(NAME),
        revision=pl.lit(ensemble.revision),
        score=pl.col("p_positive") - pl.col("p_negative"),
        members=pl.col("members"),
    )


def _entering(rows: pl.DataFrame, model: str, temperature: float) -> pl.DataFrame:
    """What a member says of each text at each moment, as it enters the ensemble; the last said stands."""
    entering: list[tuple[float | None, ...]] = []
    for score, *shares in rows.select("score", *_SHARES).iter_rows():
        stated = None if None in shares else (shares[0], shares[1], shares[2])
        said = member_probabilities(model, TextScore(score, stated))
        entering.append((None, None, None) if said is None else tuple(scaled(said, temperature).tolist()))
    columns = [f"{model}_{share}" for share in _SHARES]
    given = pl.DataFrame(entering, schema=dict.fromkeys(columns, pl.Float64), orient="row")
    said_at = rows.select(*_TEXT, "known_at", "revision").hstack(given)
    return said_at.sort("known_at", "revision").drop("revision")

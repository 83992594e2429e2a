"""Stored sentiment: of an asset or a market, over the hours up to the last full one that was aggregated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from fastapi import APIRouter, Depends, Query, Request, Response
from sqlalchemy import Connection

from ray_app.clock import iso
from ray_app.editions import edition_of
from ray_app.sentiment.aggregate import ALL, VALUES
from ray_app.sentiment.analysis import label
from ray_app.sentiment.ensemble import NAME, Ensemble
from ray_app.sentiment.vocabulary import CLASSES, MODELS, TextScore
from ray_app.serving.deps import GatewayDeps
from ray_app.serving.keys import Level
from ray_app.serving.licensing import attributions, level_of, shown, withheld
from ray_app.serving.news_stream import TEXTS
from ray_app.serving.problems import Problem
from ray_app.serving.routes.answers import Gateway, Prepared, answer, dumps, from_database, requires
from ray_app.serving.routes.history import moment
from ray_app.serving.routes.prices import Symbol, ok
from ray_app.serving.routes.series import AsOf, about
from ray_app.storage import news_queries, sentiment_reads

router = APIRouter(prefix="/api/v1/sentiment", tags=["sentiment"], dependencies=[Depends(requires(Level.readonly))])

Row = dict[str, Any]
Market = Literal["crypto", "stock"]
Timeframe = Annotated[Literal["1h", "4h", "24h", "7d"], Query(description="how wide the window is")]
Sources = Annotated[
    str | None, Query(max_length=100, description="news, reddit, x, comma-separated; default: all", examples=["news"])
]
Hours = Annotated[int, Query(ge=1, le=1_000, description="of history, newest")]

#: in the place of a symbol: the market as a whole
MARKET = "market"
WINDOWS_S = {"1h": 3_600, "4h": 4 * 3_600, "24h": 24 * 3_600, "7d": 7 * 24 * 3_600}
#: of aggregates: what texts are of, the platforms of posts by their names
SOURCES = ("news", "reddit", "x")
#: a mean score beyond this has a direction (the earlier system's bounds)
DIRECTION = 0.1
LATEST = 20
NO_TEXTS = "no text of the window has a score"

_SHOWN = tuple(name for name in VALUES if name not in ("avg_sentiment", "sentiment_volume"))
_EXAMPLE: Row = {
    "symbol": "BTC",
    "coin_id": "bitcoin",
    "name": "Bitcoin",
    "timeframe": "24h",
    "window_end": "2026-11-24T08:00:00Z",
    "as_known_at": None,
    "overall_sentiment": {"score": 0.21, "label": "positive", "confidence": 0.64, "reason": None},
    "sample_size": 52,
    "statistics": dict.fromkeys(_SHOWN),
    "breakdown": {"news": {"score": 0.24, "label": "positive", "confidence": 0.66, "sample_size": 40}},
    "models": {"lexicon": {"score": 0.25, "label": "positive", "confidence": 0.7, "sample_size": 52}},
    "history": [{"window_end": "2026-11-24T08:00:00Z", "score": 0.21, "sample_size": 52}],
    "latest": [],
    "attribution": [],
    "as_of": "2026-11-24T08:00:12Z",
    "source": "sentiment_aggregation",
    "quality": "complete",
}
_SAID = (
    "`overall_sentiment`: the mean score (-1 to 1) of the ensemble over the texts of the window that ended last, "
    "`label` by ±0.1; `breakdown` the same by source, `models` by model. Null with `sample_size` 0: no text of the "
    "window has a score of that model. `history`: the same window at each of the last hours."
)


class Scope(NamedTuple):
    """Whose sentiment: of an asset (its id), or of a market (0)."""

    name: str
    asset_id: int
    market: Market


class Found(NamedTuple):
    """``ends``: of the windows that were aggregated, newest first; ``rows``: of the newest, by (model, source)."""

    ends: list[Row]
    rows: dict[tuple[str, str], Row]
    history: list[Row]
    articles: list[Row]
    scores: list[Row]


@router.get("/crypto/{symbol}", summary="Sentiment of an asset or of crypto", responses=ok(_SAID, _EXAMPLE))
async def crypto(
    symbol: Symbol,
    request: Request,
    deps: Gateway,
    timeframe: Timeframe = "24h",
    sources: Sources = None,
    limit: Hours = 24,
    as_of: AsOf = None,
) -> Response:
    """What texts said of an asset; `market` for the symbol: of crypto as a whole."""
    if symbol == MARKET:
        return await _respond(request, deps, Scope("crypto", 0, "crypto"), {}, timeframe, sources, limit, as_of)
    found = deps.registry.current.resolve(symbol)
    scope = Scope("asset", found.asset.asset_id, "crypto")
    return await _respond(request, deps, scope, about(found), timeframe, sources, limit, as_of)


@router.get("/stock/{symbol}", summary="Sentiment of the stock market", responses=ok(_SAID, _EXAMPLE))
async def stock(
    symbol: Symbol,
    request: Request,
    deps: Gateway,
    timeframe: Timeframe = "24h",
    sources: Sources = None,
    limit: Hours = 24,
    as_of: AsOf = None,
) -> Response:
    """What texts said of stocks and the economy as a whole: symbol `market`. Single stocks are not told apart."""
    if symbol != MARKET:
        raise Problem("DATA_NOT_AVAILABLE", "texts are not told apart by stock; ask /api/v1/sentiment/stock/market")
    return await _respond(request, deps, Scope("stock", 0, "stock"), {}, timeframe, sources, limit, as_of)


async def _respond(
    request: Request,
    deps: GatewayDeps,
    scope: Scope,
    head: Row,
    timeframe: str,
    sources: str | None,
    limit: int,
    as_of: str | None,
) -> Response:
    known = moment("as_of", as_of) if as_of is not None else None
    chosen = _chosen(sources)
    now_ms = deps.clock.now_ms()
    at, window_s = now_ms if known is None else known, WINDOWS_S[timeframe]
    found = await from_database(deps, lambda conn: _read(conn, scope, window_s, at, limit))
    if not found.ends:
        raise Problem("DATA_NOT_AVAILABLE", "no hour of sentiment has been aggregated: crypto-data score does it")
    models = {name: _mean(found.rows, name, chosen) for name in MODELS if (name, ALL) in found.rows}
    overall = _mean(found.rows, NAME, chosen)
    whole = found.rows.get((NAME, ALL)) if chosen is None else None
    content = {
        **(head or {"symbol": None, "market": scope.market}),
        "timeframe": timeframe,
        "window_end": iso(found.ends[0]["window_end"]),
        "as_known_at": iso(known) if known is not None else None,
        "overall_sentiment": {name: overall[name] for name in ("score", "label", "confidence")}
        | {"reason": NO_TEXTS if overall["score"] is None else None},
        "sample_size": overall["sample_size"],
        "statistics": {name: whole[name] if whole is not None else None for name in _SHOWN},
        "breakdown": {one: _mean(found.rows, NAME, (one,)) for one in (chosen or SOURCES) if (NAME, one) in found.rows},
        "models": models,
        "history": _history(found, chosen),
        "latest": _latest(found, scope.market, level_of(request)),
        "attribution": attributions((row["source"], None) for row in found.articles),
        "as_of": iso(found.ends[0]["known_at"]),
        "source": "sentiment_aggregation",
        "quality": _quality(overall, models),
    }
    return answer(request, Prepared(dumps(content), found.ends[0]["known_at"]), now_ms)


def _chosen(sources: str | None) -> tuple[str, ...] | None:
    if sources is None:
        return None
    names = tuple(dict.fromkeys(part.strip() for part in sources.split(",") if part.strip()))
    if not names or any(name not in SOURCES for name in names):
        raise Problem("VALIDATION_ERROR", f"sources: of {', '.join(SOURCES)}, comma-separated")
    return names


def _read(conn: Connection, scope: Scope, window_s: int, at: int, limit: int) -> Found:
    """Everything an answer needs, as known at ``at``."""
    ended = sentiment_reads.ends(conn, scope.market, NAME, window_s, as_of=at, limit=limit)
    if not ended:
        return Found([], {}, [], [], [])
    of, newest, oldest = (scope.name, scope.asset_id), ended[0]["window_end"], ended[-1]["window_end"]
    all_sources = (ALL, *SOURCES)
    rows = sentiment_reads.windows(
        conn, *of, (*MODELS, NAME), all_sources, window_s, first=newest, last=newest, as_of=at
    )
    history = sentiment_reads.windows(conn, *of, (NAME,), all_sources, window_s, first=oldest, last=newest, as_of=at)
    articles = news_queries.articles(
        conn,
        scope.market,
        since=newest - window_s * 1_000,
        before=(at + 1, ""),
        asset_id=scope.asset_id or None,
        limit=LATEST,
    )
    said = sentiment_reads.scores(conn, [row["content_id"] for row in articles], scope.asset_id, at)
    return Found(ended, {(row["model"], row["source"]): row for row in rows}, history, articles, said)


def _mean(rows: Mapping[tuple[str, str], Row], model: str, chosen: Sequence[str] | None) -> Row:
    """Over all sources, or over the chosen ones by their number of texts."""
    held = [rows[model, source] for source in (chosen or (ALL,)) if (model, source) in rows]
    held = [row for row in held if row["sentiment_volume"]]
    score, confidence = _weighted(held, "avg_sentiment"), _weighted(held, "avg_confidence")
    volume = sum(row["sentiment_volume"] for row in held)
    return {"score": score, "label": _direction(score), "confidence": confidence, "sample_size": volume}


def _weighted(rows: Sequence[Row], name: str) -> float | None:
    known = [row for row in rows if row[name] is not None]
    total = sum(row["sentiment_volume"] for row in known)
    return sum(row[name] * row["sentiment_volume"] for row in known) / total if total else None


def _direction(score: float | None) -> str | None:
    if score is None:
        return None
    return CLASSES[2] if score > DIRECTION else CLASSES[0] if score < -DIRECTION else CLASSES[1]


def _history(found: Found, chosen: Sequence[str] | None) -> list[Row]:
    """The hours that were aggregated, ascending, also those of which no text speaks."""
    by_end: dict[int, dict[tuple[str, str], Row]] = {}
    for row in found.history:
        by_end.setdefault(row["window_end"], {})[row["model"], row["source"]] = row
    shown_ends = []
    for end in reversed(found.ends):
        mean = _mean(by_end.get(end["window_end"], {}), NAME, chosen)
        shown_ends.append({"window_end": iso(end["window_end"]), **{n: mean[n] for n in ("score", "sample_size")}})
    return shown_ends


def _quality(overall: Row, models: Mapping[str, Row]) -> str:
    if overall["score"] is None:
        return "no texts"
    return "partial" if any(one["score"] is None for one in models.values()) else "complete"


def _latest(found: Found, market: Market, level: Level) -> list[Row]:
    """Articles with what the ensemble says of them; those whose words of now were known then."""
    by_edition: dict[tuple[str, str], dict[str, Row]] = {}
    for row in found.scores:
        by_edition.setdefault((row["content_id"], row["edition"]), {})[row["model"]] = row  # the last known stands
    ensemble, rows = Ensemble(market), []
    for article in found.articles:
        said = by_edition.get((article["content_id"], edition_of(article["title"], article["summary"])))
        if said is None:
            continue
        opinion = ensemble.combine({model: _text_score(row) for model, row in said.items()})
        row = {
            "id": article["content_id"],
            **{name: article[name] for name in ("title", "url", "feed", "source")},
            "published_at": iso(article["published_at"]) if article["published_at"] is not None else None,
            "known_at": iso(article["known_at"]),
            "score": opinion.score,
            "label": label(opinion.score, opinion.probabilities),
            "confidence": max(opinion.probabilities) if opinion.probabilities is not None else None,
            "members": sorted(opinion.members),
        }
        rows.append(shown(row, TEXTS, withheld(level, article["source"])))
    return rows


def _text_score(row: Row) -> TextScore:
    shares = (row["p_negative"], row["p_neutral"], row["p_positive"])
    return TextScore(row["score"], None if None in shares else shares)

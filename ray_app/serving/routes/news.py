"""News: the latest of a market, and a search. One entry a story; reprints are counted, deleted texts are gone."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from sqlalchemy import Connection

from ray_app.clock import DAY_MS, iso
from ray_app.collection.news_events import TEASER, teaser
from ray_app.editions import edition_of
from ray_app.serving.deps import GatewayDeps
from ray_app.serving.keys import Level
from ray_app.serving.licensing import attributions, level_of, shown, withheld
from ray_app.serving.news_stream import TEXTS
from ray_app.serving.problems import Problem
from ray_app.serving.routes.answers import (
    CursorParam,
    Gateway,
    Limit,
    Prepared,
    answer,
    decode_cursor,
    dumps,
    encode_cursor,
    from_database,
    requires,
)
from ray_app.serving.routes.history import moment
from ray_app.serving.routes.prices import ok
from ray_app.storage import news_queries
from ray_app.storage.texts import editions_known_at

router = APIRouter(prefix="/api/v1/news", tags=["news"], dependencies=[Depends(requires(Level.readonly))])

Row = dict[str, Any]
Market = Literal["crypto", "stock"]

DEFAULT_DAYS = 7
#: where each article is looked at (by symbol, or by words), no further back than this
MAX_DAYS = 31
MAX_WORDS = 8
#: how much of an article's text is shown; readonly keys may be in anybody's hands and get a teaser, as the stream does
SUMMARY = 2_000
#: articles that a search reads, at most: those that hold the words somewhere, if only within others
MOST_READ = 5_000

Since = Annotated[
    str | None,
    Query(description="RFC 3339: what this node first saw since then; default: 7 days ago", examples=["2026-11-24"]),
]
Mentioned = Annotated[str | None, Query(min_length=1, max_length=150, description="only what mentions this asset")]

_EXAMPLE: Row = {
    "data": [
        {
            "id": "9f2d…",
            "title": "Bitcoin ETFs see record inflows",
            "summary": "Spot funds took in …",
            "url": "https://www.example.com/markets/bitcoin-etf-inflows",
            "author": None,
            "category": "market",
            "language": "en",
            "feed": "coindesk",
            "feeds": ["coindesk", "decrypt"],
            "reprints": 1,
            "mentions": [{"symbol": "BTC", "coin_id": "bitcoin", "term": "Bitcoin"}],
            "published_at": "2026-11-24T07:40:00Z",
            "known_at": "2026-11-24T07:45:02Z",
            "text_known_at": "2026-11-24T07:45:02Z",
            "source": "rss.feed",
        }
    ],
    "count": 1,
    "since": "2026-11-17T08:00:00Z",
    "next_cursor": None,
    "attribution": ["the publisher, with a link to the article"],
    "as_of": "2026-11-24T07:45:02Z",
    "source": "rss.feed",
    "quality": "current",
}
_SAID = (
    "Newest first by `known_at`, when this node first saw it. `feed` told it first of `feeds`; `reprints` did after "
    "it, under the same title. `published_at` is what the feed says. `text_known_at`: when this node first saw the "
    "text as it is shown; later than `known_at` where the article was revised. `summary` is a teaser for readonly keys."
)


@router.get("/crypto/latest", summary="The latest crypto news", responses=ok(_SAID, _EXAMPLE))
async def crypto(
    request: Request,
    deps: Gateway,
    symbol: Mentioned = None,
    since: Since = None,
    limit: Limit = 50,
    cursor: CursorParam = None,
) -> Response:
    """One entry per story; with `symbol` what mentions the asset, at most 31 days back."""
    return await _latest(request, deps, "crypto", symbol, since, limit, cursor)


@router.get("/stock/latest", summary="The latest news of the economy and stocks", responses=ok(_SAID, _EXAMPLE))
async def stock(
    request: Request,
    deps: Gateway,
    symbol: Mentioned = None,
    since: Since = None,
    limit: Limit = 50,
    cursor: CursorParam = None,
) -> Response:
    """One entry per story; with `symbol` what mentions the asset, at most 31 days back."""
    return await _latest(request, deps, "stock", symbol, since, limit, cursor)


async def _latest(
    request: Request,
    deps: GatewayDeps,
    market: Market,
    symbol: str | None,
    since: str | None,
    limit: int,
    cursor: str | None,
) -> Response:
    asset = deps.registry.current.resolve(symbol).asset if symbol is not None else None
    position = decode_cursor(cursor, at=int, id=str, since=int) if cursor is not None else None
    begins = _begin(since, deps.clock.now_ms(), bounded=asset is not None) if position is None else position["since"]
    before = (position["at"], position["id"]) if position is not None else None
    if asset is not None:
        begins = max(begins, deps.clock.now_ms() - (MAX_DAYS + 1) * DAY_MS)

    def read(conn: Connection) -> list[Row]:
        asset_id = asset.asset_id if asset is not None else None
        rows = news_queries.articles(conn, market, since=begins, before=before, asset_id=asset_id, limit=limit + 1)
        return _told(conn, {market: rows[:limit]}) + rows[limit:]

    rows = await from_database(deps, read)
    if not rows:
        about = f" that mentions {asset.symbol}" if asset is not None else ""
        raise Problem("DATA_NOT_AVAILABLE", f"there is no {'more ' if position else ''}{market} news{about}")
    page = rows[:limit]
    more = None
    if len(rows) > limit:
        more = encode_cursor({"at": page[-1]["known_at"], "id": page[-1]["content_id"], "since": begins})
    return _respond(request, deps, page, {"since": _shown_time(begins), "next_cursor": more})


@router.get("/search", summary="News by words", responses=ok(_SAID, _EXAMPLE | {"q": "etf inflow", "complete": True}))
async def search(
    request: Request,
    deps: Gateway,
    q: Annotated[str, Query(min_length=2, max_length=200, description="words; all of them", examples=["etf inflow"])],
    market: Annotated[Market | None, Query(description="default: both")] = None,
    days: Annotated[int, Query(ge=1, le=MAX_DAYS, description="how far back to look")] = DEFAULT_DAYS,
    limit: Limit = 50,
) -> Response:
    """Articles whose title or summary has every word of `q`: as a word of its own or the beginning of one, in any
    case. Newest first. `complete` false: there were too many articles to look at, older ones may be missing.
    """  # noqa: D205 - shown as one paragraph in OpenAPI
    words = re.findall(r"\w+", q)
    if not words or len(words) > MAX_WORDS:
        raise Problem("VALIDATION_ERROR", f"q: takes 1 to {MAX_WORDS} words of letters and digits")
    since = deps.clock.now_ms() - days * DAY_MS
    markets: list[Market] = [market] if market is not None else ["crypto", "stock"]

    def read(conn: Connection) -> tuple[list[Row], bool]:
        found = {name: _matching(conn, name, since, words) for name in markets}
        complete = all(len(read) < MOST_READ for read, _ in found.values())
        chosen = sorted(
            ((row, name) for name, (_, rows) in found.items() for row in rows),
            key=lambda pair: (pair[0]["known_at"], pair[0]["content_id"]),
            reverse=True,
        )[:limit]
        page: dict[str, list[Row]] = {name: [row for row, of in chosen if of == name] for name in markets}
        rows = sorted(_told(conn, page), key=lambda row: (row["known_at"], row["content_id"]), reverse=True)
        return rows, complete

    rows, complete = await from_database(deps, read)
    if not rows:
        raise Problem("DATA_NOT_AVAILABLE", f"no article of the last {days} days has these words")
    return _respond(request, deps, rows, {"q": q, "complete": complete, "since": iso(since)})


def _matching(conn: Connection, market: str, since: int, words: Sequence[str]) -> tuple[list[Row], list[Row]]:
    """The articles read, and those of them that have the words as words."""
    plain = [word.lower() for word in words if word.isascii()]  # other letters' case each database folds in its own way
    read = news_queries.articles(conn, market, since=since, words=plain, limit=MOST_READ)
    beginnings = [re.compile(rf"\b{re.escape(word.casefold())}") for word in words]
    texts = [f"{row['title']} {row['summary'] or ''}".casefold() for row in read]
    return read, [row for row, text in zip(read, texts, strict=True) if all(one.search(text) for one in beginnings)]


# --- answers -----------------------------------------------------------------------------------------------------


def _begin(since: str | None, now_ms: int, *, bounded: bool) -> int:
    begins = moment("since", since) if since is not None else now_ms - DEFAULT_DAYS * DAY_MS
    if bounded and begins < now_ms - MAX_DAYS * DAY_MS:
        raise Problem("VALIDATION_ERROR", f"since: with a symbol at most {MAX_DAYS} days back")
    return begins


def _shown_time(ms: int) -> str:
    return iso(max(min(ms, 1 << 42), 0))


def _told(conn: Connection, pages: dict[str, list[Row]]) -> list[Row]:
    """The articles with who reprinted them and what they mention."""
    found: list[Row] = []
    for market, rows in pages.items():
        told = news_queries.reprints(conn, market, rows)
        named = news_queries.mentions(conn, [row["content_id"] for row in rows])
        editions = [(row["content_id"], edition_of(row["title"], row["summary"])) for row in rows]
        known = editions_known_at(conn, editions)
        for row, edition in zip(rows, editions, strict=True):
            reprints, feeds = told.get(row["content_id"], (0, [row["feed"]]))
            said = {"reprints": reprints, "feeds": feeds, "mentioned": named.get(row["content_id"], [])}
            # an edition nobody noted (a database from before editions) is known since it was last read
            found.append(row | said | {"text_known_at": known.get(edition, row["fetched_at"])})
    return found


def _show(deps: GatewayDeps, longest: int) -> Callable[[Row], Row]:
    registry = deps.registry.current

    def show(row: Row) -> Row:
        mentioned = [(registry.by_id(one["asset_id"]), one["term"]) for one in row["mentioned"]]
        return {
            "id": row["content_id"],
            "title": row["title"],
            "summary": teaser(row["summary"], longest),
            **{name: row[name] for name in ("url", "author", "category", "language", "feed", "feeds", "reprints")},
            "mentions": [
                {"symbol": asset.symbol, "coin_id": asset.coin_id, "term": term}
                for asset, term in mentioned
                if asset is not None
            ],
            "published_at": iso(row["published_at"]) if row["published_at"] is not None else None,
            "known_at": iso(row["known_at"]),
            "text_known_at": iso(row["text_known_at"]),
            "source": row["source"],
        }

    return show


def _respond(request: Request, deps: GatewayDeps, rows: Sequence[Row], more: Row) -> Response:
    level = level_of(request)
    show = _show(deps, SUMMARY if level >= Level.trading else TEASER)
    reasons = [withheld(level, row["source"]) for row in rows]
    as_of = max(row["known_at"] for row in rows)
    content = {
        "data": [shown(show(row), TEXTS, reason) for row, reason in zip(rows, reasons, strict=True)],
        "count": len(rows),
        **more,
        "attribution": attributions((row["source"], None) for row in rows),
        "as_of": iso(as_of),
        "source": ",".join(sorted({row["source"] for row in rows})),
        "quality": "partial" if any(reasons) else "current",
    }
    return answer(request, Prepared(dumps(content), as_of), deps.clock.now_ms())

"""Rows of the tables that the sources beside prices fill."""

from __future__ import annotations

from typing import Any

from ray_app.sources.statements import version_of
from ray_app.sources.texts import content_id, story_id
from tests.storage.samples import T0, digest

Record = dict[str, Any]
HOUR = 3_600_000
DAY = 24 * HOUR


def _order(event_version: int, fetched_at: int, *parts: object) -> Record:
    return {
        "event_version": event_version,
        "fetched_at": fetched_at,
        "parser_version": 1,
        "payload_hash": digest(fetched_at, *parts),
    }


def statement(event_time: int, value: float, fetched_at: int | None = None, **more: Any) -> Record:
    """A version of a moment, first seen when it was fetched."""
    seen = fetched_at if fetched_at is not None else event_time + HOUR
    times = {"known_at": min(seen, event_time + HOUR), "first_seen_at": seen}
    row = {"event_time": event_time, "version": version_of(value), "value": value, **times}
    return row | _order(event_time, seen, value) | more


def onchain(event_time: int, value: float, fetched_at: int | None = None, **more: Any) -> Record:
    key = {"asset_id": 1, "metric": "active_addresses", "source": "coinmetrics.asset_metrics"}
    return key | statement(event_time, value, fetched_at) | more


def derivative(event_time: int, value: float, fetched_at: int | None = None, **more: Any) -> Record:
    key = {"asset_id": 1, "metric": "funding_rate", "venue": "binance", "instrument": "BTCUSDT"}
    return key | statement(event_time, value, fetched_at, source="binance.funding_rate") | more


def feeling(event_time: int, value: float, fetched_at: int | None = None, **more: Any) -> Record:
    row = {"source": "alternative_me.fng", "classification": "Neutral"}
    return row | statement(event_time, value, fetched_at) | more


def macro(date: int, value: float | None, vintage: int, **more: Any) -> Record:
    """A vintage of FRED's, public six hours after its day began."""
    known = vintage + 6 * HOUR
    row = {
        "indicator_name": "UNRATE",
        "source": "fred.observations",
        "indicator_date": date,
        "vintage": vintage,
        "value": value,
        "unit": "percent",
        "known_at": known,
        "first_seen_at": known,
    }
    return row | _order(vintage, known, date, value) | more


def article(title: str, known_at: int = T0, feed: str = "coindesk", **more: Any) -> Record:
    url = f"https://{feed}.example/{digest(title, known_at)[:12]}"
    row = {
        "content_id": content_id(url),
        "source": "rss.feed",
        "feed": feed,
        "url": url,
        "title": title,
        "summary": None,
        "author": None,
        "category": "market",
        "language": "en",
        "story_id": story_id(title),
        "published_at": known_at - 300_000,
        "known_at": known_at,
        "deleted_at": None,
    }
    return row | _order(known_at - 300_000, known_at, url) | more


def mention(of: Record, asset_id: int, term: str, kind: str = "crypto_news") -> Record:
    row = {"content_id": of["content_id"], "asset_id": asset_id, "kind": kind, "term": term}
    row["published_at"] = of["published_at"] or of["known_at"]
    return row | _order(of["event_version"], of["fetched_at"], asset_id)

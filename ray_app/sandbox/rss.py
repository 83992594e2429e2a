"""Feeds, simulated: RSS 2.0 for most names, Atom and RSS 1.0 (RDF) for some. Any name is a feed.

A feed shows its last 20 articles; it publishes one every 15 to 120 minutes. A third of them reprint a story that other
feeds have too, under an address of its own.

With a file of real texts (``replay_text``; CSV with date ``day-month-year hour:minute`` UTC, title, text, source,
subject, url) feeds tell those instead. The file is shifted by whole days: the first of its days on which each of its
sources has filled a feed becomes the day the sandbox starts, and it plays onward from there. A feed called
like a source of the file has all of that source's texts, any other one in ten of all. When the file ends, feeds go
quiet: they show their last items for good. Times within a day stay as they are.
"""

from __future__ import annotations

import csv
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Final
from xml.sax.saxutils import escape, quoteattr

from ray_app.clock import DAY_MS, MINUTE_MS, iso, to_ms
from ray_app.sandbox.answers import Answer, Question, SimulatedEndpoint, World, tagged
from ray_app.sandbox.rng import key_of, unit_of
from ray_app.sandbox.stories import SHARED, SHARED_STEP_MS, latest, moment_of, slug_of, story_of

ITEMS: Final = 20
#: names of feeds that tell of shares
_STOCK: Final = re.compile(r"marketwatch|cnbc.*|yahoo.*|nasdaq|investing|sec|federal-reserve|reuters|wsj")


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a feed; ``summary`` is HTML."""

    at_ms: int
    title: str
    link: str
    guid: str
    summary: str
    author: str | None
    category: str | None


class Feed(SimulatedEndpoint):
    """GET /{name}."""

    source: ClassVar[str] = "rss"
    name = "feed"
    pattern = re.compile(r"/([a-z0-9][a-z0-9_.-]{0,60})")

    def answer(self, question: Question, world: World) -> Answer:
        feed = question.subject
        if world.replay_text is not None:
            items = replayed(world, world.replay_text, feed, question.now_ms)
        else:
            items = generated(world, feed, question.now_ms)
        shape = unit_of("feed", feed, "format")
        write = _rss if shape < 0.7 else _atom if shape < 0.9 else _rdf
        return tagged(write(feed, items), question.if_none_match)


def generated(world: World, feed: str, now_ms: int) -> list[Item]:
    """The last items, newest first."""
    stream = f"rss/{feed}"
    step_ms = (15 + int(106 * unit_of(world.seed, stream, "rate"))) * MINUTE_MS
    newest = latest(world, stream, step_ms, now_ms)
    return [_item(world, feed, stream, step_ms, number) for number in range(newest, newest - ITEMS, -1)]


def _item(world: World, feed: str, stream: str, step_ms: int, number: int) -> Item:
    at_ms, stock = moment_of(world, stream, step_ms, number), _STOCK.fullmatch(feed) is not None
    if not stock and unit_of(world.seed, stream, number, "reprint") < 1 / 3:
        story = story_of(world, SHARED, at_ms // SHARED_STEP_MS)
    else:
        story = story_of(world, stream, number, stock=stock)
    address = f"https://{feed}.sandbox.example/{iso(at_ms)[:10].replace('-', '/')}/{slug_of(story)}-{number}"
    return Item(
        at_ms,
        story.title,
        f"{address}?utm_source=rss&utm_medium=rss&utm_campaign={feed}",
        f"{key_of(feed, story.key, number):016x}",
        story.summary,
        story.author,
        story.topic,
    )


# --- real texts ----------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def _texts(path: Path) -> tuple[tuple[int, dict[str, str]], ...]:
    """The file's texts with their own times, ms, ascending; lines without a readable date are left out."""
    found = []
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            try:
                at = datetime.strptime(line["date"], "%d-%m-%Y %H:%M").replace(tzinfo=UTC)
            except ValueError:
                continue
            found.append((to_ms(at), line))
    return tuple(sorted(found, key=lambda pair: (pair[0], pair[1]["url"])))


@lru_cache(maxsize=256)
def _texts_of(path: Path, feed: str) -> tuple[tuple[int, dict[str, str]], ...]:
    name = re.sub(r"[^a-z0-9]", "", feed)
    texts = _texts(path)
    if any(line["source"].lower() == name for _, line in texts):
        return tuple(pair for pair in texts if pair[1]["source"].lower() == name)
    return tuple(pair for pair in texts if unit_of("reprint", feed, pair[1]["url"]) < 0.1)


@lru_cache(maxsize=4)
def _opening_ms(path: Path) -> int:
    """Midnight of the first day on which each source of the file has told as many texts as a feed shows."""
    by_source: dict[str, list[int]] = {}
    for at_ms, line in _texts(path):
        by_source.setdefault(line["source"], []).append(at_ms)
    filled = [times[min(ITEMS, len(times)) - 1] for times in by_source.values()]
    return max(filled, default=0) // DAY_MS * DAY_MS


def shift_of(world: World, path: Path) -> int:
    """By how much the file's times are moved, ms: whole days."""
    if world.first_node_ms is None:
        return 0
    return world.first_node_ms // DAY_MS * DAY_MS - _opening_ms(path)


def replayed(world: World, path: Path, feed: str, now_ms: int) -> list[Item]:
    """The last items of the file's, newest first."""
    texts, shift = _texts_of(path, feed), shift_of(world, path)
    shown = bisect_right(texts, now_ms - shift, key=lambda pair: pair[0])
    items = []
    for at_ms, line in reversed(texts[max(0, shown - ITEMS) : shown]):
        reprint = "" if line["source"].lower() == re.sub(r"[^a-z0-9]", "", feed) else f"&utm_campaign={feed}"
        link = f"{line['url']}?utm_source=rss&utm_medium=rss{reprint}"
        guid = f"{key_of(feed, line['url']):016x}"
        summary = f"<p>{escape(line['text'])}</p>"
        items.append(Item(at_ms + shift, line["title"], link, guid, summary, None, line["subject"]))
    return items


# --- formats -------------------------------------------------------------------------------------------------


def _tag(name: str, text: str | None) -> str:
    return f"<{name}>{escape(text)}</{name}>" if text is not None else ""


def _document(parts: Sequence[str], kind: str) -> Answer:
    body = '<?xml version="1.0" encoding="UTF-8"?>\n' + "\n".join(parts)
    return Answer(200, body.encode("utf-8", "replace"), content_type=f"{kind}; charset=utf-8")


def _rss(feed: str, items: list[Item]) -> Answer:
    def date(ms: int) -> str:
        return formatdate(ms / 1_000, usegmt=True)

    parts = [
        '<rss version="2.0" xmlns:dc="http://purl.org/dc/elements/1.1/">',
        f"<channel><title>[sandbox] {escape(feed)}</title><link>https://{feed}.sandbox.example/</link>",
        "<description>Made up by the sandbox</description><language>en-US</language>",
        *([f"<lastBuildDate>{date(items[0].at_ms)}</lastBuildDate>"] if items else []),
    ]
    parts += [
        f"<item><title>{escape(one.title)}</title>{_tag('link', one.link)}"
        f'<guid isPermaLink="false">{one.guid}</guid><pubDate>{date(one.at_ms)}</pubDate>'
        f"{_tag('dc:creator', one.author)}{_tag('category', one.category)}"
        f"<description><![CDATA[{one.summary.replace(']]>', ']]&gt;')}]]></description></item>"
        for one in items
    ]
    return _document([*parts, "</channel></rss>"], "application/rss+xml")


def _atom(feed: str, items: list[Item]) -> Answer:
    parts = [
        f'<feed xmlns="http://www.w3.org/2005/Atom" xml:lang="en"><title>[sandbox] {escape(feed)}</title>',
        f'<id>https://{feed}.sandbox.example/</id><link href="https://{feed}.sandbox.example/"/>',
        *([f"<updated>{iso(items[0].at_ms)}</updated>"] if items else []),
    ]
    for one in items:
        author = f"<author>{_tag('name', one.author)}</author>" if one.author is not None else ""
        category = f"<category term={quoteattr(one.category)}/>" if one.category is not None else ""
        parts.append(
            f'<entry><title type="html">{escape(escape(one.title))}</title><id>urn:sandbox:{one.guid}</id>'
            f'<link rel="alternate" href={quoteattr(one.link)}/><published>{iso(one.at_ms)}</published>'
            f"<updated>{iso(one.at_ms)}</updated>{author}{category}"
            f'<summary type="html">{escape(one.summary)}</summary></entry>'
        )
    return _document([*parts, "</feed>"], "application/atom+xml")


def _rdf(feed: str, items: list[Item]) -> Answer:
    parts = [
        '<rdf:RDF xmlns="http://purl.org/rss/1.0/" xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"',
        ' xmlns:dc="http://purl.org/dc/elements/1.1/">',
        f'<channel rdf:about="https://{feed}.sandbox.example/"><title>[sandbox] {escape(feed)}</title>',
        f"<link>https://{feed}.sandbox.example/</link><description>Made up</description></channel>",
    ]
    parts += [
        f"<item rdf:about={quoteattr(one.link)}><title>{escape(one.title)}</title>{_tag('link', one.link)}"
        f"<description>{escape(one.summary)}</description><dc:date>{iso(one.at_ms)}</dc:date>"
        f"{_tag('dc:creator', one.author)}</item>"
        for one in items
    ]
    return _document([*parts, "</rdf:RDF>"], "application/rdf+xml")


ENDPOINTS: Final[tuple[SimulatedEndpoint, ...]] = (Feed(),)

"""What posts of every social platform have in common: their row, and text as it can be stored."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from html import unescape
from typing import Final

from ray_app.sources.base import JsonScalar, Row
from ray_app.sources.reading import Bounds, Findings

#: the longest text kept of one post, characters: four bytes each must fit the 65,535 of a TEXT column
LONGEST: Final = 16_000
SCORE: Final = Bounds("a score", -2_147_483_648, 2_147_483_647)
RATIO: Final = Bounds("a share from 0 to 1", 0.0, 1.0)
VIEWS: Final = Bounds("a count", 0, 2**53)
_SPACE: Final = re.compile(r"\s+")


def said(found: Findings, subject: str, field: str, value: object, *, escaped: bool) -> str | None:
    """What a post says, in one line of at most :data:`LONGEST` characters; None where nothing is left.

    ``escaped``: the platform writes ``&amp;``, ``&lt;`` and ``&gt;``. Posts are no HTML: ``<`` is what was typed.
    Control characters, lone surrogates and NULs are left out.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        found.add("wrong_type", subject, field, f"expected text, got {type(value).__name__}")
        return None
    text = value[: LONGEST * 4]
    text = unescape(text) if escaped else text
    if not text.isascii() or not text.isprintable():
        text = "".join(c for c in text if c.isspace() or unicodedata.category(c) not in {"Cc", "Cs"})
    return _SPACE.sub(" ", text).strip()[:LONGEST].strip() or None


def post_row(
    platform: str, post_id: str, endpoint: str, published_at: int, fetched_at: int, values: Mapping[str, JsonScalar]
) -> Row:
    """A social_posts row; columns that ``values`` lacks are NULL. Scores are as of the fetch: the latest one counts."""
    columns: dict[str, JsonScalar] = dict.fromkeys(
        (
            *("community", "author", "author_verified", "title", "text", "url", "language", "score", "upvote_ratio"),
            *("comments", "reposts", "views", "deleted_at"),
        )
    )
    return Row(
        "social_posts",
        {"content_id": f"{platform}:{post_id}"},
        {
            "source": endpoint,
            "platform": platform,
            "published_at": published_at,
            "known_at": fetched_at,
            **columns,
            **values,
        },
        fetched_at,
    )


class Posts:
    """The rows of one body: the same post twice alike is one; twice differently it is left out, with an issue."""

    def __init__(self, found: Findings) -> None:
        self._found = found
        self._rows: dict[str, Row | None] = {}

    def add(self, post_id: str, row: Row) -> None:
        """Take in a post."""
        if post_id not in self._rows:
            self._rows[post_id] = row
        elif self._rows[post_id] != row:
            self._rows[post_id] = None
            self._found.add("duplicate", post_id, "id", "stated twice with different values")

    def rows(self) -> tuple[Row, ...]:
        """In the order of the body."""
        return tuple(row for row in self._rows.values() if row is not None)

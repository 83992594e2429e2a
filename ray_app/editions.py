"""What a text says, as one string, and the id of it: what is read for names, hashed and scored."""

from __future__ import annotations

import hashlib


def joined(title: str | None, body: str | None) -> str:
    """Title, a line break, body, each without white space around it; the line break stands where one is missing, too.

    Places in a text (``text_parts.spans``) are places in this.
    """
    return f"{(title or '').strip()}\n{(body or '').strip()}"


def compose(title: str | None, body: str | None) -> str:
    """The text of an article or a post as it is hashed and scored."""
    return joined(title, body).strip()


def text_hash(text: str) -> str:
    """SHA-256 of the text, hex: the same words are scored once by each revision of a model."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def edition_of(title: str | None, body: str | None) -> str:
    """The id of what a text says: the hash of its words. An edited text is another edition."""
    return text_hash(compose(title, body))

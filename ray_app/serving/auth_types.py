"""What the streams need to know of API keys; ``serving/keys.py`` implements it."""

from __future__ import annotations

from typing import Protocol


class PrincipalLike(Protocol):
    """Who a key belongs to."""

    @property
    def level(self) -> int:
        """What it may do: readonly < trading < master; each includes the ones before."""


class Authenticator(Protocol):
    """Says who a key belongs to."""

    def authenticate(self, presented: bytes) -> PrincipalLike | None:
        """The holder of a key; None if it is unknown, wrong, revoked or expired. Never blocks."""

    def refresh(self) -> None:
        """Learn of keys made and revoked elsewhere (blocking); StorageError if the database cannot be read."""

"""Every error this node raises on purpose, in one tree.

Each message says what happened, to what, and what to do about it. None carries a secret: requests are named by
endpoint, never by URL with its key.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # only a name for the type checker: nothing here depends on the sources
    from ray_app.sources.base import Exchange


class CryptoDataError(Exception):
    """Root of the tree; catching it catches everything the node raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive pickling (Ray carries errors between processes) whatever a subclass's constructor takes."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[CryptoDataError], args: tuple[Any, ...], state: dict[str, Any]) -> CryptoDataError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigError(CryptoDataError):
    """A setting is wrong; the message names the variable, the value's problem and the fix."""


# --- upstreams -----------------------------------------------------------------------------------------------


class UpstreamError(CryptoDataError):
    """An upstream did not give what was asked. ``endpoint`` is a name such as ``coingecko.markets``.

    ``exchange`` is the last complete answer behind the error, where there was one.
    """

    exchange: Exchange | None = None

    def __init__(self, endpoint: str, message: str) -> None:
        super().__init__(f"{endpoint}: {message}")
        self.endpoint = endpoint


class RateLimited(UpstreamError):
    """The upstream asks us to slow down; ``retry_after_s`` is what it said (None: it did not say)."""

    def __init__(self, endpoint: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(endpoint, message)
        self.retry_after_s = retry_after_s


class UpstreamUnavailable(UpstreamError):
    """5xx, a time-out or a broken connection: worth another try later."""


class UpstreamRejected(UpstreamError):
    """The upstream understood and refused (unknown id, bad key, not in the plan): trying again will not help."""


class ClientRefused(UpstreamRejected):
    """The upstream refuses the client id and secret; nothing is asked with them before ``until_ms`` (node time)."""

    def __init__(self, endpoint: str, message: str, until_ms: int) -> None:
        super().__init__(endpoint, message)
        self.until_ms = until_ms


class RegionBlocked(UpstreamRejected):
    """The upstream refuses requests from where this node is: nothing here will change that."""


class MalformedPayload(UpstreamError):
    """The body is not what the endpoint documents (HTML, truncated JSON, wrong shape). Kept as a dead letter."""


class CircuitOpen(UpstreamError):
    """Too many failures in a row; no request is made before ``until_ms`` (node time)."""

    def __init__(self, endpoint: str, until_ms: int) -> None:
        until = (
            datetime.fromtimestamp(until_ms / 1_000, tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        )
        super().__init__(
            endpoint, f"circuit open until {until}: too many requests in a row failed; then it is tried again"
        )
        self.until_ms = until_ms


class BudgetExhausted(UpstreamError):
    """The provider's budget allows no request before ``until_ms`` (node time)."""

    def __init__(self, endpoint: str, message: str, until_ms: int) -> None:
        super().__init__(endpoint, message)
        self.until_ms = until_ms


# --- collection ----------------------------------------------------------------------------------------------


class LeaseLost(CryptoDataError):
    """Somebody else holds the lease now; whoever sees this must stop acting and write nothing."""


class LeaseTaken(CryptoDataError):
    """Another process holds the lease and acts; the message says which work that is and what to do instead."""


class ArchiveError(CryptoDataError):
    """The raw archive could not be written or a record in it is damaged."""


# --- sentiment -----------------------------------------------------------------------------------------------


class ModelUnavailable(CryptoDataError):
    """A text model cannot be had on this node; its scores are NULL. ``reason`` says why, and what to do."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"model unavailable: {model}: {reason}")
        self.model = model
        self.reason = reason


class ModelMissing(ModelUnavailable):
    """Its files are not on this machine (yet), or could not be fetched: another try may find them."""


class ModelIncomplete(ModelUnavailable):
    """Some of its files are missing, cut off or unreadable: fetch them anew."""


class ModelUnsuitable(ModelUnavailable):
    """The files are whole, but no classifier of texts into negative, neutral and positive that we can run."""


class ModelOutOfMemory(ModelUnavailable):
    """Not even one text fits into the memory of the device."""


class ScorerBusy(CryptoDataError):
    """Texts cannot be scored now; another try after ``retry_after_s`` seconds may find it otherwise."""

    def __init__(self, why: str, retry_after_s: int) -> None:
        super().__init__(f"{why}; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


# --- storage -------------------------------------------------------------------------------------------------


class StorageError(CryptoDataError):
    """The database refused; the message says what to check."""


class SchemaDrift(StorageError):
    """The database's schema is not the one this version expects; the message lists the differences."""


# --- users ---------------------------------------------------------------------------------------------------


class UnknownSymbol(CryptoDataError):
    """No asset answers to what the user typed; ``near`` holds the closest symbols, best first."""

    def __init__(self, typed: str, near: tuple[str, ...] = ()) -> None:
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        super().__init__(f"no asset is called {typed!r}{hint}")
        self.typed = typed
        self.near = near


class NodeError(CryptoDataError):
    """The local node cannot start or stop as asked; the message says what stands in the way."""

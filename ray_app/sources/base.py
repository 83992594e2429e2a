"""The one shape of every upstream endpoint: what to ask, and how to read the answer.

Pure: no I/O, no clock, no Ray. An :class:`Exchange` is everything the archive keeps of a request and its answer,
and ``Endpoint.parse`` is a function of it alone, so whatever lies downstream can be rebuilt from the archive.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import orjson

JsonScalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Request:
    """What to send: path relative to the source's base URL, and query parameters by the upstream's names.

    ``context`` is the node's own note on the request (which slot it is for, the interval of that slot). It is
    archived and handed to the parser but never sent. No key or secret is ever part of a Request: the transport
    adds authentication on the wire only.
    """

    endpoint: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    context: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and what the upstream answered. ``fetched_at`` is node time (ms) when the body was complete."""

    request: Request
    status: int
    headers: Mapping[str, str]  # lower-case names
    body: bytes
    fetched_at: int


@dataclass(frozen=True, slots=True)
class Row:
    """One row for one table, in the upstream's own identities.

    ``key`` names the asset as the upstream does (``coin_id`` or ``coinbase_product``), where the row is of an asset;
    storage resolves it to ``asset_id``. ``event_version`` orders two statements about the same key from the same source
    (ms; the moment the upstream says the value is of). ``values`` holds None where the upstream said null or nothing
    at all.
    """

    table: str
    key: Mapping[str, JsonScalar]
    values: Mapping[str, JsonScalar]
    event_version: int

    def __reduce__(self) -> tuple[Any, ...]:
        # rows cross processes by the thousand (collection/reparse.py): half the time of what a dataclass does by itself
        return Row, (self.table, self.key, self.values, self.event_version)


@dataclass(frozen=True, slots=True)
class Issue:
    """A value that was there but cannot be true or read; the value is left NULL and this says so.

    ``kind``: ``wrong_type``, ``out_of_range``, ``inconsistent``, ``duplicate``, ``unknown_id``, ``missing_id``; or
    ``further``, which stands for those that were too many to keep.
    """

    kind: str
    subject: str  # the upstream's id of what it is about
    field: str
    detail: str


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a body yields. ``missing``: ids asked for that the answer silently left out.

    ``next``: the request for the next page, where the answer is one page of several; older pages come later.
    ``oldest``: ms of the oldest item of the page, where items have times (None: it has none, or they have not).
    """

    rows: tuple[Row, ...]
    issues: tuple[Issue, ...] = ()
    missing: tuple[str, ...] = ()
    next: Request | None = None
    oldest: int | None = None


class Endpoint(ABC):
    """One upstream endpoint. Subclasses are stateless; the registry in ``sources/__init__.py`` holds one of each."""

    #: "<source>.<endpoint>", e.g. "coingecko.markets"
    name: ClassVar[str]
    #: rises whenever parse() gives other rows for the same exchange; part of the total order of writes
    parser_version: ClassVar[int] = 1
    #: the upstream account whose budget a call spends
    account: ClassVar[str]
    #: credits one call costs
    cost: ClassVar[int] = 1
    #: path templates below the account's base URL, e.g. "/coins/{id}/ohlc"; ``{name}`` is the upstream's own name
    paths: ClassVar[tuple[str, ...]]
    #: query parameters the upstream documents for these paths
    query: ClassVar[frozenset[str]] = frozenset()
    #: parameters a URL must have with these values to be this endpoint's, where several share one path
    fixed: ClassVar[Mapping[str, str]] = {}
    #: other names the upstream's documentation uses for a placeholder of ``paths``
    aliases: ClassVar[Mapping[str, str]] = {}

    #: asked with If-None-Match / If-Modified-Since once an answer is stored
    conditional: ClassVar[bool] = False

    #: objects of the body whose member names are data, not fields: "" the body itself, else as "data.rates"
    keyed: ClassVar[frozenset[str]] = frozenset()

    def path_of(self, url: str) -> str | None:  # noqa: ARG002 - for those that live on many hosts
        """The path of a request by its URL, where the account's hosts do not tell; None: they do; "": not its own."""
        return None

    def shape_of(self, body: bytes) -> Any:
        """The JSON value of a body, whose fields are watched for changes (drift.py); ValueError: it is none."""
        return orjson.loads(body)

    @abstractmethod
    def request(self, *args: Any, **kwargs: Any) -> Request:
        """The request for the given arguments (each endpoint documents its own)."""

    @abstractmethod
    def parse(self, exchange: Exchange) -> Parsed:
        """Rows of a complete answer.

        Raises RateLimited, UpstreamUnavailable or UpstreamRejected for error statuses and envelopes, and
        MalformedPayload for a body that is not what the endpoint documents; never returns part of a broken body.
        """

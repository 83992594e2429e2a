"""What a stream's client says, and what it is subscribed to. Pure: text in, commands and state out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from ray_app.collection.price_events import ALL_FIELDS
from ray_app.errors import UnknownSymbol

#: the most a client may say at once
MAX_MESSAGE_BYTES = 64 * 1024
MAX_SYMBOLS = 1_000
MAX_SYMBOL_LENGTH = 150

ACTIONS = ("subscribe", "unsubscribe", "resume", "ping")


class BadMessage(Exception):
    """What the client said cannot be followed; ``code`` is stable, the text is for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Command:
    """One message of a client. ``symbols`` as typed, ("*",) for all, None where it named none."""

    action: str
    symbols: tuple[str, ...] | None = None
    channels: tuple[str, ...] | None = None
    repairs: bool | None = None
    after_seq: int | None = None
    api_key: str | None = None
    tag: str | int | None = None


def parse_message(message: str | bytes, choices: Sequence[str] = ALL_FIELDS) -> Command:
    """The command in a client's message; BadMessage says what is wrong with it.

    ``choices``: what ``channels`` may name.
    ``{"symbols": [...], "api_key": "..."}`` (the earlier system's form) means subscribe.
    """
    size = len(message) if isinstance(message, bytes) else len(message.encode())
    if size > MAX_MESSAGE_BYTES:
        raise BadMessage("MESSAGE_TOO_LARGE", f"the message has {size} bytes; at most {MAX_MESSAGE_BYTES} are read")
    try:
        said = orjson.loads(message)
    except orjson.JSONDecodeError:
        raise BadMessage("VALIDATION_ERROR", "the message is not JSON") from None
    if not isinstance(said, dict):
        raise BadMessage("VALIDATION_ERROR", 'the message is not an object such as {"action": "ping"}')
    action = said.get("action", "subscribe" if "symbols" in said else None)
    if action not in ACTIONS:
        raise BadMessage("VALIDATION_ERROR", f"action is none of {', '.join(ACTIONS)}")
    command = Command(
        action=action,
        symbols=_symbols(said.get("symbols")),
        channels=_channels(said.get("channels"), choices),
        repairs=_boolean("repairs", said.get("repairs")),
        after_seq=_after_seq(said.get("after_seq")),
        api_key=_api_key(said.get("api_key")),
        tag=_tag(said.get("id")),
    )
    if action in {"subscribe", "unsubscribe"} and command.symbols is None:
        raise BadMessage("VALIDATION_ERROR", f'{action} needs "symbols": a list, or "*" for all')
    if action == "resume" and command.after_seq is None:
        raise BadMessage("VALIDATION_ERROR", 'resume needs "after_seq": the last sequence number you have')
    return command


def _symbols(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value:
        raise BadMessage("VALIDATION_ERROR", '"symbols" is a list of tickers or coin ids, or "*" for all')
    if len(value) > MAX_SYMBOLS:
        raise BadMessage(
            "TOO_MANY_SYMBOLS", f'{len(value)} symbols in one message; at most {MAX_SYMBOLS}, or "*" for all'
        )
    if not all(isinstance(symbol, str) and 0 < len(symbol.strip()) <= MAX_SYMBOL_LENGTH for symbol in value):
        raise BadMessage("VALIDATION_ERROR", f'each of "symbols" is text of 1 to {MAX_SYMBOL_LENGTH} characters')
    symbols = tuple(dict.fromkeys(symbol.strip() for symbol in value))
    return ("*",) if "*" in symbols else symbols


def _channels(value: Any, choices: Sequence[str]) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value or any(name not in choices for name in value):
        raise BadMessage(
            "VALIDATION_ERROR", f'"channels" is a list of {", ".join(choices)}; leave it out for all of them'
        )
    return tuple(name for name in choices if name in value)


def _boolean(name: str, value: Any) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise BadMessage("VALIDATION_ERROR", f'"{name}" is true or false')


def _after_seq(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise BadMessage("VALIDATION_ERROR", '"after_seq" is a whole number, 0 or more')
    return value


def _api_key(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _tag(value: Any) -> str | int | None:
    if value is None or (isinstance(value, str) and len(value) <= 100):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise BadMessage("VALIDATION_ERROR", '"id" is a number or a text of at most 100 characters')


class AssetLike(Protocol):
    """What a subscription needs of an asset."""

    @property
    def asset_id(self) -> int:
        """The key of its prices."""

    @property
    def symbol(self) -> str:
        """Its ticker."""


class ResolutionLike(Protocol):
    """What a typed symbol was taken for."""

    @property
    def asset(self) -> AssetLike:
        """The asset."""

    @property
    def note(self) -> str | None:
        """What the user should know of the choice (renamed, ambiguous), or None."""


class Resolver(Protocol):
    """The asset registry, as far as streams use it."""

    def resolve(self, typed: str, at_ms: int | None = None) -> ResolutionLike:
        """The asset meant by ``typed``; raises UnknownSymbol."""


@dataclass(slots=True)
class Resolved:
    """What came of a list of typed symbols."""

    assets: dict[int, str] = field(default_factory=dict)  # asset_id → ticker
    notes: list[dict[str, str]] = field(default_factory=list)
    unknown: list[dict[str, Any]] = field(default_factory=list)


def resolve_all(symbols: Iterable[str], resolver: Resolver, now_ms: int) -> Resolved:
    """The assets meant by ``symbols``, what is to be said about them, and those nobody knows with near matches."""
    resolved = Resolved()
    for typed in symbols:
        try:
            found = resolver.resolve(typed, now_ms)
        except UnknownSymbol as error:
            resolved.unknown.append({"symbol": typed, "near": list(error.near)})
            continue
        resolved.assets[found.asset.asset_id] = found.asset.symbol
        if found.note is not None:
            resolved.notes.append({"symbol": typed, "note": found.note})
    return resolved


class Subscription:
    """Which assets a connection wants, and from which event on it has had everything of each.

    *Covered after N* means: of the events after N, this connection has been or will be sent every one it wants. A
    resume lowers N by sending exactly what lies between.
    """

    def __init__(self) -> None:
        self.repairs = False
        self._everything_after: int | None = None
        self._after: dict[int, int] = {}
        self._names: dict[int, str] = {}
        self._excluded: set[int] = set()

    @property
    def everything(self) -> bool:
        """Whether it covers all assets (but those taken out by name), also ones to come."""
        return self._everything_after is not None

    @property
    def assets(self) -> set[int]:
        """The assets subscribed by name."""
        return set(self._after)

    @property
    def empty(self) -> bool:
        """Whether nothing is subscribed."""
        return not self.everything and not self._after

    def described(self) -> list[str]:
        """The tickers subscribed, sorted; ["*"] for all."""
        return ["*"] if self.everything else sorted(self._names[asset] for asset in self._after)

    def excluded(self) -> list[str]:
        """Tickers taken out of "*", sorted."""
        return sorted(self._names[asset] for asset in self._excluded)

    def wants(self, assets: Sequence[int]) -> bool:
        """Whether an event about these assets is to be sent: about one it wants, or with "*" about none at all."""
        for asset_id in assets:
            if self._wants(asset_id):
                return True
        return self.everything and not assets

    def _wants(self, asset_id: int) -> bool:
        return asset_id in self._after or (self.everything and asset_id not in self._excluded)

    def had(self, assets: Sequence[int], seq: int) -> bool:
        """Whether event ``seq`` about these assets was covered: of an asset wanted by then, or with "*" of none."""
        if not assets:
            return self._everything_after is not None and self._everything_after < seq
        return any(self._wants(asset) and self._covered_after(asset) < seq for asset in assets)

    def _covered_after(self, asset_id: int) -> int:
        """See the class; of an asset it wants."""
        after = self._after.get(asset_id, self._everything_after)
        assert after is not None  # noqa: S101 - it is wanted by name or with "*"
        return after

    def add(self, assets: dict[int, str], seq: int) -> None:
        """Subscribe by name, covered after ``seq``; what is covered already stays so."""
        for asset_id, name in assets.items():
            self._names[asset_id] = name
            if not self._wants(asset_id):
                self._after[asset_id] = seq
            elif asset_id not in self._after:
                self._after[asset_id] = self._covered_after(asset_id)
        self._excluded -= set(assets)

    def add_everything(self, seq: int) -> None:
        """Subscribe to all assets, covered after ``seq``."""
        self._excluded.clear()
        if self._everything_after is None:
            self._everything_after = seq

    def remove(self, assets: dict[int, str]) -> None:
        """Unsubscribe by name; under "*" they are taken out of it."""
        for asset_id, name in assets.items():
            self._after.pop(asset_id, None)
            if self.everything:
                self._names[asset_id] = name
                self._excluded.add(asset_id)

    def clear(self) -> None:
        """Unsubscribe from everything."""
        self._everything_after = None
        self._after.clear()
        self._excluded.clear()
        self._names.clear()

    def lower(self, seq: int) -> None:
        """Everything after ``seq`` has been sent now."""
        self._after = {asset: min(after, seq) for asset, after in self._after.items()}
        if self._everything_after is not None:
            self._everything_after = min(self._everything_after, seq)

    def restart(self, seq: int) -> None:
        """Coverage begins anew after ``seq``: what lay before is lost or known to the client."""
        self._after = dict.fromkeys(self._after, seq)
        if self._everything_after is not None:
            self._everything_after = seq

"""Fault scripts: which answers go wrong, when, and how. Deterministic: the seed and the order of requests decide.

A script is YAML: an optional ``seed`` and a list ``faults``. The first fault of the list that matches a request is
the one that happens. docs/sandbox.md describes every kind with an example.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, to_ms
from ray_app.errors import ConfigError
from ray_app.sandbox.rng import unit_of

#: kind → the options it takes: name → (default, what it is). None as default: may be left out.
KINDS: dict[str, dict[str, tuple[Any, str]]] = {
    "rate_limit": {"retry_after": (None, "seconds, sent as the Retry-After header")},
    "status": {
        "status": (503, "HTTP status, 400 to 599"),
        "body": ("json", "json, html or empty"),
    },
    "timeout": {"hold": (600.0, "wall seconds until the connection is closed without an answer")},
    "slow": {"bytes_per_s": (1_000, "wall-clock pace of the body")},
    "truncate": {
        "at": (0.5, "share of the body that is sent, 0 to 1"),
        "how": ("body", "body: the answer is complete HTTP but cut; connection: the connection breaks"),
    },
    "duplicate_page": {},
    "html": {"status": (200, "HTTP status of the page, 200 to 599")},
    "wrong_types": {"share": (0.2, "share of the numbers that are spoilt, 0 to 1")},
    "revise": {"magnitude": (0.01, "largest relative change of a value")},
    "clock_skew": {"seconds": (120.0, "added to every time stamp; may be negative")},
    "outage": {},
    "drop_ids": {
        "ids": (None, "ids to leave out"),
        "share": (0.1, "share of all ids to leave out, where ids is not given"),
    },
}
_COMMON = {"source", "endpoint", "from", "to", "every", "probability", "kind", "params"}
_RELATIVE = re.compile(r"([+-])((?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+)")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
#: a hundred years
_FARTHEST_MS = 36_525 * DAY_MS
_UNITS = {"ms": 1, "s": SECOND_MS, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}


@dataclass(frozen=True)
class Fault:
    """One entry of a script. Times are node time in ms; ``end_ms`` is exclusive."""

    number: int  # place in the script, from 1
    kind: str
    options: Mapping[str, Any]
    source: str = "*"
    endpoint: str = "*"
    start_ms: float = -math.inf
    end_ms: float = math.inf
    every: int | None = None
    probability: float | None = None
    params: Mapping[str, str] = field(default_factory=dict)

    def covers(self, source: str, endpoint: str, now_ms: int, params: Mapping[str, str]) -> bool:
        """Whether a request is of the kind this entry speaks of (``every`` and ``probability`` aside)."""
        return (
            self.source in {"*", source}
            and self.endpoint in {"*", endpoint}
            and self.start_ms <= now_ms < self.end_ms
            and all(params.get(name) == value for name, value in self.params.items())
        )


@cache
def sources() -> dict[str, tuple[str, ...]]:
    """Source → its endpoints."""
    from ray_app.sandbox.app import BASES  # the application reads fault scripts: it knows this module first

    return {source: tuple(endpoint.name for endpoint in endpoints) for source, endpoints in BASES.values()}


class FaultScript:
    """The faults of a run. It counts the requests each entry covers: state that only this object has."""

    def __init__(self, faults: tuple[Fault, ...] = (), seed: int = 0) -> None:
        self.faults = faults
        self.seed = seed
        self._covered = [0] * len(faults)

    def pick(self, source: str, endpoint: str, now_ms: int, params: Mapping[str, str]) -> Fault | None:
        """The fault that befalls a request, or None. Call it once per request."""
        for place, fault in enumerate(self.faults):
            if not fault.covers(source, endpoint, now_ms, params):
                continue
            self._covered[place] += 1
            count = self._covered[place]
            if fault.every is not None and count % fault.every:
                continue
            if fault.probability is not None and unit_of(self.seed, fault.number, count) >= fault.probability:
                continue
            return fault
        return None


class _Lines(dict[Any, Any]):
    """A mapping that knows the line of each of its keys, and its own."""

    own: int
    of: Mapping[Any, int]


class _Loader(yaml.SafeLoader):
    """Builds :class:`_Lines`, and refuses a key that stands twice."""


def _with_lines(loader: _Loader, node: yaml.MappingNode) -> _Lines:
    lines: dict[Any, int] = {}
    for key, _ in node.value:
        if key.tag == "tag:yaml.org,2002:merge":
            continue
        name, line = loader.construct_object(key), key.start_mark.line + 1
        if isinstance(name, Hashable) and lines.setdefault(name, line) != line:
            raise yaml.constructor.ConstructorError(None, None, f"line {line}: {name!r} stands there twice", None)
    mapping = _Lines(loader.construct_mapping(node, deep=True))
    mapping.own, mapping.of = node.start_mark.line + 1, lines
    return mapping


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _with_lines)
# Times stay text: YAML's own time stamps lose their zone.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag != "tag:yaml.org,2002:timestamp"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_faults(path: Path, first_node_ms: int) -> FaultScript:
    """The script in a file; times such as "+5m" count from ``first_node_ms``. ConfigError names file, line, entry."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"fault script {path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError:
        raise ConfigError(f"fault script {path} is not UTF-8 text") from None
    return parse_faults(text, first_node_ms, str(path))


def parse_faults(text: str, first_node_ms: int, name: str = "fault script") -> FaultScript:
    """The script in ``text``; see :func:`load_faults`."""
    try:
        script = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
        lines = _item_lines(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not YAML ({' '.join(str(error).split())})") from error
    if script is None:
        return FaultScript()
    if not isinstance(script, dict) or not isinstance(script.get("faults"), list):
        raise ConfigError(f"{name}: it must be a mapping with a list 'faults' (and optionally 'seed')")
    if unknown := set(script) - {"faults", "seed"}:
        raise ConfigError(f"{name}: unknown key {min(map(str, unknown))!r}; known: seed, faults")
    seed = script.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ConfigError(f"{name}: seed {seed!r} is not a whole number")
    faults = tuple(
        _Entry(name, number, line, entry).read(first_node_ms)
        for number, (line, entry) in enumerate(zip(lines, script["faults"], strict=True), 1)
    )
    return FaultScript(faults, seed)


def _item_lines(text: str) -> list[int]:
    """The line of each item of ``faults``, mapping or not."""
    root = yaml.compose(text, _Loader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    items = [value.value for key, value in pairs if key.value == "faults" and isinstance(value, yaml.SequenceNode)]
    return [item.start_mark.line + 1 for item in items[0]] if items else []


class _Entry:
    """One entry while it is being checked."""

    def __init__(self, script: str, number: int, line: int, entry: Any) -> None:
        self._script, self._number, self._line = script, number, line
        self._entry = entry if isinstance(entry, _Lines) else _Lines()
        if not isinstance(entry, _Lines):
            raise self._wrong(f"{entry!r} is not a mapping")

    def _wrong(self, what: str, key: Any = None) -> ConfigError:
        """An error at the line of a key, where the entry has it, else of the entry."""
        line = self._entry.of.get(key, self._line) if key in self._entry else self._line
        return ConfigError(f"{self._script}, line {line}: fault {self._number}: {what}")

    def read(self, first_node_ms: int) -> Fault:
        entry = self._entry
        kind = entry.get("kind")
        if not isinstance(kind, str) or kind not in KINDS:
            raise self._wrong(f"kind {kind!r} is unknown; known: {', '.join(KINDS)}", "kind")
        if unknown := set(entry) - _COMMON - set(KINDS[kind]):
            allowed, first = ", ".join(sorted(_COMMON | set(KINDS[kind]))), min(unknown, key=str)
            raise self._wrong(f"{str(first)!r} means nothing for {kind}; known: {allowed}", first)
        source, endpoint = self._target()
        start = self._time("from", first_node_ms, -math.inf)
        end = self._time("to", first_node_ms, math.inf)
        if end <= start:
            raise self._wrong("'to' is not after 'from'", "to")
        every, probability = entry.get("every"), entry.get("probability")
        if every is not None and (not _is_whole(every) or every < 1):
            raise self._wrong(f"every: {every!r} is not a whole number from 1", "every")
        if probability is not None and (not _is_number(probability) or not 0 <= probability <= 1):
            raise self._wrong(f"probability: {probability!r} is not between 0 and 1", "probability")
        return Fault(
            self._number,
            kind,
            self._options(kind),
            source,
            endpoint,
            start,
            end,
            every,
            probability,
            self._params(),
        )

    def _params(self) -> dict[str, str]:
        """Query parameters as they stand in a URL: YAML's true is "true" there."""
        params = self._entry.get("params", {})
        if not isinstance(params, dict):
            raise self._wrong("params is not a mapping of query parameters", "params")
        for name, value in params.items():
            if not isinstance(value, str | int | float):
                raise self._wrong(f"params: {name}: {value!r} is no value of a query parameter", "params")
        return {
            str(name): str(value).lower() if isinstance(value, bool) else str(value) for name, value in params.items()
        }

    def _target(self) -> tuple[str, str]:
        source, endpoint = self._entry.get("source", "*"), self._entry.get("endpoint", "*")
        if isinstance(endpoint, str) and "." in endpoint and source == "*":
            # "coinbase.candles", the name in `crypto-data sources`
            prefix, _, endpoint = endpoint.partition(".")
            source = "coinbase-v2" if endpoint == "exchange_rates" else prefix
        known = sources()
        endpoints = sorted({name for names in known.values() for name in names})
        if not isinstance(source, str) or source not in {"*", *known}:
            raise self._wrong(f"source {source!r} is unknown; known: {', '.join(known)}, *", "source")
        if not isinstance(endpoint, str) or endpoint not in {"*", *endpoints}:
            raise self._wrong(f"endpoint {endpoint!r} is unknown; known: {', '.join(endpoints)}, *", "endpoint")
        if "*" not in {source, endpoint} and endpoint not in known[source]:
            has = ", ".join(known[source])
            raise self._wrong(f"{source} has no endpoint {endpoint!r}; it has {has}", "endpoint")
        return source, endpoint

    def _time(self, name: str, first_node_ms: int, default: float) -> float:
        value = self._entry.get(name)
        if value is None:
            return default
        text = str(value).strip()
        if match := _RELATIVE.fullmatch(text):
            span = sum(float(amount) * _UNITS[unit] for amount, unit in _PART.findall(match[2]))
            if span > _FARTHEST_MS:
                raise self._wrong(f"{name}: {value!r} is too far away", name)
            return first_node_ms + round(-span if match[1] == "-" else span)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise self._wrong(
                f"{name}: {value!r} is neither a time (2026-11-24T08:00:00Z) nor relative to the start (+5m, +2h)", name
            ) from None
        return to_ms(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))

    def _options(self, kind: str) -> dict[str, Any]:
        options = {}
        for name, (default, meaning) in KINDS[kind].items():
            value = self._entry.get(name, default)
            if value is not None and not _fits(kind, name, value):
                raise self._wrong(f"{name}: {value!r} will not do ({meaning})", name)
            options[name] = value
        return options


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _fits(kind: str, name: str, value: Any) -> bool:
    return bool(_OPTION_CHECKS[name](value)) and not (kind == name == "status" and value < 400)


_OPTION_CHECKS: dict[str, Any] = {
    "retry_after": lambda v: _is_number(v) and v >= 0,
    "status": lambda v: _is_whole(v) and 200 <= v <= 599 and v not in {204, 205, 304},  # these have no body
    "body": lambda v: v in {"json", "html", "empty"},
    "hold": lambda v: _is_number(v) and v > 0,
    "bytes_per_s": lambda v: _is_number(v) and v > 0,
    "at": _is_share,
    "how": lambda v: v in {"body", "connection"},
    "share": _is_share,
    "magnitude": lambda v: _is_number(v) and 0 < v < 1,
    "seconds": _is_number,
    "ids": lambda v: isinstance(v, list) and all(isinstance(item, str) for item in v),
}

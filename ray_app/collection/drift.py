"""Noticing that an upstream changes what its answers look like, before values quietly become NULL.

Of each endpoint's accepted answers a *shape* is learnt: the fields of the body, the JSON types of each, whether it was
always there and ever null, and the decades its numbers lie in. An answer that has a new field, lacks one that was
always there, or has another type, only nulls or other magnitudes in a field makes one ``data_quality_events`` row of
kind ``drift`` per field, and the shape then takes the change in: once per change, not per fetch.

Of long lists some elements are looked at, others each time. Fields are written as ``market_cap``, ``data.rates.*`` (an
object whose member names are data) or ``prices[1]`` (the second number of each of the arrays in ``prices``).

Events are of what a node noticed in the order it took answers in: a rebuild from the archive does not repeat them.
Pure but for :class:`Watch`, which remembers what the database holds so that an answer like the others costs no query.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import orjson
from sqlalchemy import Connection

from ray_app.collection.digest import Digest
from ray_app.collection.store import Item
from ray_app.sources import endpoint
from ray_app.sources.base import Exchange
from ray_app.sources.reading import printable, shown
from ray_app.storage import records

KIND = "drift"
#: elements of one list that are looked at
SAMPLE = 32
#: answers from which is learnt before anything counts as a change …
LEARNING = 3
#: … and before a magnitude does: endpoints are asked about one asset after the other
LEARNING_RANGES = 50
#: bounds of what is kept of a body, whatever an upstream sends: depth, fields, members of an object before they count
#: as data, characters of a path
_DEEPEST, _MOST_FIELDS, _MOST_MEMBERS, _LONGEST_PATH = 6, 250, 100, 100
#: what data_quality_events holds
_LONGEST_FIELD = 64


@dataclass(slots=True)
class Seen:
    """One field in the sampled part of one body: a value of each type, and the decades (floor of log10) of numbers."""

    times: int = 0
    nulls: int = 0
    types: dict[str, Any] = field(default_factory=dict)
    decades: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Body:
    """The sampled part of a body: fields by path, and how many objects were looked at by path."""

    fields: Mapping[str, Seen]
    objects: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Known:
    """What was learnt of one field. ``gone``: it was always there, and then no more."""

    types: tuple[str, ...]
    always: bool = True
    nullable: bool = False
    decades: tuple[int, int] | None = None
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """What was learnt of an endpoint's bodies from ``answers`` (counted up to LEARNING_RANGES)."""

    answers: int = 0
    fields: Mapping[str, Known] = field(default_factory=dict)

    def dump(self) -> str:
        """As JSON."""
        return orjson.dumps(self, option=orjson.OPT_SORT_KEYS).decode()

    @classmethod
    def load(cls, text: str) -> Shape:
        """Of :meth:`dump`."""
        said = orjson.loads(text)
        return cls(said["answers"], {path: _known(**values) for path, values in said["fields"].items()})


def _known(*, types: list[str], decades: list[int] | None, **rest: bool) -> Known:
    return Known(tuple(types), decades=None if decades is None else (decades[0], decades[1]), **rest)


@dataclass(frozen=True, slots=True)
class Change:
    """How a body differs from what was learnt."""

    field: str
    what: str


# --- looking at a body ----------------------------------------------------------------------------------------


def look(exchange: Exchange, found: Digest) -> Body | None:
    """The shape of an accepted answer; None for an answer that is not one."""
    if found.outcome != "ok":
        return None
    source = endpoint(exchange.request.endpoint)
    try:
        body = source.shape_of(exchange.body)
    except ValueError:  # NaN, which the parsers do read and refuse value by value; no JSON at all
        return None
    sampler = _Sampler(source.keyed, exchange.fetched_at // 1_000)
    sampler.visit("", body, 0)
    return Body(sampler.fields, sampler.objects)


class _Sampler:
    def __init__(self, keyed: frozenset[str], turn: int) -> None:
        self._keyed, self._turn = keyed, turn
        self.fields: dict[str, Seen] = {}
        self.objects: dict[str, int] = {}

    def visit(self, path: str, value: Any, depth: int) -> None:
        """Take in a value and, of objects and lists, what is in it."""
        seen = self.fields.get(path)
        if seen is None:
            if len(self.fields) >= _MOST_FIELDS or len(path) > _LONGEST_PATH:
                return
            seen = self.fields[path] = Seen()
        seen.times += 1
        kind = _TYPES[type(value)]
        if kind == "null":
            seen.nulls += 1
            return
        seen.types[kind] = value
        if kind == "number":
            _stretch(seen, value)
        elif kind == "object" and depth < _DEEPEST:
            self._members(path, value, depth)
        elif kind == "list" and depth < _DEEPEST:
            self._elements(path, value, depth)

    def _members(self, path: str, value: dict[str, Any], depth: int) -> None:
        if path in self._keyed or len(value) > _MOST_MEMBERS:
            for member in self._some(list(value.values())):
                self.visit(_below(path, "*"), member, depth + 1)
            return
        self.objects[path] = self.objects.get(path, 0) + 1
        for name, member in value.items():
            self.visit(_below(path, name), member, depth + 1)

    def _elements(self, path: str, value: list[Any], depth: int) -> None:
        for element in self._some(value):
            if not isinstance(element, list):
                self.visit(f"{path}[]", element, depth + 1)
                continue
            self.objects[path] = self.objects.get(path, 0) + 1
            for position, member in enumerate(islice(element, 16)):
                self.visit(f"{path}[{position}]", member, depth + 1)

    def _some(self, values: Sequence[Any]) -> Sequence[Any]:
        """At most SAMPLE of the values, evenly spread, others with each turn."""
        step = -(-len(values) // SAMPLE)
        return values if step <= 1 else values[self._turn % step :: step]


_TYPES = {
    type(None): "null",
    bool: "boolean",
    int: "number",
    float: "number",
    str: "text",
    dict: "object",
    list: "list",
}


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _stretch(seen: Seen, value: float) -> None:
    if value == 0:
        return
    decade = math.floor(math.log10(abs(value)))
    low, high = seen.decades or (decade, decade)
    seen.decades = (min(low, decade), max(high, decade))


def _above(path: str) -> str:
    """The path of the object or list that a field is in."""
    if path.endswith("]") and "[" in path:  # a member may be called "]"
        return path[: path.rindex("[")]
    return path[: path.rindex(".")] if "." in path else ""


# --- comparing and learning -----------------------------------------------------------------------------------


def changes(shape: Shape, body: Body) -> list[Change]:
    """What is not as it was learnt; [] while little has been learnt."""
    if shape.answers < LEARNING:
        return []
    inhabited = {_above(path) for path in shape.fields if path}
    found = [
        Change(path, text)
        for path, seen in body.fields.items()
        if (text := _change(shape, path, seen, new=_above(path) in inhabited)) is not None
    ]
    for path in _vanished(shape, body):
        times = body.objects[_above(path)]
        found.append(Change(path, f"vanished: in none of {times} looked at, and it had always been there"))
    return found


def _change(shape: Shape, path: str, seen: Seen, *, new: bool) -> str | None:
    known = shape.fields.get(path)
    if known is None:
        worth_telling = new and len(shape.fields) < _MOST_FIELDS
        return f"new field: {_types(seen.types)}" if worth_telling else None
    if known.gone:
        return f"is back: {_types(seen.types)}"
    if known.types and (others := {kind: seen.types[kind] for kind in seen.types if kind not in known.types}):
        return f"retyped: {_types(others)}; was {' or '.join(known.types)}"
    if seen.nulls == seen.times >= LEARNING and not known.nullable:
        return f"null in each of {seen.times} looked at, and it had never been"
    if shape.answers >= LEARNING_RANGES and known.decades is not None and seen.decades is not None:
        low, high = known.decades
        slack = max(2, high - low)
        if seen.decades[0] < low - slack or seen.decades[1] > high + slack:
            return f"other magnitudes: such as {shown(seen.types['number'])}, were about 1e{low} to 1e{high}"
    return None


def _types(examples: Mapping[str, Any]) -> str:
    return " or ".join(f"{kind} such as {shown(value)!r}" for kind, value in sorted(examples.items())) or "null"


def _vanished(shape: Shape, body: Body) -> Iterator[str]:
    for path, known in shape.fields.items():
        if known.always and not known.gone and path not in body.fields and body.objects.get(_above(path)):
            yield path


def learnt(shape: Shape, body: Body) -> Shape:
    """The shape with a body taken in; the very same object where there was nothing to learn."""
    fields = dict(shape.fields)
    for path, seen in body.fields.items():
        if path in fields or len(fields) < _MOST_FIELDS:
            fields[path] = _merged(shape, fields.get(path), path, seen, body)
    if shape.answers >= LEARNING:
        for path in _vanished(shape, body):
            fields[path] = replace(fields[path], gone=True, always=False)
    else:
        for path in list(_vanished(shape, body)):
            fields[path] = replace(fields[path], always=False)
    answers = min(shape.answers + 1, LEARNING_RANGES)
    return shape if answers == shape.answers and fields == shape.fields else Shape(answers, fields)


def _merged(shape: Shape, known: Known | None, path: str, seen: Seen, body: Body) -> Known:
    everywhere = seen.times >= body.objects.get(_above(path), 0)
    if known is None:
        always = everywhere and shape.answers == 0
        return Known(tuple(sorted(seen.types)), always, seen.nulls > 0, seen.decades)
    decades = known.decades
    if seen.decades is not None:
        low, high = decades or seen.decades
        decades = (min(low, seen.decades[0]), max(high, seen.decades[1]))
    return Known(
        known.types if seen.types.keys() <= set(known.types) else tuple(sorted({*known.types, *seen.types})),
        known.always and everywhere,
        known.nullable or seen.nulls > 0,
        decades,
    )


# --- in the database ------------------------------------------------------------------------------------------


class Watch:
    """What a process knows of the endpoints' shapes. Not safe for threads: each committer has its own."""

    def __init__(self) -> None:
        self._shapes: dict[str, Shape] = {}

    def unlike(self, items: Iterable[Item]) -> list[tuple[Item, Body]]:
        """The answers from which there is something to learn, and their bodies."""
        found = []
        for item in items:
            body = look(item.exchange, item.found)
            known = self._shapes.get(item.exchange.request.endpoint, Shape())
            if body is not None and learnt(known, body) is not known:
                found.append((item, body))
        return found

    def remember(self, shapes: Mapping[str, Shape]) -> None:
        """Take over what :func:`take_in` has committed."""
        self._shapes |= shapes


def take_in(conn: Connection, answers: Sequence[tuple[Item, Body]]) -> dict[str, Shape]:
    """Learn from the answers, and write an event for each change; the shapes as they are now.

    Inside the transaction that ingests the answers: several processes learn of one endpoint one after the other.
    """
    if not answers:
        return {}
    names = sorted({item.exchange.request.endpoint for item, _ in answers})
    stored = {name: Shape.load(text) for name, text in records.shapes(conn, names, lock=True).items()}
    now = {name: stored.get(name, Shape()) for name in names}
    seen_at: dict[str, int] = {}
    events: list[dict[str, Any]] = []
    for item, body in answers:
        name = item.exchange.request.endpoint
        events += [_event(item, change) for change in changes(now[name], body)]
        now[name] = learnt(now[name], body)
        seen_at[name] = item.exchange.fetched_at
    for name in names:
        if now[name] != stored.get(name):
            records.save_shape(conn, name, now[name].dump(), seen_at[name])
    records.add_quality_events(conn, events)
    return now


def _event(item: Item, change: Change) -> dict[str, Any]:
    name = item.exchange.request.endpoint
    return {
        "payload_hash": item.at.payload_hash,
        "kind": KIND,
        "subject": name,
        "field": printable(change.field)[:_LONGEST_FIELD],
        "source": name,
        "fetched_at": item.exchange.fetched_at,
        "detail": change.what,
    }

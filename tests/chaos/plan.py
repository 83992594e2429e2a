"""What will go wrong, and when: drawn from a seed before anything starts, so that a run can be had again."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

#: process deeds in 24 hours of node time
DEEDS_A_DAY = 120
#: windows of upstream faults in 24 hours of node time
WINDOWS_A_DAY = 60
#: node minutes after the node's first start in which it boots and nothing goes wrong upstream
CALM_MIN = 60
#: runs shorter than this have no hour without upstreams, node hours
OUTAGE_FROM_H = 3.0

#: what a deed may befall: the names of deeds.TITLES, how often
VICTIMS = {
    "prices": 4,
    "candles": 4,
    "slow feeds": 1,
    "supervisor": 3,
    "event bus": 2,
    "gateway": 2,
    "streams": 2,
    "controller": 2,
    "haproxy": 2,
    "haproxy manager": 1,
    "worker": 1,
    "sandbox": 1,
}
#: kind of deed, how often
KINDS = {"kill": 44, "stop": 30, "database": 10, "disk full": 5, "read-only": 4, "job": 5}
#: how a whole node dies, each once a day: all of it at once (power), or the part that everything hangs from
CRASHES = ("everything", "launcher", "raylet", "gcs")
ENDPOINTS = {
    "coingecko": ("markets", "market_chart", "coins_list", "global"),
    "coinbase": ("candles", "products"),
    "coinbase-v2": ("exchange_rates",),
}


@dataclass(frozen=True, slots=True)
class Deed:
    """``kind`` befalls ``target`` for ``seconds``. ``at_s``, ``seconds``: wall; ``at_s`` from the first READY."""

    at_s: float
    kind: str
    target: str
    seconds: float


@dataclass(frozen=True)
class Plan:
    """Times in ``windows`` and ``outage`` are node minutes after the node's first start."""

    seed: int
    hours: float
    scale: float
    deeds: tuple[Deed, ...]
    windows: tuple[dict[str, Any], ...]
    outage: tuple[float, float] | None = None

    @property
    def end_min(self) -> float:
        """When the last fault is over."""
        return CALM_MIN + self.hours * 60

    def write_script(self, path: Path) -> None:
        """The sandbox's fault script (docs/sandbox.md)."""
        path.write_text(yaml.safe_dump({"seed": self.seed, "faults": list(self.windows)}, sort_keys=False))


def draw(seed: int, hours: float, scale: float, database: str) -> Plan:
    """The plan of a run of ``hours`` node hours at ``scale`` on ``database`` (sqlite or mariadb)."""
    chance = random.Random(f"{seed} {database}")
    outage = None
    if hours >= OUTAGE_FROM_H:
        start = CALM_MIN + hours * 30
        outage = (start, start + 60)
    windows = _windows(chance, hours, outage)
    return Plan(seed, hours, scale, _deeds(chance, hours, scale, database, outage), windows, outage)


def _deeds(
    chance: random.Random, hours: float, scale: float, database: str, outage: tuple[float, float] | None
) -> tuple[Deed, ...]:
    wall_s = hours * 3_600 / scale
    number = max(round(DEEDS_A_DAY * hours / 24), 1)
    deeds = []
    for _ in range(number):
        kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
        target, seconds = "", chance.uniform(3, 14)
        if kind in {"kill", "stop"}:
            target = chance.choices(list(VICTIMS), list(VICTIMS.values()))[0]
        elif kind == "database":
            target = "lock" if database == "sqlite" else chance.choice(("kill", "stop"))
        deeds.append(Deed(chance.uniform(0, wall_s), kind, target, round(seconds, 1)))
    for how in chance.sample(CRASHES, min(len(CRASHES), max(round(hours / 6), 1))):
        deeds.append(Deed(chance.uniform(0, wall_s), "crash", how, 0.0))
    calm_s = (0.0, 0.0) if outage is None else tuple((m - CALM_MIN) * 60 / scale for m in outage)
    kept = [deed for deed in deeds if not calm_s[0] - 30 <= deed.at_s <= calm_s[1]]
    spare = [
        Deed(chance.uniform(0, max(calm_s[0] - 30, 1)), d.kind, d.target, d.seconds) for d in deeds if d not in kept
    ]
    return tuple(sorted(kept + spare, key=lambda deed: deed.at_s))


def _windows(chance: random.Random, hours: float, outage: tuple[float, float] | None) -> tuple[dict[str, Any], ...]:
    windows: list[dict[str, Any]] = []
    if outage is not None:  # the first entry that matches is what happens
        windows.append({"source": "*", "from": _at(outage[0]), "to": _at(outage[1]), "kind": "outage"})
    number = max(round(WINDOWS_A_DAY * hours / 24), 1)
    kinds = [kind for _ in range(-(-number // len(_OPTIONS))) for kind in chance.sample(list(_OPTIONS), len(_OPTIONS))]
    for kind in kinds[:number]:
        start = CALM_MIN + chance.uniform(0, hours * 60)
        end = min(start + chance.choice((6, 12, 30)), CALM_MIN + hours * 60)
        windows.append(
            {**_target(chance, kind), "from": _at(start), "to": _at(end), "kind": kind, **_OPTIONS[kind](chance)}
        )
        if chance.random() < 0.5:
            windows[-1]["probability"] = 0.4
    return tuple(windows)


def _at(minutes: float) -> str:
    return f"+{round(minutes * 60)}s"


def _target(chance: random.Random, kind: str) -> dict[str, str]:
    source = (
        "coingecko"
        if kind == "drop_ids"
        else chance.choice(("coingecko", "coingecko", "coinbase", "coinbase", "coinbase-v2"))
    )
    if kind == "drop_ids":
        return {"source": source, "endpoint": "markets"}
    return {"source": source, "endpoint": chance.choice((*ENDPOINTS[source], "*"))}


#: what each kind of the script is drawn with
_OPTIONS: dict[str, Any] = {
    "rate_limit": lambda chance: {"retry_after": chance.choice((20, 300, 900))},
    "status": lambda chance: {
        "status": chance.choice((403, 500, 502, 503)),
        "body": chance.choice(("json", "html", "empty")),
    },
    "timeout": lambda chance: {"hold": chance.choice((2, 10))},
    "slow": lambda chance: {"bytes_per_s": chance.choice((300, 2_000))},
    "truncate": lambda chance: {"at": round(chance.uniform(0.1, 0.9), 2), "how": chance.choice(("body", "connection"))},
    "duplicate_page": lambda _: {},
    "html": lambda chance: {"status": chance.choice((200, 503))},
    "wrong_types": lambda _: {"share": 0.2},
    "revise": lambda _: {"magnitude": 0.01},
    "clock_skew": lambda chance: {"seconds": chance.choice((-7_200, -120, 120, 7_200))},
    "outage": lambda _: {},
    "drop_ids": lambda _: {"share": 0.4},
}

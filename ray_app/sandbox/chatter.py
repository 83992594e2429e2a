"""What simulated people write, and how many like it: shared by the simulated social platforms.

Generated texts say so ("[sandbox] …"). With ``--replay-text`` and a file of the columns text, label and url its texts
are the bodies of posts; a file of other columns is somebody else's.
"""

from __future__ import annotations

import csv
import hashlib
import math
import struct
from functools import lru_cache
from pathlib import Path

from ray_app.assets import Asset
from ray_app.clock import DAY_MS, HOUR_MS
from ray_app.sandbox.answers import World

_OPENINGS = (
    "Thoughts on",
    "Is it too late for",
    "What is going on with",
    "Long-term view of",
    "Unpopular opinion about",
)
_VIEWS = (
    "I am very bullish, the chart looks strong and volume is rising",
    "this looks like a top to me, I sold half & wait for lower prices",
    "nothing happens today, I just keep buying every week",
    "fees < 1 cent now, adoption is growing fast",
    "I lost a lot on this one, be careful with leverage",
    "the upgrade is delayed again, what a disappointment",
)
#: the assets people talk about, by rank
_TALKED_OF = 40


def lots(*parts: str | int) -> tuple[float, ...]:
    """Sixteen numbers in [0, 1) that belong to ``parts``: all that one post needs, of one hash."""
    text = "\x1f".join(str(part) for part in parts).encode()
    return tuple(word / 2**32 for word in struct.unpack("<16I", hashlib.blake2b(text, digest_size=64).digest()))


def asset_of(world: World, made_ms: int, drawn: float) -> Asset | None:
    """The asset a post is about: one of the largest of its day, the larger the likelier; None: nothing is listed."""
    listed = world.listed(made_ms // DAY_MS * DAY_MS)
    return listed[int(drawn**2 * min(len(listed), _TALKED_OF))] if listed else None


def title_of(asset: Asset | None, drawn: float) -> str:
    """A title that names the asset."""
    opening = _OPENINGS[int(drawn * len(_OPENINGS))]
    return f"[sandbox] {opening} {asset.name if asset is not None else 'the market'}?"


def body_of(world: World, about: str, drawn: float) -> str:
    """A text with an opinion: one of the replayed file, or a generated one."""
    real = replayed(world.replay_text)
    return real[int(drawn * len(real))] if real else f"[sandbox] {about}: {_VIEWS[int(drawn * len(_VIEWS))]}."


def grown(most: float, age_ms: int) -> int:
    """A count that grows to ``most`` with the age of a post: two thirds within six hours."""
    return round(most * -math.expm1(-max(age_ms, 0) / (6 * HOUR_MS)))


def popularity(drawn: float) -> float:
    """How many like a post in the end: a few, seldom thousands."""
    return math.exp(8 * drawn**2)


@lru_cache(maxsize=4)
def replayed(path: Path | None) -> tuple[str, ...]:
    """The texts of a file with the columns text, label and url; of any other file, and of none, nothing."""
    if path is None or not path.is_file():
        return ()
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames is None or not {"text", "label", "url"} <= set(rows.fieldnames):
                return ()
            return tuple(row["text"].strip() for row in rows if (row["text"] or "").strip())
    except (UnicodeDecodeError, csv.Error):
        return ()

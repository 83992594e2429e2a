"""The economy of the sandbox: what FRED and Yahoo, simulated, both look at, so that they agree as real ones do.

A series is a sum of noises on scales from a day to three years: a function of (seed, series, day) alone, whatever was
asked before. With ``World.replay_macro`` a series that the folder's CSVs have is theirs, moved in time, and goes on
from its last value as a generated one would.

**The move**: by whole weeks, so that weekdays stay, as far as the folder's last day is not after the day on which the
node first starts; series of months and quarters by whole months. A node begins with all of the files as its past.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

import numpy as np
import polars as pl

from ray_app.clock import DAY_MS
from ray_app.errors import ConfigError
from ray_app.sandbox.answers import World
from ray_app.sandbox.rng import BoolArray, FloatArray, IntArray, key_of, subkeys

Cycle = Literal["market", "daily", "weekly", "monthly", "quarterly"]
_EPOCH: Final = date(1970, 1, 1)
#: what is generated begins on 2000-01-01
FIRST_DAY: Final = 10_957
_SCALES: Final = (1, 4, 16, 64, 256, 1_024)


@dataclass(frozen=True, slots=True)
class Spec:
    """A series: where it lies, how far it swings in a day, when its periods begin, and when each estimate is released.

    ``swing``: of the logarithm, or of the value itself where ``additive``. ``releases``: days after the period's start,
    one an estimate. ``mondays``: a release of the week, on the Monday after. ``alfred``: there are vintages.
    """

    level: float
    swing: float
    decimals: int
    cycle: Cycle = "market"
    releases: tuple[int, ...] = (1,)
    additive: bool = False
    low: float = 0.0
    growth: float = 0.0  # a year
    mondays: bool = False
    alfred: bool = True


def _rate(level: float, swing: float = 0.04, cycle: Cycle = "market", releases: tuple[int, ...] = (1,)) -> Spec:
    return Spec(level, swing, 2, cycle, releases, additive=True, low=0.05)


SERIES: Final[Mapping[str, Spec]] = {
    "VIXCLS": Spec(18.0, 0.05, 2, low=9.0),
    **{
        f"DGS{name}": _rate(level) for name, level in (("1MO", 4.3), ("3MO", 4.2), ("6MO", 4.1), ("1", 4.0), ("2", 3.9))
    },
    **{f"DGS{name}": _rate(level) for name, level in (("3", 3.9), ("5", 4.0), ("10", 4.3), ("30", 4.8))},
    "T10Y2Y": _rate(0.4),
    "DTWEXBGS": Spec(120.0, 0.002, 4, mondays=True),
    "FEDFUNDS": _rate(4.3, 0.01, "monthly", (32,)),
    "DFF": _rate(4.33, 0.01, "daily"),
    "UNRATE": Spec(4.2, 0.01, 1, "monthly", (35,), additive=True, low=2.0),
    "CPIAUCSL": Spec(310.0, 0.0002, 3, "monthly", (42, 408), growth=0.026),
    "INDPRO": Spec(103.0, 0.0006, 4, "monthly", (46, 76, 107)),
    "RSAFS": Spec(700_000.0, 0.001, 0, "monthly", (45, 75), growth=0.03),
    "UMCSENT": Spec(68.0, 0.004, 1, "monthly", (57,)),
    "GDPC1": Spec(23_000.0, 0.0003, 3, "quarterly", (119, 148, 176), growth=0.022),
    "ICSA": Spec(230_000.0, 0.005, 0, "weekly", (5, 12)),
    "HOUST": Spec(1_400.0, 0.004, 0, "monthly", (48, 78)),
    "M2SL": Spec(21_500.0, 0.0003, 1, "monthly", (54, 84), growth=0.04),
    "SP500": Spec(6_200.0, 0.011, 2, alfred=False, growth=0.07),
    "DEXUSEU": Spec(1.12, 0.004, 4, mondays=True),
    "DEXJPUS": Spec(147.0, 0.005, 2, mondays=True),
    "DEXCHUS": Spec(7.15, 0.001, 4, mondays=True),
    "DCOILWTICO": Spec(72.0, 0.02, 2, mondays=True, low=10.0),
}
#: what only a market quotes
QUOTED: Final[Mapping[str, Spec]] = {
    "DXY": Spec(101.0, 0.004, 3),
    "GOLD": Spec(2_900.0, 0.009, 2),
    "SILVER": Spec(33.0, 0.016, 3),
    "COPPER": Spec(4.5, 0.013, 4),
    "GAS": Spec(3.2, 0.035, 3),
    "GBPUSD": Spec(1.29, 0.004, 4),
    **{
        name: Spec(level, 0.013, 2)
        for name, level in (("QQQ", 520.0), ("ARKK", 60.0), ("XLE", 90.0), ("XLF", 50.0), ("XLY", 215.0), ("XLP", 80.0))
    },
    "XLK": Spec(235.0, 0.013, 2),
}
#: a CSV's name for a series of FRED
_ALIASES: Final = {"WTI": "DCOILWTICO"}


# --- calendars: days are counted from 1970-01-01 -------------------------------------------------------------


def day_of(when: date) -> int:
    """The number of a date."""
    return (when - _EPOCH).days


def date_of(day: int) -> date:
    """The date of a number."""
    return _EPOCH + timedelta(days=int(day))


def weekday(days: IntArray) -> IntArray:
    """0: Monday … 6: Sunday."""
    numbers: IntArray = (days + 3) % 7
    return numbers


def nth_weekday(year: int, month: int, which: int, nth: int) -> int:
    """The day of the nth (1 …; -1: last) such weekday of a month."""
    if nth < 0:
        last = day_of(date(year + month // 12, month % 12 + 1, 1)) - 1
        return last - int(weekday(np.array(last)) - which) % 7
    first = day_of(date(year, month, 1))
    return first + int(which - weekday(np.array(first))) % 7 + 7 * (nth - 1)


@lru_cache(maxsize=256)
def _holidays(year: int) -> tuple[int, ...]:
    fixed = [day_of(date(year, month, day)) for month, day in ((1, 1), (7, 4), (12, 25))]
    observed = [day + {5: -1, 6: 1}.get(int(weekday(np.array(day))), 0) for day in fixed]
    return (*observed, nth_weekday(year, 5, 0, -1), nth_weekday(year, 9, 0, 1), nth_weekday(year, 11, 3, 4))


def is_holiday(days: IntArray) -> BoolArray:
    """Whether a day is one of six holidays on which US markets are closed."""
    if not len(days):
        return np.zeros(0, dtype=bool)
    years = range(date_of(days.min()).year, date_of(days.max()).year + 2)
    return np.isin(days, [day for year in years for day in _holidays(year)])


def on_weekday(days: IntArray) -> IntArray:
    """The days, those of a weekend moved to the Monday after."""
    moved: IntArray = np.where(weekday(days) >= 5, days + 7 - weekday(days), days)
    return moved


def period_starts(cycle: Cycle, first: int, last: int) -> IntArray:
    """The first days (weekly: Saturdays, the last ones) of the periods that begin in ``[first, last]``."""
    if last < first:
        return np.zeros(0, dtype=np.int64)
    days = np.arange(first, last + 1, dtype=np.int64)
    if cycle == "market":
        workdays: IntArray = days[weekday(days) < 5]
        return workdays
    if cycle == "daily":
        return days
    if cycle == "weekly":
        saturdays: IntArray = days[weekday(days) == 5]
        return saturdays
    months = np.arange(
        np.datetime64(int(first), "D").astype("datetime64[M]"),
        np.datetime64(int(last), "D").astype("datetime64[M]") + 1,
    )
    if cycle == "quarterly":
        months = months[months.astype(np.int64) % 3 == 0]
    starts: IntArray = months.astype("datetime64[D]").astype(np.int64)
    return starts[starts >= first]


# --- values -------------------------------------------------------------------------------------------------


def uniform(days: IntArray, *key: str | int) -> FloatArray:
    """A number in (-1, 1) for each day, of a key."""
    words = subkeys(np.array([key_of(*key)], dtype=np.uint64), days)
    unit: FloatArray = (words >> np.uint64(11)).astype(np.float64) / float(1 << 52) - 1
    return unit


def _path(days: IntArray, seed: int, name: str) -> FloatArray:
    """A wandering number: its steps of a day are about 1, and it goes as far as a random walk of three years."""
    total = np.zeros(len(days))
    for scale in _SCALES:
        steps, within = np.divmod(days, scale)
        here, there = (uniform(steps + shift, seed, "macro", name, scale) for shift in (0, 1))
        total += np.sqrt(scale) * (here + (there - here) * within / scale)
    return total


def _generated(seed: int, name: str, days: IntArray) -> FloatArray:
    """The series' own values, not rounded."""
    if name == "T10Y2Y":
        return _generated(seed, "DGS10", days) - _generated(seed, "DGS2", days)
    spec = SERIES.get(name) or QUOTED[name]
    path = _path(days, seed, name) * spec.swing
    grown = spec.level * np.exp(spec.growth * (days - 20_400) / 365.25)
    values: FloatArray = np.maximum(grown + path if spec.additive else grown * np.exp(path), spec.low)
    return values


def values_of(world: World, name: str, first: int, last: int) -> tuple[IntArray, FloatArray]:
    """The days of ``[first, last]`` that a series has, and its values; NaN where it is published that there is none."""
    spec = SERIES.get(name) or QUOTED[name]
    real = _replayed(world, name, spec.cycle)
    if real is None:
        days = period_starts(spec.cycle, max(first, FIRST_DAY), last)
        values = np.round(_generated(world.seed, name, days), spec.decimals)
        return days, np.where(is_holiday(days), np.nan, values) if spec.cycle == "market" else values
    known, said = real
    end = int(known[-1])
    after = period_starts(spec.cycle, max(first, end + 1), last)
    path, at_end = _generated(world.seed, name, after), _generated(world.seed, name, known[-1:])[0]
    additive = spec.additive or said[-1] <= 0 or at_end <= 0
    went_on = said[-1] + path - at_end if additive else said[-1] * path / at_end
    kept = (known >= first) & (known <= last)
    return np.concatenate([known[kept], after]), np.concatenate([said[kept], np.round(went_on, spec.decimals)])


# --- real series --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Folder:
    """The series of a folder's CSVs: days and values by name; and bars (open, high, low, close) by symbol."""

    series: Mapping[str, tuple[IntArray, FloatArray]]
    bars: Mapping[str, tuple[IntArray, FloatArray]]
    last_day: int


@lru_cache(maxsize=4)
def folder_of(path: Path) -> Folder:
    """Every CSV with date, series, value, or timestamp, symbol, open, high, low, close; others are left alone.

    ConfigError names a file that cannot be read.
    """
    series: dict[str, tuple[IntArray, FloatArray]] = {}
    bars: dict[str, tuple[IntArray, FloatArray]] = {}
    for file in sorted(path.glob("*.csv")):
        try:
            _read(file, series, bars)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise ConfigError(f"replay file {file}: not a readable CSV of series ({error})") from error
    last = max((int(days[-1]) for days, _ in (*series.values(), *bars.values())), default=0)
    return Folder(series, bars, last)


def _read(
    file: Path, series: dict[str, tuple[IntArray, FloatArray]], bars: dict[str, tuple[IntArray, FloatArray]]
) -> None:
    frame = pl.read_csv(file, infer_schema=False)
    columns = ("value",) if "value" in frame.columns else ("open", "high", "low", "close")
    name, time = ("series", "date") if columns == ("value",) else ("symbol", "timestamp")
    if not {name, time, *columns} <= set(frame.columns):
        return
    frame = frame.select(
        pl.col(time).str.slice(0, 10).str.to_date().cast(pl.Int32).cast(pl.Int64).alias("day"),
        pl.col(name).alias("name"),
        pl.col(columns).cast(pl.Float64, strict=False),
    )
    frame = frame.drop_nulls().sort("day").unique(["name", "day"], keep="first", maintain_order=True)
    for (one,), part in frame.partition_by("name", as_dict=True).items():
        days, values = part["day"].to_numpy(), part.select(columns).to_numpy()
        if columns == ("value",):
            series.setdefault(_ALIASES.get(str(one), str(one)), (days, values[:, 0]))
        else:
            bars.setdefault(str(one), (days, values))


def macro_shift(last_day: int, first_node_ms: int | None) -> int:
    """Days by which a folder moves: whole weeks, its last day then in the week up to the node's first start."""
    return (first_node_ms // DAY_MS - last_day) // 7 * 7 if first_node_ms is not None else 0


def _replayed(world: World, name: str, cycle: Cycle) -> tuple[IntArray, FloatArray] | None:
    if world.replay_macro is None:
        return None
    folder = folder_of(world.replay_macro)
    found = folder.series.get(name)
    if found is None:
        return None
    shift = macro_shift(folder.last_day, world.first_node_ms)
    if cycle in {"monthly", "quarterly"}:
        months = round(shift / 30.4375)
        months -= months % 3 if cycle == "quarterly" else 0
        moved = (found[0].astype("datetime64[D]").astype("datetime64[M]") + months).astype("datetime64[D]")
        return moved.astype(np.int64), found[1]
    return found[0] + shift, found[1]


def replayed_bars(world: World, symbol: str) -> tuple[IntArray, FloatArray] | None:
    """Days and open, high, low, close of a symbol of the folder, moved; None: it has none."""
    if world.replay_macro is None:
        return None
    folder = folder_of(world.replay_macro)
    found = folder.bars.get(symbol)
    return (found[0] + macro_shift(folder.last_day, world.first_node_ms), found[1]) if found is not None else None

"""Splitting and joining bars are exact inverses, to the last bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_app.sandbox.bars import Bars, aggregate, empty, subdivide
from ray_app.sandbox.rng import STUDENT, UNIFORM, draws, subkeys


@st.composite
def bar(draw: st.DrawFn) -> tuple[float, float, float, float, float, int]:
    decimals = draw(st.integers(0, 8))
    prices = sorted(draw(st.integers(1, 10**7)) / 10**decimals for _ in range(4))
    low, a, b, high = prices
    opened, close = (a, b) if draw(st.booleans()) else (b, a)
    volume = draw(st.one_of(st.just(0.0), st.floats(1e-8, 1e14)))
    return opened, high, low, close, volume, decimals


def bars_of(*values: float) -> Bars:
    return Bars(*(np.array([[value]]) for value in values))


@given(bar(), st.sampled_from([5, 12]), st.integers(0, 2**63))
def test_the_parts_of_a_bar_aggregate_to_it_exactly(values: tuple[float, ...], parts: int, key: int) -> None:
    *numbers, decimals = values
    whole = bars_of(*numbers)
    split = subdivide(whole, parts, np.array([[key]], dtype=np.uint64), np.array([[10.0**decimals]]))
    again = aggregate(split, parts)
    assert [a.item() for a in (again.open, again.high, again.low, again.close, again.volume)] == list(numbers)
    assert math.fsum(split.volume[0]) == sum(split.volume[0].tolist()) == numbers[4]


@given(bar(), st.integers(0, 2**63))
def test_every_part_is_a_bar_on_the_price_grid_and_inside_the_whole(values: tuple[float, ...], key: int) -> None:
    opened, high, low, close, volume, decimals = values
    whole = bars_of(opened, high, low, close, volume)
    split = subdivide(whole, 12, np.array([[key]], dtype=np.uint64), np.array([[10.0**decimals]]))
    split = split[0][split.traded[0]]
    assert len(split.close) == (12 if volume else 1)
    assert (split.low <= np.minimum(split.open, split.close)).all()
    assert (split.high >= np.maximum(split.open, split.close)).all()
    assert (split.low >= low).all()
    assert (split.high <= high).all()
    assert (split.volume >= 0).all()
    for prices in (split.open, split.high, split.low, split.close):
        assert [round(p, decimals) for p in prices.tolist()] == prices.tolist()


def test_volumes_on_a_given_grid_stay_on_it() -> None:
    whole = bars_of(10.0, 11.0, 9.0, 10.5, 64 / 256)
    split = subdivide(whole, 5, np.array([[3]], dtype=np.uint64), np.array([[100.0]]), np.array([[-8]]))
    units = split.volume[0] * 256
    assert units.tolist() == np.rint(units).tolist()
    assert (units >= 1).all()
    assert units.sum() == 64


def test_bars_without_trades_do_not_count_in_an_aggregate() -> None:
    nan = math.nan
    bars = Bars(
        np.array([nan, 5.0, nan, 6.0]),
        np.array([nan, 7.0, nan, 6.5]),
        np.array([nan, 4.0, nan, 5.5]),
        np.array([nan, 6.0, nan, 5.75]),
        np.array([0.0, 2.0, 0.0, 3.0]),
    )
    joined = aggregate(bars, 4)
    assert [a.item() for a in (joined.open, joined.high, joined.low, joined.close, joined.volume)] == [5, 7, 4, 5.75, 5]


def test_an_aggregate_of_no_trades_is_no_trade() -> None:
    joined = aggregate(empty(2, 24), 12)
    assert not joined.traded.any()
    assert (joined.volume == 0).all()


def test_draws_depend_on_their_key_and_place_alone() -> None:
    keys = subkeys(np.arange(3, dtype=np.uint64)[:, None], np.arange(4)[None, :])
    assert len(np.unique(keys)) == 12
    one = draws(keys[1:2, 2], 100)[0]
    assert draws(keys, 400)[1, 2, :100].tolist() == one.tolist()
    # Known answers: a change of the generator would silently change every market.
    assert (
        draws(np.array([1], dtype=np.uint64), 4)[0].tolist()
        == draws(np.array([1, 2], dtype=np.uint64), 8)[0, :4].tolist()
    )
    assert int(keys[0, 0]) == int(subkeys(np.array([0], dtype=np.uint64), 0)[0])


def test_quantile_tables_have_the_moments_they_promise() -> None:
    uniform = UNIFORM[draws(subkeys(np.array([11], dtype=np.uint64), np.arange(2_000)), 100)].ravel()
    assert uniform.mean() == pytest.approx(0.5, abs=0.003)
    assert STUDENT.mean() == pytest.approx(0, abs=1e-9)
    assert STUDENT.std() == pytest.approx(1, abs=0.02)
    kurtosis = (STUDENT**4).mean()
    assert kurtosis > 6  # fat tails: a normal has 3

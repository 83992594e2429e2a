"""The bar that is still open, from ticks in any order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ray_app.serving.open_bars import OpenBars

OPEN = 1_795_507_200_000  # a whole hour


def test_a_bar_is_made_of_its_ticks_and_is_never_final():
    bars = OpenBars()
    for second, price in ((1, 10.0), (5, 12.0), (9, 9.0), (14, 11.0)):
        bars.add(7, price, OPEN + second * 1_000)
    shown = bars.get(7, 300, OPEN + 20_000).shown()
    assert [shown[name] for name in ("open", "high", "low", "close", "is_final")] == [10.0, 12.0, 9.0, 11.0, False]
    assert (shown["timestamp"], shown["first_tick"]) == ("2026-11-24T08:00:00Z", "2026-11-24T08:00:01Z")


def test_the_next_bar_begins_anew_while_the_hour_goes_on():
    bars = OpenBars()
    bars.add(7, 10.0, OPEN + 1_000)
    bars.add(7, 20.0, OPEN + 301_000)
    bars.add(7, 99.0, OPEN + 2_000)  # late, of the bar before
    now = OPEN + 302_000
    assert (bars.get(7, 300, now).open, bars.get(7, 300, now).high) == (20.0, 20.0)
    assert (bars.get(7, 3_600, now).open, bars.get(7, 3_600, now).high) == (10.0, 99.0)


def test_a_bar_whose_time_is_over_is_not_open():
    bars = OpenBars()
    bars.add(7, 10.0, OPEN + 1_000)
    assert bars.get(7, 300, OPEN + 300_000) is None
    assert bars.get(7, 86_400, OPEN + 2_000) is None
    assert bars.get(8, 300, OPEN + 2_000) is None


@given(
    st.lists(
        st.tuples(st.integers(0, 299), st.floats(0.1, 1e6)), min_size=1, max_size=20, unique_by=lambda tick: tick[0]
    )
)
def test_the_order_of_ticks_does_not_matter(ticks):
    bars = OpenBars()
    for second, price in ticks:
        bars.add(1, price, OPEN + second * 1_000)
    bar, prices = bars.get(1, 300, OPEN + 299_500), [price for _, price in sorted(ticks)]
    assert (bar.open, bar.high, bar.low, bar.close) == (prices[0], max(prices), min(prices), prices[-1])

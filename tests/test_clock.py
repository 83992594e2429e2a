"""Node time: scaled, restartable, never naive."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ray_app.clock import Epoch, ManualClock, ScaledClock, WallClock, from_ms, iso, open_clock, to_ms
from ray_app.errors import ConfigError


def test_milliseconds_and_datetimes_are_inverse():
    moment = datetime(2026, 11, 24, 8, 0, 0, 123_000, tzinfo=UTC)
    assert from_ms(to_ms(moment)) == moment
    assert iso(to_ms(moment)) == "2026-11-24T08:00:00.123Z"
    assert iso(0) == "1970-01-01T00:00:00Z"


def test_a_naive_datetime_is_refused():
    with pytest.raises(ValueError, match="naive"):
        to_ms(datetime(2026, 1, 1))


def test_node_time_runs_scale_times_as_fast():
    epoch = Epoch.begin(wall_ms=1_000_000, scale=60)
    assert epoch.node_ms(1_000_000) == 1_000_000
    assert epoch.node_ms(1_001_000) == 1_060_000


def test_a_new_scale_goes_on_without_a_jump_and_keeps_the_first_start():
    epoch = Epoch.begin(wall_ms=1_000_000, scale=60)
    slower = epoch.rescaled(wall_ms=1_010_000, scale=1)
    assert slower.node_ms(1_010_000) == epoch.node_ms(1_010_000)
    assert slower.node_ms(1_011_000) == epoch.node_ms(1_010_000) + 1_000
    assert slower.first_node_ms == epoch.first_node_ms


def test_the_epoch_record_survives_a_restart(tmp_path):
    path = tmp_path / "sandbox" / "epoch.json"
    assert Epoch.load(path) is None
    assert isinstance(open_clock(path), WallClock)
    Epoch.begin(5, 2.5).save(path)
    assert Epoch.load(path) == Epoch(5, 5, 2.5, 5)
    assert open_clock(path).scale == 2.5


def test_a_damaged_epoch_record_says_what_to_do(tmp_path):
    path = tmp_path / "epoch.json"
    path.write_text('{"wall_start_ms": 1}')
    with pytest.raises(ConfigError, match="move it away"):
        Epoch.load(path)


def test_a_scale_of_zero_is_refused():
    with pytest.raises(ConfigError, match="above 0"):
        ScaledClock(Epoch.begin(0, 0))


async def test_sleep_until_returns_when_node_time_is_there():
    clock = ManualClock(0)
    await clock.sleep_until(90_000)
    assert clock.now_ms() == 90_000
    await clock.sleep_until(10)
    assert clock.now_ms() == 90_000


async def test_a_scaled_clock_sleeps_in_node_seconds():
    clock = ScaledClock(Epoch.begin(WallClock().now_ms(), scale=600))
    before = clock.now_ms()
    await clock.sleep(60)
    assert clock.now_ms() - before >= 60_000


class Suspended(ManualClock):
    """The machine sleeps for two hours during the first nap: it passes on the clock and not for the sleeper."""

    def __init__(self, now_ms):
        super().__init__(now_ms)
        self.naps = []

    async def sleep(self, node_seconds):
        self.naps.append(node_seconds)
        self.advance(7_200 if len(self.naps) == 1 else node_seconds)


async def test_a_sleeper_notices_that_the_machine_was_suspended():
    clock = Suspended(0)
    await clock.sleep_until(3_600_000)
    assert clock.naps == [30.0]

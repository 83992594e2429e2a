"""``crypto-data up --replay FILE --time-scale 60``: an hour of node time, checked by what shares no code with the node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_app.clock import iso
from tests.e2e import checker
from tests.e2e.checker import DAY, HOUR, MINUTE, SLOT, Market
from tests.e2e.played import now, own_file, wait_repaired
from tests.nodes import Node, started_node
from tests.servers import wait_until

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

SCALE = 60
#: SQL: a bar that closes after the hour is stored while the test looks at it
BAR_END = "(open_time + interval_s * 1000)"


#: real recorded data, not ours to ship
REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "market" / "crypto_1h_2023H2.parquet"


@pytest.fixture(scope="module", params=["real" if REAL.exists() else "own"])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real half year where it is there, else one of our own: each costs minutes, and they test the same."""
    return REAL if request.param == "real" else own_file(tmp_path_factory.mktemp("file") / "own.parquet")


@pytest.fixture(scope="module")
def node(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that has lived for the hour of :func:`hour` and ten minutes more, and still runs."""
    directory = tmp_path_factory.mktemp("replay") / "data"
    with started_node(directory, "--replay", str(file), "--time-scale", str(SCALE)) as started:
        started.wait_ready()
        yield started


@pytest.fixture(scope="module")
def hour(node: Node) -> tuple[int, int]:
    """An hour of slots that began when prices were served; it has passed, and its grace too."""
    start = -(-now(node) // SLOT) * SLOT
    end = start + HOUR
    wait_until(lambda: now(node) > end + 10 * MINUTE, 150, "an hour of node time")
    return start, end


@pytest.fixture(scope="module")
def history_end(node: Node, hour: tuple[int, int]) -> int:
    """The end of the last hour bar that was due; the history before it has been filled."""
    wait_repaired(node, hour[1], 400)
    return hour[1] // HOUR * HOUR


@pytest.fixture(scope="module")
def seen(node: Node, history_end: int) -> Iterator[checker.Node]:
    """What the node has stored, read without its help."""
    opened = checker.Node(node.state_dir)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def market(file: Path, seen: checker.Node) -> Market:
    return Market.found(file, seen)


def test_every_slot_of_the_hour_has_its_price(seen: checker.Node, market: Market, hour: tuple[int, int]):
    assert checker.check_prices(seen, market, *hour) >= 12 * 12


def test_hourly_candles_of_120_days_are_the_file_s(seen: checker.Node, market: Market, history_end: int):
    assert checker.check_hourly(seen, market, history_end - 119 * DAY, history_end) > 12 * 24 * 100


def test_five_minute_bars_add_up_to_the_file_s_hours(seen: checker.Node, market: Market, history_end: int):
    assert checker.check_five_minutes(seen, market, history_end - 20 * HOUR, history_end) > 0


def test_no_slot_is_asked_for_twice(seen: checker.Node):
    checker.check_nothing_asked_twice(seen)


def test_every_candle_stands_in_the_payload_it_names(seen: checker.Node):
    assert checker.check_payloads(seen) > 0


def test_a_second_pass_asks_for_nothing_and_changes_no_row(
    node: Node, seen: checker.Node, hour: tuple[int, int], history_end: int
):
    def stored() -> list[list[tuple[object, ...]]]:
        span = (hour[0] - 2 * DAY, hour[1])
        return [seen.rows("price_data_real", "slot", *span), seen.rows("ohlc_data", BAR_END, *span)]

    def asked() -> int:
        return len([entry for entry in seen.requests("candles") if checker.moment(entry["params"]["start"]) < hour[0]])

    before, asked_before = stored(), asked()
    # The hour bar that was open at the end may have closed since: if it has no trade, that is believed an hour later.
    for dataset, end in (("prices", hour[1]), ("candles-300", hour[1]), ("candles-3600", history_end)):
        again = node.cli("backfill", "--dataset", dataset, "--from", iso(hour[0] - DAY), "--to", iso(end))
        assert again.returncode == 0, again.stderr
        assert "100.0 %" in again.stdout
    assert stored() == before
    assert asked() == asked_before


def test_the_archive_rebuilds_identical_tables(node: Node, hour: tuple[int, int], history_end: int, tmp_path: Path):
    assert node.stop() == 0, node.printed
    proof = node.cli("verify")
    assert proof.returncode == 0, proof.stderr[-2000:]
    rebuilt = node.cli("reprocess", "--into", f"sqlite:///{tmp_path / 'rebuilt.db'}")
    assert rebuilt.returncode == 0, rebuilt.stderr[-2000:]
    assert "identical" in rebuilt.stdout

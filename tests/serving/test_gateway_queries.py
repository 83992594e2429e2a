"""The gateway's own reads use an index, and their cost does not grow with history they do not ask for."""

from __future__ import annotations

from ray_app.storage import gateway_queries
from tests.storage.test_explain import (  # noqa: F401 - `full` is a fixture
    ASSETS,
    END,
    REGISTRY,
    SLOTS,
    STEP,
    T0,
    full,
    full_scans,
    history,
    plan,
    rows_read,
)

QUERIES = {
    "board": (gateway_queries.board_prices_query(), REGISTRY),
    "board of one": (gateway_queries.board_prices_query(3), ""),
    "candle span": (gateway_queries.candle_span_query(3, "coinbase", 300, T0, END), ""),
}


def test_hot_reads_use_an_index(full):  # noqa: F811
    for name, (query, allowed) in QUERIES.items():
        with full.read() as conn:
            lines = plan(conn, query)
        assert lines, name
        assert full_scans(lines, allowed) == [], (name, lines)


def test_their_cost_does_not_grow_with_history(full):  # noqa: F811
    reads = {
        "board": gateway_queries.board_prices,
        "board of one": lambda conn: gateway_queries.board_prices(conn, 3),
        "spans": lambda conn: gateway_queries.candle_spans(conn, 3, "coinbase", (86_400, 3_600, 300), T0, END * 2),
    }
    before = {name: rows_read(full, read) for name, read in reads.items()}
    history(full, range(SLOTS, 3 * SLOTS))
    for name, read in reads.items():
        assert rows_read(full, read) <= before[name] * 1.3 + 5, name
    # sqlite counts hundreds of instructions, MariaDB rows
    assert rows_read(full, reads["spans"]) <= 20
    with full.read() as conn:
        spans = gateway_queries.candle_spans(conn, 3, "coinbase", (86_400, 300), T0 + STEP, END)
        assert spans == {300: (T0 + STEP, END - STEP)}
        assert len(gateway_queries.board_prices(conn)) == ASSETS

"""Guarded upserts: the same rows whatever the order, on both databases and on every path."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    delete,
    exc,
    select,
    text,
)
from sqlalchemy.dialects import mysql

from ray_app.collection.digest import DERIVED_TABLES, VALUE_TABLES
from ray_app.errors import StorageError
from ray_app.storage import upsert
from ray_app.storage.cursor import Batch
from ray_app.storage.engine import Database
from ray_app.storage.tables import (
    MYSQL,
    api_keys,
    data_quality_events,
    dead_letters,
    metadata,
    ohlc_data,
    price_data_real,
)
from ray_app.storage.upsert import guarded_upsert, order_columns, standing
from tests.servers import wait_until
from tests.storage.samples import T0, Record, asset, candle, chunks, digest, expected, price, stored, writes

PATHS = pytest.mark.parametrize("batch_from", [1, 10**9], ids=["prepared", "text"])


def put(db: Database, table: Table, rows: list[Record]) -> int:
    return db.run(lambda conn: guarded_upsert(conn, table, rows))


# --- convergence ----------------------------------------------------------------------------------------------

small = st.integers(0, 2)
values = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))
one_write = st.builds(
    lambda key, place, known: (key, place, known), st.integers(0, 3), st.tuples(small, small, small, small), small
)


def rows_of(drawn: list[tuple[int, tuple[int, int, int, int], int]], volume: list[float | None]) -> list[Record]:
    """A write's place in the order names its payload, so it decides every value (except how early it was known)."""
    made = []
    for key, (version, fetched, parser, payload), known in drawn:
        index = hash((key, version, fetched, parser, payload)) % len(volume)
        place = {
            "event_version": version,
            "fetched_at": fetched,
            "parser_version": parser,
            "payload_hash": digest(payload),
        }
        made.append(candle(key, T0, 1.0 + index, version=0, volume=volume[index], known_at=T0 + known, **place))
    return made


@PATHS
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    drawn=st.lists(one_write, min_size=1, max_size=14),
    volume=st.lists(values, min_size=1, max_size=5),
    sizes=st.lists(st.integers(1, 5), max_size=20),
    data=st.data(),
)
def test_any_permutation_repetition_and_partition_of_writes_leaves_the_same_rows(
    db: Database, batch_from: int, drawn: Any, volume: Any, sizes: list[int], data: st.DataObject
) -> None:
    rows = rows_of(drawn, volume)
    repeated = rows + data.draw(st.lists(st.sampled_from(rows), max_size=10))
    shuffled = data.draw(st.permutations(repeated))
    db.run(lambda conn: conn.execute(delete(ohlc_data)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upsert, "BATCH_CELLS", batch_from)
        for part in chunks(shuffled, sizes):
            put(db, ohlc_data, list(part))
    assert stored(db, ohlc_data) == expected(ohlc_data, rows)


@PATHS
def test_thousands_of_fighting_writes_leave_the_highest(
    db: Database, batch_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upsert, "BATCH_CELLS", batch_from)
    rows = writes(seed=1, distinct=3_000, keys=300)
    for part in chunks(rows, [700, 1, 900, 10]):
        put(db, ohlc_data, list(part))
    assert stored(db, ohlc_data) == expected(ohlc_data, rows)
    assert put(db, ohlc_data, rows) == 0


@pytest.mark.integration
@PATHS
@pytest.mark.parametrize("is_mariadb", [True, False], ids=["MariaDB's", "MySQL's"])
def test_either_servers_statement_leaves_the_highest(
    mariadb: Database, batch_from: int, monkeypatch: pytest.MonkeyPatch, is_mariadb: bool
) -> None:
    real = upsert._mysql_statement
    assert ("@higher := (" in real(ohlc_data, is_mariadb)) is is_mariadb
    used: list[bool] = []

    def chosen(table: Table, on_mariadb: bool) -> str:
        used.append(on_mariadb)
        return real(table, is_mariadb)

    monkeypatch.setattr(upsert, "_mysql_statement", chosen)
    monkeypatch.setattr(upsert, "BATCH_CELLS", batch_from)
    rows = writes(seed=2, distinct=2_000, keys=100)
    for part in chunks(rows, [500, 1, 300]):
        put(mariadb, ohlc_data, list(part))
    assert stored(mariadb, ohlc_data) == expected(ohlc_data, rows)
    assert all(used)  # the server is known for what it is


@PATHS
@pytest.mark.parametrize("column", ["event_version", "fetched_at", "parser_version", "payload_hash"])
def test_each_order_column_decides_when_those_before_it_are_equal(
    db: Database, batch_from: int, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    monkeypatch.setattr(upsert, "BATCH_CELLS", batch_from)
    order = list(order_columns(price_data_real))
    lower, higher = price(1, T0, payload_hash="5" * 64), price(1, T0, payload_hash="5" * 64, current_price=2.0)
    higher[column] = "6" * 64 if column == "payload_hash" else lower[column] + 1
    for after in order[order.index(column) + 1 :]:  # and those after it must not matter
        higher[after] = "4" * 64 if after == "payload_hash" else lower[after] - 1
    assert [put(db, price_data_real, [row]) for row in (lower, higher, lower, higher)] == [1, 1, 0, 0]
    assert stored(db, price_data_real) == expected(price_data_real, [higher])


@PATHS
def test_the_earliest_column_keeps_the_minimum_whoever_wins(
    db: Database, batch_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upsert, "BATCH_CELLS", batch_from)
    first = candle(1, T0, known_at=T0 + 5)
    later = first | {"fetched_at": first["fetched_at"] + 1, "known_at": T0 + 9, "volume": 7.0}
    sooner = first | {"fetched_at": first["fetched_at"] - 1, "known_at": T0 + 1, "volume": 8.0}
    assert [put(db, ohlc_data, [row]) for row in (first, later, sooner, sooner)] == [1, 1, 1, 0]
    (row,) = stored(db, ohlc_data)
    assert row == tuple((later | {"known_at": T0 + 1})[column.name] for column in ohlc_data.columns)


# --- the count ------------------------------------------------------------------------------------------------


@PATHS
@pytest.mark.parametrize("size", [1, 2, 700])
def test_the_count_is_of_rows_inserted_or_changed(
    db: Database, batch_from: int, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(upsert, "BATCH_CELLS", batch_from)
    rows = [price(i, T0) for i in range(size)]
    newer = [row | {"fetched_at": row["fetched_at"] + 1} for row in rows[: (size + 1) // 2]]
    fresh = [price(10_000 + i, T0) for i in range(3)]
    assert put(db, price_data_real, rows) == size
    assert put(db, price_data_real, rows) == 0
    assert put(db, price_data_real, [*newer, *rows, *newer, *fresh]) == len(newer) + 3
    assert put(db, price_data_real, []) == 0


def test_standing_names_the_writes_that_are_stored_now(db: Database) -> None:
    old, new, other = price(1, T0), price(1, T0, fetched_at=T0 + 999), price(2, T0)

    def work(conn: Any) -> list[bool]:
        guarded_upsert(conn, price_data_real, [old, new])
        return standing(conn, price_data_real, [old, other, new])

    assert db.run(work) == [False, False, True]
    many = [price(i, T0) for i in range(10, 700)]
    assert all(
        db.run(lambda conn: (guarded_upsert(conn, price_data_real, many), standing(conn, price_data_real, many))[1])
    )


def test_tables_with_part_of_the_order_are_guarded_by_that_part(db: Database) -> None:
    letter = {
        "payload_hash": digest(1),
        "source": "coinbase.candles",
        "parser_version": 1,
        "fetched_at": T0,
        "error": "a",
    }
    newer = letter | {"parser_version": 2, "error": "b"}
    assert [put(db, dead_letters, [row]) for row in (letter, newer, letter)] == [1, 1, 0]
    assert stored(db, dead_letters)[0][-1] == "b"
    event = {"payload_hash": digest(1), "kind": "wrong_type", "subject": "bitcoin", "field": "ath"}
    event |= {"source": "coingecko.markets", "fetched_at": T0, "detail": "'x' is not a number"}
    assert [put(db, data_quality_events, [row]) for row in (event, event)] == [1, 0]


def test_a_table_without_order_columns_has_no_guarded_upsert(db: Database) -> None:
    with pytest.raises(StorageError, match="api_keys has none of event_version"):
        put(db, api_keys, [{"key_id": "x"}])


# --- values ---------------------------------------------------------------------------------------------------


@pytest.fixture
def odd(db: Database) -> Iterator[Table]:
    """A table of every kind of column."""
    table = Table(
        "odd",
        MetaData(),
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("key", String(40), primary_key=True),
        Column("number", Double),
        Column("body", LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql")),
        Column("note", Text),
        Column("order", String(40), comment="a reserved word"),
        Column("event_version", BigInteger, nullable=False),
        **MYSQL,
    )
    db.run(table.create)
    yield table
    db.run(table.drop)


NASTY = [
    "",
    "NULL",
    r"\N",
    "\\",
    "a\tb",
    "a\nb",
    "a\r\nb",
    "\0",
    '"',
    "'",
    "%s",
    "💎🙌",
    "é",
    "ZERO\u200bWIDTH",
    "\x1a",
    "N",
    " x",
]
FLOATS = [
    0.1,
    -1e-300,
    1.7976931348623157e308,
    5e-324,
    2.2250738585072014e-308,
    1 / 3,
    123456789.123456789,
    1e22,
    1e23,
    -5.0,
]


@PATHS
def test_every_value_comes_back_as_it_went_in(
    db: Database, odd: Table, batch_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upsert, "BATCH_CELLS", batch_from)
    rows: list[Record] = [
        {
            "id": i,
            "key": f"k{i}",
            "note": note,
            "order": note[:40],
            "body": note.encode() + bytes(range(256)),
            "event_version": i,
        }
        for i, note in enumerate(NASTY)
    ]
    rows += [{"id": 100 + i, "key": "n", "number": n, "event_version": -(2**63)} for i, n in enumerate(FLOATS)]
    rows += [{"id": 200 + i, "key": key, "event_version": 2**63 - 1} for i, key in enumerate(NASTY)]
    assert put(db, odd, rows) == len(rows)
    assert stored(db, odd) == [tuple(row.get(c.name) for c in odd.columns) for row in rows]
    assert put(db, odd, rows) == 0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    numbers=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20),
    notes=st.lists(st.text(max_size=30), min_size=1, max_size=20),
    bodies=st.lists(st.binary(max_size=60), min_size=1, max_size=20),
)
@PATHS
def test_numbers_texts_and_bytes_survive_bit_for_bit(
    db: Database, odd: Table, batch_from: int, numbers: list[float], notes: list[str], bodies: list[bytes]
) -> None:
    rows = [
        {"id": i, "key": "k", "number": n, "note": t, "body": b, "event_version": 1}
        for i, (n, t, b) in enumerate(zip(numbers, notes, bodies, strict=False))
    ]
    db.run(lambda conn: conn.execute(delete(odd)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upsert, "BATCH_CELLS", batch_from)
        put(db, odd, rows)
    with db.read() as conn:
        found = conn.execute(select(odd.c.number, odd.c.note, odd.c.body).order_by(odd.c.id)).all()
    assert [tuple(row) for row in found] == [(row["number"], row["note"], row["body"]) for row in rows]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"current_price": math.nan}, r"price_data_real.current_price, row 1: nan is not a finite number"),
        ({"market_cap": math.inf}, r"market_cap, row 1: inf is not a finite number"),
        ({"current_price": None}, r"current_price, row 1: is NULL"),
        ({"current_price": "1.5"}, r"current_price, row 1: '1.5' is not a number"),
        ({"market_cap_rank": 2**31}, r"market_cap_rank, row 1: 2147483648 does not fit 32 bits"),
        ({"event_version": 2**63}, r"event_version, row 1: .* does not fit 64 bits"),
        ({"market_cap_rank": 1.0}, r"market_cap_rank, row 1: 1.0 is not an integer"),
        ({"payload_hash": "a" * 65}, r"payload_hash, row 1: .* has 65 characters; 64 fit"),
        ({"source": "coingecko.märkte"}, r"source, row 1: .* is not ASCII"),
        ({"market_cap": 10**400}, r"market_cap, row 1: int too large"),
        ({"volume": 1.0}, r"price_data_real has no column volume"),
    ],
)
def test_what_no_database_should_hold_is_refused_by_name_and_nothing_is_written(
    db: Database, change: Record, message: str
) -> None:
    with pytest.raises(StorageError, match=message):
        put(db, price_data_real, [price(1, T0), price(2, T0) | change])
    assert stored(db, price_data_real) == []


def test_text_longer_than_the_column_or_not_unicode_is_refused(db: Database) -> None:
    letter = {"payload_hash": digest(1), "source": "x", "parser_version": 1, "fetched_at": T0}
    with pytest.raises(StorageError, match=r"dead_letters.error, row 0: 65537 bytes of UTF-8 do not fit 65535"):
        put(db, dead_letters, [letter | {"error": "€" * 21_845 + "é"}])
    with pytest.raises(StorageError, match=r"dead_letters.error, row 0: .*surrogates not allowed"):
        put(db, dead_letters, [letter | {"error": "\ud800"}])


def test_trailing_spaces_do_not_tell_keys_apart(db: Database) -> None:
    event = {"payload_hash": digest(1), "kind": "wrong_type", "subject": "bitcoin", "field": "ath"}
    event |= {"source": "coingecko.markets", "fetched_at": T0, "detail": "d"}
    assert put(db, data_quality_events, [event, event | {"subject": "bitcoin "}]) == 1


def test_keys_are_compared_byte_by_byte(db: Database) -> None:
    event = {
        "payload_hash": digest(1),
        "kind": "wrong_type",
        "field": "ath",
        "source": "s",
        "fetched_at": T0,
        "detail": "d",
    }
    rows = [event | {"subject": subject} for subject in ("a", "A", "á", "ä")]
    assert put(db, data_quality_events, rows) == 4


def test_every_table_of_upstream_values_ends_with_the_order_columns() -> None:
    guarded = [table for table in metadata.tables.values() if "event_version" in table.columns]
    assert {table.name for table in guarded} == set(VALUE_TABLES) | set(DERIVED_TABLES)
    for table in guarded:
        assert tuple(column.name for column in table.columns)[-4:] == upsert.ORDER_COLUMNS
        assert not any(table.columns[name].nullable for name in table.info.get("earliest", ()))


# --- prepared statements of MySQL -----------------------------------------------------------------------------


@pytest.mark.integration
def test_a_server_that_prepares_no_statements_gets_text(mariadb: Database, caplog: pytest.LogCaptureFixture) -> None:
    limit = text("SET GLOBAL max_prepared_stmt_count = :limit")
    mariadb.run(lambda conn: conn.execute(limit, {"limit": 0}))
    try:
        rows = [price(i, T0) for i in range(1_000)]
        assert put(mariadb, price_data_real, rows) == len(rows)
        assert put(mariadb, price_data_real, rows) == 0
    finally:
        mariadb.run(lambda conn: conn.execute(limit, {"limit": 16_382}))
    assert stored(mariadb, price_data_real) == expected(price_data_real, rows)
    assert sum("prepared statements are refused" in record.message for record in caplog.records) == 1


@pytest.mark.integration
def test_no_prepared_statement_outlives_its_write(mariadb: Database) -> None:
    for size in (500, 501, 1_000):
        put(mariadb, price_data_real, [price(i, T0, fetched_at=T0 + size) for i in range(size)])
    twice = "INSERT INTO outbox_heads (channel, seq) VALUES (%s, %s)", (Batch([str, int], [("prices", 1)] * 2),)
    with pytest.raises(exc.IntegrityError, match="Duplicate entry 'prices'"):
        mariadb.run(lambda conn: conn.exec_driver_sql(*twice))

    def kept() -> str:
        with mariadb.read() as conn:
            return str(conn.execute(text("SHOW GLOBAL STATUS LIKE 'Prepared_stmt_count'")).one()[1])

    wait_until(lambda: kept() == "0", 10, "the end of every prepared statement")


@pytest.mark.integration
def test_values_larger_than_one_execution_carries_are_written(mariadb: Database) -> None:
    letter = {"source": "x", "parser_version": 1, "fetched_at": T0}
    rows = [letter | {"payload_hash": digest(i), "error": "é€"[i % 2] * 20_000} for i in range(300)]
    assert put(mariadb, dead_letters, rows) == 300
    assert put(mariadb, dead_letters, rows) == 0


@pytest.mark.integration
def test_the_server_is_sent_no_local_file_whatever_it_asks_for(mariadb: Database, tmp_path: Any) -> None:
    secret = tmp_path / "secret"
    secret.write_text("1\n")
    with mariadb.read() as conn, pytest.raises(exc.OperationalError, match="4166"):
        conn.exec_driver_sql(f"LOAD DATA LOCAL INFILE '{secret}' INTO TABLE crypto_assets")


def test_rowcount_of_an_update_is_the_rows_matched_as_on_sqlite(db: Database) -> None:
    from ray_app.storage.tables import crypto_assets

    db.run(lambda conn: conn.execute(crypto_assets.insert(), [asset(1), asset(2), asset(3)]))
    same = crypto_assets.update().where(crypto_assets.c.asset_id < 3).values(status="active")
    assert db.run(lambda conn: conn.execute(same).rowcount) == 2

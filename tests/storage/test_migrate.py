"""The migration chain builds exactly tables.py, and every way a schema can differ is named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import inspect, text

from ray_app.cli import cli, main
from ray_app.errors import SchemaDrift
from ray_app.storage import migrate
from ray_app.storage.engine import Database
from ray_app.storage.tables import VIEWS, metadata
from tests.servers import free_port

#: the newest revision: a file in storage/migrations/versions
HEAD = max(path.name for path in (Path(migrate.__file__).parent / "migrations" / "versions").glob("0*.py"))[:4]


def alter(db: Database, *statements: str) -> None:
    def work(conn: object) -> None:
        for statement in statements:
            conn.execute(text(statement))  # type: ignore[attr-defined]

    db.run(work)


def test_the_chain_from_empty_is_exactly_the_declared_tables_and_repeats(database_url: str) -> None:
    db = Database(database_url)
    assert migrate.check(db) == [f"no migration has run, {HEAD} is expected: run crypto-data db upgrade"]
    assert [migrate.upgrade(db), migrate.upgrade(db)] == [HEAD, HEAD]
    assert migrate.check(db) == []
    migrate.require_current(db)
    with db.read() as conn:
        assert set(inspect(conn).get_table_names()) == {*metadata.tables, "schema_version"}
        assert set(inspect(conn).get_view_names()) == set(VIEWS)
    db.dispose()


@pytest.mark.integration
def test_an_upgrade_that_was_killed_half_way_is_simply_run_again(mariadb_url: str) -> None:
    db = Database(mariadb_url)
    migrate.upgrade(db)
    alter(
        db,
        "DELETE FROM schema_version",
        "DROP TABLE api_keys",
        "DROP VIEW price_current",
        "DROP INDEX ix_outbox_created_at ON outbox",
    )
    migrate.upgrade(db)
    assert migrate.check(db) == []
    db.dispose()


def test_many_processes_may_upgrade_at_once_from_any_directory(database_url: str, tmp_path: object) -> None:
    program = "import sys; from ray_app.cli import main; main(['db', 'upgrade', '--database-url', sys.argv[1]])"
    running = [
        subprocess.Popen([sys.executable, "-c", program, database_url], cwd=str(tmp_path), stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    errors = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [0] * 4, errors
    db = Database(database_url)
    assert migrate.check(db) == []
    db.dispose()


BOTH = {
    "DROP TABLE dead_letters": "table dead_letters is missing",
    "DROP VIEW ohlc_current": "view ohlc_current is missing",
    "ALTER TABLE outbox ADD COLUMN extra INTEGER": "column outbox.extra is not of this version",
    "ALTER TABLE collector_runs DROP COLUMN last_error": "column collector_runs.last_error is missing",
    "UPDATE schema_version SET version_num = '0999'": "the schema is at revision 0999, which this version does not know: "
    "a newer version has used it",
    "CREATE UNIQUE INDEX u ON ohlc_data (open_time)": "unique index on ohlc_data (open_time) is not of this version: it "
    "refuses rows",
}
ONLY_MARIADB = {
    "ALTER TABLE outbox ENGINE=MyISAM": "table outbox is stored by MyISAM, InnoDB is expected",
    "DROP INDEX ix_crypto_assets_symbol ON crypto_assets": "index on crypto_assets (symbol) is missing",
    "DROP INDEX uq_crypto_assets_coin_id ON crypto_assets": "unique index on crypto_assets (coin_id) is missing",
    "ALTER TABLE crypto_assets DROP INDEX ix_crypto_assets_symbol, ADD UNIQUE INDEX u (symbol)": "index on "
    "crypto_assets (symbol) is unique",
    "ALTER TABLE quota_ledger DROP PRIMARY KEY, ADD PRIMARY KEY (month, account)": "the primary key of quota_ledger is "
    "(month, account), (account, month) is expected",
    "ALTER TABLE price_data_real MODIFY current_price DECIMAL(20,8) NOT NULL": "column price_data_real.current_price is "
    "DECIMAL(20,8), DOUBLE is expected",
    "ALTER TABLE price_data_real MODIFY current_price DOUBLE": "column price_data_real.current_price may be NULL, and it "
    "may not by this version",
    "ALTER TABLE api_keys MODIFY expires_at BIGINT NOT NULL": "column api_keys.expires_at may not be NULL, and it may by "
    "this version",
    "ALTER TABLE fetches MODIFY source VARCHAR(48) CHARACTER SET ascii COLLATE ascii_general_ci NOT NULL": "column "
    "fetches.source has collation ascii_general_ci, ascii_bin is expected",
    "ALTER TABLE outbox MODIFY body BLOB NOT NULL": "column outbox.body is BLOB, MEDIUMBLOB is expected",
    "CREATE OR REPLACE VIEW price_current AS SELECT 1 AS symbol": f"view price_current has columns (symbol), "
    f"({', '.join(VIEWS['price_current'])}) are expected",
}


@pytest.mark.parametrize("change", BOTH)
def test_each_difference_is_one_sentence(db: Database, change: str) -> None:
    alter(db, change)
    assert migrate.check(db) == [BOTH[change]]
    with pytest.raises(SchemaDrift, match="the schema is not this version's"):
        migrate.require_current(db)


def test_a_view_that_no_longer_works_is_named_beside_what_broke_it(db: Database) -> None:
    broken = "SELECT asset_id FROM nowhere" if db.dialect == "sqlite" else "SELECT last_error FROM collector_runs"
    alter(db, "DROP VIEW price_current", f"CREATE VIEW price_current AS {broken}")
    if db.dialect == "mysql":
        alter(db, "ALTER TABLE collector_runs DROP COLUMN last_error")
        assert "column collector_runs.last_error is missing" in migrate.check(db)
    assert any(found.startswith("view price_current does not work: ") for found in migrate.check(db))
    with pytest.raises(SchemaDrift):
        migrate.require_current(db)


def test_a_schema_of_a_newer_version_is_left_alone(db: Database) -> None:
    alter(db, "UPDATE schema_version SET version_num = '0999'")
    with pytest.raises(SchemaDrift, match="0999, which this version does not know"):
        migrate.upgrade(db)


#: What the earlier system's database, or any other program's, may hold under our names.
FOREIGN = {
    "crypto_assets": "CREATE TABLE crypto_assets (id INTEGER PRIMARY KEY, symbol VARCHAR(16), is_active INTEGER)",
    "ohlc_data": "CREATE TABLE ohlc_data (id INTEGER PRIMARY KEY, symbol VARCHAR(16), timestamp_unix BIGINT)",
    "schema_version": "CREATE TABLE schema_version (version INTEGER, description VARCHAR(80))",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_database_of_another_program_is_named_and_not_touched(database_url: str, name: str) -> None:
    db = Database(database_url)
    alter(db, FOREIGN[name], "CREATE TABLE customers (id INTEGER PRIMARY KEY)")
    assert f"table {name} is another program's" in migrate.check(db)[0]
    with pytest.raises(SchemaDrift, match=rf"{name} is another program's.*MYSQL_DATABASE"):
        migrate.upgrade(db)
    with db.read() as conn:
        assert set(inspect(conn).get_table_names()) == {name, "customers"}
    db.dispose()


@pytest.mark.integration
@pytest.mark.parametrize("change", ONLY_MARIADB)
def test_each_difference_is_one_sentence_on_mariadb(mariadb: Database, change: str) -> None:
    alter(mariadb, change)
    assert migrate.check(mariadb) == [ONLY_MARIADB[change]]


def test_types_nullability_and_indexes_are_compared_on_sqlite(sqlite_url: str) -> None:
    db = Database(sqlite_url)
    migrate.upgrade(db)
    alter(
        db,
        "DROP TABLE quota_ledger",
        "CREATE TABLE quota_ledger (account VARCHAR(32) NOT NULL, month INTEGER NOT NULL, spent TEXT, PRIMARY KEY (month, account))",
        "DROP INDEX ix_crypto_assets_symbol",
        "CREATE UNIQUE INDEX u ON crypto_assets (symbol)",
    )
    assert sorted(migrate.check(db)) == [
        "column quota_ledger.spent is TEXT, BIGINT is expected",
        "column quota_ledger.spent may be NULL, and it may not by this version",
        "index on crypto_assets (symbol) is unique",
        "the primary key of quota_ledger is (month, account), (account, month) is expected",
    ]
    db.dispose()


def test_the_command_names_differences_and_exits_with_1(database_url: str) -> None:
    def call(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli, ["db", *arguments, "--database-url", database_url])
        return done.exit_code, done.output

    assert call("check")[0] == 1
    code, said = call("upgrade")
    assert code == 0
    assert f"is at revision {HEAD}" in said
    assert "node:node" not in said
    assert call("check") == (0, f"{Database(database_url).where}: no difference\n")
    db = Database(database_url)
    alter(db, "DROP TABLE api_keys", "DROP VIEW price_current")
    db.dispose()
    assert call("check") == (1, "table api_keys is missing\nview price_current is missing\n")


@pytest.fixture
def db_check(capsys: pytest.CaptureFixture[str]) -> Callable[[str], tuple[int, str, str]]:
    """``crypto-data db check`` of a URL: exit status, stdout, stderr."""

    def call(url: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["db", "check", "--database-url", url])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


@pytest.mark.parametrize(
    ("place", "says"),
    [
        (":{port}/crypto", "is the server running"),
        (":{port}", "names no database"),
        (":{port}/", "names no database"),
        (":port/crypto", "is not a database URL"),
        ("@sesame@127.0.0.1/crypto", "write %40"),
    ],
)
def test_an_unreachable_database_is_one_line_without_the_password(db_check, place: str, says: str) -> None:
    status, out, err = db_check("mysql+pymysql://node:sesame@127.0.0.1" + place.format(port=free_port()))
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert says in err
    assert "sesame" not in err


def test_a_file_that_is_no_database_is_one_line(db_check, tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("not a database\n" * 100)
    status, out, err = db_check(f"sqlite:///{tmp_path}/notes.db")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "file is not a database (DATABASE_URL or DATA_DIR names" in err


def test_looking_makes_no_database(db_check, tmp_path: Path) -> None:
    status, out, err = db_check(f"sqlite:///{tmp_path}/new/node.db")
    assert (status, err) == (1, "")
    assert out.endswith("node.db: there is no database yet: run crypto-data db upgrade\n")
    assert list(tmp_path.iterdir()) == []

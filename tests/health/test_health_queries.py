"""The reads of /health stay cheap however long the history."""

from __future__ import annotations

from sqlalchemy.dialects import mysql, sqlite

from ray_app.storage.engine import Database
from ray_app.storage.health_queries import quality_events_since_query


def test_quality_events_of_a_day_are_found_by_their_index(db: Database) -> None:
    dialect = sqlite.dialect() if db.dialect == "sqlite" else mysql.dialect()
    statement = quality_events_since_query(1).compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    explain = "EXPLAIN QUERY PLAN" if db.dialect == "sqlite" else "EXPLAIN"
    with db.read() as conn:
        plan = str(conn.exec_driver_sql(f"{explain} {statement}").all())
    assert "ix_data_quality_events_fetched_at" in plan

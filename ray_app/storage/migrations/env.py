"""Alembic's entry: runs the chain on the connection it is handed (storage/migrate.py); there is no offline mode."""

from __future__ import annotations

from alembic import context

from ray_app.storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table="schema_version",
)
with context.begin_transaction():
    context.run_migrations()

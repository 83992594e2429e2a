"""The Alembic chain. Found through the package, never through a working directory or an alembic.ini."""

"""The database: tables, the migrations that build them, and the only code that speaks SQL.

Start with tables.py (what is kept), then engine.py (transactions; its MySQL cursor is cursor.py), upsert.py (how writes
converge), outbox.py (events of what was stored) and queries.py (named reads). Imports nothing of Ray, and no clock:
callers hand in node time.
"""

"""Texts to sentiment: models, lexicons, stance, ensemble and aggregation.

Pure: texts and tables in, numbers with their reasons out. Read ``vocabulary`` first (what a score is), then
``lexicons``, ``stance``, ``ensemble`` and ``aggregate``.
"""

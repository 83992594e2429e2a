"""Chaos on the real processes: ``python -m tests.chaos --help``, and docs/reliability.md."""

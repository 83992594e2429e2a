"""The hot statements of the storage layer in plain SQL on the same database: what SQLAlchemy takes to build them, times
a thousand transactions a second, is most of a simulation's time.

They say what the originals say, no more: ``test_the_plain_statements_tell_the_same_story`` lives the same seeds with
either and compares every step. The guarded upsert, ``standing``, all decisions and all state machines stay the node's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

from ray_app.collection import lease, store
from ray_app.storage import ledger, outbox, queries, records
from ray_app.storage.ledger import LedgerEntry
from ray_app.storage.tables import fetches

_ENTRY = LedgerEntry._fields
_ENTRY_COLUMNS = ", ".join(f'"{name}"' for name in _ENTRY)
_FETCH = [column.name for column in fetches.columns]


class _LeaseRow(NamedTuple):
    holder: str
    token: int
    expires_at: int


class Plain:
    """The statements, bound to a connection."""

    def __init__(self, raw: sqlite3.Connection) -> None:
        self._raw = raw
        self._all = raw.execute

    def _one(self, sql: str, *values: Any) -> Any:
        row = self._all(sql, values).fetchone()
        return None if row is None else row[0]

    # --- lease.py ---

    def locked(self, _: Any, name: str) -> _LeaseRow | None:
        row = self._all("SELECT holder, token, expires_at FROM collector_leases WHERE name = ?", (name,)).fetchone()
        return None if row is None else _LeaseRow(*row)

    def insert_free(self, _: Any, name: str) -> None:
        self._all("INSERT INTO collector_leases (name, holder, token, expires_at) VALUES (?, '', 0, 0)", (name,))

    def store_lease(self, _: Any, held: lease.Lease) -> None:
        values = (held.holder, held.token, held.expires_at, held.name)
        self._all("UPDATE collector_leases SET holder = ?, token = ?, expires_at = ? WHERE name = ?", values)

    def database_ms(self, _: Any) -> int:
        return int(self._one("SELECT round((julianday('now') - 2440587.5) * 86400000)"))

    # --- ledger.py ---

    def stored_ranges(
        self, _: Any, dataset: str, asset_ids: Sequence[int], interval_s: int, start: int, end: int
    ) -> dict[int, list[tuple[int, int]]]:
        step, found = interval_s * 1_000, {}
        if dataset == "prices":
            sql = (
                "SELECT DISTINCT slot FROM price_data_real WHERE asset_id = ? AND slot >= ? AND slot < ? ORDER BY slot"
            )
        else:
            sql = (
                "SELECT DISTINCT open_time FROM ohlc_data WHERE asset_id = ? AND open_time >= ? AND open_time < ? "
                f"AND venue = 'coinbase' AND interval_s = {int(dataset.removeprefix('candles-'))} ORDER BY open_time"
            )
        for asset_id in asset_ids:
            slots = [slot for (slot,) in self._all(sql, (asset_id, start, end)).fetchall() if not slot % step]
            if slots:
                first, last = slots[0], slots[-1] + step
                if last - first == step * len(slots):
                    found[asset_id] = [(first, last)]
                    continue
                holes = [(at + step, then) for at, then in pairwise(slots) if then - at != step]
                edges = [first, *(edge for hole in holes for edge in hole), last]
                found[asset_id] = list(zip(edges[::2], edges[1::2], strict=True))
        return found

    def entries(
        self,
        _: Any,
        dataset: str,
        *,
        start: int | None = None,
        end: int | None = None,
        asset_ids: Sequence[int] | None = None,
        states: Sequence[str] | None = None,
    ) -> list[LedgerEntry]:
        sql, values = f"SELECT {_ENTRY_COLUMNS} FROM collection_gaps WHERE dataset = ?", [dataset]
        for condition, value in (('"end" > ?', start), ("start < ?", end)):
            if value is not None:
                sql += f" AND {condition}"
                values.append(value)
        for column, some in (("asset_id", asset_ids), ("state", states)):
            if some is not None:
                sql += f" AND {column} IN ({', '.join('?' * len(some))})"
                values += some
        return [LedgerEntry(*row) for row in self._all(f"{sql} ORDER BY asset_id, start", values)]

    def filled(self, _: Any, dataset: str, states: Sequence[str], before: int) -> list[LedgerEntry]:
        if dataset == "prices":
            inside = 'SELECT 1 FROM price_data_real p WHERE p.asset_id = g.asset_id AND p.slot >= g.start AND p.slot < g."end"'
        else:
            inside = (
                "SELECT 1 FROM ohlc_data o WHERE o.asset_id = g.asset_id AND o.open_time >= g.start "
                f"AND o.open_time < g.\"end\" AND venue = 'coinbase' AND interval_s = {int(dataset.removeprefix('candles-'))}"
            )
        sql = (
            f"SELECT {_ENTRY_COLUMNS} FROM collection_gaps g WHERE dataset = ? AND start < ? "
            f"AND state IN ({', '.join('?' * len(states))}) AND EXISTS ({inside}) ORDER BY asset_id, start"
        )
        return [LedgerEntry(*row) for row in self._all(sql, (dataset, before, *states))]

    def replace(self, _: Any, old: Any, new: Any) -> int:
        before, after = set(old), set(new)
        for row in before - after:
            key = (row.dataset, row.asset_id, row.start)
            self._all("DELETE FROM collection_gaps WHERE dataset = ? AND asset_id = ? AND start = ?", key)
        come = sorted(after - before, key=lambda row: (row.dataset, row.asset_id, row.start))
        self._raw.executemany(
            f"INSERT INTO collection_gaps ({_ENTRY_COLUMNS}) VALUES ({', '.join('?' * len(_ENTRY))})",
            [tuple(getattr(row, name) for name in _ENTRY) for row in come],
        )
        return len(before ^ after)

    # --- records.py ---

    def shapes(self, _: Any, sources: Sequence[str], *, lock: bool = False) -> dict[str, str]:
        found = {}
        for source in sources:
            shape = self._one("SELECT shape FROM endpoint_shapes WHERE source = ?", source)
            if shape is None and lock:
                self._all("INSERT INTO endpoint_shapes (source, shape, updated_at) VALUES (?, '', 0)", (source,))
            elif shape:
                found[source] = shape
        return found

    def save_shape(self, _: Any, source: str, shape: str, updated_at: int) -> None:
        sql = "UPDATE endpoint_shapes SET shape = ?, updated_at = ? WHERE source = ?"
        self._all(sql, (shape, updated_at, source))

    def known_fetches(self, _: Any, fetch_ids: Sequence[int]) -> set[int]:
        return {one for one in fetch_ids if self._one("SELECT 1 FROM fetches WHERE fetch_id = ?", one)}

    def last_fetch(self, _: Any, collector: str) -> int | None:
        found: int | None = self._one("SELECT max(fetched_at) FROM fetches WHERE collector = ?", collector)
        return found

    def add_fetches(self, _: Any, rows: Any) -> None:
        sql = f"INSERT INTO fetches ({', '.join(_FETCH)}) VALUES ({', '.join('?' * len(_FETCH))})"
        self._raw.executemany(sql, [tuple(row[name] for name in _FETCH) for row in rows])

    def run_started(self, _: Any, collector: str, now_ms: int) -> None:
        self._all(
            "INSERT INTO collector_runs (collector, started_at, runs, failures) VALUES (?, ?, 1, 0) "
            "ON CONFLICT (collector) DO UPDATE SET started_at = excluded.started_at, runs = runs + 1",
            (collector, now_ms),
        )

    def run_succeeded(self, _: Any, collector: str, now_ms: int, next_run_at: int | None) -> None:
        sql = "UPDATE collector_runs SET succeeded_at = ?, next_run_at = ? WHERE collector = ?"
        self._all(sql, (now_ms, next_run_at, collector))

    def run_failed(self, _: Any, collector: str, now_ms: int, error: str, next_run_at: int | None) -> None:
        self._all(
            "UPDATE collector_runs SET failures = failures + 1, last_error = ?, last_error_at = ?, next_run_at = ? "
            "WHERE collector = ?",
            (error[:2_000], now_ms, next_run_at, collector),
        )

    def saw_event(self, _: Any, collector: str, event_time: int) -> None:
        sql = (
            "UPDATE collector_runs SET last_event_time = ?1 WHERE collector = ?2 AND coalesce(last_event_time, -1) < ?1"
        )
        self._all(sql, (event_time, collector))

    def last_success(self, _: Any, collector: str) -> int | None:
        found: int | None = self._one("SELECT succeeded_at FROM collector_runs WHERE collector = ?", collector)
        return found

    def schedule_versions(self, _: Any, dataset: str, *, lock: bool = False) -> list[dict[str, Any]]:
        names = ("dataset", "version", "definition", "valid_from", "valid_to")
        sql = f"SELECT {', '.join(names)} FROM collection_schedules WHERE dataset = ? ORDER BY version"
        return [dict(zip(names, row, strict=True)) for row in self._all(sql, (dataset,))]

    def registry_generation(self, _: Any) -> tuple[int, int]:
        row = self._all("SELECT count(*), coalesce(max(updated_at), 0) FROM crypto_assets").fetchone()
        return int(row[0]), int(row[1])

    # --- outbox.py ---

    def append(self, _: Any, channel: str, bodies: Sequence[bytes], now_ms: int) -> range:
        self._all(
            "INSERT INTO outbox_heads (channel, seq) VALUES (?, ?) "
            "ON CONFLICT (channel) DO UPDATE SET seq = seq + excluded.seq",
            (channel, len(bodies)),
        )
        last = self.head(_, channel)
        given = range(last - len(bodies) + 1, last + 1)
        self._raw.executemany(
            "INSERT INTO outbox (channel, seq, created_at, body) VALUES (?, ?, ?, ?)",
            [(channel, seq, now_ms, body) for seq, body in zip(given, bodies, strict=True)],
        )
        return given

    def read(self, _: Any, channel: str, after_seq: int, limit: int) -> list[tuple[int, bytes]]:
        sql = "SELECT seq, body FROM outbox WHERE channel = ? AND seq > ? ORDER BY seq LIMIT ?"
        return self._all(sql, (channel, after_seq, limit)).fetchall()

    def head(self, _: Any, channel: str) -> int:
        return self._one("SELECT seq FROM outbox_heads WHERE channel = ?", channel) or 0

    def prune(self, _: Any, before_ms: int, *, limit: int = 5_000) -> int:
        gone = 0
        for (channel,) in self._all("SELECT channel FROM outbox_heads ORDER BY channel").fetchall():
            young = self._one("SELECT min(seq) FROM outbox WHERE channel = ? AND created_at >= ?", channel, before_ms)
            bound = "" if young is None else f" AND seq < {young}"
            sql = f"DELETE FROM outbox WHERE rowid IN (SELECT rowid FROM outbox WHERE channel = ?{bound} ORDER BY seq LIMIT ?)"
            gone += self._all(sql, (channel, limit - gone)).rowcount
        return gone

    # --- what events are made of ---

    def newest_slots(self, _: Any, dataset: str) -> dict[int, int]:
        assert dataset == "prices"
        return dict(self._all("SELECT asset_id, max(slot) FROM price_data_real GROUP BY asset_id"))

    def best_sources(self, _: Any, rows: Any) -> dict[tuple[int, int], str]:
        ranks = {name: rank for rank, name in enumerate(queries.SOURCE_PRIORITY)}
        best = {}
        for key in {(row["asset_id"], row["slot"]): None for row in rows}:
            found = self._all("SELECT source FROM price_data_real WHERE asset_id = ? AND slot = ?", key)
            best[key] = min((source for (source,) in found), key=lambda source: (ranks.get(source, 99), source))
        return best


@contextmanager
def plain_statements(raw: sqlite3.Connection) -> Iterator[None]:
    """Use them while the block runs."""
    plain = Plain(raw)
    places: list[tuple[Any, str, Any]] = [
        (lease, "_locked", plain.locked),
        (lease, "_insert_free", plain.insert_free),
        (lease, "_store", plain.store_lease),
        (lease, "_database_ms", plain.database_ms),
        (queries, "newest_slots", plain.newest_slots),
        (store, "_best_sources", plain.best_sources),
        *((ledger, name, getattr(plain, name)) for name in ("stored_ranges", "entries", "filled", "replace")),
        *((outbox, name, getattr(plain, name)) for name in ("append", "read", "head", "prune")),
        *(
            (records, name, getattr(plain, name))
            for name in ("known_fetches", "last_fetch", "add_fetches", "run_started", "run_succeeded", "run_failed")
        ),
        *(
            (records, name, getattr(plain, name))
            for name in (
                "saw_event",
                "last_success",
                "schedule_versions",
                "registry_generation",
                "shapes",
                "save_shape",
            )
        ),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in places]
    for module, name, replacement in places:
        setattr(module, name, replacement)
    try:
        yield
    finally:
        for module, name, original in before:
            setattr(module, name, original)

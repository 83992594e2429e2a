"""An independent checker of a sandbox node that played a file: shares no code with the node.

It reads four things with nobody's help: the Parquet file, the sandbox's request log, the database and the archive.
Times are ms of node time.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import polars as pl
import pymysql
import zstandard
from pymysql.cursors import DictCursor

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
SLOT = 5 * MINUTE

Candle = tuple[float, float, float, float, float]


@dataclass(frozen=True)
class Market:
    """The file's hourly candles, ``shift`` later: ``(symbol, open time) -> open, high, low, close, volume``."""

    candles: dict[tuple[str, int], Candle]
    end: int

    @classmethod
    def of(cls, file: Path, shift: int) -> Market:
        """Read ``file``."""
        frame = pl.read_parquet(file).with_columns((pl.col("timestamp").dt.epoch("ms") + shift).alias("at"))
        rows = frame.select("symbol", "at", "open", "high", "low", "close", "volume").rows()
        return cls({(row[0], row[1]): row[2:] for row in rows}, max(row[1] for row in rows) + HOUR)

    @classmethod
    def found(cls, file: Path, node: Node) -> Market:
        """Read ``file`` as the node must have seen it: moved by the one span that makes its newest candles fit."""
        stored = sorted(node.candles(3_600, 0, 2**62).items(), key=lambda item: item[0][1])[-200:]
        (symbol, newest), candle = stored[-1]
        unmoved = cls.of(file, 0)
        shifts = [newest - at for (name, at), values in unmoved.candles.items() if name == symbol and values == candle]
        fitting = [
            shift
            for shift in shifts
            if all(unmoved.candles.get((name, at - shift)) == values for (name, at), values in stored)
        ]
        assert len(fitting) == 1, f"no single shift of the file explains the stored candles: {fitting}"
        return cls.of(file, fitting[0])

    @property
    def symbols(self) -> set[str]:
        """All that the file trades."""
        return {symbol for symbol, _ in self.candles}

    def hours(self, symbol: str, start: int, end: int) -> set[int]:
        """Hours of ``[start, end)`` in which ``symbol`` was traded."""
        return {at for at in range(-(-start // HOUR) * HOUR, end, HOUR) if (symbol, at) in self.candles}


Row = Mapping[str, Any]


class Tables(Protocol):
    """A database to read from. ``?`` stands for a value."""

    def query(self, statement: str, values: tuple[Any, ...] = ()) -> list[Row]:
        """The rows, by column."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class SqliteTables:
    """A SQLite file, read only."""

    def __init__(self, file: Path) -> None:
        self._db = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
        self._db.row_factory = sqlite3.Row

    def query(self, statement: str, values: tuple[Any, ...] = ()) -> list[Row]:
        return [dict(row) for row in self._db.execute(statement, values)]

    def close(self) -> None:
        self._db.close()


class MysqlTables:
    """A database of a MySQL or MariaDB server on loopback. Each query sees what is committed by then."""

    def __init__(self, port: int, database: str, user: str, password: str) -> None:
        self._db = pymysql.connect(
            host="127.0.0.1", port=port, database=database, user=user, password=password, autocommit=True
        )

    def query(self, statement: str, values: tuple[Any, ...] = ()) -> list[Row]:
        with self._db.cursor(DictCursor) as cursor:
            cursor.execute(statement.replace("?", "%s"), values)
            return list(cursor.fetchall())

    def close(self) -> None:
        self._db.close()


class Node:
    """What a node left in its state directory, and in ``tables`` where its database is not there."""

    def __init__(self, state_dir: Path, tables: Tables | None = None) -> None:
        self.state_dir = state_dir
        self._db: Tables = tables or SqliteTables(state_dir / "node.db")
        assets = self.query("SELECT * FROM crypto_assets")
        self.symbol_of = {row["asset_id"]: row["symbol"] for row in assets}
        self.product_of = {row["symbol"]: row["coinbase_product"] for row in assets if row["coinbase_product"]}
        self.listed = {row["symbol"]: row["coin_id"] for row in assets if row["status"] == "active"}

    def close(self) -> None:
        """Let go of the database."""
        self._db.close()

    def query(self, statement: str, values: tuple[Any, ...] = ()) -> list[Row]:
        """The rows of a query; ``?`` stands for a value."""
        return self._db.query(statement, values)

    def rows(self, table: str, time: str, start: int, end: int) -> list[tuple[Any, ...]]:
        """Every column of every row of ``table`` with ``start <= time < end``, in order."""
        found = self.query(f"SELECT * FROM {table} WHERE {time} >= ? AND {time} < ?", (start, end))
        return sorted((tuple(row.values()) for row in found), key=repr)

    def candles(self, interval_s: int, start: int, end: int) -> dict[tuple[str, int], Candle]:
        """The stored candles; AssertionError where one hour has two versions (the file revises nothing)."""
        found: dict[tuple[str, int], Candle] = {}
        query = (
            "SELECT * FROM ohlc_data WHERE venue = 'coinbase' AND interval_s = ? AND open_time >= ? AND open_time < ?"
        )
        for row in self.query(query, (interval_s, start, end)):
            key = (self.symbol_of[row["asset_id"]], row["open_time"])
            assert key not in found, f"two versions of {key}"
            prices = (row["open_price"], row["high_price"], row["low_price"], row["close_price"])
            found[key] = (*prices, row["volume"])
        return found

    def prices(self, start: int, end: int) -> dict[tuple[str, int], Row]:
        """The stored prices by symbol and slot; AssertionError where a slot has two."""
        found: dict[tuple[str, int], Row] = {}
        for row in self.query(
            "SELECT * FROM price_data_real WHERE slot >= ? AND slot < ? AND source <> 'coinbase.ticker'", (start, end)
        ):
            key = (self.symbol_of[row["asset_id"]], row["slot"])
            assert key not in found, f"two prices for {key}"
            found[key] = row
        return found

    def settled(self, dataset: str, state: str) -> set[tuple[str, int]]:
        """The slots that the ledger holds in ``state``, by symbol; each range says why."""
        step = int(dataset.rsplit("-", 1)[1]) * 1_000 if dataset.startswith("candles") else SLOT
        query = "SELECT * FROM collection_gaps WHERE dataset = ? AND state = ? AND reason IS NOT NULL"
        return {
            (self.symbol_of[row["asset_id"]], at)
            for row in self.query(query, (dataset, state))
            for at in range(row["start"], row["end"], step)
        }

    def log(self) -> list[dict[str, Any]]:
        """Every request that the sandbox saw, by arrival."""
        lines = (self.state_dir / "requests.jsonl").read_text().splitlines()
        return sorted((json.loads(line) for line in lines), key=lambda entry: entry["at"])

    def requests(self, endpoint: str) -> list[dict[str, Any]]:
        """What the sandbox saw and answered with 200, oldest first."""
        return [entry for entry in self.log() if entry["endpoint"] == endpoint and entry["status"] == 200]

    def payload(self, digest: str) -> Any:
        """The archived body of this hash, found through the index of fetches and read with zstd alone."""
        rows = self.query("SELECT segment, position FROM fetches WHERE payload_hash = ?", (digest,))
        assert rows, f"no fetch has the payload {digest}"
        row = rows[0]
        with (self.state_dir / "archive" / row["segment"]).open("rb") as stream:
            stream.seek(row["position"])
            line, body = zstandard.ZstdDecompressor().stream_reader(stream).read(1 << 26).split(b"\n", 1)
        assert json.loads(line)["status"] == 200
        body = body[:-1]
        assert hashlib.sha256(body).hexdigest() == digest
        return json.loads(body)

    def candle_payloads(self, interval_s: int) -> Iterator[tuple[str, list[tuple[int, Candle]]]]:
        """Each payload that stored candles name, with those candles: ``(digest, [(open time, candle)])``."""
        groups: dict[str, list[tuple[int, Candle]]] = defaultdict(list)
        for row in self.query("SELECT * FROM ohlc_data WHERE interval_s = ?", (interval_s,)):
            prices = (row["open_price"], row["high_price"], row["low_price"], row["close_price"])
            groups[row["payload_hash"]].append((row["open_time"], (*prices, row["volume"])))
        yield from groups.items()


def moment(text: str) -> int:
    """ms of an ISO 8601 time."""
    return round(datetime.fromisoformat(text).timestamp() * 1_000)


def check_hourly(node: Node, market: Market, start: int, end: int) -> int:
    """Every hour that the file has is stored, with its numbers; every other hour is not. The number of candles."""
    stored = node.candles(3_600, start, end)
    traded = {
        key: candle for key, candle in market.candles.items() if key[0] in node.product_of and start <= key[1] < end
    }
    assert stored.keys() == traded.keys(), f"missing or invented: {sorted(stored.keys() ^ traded.keys())[:10]}"
    assert stored == traded
    assert not node.settled("candles-3600", "confirmed_empty") & traded.keys()
    return len(stored)


def check_five_minutes(node: Node, market: Market, start: int, end: int) -> int:
    """The bars of each whole hour in ``[start, end)`` add up to the hour of the file. The number of bars."""
    bars = node.candles(300, start, end)
    by_hour: dict[tuple[str, int], list[Candle]] = defaultdict(list)
    for (symbol, at), bar in sorted(bars.items()):
        by_hour[symbol, at - at % HOUR].append(bar)
    for symbol in node.product_of.keys() & market.symbols:
        for hour in range(-(-start // HOUR) * HOUR, end - HOUR + 1, HOUR):
            joined = _joined(by_hour.get((symbol, hour), []))
            assert joined == market.candles.get((symbol, hour)), f"{symbol} at {hour}"
    return len(bars)


def _joined(bars: Sequence[Candle]) -> Candle | None:
    if not bars:
        return None
    opens, highs, lows, closes, volumes = zip(*bars, strict=True)
    return opens[0], max(highs), min(lows), closes[-1], math.fsum(volumes)


def check_prices(node: Node, market: Market, start: int, end: int) -> int:
    """Every asset of the file has one price in every slot of ``[start, end)``, and it is one the market allows."""
    stored = node.prices(start, end)
    wanted = {(symbol, slot) for symbol in market.symbols & node.listed.keys() for slot in range(start, end, SLOT)}
    assert stored.keys() == wanted, f"missing or unasked: {sorted(stored.keys() ^ wanted)[:10]}"
    for (symbol, _), row in stored.items():
        # a repaired price is its bar's last, at its end; a polled one is of the minute that begins at its time
        hour = (row["event_time"] - (row["source"] == "coinbase.candles")) // HOUR * HOUR
        candle = market.candles.get((symbol, hour))
        if candle is not None:
            _, high, low, _, _ = candle
            assert low <= row["current_price"] <= high, f"{symbol} costs {row['current_price']} outside its hour"
        assert row["event_time"] <= row["fetched_at"] <= row["known_at"]
    return len(stored)


def check_prices_after_faults(node: Node, market: Market, start: int, end: int) -> int:
    """Every slot has a price by now, from whatever source; where it has none nothing was traded, and the ledger says so.

    The number of prices that came from candles.
    """
    wanted = {(symbol, slot) for symbol in market.symbols & node.listed.keys() for slot in range(start, end, SLOT)}
    query = "SELECT * FROM price_data_real WHERE slot >= ? AND slot < ? AND source <> 'coinbase.ticker'"
    source = {(node.symbol_of[r["asset_id"]], r["slot"]): r["source"] for r in node.query(query, (start, end))}
    missing = wanted - source.keys()
    assert not missing & node.candles(300, start, end).keys(), "a candle that could have told the price is stored"
    assert missing <= node.settled("prices", "unrepairable"), f"nobody says why: {sorted(missing)[:10]}"
    return sum(1 for name in source.values() if name == "coinbase.candles")


def check_nothing_asked_twice(node: Node) -> None:
    """By the sandbox's log: one request per price slot and list of coins, one per candle that there is."""
    polls = Counter((entry["params"].get("ids"), entry["at"] // SLOT) for entry in node.requests("markets"))
    assert polls, "no price was asked for"
    assert max(polls.values()) == 1, f"asked twice: {polls.most_common(3)}"
    assert not candles_asked_twice(node)


def candles_asked_twice(node: Node) -> dict[tuple[str, int, int], int]:
    """How often each stored candle (symbol, interval in s, open time) was asked for when it was closed, where not once.

    A second request for what is not there makes sure of that; one more is for a missed price of the same five minutes.
    """
    # The node may go on meanwhile: what is stored by now was asked for before the log is read.
    stored = {(symbol, step, at) for step in (300, 3_600, 86_400) for symbol, at in node.candles(step, 0, 2**62)}
    assert stored, "no candle is stored"
    symbol_of = {product: symbol for symbol, product in node.product_of.items()}
    asked: Counter[tuple[str, int, int]] = Counter()
    for entry in node.requests("candles"):
        product, step = entry["path"].split("/")[2], int(entry["params"]["granularity"]) * 1_000
        first = -(-moment(entry["params"]["start"]) // step) * step
        last = min(moment(entry["params"]["end"]), entry["at"] - step)  # a bar that is open is no answer
        asked.update((symbol_of[product], step // 1_000, at) for at in range(first, last + 1, step))
    query = "SELECT * FROM price_data_real WHERE source = 'coinbase.candles'"
    asked.subtract((node.symbol_of[row["asset_id"]], 300, row["slot"]) for row in node.query(query))
    assert stored <= asked.keys(), "a candle is stored that nobody asked for"
    return {key: asked[key] for key in stored if asked[key] != 1}


def check_payloads(node: Node) -> int:
    """Every stored hourly candle stands in the archived body it names, digit for digit. The number of candles."""
    seen = 0
    for digest, candles in node.candle_payloads(3_600):
        body = {row[0] * 1_000: row[1:] for row in node.payload(digest)}
        for at, (opened, high, low, close, volume) in candles:
            assert body[at] == [low, high, opened, close, volume]
            seen += 1
    return seen

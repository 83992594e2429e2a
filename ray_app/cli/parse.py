"""``crypto-data parse``: what rows a recorded answer yields, without a node."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import unquote, urlsplit

import click

from ray_app.cli.times import MOMENT
from ray_app.clock import WallClock, iso, to_ms
from ray_app.errors import ConfigError, UpstreamError
from ray_app.sources import Endpoint, Exchange, Row, endpoint, endpoint_for_url
from ray_app.sources.addressing import request_of_params, request_of_url
from ray_app.storage.tables import metadata

#: What the node notes on a request (ray_app/sources/context.py, and the endpoints that read a note).
_CONTEXT = ("slot", "interval_s", "products", "market", "coins", "venues", "frames")


@click.command()
@click.argument("source", required=False)
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter of the request, by the upstream's own name (path parts too: id, product_id). Repeatable.",
)
@click.option(
    "--context",
    multiple=True,
    metavar="NAME=VALUE",
    help="The node's own note on the request: slot, interval_s, products, market, coins, venues. Repeatable.",
)
@click.option(
    "--status", type=click.IntRange(100, 599), default=200, show_default=True, help="HTTP status of the answer."
)
@click.option(
    "--fetched-at",
    type=MOMENT,
    metavar="TIME",
    help="When the answer came: RFC 3339 or Unix time. Default: now; with --manifest: its Date header.",
)
@click.option(
    "--manifest",
    type=click.File("r", encoding="utf-8"),
    help="Recorded answers instead of SOURCE FILE: JSON lines with file, url, status, headers.",
)
@click.option("--iso", "as_iso", is_flag=True, help="Print times as RFC 3339 instead of milliseconds.")
def command(
    source: str | None,
    file: str | None,
    params: tuple[str, ...],
    context: tuple[str, ...],
    status: int,
    fetched_at: int | None,
    manifest: TextIO | None,
    as_iso: bool,
) -> int:
    """Read one answer of SOURCE (see crypto-data sources) from FILE ("-": standard input) and print its rows.

    One JSON object per line: {"table": …, "key": {…}, "values": {…}}, as they would be stored, with "source" and
    "payload_hash" (SHA-256 of the body), which say where they come from. Every time in them is an integer,
    milliseconds since 1970 UTC (--iso prints text), whatever unit the upstream uses. null: the upstream did not say.
    Values that could not be read, and ids asked for that the answer left out, are told on stderr.

    A malformed body or an error answer prints no rows, says why in one line on stderr, and exits with 1.

    \b
      crypto-data parse coingecko.markets markets.json --param vs_currency=usd --param ids=bitcoin,ethereum
      crypto-data parse coinbase.candles candles.json --param product_id=BTC-USD --param granularity=3600
      crypto-data parse --manifest recorded/MANIFEST.jsonl
    """  # noqa: D301 - click's mark for text to leave as it is
    if manifest is not None:
        if source is not None or params or context or status != 200:
            raise click.UsageError("--manifest says what each answer is of: give no SOURCE, FILE, --param or --status")
        return _parse_manifest(manifest, fetched_at, as_iso=as_iso)
    if source is None or file is None:
        raise click.UsageError("give SOURCE and FILE, or --manifest MANIFEST.jsonl")
    reader = endpoint(source)
    request = request_of_params(reader, _pairs("--param", params), _notes(context))
    body = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    moment = WallClock().now_ms() if fetched_at is None else fetched_at
    _tell(reader, Exchange(request, status, {}, body, moment), as_iso=as_iso)
    return 0


def _pairs(option: str, given: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigError(f"{option} {text!r} is not NAME=VALUE")
        if pairs.setdefault(name, value) != value:
            raise ConfigError(f"{option} {name} is given twice with different values")
    return pairs


def _notes(given: tuple[str, ...]) -> dict[str, str]:
    notes = _pairs("--context", given)
    for name in notes:
        if name not in _CONTEXT:
            raise ConfigError(f"--context has no {name!r}; it knows {', '.join(_CONTEXT)}")
    return notes


# --- recorded answers ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recorded:
    """One line of a manifest."""

    file: str
    url: str
    status: int
    headers: dict[str, str]

    @property
    def place(self) -> str:
        """Host and path: what may be printed (a query may hold a key)."""
        split = urlsplit(self.url)
        return f"{split.hostname or ''}{split.path}"

    @property
    def date_ms(self) -> int | None:
        """The Date header, which is when the answer was given; None without a readable one."""
        try:
            moment = parsedate_to_datetime(self.headers.get("date", ""))
            return to_ms(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))  # "-0000"
        except (ValueError, OverflowError):
            return None


def _headers(said: Any) -> dict[str, str]:
    """Headers as recorders write them: an object or pairs, values as text or in lists; {} where they are neither."""
    pairs = said.items() if isinstance(said, dict) else said if isinstance(said, list) else ()
    found: dict[str, str] = {}
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            return {}
        name, value = pair
        first = value[0] if isinstance(value, list) and value else value
        found[str(name).lower()] = str(first)
    return found


def _entries(manifest: TextIO) -> Iterator[Recorded]:
    for number, line in enumerate(manifest.buffer, 1):
        if not line.strip():
            continue
        try:
            entry: dict[str, Any] = json.loads(line)
            headers = _headers(entry.get("headers"))
            urlsplit(entry["url"])
            if "\0" in entry["file"]:
                raise ValueError("a file's name holds no NUL")
            yield Recorded(str(entry["file"]), str(entry["url"]), int(entry.get("status", 200)), headers)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{manifest.name}, line {number}: not an entry with file and url ({error!r})") from None


def _parse_manifest(manifest: TextIO, fetched_at: int | None, *, as_iso: bool) -> int:
    """Parse every entry we have a source for; 1 if any of them was malformed or an error."""
    folder = Path(manifest.name).parent if manifest.name != "<stdin>" else Path()
    failed = 0
    for entry in _entries(manifest):
        reader = endpoint_for_url(entry.url)
        if reader is None:
            click.echo(f"{entry.file}: skipped, no source reads {entry.place}", err=True)
            continue
        if "{" in unquote(entry.place):
            click.echo(
                f"{entry.file}: skipped, {unquote(entry.place)} is a placeholder, not a recorded request", err=True
            )
            continue
        moment = entry.date_ms if entry.date_ms is not None else fetched_at
        if moment is None:
            moment = WallClock().now_ms()
            click.echo(f"{entry.file}: no Date header and no --fetched-at, taken as of now", err=True)
        try:
            body = (folder / entry.file).read_bytes()
            request = request_of_url(reader, entry.url)
            exchange = Exchange(request, entry.status, entry.headers, body, moment)
            _tell(reader, exchange, as_iso=as_iso, prefix=f"{entry.file}: ")
        except (UpstreamError, OSError) as error:
            failed = 1
            click.echo(f"{entry.file}: {error}", err=True)
    return failed


# --- output -------------------------------------------------------------------------------------------------


def _tell(reader: Endpoint, exchange: Exchange, *, as_iso: bool, prefix: str = "") -> None:
    """Rows on stdout; issues and missing ids on stderr, one line each. Raises before the first line is out."""
    parsed = reader.parse(exchange)
    origin = {"source": reader.name, "payload_hash": hashlib.sha256(exchange.body).hexdigest()}
    for row in parsed.rows:
        click.echo(json.dumps(_printed(row, as_iso=as_iso) | origin, ensure_ascii=False, allow_nan=False))
    for issue in parsed.issues:
        click.echo(f"{prefix}{issue.kind}: {issue.subject}.{issue.field}: {issue.detail}", err=True)
    for missing in parsed.missing:
        click.echo(f"{prefix}missing: {missing}: asked for, absent from the answer", err=True)


def _printed(row: Row, *, as_iso: bool) -> dict[str, Any]:
    key, values = dict(row.key), dict(row.values)
    if as_iso:
        for part in (key, values):
            part.update({n: iso(v) for n, v in part.items() if isinstance(v, int) and _is_time(row.table, n)})
    return {"table": row.table, "key": key, "values": values}


def _is_time(table: str, column: str) -> bool:
    """Whether a column holds a time: the tables say so in its comment."""
    declared = metadata.tables[table].columns.get(column)
    return declared is not None and (declared.comment or "").startswith("ms")

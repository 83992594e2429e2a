"""``crypto-data sandbox``: simulated upstreams on loopback, and the tools to check a node against them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ray_app.cli.times import MOMENT
from ray_app.clock import Epoch, WallClock
from ray_app.errors import ConfigError

if TYPE_CHECKING:
    from ray_app.sandbox.app import SandboxConfig

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(invoke_without_command=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Loopback address to listen on.")
@click.option("--port", default=8900, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free port.")
@click.option("--seed", default=0, show_default=True, help="Seed of the generated market.")
@click.option("--replay", type=_FILE, help="OHLCV Parquet of hourly candles to replay instead of generating.")
@click.option("--replay-text", type=_FILE, help="CSV of real texts to publish instead of generated ones.")
@click.option(
    "--replay-macro",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder of CSV files with real macro series to publish instead of generated ones.",
)
@click.option("--faults", type=_FILE, help="Fault script (YAML): docs/sandbox.md.")
@click.option("--epoch-file", type=_FILE, help="Record of node time to share with a node; made if absent.")
@click.option("--time-scale", type=float, help="Node seconds per wall second (default 1, or the epoch file's).")
@click.option("--request-log", type=_FILE, help="Append every request to this file as a JSON line.")
@click.pass_context
def command(
    ctx: click.Context,
    host: str,
    port: int,
    seed: int,
    replay: Path | None,
    replay_text: Path | None,
    replay_macro: Path | None,
    faults: Path | None,
    epoch_file: Path | None,
    time_scale: float | None,
    request_log: Path | None,
) -> None:
    """Serve simulated upstreams: every one that the node asks.

    \b
    Base paths: /coingecko/api/v3  /coinbase-exchange  /coinbase-api/v2  /fred  /rss  /binance  …
    About it:   /sandbox/state

    \b
    Examples:
      crypto-data sandbox --seed 7
      crypto-data sandbox --port 0 --time-scale 60 --request-log requests.jsonl
      crypto-data sandbox --replay crypto_1h.parquet --faults faults.yaml
      curl '127.0.0.1:8900/coinbase-exchange/products/BTC-USD/candles?granularity=3600'
      crypto-data sandbox audit requests.jsonl
      crypto-data sandbox truth --kind candles --interval 3600 --symbol BTC \\
          --from 2026-11-23T00:00:00Z --to 2026-11-24T00:00:00Z --seed 7
    """  # noqa: D301 - click needs the \b character itself
    if ctx.invoked_subcommand is not None:
        return
    # Heavy imports only when the command runs.
    from ray_app.sandbox.app import SandboxConfig, create_app
    from ray_app.sandbox.server import listen, require_loopback, serve

    require_loopback(host)
    epoch = _epoch(epoch_file, time_scale)
    config = SandboxConfig(epoch, seed, replay, faults, request_log, replay_text=replay_text, replay_macro=replay_macro)
    app = create_app(config)
    listener = listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    serve(
        app,
        listener,
        lambda: click.echo(f"SANDBOX READY http://{shown}:{listener.getsockname()[1]}"),
    )


def _epoch(path: Path | None, scale: float | None) -> Epoch:
    """The epoch to serve by. A new scale goes on from the node time reached: never a jump."""
    wall = WallClock().now_ms()
    if scale is not None and not 0 < scale <= 10_000:
        raise ConfigError(f"--time-scale {scale:g} is not above 0 and at most 10,000")
    stored = None if path is None else Epoch.load(path)
    epoch = stored or Epoch.begin(wall, scale or 1.0)
    if stored is not None and scale is not None and scale != stored.scale:
        epoch = stored.rescaled(wall, scale)
    if path is not None and epoch is not stored:
        epoch.save(path)
    return epoch


@command.command("audit")
@click.argument("request_log", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per source.")
def audit_command(request_log: Path, as_json: bool) -> None:
    """How hard each source was asked: peaks in any 1 s and 60 s of node time, and totals."""
    from dataclasses import asdict

    import orjson

    from ray_app.sandbox.request_log import audit, read_log

    for source in audit(read_log(request_log)):
        if as_json:
            click.echo(orjson.dumps(asdict(source), option=orjson.OPT_NON_STR_KEYS))
            continue
        click.echo(
            f"{source.source}: {source.requests} requests, at most {source.peak_1s} in 1 s, {source.peak_60s} in 60 s"
        )
        for title, counts in (
            ("endpoints", source.by_endpoint),
            ("statuses", source.by_status),
            ("faults", source.by_fault),
        ):
            if counts:
                click.echo(f"  {title}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))


@command.command("truth")
@click.option("--kind", type=click.Choice(["candles", "prices"]), default="candles", show_default=True)
@click.option("--interval", "interval_s", default=3_600, show_default=True, type=click.IntRange(60), help="Seconds.")
@click.option("--symbol", default="*", show_default=True, help="Ticker, or * for all.")
@click.option("--from", "start_ms", type=MOMENT, required=True, help="First open time (inclusive).")
@click.option("--to", "end_ms", type=MOMENT, required=True, help="Last open time (exclusive).")
@click.option("--seed", default=0, show_default=True, help="Seed of the generated market.")
@click.option("--replay", type=_FILE, help="The file that is replayed.")
@click.option("--epoch-file", type=_FILE, help="The node's epoch record; a replay is shifted by its first start.")
def truth_command(
    kind: str,
    interval_s: int,
    symbol: str,
    start_ms: int,
    end_ms: int,
    seed: int,
    replay: Path | None,
    epoch_file: Path | None,
) -> None:
    """Print what the sandbox says, as CSV, without running it.

    \b
    Example:
      crypto-data sandbox truth --kind candles --interval 3600 --symbol BTC \\
          --from 2026-11-23T00:00:00Z --to 2026-11-24T00:00:00Z \\
          --replay crypto_1h.parquet --epoch-file data/sandbox/epoch.json
    """  # noqa: D301 - click needs the \b character itself
    from ray_app.sandbox.app import build_world
    from ray_app.sandbox.truth import write_candles, write_prices

    write = write_candles if kind == "candles" else write_prices
    market = build_world(_truth_config(seed, replay, epoch_file)).market
    write(sys.stdout, market, symbol, interval_s, start_ms, end_ms)


def _truth_config(seed: int, replay: Path | None, epoch_file: Path | None) -> SandboxConfig:
    from ray_app.sandbox.app import SandboxConfig

    epoch = None if epoch_file is None else Epoch.load(epoch_file)
    if epoch_file is not None and epoch is None:
        raise ConfigError(f"there is no epoch record at {epoch_file}")
    if replay is not None and epoch is None:
        raise ConfigError("a replay is shifted by the node's first start: give --epoch-file as well")
    return SandboxConfig(epoch or Epoch.begin(0, 1.0), seed, replay)

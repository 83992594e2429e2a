"""``crypto-data backfill``: fill the history that the schedules owe."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import click

from ray_app.cli.times import MOMENT

if TYPE_CHECKING:
    from ray_app.collection.backfill import Progress


@click.command("backfill")
@click.option("--dataset", "datasets", multiple=True, help="prices, candles-300, -3600 or -86400; repeatable.")
@click.option("--from", "start", type=MOMENT, help="First slot; default: the schedule's horizon.")
@click.option("--to", "end", type=MOMENT, help="First slot not to ask for; default: where the live collector begins.")
@click.option("--symbol", "symbols", multiple=True, help="Ticker or coin id; repeatable; default: every asset.")
def command(datasets: tuple[str, ...], start: int | None, end: int | None, symbols: tuple[str, ...]) -> None:
    """Ask for what is owed, newest first, within budget; end when nothing is owed that an upstream can give.

    Safe to run beside a node and to interrupt: what is stored is never asked for again. A second backfill of the same
    dataset says so and ends with status 1.
    """
    from ray_app.cli.here import node_settings

    settings = node_settings()
    logging.basicConfig(level="WARNING", format="%(levelname)s %(name)s: %(message)s")
    asyncio.run(_run(settings, datasets, start, end, symbols))


async def _run(
    settings: object, names: tuple[str, ...], start: int | None, end: int | None, symbols: tuple[str, ...]
) -> None:
    from ray_app.collection.backfill import COLLECTOR, HISTORY, backfill
    from ray_app.collection.runtime import Runtime
    from ray_app.settings import Settings

    assert isinstance(settings, Settings)  # noqa: S101 - typed loosely so that the command starts fast
    async with await Runtime.open(settings, COLLECTOR) as runtime:
        assets = [runtime.registry.resolve(symbol).asset for symbol in symbols] or None
        printer = _Printer()
        done = await backfill(runtime, names or HISTORY, start, end, assets, printer.show)
        for progress in done.values():
            click.echo(str(progress))


class _Printer:
    """A line per percent, not per request."""

    def __init__(self) -> None:
        self._last: tuple[str, int] | None = None

    def show(self, progress: Progress) -> None:
        step = (progress.dataset, int(progress.percent))
        if step != self._last:
            self._last = step
            click.echo(str(progress), err=True)

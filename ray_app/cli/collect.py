"""``crypto-data collect``: one collector in this process, for a node that is not running."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import click

from ray_app.errors import LeaseTaken


@click.command("collect")
@click.argument("name")
@click.option("--once", is_flag=True, help="One pass over what is due now, then end.")
@click.option("--repair", is_flag=True, help="With --once: also work off what is owed from the past.")
def command(name: str, *, once: bool, repair: bool) -> None:
    """Run the collector NAME (crypto-prices, unified-ohlc, asset-registry, crypto-ticks) in this process until Ctrl-C.

    A running node holds the collectors' leases and collects by itself; then --once says so and ends with status 1, and
    without --once this process stands by and takes over when the lease ends.
    """
    from ray_app.cli.here import node_settings
    from ray_app.collection.runner import CollectorRunner

    settings = node_settings()
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    runner = CollectorRunner(settings, name, holder=f"cli-{socket.gethostname()}-{os.getpid()}/{name}")
    if not once:
        asyncio.run(_until_interrupted(runner.run(), runner.stop))
        return
    try:
        result = asyncio.run(runner.once(repair=repair))
    except LeaseTaken as error:
        raise LeaseTaken(f"{error}. A running node collects by itself (crypto-data status)") from None
    click.echo(f"{name}: {result.requests} requests, {result.slots} slots stored, {result.owed} still owed")
    for line in (*result.notes, *result.errors):
        click.echo(f"  {line}", err=True)
    if result.owed and not result.slots:
        raise click.exceptions.Exit(1)


async def _until_interrupted(running: Coroutine[Any, Any, None], stop: Callable[[], Awaitable[None]]) -> None:
    """Run until it ends or SIGINT or SIGTERM asks for the end."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(running)
    asked = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked.set)
    waiting = asyncio.ensure_future(asked.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    await stop()
    with contextlib.suppress(asyncio.CancelledError):
        await task

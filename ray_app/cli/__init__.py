"""``crypto-data``: the command line. Each command lives in a module of its own and is imported when it is run."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from ray_app import __version__
from ray_app.errors import CryptoDataError

#: command → module under ray_app.cli that defines a click command (or group) called ``command``
COMMANDS: dict[str, str] = {
    "up": "up",
    "status": "status",
    "config": "config",
    "db": "db",
    "keys": "keys",
    "sources": "sources",
    "source": "source",
    "parse": "parse",
    "assets": "assets",
    "collect": "collect",
    "backfill": "backfill",
    "gaps": "gaps",
    "reprocess": "reprocess",
    "score": "score",
    "verify": "verify",
    "sandbox": "sandbox",
}


class LazyGroup(click.Group):
    """Lists every command but imports only the one that runs: ``crypto-data --help`` stays instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"ray_app.cli.{COMMANDS[cmd_name]}").command
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="crypto-data")
def cli() -> None:
    """Collect, keep and serve crypto and financial market data."""


def main(argv: list[str] | None = None) -> None:
    """Entry point: a known error is one clear line on stderr and exit status 1, never a traceback."""
    try:
        result: Any = cli.main(args=argv, standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except CryptoDataError as error:
        click.echo(f"crypto-data: {error}", err=True)
        sys.exit(1)
    sys.exit(result if isinstance(result, int) else 0)

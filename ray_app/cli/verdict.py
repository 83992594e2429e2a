"""How a command ends that compares two things."""

from __future__ import annotations

from collections.abc import Sequence

import click


def verdict(problems: Sequence[str]) -> None:
    """Say each on stderr and end with status 1; say that all is identical if there is none."""
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        raise click.exceptions.Exit(1)
    click.echo("identical")
